"""Which storage blocks of a file are needed, and by how many tiles, in closed form.

Blocks that receptive fields touch are a product set, touched block rows times
touched block columns, so each axis is counted by itself. Arrays here have one
entry per tile, per output of a sparsely read axis, or per block of one axis:
thousands for a raster of 10 million pixels a side, never their product. Where
they would have more than `MOST_STEPS`, a plan has bounds instead, by arithmetic.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tileconv.geometry import Axis
from tileconv.padding import OUTSIDE
from tileconv.planning.reads import read_axis, window_size
from tileconv.planning.tiles import AxisTiles

MOST_STEPS = 1 << 20
"""Numbers that a plan looks at one by one along an axis: 8 MiB an array, some 50 ms."""


class Uses(NamedTuple):
    """Blocks along an axis: how many some tile touches, and how often tiles touch one."""

    touched: int
    total: int


@lru_cache(maxsize=1024)  # planning asks for the same ones again and again
def count_uses(axis: Axis, tiles: AxisTiles, block: int) -> Uses:
    """Count the blocks that tiles touch along an axis; see `most_uses` for the largest axes.

    >>> count_uses(Axis(200, kernel=3, stride=50), AxisTiles(4, 2), 10)
    Uses(touched=4, total=4)
    """
    if not is_countable(axis, tiles, block):
        return most_uses(axis, tiles, block)
    uses = block_uses(axis, tiles, block)
    return Uses(int(np.count_nonzero(uses)), int(uses.sum()))


def most_uses(axis: Axis, tiles: AxisTiles, block: int) -> Uses:
    """Bound `count_uses` from above.

    What is touched is exact where fields lie closer than a block and padding holds no pixels.

    >>> most_uses(Axis(2**31 - 1, kernel=3), AxisTiles(2**31 - 3, 2**30), 256)
    Uses(touched=8388608, total=8388610)
    """
    blocks = -(-axis.size // block)
    low, high = axis.reach(0, axis.out_size)
    if axis.mode in OUTSIDE:
        low, high = max(low, 0), min(high, axis.size)
        blocks = (high - 1) // block - low // block + 1 if low < high else 0
    field = min(axis.kernel, (axis.span - 2 + block) // block + 1)
    touched = min(blocks, axis.out_size * field)
    total = touched + (tiles.count - 1) * most_shared(axis, block)
    if axis.mode not in OUTSIDE and (axis.before or axis.after):
        low, high = axis.reach(0, min(tiles.tile, tiles.total))
        pieces = (high - low) // axis.size + 2  # between which padding turns around or begins again
        total = tiles.count * min(blocks, (high - low) // block + 2 * pieces)
    return Uses(touched, total)


def is_countable(axis: Axis, tiles: AxisTiles, block: int) -> bool:
    """Say whether `block_uses` would look at no more than `MOST_STEPS` numbers."""
    return _steps(axis, tiles, block) <= MOST_STEPS


def _steps(axis: Axis, tiles: AxisTiles, block: int) -> int:
    blocks = -(-axis.size // block)
    tile = axis.stride * tiles.tile
    one_by_one = tiles.count
    if axis.dilation <= block:
        ahead = -(-axis.before // tile)
        within = (blocks - 1) * block + axis.before  # to where no tile reaches the last block
        plain = max(0, (within - axis.span + axis.stride) // tile)
        if axis.mode in OUTSIDE:  # of tiles in the padding nothing is looked at
            behind = -(-(axis.size + axis.before) // tile)
            one_by_one = min(behind, tiles.count) - min(plain, tiles.count)
        else:
            one_by_one = min(tiles.count, ahead + tiles.count - min(plain, tiles.count))
    window = window_size(axis, min(tiles.tile, tiles.total), block)
    fields = axis.out_size if axis.gap >= block else 0
    return blocks + tiles.count + fields + one_by_one * window


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
    looked_at = ~plain
    if axis.mode in OUTSIDE:
        looked_at &= low < axis.size
    else:
        plain &= low >= 0
        looked_at = ~plain
    uses = _count(axis, tiles, block, np.flatnonzero(looked_at), blocks)
    if axis.gap < block:  # no gap between two fields can skip a block: each tile touches a range
        plain &= high > 0
        low, high = np.maximum(low[plain], 0), high[plain]
        return uses + _sum_ranges(low // block, (high - 1) // block, blocks)
    return uses + _sum_fields(axis, tiles, block, np.flatnonzero(plain), blocks)


def tiles_reaching(
    axis: Axis, tiles: AxisTiles, which: range, pixels: Iterable[tuple[int, int]]
) -> list[int]:
    """Return the tiles of ``which``, ascending, whose windows may hold some of ``pixels``.

    These are half-open ranges, and far fewer tiles reach them than lie between them.

    >>> axis = Axis(10**9, kernel=3)
    >>> tiles = AxisTiles(axis.out_size, 100)
    >>> tiles_reaching(axis, tiles, range(tiles.count), [(0, 150), (10**9 - 50, 10**9)])
    [0, 1, 9999999]
    """
    places = [*pixels]
    if axis.mode not in OUTSIDE:  # padding holds pixels, any of them
        places += [(-axis.before, 0), (axis.size, axis.size + axis.after)]
    reaching: set[int] = set()
    for start, stop in places:
        first = max(0, -(-(start + axis.before - axis.span + 1) // axis.stride))
        last = (stop - 1 + axis.before) // axis.stride
        if start < stop and last >= 0 and first < tiles.total:
            # between two fields, whose tile has both in its window, the last lies before the first
            low, high = sorted((first // tiles.tile, last // tiles.tile))
            reaching.update(range(max(low, which.start), min(high + 1, which.stop)))
    return sorted(reaching)


@lru_cache(maxsize=1024)  # planning asks for the same ones again and again
def shared_blocks(axis: Axis, tiles: AxisTiles, block: int) -> int:
    """Return the most blocks that a tile has in common with the next one (padding aside).

    >>> shared_blocks(Axis(100, kernel=3), AxisTiles(98, 10), 10)
    1
    """
    if tiles.count < 2:
        return 0
    if tiles.count > MOST_STEPS:
        return min(most_shared(axis, block), -(-axis.size // block))
    edge = np.arange(1, tiles.count, dtype=np.int64) * tiles.tile
    last = np.clip((edge - 1) * axis.stride - axis.before + axis.span - 1, 0, axis.size - 1)
    first = np.clip(edge * axis.stride - axis.before, 0, axis.size - 1)
    return max(0, int((last // block - first // block).max()) + 1)


def most_shared(axis: Axis, block: int) -> int:
    """Bound the blocks that a tile has in common with the next one, wherever they meet."""
    fewest = 1 if axis.before or axis.after else 0  # where both lie in the padding
    return max(fewest, -((1 - axis.halo) // block) + 1)


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
