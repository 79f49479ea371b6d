"""The files beside a raster that GDAL reads with it, which no job names."""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPENDED = (".aux.xml", ".msk", ".ovr")
"""To the whole name: metadata, a mask, overviews; these have such files too."""
INSTEAD = (".tfw", ".tifw", ".tiffw", ".wld", ".aux", ".rpb", ".imd", "_rpc.txt", "_metadata.txt")
"""Of the suffix: where it lies, and what the sensor was."""


def names_beside(name: str) -> Iterator[str]:
    """Yield the names of files that GDAL may read with a raster.

    >>> [*names_beside("a.tif")][:4]
    ['a.tif.aux.xml', 'a.tif.msk', 'a.tif.ovr', 'a.tif.msk.ovr']
    """
    for end in (*APPENDED, ".msk.ovr", ".msk.aux.xml", ".ovr.aux.xml"):
        yield f"{name}{end}"
    stem = name.rpartition(".")[0] or name
    for end in INSTEAD:
        yield from (f"{stem}{end}", f"{stem}{end.upper()}")


def owners_of(name: str) -> Iterator[str]:
    """Yield the names of rasters that ``name`` may lie beside; those that end in a dot any suffix.

    >>> [*owners_of("a.tif.msk.ovr")], [*owners_of("a.TFW")]
    (['a.tif.msk', 'a.tif'], ['a.'])
    """
    low = name.lower()
    for end in INSTEAD:
        if low.endswith(end):
            yield f"{name[: -len(end)]}."
    while end := next((end for end in APPENDED if low.endswith(end)), ""):
        name, low = name[: -len(end)], low[: -len(end)]
        yield name


def check_beside(path: Path) -> None:
    """Check that what lies beside a raster are files; raise `OSError` with words if not.

    GDAL opens whatever bears such a name, and would wait for what comes through a pipe.
    """
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - a Path each is slow
    try:
        odd = _not_files(folder, os.stat(folder).st_mtime_ns)
    except OSError:  # GDAL cannot list it either
        return
    for each in names_beside(name) if odd else ():
        if each in odd:
            raise OSError(errno.EINVAL, f"{each} beside it is not a file")


@lru_cache(maxsize=64)
def _not_files(folder: str, changed: int) -> frozenset[str]:
    """Return the names in a folder that are no files: one listing serves all scenes in it."""
    with os.scandir(folder) as entries:
        return frozenset(
            entry.name
            for entry in entries
            if not entry.is_dir() and not entry.is_file() and os.path.exists(entry.path)  # noqa: PTH110
        )
