"""Kernels of rank one where output rows lie apart: down the columns, then along one row of sums.

From stride 2 on along y, the pass down the columns comes first. It runs over
rows of pixels as they lie in memory, at the speed of the memory, and leaves
one row of sums for a row of outputs. Only that row is packed for the stride
along x, where `loops.two_pass` would pack every row of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import from_dtype, types

from tileconv.engine.factor import passes
from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import KernelLayout, Pair
from tileconv.engine.loops.row_stream import COPY_OUT, STREAM_OUT, row_updater
from tileconv.engine.micro.row_update import (
    DOWN_NR,
    sum_down_narrow,
    sum_down_pixel,
    sum_down_tile,
)
from tileconv.engine.micro.stores import fence_streams
from tileconv.engine.missing.detect import MissingDetector, offset_of
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import row_packer
from tileconv.engine.sizes import columns_first_columns, columns_first_sizes
from tileconv.engine.vectors import (
    VECTOR_BYTES,
    advance,
    call_at,
    lane_count,
    load_index,
    pointer_address,
    prefetch,
    store_index,
)
from tileconv.engine.workspace import CACHE_LINE, INDEX, address, scratch
from tileconv.operators.convolution import Taps

BATCH = 2
"""Rows of pixels that are added up at a time, between loads and stores of the sums."""
COPY_AT, FOUND_AT = offset_of("copy"), offset_of("found")
"""Where in the table of a detector it is told where to copy a row, and tells whether it did."""

_NONE = np.uintp(0)
_NO_DETECTOR = _NONE, _NONE, _NONE, 0, _NONE, _NONE, 1, 0
"""The ``detection`` of `correlate_columns_first` without a detector."""


@dataclass(frozen=True, eq=False)
class ColumnsFirst:
    """Some kernels of rank one on one band, ready to run one after the other."""

    kernels: tuple["_Kernel", ...]
    detects_missing = True

    @classmethod
    def of(
        cls, stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int
    ) -> "ColumnsFirst":
        """Lay out kernels that `factor.factor` takes; ``bands`` is 1."""
        del bands
        laid_out = []
        for taps in kernels:
            along, down = passes(stride, dilation, taps, VECTOR_BYTES)
            rows = np.flatnonzero(down.weights) * dilation[0]
            weights = np.ascontiguousarray(down.weights[down.weights != 0])
            laid_out.append(_Kernel(along, rows.astype(np.intp), weights, stride[0]))
        return cls(tuple(laid_out))

    def run(
        self,
        planes: np.ndarray,
        out: np.ndarray,
        *,
        stream: bool = False,
        detector: MissingDetector | None = None,
    ) -> None:
        """Write the "valid" correlations of ``planes`` into ``out``; see `Direct.run`."""
        plane = planes[0]
        if detector is not None and plane.strides[1] != plane.itemsize:
            plane = np.ascontiguousarray(plane)  # as the copies of rows are
        for kernel, target in zip(self.kernels, out, strict=True):
            kernel.run(plane, target, stream=stream, detector=detector)


@dataclass(frozen=True, eq=False)
class _Kernel:
    """A column and a row of weights."""

    along: KernelLayout
    """The row."""
    rows: np.ndarray
    """(T,) intp, input rows from the top of a field to each tap of the column."""
    weights: np.ndarray
    """(T,), of the column."""
    stride: int
    """Input rows from one output row to the next."""
    _layouts: dict[int, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _fresh(self) -> int:
        """Last taps of the column that lie on rows which the output row above does not read."""
        return int(np.count_nonzero(self.rows > self.rows[-1] - self.stride))

    def _laid_out(self, width: int) -> Any:
        found = self._layouts.get(width)
        if found is None:
            p = self.along
            columns = columns_first_columns(p, self.stride, int(self.rows[-1]), width)
            sizes = columns_first_sizes(p, columns)
            taps, phase_offsets = p.tables(sizes[2])
            row_weights = np.ascontiguousarray(p.weights.ravel())
            starts = np.array([0, row_weights.size], np.intp)
            tables = phase_offsets, starts, taps, row_weights
            addresses = tuple(address(table) for table in tables)
            found = columns, sizes, addresses, tables
            self._layouts[width] = found
        return found

    def run(
        self,
        plane: np.ndarray,
        out: np.ndarray,
        *,
        stream: bool,
        detector: MissingDetector | None,
    ) -> None:
        columns, sizes, fixed, tables = self._laid_out(out.shape[1])
        dtype = out.dtype
        pixels, owner = scratch(sum(sizes), dtype)
        row_bytes = plane.strides[0]
        rows = self.rows * row_bytes
        prefetches, workspace, detection = rows, np.empty(0, np.intp), _NO_DETECTOR
        if detector is not None:
            # detection reads a row before it is added up, so the next field's rows are prefetched
            prefetches = rows + self.stride * row_bytes
            ring = int(self.rows[-1]) + 1
            workspace = np.empty(self.rows.size + 2 * ring, np.intp)
            width = (columns - 1) * self.along.stride[1] + int(self.along.tap_columns[-1]) + 1
            started = detector.start_rows(ring, width)
            detection = (*started, address(self.rows), address(workspace), ring, plane.shape[1])
        correlate_columns_first(
            (
                down_summer(plane.dtype, dtype),
                row_packer(dtype, dtype, self.along.stride[1]),
                row_updater(dtype),
            ),
            (address(plane), plane.strides),
            (address(out), out.shape, out.strides[0] // out.itemsize, out.itemsize),
            (self.stride, self.along.stride[1], int(self.along.tap_columns[-1]), self.along.reach),
            (columns, *sizes, STREAM_OUT if stream else COPY_OUT),
            (
                address(rows),
                self.rows.size,
                self._fresh,
                address(self.weights),
                address(prefetches),
            ),
            (pixels, *fixed),
            detection,
        )
        del owner, tables, prefetches, workspace


@loop
def correlate_columns_first(  # type: ignore[no-untyped-def]
    functions, image, output, along, layout, down, tables, detection
):
    """Compute all outputs of one kernel on one band, strip by strip and row by row.

    functions    addresses from `down_summer`, `row_packer` and `row_updater`
    image        address of the first pixel (uintp); strides in bytes, (y, x)
    output       address of the first output; (OH, OW); elements from one row to the next, bytes of
                 an element
    along        stride along y and x, pixels from the left of a field to its last tap, reach
    layout       columns of a strip; elements of a row of sums of pixels, of the same packed, of a
                 row of sums of outputs, and of an address; COPY_OUT or STREAM_OUT
    down         address of the bytes from the top of a field to each tap; taps; how many of the
                 last lie on rows that no output row before has read; addresses of their weights,
                 and of the bytes to rows that are prefetched
    tables       addresses: scratch for all of layout; phase offsets of a row of sums (see
                 `pack.rows`); where its taps begin and end; tap offsets; weights
    detection    what `MissingDetector.start_rows` returns; addresses of the rows from the top of a
                 field to each tap, and of the workspace: where the rows of a field lie, then which
                 rows are known and where they lie; how many rows these are; pixels of a row
    """
    sum_down, pack, add_row = functions
    source, strides = image
    target, (out_height, out_width), out_row_stride, size = output
    detector_at, workspace_at, ring = detection[1], detection[5], detection[6]
    stride_y, stride_x, last_tap, reach = along
    most_columns, pixels_size, lines_size, sums_size, _, store = layout
    rows_at, taps, fresh, weights_at, prefetches_at = down
    pixels_at, phase_offsets_at, starts_at, tap_offsets_at, row_weights_at = tables
    packed_at = pixels_at + np.uintp(pixels_size * size)
    sums_at = packed_at + np.uintp(lines_size * size)
    row_at = sums_at + np.uintp(sums_size * size)
    store_index(row_at, sums_at)
    if stride_x == 1:
        packed_at = pixels_at
    if detector_at != np.uintp(0):
        rows_at = workspace_at
    for x in range(0, out_width, most_columns):
        columns = min(most_columns, out_width - x)
        width = (columns - 1) * stride_x + last_tap + 1
        if detector_at != np.uintp(0):
            for i in range(ring):
                store_index(workspace_at + np.uintp((taps + 2 * i) * INDEX), np.uintp(0))
        for y in range(out_height):
            top = source + np.uintp(y * stride_y * strides[0] + x * stride_x * strides[1])
            if detector_at != np.uintp(0):
                _find_rows(detection, top, strides, taps, (y * stride_y, x * stride_x), width)
            call_at(
                sum_down,
                top,
                strides[1],
                width,
                rows_at,
                taps,
                fresh,
                weights_at,
                prefetches_at,
                pixels_at,
            )
            if stride_x > 1:
                call_at(
                    pack,
                    pixels_at,
                    size,
                    width,
                    stride_x,
                    phase_offsets_at,
                    columns + reach,
                    packed_at,
                    np.uintp(0),
                    0,
                    0,
                    np.uintp(0),
                )
            out = target + np.uintp((y * out_row_stride + x) * size)
            call_at(
                add_row,
                packed_at,
                columns,
                row_at,
                1,
                starts_at,
                tap_offsets_at,
                row_weights_at,
                0,
                out,
                0,
                1,
                store,
                np.uintp(0),
                0,
            )
    fence_streams()


@loop
def _find_rows(detection, top, strides, taps, pixel, width):  # type: ignore[no-untyped-def]
    """Write where the rows of a field lie: in the image or, without missing pixels, in a copy.

    detection  see `correlate_columns_first`; of each row that is kept it knows which it is, and
               where it lies
    top        address of the field's first pixel; strides in bytes; pixel: its row and column
    """
    detect_row, detector_at, copies_at, copy_bytes = detection[:4]
    rows_of_taps_at, workspace_at, ring, in_width = detection[4:]
    for t in range(taps):
        number = load_index(rows_of_taps_at, t)
        row = pixel[0] + number
        place_at = workspace_at + np.uintp((taps + 2 * (row % ring)) * INDEX)
        if load_index(place_at, 0) != row + 1:
            place = top + np.uintp(number * strides[0])
            copy = copies_at + np.uintp(row % ring * copy_bytes)
            store_index(detector_at + np.uintp(COPY_AT), copy)
            call_at(
                detect_row,
                place,
                strides[1],
                width,
                1,
                np.uintp(0),
                width,
                np.uintp(0),
                np.uintp(0),
                0,
                row * in_width + pixel[1],
                detector_at,
            )
            store_index(place_at, np.uintp(row + 1))
            found = load_index(detector_at + np.uintp(FOUND_AT), 0) != 0
            store_index(place_at + np.uintp(INDEX), copy if found else place)
        place = np.uintp(load_index(place_at, 1))
        store_index(workspace_at + np.uintp(t * INDEX), place - top)


@cache
def down_summer(pixel: np.dtype, number: np.dtype) -> np.uintp:
    """Return the address of `_sum_down` for pixels of one dtype and sums of another."""
    pixels, floats = (types.CPointer(from_dtype(dtype)) for dtype in (pixel, number))
    index, i = types.CPointer(types.intp), types.intp
    signature = types.void(pixels, i, i, index, i, i, floats, index, floats)
    return address_of(_sum_down, signature)


@loop
def _sum_down(source, step, width, rows, count, fresh, weights, prefetches, out):  # type: ignore[no-untyped-def]
    """Add up rows of pixels times their weights.

    source      pointer to the first pixel; step: bytes from one pixel to the next; width: pixels
    rows        pointer to intp, bytes from ``source`` to each row
    count       rows; fresh: the last of them, which no call before has read
    weights     pointer to float, of each row
    prefetches  pointer to intp, bytes from ``source`` to each row that is prefetched
    out         pointer to float, overwritten

    While the rows are added up that the caches hold, those that they do not hold are prefetched.
    """
    n = lane_count(out)
    x = 0
    if step == pixel_bytes(source):
        block = DOWN_NR * n
        whole = width // block * block
        kept = count - fresh
        each, row, byte = 0, kept, 0  # cache lines to ask for with each block, and the next one
        if kept > 0 and whole > 0:
            blocks = (kept + BATCH - 1) // BATCH * (whole // block)
            packed = (width * step + CACHE_LINE - 1) // CACHE_LINE * fresh
            each = (packed + blocks - 1) // blocks
        for first in range(0, count, BATCH):
            some = min(BATCH, count - first)
            phase_offsets, factors = advance(rows, first), advance(weights, first)
            for x in range(0, whole, block):
                for _ in range(each):
                    if row < count:
                        prefetch(pointer_address(source) + np.uintp(prefetches[row] + byte))
                        byte += CACHE_LINE
                        if byte >= width * step:
                            row, byte = row + 1, 0
                sum_down_tile(source, x * step, phase_offsets, some, factors, out, x, first > 0)
        x = whole
        while x + n <= width:
            sum_down_narrow(source, x * step, rows, count, weights, out, x, False)
            x += n
    while x < width:
        sum_down_pixel(source, x * step, rows, count, weights, out, x, False)
        x += 1
