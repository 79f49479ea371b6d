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

from tileconv.engine.blocking import MR
from tileconv.engine.factor import passes
from tileconv.engine.jit import loop
from tileconv.engine.kernel_layout import KernelLayout, Pair
from tileconv.engine.loops.ring import list_rows
from tileconv.engine.micro.stores import fence_streams
from tileconv.engine.micro.tile_rows import (
    OVERWRITE,
    STREAM,
    input_row,
    partial_tile,
    row_summer,
    rows_summer,
    write_row_steps,
)
from tileconv.engine.missing.detect import MissingDetector, choose_row_packer
from tileconv.engine.sizes import two_pass_columns, two_pass_padded, two_pass_sizes
from tileconv.engine.vectors import VECTOR_BYTES, call_at
from tileconv.engine.workspace import address, scratch
from tileconv.operators.convolution import Taps

STREAM_TAPS = 40
"""Taps of both passes up to which outputs are written by streaming stores."""

_ONE_STEP = np.array([[0, 1, 0]], np.intp)
"""A packed row from its beginning on, to the only row of sums, with weights from the first on."""
_HERE = np.zeros(1, np.intp)
"""Down the columns, every row of sums holds one tap, at its beginning."""


@dataclass(frozen=True, eq=False)
class TwoPass:
    """Some kernels of rank one on one band, ready to run one after the other."""

    passes: tuple[tuple[KernelLayout, KernelLayout], ...]
    """Along the rows and down the columns, for each kernel."""
    detects_missing = True
    _layouts: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int) -> "TwoPass":
        """Lay out kernels that `factor.factor` takes; ``bands`` is 1."""
        del bands
        return cls(tuple(passes(stride, dilation, taps, VECTOR_BYTES) for taps in kernels))

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        stream: bool = False,
        detector: MissingDetector | None = None,
    ) -> None:
        """Write the "valid" correlations of ``planes`` into ``out``; see `Direct.run`."""
        for pair, target in zip(self.passes, out, strict=True):
            along, down = pair
            columns, sizes, fixed, tables = self._laid_out(pair, target.shape[1])
            dtype = target.dtype
            packed, owner = scratch(sum(sizes), dtype)
            sums = packed + np.uintp(sizes[0] * dtype.itemsize)
            buffer = sums + np.uintp(sizes[1] * dtype.itemsize)
            steps = np.empty(3 * down.ring, np.intp)
            whole = target.shape[0] >= MR * down.classes
            taps = along.tap_columns.size + down.height
            stream = stream and taps <= STREAM_TAPS
            prefetches = np.empty(MR * down.overlap, np.intp)
            pack, detector_at = choose_row_packer(planes.dtype, dtype, along.stride[1], detector)
            correlate_in_two_passes(
                (
                    pack,
                    row_summer(dtype),
                    rows_summer(dtype, down.tile),
                    rows_summer(dtype, down.tile if whole else partial_tile(down.tile)),
                ),
                (address(planes), planes.shape, planes.strides),
                (
                    address(target),
                    target.shape,
                    target.strides[0] // target.itemsize,
                    target.itemsize,
                ),
                down.weights.shape,
                (
                    along.stride[1],
                    along.reach,
                    along.tap_columns.size,
                    packed,
                    *fixed[:4],
                    detector_at,
                ),
                (down.stride[0], along.stride[1], *down.sampling[2:]),
                (
                    down.ring,
                    sizes[1] // down.ring,
                    columns,
                    down.tile,
                    STREAM if stream else OVERWRITE,
                ),
                (
                    steps,
                    prefetches,
                    sums,
                    address(steps),
                    address(prefetches),
                    buffer,
                    *fixed[4:],
                ),
            )
            del owner, tables  # until here the loops used their memory

    def _laid_out(self, pair: tuple[KernelLayout, KernelLayout], width: int) -> Any:
        """Return what ``width`` outputs take: columns, sizes of scratch, addresses, owners."""
        key = id(pair), width
        found = self._layouts.get(key)
        if found is None:
            along, down = pair
            columns = two_pass_columns(along, down, width)
            sizes = two_pass_sizes(along, down, columns)
            taps, phase_offsets = along.tables(two_pass_padded(along, columns))
            tables = (phase_offsets, taps, along.weights, _ONE_STEP, _HERE, down.weights)
            found = columns, sizes, tuple(address(table) for table in tables), tables
            self._layouts[key] = found
        return found


@loop
def correlate_in_two_passes(  # type: ignore[no-untyped-def]
    functions, image, output, weights_shape, along, sampling, layout, tables
):
    """Compute all outputs of one kernel on one band, strip by strip.

    functions       addresses from `choose_row_packer`, `row_summer` and, for MR rows and for fewer,
                    `rows_summer`
    output          address of the first output; (OH, OW); elements from one row to the next, bytes
                    of an element
    weights_shape   (1, 1, height, 1), of the pass down the columns
    along           stride, reach and number of taps along x; addresses: a packed input row; phase
                    offsets, tap offsets and weights of the pass along the rows; its one step; the
                    table of a detector, or 0
    sampling        as of a kernel of one column, with the stride along x
    layout          rows of sums in the ring, elements of each, columns of a strip, which register
                    tile, how outputs are written (see `micro.tile_rows`)
    tables          intp, overwritten: steps; addresses of input rows to prefetch. Addresses: the
                    ring of sums; steps; prefetches; `staging_size` floats; where along a row of
                    sums the one tap lies; weights of the pass down the columns

    What is not named here is as for `loops.direct.correlate_with_ring`.
    """
    pack, sum_row, sum_whole, sum_part = functions
    target, (out_height, out_width), out_row_stride, size = output
    stride_x, reach = along[0], along[1]
    _, _, classes, _, _, overlap = sampling
    ring, row_size, most_columns, which, mode = layout
    steps, prefetches, sums_at, steps_at, prefetches_at, buffer_at, here_at, weights_at = tables
    height = weights_shape[2]
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        for c in range(classes):
            rows = (out_height - c + classes - 1) // classes
            last = (rows - 1) * overlap + height
            ready = 0  # lines of the class that are in the ring, or were
            for first in range(0, rows, MR):
                count = min(MR, rows)
                i = min(first, rows - count)  # the last rows may be made again
                needed = (i + count - 1) * overlap + height
                _sum_along(
                    (pack, sum_row),
                    image,
                    along,
                    sampling,
                    (x, columns, columns + reach),
                    (c, height),
                    (sums_at, ring, row_size * size),
                    (max(ready, i * overlap), needed),
                )
                ready = max(ready, needed)
                span = ready, min(ready + MR * overlap, last)
                prefetch_count = list_rows(prefetches, 0, image, sampling, x, (c, height), span)
                out = target + np.uintp(((c + i * classes) * out_row_stride + x) * size)
                used = write_row_steps(
                    steps, i * overlap, (ring, row_size), weights_shape, overlap, count
                )
                call_at(
                    sum_whole if count == MR else sum_part,
                    sums_at,
                    columns,
                    steps_at,
                    used,
                    here_at,
                    1,
                    weights_at,
                    -overlap,
                    which,
                    out,
                    classes * out_row_stride,
                    count,
                    buffer_at,
                    prefetches_at,
                    prefetch_count,
                    stride_x * image[2][2],
                    mode,
                )
    fence_streams()


@loop
def _sum_along(functions, image, along, sampling, strip, window, ring, span):  # type: ignore[no-untyped-def]
    """Pack the rows of a class that lie in ``span``, (first, end), and sum them up along x.

    strip   output column, columns, elements of each phase of a packed row
    window  class, rows of the kernel
    ring    address of the ring of sums, its rows, bytes of each
    """
    pack, sum_row = functions
    source, (_, _, in_width), strides = image
    stride_x, _, taps, packed_at, phase_offsets_at, tap_offsets_at, weights_at = along[:7]
    one_step_at, detector_at = along[7:]
    stride_y, _, _, row_dilation, row_stride, overlap = sampling
    x, columns, elements = strip
    sums_at, ring_rows, row_bytes = ring
    for number in range(span[0], span[1]):
        row = window[0] * stride_y
        row += input_row(number, row_stride, window[1], overlap) * row_dilation
        call_at(
            pack,
            source + np.uintp(row * strides[1] + x * stride_x * strides[2]),
            strides[2],
            in_width - x * stride_x,
            stride_x,
            phase_offsets_at,
            elements,
            packed_at,
            np.uintp(0),
            0,
            row * in_width + x * stride_x,
            detector_at,
        )
        call_at(
            sum_row,
            packed_at,
            columns,
            one_step_at,
            tap_offsets_at,
            taps,
            weights_at,
            sums_at + np.uintp(number % ring_rows * row_bytes),
        )
