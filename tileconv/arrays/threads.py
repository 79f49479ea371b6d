"""Threads for arrays in memory: all cores for one call, no crowd for many.

A call uses its own thread and as many helpers as are free: helpers are counted
for the whole process, so calls from many threads at once share them. A call
from a thread that is not the main one, such as a dask worker, takes none
unless it asks: its siblings are busy with the rest.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from tileconv.errors import ConvolutionError

Item = TypeVar("Item")

VARIABLE = "TILECONV_NUM_THREADS"
"""Environment variable with the number of threads that a call may use."""
PER_CORE = 4
"""Most threads that a call starts for each core: more would only take turns."""


def thread_count(threads: int | None) -> int:
    """Return how many threads a call may use: the argument, the variable, or all cores."""
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
            raise ConvolutionError(f"threads must be a whole number from 1, got {threads!r}")
        return _bounded(int(threads))
    text = os.environ.get(VARIABLE, "").strip()
    if text:
        if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < 1:
            raise ConvolutionError(f"{VARIABLE} must be a whole number from 1, got {text!r}")
        return _bounded(int(text))
    if threading.current_thread() is not threading.main_thread():
        return 1
    return cores()


def _bounded(threads: int) -> int:
    return threads if threads == 1 else min(threads, PER_CORE * cores())


def cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Helpers:
    """Helpers of this process; a forked child starts with its own.

    They do less than `concurrent.futures` has them do, and so are ready in half the time: a
    convolution may be over in as little.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = 0
        self._threads = 0
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def take(self, most: int) -> int:
        """Take helpers until ``most`` are busy in the whole process; return how many."""
        if sys.is_finalizing():  # they do not run any more
            return 0
        with self._lock:
            taken = max(0, most - self._busy)
            while self._threads < self._busy + taken:
                try:
                    threading.Thread(
                        target=_help, args=(self._work,), name="tileconv-array", daemon=True
                    ).start()
                except RuntimeError:  # the system gives no more threads
                    taken = max(0, self._threads - self._busy)
                    break
                self._threads += 1
            self._busy += taken
            return taken

    def submit(self, work: Callable[[], None]) -> None:
        """Have a helper that was taken call ``work``, which raises nothing."""
        self._work.put(work)

    def give_back(self, taken: int) -> None:
        with self._lock:
            self._busy -= taken


def _help(work: "SimpleQueue[Callable[[], None]]") -> None:
    while True:
        work.get()()  # and keep no name for it, nor for the arrays that it holds


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
    taken, at_work = helpers.take(threads - 1), 0
    try:
        waiting = _Shared(iter(items))
        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        try:
            for _ in range(taken):
                helpers.submit(partial(_drain, function, waiting, ended))
                at_work += 1
            for item in waiting:
                function(item)
        finally:
            waiting.stop()
            errors = [ended.get() for _ in range(at_work)]
        for error in errors:
            if error is not None:
                raise error
    finally:
        helpers.give_back(taken)


def _drain(
    function: Callable[[Item], None],
    waiting: "_Shared[Item]",
    ended: "SimpleQueue[BaseException | None]",
) -> None:
    """Do a helper's part, and say how it ended."""
    try:
        for item in waiting:
            function(item)
    except BaseException as error:
        waiting.stop()
        ended.put(error)
    else:
        ended.put(None)


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
