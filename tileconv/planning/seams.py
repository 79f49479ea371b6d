"""What the tasks of a cluster decode: blocks under the borders of runs and of panels twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tileconv.planning.blocks import count_uses, shared_blocks
from tileconv.planning.reads import read_axis, window_size
from tileconv.planning.scenes import Extent, extents, scene_uses

if TYPE_CHECKING:
    from tileconv.planning.parts import Parts
    from tileconv.planning.plan import Plan

MOST_TILES = 1 << 14
"""Tiles along both axes that are looked at one by one: some 10 microseconds each."""
MOST_PLACES = 1 << 22
"""Places of their windows: some 30 nanoseconds each."""


def decodings(plan: Plan, parts: Parts) -> int:
    """Return how many blocks the tasks decode, all bands, if each run stays with one worker.

    A part that begins a run decodes all its blocks, any other those that the part above has not.
    """
    tiles = parts.tiles
    rows, panels = parts.grid
    if tiles.y.count + tiles.x.count > MOST_TILES or _places(plan) > MOST_PLACES:
        return _most_decodings(plan, parts)
    tops = range(0, tiles.y.count, parts.rows)
    down = _touched(plan, 0, (range(i, min(i + parts.rows, tiles.y.count)) for i in tops))
    across = _touched(plan, 1, (tiles.panel_columns(panel) for panel in range(panels)))
    inside = [divmod(start, rows) for start in parts.starts() if start % rows]
    total = 0
    for y, x, planes in _files(plan):
        columns = across[x][0]
        blocks, again = down[y]
        decoded = int((blocks - again).sum()) * int(columns.sum())
        decoded += sum(int(again[row]) * int(columns[panel]) for panel, row in inside)
        total += decoded * planes
    return total


def _places(plan: Plan) -> int:
    """Return the window places of all tiles along both axes."""
    total = 0
    for i, (axis, tiles) in enumerate(
        ((plan.geometry.y, plan.tiles.y), (plan.geometry.x, plan.tiles.x))
    ):
        outputs = min(tiles.tile, tiles.total)
        total += tiles.count * window_size(axis, outputs, plan.layout.block[i])
    return total


def _most_decodings(plan: Plan, parts: Parts) -> int:
    """Bound `decodings` by arithmetic, as if all blocks were of the size of the smallest."""
    (y, x), (by, bx) = parts.axes(), plan.layout.block
    axis_y, axis_x = plan.geometry.y, plan.geometry.x
    columns = count_uses(axis_x, x, bx).total
    inside = sum(1 for start in parts.starts() if start % parts.grid[0])
    widest = -(-axis_x.size // bx)
    again = inside * shared_blocks(axis_y, y, by) * min(widest, columns)
    planes = max((scene.layout.planes for scene in plan.layout.scenes), default=plan.layout.planes)
    return (count_uses(axis_y, y, by).touched * columns + again) * planes


def _files(plan: Plan) -> Iterator[tuple[Extent, Extent, int]]:
    """Yield where each file lies along y and x, and its planes of blocks."""
    layout = plan.layout
    if not layout.scenes:
        y, x = (Extent(0, layout.shape[i], layout.block[i]) for i in (0, 1))
        yield y, x, layout.planes
        return
    for scene, y, x in zip(layout.scenes, extents(layout, 0), extents(layout, 1), strict=True):
        yield y, x, scene.layout.planes


def _touched(
    plan: Plan, axis: int, groups: Iterable[range]
) -> Mapping[Extent, tuple[np.ndarray, np.ndarray]]:
    """Return, for each extent, the blocks of each group of tiles along an axis.

    Two numbers a group: of blocks that it touches, and of those that the group before it touches
    too.
    """
    places = {(y, x)[axis] for y, x, _ in _files(plan)}
    found: dict[Extent, list[tuple[int, int]]] = {place: [] for place in places}
    before: dict[Extent, np.ndarray] = {}
    for group in groups:
        now = _blocks(plan, axis, group, places)
        for place, blocks in now.items():
            last = before.get(place)
            shared = 0 if last is None else np.intersect1d(last, blocks, assume_unique=True).size
            found[place].append((blocks.size, shared))
        before = now
    return {place: tuple(np.array(pairs, np.int64).T) for place, pairs in found.items()}


def _blocks(plan: Plan, axis: int, group: range, places: set[Extent]) -> dict[Extent, np.ndarray]:
    """Return the blocks that some neighbouring tiles touch, for each extent."""
    along = (plan.geometry.y, plan.geometry.x)[axis]
    tiles = (plan.tiles.y, plan.tiles.x)[axis]
    block = plan.layout.block[axis]
    if plan.layout.scenes:
        uses = scene_uses(along, tiles, group, block, places)
        return {place: np.flatnonzero(counts) for place, counts in uses.items()}
    each = [read_axis(along, *tiles[i], block).blocks(block) for i in group]
    return {place: np.unique(np.concatenate(each)) for place in places}
