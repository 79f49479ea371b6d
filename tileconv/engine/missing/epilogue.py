"""The epilogue of a loop once a detector has found missing pixels: sums are normalized.

A detector is the address of its table (`missing.detect.DETECTION`), or 0. These
steps are written for LLVM: as compiled loops of their own they would add a tenth
to the time it takes to compile a kernel's.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.missing.detect import offset_of
from tileconv.engine.vectors import INDEX_TYPE, constant_index, intrinsic
from tileconv.engine.workspace import INDEX


def _load_field(builder: ir.IRBuilder, detector: ir.Value, name: str) -> ir.Value:
    table = builder.inttoptr(detector, INDEX_TYPE.as_pointer())
    return builder.load(builder.gep(table, [constant_index(offset_of(name) // INDEX)]))


def _all_of(builder: ir.IRBuilder, detector: ir.Value, fields: Sequence[str]) -> ir.Value:
    """Return whether there is a detector, and all of some fields of its table are not 0."""
    flag = cgutils.alloca_once_value(builder, cgutils.false_bit)
    with builder.if_then(cgutils.is_not_null(builder, detector)):
        found = cgutils.true_bit
        for field in fields:
            here = cgutils.is_not_null(builder, _load_field(builder, detector, field))
            found = builder.and_(found, here)
        builder.store(found, flag)
    return builder.load(flag)


def _asked(*fields: str) -> Any:
    """Return an intrinsic that does what `_all_of` does."""

    def typer(typingctx: Any, detector: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return _all_of(builder, args[0], fields)

        return types.boolean(types.uintp), generate

    return intrinsic(typer)


found_missing = _asked("normalize", "any_found")
"""Say whether a detector has found missing pixels, and sums are to be normalized."""
normalized_in_staging = _asked("normalize", "any_found", "write")
"""Say whether sums are to be normalized in a staging buffer, and then streamed."""


@intrinsic
def staging_for(typingctx: Any, detector: Any, out: Any, row_bytes: Any) -> Any:
    """Return (address, bytes from row to row) of where to make sums of ``out`` to be normalized."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        detector, *there = args
        staging = [cgutils.alloca_once_value(builder, value) for value in there]
        with builder.if_then(_all_of(builder, detector, ("normalize", "any_found", "write"))):
            for field, place in zip(("staging", "staging_bytes"), staging, strict=True):
                builder.store(_load_field(builder, detector, field), place)
        values = [builder.load(place) for place in staging]
        return context.make_tuple(builder, signature.return_type, values)

    kinds = types.uintp, types.intp
    return types.Tuple(kinds)(types.uintp, *kinds), generate


@intrinsic
def normalize_rows(
    typingctx: Any,
    detector: Any,
    first: Any,
    row_step: Any,
    count: Any,
    x: Any,
    columns: Any,
    sums: Any,
    row_bytes: Any,
    out: Any,
    out_row_bytes: Any,
) -> Any:
    """Normalize ``count`` rows of sums, just made, if a detector has found missing pixels.

    sums, row_bytes     see `staging_for`
    out, out_row_bytes  where they are to be; streamed there if they are staged
    first .. columns    see `missing.normalize`
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        detector, first, row_step, count, x, columns, sums, row_bytes, out, out_row_bytes = args

        def call(field: str, *values: ir.Value) -> None:
            kind = ir.FunctionType(ir.VoidType(), [INDEX_TYPE] * len(values))
            function = builder.inttoptr(_load_field(builder, detector, field), kind.as_pointer())
            builder.call(function, values)

        with builder.if_then(_all_of(builder, detector, ("normalize", "any_found"))):
            tables = [
                _load_field(builder, detector, name)
                for name in ("normalize_table", "normalize_bitmap")
            ]
            call("normalize", *tables, sums, row_bytes, first, row_step, count, x, columns)
            with builder.if_then(builder.icmp_unsigned("!=", sums, out)):
                call("write", sums, row_bytes, columns, count, out, out_row_bytes)
        return context.get_dummy_value()

    i, u = types.intp, types.uintp
    return types.void(u, i, i, i, i, i, u, i, u, i), generate
