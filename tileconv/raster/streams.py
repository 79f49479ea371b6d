"""DEFLATE streams that GDAL decodes, unpacked once more for what only their end tells.

GDAL stops when a block is full. Of a stream that damage has made longer it sees no checksum, and
what it had not come to holds whatever lay in memory: other pixels at each read, without a word.
imagecodecs, if it is installed, unpacks the whole stream. Only files pay for it that GDAL must
decode: those with masks, predictor 3 or unusual headers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from tileconv import buffers
from tileconv.raster.direct_tiff import (
    BYTE,
    CODECS,
    LARGEST_BLOCK,
    DamageError,
    UndecodableError,
    block_grid,
    decompress,
    fetch,
    library,
)
from tileconv.raster.structure import first_image

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tileconv.planning.layout import Layout
    from tileconv.raster.dataset_spec import DatasetSpec
    from tileconv.raster.structure import FirstImage


class Streams:
    """The streams of a file. Safe to use from many threads."""

    def __init__(self, path: Path, image: FirstImage) -> None:
        self._path, self._image = path, image
        bits = image.block[1] * (image.bands if image.interleaved else 1) * image.dtype[1]
        self._row = -(-bits // 8)
        """Bytes of a row of a block."""
        self._grid = block_grid(image.block, image.shape)

    def check(self, blocks: Iterable[tuple[int, int]], bands: Iterable[int]) -> None:
        """Unpack what holds ``bands`` (1-based) of some blocks. Raises `UndecodableError`."""
        if self._image.interleaved:
            bands = (1,)
        try:
            file = os.open(self._path, os.O_RDONLY)
        except OSError:
            return  # GDAL has it open, and tells what is wrong
        try:
            for place in blocks:
                for band in bands:
                    self._check(file, place, band)
        finally:
            os.close(file)

    def _check(self, file: int, place: tuple[int, int], band: int) -> None:
        image, (row, column) = self._image, place
        index = ((band - 1) * self._grid[0] + row) * self._grid[1] + column
        offset, count = int(image.offsets[index]), int(image.counts[index])
        if not count or offset <= 0 or offset + count > image.length:
            return  # not stored, or GDAL's to refuse
        rows = image.block[0]
        if not image.tiled:
            rows = min(rows, image.shape[0] - row * rows)
        both = buffers.scratch("block", (rows * self._row + count,), BYTE)
        unpacked, packed = both[: rows * self._row], both[rows * self._row :]
        try:
            fetch(file, packed, offset)
            decode = library().deflate_decode
            decompress(decode, "DEFLATE", packed, unpacked, image.block[0] * self._row)
        except DamageError as error:
            part = "all bands" if image.interleaved else f"band {band}"
            raise UndecodableError(str(error), place, part) from error.__cause__


def find_streams(spec: DatasetSpec, layout: Layout) -> Streams | None:
    """Return the DEFLATE streams of a file that GDAL decodes, None if there is nothing to check."""
    if not spec.is_tiff_on_disk or library() is None or not hasattr(os, "preadv"):
        return None
    image = first_image(spec.files[0])
    if image is None or CODECS.get(image.compression) != "deflate":
        return None
    numbers = (*image.block, *image.shape, image.bands, image.dtype[1])
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        return None  # a header that means nothing; GDAL may know better
    grid = block_grid(image.block, image.shape)
    planes = 1 if image.interleaved else image.bands
    size = image.block[0] * image.block[1] * image.bands * image.dtype[1] // 8
    same = (image.bands, image.interleaved) == (layout.bands, layout.interleaved)
    known = (
        same
        and image.shape == layout.shape
        and grid == block_grid(layout.block, image.shape)
        and image.counts.size == image.offsets.size == grid[0] * grid[1] * planes
        and bool((image.counts >= 0).all())
        and bool((image.counts <= np.int64(2 * size + 1024)).all())
        and size <= 4 * LARGEST_BLOCK
    )
    return Streams(spec.files[0], image) if known else None
