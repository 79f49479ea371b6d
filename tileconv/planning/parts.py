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

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tileconv.planning.blocks import count_uses, shared_blocks
from tileconv.planning.cost import MARGIN
from tileconv.planning.tiles import AxisTiles, Tile, Tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tileconv.planning.plan import Plan

SHORTEST_SECONDS = 0.2
"""Of a task: dask takes a few milliseconds for each."""
LONGEST_SECONDS = 2.0
"""What a task aims at where there is work for all: little is lost with a worker."""
TASKS_PER_SECOND = 100
"""What a scheduler bears easily: it takes 3 ms for a task. Large clusters get longer tasks."""
PARTS_PER_RUN = 16
"""Parts worth having, so that runs end together, if they are long enough."""
SEAMS = 0.05
"""Largest share of blocks that is decoded twice."""
DECODED_PER_SECOND = 300e6
ENCODED_PER_SECOND = 200e6
ADDED_PER_SECOND = 10e9
"""Bytes of pixels, and multiply-adds, of one core: deflate and zstd, and compiled loops."""


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


def cut_into_parts(
    plan: Plan, threads: int, *, part: tuple[int, int] | None = None, rows: int | None = None
) -> Plan:
    """Return ``plan`` with its parts, for a cluster of so many threads.

    ``part`` is the size of a part in outputs, if the job says it; ``rows`` keeps the panel of the
    plan, and takes so many tile rows of it, as an interrupted run did.
    """
    tiles = plan.tiles
    if part is not None:
        tall, wide = -(-part[0] // tiles.y.tile), -(-part[1] // tiles.x.tile)
        tiles = replace(tiles, panel=min(wide, tiles.x.count))
        rows = min(tall, tiles.y.count)
    if rows is not None:
        parts = Parts(tiles, rows)
        seams = (0.0, 0.0) if part is not None else _seams(plan, parts)
        return _with(plan, _in_runs(parts, threads, *seams))
    seconds = work_seconds(plan)
    best: tuple[tuple[bool, float, float], Parts] | None = None
    for columns in _cuts(tiles.x.count):
        chosen = replace(tiles, panel=columns)
        if columns > tiles.panel and plan.work.peak_bytes(chosen, 1) * MARGIN > plan.memory_limit:
            continue
        for tall in _cuts(tiles.y.count):
            parts = Parts(chosen, tall)
            each = seconds / parts.count
            if parts.count > 1 and each < SHORTEST_SECONDS:
                continue
            down, across = _seams(plan, parts)
            parts = _in_runs(parts, threads, down, across)
            aim = seconds / (PARTS_PER_RUN * parts.runs)
            aim = min(max(aim, SHORTEST_SECONDS), LONGEST_SECONDS)
            aim = max(aim, parts.runs / TASKS_PER_SECOND)
            # busy threads count first, then the length of a task; where panels alone cost more than
            # the limit, the blocks decoded twice do
            over = across > SEAMS
            rank = (over, across if over else -parts.runs, abs(np.log(each / aim)))
            if best is None or rank < best[0]:
                best = rank, parts
    if best is None:  # not even a panel of the plan is long enough
        return _with(plan, Parts(tiles, tiles.y.count))
    return _with(plan, best[1])


def work_seconds(plan: Plan) -> float:
    """Estimate the seconds that one core takes for the whole job."""
    layout = plan.layout
    rows, columns = layout.block
    pixels = plan.blocks_needed * rows * columns * layout.decoded_pixel_bytes
    bands, height, width = plan.out_shape
    adds = bands * height * width * plan.convolution.tap_count
    return (
        pixels / DECODED_PER_SECOND
        + plan.output_bytes / ENCODED_PER_SECOND
        + adds / ADDED_PER_SECOND
    )


def _with(plan: Plan, parts: Parts) -> Plan:
    plan = replace(plan, choice=replace(plan.choice, tiles=parts.tiles), parts=parts)
    share = plan.blocks_decoded / max(plan.blocks_needed, 1) - 1
    if share > SEAMS:
        note = f"{share:.1%} of the blocks are decoded twice, at the borders of parts"
        plan = replace(plan, notes=(*plan.notes, note))
    return plan


def _seams(plan: Plan, parts: Parts) -> tuple[float, float]:
    """Return what is decoded twice under the border of two parts, and under all of panels.

    Both as shares of what is needed, as if scenes had one grid; that of a part is the largest.
    """
    (y, x), (by, bx) = parts.axes(), plan.layout.block
    geometry = plan.geometry
    rows, columns = count_uses(geometry.y, y, by), count_uses(geometry.x, x, bx)
    across = columns.total / max(columns.touched, 1) - 1
    down = shared_blocks(geometry.y, y, by) / max(rows.touched, 1)
    return down * (1 + across) / parts.grid[1], across


def _in_runs(parts: Parts, threads: int, down: float, across: float) -> Parts:
    most = _runs(parts, parts.count, down, across)
    return replace(parts, runs=_runs(parts, threads, down, across), most_runs=most)


def _runs(parts: Parts, threads: int, down: float, across: float) -> int:
    """Return how many runs, at most ``threads``, decode no more than `SEAMS` twice.

    A run that begins inside a panel costs the border to the part above, ``down``.

    >>> parts = Parts(Tiles(AxisTiles(8, 1), AxisTiles(4, 1), panel=1), rows=1)
    >>> [_runs(parts, threads, 0.005, 0.02) for threads in (1, 5, 8, 9, 100)]
    [1, 5, 8, 8, 8]
    """
    most = min(threads, parts.count)
    if across > SEAMS or down <= 0:
        return most
    inside = int((SEAMS - across) / down + 1e-9)
    panels = parts.grid[1]
    # all runs but the first begin inside panels, or each panel holds as many runs
    whole = panels * min(most // panels, 1 + inside // panels)
    return max(min(most, 1 + inside), whole)


def _cuts(count: int) -> list[int]:
    """Return sizes of even pieces of ``count`` things: 1, 2, 3, 4, 6, 8, 12, ... of them."""
    pieces = [n for k in range(count.bit_length() + 1) for n in (2**k, 3 * 2**k) if n <= count]
    return sorted({-(-count // n) for n in pieces}, reverse=True)
