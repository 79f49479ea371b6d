"""The block table of a TIFF: how many bytes are stored, and whether every block is there.

rasterio loses GDAL's errors when it closes a file, and a half-written TIFF
opens and reads as zeros. The offsets and byte counts tell.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from tileconv.errors import OutputError
from tileconv.raster.remote import Place, Remote


def stored_bytes(path: Path) -> int:
    """Return the compressed bytes of the main image; the file's size if it cannot tell."""
    try:
        with open_tiff(path) as tiff:
            return int(np.sum(np.asarray(tiff.pages[0].databytecounts, dtype=np.int64)))
    except (
        Exception
    ):  # GDAL reads more than tifffile knows, and says what is wrong where it does not
        return path.stat().st_size


def sparse_blocks(path: Path) -> tuple[int, int]:
    """Return (blocks of the main image that are not stored, all blocks); GDAL reads them as nodata.

    (0, 0) if tifffile cannot tell.
    """
    try:
        with open_tiff(path) as tiff:
            counts = np.asarray(tiff.pages[0].databytecounts, dtype=np.int64)
    except Exception:
        return 0, 0
    return int(np.count_nonzero(counts == 0)), counts.size


def nodata_text(path: Place) -> str | None:
    """Return the GDAL_NODATA tag as it is written; None for what is no TIFF on disk."""
    if isinstance(path, Remote):
        return None
    try:
        with open_tiff(path) as tiff:
            tag = tiff.pages.first.tags.get("GDAL_NODATA")
            return None if tag is None else str(tag.value).strip("\x00 ")
    except Exception:
        return None


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
