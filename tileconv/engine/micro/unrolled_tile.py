"""Blocks of sums for one dense kernel at stride 1, whose lines serve output rows in a fixed order.

`micro.direct_tile.generate_block` takes a list of steps and jumps to the rows
that each line serves. At stride 1 the list is always the same: the first lines
serve one row, then two, then three; all that follow serve all ROWS; the last
ones three, two, one. Written out so, and the taps of a line too where they
are 5 or 7, a small kernel takes seven to nine tenths of the time, for a line
there has few taps to pay for its own set-up.

The arguments are those of `generate_block`; of its steps only the places of lines
are read. The kernel has one band, ROWS rows of taps or more, and no weight of
0; its taps lie side by side along a line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from tileconv.engine.vectors import (
    INDEX_TYPE,
    ROWS,
    WIDE,
    constant_index,
    lanes_of,
    load_vector,
    splat,
    store_vector,
    vector_fma,
)


@dataclass
class _Block:
    """A block in the making: its sums, and where lines and weights begin."""

    builder: ir.IRBuilder
    vector: ir.VectorType
    bytes: int
    """Of a number."""
    fma: ir.Function
    first: ir.Value
    """The ring, moved on to the block's first column."""
    steps: ir.Value
    weights: ir.Value
    sums: list[list[ir.Value]]

    @classmethod
    def of(cls, context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        lines, column, steps, _, _, _, weights = args[:7]
        number = signature.args[0].dtype
        kind = context.get_data_type(number)
        vector = ir.VectorType(kind, lanes_of(number))
        nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
        sums = [
            [cgutils.alloca_once_value(builder, nought) for _ in range(WIDE)] for _ in range(ROWS)
        ]
        first = builder.gep(lines, [column])
        fma = vector_fma(builder, vector)
        return cls(builder, vector, number.bitwidth // 8, fma, first, steps, weights, sums)

    def line(self, number: ir.Value) -> ir.Value:
        """Return where a line begins."""
        at = self.builder.mul(number, constant_index(3))
        return self.builder.gep(self.first, [self.builder.load(self.builder.gep(self.steps, [at]))])

    def add_tap(self, pixels_at: ir.Value, weights_at: dict[int, ir.Value]) -> None:
        """Add one tap, the vectors at ``pixels_at``, to the rows that have a weight for it."""
        b = self.builder
        pixels = []
        for i in range(WIDE):
            place = b.gep(pixels_at, [constant_index(i * self.vector.count)])
            pixels.append(load_vector(b, place, self.vector, self.bytes))
        for row, place in weights_at.items():
            factor = splat(b, b.load(place), self.vector)
            for register, pixel in zip(self.sums[row], pixels, strict=True):
                b.store(b.call(self.fma, [factor, pixel, b.load(register)]), register)

    def write(self, out: ir.Value, pitch: ir.Value) -> None:
        """Store all sums."""
        b = self.builder
        target = b.inttoptr(out, self.vector.element.as_pointer())
        for row in self.sums:
            for i, register in enumerate(row):
                place = b.gep(target, [constant_index(i * self.vector.count)])
                store_vector(b, b.load(register), place, self.bytes)
            target = b.gep(target, [pitch])


def generate_tall(taps: int | None) -> Callable[..., Any]:
    """Return the code generator for kernels ``taps`` wide, written out; None: any, in a loop.

    Kernels wider than 7 gain nothing from being written out, and lose from 15 on. In float64
    already 7 taps lose a fifth, and 5 gain nothing.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        _, _, _, step_count, _, tap_count, _, _, out, pitch, _ = args
        block = _Block.of(context, builder, signature, args)
        width = constant_index(taps) if taps else tap_count

        def add_written_out(line: ir.Value, weights: ir.Value, rows: range) -> None:
            for tap in range(taps or 0):
                own = {
                    row: builder.gep(weights, [constant_index(tap - row * (taps or 0))])
                    for row in rows
                }
                block.add_tap(builder.gep(line, [constant_index(tap)]), own)

        def add_in_loop(line: ir.Value, weights: ir.Value, rows: range) -> None:
            # a pointer for each row of weights: few instructions a tap
            starts = {
                row: builder.gep(weights, [builder.mul(width, constant_index(-row))])
                for row in rows
            }
            with cgutils.for_range(builder, width, intp=INDEX_TYPE) as loop:
                own = {row: builder.gep(start, [loop.index]) for row, start in starts.items()}
                block.add_tap(builder.gep(line, [loop.index]), own)

        def add_line(number: ir.Value, rows: range) -> None:
            weights = builder.gep(block.weights, [builder.mul(number, width)])
            add = add_written_out if taps else add_in_loop
            add(block.line(number), weights, rows)

        for r in range(ROWS - 1):
            add_line(constant_index(r), range(r + 1))
        begin, end = constant_index(ROWS - 1), builder.sub(step_count, constant_index(ROWS - 1))
        step = constant_index(1)
        with cgutils.for_range_slice(builder, begin, end, step, intp=INDEX_TYPE) as (number, _):
            add_line(number, range(ROWS))
        for r in range(ROWS - 1):
            add_line(builder.add(end, constant_index(r)), range(r + 1, ROWS))
        block.write(out, pitch)
        return context.get_dummy_value()

    return generate
