"""What the tasks of a cluster decode: blocks under the borders of runs and of panels twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tileconv.planning.reads import read_axis
from tileconv.planning.scenes import Extent, extents, scene_uses

if TYPE_CHECKING:
    from tileconv.planning.parts import Parts
    from tileconv.planning.plan import Plan


def decodings(plan: Plan, parts: Parts) -> int:
    """Return how many blocks the tasks decode, all bands, if each run stays with one worker.

    A part that begins a run decodes all its blocks, any other those that the part above has not.
    """
    tiles = parts.tiles
    rows, panels = parts.grid
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
