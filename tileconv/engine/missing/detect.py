"""Missing pixels, detected and replaced while rows are packed.

The loops pack every input row once, and packing can detect pixels at the same
time. `_pack_without_missing` replaces the row packer: it packs the row; if a
missing pixel was detected, it builds the validity bits of the row, replaces the
missing pixels in a copy, and packs the copy. No pass over the tile is needed
beforehand, and no copy of it.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numba import from_dtype, types

from tileconv import buffers
from tileconv.engine.blocking import MR
from tileconv.engine.jit import address_of, loop
from tileconv.engine.micro.stores import rows_streamer
from tileconv.engine.missing.normalize import ALL_BITS, NO_BITS, Normalizer, is_ready
from tileconv.engine.missing.validity import (
    WORD_BITS,
    bitmap_row_bytes,
    extract_bits,
    replace_missing_pixels,
)
from tileconv.engine.pack.deinterleave import DETECTED_OFFSET, pixel_at, pixel_bytes
from tileconv.engine.pack.rows import row_detectors, row_packer, row_packer_signature
from tileconv.engine.vectors import advance, call_at, pointer_address, record_at
from tileconv.engine.workspace import INDEX, address

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
            "replace",
            "store_bitmap",
            "stored",
            "stored_rows",
            "row_width",
            "phases",
            "line_words",
            "masks",
            "shifts",
            "bitmap",
            "hidden",
            "copy",
            "copy_bytes",
            "nodata",
            "substitute",
            "kinds",
            "write",
            "staging",
            "staging_bytes",
            "normalize",
            "normalize_table",
            "normalize_bitmap",
        )
    ]
)
"""What `_pack_without_missing` knows of some planes:

sought, sought_bound   what a row packer detects (see `pack.deinterleave`)
found, any_found       whether the last row had a missing pixel; whether any row had one
pack, pack_copy        addresses of row packers for rows as they are, and for copies
replace, store_bitmap  of `_replace_missing` and `_store_bitmap`
stored, stored_rows    addresses of the bitmap that is stored, or 0, and of an intp for each row
row_width              pixels of a row
phases, line_words     lines of validity bits that are stored of a row, and words of a line
masks, shifts          addresses of `_phase_tables`
bitmap, hidden, copy   addresses of the validity bits of one row; of what hides pixels, or 0; of the
                       copy of a row
copy_bytes             of a pixel of the copy
nodata, substitute     addresses of nodata and of what replaces missing pixels
kinds                  of missing pixels
write                  address of `rows_streamer` for normalized sums that are streamed, or 0
staging, staging_bytes address of a buffer for MR rows of such sums; bytes from row to row
normalize .. normalize_bitmap
                       what `missing.epilogue` calls, and its tables; 0 if others normalize
"""


def offset_of(name: str) -> int:
    """Return at which byte of a DETECTION a field lies."""
    return int(DETECTION.fields[name][1])  # type: ignore[index]


assert offset_of("found") == DETECTED_OFFSET  # a row packer writes it there
BY_VALUE, BY_NAN = 1, 2
"""Kinds of missing pixels: those that equal nodata; NaN."""


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

    def table(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return (a DETECTION of this alone, what it refers to)."""
        nodata, substitute = np.zeros(1, self.dtype), np.array([self.substitute])
        table = np.zeros(1, DETECTION)
        sought = table.view(f"u{self.dtype.itemsize}")[:2]
        # a float that is NaN, and bits that are never exceeded; whole numbers go by ``kinds`` too
        sought[...] = ~sought
        if self.nodata is not None:
            nodata[0] = self.nodata
            sought[0] = nodata.view(sought.dtype)[0]
            table["kinds"] = BY_VALUE
        if self.nan:
            sought[1] = np.array([np.inf], self.dtype).view(sought.dtype)[0]
            table["kinds"] |= BY_NAN
        table["replace"] = row_replacer(self.dtype, substitute.dtype)
        table["nodata"], table["substitute"] = address(nodata), address(substitute)
        return table, (nodata, substitute)

    def any_in(self, plane: np.ndarray) -> bool:
        """Say whether a pixel of (H, W) is missing for what it holds."""
        if not self.possible:
            return False
        table, owners = self.table()
        width = plane.shape[1]
        row = np.empty(bitmap_row_bytes(width), np.uint8), np.empty(width, self.substitute.dtype)
        bitmap, copy = map(address, row)
        _detect_in_plane(
            address(table), address(plane), plane.shape, plane.strides, bitmap, copy, table
        )
        del owners, row
        return bool(table["found"][0])

    def replace_in(
        self, plane: np.ndarray, hidden: np.ndarray | None, copy: np.ndarray, bitmap: np.ndarray
    ) -> None:
        """Copy pixels (H, W) into ``copy`` (H, W) without the missing ones.

        ``copy`` is of the dtype of ``substitute``; ``hidden`` (H, W) is as for a `MissingDetector`;
        ``bitmap`` (H, `bitmap_row_bytes`) uint8: bits, 0 for missing pixels, else 1.
        """
        table, owners = self.table()
        cover = None if hidden is None else np.ascontiguousarray(hidden)
        _replace_in_plane(
            address(table),
            address(plane),
            plane.shape,
            plane.strides,
            np.uintp(0) if cover is None else address(cover),
            address(bitmap),
            bitmap.strides[0],
            address(copy),
            copy.strides[0],
            table,
        )
        del owners, cover


class MissingDetector:
    """Detects the missing pixels of some planes while their rows are packed."""

    def __init__(
        self, rule: MissingPixelRule, shape: tuple[int, ...], hidden: np.ndarray | None = None
    ) -> None:
        """Make a detector for planes of a shape (bands, H, W).

        ``hidden``, of this shape, is not 0 where a pixel is missing whatever it holds.
        """
        table, owners = rule.table()
        copy = np.empty(shape[2], rule.substitute.dtype)
        row = np.empty(bitmap_row_bytes(shape[2]), np.uint8)
        rows = np.zeros(shape[:2], np.intp)
        table["bitmap"], table["copy"] = address(row), address(copy)
        table["copy_bytes"] = copy.itemsize
        table["stored_rows"] = address(rows)
        table["row_width"] = shape[2]
        if hidden is not None:
            hidden = np.ascontiguousarray(hidden)
            table["hidden"] = address(hidden)
        self.rows = rows
        """(bands, H) intp: 0 where a packed row has no missing pixel, and no validity bits."""
        self.normalizers: list[Normalizer | None] = []
        """Normalize the sums of each kernel; empty if that is done afterwards."""
        self.normalizes = False
        """They do so as soon as sums are made."""
        self._staging, self._copies = np.zeros((MR, 0), np.float32), np.zeros((0, 0), rule.dtype)
        self._phases: tuple[np.ndarray, ...] = ()
        self._rule, self._table, self._address = rule, table[0], address(table)
        self._owners = *owners, table, copy, row, hidden

    def begin(self, bitmap: np.ndarray | None, stride: int, compute: np.dtype) -> None:
        """Begin with planes of which nothing is known; their sums are of the dtype ``compute``.

        ``bitmap`` (bands, H, phases, `bitmap_row_bytes`), uint8, is overwritten in the ``rows``
        that have a missing pixel: 0 for those, else 1, as many phases of the stride along x as
        there is room for. None if it is not needed. The caller holds it.
        """
        for name in ("found", "any_found", "stored"):
            self._table[name] = 0
        self.rows[...] = 0
        if bitmap is not None:
            stored = address(bitmap)
            self._table["stored"], self._table["store_bitmap"] = stored, _bitmap_storer()
            self._table["phases"] = bitmap.shape[2]
            self._table["line_words"] = bitmap.shape[3] * 8 // WORD_BITS
            self._phases = _phase_tables(stride, bitmap.shape[2])
            self._table["masks"], self._table["shifts"] = map(address, self._phases)
            for normalizer in self.normalizers:
                if normalizer is not None:
                    normalizer.begin(stored)
        # a normalizer takes seconds to compile, in vain where no pixel is missing; but the kernels
        # of a bank may read different pixels, and a later one would overwrite what is stored
        ready = bool(self.normalizers) and is_ready(compute)
        self.normalizes = len(self.normalizers) > 1 or ready

    @property
    def found(self) -> bool:
        """Some pixel was missing."""
        return bool(self._table["any_found"])

    def start(
        self, kernel: int, compute: np.dtype, stride: int, stream_columns: int
    ) -> tuple[np.uintp, np.uintp]:
        """Return a packer that replaces that of the planes' pixels, and the address of its table.

        ``kernel`` says whose sums are made, ``stream_columns`` how many there are in a row at most
        if they are streamed, else 0.
        """
        table, copied = self._table, self._rule.substitute.dtype
        self._normalize_with(kernel, compute, stream_columns)
        table["pack"] = row_packer(self._rule.dtype, compute, stride, detects=True)
        table["pack_copy"] = row_packer(copied, compute, stride, detects=True)
        return _detecting_packer(), self._address

    def start_rows(
        self, kernel: int, compute: np.dtype, stream_columns: int, rows: int, width: int
    ) -> tuple[np.uintp, np.uintp, np.uintp, int]:
        """Begin where rows of pixels are read in place, or as copies without missing pixels.

        Return a row packer that packs nothing, the address of its table, and room for ``rows``
        copies of ``width`` pixels: its address, and bytes from row to row. The caller writes to
        ``copy`` of the table where the next row is to be copied to, and ``found`` says afterwards
        whether it was. Copies are of the dtype of the pixels. All else is as for `start`.
        """
        self._normalize_with(kernel, compute, stream_columns)
        self._copies = buffers.scratch("copies of rows", (rows, width), self._rule.dtype)
        self._table["pack"], self._table["pack_copy"] = row_detectors(self._rule.dtype)
        return (
            _detecting_packer(),
            self._address,
            address(self._copies),
            self._copies.strides[0],
        )

    def _normalize_with(self, kernel: int, compute: np.dtype, stream_columns: int) -> None:
        table, normalizer = self._table, self.normalizers[kernel] if self.normalizes else None
        called = (0, 0, 0) if normalizer is None else normalizer.addresses(compute)
        table["normalize"], table["normalize_table"], table["normalize_bitmap"] = called
        table["write"] = 0
        if normalizer is not None and stream_columns:
            self._staging = buffers.scratch("aside", (MR, stream_columns), compute)
            table["write"], table["staging"] = rows_streamer(compute), address(self._staging)
            table["staging_bytes"] = self._staging.strides[0]


def choose_row_packer(
    pixel: np.dtype,
    compute: np.dtype,
    stride: int,
    detector: MissingDetector | None,
    *,
    kernel: int = 0,
    stream_columns: int = 0,
) -> tuple[np.uintp, np.uintp]:
    """Return what packs pixels as floats, and its last argument: the address of a table, or 0.

    Without a detector these are `pack.rows.row_packer` and 0; ``kernel`` and ``stream_columns`` are
    as for `MissingDetector.start`.
    """
    if detector is None:
        return row_packer(pixel, compute, stride), np.uintp(0)
    return detector.start(kernel, compute, stride, stream_columns)


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
    alike = table.found != 0 or table.hidden != 0
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
    copy, bitmap = np.uintp(table.copy), np.uintp(table.bitmap)
    if alike or table.found:
        hidden = np.uintp(0)
        if table.hidden:
            hidden = np.uintp(table.hidden + pixel_index)
        table.found = 0
        call_at(
            np.uintp(table.replace),
            source,
            step,
            width,
            bitmap,
            hidden,
            np.uintp(table.nodata),
            table.kinds,
            np.uintp(table.substitute),
            copy,
            pointer_address(table_at) + np.uintp(DETECTED_OFFSET),
        )
    if table.stored and (table.found or table.any_found):
        row = pixel_index // table.row_width
        call_at(
            np.uintp(table.store_bitmap),
            bitmap,
            width,
            np.uintp(table.stored + row * table.phases * table.line_words * INDEX),
            pixel_index - row * table.row_width,
            np.uintp(table.stored_rows + row * INDEX),
            table.found,
            np.intp(stride),
            table.phases,
            table.line_words,
            np.uintp(table.masks),
            np.uintp(table.shifts),
        )
    found = table.found
    if not alike and found == 0:
        return
    pack = np.uintp(table.pack)
    if found:
        pack, source, step = np.uintp(table.pack_copy), copy, table.copy_bytes
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


@lru_cache(16)
def _phase_tables(stride: int, phases: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how validity bits are deinterleaved: (masks, shifts), each (phases, stride).

    They are for strides up to WORD_BITS, and empty for others. As many words as the stride hold
    WORD_BITS bits of each phase. Of each of them: which bits those are, and behind how many bits of
    the words before they come.
    """
    if stride > WORD_BITS:
        return np.zeros(0, np.uint64), np.zeros(0, np.intp)
    offsets = np.arange(WORD_BITS * stride).reshape(stride, WORD_BITS)  # of pixels, in words
    masks = np.zeros((phases, stride), np.uint64)
    counts = np.zeros((phases, stride), np.intp)
    for phase in range(phases):
        taken = offsets % stride == phase
        masks[phase] = np.packbits(taken, axis=1, bitorder="little").view("<u8").ravel()
        counts[phase] = taken.sum(axis=1)
    return masks, np.cumsum(counts, axis=1) - counts


@cache
def _bitmap_storer() -> np.uintp:
    bitmap, index, i = types.CPointer(types.uint64), types.CPointer(types.intp), types.intp
    kinds = bitmap, i, bitmap, i, index, i, i, i, i, bitmap, index
    return address_of(_store_bitmap, types.void(*kinds))


@loop
def _store_bitmap(  # type: ignore[no-untyped-def]
    bitmap, width, stored, before, row, found, stride, phases, words, masks, shifts
):
    """Store the validity bits of a part of a row, if a pixel of the row is missing, so far.

    bitmap, width  pointer to uint64, the bits of this part, and how many
    stored         pointer to where those of the row are stored: a line of ``words`` for each of the
                   first ``phases`` phases of a stride; ``before`` pixels, a multiple of it, lie to
                   the left
    row            pointer to intp: 1 if such a pixel was found before, updated
    found          not 0 if one is found here
    masks, shifts  pointers to what `_phase_tables` returns
    """
    first, shift = before // stride // WORD_BITS, np.uint64(before // stride % WORD_BITS)
    if found != 0 and row[0] == 0:
        row[0] = 1
        for phase in range(phases):
            for i in range(first + 1):
                stored[phase * words + i] = ALL_BITS
    if row[0] == 0:
        return
    looked = (width + WORD_BITS - 1) // WORD_BITS
    count = (looked + stride - 1) // stride
    near, far = found != 0 and 1 < stride <= WORD_BITS, found != 0 and stride > WORD_BITS
    for phase in range(phases):
        line = advance(stored, phase * words + first)
        under = line[0] & ~(ALL_BITS << shift)
        for i in range(count):
            word = ALL_BITS
            if found:  # without a stride all validity bits of a word are of one phase
                word = bitmap[i] if stride == 1 else NO_BITS
            begin = i * WORD_BITS * stride + phase
            for bit in range(min(WORD_BITS, (width - begin + stride - 1) // stride) if far else 0):
                at = begin + bit * stride
                pixel_index = bitmap[at // WORD_BITS] >> np.uint64(at % WORD_BITS) & np.uint64(1)
                word |= pixel_index << np.uint64(bit)
            for k in range(min(stride, looked - i * stride) if near else 0):
                bits = extract_bits(bitmap[i * stride + k], masks[phase * stride + k])
                word |= bits << np.uint64(shifts[phase * stride + k])
            line[i] = under | word << shift
            under = word >> np.uint64(1) >> np.uint64(WORD_BITS - 1) - shift
        line[count] = under


def bitmap_by_phase(bitmap: np.ndarray, width: int, stride: int, stored: np.ndarray) -> None:
    """Lay validity bits of rows (bands, H, `bitmap_row_bytes`) out in stride phases.

    ``stored`` (bands, H, phases, `bitmap_row_bytes`) is overwritten, as a `MissingDetector` does.
    """
    row_bytes = bitmap.strides[1], stored.strides[1]
    count, words = bitmap.shape[0] * bitmap.shape[1], stored.shape[3] * 8 // WORD_BITS
    found = np.ones(1, np.intp)
    tables = _phase_tables(stride, stored.shape[2])
    layout = stride, stored.shape[2], words, *map(address, tables)
    _store_bitmaps(
        _bitmap_storer(),
        address(bitmap),
        width,
        address(stored),
        row_bytes,
        count,
        address(found),
        layout,
    )
    del found, tables


@loop
def _store_bitmaps(keep, bitmap, width, stored, row_bytes, count, found, layout):  # type: ignore[no-untyped-def]
    for row in range(count):
        call_at(
            keep,
            bitmap + np.uintp(row * row_bytes[0]),
            width,
            stored + np.uintp(row * row_bytes[1]),
            0,
            found,
            1,
            *layout,
        )


@loop
def _detect_in_plane(table_at, source, shape, strides, bitmap, copy, tables):  # type: ignore[no-untyped-def]
    """Search the rows of a plane up to the first one with a missing pixel."""
    table = tables[0]
    rows, columns = shape
    y = 0
    while y < rows and not table.found:
        call_at(
            np.uintp(table.replace),
            source + np.uintp(y * strides[0]),
            strides[1],
            columns,
            bitmap,
            np.uintp(0),
            np.uintp(table.nodata),
            table.kinds,
            np.uintp(table.substitute),
            copy,
            table_at + np.uintp(DETECTED_OFFSET),
        )
        y += 1


@loop
def _replace_in_plane(  # type: ignore[no-untyped-def]
    table_at, source, shape, strides, hidden, bitmap, bitmap_bytes, out, row_bytes, tables
):
    """Classify and copy all rows of a plane."""
    table = tables[0]
    rows, columns = shape
    for y in range(rows):
        cover = np.uintp(0)
        if hidden != np.uintp(0):
            cover = hidden + np.uintp(y * columns)
        call_at(
            np.uintp(table.replace),
            source + np.uintp(y * strides[0]),
            strides[1],
            columns,
            bitmap + np.uintp(y * bitmap_bytes),
            cover,
            np.uintp(table.nodata),
            table.kinds,
            np.uintp(table.substitute),
            out + np.uintp(y * row_bytes),
            table_at + np.uintp(DETECTED_OFFSET),
        )


@cache
def row_replacer(pixel: np.dtype, copied: np.dtype) -> np.uintp:
    """Return the address of `_replace_missing` for pixels of one dtype and copies of another."""
    pixels, copies = (types.CPointer(from_dtype(dtype)) for dtype in (pixel, copied))
    bitmap, bytes_, i = types.CPointer(types.uint64), types.CPointer(types.uint8), types.intp
    kinds = (pixels, i, i, bitmap, bytes_, pixels, i, copies, copies, types.CPointer(i))
    return address_of(_replace_missing, types.void(*kinds))


@loop
def _replace_missing(  # type: ignore[no-untyped-def]
    source, step, width, bitmap, hidden, nodata, kinds, substitute, copy, found
):
    """Write the validity bits of a row and copy it without missing pixels; say if there are some.

    source      pointer to the row's first pixel; step: bytes from one to the next
    width       pixels to look at
    bitmap      pointer to uint64, overwritten
    hidden      pointer to uint8, not 0 where a pixel is missing, or to nowhere
    nodata      pointer to what missing pixels equal; kinds: BY_VALUE, BY_NAN or both
    substitute  pointer to what replaces them in ``copy``, a pointer
    found       pointer to intp, set to 1 if one is missing
    """
    by_value, by_nan = kinds & BY_VALUE != 0, kinds & BY_NAN != 0
    covered = pointer_address(hidden) != np.uintp(0)
    adjacent = step == pixel_bytes(source) and width >= WORD_BITS
    valid = True
    done = 0
    while adjacent and done < width:
        first = min(done, width - WORD_BITS)  # the last ones overlap
        valid &= replace_missing_pixels(
            advance(source, first),
            nodata[0],
            by_value,
            by_nan,
            advance(hidden, first if covered else 0),
            advance(bitmap, done // WORD_BITS),
            done - first,
            substitute[0],
            advance(copy, first),
        )
        done += WORD_BITS
    for x in range(done, width):
        value = pixel_at(source, x * step)
        missing = (by_value & (value == nodata[0])) | (by_nan & (value != value))  # noqa: PLR0124
        if covered:
            missing |= hidden[x] != 0
        if x % WORD_BITS == 0:
            bitmap[x // WORD_BITS] = NO_BITS
        bitmap[x // WORD_BITS] |= np.uint64(not missing) << np.uint64(x % WORD_BITS)
        copy[x] = substitute[0] if missing else value
        valid &= not missing
    if not valid:
        found[0] = 1
