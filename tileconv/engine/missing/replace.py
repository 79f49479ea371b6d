"""Missing pixels of rows and planes: found, replaced in a copy, and told by a validity plane.

A validity plane holds a byte for each pixel, 1 where it is valid and 0 where it is missing. The
loops read it like any other plane of pixels: `missing.normalize` weighs fields so.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils

from tileconv.engine.jit import address_of, loop
from tileconv.engine.pack.deinterleave import pixel_at, pixel_bytes, to_floats
from tileconv.engine.vectors import (
    advance,
    call_at,
    intrinsic,
    load_vector,
    pointer_address,
    pointer_like,
    record_at,
    splat,
    store_vector,
)
from tileconv.engine.workspace import address

TOGETHER = 16
"""Pixels that are classified at a time: masks of longer vectors are slow."""
BYTE = ir.IntType(8)
BY_VALUE, BY_NAN = 1, 2
"""Kinds of missing pixels: those that equal nodata; NaN."""

REPLACEMENT = np.dtype(
    [(name, np.intp) for name in ("replace", "nodata", "substitute", "kinds", "replaced")]
)
"""What replaces missing pixels:

replace             address of `_replace_missing`
nodata, substitute  addresses of nodata and of what replaces missing pixels
kinds               BY_VALUE, BY_NAN or both
replaced            set to 1 where a pixel is missing
"""


@dataclass(frozen=True)
class MissingPixelRule:
    """Which pixels are missing, and what replaces them."""

    dtype: np.dtype
    """Of the pixels."""
    nodata: np.generic | None
    """Those that equal it are missing."""
    nan: bool
    """NaN is."""
    substitute: np.generic
    """Replaces them: of the dtype of the pixels, or of a float that they are computed in."""

    @property
    def possible(self) -> bool:
        """Whether a pixel may be missing for what it holds."""
        return self.nodata is not None or self.nan

    def into(self, dtype: np.dtype) -> "MissingPixelRule":
        """Return the rule for copies of another dtype."""
        return replace(self, substitute=dtype.type(self.substitute))

    @property
    def kinds(self) -> int:
        """BY_VALUE, BY_NAN or both."""
        return BY_VALUE * (self.nodata is not None) | BY_NAN * self.nan

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        """Return nodata and the substitute, in memory."""
        nodata = np.zeros(1, self.dtype) if self.nodata is None else np.array([self.nodata])
        return nodata, np.array([self.substitute])

    def replacement(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return (a REPLACEMENT, what it refers to)."""
        nodata, substitute = self.operands()
        table = np.zeros(1, REPLACEMENT)
        function = row_replacer(self.dtype, substitute.dtype, self.kinds)
        table[0] = function, address(nodata), address(substitute), self.kinds, 0
        return table, (nodata, substitute)

    def any_in(self, plane: np.ndarray) -> bool:
        """Say whether a pixel of (H, W) is missing for what it holds."""
        if not self.possible:
            return False
        table, owners = self.replacement()
        width = plane.shape[1]
        row = np.empty(width, np.uint8), np.empty(width, self.substitute.dtype)
        valid, copy = map(address, row)
        _detect_in_plane(
            address(table), address(plane), plane.shape, plane.strides, valid, copy, table
        )
        del owners, row
        return bool(table["replaced"][0])

    def replace_in(
        self, plane: np.ndarray, given: np.ndarray | None, copy: np.ndarray, valid: np.ndarray
    ) -> None:
        """Copy pixels (H, W) into ``copy`` (H, W) without the missing ones.

        ``copy`` is of the dtype of ``substitute``; pixels are missing, too, where ``given`` (H, W)
        is 0, uint8 or bool with contiguous rows; ``valid`` (H, W) uint8 becomes a validity plane.
        """
        table, owners = self.replacement()
        _replace_in_plane(
            address(table),
            address(plane),
            plane.shape,
            plane.strides,
            np.uintp(0) if given is None else address(given),
            0 if given is None else given.strides[0],
            address(valid),
            valid.strides[0],
            address(copy),
            copy.strides[0],
            table,
        )
        del owners


@loop
def _detect_in_plane(table_at, source, shape, strides, valid, copy, tables):  # type: ignore[no-untyped-def]
    """Search the rows of a plane up to the first one with a missing pixel."""
    table = tables[0]
    rows, columns = shape
    y = 0
    while y < rows and not table.replaced:
        call_at(
            np.uintp(table.replace),
            source + np.uintp(y * strides[0]),
            strides[1],
            columns,
            np.uintp(0),
            valid,
            copy,
            table_at,
            table.kinds,
        )
        y += 1


@loop
def _replace_in_plane(  # type: ignore[no-untyped-def]
    table_at, source, shape, strides, given, given_bytes, valid, valid_bytes, out, out_bytes, tables
):
    """Classify and copy all rows of a plane."""
    table = tables[0]
    rows, columns = shape
    for y in range(rows):
        call_at(
            np.uintp(table.replace),
            source + np.uintp(y * strides[0]),
            strides[1],
            columns,
            given + np.uintp(y * given_bytes),
            valid + np.uintp(y * valid_bytes),
            out + np.uintp(y * out_bytes),
            table_at,
            table.kinds,
        )


@cache
def row_replacer(pixel: np.dtype, copied: np.dtype, kinds: int) -> np.uintp:
    """Return the address of `_replace_missing` for pixels of one dtype and copies of another."""
    pixels, copies = (types.CPointer(from_dtype(dtype)) for dtype in (pixel, copied))
    bytes_, table = types.CPointer(types.uint8), types.CPointer(from_dtype(REPLACEMENT))
    i, kind = types.intp, types.literal(kinds)
    signature = types.void(pixels, i, i, bytes_, bytes_, copies, table, kind)
    return address_of(_replace_missing, signature)


@loop
def _replace_missing(source, step, width, given, valid, copy, table_at, kinds):  # type: ignore[no-untyped-def]
    """Tell which pixels of a row are valid, and copy it without missing ones.

    source    pointer to the row's first pixel; step: bytes from one to the next
    width     pixels to look at
    given     pointer to uint8, 0 where a pixel is missing, or to nowhere
    valid     pointer to uint8, overwritten
    copy      pointer, overwritten
    table_at  pointer to REPLACEMENT
    kinds     its kinds of missing pixels, a constant
    """
    table = record_at(table_at)
    by_value, by_nan = kinds & BY_VALUE != 0, kinds & BY_NAN != 0
    nodata = pointer_like(source, np.uintp(table.nodata))[0]
    substitute = pointer_like(copy, np.uintp(table.substitute))[0]
    covered = pointer_address(given) != np.uintp(0)
    whole = True
    done = 0
    if step == pixel_bytes(source) and width >= TOGETHER:
        while done < width:
            done = min(done, width - TOGETHER)  # the last ones overlap
            whole &= replace_missing_pixels(
                advance(source, done),
                nodata,
                kinds,
                advance(given, done if covered else 0),
                advance(valid, done),
                substitute,
                advance(copy, done),
            )
            done += TOGETHER
    for x in range(done, width):
        value = pixel_at(source, x * step)
        missing = (by_value & (value == nodata)) | (by_nan & (value != value))  # noqa: PLR0124
        if covered:
            missing |= given[x] == 0
        valid[x] = not missing
        copy[x] = substitute if missing else value
        whole &= not missing
    if not whole:
        table.replaced = 1


@intrinsic
def replace_missing_pixels(
    typingctx: Any,
    pixels: Any,
    nodata: Any,
    kinds: Any,
    given: Any,
    valid: Any,
    substitute: Any,
    copy: Any,
) -> Any:
    """Classify and copy TOGETHER pixels, missing ones replaced; say whether all are valid.

    Missing are pixels of some ``kinds``, a constant: those that equal ``nodata``, NaN; and those
    that are 0 in ``given``, a pointer to uint8 or to nowhere. ``pixels``, ``valid`` and ``copy``
    are pointers.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pixels, nodata, _, given, valid, substitute, copy = args
        dtype, made = signature.args[0].dtype, signature.args[6].dtype
        bytes_ = ir.VectorType(BYTE, TOGETHER)
        vector = ir.VectorType(context.get_data_type(dtype), TOGETHER)
        target = ir.VectorType(context.get_data_type(made), TOGETHER)
        cover = cgutils.alloca_once_value(builder, ir.Constant(bytes_, [1] * TOGETHER))
        with builder.if_then(cgutils.is_not_null(builder, given)):
            builder.store(load_vector(builder, given, bytes_, 1), cover)
        values = load_vector(builder, pixels, vector, dtype.bitwidth // 8)
        none = ir.Constant(bytes_, [0] * TOGETHER)
        there = builder.icmp_unsigned("!=", builder.load(cover), none)
        if kinds.literal_value & BY_VALUE:
            same = builder.fcmp_ordered if isinstance(dtype, types.Float) else builder.icmp_unsigned
            equal = same("==", values, splat(builder, nodata, vector))
            there = builder.and_(there, builder.not_(equal))
        if kinds.literal_value & BY_NAN:
            there = builder.and_(there, builder.fcmp_ordered("ord", values, values))
        store_vector(builder, builder.zext(there, bytes_), valid, 1)
        if dtype != made:
            values = to_floats(builder, values, dtype, target)
        values = builder.select(there, values, splat(builder, substitute, target))
        store_vector(builder, values, copy, made.bitwidth // 8)
        bits = ir.IntType(TOGETHER)
        return builder.icmp_signed("==", builder.bitcast(there, bits), bits(-1))

    if not isinstance(kinds, types.IntegerLiteral):
        return None
    return types.boolean(pixels, pixels.dtype, kinds, given, valid, copy.dtype, copy), generate
