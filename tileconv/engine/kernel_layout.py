"""Kernels laid out for the loops: which lines they read, and where in them each tap lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.pack.deinterleave import MOST_WORDS
from tileconv.engine.pack.rows import END, UNUSED
from tileconv.engine.vectors import ROWS, VECTOR_BYTES, WIDE
from tileconv.engine.workspace import CACHE_LINE

Pair = tuple[int, int]

RING_BYTES = 3 << 17
"""Lines of a strip: three quarters of a second-level cache of 512 KiB. Wide strips pay, since every
row of one is a new start for the memory system."""
MOST_COLUMNS = 2112
"""Most outputs in a row of a strip: many blocks of any vector width."""
LONG_REACH = 512
"""A strip is at least as wide as its taps reach, up to this: all of the reach is dealt out again
for every strip."""
DENSE, SPARSE, DENSE_3X3, TALL, TALL_5, TALL_7 = range(6)
"""Which block to use: any weights but 0; any; those of a 3 x 3 kernel at stride 1; those that
`micro.unrolled_tile` is for, of any width, and 5 or 7 wide in float32."""


@dataclass(frozen=True, eq=False)
class Program:
    """Some kernels that read the same bands at the same places.

    Dilation along y is taken apart: outputs ``classes`` rows apart read every
    ``row_step``-th input row from some row on, and no other class reads these.
    Within a class, output ``i`` reads the rows ``i * hop .. i * hop + height - 1``
    of them.
    """

    weights: np.ndarray
    """(kernels, bands, height, T), float32 or float64; 0 is no tap."""
    offsets: np.ndarray
    """(T,) intp, pixels from the left of the field to each column of taps."""
    stride: Pair
    classes: int
    row_step: int
    hop: int

    @property
    def height(self) -> int:
        """Rows of taps."""
        return self.weights.shape[2]

    @cached_property
    def overlap(self) -> int:
        """Lines from one output row to the next: rows in a gap get none."""
        return min(self.hop, self.height)

    @cached_property
    def sampling(self) -> tuple[int, ...]:
        """Where rows and columns lie, as the loops take it."""
        return (*self.stride, self.classes, self.row_step, self.hop, self.overlap)

    @cached_property
    def sparse(self) -> bool:
        """Some weight is 0."""
        return not self.weights.all()

    @cached_property
    def packed(self) -> np.ndarray:
        """Weights as the loops read them: those of ROWS kernels of a bank side by side."""
        kernels = self.weights.shape[0]
        if kernels == 1:
            return self.weights
        groups = -(-kernels // ROWS)
        packed = np.zeros((groups * ROWS, self.weights[0].size), self.weights.dtype)
        packed[:kernels] = self.weights.reshape(kernels, -1)
        return np.ascontiguousarray(packed.reshape(groups, ROWS, -1).transpose(0, 2, 1))

    @cached_property
    def block(self) -> int:
        """Which block the sums are made in, DENSE and so on."""
        kernels, bands, height, width = self.weights.shape
        if self.sparse:
            return SPARSE
        plain = kernels == bands == self.overlap == self.stride[1] == 1
        if not plain or not np.array_equal(self.offsets, np.arange(width)):
            return DENSE
        if (height, width) == (3, 3):
            return DENSE_3X3
        if height < ROWS:
            return DENSE
        if self.weights.dtype == np.float64:
            return TALL
        return {5: TALL_5, 7: TALL_7}.get(width, TALL)

    @cached_property
    def lanes(self) -> int:
        """Numbers in a vector."""
        return VECTOR_BYTES // self.weights.itemsize

    @cached_property
    def phases(self) -> np.ndarray:
        """Phases that some tap reads, each a line of its own; a stride may be huge."""
        return np.unique(self.offsets % self.stride[1])

    @property
    def line_count(self) -> int:
        """Lines of an input row."""
        return int(self.phases.size)

    def places(self, line: int) -> np.ndarray:
        """Return where each phase's line begins, for lines of ``line`` numbers.

        As `pack.rows` takes them: UNUSED where no tap reads a phase, END after the last
        one that a tap reads.
        """
        beyond = MOST_WORDS * self.weights.itemsize
        places = np.full(int(self.phases[-1]) + 1 + beyond, END, np.intp)
        places[:-beyond] = UNUSED
        places[self.phases] = np.arange(self.line_count) * line
        return places

    def taps(self, line: int) -> np.ndarray:
        """Return where in lines of ``line`` numbers each column of taps of output 0 lies."""
        phase, start = self.offsets % self.stride[1], self.offsets // self.stride[1]
        return (np.searchsorted(self.phases, phase) * line + start).astype(np.intp)

    @cached_property
    def reach(self) -> int:
        """Numbers of a line that an output reads beyond its own place."""
        return int(self.offsets.max()) // self.stride[1]

    @cached_property
    def ring(self) -> int:
        """Input rows that are held at a time."""
        kernels = self.weights.shape[0]
        return self.height if kernels > 1 else (ROWS - 1) * self.overlap + self.height

    def line_size(self, columns: int) -> int:
        """Return the numbers in a line that serves ``columns`` outputs.

        An odd number of cache lines: lines a power of two apart would crowd into few places of a
        cache.
        """
        block = WIDE * self.lanes
        numbers = -(-columns // block) * block + self.reach + self.lanes
        line = CACHE_LINE // self.weights.itemsize
        return (-(-numbers // line) | 1) * line

    def columns(self, width: int) -> int:
        """Return the outputs in a row of a strip: strips are of about one width.

        A narrow one that is left over costs about as much as a wide one: its rows are read anew.
        """
        block = WIDE * self.lanes
        row = self.ring * self.weights.shape[1] * self.line_count * self.weights.itemsize
        fit = RING_BYTES // row - self.reach - 2 * self.lanes
        most = min(max(fit, min(self.reach, LONG_REACH), block) // block * block, MOST_COLUMNS)
        strips = -(-width // most)
        return min(width, -(-width // (strips * block)) * block)

    def row_size(self, columns: int) -> int:
        """Return the numbers in all lines of an input row of one band."""
        return self.line_count * self.line_size(columns)

    def tables(self, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (taps, places) for lines that serve ``columns`` outputs."""
        line = self.line_size(columns)
        return self.taps(line), self.places(line)

    def ring_size(self, columns: int) -> int:
        """Return the numbers in the ring."""
        return self.ring * self.weights.shape[1] * self.row_size(columns)

    def scratch_bytes(self, width: int) -> int:
        """Return the memory that computing outputs ``width`` wide takes beside in- and output."""
        return self.ring_size(self.columns(width)) * self.weights.itemsize


def lay_out(stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int) -> Program | None:
    """Lay out kernels of one dtype; None if none of them has a tap."""
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
    return Program(
        weights=weights,
        offsets=(columns * dilation[1]).astype(np.intp),
        stride=stride,
        classes=dilation[0] // common,
        row_step=dilation[0],
        hop=stride[0] // common,
    )
