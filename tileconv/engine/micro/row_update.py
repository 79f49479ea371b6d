"""Register tiles of sums that rest in memory: taps of a packed row, or rows of pixels, are added.

What is not said here is as in `vectors`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.blocking import UPDATE_NR
from tileconv.engine.micro.register_tile import RegisterTile
from tileconv.engine.pack.deinterleave import to_floats
from tileconv.engine.vectors import (
    INDEX_TYPE,
    constant_index,
    emit_prefetch,
    intrinsic,
    load_vector,
)


def _generate_update(
    context: Any, builder: ir.IRBuilder, dtype: Any, args: Any, rows: int, vectors: int
) -> None:
    """Generate the code that adds taps to a tile of ``rows`` rows of sums."""
    packed, column, offsets, tap_count, weights, weight_stride, sums, _, prefetch_at, step = args
    tile = RegisterTile(context, builder, dtype, rows, vectors)
    first = builder.gep(packed, [column])
    places, weights_of = [], []
    for j in range(rows):
        row = builder.load(builder.gep(sums, [constant_index(j)]))
        places.append(builder.gep(builder.inttoptr(row, tile.kind.as_pointer()), [column]))
        weights_of.append(weights)
        weights = builder.gep(weights, [weight_stride])
    tile.load(places)
    with cgutils.for_range(builder, tap_count, intp=INDEX_TYPE) as taps:
        # one prefetch a tap: the processor has few reads under way at a time, and waits for more
        ahead = builder.add(prefetch_at, builder.mul(taps.index, step))
        emit_prefetch(builder, builder.inttoptr(ahead, ir.IntType(8).as_pointer()))
        offset = builder.load(builder.gep(offsets, [taps.index]))
        pixels = tile.vectors_at(builder.gep(first, [offset]))
        for j, own in enumerate(weights_of):
            tile.fma(j, builder.load(builder.gep(own, [taps.index])), pixels)
    tile.store(places)


def _row_update(vectors: tuple[int, ...]) -> Any:
    """Return an intrinsic that adds taps of a packed row to a tile of sums.

    The tile is ``vectors[rows]`` vectors wide. Arguments:

    packed, column      pointer to float; first output of the tile, counted along the packed rows
    offsets, tap_count  pointer to intp: where along a packed row each tap lies
    weights             pointer to float
    weight_stride       elements from the weights of one row of sums to those of the next
    sums, rows          pointer to the addresses of the rows of sums, whose output 0 they are; how
                        many, at least one
    prefetch_at, step   address that is prefetched with the first tap; bytes to that of the next
    """

    def typer(
        typingctx: Any,
        packed: Any,
        column: Any,
        offsets: Any,
        tap_count: Any,
        weights: Any,
        weight_stride: Any,
        sums: Any,
        rows: Any,
        prefetch_at: Any,
        step: Any,
    ) -> Any:
        i = types.intp
        kinds = packed, i, offsets, i, weights, i, sums, i, types.uintp, i
        return types.void(*kinds), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        dtype = signature.args[0].dtype
        done = builder.append_basic_block("done")
        switch = builder.switch(args[7], done)
        for rows in range(1, len(vectors)):
            block = builder.append_basic_block(f"rows_{rows}")
            switch.add_case(constant_index(rows), block)
            builder.position_at_end(block)
            _generate_update(context, builder, dtype, args, rows, vectors[rows])
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return intrinsic(typer)


update_rows = _row_update(UPDATE_NR)
update_rows_narrow = _row_update((0, 1, 1, 1, 1))


def _down_sum(vectors: int, lanes: int | None = None) -> Any:
    """Return an intrinsic that sums up pixels of some rows, ``vectors`` vectors wide.

    The vectors have ``lanes`` lanes, or all. Arguments:

    source, offset  pointer to pixels; bytes to the first pixel
    rows, count     pointer to intp: bytes from there to the pixel of each row
    weights         pointer to float, of each row
    out, at         pointer to float; where the sums go
    accumulate      the sums continue what lies there, instead of beginning with 0
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
        accumulate: Any,
    ) -> Any:
        i = types.intp
        return types.void(source, i, rows, i, weights, out, i, types.boolean), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, offset, rows, count, weights, out, at, accumulate = args
        pixel, dtype = signature.args[0].dtype, signature.args[5].dtype
        tile = RegisterTile(context, builder, dtype, 1, vectors, lanes)
        n, size = tile.vector.count, pixel.bitwidth // 8
        raw = ir.VectorType(context.get_data_type(pixel), n)
        first = builder.gep(builder.bitcast(source, ir.IntType(8).as_pointer()), [offset])
        sums = builder.gep(out, [at])
        tile.zero()
        with builder.if_then(accumulate):
            tile.load([sums])
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            row = builder.gep(first, [builder.load(builder.gep(rows, [loop.index]))])
            places = [builder.gep(row, [constant_index(i * n * size)]) for i in range(vectors)]
            loaded = [load_vector(builder, place, raw, size) for place in places]
            pixels = [to_floats(builder, each, pixel, tile.vector) for each in loaded]
            tile.fma(0, builder.load(builder.gep(weights, [loop.index])), pixels)
        tile.store([sums])
        return context.get_dummy_value()

    return intrinsic(typer)


DOWN_NR = 8
"""Vectors that `sum_down_tile` sums up side by side."""
sum_down_tile = _down_sum(DOWN_NR)
sum_down_narrow = _down_sum(1)
sum_down_pixel = _down_sum(1, lanes=1)
