"""Banks whose fields share no pixel: matrix products of kernels and places."""

from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.engine.jit import address_of, loop
from tileconv.engine.lanes import (
    ROWS,
    WIDE,
    address_at,
    call_at,
    copy_lanes,
    float_to,
    lanes,
    pixel_bytes,
    pointer_like,
    pointer_to,
    prefetch,
)
from tileconv.engine.panels import settle_streams, stream, sum_panel, sum_sparse_panel

CHUNK = 192
"""Taps of a panel: their pixels, 18 KiB, stay in the first-level cache while all kernels go over
them."""
CACHE_LINE = 64


@cache
def bank_summer(number: np.dtype) -> np.uintp:
    """Return the address of `_sum_bank` for lines of a dtype."""
    floats, index = types.CPointer(from_dtype(number)), types.CPointer(types.intp)
    addresses, i, u = types.CPointer(types.uintp), types.intp, types.uintp
    kinds = (floats, i, index, i, floats, i, i, u, i, floats, i, i, addresses, i, i)
    return address_of(_sum_bank, types.void(*kinds))


@loop
def _sum_bank(  # type: ignore[no-untyped-def]
    lines,
    columns,
    places,
    place_count,
    weights,
    kernels,
    sparse,
    out,
    pitch,
    sums,
    block,
    way,
    ahead,
    ahead_count,
    ahead_bytes,
):
    n = lanes(lines)
    size = pixel_bytes(lines)
    wide = WIDE * n
    sums_at = address_at(sums)
    groups = (kernels + ROWS - 1) // ROWS
    calls = groups * ((place_count + CHUNK - 1) // CHUNK) * ((columns + wide - 1) // wide)
    cache_lines = (ahead_bytes + CACHE_LINE - 1) // CACHE_LINE
    some = (ahead_count * cache_lines + calls - 1) // calls
    row = 0
    byte = 0
    for chunk in range(0, place_count, CHUNK):
        taps = min(CHUNK, place_count - chunk)
        here_places = pointer_to(places, chunk)
        for x in range(0, columns, wide):
            for g in range(groups):
                for _ in range(some):
                    if row < ahead_count:
                        prefetch(ahead[row] + np.uintp(byte))
                        byte += CACHE_LINE
                        if byte >= ahead_bytes:
                            byte = 0
                            row += 1
                own = pointer_to(weights, (g * place_count + chunk) * ROWS)
                where = sums_at + np.uintp((g * ROWS * block + x) * size)
                at = pointer_to(lines, x)
                if sparse != 0:
                    sum_sparse_panel(at, here_places, own, taps, where, block, chunk > 0)
                else:
                    sum_panel(at, here_places, own, taps, where, block, chunk > 0)
    for k in range(kernels):
        here = out + np.uintp(k * pitch * size)
        own = pointer_to(sums, k * block)
        done = 0
        if way == 2:
            while done < columns and (here + np.uintp(done * size)) % np.uintp(CACHE_LINE) != 0:
                float_to(own[done], here + np.uintp(done * size))
                done += 1
            while done + CACHE_LINE // size <= columns:
                for i in range(0, CACHE_LINE // size, n):
                    stream(pointer_to(own, done + i), here + np.uintp((done + i) * size))
                done += CACHE_LINE // size
        else:
            while done + n <= columns:
                copy_lanes(own, pointer_like(lines, here), done * size, done)
                done += n
        for i in range(done, columns):
            float_to(own[i], here + np.uintp(i * size))


@loop
def correlate_bank(
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_pitch,
    weights_shape,
    sampling,
    layout,
    ahead,
    tables,
):
    deal, sum_bank = functions
    stride_y, stride_x, classes, row_step, hop, _ = sampling
    row_size, block, sparse, way = layout
    lines_at, sums_at, phases_at, lines_of_phases_at, places_at, weights_at, ahead_at = tables
    bands, _, in_width = shape
    kernels, out_height, out_width = out_shape
    kernel_pitch, row_pitch, size = out_pitch
    _, _, height, tap_count = weights_shape
    all_taps = bands * height * tap_count
    for c in range(classes):
        rows = (out_height - c + classes - 1) // classes
        for i in range(rows):
            for x in range(0, out_width, block):
                columns = min(block, out_width - x)
                corner = source + np.uintp(
                    (c * stride_y + i * hop * row_step) * strides[1] + x * stride_x * strides[2]
                )
                ahead_count = 0
                coming = x + block < out_width or i + 1 < rows
                following = block * stride_x * strides[2]
                if x + block >= out_width:
                    following = hop * row_step * strides[1] - x * stride_x * strides[2]
                for band in range(bands):
                    for y in range(height):
                        place = corner + np.uintp(
                            band * strides[0] + y * row_step * strides[1]
                        )
                        call_at(
                            deal,
                            place,
                            strides[2],
                            in_width - x * stride_x,
                            stride_x,
                            phases_at,
                            lines_of_phases_at,
                            columns,
                            lines_at + np.uintp((band * height + y) * row_size * size),
                        )
                        if coming:
                            ahead[ahead_count] = place + np.uintp(following)
                            ahead_count += 1
                call_at(
                    sum_bank,
                    lines_at,
                    columns,
                    places_at,
                    all_taps,
                    weights_at,
                    kernels,
                    sparse,
                    target + np.uintp(((c + i * classes) * row_pitch + x) * size),
                    kernel_pitch,
                    sums_at,
                    block,
                    way,
                    ahead_at,
                    ahead_count,
                    min(block, out_width) * stride_x * strides[2],
                )
    settle_streams()
