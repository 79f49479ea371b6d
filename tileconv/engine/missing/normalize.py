"""Normalize sums of fields with missing pixels by the weight of those that are valid.

The weight of a field's valid pixels is the correlation of the validity plane with ``|w|``, so the
loops compute it like any other one, where rows of pixels hold missing ones. All pixels valid give
one number, whatever the place: such fields keep their bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numba import from_dtype, types

from tileconv import buffers
from tileconv.engine.choose import choose
from tileconv.engine.jit import address_of, call, loop
from tileconv.engine.kernel_layout import Pair
from tileconv.engine.missing.faint import sum_faint_fields
from tileconv.engine.prepare import Loops, prepare
from tileconv.engine.vectors import pointer_address, pointer_like
from tileconv.engine.workspace import address
from tileconv.operators.convolution import Taps

WEIGHT_BYTES = 1 << 20
"""Weights that are made at a time: a part of a second-level cache, with the sums they go with."""
MISSING, COMPLETE = 1, 2
"""Rows of a validity plane with a missing pixel, and without: 0 where it says nothing yet."""
FAINT = {4: 2.0**-40, 8: 2.0**-900}
"""Shares, by bytes of the compute dtype, below which products of weights may have lost digits."""


@dataclass(frozen=True)
class NormalizationRule:
    """What becomes of the sum of a field with missing pixels."""

    scale: bool
    """It is multiplied by ``total / valid``."""
    least: float
    """It is missing, that is NaN, where ``valid / total`` is less."""
    empty: bool
    """It is missing where ``valid`` is 0."""
    counts: bool = False
    """Count valid taps instead of summing their weights, so that a missing tap of tiny weight is
    not lost to rounding."""


class ValidWeights:
    """The sums of some kernels' ``|w|`` over the valid pixels of their fields."""

    def __init__(
        self,
        kernels: Sequence[Taps],
        sampling: tuple[Pair, Pair],
        bands: int,
        dtype: np.dtype,
        *,
        counts: bool = False,
    ) -> None:
        """Lay kernels out that are sampled with (stride, dilation), for weights of a dtype."""
        taps = [_sizes(own, dtype, counts) for own in kernels]
        self.dtype, self._taps = dtype, taps
        (self._step, _), dilation = sampling
        height, width = (int(max(t[1 + i].max(initial=0) for t in taps)) + 1 for i in (0, 1))
        dense = np.zeros((len(taps), bands, height, width))
        for plane, own in zip(dense, taps, strict=True):
            plane[own.band, own.y, own.x] = own.exact
        self._span = (height - 1) * dilation[0] + 1
        self._loops: Loops = prepare(choose(dense, *sampling, dtype), *sampling, taps, bands)
        self._all = np.ones((bands, self._span, (width - 1) * dilation[1] + 1), np.uint8)

    @cached_property
    def totals(self) -> np.ndarray:
        """(kernels,) what all pixels valid give, to the bit."""
        whole = np.empty((len(self._taps), 1, 1), self.dtype)
        self._loops.run(self._all, whole)
        return whole[:, 0, 0].astype(np.float64)

    @cached_property
    def exact(self) -> np.ndarray:
        """(kernels,) the same, float64: in what is not rounded to the dtype."""
        return np.array([own.exact.sum() for own in self._taps])

    @cached_property
    def least(self) -> float:
        """The least share of a tap."""
        tapped = [own.exact.min() / own.exact.sum() for own in self._taps if own.exact.size]
        return float(min(tapped, default=1.0))

    def parts(
        self, valid: np.ndarray, rows: np.ndarray | None, shape: tuple[int, ...]
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (output rows, the weights of their fields), for outputs (kernels, OH, OW).

        Of a validity plane (bands, H, W) ``rows`` (bands, H) say which hold a MISSING pixel; where
        they are 0 it says nothing, and is made COMPLETE where it is read. None: it is whole.
        Output rows whose fields read no MISSING pixel are left out. The next weights overwrite the
        last ones.
        """
        kernels, height, width = shape
        per_row = kernels * width * self.dtype.itemsize
        together = max(WEIGHT_BYTES // per_row, 4 * -(-self._span // self._step), 1)
        end = 0
        while end < height:
            first, end = end, height
            if rows is not None:
                first, end = _next_rows(rows, self._step, self._span, first, height)
                if first == height:
                    return
                _complete(valid, rows, first * self._step, (end - 1) * self._step + self._span)
            for begin in range(first, end, together):
                stop = min(begin + together, end)
                weights = buffers.scratch("weights", (kernels, stop - begin, width), self.dtype)
                here = slice(begin * self._step, (stop - 1) * self._step + self._span)
                self._loops.run(valid[:, here], weights)
                yield slice(begin, stop), weights


@loop
def _next_rows(rows, step, span, first, height):  # type: ignore[no-untyped-def]
    """Return (first, end) of the next output rows whose fields read a row that is flagged.

    Such rows with few others in between are taken together: what these read would be packed again.
    """
    near = span // step
    flagged, row = -1, first * step
    begin, end = height, height
    for y in range(first, height):
        while row < y * step + span:
            for band in range(rows.shape[0]):
                if rows[band, row] == MISSING:
                    flagged = row
            row += 1
        if flagged >= y * step:
            begin, end = min(begin, y), y + 1
        elif begin < height and y - end >= near:
            break
    return begin, end


@loop
def _complete(valid, rows, first, end):  # type: ignore[no-untyped-def]
    """Fill in rows of a validity plane that say nothing: all their pixels are valid."""
    for band in range(rows.shape[0]):
        for row in range(first, end):
            if not rows[band, row]:
                rows[band, row] = COMPLETE
                valid[band, row] = 1


class Normalizer:
    """Applies a rule to the sums of some kernels."""

    def __init__(
        self,
        rule: NormalizationRule,
        kernels: Sequence[Taps],
        sampling: tuple[Pair, Pair],
        bands: int,
        compute: np.dtype,
    ) -> None:
        """Lay kernels out whose sums are of the dtype ``compute``."""
        self._rule, self._kernels, self._sampling = rule, kernels, sampling
        weights = ValidWeights(kernels, sampling, bands, compute, counts=rule.counts)
        self._faint = FAINT[compute.itemsize] if rule.scale else 0.0
        # a share that decides is exact, no weight that is valid becomes 0, and no sum infinite
        decides = rule.least > 0 and not rule.counts
        faint = weights.least < FAINT[compute.itemsize]
        if decides or faint or not np.isfinite(weights.totals).all():
            weights = ValidWeights(kernels, sampling, bands, np.dtype(np.float64))
        self.weights = weights
        if weights.least >= self._faint:
            self._faint = 0.0

    def normalize(
        self, planes: np.ndarray, valid: np.ndarray, rows: np.ndarray | None, sums: np.ndarray
    ) -> None:
        """Normalize sums (kernels, OH, OW), in place, of planes (bands, H, W).

        ``valid`` and ``rows`` are as for `ValidWeights.parts`. What ``planes`` hold for pixels that
        are missing does not matter.
        """
        rule = self._rule
        for part, weights in self.weights.parts(valid, rows, sums.shape):
            for kernel, own in enumerate(weights):
                total, here = self.weights.totals[kernel], sums[kernel, part]
                if not total:
                    continue  # without taps it misses nothing
                exact = self.weights.exact[kernel]
                limits = np.array([total, exact, rule.least * total], own.dtype)
                call(
                    row_normalizer(sums.dtype, own.dtype),
                    address(here),
                    here.strides[0],
                    address(own),
                    own.strides[0],
                    *own.shape,
                    address(limits),
                    rule.scale,
                    rule.empty,
                )
                if self._faint:
                    sum_faint_fields(
                        (planes, valid),
                        (here, own, self._faint * total),
                        self._kernels[kernel],
                        self._sampling,
                        part.start,
                    )


def lower_shares(
    weights: ValidWeights, valid: np.ndarray, rows: np.ndarray | None, share: np.ndarray
) -> None:
    """Lower ``share`` (OH, OW) to the least share of the weight that is valid, of all kernels."""
    shape = len(weights.totals), *share.shape
    for part, own in weights.parts(valid, rows, shape):
        for total, values in zip(weights.totals, own, strict=True):
            if total:
                np.minimum(share[part], values / total, out=share[part])


def _sizes(taps: Taps, dtype: np.dtype, counts: bool) -> Taps:
    """Return the taps of ``|w|``, or of 1, as numbers of a dtype."""
    exact = np.ones_like(taps.exact) if counts else np.abs(taps.exact)
    numbers = exact.astype(dtype)
    numbers[numbers == 0] = np.finfo(dtype).smallest_subnormal
    return taps._replace(weights=numbers, exact=exact)


@cache
def row_normalizer(compute: np.dtype, weight: np.dtype) -> np.uintp:
    """Return the address of `_normalize_rows` for sums and weights of two dtypes."""
    sums, weights = (types.CPointer(from_dtype(dtype)) for dtype in (compute, weight))
    i = types.intp
    signature = types.void(sums, i, weights, i, i, i, weights, i, i)
    return address_of(_normalize_rows, signature)


@loop
def _normalize_rows(  # type: ignore[no-untyped-def]
    sums, row_bytes, weights, weight_bytes, rows, columns, limits, scale, empty
):
    """Normalize some rows of sums.

    sums, row_bytes        pointer to the first sum; bytes from row to row
    weights, weight_bytes  the same of the weights of their fields
    limits                 pointer to what all pixels valid give, the same exactly, and the least
                           weight that is not missing
    scale, empty           see `NormalizationRule`
    """
    total, exact, least = limits[0], limits[1], limits[2]
    sums_at, weights_at = pointer_address(sums), pointer_address(weights)
    for y in range(rows):
        values = pointer_like(sums, sums_at + np.uintp(y * row_bytes))
        here = pointer_like(weights, weights_at + np.uintp(y * weight_bytes))
        for x in range(columns):
            weight, value = here[x], values[x]
            if scale and weight != total:
                value = value * (exact / weight)
            if weight < least or (empty and weight == 0):
                value = np.nan
            values[x] = value
