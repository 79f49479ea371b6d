"""The direct loops: every tap of every output, one multiply-add each.

Work goes in two steps over stripes that stay in the second-level cache.
`split` casts input rows to the compute dtype and deals each row out into its
stride phases, so that one tap of neighbouring outputs lies contiguously in
memory whatever the stride. `accumulate` then adds the taps, row by row of the
kernel, onto a short private row.

    columns   0 1 2 3 4 5 6 7 8      stride 3
    phase 0   0     3     6          what tap 0 of outputs 0, 1, 2 reads
    phase 1     1     4     7        tap 1
    phase 2       2     5     8      tap 2
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.jit import fma, loop

Pair = tuple[int, int]

CHUNK = 1024
"""Outputs added up at a time: 4 KiB of float32, beside the input lines in the first-level cache."""


@loop
def split(src, rows, phases, stride, lines):  # type: ignore[no-untyped-def]
    """Write the stride phases of some rows of ``src`` as floats into ``lines``.

    src     (H, W), any real dtype and layout
    rows    (R,) intp, the rows to split
    phases  (P,) intp, the phases that taps use, each below stride
    stride  columns between outputs
    lines   (R * P, L) float; line r * P + p is overwritten with
            src[rows[r], phases[p] :: stride], as far as either goes
    """
    for r in range(rows.size):
        row = src[rows[r]]
        for p in range(phases.size):
            line = lines[r * phases.size + p]
            phase = phases[p]
            count = np.uint64(min(line.size, (row.size - phase + stride - 1) // stride))
            if stride == 1:
                for i in range(count):
                    line[i] = row[i]
            else:
                step = np.uint64(stride)
                at = np.uint64(phase)
                for i in range(count):
                    line[i] = row[at]
                    at += step


@loop
def accumulate(lines, slots, stride, tap_rows, tap_lines, starts, weights, out):  # type: ignore[no-untyped-def]
    """Write the sums of products into ``out``.

    lines      (N, L) float, from `split`
    slots      (H,) intp, the first line of each window row
    stride     rows between outputs
    tap_rows   (T,) intp, rows from output row 0 to tap t
    tap_lines  (T,) intp, lines from the first line of its row to the phase of tap t
    starts     (T,) intp, where in its line tap t of output column 0 lies
    weights    (T,), dtype of lines
    out        (OH, OW), dtype of lines, overwritten

    Every output starts at 0 and adds its taps in order, each with one fused
    multiply-add: its bits do not depend on its place in the tile.
    """
    taps = weights.size
    acc = np.empty(CHUNK, lines.dtype)
    for o in range(out.shape[0]):
        top = o * stride
        for x in range(0, out.shape[1], CHUNK):
            count = np.uint64(min(CHUNK, out.shape[1] - x))
            for i in range(count):
                acc[i] = 0
            t = 0
            while t + 8 <= taps:  # eight taps for one load and one store of the sum
                l0 = lines[slots[top + tap_rows[t]] + tap_lines[t], starts[t] + x :]
                l1 = lines[slots[top + tap_rows[t + 1]] + tap_lines[t + 1], starts[t + 1] + x :]
                l2 = lines[slots[top + tap_rows[t + 2]] + tap_lines[t + 2], starts[t + 2] + x :]
                l3 = lines[slots[top + tap_rows[t + 3]] + tap_lines[t + 3], starts[t + 3] + x :]
                l4 = lines[slots[top + tap_rows[t + 4]] + tap_lines[t + 4], starts[t + 4] + x :]
                l5 = lines[slots[top + tap_rows[t + 5]] + tap_lines[t + 5], starts[t + 5] + x :]
                l6 = lines[slots[top + tap_rows[t + 6]] + tap_lines[t + 6], starts[t + 6] + x :]
                l7 = lines[slots[top + tap_rows[t + 7]] + tap_lines[t + 7], starts[t + 7] + x :]
                w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
                w4, w5, w6, w7 = weights[t + 4], weights[t + 5], weights[t + 6], weights[t + 7]
                for i in range(count):
                    total = fma(w0, l0[i], acc[i])
                    total = fma(w1, l1[i], total)
                    total = fma(w2, l2[i], total)
                    total = fma(w3, l3[i], total)
                    total = fma(w4, l4[i], total)
                    total = fma(w5, l5[i], total)
                    total = fma(w6, l6[i], total)
                    acc[i] = fma(w7, l7[i], total)
                t += 8
            while t < taps:
                l0 = lines[slots[top + tap_rows[t]] + tap_lines[t], starts[t] + x :]
                w0 = weights[t]
                for i in range(count):
                    acc[i] = fma(w0, l0[i], acc[i])
                t += 1
            target = out[o, x:]
            for i in range(count):
                target[i] = acc[i]


STRIPE_COLUMNS = 2048
"""Most outputs in a row of a stripe."""
FEWEST_COLUMNS = 256
"""Fewest, where many bands have to fit."""
STRIPE_BYTES = 3 << 18
"""Lines of one stripe: what stays in a second-level cache of 1 MiB with room to spare."""
ROWS = (16, 256)
"""Fewest and most output rows in a stripe."""


@dataclass(frozen=True)
class _Deal:
    """How the taps of one output are dealt out to lines."""

    rows: np.ndarray
    """Window rows from the top of the field to each tap."""
    lines: np.ndarray
    """Lines from the first line of its row to each tap's phase; its band comes on top."""
    starts: np.ndarray
    """Where in its line each tap of output column 0 lies."""
    bands: np.ndarray
    weights: np.ndarray


class _Stripes:
    """What the stripes of one call have in common."""

    def __init__(
        self, bands: int, stride: Pair, dilation: Pair, kernels: Sequence[Taps], itemsize: int
    ) -> None:
        self.bands, self.stride, self.itemsize = bands, stride, itemsize
        rows = [np.asarray(t.y) * dilation[0] for t in kernels]
        columns = [np.asarray(t.x) * dilation[1] for t in kernels]
        self.phases = np.unique(np.concatenate(columns) % stride[1]).astype(np.intp)
        self.field_rows = np.unique(np.concatenate(rows)).astype(np.intp)
        self.deals = [
            _Deal(
                rows=r.astype(np.intp),
                lines=np.searchsorted(self.phases, c % stride[1]).astype(np.intp),
                starts=(c // stride[1]).astype(np.intp),
                bands=np.asarray(t.band, np.intp),
                weights=t.weights,
            )
            for r, c, t in zip(rows, columns, kernels, strict=True)
        ]
        self.reach = max(int(d.starts.max(initial=0)) for d in self.deals)

    def rows(self, outputs: int) -> np.ndarray:
        """Window rows that ``outputs`` output rows read, ascending."""
        tops = np.arange(outputs, dtype=np.intp) * self.stride[0]
        return np.unique(tops[:, None] + self.field_rows)

    def line_size(self, columns: int) -> int:
        """Floats in a line that serves ``columns`` outputs, a multiple of 16 (a cache line)."""
        return -(-(columns + self.reach) // 16) * 16

    def columns(self, width: int) -> int:
        """Return the outputs in a row of a stripe."""
        return min(width, max(STRIPE_COLUMNS // self.bands, FEWEST_COLUMNS))

    def height(self, columns: int) -> int:
        """Return the output rows of a stripe."""
        row = self.bands * self.phases.size * self.line_size(columns) * self.itemsize
        again = int(self.field_rows[-1]) + 1 - self.stride[0]  # rows split twice
        used = min(self.stride[0], self.field_rows.size)
        return int(min(max((STRIPE_BYTES // row - max(again, 0)) // used, ROWS[0]), ROWS[1]))

    def shape(self, columns: int, height: int) -> tuple[int, int]:
        """Return the shape of the lines of a stripe."""
        lines = self.bands * self.rows(height).size * self.phases.size
        return lines, self.line_size(columns)


def correlate(
    planes: Sequence[np.ndarray],
    stride: Pair,
    dilation: Pair,
    kernels: Sequence[Taps],
    outs: Sequence[np.ndarray],
) -> None:
    """Write the "valid" correlations of some planes with some kernels.

    planes    C windows (H, W) of one real dtype but float16: native byte order, any strides
    kernels   taps of one output each; their bands count the planes, their weights are of the dtype
              of outs
    outs      one (OH, OW) float32 or float64 each; all must fit: nothing is checked here
    """
    some = []
    for taps, out in zip(kernels, outs, strict=True):
        if taps.weights.size:
            some.append((taps, out))
        else:
            out[:] = 0
    if not some:
        return
    height, width = some[0][1].shape
    dtype = some[0][1].dtype
    stripes = _Stripes(len(planes), stride, dilation, [taps for taps, _ in some], dtype.itemsize)
    columns = stripes.columns(width)
    step = min(height, stripes.height(columns))
    lines = np.empty(stripes.shape(columns, step), dtype)
    for x in range(0, width, columns):
        for y in range(0, height, step):
            rows = stripes.rows(min(step, height - y))
            slots = np.zeros(int(rows[-1]) + 1, np.intp)
            slots[rows] = np.arange(rows.size) * stripes.phases.size
            each = rows.size * stripes.phases.size
            for band, plane in enumerate(planes):
                corner = plane[y * stride[0] :, x * stride[1] :]
                part = lines[band * each : (band + 1) * each]
                split(corner, rows, stripes.phases, stride[1], part)
            for deal, (_, out) in zip(stripes.deals, some, strict=True):
                accumulate(
                    lines,
                    slots,
                    stride[0],
                    deal.rows,
                    deal.lines + deal.bands * each,
                    deal.starts,
                    deal.weights,
                    out[y : y + step, x : x + columns],
                )


def scratch_bytes(
    bands: int, stride: Pair, dilation: Pair, kernels: Sequence[Taps], itemsize: int
) -> int:
    """Return the memory `correlate` needs beside its arguments, at the most."""
    kernels = [taps for taps in kernels if taps.weights.size]
    if not kernels:
        return 0
    stripes = _Stripes(bands, stride, dilation, kernels, itemsize)
    columns = stripes.columns(STRIPE_COLUMNS)
    lines, size = stripes.shape(columns, stripes.height(columns))
    return lines * size * itemsize
