"""Decoded blocks that a worker keeps between the parts of a run, in a bounded number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tileconv.raster.reading import CachedBlocks


class BlockCache:
    """Blocks that parts hand over to the next parts of their runs, in the memory of one process.

    A task is planned with the blocks that it takes over from the part before. So running tasks and
    waiting entries are together no more than ``threads``; the oldest entries are dropped first.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._running = 0
        self._entries: OrderedDict[int, CachedBlocks] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def task(self, number: int) -> Iterator[CachedBlocks | None]:
        """Give what the part before has handed over to part ``number``, if it is still there."""
        with self._lock:
            blocks = self._entries.pop(number, None)
            self._running += 1
            self._shrink()
        try:
            yield blocks
        finally:
            with self._lock:
                self._running -= 1

    def put(self, number: int, blocks: CachedBlocks) -> None:
        """Hand blocks over to part ``number``; called by a task that is about to end."""
        if not any(blocks):
            return
        with self._lock:
            self._entries[number] = blocks
            self._running -= 1
            self._shrink()
            self._running += 1

    def _shrink(self) -> None:
        while self._entries and self._running + len(self._entries) > self._threads:
            self._entries.popitem(last=False)
