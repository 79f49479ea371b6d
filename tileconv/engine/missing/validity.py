"""Steps over marks, bits that are 1 where a pixel is valid and 0 where it is missing.

A line of marks begins with a word of 64 bits, and the first mark is its least bit. With a stride
the marks of a row are kept as its pixels are dealt out: a line for each stride phase, so that those
of neighbouring fields lie side by side. What is not said here is as in `vectors`.
"""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.jit import loop
from tileconv.engine.pack.deinterleave import to_floats
from tileconv.engine.vectors import (
    INDEX_TYPE,
    VECTOR_BYTES,
    constant_index,
    load_vector,
    splat,
    step_of,
    store_vector,
    vector_fma,
)
from tileconv.engine.workspace import CACHE_LINE

BESIDE = 16
"""Neighbouring fields that are weighed at a time."""
WORD = 64
"""Marks in a word, and pixels that are marked at a time."""
SLACK = 128
"""Bytes behind the marks of a tile that looks at its last fields may read."""
GATHERED = 8
"""Words that are gathered at a time."""
BLOCKS = 4 if VECTOR_BYTES == 64 else 2
"""Blocks of such fields that are weighed together: 8 vectors of float64, where there are enough."""
PICKS = bool(llvm.get_host_cpu_features().get("bmi2"))
"""The machine has an instruction that puts some bits of a word side by side."""

WORD_TYPE = ir.IntType(WORD)
BYTE = ir.IntType(8)
DOUBLES = ir.VectorType(ir.DoubleType(), BESIDE)
WORDS = ir.VectorType(WORD_TYPE, GATHERED)
BLOCKS_GATHERED = GATHERED * WORD // BESIDE


def line_bytes(width: int) -> int:
    """Return the bytes that a line of marks takes: whole cache lines, a word to spare.

    An odd number of them, for lines that lie a power of two apart crowd into few places of a cache.
    """
    lines = (width + WORD) // (8 * CACHE_LINE) + 1
    return (lines | 1) * CACHE_LINE


def marked(marks: np.ndarray, width: int) -> np.ndarray:
    """Return marks (..., bytes) uint8 as numbers (..., width), 1 where a pixel is valid."""
    return np.unpackbits(marks, axis=-1, count=width, bitorder="little")


def mark_columns(marks: np.ndarray, columns: np.ndarray, valid: bool) -> None:
    """Mark some columns of pixels, a list of numbers, in marks (H, bytes) uint8."""
    chosen = np.zeros(8 * marks.shape[-1], np.uint8)
    chosen[columns] = 1
    bits = np.packbits(chosen, bitorder="little")
    if valid:
        marks |= bits
    else:
        marks &= ~bits


@step_of
def sift_pixels(
    typingctx: Any,
    pixels: Any,
    nodata: Any,
    by_value: Any,
    by_nan: Any,
    hidden: Any,
    marks: Any,
    shift: Any,
    instead: Any,
    copy: Any,
) -> Any:
    """Mark and copy WORD pixels, ``instead`` for missing ones; say whether all are valid.

    Missing is what equals ``nodata`` if ``by_value``, NaN if ``by_nan``, and what is not 0 in
    ``hidden``, a pointer to uint8 or to nowhere. ``pixels``, ``marks`` and ``copy`` are pointers;
    of the word of marks the first ``shift`` are left out.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pixels, nodata, by_value, by_nan, hidden, marks, shift, instead, copy = args
        dtype, made = signature.args[0].dtype, signature.args[8].dtype
        bytes_ = ir.VectorType(BYTE, WORD)
        vector = ir.VectorType(context.get_data_type(dtype), WORD)
        values = load_vector(builder, pixels, vector, dtype.bitwidth // 8)
        floats = isinstance(dtype, types.Float)
        same = builder.fcmp_ordered if floats else builder.icmp_unsigned
        lost = same("==", values, splat(builder, nodata, vector))
        lost = builder.and_(lost, _splat_flag(builder, by_value, WORD))
        if floats:
            nan = builder.fcmp_unordered("uno", values, values)
            nan = builder.and_(nan, _splat_flag(builder, by_nan, WORD))
            lost = builder.or_(lost, nan)
        seen = cgutils.alloca_once_value(builder, builder.not_(lost))
        with builder.if_then(cgutils.is_not_null(builder, hidden)):
            cover = load_vector(builder, hidden, bytes_, 1)
            clear = builder.icmp_unsigned("==", cover, ir.Constant(bytes_, [0] * WORD))
            builder.store(builder.and_(builder.load(seen), clear), seen)
        there = builder.load(seen)
        bits = builder.bitcast(there, WORD_TYPE)
        builder.store(builder.lshr(bits, shift), marks)
        target = ir.VectorType(context.get_data_type(made), WORD)
        if dtype != made:
            values = to_floats(builder, values, dtype, target)
        values = builder.select(there, values, splat(builder, instead, target))
        store_vector(builder, values, copy, made.bitwidth // 8)
        return builder.icmp_signed("==", bits, WORD_TYPE(-1))

    b, i = types.boolean, types.intp
    return b(pixels, pixels.dtype, b, b, hidden, marks, i, copy.dtype, copy), generate


@step_of
def gather_words(
    typingctx: Any, marks: Any, rows: Any, count: Any, least: Any, greatest: Any
) -> Any:
    """Write what is valid in all rows, and in some, of GATHERED words.

    All are pointers: ``marks`` to uint64; ``rows`` to intp, where among them each of ``count``
    begins; ``least`` and ``greatest`` to uint64, overwritten.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        marks, rows, count, least, greatest = args
        every, some = (
            cgutils.alloca_once_value(builder, ir.Constant(WORDS, [word] * GATHERED))
            for word in (-1, 0)
        )
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            row = builder.gep(marks, [builder.load(builder.gep(rows, [loop.index]))])
            seen = load_vector(builder, row, WORDS, 8)
            builder.store(builder.and_(builder.load(every), seen), every)
            builder.store(builder.or_(builder.load(some), seen), some)
        store_vector(builder, builder.load(every), least, 8)
        store_vector(builder, builder.load(some), greatest, 8)
        return context.get_dummy_value()

    return types.void(marks, rows, types.intp, least, greatest), generate


def _load_words(builder: ir.IRBuilder, words: ir.Value, far: Any) -> ir.Value:
    return load_vector(builder, builder.gep(words, [far]), WORDS, 8)


def _load_later(builder: ir.IRBuilder, words: ir.Value, far: ir.Value, near: ir.Value) -> ir.Value:
    """Return GATHERED words of the bits that lie ``far`` words and ``near`` bits further on."""
    here = _load_words(builder, words, far)
    after = _load_words(builder, words, builder.add(far, constant_index(1)))
    kind = ir.FunctionType(WORDS, [WORDS] * 3)
    shift = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fshr.v{GATHERED}i64")
    return builder.call(shift, [after, here, splat(builder, near, WORDS)])


@step_of
def join_words(typingctx: Any, low: Any, high: Any, far: Any, near: Any) -> Any:
    """Join GATHERED words, in place, with the bits ``far`` words and ``near`` bits further on.

    ``low`` and ``high`` are pointers to uint64: they tell whether all are set, and whether any is.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        far, near = args[2:]
        for words, join in zip(args[:2], (builder.and_, builder.or_), strict=True):
            here = _load_words(builder, words, constant_index(0))
            joined = join(here, _load_later(builder, words, far, near))
            store_vector(builder, joined, words, 8)
        return context.get_dummy_value()

    return types.void(low, high, types.intp, types.intp), generate


@step_of
def add_words(
    typingctx: Any, low: Any, high: Any, near: Any, every: Any, some: Any, afresh: Any
) -> Any:
    """Join GATHERED words of ``low`` and ``high``, from bit ``near`` on, to ``every`` and ``some``.

    All are pointers to uint64, of which the latter are overwritten if ``afresh``.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        low, high, near, every, some, afresh = args
        none = constant_index(0)
        kinds = (low, every, builder.and_, -1), (high, some, builder.or_, 0)
        for source, target, join, word in kinds:
            fresh = ir.Constant(WORDS, [word] * GATHERED)
            before = _load_words(builder, target, none)
            flags = splat(builder, afresh, ir.VectorType(ir.IntType(1), GATHERED))
            before = builder.select(flags, fresh, before)
            joined = join(before, _load_later(builder, source, none, near))
            store_vector(builder, joined, target, 8)
        return context.get_dummy_value()

    return types.void(low, high, types.intp, every, some, types.boolean), generate


@step_of
def blocks_that_are(typingctx: Any, words: Any, mark: Any) -> Any:
    """Return which blocks of BESIDE marks in GATHERED words all hold a mark, a bit each.

    ``words`` is a pointer to uint64, ``mark`` 0 or -1.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        blocks = ir.VectorType(ir.IntType(BESIDE), BLOCKS_GATHERED)
        marks = load_vector(builder, args[0], blocks, 8)
        value = splat(builder, builder.trunc(args[1], ir.IntType(BESIDE)), blocks)
        same = builder.icmp_signed("==", marks, value)
        return builder.zext(builder.bitcast(same, ir.IntType(BLOCKS_GATHERED)), WORD_TYPE)

    return types.uint64(words, types.intp), generate


@step_of
def first_bit(typingctx: Any, word: Any) -> Any:
    """Return the place of the least bit of a word, uint64, that is set; one is."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), generate


def _load_bits(builder: ir.IRBuilder, marks: ir.Value, bit: ir.Value) -> ir.Value:
    """Return the word of marks from a bit on, of which all but the last seven are right.

    All machines that Numba is for have the least byte first.
    """
    first = builder.bitcast(marks, BYTE.as_pointer())
    place = builder.gep(first, [builder.ashr(bit, constant_index(3))])
    word = builder.load(builder.bitcast(place, WORD_TYPE.as_pointer()))
    word.align = 1
    return builder.lshr(word, builder.and_(bit, constant_index(7)))


@step_of
def weigh_blocks(
    typingctx: Any,
    marks: Any,
    blocks: Any,
    taps: Any,
    sizes: Any,
    tap_count: Any,
    weights: Any,
    places: Any,
) -> Any:
    """Write the sums of ``sizes`` over the valid pixels of BLOCKS times BESIDE fields, tap by tap.

    All are pointers: ``marks`` to uint64; ``blocks`` to intp, at which bit the first field of each
    block of neighbouring ones begins; ``taps`` to intp, how many bits from there the mark of each
    tap lies; ``sizes`` and ``weights`` to float64; ``places`` to intp, where among the weights
    those of each block go.

    The chains of additions of one block alone would wait for each other.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        marks, blocks, taps, sizes, count, weights, places = args
        none = ir.Constant(DOUBLES, [ir.Constant(ir.DoubleType(), 0.0)] * BESIDE)
        sums = [cgutils.alloca_once_value(builder, none) for _ in range(BLOCKS)]
        firsts = [builder.load(builder.gep(blocks, [constant_index(i)])) for i in range(BLOCKS)]
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            tap = builder.load(builder.gep(taps, [loop.index]))
            size = splat(builder, builder.load(builder.gep(sizes, [loop.index])), DOUBLES)
            for first, total in zip(firsts, sums, strict=True):
                bits = _load_bits(builder, marks, builder.add(first, tap))
                flags = builder.trunc(bits, ir.IntType(BESIDE))
                there = builder.bitcast(flags, ir.VectorType(ir.IntType(1), BESIDE))
                # a product with 0 or 1 needs no multiplication, and a sum of sizes is no -0
                before = builder.load(total)
                more = builder.select(there, builder.fadd(before, size), before)
                builder.store(more, total)
        for i, total in enumerate(sums):
            place = builder.load(builder.gep(places, [constant_index(i)]))
            store_vector(builder, builder.load(total), builder.gep(weights, [place]), 8)
        return context.get_dummy_value()

    return types.void(marks, blocks, taps, sizes, types.intp, weights, places), generate


@step_of
def _picked(typingctx: Any, word: Any, mask: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(WORD_TYPE, [WORD_TYPE, WORD_TYPE])
        pick = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.bmi.pext.64")
        return builder.call(pick, args)

    return types.uint64(types.uint64, types.uint64), generate


@loop
def pick_bits(word, mask):  # type: ignore[no-untyped-def]
    """Return the bits of a word that ``mask`` says, side by side; both are uint64."""
    if PICKS:
        return _picked(word, mask)
    picked, bit = np.uint64(0), np.uint64(1)
    while mask:
        least = mask & (~mask + np.uint64(1))
        if word & least:
            picked |= bit
        bit <<= np.uint64(1)
        mask ^= least
    return picked


@step_of
def join_rows(typingctx: Any, lines: Any, places: Any, sizes: Any, count: Any, weights: Any) -> Any:
    """Write the sums of ``count`` products of ``sizes`` and lines of BESIDE numbers.

    All are pointers: ``lines``, ``sizes`` and ``weights`` to float64; ``places`` to intp, where
    among the lines each one lies.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        lines, places, sizes, count, weights = args
        fma = vector_fma(builder, DOUBLES)
        none = ir.Constant(DOUBLES, [ir.Constant(ir.DoubleType(), 0.0)] * BESIDE)
        total = cgutils.alloca_once_value(builder, none)
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            place = builder.load(builder.gep(places, [loop.index]))
            line = load_vector(builder, builder.gep(lines, [place]), DOUBLES, 8)
            size = splat(builder, builder.load(builder.gep(sizes, [loop.index])), DOUBLES)
            builder.store(builder.call(fma, [size, line, builder.load(total)]), total)
        store_vector(builder, builder.load(total), weights, 8)
        return context.get_dummy_value()

    return types.void(lines, places, sizes, types.intp, weights), generate


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
