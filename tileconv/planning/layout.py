"""What planning needs to know of a raster: its shape and how a file stores it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Layout:
    """A raster as its file stores it. Pairs are (y, x)."""

    shape: tuple[int, int]
    """Rows and columns."""
    dtype: np.dtype
    """Of every band, in native byte order."""
    block: tuple[int, int]
    """Storage block: a tile, or a strip (rows per strip, width)."""
    bands: int = 1
    """Bands in the file."""
    read_bands: int = 1
    """Bands that are convolved."""
    interleaved: bool = False
    """One block holds all bands (pixel interleave), not one."""
    masked: bool = False
    """A mask or alpha band is read beside the pixels."""

    @property
    def block_grid(self) -> tuple[int, int]:
        """Block rows and block columns."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])

    @property
    def planes(self) -> int:
        """Blocks that lie one over the other and are read: 1 if interleaved, else one a band."""
        return 1 if self.interleaved else self.read_bands

    @property
    def blocks_total(self) -> int:
        """Storage blocks of all bands in the file."""
        rows, columns = self.block_grid
        return rows * columns * (1 if self.interleaved else self.bands)

    @property
    def pixel_bytes(self) -> int:
        """Bytes that one pixel takes in memory, all bands that are read and the mask."""
        return self.read_bands * self.dtype.itemsize + self.masked

    @property
    def decoded_pixel_bytes(self) -> int:
        """Bytes per pixel that the decoder unpacks at a time."""
        return (self.bands if self.interleaved else 1) * self.dtype.itemsize
