"""Large arrays whose memory goes back to the system when they do.

glibc's allocator moves its limit for separate mappings up to the largest array
freed so far, up to 32 MiB, and later arrays then lie on the heap, between small
ones that pin it: a run over a large raster peaked 10 to 25 % above what it held.
"""

import mmap

import numpy as np

SEPARATE = 1 << 20
"""Bytes from which an array gets a mapping of its own."""


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros, in a mapping of its own if it is large.

    >>> zeros((2, 3), np.dtype("uint8")).tolist()
    [[0, 0, 0], [0, 0, 0]]
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size < SEPARATE or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, dtype)
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:  # ENOMEM
        raise MemoryError(f"cannot allocate {size} bytes for {shape} of {dtype}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype, count=size // dtype.itemsize).reshape(shape)


def copy(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy of ``array``."""
    made = zeros(array.shape, array.dtype)
    made[...] = array
    return made
