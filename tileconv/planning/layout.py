"""What planning needs to know of a raster: its shape and how a file stores it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Layout:
    """A raster as its file stores it. Pairs are (y, x)."""

    shape: tuple[int, int]
    """Rows and columns."""
    dtype: np.dtype
    """Of the pixels that are handed to tiles, in native byte order."""
    block: tuple[int, int]
    """Storage block: a tile, or a strip (rows per strip, width)."""
    bands: int = 1
    """Bands in the file."""
    read_bands: int = 1
    """Bands that are convolved."""
    interleaved: bool = False
    """One block holds all bands (pixel interleave), not one."""
    marks: int = 0
    """Planes that say which pixels are hidden: none, one (mask, alpha), or one for each band."""
    alpha: bool = False
    """An alpha band is read beside those that are convolved."""
    stored: np.dtype | None = None
    """Dtype in the file, where pixels are scaled while they are read."""
    direct: bool = False
    """Blocks go straight into windows, through a buffer of the thread's, not GDAL's cache."""
    unpacked: tuple[int, int] = (0, 0)
    """What is unpacked of a block, if that is more: tiles may reach far over the raster's edge."""
    scenes: tuple[Scene, ...] = ()
    """The files of a mosaic, which have blocks of their own; ``block`` is then the smallest."""

    @property
    def block_grid(self) -> tuple[int, int]:
        """Block rows and block columns."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])

    @property
    def planes(self) -> int:
        """Blocks that lie one over the other and are read: 1 if interleaved, else one a band."""
        return 1 if self.interleaved else self.read_bands + self.alpha

    @property
    def blocks_total(self) -> int:
        """Storage blocks of all bands in the file."""
        if self.scenes:
            return sum(scene.layout.blocks_total for scene in self.scenes)
        rows, columns = self.block_grid
        return rows * columns * (1 if self.interleaved else self.bands)

    @property
    def pixel_bytes(self) -> int:
        """Bytes that one pixel takes in memory, all bands that are read and the marks."""
        return self.read_bands * self.dtype.itemsize + self.marks

    @property
    def read_pixel_bytes(self) -> int:
        """Bytes that one pixel takes while it is read: as stored and as handed on."""
        converted = 0 if self.stored is None else self.read_bands * self.stored.itemsize + 8
        alpha = self.alpha * (self.stored or self.dtype).itemsize
        return self.pixel_bytes + converted + alpha

    @property
    def decoded_pixel_bytes(self) -> int:
        """Bytes per pixel that the decoder unpacks at a time."""
        return (self.bands if self.interleaved else 1) * self.dtype.itemsize

    @property
    def largest_block(self) -> tuple[int, int]:
        """``block``, or the most rows and columns that a block of any scene has."""
        if not self.scenes:
            return self.block
        blocks = [scene.layout.block for scene in self.scenes]
        return max(rows for rows, _ in blocks), max(columns for _, columns in blocks)

    @property
    def largest_unpacked(self) -> int:
        """Most pixels of a band that are unpacked at a time."""
        layouts = [scene.layout for scene in self.scenes] or [self]
        return max(
            max(layout.block[0], layout.unpacked[0]) * max(layout.block[1], layout.unpacked[1])
            for layout in layouts
        )

    @property
    def overlap(self) -> float:
        """Pixels stored per pixel of the raster: above 1 where scenes lie over one another."""
        stored = sum(scene.layout.shape[0] * scene.layout.shape[1] for scene in self.scenes)
        return max(1.0, stored / (self.shape[0] * self.shape[1]))


@dataclass(frozen=True, slots=True)
class Scene:
    """One file of a mosaic."""

    layout: Layout
    offset: tuple[int, int]
    """Its first pixel in the mosaic, (y, x)."""
