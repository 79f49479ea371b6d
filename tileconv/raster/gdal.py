"""How GDAL is set up, and how its errors are reported."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what GDAL's own errors come as, from a copy for one
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tileconv.errors import InputError, TileconvError
from tileconv.planning.cost import GDAL_CACHE_BYTES
from tileconv.raster import forks, remote
from tileconv.text import visible, without_secrets

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from tileconv.raster.dataset_spec import DatasetSpec

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError, MemoryError)
"""What rasterio raises when GDAL fails, depending on where it fails."""


_SPOKEN = re.compile(
    r"(?:CPLE_\w+(?::| in )|GDAL signalled an error: err_no=\d+, msg=)(.*)", re.DOTALL
)
"""What rasterio logs of GDAL's words: its warnings, and the errors that may be raised later."""
_DECODER = re.compile(r"JPEG|\w*Decode")
"""How the words of libtiff's decoders begin: JPEGLib:, LZMADecode:, PackBitsDecode:, ..."""
_DAMAGE = re.compile(
    r"corrupt|premature|mismatch|lack of data|not enough data|discarding \d+ bytes|bad code"
    r"|improper jpeg strip|inconsistent progression",
    re.IGNORECASE,
)
"""Warnings of decoders that made pixels up, or left in them what lay there before.

The others are of blocks that are unusual and no more: old-style LZW, JPEG strips that are
taller than the raster. Blocks as GDAL, tifffile and libtiff write them bring none of these words;
blocks with a flipped bit bring them if anything is said at all.
"""

_ASKED = re.compile(r"requires too much memory for decoding|memory usage limit")
"""What ZSTD and LZMA say of a stream whose damaged header asks for more than they ever take."""


class DamageError(RasterioError):  # type: ignore[misc]  # rasterio has no types
    """Pixels that GDAL read although their block is damaged; it went on where it could."""


class _FitToRead(logging.Filter):
    """Takes secrets out of what GDAL logs of tileconv's URLs, and writes out escape sequences."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and let it pass."""
        if getattr(_thread, "set_up", False):
            record.msg, record.args = visible(without_secrets(record.getMessage())), None
        return True


def _let_hear(log: logging.Logger) -> None:
    """Have what rasterio logs of GDAL's words come to the thread that listens, in any case.

    Errors, which GDAL may get over by itself, are logged below what is shown by default, and an
    application may have raised the level, disabled the logger or all logging. Pixels must be right
    all the same, and nobody else gets more to see than they asked for.
    """
    is_enabled, handle = log.isEnabledFor, log.handle

    def is_enabled_here(level: int) -> bool:
        listens = getattr(_thread, "heard", None) is not None and level >= _LOWEST
        return listens or is_enabled(level)

    def hear(record: logging.LogRecord) -> None:
        heard: dict[str, bool] | None = getattr(_thread, "heard", None)
        spoken = _SPOKEN.match(visible(without_secrets(record.getMessage())))
        if heard is not None and spoken is not None:
            heard[spoken[1].strip("'\"\n ")] = record.levelno == logging.WARNING
        if is_enabled(record.levelno):
            handle(record)

    log.isEnabledFor, log.handle = is_enabled_here, hear  # type: ignore[method-assign]


_LOWEST = logging.INFO
for _name in ("_base", "_env", "_err", "_filepath", "_io", "env", "session"):
    _log = logging.getLogger(f"rasterio.{_name}")
    _log.addFilter(_FitToRead())
    if _name in ("_env", "_err"):
        _let_hear(_log)

_thread = threading.local()
_OWN_THREADS = {"GDAL_NUM_THREADS": 1, "VRT_NUM_THREADS": 1}
"""tileconv's threads are enough. What goes wrong in GDAL's own is printed on stderr up to 3.10, and
an error may come with the next block, or not at all."""
_filtering = threading.RLock()


def _forget_filter() -> None:
    """In a forked child another thread of the parent's may seem to hold it."""
    global _filtering
    _filtering = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_filter)


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
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, **_OWN_THREADS, **remote.SETTINGS),
    ):
        _thread.set_up = True
        try:
            yield
        finally:
            _thread.set_up = False


def writing() -> rasterio.Env:
    """Return the settings for writing: nothing goes into files beside the one that is written."""
    settings = {"GDAL_CACHEMAX": GDAL_CACHE_BYTES, "GDAL_PAM_ENABLED": "NO"}
    return rasterio.Env(**settings, **forks.settings())


def open_dataset(spec: DatasetSpec) -> DatasetReader:
    """Open a raster for reading, with a handle of its own."""
    with quietly():
        return open_scene(spec)


def open_scene(spec: DatasetSpec) -> DatasetReader:
    """Open a raster that has a transform, from any thread."""
    with rasterio.Env(**remote.OPENING) if spec.remote else contextlib.nullcontext():
        return rasterio.open(spec.name, driver=spec.driver, sharing=False)


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
def listening() -> Iterator[list[str]]:
    """Collect GDAL's warnings, each once; they are there when the block has ended."""
    warned: list[str] = []
    with _heard() as heard:
        yield warned
    warned += [words for words, warning in heard.items() if warning]


@contextlib.contextmanager
def strictly() -> Iterator[None]:
    """Raise `DamageError` if a decoder of GDAL's complains of damage and gives pixels all the same.

    What is in GDAL's cache is not decoded again, and nothing is said of it.
    """
    with _heard() as heard:
        yield
    damage = [
        words
        for words, warning in heard.items()
        if _DECODER.match(words) and (not warning or _DAMAGE.search(words))
    ]
    if damage:
        raise DamageError("; ".join(damage[:3]))


@contextlib.contextmanager
def _heard() -> Iterator[dict[str, bool]]:
    """Collect what GDAL says in this thread, with whether it is a warning, not an error."""
    before = getattr(_thread, "heard", None)
    heard: dict[str, bool] = {}
    _thread.heard = heard
    try:
        yield heard
    finally:
        _thread.heard = before


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


@contextlib.contextmanager
def reading_errors(path: object) -> Iterator[None]:
    """Raise what GDAL cannot read as `InputError`."""
    try:
        yield
    except GDAL_ERRORS as error:
        if isinstance(error, TileconvError):
            raise
        raise InputError(f"{path}: cannot be read: {cause(error)}") from told(error)


def gdal_version() -> str:
    """Return the version of GDAL, on which the bytes of compressed blocks depend."""
    return str(rasterio.__gdal_version__)


def told(error: BaseException) -> BaseException:
    """Return an error of GDAL's to raise another one from: without secrets, tracebacks show it."""
    text = cause(error)
    return error if without_secrets(text) == text else RasterioError(without_secrets(text))


def check_memory(error: BaseException) -> None:
    """Raise `MemoryError` if GDAL failed for want of memory: neither file is to blame."""
    if isinstance(error, MemoryError):
        raise error
    text = _ASKED.sub("", cause(error).lower())
    if any(word in text for word in ("memory", "allocat", "malloc")):
        raise MemoryError(cause(error)) from error
