"""The direct loops: every tap of every output, one multiply-add each.

Work goes strip by strip, a strip being as many columns of output as fit into
the second-level cache with the rows they need. Each input row of a strip is
converted and dealt out into lines once (`pack.rows`) and kept in a
ring until the last output row that reads it is done. Blocks of sums that stay
in registers (`micro.direct_tile.generate_block`) then run along the strip; the
rows of a block are

    output rows   of one kernel: an input line serves all rows that reach it
    kernels       of a bank: an input line serves them all
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.jit import loop
from tileconv.engine.kernel_layout import Pair, Program, lay_out
from tileconv.engine.loops import kernel_gemm, panel_gemm
from tileconv.engine.loops.kernel_gemm import Matrix
from tileconv.engine.loops.panel_gemm import CHUNK, Bank
from tileconv.engine.loops.row_stream import Streamed
from tileconv.engine.micro.panel_tile import settle_streams
from tileconv.engine.micro.tile_rows import (
    AFRESH,
    GOING_ON,
    PAST,
    buffer_size,
    input_row,
    part_of,
    summer,
    write_places,
    write_row_steps,
)
from tileconv.engine.missing.detect import Sieve, choose_dealer
from tileconv.engine.missing.epilogue import found_by, room_for, settle_rows
from tileconv.engine.vectors import ROWS, call_at
from tileconv.engine.workspace import INDEX, address, scratch

PAST_TAPS = 12
"""Sums of so few taps are made faster than lines of the output come to be overwritten."""


@dataclass(frozen=True, eq=False)
class Direct:
    """Some kernels, ready to run."""

    program: Program | None
    """None if no kernel has a tap."""
    streamed: Streamed | None = None
    """Another way to run it, taken if there is one: the chains of additions are the same."""
    _layouts: dict[int, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int) -> "Direct":
        """Lay out kernels of one dtype that read the same ``bands`` planes."""
        program = lay_out(stride, dilation, kernels, bands)
        if program is not None and len(kernels) == 1 and stride[1] > 1:
            return cls(program, Streamed(program))
        return cls(program)

    def scratch_bytes(self, width: int) -> int:
        """Return the memory that outputs ``width`` wide take beside in- and output, per thread."""
        if self.program is None:
            return 0
        if panel_gemm.fits(self.program):
            panels = panel_gemm.scratch_bytes(self.program)
            if not kernel_gemm.fits(self.program):
                return panels
            return max(panels, kernel_gemm.scratch_bytes(self.program))  # dtypes of pixels choose
        if self.streamed is not None:
            return self.streamed.scratch_bytes(width)
        buffer = buffer_size(self.program.lanes) * self.program.weights.itemsize
        return self.program.scratch_bytes(width) + buffer

    @property
    def sifts(self) -> bool:
        """Whether `run` takes a sieve: what reads fields as a whole does not."""
        p = self.program
        return p is not None and not panel_gemm.fits(p)

    @property
    def settles(self) -> bool:
        """Whether sums are settled by the sieve as they are made: those of a single kernel are."""
        p = self.program
        return self.sifts and p is not None and len(p.weights) == 1

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        final: bool = False,
        sieve: Sieve | None = None,
    ) -> None:
        """Write the "valid" correlations of ``planes`` into ``out``.

        planes  (bands, H, W), native byte order, any real dtype but float16, any strides
        out     (kernels, OH, OW) of the dtype of the weights, rows contiguous, overwritten; must
                fit: nothing is checked here
        final   the outputs are more than the caches hold, with others, and nobody reads them
                soon: they are written past the caches where that pays
        sieve   takes missing pixels out of rows, if it `sifts`
        """
        p = self.program
        if p is None:
            out[:] = 0
            return
        if self._matrix is not None and self._matrix.takes(planes.dtype):
            self._matrix.run(planes, out, final=final)
            return
        if self._bank is not None:
            self._bank.run(planes, out, final=final)
            return
        if self.streamed is not None:
            self.streamed.run(planes, out, final=final, sieve=sieve)
            return
        columns, ring_size, fixed, tables = self._laid_out(p, out.shape[2])
        bands = planes.shape[0]
        lines, owner = scratch(ring_size + buffer_size(p.lanes), out.dtype)
        whole = len(p.weights) == 1 and out.shape[1] >= ROWS * p.classes
        past = final and p.weights[0].size <= PAST_TAPS
        counts = 3 * bands * p.ring, bands * ROWS * p.overlap, p.weights[0].size
        numbers = np.empty(sum(counts), np.intp)
        row_pitch = out.strides[1] // out.itemsize
        aside = columns if past and self.settles else 0
        deal, sieve_at = choose_dealer(planes.dtype, out.dtype, p.stride[1], sieve, past=aside)
        correlate(
            (
                deal,
                summer(out.dtype, p.block),
                summer(out.dtype, p.block if whole else part_of(p.block)),
            ),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, row_pitch, out.itemsize),
            p.weights.shape,
            tables[1],
            p.sampling,
            (
                p.ring,
                p.row_size(columns),
                columns,
                p.reach,
                p.block,
                ring_size,
                counts[0],
                PAST if past else AFRESH,
            ),
            numbers,
            (lines, address(numbers), *fixed, sieve_at),
            None if len(p.weights) == 1 else True,
        )
        del owner, tables  # until here the loops used their memory

    def _laid_out(self, p: Program, width: int) -> Any:
        """Return what outputs ``width`` wide take: columns, size of the ring, addresses, owners."""
        found = self._layouts.get(width)
        if found is None:
            columns = p.columns(width)
            taps, places = p.tables(columns)
            tables = (places, taps, p.weights)
            found = columns, p.ring_size(columns), tuple(address(t) for t in tables), tables
            self._layouts[width] = found
        return found

    @cached_property
    def _bank(self) -> Bank | None:
        """The same as a matrix product; None if fields share pixels."""
        p = self.program
        return Bank.of(p) if p is not None and panel_gemm.fits(p) else None

    @cached_property
    def _matrix(self) -> Matrix | None:
        """The same with kernels side by side; None if they are few, or taps."""
        p = self.program
        return (
            Matrix.of(p) if p is not None and panel_gemm.fits(p) and kernel_gemm.fits(p) else None
        )


@loop
def correlate(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_pitch,
    weights_shape,
    taps,
    sampling,
    layout,
    numbers,
    tables,
    bank,
):
    """Compute all outputs, strip by strip. It knows no dtype: `functions` do.

    functions  addresses from `choose_dealer` and, for ROWS rows and for fewer, `summer`
    source     address of the first pixel (uintp); shape (bands, H, W), strides in bytes
    target     address of the first output; out_shape (kernels, OH, OW); out_pitch: numbers from
               one kernel and one row to the next, bytes of a number
    weights_shape
               (kernels, bands, height, T)
    taps       (T,) intp, where along the lines of a row each tap of output column 0 lies
    sampling   stride along y and x, classes, row_step, hop, overlap
    layout     input rows in the ring, numbers in all lines of a row, columns in a strip, reach, one
               of DENSE, SPARSE and DENSE_3X3, numbers in the ring, most numbers of all steps; how
               sums of a single kernel are written, see `micro.tile_rows`
    numbers    intp, overwritten: steps; addresses of coming input rows (bands * ROWS * overlap);
               where all taps of a bank lie
    tables     addresses: the ring and then `buffer_size` numbers, float; numbers; places
               (see `pack.rows`); taps; weights; that of a sieve, or 0
    bank       None for one kernel, else True: the compiler leaves out the other's part
    """
    deal, sum_whole, sum_part = functions
    stride_y, stride_x, classes, row_step, hop, overlap = sampling
    ring, row_size, most_columns, reach, which, ring_size, first_ahead, mode = layout
    lines_at, steps_at, places_at, taps_at, weights_at, sieve_at = tables
    bands, in_height, in_width = shape
    kernels, out_height, out_width = out_shape
    kernel_pitch, row_pitch, size = out_pitch
    _, _, height, tap_count = weights_shape
    buffer_at = lines_at + np.uintp(ring_size * size)
    ahead_at = steps_at + np.uintp(first_ahead * INDEX)
    first_place = first_ahead + bands * ROWS * overlap
    all_taps = bands * height * tap_count
    together = ROWS if bank is None else 1
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        left = source + np.uintp(x * stride_x * strides[2])
        width = in_width - x * stride_x
        for c in range(classes):
            rows = (out_height - c + classes - 1) // classes
            ready = 0  # lines of the class that are in the ring, or were
            for first in range(0, rows, together):
                count = min(together, rows)
                i = min(first, rows - count)  # the last rows of one kernel may be made again
                ready = max(ready, i * overlap)
                while ready < (i + count - 1) * overlap + height:
                    row = c * stride_y + input_row(ready, hop, height, overlap) * row_step
                    place = left + np.uintp(row * strides[1])
                    at = (ready % ring) * bands * row_size
                    for band in range(bands):
                        call_at(
                            deal,
                            place + np.uintp(band * strides[0]),
                            strides[2],
                            width,
                            stride_x,
                            places_at,
                            columns + reach,
                            lines_at + np.uintp((at + band * row_size) * size),
                            np.uintp(0),
                            0,
                            (band * in_height + row) * in_width + x * stride_x,
                            sieve_at,
                        )
                    ready += 1
                coming = 0
                last = (rows - 1) * overlap + height
                for later in range(ready, min(ready + together * overlap, last)):
                    row = c * stride_y + input_row(later, hop, height, overlap) * row_step
                    for band in range(bands):
                        place = left + np.uintp(row * strides[1])
                        numbers[first_ahead + coming] = np.intp(place) + band * strides[0]
                        coming += 1
                out = target + np.uintp(((c + i * classes) * row_pitch + x) * size)
                if bank is None:
                    used = write_row_steps(
                        numbers, i * overlap, (ring, row_size), weights_shape, overlap, count
                    )
                    out_step = classes * row_pitch * size
                    sums, sums_step = room_for(sieve_at, out, out_step)
                    call_at(
                        sum_whole if count == ROWS else sum_part,
                        lines_at,
                        columns,
                        steps_at,
                        used,
                        taps_at,
                        tap_count,
                        weights_at,
                        -overlap * tap_count,
                        which,
                        sums,
                        sums_step // size,
                        count,
                        buffer_at,
                        ahead_at,
                        coming,
                        stride_x * strides[2],
                        AFRESH if found_by(sieve_at) else mode,
                    )
                    done = c + i * classes
                    settle_rows(
                        sieve_at, done, classes, count, x, columns, sums, sums_step, out, out_step
                    )
                else:
                    here = (ring, row_size)
                    write_places(numbers, first_place, i * overlap, here, weights_shape, taps)
                    numbers[0] = 0
                    for chunk in range(0, all_taps, CHUNK):
                        places_here = steps_at + np.uintp((first_place + chunk) * INDEX)
                        for kernel in range(0, kernels, ROWS):
                            count = min(ROWS, kernels - kernel)
                            numbers[1] = count
                            numbers[2] = kernel * all_taps + chunk
                            call_at(
                                sum_whole if count == ROWS else sum_part,
                                lines_at,
                                columns,
                                steps_at,
                                1,
                                places_here,
                                min(CHUNK, all_taps - chunk),
                                weights_at,
                                all_taps,
                                which,
                                out + np.uintp(kernel * kernel_pitch * size),
                                kernel_pitch,
                                count,
                                buffer_at,
                                ahead_at,
                                coming,
                                stride_x * strides[2],
                                GOING_ON if chunk else AFRESH,
                            )
                            coming = 0
    settle_streams()
