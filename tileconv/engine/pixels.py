"""Steps that lay pixels out as floats: `copy_lanes`, `unzip_lanes` and `turn_quads`.

What is not said here is as in `tileconv.engine.lanes`.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from tileconv.engine.lanes import (
    QUAD_BYTES,
    SHORT_TYPE,
    constant_index,
    lanes_of,
    load_vector,
    shuffle,
    step_of,
    store_vector,
)


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
        self.builder = builder
        self.dtype, self.pixel_bytes = source.dtype, source.dtype.bitwidth // 8
        self.vector = ir.VectorType(context.get_data_type(lines.dtype), lanes_of(lines.dtype))
        self.lanes, self.float_bytes = self.vector.count, lines.dtype.bitwidth // 8
        self._pixel = context.get_data_type(source.dtype)
        self._source = builder.bitcast(args[0], ir.IntType(8).as_pointer())
        self._lines = args[1]

    def load_raw(self, offset: ir.Value, count: int | None = None) -> ir.Value:
        """Load a vector of pixels, or ``count`` of them, ``offset`` bytes on."""
        place = self.builder.gep(self._source, [offset])
        kind = ir.VectorType(self._pixel, count or self.lanes)
        return load_vector(self.builder, place, kind, self.pixel_bytes)

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
        byte = builder.gep(builder.bitcast(args[0], ir.IntType(8).as_pointer()), [args[1]])
        loaded = builder.load(builder.bitcast(byte, args[0].type))
        loaded.align = 1
        return loaded

    return source.dtype(source, types.intp), generate


@step_of
def copy_lanes(typingctx: Any, source: Any, lines: Any, offset: Any, at: Any) -> Any:
    """Write a vector of neighbouring pixels, ``offset`` bytes on, to ``lines[at:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        deal.store(deal.load_raw(args[2]), args[3])
        return context.get_dummy_value()

    return types.void(source, lines, types.intp, types.intp), generate


@step_of
def unzip_lanes(typingctx: Any, source: Any, lines: Any, offset: Any, even: Any, odd: Any) -> Any:
    """Write two vectors of pixels one by turns to ``lines[even:]`` and to ``lines[odd:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        n = deal.lanes
        low = deal.load_raw(args[2])
        high = deal.load_raw(builder.add(args[2], constant_index(n * deal.pixel_bytes)))
        for phase, at in enumerate(args[3:]):
            deal.store(shuffle(builder, low, high, range(phase, 2 * n, 2)), at)
        return context.get_dummy_value()

    return types.void(source, lines, types.intp, types.intp, types.intp), generate


@step_of
def quad_size(typingctx: Any, lines: Any) -> Any:
    """Return how many pixels of a field `turn_quads` turns: the numbers in 128 bits."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(QUAD_BYTES * 8 // signature.args[0].dtype.bitwidth)

    return types.intp(lines), generate


@step_of
def turn_quads(
    typingctx: Any, source: Any, lines: Any, offset: Any, apart: Any, places: Any, at: Any
) -> Any:
    """Turn a few pixels of each of a vector's lanes of fields, to as many lines as pixels.

    Field ``i`` lies ``offset + i * apart`` bytes on; its pixel ``p``, of `quad_size`, goes to
    ``lines[places[p] + at + i]``. ``places`` is a pointer to intp.

    The quads of fields that come to lie in the same lanes of the 128-bit parts of vectors are
    loaded into one vector, so that no pixel moves from part to part: such steps are dear.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        n, size = deal.lanes, QUAD_BYTES // deal.float_bytes
        _, _, offset, apart, places, at = args
        quads = []
        for _ in range(n):
            quads.append(deal.load_raw(offset, size))
            offset = builder.add(offset, apart)
        rows = []
        for j in range(size):
            parts = quads[j::size]
            while len(parts) > 1:
                parts = [
                    shuffle(builder, a, b, range(2 * a.type.count))
                    for a, b in zip(parts[::2], parts[1::2], strict=True)
                ]
            rows.append(to_floats(builder, parts[0], deal.dtype, deal.vector))
        for p, row in enumerate(_turn_parts(builder, rows)):
            place = builder.load(builder.gep(places, [constant_index(p)]))
            deal.store(row, builder.add(place, at))
        return context.get_dummy_value()

    return types.void(source, lines, types.intp, types.intp, places, types.intp), generate


def _turn_parts(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """Turn squares of as many numbers as there are rows, each in its own part of the vectors."""
    size, n = len(rows), rows[0].type.count
    starts = range(0, n, size)

    def both(a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        return shuffle(
            builder, a, b, [s + (k if k < size else n + k - size) for s in starts for k in lanes]
        )

    if size == 2:
        return [both(rows[0], rows[1], lanes) for lanes in ((0, 2), (1, 3))]
    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    a, b = (both(rows[0], rows[1], lanes) for lanes in (low, high))
    c, d = (both(rows[2], rows[3], lanes) for lanes in (low, high))
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    return [both(x, y, lanes) for x, y in ((a, c), (b, d)) for lanes in (low, high)]
