"""The one place where an algorithm is chosen.

The choice depends on kernel, stride, dilation and dtype alone, never on a
tile's size or the number of threads: an algorithm that rounds differently is
part of what the result means.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tileconv.engine import direct

Taps = tuple[np.ndarray, np.ndarray]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Algorithm:
    """A way to compute the "valid" correlation of a window, see `tileconv.engine.direct`."""

    name: str
    """What the plan calls it."""
    correlate: Callable[[np.ndarray, Pair, Pair, Taps, np.ndarray, np.ndarray], None]
    """(window, stride, dilation, taps, weights, out)"""
    scratch_bytes: Callable[[Pair, Pair, Taps, int], int]
    """(stride, dilation, taps, itemsize) -> bytes needed per thread beside window and output"""


DIRECT = Algorithm("direct", direct.correlate, direct.scratch_bytes)


def choose(weights: np.ndarray, stride: Pair, dilation: Pair, dtype: np.dtype) -> Algorithm:
    """Return the algorithm for a kernel of shape (kh, kw) computed in ``dtype``."""
    del weights, stride, dilation, dtype  # one algorithm so far
    return DIRECT
