"""The vector steps that the loops are made of, written for LLVM by hand.

Numba sees scalar code and leaves vectors to the compiler, which does not keep
a block of sums in registers, nor turn strided pixels round in them. So the two
inner steps are built as vector instructions: `sum_block` adds products up,
`copy_lanes`, `unzip_lanes` and `turn_quads` lay pixels out for it. Every lane
is one output and does what a scalar would do, so the bits depend on neither
the vector's width nor an output's place in it.

Addresses are bytes in uintp; nothing is checked.
"""

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 4
"""Sums of one column that a block holds: output rows, or kernels of a bank."""
WIDE = 3
"""Vectors of sums in each row of a block: with ROWS, 12 of 16 registers, enough to keep both
multiply-add units busy in spite of their latency, and one loaded pixel serves ROWS sums."""

QUAD_BYTES = 16
"""The parts of a vector that numbers move about in cheaply."""

BESIDE = 16
"""Neighbouring fields that are weighed at a time."""

_INDEX = ir.IntType(64)
_SHORT = ir.IntType(32)


def _vector_bytes() -> int:
    """Bytes of a vector register of this machine."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


VECTOR_BYTES = _vector_bytes()


def _step(typer: Callable[..., Any]) -> Any:
    """Make a function for compiled code of one that returns (signature, code generator)."""
    return intrinsic(typer)


def _lanes(kind: Any) -> int:
    """Numbers of a floating type that a vector holds."""
    return VECTOR_BYTES * 8 // kind.bitwidth


def _constant_index(number: int) -> ir.Constant:
    return ir.Constant(_INDEX, number)


def _fma(builder: ir.IRBuilder, vector: ir.VectorType) -> ir.Function:
    size = 32 if isinstance(vector.element, ir.FloatType) else 64
    name = f"llvm.fma.v{vector.count}f{size}"
    kind = ir.FunctionType(vector, [vector] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _load(builder: ir.IRBuilder, pointer: ir.Value, vector: ir.VectorType, align: int) -> ir.Value:
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = align
    return loaded


def _store(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, align: int) -> None:
    stored = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()))
    stored.align = align


def _splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_SHORT, 0))
    zeros = ir.Constant(ir.VectorType(_SHORT, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, nothing, zeros)


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(_SHORT, len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, mask)


# sums


def generate_block(wide: int, *, rows: int = ROWS, sparse: bool = False) -> Callable[..., Any]:
    """Return the code generator of one block of ``rows`` times ``wide`` vectors of sums."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        lines, column, steps_at, step_count, places_at, place_count, weights_at = args[:7]
        apart, out, pitch, more = args[7:]
        number = signature.args[0].dtype
        kind, size = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, _lanes(number))
        fma = _fma(builder, vector)
        first = builder.gep(lines, [column])

        sums = [[cgutils.alloca_once(builder, vector) for _ in range(wide)] for _ in range(rows)]
        nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
        for row in sums:
            for register in row:
                builder.store(nought, register)
        with builder.if_then(more):
            before = builder.inttoptr(out, kind.as_pointer())
            for row in sums:
                for i, register in enumerate(row):
                    place = builder.gep(before, [_constant_index(i * vector.count)])
                    builder.store(_load(builder, place, vector, size), register)
                before = builder.gep(before, [pitch])

        def add_taps(low: int, high: int, line: ir.Value, weight: ir.Value) -> None:
            """Add the taps of one line to the sums ``low .. high - 1``."""
            own = [weight]
            for _ in range(low + 1, high):
                own.append(builder.gep(own[-1], [apart]))
            with cgutils.for_range(builder, place_count, intp=_INDEX) as taps:
                tap = taps.index
                pixels_at = builder.gep(line, [builder.load(builder.gep(places_at, [tap]))])
                pixels = [
                    _load(
                        builder,
                        builder.gep(pixels_at, [_constant_index(i * vector.count)]),
                        vector,
                        size,
                    )
                    for i in range(wide)
                ]
                for j in range(low, high):
                    scalar = builder.load(builder.gep(own[j - low], [tap]))

                    def add(j: int = j, scalar: ir.Value = scalar) -> None:
                        factor = _splat(builder, scalar, vector)
                        for register, pixel in zip(sums[j], pixels, strict=True):
                            more = builder.call(fma, [factor, pixel, builder.load(register)])
                            builder.store(more, register)

                    if sparse:
                        zero = ir.Constant(kind, 0.0)
                        with builder.if_then(builder.fcmp_unordered("!=", scalar, zero)):
                            add()
                    else:
                        add()

        with cgutils.for_range(builder, step_count, intp=_INDEX) as loop:
            at = builder.mul(loop.index, _constant_index(3))
            line, which, weight = (
                builder.load(builder.gep(steps_at, [builder.add(at, _constant_index(i))]))
                for i in range(3)
            )
            line, weight = builder.gep(first, [line]), builder.gep(weights_at, [weight])
            done = builder.append_basic_block("done")
            switch = builder.switch(which, done)
            for low in range(rows):
                for high in range(low + 1, rows + 1):
                    block = builder.append_basic_block(f"rows_{low}_{high}")
                    switch.add_case(_constant_index(low * (ROWS + 1) + high), block)
                    builder.position_at_end(block)
                    add_taps(low, high, line, weight)
                    builder.branch(done)
            builder.position_at_end(done)

        target = builder.inttoptr(out, kind.as_pointer())
        for row in sums:
            for i, register in enumerate(row):
                place = builder.gep(target, [_constant_index(i * vector.count)])
                _store(builder, builder.load(register), place, size)
            target = builder.gep(target, [pitch])
        return context.get_dummy_value()

    return generate


def _intrinsic(generate: Callable[..., Any]) -> Any:
    """Return a function of Numba's with the arguments of `sum_block`."""

    def typer(
        typingctx: Any,
        lines: Any,
        column: Any,
        steps: Any,
        step_count: Any,
        places: Any,
        place_count: Any,
        weights: Any,
        apart: Any,
        out: Any,
        pitch: Any,
        more: Any,
    ) -> Any:
        i = types.intp
        kinds = lines, i, steps, i, places, i, weights, i, types.uintp, i, types.boolean
        return types.void(*kinds), generate

    return _step(typer)


def chosen_block(generators: dict[int, Callable[..., Any]]) -> Any:
    """Return a function with the arguments of `sum_block` and, last, which of them: a literal."""

    def typer(
        typingctx: Any,
        lines: Any,
        column: Any,
        steps: Any,
        step_count: Any,
        places: Any,
        place_count: Any,
        weights: Any,
        apart: Any,
        out: Any,
        pitch: Any,
        more: Any,
        which: Any,
    ) -> Any:
        if not isinstance(which, types.IntegerLiteral):
            return None  # Numba asks again with the literal
        chosen = generators[which.literal_value]

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return chosen(context, builder, signature, args[:-1])

        i = types.intp
        kinds = lines, i, steps, i, places, i, weights, i, types.uintp, i, types.boolean, which
        return types.void(*kinds), generate

    return _step(typer)


sum_block = _intrinsic(generate_block(WIDE))
"""Sum up a block of outputs. Arguments:

lines               pointer to float
column              first output of the block, counted along the lines
steps, step_count   pointer to three intp a step: where a line begins; the rows of sums that its
                    taps go to, as ``low * (ROWS + 1) + high``; where the weights of row ``low``
                    begin
places, place_count pointer to intp: where along a line each tap lies
weights, apart      pointer to float; those of the next row of sums lie ``apart`` further on
out, pitch          address of the block's first output; the next row lies ``pitch`` numbers
                    further on
more                the sums go on from what lies at ``out``, instead of from 0

All ROWS rows are written, WIDE vectors each. Every sum adds its taps step by
step in the order of ``places``, each by one fused multiply-add.
"""
sum_narrow_sparse_block = _intrinsic(generate_block(1, sparse=True))
"""`sum_block` of one vector a row, for what is left at the end of the rows; weights of 0 are passed
over."""
LONG = 8
"""Vectors of sums in a block of a single row."""
sum_long_block = _intrinsic(generate_block(LONG, rows=1))
"""`sum_block` of a single row of LONG vectors."""
sum_short_block = _intrinsic(generate_block(1, rows=1))
"""`sum_block` of a single vector."""


def _generate_rows(rows: int, wide: int) -> Callable[..., Any]:
    """Return the code generator that adds taps to ``rows`` rows of sums, wherever these lie."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        lines, column, places_at, place_count, weights, apart, sums_at = args
        number = signature.args[0].dtype
        kind, width = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, _lanes(number))
        fma = _fma(builder, vector)
        first = builder.gep(lines, [column])

        blocks = []  # a row's weights, and where each of its sums lies and is kept
        for j in range(rows):
            row = builder.load(builder.gep(sums_at, [_constant_index(j)]))
            row = builder.gep(builder.inttoptr(row, kind.as_pointer()), [column])
            sums = []
            for i in range(wide):
                place = builder.gep(row, [_constant_index(i * vector.count)])
                register = cgutils.alloca_once(builder, vector)
                builder.store(_load(builder, place, vector, width), register)
                sums.append((place, register))
            blocks.append((weights, sums))
            weights = builder.gep(weights, [apart])
        with cgutils.for_range(builder, place_count, intp=_INDEX) as taps:
            tap = builder.gep(first, [builder.load(builder.gep(places_at, [taps.index]))])
            pixels = [
                _load(builder, builder.gep(tap, [_constant_index(i * vector.count)]), vector, width)
                for i in range(wide)
            ]
            for factors, sums in blocks:
                factor = _splat(builder, builder.load(builder.gep(factors, [taps.index])), vector)
                for (_, register), pixel in zip(sums, pixels, strict=True):
                    more = builder.call(fma, [factor, pixel, builder.load(register)])
                    builder.store(more, register)
        for _, sums in blocks:
            for place, register in sums:
                _store(builder, builder.load(register), place, width)
        return context.get_dummy_value()

    return generate


def _adder(rows: int, wide: int) -> Any:
    """Return a function of Numba's that adds taps of a line to a block of sums.

    Its arguments:

    lines, column       pointer to float; first output of the block, counted along the lines
    places, place_count pointer to intp: where along a line each tap lies
    weights, apart      pointer to float; those of the next row of sums lie ``apart`` further on
    sums                pointer to the addresses of the rows of sums, whose output 0 they are
    """
    generate = _generate_rows(rows, wide)

    def typer(
        typingctx: Any,
        lines: Any,
        column: Any,
        places: Any,
        place_count: Any,
        weights: Any,
        apart: Any,
        sums: Any,
    ) -> Any:
        i = types.intp
        return types.void(lines, i, places, i, weights, i, sums), generate

    return _step(typer)


ADDED = {1: 8, 2: 4, 3: 3, 4: 3}
"""Vectors of each row in a block of as many rows: 8 to 12 chains of additions at a time, with room
for their pixels in 16 registers."""
add_to_1, add_to_2, add_to_3, add_to_4 = (_adder(*block) for block in ADDED.items())
add_narrow_to_1, add_narrow_to_2, add_narrow_to_3, add_narrow_to_4 = (
    _adder(rows, 1) for rows in ADDED
)


def generate_square(size: int) -> Callable[..., Any]:
    """Return the code generator of output rows of a dense kernel at stride 1, from 0, unrolled.

    Larger kernels than 3 x 3 gain nothing from being unrolled: the compiler moves loads away
    from their use and runs out of registers.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        lines, column, steps_at, _, _, _, weights_at, _, out, pitch, _ = args
        number = signature.args[0].dtype
        kind, width = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, _lanes(number))
        fma = _fma(builder, vector)

        first = builder.gep(lines, [column])
        nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
        sums = [[nought] * WIDE for _ in range(ROWS)]
        for r in range(ROWS - 1 + size):
            line = builder.gep(
                first, [builder.load(builder.gep(steps_at, [_constant_index(3 * r)]))]
            )
            for x in range(size):
                pixels = []
                for i in range(WIDE):
                    place = builder.gep(line, [_constant_index(x + i * vector.count)])
                    pixels.append(_load(builder, place, vector, width))
                for j in range(max(0, r - size + 1), min(ROWS, r + 1)):
                    place = builder.gep(weights_at, [_constant_index((r - j) * size + x)])
                    factor = _splat(builder, builder.load(place), vector)
                    sums[j] = [
                        builder.call(fma, [factor, pixel, done])
                        for pixel, done in zip(pixels, sums[j], strict=True)
                    ]
        target = builder.inttoptr(out, kind.as_pointer())
        for row in sums:
            for i, value in enumerate(row):
                place = builder.gep(target, [_constant_index(i * vector.count)])
                _store(builder, value, place, width)
            target = builder.gep(target, [pitch])
        return context.get_dummy_value()

    return generate


# pixels


def _to_floats(
    builder: ir.IRBuilder, pixels: ir.Value, dtype: Any, vector: ir.VectorType
) -> ir.Value:
    """Convert a vector of pixels to the floats they are computed in."""
    if pixels.type.element == vector.element:
        return pixels
    if isinstance(dtype, types.Float):
        return builder.fpext(pixels, vector)
    if dtype.bitwidth < 32:  # what fits into a signed int32 has an instruction of its own
        middle = ir.VectorType(_SHORT, vector.count)
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
        self.vector = ir.VectorType(context.get_data_type(lines.dtype), _lanes(lines.dtype))
        self.lanes, self.float_bytes = self.vector.count, lines.dtype.bitwidth // 8
        self._pixel = context.get_data_type(source.dtype)
        self._source = builder.bitcast(args[0], ir.IntType(8).as_pointer())
        self._lines = args[1]

    def load_raw(self, offset: ir.Value, count: int | None = None) -> ir.Value:
        """Load a vector of pixels, or ``count`` of them, ``offset`` bytes on."""
        place = self.builder.gep(self._source, [offset])
        kind = ir.VectorType(self._pixel, count or self.lanes)
        return _load(self.builder, place, kind, self.pixel_bytes)

    def store(self, value: ir.Value, at: ir.Value) -> None:
        """Store floats, or pixels as floats."""
        floats = _to_floats(self.builder, value, self.dtype, self.vector)
        _store(self.builder, floats, self.builder.gep(self._lines, [at]), self.float_bytes)


@_step
def lanes(typingctx: Any, lines: Any) -> Any:
    """Return how many numbers of ``lines``, an array or a pointer, a vector holds."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _constant_index(_lanes(signature.args[0].dtype))

    return types.intp(lines), generate


@_step
def pixel_bytes(typingctx: Any, source: Any) -> Any:
    """Return the bytes of a pixel at the pointer ``source``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _constant_index(signature.args[0].dtype.bitwidth // 8)

    return types.intp(source), generate


@_step
def pixel_at(typingctx: Any, source: Any, offset: Any) -> Any:
    """Return the pixel ``offset`` bytes from ``source``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = builder.gep(builder.bitcast(args[0], ir.IntType(8).as_pointer()), [args[1]])
        loaded = builder.load(builder.bitcast(byte, args[0].type))
        loaded.align = 1
        return loaded

    return source.dtype(source, types.intp), generate


@_step
def float_to(typingctx: Any, value: Any, address: Any) -> Any:
    """Store ``value`` at ``address``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], args[0].type.as_pointer())
        builder.store(args[0], pointer).align = signature.args[0].bitwidth // 8
        return context.get_dummy_value()

    return types.void(value, types.uintp), generate


@_step
def put_at(typingctx: Any, place: Any, address: Any) -> Any:
    """Store an address at an address that is a multiple of 8."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _INDEX.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@_step
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at ``address``, soon to be read; any address will do."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _SHORT, _SHORT, _SHORT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, second_level, data = (ir.Constant(_SHORT, i) for i in (0, 2, 1))
        builder.call(function, [builder.inttoptr(args[0], byte), read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.uintp), generate


@_step
def copy_lanes(typingctx: Any, source: Any, lines: Any, offset: Any, at: Any) -> Any:
    """Write a vector of neighbouring pixels, ``offset`` bytes on, to ``lines[at:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        deal.store(deal.load_raw(args[2]), args[3])
        return context.get_dummy_value()

    return types.void(source, lines, types.intp, types.intp), generate


@_step
def unzip_lanes(typingctx: Any, source: Any, lines: Any, offset: Any, even: Any, odd: Any) -> Any:
    """Write two vectors of pixels one by turns to ``lines[even:]`` and to ``lines[odd:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        deal = _Deal(context, builder, signature, args)
        n = deal.lanes
        low = deal.load_raw(args[2])
        high = deal.load_raw(builder.add(args[2], _constant_index(n * deal.pixel_bytes)))
        for phase, at in enumerate(args[3:]):
            deal.store(_shuffle(builder, low, high, range(phase, 2 * n, 2)), at)
        return context.get_dummy_value()

    return types.void(source, lines, types.intp, types.intp, types.intp), generate


@_step
def quad_size(typingctx: Any, lines: Any) -> Any:
    """Return how many pixels of a field `turn_quads` turns: the numbers in 128 bits."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _constant_index(QUAD_BYTES * 8 // signature.args[0].dtype.bitwidth)

    return types.intp(lines), generate


@_step
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
                    _shuffle(builder, a, b, range(2 * a.type.count))
                    for a, b in zip(parts[::2], parts[1::2], strict=True)
                ]
            rows.append(_to_floats(builder, parts[0], deal.dtype, deal.vector))
        for p, row in enumerate(_turn_parts(builder, rows)):
            place = builder.load(builder.gep(places, [_constant_index(p)]))
            deal.store(row, builder.add(place, at))
        return context.get_dummy_value()

    return types.void(source, lines, types.intp, types.intp, places, types.intp), generate


def _turn_parts(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """Turn squares of as many numbers as there are rows, each in its own part of the vectors."""
    size, n = len(rows), rows[0].type.count
    starts = range(0, n, size)

    def both(a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        return _shuffle(
            builder, a, b, [s + (k if k < size else n + k - size) for s in starts for k in lanes]
        )

    if size == 2:
        return [both(rows[0], rows[1], lanes) for lanes in ((0, 2), (1, 3))]
    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    a, b = (both(rows[0], rows[1], lanes) for lanes in (low, high))
    c, d = (both(rows[2], rows[3], lanes) for lanes in (low, high))
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    return [both(x, y, lanes) for x, y in ((a, c), (b, d)) for lanes in (low, high)]


def _downward(wide: int, lanes: int | None = None) -> Any:
    """Return a function of Numba's that sums up pixels of some rows, ``wide`` vectors wide.

    The vectors have ``lanes`` lanes, or all. Arguments:

    source, offset  pointer to pixels; bytes to the first pixel
    rows, count     pointer to intp: bytes from there to the pixel of each row
    weights         pointer to float, of each row
    out, at         pointer to float; where the sums go
    more            the sums go on from what lies there, instead of from 0
    """

    def typer(
        typingctx: Any,
        source: Any,
        offset: Any,
        rows: Any,
        count: Any,
        weights: Any,
        out: Any,
        at: Any,
        more: Any,
    ) -> Any:
        i = types.intp
        return types.void(source, i, rows, i, weights, out, i, types.boolean), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _, offset, rows, count, weights, out, at, more = args
        pixel, number = signature.args[0].dtype, signature.args[5].dtype
        kind, width = context.get_data_type(number), number.bitwidth // 8
        vector = ir.VectorType(kind, lanes or _lanes(number))
        raw, step = ir.VectorType(context.get_data_type(pixel), vector.count), pixel.bitwidth // 8
        fma = _fma(builder, vector)
        first = builder.gep(builder.bitcast(args[0], ir.IntType(8).as_pointer()), [offset])
        places, sums = [], []
        for i in range(wide):
            places.append(builder.gep(out, [builder.add(at, _constant_index(i * vector.count))]))
            sums.append(cgutils.alloca_once(builder, vector))
            nought = ir.Constant(vector, [ir.Constant(kind, 0.0)] * vector.count)
            builder.store(nought, sums[-1])
        with builder.if_then(more):
            for place, register in zip(places, sums, strict=True):
                builder.store(_load(builder, place, vector, width), register)
        with cgutils.for_range(builder, count, intp=_INDEX) as loop:
            row = builder.gep(first, [builder.load(builder.gep(rows, [loop.index]))])
            factor = _splat(builder, builder.load(builder.gep(weights, [loop.index])), vector)
            for i, register in enumerate(sums):
                place = builder.gep(row, [_constant_index(i * vector.count * step)])
                pixels = _to_floats(builder, _load(builder, place, raw, step), pixel, vector)
                done = builder.call(fma, [factor, pixels, builder.load(register)])
                builder.store(done, register)
        for place, register in zip(places, sums, strict=True):
            _store(builder, builder.load(register), place, width)
        return context.get_dummy_value()

    return _step(typer)


DOWN = 8
"""Vectors that `sum_down_block` sums up side by side."""
sum_down_block = _downward(DOWN)
sum_down_narrow = _downward(1)
sum_down_pixel = _downward(1, lanes=1)


@_step
def weigh_block(
    typingctx: Any, valid: Any, taps: Any, sizes: Any, tap_count: Any, weights: Any
) -> Any:
    """Write the sums of ``sizes`` over the valid pixels of BESIDE fields at stride 1, tap by tap.

    All are pointers: ``valid`` to uint8, 0 or 1; ``taps`` to intp, where the pixel of each tap of
    the first field lies; ``sizes`` and ``weights`` to float64.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        valid, taps, sizes, count, weights = args
        numbers = ir.VectorType(ir.DoubleType(), BESIDE)
        fma = _fma(builder, numbers)
        sums = cgutils.alloca_once(builder, numbers)
        builder.store(ir.Constant(numbers, [ir.Constant(ir.DoubleType(), 0.0)] * BESIDE), sums)
        with cgutils.for_range(builder, count, intp=_INDEX) as loop:
            place = builder.gep(valid, [builder.load(builder.gep(taps, [loop.index]))])
            seen = _load(builder, place, ir.VectorType(ir.IntType(8), BESIDE), 1)
            there = builder.sitofp(builder.zext(seen, ir.VectorType(_SHORT, BESIDE)), numbers)
            size = _splat(builder, builder.load(builder.gep(sizes, [loop.index])), numbers)
            builder.store(builder.call(fma, [size, there, builder.load(sums)]), sums)
        _store(builder, builder.load(sums), weights, 8)
        return context.get_dummy_value()

    return types.void(valid, taps, sizes, types.intp, weights), generate


@_step
def pointer_to(typingctx: Any, pointer: Any, count: Any) -> Any:
    """Return ``pointer`` moved on by ``count`` items."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), generate


@_step
def pointer_like(typingctx: Any, pointer: Any, address: Any) -> Any:
    """Return a pointer of the kind of ``pointer`` to ``address``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], args[0].type)

    return pointer(pointer, types.uintp), generate


@_step
def pointer_for(typingctx: Any, array: Any, address: Any) -> Any:
    """Return a pointer to ``address`` for numbers of the kind that ``array`` holds."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = context.get_data_type(signature.args[0].dtype)
        return builder.inttoptr(args[1], kind.as_pointer())

    return types.CPointer(array.dtype)(array, types.uintp), generate


@_step
def address_at(typingctx: Any, pointer: Any) -> Any:
    """Return the address that ``pointer`` holds."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], _INDEX)

    return types.uintp(pointer), generate


@_step
def call_at(typingctx: Any, function: Any, *numbers: Any) -> Any:
    """Call the compiled function at an address; pointers are passed as the numbers they are."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        values = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(ir.VoidType(), [_INDEX] * len(values))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    if len(numbers) == 1 and isinstance(numbers[0], types.BaseTuple):
        numbers = tuple(numbers[0].types)  # type: ignore[attr-defined]
    taken = types.StarArgTuple.from_types([_whole(number) for number in numbers])
    return types.void(types.uintp, taken), generate


def _whole(number: Any) -> Any:
    return types.uintp if number == types.uintp else types.intp
