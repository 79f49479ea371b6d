"""Pack rows of pixels: floats, in which the pixels of neighbouring outputs are neighbours.

A row is deinterleaved into its stride phases, so that one tap of neighbouring
outputs is contiguous in memory whatever the stride:

    columns   0 1 2 3 4 5 6 7 8      stride 3
    phase 0   0     3     6          what tap 0 of outputs 0, 1, 2 reads
    phase 1     1     4     7        tap 1
    phase 2       2     5     8      tap 2

Only packing knows the dtype of the pixels. The loops call it by its address:
linked into them, it would make them compile again for every dtype.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, types

from tileconv.engine.blocking import END, UNUSED
from tileconv.engine.jit import address_of, loop
from tileconv.engine.pack.deinterleave import (
    convert_and_detect,
    deinterleave_fields,
    detect_in_pixel,
    detect_in_vectors,
    field_words,
    pixel_at,
    pixel_bytes,
    pixels_per_detection,
    quad_size,
    report_detected,
    sought_value,
    transpose_quads,
)
from tileconv.engine.vectors import advance, lane_count, prefetch
from tileconv.engine.workspace import CACHE_LINE

TILE_VECTORS = 8
"""Vectors of fields that are packed at a time, quad by quad, while the first-level cache holds
them."""
CONSTANT_STRIDES = (8, 16)
"""Strides that are constants in `_deinterleave_row`: addresses of fields then take no registers."""
PREFETCH_PARTS, NO_PREFETCH = 256, -1
"""Parts of the next input row, and none of them, see `early_prefetch`."""
ADDS_PER_PIXEL = 4
"""Multiply-adds that take about as long as packing a pixel."""


def early_prefetch(field_bytes: int, adds: float) -> int:
    """Return how many PREFETCH_PARTS of the next row are prefetched while one is packed.

    The others are prefetched while its taps are added, evenly, so that memory is always busy.
    Outputs lie ``field_bytes`` bytes apart in a row, and a pixel takes ``adds`` multiply-adds.
    NO_PREFETCH is returned for rows of which few cache lines are read.
    """
    if not 0 < field_bytes <= CACHE_LINE:
        return NO_PREFETCH  # a row that is read backwards, too
    return int(PREFETCH_PARTS * ADDS_PER_PIXEL / (ADDS_PER_PIXEL + adds))


def row_packer_signature(source: Any, stride: Any, offsets: Any, packed: Any, sought: Any) -> Any:
    """Return the signature of a row packer, see `_deinterleave_row`."""
    i = types.intp
    return types.void(source, i, i, stride, offsets, i, packed, types.uintp, i, i, sought)


@cache
def row_packer(
    pixel: np.dtype, compute: np.dtype, stride: int, *, detects: bool = False
) -> np.uintp:
    """Return the address of a row packer from pixels of one dtype to floats of another.

    It is `_convert_row` for stride 1, `_deinterleave_adjacent` for the strides that have a code of
    their own, and `_deinterleave_row` for any other. It can detect pixels that are sought as it
    goes, see `pack.deinterleave`.
    """
    i, index = types.intp, types.CPointer(types.intp)
    source, packed = types.CPointer(from_dtype(pixel)), types.CPointer(from_dtype(compute))
    adjacent = field_words(pixel.itemsize * 8, compute.itemsize * 8, stride)
    kind = types.literal(stride) if adjacent or stride in CONSTANT_STRIDES else i
    sought = types.CPointer(from_dtype(pixel)) if detects else types.uintp
    signature = row_packer_signature(source, kind, index, packed, sought)
    if stride == 1:
        return address_of(_convert_row, signature)
    return address_of(_deinterleave_adjacent if adjacent else _deinterleave_row, signature)


@cache
def row_detectors(pixel: np.dtype) -> tuple[np.uintp, np.uintp]:
    """Return addresses of two row packers that pack nothing; the first one only detects.

    They are used where rows of pixels are read in place.
    """
    i, source = types.intp, types.CPointer(from_dtype(pixel))
    index, u = types.CPointer(i), types.uintp
    sought = address_of(_detect_in_row, row_packer_signature(source, i, index, source, source))
    return sought, address_of(_pass_row, row_packer_signature(u, i, u, u, u))


@loop
def _detect_in_row(  # type: ignore[no-untyped-def]
    source, step, width, stride, offsets, count, packed, prefetch_at, prefetch_bytes, pixel, sought
):
    """Detect sought pixels in a contiguous row. Arguments are those of `_deinterleave_row`."""
    n, size = pixels_per_detection(source), pixel_bytes(source)
    value, bound = sought_value(sought, source, 0), sought_value(sought, source, 1)
    found = False
    done = 0
    while done < width and width >= n:
        done = min(done, width - n)  # the last ones overlap
        found |= detect_in_vectors(source, source, done * size, value, bound, sought)
        done += n
    for i in range(done, width):
        found |= detect_in_pixel(source, source, i * size, value, bound, sought)
    report_detected(sought, found)


@loop
def _pass_row(  # type: ignore[no-untyped-def]
    source, step, width, stride, offsets, count, packed, prefetch_at, prefetch_bytes, pixel, sought
):
    """Do nothing."""


@loop
def _convert_row(  # type: ignore[no-untyped-def]
    source, step, width, stride, offsets, count, packed, prefetch_at, prefetch_bytes, pixel, sought
):
    """Convert a row of pixels to floats. Arguments are those of `_deinterleave_row`.

    Nothing is prefetched here: at stride 1 the register tiles do that.
    """
    n = lane_count(packed)
    value, bound = sought_value(sought, source, 0), sought_value(sought, source, 1)
    done = 0
    found = False
    count = min(count, width)
    if step == pixel_bytes(source):
        while done + n <= count:
            found |= convert_and_detect(source, packed, done * step, done, value, bound, sought)
            done += n
    for i in range(done, count):
        packed[i] = pixel_at(source, i * step)
        found |= detect_in_pixel(source, packed, i * step, value, bound, sought)
    report_detected(sought, found)


@loop
def _deinterleave_row(  # type: ignore[no-untyped-def]
    source, step, width, stride, offsets, count, packed, prefetch_at, prefetch_bytes, pixel, sought
):
    """Write the stride phases of a row of pixels as floats, for a stride from 2 on.

    source   pointer to the row's first pixel
    step     bytes from one pixel to the next
    width    pixels of the row
    stride   pixels between outputs
    offsets  pointer to intp, where each phase begins in the packed row, or UNUSED; after the last
             phase in use END, as often as MOST_WORDS of floats have bytes
    count    most elements wanted of each phase
    packed   pointer to float; packed[offsets[p] + i] becomes pixel p + i * stride, if the row has
             it; elements between the count-th one and the next whole vector become anything
    prefetch_at, prefetch_bytes
             address of a row of which some bytes are prefetched at the same time, or 0
    pixel    number of the row's first pixel, counted through all planes: not used here, but by the
             packer of `missing.detect`, which has the same arguments
    sought   see `pack.deinterleave`
    """
    n = lane_count(packed)
    value, bound = sought_value(sought, source, 0), sought_value(sought, source, 1)
    done = 0
    found = False
    if step == pixel_bytes(source):
        field_bytes = stride * pixel_bytes(source)
        quad = quad_size(source)
        used = 0
        while offsets[used] != END:
            used += 1
        end = (used + quad - 1) // quad * quad
        last = (width - end) // stride - n + 1  # from here on the row ends within fields
        while done < count and done <= last:
            begin, stop = done, min(count, done + TILE_VECTORS * n)
            if prefetch_at:
                _prefetch_part(prefetch_at, begin, stop, count, prefetch_bytes)
            for first in range(0, used, quad):
                group, at = advance(offsets, first), begin
                whole = used - first > quad // 2
                while at < stop and at <= last:
                    here = at * field_bytes + first * step
                    found |= transpose_quads(
                        source, packed, here, field_bytes, group, at, whole, value, bound, sought
                    )
                    at += n
                if at < stop and last >= 0:
                    here = last * field_bytes + first * step
                    found |= transpose_quads(
                        source, packed, here, field_bytes, group, last, whole, value, bound, sought
                    )
                    at = last + n
                done = at
    found |= _deinterleave_rest(
        source, step, width, np.intp(stride), offsets, count, packed, done, sought
    )
    report_detected(sought, found)


@loop
def _deinterleave_adjacent(  # type: ignore[no-untyped-def]
    source, step, width, stride, offsets, count, packed, prefetch_at, prefetch_bytes, pixel, sought
):
    """Do what `_deinterleave_row` does for a stride that is a constant.

    Fields lie side by side and are read in whole vectors.
    """
    n = lane_count(packed)
    value, bound = sought_value(sought, source, 0), sought_value(sought, source, 1)
    done = np.intp(0)  # a literal would have what it is given to compiled for that too
    found = False
    field_bytes = stride * step
    if step == pixel_bytes(source):
        last = width // stride - n
        while done < count and done <= last:
            stop = min(count, done + TILE_VECTORS * n)
            if prefetch_at:
                _prefetch_part(prefetch_at, done, stop, count, prefetch_bytes)
            while done < stop and done <= last:
                found |= deinterleave_fields(
                    source, packed, done * field_bytes, offsets, done, stride, value, bound, sought
                )
                done += n
        if done < count and last >= 0:
            found |= deinterleave_fields(
                source, packed, last * field_bytes, offsets, last, stride, value, bound, sought
            )
            done = last + n
    found |= _deinterleave_rest(
        source, step, width, np.intp(stride), offsets, count, packed, done, sought
    )
    report_detected(sought, found)


@loop
def _deinterleave_rest(source, step, width, stride, offsets, count, packed, done, sought):  # type: ignore[no-untyped-def]
    """Write the elements from ``done`` on of each phase, one by one; see `_deinterleave_row`.

    Return whether a sought pixel is among them.
    """
    value, bound = sought_value(sought, source, 0), sought_value(sought, source, 1)
    found = False
    p = 0
    while offsets[p] != END:
        if offsets[p] != UNUSED:
            place = offsets[p]
            for i in range(done, min(count, (width - p + stride - 1) // stride)):
                here = (p + i * stride) * step
                packed[place + i] = pixel_at(source, here)
                found |= detect_in_pixel(source, packed, here, value, bound, sought)
        p += 1
    return found


@loop
def _prefetch_part(row, begin, end, count, size):  # type: ignore[no-untyped-def]
    """Prefetch the share of the steps ``begin .. end - 1`` of ``count`` in ``size`` bytes."""
    first, last = begin * size // count, end * size // count
    for byte in range(-(-first // CACHE_LINE) * CACHE_LINE, last, CACHE_LINE):
        prefetch(row + np.uintp(byte))
