"""What a run writes before it is whole, and what is left of it where a run was killed.

Its name begins with that of the file it is to become, and tells the machine and the process that
write it. What a process of this machine has left that is no more, the next one removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from tileconv.raster.names import shortened
from tileconv.text import plural, size


def temporary(path: Path) -> Path:
    """Return a name beside ``path`` that tells which process writes it."""
    mark = f"{_host()}-{os.getpid()}-{secrets.token_hex(3)}"
    return path.with_name(f".{shortened(path.name)}.tileconv-{mark}.tmp")


def find_left(path: Path) -> list[Path]:
    """Return what killed processes of this machine left of earlier writes of ``path``."""
    start = f".{shortened(path.name)}.tileconv-{_host()}-"
    pattern = re.compile(r"(\d+)-[0-9a-f]{6}\.tmp(\..*)?")  # GDAL adds endings of its own
    left = []
    with contextlib.suppress(OSError):  # where there is no folder nothing is left in it
        for name in os.listdir(path.parent):  # noqa: PTH208 - a folder may hold 100,000 files
            match = pattern.fullmatch(name, len(start)) if name.startswith(start) else None
            if match and not is_alive(int(match[1])):
                left.append(path.with_name(name))
    return sorted(left)


def remove_left(path: Path) -> None:
    """Remove what `find_left` finds. Raises `OSError`."""
    for each in find_left(path):
        remove(each)


def describe_left(paths: Iterable[Path]) -> str | None:
    """Say what killed runs left of earlier writes of some files, None if that is nothing.

    >>> describe_left([Path("no folder") / "out.tif"]) is None
    True
    """
    left = {each: None for path in paths for each in find_left(path)}
    if not left:
        return None
    names = ", ".join(each.name for each in [*left][:3]) + ", ..." * (len(left) > 3)
    total = size(sum(map(_bytes, left)))
    return f"{plural(len(left), 'file')} of {total} that a killed run left: {names}"


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for _ in range(20):  # a thread that an interrupt has left behind may still write into it
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Say whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder, as far as they can be seen."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    total = 0
    with contextlib.suppress(OSError):
        for file in files:
            total += file.lstat().st_size
    return total


def _host() -> str:
    return socket.gethostname()
