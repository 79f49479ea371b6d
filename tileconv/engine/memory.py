"""Arrays as the loops take them: an address, strides and a dtype.

Numba compiles anew for every layout of an array, and for read-only ones; an
address has neither.
"""

import numpy as np


def address(array: np.ndarray) -> np.uintp:
    """Return where the first element of ``array`` lies."""
    return np.uintp(array.__array_interface__["data"][0])
