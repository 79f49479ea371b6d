"""Kernels laid out for the loops: which packed rows they read, and where in them each tap lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tileconv.engine.blocking import END, MOST_WORDS, MR, NR, UNUSED
from tileconv.engine.workspace import CACHE_LINE
from tileconv.operators.convolution import Taps

Pair = tuple[int, int]

RING_BYTES = 3 << 17
"""Packed rows of a strip: three quarters of a second-level cache of 512 KiB. Wide strips pay, since
every row of one is a new start for the memory system."""
MOST_COLUMNS = 2112
"""Most outputs in a row of a strip: many blocks of any vector width."""
LONG_REACH = 512
"""A strip is at least as wide as its taps reach, up to this: all pixels within reach are packed
again for every strip."""
DENSE, SPARSE, UNROLLED_3X3, UNROLLED, UNROLLED_5, UNROLLED_7 = range(6)
"""Which register tile to use: for weights that are not 0; for any; unrolled, for a 3 x 3 kernel at
stride 1; those of `micro.unrolled_tile`, for any width, and 5 or 7 wide in float32."""


@dataclass(frozen=True, eq=False)
class KernelLayout:
    """Some kernels that read the same bands at the same places.

    Dilation along y is taken apart into residue classes: outputs ``classes`` rows apart read every
    ``row_dilation``-th input row from some row on, and no other class reads these. Within a class,
    output ``i`` reads the rows ``i * row_stride .. i * row_stride + height - 1`` of them.
    """

    weights: np.ndarray
    """(kernels, bands, height, T), float32 or float64; 0 is no tap."""
    tap_columns: np.ndarray
    """(T,) intp, pixels from the left of the field to each column of taps."""
    stride: Pair
    classes: int
    row_dilation: int
    row_stride: int
    vector_bytes: int
    """Bytes of a vector register."""

    @property
    def height(self) -> int:
        """Rows of taps."""
        return self.weights.shape[2]

    @cached_property
    def overlap(self) -> int:
        """Packed rows from one output row to the next: rows that nobody reads get none."""
        return min(self.row_stride, self.height)

    @cached_property
    def sampling(self) -> tuple[int, ...]:
        """Strides and dilation of rows and columns, as the loops take them."""
        return (*self.stride, self.classes, self.row_dilation, self.row_stride, self.overlap)

    @cached_property
    def sparse(self) -> bool:
        """Some weight is 0."""
        return not self.weights.all()

    @cached_property
    def tile(self) -> int:
        """Which register tile sums are made in, DENSE and so on."""
        kernels, bands, height, width = self.weights.shape
        if self.sparse:
            return SPARSE
        plain = kernels == bands == self.overlap == self.stride[1] == 1
        if not plain or not np.array_equal(self.tap_columns, np.arange(width)):
            return DENSE
        if (height, width) == (3, 3):
            return UNROLLED_3X3
        if height < MR:
            return DENSE
        if self.weights.dtype == np.float64:
            return UNROLLED
        return {5: UNROLLED_5, 7: UNROLLED_7}.get(width, UNROLLED)

    @cached_property
    def lanes(self) -> int:
        """Elements in a vector."""
        return self.vector_bytes // self.weights.itemsize

    @cached_property
    def phases(self) -> np.ndarray:
        """Stride phases that some tap reads; a stride may be huge."""
        return np.unique(self.tap_columns % self.stride[1])

    @property
    def line_count(self) -> int:
        """Phases that are packed of an input row."""
        return int(self.phases.size)

    def phase_offsets(self, line: int) -> np.ndarray:
        """Return where each phase begins in a packed row, for phases of ``line`` elements.

        As `pack.rows` takes them: UNUSED where no tap reads a phase, END after the last one that
        a tap reads.
        """
        beyond = MOST_WORDS * self.weights.itemsize
        phase_offsets = np.full(int(self.phases[-1]) + 1 + beyond, END, np.intp)
        phase_offsets[:-beyond] = UNUSED
        phase_offsets[self.phases] = np.arange(self.line_count) * line
        return phase_offsets

    def tap_offsets(self, line: int) -> np.ndarray:
        """Return where each column of taps of output 0 lies, for phases of ``line`` elements."""
        phase, start = self.tap_columns % self.stride[1], self.tap_columns // self.stride[1]
        return (np.searchsorted(self.phases, phase) * line + start).astype(np.intp)

    @cached_property
    def reach(self) -> int:
        """Elements of a phase that an output reads behind its own place."""
        return int(self.tap_columns.max()) // self.stride[1]

    @cached_property
    def ring(self) -> int:
        """Input rows that are held at a time."""
        kernels = self.weights.shape[0]
        return self.height if kernels > 1 else (MR - 1) * self.overlap + self.height

    def line_size(self, columns: int) -> int:
        """Return the elements of a phase that serves ``columns`` outputs.

        An odd number of cache lines: phases a power of two apart would crowd into few places of a
        cache.
        """
        tile = NR * self.lanes
        numbers = -(-columns // tile) * tile + self.reach + self.lanes
        line = CACHE_LINE // self.weights.itemsize
        return (-(-numbers // line) | 1) * line

    def columns(self, width: int) -> int:
        """Return the outputs in a row of a strip: strips are of about one width.

        A narrow one that is left over costs about as much as a wide one: its rows are read again.
        """
        tile = NR * self.lanes
        row = self.ring * self.weights.shape[1] * self.line_count * self.weights.itemsize
        fit = RING_BYTES // row - self.reach - 2 * self.lanes
        most = min(max(fit, min(self.reach, LONG_REACH), tile) // tile * tile, MOST_COLUMNS)
        strips = -(-width // most)
        return min(width, -(-width // (strips * tile)) * tile)

    def row_size(self, columns: int) -> int:
        """Return the elements of a packed row of one band."""
        return self.line_count * self.line_size(columns)

    def tables(self, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (tap offsets, phase offsets) for rows of ``columns`` outputs."""
        line = self.line_size(columns)
        return self.tap_offsets(line), self.phase_offsets(line)

    def ring_size(self, columns: int) -> int:
        """Return the elements of the ring."""
        return self.ring * self.weights.shape[1] * self.row_size(columns)


def layout_of(
    stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int, vector_bytes: int
) -> KernelLayout | None:
    """Lay out kernels of one dtype for vectors of some bytes; None if none of them has a tap."""
    tables = {id(t.x): t for t in kernels}.values()  # dense kernels share theirs
    height = max((int(t.y.max(initial=-1)) for t in tables), default=-1) + 1
    if not height:
        return None
    columns = np.unique(np.concatenate([t.x for t in tables]))
    dtype = kernels[0].weights.dtype
    weights = np.zeros((len(kernels), bands, height, columns.size), dtype)
    for plane, taps in zip(weights, kernels, strict=True):
        if taps.weights.size == plane.size:  # all there are, in their one order
            plane[...] = taps.weights.reshape(plane.shape)
        else:
            plane[taps.band, taps.y, np.searchsorted(columns, taps.x)] = taps.weights
    common = int(np.gcd(stride[0], dilation[0]))
    return KernelLayout(
        weights=weights,
        tap_columns=(columns * dilation[1]).astype(np.intp),
        stride=stride,
        classes=dilation[0] // common,
        row_dilation=dilation[0],
        row_stride=stride[0] // common,
        vector_bytes=vector_bytes,
    )
