"""Sum up rows of outputs tile by tile, and say which packed rows of a ring they read."""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types

from tileconv.engine.blocking import LONG_NR, MR, NR, STAGED_TILES
from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import (
    DENSE,
    SPARSE,
    UNROLLED,
    UNROLLED_3X3,
    UNROLLED_5,
    UNROLLED_7,
)
from tileconv.engine.micro.direct_tile import chosen_tile, generate_tile
from tileconv.engine.micro.stores import stream_lines
from tileconv.engine.micro.unrolled_tile import generate_unrolled, generate_unrolled_square
from tileconv.engine.pack.deinterleave import convert_vector, pixel_bytes
from tileconv.engine.vectors import (
    advance,
    copy_bytes,
    intrinsic,
    lane_count,
    pointer_address,
    pointer_like,
    prefetch,
)
from tileconv.engine.workspace import CACHE_LINE


def partial_tile(which: int) -> int:
    """Return the tile for fewer than MR output rows of a kernel whose tile is ``which``."""
    return SPARSE if which == SPARSE else DENSE


@intrinsic
def input_row(typingctx: Any, index: Any, row_stride: Any, height: Any, overlap: Any) -> Any:
    """Return which row of its residue class packed row ``index`` holds."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        index, row_stride, height, overlap = args
        row = builder.mul(builder.udiv(index, height), row_stride)
        row = builder.add(row, builder.urem(index, height))
        return builder.select(builder.icmp_signed("==", row_stride, overlap), index, row)

    i = types.intp
    return i(i, i, i, i), generate


@loop
def write_row_steps(steps, first, layout, weights_shape, overlap, count):  # type: ignore[no-untyped-def]
    """Write which packed rows ``count`` output rows read; return the number of steps.

    steps          (3 * S,) intp, see `direct_tile.generate_tile`
    first          packed row that the first output row begins with
    layout         packed rows in the ring, elements of each
    weights_shape  (1, bands, height, T)
    overlap        packed rows from one output row to the next
    """
    ring, row_size = layout
    _, bands, height, tap_count = weights_shape
    used = 0
    for band in range(bands):
        for r in range((count - 1) * overlap + height):
            low = max(0, (r - height + overlap) // overlap)
            high = min(count, r // overlap + 1)
            if low < high:
                steps[3 * used] = ((first + r) % ring * bands + band) * row_size
                steps[3 * used + 1] = low * (MR + 1) + high
                steps[3 * used + 2] = (band * height + r - low * overlap) * tap_count
                used += 1
    return used


@loop
def write_tap_offsets(offsets, at, first, layout, weights_shape, taps):  # type: ignore[no-untyped-def]
    """Write where in the ring all taps of one output row lie, as ``offsets[at:]``.

    taps  (T,) intp, where along a packed row each lies; else as for `write_row_steps`
    """
    ring, row_size = layout
    _, bands, height, _ = weights_shape
    for band in range(bands):
        for r in range(height):
            row = ((first + r) % ring * bands + band) * row_size
            for t in range(taps.size):
                offsets[at] = row + taps[t]
                at += 1


NARROW, LONG_ROW, SHORT_ROW = range(6, 9)
"""More kinds of tiles than a `KernelLayout` chooses: what is left at the end of rows; a single row
of many vectors, and of one."""
sum_tile = chosen_tile(
    {
        DENSE: generate_tile(),
        SPARSE: generate_tile(sparse=True),
        UNROLLED_3X3: generate_unrolled_square(3),
        UNROLLED: generate_unrolled(None),
        UNROLLED_5: generate_unrolled(5),
        UNROLLED_7: generate_unrolled(7),
        NARROW: generate_tile(1, sparse=True),
        LONG_ROW: generate_tile(LONG_NR, rows=1),
        SHORT_ROW: generate_tile(1, rows=1),
    }
)


OVERWRITE, ACCUMULATE, STREAM = range(3)
"""Where sums begin and go, see `_sum_rows`."""


@cache
def rows_summer(dtype: np.dtype, which: int) -> np.uintp:
    """Return the address of `_sum_rows` for packed rows of a dtype and a kind of tile.

    Each kind is compiled by itself: with several of them in one function the compiler's
    registers run out, and all become slower, by up to a seventh.
    """
    floats, index = types.CPointer(from_dtype(dtype)), types.CPointer(types.intp)
    addresses, i, u = types.CPointer(types.uintp), types.intp, types.uintp
    kind = types.literal(which)
    kinds = (floats, i, index, i, index, i, floats, i, kind, u, i, i, floats, addresses, i, i, i)
    return address_of(_sum_rows, types.void(*kinds))


@loop
def _sum_rows(  # type: ignore[no-untyped-def]
    packed,
    columns,
    steps,
    step_count,
    offsets,
    tap_count,
    weights,
    weight_stride,
    which,
    out,
    out_stride,
    count,
    buffer,
    prefetches,
    prefetch_count,
    column_bytes,
    mode,
):
    """Sum up ``count`` rows of outputs, ``columns`` wide, tile by tile.

    packed .. weight_stride  see `direct_tile.generate_tile`
    which                    see `KernelLayout.tile`
    out, out_stride          address of the first output; elements from row to row
    buffer                   pointer to float, `staging_size` of them: tiles that stick out of the
                             rows are staged there, and all whose sums are streamed
    prefetches               pointer to addresses of input rows to prefetch at the same time,
                             ``column_bytes`` for each column
    mode                     OVERWRITE; ACCUMULATE: the sums continue what lies at ``out``; STREAM:
                             overwrite by streaming stores
    """
    n = lane_count(packed)
    size = pixel_bytes(packed)
    wide = NR * n
    staging = pointer_address(buffer)
    accumulate, streams = mode == ACCUMULATE, mode == STREAM
    if not 0 < column_bytes <= CACHE_LINE:
        prefetch_count = 0  # most of the cache lines would be read by nobody
    staged, staged_from = STAGED_TILES * wide, 0  # outputs of a row in the buffer; its first one
    x, written = np.intp(0), np.intp(0)
    while x < columns:
        left = columns - x
        taken = wide if left > n else n
        if streams and x - staged_from + wide > staged:  # keep what is not written yet
            unwritten = written - CACHE_LINE // size
            for j in range(count):
                for i in range(unwritten, x, n):
                    there = staging + np.uintp((j * staged + i - unwritten) * size)
                    row = advance(buffer, j * staged - staged_from)
                    convert_vector(row, pointer_like(packed, there), i * size, 0)
            staged_from = unwritten
        for k in range(prefetch_count):
            here = prefetches[k] + np.uintp(x * column_bytes)
            for byte in range(0, taken * column_bytes, CACHE_LINE):
                prefetch(here + np.uintp(byte))
        place = out + np.uintp(x * size)
        whole = (count == MR and left >= taken) or streams
        where, next_row = (place, out_stride) if whole else (staging, taken)
        if streams:
            where, next_row = staging + np.uintp((x - staged_from) * size), staged
        some = min(taken, left)
        if accumulate and not whole:
            for j in range(count):
                there = staging + np.uintp(j * taken * size)
                copy_bytes(there, place + np.uintp(j * out_stride * size), some * size)
        if taken == n:
            sum_tile(
                packed,
                x,
                steps,
                step_count,
                offsets,
                tap_count,
                weights,
                weight_stride,
                where,
                next_row,
                accumulate,
                NARROW,
            )
        else:
            sum_tile(
                packed,
                x,
                steps,
                step_count,
                offsets,
                tap_count,
                weights,
                weight_stride,
                where,
                next_row,
                accumulate,
                which,
            )
        if not whole:
            for j in range(count):
                there = staging + np.uintp(j * taken * size)
                copy_bytes(place + np.uintp(j * out_stride * size), there, some * size)
        ends = x + taken >= columns
        # this tile's sums are still on their way to the buffer: those before it are written
        if streams:
            ready = columns if ends else x
            for j in range(count):
                at = out + np.uintp(j * out_stride * size)
                stream_lines(advance(buffer, j * staged - staged_from), written, ready, at, ends)
            written = ready
        x += taken


@cache
def row_summer(dtype: np.dtype) -> np.uintp:
    """Return the address of `_sum_row` for packed rows of a dtype."""
    floats, index, i = types.CPointer(from_dtype(dtype)), types.CPointer(types.intp), types.intp
    return address_of(_sum_row, types.void(floats, i, index, index, i, floats, types.uintp))


@loop
def _sum_row(packed, columns, step, offsets, tap_count, weights, out):  # type: ignore[no-untyped-def]
    """Sum up a single row of outputs, to ``out``; there has to be room for whole tiles.

    ``step`` is a pointer to one step, see `direct_tile.generate_tile`.
    """
    n = lane_count(packed)
    size = pixel_bytes(packed)
    x = 0
    while x < columns:
        place = out + np.uintp(x * size)
        if columns - x > n:
            sum_tile(packed, x, step, 1, offsets, tap_count, weights, 0, place, 0, False, LONG_ROW)
            x += LONG_NR * n
        else:
            sum_tile(packed, x, step, 1, offsets, tap_count, weights, 0, place, 0, False, SHORT_ROW)
            x += n
