"""Steps over marks, bytes that are 1 where a pixel is valid and 0 where it is missing.

What is not said here is as in `tileconv.engine.lanes`.
"""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.jit import loop
from tileconv.engine.lanes import (
    INDEX_TYPE,
    VECTOR_BYTES,
    constant_index,
    load_vector,
    pointer_to,
    splat,
    step_of,
    store_vector,
)
from tileconv.engine.pixels import to_floats

BESIDE = 16
"""Neighbouring fields that are weighed at a time."""
WIDE_MARKS = 64
"""Pixels that are marked, and marks that are gathered, at a time."""
GATHERED = 2
"""Times as many that `gather_wide_rows` gathers."""
BYTE = ir.IntType(8)
BLOCKS = 4 if VECTOR_BYTES == 64 else 2
"""Blocks of such fields that are weighed together: 8 vectors of float64, where there are enough."""
PICKS = bool(llvm.get_host_cpu_features().get("bmi2"))
"""The machine has an instruction for `_pick_bits`."""


@step_of
def sift_pixels(
    typingctx: Any,
    pixels: Any,
    nodata: Any,
    by_value: Any,
    by_nan: Any,
    hidden: Any,
    marks: Any,
    instead: Any,
    copy: Any,
) -> Any:
    """Mark and copy WIDE_MARKS pixels, ``instead`` for missing ones; say whether all are valid.

    Missing is what equals ``nodata`` if ``by_value``, NaN if ``by_nan``, and what is not 0 in
    ``hidden``, a pointer to uint8 or to nowhere. ``pixels``, ``marks`` and ``copy`` are pointers.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pixels, nodata, by_value, by_nan, hidden, marks, instead, copy = args
        dtype, made = signature.args[0].dtype, signature.args[7].dtype
        bytes_ = ir.VectorType(BYTE, WIDE_MARKS)
        vector = ir.VectorType(context.get_data_type(dtype), WIDE_MARKS)
        values = load_vector(builder, pixels, vector, dtype.bitwidth // 8)
        floats = isinstance(dtype, types.Float)
        same = builder.fcmp_ordered if floats else builder.icmp_unsigned
        lost = same("==", values, splat(builder, nodata, vector))
        lost = builder.and_(lost, _splat_flag(builder, by_value, WIDE_MARKS))
        if floats:
            nan = builder.fcmp_unordered("uno", values, values)
            nan = builder.and_(nan, _splat_flag(builder, by_nan, WIDE_MARKS))
            lost = builder.or_(lost, nan)
        seen = cgutils.alloca_once_value(builder, builder.not_(lost))
        with builder.if_then(cgutils.is_not_null(builder, hidden)):
            clear = builder.not_(_is_set(builder, load_vector(builder, hidden, bytes_, 1)))
            builder.store(builder.and_(builder.load(seen), clear), seen)
        there = builder.load(seen)
        store_vector(builder, builder.zext(there, bytes_), marks, 1)
        target = ir.VectorType(context.get_data_type(made), WIDE_MARKS)
        if dtype != made:
            values = to_floats(builder, values, dtype, target)
        values = builder.select(there, values, splat(builder, instead, target))
        store_vector(builder, values, copy, made.bitwidth // 8)
        whole = ir.IntType(WIDE_MARKS)
        return builder.icmp_signed("==", builder.bitcast(there, whole), whole(-1))

    b = types.boolean
    return b(pixels, pixels.dtype, b, b, hidden, marks, copy.dtype, copy), generate


def _gatherer(parts: int) -> Any:
    """Return a function of Numba's that gathers ``parts`` times WIDE_MARKS columns."""

    def typer(
        typingctx: Any,
        marks: Any,
        rows: Any,
        count: Any,
        least: Any,
        greatest: Any,
        words: Any,
        shift: Any,
    ) -> Any:
        i = types.intp
        return types.void(marks, rows, i, least, greatest, words, i), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        marks, rows, count, least, greatest, words, shift = args
        vector = ir.VectorType(BYTE, WIDE_MARKS)
        ones, noughts = (ir.Constant(vector, [mark] * WIDE_MARKS) for mark in (1, 0))
        low = [cgutils.alloca_once_value(builder, ones) for _ in range(parts)]
        high = [cgutils.alloca_once_value(builder, noughts) for _ in range(parts)]
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            row = builder.gep(marks, [builder.load(builder.gep(rows, [loop.index]))])
            for part in range(parts):
                place = builder.gep(row, [constant_index(part * WIDE_MARKS)])
                seen = load_vector(builder, place, vector, 1)
                builder.store(builder.and_(builder.load(low[part]), seen), low[part])
                builder.store(builder.or_(builder.load(high[part]), seen), high[part])
        for part in range(parts):
            for i, (of, first) in enumerate(((low, least), (high, greatest))):
                joined = builder.load(of[part])
                place = builder.gep(first, [constant_index(part * WIDE_MARKS)])
                store_vector(builder, joined, place, 1)
                bits = builder.bitcast(_is_set(builder, joined), INDEX_TYPE)
                word = builder.gep(words, [constant_index(2 * part + i)])
                builder.store(builder.lshr(bits, shift), word)
        return context.get_dummy_value()

    return step_of(typer)


gather_rows, gather_wide_rows = _gatherer(1), _gatherer(GATHERED)
"""Write the least and the greatest of WIDE_MARKS columns, or GATHERED times as many.

All are pointers: ``marks`` to uint8; ``rows`` to intp, where each of ``count`` rows begins;
``least`` and ``greatest`` to uint8, overwritten; ``words`` to two intp for each WIDE_MARKS columns,
overwritten by the same as bits, of which the first ``shift`` are left out.
"""


def _are_same(builder: ir.IRBuilder, marks: ir.Value, values: ir.Value) -> ir.Value:
    """Return whether two vectors of bytes are the same."""
    count = marks.type.count
    same = builder.icmp_unsigned("==", marks, values)
    return builder.icmp_unsigned(
        "==", builder.bitcast(same, ir.IntType(count)), ir.Constant(ir.IntType(count), -1)
    )


def _are(count: int) -> Any:
    """Return a function of Numba's that says whether ``count`` marks at a pointer hold a value."""

    def typer(typingctx: Any, marks: Any, value: Any) -> Any:
        return types.boolean(marks, types.intp), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(BYTE, count)
        seen = load_vector(builder, args[0], vector, 1)
        value = builder.trunc(args[1], BYTE)
        return _are_same(builder, seen, splat(builder, value, vector))

    return step_of(typer)


_some_are, _many_are = _are(BESIDE), _are(WIDE_MARKS)


@loop
def all_are(marks, count, value):  # type: ignore[no-untyped-def]
    """Say whether ``count`` marks at a pointer hold a value; of fewer than BESIDE, BESIDE do."""
    same = True  # no way out before the end: the processor would guess wrong
    for i in range(0, count - WIDE_MARKS, WIDE_MARKS):
        same &= _many_are(pointer_to(marks, i), value)
    for i in range(max(count - WIDE_MARKS, 0) // BESIDE * BESIDE, count - BESIDE, BESIDE):
        same &= _some_are(pointer_to(marks, i), value)
    return same & _some_are(pointer_to(marks, max(count - BESIDE, 0)), value)


@step_of
def weigh_blocks(
    typingctx: Any,
    valid: Any,
    blocks: Any,
    taps: Any,
    sizes: Any,
    tap_count: Any,
    weights: Any,
    picks: Any,
) -> Any:
    """Write the sums of ``sizes`` over the valid pixels of BLOCKS times BESIDE fields, tap by tap.

    All are pointers: ``valid`` to marks; ``blocks`` to intp, where the first mark of each block of
    neighbouring fields lies; ``taps`` to intp, where from there the mark of each tap of the first
    field lies; ``sizes`` and ``weights`` to float64; ``picks`` to what `mark_picks` returns.

    The chains of additions of one block alone would wait for each other.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        valid, blocks, taps, sizes, count, weights, picks = args
        double = ir.DoubleType()
        numbers = ir.VectorType(double, BESIDE)
        none = ir.Constant(numbers, [ir.Constant(double, 0.0)] * BESIDE)
        sums = [cgutils.alloca_once_value(builder, none) for _ in range(BLOCKS)]
        firsts = [
            builder.gep(valid, [builder.load(builder.gep(blocks, [constant_index(i)]))])
            for i in range(BLOCKS)
        ]
        pick = [builder.load(builder.gep(picks, [constant_index(i)])) for i in range(3)]

        def add_taps(load: Any) -> None:
            with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
                tap = builder.load(builder.gep(taps, [loop.index]))
                size = splat(builder, builder.load(builder.gep(sizes, [loop.index])), numbers)
                for first, total in zip(firsts, sums, strict=True):
                    there = load(builder.gep(first, [tap]))
                    # a product with 0 or 1 needs no multiplication, and a sum of sizes is no -0
                    before = builder.load(total)
                    more = builder.select(there, builder.fadd(before, size), before)
                    builder.store(more, total)

        def load_beside(place: Any) -> Any:
            return _is_set(builder, load_vector(builder, place, ir.VectorType(BYTE, BESIDE), 1))

        def load_apart(place: Any) -> Any:
            wide = ir.VectorType(BYTE, WIDE_MARKS)
            bits = []
            for i in range(2):
                here = builder.gep(place, [constant_index(i * WIDE_MARKS)])
                some = _is_set(builder, load_vector(builder, here, wide, 1))
                some = builder.bitcast(some, INDEX_TYPE)
                bits.append(builder.call(_pick_bits(builder), [some, pick[i]]))
            both = builder.or_(bits[0], builder.shl(bits[1], pick[2]))
            flags = builder.trunc(both, ir.IntType(BESIDE))
            return builder.bitcast(flags, ir.VectorType(ir.IntType(1), BESIDE))

        if PICKS:
            near = builder.icmp_unsigned("==", pick[0], constant_index(-1))
            with builder.if_else(near) as (beside, apart):
                with beside:
                    add_taps(load_beside)
                with apart:
                    add_taps(load_apart)
        else:
            add_taps(load_beside)
        for i, total in enumerate(sums):
            place = builder.gep(weights, [constant_index(i * BESIDE)])
            store_vector(builder, builder.load(total), place, 8)
        return context.get_dummy_value()

    kinds = valid, blocks, taps, sizes, types.intp, weights, picks
    return types.void(*kinds), generate


def mark_picks(stride: int) -> list[int] | None:
    """Return what `weigh_blocks` needs to pick the marks of fields a stride apart; None: it cannot.

    Of bits for WIDE_MARKS marks, which to take; the same of the next ones; and how many the former
    are. At stride 1 all are -1.
    """
    if stride == 1:
        return [-1] * 3
    if not PICKS or (BESIDE - 1) * stride >= 2 * WIDE_MARKS:
        return None
    places = np.arange(BESIDE) * stride
    first = places[places < WIDE_MARKS]
    later = places[first.size :] - WIDE_MARKS
    low, high = (sum(1 << int(place) for place in some) for some in (first, later))
    return [int(np.uint64(low).view(np.int64)), int(np.uint64(high).view(np.int64)), first.size]


def _pick_bits(builder: ir.IRBuilder) -> ir.Function:
    """Return what takes bits from a word and puts them side by side."""
    kind = ir.FunctionType(INDEX_TYPE, [INDEX_TYPE, INDEX_TYPE])
    return cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.bmi.pext.64")


def _is_set(builder: ir.IRBuilder, marks: ir.Value) -> ir.Value:
    return builder.icmp_unsigned("!=", marks, ir.Constant(marks.type, [0] * marks.type.count))


@step_of
def settle_block(
    typingctx: Any, sums: Any, weights: Any, total: Any, scale: Any, least: Any, empty: Any
) -> Any:
    """Settle BESIDE sums by the weights of their valid pixels, float64.

    A sum is multiplied by ``total / weight`` if ``scale``, and becomes NaN where the weight is
    less than ``least``, or 0 and ``empty``. A sum whose weight is ``total`` keeps its bits.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        at, weights, total, scale, least, empty = args
        kind = context.get_data_type(signature.args[0].dtype)
        size = signature.args[0].dtype.bitwidth // 8
        narrow, wide = ir.VectorType(kind, BESIDE), ir.VectorType(ir.DoubleType(), BESIDE)
        sums = load_vector(builder, at, narrow, size)
        weight = load_vector(builder, weights, wide, 8)
        whole = splat(builder, total, wide)
        numbers = sums if kind == wide.element else builder.fpext(sums, wide)
        scaled = builder.fmul(numbers, builder.fdiv(whole, weight))
        scaled = scaled if kind == wide.element else builder.fptrunc(scaled, narrow)
        kept = builder.fcmp_ordered("==", weight, whole)
        kept = builder.or_(kept, _splat_flag(builder, builder.not_(scale)))
        done = builder.select(kept, sums, scaled)
        nothing = builder.fcmp_ordered("==", weight, ir.Constant(wide, [0.0] * BESIDE))
        nothing = builder.and_(nothing, _splat_flag(builder, empty))
        lost = builder.fcmp_ordered("<", weight, splat(builder, least, wide))
        lost = builder.or_(lost, nothing)
        nan = ir.Constant(narrow, [float("nan")] * BESIDE)
        store_vector(builder, builder.select(lost, nan, done), at, size)
        return context.get_dummy_value()

    f, b = types.float64, types.boolean
    return types.void(sums, weights, f, b, f, b), generate


def _splat_flag(builder: ir.IRBuilder, flag: ir.Value, count: int = BESIDE) -> ir.Value:
    return splat(builder, flag, ir.VectorType(ir.IntType(1), count))


@step_of
def lose_block(typingctx: Any, sums: Any) -> Any:
    """Write BESIDE times NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), BESIDE)
        nan = ir.Constant(vector, [float("nan")] * BESIDE)
        store_vector(builder, nan, args[0], signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(sums), generate
