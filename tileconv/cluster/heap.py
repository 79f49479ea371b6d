"""Let workers keep freed memory while a run goes on, as any other process does.

dask starts workers with ``MALLOC_TRIM_THRESHOLD_=65536``, which has glibc hand
every freed buffer back to the system and fetch it again, page by page, for the
next block that is decoded: 5 to 10 % of a task's time.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

VARIABLE = "MALLOC_TRIM_THRESHOLD_"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP = 32 << 20
"""What glibc's own thresholds grow to where nobody has set one; trim is twice as much."""
SMALLEST_MMAP = 128 << 10
"""Where they begin, and stay if one is set."""


def keep_freed() -> None:
    """Set what glibc would come to by itself."""
    if VARIABLE in os.environ:
        _set(LARGEST_MMAP, 2 * LARGEST_MMAP)


def release_freed() -> None:
    """Go back to what dask has asked for."""
    with suppress(KeyError, ValueError):
        _set(SMALLEST_MMAP, int(os.environ[VARIABLE]))
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _set(mmap: int, trim: int) -> None:
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, mmap)
        mallopt(M_TRIM_THRESHOLD, trim)
