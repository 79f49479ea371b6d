"""Steps that add products to sums which rest in memory: rows of sums and columns of pixels.

What is not said here is as in `vectors`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.pack.deinterleave import to_floats
from tileconv.engine.vectors import (
    INDEX_TYPE,
    constant_index,
    fetch,
    lanes_of,
    load_vector,
    splat,
    step_of,
    store_vector,
    vector_fma,
)

ADDED = (0, 8, 4, 3, 3)
"""Vectors of each row in a block of as many rows: 8 to 12 chains of additions at a time, with room
for their pixels in 16 registers."""


def _add_to_rows(
    context: Any, builder: ir.IRBuilder, number: Any, args: Any, rows: int, wide: int
) -> None:
    """Generate the code that adds taps to a block of ``rows`` rows of sums, ``wide`` vectors."""
    lines, column, places_at, place_count, weights, apart, sums_at, _, ahead, step = args
    kind, width = context.get_data_type(number), number.bitwidth // 8
    vector = ir.VectorType(kind, lanes_of(number))
    fma = vector_fma(builder, vector)
    first = builder.gep(lines, [column])

    blocks = []  # a row's weights, and where each of its sums lies and is kept
    for j in range(rows):
        row = builder.load(builder.gep(sums_at, [constant_index(j)]))
        row = builder.gep(builder.inttoptr(row, kind.as_pointer()), [column])
        sums = []
        for i in range(wide):
            place = builder.gep(row, [constant_index(i * vector.count)])
            register = cgutils.alloca_once(builder, vector)
            builder.store(load_vector(builder, place, vector, width), register)
            sums.append((place, register))
        blocks.append((weights, sums))
        weights = builder.gep(weights, [apart])
    with cgutils.for_range(builder, place_count, intp=INDEX_TYPE) as taps:
        # with each tap, for the processor has few reads under way at a time, and waits beyond
        coming = builder.add(ahead, builder.mul(taps.index, step))
        fetch(builder, builder.inttoptr(coming, ir.IntType(8).as_pointer()))
        tap = builder.gep(first, [builder.load(builder.gep(places_at, [taps.index]))])
        pixels = [
            load_vector(
                builder, builder.gep(tap, [constant_index(i * vector.count)]), vector, width
            )
            for i in range(wide)
        ]
        for factors, sums in blocks:
            factor = splat(builder, builder.load(builder.gep(factors, [taps.index])), vector)
            for (_, register), pixel in zip(sums, pixels, strict=True):
                more = builder.call(fma, [factor, pixel, builder.load(register)])
                builder.store(more, register)
    for _, sums in blocks:
        for place, register in sums:
            store_vector(builder, builder.load(register), place, width)


def _adder(wide: tuple[int, ...]) -> Any:
    """Return a function of Numba's that adds taps of a line to a block of sums.

    The block is ``wide[rows]`` vectors wide. Arguments:

    lines, column       pointer to float; first output of the block, counted along the lines
    places, place_count pointer to intp: where along a line each tap lies
    weights, apart      pointer to float; those of the next row of sums lie ``apart`` further on
    sums, rows          pointer to the addresses of the rows of sums, whose output 0 they are; how
                        many, at least one
    ahead, step         address of what is asked for with the first tap; bytes to that of the next
    """

    def typer(
        typingctx: Any,
        lines: Any,
        column: Any,
        places: Any,
        place_count: Any,
        weights: Any,
        apart: Any,
        sums: Any,
        rows: Any,
        ahead: Any,
        step: Any,
    ) -> Any:
        i = types.intp
        kinds = lines, i, places, i, weights, i, sums, i, types.uintp, i
        return types.void(*kinds), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        number = signature.args[0].dtype
        done = builder.append_basic_block("done")
        switch = builder.switch(args[7], done)
        for rows in range(1, len(wide)):
            block = builder.append_basic_block(f"rows_{rows}")
            switch.add_case(constant_index(rows), block)
            builder.position_at_end(block)
            _add_to_rows(context, builder, number, args, rows, wide[rows])
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return step_of(typer)


add_to_rows = _adder(ADDED)
add_narrow_to_rows = _adder((0, 1, 1, 1, 1))


def _downward(wide: int, lanes: int | None = None) -> Any:
    """Return a function of Numba's that sums up pixels of some rows, ``wide`` vectors wide.

    The vectors have ``lanes`` lanes, or all. Arguments:

    source, offset  pointer to pixels; bytes to the first pixel
    rows, count     pointer to intp: bytes from there to the pixel of each row
    weights         pointer to float, of each row
    out, at         pointer to float; where the sums go
    more            the sums go on from what lies there, instead of from 0
    """

    def typer(
        typingctx: Any,
        source: Any,
        offset: Any,
        rows: Any,
        count: Any,
        weights: Any,
        out: Any,
        at: Any,
        more: Any,
    ) -> Any:
        i = types.intp
        return types.void(source, i, rows, i, weights, out, i, types.boolean), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _, offset, rows, count, weights, out, at, more = args
        pixel, number = signature.args[0].dtype, signature.args[5].dtype
        kind, width = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, lanes or lanes_of(number))
        raw, step = ir.VectorType(context.get_data_type(pixel), vector.count), pixel.bitwidth // 8
        fma = vector_fma(builder, vector)
        first = builder.gep(builder.bitcast(args[0], ir.IntType(8).as_pointer()), [offset])
        places, sums = [], []
        for i in range(wide):
            places.append(builder.gep(out, [builder.add(at, constant_index(i * vector.count))]))
            sums.append(cgutils.alloca_once(builder, vector))
            nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
            builder.store(nought, sums[-1])
        with builder.if_then(more):
            for place, register in zip(places, sums, strict=True):
                builder.store(load_vector(builder, place, vector, width), register)
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            row = builder.gep(first, [builder.load(builder.gep(rows, [loop.index]))])
            factor = splat(builder, builder.load(builder.gep(weights, [loop.index])), vector)
            for i, register in enumerate(sums):
                place = builder.gep(row, [constant_index(i * vector.count * step)])
                pixels = to_floats(builder, load_vector(builder, place, raw, step), pixel, vector)
                done = builder.call(fma, [factor, pixels, builder.load(register)])
                builder.store(done, register)
        for place, register in zip(places, sums, strict=True):
            store_vector(builder, builder.load(register), place, width)
        return context.get_dummy_value()

    return step_of(typer)


DOWN = 8
"""Vectors that `sum_down_block` sums up side by side."""
sum_down_block = _downward(DOWN)
sum_down_narrow = _downward(1)
sum_down_pixel = _downward(1, lanes=1)
