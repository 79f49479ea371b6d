"""Sums of fields with missing pixels, settled by the weight of those that are valid."""

from dataclasses import dataclass

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.jit import loop
from tileconv.engine.lanes import pointer_for, pointer_to
from tileconv.engine.marks import (
    BESIDE,
    WIDE_MARKS,
    all_are,
    all_reach_one,
    gather_rows,
    lose_block,
    settle_block,
    weigh_block,
)
from tileconv.engine.memory import address

FAR = 4 * BESIDE
"""Neighbouring outputs whose marks are looked at together first."""


@dataclass(frozen=True)
class Rule:
    """What becomes of the sum of a field with missing pixels."""

    scale: bool
    """It is multiplied by ``total / valid``, in float64, where that is not 1."""
    least: float
    """It is missing, that is NaN, where ``valid / total`` is less."""
    empty: bool
    """It is missing where ``valid`` is 0."""


def settle(
    sums: np.ndarray,
    valid: np.ndarray,
    lost: np.ndarray,
    taps: Taps,
    sampling: tuple[tuple[int, int], tuple[int, int]],
    rule: Rule | None,
    share: np.ndarray | None,
) -> None:
    """Settle the sums (OH, OW) of one kernel, in place.

    The weight of a field's valid pixels is the sum of their ``|w|`` in float64,
    tap by tap; it is added up only where some are missing and some are not.

    valid     (bands, H, W) uint8, 0 where a pixel is missing, else 1
    lost      (bands, H) uint8, 0 where a row has no missing pixel: ``valid`` may then hold anything
              there, and is mended where it is looked at
    sampling  stride and dilation, (y, x)
    rule      None leaves the sums as they are
    share     (OH, OW) float; lowered to the share of the weight that is valid, if it is less
    """
    (stride_y, stride_x), (step_y, step_x) = sampling
    y, x = taps.y.astype(np.intp) * step_y, taps.x.astype(np.intp) * step_x
    sizes = np.abs(taps.exact)
    total = float(np.cumsum(sizes)[-1]) if sizes.size else 0.0  # one after the other, as below
    if not total:  # no taps: nothing can be missing
        return
    places = (taps.band.astype(np.intp) * valid.shape[1] + y) * valid.shape[2] + x
    block = np.empty(BESIDE)
    span = int(x.max()) + 1
    reach = (min(BESIDE, sums.shape[1]) - 1) * stride_x + span  # a stride may be huge
    marks = np.empty((2, valid.shape[2] + reach + WIDE_MARKS), np.uint8)
    bands = np.unique(taps.band).astype(np.intp) * valid.shape[1]
    rows = (bands[:, None] + np.unique(y)).ravel()
    rows_here = np.empty_like(rows)
    _settle(
        sums[:0, 0].copy(),
        address(sums),
        sums.strides[0],
        sums.shape,
        valid,
        lost.ravel(),
        address(valid),
        (stride_y, stride_x, span, reach),
        rows,
        rows_here,
        places,
        sizes,
        block,
        address(block),
        (address(places), address(sizes), address(marks), address(rows_here)),
        total,
        rule is not None,
        rule is not None and rule.scale,
        -1.0 if rule is None else rule.least * total,
        rule is not None and rule.empty,
        np.empty((0, 0)) if share is None else share,
        share is not None,
    )


@loop
def _settle(  # type: ignore[no-untyped-def]
    like,
    target,
    pitch,
    shape,
    valid,
    lost,
    valid_at,
    layout,
    rows,
    rows_here,
    taps,
    sizes,
    block,
    block_at,
    tables_at,
    total,
    ruled,
    scale,
    least,
    empty,
    share,
    shared,
):
    stride_y, stride_x, span, reach = layout
    width = valid.shape[2]
    padded = width + reach + WIDE_MARKS
    pixels = pointer_for(valid, valid_at)  # no slices: each would count its references
    low = pointer_for(valid, tables_at[2])
    high = pointer_to(low, padded)
    weights, weights_at = block, pointer_for(block, block_at)
    taps_at, sizes_at = pointer_for(taps, tables_at[0]), pointer_for(sizes, tables_at[1])
    presence = ruled and not scale and least <= 0 and not shared  # only empty fields are missing
    presence &= sizes.size == rows.size * span  # and taps lie everywhere in a field
    loses_empty = ruled and (empty or least > 0)
    far_empty = loses_empty and not shared
    for x in range(width, padded):  # looks may go beyond the row
        low[x] = 1
        high[x] = 0
    for y in range(shape[0]):
        top = y * stride_y
        some = False
        for r in range(rows.size):
            some |= lost[rows[r] + top] != 0
        if not some:
            continue
        for r in range(rows.size):
            row = rows[r] + top
            rows_here[r] = row * width
            if lost[row] == 0:
                lost[row] = 1
                marks = pointer_to(pixels, row * width)
                for x in range(width):
                    marks[x] = 1
        if _gather(pixels, rows_here, tables_at[3], width, low, high):
            continue
        sums = pointer_for(like, target + np.uintp(y * pitch))
        end = 0
        while end < shape[1]:
            start, end = end, min(end + FAR, shape[1])
            if end - start == FAR:
                left = start * stride_x
                reads = (FAR - 1) * stride_x + span
                if all_are(pointer_to(low, left), reads, 1):
                    continue
                if far_empty and all_are(pointer_to(high, left), reads, 0):
                    for x in range(start, end, BESIDE):
                        lose_block(pointer_to(sums, x))
                    continue
            for first in range(start, end, BESIDE):
                left = first * stride_x
                number = min(BESIDE, end - first)
                reads = (number - 1) * stride_x + span
                if all_are(pointer_to(low, left), reads, 1):
                    continue
                here = top * width + left
                beside = pointer_to(sums, first)
                weighed = True
                if all_are(pointer_to(high, left), reads, 0):
                    if shared:
                        for i in range(number):
                            share[y, first + i] = 0
                    if loses_empty:
                        for i in range(number):
                            beside[i] = np.nan
                        continue
                    weights[:] = 0
                    weighed = False
                elif presence and all_reach_one(pointer_to(high, left), number, stride_x, span):
                    continue
                if weighed and stride_x == 1 and number == BESIDE:
                    weigh_block(pointer_to(pixels, here), taps_at, sizes_at, sizes.size, weights_at)
                elif weighed:
                    for i in range(number):
                        weight = 0.0
                        for t in range(sizes.size):
                            weight += sizes[t] * pixels[here + taps[t] + i * stride_x]
                        weights[i] = weight
                if shared:
                    for i in range(number):
                        share[y, first + i] = min(share[y, first + i], weights_at[i] / total)
                if ruled and number == BESIDE:
                    settle_block(beside, weights_at, total, scale, least, empty)
                elif ruled:
                    for i in range(number):
                        if scale and weights_at[i] != total:
                            beside[i] = beside[i] * (total / weights_at[i])
                        if (weights_at[i] < least) | (empty & (weights_at[i] == 0)):
                            beside[i] = np.nan


@loop
def _gather(pixels, rows, rows_at, width, low, high):  # type: ignore[no-untyped-def]
    """Write the least and the greatest mark of each column of some rows; say whether all are 1.

    ``rows`` (R,) intp, at the address ``rows_at``, says where in ``pixels`` each row begins; the
    others are pointers to uint8.
    """
    whole = True
    done = 0
    if width >= WIDE_MARKS:
        at = pointer_for(rows, rows_at)
        while done < width:
            done = min(done, width - WIDE_MARKS)  # the last ones overlap
            marks = pointer_to(pixels, done)
            whole &= gather_rows(
                marks, at, rows.size, pointer_to(low, done), pointer_to(high, done)
            )
            done += WIDE_MARKS
        return whole
    for x in range(width):
        low[x] = 1
        high[x] = 0
    for r in range(rows.size):
        seen = pointer_to(pixels, rows[r])
        for x in range(width):
            low[x] &= seen[x]
        for x in range(width):
            high[x] |= seen[x]
    for x in range(width):
        whole &= low[x] == 1
    return whole
