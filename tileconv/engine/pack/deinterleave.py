"""Convert pixels to floats and deinterleave them in vector registers.

`deinterleave_fields`, `transpose_quads` and `convert_and_detect` can detect
pixels that are sought on their way: those that equal a value, and NaN. They
return whether a pixel that they read is one, or equals the value but for its
sign. ``sought`` is a pointer to pixels, see `sought_value`, or a plain number:
then nothing is sought, and no code is generated for it.

Pixels are moved in words of the size of a float: two of uint16 in each, four of
uint8. A word is taken apart by shifts only when it belongs to one field and its
neighbours belong to neighbouring fields. The machine has one unit for moving
data between lanes, and packing is bound by it.

What is not said here is as in `vectors`.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from tileconv.engine.blocking import MOST_WORDS
from tileconv.engine.vectors import (
    INDEX_TYPE,
    QUAD_BYTES,
    SHORT_TYPE,
    VECTOR_BYTES,
    constant_index,
    intrinsic,
    lanes_of,
    load_vector,
    shuffle,
    splat,
    store_vector,
)

BYTE = ir.IntType(8)
DETECTED_OFFSET = 16
"""Bytes from ``sought`` to the flag that a pixel was detected: those of two pixels, or more."""
SHUFFLES_ANY_LANES = VECTOR_BYTES == 64
"""The machine shuffles lanes from anywhere in two vectors at once."""


def to_floats(
    builder: ir.IRBuilder, pixels: ir.Value, dtype: Any, vector: ir.VectorType
) -> ir.Value:
    """Convert a vector of pixels to the floats they are computed in."""
    if pixels.type.element == vector.element:
        return pixels
    if isinstance(dtype, types.Float):
        return builder.fpext(pixels, vector)
    if dtype.bitwidth < 32:  # what fits into a signed int32 has an instruction of its own
        middle = ir.VectorType(SHORT_TYPE, vector.count)
        pixels = builder.sext(pixels, middle) if dtype.signed else builder.zext(pixels, middle)
        return builder.sitofp(pixels, vector)
    return builder.sitofp(pixels, vector) if dtype.signed else builder.uitofp(pixels, vector)


class _Packing:
    """What the packing steps have in common.

    The first two arguments of each are pointers: to pixels, and to packed floats.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> None:
        source, packed = signature.args[:2]
        self.builder, self._signature, self._args = builder, signature, args
        self.dtype, self.pixel_bytes = source.dtype, source.dtype.bitwidth // 8
        self.vector = ir.VectorType(context.get_data_type(packed.dtype), lanes_of(packed.dtype))
        self.lanes, self.float_bytes = self.vector.count, packed.dtype.bitwidth // 8
        self.pixel = context.get_data_type(source.dtype)
        self._source = builder.bitcast(args[0], BYTE.as_pointer())
        self._packed = args[1]

    def load_raw(self, offset: ir.Value) -> ir.Value:
        """Load a vector of pixels, ``offset`` bytes on."""
        return self.load_words(offset, self.pixel, self.lanes)

    def load_words(self, offset: ir.Value, kind: ir.Type, count: int) -> ir.Value:
        """Load some words, ``offset`` bytes on; each holds whole pixels."""
        place = self.builder.gep(self._source, [offset])
        return load_vector(self.builder, place, ir.VectorType(kind, count), self.pixel_bytes)

    def split(self, word: ir.Value, offsets: ir.Value, first: int, at: ir.Value) -> None:
        """Take words apart and store pixel ``first`` of their fields, and so on, if a tap reads it.

        The offset of a phase is negative if no tap does.
        """
        builder, bits = self.builder, self.pixel_bytes * 8
        kind = ir.VectorType(ir.IntType(bits), self.lanes)
        for p in range(word.type.element.width // bits):
            place = builder.load(builder.gep(offsets, [constant_index(first + p)]))
            with builder.if_then(builder.icmp_signed(">=", place, constant_index(0))):
                pixel = word
                if p:
                    by = ir.Constant(word.type.element, p * bits)
                    pixel = builder.lshr(pixel, ir.Constant(word.type, [by] * self.lanes))
                if pixel.type != kind:
                    pixel = builder.trunc(pixel, kind)
                if isinstance(self.dtype, types.Float):
                    pixel = builder.bitcast(pixel, ir.VectorType(self.pixel, self.lanes))
                self.store(pixel, builder.add(place, at))

    def detect(self, words: Sequence[ir.Value]) -> ir.Value:
        """Return whether a pixel in vectors of words is sought, see above.

        Vectors are reduced with `min` first, so one comparison serves them all: comparisons compete
        for the unit that moves data between lanes. All is done on bits.
        """
        builder, sought = self.builder, self._signature.args[-1]
        if not isinstance(sought, types.CPointer):
            return ir.IntType(1)(0)
        floats, bits = isinstance(self.dtype, types.Float), self.pixel_bytes * 8
        kind = ir.IntType(bits)
        words_bits = bits if words[0].type.element == self.pixel else words[0].type.element.width
        vector = ir.VectorType(kind, words[0].type.count * words_bits // bits)
        value, bound = (
            splat(builder, builder.bitcast(value, kind) if floats else value, vector)
            for value in self._args[-3:-1]
        )
        pixels = [builder.bitcast(word, vector) for word in words]
        differences = [builder.xor(pixel, value) for pixel in pixels]
        if floats:  # without its sign, NaN is more than infinity
            unsigned = ir.Constant(vector, [(1 << (bits - 1)) - 1] * vector.count)
            differences = [builder.and_(pixel, unsigned) for pixel in differences]
        nearest = self._extreme(differences, "<")
        found = builder.icmp_unsigned("==", nearest, ir.Constant(vector, [0] * vector.count))
        if floats:
            sizes = [builder.and_(pixel, unsigned) for pixel in pixels]
            largest = builder.icmp_unsigned(">", self._extreme(sizes, ">"), bound)
            found = builder.or_(found, largest)
        flags = ir.IntType(vector.count)
        return builder.icmp_unsigned("!=", builder.bitcast(found, flags), flags(0))

    def _extreme(self, vectors: Sequence[ir.Value], order: str) -> ir.Value:
        """Return the least ("<") or greatest number of vectors, lane by lane."""
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [
                self.builder.select(self.builder.icmp_unsigned(order, a, b), a, b) for a, b in pairs
            ]
        return vectors[0]

    def store(self, value: ir.Value, at: ir.Value) -> None:
        """Store floats, or pixels as floats."""
        floats = to_floats(self.builder, value, self.dtype, self.vector)
        store_vector(self.builder, floats, self.builder.gep(self._packed, [at]), self.float_bytes)


@intrinsic
def pixel_bytes(typingctx: Any, source: Any) -> Any:
    """Return the bytes of a pixel at the pointer ``source``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(signature.args[0].dtype.bitwidth // 8)

    return types.intp(source), generate


@intrinsic
def pixel_at(typingctx: Any, source: Any, offset: Any) -> Any:
    """Return the pixel ``offset`` bytes from ``source``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = builder.gep(builder.bitcast(args[0], BYTE.as_pointer()), [args[1]])
        loaded = builder.load(builder.bitcast(byte, args[0].type))
        loaded.align = 1
        return loaded

    return source.dtype(source, types.intp), generate


@intrinsic
def sought_value(typingctx: Any, sought: Any, source: Any, number: Any) -> Any:
    """Return what is sought among the pixels at ``source``; 0 if nothing is.

    Number 0 is a value, 1 the bits above which, without its sign, a float is NaN.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sought, _, number = args
        if not isinstance(signature.args[0], types.CPointer):
            return ir.Constant(context.get_data_type(signature.return_type), 0)
        return builder.load(builder.gep(sought, [number]))

    return source.dtype(sought, source, types.intp), generate


@intrinsic
def report_detected(typingctx: Any, sought: Any, found: Any) -> Any:
    """Write whether a sought pixel was detected, if ``sought`` is a pointer.

    The flag is an intp, 0 or 1, DETECTED_OFFSET bytes on.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sought, found = args
        if isinstance(signature.args[0], types.CPointer):
            place = builder.gep(
                builder.bitcast(sought, BYTE.as_pointer()), [constant_index(DETECTED_OFFSET)]
            )
            place = builder.bitcast(place, INDEX_TYPE.as_pointer())
            builder.store(builder.zext(found, INDEX_TYPE), place)
        return context.get_dummy_value()

    return types.void(sought, types.boolean), generate


DETECTION_VECTORS = 4
"""Vectors of pixels that `detect_in_vectors` reads together."""


@intrinsic
def pixels_per_detection(typingctx: Any, source: Any) -> Any:
    """Return how many pixels `detect_in_vectors` reads."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(
            DETECTION_VECTORS * VECTOR_BYTES * 8 // signature.args[0].dtype.bitwidth
        )

    return types.intp(source), generate


def _detector(vectors: int) -> Any:
    """Return an intrinsic that detects sought pixels in some vectors, or in one pixel."""

    def typer(
        typingctx: Any, source: Any, packed: Any, offset: Any, value: Any, bound: Any, sought: Any
    ) -> Any:
        pixel = source.dtype
        return types.boolean(source, packed, types.intp, pixel, pixel, sought), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        packing = _Packing(context, builder, signature, args)
        count = VECTOR_BYTES // packing.pixel_bytes if vectors else 1
        offsets = [
            builder.add(args[2], constant_index(i * VECTOR_BYTES)) for i in range(vectors or 1)
        ]
        return packing.detect(
            [packing.load_words(place, packing.pixel, count) for place in offsets]
        )

    return intrinsic(typer)


detect_in_pixel = _detector(0)
"""Say whether the pixel ``offset`` bytes on is sought."""
detect_in_vectors = _detector(DETECTION_VECTORS)
"""Say whether one of `pixels_per_detection`, from ``offset`` bytes on, is sought."""


@intrinsic
def convert_and_detect(
    typingctx: Any,
    source: Any,
    packed: Any,
    offset: Any,
    at: Any,
    value: Any,
    bound: Any,
    sought: Any,
) -> Any:
    """Do what `convert_vector` does, and detect sought pixels."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        packing = _Packing(context, builder, signature, args)
        values = packing.load_raw(args[2])
        packing.store(values, args[3])
        return packing.detect([values])

    i, pixel = types.intp, source.dtype
    return types.boolean(source, packed, i, i, pixel, pixel, sought), generate


@intrinsic
def convert_vector(typingctx: Any, source: Any, packed: Any, offset: Any, at: Any) -> Any:
    """Write a vector of neighbouring pixels, ``offset`` bytes on, to ``packed[at:]``, as floats."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        packing = _Packing(context, builder, signature, args)
        packing.store(packing.load_raw(args[2]), args[3])
        return context.get_dummy_value()

    return types.void(source, packed, types.intp, types.intp), generate


def field_words(pixel_bits: int, float_bits: int, stride: int) -> int:
    """Return the words of a field that `deinterleave_fields` takes: 1, 2 or 4; 0 if it cannot.

    A word has the bits of the floats. Where fields are smaller, one is a word by itself.
    """
    bits = pixel_bits * stride
    if stride > 1 and bits <= float_bits:
        return int(bits & (bits - 1) == 0)
    words = bits // float_bits
    # only AVX-512 has an instruction that combines four
    known = (2, MOST_WORDS) if SHUFFLES_ANY_LANES else (2,)
    return words if words * float_bits == bits and words in known else 0


@intrinsic
def deinterleave_fields(
    typingctx: Any,
    source: Any,
    packed: Any,
    offset: Any,
    offsets: Any,
    at: Any,
    stride: Any,
    value: Any,
    bound: Any,
    sought: Any,
) -> Any:
    """Deinterleave a vector's lanes of fields that lie side by side, ``stride`` pixels each.

    They begin ``offset`` bytes on. Pixel ``p`` of field ``i`` goes to ``packed[offsets[p] + at +
    i]`` if ``offsets[p]``, of a pointer to intp, is not negative. ``stride`` is a literal.
    """
    if not isinstance(stride, types.IntegerLiteral):
        return None  # Numba asks again with the literal
    size = stride.literal_value

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        packing = _Packing(context, builder, signature, args)
        offset, offsets, at = args[2:5]
        bits, float_bits = packing.pixel_bytes * 8, packing.float_bytes * 8
        words = field_words(bits, float_bits, size)
        kind = ir.IntType(min(bits * size, float_bits))
        step = constant_index(packing.lanes * kind.width // 8)
        vectors = []
        for _ in range(words):
            vectors.append(packing.load_words(offset, kind, packing.lanes))
            offset = builder.add(offset, step)
        for w, word in enumerate(_deinterleave_words(builder, vectors)):
            packing.split(word, offsets, w * (kind.width // bits), at)
        return packing.detect(vectors)

    i, pixel = types.intp, source.dtype
    kinds = source, packed, i, offsets, i, stride, pixel, pixel, sought
    return types.boolean(*kinds), generate


def _deinterleave_words(builder: ir.IRBuilder, vectors: Sequence[ir.Value]) -> Sequence[ir.Value]:
    """Return the first words of all fields, the second ones, and so on, of vectors of words."""
    if len(vectors) == 1:
        return vectors
    n = vectors[0].type.count
    if len(vectors) == 2:
        low, high = vectors
        return [shuffle(builder, low, high, range(w, 2 * n, 2)) for w in range(2)]
    halves = [  # two vectors' first and second words, and their third and fourth ones
        [
            shuffle(builder, a, b, [*range(w, 2 * n, 4), *range(w + 1, 2 * n, 4)])
            for a, b in (vectors[:2], vectors[2:])
        ]
        for w in (0, 2)
    ]
    half = n // 2
    return [
        shuffle(builder, a, b, [*range(start, start + half), *range(n + start, n + start + half)])
        for a, b in halves
        for start in (0, half)
    ]


@intrinsic
def quad_size(typingctx: Any, source: Any) -> Any:
    """Return how many pixels of a field `transpose_quads` takes: those in 128 bits."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(QUAD_BYTES * 8 // signature.args[0].dtype.bitwidth)

    return types.intp(source), generate


@intrinsic
def transpose_quads(
    typingctx: Any,
    source: Any,
    packed: Any,
    offset: Any,
    field_bytes: Any,
    offsets: Any,
    at: Any,
    whole: Any,
    value: Any,
    bound: Any,
    sought: Any,
) -> Any:
    """Pack 128 bits of each of a vector's lanes of fields, ``field_bytes`` bytes apart.

    Pixel ``p`` of field ``i``, which begins ``offset + i * field_bytes`` bytes on, goes to
    ``packed[offsets[p] + at + i]`` if ``offsets[p]``, of a pointer to intp, is not negative. Where
    ``whole`` is false, only the first half of the pixels does.

    The parts of fields that end in the same lanes of the 128-bit parts of vectors are loaded into
    one vector, so that no word moves from part to part: such steps are expensive. Words have the
    bits of the floats, whatever pixels they hold, which are taken apart at the end.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        packing = _Packing(context, builder, signature, args)
        n, size = packing.lanes, QUAD_BYTES // packing.float_bytes
        offset, field_bytes, offsets, at, whole = args[2:7]
        kind, each = ir.IntType(packing.float_bytes * 8), packing.float_bytes // packing.pixel_bytes
        quads = []
        for _ in range(n):
            quads.append(packing.load_words(offset, kind, size))
            offset = builder.add(offset, field_bytes)
        rows = []
        for j in range(size):
            parts = quads[j::size]
            while len(parts) > 1:
                parts = [
                    shuffle(builder, a, b, range(2 * a.type.count))
                    for a, b in zip(parts[::2], parts[1::2], strict=True)
                ]
            rows.append(parts[0])
        half = size // 2
        for w, word in enumerate(_transpose_parts(builder, rows, first=True)):
            packing.split(word, offsets, w * each, at)
        with builder.if_then(whole):
            for w, word in enumerate(_transpose_parts(builder, rows, first=False), half):
                packing.split(word, offsets, w * each, at)
        return packing.detect(rows)

    i, b, pixel = types.intp, types.boolean, source.dtype
    return b(source, packed, i, i, offsets, i, b, pixel, pixel, sought), generate


def _transpose_parts(
    builder: ir.IRBuilder, rows: Sequence[ir.Value], *, first: bool
) -> list[ir.Value]:
    """Transpose squares of as many elements as there are rows, each in its own part of the vectors.

    Returned are the first half of the transposed rows, or the second.
    """
    size, n = len(rows), rows[0].type.count
    starts = range(0, n, size)

    def both(a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        return shuffle(
            builder, a, b, [s + (k if k < size else n + k - size) for s in starts for k in lanes]
        )

    if size == 2:
        return [both(rows[0], rows[1], (0, 2) if first else (1, 3))]
    lanes = (0, 4, 1, 5) if first else (2, 6, 3, 7)
    a, b = both(rows[0], rows[1], lanes), both(rows[2], rows[3], lanes)
    return [both(a, b, lanes) for lanes in ((0, 1, 4, 5), (2, 3, 6, 7))]
