"""What the tasks of a cluster decode: blocks under the borders of runs and of panels twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tileconv.geometry import Axis, Geometry
from tileconv.planning.blocks import count_uses, shared_blocks
from tileconv.planning.layout import Layout
from tileconv.planning.parts import Parts
from tileconv.planning.reads import read_axis, window_size
from tileconv.planning.scenes import Extent, extents, scene_uses
from tileconv.planning.tiles import AxisTiles

MOST_TILES = 1 << 14
"""Tiles along both axes that are looked at one by one: some 10 microseconds each."""
MOST_PLACES = 1 << 22
"""Places of their windows: some 30 nanoseconds each."""


def decodings(geometry: Geometry, layout: Layout, parts: Parts) -> int:
    """Return how many blocks the tasks decode, all bands, if each run stays with one worker.

    A part that begins a run decodes all its blocks, any other those that the part above has not.
    """
    tiles = parts.tiles
    rows, panels = parts.grid
    axes = _Along(geometry.y, tiles.y, layout, 0), _Along(geometry.x, tiles.x, layout, 1)
    if tiles.y.count + tiles.x.count > MOST_TILES or sum(a.places for a in axes) > MOST_PLACES:
        return _most_decodings(geometry, layout, parts)
    tops = range(0, tiles.y.count, parts.rows)
    down = axes[0].touched(range(i, min(i + parts.rows, tiles.y.count)) for i in tops)
    across = axes[1].touched(tiles.panel_columns(panel) for panel in range(panels))
    inside = [divmod(start, rows) for start in parts.starts() if start % rows]
    total = 0
    for y, x, planes in _files(layout):
        columns = across[x][0]
        blocks, again = down[y]
        decoded = int((blocks - again).sum()) * int(columns.sum())
        decoded += sum(int(again[row]) * int(columns[panel]) for panel, row in inside)
        total += decoded * planes
    return total


def _most_decodings(geometry: Geometry, layout: Layout, parts: Parts) -> int:
    """Bound `decodings` by arithmetic, as if all blocks were of the size of the smallest."""
    (y, x), (by, bx) = parts.axes(), layout.block
    columns = count_uses(geometry.x, x, bx).total
    inside = sum(1 for start in parts.starts() if start % parts.grid[0])
    widest = -(-geometry.x.size // bx)
    again = inside * shared_blocks(geometry.y, y, by) * min(widest, columns)
    planes = max((scene.layout.planes for scene in layout.scenes), default=layout.planes)
    return (count_uses(geometry.y, y, by).touched * columns + again) * planes


def _files(layout: Layout) -> Iterator[tuple[Extent, Extent, int]]:
    """Yield where each file lies along y and x, and its planes of blocks."""
    if not layout.scenes:
        y, x = (Extent(0, layout.shape[i], layout.block[i]) for i in (0, 1))
        yield y, x, layout.planes
        return
    for scene, y, x in zip(layout.scenes, extents(layout, 0), extents(layout, 1), strict=True):
        yield y, x, scene.layout.planes


class _Along(NamedTuple):
    """The tiles along one axis, 0 for y and 1 for x, and what they read of the files."""

    axis: Axis
    tiles: AxisTiles
    layout: Layout
    number: int

    @property
    def places(self) -> int:
        """Window places of all tiles."""
        outputs = min(self.tiles.tile, self.tiles.total)
        return self.tiles.count * window_size(self.axis, outputs, self.layout.block[self.number])

    def touched(self, groups: Iterable[range]) -> Mapping[Extent, tuple[np.ndarray, np.ndarray]]:
        """Return, for each extent, the blocks of each group of tiles.

        Two numbers a group: of blocks that it touches, and of those that the group before it
        touches too.
        """
        places = {(y, x)[self.number] for y, x, _ in _files(self.layout)}
        found: dict[Extent, list[tuple[int, int]]] = {place: [] for place in places}
        before: dict[Extent, np.ndarray] = {}
        for group in groups:
            now = self._blocks(group, places)
            for place, blocks in now.items():
                last = before.get(place)
                shared = (
                    0 if last is None else np.intersect1d(last, blocks, assume_unique=True).size
                )
                found[place].append((blocks.size, shared))
            before = now
        return {place: tuple(np.array(pairs, np.int64).T) for place, pairs in found.items()}

    def _blocks(self, group: range, places: set[Extent]) -> dict[Extent, np.ndarray]:
        """Return the blocks that some neighbouring tiles touch, for each extent."""
        block = self.layout.block[self.number]
        if self.layout.scenes:
            uses = scene_uses(self.axis, self.tiles, group, block, places)
            return {place: np.flatnonzero(counts) for place, counts in uses.items()}
        each = [read_axis(self.axis, *self.tiles[i], block).blocks(block) for i in group]
        return {place: np.unique(np.concatenate(each)) for place in places}
