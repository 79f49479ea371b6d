"""Banks of many kernels whose fields share no pixel: matrix products whose lanes are kernels.

A vector holds one tap's weights of neighbouring kernels, and a single pixel, spread over all of a
second vector, is multiplied by them. So pixels are read where they lie, one by one, and need not
be dealt out; what has to be turned round are the results, of which there are far fewer where a
field has more taps than there are kernels.

    weights    of VECTORS vectors of kernels a tap, side by side in memory, read in whole vectors
    pixels     the same tap of PLACES neighbouring outputs
    sums       of PLACES times these kernels stay in registers from the first tap to the last
    strip      its sums lie place by place in scratch and are turned into rows of the output

Every sum adds its taps in the order that all other loops have.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import Program
from tileconv.engine.micro.kernel_tile import PLACES, VECTORS, sum_places, turn_square
from tileconv.engine.micro.panel_tile import settle_streams, write_row
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import dealer
from tileconv.engine.vectors import address_at, call_at, float_to, lanes, pointer_to
from tileconv.engine.workspace import CACHE_LINE, address, aligned, scratch

STRIP_BYTES = 3 << 17
"""Pixels of a strip: they stay in the second-level cache while all kernels go over them."""
STRIP_UNIT, MOST_UNITS = 48, 2
"""Outputs in a strip: a multiple of PLACES and of any vector's lanes."""
LEAST_TAPS = 32
"""With fewer, results take longer to turn than pixels to deal out."""
MOST_SPARE = 2
"""Kernels for each lane that may be without one."""


def fits(program: Program) -> bool:
    """Say whether a bank whose fields share no pixel is better off so."""
    p = program
    kernels, together = p.weights.shape[0], VECTORS * p.lanes
    spare = -kernels % together
    return not p.sparse and p.weights[0].size >= LEAST_TAPS and spare * MOST_SPARE <= kernels


def _columns(program: Program) -> int:
    """Return the outputs in a row of a strip."""
    size = program.weights[0].nbytes * STRIP_UNIT
    return STRIP_UNIT * min(max(STRIP_BYTES // size, 1), MOST_UNITS)


def _sums_size(program: Program) -> int:
    """Return the numbers in the sums of a strip, and in those that are turned."""
    return _columns(program) * (VECTORS + 1) * program.lanes


def _row_size(program: Program) -> int:
    """Return the numbers of a strip's row of pixels, where they have to be converted."""
    return (_columns(program) - 1) * program.stride[1] + int(program.offsets.max()) + 1


def _converts(program: Program) -> bool:
    """Say whether few pixels between fields have to be converted with those of other dtypes."""
    return program.offsets.size * 2 >= program.stride[1]


def scratch_bytes(program: Program) -> int:
    """Return the memory that a program laid out so takes beside in- and output, per thread."""
    _, bands, height, _ = program.weights.shape
    pixels = bands * height * _row_size(program) if _converts(program) else 0
    return (_sums_size(program) + pixels) * program.weights.itemsize


@dataclass(frozen=True, eq=False)
class Matrix:
    """A program that `fits`, laid out with its kernels side by side."""

    program: Program
    weights: np.ndarray
    """(groups, taps, VECTORS * lanes), zero where there is no kernel."""

    @classmethod
    def of(cls, program: Program) -> "Matrix":
        """Lay a program out."""
        weights = program.weights
        kernels, together = weights.shape[0], VECTORS * program.lanes
        groups = -(-kernels // together)
        padded = np.zeros((groups * together, weights[0].size), weights.dtype)
        padded[:kernels] = weights.reshape(kernels, -1)
        turned = padded.reshape(groups, together, -1).transpose(0, 2, 1)
        beside = aligned(turned.shape, turned.dtype)
        beside[...] = turned
        return cls(program, beside)

    def takes(self, dtype: np.dtype) -> bool:
        """Say whether pixels of a dtype are better off so."""
        return dtype == self.weights.dtype or _converts(self.program)

    def run(self, planes: np.ndarray, out: np.ndarray, *, final: bool) -> None:
        """Write the "valid" correlations; see `loops.direct.Direct.run`."""
        p = self.program
        _, bands, height, _ = p.weights.shape
        converted = planes.dtype != out.dtype
        row_size = _row_size(p) if converted else 0
        sums, owner = scratch(_sums_size(p) + bands * height * row_size, out.dtype)
        lines = sums + np.uintp(_sums_size(p) * out.itemsize)
        if converted:
            plane, row, step = (n * out.itemsize for n in (height * row_size, row_size, 1))
        else:
            plane, row, step = planes.strides[0], planes.strides[1] * p.row_step, planes.strides[2]
        rows = np.arange(bands)[:, None] * plane + np.arange(height) * row
        offsets = (rows[:, :, None] + p.offsets * step).astype(np.intp)
        correlate_matrix(
            (dealer(planes.dtype, out.dtype, 1), matrix_summer(out.dtype)),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, out.strides[1] // out.itemsize, out.itemsize),
            (bands, height, offsets.size),
            p.sampling,
            (_columns(p), row_size, p.stride[1] * step, int(final)),
            (sums, lines, address(offsets), address(self.weights)),
        )
        del owner  # until here the loops used its memory


@loop
def correlate_matrix(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_pitch,
    field,
    sampling,
    layout,
    tables,
):
    """Compute all outputs of all kernels, row by row and strip by strip.

    functions  addresses from `dealer` for stride 1 and from `matrix_summer`
    field      bands, rows of taps, taps in all
    layout     columns of a strip; numbers in a row of converted pixels, 0 if they are read where
               they lie; bytes from one output's pixels to the next's; write past the caches
    tables     addresses: sums; converted pixels; bytes from an output's first pixel to that of
               each tap; weights

    What is not named here is as for `loops.direct.correlate`.
    """
    deal, sum_strip = functions
    stride_y, stride_x, classes, row_step, hop, _ = sampling
    most_columns, row_size, apart, streamed = layout
    sums_at, lines_at, offsets_at, weights_at = tables
    _, _, in_width = shape
    kernels, out_height, out_width = out_shape
    kernel_pitch, row_pitch, size = out_pitch
    bands, height, taps = field
    for c in range(classes):
        rows = (out_height - c + classes - 1) // classes
        for i in range(rows):
            row = source + np.uintp((c * stride_y + i * hop * row_step) * strides[1])
            for x in range(0, out_width, most_columns):
                columns = min(most_columns, out_width - x)
                left = x * stride_x
                pixels = row + np.uintp(left * strides[2])
                to_next = columns * apart
                if row_size:
                    for band in range(bands):
                        for y in range(height):
                            call_at(
                                deal,
                                pixels + np.uintp(band * strides[0] + y * row_step * strides[1]),
                                strides[2],
                                in_width - left,
                                1,
                                np.uintp(0),
                                row_size,
                                lines_at + np.uintp((band * height + y) * row_size * size),
                                np.uintp(0),
                                0,
                                0,
                                np.uintp(0),
                            )
                    pixels = lines_at
                    to_next = 0
                elif x + columns == out_width:
                    to_next = hop * row_step * strides[1] - left * strides[2]
                call_at(
                    sum_strip,
                    pixels,
                    apart,
                    columns,
                    offsets_at,
                    taps,
                    weights_at,
                    kernels,
                    sums_at,
                    target + np.uintp(((c + i * classes) * row_pitch + x) * size),
                    kernel_pitch,
                    streamed,
                    to_next,
                )
    settle_streams()


@cache
def matrix_summer(number: np.dtype) -> np.uintp:
    """Return the address of `_sum_strip` for a dtype."""
    floats, i, u = types.CPointer(from_dtype(number)), types.intp, types.uintp
    kinds = (u, i, i, types.CPointer(i), i, floats, i, floats, u, i, i, i)
    return address_of(_sum_strip, types.void(*kinds))


@loop
def _sum_strip(  # type: ignore[no-untyped-def]
    pixels,
    apart,
    columns,
    offsets,
    taps,
    weights,
    kernels,
    sums,
    out,
    pitch,
    streamed,
    to_next,
):
    """Sum up a strip of one row of outputs of all kernels.

    pixels   address of the first output's first pixel, a float; those of the next output lie
             ``apart`` bytes on
    offsets  pointer to intp: bytes from there to the pixel of each tap
    sums     pointer to float, room for those of a group of kernels, and then for rows of as many
             kernels as a vector holds
    out      address of the first output; the next kernel's lies ``pitch`` numbers further on
    to_next  bytes from ``pixels`` to those of the strip that comes next
    """
    n = lanes(sums)
    size = pixel_bytes(sums)
    together = VECTORS * n
    in_lines = (out % np.uintp(CACHE_LINE) == 0) & (pitch * size % CACHE_LINE == 0)
    past = (streamed != 0) & in_lines
    turned_pitch = (columns + n - 1) // n * n
    turned = pointer_to(sums, turned_pitch * together)
    aside = address_at(turned)
    for first in range(0, kernels, together):
        own = pointer_to(weights, first * taps)
        for x in range(0, columns, PLACES):
            reach = PLACES * apart if x + PLACES < columns else to_next - x * apart
            last = min(PLACES, columns - x) - 1
            here = pixels + np.uintp(x * apart)
            sum_places(here, apart, last, offsets, taps, own, pointer_to(sums, x * together), reach)
        some = min(together, kernels - first)
        for k in range(0, some, n):
            number = min(n, some - k)
            place = out + np.uintp((first + k) * pitch * size)
            beside = (streamed != 0 and not in_lines) or number < n
            there, there_pitch = (aside, turned_pitch) if beside else (place, pitch)
            for x in range(0, columns, n):
                square = pointer_to(sums, x * together + k)
                at = there + np.uintp(x * size)
                if beside or x + n <= columns:
                    turn_square(square, together, at, there_pitch, past and not beside)
                else:
                    for j in range(n):
                        for i in range(columns - x):
                            float_to(
                                square[i * together + j], at + np.uintp((j * pitch + i) * size)
                            )
            if beside:
                for j in range(number):
                    row = pointer_to(turned, j * turned_pitch)
                    write_row(row, columns, place + np.uintp(j * pitch * size), streamed)
