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
from tileconv.raster.structure import open_tiff

if TYPE_CHECKING:
    from pathlib import Path

    from rasterio.windows import Window

    from tileconv.raster.metadata import Header

CODECS = {1: "none", 8: "deflate", 32946: "deflate", 50000: "zstd"}
"""By TIFF's numbers. LZW has no checksum, and GDAL sees more of its errors."""
PLAIN = {1, 2, 3}
"""Photometric interpretations whose samples are pixels: black is zero, RGB, palette."""
KINDS = {1: "u", 2: "i", 3: "f"}
"""TIFF's sample formats."""
LARGEST_BLOCK = 8 << 20
"""Decoded bytes; each thread has a buffer for one block, and one for its compressed bytes."""


Reader = Callable[["Window", "Sequence[int]", np.ndarray], None]


class UndecodableError(Exception):
    """A block that is not what its header says."""


@dataclass(frozen=True, eq=False)
class StoredBlocks:
    """Where the blocks of a TIFF lie, and what they hold."""

    path: Path
    codec: str
    predicted: bool
    """Samples are stored as differences along rows."""
    dtype: np.dtype
    """In the file's byte order."""
    shape: tuple[int, int]
    block: tuple[int, int]
    """As stored: it may reach over the edge of the raster."""
    tiled: bool
    bands: int
    samples: int
    """Bands that one block holds."""
    offsets: np.ndarray
    counts: np.ndarray

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
        (tall, wide), across = self.block, -(-self.shape[1] // self.block[1])
        grid = across * -(-self.shape[0] // tall)
        planes = bands if self.samples == 1 else (1,)
        for row in range(top // tall, -(-bottom // tall)):
            y = row * tall
            rows = slice(max(top, y) - y, min(bottom, y + tall) - y)
            to_y = slice(y + rows.start - top, y + rows.stop - top)
            stored = tall if self.tiled else min(tall, self.shape[0] - y)
            for column in range(left // wide, -(-right // wide)):
                x = column * wide
                columns = slice(max(left, x) - x, min(right, x + wide) - x)
                to_x = slice(x + columns.start - left, x + columns.stop - left)
                for i, plane in enumerate(planes):
                    index = (plane - 1) * grid + row * across + column
                    pixels = self._unpack(file, index, stored)
                    if self.samples == 1:
                        self._place(pixels[:, :, 0], rows, columns, out[i, to_y, to_x])
                        continue
                    for j, band in enumerate(bands):
                        self._place(pixels[:, :, band - 1], rows, columns, out[j, to_y, to_x])

    def _unpack(self, file: int, index: int, rows: int) -> np.ndarray:
        """Return the samples of a block (rows, columns, samples), in a buffer of the thread's."""
        shape = (rows, self.block[1], self.samples)
        size = rows * shape[1] * shape[2] * self.dtype.itemsize
        count, at = int(self.counts[index]), int(self.offsets[index])
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
        if not self.predicted:
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

    def holds_all(self, length: int) -> bool:
        """Every block lies inside a file of ``length`` bytes and may be unpacked in memory."""
        planes = self.bands // self.samples
        grid = [-(-n // block) for n, block in zip(self.shape, self.block, strict=True)]
        size = math.prod(self.block) * self.samples * self.dtype.itemsize
        counts, offsets = self.counts, self.offsets
        return (
            counts.size == offsets.size == math.prod(grid) * planes
            and size <= LARGEST_BLOCK
            and bool(((counts > 0) & (counts <= 2 * size + 1024)).all())
            and bool(((offsets > 0) & (offsets + counts <= length)).all())
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
    path = opening.files[0]
    try:
        with open_tiff(path) as tiff:
            page, length = tiff.pages.first, os.stat(path).st_size
            block = (
                (page.tilelength, page.tilewidth)
                if page.is_tiled
                else (
                    min(page.rowsperstrip, page.imagelength),
                    page.imagewidth,
                )
            )
            samples = page.samplesperpixel if page.planarconfig == 1 else 1
            dtype = decoding.stored.newbyteorder(tiff.byteorder)
            found = StoredBlocks(
                path=path,
                codec=CODECS.get(int(page.compression), ""),
                predicted=page.predictor == 2,
                dtype=dtype,
                shape=(page.imagelength, page.imagewidth),
                block=block,
                tiled=page.is_tiled,
                bands=page.samplesperpixel,
                samples=samples,
                offsets=np.asarray(page.dataoffsets, np.int64),
                counts=np.asarray(page.databytecounts, np.int64),
            )
            plain = (
                found.codec
                and page.predictor in (1, 2)
                and page.fillorder == 1
                and page.photometric in PLAIN
                and page.imagedepth == page.tiledepth == 1
                and page.bitspersample == 8 * dtype.itemsize
                and KINDS.get(int(page.sampleformat)) == dtype.kind
                and found.bands == layout.bands
                and (samples > 1) == layout.interleaved
                and found.shape == layout.shape
            )
    except Exception:  # GDAL reads more than tifffile knows
        return None
    return found if plain and found.holds_all(length) else None
