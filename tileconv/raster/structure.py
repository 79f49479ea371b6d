"""The block table of a TIFF: how many bytes are stored, and whether every block is there.

rasterio loses GDAL's errors when it closes a file, and a half-written TIFF
opens and reads as zeros. The offsets and byte counts tell.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from tileconv.errors import OutputError
from tileconv.raster.tags import are_strict


@dataclass(frozen=True, eq=False)
class FirstImage:
    """How the first image of a TIFF is stored. Numbers are TIFF's own where they name a choice."""

    length: int
    """Bytes of the file."""
    byteorder: Literal["<", ">"]
    shape: tuple[int, int]
    block: tuple[int, int]
    """Of a tile, or of a strip; it may reach over the edge of the image."""
    tiled: bool
    bands: int
    interleaved: bool
    """A block holds all bands."""
    dtype: tuple[int, int]
    """(sample format, bits)."""
    compression: int
    predictor: int
    photometric: int
    plain: bool
    """All that decides on pixels has one meaning, bits lie as usual, and there is no depth."""
    nodata: str | None
    """GDAL's tag, as it is written."""
    offsets: np.ndarray
    """Of each block, in bytes."""
    counts: np.ndarray
    """Bytes of each block; 0 where it is not stored."""


def first_image(path: Path) -> FirstImage | None:
    """Return how the first image is stored, None if tifffile cannot tell.

    GDAL reads more than tifffile knows, and says what is wrong where it does not.
    """
    try:
        found = os.stat(path)
        return _first_image(path, found.st_size, found.st_mtime_ns, found.st_ino)
    except Exception:
        return None


@lru_cache(maxsize=16)
def _first_image(path: Path, length: int, *identity: int) -> FirstImage:
    """Parse a file once, for all who ask while it stays as it is."""
    del identity
    with open_tiff(path) as tiff:
        page = tiff.pages.first
        numbers = (page.imagelength, page.imagewidth, page.samplesperpixel, page.bitspersample)
        sides = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip,)
        if not all(isinstance(number, int) for number in (*numbers, *sides)):
            raise ValueError("a tag that should be one number is something else")
        strip = min(page.rowsperstrip, page.imagelength), page.imagewidth
        nodata = page.tags.valueof("GDAL_NODATA")
        return FirstImage(
            length=length,
            byteorder=tiff.byteorder,
            shape=(page.imagelength, page.imagewidth),
            block=(page.tilelength, page.tilewidth) if page.is_tiled else strip,
            tiled=page.is_tiled,
            bands=page.samplesperpixel,
            interleaved=page.samplesperpixel > 1 and page.planarconfig == 1,
            dtype=(int(page.sampleformat), int(page.bitspersample)),
            compression=int(page.compression),
            predictor=int(page.predictor),
            photometric=int(page.photometric),
            plain=_is_plain(tiff),
            nodata=nodata.strip("\x00 ") if isinstance(nodata, str) else None,
            offsets=np.asarray(page.dataoffsets, np.int64),
            counts=np.asarray(page.databytecounts, np.int64),
        )


def _is_plain(tiff: tifffile.TiffFile) -> bool:
    """Say whether the first image can be understood in one way only."""
    page = tiff.pages.first
    if not are_strict(tiff) or page.planarconfig not in (1, 2):
        return False
    sides = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip,)
    some = min(page.imagelength, page.imagewidth, page.samplesperpixel, *sides) > 0
    return some and page.fillorder == page.imagedepth == page.tiledepth == 1


def stored_bytes(path: Path) -> int:
    """Return the compressed bytes of the main image; the file's size if it cannot tell."""
    image = first_image(path)
    return path.stat().st_size if image is None else int(image.counts.sum())


def sparse_blocks(path: Path) -> tuple[int, int]:
    """Return (blocks of the main image that are not stored, all blocks); GDAL reads them as nodata.

    (0, 0) if tifffile cannot tell.
    """
    image = first_image(path)
    if image is None:
        return 0, 0
    return int(np.count_nonzero(image.counts == 0)), image.counts.size


def tile_shape(path: Path) -> tuple[int, int]:
    """Return rows and columns of the main image's tiles; (0, 0) if it has none."""
    image = first_image(path)
    return (0, 0) if image is None or not image.tiled else image.block


def nodata_text(path: Path) -> str | None:
    """Return the GDAL_NODATA tag as it is written; None for what is no TIFF, and has none."""
    image = first_image(path)
    return None if image is None else image.nodata


def check_complete(path: Path, blocks: int) -> None:
    """Check that each of the ``blocks`` blocks of a TIFF lies inside the file and holds something.

    Raises `OutputError`, which says how many do not.
    """
    length = path.stat().st_size
    try:
        with open_tiff(path) as tiff:
            page = tiff.pages[0]
            offsets = np.asarray(page.dataoffsets, dtype=np.int64)
            counts = np.asarray(page.databytecounts, dtype=np.int64)
    except Exception as error:
        raise OutputError(f"the file that was written cannot be read back: {error}") from error
    if offsets.size != blocks or counts.size != blocks:
        raise OutputError(f"{blocks} blocks were written, but the file lists {offsets.size}")
    bad = (offsets <= 0) | (counts <= 0) | (offsets + counts > length)
    if bad.any():
        raise OutputError(
            f"{int(bad.sum())} of {blocks} blocks did not reach the disk ({length} bytes did)"
        )


def check_pages(path: Path, shape: tuple[int, int, int]) -> None:
    """Check that every block of a COG, those of its overviews too, lies inside the file.

    Raises `OutputError`, which says how many do not.
    """
    length = path.stat().st_size
    bad = total = 0
    try:
        with open_tiff(path) as tiff:
            first = tiff.pages.first
            found = (first.samplesperpixel, first.imagelength, first.imagewidth)
            for page in tiff.pages:
                offsets = np.asarray(page.dataoffsets, dtype=np.int64)
                counts = np.asarray(page.databytecounts, dtype=np.int64)
                total += offsets.size
                bad += int(((offsets <= 0) | (counts <= 0) | (offsets + counts > length)).sum())
    except Exception as error:
        raise OutputError(f"the file that was written cannot be read back: {error}") from error
    if found != shape:
        raise OutputError(f"{shape} was written, but the file says {found}")
    if bad or not total:
        raise OutputError(f"{bad} of {total} blocks did not reach the disk ({length} bytes did)")


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF without tifffile's log: a damaged file gets one message, ours."""
    log = logging.getLogger("tifffile")
    log.addFilter(_silence)
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    finally:
        log.removeFilter(_silence)


def _silence(record: logging.LogRecord) -> bool:
    del record
    return False


def block_table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets and byte counts of all blocks of a TIFF (int64)."""
    with open_tiff(path) as tiff:
        page = tiff.pages[0]
        return (
            np.asarray(page.dataoffsets, dtype=np.int64),
            np.asarray(page.databytecounts, dtype=np.int64),
        )


def value_places(path: Path) -> list[tuple[np.dtype, int]]:
    """Return the dtype of a TIFF's offsets and of its byte counts, and where in the file they lie.

    Raises `OutputError` if they are not there.
    """
    with open_tiff(path) as tiff:
        tags = tiff.pages.first.tags
        wanted = (tags.get(name) for name in ("TileOffsets", "TileByteCounts"))
        found = [tag for tag in wanted if tag is not None]
        if len(found) < 2:
            raise OutputError(f"{path}: the file has no table of tiles")
        order = tiff.byteorder
        return [
            (np.dtype(order + {3: "u2", 4: "u4", 16: "u8"}[int(tag.dtype)]), tag.valueoffset)
            for tag in found
        ]
