"""Blocks of a plain GeoTIFF, decoded without GDAL's block cache.

GDAL decodes a block into its cache, on pages that the system has to clear, and
copies the pixels from there: a third of the time of reading DEFLATE. Here the
bytes of a block go through one buffer that stays, and the pixels straight to
where they are wanted. imagecodecs, if it is installed, unpacks them (DEFLATE by
the library that GDAL has, too) and undoes the predictor.

Only what has one meaning is read so: whole numbers and floats of 8 to 64 bits,
uncompressed, DEFLATE or ZSTD, every block stored, and a header in which every tag
that decides on pixels is as TIFF wants it. All else GDAL reads.

What cannot be unpacked is damaged, and GDAL is not asked: it stops unpacking when
a block is full, so it sees no checksum of a stream that has become longer, and
gives whatever it got. What is only unusual is read here, as GDAL reads it:

- DEFLATE and ZSTD of more bytes than the block has, like those of a last strip that
  is as tall as the others: the first ones count, once the whole stream is unpacked
  and its checksum is right;
- bytes behind the end of a DEFLATE stream, and uncompressed blocks of more bytes than
  needed.

Damaged are streams that break off, whose checksum is wrong, or that are shorter than
the block; no writer makes such, and GDAL refuses them, too, where it notices. Bytes
behind the end of a ZSTD stream count as damage: GDAL passes over them, but they mean
that the stream's length is not what was written. Files as GDAL, tifffile and libtiff
write them, tiles and strips, rewritten in place as well, hold none.
ZSTD has a checksum where the writer asked for one; GDAL does not.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv import buffers
from tileconv.raster.structure import FirstImage, first_image

if TYPE_CHECKING:
    from pathlib import Path

    from rasterio.windows import Window

    from tileconv.planning.layout import Layout
    from tileconv.raster.dataset_spec import DatasetSpec
    from tileconv.raster.decoding import Decoding

CODECS = {1: "none", 8: "deflate", 32946: "deflate", 50000: "zstd"}
"""By TIFF's numbers. LZW has no checksum, and GDAL sees more of its errors."""
PHOTOMETRIC = {1, 2, 3}
"""Interpretations whose samples are pixels: black is zero, RGB, palette."""
FORMATS = {"u": 1, "i": 2, "f": 3}
"""TIFF's sample formats, by numpy's kinds."""
BYTE = np.dtype(np.uint8)
LARGEST_BLOCK = 7 << 20
"""Decoded bytes; each thread has a buffer for a block and its compressed bytes, up to 16 MiB."""
PACKED_WELL = 64
"""Times that a block is smaller packed: it may be one row again and again, like sea or nodata."""
MOST_ROWS = 16
"""Blocks of one row that are remembered: such a file has few different ones."""
LONGEST_ROW = 1 << 16
"""Bytes of a row that is remembered."""
MOST_SURPLUS = 1 << 16
"""Bytes that a stream may hold beyond a block, and another block."""


class UndecodableError(Exception):
    """A block that is not what its header says. The message is the cause alone."""

    def __init__(self, cause: str, place: tuple[int, int], part: str) -> None:
        super().__init__(cause, place, part)  # all of them, for it may go to another process
        self.place = place
        """Row and column of the block in the grid."""
        self.part = part
        """The bands that it holds, in words."""

    def __str__(self) -> str:
        return str(self.args[0])


class DamageError(Exception):
    """What is wrong with the bytes of a block."""


@dataclass(frozen=True, eq=False)
class DirectTIFF:
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
        """Open the file for as many threads as like. Raises `OSError`."""
        file = os.open(self.path, os.O_RDONLY)
        try:
            yield Reader(self, file)
        finally:
            os.close(file)

    @property
    def is_whole(self) -> bool:
        """Every block lies inside the file and may be unpacked in memory."""
        image = self.image
        grid = [-(-n // block) for n, block in zip(image.shape, image.block, strict=True)]
        row = image.block[1] * self.samples * self.dtype.itemsize
        size, planes = image.block[0] * row, image.bands // self.samples
        counts, offsets = image.counts, image.offsets
        if not counts.size == offsets.size == math.prod(grid) * planes or size > LARGEST_BLOCK:
            return False
        fewest = np.ones(grid, np.int64)
        if self.codec == "none":  # GDAL has rules of its own for those that are too short
            fewest[:] = size
            if not image.tiled:
                fewest[-1:] = row * (image.shape[0] - (grid[0] - 1) * image.block[0])
        return (
            bool((counts.reshape(planes, *grid) >= fewest).all())
            and bool((counts <= 2 * size + 1024).all())
            and bool(((offsets > 0) & (offsets <= image.length - counts)).all())
        )


class Reader:
    """Reads blocks of an open file. Safe to use from many threads."""

    def __init__(self, blocks: DirectTIFF, file: int) -> None:
        image = blocks.image
        self._file = file
        self._image, self._dtype = image, blocks.dtype
        self._row = (image.block[1], image.bands) if image.interleaved else (image.block[1],)
        self._bytes = image.block[1] * blocks.samples * blocks.dtype.itemsize
        """Of a row of a block."""
        self._native = blocks.dtype.newbyteorder("=")
        self._whole = np.dtype(f"u{blocks.dtype.itemsize}")
        codecs = library()
        packed = blocks.codec != "none"
        self._codec = blocks.codec.upper()
        self._decode = getattr(codecs, f"{blocks.codec}_decode") if packed else None
        self._add_up = codecs.delta_decode if image.predictor > 1 else None
        self._across = -(-image.shape[1] // image.block[1])
        self._grid = self._across * -(-image.shape[0] // image.block[0])
        self._rows: dict[tuple[int, bytes], np.ndarray] = {}
        """The row that makes up all of a block, by how often it does and by the packed bytes."""

    def window(self, window: Window, bands: Sequence[int], out: np.ndarray) -> None:
        """Read ``bands`` (1-based) of a window into ``out`` (bands, h, w), of the native dtype.

        Raises `UndecodableError`, having written anything to ``out``.
        """
        top, left = int(window.row_off), int(window.col_off)
        bottom, right = top + out.shape[1], left + out.shape[2]
        tall, wide = self._image.block
        for row in range(top // tall, -(-bottom // tall)):
            y = row * tall
            rows = slice(max(top, y) - y, min(bottom, y + tall) - y)
            to_y = slice(y + rows.start - top, y + rows.stop - top)
            for column in range(left // wide, -(-right // wide)):
                x = column * wide
                columns = slice(max(left, x) - x, min(right, x + wide) - x)
                to_x = slice(x + columns.start - left, x + columns.stop - left)
                self.block((row, column), bands, (to_y, rows), (to_x, columns), out)

    def block(
        self,
        place: tuple[int, int],
        bands: Sequence[int],
        y: tuple[slice, slice],
        x: tuple[slice, slice],
        out: np.ndarray,
    ) -> None:
        """Read a part of the block at ``place`` in the grid, as `window` does.

        Along each axis, it is said which part of ``out`` is which part of the block.
        """
        (to_y, rows), (to_x, columns) = y, x
        if self._image.interleaved:
            pixels = self._unpack(place, 1)
            for i, band in enumerate(bands):
                self._put(pixels[rows, :, band - 1], columns, out[i, to_y, to_x])
            return
        for i, band in enumerate(bands):
            pixels = self._unpack(place, band)
            self._put(pixels[rows], columns, out[i, to_y, to_x])

    def _unpack(self, place: tuple[int, int], band: int) -> np.ndarray:
        """Return the samples of the block that holds a band, in a buffer of the thread's.

        (rows, columns), or (rows, columns, bands) where a block holds all bands.
        """
        image = self._image
        (row, column), tall = place, image.block[0]
        index = (band - 1) * self._grid + row * self._across + column
        rows = tall if image.tiled else min(tall, image.shape[0] - row * tall)
        size, count = rows * self._bytes, int(image.counts[index])
        try:
            if self._decode is None:
                unpacked = packed = buffers.scratch("block", (size,), BYTE)
            else:
                both = buffers.scratch("block", (size + count,), BYTE)
                unpacked, packed = both[:size], both[size:]
            fetch(self._file, packed, int(image.offsets[index]))
            if self._decode is None:
                return self._samples(unpacked, rows)
            again = count * PACKED_WELL <= size and rows > 1 and size <= rows * LONGEST_ROW
            known = (rows, packed.tobytes()) if again else None
            if known in self._rows:
                return np.broadcast_to(self._rows[known], (rows, *self._row))
            decompress(self._decode, self._codec, packed, unpacked, tall * self._bytes)
        except DamageError as error:
            part = "all bands" if image.interleaved else f"band {band}"
            raise UndecodableError(str(error), place, part) from error.__cause__
        samples = self._samples(unpacked, rows)
        if known is not None and len(self._rows) < MOST_ROWS:
            bits = samples.view(self._whole)
            if (bits[-1] == bits[0]).all() and (bits == bits[0]).all():
                self._rows[known] = samples[:1].copy()
        return samples

    def _samples(self, unpacked: np.ndarray, rows: int) -> np.ndarray:
        """Return bytes as samples of the machine's byte order."""
        samples = unpacked.view(self._dtype).reshape(rows, *self._row)
        if self._image.predictor == 3:
            return self._join_bytes(unpacked, samples.shape)
        if self._dtype.isnative:
            return samples
        return samples.byteswap(inplace=True).view(self._native)

    def _join_bytes(self, unpacked: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return floats of which a row's first bytes lie side by side, then the second ones, ...

        These are differences, of bands each by itself. In three steps it takes a third of the time
        of imagecodecs' own floatpred_decode.
        """
        assert self._add_up is not None
        rows, size, bands = shape[0], self._native.itemsize, math.prod(shape[2:])
        summed = buffers.scratch("sums", unpacked.shape, BYTE)
        steps = (rows, -1, bands)
        self._add_up(unpacked.reshape(steps), axis=1, out=summed.reshape(steps))
        joined = buffers.scratch("floats", unpacked.shape, BYTE)
        source, target = summed.reshape(rows, size, -1), joined.reshape(rows, -1, size)
        for i in range(size):  # the first are the highest ones, whatever the file's byte order
            target[:, :, size - 1 - i if sys.byteorder == "little" else i] = source[:, i]
        return joined.view(self._native).reshape(shape)

    def _put(self, samples: np.ndarray, columns: slice, out: np.ndarray) -> None:
        """Put some columns of rows of one band of a block to their place."""
        if self._image.predictor != 2 or self._add_up is None:
            out[...] = samples[:, columns]
            return
        # differences wrap around, those of floats too, as if they were whole numbers
        differences = samples.view(self._whole)[:, : columns.stop]
        sums = out.view(self._whole)
        if columns.start == 0:
            self._add_up(differences, axis=1, out=sums)
        else:
            sums[...] = self._add_up(differences, axis=1)[:, columns]


def fetch(file: int, packed: np.ndarray, offset: int) -> None:
    """Read the bytes of a block as they are stored. Raises `DamageError`."""
    try:
        got = os.preadv(file, [packed.data], offset)
    except OSError as error:
        raise DamageError(f"its bytes cannot be read: {error.strerror}") from error
    if got != packed.size:
        raise DamageError(f"the file ends {packed.size - got} bytes before the block does")


def decompress(
    decode: Callable[..., np.ndarray],
    codec: str,
    packed: np.ndarray,
    unpacked: np.ndarray,
    surplus: int,
) -> None:
    """Fill ``unpacked`` with the first bytes that a stream holds; it may hold ``surplus`` more.

    Raises `DamageError`.
    """
    try:
        found = decode(packed, out=unpacked)
    except (RuntimeError, ValueError):  # what its errors derive from
        # too long, maybe: a whole block more is what a last strip can have
        try:
            found = decode(packed, out=np.empty(unpacked.size + surplus + MOST_SURPLUS, np.uint8))
        except (RuntimeError, ValueError) as error:
            # Newer releases of imagecodecs quote the code; the docs show one form.
            words = str(error).replace("'", "")
            raise DamageError(f"its {codec} stream is damaged: {words}") from None
        unpacked[: found.size] = found[: unpacked.size]
    if found.size < unpacked.size:
        raise DamageError(f"its {codec} stream holds {found.size} bytes, not {unpacked.size}")


def block_grid(block: tuple[int, int], shape: tuple[int, int]) -> list[int]:
    """Return how many blocks there are; GDAL cuts a single strip of thousands of rows."""
    return [-(-size // side) for size, side in zip(shape, block, strict=True)]


def _predictors(codec: str, dtype: np.dtype) -> tuple[int, ...]:
    """Return the predictors that are undone here."""
    if codec == "none":
        return (1,)
    return (1, 2, 3) if dtype.kind == "f" else (1, 2)


@cache
def library() -> Any:
    """Return imagecodecs, None if it is not installed."""
    try:
        return importlib.import_module("imagecodecs")
    except ImportError:
        return None


def find_direct_tiff(spec: DatasetSpec, layout: Layout, decoding: Decoding) -> DirectTIFF | None:
    """Return how the blocks of a raster are stored, None if GDAL must read them."""
    if (
        not spec.is_tiff_on_disk
        or decoding.mask is not None
        or library() is None
        or not hasattr(os, "preadv")
    ):
        return None
    path, image = spec.files[0], first_image(spec.files[0])
    if image is None or not image.plain:
        return None
    dtype = decoding.stored.newbyteorder(image.byteorder)
    found = DirectTIFF(path, image, dtype, CODECS.get(image.compression, ""))
    plain = (
        found.codec
        and image.predictor in _predictors(found.codec, dtype)
        and image.photometric in PHOTOMETRIC
        and image.dtype == (FORMATS.get(dtype.kind), 8 * dtype.itemsize)
        and (image.bands, image.interleaved) == (layout.bands, layout.interleaved)
        and image.shape == layout.shape
        and block_grid(image.block, image.shape) == block_grid(layout.block, image.shape)
    )
    return found if plain and found.is_whole else None
