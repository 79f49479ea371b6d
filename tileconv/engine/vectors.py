"""Vectors and pointers for the loops, as intrinsics and helpers that write LLVM code.

Numba compiles scalar code and leaves vectors to LLVM, which neither keeps a
register tile in registers nor transposes strided pixels in them. So the inner
steps are written as vector instructions, with what is here:

    pack.deinterleave     converts and deinterleaves pixels
    micro.register_tile   adds products up; all other modules of `micro` are built of it
    missing.replace       finds and replaces missing pixels

Every lane is one output and does what a scalar would do, so the bits depend on
neither the vector's width nor an output's place in it.

Addresses are bytes in uintp; nothing is checked.
"""

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

QUAD_BYTES = 16
"""The parts of a vector within which elements move cheaply."""

INDEX_TYPE = ir.IntType(64)
SHORT_TYPE = ir.IntType(32)


def _vector_bytes() -> int:
    """Bytes of a vector register of this machine."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


VECTOR_BYTES = _vector_bytes()


def intrinsic(typer: Callable[..., Any]) -> Any:
    """Return `numba.extending.intrinsic` of a typer, untyped: its calls take no typing context."""
    return extending.intrinsic(typer)


def lanes_of(kind: Any) -> int:
    """Return the elements of a floating type that a vector holds."""
    return VECTOR_BYTES * 8 // kind.bitwidth


def constant_index(number: int) -> ir.Constant:
    """Return an index that is known when the code is generated."""
    return ir.Constant(INDEX_TYPE, number)


def vector_fma(builder: ir.IRBuilder, vector: ir.VectorType) -> ir.Function:
    """Return LLVM's fused multiply-add for a type of vector."""
    size = 32 if isinstance(vector.element, ir.FloatType) else 64
    name = f"llvm.fma.v{vector.count}f{size}"
    kind = ir.FunctionType(vector, [vector] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def load_vector(
    builder: ir.IRBuilder, pointer: ir.Value, vector: ir.VectorType, align: int
) -> ir.Value:
    """Load a vector whose elements lie at a multiple of ``align`` bytes."""
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = align
    return loaded


def store_vector(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, align: int) -> None:
    """Store a vector whose elements lie at a multiple of ``align`` bytes."""
    stored = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()))
    stored.align = align


def splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Return a vector that holds ``value`` in every lane."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(SHORT_TYPE, 0))
    zeros = ir.Constant(ir.VectorType(SHORT_TYPE, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, nothing, zeros)


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Return a vector of some lanes of two, counted through both."""
    mask = ir.Constant(ir.VectorType(SHORT_TYPE, len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, mask)


def emit_prefetch(builder: ir.IRBuilder, place: ir.Value) -> None:
    """Prefetch the cache line at a pointer to bytes, soon to be read; any address will do."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, SHORT_TYPE, SHORT_TYPE, SHORT_TYPE])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, second_level, data = (ir.Constant(SHORT_TYPE, i) for i in (0, 2, 1))
    builder.call(function, [place, read, second_level, data])


@intrinsic
def lane_count(typingctx: Any, packed: Any) -> Any:
    """Return how many elements of ``packed``, an array or a pointer, a vector holds."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return constant_index(lanes_of(signature.args[0].dtype))

    return types.intp(packed), generate


@intrinsic
def store_float(typingctx: Any, value: Any, address: Any) -> Any:
    """Store ``value`` at ``address``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], args[0].type.as_pointer())
        builder.store(args[0], pointer).align = signature.args[0].bitwidth // 8
        return context.get_dummy_value()

    return types.void(value, types.uintp), generate


@intrinsic
def copy_bytes(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy bytes from an address to another; they do not overlap."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        target, source = (builder.inttoptr(address, byte) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp), generate


@intrinsic
def store_index(typingctx: Any, place: Any, address: Any) -> Any:
    """Store an address at an address that is a multiple of 8."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], INDEX_TYPE.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@intrinsic
def load_index(typingctx: Any, address: Any, number: Any) -> Any:
    """Return one of the intp at an address."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], INDEX_TYPE.as_pointer())
        return builder.load(builder.gep(pointer, [args[1]]))

    return types.intp(types.uintp, types.intp), generate


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Prefetch the cache line at ``address``, see `emit_prefetch`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        emit_prefetch(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uintp), generate


@intrinsic
def advance(typingctx: Any, pointer: Any, count: Any) -> Any:
    """Return ``pointer`` moved on by ``count`` items."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def pointer_like(typingctx: Any, pointer: Any, address: Any) -> Any:
    """Return a pointer of the type of ``pointer`` to ``address``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], args[0].type)

    return pointer(pointer, types.uintp), generate


@intrinsic
def record_at(typingctx: Any, pointer: Any) -> Any:
    """Return the record that ``pointer`` points to: its fields are read and written in place."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return args[0]  # a record is a pointer to its bytes

    return pointer.dtype(pointer), generate


def _pointer_of(kind: Any) -> Any:
    """Return an intrinsic that makes an address, intp or uintp, a pointer to elements of a type."""

    def typer(typingctx: Any, address: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_data_type(kind).as_pointer())

        return types.CPointer(kind)(address), generate

    return intrinsic(typer)


index_pointer = _pointer_of(types.intp)
byte_pointer = _pointer_of(types.uint8)


@intrinsic
def pointer_address(typingctx: Any, pointer: Any) -> Any:
    """Return the address that ``pointer`` holds."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], INDEX_TYPE)

    return types.uintp(pointer), generate


@intrinsic
def call_at(typingctx: Any, function: Any, *numbers: Any) -> Any:
    """Call the compiled function at an address; pointers are passed as addresses."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        values = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(ir.VoidType(), [INDEX_TYPE] * len(values))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    if len(numbers) == 1 and isinstance(numbers[0], types.BaseTuple):
        numbers = tuple(numbers[0].types)  # type: ignore[attr-defined,unused-ignore]
    taken = types.StarArgTuple.from_types([_whole(number) for number in numbers])
    return types.void(types.uintp, taken), generate


def _whole(number: Any) -> Any:
    return types.uintp if number == types.uintp else types.intp
