"""The direct loops at strides from 2 on: one input row after the other, each read once.

With a stride along the columns few output rows share an input row, and most of
the time goes into reading and packing pixels. So a row is packed as soon as it
is read, into a buffer that stays in the first-level cache, and all its taps are
added to the sums of the output rows that reach it, which lie next to it. No row
is kept.

The chain of an output's additions is that of `loops.direct`: band by band, row
by row, along each row; only its sum rests in memory between rows.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import from_dtype, types

from tileconv.engine.blocking import UPDATE_NR
from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import KernelLayout
from tileconv.engine.micro.row_update import update_rows, update_rows_narrow
from tileconv.engine.micro.stores import fence_streams, stream_lines
from tileconv.engine.micro.tile_rows import input_row
from tileconv.engine.missing.detect import MissingDetector, choose_row_packer
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import NO_PREFETCH, PREFETCH_PARTS, early_prefetch
from tileconv.engine.sizes import (
    TOGETHER,
    in_flight,
    row_stream_columns,
    row_stream_padded,
    row_stream_size,
)
from tileconv.engine.vectors import (
    advance,
    call_at,
    copy_bytes,
    lane_count,
    pointer_address,
    pointer_like,
    prefetch,
    store_index,
)
from tileconv.engine.workspace import CACHE_LINE, INDEX, address, scratch

COPY_OUT, STREAM_OUT = 1, 2
"""How a row of sums goes to the output, see `_update_rows`."""


@dataclass(frozen=True, eq=False)
class RowStream:
    """One kernel on some bands, ready to run."""

    layout: KernelLayout
    _layouts: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False)

    @cached_property
    def rows_of_taps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (where the taps of each row of the kernel begin, their columns, their weights).

        Weights of 0 are no taps, and rows may hold different ones.
        """
        p = self.layout
        rows, columns = np.nonzero(p.weights[0].reshape(-1, p.tap_columns.size))
        starts = np.searchsorted(rows, np.arange(p.weights.shape[1] * p.height + 1))
        weights = p.weights[0].reshape(-1, p.tap_columns.size)[rows, columns]
        return starts.astype(np.intp), columns, np.ascontiguousarray(weights)

    def _laid_out(self, width: int, step: int) -> Any:
        """Return what outputs ``width`` wide take, with pixels ``step`` bytes apart.

        That is (arguments for the loops, size of scratch, addresses of tables, tables).
        """
        found = self._layouts.get((width, step))
        if found is None:
            p, columns = self.layout, row_stream_columns(self.layout, width)
            padded = row_stream_padded(p, columns)
            taps, offsets = p.tables(padded)
            starts, which, weights = self.rows_of_taps
            tables = offsets, starts, np.ascontiguousarray(taps[which]), weights
            dense = 0 if p.sparse else p.tap_columns.size
            strip = columns, padded, p.reach, in_flight(p), p.row_size(padded), dense
            addresses = tuple(address(table) for table in tables)
            numbers = p.stride[1], p.height, p.sampling, (*strip, self._early(step))
            found = numbers, row_stream_size(p, columns), addresses, tables
            self._layouts[width, step] = found
        return found

    def run(
        self, planes: np.ndarray, out: np.ndarray, *, stream: bool, detector: MissingDetector | None
    ) -> None:
        """Write the "valid" correlation into ``out`` (1, OH, OW); see `Direct.run`."""
        numbers, size, fixed, tables = self._laid_out(out.shape[2], planes.strides[2])
        stride, height, sampling, strip = numbers
        dtype = out.dtype
        packed, owner = scratch(size, dtype)
        pack, detector_at = choose_row_packer(planes.dtype, dtype, stride, detector)
        correlate_row_by_row(
            (pack, row_updater(dtype)),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape[1:],
            (out.strides[1] // dtype.itemsize, dtype.itemsize),
            height,
            sampling,
            (*strip, STREAM_OUT if stream else COPY_OUT),
            (packed, *fixed, detector_at),
        )
        del owner, tables  # until here the loops used their memory

    def _early(self, step: int) -> int:
        """Return how much of a row is prefetched early, with pixels ``step`` bytes apart."""
        p = self.layout
        adds = p.tap_columns.size * p.height / (p.overlap * p.stride[1])
        return early_prefetch(p.stride[1] * step, adds)


@loop
def correlate_row_by_row(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_strides,
    height,
    sampling,
    strip,
    tables,
):
    """Compute all outputs of one kernel, strip by strip and row by row.

    functions    addresses from `choose_row_packer` and `row_updater`
    source       address of the first pixel (uintp); shape (bands, H, W), strides in bytes
    target       address of the first output; out_shape (OH, OW)
    out_strides  elements from one row to the next, bytes of an element
    height       rows of taps
    sampling     see `KernelLayout.sampling`
    strip        columns, elements of a row of sums, reach, output rows in flight, elements of a
                 packed row, taps in every row of the kernel, or 0 if rows hold different ones;
                 `early_prefetch`; COPY_OUT or STREAM_OUT
    tables       addresses: scratch for a packed row, rows of sums, and TOGETHER addresses; phase
                 offsets (see `pack.rows`); where the taps of each row of the kernel begin; tap
                 offsets; weights; the table of a detector, or 0
    """
    pack, update_rows_at = functions
    stride_y, stride_x, classes, row_dilation, row_stride, overlap = sampling
    most_columns, sums_size, reach, in_flight, row_size, dense, prefetch_share, store = strip
    packed_at, phase_offsets_at, starts_at, tap_offsets_at, weights_at, detector_at = tables
    bands, in_height, in_width = shape
    out_height, out_width = out_shape
    out_row_stride, size = out_strides
    sums_at = packed_at + np.uintp(row_size * size)
    rows_at = sums_at + np.uintp(in_flight * sums_size * size)
    together = TOGETHER if dense else 1
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        left = source + np.uintp(x * stride_x * strides[2])
        width = in_width - x * stride_x
        row_bytes = columns * stride_x * strides[2]
        early = max(0, row_bytes * prefetch_share // PREFETCH_PARTS)
        for c in range(classes):
            rows = (out_height - c + classes - 1) // classes
            end = (rows - 1) * overlap + height if rows > 0 else 0
            for band in range(bands):
                plane = left + np.uintp(band * strides[0])
                row = c * stride_y
                next_at = plane + np.uintp(row * strides[1])
                for number in range(end):
                    here = next_at
                    pixel_index = (band * in_height + row) * in_width + x * stride_x
                    next_at = np.uintp(0)
                    if number + 1 < end:
                        later = input_row(number + 1, row_stride, height, overlap)
                        row = c * stride_y + later * row_dilation
                        next_at = plane + np.uintp(row * strides[1])
                    late = prefetch_share != NO_PREFETCH and next_at != np.uintp(0)
                    call_at(
                        pack,
                        here,
                        strides[2],
                        width,
                        stride_x,
                        phase_offsets_at,
                        columns + reach,
                        packed_at,
                        next_at if early > 0 else np.uintp(0),
                        early,
                        pixel_index,
                        detector_at,
                    )
                    first = max(0, (number - height + overlap) // overlap)
                    last = min(rows, number // overlap + 1)
                    for i in range(first, last, together):
                        count = min(together, last - i)
                        for j in range(count):
                            at = (i + j) % in_flight * sums_size
                            store_index(
                                rows_at + np.uintp(j * INDEX), sums_at + np.uintp(at * size)
                            )
                        r = number - i * overlap  # row of the kernel for output row i
                        how = 0  # the sums of the first row are not complete
                        if r == height - 1:
                            how = store if band == bands - 1 else COPY_OUT
                        out = target + np.uintp(((c + i * classes) * out_row_stride + x) * size)
                        call_at(
                            update_rows_at,
                            packed_at,
                            columns,
                            rows_at,
                            count,
                            starts_at + np.uintp((band * height + r) * INDEX),
                            tap_offsets_at,
                            weights_at,
                            -overlap * dense,
                            out,
                            classes * out_row_stride,
                            (2 if band else 1) if r == (count - 1) * overlap else 0,
                            how,
                            next_at + np.uintp(early) if late and i == first else np.uintp(0),
                            row_bytes - early,
                        )
    fence_streams()


@cache
def row_updater(number: np.dtype) -> np.uintp:
    """Return the address of `_update_rows` for packed rows of a dtype."""
    floats, index, i = types.CPointer(from_dtype(number)), types.CPointer(types.intp), types.intp
    addresses = types.CPointer(types.uintp)
    kinds = (floats, i, addresses, i, index, index, floats, i, floats, i, i, i, types.uintp, i)
    return address_of(_update_rows, types.void(*kinds))


@loop
def _update_rows(  # type: ignore[no-untyped-def]
    packed,
    columns,
    rows,
    count,
    starts,
    taps,
    weights,
    weight_stride,
    out,
    out_row_stride,
    begin,
    last,
    prefetch_at,
    prefetch_bytes,
):
    """Add the taps of one packed row to ``count`` rows of sums.

    rows     pointer to the address of each row of sums, which has room for whole tiles
    starts   pointer to intp: the taps of the first row are ``starts[0] .. starts[1] - 1``
    taps     pointer to intp, where along the packed row each tap of the kernel lies
    weights  pointer to float; those of the next row of sums lie ``weight_stride`` further on
    out      pointer to the outputs of the first row, ``out_row_stride`` before those of the next
    begin    not 0: the last row of sums begins, 1: with 0, 2: with what lies in ``out``
    last     not 0: the first row of sums is complete and goes to ``out``: COPY_OUT or STREAM_OUT
    prefetch_at, prefetch_bytes
             address of the next input row, or 0, and how much of it is prefetched bit by bit
    """
    n = lane_count(packed)
    first, tap_count = starts[0], starts[1] - starts[0]
    offsets, factors = advance(taps, first), advance(weights, first)
    if begin:
        sums = pointer_like(packed, rows[count - 1])
        there = advance(out, (count - 1) * out_row_stride)
        for i in range(columns):
            sums[i] = there[i] if begin == 2 else 0
    fetched, each = 0, 0
    if not prefetch_at:
        prefetch_bytes = 0
    else:
        blocks = (columns + UPDATE_NR[count] * n - 1) // (UPDATE_NR[count] * n)
        each = (prefetch_bytes + blocks - 1) // blocks + CACHE_LINE - 1
    x, written = np.intp(0), np.intp(0)
    while x < columns:
        fetch_at, step = pointer_address(packed), np.intp(0)  # a cached line costs nothing
        if fetched < prefetch_bytes and each <= tap_count * CACHE_LINE:
            fetch_at = prefetch_at + np.uintp(fetched)
            step = (each + tap_count - 1) // tap_count
            fetched += each
        else:  # more than one cache line with each tap
            for byte in range(fetched, min(fetched + each, prefetch_bytes), CACHE_LINE):
                prefetch(prefetch_at + np.uintp(byte))
                fetched = byte + CACHE_LINE
        taken = UPDATE_NR[count] * n if columns - x > n else n
        if tap_count > 0 and taken > n:
            update_rows(
                packed,
                x,
                offsets,
                tap_count,
                factors,
                weight_stride,
                rows,
                count,
                fetch_at,
                step,
            )
        elif tap_count > 0:
            update_rows_narrow(
                packed,
                x,
                offsets,
                tap_count,
                factors,
                weight_stride,
                rows,
                count,
                fetch_at,
                step,
            )
        if last == STREAM_OUT:  # a block late, but for the last one: its sums are on their way
            ends = x + taken >= columns
            ready = columns if ends else x
            stream_lines(pointer_like(packed, rows[0]), written, ready, pointer_address(out), ends)
            written = ready
        x += taken
    if last == COPY_OUT:
        copy_bytes(pointer_address(out), rows[0], columns * pixel_bytes(packed))
