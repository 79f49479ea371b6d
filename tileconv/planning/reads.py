"""From a range of outputs to the exact input pixels it reads, along one axis.

Work starts from the output. The pixels that a range of outputs needs are put
side by side in a *window*; `AxisRead` says which source pixel each place of the
window holds and how the window is sampled. Two kinds of window exist:

dense    every pixel from the first tap to the last, sampled with the axis's
         own stride and dilation:    |k k k g k k k g k k k|    stride 4, gap kept
packed   only the pixels under taps, field after field, sampled with
         stride = kernel and dilation = 1:  |k k k|k k k|k k k|    gaps never held

Both give every output the same pixels in the same order, hence the same bits.
A dense window without padding is a range: no number is held for each of its pixels.

The input of a step in a chain is the output of the step before it. `read_chain`
goes from the last step to the first, so that a step computes what the next reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

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

    pixels: np.ndarray | range
    """What each window place holds: the source pixel, `PADDING` or `HOLE` (int64)."""
    stride: int
    """Window places between fields."""
    dilation: int
    """Window places between taps."""
    outputs: int
    """Number of outputs."""

    @property
    def size(self) -> int:
        """Window places."""
        return len(self.pixels)

    @cached_property
    def index(self) -> np.ndarray:
        """`pixels` as an array."""
        if isinstance(self.pixels, range):
            return np.arange(self.pixels.start, self.pixels.stop, dtype=np.int64)
        return self.pixels

    @property
    def is_filled(self) -> bool:
        """Every place holds a source pixel."""
        return isinstance(self.pixels, range) or int(self.pixels.min()) >= 0

    @cached_property
    def span(self) -> slice | None:
        """The source pixels as a slice, if the window is one contiguous run of them."""
        if isinstance(self.pixels, range):
            return slice(self.pixels.start, self.pixels.stop)
        first = int(self.pixels[0])
        if first < 0 or int(self.pixels[-1]) - first != self.size - 1:
            return None
        if not (np.diff(self.pixels) == 1).all():
            return None
        return slice(first, first + self.size)

    @cached_property
    def outside(self) -> np.ndarray | None:
        """Boolean, True where the window holds padding; None if it holds none."""
        if isinstance(self.pixels, range):
            return None
        outside = self.pixels == PADDING
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
        if isinstance(self.pixels, range):
            first, end = self.pixels.start, self.pixels.stop
            low = max(start, first)
            high = max(min(stop, end), low)
            return slice(low - first, high - first), slice(low - start, high - start)
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
        if isinstance(self.pixels, range):
            first, last = self.pixels.start // block, (self.pixels.stop - 1) // block
            return np.arange(first, last + 1, dtype=np.int64)
        inside = self.pixels[self.pixels >= 0] // block
        steps = np.diff(inside)
        if (steps < 0).any():  # padding that turns around
            return np.unique(inside)
        fresh = np.ones(inside.size, bool)  # np.unique takes five times as long
        np.not_equal(steps, 0, out=fresh[1:])
        return inside[fresh]


Reads = tuple[AxisRead, AxisRead]
"""How a window is sampled along (y, x)."""

SPARSE = 4
"""How often the pixels under taps go into a dense window that padding has blown up."""


def packs(axis: Axis, block: int | None, outputs: int) -> bool:
    """Say whether ``outputs`` outputs of an axis stored in blocks of ``block`` pixels read packed.

    Where fields lie apart, packing pays if less than half of the pixels are
    used, and is needed if a gap or a hole may hold a block that nothing needs.
    An array in memory has no blocks (None): it is sampled where it lies.
    Either way a window that is far larger than the raster holds little but
    padding between taps, which is left out.
    """
    places = outputs * axis.kernel
    if _dense_size(axis, outputs) > SPARSE * max(places, axis.size):
        return True
    if block is None or axis.stride < axis.span:
        return False
    return axis.stride >= 2 * axis.kernel or axis.gap >= block or axis.dilation > block


def window_size(axis: Axis, outputs: int, block: int | None) -> int:
    """Return the window places that ``outputs`` neighbouring outputs need.

    >>> window_size(Axis(size=1000, kernel=3, stride=100), 5, None)
    403
    >>> window_size(Axis(size=1000, kernel=3, stride=100), 5, 64)
    15
    """
    packed = packs(axis, block, outputs)
    return outputs * axis.kernel if packed else _dense_size(axis, outputs)


def _dense_size(axis: Axis, outputs: int) -> int:
    return (outputs - 1) * axis.stride + axis.span


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
    if packs(axis, block, outputs):
        places = _taps(axis, low, outputs).ravel()
        stride, dilation = axis.kernel, 1
    else:
        stride, dilation = axis.stride, axis.dilation
        has_holes = block is not None and dilation > block
        if low >= 0 and high <= axis.size and not has_holes:
            return AxisRead(range(low, high), stride, dilation, outputs)
        places = np.arange(low, high, dtype=np.int64)
    if low < 0 or high > axis.size:
        places = source_index(places, axis.size, axis.mode)
    if block is not None and dilation > block:
        hole = np.ones(places.size, bool)
        hole[_taps(axis, 0, outputs).ravel()] = False
        places[hole] = HOLE
    return AxisRead(places, stride, dilation, outputs)


class StepRead(NamedTuple):
    """What one step of a chain computes along one axis, and reads for it."""

    outputs: range | np.ndarray
    """The outputs to compute, ascending; empty where later steps read only padding."""
    read: AxisRead
    """The outputs' window on the step's own input: the raster, or the outputs of the step before.

    Where ``outputs`` are not a range, their fields are packed in the same order.
    """


def read_chain(
    axes: Sequence[Axis], first: int, end: int, block: int | None = None
) -> tuple[StepRead, ...]:
    """Say what each step computes and reads for the last step's outputs ``first .. end - 1``.

    ``axes`` are the steps from first to last, each the size of the outputs of
    the step before; ``block`` is the size of the raster's storage blocks. Every
    step pads its own input, so only the raster's real pixels and outputs of
    real fields are read, in every padding mode.

    A step computes exactly the outputs that the next one reads. Where these are
    so close to each other that one window for the range from the first to the
    last of them is no larger than their packed fields, it computes that range.

    >>> smooth = Axis(size=100, kernel=3, before=1, after=1, mode="edge")
    >>> coarse = Axis(size=100, kernel=2, stride=20)
    >>> steps = read_chain([smooth, coarse], 0, 2)
    >>> steps[0].outputs.tolist(), steps[0].read.pixels.tolist()
    ([0, 1, 20, 21], [0, 0, 1, 0, 1, 2, 19, 20, 21, 20, 21, 22])
    >>> steps[1].outputs, steps[1].read.pixels.tolist()
    (range(0, 2), [0, 1, 20, 21])
    """
    steps: list[StepRead] = []
    outputs: range | np.ndarray = range(first, end)
    for position in reversed(range(len(axes))):
        # an output is stored alone: one that no tap reads need not be computed
        step = _read_step(axes[position], outputs, 1 if position else block)
        steps.append(step)
        outputs = _pixels_read(step.read)
    return tuple(reversed(steps))


def _read_step(axis: Axis, outputs: range | np.ndarray, block: int | None) -> StepRead:
    if not len(outputs):
        return StepRead(range(0), AxisRead(range(0), axis.stride, axis.dilation, 0))
    if not isinstance(outputs, range):
        whole = range(int(outputs[0]), int(outputs[-1]) + 1)
        if window_size(axis, len(whole), block) > outputs.size * axis.kernel:
            return StepRead(outputs, _read_packed(axis, outputs))
        outputs = whole
    return StepRead(outputs, read_axis(axis, outputs.start, outputs.stop, block))


def _read_packed(axis: Axis, outputs: np.ndarray) -> AxisRead:
    fields = outputs * axis.stride - axis.before
    places = (fields[:, None] + axis.dilation * np.arange(axis.kernel)).ravel()
    return AxisRead(source_index(places, axis.size, axis.mode), axis.kernel, 1, outputs.size)


def _pixels_read(read: AxisRead) -> range | np.ndarray:
    """Return the source pixels of a window, each once and ascending."""
    if isinstance(read.pixels, range):
        return read.pixels
    pixels = read.blocks(1)
    if pixels.size and int(pixels[-1]) - int(pixels[0]) + 1 > pixels.size:
        return pixels
    return range(int(pixels[0]), int(pixels[-1]) + 1) if pixels.size else range(0)


def _taps(axis: Axis, low: int, outputs: int) -> np.ndarray:
    """Positions of all taps of ``outputs`` fields, the first of which begins at ``low``."""
    fields = low + axis.stride * np.arange(outputs, dtype=np.int64)
    return fields[:, None] + axis.dilation * np.arange(axis.kernel)
