"""Kernels of rank one where output rows lie apart: down the columns, then along one row of sums.

From stride 2 on along y, the pass down the columns comes first. It runs over
rows of pixels as they lie in memory, at the speed of the memory, and leaves
one row of sums for a row of outputs. Only that row is dealt out for the stride
along x, where `loops.two_pass` would deal out every row of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import from_dtype, types

from tileconv.convolution import Taps
from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import Pair, Program
from tileconv.engine.loops.row_stream import COPIED, COPIED_PAST, row_adder
from tileconv.engine.loops.two_pass import passes
from tileconv.engine.micro.panel_tile import settle_streams
from tileconv.engine.micro.row_update import (
    ADDED,
    DOWN,
    sum_down_block,
    sum_down_narrow,
    sum_down_pixel,
)
from tileconv.engine.missing.detect import COPY, FOUND, Sieve
from tileconv.engine.missing.epilogue import found_by, settle_rows, settled_aside
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import dealer
from tileconv.engine.vectors import (
    address_at,
    call_at,
    index_at,
    lanes,
    pointer_to,
    prefetch,
    put_at,
)
from tileconv.engine.workspace import CACHE_LINE, INDEX, address, scratch

SUM_BYTES = 5 << 12
"""A row of sums of a strip: most of a first-level cache of 32 KiB."""
FIELD_BYTES = 1 << 18
"""Pixels of a row of fields that later rows read again: half of a second-level cache."""
FEWEST_COLUMNS = 64
"""Fewest outputs in a row of a strip, if there are as many."""
BATCH = 2
"""Rows of pixels that are added up at a time, between loads and stores of the sums."""


_NONE = np.uintp(0)
_NO_SIEVE = _NONE, _NONE, _NONE, 0, _NONE, _NONE, 1, 0
"""What `correlate` is told without one."""


@dataclass(frozen=True, eq=False)
class ColumnsFirst:
    """Some kernels of rank one on one band, ready to run one after the other."""

    kernels: tuple["_Kernel", ...]
    sifts = settles = True

    @classmethod
    def of(
        cls, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int
    ) -> "ColumnsFirst":
        """Lay out kernels that `loops.two_pass.factor` takes; ``bands`` is 1."""
        del bands
        laid_out = []
        for taps in kernels:
            along, down = passes(stride, dilation, taps)
            rows = np.flatnonzero(down.weights) * dilation[0]
            weights = np.ascontiguousarray(down.weights[down.weights != 0])
            laid_out.append(_Kernel(along, rows.astype(np.intp), weights, stride[0]))
        return cls(tuple(laid_out))

    def scratch_bytes(self, width: int) -> int:
        """Return the memory that outputs ``width`` wide take beside in- and output, per thread."""
        return max(kernel.scratch_bytes(width) for kernel in self.kernels)

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        final: bool = False,
        sieve: Sieve | None = None,
    ) -> None:
        """Write the "valid" correlations of ``planes`` into ``out``; see `Direct.run`."""
        plane = planes[0]
        if sieve is not None and plane.strides[1] != plane.itemsize:
            plane = np.ascontiguousarray(plane)  # as the copies of rows are
        for number, (kernel, target) in enumerate(zip(self.kernels, out, strict=True)):
            kernel.run(plane, target, final=final, sieve=sieve, number=number)


@dataclass(frozen=True, eq=False)
class _Kernel:
    """A column and a row of weights."""

    along: Program
    """The row."""
    rows: np.ndarray
    """(T,) intp, input rows from the top of a field to each tap of the column."""
    weights: np.ndarray
    """(T,), of the column."""
    stride: int
    """Input rows from one output row to the next."""
    _layouts: dict[int, Any] = field(default_factory=dict, repr=False)

    def columns(self, width: int) -> int:
        """Return the outputs in a row of a strip: strips are of about one width."""
        numbers = SUM_BYTES // self.weights.itemsize
        if self.stride <= self.rows[-1]:
            numbers = min(numbers, FIELD_BYTES // (int(self.rows[-1] + 1) * self.weights.itemsize))
        fit = (numbers - int(self.along.offsets[-1]) - 1) // self.along.stride[1] + 1
        strips = -(-width // max(fit, min(FEWEST_COLUMNS, width)))
        return -(-width // strips)

    def _sizes(self, columns: int) -> tuple[int, int, int, int]:
        """Return the numbers in a row of sums of pixels, its lines, sums of outputs, an address."""
        p = self.along
        padded = (-(-columns // p.lanes) + max(ADDED)) * p.lanes
        read = padded if p.stride[1] == 1 else columns  # without a stride, sums of pixels are lines
        pixels = (read - 1) * p.stride[1] + int(p.offsets[-1]) + 1
        block = CACHE_LINE // self.weights.itemsize
        lines = 0 if p.stride[1] == 1 else p.row_size(padded)
        return -(-pixels // block) * block, lines, padded, INDEX // self.weights.itemsize

    def scratch_bytes(self, width: int) -> int:
        return sum(self._sizes(self.columns(width))) * self.weights.itemsize

    @cached_property
    def _fresh(self) -> int:
        """Last taps of the column that lie on rows which the output row above does not read."""
        return int(np.count_nonzero(self.rows > self.rows[-1] - self.stride))

    def _laid_out(self, width: int) -> Any:
        found = self._layouts.get(width)
        if found is None:
            p, columns = self.along, self.columns(width)
            sizes = self._sizes(columns)
            taps, places = p.tables(sizes[2])
            row_weights = np.ascontiguousarray(p.weights.ravel())
            starts = np.array([0, row_weights.size], np.intp)
            tables = places, starts, taps, row_weights
            addresses = tuple(address(table) for table in tables)
            found = columns, sizes, addresses, tables
            self._layouts[width] = found
        return found

    def run(
        self, plane: np.ndarray, out: np.ndarray, *, final: bool, sieve: Sieve | None, number: int
    ) -> None:
        columns, sizes, fixed, tables = self._laid_out(out.shape[1])
        dtype = out.dtype
        pixels, owner = scratch(sum(sizes), dtype)
        pitch = plane.strides[0]
        rows = self.rows * pitch
        ahead, room, sifted = rows, np.empty(0, np.intp), _NO_SIEVE
        if sieve is not None:
            # a row is looked at before it is added up: those of the next field are asked for
            ahead = rows + self.stride * pitch
            ring = int(self.rows[-1]) + 1
            room = np.empty(self.rows.size + 2 * ring, np.intp)
            width = (columns - 1) * self.along.stride[1] + int(self.along.offsets[-1]) + 1
            past = columns if final else 0
            started = sieve.start_rows(number, dtype, past, ring, width)
            sifted = (*started, address(self.rows), address(room), ring, plane.shape[1])
        correlate(
            (
                summer_down(plane.dtype, dtype),
                dealer(dtype, dtype, self.along.stride[1]),
                row_adder(dtype),
            ),
            address(plane),
            plane.strides,
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, out.itemsize),
            (self.stride, self.along.stride[1], int(self.along.offsets[-1]), self.along.reach),
            (columns, *sizes, COPIED_PAST if final else COPIED),
            (address(rows), self.rows.size, self._fresh, address(self.weights), address(ahead)),
            (pixels, *fixed),
            sifted,
        )
        del owner, tables, ahead, room


@loop
def correlate(  # type: ignore[no-untyped-def]
    functions,
    source,
    strides,
    target,
    out_shape,
    out_pitch,
    along,
    layout,
    down,
    tables,
    sifted,
):
    """Compute all outputs of one kernel on one band, strip by strip and row by row.

    functions   addresses from `summer_down`, `dealer` and `row_adder`
    source      address of the first pixel (uintp); strides in bytes, (y, x)
    target      address of the first output; out_shape (OH, OW); out_pitch: numbers from one row
                to the next, bytes of a number
    along       stride along y and x, pixels from the left of a field to its last tap, reach
    layout      columns in a strip; numbers in a row of sums of pixels, in its lines, in a row of
                sums of outputs, and in an address; COPIED or COPIED_PAST
    down        address of the bytes from the top of a field to each tap; taps; how many of the last
                lie on rows that no output row before has read; addresses of their weights, and of
                the bytes to rows that are asked for
    tables      addresses: scratch for all of layout; places of a row of sums (see
                `pack.rows`); where its taps begin and end; where along the lines each
                tap lies; weights
    sifted      what `Sieve.start_rows` returns, or _NO_SIEVE; addresses of the rows from the top of
                a field to each tap, and of room for where they lie: of a field, and twice as much
                for all that are kept; how many these are; pixels in a row
    """
    sum_down, deal, add_row = functions
    sift, sieve_at, copies_at, copy_pitch, numbers_at, room_at, ring, in_width = sifted
    stride_y, stride_x, last_tap, reach = along
    most_columns, pixels_size, lines_size, sums_size, _, copied = layout
    rows_at, taps, fresh, weights_at, ahead_at = down
    pixels_at, places_at, starts_at, taps_at, row_weights_at = tables
    out_height, out_width = out_shape
    pitch, size = out_pitch
    lines_at = pixels_at + np.uintp(pixels_size * size)
    sums_at = lines_at + np.uintp(lines_size * size)
    row_at = sums_at + np.uintp(sums_size * size)
    put_at(row_at, sums_at)
    if stride_x == 1:
        lines_at = pixels_at
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        width = (columns - 1) * stride_x + last_tap + 1
        known_at = room_at + np.uintp(taps * INDEX)  # of each row that is kept: which, and where
        if sieve_at != np.uintp(0):
            for i in range(ring):
                put_at(known_at + np.uintp(2 * i * INDEX), np.uintp(0))
        for y in range(out_height):
            top = source + np.uintp(y * stride_y * strides[0] + x * stride_x * strides[1])
            if sieve_at != np.uintp(0):
                for t in range(taps):
                    number = index_at(numbers_at, t)
                    row = y * stride_y + number
                    place_at = known_at + np.uintp(2 * (row % ring) * INDEX)
                    if index_at(place_at, 0) != row + 1:
                        place = top + np.uintp(number * strides[0])
                        copy = copies_at + np.uintp(row % ring * copy_pitch)
                        put_at(sieve_at + np.uintp(COPY * INDEX), copy)
                        call_at(
                            sift,
                            place,
                            strides[1],
                            width,
                            stride_x,
                            np.uintp(0),
                            width,
                            np.uintp(0),
                            np.uintp(0),
                            0,
                            row * in_width + x * stride_x,
                            sieve_at,
                        )
                        put_at(place_at, np.uintp(row + 1))
                        found = index_at(sieve_at, FOUND) != 0
                        put_at(place_at + np.uintp(INDEX), copy if found else place)
                    place = np.uintp(index_at(place_at, 1))
                    put_at(room_at + np.uintp(t * INDEX), place - top)
            call_at(
                sum_down,
                top,
                strides[1],
                width,
                rows_at if sieve_at == np.uintp(0) else room_at,
                taps,
                fresh,
                weights_at,
                ahead_at,
                pixels_at,
            )
            if stride_x > 1:
                call_at(
                    deal,
                    pixels_at,
                    size,
                    width,
                    stride_x,
                    places_at,
                    columns + reach,
                    lines_at,
                    np.uintp(0),
                    0,
                    0,
                    np.uintp(0),
                )
            aside = settled_aside(sieve_at)
            out = target + np.uintp((y * pitch + x) * size)
            how = COPIED if found_by(sieve_at) else copied
            call_at(
                add_row,
                lines_at,
                columns,
                row_at,
                1,
                starts_at,
                taps_at,
                row_weights_at,
                0,
                out,
                0,
                1,
                0 if aside else how,
                np.uintp(0),
                0,
            )
            settle_rows(sieve_at, y, 1, 1, x, columns, sums_at if aside else out, 0, out, 0)
    settle_streams()


@cache
def summer_down(pixel: np.dtype, number: np.dtype) -> np.uintp:
    """Return the address of `_sum_down` for pixels of one dtype and sums of another."""
    pixels, floats = (types.CPointer(from_dtype(dtype)) for dtype in (pixel, number))
    index, i = types.CPointer(types.intp), types.intp
    signature = types.void(pixels, i, i, index, i, i, floats, index, floats)
    return address_of(_sum_down, signature)


@loop
def _sum_down(source, step, width, rows, count, fresh, weights, ahead, out):  # type: ignore[no-untyped-def]
    """Add up rows of pixels times their weights.

    source  pointer to the first pixel; step: bytes from one pixel to the next; width: pixels
    rows    pointer to intp, bytes from ``source`` to each row
    count   rows; fresh: the last of them, which no call before has read
    weights pointer to float, of each row
    ahead   pointer to intp, bytes from ``source`` to each row that is asked for
    out     pointer to float, overwritten

    While the rows are added up that the caches hold, those that they do not are asked for.
    """
    n = lanes(out)
    x = 0
    if step == pixel_bytes(source):
        block = DOWN * n
        whole = width // block * block
        kept = count - fresh
        each, row, byte = 0, kept, 0  # cache lines to ask for with each block, and the next one
        if kept > 0 and whole > 0:
            blocks = (kept + BATCH - 1) // BATCH * (whole // block)
            lines = (width * step + CACHE_LINE - 1) // CACHE_LINE * fresh
            each = (lines + blocks - 1) // blocks
        for first in range(0, count, BATCH):
            some = min(BATCH, count - first)
            places, factors = pointer_to(rows, first), pointer_to(weights, first)
            for x in range(0, whole, block):
                for _ in range(each):
                    if row < count:
                        prefetch(address_at(source) + np.uintp(ahead[row] + byte))
                        byte += CACHE_LINE
                        if byte >= width * step:
                            row, byte = row + 1, 0
                sum_down_block(source, x * step, places, some, factors, out, x, first > 0)
        x = whole
        while x + n <= width:
            sum_down_narrow(source, x * step, rows, count, weights, out, x, False)
            x += n
    while x < width:
        sum_down_pixel(source, x * step, rows, count, weights, out, x, False)
        x += 1
