"""Banks whose fields share no pixel, as in a patch embedding: matrix products of panels.

The outputs of such a bank are a matrix of kernels x taps times one of taps x
outputs, in which every pixel stands once. There is nothing to keep from one row
of outputs to the next, so each strip of a row is packed right into panels
(`micro.panel_tile`), and all kernels go over a panel while it lies in the
first-level cache. Other banks use packed rows again (`loops.direct`).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.engine.blocking import MR, NR
from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import KernelLayout
from tileconv.engine.micro.panel_tile import sum_panel, sum_sparse_panel
from tileconv.engine.micro.stores import fence_streams, write_row
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import row_packer
from tileconv.engine.sizes import panel_count, panel_gemm_sizes, panel_row_size
from tileconv.engine.vectors import (
    advance,
    call_at,
    lane_count,
    pointer_address,
    prefetch,
)
from tileconv.engine.workspace import CACHE_LINE, address, scratch

CHUNK = 192
"""Taps that are added at a time: their pixels in a panel, 18 KiB, stay in the first-level cache
while kernels go over them."""
TOGETHER = 16
"""Groups of MR kernels that go over all panels before the next groups do: the weights of a
chunk, 48 KiB, stay in the second-level cache that long."""


@dataclass(frozen=True, eq=False)
class PanelGemm:
    """A bank that `is_gemm`, laid out for panels."""

    layout: KernelLayout
    weights: np.ndarray
    """(groups, taps, MR), zero where there is no kernel."""
    phase_offsets: np.ndarray
    """Where in the panel's part for one row of pixels each phase begins."""
    offsets: np.ndarray
    """(taps,) intp, where in a panel each tap lies."""

    @classmethod
    def of(cls, layout: KernelLayout) -> "PanelGemm":
        """Lay out the weights."""
        p = layout
        kernels, bands, height, _ = p.weights.shape
        line = NR * p.lanes
        row_size = panel_row_size(p)
        groups = -(-kernels // MR)
        weights = np.zeros((groups * MR, p.weights[0].size), p.weights.dtype)
        weights[:kernels] = p.weights.reshape(kernels, -1)
        rows = np.arange(bands * height)[:, None] * row_size
        return cls(
            layout=p,
            weights=np.ascontiguousarray(weights.reshape(groups, MR, -1).transpose(0, 2, 1)),
            phase_offsets=p.phase_offsets(line),
            offsets=(rows + p.tap_offsets(line)).ravel(),
        )

    def run(self, planes: np.ndarray, out: np.ndarray, *, stream: bool) -> None:
        """Write the "valid" correlations; see `loops.direct.Direct.run`."""
        p = self.layout
        sizes = panel_gemm_sizes(p)
        panels, owner = scratch(sum(sizes), out.dtype)
        sums = panels + np.uintp(sizes[0] * out.itemsize)
        prefetches = np.empty(planes.shape[0] * p.height, np.uintp)
        tables = (self.phase_offsets, self.offsets, self.weights, prefetches)
        multiply_panels(
            (row_packer(planes.dtype, out.dtype, p.stride[1]), panel_summer(out.dtype)),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, out.strides[1] // out.itemsize, out.itemsize),
            p.weights.shape,
            p.sampling,
            (
                panel_row_size(p),
                panel_count(p) * NR * p.lanes,
                NR * p.lanes,
                int(p.sparse),
                int(stream),
            ),
            prefetches,
            (panels, sums, *(address(table) for table in tables)),
        )
        del owner  # until here the loops used its memory


@loop
def multiply_panels(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_strides,
    weights_shape,
    sampling,
    layout,
    prefetches,
    tables,
):
    """Compute all outputs of all kernels, row by row and strip by strip.

    functions   addresses from `row_packer` and `panel_summer`
    layout      elements of a panel for one row of pixels, columns of a strip and of a panel,
                whether weights may be 0, whether outputs are written by streaming stores
    prefetches  (bands * height,) uintp, overwritten
    tables      addresses: the panels and the sums of a strip; where phases begin (see `pack.rows`);
                where in a panel the taps lie; weights; prefetches

    What is not named here is as for `loops.direct.correlate_with_ring`.
    """
    pack, sum_bank = functions
    stride_y, stride_x, classes, row_dilation, row_stride, _ = sampling
    row_size, strip, panel_columns, sparse, streams = layout
    panels_at, sums_at, phase_offsets_at, offsets_at, weights_at, prefetches_at = tables
    bands, _, in_width = shape
    kernels, out_height, out_width = out_shape
    out_kernel_stride, out_row_stride, size = out_strides
    _, _, height, tap_count = weights_shape
    panel_size = bands * height * row_size
    pixel_step = stride_x * strides[2]
    # else most of the cache lines prefetched would be read by nobody
    adjacent = 0 < pixel_step <= tap_count * strides[2] + CACHE_LINE and strides[2] <= CACHE_LINE
    for c in range(classes):
        rows = (out_height - c + classes - 1) // classes
        for i in range(rows):
            row = c * stride_y + i * row_stride * row_dilation
            for x in range(0, out_width, strip):
                columns = min(strip, out_width - x)
                to_next = strip * pixel_step
                if x + strip >= out_width:
                    to_next = row_stride * row_dilation * strides[1] - x * pixel_step
                prefetch_count = 0
                for band in range(bands):
                    for y in range(height):
                        place = source + np.uintp(
                            band * strides[0]
                            + (row + y * row_dilation) * strides[1]
                            + x * pixel_step
                        )
                        line = (band * height + y) * row_size
                        for part in range(0, columns, panel_columns):
                            call_at(
                                pack,
                                place + np.uintp(part * pixel_step),
                                strides[2],
                                in_width - (x + part) * stride_x,
                                stride_x,
                                phase_offsets_at,
                                min(panel_columns, columns - part),
                                panels_at + np.uintp(line * size),
                                np.uintp(0),
                                0,
                                0,
                                np.uintp(0),
                            )
                            line += panel_size
                        if adjacent and (x + strip < out_width or i + 1 < rows):
                            prefetches[prefetch_count] = place + np.uintp(to_next)
                            prefetch_count += 1
                call_at(
                    sum_bank,
                    panels_at,
                    panel_size,
                    offsets_at,
                    bands * height * tap_count,
                    weights_at,
                    sparse,
                    sums_at,
                    strip,
                    target + np.uintp(((c + i * classes) * out_row_stride + x) * size),
                    out_kernel_stride,
                    kernels,
                    columns,
                    streams,
                    prefetches_at,
                    prefetch_count,
                    min(strip, out_width) * pixel_step,
                )
    fence_streams()


@cache
def panel_summer(dtype: np.dtype) -> np.uintp:
    """Return the address of `_sum_panels` for panels of a dtype."""
    floats, index = types.CPointer(from_dtype(dtype)), types.CPointer(types.intp)
    addresses, i, u = types.CPointer(types.uintp), types.intp, types.uintp
    kinds = (floats, i, index, i, floats, i, floats, i, u, i, i, i, i, addresses, i, i)
    return address_of(_sum_panels, types.void(*kinds))


@loop
def _sum_panels(  # type: ignore[no-untyped-def]
    panels,
    panel_size,
    offsets,
    taps,
    weights,
    sparse,
    sums,
    strip,
    out,
    out_kernel_stride,
    kernels,
    columns,
    streams,
    prefetches,
    prefetch_count,
    prefetch_bytes,
):
    """Sum up a strip of one row of outputs of all kernels.

    panels .. weights  see `micro.panel_tile.sum_panel`; panels lie ``panel_size`` apart
    sparse, streams    0 or not: weights may be 0; results are written by streaming stores
    sums               pointer to float, room for the sums of a strip, ``strip`` for each kernel
    out                address of the first output, ``out_kernel_stride`` before the next kernel's
    prefetches         pointer to addresses of pixels that are needed next, ``prefetch_bytes`` from
                       each on: each call of the inner loop prefetches some of them
    """
    n = lane_count(panels)
    size = pixel_bytes(panels)
    wide = NR * n
    sums_at = pointer_address(sums)
    groups = (kernels + MR - 1) // MR
    calls = groups * ((taps + CHUNK - 1) // CHUNK) * ((columns + wide - 1) // wide)
    lines_ahead = (abs(prefetch_bytes) + CACHE_LINE - 1) // CACHE_LINE
    prefetched = (prefetch_count * lines_ahead + calls - 1) // calls
    prefetch_row = 0
    prefetch_byte = 0
    for chunk in range(0, taps, CHUNK):
        some = min(CHUNK, taps - chunk)
        here = advance(offsets, chunk)
        for first in range(0, groups, TOGETHER):
            for x in range(0, columns, wide):
                panel = advance(panels, x // wide * panel_size)
                for group in range(first, min(first + TOGETHER, groups)):
                    for _ in range(prefetched):
                        if prefetch_row < prefetch_count:
                            prefetch(prefetches[prefetch_row] + np.uintp(prefetch_byte))
                            prefetch_byte += CACHE_LINE
                            if prefetch_byte >= prefetch_bytes:
                                prefetch_byte = 0
                                prefetch_row += 1
                    own = advance(weights, (group * taps + chunk) * MR)
                    place = sums_at + np.uintp((group * MR * strip + x) * size)
                    if sparse != 0:
                        sum_sparse_panel(panel, here, own, some, place, strip, chunk > 0)
                    else:
                        sum_panel(panel, here, own, some, place, strip, chunk > 0)
    for kernel in range(kernels):
        place = out + np.uintp(kernel * out_kernel_stride * size)
        write_row(advance(sums, kernel * strip), columns, place, streams)
