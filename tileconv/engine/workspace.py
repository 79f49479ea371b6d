"""Arrays as the loops take them: an address, strides and a dtype.

Numba compiles again for every layout of an array, and for read-only ones; an
address has neither.
"""

import math
import threading
from collections.abc import Sequence

import numpy as np

CACHE_LINE = 64
"""Bytes that the caches take at a time."""
INDEX = 8
"""Bytes of an intp."""


def address(array: np.ndarray) -> np.uintp:
    """Return where the first element of ``array`` lies."""
    return np.uintp(array.__array_interface__["data"][0])


def aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros that begins with a cache line: no vector in it lies across two."""
    size = math.prod(shape) * dtype.itemsize
    owner = np.zeros(size + CACHE_LINE, np.uint8)
    start = -int(address(owner)) % CACHE_LINE
    return owner[start : start + size].view(dtype).reshape(shape)


class _Scratch(threading.local):
    """Memory that the thread's next tile reuses: allocating it costs as much as a row."""

    size = 0
    address = np.uintp(0)
    owner: np.ndarray | None = None


MOST_KEPT = 1 << 20
"""Bytes of scratch that a thread keeps: more than all but huge kernels take."""
_kept = _Scratch()


def scratch(count: int, dtype: np.dtype) -> tuple[np.uintp, np.ndarray | None]:
    """Return the address of ``count`` elements of scratch, which hold anything, and their owner.

    They begin with a cache line: vectors that lie across two of them are slow to store. The
    thread's next call overwrites them.
    """
    size = count * dtype.itemsize
    if size <= _kept.size:
        return _kept.address, _kept.owner
    owner = np.zeros(size + CACHE_LINE, np.uint8)
    start = address(owner)
    start += np.uintp(-int(start) % CACHE_LINE)
    if size <= MOST_KEPT:
        _kept.size, _kept.address, _kept.owner = size, start, owner
    return start, owner
