"""Banks whose fields share no pixel, as in a patch embedding: matrix products.

The outputs of such a bank are a matrix of kernels x taps times one of taps x
places, in which every pixel stands once. There is nothing to keep from one row
of outputs to the next, so each strip of a row is dealt out right into panels
(`micro.panel_tile`), and all kernels go over a panel while it lies in the
first-level cache. Other banks find pixels again in the lines of the next rows
(`loops.direct`).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.engine.jit import address_of, loop
from tileconv.engine.kernel_layout import Program
from tileconv.engine.micro.panel_tile import settle_streams, sum_panel, sum_sparse_panel, write_row
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.pack.rows import dealer
from tileconv.engine.vectors import (
    ROWS,
    WIDE,
    address_at,
    call_at,
    lanes,
    pointer_to,
    prefetch,
)
from tileconv.engine.workspace import CACHE_LINE, address, scratch

CHUNK = 192
"""Taps that are added at a time: their pixels in a panel, 18 KiB, stay in the first-level cache
while kernels go over them."""
TOGETHER = 16
"""Groups of ROWS kernels that go over all panels before the next groups do: the weights of a
chunk, 48 KiB, stay in the second-level cache meanwhile."""
MOST_PANELS = 4
"""Panels of a strip: results are written in runs of so many times 96 bytes."""
PANEL_BYTES = 3 << 16
"""Panels of a strip together: a part of a second-level cache of 512 KiB."""


def fits(program: Program) -> bool:
    """Say whether a program is a bank whose fields share no pixel."""
    p = program
    return p.weights.shape[0] > 1 and p.reach == 0 and p.hop >= p.height


def _row_size(program: Program) -> int:
    """Return the numbers of a panel for one row of pixels."""
    return program.line_count * WIDE * program.lanes


def _panels(program: Program) -> int:
    """Return the panels of a strip."""
    _, bands, height, _ = program.weights.shape
    panel_bytes = bands * height * _row_size(program) * program.weights.itemsize
    return min(max(PANEL_BYTES // panel_bytes, 1), MOST_PANELS)


def _sizes(program: Program) -> tuple[int, int]:
    """Return the numbers in the panels and in the sums of a strip."""
    kernels, bands, height, _ = program.weights.shape
    line, panels = CACHE_LINE // program.weights.itemsize, _panels(program)
    pixels = -(-bands * height * _row_size(program) * panels // line) * line
    return pixels, -(-kernels // ROWS) * ROWS * panels * WIDE * program.lanes


def scratch_bytes(program: Program) -> int:
    """Return the memory that a program laid out as a bank takes beside in- and output."""
    return sum(_sizes(program)) * program.weights.itemsize


@dataclass(frozen=True, eq=False)
class Bank:
    """A program that `fits`, laid out for panels."""

    program: Program
    weights: np.ndarray
    """(groups, taps, ROWS), zero where there is no kernel."""
    line_places: np.ndarray
    """Where in the panel's part for one row of pixels the line of each phase begins."""
    places: np.ndarray
    """(taps,) intp, where in a panel each tap lies."""

    @classmethod
    def of(cls, program: Program) -> "Bank":
        """Lay a program out."""
        p = program
        kernels, bands, height, _ = p.weights.shape
        line = WIDE * p.lanes
        row_size = _row_size(p)
        groups = -(-kernels // ROWS)
        weights = np.zeros((groups * ROWS, p.weights[0].size), p.weights.dtype)
        weights[:kernels] = p.weights.reshape(kernels, -1)
        rows = np.arange(bands * height)[:, None] * row_size
        return cls(
            program=p,
            weights=np.ascontiguousarray(weights.reshape(groups, ROWS, -1).transpose(0, 2, 1)),
            line_places=p.places(line),
            places=(rows + p.taps(line)).ravel(),
        )

    def run(self, planes: np.ndarray, out: np.ndarray, *, final: bool) -> None:
        """Write the "valid" correlations; see `loops.direct.Direct.run`."""
        p = self.program
        sizes = _sizes(p)
        panels, owner = scratch(sum(sizes), out.dtype)
        sums = panels + np.uintp(sizes[0] * out.itemsize)
        ahead = np.empty(planes.shape[0] * p.height, np.uintp)
        tables = (self.line_places, self.places, self.weights, ahead)
        correlate_bank(
            (dealer(planes.dtype, out.dtype, p.stride[1]), bank_summer(out.dtype)),
            address(planes),
            planes.shape,
            planes.strides,
            address(out),
            out.shape,
            (out.strides[0] // out.itemsize, out.strides[1] // out.itemsize, out.itemsize),
            p.weights.shape,
            p.sampling,
            (
                _row_size(p),
                _panels(p) * WIDE * p.lanes,
                WIDE * p.lanes,
                int(p.sparse),
                int(final),
            ),
            ahead,
            (panels, sums, *(address(table) for table in tables)),
        )
        del owner  # until here the loops used its memory


@loop
def correlate_bank(  # type: ignore[no-untyped-def]
    functions,
    source,
    shape,
    strides,
    target,
    out_shape,
    out_pitch,
    weights_shape,
    sampling,
    layout,
    ahead,
    tables,
):
    """Compute all outputs of all kernels, row by row and strip by strip.

    functions  addresses from `dealer` and `bank_summer`
    layout     numbers of a panel for one row of pixels, columns of a strip and of a panel, whether
               weights may be 0, whether to write past the caches
    ahead      (bands * height,) uintp, overwritten
    tables     addresses: the panels and the sums of a strip; where lines of phases begin
               (see `pack.rows`); where in a panel the taps lie; weights; ahead

    What is not named here is as for `loops.direct.correlate`.
    """
    deal, sum_bank = functions
    stride_y, stride_x, classes, row_step, hop, _ = sampling
    row_size, strip, panel_columns, sparse, streamed = layout
    panels_at, sums_at, line_places_at, places_at, weights_at, ahead_at = tables
    bands, _, in_width = shape
    kernels, out_height, out_width = out_shape
    kernel_pitch, row_pitch, size = out_pitch
    _, _, height, tap_count = weights_shape
    panel_size = bands * height * row_size
    pixel_step = stride_x * strides[2]
    # else most of the cache lines asked for would be read by nobody
    near = 0 < pixel_step <= tap_count * strides[2] + CACHE_LINE and strides[2] <= CACHE_LINE
    for c in range(classes):
        rows = (out_height - c + classes - 1) // classes
        for i in range(rows):
            row = c * stride_y + i * hop * row_step
            for x in range(0, out_width, strip):
                columns = min(strip, out_width - x)
                to_next = strip * pixel_step
                if x + strip >= out_width:
                    to_next = hop * row_step * strides[1] - x * pixel_step
                coming = 0
                for band in range(bands):
                    for y in range(height):
                        place = source + np.uintp(
                            band * strides[0] + (row + y * row_step) * strides[1] + x * pixel_step
                        )
                        line = (band * height + y) * row_size
                        for part in range(0, columns, panel_columns):
                            call_at(
                                deal,
                                place + np.uintp(part * pixel_step),
                                strides[2],
                                in_width - (x + part) * stride_x,
                                stride_x,
                                line_places_at,
                                min(panel_columns, columns - part),
                                panels_at + np.uintp(line * size),
                                np.uintp(0),
                                0,
                                0,
                                np.uintp(0),
                            )
                            line += panel_size
                        if near and (x + strip < out_width or i + 1 < rows):
                            ahead[coming] = place + np.uintp(to_next)
                            coming += 1
                call_at(
                    sum_bank,
                    panels_at,
                    panel_size,
                    places_at,
                    bands * height * tap_count,
                    weights_at,
                    sparse,
                    sums_at,
                    strip,
                    target + np.uintp(((c + i * classes) * row_pitch + x) * size),
                    kernel_pitch,
                    kernels,
                    columns,
                    streamed,
                    ahead_at,
                    coming,
                    min(strip, out_width) * pixel_step,
                )
    settle_streams()


@cache
def bank_summer(number: np.dtype) -> np.uintp:
    """Return the address of `_sum_bank` for lines of a dtype."""
    floats, index = types.CPointer(from_dtype(number)), types.CPointer(types.intp)
    addresses, i, u = types.CPointer(types.uintp), types.intp, types.uintp
    kinds = (floats, i, index, i, floats, i, floats, i, u, i, i, i, i, addresses, i, i)
    return address_of(_sum_bank, types.void(*kinds))


@loop
def _sum_bank(  # type: ignore[no-untyped-def]
    panels,
    panel_size,
    places,
    taps,
    weights,
    sparse,
    sums,
    strip,
    out,
    pitch,
    kernels,
    columns,
    streamed,
    ahead,
    ahead_count,
    ahead_bytes,
):
    """Sum up a strip of one row of outputs of all kernels.

    panels .. weights  see `micro.panel_tile.sum_panel`; panels lie ``panel_size`` apart
    sparse, streamed   0 or not: weights may be 0; results go past the caches
    sums               pointer to float, room for the sums of a strip, ``strip`` for each kernel
    out, pitch         address of the first output; the next kernel's lies ``pitch`` numbers further
    ahead              pointer to addresses of pixels that are needed next, ``ahead_bytes`` from
                       each on: they are fetched bit by bit meanwhile
    """
    n = lanes(panels)
    size = pixel_bytes(panels)
    wide = WIDE * n
    sums_at = address_at(sums)
    groups = (kernels + ROWS - 1) // ROWS
    calls = groups * ((taps + CHUNK - 1) // CHUNK) * ((columns + wide - 1) // wide)
    lines_ahead = (abs(ahead_bytes) + CACHE_LINE - 1) // CACHE_LINE
    fetched = (ahead_count * lines_ahead + calls - 1) // calls
    fetch_row = 0
    fetch_byte = 0
    for chunk in range(0, taps, CHUNK):
        some = min(CHUNK, taps - chunk)
        here = pointer_to(places, chunk)
        for first in range(0, groups, TOGETHER):
            for x in range(0, columns, wide):
                panel = pointer_to(panels, x // wide * panel_size)
                for group in range(first, min(first + TOGETHER, groups)):
                    for _ in range(fetched):
                        if fetch_row < ahead_count:
                            prefetch(ahead[fetch_row] + np.uintp(fetch_byte))
                            fetch_byte += CACHE_LINE
                            if fetch_byte >= ahead_bytes:
                                fetch_byte = 0
                                fetch_row += 1
                    own = pointer_to(weights, (group * taps + chunk) * ROWS)
                    place = sums_at + np.uintp((group * ROWS * strip + x) * size)
                    if sparse != 0:
                        sum_sparse_panel(panel, here, own, some, place, strip, chunk > 0)
                    else:
                        sum_panel(panel, here, own, some, place, strip, chunk > 0)
    for kernel in range(kernels):
        place = out + np.uintp(kernel * pitch * size)
        write_row(pointer_to(sums, kernel * strip), columns, place, streamed)
