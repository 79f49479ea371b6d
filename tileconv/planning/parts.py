"""Parts: rectangles of neighbouring tiles, one for each task of a cluster, never listed as a whole.

Tasks share no memory, so a storage block under the border of two parts is
decoded for both. Parts are chosen so that a task is worth its scheduling and
that few blocks are decoded twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tileconv.planning.blocks import block_uses
from tileconv.planning.cost import MARGIN
from tileconv.planning.scenes import extents, scene_uses
from tileconv.planning.tiles import AxisTiles, Tile, Tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tileconv.planning.plan import Plan

SHORTEST_SECONDS = 0.2
"""Of a task: dask takes a few milliseconds for each."""
LONGEST_SECONDS = 2.0
"""What a task aims at where there is work for all: little is lost with a worker."""
PARTS_PER_THREAD = 4
"""Parts worth having, so that threads end together."""
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
    """All parts of an output: ``rows`` tile rows of a panel each, numbered row by row.

    >>> parts = Parts(Tiles(AxisTiles(10, 2), AxisTiles(6, 2), panel=2), rows=3)
    >>> parts.count, parts[3].rows, parts[3].columns, parts[3].y, parts[3].x
    (4, range(3, 5), range(2, 3), (6, 10), (4, 6))
    """

    tiles: Tiles
    rows: int
    """Tile rows of a part; its tile columns are those of a panel."""

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
        row, column = divmod(number, self.grid[1])
        rows = range(row * self.rows, min((row + 1) * self.rows, self.tiles.y.count))
        columns = self.tiles.panel_columns(column)
        y = (self.tiles.y[rows[0]][0], self.tiles.y[rows[-1]][1])
        x = (self.tiles.x[columns[0]][0], self.tiles.x[columns[-1]][1])
        return Part(number, rows, columns, y, x)

    def tiles_of(self, part: Part) -> Iterator[Tile]:
        """Yield the tiles of a part in the order they are computed."""
        for row in part.rows:
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
    if rows is not None:
        return replace(plan, parts=Parts(plan.tiles, rows))
    tiles = plan.tiles
    if part is not None:
        tall, wide = -(-part[0] // tiles.y.tile), -(-part[1] // tiles.x.tile)
        tiles = replace(tiles, panel=min(wide, tiles.x.count))
        return _with(plan, Parts(tiles, min(tall, tiles.y.count)))
    seconds = work_seconds(plan)
    aim = seconds / (PARTS_PER_THREAD * threads)
    aim = min(max(aim, SHORTEST_SECONDS), LONGEST_SECONDS)
    best: tuple[tuple[bool, float], Parts] | None = None
    for columns in _cuts(tiles.x.count):
        chosen = replace(tiles, panel=columns)
        if columns > tiles.panel and plan.work.peak_bytes(chosen, 1) * MARGIN > plan.memory_limit:
            continue
        for tall in _cuts(tiles.y.count):
            parts = Parts(chosen, tall)
            each = seconds / parts.count
            if parts.count > 1 and each < SHORTEST_SECONDS:
                continue
            again = _seams(plan, parts)
            # within the limit the length of a task counts, beyond it the blocks decoded twice
            rank = (again > SEAMS, again if again > SEAMS else abs(np.log(each / aim)))
            if best is None or rank < best[0]:
                best = rank, parts
    if best is None:  # not even a panel of the plan is long enough
        return _with(plan, Parts(tiles, tiles.y.count))
    return _with(plan, best[1])


def decodings(plan: Plan, parts: Parts) -> int:
    """Return how many blocks the tasks decode, all bands: those under borders more than once."""
    mode, layout = plan.convolution.padding_mode, plan.layout
    y, x = parts.axes()
    if not layout.scenes:
        rows, columns = (
            int(block_uses(axis, cut, block, mode).sum())
            for axis, cut, block in zip(
                (plan.geometry.y, plan.geometry.x), (y, x), layout.block, strict=True
            )
        )
        return rows * columns * layout.planes
    uses = [
        scene_uses(axis, cut, range(cut.count), mode, layout.block[i], extents(layout, i))
        for i, (axis, cut) in enumerate(
            zip((plan.geometry.y, plan.geometry.x), (y, x), strict=True)
        )
    ]
    return sum(
        int(uses[0][down].sum()) * int(uses[1][across].sum()) * scene.layout.planes
        for scene, down, across in zip(
            layout.scenes, extents(layout, 0), extents(layout, 1), strict=True
        )
    )


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


def _seams(plan: Plan, parts: Parts) -> float:
    """Return the share of blocks that are decoded more than once, as if scenes had one grid."""
    mode = plan.convolution.padding_mode
    share = 1.0
    for axis, cut, block in zip(
        (plan.geometry.y, plan.geometry.x), parts.axes(), plan.layout.block, strict=True
    ):
        uses = block_uses(axis, cut, block, mode)
        share *= float(uses.sum()) / max(int(np.count_nonzero(uses)), 1)
    return share - 1


def _cuts(count: int) -> list[int]:
    """Return sizes of even pieces of ``count`` things: 1, 2, 3, 4, 6, 8, 12, ... of them."""
    pieces = [n for k in range(count.bit_length() + 1) for n in (2**k, 3 * 2**k) if n <= count]
    return sorted({-(-count // n) for n in pieces}, reverse=True)
