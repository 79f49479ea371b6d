"""Steps that lay pixels out as floats: `copy_lanes`, `deal_fields` and `turn_quads`.

The latter two, and `copy_pixels`, may watch for pixels meanwhile that are to be found: those that
equal a value, and NaN. They say whether some pixel that they read is one, or equals the value but
for its sign. ``watch`` is a pointer to pixels, see `watched`, or a plain number: nothing is sought,
and nothing compiled for it.

Pixels move about in words that have the bits of a float: two of uint16 in each,
four of uint8. Only where each word belongs to one field, and neighbouring ones
to neighbouring fields, are they taken apart, by shifts: the machine has one
unit for moving numbers between lanes, and it is what dealing out is bound by.

What is not said here is as in `vectors`.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from tileconv.engine.vectors import (
    INDEX_TYPE,
    QUAD_BYTES,
    SHORT_TYPE,
    VECTOR_BYTES,
    constant_index,
    lanes_of,
    load_vector,
    shuffle,
    splat,
    step_of,
    store_vector,
)

BYTE = ir.IntType(8)
FOUND_AFTER = 16
"""Bytes after what is watched for that hold whether it was found: those of two pixels, or more."""
MOST_WORDS = 4
"""Words of a field that are dealt out at a time; each holds a byte of pixels or more."""
WHOLE_TURN = VECTOR_BYTES == 64
"""The machine takes numbers from anywhere in two vectors at once."""


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


class _Deal:
    """What the steps that lay pixels out have in common.

    The first two arguments of each are pointers: to pixels, and to the lines of floats.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> None:
        source, lines = signature.args[:2]
        self.builder, self._signature, self._args = builder, signature, args
        self.dtype, self.pixel_bytes = source.dtype, source.dtype.bitwidth // 8
        self.vector = ir.VectorType(context.get_data_type(lines.dtype), lanes_of(lines.dtype))
        self.lanes, self.float_bytes = self.vector.count, lines.dtype.bitwidth // 8
        self.pixel = context.get_data_type(source.dtype)
        self._source = builder.bitcast(args[0], BYTE.as_pointer())
        self._lines = args[1]

    def load_raw(self, offset: ir.Value) -> ir.Value:
        """Load a vector of pixels, ``offset`` bytes on."""
        return self.load_words(offset, self.pixel, self.lanes)

    def load_words(self, offset: ir.Value, kind: ir.Type, count: int) -> ir.Value:
        """Load some words, ``offset`` bytes on; each holds whole pixels."""
        place = self.builder.gep(self._source, [offset])
        return load_vector(self.builder, place, ir.VectorType(kind, count), self.pixel_bytes)

    def split(self, word: ir.Value, places: ir.Value, first: int, at: ir.Value) -> None:
        """Take words apart and store pixel ``first`` of their fields, and so on, if it has a place.

        A line's place is a negative number if no tap reads it.
        """
        builder, bits = self.builder, self.pixel_bytes * 8
        kind = ir.VectorType(ir.IntType(bits), self.lanes)
        for p in range(word.type.element.width // bits):
            place = builder.load(builder.gep(places, [constant_index(first + p)]))
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

    def watch(self, words: Sequence[ir.Value]) -> ir.Value:
        """Return whether a pixel in vectors of words is to be found, see above.

        It is done on bits, and few comparisons are made: they take the unit that moves lanes.
        """
        builder, watch = self.builder, self._signature.args[-1]
        if not isinstance(watch, types.CPointer):
            return ir.IntType(1)(0)
        floats, bits = isinstance(self.dtype, types.Float), self.pixel_bytes * 8
        kind = ir.IntType(bits)
        words_bits = bits if words[0].type.element == self.pixel else words[0].type.element.width
        vector = ir.VectorType(kind, words[0].type.count * words_bits // bits)
        sought, bound = (
            splat(builder, builder.bitcast(value, kind) if floats else value, vector)
            for value in self._args[-3:-1]
        )
        pixels = [builder.bitcast(word, vector) for word in words]
        apart = [builder.xor(pixel, sought) for pixel in pixels]
        if floats:  # without its sign, NaN is more than infinity
            unsigned = ir.Constant(vector, [(1 << (bits - 1)) - 1] * vector.count)
            apart = [builder.and_(pixel, unsigned) for pixel in apart]
        nearest = self._extreme(apart, "<")
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
        store_vector(self.builder, floats, self.builder.gep(self._lines, [at]), self.float_bytes)


@step_of
def pixel_bytes(typingctx: Any, source: Any) -> Any:
    """Return the bytes of a pixel at the pointer ``source``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(signature.args[0].dtype.bitwidth // 8)

    return types.intp(source), generate


@step_of
def pixel_at(typingctx: Any, source: Any, offset: Any) -> Any:
    """Return the pixel ``offset`` bytes from ``source``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = builder.gep(builder.bitcast(args[0], BYTE.as_pointer()), [args[1]])
        loaded = builder.load(builder.bitcast(byte, args[0].type))
        loaded.align = 1
        return loaded

    return source.dtype(source, types.intp), generate


@step_of
def watched(typingctx: Any, watch: Any, source: Any, number: Any) -> Any:
    """Return what is watched for among the pixels at ``source``; 0 if nothing is.

    Number 0 is a value, 1 the bits beyond which, without a sign, a float is to be found.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        watch, _, number = args
        if not isinstance(signature.args[0], types.CPointer):
            return ir.Constant(context.get_data_type(signature.return_type), 0)
        return builder.load(builder.gep(watch, [number]))

    return source.dtype(watch, source, types.intp), generate


@step_of
def tell(typingctx: Any, watch: Any, found: Any) -> Any:
    """Write whether what is watched for was found, if ``watch`` is a pointer.

    It is an intp, 0 or 1, and lies FOUND_AFTER bytes on.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        watch, found = args
        if isinstance(signature.args[0], types.CPointer):
            place = builder.gep(
                builder.bitcast(watch, BYTE.as_pointer()), [constant_index(FOUND_AFTER)]
            )
            place = builder.bitcast(place, INDEX_TYPE.as_pointer())
            builder.store(builder.zext(found, INDEX_TYPE), place)
        return context.get_dummy_value()

    return types.void(watch, types.boolean), generate


WATCHED = 4
"""Vectors of pixels that are looked at together."""


@step_of
def pixels_watched(typingctx: Any, source: Any) -> Any:
    """Return how many pixels `look_at_pixels` looks at."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(WATCHED * VECTOR_BYTES * 8 // signature.args[0].dtype.bitwidth)

    return types.intp(source), generate


def _looker(vectors: int) -> Any:
    """Return a function of Numba's that says whether to be found is a pixel, or one of vectors."""

    def typer(
        typingctx: Any, source: Any, lines: Any, offset: Any, sought: Any, bound: Any, watch: Any
    ) -> Any:
        pixel = source.dtype
        return types.boolean(source, lines, types.intp, pixel, pixel, watch), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        count = VECTOR_BYTES // deal.pixel_bytes if vectors else 1
        places = [
            builder.add(args[2], constant_index(i * VECTOR_BYTES)) for i in range(vectors or 1)
        ]
        return deal.watch([deal.load_words(place, deal.pixel, count) for place in places])

    return step_of(typer)


is_watched = _looker(0)
"""Say whether the pixel ``offset`` bytes on is to be found."""
look_at_pixels = _looker(WATCHED)
"""Say whether one of `pixels_watched`, from ``offset`` bytes on, is to be found."""


@step_of
def copy_pixels(
    typingctx: Any,
    source: Any,
    lines: Any,
    offset: Any,
    at: Any,
    sought: Any,
    bound: Any,
    watch: Any,
) -> Any:
    """Do what `copy_lanes` does, and watch for pixels."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        values = deal.load_raw(args[2])
        deal.store(values, args[3])
        return deal.watch([values])

    i, pixel = types.intp, source.dtype
    return types.boolean(source, lines, i, i, pixel, pixel, watch), generate


@step_of
def copy_lanes(typingctx: Any, source: Any, lines: Any, offset: Any, at: Any) -> Any:
    """Write a vector of neighbouring pixels, ``offset`` bytes on, to ``lines[at:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        deal.store(deal.load_raw(args[2]), args[3])
        return context.get_dummy_value()

    return types.void(source, lines, types.intp, types.intp), generate


def field_words(pixel_bits: int, float_bits: int, stride: int) -> int:
    """Return the words of a field that `deal_fields` deals out: 1, 2 or 4; 0 if it cannot.

    A word has the bits of the floats. Where fields are smaller, one is a word by itself.
    """
    bits = pixel_bits * stride
    if stride > 1 and bits <= float_bits:
        return int(bits & (bits - 1) == 0)
    words = bits // float_bits
    # four are put together by an instruction that AVX-512 alone has
    known = (2, MOST_WORDS) if WHOLE_TURN else (2,)
    return words if words * float_bits == bits and words in known else 0


@step_of
def deal_fields(
    typingctx: Any,
    source: Any,
    lines: Any,
    offset: Any,
    places: Any,
    at: Any,
    stride: Any,
    sought: Any,
    bound: Any,
    watch: Any,
) -> Any:
    """Deal out a vector's lanes of fields that lie side by side, ``stride`` pixels each.

    They begin ``offset`` bytes on. Pixel ``p`` of field ``i`` goes to ``lines[places[p] + at + i]``
    if ``places[p]``, of a pointer to intp, is not negative. ``stride`` is a literal.
    """
    if not isinstance(stride, types.IntegerLiteral):
        return None  # Numba asks again with the literal
    size = stride.literal_value

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        offset, places, at = args[2:5]
        bits, float_bits = deal.pixel_bytes * 8, deal.float_bytes * 8
        words = field_words(bits, float_bits, size)
        kind = ir.IntType(min(bits * size, float_bits))
        step = constant_index(deal.lanes * kind.width // 8)
        vectors = []
        for _ in range(words):
            vectors.append(deal.load_words(offset, kind, deal.lanes))
            offset = builder.add(offset, step)
        for w, word in enumerate(_deal_words(builder, vectors)):
            deal.split(word, places, w * (kind.width // bits), at)
        return deal.watch(vectors)

    i, pixel = types.intp, source.dtype
    kinds = source, lines, i, places, i, stride, pixel, pixel, watch
    return types.boolean(*kinds), generate


def _deal_words(builder: ir.IRBuilder, vectors: Sequence[ir.Value]) -> Sequence[ir.Value]:
    """Deal the words of vectors out: the first ones of all fields, the second ones, and so on."""
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


@step_of
def quad_size(typingctx: Any, source: Any) -> Any:
    """Return how many pixels of a field `turn_quads` turns: those in 128 bits."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(QUAD_BYTES * 8 // signature.args[0].dtype.bitwidth)

    return types.intp(source), generate


@step_of
def turn_quads(
    typingctx: Any,
    source: Any,
    lines: Any,
    offset: Any,
    apart: Any,
    places: Any,
    at: Any,
    whole: Any,
    sought: Any,
    bound: Any,
    watch: Any,
) -> Any:
    """Deal out 128 bits of each of a vector's lanes of fields that lie ``apart`` bytes apart.

    Pixel ``p`` of field ``i``, which begins ``offset + i * apart`` bytes on, goes to
    ``lines[places[p] + at + i]`` if ``places[p]``, of a pointer to intp, is not negative. Where
    ``whole`` is false, only the first half of the pixels does.

    The parts of fields that come to lie in the same lanes of the 128-bit parts of vectors are
    loaded into one vector, so that no word moves from part to part: such steps are dear. Words
    have the bits of the floats, whatever pixels they hold, which are taken apart at the end.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        n, size = deal.lanes, QUAD_BYTES // deal.float_bytes
        offset, apart, places, at, whole = args[2:7]
        kind, each = ir.IntType(deal.float_bytes * 8), deal.float_bytes // deal.pixel_bytes
        quads = []
        for _ in range(n):
            quads.append(deal.load_words(offset, kind, size))
            offset = builder.add(offset, apart)
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
        for w, word in enumerate(_turn_parts(builder, rows, first=True)):
            deal.split(word, places, w * each, at)
        with builder.if_then(whole):
            for w, word in enumerate(_turn_parts(builder, rows, first=False), half):
                deal.split(word, places, w * each, at)
        return deal.watch(rows)

    i, b, pixel = types.intp, types.boolean, source.dtype
    return b(source, lines, i, i, places, i, b, pixel, pixel, watch), generate


def _turn_parts(builder: ir.IRBuilder, rows: Sequence[ir.Value], *, first: bool) -> list[ir.Value]:
    """Turn squares of as many numbers as there are rows, each in its own part of the vectors.

    Returned are the first half of the turned rows, or the second.
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
