"""Validity bitmaps: bits that are 1 where a pixel is valid and 0 where it is missing.

A line of a bitmap begins with a word of 64 bits, and the first bit is the least
significant one. With a stride the bits of a row are stored as its pixels are
packed: a line for each stride phase, so that those of neighbouring fields lie
side by side. What is not said here is as in `vectors`.
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
    intrinsic,
    load_vector,
    splat,
    store_vector,
    vector_fma,
)
from tileconv.engine.workspace import CACHE_LINE

GROUP = 16
"""Neighbouring fields that are weighed at a time."""
WORD_BITS = 64
"""Bits of a word, and pixels that are classified at a time."""
SLACK = 128
"""Bytes behind the bitmap of a tile that reads at its last fields may touch."""
CHUNK_WORDS = 8
"""Words that are combined at a time."""
GROUPS = 4 if VECTOR_BYTES == 64 else 2
"""Groups of such fields that are weighed together: 8 vectors of float64, where there are enough."""
HAS_PEXT = bool(llvm.get_host_cpu_features().get("bmi2"))
"""The machine has an instruction that extracts bits of a word."""

WORD_TYPE = ir.IntType(WORD_BITS)
BYTE = ir.IntType(8)
DOUBLES = ir.VectorType(ir.DoubleType(), GROUP)
WORDS = ir.VectorType(WORD_TYPE, CHUNK_WORDS)
CHUNK_GROUPS = CHUNK_WORDS * WORD_BITS // GROUP


def bitmap_row_bytes(width: int) -> int:
    """Return the bytes that a line of a bitmap takes: whole cache lines, a word to spare.

    An odd number of them: lines a power of two apart would crowd into few places of a cache.
    """
    lines = (width + WORD_BITS) // (8 * CACHE_LINE) + 1
    return (lines | 1) * CACHE_LINE


def unpack_bitmap(bitmap: np.ndarray, width: int) -> np.ndarray:
    """Return a bitmap (..., bytes) uint8 as numbers (..., width), 1 where a pixel is valid."""
    return np.unpackbits(bitmap, axis=-1, count=width, bitorder="little")


def set_columns(bitmap: np.ndarray, columns: np.ndarray, valid: bool) -> None:
    """Set or clear the bits of some columns of pixels in a bitmap (H, bytes) uint8."""
    chosen = np.zeros(8 * bitmap.shape[-1], np.uint8)
    chosen[columns] = 1
    bits = np.packbits(chosen, bitorder="little")
    if valid:
        bitmap |= bits
    else:
        bitmap &= ~bits


@intrinsic
def replace_missing_pixels(
    typingctx: Any,
    pixels: Any,
    nodata: Any,
    by_value: Any,
    by_nan: Any,
    hidden: Any,
    bitmap: Any,
    shift: Any,
    substitute: Any,
    copy: Any,
) -> Any:
    """Classify and copy WORD_BITS pixels, missing ones replaced; say whether all are valid.

    Missing are pixels that equal ``nodata`` if ``by_value``, NaN if ``by_nan``, and those that are
    not 0 in ``hidden``, a pointer to uint8 or to nowhere. ``pixels``, ``bitmap`` and ``copy`` are
    pointers; of the word of validity bits the first ``shift`` are left out.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pixels, nodata, by_value, by_nan, hidden, bitmap, shift, substitute, copy = args
        dtype, made = signature.args[0].dtype, signature.args[8].dtype
        bytes_ = ir.VectorType(BYTE, WORD_BITS)
        vector = ir.VectorType(context.get_data_type(dtype), WORD_BITS)
        values = load_vector(builder, pixels, vector, dtype.bitwidth // 8)
        floats = isinstance(dtype, types.Float)
        same = builder.fcmp_ordered if floats else builder.icmp_unsigned
        missing = same("==", values, splat(builder, nodata, vector))
        missing = builder.and_(missing, _splat_flag(builder, by_value, WORD_BITS))
        if floats:
            nan = builder.fcmp_unordered("uno", values, values)
            nan = builder.and_(nan, _splat_flag(builder, by_nan, WORD_BITS))
            missing = builder.or_(missing, nan)
        seen = cgutils.alloca_once_value(builder, builder.not_(missing))
        with builder.if_then(cgutils.is_not_null(builder, hidden)):
            cover = load_vector(builder, hidden, bytes_, 1)
            clear = builder.icmp_unsigned("==", cover, ir.Constant(bytes_, [0] * WORD_BITS))
            builder.store(builder.and_(builder.load(seen), clear), seen)
        there = builder.load(seen)
        bits = builder.bitcast(there, WORD_TYPE)
        builder.store(builder.lshr(bits, shift), bitmap)
        target = ir.VectorType(context.get_data_type(made), WORD_BITS)
        if dtype != made:
            values = to_floats(builder, values, dtype, target)
        values = builder.select(there, values, splat(builder, substitute, target))
        store_vector(builder, values, copy, made.bitwidth // 8)
        return builder.icmp_signed("==", bits, WORD_TYPE(-1))

    b, i = types.boolean, types.intp
    return b(pixels, pixels.dtype, b, b, hidden, bitmap, i, copy.dtype, copy), generate


@intrinsic
def combine_rows(
    typingctx: Any, bitmap: Any, rows: Any, count: Any, least: Any, greatest: Any
) -> Any:
    """Write which pixels are valid in all rows, and in some, of CHUNK_WORDS words.

    All are pointers: ``bitmap`` to uint64; ``rows`` to intp, where in it each of ``count`` rows
    begins; ``least`` and ``greatest`` to uint64, overwritten.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        bitmap, rows, count, least, greatest = args
        every, some = (
            cgutils.alloca_once_value(builder, ir.Constant(WORDS, [word] * CHUNK_WORDS))
            for word in (-1, 0)
        )
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            row = builder.gep(bitmap, [builder.load(builder.gep(rows, [loop.index]))])
            seen = load_vector(builder, row, WORDS, 8)
            builder.store(builder.and_(builder.load(every), seen), every)
            builder.store(builder.or_(builder.load(some), seen), some)
        store_vector(builder, builder.load(every), least, 8)
        store_vector(builder, builder.load(some), greatest, 8)
        return context.get_dummy_value()

    return types.void(bitmap, rows, types.intp, least, greatest), generate


def _load_words(builder: ir.IRBuilder, words: ir.Value, far: Any) -> ir.Value:
    return load_vector(builder, builder.gep(words, [far]), WORDS, 8)


def _load_later(builder: ir.IRBuilder, words: ir.Value, far: ir.Value, near: ir.Value) -> ir.Value:
    """Return CHUNK_WORDS words of the bits that lie ``far`` words and ``near`` bits further on."""
    here = _load_words(builder, words, far)
    after = _load_words(builder, words, builder.add(far, constant_index(1)))
    kind = ir.FunctionType(WORDS, [WORDS] * 3)
    shift = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fshr.v{CHUNK_WORDS}i64")
    return builder.call(shift, [after, here, splat(builder, near, WORDS)])


@intrinsic
def combine_shifted(typingctx: Any, low: Any, high: Any, far: Any, near: Any) -> Any:
    """Combine CHUNK_WORDS words, in place, with the bits ``far`` words and ``near`` bits on.

    ``low`` and ``high`` are pointers to uint64: whether all bits are set, and whether any is.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        far, near = args[2:]
        for words, join in zip(args[:2], (builder.and_, builder.or_), strict=True):
            here = _load_words(builder, words, constant_index(0))
            joined = join(here, _load_later(builder, words, far, near))
            store_vector(builder, joined, words, 8)
        return context.get_dummy_value()

    return types.void(low, high, types.intp, types.intp), generate


@intrinsic
def combine_phase(
    typingctx: Any, low: Any, high: Any, near: Any, every: Any, some: Any, afresh: Any
) -> Any:
    """Combine CHUNK_WORDS words of ``low`` and ``high``, from bit ``near`` on, with two results.

    All are pointers to uint64. The results ``every`` and ``some`` are overwritten if ``afresh``.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        low, high, near, every, some, afresh = args
        none = constant_index(0)
        kinds = (low, every, builder.and_, -1), (high, some, builder.or_, 0)
        for source, target, join, word in kinds:
            fresh = ir.Constant(WORDS, [word] * CHUNK_WORDS)
            before = _load_words(builder, target, none)
            flags = splat(builder, afresh, ir.VectorType(ir.IntType(1), CHUNK_WORDS))
            before = builder.select(flags, fresh, before)
            joined = join(before, _load_later(builder, source, none, near))
            store_vector(builder, joined, target, 8)
        return context.get_dummy_value()

    return types.void(low, high, types.intp, every, some, types.boolean), generate


@intrinsic
def groups_equal_to(typingctx: Any, words: Any, mark: Any) -> Any:
    """Return which groups of GROUP bits in CHUNK_WORDS words all have one value, a bit each.

    ``words`` is a pointer to uint64, ``mark`` 0 or -1.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        groups = ir.VectorType(ir.IntType(GROUP), CHUNK_GROUPS)
        bitmap = load_vector(builder, args[0], groups, 8)
        value = splat(builder, builder.trunc(args[1], ir.IntType(GROUP)), groups)
        same = builder.icmp_signed("==", bitmap, value)
        return builder.zext(builder.bitcast(same, ir.IntType(CHUNK_GROUPS)), WORD_TYPE)

    return types.uint64(words, types.intp), generate


@intrinsic
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """Return the place of the least bit of a word, uint64, that is set; one is."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), generate


def _load_bits(builder: ir.IRBuilder, bitmap: ir.Value, bit: ir.Value) -> ir.Value:
    """Return the word of a bitmap from a bit on, of which all but the last seven are right.

    All machines that Numba supports have the least significant byte first.
    """
    first = builder.bitcast(bitmap, BYTE.as_pointer())
    place = builder.gep(first, [builder.ashr(bit, constant_index(3))])
    word = builder.load(builder.bitcast(place, WORD_TYPE.as_pointer()))
    word.align = 1
    return builder.lshr(word, builder.and_(bit, constant_index(7)))


@intrinsic
def weigh_groups(
    typingctx: Any,
    bitmap: Any,
    groups: Any,
    taps: Any,
    sizes: Any,
    tap_count: Any,
    weights: Any,
    places: Any,
) -> Any:
    """Write the sums of ``sizes`` over the valid pixels of GROUPS times GROUP fields, tap by tap.

    All are pointers: ``bitmap`` to uint64; ``groups`` to intp, at which bit the first field of each
    group of neighbouring ones begins; ``taps`` to intp, how many bits from there the validity bit
    of each tap lies; ``sizes`` and ``weights`` to float64; ``places`` to intp, where among the
    weights those of each group go.

    With one group alone, each addition would wait for the one before.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        bitmap, groups, taps, sizes, count, weights, places = args
        none = ir.Constant(DOUBLES, [ir.Constant(ir.DoubleType(), 0.0)] * GROUP)
        sums = [cgutils.alloca_once_value(builder, none) for _ in range(GROUPS)]
        firsts = [builder.load(builder.gep(groups, [constant_index(i)])) for i in range(GROUPS)]
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            tap = builder.load(builder.gep(taps, [loop.index]))
            size = splat(builder, builder.load(builder.gep(sizes, [loop.index])), DOUBLES)
            for first, total in zip(firsts, sums, strict=True):
                bits = _load_bits(builder, bitmap, builder.add(first, tap))
                flags = builder.trunc(bits, ir.IntType(GROUP))
                there = builder.bitcast(flags, ir.VectorType(ir.IntType(1), GROUP))
                # a product with 0 or 1 needs no multiplication, and a sum of sizes is no -0
                before = builder.load(total)
                more = builder.select(there, builder.fadd(before, size), before)
                builder.store(more, total)
        for i, total in enumerate(sums):
            place = builder.load(builder.gep(places, [constant_index(i)]))
            store_vector(builder, builder.load(total), builder.gep(weights, [place]), 8)
        return context.get_dummy_value()

    return types.void(bitmap, groups, taps, sizes, types.intp, weights, places), generate


@intrinsic
def _pext(typingctx: Any, word: Any, mask: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(WORD_TYPE, [WORD_TYPE, WORD_TYPE])
        pick = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.bmi.pext.64")
        return builder.call(pick, args)

    return types.uint64(types.uint64, types.uint64), generate


@loop
def extract_bits(word, mask):  # type: ignore[no-untyped-def]
    """Return the bits of a word at the ones of ``mask``, side by side; both are uint64."""
    if HAS_PEXT:
        return _pext(word, mask)
    picked, bit = np.uint64(0), np.uint64(1)
    while mask:
        least = mask & (~mask + np.uint64(1))
        if word & least:
            picked |= bit
        bit <<= np.uint64(1)
        mask ^= least
    return picked


@intrinsic
def weigh_down(
    typingctx: Any, lines: Any, places: Any, sizes: Any, count: Any, weights: Any
) -> Any:
    """Write the sums of ``count`` products of ``sizes`` and lines of GROUP elements.

    All are pointers: ``lines``, ``sizes`` and ``weights`` to float64; ``places`` to intp, where
    each line begins.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        lines, places, sizes, count, weights = args
        fma = vector_fma(builder, DOUBLES)
        none = ir.Constant(DOUBLES, [ir.Constant(ir.DoubleType(), 0.0)] * GROUP)
        total = cgutils.alloca_once_value(builder, none)
        with cgutils.for_range(builder, count, intp=INDEX_TYPE) as loop:
            place = builder.load(builder.gep(places, [loop.index]))
            line = load_vector(builder, builder.gep(lines, [place]), DOUBLES, 8)
            size = splat(builder, builder.load(builder.gep(sizes, [loop.index])), DOUBLES)
            builder.store(builder.call(fma, [size, line, builder.load(total)]), total)
        store_vector(builder, builder.load(total), weights, 8)
        return context.get_dummy_value()

    return types.void(lines, places, sizes, types.intp, weights), generate


@intrinsic
def normalize_group(
    typingctx: Any, sums: Any, weights: Any, total: Any, scale: Any, least: Any, empty: Any
) -> Any:
    """Normalize GROUP sums by the weights of their valid pixels, float64.

    A sum is multiplied by ``total / weight`` if ``scale``, and becomes NaN where the weight is
    less than ``least``, or 0 and ``empty``. A sum whose weight is ``total`` keeps its bits.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        at, weights, total, scale, least, empty = args
        kind = context.get_data_type(signature.args[0].dtype)
        size = signature.args[0].dtype.bitwidth // 8
        narrow, wide = ir.VectorType(kind, GROUP), ir.VectorType(ir.DoubleType(), GROUP)
        sums = load_vector(builder, at, narrow, size)
        weight = load_vector(builder, weights, wide, 8)
        whole = splat(builder, total, wide)
        numbers = sums if kind == wide.element else builder.fpext(sums, wide)
        scaled = builder.fmul(numbers, builder.fdiv(whole, weight))
        scaled = scaled if kind == wide.element else builder.fptrunc(scaled, narrow)
        kept = builder.fcmp_ordered("==", weight, whole)
        kept = builder.or_(kept, _splat_flag(builder, builder.not_(scale)))
        done = builder.select(kept, sums, scaled)
        nothing = builder.fcmp_ordered("==", weight, ir.Constant(wide, [0.0] * GROUP))
        nothing = builder.and_(nothing, _splat_flag(builder, empty))
        missing = builder.fcmp_ordered("<", weight, splat(builder, least, wide))
        missing = builder.or_(missing, nothing)
        nan = ir.Constant(narrow, [float("nan")] * GROUP)
        store_vector(builder, builder.select(missing, nan, done), at, size)
        return context.get_dummy_value()

    f, b = types.float64, types.boolean
    return types.void(sums, weights, f, b, f, b), generate


def _splat_flag(builder: ir.IRBuilder, flag: ir.Value, count: int = GROUP) -> ir.Value:
    return splat(builder, flag, ir.VectorType(ir.IntType(1), count))


@intrinsic
def store_nan_group(typingctx: Any, sums: Any) -> Any:
    """Write GROUP times NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), GROUP)
        nan = ir.Constant(vector, [float("nan")] * GROUP)
        store_vector(builder, nan, args[0], signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(sums), generate
