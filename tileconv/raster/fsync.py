"""Bring a file to the disk while it is still being written.

A sync at the end waits for all that the system has not written back yet: a
second per few hundred megabytes, with idle cores. Syncing along the way costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EVERY = 8 << 20
"""Bytes after which the next sync begins."""
MOST_HELD = 128
"""Files that wait to be freed: processes may hold few."""


class EarlySync:
    """Syncs a file from a thread of its own, each time that it has grown by `EVERY` bytes.

    All syncs go through one descriptor, opened before anything is written: the
    system tells an error of writing back once per descriptor, and never again.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        """True asks for a sync, False for the end of the thread."""
        self._asked = 0
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Start to sync if the file has grown enough."""
        size = os.fstat(self._descriptor).st_size
        if size - self._asked < EVERY:
            return
        self._asked = size
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tileconv-sync", daemon=True)
            self._thread.start()
        if self._wanted.empty():
            self._wanted.put(True)

    def finish(self) -> None:
        """Sync all that is left; raise `OSError` if anything did not reach the disk."""
        self._end()
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        self._end()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    def _end(self) -> None:
        if self._thread is not None:
            self._wanted.put(False)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while self._wanted.get():
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._error = self._error or error


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, target: Path) -> None:
    """Rename ``path`` to ``target``; the old file there is freed in the background."""
    with freed_aside([target]):
        os.replace(path, target)


@contextlib.contextmanager
def freed_aside(paths: Iterable[Path]) -> Iterator[None]:
    """Free in the background the files that are removed or replaced inside the ``with`` block.

    To free the pages and blocks of a gigabyte takes it half a second, after all is done. Of many
    files, that holds for the first `MOST_HELD`.
    """
    held: list[int] = []
    try:
        if hasattr(os, "O_PATH"):  # holds a file without opening it
            with contextlib.suppress(OSError):
                held.extend(os.open(p, os.O_PATH | os.O_NOFOLLOW) for p in islice(paths, MOST_HELD))
        yield
    finally:
        if held:
            _close_aside(held)


def _close_aside(descriptors: list[int]) -> None:
    """Close files in a thread of its own, or here where there can be none: never an error."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    try:
        threading.Thread(target=close, name="tileconv-free").start()
    except RuntimeError:
        close()
