"""How many tiles of a plan use each storage block: what tells when a block can be let go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tileconv.planning.blocks import block_uses
from tileconv.planning.reads import read_axis

if TYPE_CHECKING:
    from tileconv.geometry import Axis, Geometry
    from tileconv.planning.parts import Part
    from tileconv.planning.tiles import AxisTiles, Tiles


class BlockUses:
    """Uses of the block rows of a file, and of its block columns in each panel of the plan."""

    def __init__(self, rows: np.ndarray, columns: Callable[[int], np.ndarray]) -> None:
        self.rows = rows
        self._compute = columns
        self._columns: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, geometry: Geometry, tiles: Tiles, block: tuple[int, int]) -> BlockUses:
        """Count for a raster in one file."""

        def columns(panel: int) -> np.ndarray:
            if tiles.panels == 1:
                return block_uses(geometry.x, tiles.x, block[1])
            return _uses_of(geometry.x, tiles.x, tiles.panel_columns(panel), block[1])

        return cls(block_uses(geometry.y, tiles.y, block[0]), columns)

    @classmethod
    def of_part(
        cls,
        geometry: Geometry,
        tiles: Tiles,
        part: Part,
        block: tuple[int, int],
        following: Part | None = None,
    ) -> BlockUses:
        """Count for some neighbouring tiles of a raster in one file.

        The uses by ``following``, the part below or above, count too: its blocks are kept for it.
        """
        rows = _uses_of(geometry.y, tiles.y, tile_rows(part, following), block[0])
        columns = _uses_of(geometry.x, tiles.x, part.columns, block[1])
        return cls(rows, lambda _: columns)

    def columns(self, panel: int) -> np.ndarray:
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


def _uses_of(axis: Axis, tiles: AxisTiles, which: range, block: int) -> np.ndarray:
    """Count block uses by some tiles along an axis only."""
    uses = np.zeros(-(-axis.size // block), np.int64)
    for i in which:
        uses[read_axis(axis, *tiles[i], block).blocks(block)] += 1
    return uses
