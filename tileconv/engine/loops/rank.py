"""Focal statistics by rank: plain loops over the footprint of each output.

Missing pixels are told by a plane, so that pixels keep their dtype: the codes of a 64-bit band
would not survive a float. -0 orders before +0, as in IEEE 754-2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tileconv.engine.jit import loop

Pair = tuple[int, int]
NONE_MISSING = np.ones((0, 0, 0), bool)


@dataclass(frozen=True, eq=False)
class Rank:
    """A statistic of a footprint, ready to run."""

    statistic: str
    footprint: np.ndarray
    """(kh, kw) bool."""
    least: int
    """Fewest valid pixels of a field; with fewer, nothing is computed."""
    every: bool
    """Missing pixels count, with what the planes hold there."""

    def run(
        self,
        planes: np.ndarray,
        valid: np.ndarray | None,
        out: np.ndarray,
        counts: np.ndarray,
        *,
        stride: Pair,
        dilation: Pair,
    ) -> None:
        """Reduce planes (bands, H, W) to ``out`` (bands, OH, OW).

        ``valid`` is bool, (bands, H, W) or one such plane for all; None: all pixels are. ``counts``
        (uint32) gets the valid pixels of each field; where they are fewer than ``least``, ``out``
        holds anything.
        """
        rows, columns = np.nonzero(self.footprint)
        _LOOPS[self.statistic](
            planes,
            NONE_MISSING if valid is None else valid,
            (rows * dilation[0], columns * dilation[1]),
            stride,
            (self.least, self.every),
            out,
            counts,
        )


@loop
def max_of_fields(
    planes: np.ndarray,
    valid: np.ndarray,
    offsets: tuple[np.ndarray, np.ndarray],
    stride: Pair,
    rule: tuple[int, bool],
    out: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Write the largest pixel of each field; see `Rank.run`."""
    rows, columns = offsets
    least, every = rule
    known = valid.shape[0] == 0
    for b in range(out.shape[0]):
        plane = planes[b]
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                top, left = i * stride[0], j * stride[1]
                count = 0
                empty = True
                best = plane[top, left]
                for k in range(rows.size):
                    y, x = top + rows[k], left + columns[k]
                    seen = known or valid[min(b, valid.shape[0] - 1), y, x]
                    count += seen
                    if seen or every:
                        value = plane[y, x]
                        # -0 gives way to any 0
                        if empty or value > best or (value == best == 0 and 1 / best < 0):
                            best = value
                        empty = False
                counts[b, i, j] = count
                if count < least or empty:
                    best = plane[top, left]  # any value: the output is missing
                out[b, i, j] = best


@loop
def median_of_fields(
    planes: np.ndarray,
    valid: np.ndarray,
    offsets: tuple[np.ndarray, np.ndarray],
    stride: Pair,
    rule: tuple[int, bool],
    out: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Write the median of each field, the mean of two where their number is even.

    See `Rank.run`.
    """
    rows, columns = offsets
    least, every = rule
    known = valid.shape[0] == 0
    values = np.empty(rows.size, planes.dtype)
    for b in range(out.shape[0]):
        plane = planes[b]
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                top, left = i * stride[0], j * stride[1]
                count = size = 0
                for k in range(rows.size):
                    y, x = top + rows[k], left + columns[k]
                    seen = known or valid[min(b, valid.shape[0] - 1), y, x]
                    count += seen
                    if seen or every:
                        values[size] = plane[y, x]
                        size += 1
                counts[b, i, j] = count
                if count < least or size == 0:
                    out[b, i, j] = 0
                    continue
                high = select(values, size, size // 2)
                if size % 2 == 1:
                    out[b, i, j] = high
                    continue
                low = select(values, size, size // 2 - 1)
                if low == high:  # infinite ones too, whose difference is no number
                    out[b, i, j] = high
                else:
                    out[b, i, j] = np.float64(low) + 0.5 * (np.float64(high) - np.float64(low))


@loop
def select(values: np.ndarray, size: int, rank: int) -> Any:
    """Return the value of a rank, from 0, among the first ``size``, which are reordered.

    Hoare's selection; a zero gets the sign of its rank among the zeros.
    """
    first, last = 0, size - 1
    while first < last:
        pivot = values[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            last = j
        elif rank >= i:
            first = i
        else:
            break
    found = values[rank]
    if found == 0:
        before = signed = negative = positive = 0
        for k in range(size):
            if values[k] < 0:
                before += 1
            elif values[k] == 0:
                if 1 / values[k] < 0:
                    signed += 1
                    negative = k
                else:
                    positive = k
        found = values[negative if rank - before < signed else positive]
    return found


_LOOPS: Mapping[str, Any] = {"max": max_of_fields, "median": median_of_fields}
