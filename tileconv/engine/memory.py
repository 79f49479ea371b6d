"""Arrays as the loops take them: an address, strides and a dtype.

Numba compiles anew for every layout of an array, and for read-only ones; an
address has neither.
"""

import numpy as np

CACHE_LINE = 64
"""Bytes that the caches take at a time."""


def address(array: np.ndarray) -> np.uintp:
    """Return where the first element of ``array`` lies."""
    return np.uintp(array.__array_interface__["data"][0])


def aligned_zeros(count: int, dtype: np.dtype) -> np.ndarray:
    """Return ``count`` zeros that begin with a cache line: no vector of them lies in two."""
    room = np.zeros(count * dtype.itemsize + CACHE_LINE, np.uint8)
    first = -int(address(room)) % CACHE_LINE
    return room[first : first + count * dtype.itemsize].view(dtype)
