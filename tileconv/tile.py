"""Compute one tile: put padding and missing data in place, run the loops, finish the numbers.

The meaning of a run is: for every tile, read its window, compute, write. This
is the middle step; it knows neither files nor dask.
"""

from typing import NamedTuple

import numpy as np

from tileconv.convolution import Convolution
from tileconv.dtypes import Numbers
from tileconv.engine.choose import Algorithm
from tileconv.engine.finish import round_and_saturate
from tileconv.errors import ConvolutionError
from tileconv.missing import missing_pixels
from tileconv.planning.reads import AxisRead


class Counts(NamedTuple):
    """What a tile met."""

    missing: int = 0
    """Outputs that are missing (counted for integer outputs only)."""
    collisions: int = 0
    """Valid integer outputs that equal nodata."""

    def plus(self, *others: "Counts") -> "Counts":
        """Return the sum."""
        return Counts(*map(sum, zip(self, *others, strict=True)))


def compute_tile(
    convolution: Convolution,
    algorithm: Algorithm,
    numbers: Numbers,
    weights: np.ndarray,
    reads: tuple[AxisRead, AxisRead],
    window: np.ndarray,
    masked: np.ndarray | None,
    out: np.ndarray,
) -> Counts:
    """Compute one plane of one tile into ``out``.

    Parameters
    ----------
    weights
        ``convolution.weights_in(numbers.compute)``.
    reads
        How the window is sampled along (y, x).
    window
        (rows.size, columns.size) of ``numbers.source``; places that hold padding may hold anything.
    masked
        Boolean of the same shape, True where a mask hides the pixel; None if no pixel is hidden.
    out
        (rows.outputs, columns.outputs) of ``numbers.target``, overwritten.
    """
    rows, columns = reads
    pixels = _settle(convolution, numbers, reads, window, masked)
    direct = out.dtype == numbers.compute
    sums = out if direct else np.empty(out.shape, numbers.compute)
    algorithm.correlate(
        pixels,
        (rows.stride, columns.stride),
        (rows.dilation, columns.dilation),
        convolution.taps,
        weights,
        sums,
    )
    return finish(sums, numbers, out)


def _settle(
    convolution: Convolution,
    numbers: Numbers,
    reads: tuple[AxisRead, AxisRead],
    window: np.ndarray,
    masked: np.ndarray | None,
) -> np.ndarray:
    """Return the window with missing pixels as NaN and padding filled in.

    The window itself where there is neither: the cast to the compute dtype is
    then part of the loops, and gives the same numbers.
    """
    missing = missing_pixels(window, numbers.nodata)
    outside = [read.outside for read in reads]
    if missing is None and masked is None and all(o is None for o in outside):
        return window if numbers.source != np.float16 else window.astype(numbers.compute)
    pixels = window.astype(numbers.compute)
    if missing is not None:
        pixels[missing] = np.nan
    if masked is not None:
        pixels[masked] = np.nan
    value = np.nan if convolution.padding_mode == "missing" else convolution.padding_value
    if outside[0] is not None:
        pixels[outside[0], :] = value
    if outside[1] is not None:
        pixels[:, outside[1]] = value
    return pixels


def finish(sums: np.ndarray, numbers: Numbers, out: np.ndarray) -> Counts:
    """Write ``sums`` (NaN: missing) into ``out`` in the output's dtype."""
    target, fill = numbers.target, numbers.fill
    if target.kind == "f":
        if sums is not out:
            with np.errstate(over="ignore"):
                out[:] = sums
        if fill is not None and not np.isnan(fill):
            out[np.isnan(out)] = fill
        return Counts()
    bounds = np.iinfo(target)
    counts = Counts(
        *round_and_saturate(
            sums,
            numbers.compute.type(bounds.min),
            numbers.compute.type(bounds.max),
            target.type(bounds.min),
            target.type(bounds.max),
            target.type(0) if fill is None else fill,
            out,
        )
    )
    if fill is not None:
        return counts
    if counts.missing:
        raise ConvolutionError(
            f"{counts.missing} outputs are missing, and {target} without nodata cannot say so; "
            "give nodata, or a float dtype"
        )
    return Counts()
