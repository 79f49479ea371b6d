"""What the loops do once a sieve has found missing pixels.

A sieve is the address of its table (see `missing.detect`), or 0. These steps are written for
LLVM by hand: as loops of their own they would take a tenth of what it takes to compile a kernel's.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.missing.detect import ANY, ASIDE, ASIDE_PITCH, SETTLE, WRITE
from tileconv.engine.vectors import INDEX_TYPE, constant_index, step_of


def _entry(builder: ir.IRBuilder, sieve: ir.Value, number: int) -> ir.Value:
    table = builder.inttoptr(sieve, INDEX_TYPE.as_pointer())
    return builder.load(builder.gep(table, [constant_index(number)]))


def _all_of(builder: ir.IRBuilder, sieve: ir.Value, entries: Sequence[int]) -> ir.Value:
    """Return whether there is a sieve, and some entries of its table are not 0."""
    flag = cgutils.alloca_once_value(builder, cgutils.false_bit)
    with builder.if_then(cgutils.is_not_null(builder, sieve)):
        found = cgutils.true_bit
        for entry in entries:
            here = cgutils.is_not_null(builder, _entry(builder, sieve, entry))
            found = builder.and_(found, here)
        builder.store(found, flag)
    return builder.load(flag)


def _asked(*entries: int) -> Any:
    """Return a function of Numba's that says what `_all_of` does."""

    def typer(typingctx: Any, sieve: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return _all_of(builder, args[0], entries)

        return types.boolean(types.uintp), generate

    return step_of(typer)


found_by = _asked(SETTLE, ANY)
"""Say whether a sieve has found missing pixels, and sums are to be settled."""
settled_aside = _asked(SETTLE, ANY, WRITE)
"""Say whether they are to be settled before they are written past the caches."""


@step_of
def room_for(typingctx: Any, sieve: Any, out: Any, pitch: Any) -> Any:
    """Return (address, bytes from row to row) of where to make sums of ``out``, to be settled."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sieve, *there = args
        room = [cgutils.alloca_once_value(builder, value) for value in there]
        with builder.if_then(_all_of(builder, sieve, (SETTLE, ANY, WRITE))):
            for entry, place in zip((ASIDE, ASIDE_PITCH), room, strict=True):
                builder.store(_entry(builder, sieve, entry), place)
        values = [builder.load(place) for place in room]
        return context.make_tuple(builder, signature.return_type, values)

    kinds = types.uintp, types.intp
    return types.Tuple(kinds)(types.uintp, *kinds), generate


@step_of
def settle_rows(
    typingctx: Any,
    sieve: Any,
    first: Any,
    apart: Any,
    count: Any,
    x: Any,
    columns: Any,
    sums: Any,
    pitch: Any,
    out: Any,
    out_pitch: Any,
) -> Any:
    """Settle ``count`` rows of sums, just made, if a sieve has found missing pixels.

    sums, pitch       see `room_for`
    out, out_pitch    where they are to be, past the caches if they are not there yet
    first .. columns  see `missing.normalize`
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sieve, first, apart, count, x, columns, sums, pitch, out, out_pitch = args

        def call(entry: int, *values: ir.Value) -> None:
            kind = ir.FunctionType(ir.VoidType(), [INDEX_TYPE] * len(values))
            function = builder.inttoptr(_entry(builder, sieve, entry), kind.as_pointer())
            builder.call(function, values)

        with builder.if_then(_all_of(builder, sieve, (SETTLE, ANY))):
            tables = [_entry(builder, sieve, SETTLE + 1 + i) for i in range(3)]
            call(SETTLE, *tables, sums, pitch, first, apart, count, x, columns)
            with builder.if_then(builder.icmp_unsigned("!=", sums, out)):
                call(WRITE, sums, pitch, columns, count, out, out_pitch)
        return context.get_dummy_value()

    i, u = types.intp, types.uintp
    return types.void(u, i, i, i, i, i, u, i, u, i), generate
