"""How GDAL is set up, and how its errors are told."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what GDAL's own errors come as, from a copy for one
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tileconv.planning.cost import GDAL_CACHE_BYTES
from tileconv.raster import remote
from tileconv.text import visible, without_secrets

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from tileconv.raster.opening import Opening

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError, MemoryError)
"""What rasterio raises when GDAL fails, depending on where it fails."""


class _FitToRead(logging.Filter):
    """Takes secrets out of what GDAL logs of tileconv's URLs, and writes out escape sequences."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and let it pass."""
        if getattr(_thread, "set_up", False):
            record.msg, record.args = visible(without_secrets(record.getMessage())), None
        return True


for _name in ("_base", "_env", "_err", "_filepath", "_io", "env", "session"):
    logging.getLogger(f"rasterio.{_name}").addFilter(_FitToRead())

_thread = threading.local()
_filtering = threading.RLock()


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Give the thread its GDAL settings; tileconv never passes on any from a job.

    Inside itself it does nothing: entering rasterio's costs as much as reading a small block.
    """
    if getattr(_thread, "set_up", False):
        yield
        return
    # rasterio asks numpy whether nodata is in the range of the dtype; it warns where it is not
    with (
        np.errstate(over="ignore"),
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, **remote.SETTINGS),
    ):
        _thread.set_up = True
        try:
            yield
        finally:
            _thread.set_up = False


def writing() -> rasterio.Env:
    """Return the settings for writing: nothing goes into files beside the one that is written."""
    return rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, GDAL_PAM_ENABLED="NO")


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

    One thread at a time, since the list of warnings is the process's: two that
    change it and put it back in turn leave it as neither wants it.
    """
    with _filtering, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextlib.contextmanager
def undecoded() -> Iterator[list[str]]:
    """Collect what rasterio logs of tags that are not in UTF-8, which it leaves out."""
    told: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        undecodable = "decode metadata item" in str(record.msg)
        if undecodable:
            told.append(record.getMessage())
        return not undecodable

    log = logging.getLogger("rasterio._base")
    log.addFilter(collect)
    try:
        yield told
    finally:
        log.removeFilter(collect)


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


def told(error: BaseException) -> BaseException:
    """Return an error of GDAL's to raise another one from: without secrets, tracebacks show it."""
    text = cause(error)
    return error if without_secrets(text) == text else RasterioError(without_secrets(text))


def check_memory(error: BaseException) -> None:
    """Raise `MemoryError` if GDAL failed for want of memory: neither file is to blame."""
    if isinstance(error, MemoryError):
        raise error
    text = cause(error).lower()
    if any(word in text for word in ("memory", "allocat", "malloc")):
        raise MemoryError(cause(error)) from error
