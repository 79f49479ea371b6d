"""How GDAL is set up, and how its errors are told."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tileconv.planning.cost import GDAL_CACHE_BYTES
from tileconv.raster import remote

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from tileconv.raster.opening import Opening

GDAL_ERRORS = (RasterioError, OSError, ValueError, MemoryError)
"""What rasterio raises when GDAL fails, depending on where it fails."""


def environment() -> rasterio.Env:
    """Return the GDAL settings of a thread; tileconv never passes on any from a job."""
    return rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, **remote.SETTINGS)


def open_dataset(opening: Opening) -> DatasetReader:
    """Open a raster for reading, with a handle of its own."""
    with quietly():
        return open_scene(opening)


def open_scene(opening: Opening) -> DatasetReader:
    """Open a raster that has a transform, from any thread."""
    with rasterio.Env(**remote.OPENING) if opening.remote else contextlib.nullcontext():
        return rasterio.open(opening.name, driver=opening.driver, sharing=False)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep rasterio from warning of a raster without transform: the plan says so.

    Only for the thread that starts the others: the list of warnings is the process's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def cause(error: BaseException) -> str:
    """Return GDAL's own words: rasterio keeps them, with band and block, in the chain of causes."""
    words: list[str] = []
    link: BaseException | None = error
    while link is not None:
        text = str(getattr(link, "errmsg", None) or link).strip()
        if text and not text.startswith("Read failed.") and not any(text in w for w in words):
            words.append(text)
        link = link.__cause__
    return "; ".join(reversed(words)) or type(error).__name__


def check_memory(error: BaseException) -> None:
    """Raise `MemoryError` if GDAL failed for want of memory: neither file is to blame."""
    if isinstance(error, MemoryError):
        raise error
    text = cause(error).lower()
    if any(word in text for word in ("memory", "allocat", "malloc")):
        raise MemoryError(cause(error)) from error
