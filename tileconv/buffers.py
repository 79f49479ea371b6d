"""Large arrays whose memory goes back to the system when they do.

glibc's allocator moves its limit for separate mappings up to the largest array
freed so far, up to 32 MiB, and later arrays then lie on the heap, between small
ones that pin it: a run over a large raster peaked 10 to 25 % above what it held.
"""

import mmap
import os
import threading
import weakref
from functools import cache
from math import prod

import numpy as np

SEPARATE = 1 << 20
"""Bytes from which an array gets a mapping of its own."""


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros, in a mapping of its own if it is large.

    >>> zeros((2, 3), np.dtype("uint8")).tolist()
    [[0, 0, 0], [0, 0, 0]]
    """
    size = prod(shape) * dtype.itemsize
    if size < SEPARATE or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, dtype)
    mapping = _map(size, shape, dtype)
    return np.frombuffer(mapping, dtype, count=size // dtype.itemsize).reshape(shape)


def _map(size: int, shape: tuple[int, ...], dtype: np.dtype) -> mmap.mmap:
    """Return ``size`` bytes for an array."""
    try:
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:  # ENOMEM
        raise MemoryError(f"cannot allocate {size} bytes for {shape} of {dtype}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


class Pool:
    """Arrays in the memory of those that nobody holds any more: new pages are slow to clear.

    There are never more mappings than arrays were held at one time.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run at any allocation, in array() too
        self._spare: list[mmap.mmap] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array that holds anything."""
        size = prod(shape) * dtype.itemsize
        if size < SEPARATE or not hasattr(mmap, "MAP_PRIVATE"):
            return np.empty(shape, dtype)
        with self._lock:
            fitting = [mapping for mapping in self._spare if len(mapping) >= size]
            taken = min(fitting, key=len) if fitting else None
            if self._spare:
                self._spare.remove(taken or self._spare[0])
        mapping = taken or _map(size, shape, dtype)
        flat = np.frombuffer(mapping, np.uint8)
        weakref.finalize(flat, self._give, mapping).atexit = False
        return flat[:size].view(dtype).reshape(shape)

    def _give(self, mapping: mmap.mmap) -> None:
        with self._lock:
            self._spare.append(mapping)


# scratch of a thread

MOST_SCRATCH = 16 << 20
"""Bytes of a scratch array that a thread keeps for its next tile: new pages are slow."""
_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array that holds anything; the thread's next one of the same ``name`` reuses it."""
    size = prod(shape) * dtype.itemsize
    if size > MOST_SCRATCH:
        return zeros(shape, dtype)
    kept: dict[str, np.ndarray] = _local.__dict__
    if name not in kept or kept[name].size < size:
        kept[name] = zeros((size,), np.dtype(np.uint8))
    return kept[name][:size].view(dtype).reshape(shape)


# results of array calls

KEPT_SHARE = 16
"""One part in this many of the machine's memory may lie ready for the next result."""
VARIABLE = "TILECONV_KEEP_BYTES"
"""Environment variable: bytes of freed results that are kept ready; 0 keeps none."""
WORTH_KEEPING = 4 << 20
"""Bytes from which the system's clearing of new pages shows."""


def _most_kept() -> int:
    text = os.environ.get(VARIABLE, "").strip()
    if text.isdigit():
        return int(text)
    return machine_bytes() // KEPT_SHARE


@cache
def machine_bytes() -> int:
    """Return the machine's memory in bytes; 0 if the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


class _Kept:
    """Mappings of results that nobody holds any more, the next results to be.

    To clear new pages takes the system longer than many a convolution (64 MiB:
    7 ms, as against 6 ms for a whole 3 x 3 kernel). A mapping that waits is marked
    MADV_FREE: the system takes its pages, without asking, as soon as it needs memory.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run at any allocation, in take() too
        self._mappings: list[mmap.mmap] = []

    def take(self, size: int) -> mmap.mmap | None:
        """Return a mapping of just this size, if one waits."""
        with self._lock:
            for i, mapping in enumerate(self._mappings):
                if len(mapping) == size:
                    return self._mappings.pop(i)
        return None

    def give(self, mapping: mmap.mmap) -> None:
        """Keep a mapping, and let go of the oldest ones that are too many."""
        most = _most_kept()
        with self._lock:
            if len(mapping) <= most:
                mapping.madvise(mmap.MADV_FREE)
                self._mappings.append(mapping)
            while sum(map(len, self._mappings)) > most:
                del self._mappings[0]


_kept = _Kept()


def _forget() -> None:
    """In a forked child the parent's mappings are copies, and the lock may be held by nobody."""
    global _kept
    _kept = _Kept()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def result(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array for the result of a call; it holds anything.

    >>> result((2, 3), np.dtype("uint8")).shape
    (2, 3)
    """
    size = prod(shape) * dtype.itemsize
    if size < WORTH_KEEPING or not hasattr(mmap, "MADV_FREE"):
        return np.empty(shape, dtype)
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    mapping = _kept.take(pages) or _map(pages, shape, dtype)
    flat = np.frombuffer(mapping, np.uint8)
    weakref.finalize(flat, _kept.give, mapping).atexit = False
    return flat[:size].view(dtype).reshape(shape)
