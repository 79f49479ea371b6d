"""How many tiles of a plan use each storage block: after the last one it is released."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tileconv.planning.blocks import block_uses, is_countable, tiles_reaching
from tileconv.planning.reads import read_axis

if TYPE_CHECKING:
    from tileconv.geometry import Axis, Geometry
    from tileconv.planning.parts import Part
    from tileconv.planning.tiles import AxisTiles, Tiles


class AxisCounts(Protocol):
    """How many tiles use each block along an axis: an array, or what computes it on demand."""

    def __getitem__(self, i: int, /) -> Any: ...


class ReferenceCounts:
    """Uses of the block rows of a file, and of its block columns in each panel of the plan."""

    def __init__(self, rows: AxisCounts, columns: Callable[[int], AxisCounts]) -> None:
        self.rows = rows
        self._compute = columns
        self._columns: dict[int, AxisCounts] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, geometry: Geometry, tiles: Tiles, block: tuple[int, int]) -> ReferenceCounts:
        """Count for a raster in one file."""

        def columns(panel: int) -> AxisCounts:
            if tiles.panels == 1:
                return _count_all(geometry.x, tiles.x, block[1])
            return _count_some(geometry.x, tiles.x, tiles.panel_columns(panel), block[1])

        return cls(_count_all(geometry.y, tiles.y, block[0]), columns)

    @classmethod
    def of_part(
        cls,
        geometry: Geometry,
        tiles: Tiles,
        part: Part,
        block: tuple[int, int],
        following: Part | None = None,
    ) -> ReferenceCounts:
        """Count for some neighbouring tiles of a raster in one file.

        The uses by ``following``, the part below or above, count too: its blocks are kept for it.
        """
        rows = _count_some(geometry.y, tiles.y, tile_rows(part, following), block[0])
        columns = _count_some(geometry.x, tiles.x, part.columns, block[1])
        return cls(rows, lambda _: columns)

    def columns(self, panel: int) -> AxisCounts:
        """Return how many tile columns of ``panel`` touch each block column."""
        with self._lock:
            if panel not in self._columns:
                self._columns[panel] = self._compute(panel)
                self._columns.pop(panel - 3, None)  # no thread is that far behind
            return self._columns[panel]


def tile_rows(part: Part, following: Part | None) -> range:
    """Return the tile rows of a part, and of the one below or above it."""
    both = (part.rows, part.rows if following is None else following.rows)
    return range(min(rows.start for rows in both), max(rows.stop for rows in both))


def _count_all(axis: Axis, tiles: AxisTiles, block: int) -> AxisCounts:
    """Count block uses by all tiles along an axis."""
    if is_countable(axis, tiles, block):
        return block_uses(axis, tiles, block)
    return _LookedUp(axis, tiles, range(tiles.count), block)


def _count_some(axis: Axis, tiles: AxisTiles, which: range, block: int) -> AxisCounts:
    """Count block uses by some tiles along an axis only."""
    if not is_countable(axis, tiles, block):
        return _LookedUp(axis, tiles, which, block)
    uses = np.zeros(-(-axis.size // block), np.int64)
    for i in which:
        uses[read_axis(axis, *tiles[i], block).blocks(block)] += 1
    return uses


TILES_KEPT = 16
"""Tiles whose blocks are kept for the next look: neighbours are asked for one after the other."""


class _LookedUp:
    """Uses of blocks along an axis with too many to hold a number for each."""

    def __init__(self, axis: Axis, tiles: AxisTiles, which: range, block: int) -> None:
        self._axis, self._tiles, self._which, self._block = axis, tiles, which, block
        self._touched = lru_cache(TILES_KEPT)(self._blocks_of)

    def __getitem__(self, i: int) -> int:
        """Return how many of the tiles touch block ``i``."""
        pixels = (i * self._block, min((i + 1) * self._block, self._axis.size))
        found = 0
        for tile in tiles_reaching(self._axis, self._tiles, self._which, [pixels]):
            blocks = self._touched(tile)
            at = int(np.searchsorted(blocks, i))
            found += at < blocks.size and int(blocks[at]) == i
        return found

    def _blocks_of(self, tile: int) -> np.ndarray:
        return read_axis(self._axis, *self._tiles[tile], self._block).blocks(self._block)
