"""Banks of many kernels whose fields share no pixel: matrix products whose lanes are kernels.

A vector holds one tap's weights of neighbouring kernels and is multiplied by a
single pixel, broadcast to a second vector. So pixels are read in place, one by
one, and need not be packed. The results have to be transposed instead, and they
are far fewer where a field has more taps than there are kernels.

    weights    of VECTORS vectors of kernels a tap, side by side in memory, read in whole vectors
    pixels     the same tap of OUTPUTS neighbouring outputs
    sums       of OUTPUTS times these kernels stay in registers from the first tap to the last
    strip      its sums lie output by output in scratch and are transposed into rows of the output

Every sum adds its taps in the order that all other loops have.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.engine.blocking import OUTPUTS
from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import KernelLayout
from tileconv.engine.micro.kernel_tile import VECTORS, sum_kernel_tile, transpose_square
from tileconv.engine.micro.stores import fence_streams, write_row
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import row_packer
from tileconv.engine.sizes import (
    kernel_gemm_columns,
    kernel_gemm_converts,
    kernel_gemm_row_size,
    kernel_gemm_sums_size,
)
from tileconv.engine.vectors import advance, call_at, lane_count, pointer_address, store_float
from tileconv.engine.workspace import CACHE_LINE, address, aligned, scratch


@dataclass(frozen=True, eq=False)
class KernelGemm:
    """A bank that `is_kernel_gemm`, laid out with its kernels side by side."""

    layout: KernelLayout
    weights: np.ndarray
    """(groups, taps, VECTORS * lanes), zero where there is no kernel."""

    @classmethod
    def of(cls, layout: KernelLayout) -> "KernelGemm":
        """Lay out the weights."""
        weights = layout.weights
        kernels, together = weights.shape[0], VECTORS * layout.lanes
        groups = -(-kernels // together)
        padded = np.zeros((groups * together, weights[0].size), weights.dtype)
        padded[:kernels] = weights.reshape(kernels, -1)
        transposed = padded.reshape(groups, together, -1).transpose(0, 2, 1)
        staged = aligned(transposed.shape, transposed.dtype)
        staged[...] = transposed
        return cls(layout, staged)

    def takes(self, dtype: np.dtype) -> bool:
        """Say whether pixels of a dtype are multiplied faster this way."""
        return dtype == self.weights.dtype or kernel_gemm_converts(self.layout)

    def run(self, planes: np.ndarray, out: np.ndarray, *, stream: bool) -> None:
        """Write the "valid" correlations; see `loops.direct.Direct.run`."""
        p = self.layout
        _, bands, height, _ = p.weights.shape
        converted = planes.dtype != out.dtype
        row_size = kernel_gemm_row_size(p) if converted else 0
        sums_size = kernel_gemm_sums_size(p)
        sums, owner = scratch(sums_size + bands * height * row_size, out.dtype)
        converted_at = sums + np.uintp(sums_size * out.itemsize)
        if converted:
            plane, row, step = (n * out.itemsize for n in (height * row_size, row_size, 1))
        else:
            plane, row, step = (
                planes.strides[0],
                planes.strides[1] * p.row_dilation,
                planes.strides[2],
            )
        rows = np.arange(bands)[:, None] * plane + np.arange(height) * row
        offsets = (rows[:, :, None] + p.tap_columns * step).astype(np.intp)
        multiply_kernels(
            (row_packer(planes.dtype, out.dtype, 1), kernel_summer(out.dtype)),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, out.strides[1] // out.itemsize, out.itemsize),
            (bands, height, offsets.size),
            p.sampling,
            (kernel_gemm_columns(p), row_size, p.stride[1] * step, int(stream)),
            (sums, converted_at, address(offsets), address(self.weights)),
        )
        del owner  # until here the loops used its memory


@loop
def multiply_kernels(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_strides,
    field,
    sampling,
    layout,
    tables,
):
    """Compute all outputs of all kernels, row by row and strip by strip.

    functions  addresses from `row_packer` for stride 1 and from `kernel_summer`
    field      bands, rows of taps, taps in all
    layout     columns of a strip; elements of a row of converted pixels, 0 if they are read in
               place; bytes from one output's pixels to the next's; whether results are streamed
    tables     addresses: sums; converted pixels; bytes from an output's first pixel to that of
               each tap; weights

    What is not named here is as for `loops.direct.correlate_with_ring`.
    """
    pack, sum_strip = functions
    stride_y, stride_x, classes, row_dilation, row_stride, _ = sampling
    most_columns, row_size, output_bytes, streams = layout
    sums_at, converted_at, offsets_at, weights_at = tables
    _, _, in_width = shape
    kernels, out_height, out_width = out_shape
    out_kernel_stride, out_row_stride, size = out_strides
    bands, height, taps = field
    for c in range(classes):
        rows = (out_height - c + classes - 1) // classes
        for i in range(rows):
            row = source + np.uintp((c * stride_y + i * row_stride * row_dilation) * strides[1])
            for x in range(0, out_width, most_columns):
                columns = min(most_columns, out_width - x)
                left = x * stride_x
                pixels = row + np.uintp(left * strides[2])
                to_next = columns * output_bytes
                if row_size:
                    for band in range(bands):
                        for y in range(height):
                            call_at(
                                pack,
                                pixels
                                + np.uintp(band * strides[0] + y * row_dilation * strides[1]),
                                strides[2],
                                in_width - left,
                                1,
                                np.uintp(0),
                                row_size,
                                converted_at + np.uintp((band * height + y) * row_size * size),
                                np.uintp(0),
                                0,
                                0,
                                np.uintp(0),
                            )
                    pixels = converted_at
                    to_next = 0
                elif x + columns == out_width:
                    to_next = row_stride * row_dilation * strides[1] - left * strides[2]
                call_at(
                    sum_strip,
                    pixels,
                    output_bytes,
                    columns,
                    offsets_at,
                    taps,
                    weights_at,
                    kernels,
                    sums_at,
                    target + np.uintp(((c + i * classes) * out_row_stride + x) * size),
                    out_kernel_stride,
                    streams,
                    to_next,
                )
    fence_streams()


@cache
def kernel_summer(number: np.dtype) -> np.uintp:
    """Return the address of `_sum_strip` for a dtype."""
    floats, i, u = types.CPointer(from_dtype(number)), types.intp, types.uintp
    kinds = (u, i, i, types.CPointer(i), i, floats, i, floats, u, i, i, i)
    return address_of(_sum_strip, types.void(*kinds))


@loop
def _sum_strip(  # type: ignore[no-untyped-def]
    pixels,
    output_bytes,
    columns,
    offsets,
    taps,
    weights,
    kernels,
    sums,
    out,
    out_kernel_stride,
    streams,
    to_next,
):
    """Sum up a strip of one row of outputs of all kernels.

    pixels   address of the first output's first pixel, a float; those of the next output lie
             ``output_bytes`` bytes on
    offsets  pointer to intp: bytes from there to the pixel of each tap
    sums     pointer to float, room for those of a group of kernels, and then for rows of as many
             kernels as a vector holds
    out      address of the first output, ``out_kernel_stride`` before the next kernel's
    to_next  bytes from ``pixels`` to those of the strip that comes next
    """
    n = lane_count(sums)
    size = pixel_bytes(sums)
    together = VECTORS * n
    in_lines = (out % np.uintp(CACHE_LINE) == 0) & (out_kernel_stride * size % CACHE_LINE == 0)
    stream_aligned = (streams != 0) & in_lines
    transposed_stride = (columns + n - 1) // n * n
    transposed = advance(sums, transposed_stride * together)
    staging = pointer_address(transposed)
    for first in range(0, kernels, together):
        own = advance(weights, first * taps)
        for x in range(0, columns, OUTPUTS):
            reach = OUTPUTS * output_bytes if x + OUTPUTS < columns else to_next - x * output_bytes
            last = min(OUTPUTS, columns - x) - 1
            here = pixels + np.uintp(x * output_bytes)
            sum_kernel_tile(
                here, output_bytes, last, offsets, taps, own, advance(sums, x * together), reach
            )
        some = min(together, kernels - first)
        for k in range(0, some, n):
            number = min(n, some - k)
            place = out + np.uintp((first + k) * out_kernel_stride * size)
            staged = (streams != 0 and not in_lines) or number < n
            there, there_stride = (
                (staging, transposed_stride) if staged else (place, out_kernel_stride)
            )
            for x in range(0, columns, n):
                square = advance(sums, x * together + k)
                at = there + np.uintp(x * size)
                if staged or x + n <= columns:
                    transpose_square(
                        square, together, at, there_stride, stream_aligned and not staged
                    )
                else:
                    for j in range(n):
                        for i in range(columns - x):
                            store_float(
                                square[i * together + j],
                                at + np.uintp((j * out_kernel_stride + i) * size),
                            )
            if staged:
                for j in range(number):
                    row = advance(transposed, j * transposed_stride)
                    write_row(row, columns, place + np.uintp(j * out_kernel_stride * size), streams)
