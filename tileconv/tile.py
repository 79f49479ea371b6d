"""Compute one tile: put padding and missing data in place, run the loops, finish the numbers.

The meaning of a run is: for every tile, read its window, compute, write. This
is the middle step; it knows neither files nor dask.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tileconv import buffers
from tileconv.convolution import Convolution, Group
from tileconv.dtypes import Numbers
from tileconv.engine.choose import Algorithm, Prepared, choose
from tileconv.engine.finish import round_and_saturate
from tileconv.errors import ConvolutionError
from tileconv.missing import missing_pixels, settle_sums
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


Reads = tuple[AxisRead, AxisRead]
"""How a window is sampled along (y, x)."""
Sampling = tuple[tuple[int, int], tuple[int, int]]
"""Stride and dilation of a window."""


@dataclass(frozen=True)
class Recipe:
    """All that the tiles of a run have in common."""

    convolution: Convolution
    numbers: Numbers
    algorithm: Algorithm
    groups: tuple[Group, ...]
    bias: np.ndarray | None
    """Of the compute dtype."""
    _prepared: dict[tuple[int, bool, Sampling], Prepared] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, convolution: Convolution, numbers: Numbers, bands: int) -> "Recipe":
        """Return the recipe for ``bands`` input planes."""
        c = convolution
        return cls(
            convolution=c,
            numbers=numbers,
            algorithm=choose(c.weights, c.stride, c.dilation, numbers.compute),
            groups=c.plan_groups(bands, numbers.compute),
            bias=None if c.bias is None else c.bias.astype(numbers.compute),
        )

    @property
    def outputs(self) -> int:
        """Output planes."""
        return sum(len(group.outputs) for group in self.groups)

    def prepared(self, group: Group, reads: Reads, *, magnitudes: bool = False) -> Prepared:
        """Return the kernels of a group, or their ``|w|`` in float64, laid out for windows.

        Laid out once for each way to sample a window; groups with the same kernels share it.
        """
        rows, columns = reads
        sampling = (rows.stride, columns.stride), (rows.dilation, columns.dilation)
        key = id(group.taps), magnitudes, sampling
        found = self._prepared.get(key)
        if found is None:
            taps = [t.magnitudes() for t in group.taps] if magnitudes else group.taps
            found = self.algorithm.prepare(*sampling, taps, len(group.bands))
            self._prepared[key] = found
        return found


def compute_tile(
    recipe: Recipe,
    reads: Reads,
    window: np.ndarray,
    masked: np.ndarray | None,
    out: np.ndarray,
    share: np.ndarray | None = None,
) -> Counts:
    """Compute all planes of one tile into ``out``.

    Parameters
    ----------
    window
        (B, rows.size, columns.size) of ``numbers.source``; places that hold padding may hold
        anything.
    masked
        Boolean (rows.size, columns.size), or one such plane for all bands or for each, True where
        a mask hides the pixel; None if none is hidden.
    out
        (outputs, rows.outputs, columns.outputs) of ``numbers.target``, overwritten.
    share
        (rows.outputs, columns.outputs) float, overwritten with the least share of ``sum |w|``
        that lies on valid pixels, over all outputs; None if nobody asks.
    """
    counts = Counts()
    if share is not None:
        share[:] = 1
    for group in recipe.groups:
        counts = counts.plus(_compute_group(recipe, group, reads, window, masked, out, share))
    return counts


def _compute_group(
    recipe: Recipe,
    group: Group,
    reads: Reads,
    window: np.ndarray,
    masked: np.ndarray | None,
    out: np.ndarray,
    share: np.ndarray | None,
) -> Counts:
    c, numbers = recipe.convolution, recipe.numbers
    planes, missing = _settle(
        c, numbers, reads, window, masked, group.bands, look=share is not None
    )
    outputs = slice(group.outputs[0], group.outputs[-1] + 1)
    sums = out[outputs]
    if numbers.target != numbers.compute:
        sums = np.empty(sums.shape, numbers.compute)
    recipe.prepared(group, reads).run(planes, sums)
    if any(lost is not None for lost in missing):
        _settle_missing(recipe, group, reads, missing, sums, share)
    counts = Counts()
    for i, values in zip(group.outputs, sums, strict=True):
        if recipe.bias is not None:
            np.add(values, recipe.bias[i], out=values)
        counts = counts.plus(finish(values, numbers, out[i]))
    return counts


def _plane(masked: np.ndarray | None, band: int) -> np.ndarray | None:
    if masked is None or masked.ndim == 2:
        return masked
    return masked[band if len(masked) > 1 else 0]


def _settle(
    convolution: Convolution,
    numbers: Numbers,
    reads: Reads,
    window: np.ndarray,
    masked: np.ndarray | None,
    bands: tuple[int, ...],
    *,
    look: bool,
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Return (bands with padding and missing data put in, where each has missing pixels or None).

    The window's own bands where there is neither: the cast to the compute dtype is then part of
    the loops, and gives the same numbers. Under ``propagate`` missing pixels are NaN and need no
    list, unless someone must ``look``.
    """
    spreads = convolution.missing == "propagate"
    listed = look or convolution.require_center or not spreads
    planes = window[bands[0] : bands[-1] + 1]
    missing = [missing_pixels(plane, numbers.nodata, nan=listed) for plane in planes]
    for i, band in enumerate(bands):
        hidden = _plane(masked, band)
        if hidden is not None and hidden.any():
            found = missing[i]
            missing[i] = hidden.copy() if found is None else found | hidden
    outside = [read.outside for read in reads]
    if all(m is None for m in missing) and all(o is None for o in outside):
        whole = planes if numbers.source != np.float16 else planes.astype(numbers.compute)
        return whole, missing
    pixels = buffers.zeros(planes.shape, numbers.compute)
    pixels[...] = planes
    lost_value = np.nan
    if not spreads:
        lost_value = convolution.fill_value if convolution.missing == "fill" else 0.0
    unseen = convolution.padding_mode == "missing"
    for i, plane in enumerate(pixels):
        lost = missing[i]
        if lost is not None:
            plane[lost] = lost_value
        for outer, place in zip(outside, (np.s_[:, None], np.s_[None, :]), strict=True):
            if outer is None:
                continue
            around = np.broadcast_to(outer[place], plane.shape)
            plane[around] = lost_value if unseen else convolution.padding_value
            if unseen or lost is not None:
                lost = np.zeros(plane.shape, bool) if lost is None else lost
                lost[around] = unseen
        missing[i] = lost if listed else None
    return pixels, missing


def _settle_missing(
    recipe: Recipe,
    group: Group,
    reads: Reads,
    missing: list[np.ndarray | None],
    sums: np.ndarray,
    share: np.ndarray | None,
) -> None:
    """Apply the policy for missing data to the sums of a group, in place."""
    c = recipe.convolution
    shape = next(lost.shape for lost in missing if lost is not None)
    lost = [np.zeros(shape, bool) if plane is None else plane for plane in missing]
    if c.missing != "propagate" or share is not None:
        planes = np.stack([(~plane).view(np.uint8) for plane in lost])
        weigh = recipe.prepared(group, reads, magnitudes=True)
        valid = np.empty(sums.shape, np.float64)
        weigh.run(planes, valid)
        totals = np.empty((len(valid), 1, 1))
        field = ((k - 1) * r.dilation + 1 for r, k in zip(reads, c.kernel_shape, strict=True))
        weigh.run(np.ones((len(planes), *field), np.uint8), totals)
        for values, seen, total in zip(sums, valid, totals[:, 0, 0].tolist(), strict=True):
            if c.missing != "propagate":
                values[:] = settle_sums(c.missing, values, seen, total, c.min_valid_fraction)
            if share is not None and total:
                np.minimum(share, seen / total, out=share)
    if c.require_center:
        hidden = _centres(c, reads, np.logical_or.reduce(lost), sums[0].shape)
        for values in sums:
            values[hidden] = np.nan


def _centres(
    convolution: Convolution, reads: Reads, lost: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return the pixels of a window that lie under the kernel's centre (kh // 2, kw // 2)."""
    rows, columns = reads
    kh, kw = convolution.kernel_shape
    y, x = rows.dilation * (kh // 2), columns.dilation * (kw // 2)
    return lost[y :: rows.stride, x :: columns.stride][: shape[0], : shape[1]]


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
