"""Arrays as the loops take them: an address, strides and a dtype.

Numba compiles anew for every layout of an array, and for read-only ones; an
address has neither.
"""

import numpy as np

CACHE_LINE = 64


def address(array: np.ndarray) -> np.uintp:
    """Return where the first element of ``array`` lies."""
    return np.uintp(array.__array_interface__["data"][0])


def aligned(count: int, dtype: np.dtype) -> tuple[np.uintp, np.ndarray]:
    """Return the address of ``count`` zeros at the start of a cache line, and their owner.

    Vectors that lie across two cache lines are stored at half the speed.
    """
    owner = np.zeros(count * dtype.itemsize + CACHE_LINE, np.uint8)
    start = address(owner)
    return start + np.uintp(-int(start) % CACHE_LINE), owner
