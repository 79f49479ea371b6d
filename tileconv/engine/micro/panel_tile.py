"""The inner loop of a bank: kernels times places, as in a matrix product.

A panel holds the pixels of WIDE vectors of neighbouring outputs, tap by tap,
side by side in memory, so that all kernels of a bank read them from the
first-level cache in whole vectors. Weights lie as they are read too, those of
ROWS kernels for each tap. Every sum still adds its own taps in their one order.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils

from tileconv.engine.jit import address_of, loop
from tileconv.engine.pack.deinterleave import pixel_bytes
from tileconv.engine.vectors import (
    INDEX_TYPE,
    ROWS,
    WIDE,
    address_at,
    constant_index,
    copy_bytes,
    lanes,
    lanes_of,
    load_vector,
    pointer_like,
    pointer_to,
    splat,
    step_of,
    store_vector,
    vector_fma,
)
from tileconv.engine.workspace import CACHE_LINE

UNROLLED = 4
"""Taps in a step of the loop: its own instructions are then few."""


def _generate_panel(*, sparse: bool) -> Callable[..., Any]:
    """Return the code generator of ROWS times WIDE vectors of sums of one panel."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        panel, places, weights, count, sums_at, apart, more = args
        number = signature.args[0].dtype
        kind, size = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, lanes_of(number))
        fma = vector_fma(builder, vector)
        sums = [[cgutils.alloca_once(builder, vector) for _ in range(WIDE)] for _ in range(ROWS)]
        zero = ir.Constant(kind, 0.0)
        for register in (register for row in sums for register in row):
            builder.store(ir.Constant(vector, [zero] * vector.count), register)

        def kept() -> Any:
            row_at = builder.inttoptr(sums_at, kind.as_pointer())
            for row in sums:
                for i, register in enumerate(row):
                    yield register, builder.gep(row_at, [constant_index(i * vector.count)])
                row_at = builder.gep(row_at, [apart])

        with builder.if_then(more):
            for register, place in kept():
                builder.store(load_vector(builder, place, vector, size), register)
        places_at = cgutils.alloca_once_value(builder, places)
        weights_at = cgutils.alloca_once_value(builder, weights)

        def add_taps(taps: int) -> None:
            place_at, weight_at = builder.load(places_at), builder.load(weights_at)
            for tap in range(taps):
                own = builder.load(builder.gep(place_at, [constant_index(tap)]))
                line = builder.gep(panel, [own])
                pixels = []
                for i in range(WIDE):
                    at = constant_index(i * vector.count)
                    pixels.append(load_vector(builder, builder.gep(line, [at]), vector, size))
                for j, row in enumerate(sums):
                    at = constant_index(tap * ROWS + j)
                    scalar = builder.load(builder.gep(weight_at, [at]))

                    def add(row: Any = row, scalar: Any = scalar, pixels: Any = pixels) -> None:
                        factor = splat(builder, scalar, vector)
                        for register, pixel in zip(row, pixels, strict=True):
                            done = builder.load(register)
                            builder.store(builder.call(fma, [factor, pixel, done]), register)

                    if sparse:
                        with builder.if_then(builder.fcmp_unordered("!=", scalar, zero)):
                            add()
                    else:
                        add()
            builder.store(builder.gep(place_at, [constant_index(taps)]), places_at)
            builder.store(builder.gep(weight_at, [constant_index(taps * ROWS)]), weights_at)

        unrolled = 1 if sparse else UNROLLED
        steps = builder.udiv(count, constant_index(unrolled))
        with cgutils.for_range(builder, steps, intp=INDEX_TYPE):
            add_taps(unrolled)
        if unrolled > 1:
            left = builder.urem(count, constant_index(unrolled))
            with cgutils.for_range(builder, left, intp=INDEX_TYPE):
                add_taps(1)
        for register, place in kept():
            store_vector(builder, builder.load(register), place, size)
        return context.get_dummy_value()

    return generate


def _panel_step(generate: Callable[..., Any]) -> Any:
    """Return a function of Numba's with the arguments of `sum_panel`."""

    def typer(
        typingctx: Any,
        panel: Any,
        places: Any,
        weights: Any,
        count: Any,
        sums: Any,
        apart: Any,
        more: Any,
    ) -> Any:
        kinds = panel, places, weights, types.intp, types.uintp, types.intp, types.boolean
        return types.void(*kinds), generate

    return step_of(typer)


sum_panel = _panel_step(_generate_panel(sparse=False))
"""Sum up ROWS kernels times WIDE vectors of outputs. Arguments:

panel          pointer to float, the pixels
places, count  pointer to intp: where in the panel the pixels of each tap lie, WIDE vectors
weights        pointer to float, ROWS of them for each tap
sums, apart    address of the first sum; those of the next kernel lie ``apart`` numbers further on
more           the sums go on from what lies there, instead of from 0

Every sum adds its taps in the order of ``places``, each by one fused multiply-add.
"""
sum_sparse_panel = _panel_step(_generate_panel(sparse=True))
"""`sum_panel` that passes over weights of 0: they are no taps."""


def store_past_caches(
    builder: ir.IRBuilder, value: ir.Value, place: ir.Value, number_bytes: int
) -> None:
    """Store a vector at a pointer that is aligned to all of it, past the caches."""
    stored = builder.store(value, builder.bitcast(place, value.type.as_pointer()))
    stored.align = value.type.count * number_bytes
    once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    stored.set_metadata("nontemporal", once)


@step_of
def stream(typingctx: Any, source: Any, target: Any) -> Any:
    """Write a vector from ``source``, a pointer to float, past the caches to an aligned address."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        number = signature.args[0].dtype
        vector = ir.VectorType(context.get_data_type(number), lanes_of(number))
        size = number.bitwidth // 8
        value = load_vector(builder, args[0], vector, size)
        place = builder.inttoptr(args[1], vector.as_pointer())
        store_past_caches(builder, value, place, size)
        return context.get_dummy_value()

    return types.void(source, types.uintp), generate


@step_of
def settle_streams(typingctx: Any) -> Any:
    """Have all that was written past the caches be seen before anything that is written later."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@loop
def write_row(sums, columns, out, streamed):  # type: ignore[no-untyped-def]
    """Copy a row of ``columns`` sums, a pointer to float, to an address; past the caches or not."""
    if streamed != 0:
        write_past(sums, np.intp(0), columns, out, True)
    else:
        copy_bytes(out, address_at(sums), columns * pixel_bytes(sums))


@cache
def rows_writer(number: np.dtype) -> np.uintp:
    """Return the address of `_write_rows` for sums of a dtype."""
    floats, i, u = types.CPointer(from_dtype(number)), types.intp, types.uintp
    return address_of(_write_rows, types.void(floats, i, i, i, u, i))


@loop
def _write_rows(sums, pitch, columns, count, out, out_pitch):  # type: ignore[no-untyped-def]
    """Write ``count`` rows of sums past the caches; pitches are bytes from row to row."""
    for j in range(count):
        row = pointer_like(sums, address_at(sums) + np.uintp(j * pitch))
        write_past(row, np.intp(0), columns, out + np.uintp(j * out_pitch), True)


@loop
def write_past(sums, done, ready, out, ends):  # type: ignore[no-untyped-def]
    """Write the whole cache lines of a row that are complete, past the caches.

    sums   pointer to float, the row
    done   numbers that were ready before, for the call before, or 0
    ready  numbers that are now
    out    address of the row's first number
    ends   these are all: those that fill no line are written too

    Between other work, line by line, this is hidden by it; a whole row at a time makes it wait.
    """
    n, size = lanes(sums), pixel_bytes(sums)
    line = CACHE_LINE // size
    first = np.intp(out % np.uintp(CACHE_LINE)) // size  # where in its cache line the row begins
    begin, end = done - (done + first) % line, ready - (ready + first) % line
    if begin < 0 and begin < end:
        begin += line
        copy_bytes(out, address_at(sums), begin * size)
    while begin < end:
        for i in range(begin, begin + line, n):
            stream(pointer_to(sums, i), out + np.uintp(i * size))
        begin += line
    if ends:
        rest = max(np.intp(0), end)
        there = out + np.uintp(rest * size)
        copy_bytes(there, address_at(pointer_to(sums, rest)), (ready - rest) * size)
