"""Lay input pixels out as lines of floats, in which neighbouring outputs' pixels are neighbours.

A row of pixels is dealt out into its stride phases, so that one tap of
neighbouring outputs lies contiguously in memory whatever the stride:

    columns   0 1 2 3 4 5 6 7 8      stride 3
    phase 0   0     3     6          what tap 0 of outputs 0, 1, 2 reads
    phase 1     1     4     7        tap 1
    phase 2       2     5     8      tap 2

Only this step knows the dtype of the pixels. The loops call it by its address:
were it linked into them, they would be compiled anew for every dtype.
"""

from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.engine.jit import address_of, loop
from tileconv.engine.lanes import (
    copy_lanes,
    lanes,
    pixel_at,
    pixel_bytes,
    pointer_to,
    turn_lanes,
    unzip_lanes,
)

UNUSED, END = -1, -2
"""In a table of phases: no tap reads this one; nor any from here on."""


@cache
def dealer(pixel: np.dtype, number: np.dtype) -> np.uintp:
    """Return the address of `_deal_row` for pixels of one dtype and lines of another."""
    index = types.CPointer(types.intp)
    signature = types.void(
        types.CPointer(from_dtype(pixel)),
        types.intp,
        types.intp,
        types.intp,
        index,
        index,
        types.intp,
        types.CPointer(from_dtype(number)),
    )
    return address_of(_deal_row, signature)


@loop
def _deal_row(source, step, width, stride, phases, places, count, lines):  # type: ignore[no-untyped-def]
    """Write the stride phases of one row of pixels as floats.

    source   pointer to the row's first pixel
    step     bytes from one pixel to the next
    width    pixels that the row has
    stride   pixels between outputs
    phases   pointer to intp, one for each phase in groups of a vector's lanes: the line of each,
             or UNUSED; END after the last group
    places   pointer to intp, where the line of each phase begins; unused ones have a line to waste
    count    most numbers wanted of each phase
    lines    pointer to float; lines[places[p] + i] becomes pixel p + i * stride, if the row has it
    """
    n = lanes(lines)
    plain = step == pixel_bytes(source)
    done = 0
    if stride == 1:
        count = min(count, width)
        if plain:
            while done + n <= count:
                copy_lanes(source, lines, done * step, done)
                done += n
        for i in range(done, count):
            lines[i] = pixel_at(source, i * step)
        return
    for first in range(0, stride, n):
        if phases[first] == END:
            break
        last = first
        for p in range(first, first + n):
            if phases[p] != UNUSED:
                last = p + 1
        if last == first:
            continue
        done = 0
        if plain and stride == 2:
            while done < count and 2 * (done + n) <= width:
                at, even, odd = 2 * done * step, places[0] + done, places[1] + done
                unzip_lanes(source, lines, at, even, odd)
                done += n
        elif plain:
            group = pointer_to(places, first)
            while done < count and first + n + stride * (done + n - 1) <= width:
                at = (first + done * stride) * step
                turn_lanes(source, lines, at, stride * step, group, done)
                done += n
        if done >= count:
            continue
        for p in range(first, last):
            if phases[p] == UNUSED:
                continue
            place = places[p]
            for i in range(done, min(count, (width - p + stride - 1) // stride)):
                lines[place + i] = pixel_at(source, (p + i * stride) * step)
