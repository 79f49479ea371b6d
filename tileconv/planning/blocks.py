"""Which storage blocks of a file are needed, and by how many tiles, in closed form.

Blocks that receptive fields touch are a product set, touched block rows times
touched block columns, so each axis is counted by itself. Arrays here have one
entry per tile, per output of a sparsely read axis, or per block of one axis:
thousands for a raster of 10 million pixels a side, never their product.
"""

from functools import lru_cache

import numpy as np

from tileconv.geometry import Axis
from tileconv.padding import OUTSIDE
from tileconv.planning.reads import read_axis
from tileconv.planning.tiles import AxisTiles


def block_uses(axis: Axis, tiles: AxisTiles, block: int) -> np.ndarray:
    """Return, for each block along an axis, the number of tiles that touch it (int64).

    >>> block_uses(Axis(200, kernel=3, stride=50), AxisTiles(4, 2), 10).nonzero()[0]
    array([ 0,  5, 10, 15])
    """
    blocks = -(-axis.size // block)
    first = np.arange(tiles.count, dtype=np.int64) * tiles.tile
    end = np.minimum(first + tiles.tile, tiles.total)
    low = first * axis.stride - axis.before
    high = (end - 1) * axis.stride - axis.before + axis.span
    if axis.dilation > block:  # a hole between two taps may skip a block
        return _count(axis, tiles, block, np.arange(tiles.count), blocks)
    # The last block may be cut short, so that a hole or gap skips it: look at its tiles one by one.
    plain = high <= (blocks - 1) * block
    if axis.mode not in OUTSIDE:
        plain &= low >= 0
    uses = _count(axis, tiles, block, np.flatnonzero(~plain), blocks)
    if axis.gap < block:  # no gap between two fields can skip a block: each tile touches a range
        plain &= high > 0
        low, high = np.maximum(low[plain], 0), high[plain]
        return uses + _sum_ranges(low // block, (high - 1) // block, blocks)
    return uses + _sum_fields(axis, tiles, block, np.flatnonzero(plain), blocks)


@lru_cache(maxsize=1024)  # planning asks for the same ones again and again
def shared_blocks(axis: Axis, tiles: AxisTiles, block: int) -> int:
    """Return the most blocks that a tile has in common with the next one (padding aside).

    >>> shared_blocks(Axis(100, kernel=3), AxisTiles(98, 10), 10)
    1
    """
    if tiles.count < 2:
        return 0
    edge = np.arange(1, tiles.count, dtype=np.int64) * tiles.tile
    last = np.clip((edge - 1) * axis.stride - axis.before + axis.span - 1, 0, axis.size - 1)
    first = np.clip(edge * axis.stride - axis.before, 0, axis.size - 1)
    return max(0, int((last // block - first // block).max()) + 1)


def _count(axis: Axis, tiles: AxisTiles, block: int, which: np.ndarray, blocks: int) -> np.ndarray:
    """Count block uses of the tiles ``which`` one by one."""
    uses = np.zeros(blocks, np.int64)
    for i in which.tolist():
        uses[read_axis(axis, *tiles[i], block).blocks(block)] += 1
    return uses


def _sum_ranges(first: np.ndarray, last: np.ndarray, blocks: int) -> np.ndarray:
    """Count how many of the inclusive ranges ``first .. last`` hold each block."""
    steps = np.bincount(first, minlength=blocks + 1) - np.bincount(last + 1, minlength=blocks + 1)
    return np.cumsum(steps[:blocks])


def _sum_fields(
    axis: Axis, tiles: AxisTiles, block: int, which: np.ndarray, blocks: int
) -> np.ndarray:
    """Count block uses field by field for tiles whose gaps may skip blocks."""
    if not which.size:
        return np.zeros(blocks, np.int64)
    outputs = np.arange(tiles[int(which[0])][0], tiles[int(which[-1])][1], dtype=np.int64)
    low = outputs * axis.stride - axis.before
    outputs, low = outputs[low + axis.span > 0], low[low + axis.span > 0]
    first, last = np.maximum(low, 0) // block, (low + axis.span - 1) // block
    tile = outputs // tiles.tile
    # Two fields of one tile may end and begin in the same block: count it once.
    again = (tile[1:] == tile[:-1]) & (first[1:] <= last[:-1])
    first[1:] += again
    fresh = first <= last
    return _sum_ranges(first[fresh], last[fresh], blocks)
