"""The one place where an algorithm is chosen.

The choice depends on kernel, stride, dilation and dtype alone, never on a
tile's size or the number of threads: an algorithm that rounds differently is
part of what the result means.

direct     every tap of every output, one multiply-add each, in one fixed order
separable  kernels of rank one: along the rows, then down the columns, where
           1.5 (kw + kh) + 4 <= kh * kw
columns-first separable
           the same the other way round, at strides (sy, sx) from 2 on along y, where
           1.5 (sx * kh + kw) + 4 <= kh * kw + 2 * min(sy, kh) * min(sx, kw),
           the last term, what packing pixels costs, for sx > 1 only

Strides along y count in units of what they share with the dilation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.loops.columns_first import ColumnsFirst
from tileconv.engine.loops.direct import Direct
from tileconv.engine.loops.two_pass import TwoPass, columns_first, factor, taken_apart, worth
from tileconv.engine.missing.detect import MissingDetector

Pair = tuple[int, int]


class Prepared(Protocol):
    """Kernels laid out for the loops."""

    @property
    def detects_missing(self) -> bool:
        """Whether `run` takes a detector of missing pixels."""

    @property
    def normalizes(self) -> bool:
        """Whether sums are normalized by the detector as they are made."""

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        stream: bool = False,
        detector: MissingDetector | None = None,
    ) -> None:
        """Write the "valid" correlations of planes (bands, H, W) into out (kernels, OH, OW).

        ``stream`` says that nobody reads them soon. A ``detector`` replaces missing pixels while
        rows are packed.
        """

    def scratch_bytes(self, width: int) -> int:
        """Return the bytes that outputs ``width`` wide take besides planes and out, per thread."""


class _Prepare(Protocol):
    def __call__(
        self, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int
    ) -> Prepared: ...


@dataclass(frozen=True)
class Algorithm:
    """A way to compute the "valid" correlations of a window."""

    name: str
    """What the plan calls it."""
    prepare: _Prepare
    """Lay out kernels for planes sampled with a stride and dilation."""
    two_passes: bool = True
    """Kernels are taken apart into a column and a row."""
    in_place: bool = False
    """Rows of pixels are read where they lie, so that copies of them have to be of their dtype."""

    def factors(self, taps: Taps) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (column, row) of a kernel if it is taken apart into them, float64."""
        return taken_apart(taps) if self.two_passes else None


DIRECT = Algorithm("direct", Direct.of, two_passes=False)
SEPARABLE = Algorithm("separable", TwoPass.of)
COLUMNS_FIRST = Algorithm("columns-first separable", ColumnsFirst.of, in_place=True)


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
