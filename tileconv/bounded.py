"""Read files that a job names: regular ones only, never waiting, never more than a bound."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "is a folder, not a file",
    stat.S_IFIFO: "is a named pipe, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
}


class TooLargeError(OSError):
    """A file has more bytes than are read of its kind."""


def check_regular(path: Path) -> os.stat_result:
    """Return what the system says of a regular file, or of one behind a link.

    Raises `OSError`, whose ``strerror`` can stand behind a path: `FileNotFoundError` also for a
    name that no file can have.
    """
    try:
        found = os.stat(path)
    except ValueError:  # a null character, or letters that are no Unicode
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    _check_mode(found.st_mode)
    return found


def _check_mode(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, kind_of(mode))


def kind_of(mode: int) -> str:
    """Return in words what a path that is no regular file leads to."""
    return _KINDS.get(stat.S_IFMT(mode), "is not a file")


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Give the descriptor of a regular file, open for reading. Raises as `check_regular`.

    It is looked at first, because to open a device can do something, like rewinding a tape; and
    again once it is open, because it may have been exchanged. To open a pipe would wait for a
    writer but for the flag.
    """
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_mode(os.fstat(descriptor).st_mode)
        yield descriptor
    finally:
        os.close(descriptor)


def read_start(path: Path, count: int) -> bytes:
    """Return the first ``count`` bytes of a regular file, or all that it has."""
    with open_regular(path) as descriptor:
        found = b""
        while more := os.read(descriptor, count - len(found)):
            found += more
    return found


def read_bounded(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file; raise `TooLargeError` if it has more than ``most``."""
    with open_regular(path) as descriptor:
        # A file may grow while it is read, and those of /proc say that they have 0 bytes.
        parts, room = [], most + 1
        if os.fstat(descriptor).st_size <= most:
            while room and (more := os.read(descriptor, min(room, 1 << 20))):
                parts.append(more)
                room -= len(more)
            if room:
                return b"".join(parts)
    raise TooLargeError(errno.EFBIG, f"has more than {_said(most)}")


def _said(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
