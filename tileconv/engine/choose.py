"""The one place where an algorithm is chosen.

The choice depends on kernel, stride, dilation and dtype alone, never on a
tile's size or the number of threads: an algorithm that rounds differently is
part of what the result means.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine import direct

Pair = tuple[int, int]


@dataclass(frozen=True)
class Algorithm:
    """A way to compute the "valid" correlations of a window, see `tileconv.engine.direct`."""

    name: str
    """What the plan calls it."""
    correlate: Callable[
        [Sequence[np.ndarray], Pair, Pair, Sequence[Taps], Sequence[np.ndarray]], None
    ]
    """(planes, stride, dilation, kernels, outs)"""
    scratch_bytes: Callable[[int, Pair, Pair, Sequence[Taps], int], int]
    """(bands, stride, dilation, kernels, itemsize) -> bytes per thread beside window and output"""


DIRECT = Algorithm("direct", direct.correlate, direct.scratch_bytes)


def choose(weights: np.ndarray, stride: Pair, dilation: Pair, dtype: np.dtype) -> Algorithm:
    """Return the algorithm for weights (..., kh, kw) computed in ``dtype``."""
    del weights, stride, dilation, dtype  # one algorithm so far
    return DIRECT
