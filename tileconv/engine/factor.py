"""Kernels of rank one, taken apart into a column and a row."""

from math import gcd

import numpy as np

from tileconv.engine.kernel_layout import KernelLayout, Pair, layout_of
from tileconv.operators.convolution import Taps


def factor(kernel: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (column, row) whose products are ``kernel`` to within rounding, or None.

    The test is elementwise: no product differs from its weight by more than
    2 eps of ``dtype`` relative to it, and none is 0 where the weight is not.
    Whole numbers stay whole, so that sums which are exact stay exact.

    >>> factor(np.outer([1, 2, 1], [1, 0, -1]), np.dtype("float32"))
    (array([1., 2., 1.]), array([ 1.,  0., -1.]))
    >>> factor(np.eye(2), np.dtype("float32")) is None
    True
    """
    y, x = np.unravel_index(np.argmax(np.abs(kernel)), kernel.shape)
    if not kernel[y, x]:
        return None
    if (kernel == np.rint(kernel)).all() and np.abs(kernel).max() < 2**53:
        row = kernel[y] / gcd(*(int(w) for w in kernel[y]))
    else:
        row = kernel[y] / np.exp2(np.floor(np.log2(np.abs(kernel[y, x])) / 2))
    column = kernel[:, x] / row[x]
    bound = 2 * np.finfo(dtype).eps * np.abs(kernel)
    if not (np.abs(np.outer(column, row) - kernel) <= bound).all():
        return None
    parts = column.astype(dtype), row.astype(dtype)
    for part, exact in zip(parts, (column, row), strict=True):
        small = np.abs(part[exact != 0])
        if not (small >= np.finfo(dtype).tiny).all() or not np.isfinite(part).all():
            return None  # out of the range in which dtype is accurate
    return column, row


def taken_apart(taps: Taps) -> tuple[np.ndarray, np.ndarray]:
    """Return (column, row) of a kernel that `factor` takes, float64."""
    kernel = np.zeros((int(taps.y.max()) + 1, int(taps.x.max()) + 1))
    kernel[taps.y, taps.x] = taps.exact
    parts = factor(kernel, taps.weights.dtype)
    if parts is None:
        raise ValueError("the kernel is not of rank one")
    return parts


def passes(
    stride: Pair, dilation: Pair, taps: Taps, vector_bytes: int
) -> tuple[KernelLayout, KernelLayout]:
    """Lay out a kernel that `factor` takes: what is done along the rows, and down the columns."""
    parts, dtype = taken_apart(taps), taps.weights.dtype
    row, column = _line_taps(parts[1], dtype, row=True), _line_taps(parts[0], dtype, row=False)
    along = layout_of((1, stride[1]), (1, dilation[1]), [row], 1, vector_bytes)
    down = layout_of((stride[0], 1), (dilation[0], 1), [column], 1, vector_bytes)
    if along is None or down is None:
        raise ValueError("the kernel has no taps")
    return along, down


def _line_taps(line: np.ndarray, dtype: np.dtype, *, row: bool) -> Taps:
    """Return the taps of a kernel of one row, or of one column."""
    place = np.flatnonzero(line)
    zeros = np.zeros_like(place)
    y, x = (zeros, place) if row else (place, zeros)
    return Taps(zeros, y, x, line[place].astype(dtype), line[place])
