"""Missing pixels, detected and replaced while rows are packed.

The loops pack every input row once, and packing can detect pixels at the same
time. `_pack_without_missing` replaces the row packer: it packs the row; if a
missing pixel was detected, it replaces the missing pixels in a copy, notes in the
validity plane which they are, and packs the copy. No pass over the tile is needed
beforehand, and no copy of it.
"""

from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv import buffers
from tileconv.engine.jit import address_of, loop
from tileconv.engine.missing.replace import REPLACEMENT, MissingPixelRule, row_replacer
from tileconv.engine.pack.deinterleave import DETECTED_OFFSET
from tileconv.engine.pack.rows import row_detectors, row_packer, row_packer_signature
from tileconv.engine.vectors import (
    byte_pointer,
    call_at,
    copy_bytes,
    index_pointer,
    pointer_address,
    record_at,
)
from tileconv.engine.workspace import address

DETECTION = np.dtype(
    [
        (name, np.intp)
        for name in (
            "sought",
            "sought_bound",
            "found",
            "any_found",
            "pack",
            "pack_copy",
            "valid",
            "rows",
            "row_width",
            "given",
            "seen",
            "copy",
            "copy_bytes",
            *REPLACEMENT.names,  # type: ignore[misc]
        )
    ]
)
"""What `_pack_without_missing` knows of some planes:

sought, sought_bound  what a row packer detects (see `pack.deinterleave`)
found, any_found      whether the last row had a missing pixel; whether any row had one
pack, pack_copy       addresses of row packers for rows as they are, and for copies
valid, rows           addresses of the validity plane, or 0, and of an intp for each of its rows
row_width             pixels of a row
given                 address of a plane that is 0 where a pixel is missing whatever it holds, or 0
seen, copy            addresses of what is valid of one row, and of its copy
copy_bytes            of a pixel of the copy
replace .. replaced   a REPLACEMENT
"""


FIELDS: tuple[str, ...] = DETECTION.names  # type: ignore[assignment]


def offset_of(name: str) -> int:
    """Return at which byte of a DETECTION a field lies."""
    return int(DETECTION.fields[name][1])  # type: ignore[index]


assert offset_of("found") == DETECTED_OFFSET  # a row packer writes it there
REPLACEMENT_OFFSET = offset_of("replace")


class MissingDetector:
    """Detects the missing pixels of some planes while their rows are packed."""

    def __init__(
        self,
        rule: MissingPixelRule,
        shape: tuple[int, ...],
        given: np.ndarray | None,
        valid: np.ndarray | None,
    ) -> None:
        """Begin with planes of a shape (bands, H, W), of which nothing is known.

        ``given``, contiguous, is 0 where a pixel is missing whatever it holds. ``valid``, uint8, is
        overwritten in the `rows` that have a missing pixel: 0 for those, else 1. None if it is not
        needed. Both are of this shape.
        """
        rows = np.zeros(shape[:2], np.intp)
        copy, seen = np.empty(shape[2], rule.substitute.dtype), np.empty(shape[2], np.uint8)
        nodata, substitute = rule.operands()
        fields = {
            "rows": _place(rows),
            "row_width": shape[2],
            "seen": _place(seen),
            "copy": _place(copy),
            "copy_bytes": copy.itemsize,
            "valid": 0 if valid is None else _place(valid),
            "given": 0 if given is None else _place(given),
            "replace": int(row_replacer(rule.dtype, copy.dtype, rule.kinds)),
            "nodata": _place(nodata),
            "substitute": _place(substitute),
            "kinds": rule.kinds,
        }
        table = np.array([fields.get(name, 0) for name in FIELDS], np.intp)
        sought = table.view(f"u{rule.dtype.itemsize}")[:2]
        # a float that is NaN, and bits that are never exceeded; whole numbers go by ``kinds`` too
        sought[...] = ~sought
        if rule.nodata is not None:
            sought[0] = nodata.view(sought.dtype)[0]
        if rule.nan:
            sought[1] = np.array([np.inf], rule.dtype).view(sought.dtype)[0]
        self.rows = rows
        """(bands, H) intp: 0 where ``valid`` says nothing, for no missing pixel was packed."""
        self._rule, self._table, self._copies = rule, table, copy
        self._owners = nodata, substitute, seen, copy, given, valid

    @property
    def found(self) -> bool:
        """Some pixel was missing."""
        return bool(self._table[FIELDS.index("any_found")])

    def start(self, compute: np.dtype, stride: int) -> tuple[np.uintp, np.uintp]:
        """Return a packer for rows that may hold missing pixels, and the address of its table."""
        pixel, copied = self._rule.dtype, self._rule.substitute.dtype
        return self._pack_with(
            row_packer(pixel, compute, stride, detects=True),
            row_packer(copied, compute, stride, detects=True),
        )

    def _pack_with(self, pack: np.uintp, pack_copy: np.uintp) -> tuple[np.uintp, np.uintp]:
        self._table[FIELDS.index("pack")] = pack
        self._table[FIELDS.index("pack_copy")] = pack_copy
        return _detecting_packer(), address(self._table)

    def start_rows(self, rows: int, width: int) -> tuple[np.uintp, np.uintp, np.uintp, int]:
        """Begin where rows of pixels are read in place, or as copies without missing pixels.

        Return a row packer that packs nothing, the address of its table, and room for ``rows``
        copies of ``width`` pixels: its address, and bytes from row to row. The caller writes to
        ``copy`` of the table where the next row is to be copied to, and ``found`` says afterwards
        whether it was. Copies are of the dtype of the pixels.
        """
        self._copies = buffers.scratch("copies of rows", (rows, width), self._rule.dtype)
        packer = self._pack_with(*row_detectors(self._rule.dtype))
        return *packer, address(self._copies), self._copies.strides[0]


def _place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def choose_row_packer(
    pixel: np.dtype, compute: np.dtype, stride: int, detector: MissingDetector | None
) -> tuple[np.uintp, np.uintp]:
    """Return what packs pixels as floats, and its last argument: the address of a table, or 0.

    Without a detector these are `pack.rows.row_packer` and 0.
    """
    if detector is None:
        return row_packer(pixel, compute, stride), np.uintp(0)
    return detector.start(compute, stride)


@cache
def _detecting_packer() -> np.uintp:
    i, u = types.intp, types.uintp
    table = types.CPointer(from_dtype(DETECTION))
    return address_of(_pack_without_missing, row_packer_signature(u, i, u, u, table))


@loop
def _pack_without_missing(  # type: ignore[no-untyped-def]
    source,
    step,
    width,
    stride,
    offsets,
    count,
    packed,
    prefetch_at,
    prefetch_bytes,
    pixel_index,
    table_at,
):
    """Pack a row without its missing pixels; see `pack.rows`. It knows no dtype."""
    table = record_at(table_at)
    width = min(width, count * stride)  # what is to the right of it no output reads
    sought = pointer_address(table_at)  # its first fields
    # a row with missing pixels is likely to follow another one
    alike = table.found != 0 or table.given != 0
    if not alike:
        call_at(
            np.uintp(table.pack),
            source,
            step,
            width,
            stride,
            offsets,
            count,
            packed,
            prefetch_at,
            prefetch_bytes,
            pixel_index,
            sought,
        )
        if not table.found:
            return
    given = np.uintp(table.given)
    if given != np.uintp(0):
        given += np.uintp(pixel_index)
    table.replaced = 0
    call_at(
        np.uintp(table.replace),
        source,
        step,
        width,
        given,
        np.uintp(table.seen),
        np.uintp(table.copy),
        sought + np.uintp(REPLACEMENT_OFFSET),
        table.kinds,
    )
    found = table.replaced
    pack = np.uintp(table.pack)
    if found:
        _note_missing(table, pixel_index, width)
        pack, source, step = np.uintp(table.pack_copy), np.uintp(table.copy), table.copy_bytes
    call_at(
        pack,
        source,
        step,
        width,
        stride,
        offsets,
        count,
        packed,
        prefetch_at if alike else np.uintp(0),
        prefetch_bytes,
        pixel_index,
        sought,
    )
    table.found = found  # the row packer of a copy has overwritten it
    table.any_found |= found


@loop
def _note_missing(table, pixel_index, width):  # type: ignore[no-untyped-def]
    """Write what is valid of a part of a row, some of which is missing, to the validity plane."""
    if not table.valid:
        return
    row = pixel_index // table.row_width
    flags = index_pointer(table.rows)
    if not flags[row]:
        flags[row] = 1
        valid = byte_pointer(table.valid + row * table.row_width)
        for x in range(table.row_width):
            valid[x] = 1
    copy_bytes(np.uintp(table.valid + pixel_index), np.uintp(table.seen), width)
