"""Steps of banks whose lanes are kernels: sums of a few places, and squares of results turned.

What is not said here is as in `vectors`; `loops.kernel_gemm` uses them.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.micro.panel_tile import store_past_caches
from tileconv.engine.vectors import (
    INDEX_TYPE,
    VECTOR_BYTES,
    constant_index,
    fetch,
    lanes_of,
    load_vector,
    shuffle,
    splat,
    step_of,
    store_vector,
    vector_fma,
)

PLACES = 6
"""Outputs of a kernel that are summed up side by side."""
VECTORS = 4 if VECTOR_BYTES == 64 else 2
"""Vectors of kernels; with PLACES, 24 of 32 registers, or 12 of 16."""
UNROLLED = 4
"""Taps in a step of the loop."""


@step_of
def sum_places(
    typingctx: Any,
    pixels: Any,
    apart: Any,
    last: Any,
    offsets: Any,
    count: Any,
    weights: Any,
    sums: Any,
    reach: Any,
) -> Any:
    """Write the sums of PLACES outputs of VECTORS vectors of kernels, place by place.

    ``last`` says which place is the last one: those beyond it become what it is. Pixels ``reach``
    bytes on are asked for meanwhile. All else is as for
    `loops.kernel_gemm._sum_strip`.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        pixels, apart, last, offsets, count, weights, sums_at, reach = args
        number = signature.args[6].dtype
        kind, size = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, lanes_of(number))
        fma = vector_fma(builder, vector)
        byte = ir.IntType(8).as_pointer()
        bases = []
        for place in range(PLACES):
            at = constant_index(place)
            at = builder.select(builder.icmp_signed("<", at, last), at, last)
            here = builder.add(pixels, builder.mul(at, apart))
            bases.append(builder.inttoptr(here, byte))
        nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
        sums = [
            [cgutils.alloca_once(builder, vector) for _ in range(VECTORS)] for _ in range(PLACES)
        ]
        for register in (register for row in sums for register in row):
            builder.store(nought, register)
        offsets_at = cgutils.alloca_once_value(builder, offsets)
        weights_at = cgutils.alloca_once_value(builder, weights)

        def add_taps(taps: int) -> None:
            offset_at, weight_at = builder.load(offsets_at), builder.load(weights_at)
            for tap in range(taps):
                offset = builder.load(builder.gep(offset_at, [constant_index(tap)]))
                if tap == 0:
                    coming = builder.add(offset, reach)
                    for base in bases:
                        fetch(builder, builder.gep(base, [coming]))
                factors = []
                for i in range(VECTORS):
                    at = constant_index((tap * VECTORS + i) * vector.count)
                    factors.append(load_vector(builder, builder.gep(weight_at, [at]), vector, size))
                for base, row in zip(bases, sums, strict=True):
                    place = builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())
                    scalar = builder.load(place)
                    scalar.align = 1
                    pixel = splat(builder, scalar, vector)
                    for register, factor in zip(row, factors, strict=True):
                        done = builder.call(fma, [factor, pixel, builder.load(register)])
                        builder.store(done, register)
            builder.store(builder.gep(offset_at, [constant_index(taps)]), offsets_at)
            on = constant_index(taps * VECTORS * vector.count)
            builder.store(builder.gep(weight_at, [on]), weights_at)

        steps = builder.udiv(count, constant_index(UNROLLED))
        with cgutils.for_range(builder, steps, intp=INDEX_TYPE):
            add_taps(UNROLLED)
        left = builder.urem(count, constant_index(UNROLLED))
        with cgutils.for_range(builder, left, intp=INDEX_TYPE):
            add_taps(1)
        for place, row in enumerate(sums):
            for i, register in enumerate(row):
                at = constant_index((place * VECTORS + i) * vector.count)
                store_vector(builder, builder.load(register), builder.gep(sums_at, [at]), size)
        return context.get_dummy_value()

    i = types.intp
    return types.void(types.uintp, i, i, offsets, i, weights, sums, i), generate


@step_of
def turn_square(
    typingctx: Any, source: Any, source_pitch: Any, target: Any, target_pitch: Any, past: Any
) -> Any:
    """Turn as many vectors of numbers as each has lanes: rows become columns.

    source        pointer to float; the next vector lies ``source_pitch`` numbers further on
    target        address of the first number; the next row lies ``target_pitch`` further on
    past          write past the caches; each row is aligned then
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        source, source_pitch, target, target_pitch, past = args
        number = signature.args[0].dtype
        kind, size = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, lanes_of(number))
        n = vector.count
        rows = []
        for _ in range(n):
            rows.append(load_vector(builder, source, vector, size))
            source = builder.gep(source, [source_pitch])
        step = n // 2
        while step:  # exchange ever smaller squares that lie across the diagonal
            low = [k if not k & step else n + k - step for k in range(n)]
            high = [k + step if not k & step else n + k for k in range(n)]
            for i in (i for i in range(n) if not i & step):
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = (shuffle(builder, a, b, pick) for pick in (low, high))
            step //= 2
        with builder.if_else(past) as (streamed, plain):
            for branch, store in ((streamed, store_past_caches), (plain, _store_plain)):
                with branch:
                    place = builder.inttoptr(target, kind.as_pointer())
                    for row in rows:
                        store(builder, row, place, size)
                        place = builder.gep(place, [target_pitch])
        return context.get_dummy_value()

    i = types.intp
    return types.void(source, i, types.uintp, i, types.boolean), generate


def _store_plain(builder: ir.IRBuilder, value: ir.Value, place: ir.Value, size: int) -> None:
    store_vector(builder, value, place, size)
