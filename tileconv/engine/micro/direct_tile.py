"""Blocks of sums that stay in registers while products are added to them.

What is not said here is as in `vectors`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.vectors import (
    INDEX_TYPE,
    ROWS,
    WIDE,
    constant_index,
    lanes_of,
    load_vector,
    splat,
    step_of,
    store_vector,
    vector_fma,
)


def generate_block(wide: int, *, rows: int = ROWS, sparse: bool = False) -> Callable[..., Any]:
    """Return the code generator of a block of ``rows`` times ``wide`` vectors of sums.

    Its arguments:

    lines               pointer to float
    column              first output of the block, counted along the lines
    steps, step_count   pointer to three intp a step: where a line begins; the rows of sums that its
                        taps go to, as ``low * (ROWS + 1) + high``; where the weights of row ``low``
                        begin
    places, place_count pointer to intp: where along a line each tap lies
    weights, apart      pointer to float; those of the next row of sums lie ``apart`` further on
    out, pitch          address of the block's first output; the next row lies ``pitch`` numbers
                        further on
    more                the sums go on from what lies at ``out``, instead of from 0

    All rows are written, ``wide`` vectors each. Every sum adds its taps step by step in the order
    of ``places``, each by one fused multiply-add; ``sparse`` passes over weights of 0.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        lines, column, steps_at, step_count, places_at, place_count, weights_at = args[:7]
        apart, out, pitch, more = args[7:]
        number = signature.args[0].dtype
        kind, size = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, lanes_of(number))
        fma = vector_fma(builder, vector)
        first = builder.gep(lines, [column])

        sums = [[cgutils.alloca_once(builder, vector) for _ in range(wide)] for _ in range(rows)]
        nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
        for row in sums:
            for register in row:
                builder.store(nought, register)
        with builder.if_then(more):
            before = builder.inttoptr(out, kind.as_pointer())
            for row in sums:
                for i, register in enumerate(row):
                    place = builder.gep(before, [constant_index(i * vector.count)])
                    builder.store(load_vector(builder, place, vector, size), register)
                before = builder.gep(before, [pitch])

        def add_taps(low: int, high: int, line: ir.Value, weight: ir.Value) -> None:
            """Add the taps of one line to the sums ``low .. high - 1``."""
            own = [weight]
            for _ in range(low + 1, high):
                own.append(builder.gep(own[-1], [apart]))
            with cgutils.for_range(builder, place_count, intp=INDEX_TYPE) as taps:
                tap = taps.index
                pixels_at = builder.gep(line, [builder.load(builder.gep(places_at, [tap]))])
                pixels = [
                    load_vector(
                        builder,
                        builder.gep(pixels_at, [constant_index(i * vector.count)]),
                        vector,
                        size,
                    )
                    for i in range(wide)
                ]
                for j in range(low, high):
                    scalar = builder.load(builder.gep(own[j - low], [tap]))

                    def add(j: int = j, scalar: ir.Value = scalar) -> None:
                        factor = splat(builder, scalar, vector)
                        for register, pixel in zip(sums[j], pixels, strict=True):
                            more = builder.call(fma, [factor, pixel, builder.load(register)])
                            builder.store(more, register)

                    if sparse:
                        zero = ir.Constant(kind, 0.0)
                        with builder.if_then(builder.fcmp_unordered("!=", scalar, zero)):
                            add()
                    else:
                        add()

        with cgutils.for_range(builder, step_count, intp=INDEX_TYPE) as loop:
            at = builder.mul(loop.index, constant_index(3))
            line, which, weight = (
                builder.load(builder.gep(steps_at, [builder.add(at, constant_index(i))]))
                for i in range(3)
            )
            line, weight = builder.gep(first, [line]), builder.gep(weights_at, [weight])
            done = builder.append_basic_block("done")
            switch = builder.switch(which, done)
            for low in range(rows):
                for high in range(low + 1, rows + 1):
                    block = builder.append_basic_block(f"rows_{low}_{high}")
                    switch.add_case(constant_index(low * (ROWS + 1) + high), block)
                    builder.position_at_end(block)
                    add_taps(low, high, line, weight)
                    builder.branch(done)
            builder.position_at_end(done)

        target = builder.inttoptr(out, kind.as_pointer())
        for row in sums:
            for i, register in enumerate(row):
                place = builder.gep(target, [constant_index(i * vector.count)])
                store_vector(builder, builder.load(register), place, size)
            target = builder.gep(target, [pitch])
        return context.get_dummy_value()

    return generate


def _block_kinds(lines: Any, steps: Any, places: Any, weights: Any) -> tuple[Any, ...]:
    """Return the types of the arguments of `generate_block`, of which these are pointers."""
    i = types.intp
    return lines, i, steps, i, places, i, weights, i, types.uintp, i, types.boolean


def _intrinsic(generate: Callable[..., Any]) -> Any:
    """Return a function of Numba's with the arguments of `generate_block`."""

    def typer(
        typingctx: Any,
        lines: Any,
        column: Any,
        steps: Any,
        step_count: Any,
        places: Any,
        place_count: Any,
        weights: Any,
        apart: Any,
        out: Any,
        pitch: Any,
        more: Any,
    ) -> Any:
        return types.void(*_block_kinds(lines, steps, places, weights)), generate

    return step_of(typer)


def chosen_block(generators: dict[int, Callable[..., Any]]) -> Any:
    """Return `generate_block` with, as a last argument, which of ``generators``: a literal."""

    def typer(
        typingctx: Any,
        lines: Any,
        column: Any,
        steps: Any,
        step_count: Any,
        places: Any,
        place_count: Any,
        weights: Any,
        apart: Any,
        out: Any,
        pitch: Any,
        more: Any,
        which: Any,
    ) -> Any:
        if not isinstance(which, types.IntegerLiteral):
            return None  # Numba asks again with the literal
        chosen = generators[which.literal_value]

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return chosen(context, builder, signature, args[:-1])

        return types.void(*_block_kinds(lines, steps, places, weights), which), generate

    return step_of(typer)


sum_narrow_sparse_block = _intrinsic(generate_block(1, sparse=True))
"""A block of one vector a row, for what is left at the end of the rows."""
LONG = 8
"""Vectors of sums in a block of a single row."""
sum_long_block = _intrinsic(generate_block(LONG, rows=1))
"""A block of a single row of LONG vectors."""
sum_short_block = _intrinsic(generate_block(1, rows=1))
"""A block of a single vector."""


def generate_square(size: int) -> Callable[..., Any]:
    """Return the code generator of output rows of a dense kernel at stride 1, from 0, unrolled.

    Larger kernels than 3 x 3 gain nothing from being unrolled: the compiler moves loads away
    from their use and runs out of registers.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        lines, column, steps_at, _, _, _, weights_at, _, out, pitch, _ = args
        number = signature.args[0].dtype
        kind, width = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, lanes_of(number))
        fma = vector_fma(builder, vector)

        first = builder.gep(lines, [column])
        nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
        sums = [[nought] * WIDE for _ in range(ROWS)]
        for r in range(ROWS - 1 + size):
            line = builder.gep(
                first, [builder.load(builder.gep(steps_at, [constant_index(3 * r)]))]
            )
            for x in range(size):
                pixels = []
                for i in range(WIDE):
                    place = builder.gep(line, [constant_index(x + i * vector.count)])
                    pixels.append(load_vector(builder, place, vector, width))
                for j in range(max(0, r - size + 1), min(ROWS, r + 1)):
                    place = builder.gep(weights_at, [constant_index((r - j) * size + x)])
                    factor = splat(builder, builder.load(place), vector)
                    sums[j] = [
                        builder.call(fma, [factor, pixel, done])
                        for pixel, done in zip(pixels, sums[j], strict=True)
                    ]
        target = builder.inttoptr(out, kind.as_pointer())
        for row in sums:
            for i, value in enumerate(row):
                place = builder.gep(target, [constant_index(i * vector.count)])
                store_vector(builder, value, place, width)
            target = builder.gep(target, [pitch])
        return context.get_dummy_value()

    return generate
