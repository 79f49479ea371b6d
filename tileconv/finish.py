"""From sums to what the output holds: its dtype, and its nodata where they are missing."""

from typing import NamedTuple

import numpy as np

from tileconv.dtypes import Numbers
from tileconv.engine.round import round_and_saturate
from tileconv.errors import ConvolutionError


class Counts(NamedTuple):
    """What a tile met."""

    missing: int = 0
    """Outputs that are missing (not counted where they are NaN)."""
    collisions: int = 0
    """Valid outputs that equal nodata."""

    def plus(self, *others: "Counts") -> "Counts":
        """Return the sum."""
        return Counts(*map(sum, zip(self, *others, strict=True)))


NO_NODATA = (
    "{} outputs are missing, and {} without nodata cannot say so; give nodata, or a float dtype"
)


def finish(sums: np.ndarray, numbers: Numbers, out: np.ndarray) -> Counts:
    """Write ``sums`` (NaN: missing) into ``out`` in the output's dtype."""
    target, fill = numbers.target, numbers.fill
    if target.kind == "f":
        if not np.may_share_memory(sums, out):
            with np.errstate(over="ignore"):
                out[:] = sums
        if fill is None or np.isnan(fill):
            return Counts()
        collisions = int(np.count_nonzero(out == fill))
        missing = np.isnan(out)
        out[missing] = fill
        return Counts(int(np.count_nonzero(missing)), collisions)
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
        raise ConvolutionError(NO_NODATA.format(counts.missing, target))
    return Counts()


def finish_pixels(
    values: np.ndarray, holes: np.ndarray, numbers: Numbers, out: np.ndarray
) -> Counts:
    """Write values of the compute dtype into ``out``; ``holes`` are missing."""
    target, fill = numbers.target, numbers.fill
    if values.dtype.kind == "f":
        values[holes] = np.nan
        return finish(values, numbers, out)
    if target.kind in "iu":
        bounds, own = np.iinfo(target), np.iinfo(values.dtype)
        low, high = max(bounds.min, own.min), min(bounds.max, own.max)
        values = np.clip(values, values.dtype.type(low), values.dtype.type(high))
    out[:] = values
    missing = int(np.count_nonzero(holes))
    if fill is None:
        if missing:
            raise ConvolutionError(NO_NODATA.format(missing, target))
        return Counts()
    collisions = int(np.count_nonzero(out[~holes] == fill))
    out[holes] = fill
    return Counts(0 if np.isnan(fill) else missing, collisions)
