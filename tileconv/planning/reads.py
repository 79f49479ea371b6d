"""From a range of outputs to the exact input pixels it reads, along one axis.

Work starts from the output. The pixels that a range of outputs needs are put
side by side in a *window*; `AxisRead` says which source pixel each place of the
window holds and how the window is sampled. Two kinds of window exist:

dense    every pixel from the first tap to the last, sampled with the axis's
         own stride and dilation:    |k k k g k k k g k k k|    stride 4, gap kept
packed   only the pixels under taps, field after field, sampled with
         stride = kernel and dilation = 1:  |k k k|k k k|k k k|    gaps never held

Both give every output the same pixels in the same order, hence the same bits.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tileconv.geometry import Axis
from tileconv.padding import source_index

PADDING = -1
"""A window place that holds constant or missing padding."""
HOLE = -2
"""A window place that no tap reads, in a block that nothing else needs: left unread."""


@dataclass(frozen=True, eq=False)
class AxisRead:
    """Input pixels that a range of outputs reads along one axis."""

    index: np.ndarray
    """int64, one entry per window place: the source pixel, `PADDING` or `HOLE`."""
    stride: int
    """Window places between fields."""
    dilation: int
    """Window places between taps."""
    outputs: int
    """Number of outputs."""

    @property
    def size(self) -> int:
        """Window places."""
        return int(self.index.size)

    @cached_property
    def span(self) -> slice | None:
        """The source pixels as a slice, if the window is one contiguous run of them."""
        first = int(self.index[0])
        if first < 0 or int(self.index[-1]) - first != self.size - 1:
            return None
        if not (np.diff(self.index) == 1).all():
            return None
        return slice(first, first + self.size)

    @cached_property
    def outside(self) -> np.ndarray | None:
        """Boolean, True where the window holds padding; None if it holds none."""
        outside = self.index == PADDING
        return outside if outside.any() else None

    @cached_property
    def _inside(self) -> tuple[int, int, bool] | None:
        """(first, end, contiguous) of the places that hold source pixels, if those ascend."""
        inside = np.flatnonzero(self.index >= 0)
        if not inside.size:
            return 0, 0, False
        first, end = int(inside[0]), int(inside[-1]) + 1
        steps = np.diff(self.index[first:end])
        if end - first != inside.size or (steps < 0).any():
            return None
        return first, end, bool((steps == 1).all())

    def places(self, start: int, stop: int) -> tuple[slice | np.ndarray, slice | np.ndarray]:
        """Say where source pixels ``start .. stop - 1`` go: (window places, pixels from start)."""
        if self._inside is None:
            chosen = np.flatnonzero((self.index >= start) & (self.index < stop))
            return chosen, self.index[chosen] - start
        first, end, contiguous = self._inside
        low, high = np.searchsorted(self.index[first:end], (start, stop)) + first
        if contiguous and low < high:
            offset = int(self.index[low]) - start
            return slice(low, high), slice(offset, offset + int(high - low))
        return slice(low, high), self.index[low:high] - start

    def blocks(self, block: int) -> np.ndarray:
        """Return the storage blocks of ``block`` pixels that the window touches, ascending."""
        inside = self.index[self.index >= 0] // block
        steps = np.diff(inside)
        if (steps < 0).any():  # padding that turns around
            return np.unique(inside)
        first = np.ones(inside.size, bool)  # np.unique takes five times as long
        np.not_equal(steps, 0, out=first[1:])
        return inside[first]


def packs(axis: Axis, block: int | None) -> bool:
    """Say whether an axis stored in blocks of ``block`` pixels is read packed.

    Where fields lie apart, packing pays if less than half of the pixels are
    used, and is needed if a gap or a hole may hold a block that nothing needs.
    An array in memory has no blocks (None) and is never packed: it is sampled
    where it lies.
    """
    if block is None or axis.stride < axis.span:
        return False
    return axis.stride >= 2 * axis.kernel or axis.gap >= block or axis.dilation > block


def window_size(axis: Axis, outputs: int, *, packed: bool) -> int:
    """Return the window places that ``outputs`` neighbouring outputs need."""
    return outputs * axis.kernel if packed else (outputs - 1) * axis.stride + axis.span


def read_axis(axis: Axis, first: int, end: int, block: int | None = None) -> AxisRead:
    """Say which input pixels the outputs ``first .. end - 1`` read.

    ``block`` is the size of the storage blocks along the axis, None in memory.

    >>> read_axis(Axis(size=23, kernel=3, stride=5), 0, 2).index.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    >>> read_axis(Axis(size=23, kernel=3, stride=6), 0, 2, block=16).index.tolist()
    [0, 1, 2, 6, 7, 8]
    >>> read_axis(Axis(size=4, kernel=3, before=1, after=1, mode="edge"), 0, 4).index.tolist()
    [0, 0, 1, 2, 3, 3]
    """
    low, high = axis.reach(first, end)
    outputs = end - first
    if packs(axis, block):
        places = _taps(axis, low, outputs).ravel()
        stride, dilation = axis.kernel, 1
    else:
        places = np.arange(low, high, dtype=np.int64)
        stride, dilation = axis.stride, axis.dilation
    if low < 0 or high > axis.size:
        places = source_index(places, axis.size, axis.mode)
    if block is not None and dilation > block:
        hole = np.ones(places.size, bool)
        hole[_taps(axis, 0, outputs).ravel()] = False
        places[hole] = HOLE
    return AxisRead(places, stride, dilation, outputs)


def _taps(axis: Axis, low: int, outputs: int) -> np.ndarray:
    """Positions of all taps of ``outputs`` fields, the first of which begins at ``low``."""
    fields = low + axis.stride * np.arange(outputs, dtype=np.int64)
    return fields[:, None] + axis.dilation * np.arange(axis.kernel)
