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
from tileconv.engine.loops.ring import list_rows
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
            (address(planes), planes.shape, planes.strides),
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, out_row_stride, out.itemsize),
            p.weights.shape,
            None if len(p.weights) == 1 else tables[1],
            p.sampling,
            (
                p.ring,
                p.row_size(columns),
                columns,
                p.reach,
                p.tile,
                STREAM if stream else OVERWRITE,
            ),
            (
                workspace,
                counts[0],
                packed,
                packed + np.uintp(ring_size * out.itemsize),
                address(workspace),
                *fixed,
                detector_at,
            ),
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
    functions, image, target, out_shape, out_strides, weights_shape, taps, sampling, ring, tables
):
    """Compute all outputs, strip by strip, from a ring of packed rows. It knows no dtype.

    functions      addresses from `choose_row_packer` and, for MR rows and for fewer, `rows_summer`
    image          address of the first pixel (uintp); (bands, H, W); strides in bytes
    target         address of the first output; out_shape (kernels, OH, OW)
    out_strides    elements from one kernel and from one row to the next, bytes of an element
    weights_shape  (kernels, bands, height, T)
    taps           (T,) intp, where along a packed row each tap of output column 0 lies; None: there
                   is one kernel, and the compiler leaves out what is for banks
    sampling       see `KernelLayout.sampling`
    ring           input rows in the ring, elements of a packed row, columns of a strip, reach,
                   which register tile; how sums of a single kernel are written, see
                   `micro.tile_rows`
    tables         intp, overwritten: steps, then from ``first_prefetch`` on addresses of input rows
                   to prefetch (bands * MR * overlap), then where all taps of a bank lie;
                   first_prefetch; addresses: the ring; `staging_size` floats; the workspace; phase
                   offsets (see `pack.rows`); tap offsets; weights; the table of a detector, or 0
    """
    pack, sum_whole, sum_part = functions
    _, stride_x, classes, _, _, overlap = sampling
    ring_rows, row_size, most_columns, reach, which, mode = ring
    workspace, first_prefetch, packed_at, buffer_at, steps_at = tables[:5]
    phase_offsets_at, tap_offsets_at, weights_at, detector_at = tables[5:]
    _, out_height, out_width = out_shape
    _, out_row_stride, size = out_strides
    _, _, height, tap_count = weights_shape
    prefetches_at = steps_at + np.uintp(first_prefetch * INDEX)
    packing = pack, packed_at, phase_offsets_at, detector_at
    together = MR if taps is None else 1
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        strip = x, columns + reach, row_size * size
        for c in range(classes):
            rows = (out_height - c + classes - 1) // classes
            last = (rows - 1) * overlap + height
            ready = 0  # packed rows of the class that are in the ring, or were
            for first in range(0, rows, together):
                count = min(together, rows)
                i = min(first, rows - count)  # the last rows of one kernel may be made again
                needed = (i + count - 1) * overlap + height
                span = max(ready, i * overlap), needed
                _pack_rows(packing, image, sampling, strip, (c, height, ring_rows), span)
                ready = max(ready, needed)
                span = ready, min(ready + together * overlap, last)
                prefetch_count = list_rows(
                    workspace, first_prefetch, image, sampling, x, (c, height), span
                )
                prefetches = prefetches_at, prefetch_count, stride_x * image[2][2]
                out = target + np.uintp(((c + i * classes) * out_row_stride + x) * size)
                here = ring_rows, row_size
                if taps is None:
                    used = write_row_steps(
                        workspace, i * overlap, here, weights_shape, overlap, count
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
                        *prefetches,
                        mode,
                    )
                else:
                    first_offset = first_prefetch + image[1][0] * MR * overlap
                    write_tap_offsets(
                        workspace, first_offset, i * overlap, here, weights_shape, taps
                    )
                    _sum_bank(
                        (sum_whole, sum_part, which),
                        (workspace, steps_at, first_offset),
                        (packed_at, columns, weights_at, buffer_at),
                        weights_shape,
                        (out, out_strides[0], size),
                        prefetches,
                    )
    fence_streams()


@loop
def _pack_rows(packing, image, sampling, strip, window, span):  # type: ignore[no-untyped-def]
    """Pack the rows of a class that lie in ``span``, (first, end), into the ring.

    strip   output column, elements of each phase, bytes of a packed row
    window  class, rows of the kernel, rows of the ring
    """
    pack, packed_at, phase_offsets_at, detector_at = packing
    source, (bands, in_height, in_width), strides = image
    stride_y, stride_x, _, row_dilation, row_stride, overlap = sampling
    x, elements, row_bytes = strip
    c, height, ring_rows = window
    for number in range(span[0], span[1]):
        row = c * stride_y + input_row(number, row_stride, height, overlap) * row_dilation
        place = source + np.uintp(row * strides[1] + x * stride_x * strides[2])
        at = number % ring_rows * bands
        for band in range(bands):
            call_at(
                pack,
                place + np.uintp(band * strides[0]),
                strides[2],
                in_width - x * stride_x,
                stride_x,
                phase_offsets_at,
                elements,
                packed_at + np.uintp((at + band) * row_bytes),
                np.uintp(0),
                0,
                (band * in_height + row) * in_width + x * stride_x,
                detector_at,
            )


@loop
def _sum_bank(functions, steps, rows, weights_shape, out, prefetches):  # type: ignore[no-untyped-def]
    """Add up a row of outputs of all kernels of a bank, chunk by chunk of their taps."""
    sum_whole, sum_part, which = functions
    workspace, steps_at, first_offset = steps
    packed_at, columns, weights_at, buffer_at = rows
    kernels, bands, height, tap_count = weights_shape
    target, out_kernel_stride, size = out
    prefetches_at, prefetch_count, prefetch_step = prefetches
    all_taps = bands * height * tap_count
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
                target + np.uintp(kernel * out_kernel_stride * size),
                out_kernel_stride,
                count,
                buffer_at,
                prefetches_at,
                prefetch_count,
                prefetch_step,
                ACCUMULATE if chunk else OVERWRITE,
            )
            prefetch_count = 0
