"""The direct loops at strides from 2 on: one input row after the other, each read once.

With a stride along the columns few output rows share an input row, and what
costs is to bring pixels up and to deal them out. So a row is dealt out as soon
as it is read, into lines that stay in the first-level cache, and all its taps
are added to the sums of the output rows that reach it, which lie beside it.
The next row is asked for meanwhile. No row is kept.

The chain of an output's additions is that of `tileconv.engine.direct`: band by
band, row by row, along each row; only its sum rests in memory between rows.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import from_dtype, types

from tileconv.engine.blocks import input_row
from tileconv.engine.jit import address_of, loop
from tileconv.engine.lanes import (
    LONG,
    address_at,
    call_at,
    lanes,
    pixel_bytes,
    pointer_to,
    sum_long_block,
    sum_short_block,
)
from tileconv.engine.lines import dealer
from tileconv.engine.memory import address, aligned
from tileconv.engine.program import LONG_REACH, Program

LINE_BYTES = 1 << 14
"""Lines of a row of a strip: half of a first-level cache of 32 KiB."""
INDEX = 8
"""Bytes of an intp."""
GO_ON, NEW, TAKE_UP = 0, 1, 2
"""How a row of sums begins: as it is, with 0, or with what lies in the output."""
_ONE_STEP = np.array([[0, 1, 0]], np.intp)
"""A line from its beginning on, to the only row of sums, with weights from the first on."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """One kernel on some bands, ready to run."""

    program: Program
    _layouts: dict[int, Any] = field(default_factory=dict, repr=False)

    @property
    def in_flight(self) -> int:
        """Output rows of a class that one input row may serve."""
        return -(-self.program.height // self.program.overlap)

    def columns(self, width: int) -> int:
        """Return the outputs in a row of a strip."""
        p = self.program
        block = LONG * p.lanes
        fit = LINE_BYTES // (p.line_count * p.weights.itemsize) - p.reach
        return min(width, max(fit, min(p.reach, LONG_REACH), block) // block * block)

    def _padded(self, columns: int) -> int:
        """Return the numbers of a row of sums: whole blocks, for none is cut short."""
        block = LONG * self.program.lanes
        return -(-columns // block) * block

    def scratch_bytes(self, width: int) -> int:
        """Return the memory that outputs ``width`` wide take beside in- and output."""
        padded = self._padded(self.columns(width))
        numbers = self.program.row_size(padded) + self.in_flight * padded
        return numbers * self.program.weights.itemsize

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

    def _laid_out(self, width: int) -> Any:
        """Return (strip, addresses of tables, tables) for outputs ``width`` wide."""
        found = self._layouts.get(width)
        if found is None:
            p, columns = self.program, self.columns(width)
            padded = self._padded(columns)
            taps, places = p.tables(padded)
            starts, which, weights = self.rows_of_taps
            tables = p.phases, places, _ONE_STEP, starts, np.ascontiguousarray(taps[which]), weights
            strip = columns, padded, p.reach, self.in_flight, p.row_size(padded)
            found = strip, tuple(address(table) for table in tables), tables
            self._layouts[width] = found
        return found

    def run(self, planes: np.ndarray, out: np.ndarray) -> None:
        """Write the "valid" correlation of ``planes`` into ``out`` (1, OH, OW)."""
        p = self.program
        strip, fixed, tables = self._laid_out(out.shape[2])
        scratch, owner = aligned(strip[4] + strip[3] * strip[1], out.dtype)
        correlate(
            (dealer(planes.dtype, out.dtype), row_adder(out.dtype)),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape[1:],
            (out.strides[1] // out.itemsize, out.itemsize),
            p.height,
            p.sampling,
            strip,
            (scratch, *fixed),
        )
        del owner, tables  # until here the loops used their memory


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

    functions  addresses from `dealer` and `row_adder`
    source     address of the first pixel (uintp); shape (bands, H, W), strides in bytes
    target     address of the first output; out_shape (OH, OW); out_pitch: numbers from one row
               to the next, bytes of a number
    height     rows of taps
    sampling   stride along y and x, classes, row_step, hop, overlap
    strip      columns, numbers in a row of sums, reach, output rows in flight, numbers in all
               lines of a row
    tables     addresses: the lines of a row and then rows of sums, float; phases and places (see
               `tileconv.engine.lines`); one step; where the taps of each row of the kernel begin; where
               along the lines each tap lies; weights
    """
    deal, add_row = functions
    stride_y, stride_x, classes, row_step, hop, overlap = sampling
    most_columns, sums_size, reach, in_flight, row_size = strip
    lines_at, phases_at, places_at, step_at, starts_at, taps_at, weights_at = tables
    bands, _, in_width = shape
    out_height, out_width = out_shape
    pitch, size = out_pitch
    sums_at = lines_at + np.uintp(row_size * size)
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        left = source + np.uintp(x * stride_x * strides[2])
        width = in_width - x * stride_x
        for c in range(classes):
            rows = (out_height - c + classes - 1) // classes
            end = (rows - 1) * overlap + height if rows > 0 else 0
            for band in range(bands):
                plane = left + np.uintp(band * strides[0] + c * stride_y * strides[1])
                coming = plane
                for number in range(end):
                    here = coming
                    coming = np.uintp(0)
                    if number + 1 < end:
                        row = input_row(number + 1, hop, height, overlap) * row_step
                        coming = plane + np.uintp(row * strides[1])
                    call_at(
                        deal,
                        here,
                        strides[2],
                        width,
                        stride_x,
                        phases_at,
                        places_at,
                        columns + reach,
                        lines_at,
                        coming,
                    )
                    first = max(0, (number - height + overlap) // overlap)
                    for i in range(first, min(rows, number // overlap + 1)):
                        r = number - i * overlap  # row of the kernel
                        at = (c + i * classes) * pitch + x
                        call_at(
                            add_row,
                            lines_at,
                            columns,
                            step_at,
                            starts_at + np.uintp((band * height + r) * INDEX),
                            taps_at,
                            weights_at,
                            sums_at + np.uintp(i % in_flight * sums_size * size),
                            target + np.uintp(at * size),
                            GO_ON if r else (TAKE_UP if band else NEW),
                            int(r == height - 1),
                        )


@cache
def row_adder(number: np.dtype) -> np.uintp:
    """Return the address of `_add_row` for lines of a dtype."""
    floats, index, i = types.CPointer(from_dtype(number)), types.CPointer(types.intp), types.intp
    kinds = (floats, i, index, index, index, floats, floats, floats, i, i)
    return address_of(_add_row, types.void(*kinds))


@loop
def _add_row(lines, columns, step, starts, taps, weights, sums, out, begin, last):  # type: ignore[no-untyped-def]
    """Add the taps of one row of a kernel to a row of sums.

    step    pointer to a step of one row, see `tileconv.engine.lanes.sum_block`
    starts  pointer to intp: the taps of the row are ``starts[0] .. starts[1] - 1``
    taps    pointer to intp, where along the lines each tap of the kernel lies
    sums    pointer to the sums so far, with room for whole blocks
    out     pointer to the row of outputs
    begin   how the sums begin: GO_ON with what they are, NEW with 0, TAKE_UP with what lies in out
    last    not 0: copy the sums to ``out``
    """
    n = lanes(lines)
    size = pixel_bytes(lines)
    first, count = starts[0], starts[1] - starts[0]
    places, factors = pointer_to(taps, first), pointer_to(weights, first)
    if begin == TAKE_UP:
        for i in range(columns):
            sums[i] = out[i]
    more = begin != NEW
    x = 0
    while x < columns and (count > 0 or begin == NEW):
        place = address_at(sums) + np.uintp(x * size)
        if columns - x > n:
            sum_long_block(lines, x, step, 1, places, count, factors, 0, place, 0, more)
            x += LONG * n
        else:
            sum_short_block(lines, x, step, 1, places, count, factors, 0, place, 0, more)
            x += n
    if last:
        for i in range(columns):
            out[i] = sums[i]
