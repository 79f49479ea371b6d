"""Decoded blocks that a worker keeps between the parts of a run, in a bounded number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tileconv.raster.reading import Kept


class Keeper:
    """What parts have left for the next parts of their runs, in the memory of one process.

    A task is planned with what it takes from the part before. So tasks that are running and those
    whose leavings wait are together no more than ``threads``; the oldest leavings go first.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._running = 0
        self._left: OrderedDict[int, Kept] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def task(self, number: int) -> Iterator[Kept | None]:
        """Give what the part before has left for part ``number``, if it is still there."""
        with self._lock:
            kept = self._left.pop(number, None)
            self._running += 1
            self._fit()
        try:
            yield kept
        finally:
            with self._lock:
                self._running -= 1

    def leave(self, number: int, kept: Kept) -> None:
        """Keep blocks for part ``number``; called by a task that is about to end."""
        if not any(kept):
            return
        with self._lock:
            self._left[number] = kept
            self._running -= 1
            self._fit()
            self._running += 1

    def _fit(self) -> None:
        while self._left and self._running + len(self._left) > self._threads:
            self._left.popitem(last=False)
