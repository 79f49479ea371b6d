"""Threads for arrays in memory: all cores for one call, no crowd for many.

A call uses its own thread and as many helpers as are free: helpers are counted
for the whole process, so calls from many threads at once share them. A call
from a thread that is not the main one, such as a dask worker, takes none
unless it asks: its siblings are busy with the rest.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tileconv.errors import ConvolutionError

Item = TypeVar("Item")

VARIABLE = "TILECONV_NUM_THREADS"
"""Environment variable with the number of threads that a call may use."""


def thread_count(threads: int | None) -> int:
    """Return how many threads a call may use: the argument, the variable, or all cores."""
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ConvolutionError(f"threads must be a whole number from 1, got {threads!r}")
        return threads
    text = os.environ.get(VARIABLE, "").strip()
    if text:
        if not text.isdigit() or int(text) < 1:
            raise ConvolutionError(f"{VARIABLE} must be a whole number from 1, got {text!r}")
        return int(text)
    if threading.current_thread() is not threading.main_thread():
        return 1
    return cores()


def cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Helpers:
    """Helpers of this process; a forked child starts with its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = 0
        self._size = 0
        self._threads: ThreadPoolExecutor | None = None

    def take(self, most: int) -> int:
        """Take helpers until ``most`` are busy in the whole process."""
        with self._lock:
            taken = max(0, most - self._busy)
            self._busy += taken
            return taken

    def submit(self, function: Callable[..., None], *arguments: object) -> "Future[None]":
        """Have a helper that was taken call ``function``; its thread stays for the next one."""
        with self._lock:
            if self._threads is None or self._size < self._busy:
                if self._threads is not None:
                    self._threads.shutdown(wait=False)
                self._size = self._busy
                self._threads = ThreadPoolExecutor(self._size, "tileconv-array")
            return self._threads.submit(function, *arguments)

    def give_back(self, taken: int) -> None:
        with self._lock:
            self._busy -= taken


_helpers = _Helpers()


def _forget_helpers() -> None:
    global _helpers
    _helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)


def run_all(function: Callable[[Item], None], items: Iterable[Item], threads: int) -> None:
    """Call ``function`` for every item, on up to ``threads`` threads; the first error is raised.

    Items are handed out one by one. With one thread, or no free helper, no
    thread is started at all.
    """
    if threads == 1:
        for item in items:
            function(item)
        return
    helpers = _helpers
    taken = helpers.take(threads - 1)
    try:
        waiting = _Shared(iter(items))
        if not taken:
            for item in waiting:
                function(item)
            return
        futures = [helpers.submit(_drain, function, waiting) for _ in range(taken)]
        try:
            _drain(function, waiting)
        finally:
            waiting.stop()
            errors = [future.exception() for future in futures]  # waits for each
        for error in errors:
            if error is not None:
                raise error
    finally:
        helpers.give_back(taken)


def _drain(function: Callable[[Item], None], waiting: "_Shared[Item]") -> None:
    try:
        for item in waiting:
            function(item)
    except BaseException:
        waiting.stop()
        raise


class _Shared(Iterator[Item]):
    """An iterator that many threads take from."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._lock = threading.Lock()
        self._stopped = False

    def __next__(self) -> Item:
        with self._lock:
            if self._stopped:
                raise StopIteration
            return next(self._items)

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._lock:
            self._stopped = True
