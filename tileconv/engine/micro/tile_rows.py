"""Sum up rows of blocks of outputs, and say which lines of a ring they read."""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types

from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import DENSE, DENSE_3X3, SPARSE, TALL, TALL_5, TALL_7
from tileconv.engine.micro.direct_tile import (
    LONG,
    chosen_block,
    generate_block,
    generate_square,
    sum_long_block,
    sum_narrow_sparse_block,
    sum_short_block,
)
from tileconv.engine.micro.panel_tile import write_past
from tileconv.engine.micro.unrolled_tile import generate_tall
from tileconv.engine.pack.deinterleave import copy_lanes, pixel_bytes
from tileconv.engine.vectors import (
    ROWS,
    WIDE,
    address_at,
    copy_bytes,
    lanes,
    pointer_like,
    pointer_to,
    prefetch,
    step_of,
)
from tileconv.engine.workspace import CACHE_LINE


def part_of(which: int) -> int:
    """Return the block for fewer than ROWS output rows of a kernel whose block is ``which``."""
    return SPARSE if which == SPARSE else DENSE


@step_of
def input_row(typingctx: Any, number: Any, hop: Any, height: Any, overlap: Any) -> Any:
    """Return the row that line ``number`` of a class holds, counted in rows of the class."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        number, hop, height, overlap = args
        apart = builder.mul(builder.udiv(number, height), hop)
        apart = builder.add(apart, builder.urem(number, height))
        return builder.select(builder.icmp_signed("==", hop, overlap), number, apart)

    i = types.intp
    return i(i, i, i, i), generate


@loop
def write_row_steps(steps, first, layout, weights_shape, overlap, count):  # type: ignore[no-untyped-def]
    """Write which lines the rows of a block read, for ``count`` output rows; return how many steps.

    steps          (3 * S,) intp, see `micro.direct_tile.generate_block`
    first          number of the line that the first row of the block begins with
    layout         lines in the ring, numbers in each
    weights_shape  (1, bands, height, T)
    overlap        lines from one output row to the next
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
                steps[3 * used + 1] = low * (ROWS + 1) + high
                steps[3 * used + 2] = (band * height + r - low * overlap) * tap_count
                used += 1
    return used


@loop
def write_places(places, at, first, layout, weights_shape, taps):  # type: ignore[no-untyped-def]
    """Write where in the ring all taps of one output row lie, as ``places[at:]``.

    taps  (T,) intp, where along the lines of a row each lies; else as for `write_row_steps`
    """
    ring, row_size = layout
    _, bands, height, _ = weights_shape
    for band in range(bands):
        for r in range(height):
            line = ((first + r) % ring * bands + band) * row_size
            for t in range(taps.size):
                places[at] = line + taps[t]
                at += 1


_GENERATORS = {
    DENSE: generate_block(WIDE),
    SPARSE: generate_block(WIDE, sparse=True),
    DENSE_3X3: generate_square(3),
    TALL: generate_tall(None),
    TALL_5: generate_tall(5),
    TALL_7: generate_tall(7),
}
sum_chosen_block = chosen_block(_GENERATORS)
"""`generate_block`, of the kind that its last argument, a literal, says."""


AFRESH, GOING_ON, PAST = range(3)
"""Where sums begin and go, see `_sum_rows`."""
PAST_BLOCKS = 10
"""Blocks in a row of the buffer on the way past the caches: a part of a first-level cache."""


def buffer_size(lanes: int) -> int:
    """Return the numbers in the buffer of `_sum_rows`, for vectors of ``lanes``."""
    return ROWS * PAST_BLOCKS * WIDE * lanes


@cache
def summer(number: np.dtype, which: int) -> np.uintp:
    """Return the address of `_sum_rows` for lines of a dtype and a kind of block.

    Each kind is compiled by itself: with several of them in one function the compiler's
    registers run out, and all become slower, by up to a seventh.
    """
    floats, index = types.CPointer(from_dtype(number)), types.CPointer(types.intp)
    addresses, i, u = types.CPointer(types.uintp), types.intp, types.uintp
    kind = types.literal(which)
    kinds = (floats, i, index, i, index, i, floats, i, kind, u, i, i, floats, addresses, i, i, i)
    return address_of(_sum_rows, types.void(*kinds))


@loop
def _sum_rows(  # type: ignore[no-untyped-def]
    lines,
    columns,
    steps,
    step_count,
    places,
    place_count,
    weights,
    apart,
    which,
    out,
    pitch,
    count,
    buffer,
    ahead,
    ahead_count,
    step,
    mode,
):
    """Sum up ``count`` rows of outputs, ``columns`` wide, block by block.

    lines .. apart  see `micro.direct_tile.generate_block`
    which           see `kernel_layout.Program.block`
    out             address of the first output; the next row lies ``pitch`` numbers further on
    buffer          pointer to float, `buffer_size` of them: blocks that stick out go there first,
                    and all that are written past the caches
    ahead           pointer to addresses of input rows to fetch into the cache meanwhile, ``step``
                    bytes for each column
    mode            AFRESH; GOING_ON: the sums go on from what lies at ``out``; PAST: afresh, and
                    written past the caches
    """
    n = lanes(lines)
    size = pixel_bytes(lines)
    wide = WIDE * n
    aside = address_at(buffer)
    more, past = mode == GOING_ON, mode == PAST
    if not 0 < step <= CACHE_LINE:
        ahead_count = 0  # cache lines would come that nobody reads
    kept, kept_from = PAST_BLOCKS * wide, 0  # outputs of a row that ``buffer`` holds; its first one
    x, written = np.intp(0), np.intp(0)
    while x < columns:
        left = columns - x
        taken = wide if left > n else n
        if past and x - kept_from + wide > kept:  # keep what is not written yet
            unwritten = written - CACHE_LINE // size
            for j in range(count):
                for i in range(unwritten, x, n):
                    there = aside + np.uintp((j * kept + i - unwritten) * size)
                    row = pointer_to(buffer, j * kept - kept_from)
                    copy_lanes(row, pointer_like(lines, there), i * size, 0)
            kept_from = unwritten
        for k in range(ahead_count):
            here = ahead[k] + np.uintp(x * step)
            for byte in range(0, taken * step, CACHE_LINE):
                prefetch(here + np.uintp(byte))
        place = out + np.uintp(x * size)
        whole = (count == ROWS and left >= taken) or past
        where, next_row = (place, pitch) if whole else (aside, taken)
        if past:
            where, next_row = aside + np.uintp((x - kept_from) * size), kept
        some = min(taken, left)
        if more and not whole:
            for j in range(count):
                there = aside + np.uintp(j * taken * size)
                copy_bytes(there, place + np.uintp(j * pitch * size), some * size)
        if taken == n:
            sum_narrow_sparse_block(
                lines,
                x,
                steps,
                step_count,
                places,
                place_count,
                weights,
                apart,
                where,
                next_row,
                more,
            )
        else:
            sum_chosen_block(
                lines,
                x,
                steps,
                step_count,
                places,
                place_count,
                weights,
                apart,
                where,
                next_row,
                more,
                which,
            )
        if not whole:
            for j in range(count):
                there = aside + np.uintp(j * taken * size)
                copy_bytes(place + np.uintp(j * pitch * size), there, some * size)
        ends = x + taken >= columns
        # the sums of this block are still on their way to the buffer: those before it are written
        if past:
            ready = columns if ends else x
            for j in range(count):
                at = out + np.uintp(j * pitch * size)
                write_past(pointer_to(buffer, j * kept - kept_from), written, ready, at, ends)
            written = ready
        x += taken


@cache
def row_summer(number: np.dtype) -> np.uintp:
    """Return the address of `_sum_row` for lines of a dtype."""
    floats, index, i = types.CPointer(from_dtype(number)), types.CPointer(types.intp), types.intp
    return address_of(_sum_row, types.void(floats, i, index, index, i, floats, types.uintp))


@loop
def _sum_row(lines, columns, step, places, place_count, weights, out):  # type: ignore[no-untyped-def]
    """Sum up a single row of outputs, to ``out``; there has to be room for whole blocks.

    ``step`` is a pointer to one step, see `micro.direct_tile.generate_block`.
    """
    n = lanes(lines)
    size = pixel_bytes(lines)
    x = 0
    while x < columns:
        place = out + np.uintp(x * size)
        if columns - x > n:
            sum_long_block(lines, x, step, 1, places, place_count, weights, 0, place, 0, False)
            x += LONG * n
        else:
            sum_short_block(lines, x, step, 1, places, place_count, weights, 0, place, 0, False)
            x += n
