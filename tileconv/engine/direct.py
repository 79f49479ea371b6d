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

from dataclasses import dataclass

import numpy as np

from tileconv.engine.jit import fma, loop

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
STRIPE_BYTES = 3 << 18
"""Lines of one stripe: what stays in a second-level cache of 1 MiB with room to spare."""


@dataclass(frozen=True)
class _Stripe:
    """How a stripe of outputs reads its window: the taps dealt out to lines."""

    stride: tuple[int, int]
    tap_rows: np.ndarray
    phases: np.ndarray
    tap_lines: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(
        cls, stride: tuple[int, int], dilation: tuple[int, int], taps: tuple[np.ndarray, np.ndarray]
    ) -> "_Stripe":
        ky, kx = taps
        columns = kx * dilation[1]
        phases, tap_lines = np.unique(columns % stride[1], return_inverse=True)
        return cls(
            stride=stride,
            tap_rows=(ky * dilation[0]).astype(np.intp),
            phases=phases.astype(np.intp),
            tap_lines=tap_lines.astype(np.intp),
            starts=(columns // stride[1]).astype(np.intp),
        )

    def rows(self, outputs: int) -> np.ndarray:
        """Window rows that ``outputs`` output rows read, ascending."""
        tops = np.arange(outputs, dtype=np.intp) * self.stride[0]
        return np.unique(tops[:, None] + np.unique(self.tap_rows))

    def line_size(self, columns: int) -> int:
        """Floats in a line that serves ``columns`` outputs, a multiple of 16 (a cache line)."""
        return -(-(columns + int(self.starts.max())) // 16) * 16

    def height(self, columns: int, itemsize: int) -> int:
        """Output rows per stripe."""
        row = self.line_size(columns) * self.phases.size * itemsize
        fitting = STRIPE_BYTES // row  # window rows that fit into the cache
        shared = int(self.tap_rows.max()) + 1 - self.stride[0]  # read again by the next stripe
        used = min(self.stride[0], int(np.unique(self.tap_rows).size))
        return int(min(max((fitting - max(shared, 0)) // used, 16), 256))


def correlate(
    window: np.ndarray,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    taps: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the "valid" correlation of ``window`` into ``out``.

    window    (H, W), native byte order, any real dtype but float16, any strides
    taps      (ky, kx) of the T non-zero weights, in the order they are added
    weights   (T,), dtype of out
    out       (OH, OW) float32 or float64; both must fit: nothing is checked here
    """
    if not weights.size:
        out[:] = 0
        return
    stripe = _Stripe.of(stride, dilation, taps)
    height, width = out.shape
    columns = min(width, STRIPE_COLUMNS)
    step = min(height, stripe.height(columns, out.itemsize))
    rows = stripe.rows(step)
    slots = np.zeros(int(rows[-1]) + 1, np.intp)
    slots[rows] = np.arange(rows.size) * stripe.phases.size
    lines = np.empty((rows.size * stripe.phases.size, stripe.line_size(columns)), out.dtype)
    for x in range(0, width, columns):
        for y in range(0, height, step):
            target = out[y : y + step, x : x + columns]
            if target.shape[0] != step:
                rows = stripe.rows(target.shape[0])
            corner = window[y * stride[0] :, x * stride[1] :]
            split(corner, rows, stripe.phases, stride[1], lines)
            accumulate(
                lines,
                slots,
                stride[0],
                stripe.tap_rows,
                stripe.tap_lines,
                stripe.starts,
                weights,
                target,
            )
        rows = stripe.rows(step)


def scratch_bytes(
    stride: tuple[int, int],
    dilation: tuple[int, int],
    taps: tuple[np.ndarray, np.ndarray],
    itemsize: int,
) -> int:
    """Return the memory `correlate` needs beside its arguments, at the most."""
    if not taps[0].size:
        return 0
    stripe = _Stripe.of(stride, dilation, taps)
    rows = stripe.rows(stripe.height(STRIPE_COLUMNS, itemsize)).size
    return rows * stripe.phases.size * stripe.line_size(STRIPE_COLUMNS) * itemsize
