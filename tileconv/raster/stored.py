"""Blocks of a plain GeoTIFF, decoded without GDAL's block cache.

GDAL decodes a block into its cache, on pages that the system has to clear, and
copies the pixels from there: a third of the time of reading DEFLATE. Here the
bytes of a block go through one buffer that stays, and the pixels straight to
where they are wanted. imagecodecs, if it is installed, unpacks them (DEFLATE by
the library that GDAL has, too) and undoes the predictor.

Only what has one meaning is read so: whole numbers and floats of 8 to 64 bits,
uncompressed, DEFLATE or ZSTD, every block stored. All else GDAL reads, and also
what cannot be unpacked: it tells what is wrong with it.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv import buffers
from tileconv.raster.structure import FirstImage, first_image

if TYPE_CHECKING:
    from pathlib import Path

    from rasterio.windows import Window

    from tileconv.raster.metadata import Header

CODECS = {1: "none", 8: "deflate", 32946: "deflate", 50000: "zstd"}
"""By TIFF's numbers. LZW has no checksum, and GDAL sees more of its errors."""
PHOTOMETRIC = {1, 2, 3}
"""Interpretations whose samples are pixels: black is zero, RGB, palette."""
FORMATS = {"u": 1, "i": 2, "f": 3}
"""TIFF's sample formats, by numpy's kinds."""
LARGEST_BLOCK = 8 << 20
"""Decoded bytes; each thread has a buffer for one block, and one for its compressed bytes."""


Reader = Callable[["Window", "Sequence[int]", np.ndarray], None]


class UndecodableError(Exception):
    """A block that is not what its header says."""


@dataclass(frozen=True, eq=False)
class StoredBlocks:
    """Blocks of a TIFF that can be read without GDAL."""

    path: Path
    image: FirstImage
    dtype: np.dtype
    """In the file's byte order."""
    codec: str

    @property
    def samples(self) -> int:
        """Bands that one block holds."""
        return self.image.bands if self.image.interleaved else 1

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        """Open the file; yield `read`, less its first argument. Raises `OSError`."""
        file = os.open(self.path, os.O_RDONLY)
        try:
            yield partial(self.read, file)
        finally:
            os.close(file)

    def read(self, file: int, window: Window, bands: Sequence[int], out: np.ndarray) -> None:
        """Read ``bands`` (1-based) of a window into ``out`` (bands, h, w), of the native dtype.

        Raises `UndecodableError`, having written anything to ``out``, and `OSError`.
        """
        top, left = int(window.row_off), int(window.col_off)
        bottom, right = top + out.shape[1], left + out.shape[2]
        (height, width), (tall, wide) = self.image.shape, self.image.block
        across = -(-width // wide)
        grid = across * -(-height // tall)
        planes = (1,) if self.image.interleaved else bands
        for row in range(top // tall, -(-bottom // tall)):
            y = row * tall
            rows = slice(max(top, y) - y, min(bottom, y + tall) - y)
            to_y = slice(y + rows.start - top, y + rows.stop - top)
            stored = tall if self.image.tiled else min(tall, height - y)
            for column in range(left // wide, -(-right // wide)):
                x = column * wide
                columns = slice(max(left, x) - x, min(right, x + wide) - x)
                to_x = slice(x + columns.start - left, x + columns.stop - left)
                for i, plane in enumerate(planes):
                    index = (plane - 1) * grid + row * across + column
                    pixels = self._unpack(file, index, stored)
                    if not self.image.interleaved:
                        self._place(pixels[:, :, 0], rows, columns, out[i, to_y, to_x])
                        continue
                    for j, band in enumerate(bands):
                        self._place(pixels[:, :, band - 1], rows, columns, out[j, to_y, to_x])

    def _unpack(self, file: int, index: int, rows: int) -> np.ndarray:
        """Return the samples of a block (rows, columns, samples), in a buffer of the thread's."""
        shape = (rows, self.image.block[1], self.samples)
        size = rows * shape[1] * shape[2] * self.dtype.itemsize
        count, at = int(self.image.counts[index]), int(self.image.offsets[index])
        unpacked = buffers.scratch("block", (size,), np.dtype(np.uint8))
        packed = unpacked
        if self.codec != "none":
            packed = buffers.scratch("packed", (count,), np.dtype(np.uint8))
        elif count != size:
            raise UndecodableError
        if os.preadv(file, [packed.data], at) != count:
            raise UndecodableError
        if self.codec != "none":
            library = _library()
            decode = getattr(library, f"{self.codec}_decode")
            try:
                found = decode(packed, out=unpacked)
            except (RuntimeError, ValueError) as error:  # what its errors derive from
                raise UndecodableError from error
            if found.size != size:
                raise UndecodableError
        samples = unpacked.view(self.dtype).reshape(shape)
        if samples.dtype.isnative:
            return samples
        return samples.byteswap(inplace=True).view(self.dtype.newbyteorder("="))

    def _place(self, samples: np.ndarray, rows: slice, columns: slice, out: np.ndarray) -> None:
        """Put a part of one band of a block to its place."""
        samples = samples[rows]
        if self.image.predictor == 1:
            out[...] = samples[:, columns]
            return
        # differences wrap around, those of floats too, as if they were whole numbers
        number = np.dtype(f"u{samples.itemsize}")
        differences, sums = samples.view(number)[:, : columns.stop], out.view(number)
        library = _library()
        if columns.start == 0:
            library.delta_decode(differences, axis=1, out=sums)
        else:
            sums[...] = library.delta_decode(differences, axis=1)[:, columns]

    @property
    def is_whole(self) -> bool:
        """Every block lies inside the file and may be unpacked in memory."""
        image = self.image
        grid = [-(-n // block) for n, block in zip(image.shape, image.block, strict=True)]
        size = math.prod(image.block) * self.samples * self.dtype.itemsize
        counts, offsets = image.counts, image.offsets
        return (
            counts.size == offsets.size == math.prod(grid) * image.bands // self.samples
            and size <= LARGEST_BLOCK
            and bool(((counts > 0) & (counts <= 2 * size + 1024)).all())
            and bool(((offsets > 0) & (offsets + counts <= image.length)).all())
        )


@cache
def _library() -> Any:
    """Return imagecodecs, None if it is not installed."""
    try:
        return importlib.import_module("imagecodecs")
    except ImportError:
        return None


def find_stored(header: Header) -> StoredBlocks | None:
    """Return how the blocks of a raster are stored, None if GDAL must read them."""
    opening, layout, decoding = header.opening, header.layout, header.decoding
    local = opening.driver == "GTiff" and not opening.remote
    if not local or decoding.mask is not None or _library() is None or not hasattr(os, "preadv"):
        return None
    path, image = opening.files[0], first_image(opening.files[0])
    if image is None:
        return None
    dtype = decoding.stored.newbyteorder(image.byteorder)
    found = StoredBlocks(path, image, dtype, CODECS.get(image.compression, ""))
    plain = (
        found.codec
        and image.plain
        and image.predictor in (1, 2)
        and image.photometric in PHOTOMETRIC
        and image.dtype == (FORMATS.get(dtype.kind), 8 * dtype.itemsize)
        and (image.bands, image.interleaved) == (layout.bands, layout.interleaved)
        and image.shape == layout.shape
    )
    return found if plain and found.is_whole else None
