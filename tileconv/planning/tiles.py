"""Tiles: the output cut into units of work, never listed as a whole.

A tile is one output chunk with its read window. Tiles are walked panel by
panel, and row by row inside a panel: a panel is a run of tile columns narrow
enough that the storage blocks which two tile rows share fit into memory until
their last use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class AxisTiles:
    """``total`` outputs in tiles of ``tile``; the last one may be shorter."""

    total: int
    tile: int

    @property
    def count(self) -> int:
        """Number of tiles.

        >>> AxisTiles(total=10, tile=4).count
        3
        """
        return -(-self.total // self.tile)

    def __getitem__(self, i: int) -> tuple[int, int]:
        """Half-open output range of tile ``i``.

        >>> AxisTiles(total=10, tile=4)[2]
        (8, 10)
        """
        return i * self.tile, min((i + 1) * self.tile, self.total)


class Tile(NamedTuple):
    """One unit of work: its place in the grid and its half-open ranges of output."""

    row: int
    column: int
    y: tuple[int, int]
    x: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of output."""
        return self.y[1] - self.y[0], self.x[1] - self.x[0]


@dataclass(frozen=True, slots=True)
class Tiles:
    """All tiles of an output, in the order they are computed."""

    y: AxisTiles
    x: AxisTiles
    panel: int
    """Tile columns per panel."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.y.count * self.x.count

    @property
    def panels(self) -> int:
        """Number of panels."""
        return -(-self.x.count // self.panel)

    def panel_columns(self, panel: int) -> range:
        """Tile columns of a panel."""
        return range(panel * self.panel, min((panel + 1) * self.panel, self.x.count))

    def __iter__(self) -> Iterator[Tile]:
        """Tiles panel by panel, row by row.

        >>> [(t.row, t.column) for t in Tiles(AxisTiles(2, 1), AxisTiles(3, 1), panel=2)]
        [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)]
        """
        for panel in range(self.panels):
            for row in range(self.y.count):
                for column in self.panel_columns(panel):
                    yield Tile(row, column, self.y[row], self.x[column])
