"""The files beside a raster that GDAL reads with it, which no job names."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPENDED = (".aux.xml", ".msk", ".ovr")
"""To the whole name: metadata, a mask, overviews; these have such files too."""
INSTEAD = (".tfw", ".tifw", ".tiffw", ".wld", ".aux", ".rpb", ".imd", "_rpc.txt", "_metadata.txt")
"""Of the suffix: where it lies, and what the sensor was."""


def names_appended(name: str) -> Iterator[str]:
    """Yield the names of files that belong to one raster alone.

    >>> [*names_appended("a.tif")][:3]
    ['a.tif.aux.xml', 'a.tif.msk', 'a.tif.ovr']
    """
    for end in (*APPENDED, ".msk.ovr", ".msk.aux.xml", ".ovr.aux.xml"):
        yield f"{name}{end}"


def names_beside(name: str) -> Iterator[str]:
    """Yield the names of files that GDAL may read with a raster.

    >>> [*names_beside("a.tif")][:4]
    ['a.tif.aux.xml', 'a.tif.msk', 'a.tif.ovr', 'a.tif.msk.ovr']
    """
    yield from names_appended(name)
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
    folder, name = os.path.split(path)
    for each in names_beside(name):
        try:
            mode = os.stat(os.path.join(folder, each)).st_mode  # noqa: PTH118 - a Path is slow
        except (OSError, ValueError):  # GDAL cannot open it either
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, f"{each} beside it is not a file")
