"""Rows of sums on their way to the output: by ordinary stores, or by streaming ones.

A streaming (non-temporal) store writes whole cache lines without reading them
first and leaves nothing in the caches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from tileconv.engine.jit import loop
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.vectors import (
    advance,
    copy_bytes,
    intrinsic,
    lane_count,
    lanes_of,
    load_vector,
    pointer_address,
)
from tileconv.engine.workspace import CACHE_LINE


def store_streaming(
    builder: ir.IRBuilder, value: ir.Value, place: ir.Value, element_bytes: int
) -> None:
    """Store a vector by a streaming store; the pointer is aligned to all of it."""
    stored = builder.store(value, builder.bitcast(place, value.type.as_pointer()))
    stored.align = value.type.count * element_bytes
    once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    stored.set_metadata("nontemporal", once)


@intrinsic
def stream_vector(typingctx: Any, source: Any, target: Any) -> Any:
    """Copy a vector from ``source``, a pointer to float, to an aligned address, streaming."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        dtype = signature.args[0].dtype
        vector = ir.VectorType(context.get_data_type(dtype), lanes_of(dtype))
        size = dtype.bitwidth // 8
        value = load_vector(builder, args[0], vector, size)
        place = builder.inttoptr(args[1], vector.as_pointer())
        store_streaming(builder, value, place, size)
        return context.get_dummy_value()

    return types.void(source, types.uintp), generate


@intrinsic
def fence_streams(typingctx: Any) -> Any:
    """Order all streaming stores before whatever is written later."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@loop
def write_row(sums, columns, out, streams):  # type: ignore[no-untyped-def]
    """Copy ``columns`` sums from a pointer to float to an address; streaming if not 0."""
    if streams != 0:
        stream_lines(sums, np.intp(0), columns, out, True)
    else:
        copy_bytes(out, pointer_address(sums), columns * pixel_bytes(sums))


@loop
def stream_lines(sums, done, ready, out, ends):  # type: ignore[no-untyped-def]
    """Write the cache lines of a row that became complete since the call before, streaming.

    sums   pointer to float, the row
    done   elements that were ready at the call before, or 0
    ready  elements that are ready now
    out    address of the row's first element
    ends   the row is complete: elements that fill no cache line are written too

    Line by line, between other work, the stores are hidden by it. A whole row at a time makes
    that work wait.
    """
    n, size = lane_count(sums), pixel_bytes(sums)
    line = CACHE_LINE // size
    first = np.intp(out % np.uintp(CACHE_LINE)) // size  # where in its cache line the row begins
    begin, end = done - (done + first) % line, ready - (ready + first) % line
    if begin < 0 and begin < end:
        begin += line
        copy_bytes(out, pointer_address(sums), begin * size)
    while begin < end:
        for i in range(begin, begin + line, n):
            stream_vector(advance(sums, i), out + np.uintp(i * size))
        begin += line
    if ends:
        rest = max(np.intp(0), end)
        there = out + np.uintp(rest * size)
        copy_bytes(there, pointer_address(advance(sums, rest)), (ready - rest) * size)
