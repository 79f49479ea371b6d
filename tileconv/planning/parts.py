"""Parts: rectangles of neighbouring tiles, one for each task of a cluster, never listed as a whole.

Workers share no memory, so a storage block under the border of what two of them
compute is decoded for both. A worker therefore takes a *run* of parts that lie
one below the other, and keeps the blocks under their borders from part to part:
parts may be small, and only the borders of runs and of panels cost anything.

    panel 0    panel 1
    +---------+---------+
    | part 0  | part 4  |   runs of 3, 3 and 2 parts:
    +---------+---------+       0 1 2   3 4 5   6 7
    | part 1  | part 5  |   decoded twice are blocks under the border of the panels,
    +---------+---------+   of parts 2 and 3, and of parts 5 and 6
    | part 2  | part 6  |
    +---------+---------+
    | part 3  | part 7  |
    +---------+---------+
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tileconv.planning.tiles import AxisTiles, Tile, Tiles

if TYPE_CHECKING:
    from collections.abc import Iterator


class Part(NamedTuple):
    """Neighbouring tiles: ranges of tile rows and columns, and what they cover of the output."""

    number: int
    rows: range
    columns: range
    y: tuple[int, int]
    """Half-open range of output rows."""
    x: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of output."""
        return self.y[1] - self.y[0], self.x[1] - self.x[0]


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of an output: ``rows`` tile rows of a panel each, numbered down each panel.

    >>> parts = Parts(Tiles(AxisTiles(10, 2), AxisTiles(6, 2), panel=2), rows=3)
    >>> parts.count, parts[2].rows, parts[2].columns, parts[3].y, parts[3].x
    (4, range(0, 3), range(2, 3), (6, 10), (4, 6))
    """

    tiles: Tiles
    rows: int
    """Tile rows of a part; its tile columns are those of a panel."""
    runs: int = 1
    """Runs of parts that are computed at the same time, as the plan has it."""
    most_runs: int = 1
    """What a larger cluster may have, so that few blocks are decoded twice."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of parts."""
        return -(-self.tiles.y.count // self.rows), self.tiles.panels

    @property
    def count(self) -> int:
        """Number of parts."""
        return self.grid[0] * self.grid[1]

    def __getitem__(self, number: int) -> Part:
        """Return a part by its number."""
        column, row = divmod(number, self.grid[0])
        rows = range(row * self.rows, min((row + 1) * self.rows, self.tiles.y.count))
        columns = self.tiles.panel_columns(column)
        y = (self.tiles.y[rows[0]][0], self.tiles.y[rows[-1]][1])
        x = (self.tiles.x[columns[0]][0], self.tiles.x[columns[-1]][1])
        return Part(number, rows, columns, y, x)

    def after(self, part: Part) -> Part | None:
        """Return the part below; None at the lower edge."""
        return None if part.rows.stop == self.tiles.y.count else self[part.number + 1]

    def before(self, part: Part) -> Part | None:
        """Return the part above; None at the upper edge."""
        return None if part.rows.start == 0 else self[part.number - 1]

    def starts(self) -> list[int]:
        """Return the first part of each run.

        >>> Parts(Tiles(AxisTiles(8, 1), AxisTiles(1, 1), 1), rows=1, runs=3).starts()
        [0, 2, 5]
        """
        return [i * self.count // self.runs for i in range(self.runs)]

    def tiles_of(self, part: Part, step: int = 1) -> Iterator[Tile]:
        """Yield the tiles of a part in the order they are computed: rows up if ``step`` is -1."""
        for row in part.rows[::step]:
            for column in part.columns:
                yield Tile(row, column, self.tiles.y[row], self.tiles.x[column])

    def axes(self) -> tuple[AxisTiles, AxisTiles]:
        """Return the parts as ranges of outputs along y and x."""
        y, x = self.tiles.y, self.tiles.x
        return AxisTiles(y.total, self.rows * y.tile), AxisTiles(x.total, self.tiles.panel * x.tile)
