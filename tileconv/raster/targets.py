"""What a run may put a file over: nothing but a file of the kind that it writes there itself.

To overwrite is to lose what was there. So a device, a pipe or a text is never replaced by a raster,
and neither is any file that the job is made of or reads, whatever name or link leads to it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tileconv.bounded import read_start
from tileconv.errors import OutputError, OutputExistsError, TileconvError
from tileconv.raster.beside import names_appended, names_beside, owners_of
from tileconv.raster.leftovers import remove_left, temporary
from tileconv.raster.names import PNG_START, TIFF_STARTS


@dataclass(frozen=True)
class Kind:
    """What a file is; one that a run replaces must be of the same kind."""

    name: str
    start: re.Pattern[bytes] | None = None
    """Matches the first bytes of a file of this kind."""
    marker: str | None = None
    """A file that every folder of this kind holds; None if this is no folder."""


TIFF_FILE = Kind("TIFF file", re.compile(b"|".join(map(re.escape, TIFF_STARTS))))
VRT_FILE = Kind("VRT", re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<VRTDataset[\s>]"))
PNG = Kind("PNG", re.compile(re.escape(PNG_START)))
REPORT = Kind("report of tileconv's", re.compile(rb'\s*{\s*"tileconv"\s*:'))
HTML_PAGE = Kind("page of HTML", re.compile(rb"\s*<!doctype html", re.IGNORECASE))
_START = 512
"""Bytes that tell what a file is."""
_OTHER = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

OwnFile = tuple[Path, str]
"""A file that a job is made of or reads, and what it is to the job, like "the input"."""


class OwnFiles:
    """The files that a job, or a batch of them, is made of and reads, as they lie now."""

    def __init__(self, files: Iterable[OwnFile]) -> None:
        self._files = dict(files)

    def find(self, path: Path) -> str | None:
        """Say which of them is at ``path``, by whatever name or link; None if none is."""
        if (beside := self._owner(path)) is not None:
            return f"a file beside {beside}"
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return None
        identity = found.st_dev, found.st_ino
        if identity in self._identities:
            return f"{self._identities[identity]} itself"
        if found.st_nlink > 1 and identity in self._beside:
            return f"a file beside {self._beside[identity]}"
        return None

    def find_within(self, folder: Path) -> str | None:
        """Say which of them lies in a folder, or below it."""
        if not os.path.isdir(folder):  # noqa: PTH112 - says no where Path.is_dir raises
            return None
        inside = f"{os.path.realpath(folder)}{os.sep}"
        after = bisect_left(self._places, (inside, ""))
        if after < len(self._places) and self._places[after][0].startswith(inside):
            return self._places[after][1]
        return None

    def _owner(self, path: Path) -> str | None:
        """Return the file that one at ``path`` would be read with, if there is such a one."""
        owners = [*owners_of(path.name)]
        if not owners:
            return None
        here = os.path.realpath(path.parent)
        for owner in owners:
            if (what := self._names.get((here, owner))) is not None:
                return what
        return None

    @cached_property
    def _places(self) -> list[tuple[str, str]]:
        """Where each really lies, and what it is, in order."""
        return sorted((os.path.realpath(path), what) for path, what in self._files.items())

    @cached_property
    def _names(self) -> dict[tuple[str, str], str]:
        """What each is, by real folder and name, and by its name without suffix."""
        folders: dict[Path, str] = {}
        names: dict[tuple[str, str], str] = {}
        for path, what in self._files.items():
            if path.parent not in folders:
                folders[path.parent] = os.path.realpath(path.parent)
            for name in (path.name, f"{path.stem}."):
                names.setdefault((folders[path.parent], name), what)
        return names

    @cached_property
    def _identities(self) -> dict[tuple[int, int], str]:
        return _identities((path, what) for path, what in self._files.items())

    @cached_property
    def _beside(self) -> dict[tuple[int, int], str]:
        return _identities(
            (path.with_name(name), what)
            for path, what in self._files.items()
            for name in names_beside(path.name)
        )


def _identities(files: Iterable[OwnFile]) -> dict[tuple[int, int], str]:
    """Return what each file is, by what all names of one file have in common."""
    found: dict[tuple[int, int], str] = {}
    for path, what in files:
        try:
            told = os.stat(path)
        except (OSError, ValueError):
            continue
        found.setdefault((told.st_dev, told.st_ino), what)
    return found


@dataclass(frozen=True)
class Target:
    """A place where a run puts a file."""

    path: Path
    kind: Kind
    what: str = "the output"
    overwrite: bool = False

    def check(self, own: OwnFiles) -> None:
        """Check that the file may be put there, now."""
        path, mode = self.path, self._mode()
        if mode is not None and stat.S_ISDIR(mode) and self.kind.marker is None:
            raise OutputExistsError(f"{path}: is a folder; give {self.what} a file name")
        if mode is not None and not self.overwrite:
            raise OutputExistsError(
                f"{path}: exists already; choose another path, or set output.overwrite "
                "(--overwrite)"
            )
        self.check_distinct(own)
        if mode is not None:
            self._check_kind(mode)
        for beside in self._beside():
            self._check_beside(beside, own)

    def check_distinct(self, own: OwnFiles) -> None:
        """Check that the file does not take the place of one that the job needs."""
        if (found := own.find(self.path)) is not None:
            raise OutputExistsError(f"{self.path}: {self.what} is {found}; choose another path")
        if self.kind.marker is not None and (inside := own.find_within(self.path)) is not None:
            raise OutputExistsError(
                f"{self.path}: {self.what} is a folder that holds {inside}; choose another path"
            )

    def remove_beside(self) -> None:
        """Remove what readers would take for a part of the new file: masks, overviews, statistics.

        They are of the file that is replaced. Before it is, not after: a kill between the two
        must not leave the new file with the old one's mask. Raises `OSError`.
        """
        for beside in self._beside():
            beside.unlink(missing_ok=True)

    def _beside(self) -> Iterator[Path]:
        """Yield what lies beside the place and would be read with a raster there."""
        if self.kind in (TIFF_FILE, VRT_FILE):
            for name in names_appended(self.path.name):
                if os.path.lexists(self.path.with_name(name)):
                    yield self.path.with_name(name)

    def _check_beside(self, path: Path, own: OwnFiles) -> None:
        """Check that a file of the output that is replaced may be removed."""
        reason = f"{path}: would be read as a part of {self.what}"
        if not self.overwrite:
            raise OutputExistsError(f"{reason}; remove it, or set output.overwrite (--overwrite)")
        found = own.find(path)
        if found is None and not os.path.isfile(path) and os.path.lexists(path):  # noqa: PTH113
            found = "not a file"
        if found is not None:
            raise OutputExistsError(f"{reason}, and is {found}; choose another path")

    def _mode(self) -> int | None:
        """Return what the system says of what is there, None if there is nothing."""
        try:
            return os.lstat(self.path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            raise OutputError(f"{self.path}: {self.what} could not be written: {told}") from error

    def _check_kind(self, mode: int) -> None:
        if stat.S_ISDIR(mode):
            marker = self.kind.marker
            if marker is not None and os.path.isfile(self.path / marker):  # noqa: PTH113
                return
            raise self._refused(f"a folder that is no {self.kind.name}")
        if not stat.S_ISREG(mode):
            raise self._refused(_OTHER.get(stat.S_IFMT(mode), "not a file"))
        if self.kind.start is None:
            raise self._refused(f"a file, and a {self.kind.name} is a folder")
        try:
            start = read_start(self.path, _START)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be read, so it is not replaced: {error.strerror}"
            ) from error
        if start and not self.kind.start.match(start):
            raise self._refused(f"no {self.kind.name}")

    def _refused(self, what: str) -> OutputExistsError:
        return OutputExistsError(
            f"{self.path}: is {what}, so it is not replaced; choose another path"
        )


def put(target: Target, own: Iterable[OwnFile], write: Callable[[Path], None]) -> None:
    """Have ``write`` make a file beside a target's place, and rename it: whole, or not at all."""
    path = target.path
    made = temporary(path)
    try:
        remove_left(path)
        write(made)
        target.check(OwnFiles(own))
        os.replace(made, path)
    except TileconvError:
        raise
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: {target.what} could not be written: {told}") from error
    finally:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
