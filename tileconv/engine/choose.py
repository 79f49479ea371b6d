"""The one place where an algorithm is chosen.

The choice depends on kernel, stride, dilation and dtype alone, never on a
tile's size or the number of threads: an algorithm that rounds differently is
part of what the result means. `prepare` lays kernels out for its loops; a plan
needs its name and workspace alone, and so neither numba nor llvmlite.

direct     every tap of every output, one multiply-add each, in one fixed order
separable  kernels of rank one: along the rows, then down the columns, where
           1.5 (kw + kh) + 4 <= kh * kw
columns-first separable
           the same the other way round, at strides (sy, sx) from 2 on along y, where
           1.5 (sx * kh + kw) + 4 <= kh * kw + 2 * min(sy, kh) * min(sx, kw),
           the last term, what packing pixels costs, for sx > 1 only

Strides along y count in units of what they share with the dilation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np

from tileconv.engine.blocking import host_vector_bytes
from tileconv.engine.factor import factor, taken_apart
from tileconv.engine.kernel_layout import Pair
from tileconv.engine.sizes import columns_first_bytes, direct_bytes, two_pass_bytes
from tileconv.operators.base import Operator
from tileconv.operators.convolution import Convolution, Taps

DEARER = 1.5
"""What a multiply-add of two passes costs, in those of one: the rows in between are stored."""
SET_UP = 4
"""Multiply-adds that pay for the second pass, per output."""
PACKING = 2
"""What it costs to pack a pixel for a stride along x."""


@dataclass(frozen=True)
class Algorithm:
    """A way to compute the "valid" correlations of a window."""

    name: str
    """What the plan calls it."""
    _workspace: Callable[[Pair, Pair, Sequence[Taps], int, int, int], int]
    two_passes: bool = True
    """Kernels are taken apart into a column and a row."""
    in_place: bool = False
    """Rows of pixels are read where they lie, so that copies of them have to be of their dtype."""

    def workspace_bytes(
        self, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int, width: int
    ) -> int:
        """Return the bytes that outputs ``width`` wide take besides planes and out, per thread."""
        return self._workspace(stride, dilation, kernels, bands, width, host_vector_bytes())

    def factors(self, taps: Taps) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (column, row) of a kernel if it is taken apart into them, float64."""
        return taken_apart(taps) if self.two_passes else None


DIRECT = Algorithm("direct", direct_bytes, two_passes=False)
SEPARABLE = Algorithm("separable", two_pass_bytes)
COLUMNS_FIRST = Algorithm("columns-first separable", columns_first_bytes, in_place=True)


STRIP_PIXELS = 1 << 19
"""Pixels, or outputs, that statistics are computed of at a time."""
STRIP_BYTES = 32
"""Most bytes that each takes: a pixel and its copy, which are missing, how many are not."""


def _no_tables(*_: object) -> int:
    return 0


RANK = Algorithm("rank", _no_tables, two_passes=False)


def columns_first(stride: Pair, dilation: Pair) -> bool:
    """Say whether the pass down the columns comes first: no two output rows share all their rows.

    Outputs that lie as far apart as taps read the same rows, whatever the distance.
    """
    return stride[0] // gcd(stride[0], dilation[0]) > 1


def worth(kernel: np.ndarray, stride: Pair, dilation: Pair) -> bool:
    """Say whether two passes over a kernel of rank one are cheaper than all its taps."""
    rows, columns = (int(kernel.any(axis=axis).sum()) for axis in (1, 0))
    direct = int(np.count_nonzero(kernel))
    if columns_first(stride, dilation):
        two = rows * stride[1] + columns
        if stride[1] > 1:
            between = min(stride[0] // gcd(stride[0], dilation[0]), rows)
            direct += PACKING * between * min(stride[1], columns)
    else:
        two = columns + rows
    return bool(DEARER * two + SET_UP <= direct)


def choose(weights: np.ndarray, stride: Pair, dilation: Pair, dtype: np.dtype) -> Algorithm:
    """Return the algorithm for weights (..., kh, kw) computed in ``dtype``.

    Separable are kernels on one band each, if all of them are of rank one and
    cheaper so.
    """
    if weights.ndim == 4 and weights.shape[1] > 1:
        return DIRECT
    kernels = weights.reshape(-1, *weights.shape[-2:])
    if not all(worth(kernel, stride, dilation) for kernel in kernels):
        return DIRECT
    if any(factor(kernel, dtype) is None for kernel in kernels):
        return DIRECT
    return COLUMNS_FIRST if columns_first(stride, dilation) else SEPARABLE


class Demand(NamedTuple):
    """What computing outputs takes, as far as a plan asks."""

    workspace_bytes: int
    """Per thread, besides planes and out."""
    planes: tuple[int, int]
    """Input and output planes that are computed together."""


def algorithm_of(operator: Operator, dtype: np.dtype) -> Algorithm:
    """Return the algorithm for an operator computed in ``dtype``."""
    if isinstance(operator, Convolution):
        return choose(operator.weights, operator.stride, operator.dilation, dtype)
    return RANK


def demand(
    operator: Operator, dtype: np.dtype, bands: int, sampling: tuple[Pair, Pair], width: int
) -> Demand:
    """Return what outputs ``width`` wide take, from windows sampled at (stride, dilation)."""
    if isinstance(operator, Convolution):
        group = operator.plan_groups(bands, dtype)[0]
        algorithm = algorithm_of(operator, dtype)
        size = algorithm.workspace_bytes(*sampling, group.taps, len(group.bands), width)
        return Demand(size, (len(group.bands), len(group.outputs)))
    return Demand(STRIP_PIXELS * STRIP_BYTES, (1, 1))
