"""Register tiles of banks whose lanes are kernels, and the transpose of their results.

What is not said here is as in `vectors`; `loops.kernel_gemm` uses them.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.blocking import OUTPUTS, kernel_vectors
from tileconv.engine.micro.panel_tile import repeat_unrolled
from tileconv.engine.micro.register_tile import RegisterTile
from tileconv.engine.micro.stores import store_streaming
from tileconv.engine.vectors import (
    VECTOR_BYTES,
    constant_index,
    emit_prefetch,
    intrinsic,
    lanes_of,
    load_vector,
    shuffle,
    store_vector,
)

VECTORS = kernel_vectors(VECTOR_BYTES)
UNROLLED = 4
"""Taps in a step of the loop."""


@intrinsic
def sum_kernel_tile(
    typingctx: Any,
    pixels: Any,
    output_bytes: Any,
    last: Any,
    offsets: Any,
    count: Any,
    weights: Any,
    sums: Any,
    prefetch_distance: Any,
) -> Any:
    """Write the sums of OUTPUTS outputs of VECTORS vectors of kernels, output by output.

    ``last`` is the last output there is: those after it get its sums. Pixels
    ``prefetch_distance`` bytes on are prefetched. All else is as for
    `loops.kernel_gemm._sum_strip`.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        pixels, output_bytes, last, offsets, count, weights, sums, prefetch_distance = args
        tile = RegisterTile(context, builder, signature.args[6].dtype, OUTPUTS, VECTORS)
        byte, row_size = ir.IntType(8).as_pointer(), VECTORS * tile.vector.count
        bases = []
        for output in range(OUTPUTS):
            at = constant_index(output)
            at = builder.select(builder.icmp_signed("<", at, last), at, last)
            here = builder.add(pixels, builder.mul(at, output_bytes))
            bases.append(builder.inttoptr(here, byte))
        tile.zero()
        offsets_at = cgutils.alloca_once_value(builder, offsets)
        weights_at = cgutils.alloca_once_value(builder, weights)

        def add_taps(taps: int) -> None:
            offset_at, weight_at = builder.load(offsets_at), builder.load(weights_at)
            for tap in range(taps):
                offset = builder.load(builder.gep(offset_at, [constant_index(tap)]))
                if tap == 0:
                    ahead = builder.add(offset, prefetch_distance)
                    for base in bases:
                        emit_prefetch(builder, builder.gep(base, [ahead]))
                own = tile.vectors_at(builder.gep(weight_at, [constant_index(tap * row_size)]))
                for output, base in enumerate(bases):
                    place = builder.bitcast(builder.gep(base, [offset]), tile.kind.as_pointer())
                    pixel = builder.load(place)
                    pixel.align = 1
                    tile.fma(output, pixel, own)
            builder.store(builder.gep(offset_at, [constant_index(taps)]), offsets_at)
            builder.store(builder.gep(weight_at, [constant_index(taps * row_size)]), weights_at)

        repeat_unrolled(builder, count, UNROLLED, add_taps)
        tile.store([builder.gep(sums, [constant_index(i * row_size)]) for i in range(OUTPUTS)])
        return context.get_dummy_value()

    i = types.intp
    return types.void(types.uintp, i, i, offsets, i, weights, sums, i), generate


@intrinsic
def transpose_square(
    typingctx: Any, source: Any, source_stride: Any, target: Any, target_stride: Any, streams: Any
) -> Any:
    """Transpose as many vectors as each has lanes.

    source         pointer to float; the next vector lies ``source_stride`` elements further on
    target         address of the first element; the next row lies ``target_stride`` further on
    streams        write by streaming stores; each row is aligned then
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        source, source_stride, target, target_stride, streams = args
        dtype = signature.args[0].dtype
        kind, size = context.get_data_type(dtype), dtype.bitwidth // 8
        vector = ir.VectorType(kind, lanes_of(dtype))
        n = vector.count
        rows = []
        for _ in range(n):
            rows.append(load_vector(builder, source, vector, size))
            source = builder.gep(source, [source_stride])
        step = n // 2
        while step:  # exchange ever smaller squares that lie across the diagonal
            low = [k if not k & step else n + k - step for k in range(n)]
            high = [k + step if not k & step else n + k for k in range(n)]
            for i in (i for i in range(n) if not i & step):
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = (shuffle(builder, a, b, pick) for pick in (low, high))
            step //= 2
        with builder.if_else(streams) as (streaming, ordinary):
            for branch, store in ((streaming, store_streaming), (ordinary, store_vector)):
                with branch:
                    place = builder.inttoptr(target, kind.as_pointer())
                    for row in rows:
                        store(builder, row, place, size)
                        place = builder.gep(place, [target_stride])
        return context.get_dummy_value()

    i = types.intp
    return types.void(source, i, types.uintp, i, types.boolean), generate
