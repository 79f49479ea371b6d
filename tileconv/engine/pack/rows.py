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
from typing import Any

import numpy as np
from numba import from_dtype, types

from tileconv.engine.jit import address_of, loop
from tileconv.engine.pack.deinterleave import (
    copy_pixels,
    deal_fields,
    field_words,
    is_watched,
    look_at_pixels,
    pixel_at,
    pixel_bytes,
    pixels_watched,
    quad_size,
    tell,
    turn_quads,
    watched,
)
from tileconv.engine.vectors import lanes, pointer_to, prefetch
from tileconv.engine.workspace import CACHE_LINE

BLOCK = 8
"""Vectors' lanes of fields that are dealt out at a time: while they lie in the first-level cache,
one quad of all of them, then the next."""
KNOWN = (8, 16)
"""Strides that `_deal_row` knows as constants: where fields lie then takes no registers."""
PARTS, NEVER = 256, -1
"""Of an input row that comes next, see `asked_early`."""
ADDS_A_PIXEL = 4
"""Multiply-adds that take about as long as dealing out a pixel."""
UNUSED, END = -1, -2
"""In a table of places: no tap reads this phase; nor any from here on."""


def asked_early(apart: int, adds: float) -> int:
    """Return how many PARTS of the next row are asked for while one is dealt out, or NEVER.

    The others are asked for while its taps are added: evenly, so that memory is busy whatever is
    done. Outputs lie ``apart`` bytes apart in a row, and a pixel takes ``adds`` multiply-adds.
    """
    if not 0 < apart <= CACHE_LINE:
        return NEVER  # rows that are read backwards, or of which few cache lines are
    return int(PARTS * ADDS_A_PIXEL / (ADDS_A_PIXEL + adds))


def dealer_type(source: Any, stride: Any, places: Any, lines: Any, watch: Any) -> Any:
    """Return the signature of what lays out pixels, see `_deal_row`."""
    i = types.intp
    return types.void(source, i, i, stride, places, i, lines, types.uintp, i, i, watch)


@cache
def dealer(pixel: np.dtype, number: np.dtype, stride: int, *, watches: bool = False) -> np.uintp:
    """Return the address of what lays out pixels of one dtype as lines of another.

    It is `_copy_row` for stride 1, `_deal_near` for the strides that it is for, which it knows as
    constants, and `_deal_row` for any other. It may watch for pixels, see `pack.deinterleave`.
    """
    i, index = types.intp, types.CPointer(types.intp)
    source, lines = types.CPointer(from_dtype(pixel)), types.CPointer(from_dtype(number))
    near = field_words(pixel.itemsize * 8, number.itemsize * 8, stride)
    kind = types.literal(stride) if near or stride in KNOWN else i
    watch = types.CPointer(from_dtype(pixel)) if watches else types.uintp
    signature = dealer_type(source, kind, index, lines, watch)
    if stride == 1:
        return address_of(_copy_row, signature)
    return address_of(_deal_near if near else _deal_row, signature)


@cache
def watchers(pixel: np.dtype) -> tuple[np.uintp, np.uintp]:
    """Return addresses of dealers that lay nothing out: the first one only watches.

    They stand in where rows of pixels are read as they lie in memory.
    """
    i, source = types.intp, types.CPointer(from_dtype(pixel))
    index, u = types.CPointer(i), types.uintp
    watch = address_of(_watch_row, dealer_type(source, i, index, source, source))
    return watch, address_of(_leave_row, dealer_type(u, i, u, u, u))


@loop
def _watch_row(source, step, width, stride, places, count, lines, ahead, ahead_bytes, mark, watch):  # type: ignore[no-untyped-def]
    """Watch for pixels in a row that lie side by side. Arguments are those of `_deal_row`."""
    n, size = pixels_watched(source), pixel_bytes(source)
    sought, bound = watched(watch, source, 0), watched(watch, source, 1)
    found = False
    done = 0
    while done < width and width >= n:
        done = min(done, width - n)  # the last ones overlap
        found |= look_at_pixels(source, source, done * size, sought, bound, watch)
        done += n
    for i in range(done, width):
        found |= is_watched(source, source, i * size, sought, bound, watch)
    tell(watch, found)


@loop
def _leave_row(source, step, width, stride, places, count, lines, ahead, ahead_bytes, mark, watch):  # type: ignore[no-untyped-def]
    """Do nothing."""


@loop
def _copy_row(source, step, width, stride, places, count, lines, ahead, ahead_bytes, mark, watch):  # type: ignore[no-untyped-def]
    """Write one row of pixels as floats, a single line. Arguments are those of `_deal_row`.

    No row is asked for: at stride 1 the blocks of sums do that.
    """
    n = lanes(lines)
    sought, bound = watched(watch, source, 0), watched(watch, source, 1)
    done = 0
    found = False
    count = min(count, width)
    if step == pixel_bytes(source):
        while done + n <= count:
            found |= copy_pixels(source, lines, done * step, done, sought, bound, watch)
            done += n
    for i in range(done, count):
        lines[i] = pixel_at(source, i * step)
        found |= is_watched(source, lines, i * step, sought, bound, watch)
    tell(watch, found)


@loop
def _deal_row(source, step, width, stride, places, count, lines, ahead, ahead_bytes, mark, watch):  # type: ignore[no-untyped-def]
    """Write the stride phases of one row of pixels as floats, for a stride from 2 on.

    source   pointer to the row's first pixel
    step     bytes from one pixel to the next
    width    pixels that the row has
    stride   pixels between outputs
    places   pointer to intp, where the line of each phase begins, or UNUSED; after the last phase
             that is used END, as often as MOST_WORDS of floats have bytes
    count    most numbers wanted of each phase
    lines    pointer to float; lines[places[p] + i] becomes pixel p + i * stride, if the row has it,
             and what lies between the count-th number and the next whole vector anything
    ahead    address of a row of which ``ahead_bytes`` are to be asked for meanwhile, or 0
    mark     where among the marks of all pixels the row's first one has its own: not used here,
             see `missing.detect`, which may stand in
    watch    see `pack.deinterleave`
    """
    n = lanes(lines)
    sought, bound = watched(watch, source, 0), watched(watch, source, 1)
    done = 0
    found = False
    if step == pixel_bytes(source):
        apart = stride * pixel_bytes(source)
        quad = quad_size(source)
        used = 0
        while places[used] != END:
            used += 1
        end = (used + quad - 1) // quad * quad
        last = (width - end) // stride - n + 1  # from here on the row ends within fields
        while done < count and done <= last:
            begin, stop = done, min(count, done + BLOCK * n)
            if ahead:
                _fetch_part(ahead, begin, stop, count, ahead_bytes)
            for first in range(0, used, quad):
                group, at = pointer_to(places, first), begin
                whole = used - first > quad // 2
                while at < stop and at <= last:
                    here = at * apart + first * step
                    found |= turn_quads(
                        source, lines, here, apart, group, at, whole, sought, bound, watch
                    )
                    at += n
                if at < stop and last >= 0:
                    here = last * apart + first * step
                    found |= turn_quads(
                        source, lines, here, apart, group, last, whole, sought, bound, watch
                    )
                    at = last + n
                done = at
    found |= _deal_rest(source, step, width, np.intp(stride), places, count, lines, done, watch)
    tell(watch, found)


@loop
def _deal_near(source, step, width, stride, places, count, lines, ahead, ahead_bytes, mark, watch):  # type: ignore[no-untyped-def]
    """Do what `_deal_row` does for a stride that is known as a constant.

    Fields that lie side by side are read in whole vectors.
    """
    n = lanes(lines)
    sought, bound = watched(watch, source, 0), watched(watch, source, 1)
    done = np.intp(0)  # a literal would have what it is given to compiled for that too
    found = False
    apart = stride * step
    if step == pixel_bytes(source):
        last = width // stride - n
        while done < count and done <= last:
            stop = min(count, done + BLOCK * n)
            if ahead:
                _fetch_part(ahead, done, stop, count, ahead_bytes)
            while done < stop and done <= last:
                found |= deal_fields(
                    source, lines, done * apart, places, done, stride, sought, bound, watch
                )
                done += n
        if done < count and last >= 0:
            found |= deal_fields(
                source, lines, last * apart, places, last, stride, sought, bound, watch
            )
            done = last + n
    found |= _deal_rest(source, step, width, np.intp(stride), places, count, lines, done, watch)
    tell(watch, found)


@loop
def _deal_rest(source, step, width, stride, places, count, lines, done, watch):  # type: ignore[no-untyped-def]
    """Write the numbers from ``done`` on of each phase, one by one; see `_deal_row`.

    Say whether what is watched for is among them.
    """
    sought, bound = watched(watch, source, 0), watched(watch, source, 1)
    found = False
    p = 0
    while places[p] != END:
        if places[p] != UNUSED:
            place = places[p]
            for i in range(done, min(count, (width - p + stride - 1) // stride)):
                here = (p + i * stride) * step
                lines[place + i] = pixel_at(source, here)
                found |= is_watched(source, lines, here, sought, bound, watch)
        p += 1
    return found


@loop
def _fetch_part(row, begin, end, count, size):  # type: ignore[no-untyped-def]
    """Ask for what belongs to the steps ``begin .. end - 1`` of ``count`` of ``size`` bytes."""
    first, last = begin * size // count, end * size // count
    for byte in range(-(-first // CACHE_LINE) * CACHE_LINE, last, CACHE_LINE):
        prefetch(row + np.uintp(byte))
