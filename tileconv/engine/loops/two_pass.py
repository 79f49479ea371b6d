"""Kernels that are a column times a row: a pass along the rows, then one down the columns.

A kernel of kh x kw taps of rank one takes kh + kw multiply-adds instead of
kh * kw. The sums are rounded differently from the direct ones, so whether a
kernel is computed so depends on kernel, stride, dilation and dtype alone, and
is part of what the result means.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.jit import loop
from tileconv.engine.kernel_layout import Pair, Program, lay_out
from tileconv.engine.micro.direct_tile import LONG
from tileconv.engine.micro.panel_tile import settle_streams
from tileconv.engine.micro.tile_rows import (
    AFRESH,
    PAST,
    buffer_size,
    input_row,
    part_of,
    row_summer,
    summer,
    write_row_steps,
)
from tileconv.engine.missing.detect import Sieve, choose_dealer
from tileconv.engine.missing.epilogue import found_by, room_for, settle_rows
from tileconv.engine.vectors import ROWS, call_at
from tileconv.engine.workspace import address, scratch

DEARER = 1.5
"""What a multiply-add of two passes costs, in those of one: the rows in between are stored."""
PAST_TAPS = 40
"""Taps of both passes up to which outputs are written past the caches."""
SET_UP = 4
"""Multiply-adds that pay for the second pass, per output."""

DEALT = 2
"""What it costs to deal out a pixel for a stride along x."""

_ONE_STEP = np.array([[0, 1, 0]], np.intp)
"""A line from its beginning on, to the only row of sums, with weights from the first on."""
_HERE = np.zeros(1, np.intp)
"""Down the columns, every line holds one tap, at its beginning."""


def factor(kernel: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (column, row) whose products are ``kernel`` to within rounding, or None.

    The test is elementwise: no product differs from its weight by more than
    2 eps of ``dtype`` relative to it, and none is 0 where the weight is not.
    Whole numbers stay whole, so that sums which are exact stay exact.

    >>> factor(np.outer([1, 2, 1], [1, 0, -1]), np.dtype("float32"))
    (array([1., 2., 1.]), array([ 1.,  0., -1.]))
    >>> factor(np.eye(2), np.dtype("float32")) is None
    True
    """
    y, x = np.unravel_index(np.argmax(np.abs(kernel)), kernel.shape)
    if not kernel[y, x]:
        return None
    if (kernel == np.rint(kernel)).all() and np.abs(kernel).max() < 2**53:
        row = kernel[y] / gcd(*(int(w) for w in kernel[y]))
    else:
        row = kernel[y] / np.exp2(np.floor(np.log2(np.abs(kernel[y, x])) / 2))
    column = kernel[:, x] / row[x]
    bound = 2 * np.finfo(dtype).eps * np.abs(kernel)
    if not (np.abs(np.outer(column, row) - kernel) <= bound).all():
        return None
    parts = column.astype(dtype), row.astype(dtype)
    for part, exact in zip(parts, (column, row), strict=True):
        small = np.abs(part[exact != 0])
        if not (small >= np.finfo(dtype).tiny).all() or not np.isfinite(part).all():
            return None  # out of the range in which dtype is accurate
    return column, row


def columns_first(stride: Pair, dilation: Pair) -> bool:
    """Say whether the pass down the columns comes first: no two output rows share all their rows.

    Outputs that lie as far apart as taps read the same rows, whatever the distance.
    """
    return stride[0] // gcd(stride[0], dilation[0]) > 1


def worth(kernel: np.ndarray, stride: Pair, dilation: Pair) -> bool:
    """Say whether two passes over a kernel of rank one are cheaper than all its taps."""
    rows, columns = (int(kernel.any(axis=axis).sum()) for axis in (1, 0))
    direct = int(np.count_nonzero(kernel))
    if columns_first(stride, dilation):
        two = rows * stride[1] + columns
        if stride[1] > 1:
            between = min(stride[0] // gcd(stride[0], dilation[0]), rows)
            direct += DEALT * between * min(stride[1], columns)
    else:
        two = columns + rows
    return bool(DEARER * two + SET_UP <= direct)


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
        return cls(tuple(passes(stride, dilation, taps) for taps in kernels))

    def scratch_bytes(self, width: int) -> int:
        """Return the memory that outputs ``width`` wide take beside in- and output, per thread."""
        return max(self._scratch(pair, width) for pair in self.passes)

    @staticmethod
    def _scratch(pair: tuple[Program, Program], width: int) -> int:
        along, down = pair
        columns = _columns(along, down, width)
        numbers = along.row_size(_padded(along, columns))
        numbers += down.ring * down.line_size(_padded(down, columns)) + buffer_size(down.lanes)
        return numbers * down.weights.itemsize

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
            columns = _columns(along, down, width)
            padded = _padded(along, columns)
            buffer = buffer_size(down.lanes)
            sizes = along.row_size(padded), down.ring * down.line_size(padded), buffer
            taps, places = along.tables(padded)
            tables = (places, taps, along.weights, _ONE_STEP, _HERE, down.weights)
            found = columns, sizes, tuple(address(table) for table in tables), tables
            self._layouts[key] = found
        return found


def passes(stride: Pair, dilation: Pair, taps: Taps) -> tuple[Program, Program]:
    """Lay out a kernel that `factor` takes: what is done along the rows, and down the columns."""
    parts, dtype = taken_apart(taps), taps.weights.dtype
    row, column = _line_taps(parts[1], dtype, row=True), _line_taps(parts[0], dtype, row=False)
    along = lay_out((1, stride[1]), (1, dilation[1]), [row], 1)
    down = lay_out((stride[0], 1), (dilation[0], 1), [column], 1)
    if along is None or down is None:
        raise ValueError("the kernel has no taps")
    return along, down


def taken_apart(taps: Taps) -> tuple[np.ndarray, np.ndarray]:
    """Return (column, row) of a kernel that `factor` takes, float64."""
    kernel = np.zeros((int(taps.y.max()) + 1, int(taps.x.max()) + 1))
    kernel[taps.y, taps.x] = taps.exact
    parts = factor(kernel, taps.weights.dtype)
    if parts is None:
        raise ValueError("the kernel is not of rank one")
    return parts


def _line_taps(line: np.ndarray, dtype: np.dtype, *, row: bool) -> Taps:
    """Return the taps of a kernel of one row, or of one column."""
    place = np.flatnonzero(line)
    nought = np.zeros_like(place)
    y, x = (nought, place) if row else (place, nought)
    return Taps(nought, y, x, line[place].astype(dtype), line[place])


def _columns(along: Program, down: Program, width: int) -> int:
    return min(along.columns(width), down.columns(width))


def _padded(program: Program, columns: int) -> int:
    """Return the columns that whole blocks of LONG vectors may come to cover."""
    return columns + LONG * program.lanes


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
                    outputs are written (see `micro.tile_rows`)
    along_tables    addresses: the lines of an input row; places, taps and weights of the
                    pass along the rows; its one step; that of a sieve, or 0
    tables          addresses: the ring of sums; steps; ahead; `buffer_size` numbers; where along a
                    row of sums the one tap lies; weights of the pass down the columns

    What is not named here is as for `loops.direct.correlate`.
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
