"""Kernels that are a column times a row: a pass along the rows, then one down the columns.

A kernel of kh x kw taps of rank one takes kh + kw multiply-adds instead of
kh * kw. The sums are rounded differently from the direct ones, so whether a
kernel is computed so depends on kernel, stride, dilation and dtype alone, and
is part of what the result means.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.blocking import ROWS
from tileconv.engine.blocks import (
    AFRESH,
    PAST,
    input_row,
    part_of,
    row_summer,
    summer,
    write_row_steps,
)
from tileconv.engine.factor import passes
from tileconv.engine.jit import loop
from tileconv.engine.lanes import VECTOR_BYTES, call_at
from tileconv.engine.memory import address, scratch
from tileconv.engine.panels import settle_streams
from tileconv.engine.program import Pair, Program
from tileconv.engine.settling import found_by, room_for, settle_rows
from tileconv.engine.sieve import Sieve, choose_dealer
from tileconv.engine.sizes import separable_columns, separable_padded, separable_sizes

PAST_TAPS = 40
"""Taps of both passes up to which outputs are written past the caches."""
_ONE_STEP = np.array([[0, 1, 0]], np.intp)
"""A line from its beginning on, to the only row of sums, with weights from the first on."""
_HERE = np.zeros(1, np.intp)
"""Down the columns, every line holds one tap, at its beginning."""


@dataclass(frozen=True, eq=False)
class Separable:
    """Some kernels of rank one on one band, ready to run one after the other."""

    passes: tuple[tuple[Program, Program], ...]
    """Along the rows and down the columns, for each kernel."""
    sifts = settles = True
    _layouts: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int) -> "Separable":
        """Lay out kernels that `factor` takes; ``bands`` is 1."""
        del bands
        return cls(tuple(passes(stride, dilation, taps, VECTOR_BYTES) for taps in kernels))

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        final: bool = False,
        sieve: Sieve | None = None,
    ) -> None:
        """Write the "valid" correlations of ``planes`` into ``out``; see `Direct.run`."""
        for kernel, (pair, target) in enumerate(zip(self.passes, out, strict=True)):
            along, down = pair
            columns, sizes, fixed, tables = self._laid_out(pair, target.shape[1])
            dtype = target.dtype
            lines, owner = scratch(sum(sizes), dtype)
            sums = lines + np.uintp(sizes[0] * dtype.itemsize)
            buffer = sums + np.uintp(sizes[1] * dtype.itemsize)
            steps = np.empty(3 * down.ring, np.intp)
            whole = target.shape[0] >= ROWS * down.classes
            taps = along.offsets.size + down.height
            past = final and taps <= PAST_TAPS
            ahead = np.empty(ROWS * down.overlap, np.uintp)
            deal, sieve_at = choose_dealer(
                planes.dtype,
                dtype,
                along.stride[1],
                sieve,
                kernel=kernel,
                past=columns if past else 0,
            )
            correlate(
                (
                    deal,
                    row_summer(dtype),
                    summer(dtype, down.block),
                    summer(dtype, down.block if whole else part_of(down.block)),
                ),
                address(planes),
                planes.shape,
                planes.strides,
                address(target),
                target.shape,
                (target.strides[0] // target.itemsize, target.itemsize),
                down.weights.shape,
                (along.stride[1], along.reach, along.offsets.size),
                down.sampling,
                (
                    down.ring,
                    sizes[1] // down.ring,
                    columns,
                    down.block,
                    PAST if past else AFRESH,
                ),
                steps,
                ahead,
                (lines, *fixed[:4], sieve_at),
                (sums, address(steps), address(ahead), buffer, *fixed[4:]),
            )
            del owner, tables  # until here the loops used their memory

    def _laid_out(self, pair: tuple[Program, Program], width: int) -> Any:
        """Return what outputs ``width`` wide take: columns, sizes of scratch, addresses, owners."""
        key = id(pair), width
        found = self._layouts.get(key)
        if found is None:
            along, down = pair
            columns = separable_columns(along, down, width)
            sizes = separable_sizes(along, down, columns)
            taps, places = along.tables(separable_padded(along, columns))
            tables = (places, taps, along.weights, _ONE_STEP, _HERE, down.weights)
            found = columns, sizes, tuple(address(table) for table in tables), tables
            self._layouts[key] = found
        return found


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
    along,
    sampling,
    layout,
    steps,
    ahead,
    along_tables,
    tables,
):
    """Compute all outputs of one kernel on one band, strip by strip.

    functions       addresses from `choose_dealer`, `row_summer` and, for ROWS rows and for fewer,
                    `summer`
    weights_shape   (1, 1, height, 1), of the pass down the columns
    along           stride, reach and number of taps along x
    sampling        as of a kernel of one column
    layout          rows of sums in the ring, numbers in each, columns in a strip, which block, how
                    outputs are written (see `tileconv.engine.blocks`)
    along_tables    addresses: the lines of an input row; places, taps and weights of the
                    pass along the rows; its one step; that of a sieve, or 0
    tables          addresses: the ring of sums; steps; ahead; `buffer_size` numbers; where along a
                    row of sums the one tap lies; weights of the pass down the columns

    What is not named here is as for `tileconv.engine.direct.correlate`.
    """
    deal, sum_row, sum_whole, sum_part = functions
    lines_at, places_at, taps_at, row_weights_at, one_step_at, sieve_at = along_tables
    sums_at, steps_at, ahead_at, buffer_at, here_at, weights_at = tables
    stride_x, reach, row_taps = along
    stride_y, _, classes, row_step, hop, overlap = sampling
    ring, row_size, most_columns, which, mode = layout
    _, _, in_width = shape
    out_height, out_width = out_shape
    pitch, size = out_pitch
    _, _, height, _ = weights_shape
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        left = source + np.uintp(x * stride_x * strides[2])
        width = in_width - x * stride_x
        for c in range(classes):
            rows = (out_height - c + classes - 1) // classes
            ready = 0  # lines of the class that are in the ring, or were
            for first in range(0, rows, ROWS):
                count = min(ROWS, rows)
                i = min(first, rows - count)  # the last rows may be made again
                ready = max(ready, i * overlap)
                while ready < (i + count - 1) * overlap + height:
                    row = c * stride_y + input_row(ready, hop, height, overlap) * row_step
                    call_at(
                        deal,
                        left + np.uintp(row * strides[1]),
                        strides[2],
                        width,
                        stride_x,
                        places_at,
                        columns + reach,
                        lines_at,
                        np.uintp(0),
                        0,
                        row * in_width + x * stride_x,
                        sieve_at,
                    )
                    call_at(
                        sum_row,
                        lines_at,
                        columns,
                        one_step_at,
                        taps_at,
                        row_taps,
                        row_weights_at,
                        sums_at + np.uintp(ready % ring * row_size * size),
                    )
                    ready += 1
                coming = 0
                last = (rows - 1) * overlap + height
                for later in range(ready, min(ready + ROWS * overlap, last)):
                    row = c * stride_y + input_row(later, hop, height, overlap) * row_step
                    ahead[coming] = left + np.uintp(row * strides[1])
                    coming += 1
                out = target + np.uintp(((c + i * classes) * pitch + x) * size)
                out_step = classes * pitch * size
                sums, sums_step = room_for(sieve_at, out, out_step)
                used = write_row_steps(
                    steps, i * overlap, (ring, row_size), weights_shape, overlap, count
                )
                call_at(
                    sum_whole if count == ROWS else sum_part,
                    sums_at,
                    columns,
                    steps_at,
                    used,
                    here_at,
                    1,
                    weights_at,
                    -overlap,
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
    settle_streams()
