"""Register tiles of the direct loops: taps of packed rows times weights.

What is not said here is as in `vectors`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.blocking import MR, NR
from tileconv.engine.micro.register_tile import RegisterTile
from tileconv.engine.vectors import INDEX_TYPE, constant_index, intrinsic


def generate_tile(vectors: int = NR, *, rows: int = MR, sparse: bool = False) -> Callable[..., Any]:
    """Return the code generator of a tile of ``rows`` x ``vectors`` vectors of sums.

    Its arguments:

    packed              pointer to float, all packed rows
    column              first output of the tile, counted along the packed rows
    steps, step_count   pointer to three intp a step: where a packed row begins; the rows of sums
                        that its taps go to, as ``low * (MR + 1) + high``; where the weights of row
                        ``low`` begin
    offsets, tap_count  pointer to intp: where along a packed row each tap lies
    weights             pointer to float
    weight_stride       elements from the weights of one row of sums to those of the next
    out, out_stride     address of the tile's first output; elements from row to row
    accumulate          the sums continue what lies at ``out``, instead of beginning with 0

    All rows are written, ``vectors`` vectors each. Every sum adds its taps step by step in the
    order of ``offsets``, each by one fused multiply-add. Weights of 0 are skipped if ``sparse``.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        packed, column, steps, step_count, offsets, tap_count, weights = args[:7]
        weight_stride, out, out_stride, accumulate = args[7:]
        tile = RegisterTile(context, builder, signature.args[0].dtype, rows, vectors)
        add = tile.fma_unless_zero if sparse else tile.fma
        first = builder.gep(packed, [column])
        tile.zero()
        with builder.if_then(accumulate):
            tile.load(tile.rows_at(out, out_stride))

        def add_taps(low: int, high: int, row: ir.Value, weight: ir.Value) -> None:
            """Add the taps of one packed row to the sums of rows ``low .. high - 1``."""
            own = [weight]
            while len(own) < high - low:
                own.append(builder.gep(own[-1], [weight_stride]))
            with cgutils.for_range(builder, tap_count, intp=INDEX_TYPE) as taps:
                offset = builder.load(builder.gep(offsets, [taps.index]))
                pixels = tile.vectors_at(builder.gep(row, [offset]))
                for j, weights_of_row in zip(range(low, high), own, strict=True):
                    add(j, builder.load(builder.gep(weights_of_row, [taps.index])), pixels)

        with cgutils.for_range(builder, step_count, intp=INDEX_TYPE) as loop:
            at = builder.mul(loop.index, constant_index(3))
            row, which, weight = (
                builder.load(builder.gep(steps, [builder.add(at, constant_index(i))]))
                for i in range(3)
            )
            row, weight = builder.gep(first, [row]), builder.gep(weights, [weight])
            done = builder.append_basic_block("done")
            switch = builder.switch(which, done)
            for low in range(rows):
                for high in range(low + 1, rows + 1):
                    block = builder.append_basic_block(f"rows_{low}_{high}")
                    switch.add_case(constant_index(low * (MR + 1) + high), block)
                    builder.position_at_end(block)
                    add_taps(low, high, row, weight)
                    builder.branch(done)
            builder.position_at_end(done)
        tile.store(tile.rows_at(out, out_stride))
        return context.get_dummy_value()

    return generate


def chosen_tile(generators: dict[int, Callable[..., Any]]) -> Any:
    """Return an intrinsic with the arguments of `generate_tile` and which one it is, a literal."""

    def typer(
        typingctx: Any,
        packed: Any,
        column: Any,
        steps: Any,
        step_count: Any,
        offsets: Any,
        tap_count: Any,
        weights: Any,
        weight_stride: Any,
        out: Any,
        out_stride: Any,
        accumulate: Any,
        which: Any,
    ) -> Any:
        if not isinstance(which, types.IntegerLiteral):
            return None  # Numba asks again with the literal
        chosen = generators[which.literal_value]

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return chosen(context, builder, signature, args[:-1])

        i, u = types.intp, types.uintp
        kinds = packed, i, steps, i, offsets, i, weights, i, u, i, types.boolean, which
        return types.void(*kinds), generate

    return intrinsic(typer)
