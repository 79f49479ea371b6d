"""The direct loops: every tap of every output, one multiply-add each.

Work goes strip by strip, a strip being as many columns of output as fit into
the second-level cache with the rows they need. Each input row of a strip is
packed once (`pack.rows`) and kept in a ring until the last output row that
reads it is done. Register tiles (`micro.direct_tile`) then run along the strip;
the rows of a tile are

    output rows   of one kernel: a packed row serves all rows that reach it
    kernels       of a bank: a packed row serves them all
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tileconv.engine.blocking import MR
from tileconv.engine.jit import loop
from tileconv.engine.kernel_layout import KernelLayout, Pair, layout_of
from tileconv.engine.loops.kernel_gemm import KernelGemm
from tileconv.engine.loops.panel_gemm import CHUNK, PanelGemm
from tileconv.engine.loops.row_stream import RowStream
from tileconv.engine.micro.stores import fence_streams
from tileconv.engine.micro.tile_rows import (
    ACCUMULATE,
    OVERWRITE,
    STREAM,
    input_row,
    partial_tile,
    rows_summer,
    write_row_steps,
    write_tap_offsets,
)
from tileconv.engine.missing.detect import MissingDetector, choose_row_packer
from tileconv.engine.sizes import is_gemm, is_kernel_gemm, is_row_stream, staging_size
from tileconv.engine.vectors import VECTOR_BYTES, call_at
from tileconv.engine.workspace import INDEX, address, scratch
from tileconv.operators.convolution import Taps

STREAM_TAPS = 12
"""Sums of so few taps are made faster than memory takes the lines of the output."""


@dataclass(frozen=True, eq=False)
class Direct:
    """Some kernels, ready to run."""

    layout: KernelLayout | None
    """None if no kernel has a tap."""
    row_stream: RowStream | None = None
    """Another loop for it, taken if there is one: the chains of additions are the same."""
    _layouts: dict[int, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int) -> "Direct":
        """Lay out kernels of one dtype that read the same ``bands`` planes."""
        layout = layout_of(stride, dilation, kernels, bands, VECTOR_BYTES)
        if layout is not None and is_row_stream(layout):
            return cls(layout, RowStream(layout))
        return cls(layout)

    @property
    def detects_missing(self) -> bool:
        """Whether `run` takes a detector: loops that read whole fields at once do not."""
        p = self.layout
        return p is not None and not is_gemm(p)

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        stream: bool = False,
        detector: MissingDetector | None = None,
    ) -> None:
        """Write the "valid" correlations of ``planes`` into ``out``.

        planes    (bands, H, W), native byte order, any real dtype but float16, any strides
        out       (kernels, OH, OW) of the dtype of the weights, rows contiguous, overwritten; must
                  fit: nothing is checked here
        stream    the outputs are more than the caches hold, with others, and nobody reads them
                  soon: they are written by streaming stores where that pays
        detector  replaces missing pixels while rows are packed, if this `detects_missing`
        """
        p = self.layout
        if p is None:
            out[:] = 0
            return
        if self._matrix is not None and self._matrix.takes(planes.dtype):
            self._matrix.run(planes, out, stream=stream)
            return
        if self._bank is not None:
            self._bank.run(planes, out, stream=stream)
            return
        if self.row_stream is not None:
            self.row_stream.run(planes, out, stream=stream, detector=detector)
            return
        columns, ring_size, fixed, tables = self._laid_out(p, out.shape[2])
        bands = planes.shape[0]
        packed, owner = scratch(ring_size + staging_size(p.lanes), out.dtype)
        whole = len(p.weights) == 1 and out.shape[1] >= MR * p.classes
        stream = stream and p.weights[0].size <= STREAM_TAPS
        counts = 3 * bands * p.ring, bands * MR * p.overlap, p.weights[0].size
        workspace = np.empty(sum(counts), np.intp)
        out_row_stride = out.strides[1] // out.itemsize
        pack, detector_at = choose_row_packer(planes.dtype, out.dtype, p.stride[1], detector)
        correlate_with_ring(
            (
                pack,
                rows_summer(out.dtype, p.tile),
                rows_summer(out.dtype, p.tile if whole else partial_tile(p.tile)),
            ),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, out_row_stride, out.itemsize),
            p.weights.shape,
            tables[1],
            p.sampling,
            (
                p.ring,
                p.row_size(columns),
                columns,
                p.reach,
                p.tile,
                ring_size,
                counts[0],
                STREAM if stream else OVERWRITE,
            ),
            workspace,
            (packed, address(workspace), *fixed, detector_at),
            None if len(p.weights) == 1 else True,
        )
        del owner, tables  # until here the loops used their memory

    def _laid_out(self, p: KernelLayout, width: int) -> Any:
        """Return what ``width`` outputs take: columns, elements of the ring, addresses, owners."""
        found = self._layouts.get(width)
        if found is None:
            columns = p.columns(width)
            taps, phase_offsets = p.tables(columns)
            tables = (phase_offsets, taps, p.weights)
            found = columns, p.ring_size(columns), tuple(address(t) for t in tables), tables
            self._layouts[width] = found
        return found

    @cached_property
    def _bank(self) -> PanelGemm | None:
        """The same as a matrix product; None if fields share pixels."""
        p = self.layout
        return PanelGemm.of(p) if p is not None and is_gemm(p) else None

    @cached_property
    def _matrix(self) -> KernelGemm | None:
        """The same with kernels as lanes; None if kernels or taps are few."""
        p = self.layout
        return KernelGemm.of(p) if p is not None and is_gemm(p) and is_kernel_gemm(p) else None


@loop
def correlate_with_ring(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_strides,
    weights_shape,
    taps,
    sampling,
    layout,
    workspace,
    tables,
    bank,
):
    """Compute all outputs, strip by strip, from a ring of packed rows. It knows no dtype.

    functions      addresses from `choose_row_packer` and, for MR rows and for fewer, `rows_summer`
    source         address of the first pixel (uintp); shape (bands, H, W), strides in bytes
    target         address of the first output; out_shape (kernels, OH, OW)
    out_strides    elements from one kernel and from one row to the next, bytes of an element
    weights_shape  (kernels, bands, height, T)
    taps           (T,) intp, where along a packed row each tap of output column 0 lies
    sampling       see `KernelLayout.sampling`
    layout         input rows in the ring, elements of a packed row, columns of a strip, reach,
                   which register tile, elements of the ring, most elements of all steps; how sums
                   of a single kernel are written, see `micro.tile_rows`
    workspace      intp, overwritten: steps; addresses of input rows to prefetch (bands * MR *
                   overlap); where all taps of a bank lie
    tables         addresses: the ring and then `staging_size` floats; the workspace; phase offsets
                   (see `pack.rows`); tap offsets; weights; the table of a detector, or 0
    bank           None for one kernel, else True: the compiler leaves out the other's part
    """
    pack, sum_whole, sum_part = functions
    stride_y, stride_x, classes, row_dilation, row_stride, overlap = sampling
    ring, row_size, most_columns, reach, which, ring_size, first_prefetch, mode = layout
    packed_at, steps_at, phase_offsets_at, tap_offsets_at, weights_at, detector_at = tables
    bands, in_height, in_width = shape
    kernels, out_height, out_width = out_shape
    out_kernel_stride, out_row_stride, size = out_strides
    _, _, height, tap_count = weights_shape
    buffer_at = packed_at + np.uintp(ring_size * size)
    prefetches_at = steps_at + np.uintp(first_prefetch * INDEX)
    first_offset = first_prefetch + bands * MR * overlap
    all_taps = bands * height * tap_count
    together = MR if bank is None else 1
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
                    row = (
                        c * stride_y + input_row(ready, row_stride, height, overlap) * row_dilation
                    )
                    place = left + np.uintp(row * strides[1])
                    at = (ready % ring) * bands * row_size
                    for band in range(bands):
                        call_at(
                            pack,
                            place + np.uintp(band * strides[0]),
                            strides[2],
                            width,
                            stride_x,
                            phase_offsets_at,
                            columns + reach,
                            packed_at + np.uintp((at + band * row_size) * size),
                            np.uintp(0),
                            0,
                            (band * in_height + row) * in_width + x * stride_x,
                            detector_at,
                        )
                    ready += 1
                prefetch_count = 0
                last = (rows - 1) * overlap + height
                for later in range(ready, min(ready + together * overlap, last)):
                    row = (
                        c * stride_y + input_row(later, row_stride, height, overlap) * row_dilation
                    )
                    for band in range(bands):
                        place = left + np.uintp(row * strides[1])
                        workspace[first_prefetch + prefetch_count] = (
                            np.intp(place) + band * strides[0]
                        )
                        prefetch_count += 1
                out = target + np.uintp(((c + i * classes) * out_row_stride + x) * size)
                if bank is None:
                    used = write_row_steps(
                        workspace, i * overlap, (ring, row_size), weights_shape, overlap, count
                    )
                    call_at(
                        sum_whole if count == MR else sum_part,
                        packed_at,
                        columns,
                        steps_at,
                        used,
                        tap_offsets_at,
                        tap_count,
                        weights_at,
                        -overlap * tap_count,
                        which,
                        out,
                        classes * out_row_stride,
                        count,
                        buffer_at,
                        prefetches_at,
                        prefetch_count,
                        stride_x * strides[2],
                        mode,
                    )
                else:
                    here = (ring, row_size)
                    write_tap_offsets(
                        workspace, first_offset, i * overlap, here, weights_shape, taps
                    )
                    workspace[0] = 0
                    for chunk in range(0, all_taps, CHUNK):
                        offsets_here = steps_at + np.uintp((first_offset + chunk) * INDEX)
                        for kernel in range(0, kernels, MR):
                            count = min(MR, kernels - kernel)
                            workspace[1] = count
                            workspace[2] = kernel * all_taps + chunk
                            call_at(
                                sum_whole if count == MR else sum_part,
                                packed_at,
                                columns,
                                steps_at,
                                1,
                                offsets_here,
                                min(CHUNK, all_taps - chunk),
                                weights_at,
                                all_taps,
                                which,
                                out + np.uintp(kernel * out_kernel_stride * size),
                                out_kernel_stride,
                                count,
                                buffer_at,
                                prefetches_at,
                                prefetch_count,
                                stride_x * strides[2],
                                ACCUMULATE if chunk else OVERWRITE,
                            )
                            prefetch_count = 0
    fence_streams()
