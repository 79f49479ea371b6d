"""Mosaics: which blocks of each scene are needed, and by how many tiles.

A mosaic is one raster put together from scenes whose pixels lie on its grid.
The blocks of a scene begin where the scene does, so every scene is counted by
itself, along each axis, with the very windows that the tiles read. Scenes that
lie side by side have the same rows and are counted once.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tileconv.geometry import Axis, Geometry
from tileconv.padding import OUTSIDE
from tileconv.planning.blocks import MOST_STEPS, most_shared, tiles_reaching
from tileconv.planning.layout import Layout
from tileconv.planning.reads import HOLE, AxisRead, read_axis, window_size
from tileconv.planning.tiles import AxisTiles, Tiles


class Extent(NamedTuple):
    """Where a scene lies along one axis of its mosaic, in pixels, and its blocks."""

    offset: int
    size: int
    block: int


def scene_uses(
    axis: Axis,
    tiles: AxisTiles,
    which: range,
    block: int,
    extents: Iterable[Extent],
) -> dict[Extent, np.ndarray]:
    """Return, for each block of each extent, how many of the tiles ``which`` touch it.

    ``block`` is what decides the form of windows: `Layout.block` of the mosaic.

    >>> axis, halves = Axis(20, kernel=3, stride=8), [Extent(0, 10, 4), Extent(10, 10, 4)]
    >>> uses = scene_uses(axis, AxisTiles(3, 1), range(3), 4, halves)
    >>> [uses[half].tolist() for half in halves]
    [[1, 0, 1], [1, 1, 1]]
    """
    uses = {e: np.zeros(-(-e.size // e.block), np.int64) for e in extents}
    places = [(extent.offset, extent.offset + extent.size) for extent in uses]
    for i in tiles_reaching(axis, tiles, which, places):
        index = used_index(read_axis(axis, *tiles[i], block))
        inside = index[index >= 0]
        if inside.size and (np.diff(inside) < 0).any():
            inside = np.unique(inside)
        for extent, counts in uses.items():
            low, high = np.searchsorted(inside, (extent.offset, extent.offset + extent.size))
            if low < high:
                counts[np.unique((inside[low:high] - extent.offset) // extent.block)] += 1
    return uses


def used_index(read: AxisRead) -> np.ndarray:
    """Return the source pixels of a window, `HOLE` where no tap reads them.

    Gaps and holes that are kept in windows are narrower than a block, but not
    than a scene, or the last block of one.

    >>> used_index(read_axis(Axis(9, kernel=2, stride=3), 0, 3)).tolist()
    [0, 1, -2, 3, 4, -2, 6, 7]
    """
    span = read.size - (read.outputs - 1) * read.stride
    if span >= read.stride and read.dilation == 1:
        return read.index
    fields = read.stride * np.arange(read.outputs)
    used = np.zeros(read.size, bool)
    used[(fields[:, None] + np.arange(0, span, read.dilation)).ravel()] = True
    return np.where(used, read.index, HOLE)


def extents(layout: Layout, axis: int) -> Iterator[Extent]:
    """Yield where each scene lies along axis 0 (y) or 1 (x)."""
    for scene in layout.scenes:
        stored = scene.layout
        yield Extent(scene.offset[axis], stored.shape[axis], stored.block[axis])


def count_blocks(layout: Layout, geometry: Geometry, tiles: Tiles) -> tuple[int, int]:
    """Return the blocks of all scenes that are needed, and how often blocks are decoded.

    A block under the seam of two panels is decoded for each.
    """
    block_y, block_x = layout.block
    if _steps(layout, geometry, tiles) > MOST_STEPS:
        return _most_blocks(layout, geometry, tiles)
    rows = scene_uses(geometry.y, tiles.y, range(tiles.y.count), block_y, extents(layout, 0))
    needed: dict[Extent, np.ndarray] = {}
    decoded: dict[Extent, int] = {}
    for panel in range(tiles.panels):
        uses = scene_uses(
            geometry.x, tiles.x, tiles.panel_columns(panel), block_x, extents(layout, 1)
        )
        for extent, counts in uses.items():
            needed[extent] = needed.get(extent, False) | (counts > 0)
            decoded[extent] = decoded.get(extent, 0) + int(np.count_nonzero(counts))
    totals = [0, 0]
    for scene, y, x in zip(layout.scenes, extents(layout, 0), extents(layout, 1), strict=True):
        planes = int(np.count_nonzero(rows[y])) * scene.layout.planes
        totals[0] += planes * int(np.count_nonzero(needed[x]))
        totals[1] += planes * decoded[x]
    return totals[0], totals[1]


def _steps(layout: Layout, geometry: Geometry, tiles: Tiles) -> int:
    """Return how many numbers `count_blocks` would look at, one by one."""
    total = tiles.panels
    for i, (axis, along) in enumerate(((geometry.y, tiles.y), (geometry.x, tiles.x))):
        window = window_size(axis, min(along.tile, along.total), layout.block[i])
        tile = axis.stride * along.tile
        for extent in extents(layout, i):
            total += extent.size // extent.block
            total += min(along.count, (extent.size + axis.span) // tile + 2) * window
        if axis.mode not in OUTSIDE:
            padded = -(-axis.before // tile) + -(-axis.after // tile)
            total += min(along.count, padded) * window
    return total


def _most_blocks(layout: Layout, geometry: Geometry, tiles: Tiles) -> tuple[int, int]:
    """Bound `count_blocks` from above: every block of every scene, and seams under each panel."""
    needed = sum(
        scene.layout.block_grid[0] * scene.layout.block_grid[1] * scene.layout.planes
        for scene in layout.scenes
    )
    axis, tile = geometry.x, geometry.x.stride * tiles.panel * tiles.x.tile
    decoded = needed
    for scene in layout.scenes:
        stored = scene.layout
        panels = min(tiles.panels, (stored.shape[1] + axis.span) // tile + 2)
        columns = min((panels - 1) * most_shared(axis, stored.block[1]), needed)
        decoded += columns * stored.block_grid[0] * stored.planes
    return needed, decoded
