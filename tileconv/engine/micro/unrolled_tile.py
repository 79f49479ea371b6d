"""Unrolled register tiles of one dense kernel at stride 1, which take no list of steps.

At stride 1 the packed rows serve output rows in a fixed order: the first one
serves one row, then two, then three; all that follow serve all MR; the last
ones three, two, one. With that order written out, and the taps of a row too
where they are 5 or 7, a small kernel takes seven to nine tenths of the time:
a row there has few taps to pay for its own set-up.

The arguments are those of `direct_tile.generate_tile`; of its steps only where
the packed rows begin is read. The kernel has one band and no weight of 0; its
taps lie side by side along a packed row.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from tileconv.engine.blocking import MR, NR
from tileconv.engine.micro.register_tile import RegisterTile
from tileconv.engine.vectors import INDEX_TYPE, constant_index


class _DenseTile:
    """A tile of a dense kernel: its sums, and where packed rows and weights begin."""

    def __init__(
        self, context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]
    ) -> None:
        packed, column, self._steps, _, _, _, self.weights = args[:7]
        self._builder = builder
        self._first = builder.gep(packed, [column])
        self._tile = RegisterTile(context, builder, signature.args[0].dtype, MR, NR)
        self._tile.zero()

    def row_at(self, number: ir.Value) -> ir.Value:
        """Return where a packed row begins."""
        b = self._builder
        step = b.gep(self._steps, [b.mul(number, constant_index(3))])
        return b.gep(self._first, [b.load(step)])

    def add_tap(self, pixels: ir.Value, weights: dict[int, ir.Value]) -> None:
        """Add one tap, the vectors at ``pixels``, to the rows that have a weight for it."""
        vectors = self._tile.vectors_at(pixels)
        for row, weight in weights.items():
            self._tile.fma(row, self._builder.load(weight), vectors)

    def store(self, out: ir.Value, stride: ir.Value) -> None:
        """Write all sums."""
        self._tile.store(self._tile.rows_at(out, stride))


def generate_unrolled_square(size: int) -> Callable[..., Any]:
    """Return the code generator for kernels of ``size`` x ``size``, without any loop.

    Larger kernels than 3 x 3 gain nothing from it: the compiler moves loads away from their use
    and runs out of registers.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        tile = _DenseTile(context, builder, signature, args)
        for r in range(MR - 1 + size):
            row = tile.row_at(constant_index(r))
            for x in range(size):
                own = {
                    j: builder.gep(tile.weights, [constant_index((r - j) * size + x)])
                    for j in range(max(0, r - size + 1), min(MR, r + 1))
                }
                tile.add_tap(builder.gep(row, [constant_index(x)]), own)
        tile.store(*args[8:10])
        return context.get_dummy_value()

    return generate


def generate_unrolled(taps: int | None) -> Callable[..., Any]:
    """Return the code generator for kernels of MR rows of taps or more.

    They are ``taps`` wide, and these are written out; None: they have any width, in a loop.
    Kernels wider than 7 gain nothing from being written out, and lose from 15 on. In float64
    already 7 taps lose a fifth, and 5 gain nothing.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        step_count, tap_count = args[3], args[5]
        tile = _DenseTile(context, builder, signature, args)
        width = constant_index(taps) if taps else tap_count

        def add_written_out(row: ir.Value, weights: ir.Value, rows: range) -> None:
            for tap in range(taps or 0):
                own = {
                    j: builder.gep(weights, [constant_index(tap - j * (taps or 0))]) for j in rows
                }
                tile.add_tap(builder.gep(row, [constant_index(tap)]), own)

        def add_in_loop(row: ir.Value, weights: ir.Value, rows: range) -> None:
            # a pointer for each row of weights: few instructions a tap
            starts = {
                j: builder.gep(weights, [builder.mul(width, constant_index(-j))]) for j in rows
            }
            with cgutils.for_range(builder, width, intp=INDEX_TYPE) as loop:
                own = {j: builder.gep(start, [loop.index]) for j, start in starts.items()}
                tile.add_tap(builder.gep(row, [loop.index]), own)

        def add_row(number: ir.Value, rows: range) -> None:
            weights = builder.gep(tile.weights, [builder.mul(number, width)])
            add = add_written_out if taps else add_in_loop
            add(tile.row_at(number), weights, rows)

        for r in range(MR - 1):
            add_row(constant_index(r), range(r + 1))
        begin, end = constant_index(MR - 1), builder.sub(step_count, constant_index(MR - 1))
        step = constant_index(1)
        with cgutils.for_range_slice(builder, begin, end, step, intp=INDEX_TYPE) as (number, _):
            add_row(number, range(MR))
        for r in range(MR - 1):
            add_row(builder.add(end, constant_index(r)), range(r + 1, MR))
        tile.store(*args[8:10])
        return context.get_dummy_value()

    return generate
