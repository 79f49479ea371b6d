"""The direct loops at strides from 2 on: one input row after the other, each read once.

With a stride along the columns few output rows share an input row, and what
costs is to bring pixels up and to deal them out. So a row is dealt out as soon
as it is read, into lines that stay in the first-level cache, and all its taps
are added to the sums of the output rows that reach it, which lie beside it.
No row is kept.

The chain of an output's additions is that of `loops.direct`: band by
band, row by row, along each row; only its sum rests in memory between rows.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import from_dtype, types

from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import LONG_REACH, Program
from tileconv.engine.micro.panel_tile import settle_streams, write_past
from tileconv.engine.micro.row_update import ADDED, add_narrow_to_rows, add_to_rows
from tileconv.engine.micro.tile_rows import input_row
from tileconv.engine.missing.detect import Sieve, choose_dealer
from tileconv.engine.missing.epilogue import found_by, settle_rows, settled_aside
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import NEVER, PARTS, asked_early
from tileconv.engine.vectors import (
    address_at,
    call_at,
    copy_bytes,
    index_at,
    lanes,
    pointer_like,
    pointer_to,
    prefetch,
    put_at,
)
from tileconv.engine.workspace import CACHE_LINE, INDEX, address, scratch

LINE_BYTES = 5 << 12
"""Lines of a row of a strip: most of a first-level cache of 32 KiB, beside a few rows of sums."""
SUM_BYTES = 9 << 12
"""These lines and the rows of sums that they are added to: little more than that."""
TOGETHER = len(ADDED) - 1
"""Most rows of sums that a line is added to at a time."""
COPIED, COPIED_PAST = 1, 2
"""How a row of sums goes to the output, see `_add_rows`."""
MARGIN = max(ADDED)
"""Vectors that the last block of a row may come to be too long."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """One kernel on some bands, ready to run."""

    program: Program
    _layouts: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False)

    @property
    def in_flight(self) -> int:
        """Output rows of a class that one input row may serve."""
        return -(-self.program.height // self.program.overlap)

    def columns(self, width: int) -> int:
        """Return the outputs in a row of a strip: strips are of about one width."""
        p = self.program
        together = SUM_BYTES // ((p.line_count + self.in_flight) * p.weights.itemsize)
        fit = min(LINE_BYTES // (p.line_count * p.weights.itemsize), together) - p.reach
        strips = -(-width // max(fit, min(p.reach, LONG_REACH), MARGIN * p.lanes))
        return -(-width // (strips * p.lanes)) * p.lanes

    def _padded(self, columns: int) -> int:
        """Return the numbers of a row of sums, for no block is cut short."""
        return columns + MARGIN * self.program.lanes

    def scratch_bytes(self, width: int) -> int:
        """Return the memory that outputs ``width`` wide take beside in- and output."""
        return self._scratch_size(self._padded(self.columns(width))) * self.program.weights.itemsize

    def _scratch_size(self, padded: int) -> int:
        """Return the numbers of a row's lines and of rows of sums, with room for addresses."""
        p = self.program
        addresses = TOGETHER * INDEX // p.weights.itemsize
        return p.row_size(padded) + self.in_flight * padded + addresses

    @cached_property
    def rows_of_taps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (where the taps of each row of the kernel begin, their columns, their weights).

        Weights of 0 are no taps, and rows may hold different ones.
        """
        p = self.program
        rows, columns = np.nonzero(p.weights[0].reshape(-1, p.offsets.size))
        starts = np.searchsorted(rows, np.arange(p.weights.shape[1] * p.height + 1))
        weights = p.weights[0].reshape(-1, p.offsets.size)[rows, columns]
        return starts.astype(np.intp), columns, np.ascontiguousarray(weights)

    def _laid_out(self, width: int, step: int) -> Any:
        """Return what outputs ``width`` wide take, with pixels ``step`` bytes apart.

        That is (numbers of all sorts for the loops, size of scratch, addresses of tables, tables).
        """
        found = self._layouts.get((width, step))
        if found is None:
            p, columns = self.program, self.columns(width)
            padded = self._padded(columns)
            taps, places = p.tables(padded)
            starts, which, weights = self.rows_of_taps
            tables = places, starts, np.ascontiguousarray(taps[which]), weights
            dense = 0 if p.sparse else p.offsets.size
            strip = columns, padded, p.reach, self.in_flight, p.row_size(padded), dense
            addresses = tuple(address(table) for table in tables)
            numbers = p.stride[1], p.height, p.sampling, (*strip, self._asked(step))
            found = numbers, self._scratch_size(padded), addresses, tables
            self._layouts[width, step] = found
        return found

    def run(self, planes: np.ndarray, out: np.ndarray, *, final: bool, sieve: Sieve | None) -> None:
        """Write the "valid" correlation into ``out`` (1, OH, OW); see `Direct.run`."""
        numbers, size, fixed, tables = self._laid_out(out.shape[2], planes.strides[2])
        stride, height, sampling, strip = numbers
        dtype = out.dtype
        lines, owner = scratch(size, dtype)
        aside = strip[0] if final else 0
        deal, sieve_at = choose_dealer(planes.dtype, dtype, stride, sieve, past=aside)
        correlate(
            (deal, row_adder(dtype)),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape[1:],
            (out.strides[1] // dtype.itemsize, dtype.itemsize),
            height,
            sampling,
            (*strip, COPIED_PAST if final else COPIED),
            (lines, *fixed, sieve_at),
        )
        del owner, tables  # until here the loops used their memory

    def _asked(self, step: int) -> int:
        """Return how much of a row is asked for early, with pixels ``step`` bytes apart."""
        p = self.program
        adds = p.offsets.size * p.height / (p.overlap * p.stride[1])
        return asked_early(p.stride[1] * step, adds)


@loop
def correlate(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_pitch,
    height,
    sampling,
    strip,
    tables,
):
    """Compute all outputs of one kernel, strip by strip and row by row.

    functions  addresses from `choose_dealer` and `row_adder`
    source     address of the first pixel (uintp); shape (bands, H, W), strides in bytes
    target     address of the first output; out_shape (OH, OW); out_pitch: numbers from one row
               to the next, bytes of a number
    height     rows of taps
    sampling   stride along y and x, classes, row_step, hop, overlap
    strip      columns, numbers in a row of sums, reach, output rows in flight, numbers in all
               lines of a row, taps in every row of the kernel, or 0 if rows hold different ones;
               `asked_early`; COPIED or COPIED_PAST
    tables     addresses: scratch for the lines of a row, rows of sums, and TOGETHER addresses;
               places (see `pack.rows`); where the taps of each row of the
               kernel begin; where along the lines each tap lies; weights; that of a sieve, or 0
    """
    deal, add_rows = functions
    stride_y, stride_x, classes, row_step, hop, overlap = sampling
    most_columns, sums_size, reach, in_flight, row_size, dense, asked, copied = strip
    lines_at, places_at, starts_at, taps_at, weights_at, sieve_at = tables
    bands, in_height, in_width = shape
    out_height, out_width = out_shape
    pitch, size = out_pitch
    sums_at = lines_at + np.uintp(row_size * size)
    rows_at = sums_at + np.uintp(in_flight * sums_size * size)
    together = TOGETHER if dense else 1
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        left = source + np.uintp(x * stride_x * strides[2])
        width = in_width - x * stride_x
        row_bytes = columns * stride_x * strides[2]
        early = max(0, row_bytes * asked // PARTS)
        for c in range(classes):
            rows = (out_height - c + classes - 1) // classes
            end = (rows - 1) * overlap + height if rows > 0 else 0
            for band in range(bands):
                plane = left + np.uintp(band * strides[0])
                row = c * stride_y
                coming = plane + np.uintp(row * strides[1])
                for number in range(end):
                    here = coming
                    mark = (band * in_height + row) * in_width + x * stride_x
                    coming = np.uintp(0)
                    if number + 1 < end:
                        later = input_row(number + 1, hop, height, overlap)
                        row = c * stride_y + later * row_step
                        coming = plane + np.uintp(row * strides[1])
                    late = asked != NEVER and coming != np.uintp(0)
                    call_at(
                        deal,
                        here,
                        strides[2],
                        width,
                        stride_x,
                        places_at,
                        columns + reach,
                        lines_at,
                        coming if early > 0 else np.uintp(0),
                        early,
                        mark,
                        sieve_at,
                    )
                    first = max(0, (number - height + overlap) // overlap)
                    last = min(rows, number // overlap + 1)
                    for i in range(first, last, together):
                        count = min(together, last - i)
                        for j in range(count):
                            at = (i + j) % in_flight * sums_size
                            put_at(rows_at + np.uintp(j * INDEX), sums_at + np.uintp(at * size))
                        r = number - i * overlap  # row of the kernel for output row i
                        ends = r == height - 1
                        complete = band == bands - 1
                        how = copied if complete and not found_by(sieve_at) else COPIED
                        aside = complete and settled_aside(sieve_at)
                        out = target + np.uintp(((c + i * classes) * pitch + x) * size)
                        call_at(
                            add_rows,
                            lines_at,
                            columns,
                            rows_at,
                            count,
                            starts_at + np.uintp((band * height + r) * INDEX),
                            taps_at,
                            weights_at,
                            -overlap * dense,
                            out,
                            classes * pitch,
                            (2 if band else 1) if r == (count - 1) * overlap else 0,
                            how if ends and not aside else 0,
                            coming + np.uintp(early) if late and i == first else np.uintp(0),
                            row_bytes - early,
                        )
                        if ends and complete:
                            done = c + i * classes
                            sums = out
                            if aside:
                                sums = np.uintp(index_at(rows_at, 0))
                            settle_rows(sieve_at, done, classes, 1, x, columns, sums, 0, out, 0)
    settle_streams()


@cache
def row_adder(number: np.dtype) -> np.uintp:
    """Return the address of `_add_rows` for lines of a dtype."""
    floats, index, i = types.CPointer(from_dtype(number)), types.CPointer(types.intp), types.intp
    addresses = types.CPointer(types.uintp)
    kinds = (floats, i, addresses, i, index, index, floats, i, floats, i, i, i, types.uintp, i)
    return address_of(_add_rows, types.void(*kinds))


@loop
def _add_rows(  # type: ignore[no-untyped-def]
    lines,
    columns,
    rows,
    count,
    starts,
    taps,
    weights,
    apart,
    out,
    pitch,
    begin,
    last,
    ahead,
    ahead_bytes,
):
    """Add the taps of one line to ``count`` rows of sums.

    rows     pointer to the address of each row of sums, which has room for whole blocks
    starts   pointer to intp: the taps of the first row are ``starts[0] .. starts[1] - 1``
    taps     pointer to intp, where along the lines each tap of the kernel lies
    weights  pointer to float; those of the next row of sums lie ``apart`` further on
    out      pointer to the outputs of the first row; those of the next lie ``pitch`` further on
    begin    not 0: the last row of sums begins, 1: with 0, 2: with what lies in ``out``
    last     not 0: the first row of sums ends, and is copied to ``out``: COPIED, or COPIED_PAST
             the caches
    ahead    address of the next input row, to be asked for bit by bit, or 0; ``ahead_bytes`` of it
    """
    n = lanes(lines)
    first, tap_count = starts[0], starts[1] - starts[0]
    places, factors = pointer_to(taps, first), pointer_to(weights, first)
    if begin:
        sums, there = pointer_like(lines, rows[count - 1]), pointer_to(out, (count - 1) * pitch)
        for i in range(columns):
            sums[i] = there[i] if begin == 2 else 0
    fetched, each = 0, 0
    if not ahead:
        ahead_bytes = 0
    else:
        blocks = (columns + ADDED[count] * n - 1) // (ADDED[count] * n)
        each = (ahead_bytes + blocks - 1) // blocks + CACHE_LINE - 1
    x, written = np.intp(0), np.intp(0)
    while x < columns:
        asked, step = address_at(lines), np.intp(0)  # what is there already costs nothing
        if fetched < ahead_bytes and each <= tap_count * CACHE_LINE:
            asked, step = ahead + np.uintp(fetched), (each + tap_count - 1) // tap_count
            fetched += each
        else:  # more than one cache line with each tap
            for byte in range(fetched, min(fetched + each, ahead_bytes), CACHE_LINE):
                prefetch(ahead + np.uintp(byte))
                fetched = byte + CACHE_LINE
        taken = ADDED[count] * n if columns - x > n else n
        if tap_count > 0 and taken > n:
            add_to_rows(lines, x, places, tap_count, factors, apart, rows, count, asked, step)
        elif tap_count > 0:
            add_narrow_to_rows(
                lines, x, places, tap_count, factors, apart, rows, count, asked, step
            )
        if last == COPIED_PAST:  # a block late, but for the last one: its sums are on their way
            ends = x + taken >= columns
            ready = columns if ends else x
            write_past(pointer_like(lines, rows[0]), written, ready, address_at(out), ends)
            written = ready
        x += taken
    if last == COPIED:
        copy_bytes(address_at(out), rows[0], columns * pixel_bytes(lines))
