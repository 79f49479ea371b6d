"""Missing pixels taken out of a row as it is dealt out, where there are any.

The loops deal every input row out once, and what deals it out can watch for
pixels meanwhile. A sieve stands in for it: it has a row dealt out, and only if
something was seen, it marks the row's pixels, copies it without the missing
ones and has the copy dealt out instead. A tile is neither looked at beforehand
nor copied.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numba import from_dtype, types

from tileconv import buffers
from tileconv.engine.jit import address_of, loop
from tileconv.engine.micro.panel_tile import rows_writer
from tileconv.engine.missing.normalize import EVERY, NONE, Settler, is_ready
from tileconv.engine.missing.validity import WORD, line_bytes, pick_bits, sift_pixels
from tileconv.engine.pack.deinterleave import FOUND_AFTER, pixel_at, pixel_bytes
from tileconv.engine.pack.rows import dealer, dealer_type, watchers
from tileconv.engine.vectors import ROWS, address_at, call_at, pointer_to
from tileconv.engine.workspace import INDEX, address

(
    WATCH,
    WATCH_TOO,
    FOUND,
    ANY,
    DEAL,
    DEAL_COPY,
    SIFT,
    KEEP,
    KEPT,
    KEPT_ROWS,
    KEPT_WIDTH,
    KEPT_PHASES,
    KEPT_WORDS,
    MASKS,
    SHIFTS,
    MARKS,
    HIDDEN,
    COPY,
    COPY_BYTES,
    NODATA,
    INSTEAD,
    KINDS,
    WRITE,
    ASIDE,
    ASIDE_PITCH,
    SETTLE,
) = range(26)
"""What a table of `_deal_sifted` holds:

WATCH, WATCH_TOO       what a dealer watches for (see `pack.deinterleave`)
FOUND, ANY             whether the last row had a missing pixel; whether any had one
DEAL, DEAL_COPY        addresses of dealers for rows as they are, and for copies
SIFT, KEEP             of `_sift_row` and `_keep_marks`
KEPT, KEPT_ROWS        addresses of the marks that are kept, or 0, and of an intp for each row
KEPT_WIDTH             pixels in a row of them
KEPT_PHASES, KEPT_WORDS
                       lines of marks that are kept of a row, and words in a line
MASKS, SHIFTS          addresses of `_phase_tables`
MARKS, HIDDEN, COPY    addresses of marks of one row; of what hides pixels, or 0; of the copy
COPY_BYTES             of a pixel of the copy
NODATA, INSTEAD        addresses of nodata and of what stands in for missing pixels
KINDS                  of missing pixels
WRITE                  of what writes sums that go past the caches once they are settled, or 0
ASIDE, ASIDE_PITCH     of room for ROWS rows of them, and bytes from one to the next
SETTLE                 what `missing.epilogue` needs, four addresses; 0 if others do it
"""
ENTRIES = SETTLE + 4
assert FOUND * INDEX == FOUND_AFTER  # a dealer writes it there
BY_VALUE, BY_NAN = 1, 2
"""Kinds of missing pixels: those that equal nodata; NaN."""


@dataclass(frozen=True)
class Gap:
    """What makes pixels missing, and what takes their place."""

    dtype: np.dtype
    """Of the pixels."""
    nodata: np.generic | None
    """Those that equal it are missing."""
    nan: bool
    """NaN is."""
    instead: np.generic
    """Takes their place: of the dtype of the pixels, or of a float that they are computed in."""

    @property
    def possible(self) -> bool:
        """A pixel may be missing for what it holds."""
        return self.nodata is not None or self.nan

    def table(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return (a table of `_deal_sifted` that knows this alone, what it refers to)."""
        nodata, instead = np.zeros(1, self.dtype), np.array([self.instead])
        table = np.zeros(ENTRIES, np.intp)
        watch = table[WATCH:FOUND].view(f"u{self.dtype.itemsize}")
        # a float that is none, and bits that are never exceeded; whole numbers go by KINDS too
        watch[:2] = ~watch[:2]
        if self.nodata is not None:
            nodata[0] = self.nodata
            watch[0] = nodata.view(watch.dtype)[0]
            table[KINDS] = BY_VALUE
        if self.nan:
            watch[1] = np.array([np.inf], self.dtype).view(watch.dtype)[0]
            table[KINDS] |= BY_NAN
        table[SIFT] = sifter(self.dtype, instead.dtype)
        table[NODATA], table[INSTEAD] = address(nodata), address(instead)
        return table, (nodata, instead)

    def any_in(self, plane: np.ndarray) -> bool:
        """Say whether a pixel of (H, W) is missing for what it holds."""
        if not self.possible:
            return False
        table, owners = self.table()
        width = plane.shape[1]
        row = np.empty(line_bytes(width), np.uint8), np.empty(width, self.instead.dtype)
        marks, copy = map(address, row)
        _look(address(table), address(plane), plane.shape, plane.strides, marks, copy, table)
        del owners, row
        return bool(table[FOUND])

    def take_out(
        self, plane: np.ndarray, hidden: np.ndarray | None, copy: np.ndarray, marks: np.ndarray
    ) -> None:
        """Copy pixels (H, W) into ``copy`` (H, W) without the missing ones.

        ``copy`` is of the dtype of ``instead``; ``hidden`` (H, W) is as
        for a `Sieve`; ``marks`` (H, `line_bytes`) uint8: bits, 0 for missing pixels, else 1.
        """
        table, owners = self.table()
        cover = None if hidden is None else np.ascontiguousarray(hidden)
        _take_out(
            address(table),
            address(plane),
            plane.shape,
            plane.strides,
            np.uintp(0) if cover is None else address(cover),
            address(marks),
            marks.strides[0],
            address(copy),
            copy.strides[0],
            table,
        )
        del owners, cover


class Sieve:
    """Finds the missing pixels of some planes while their rows are dealt out."""

    def __init__(self, gap: Gap, shape: tuple[int, ...], hidden: np.ndarray | None = None) -> None:
        """Make a sieve for planes of a shape (bands, H, W).

        ``hidden``, of this shape, is not 0 where a pixel is missing whatever it holds.
        """
        table, owners = gap.table()
        copy, row = np.empty(shape[2], gap.instead.dtype), np.empty(line_bytes(shape[2]), np.uint8)
        rows = np.zeros(shape[:2], np.intp)
        table[MARKS], table[COPY], table[COPY_BYTES] = address(row), address(copy), copy.itemsize
        table[KEPT_ROWS] = address(rows)
        table[KEPT_WIDTH] = shape[2]
        if hidden is not None:
            hidden = np.ascontiguousarray(hidden)
            table[HIDDEN] = address(hidden)
        self.rows = rows
        """(bands, H) intp: 0 where a row that was dealt out has no missing pixel, and no marks."""
        self.settlers: list[Settler | None] = []
        """Settle the sums of each kernel; empty if others do it."""
        self.settles = False
        """They do so as soon as sums are made."""
        self._aside, self._copies = np.zeros((ROWS, 0), np.float32), np.zeros((0, 0), gap.dtype)
        self._phases: tuple[np.ndarray, ...] = ()
        self._gap, self._table, self._address = gap, table, address(table)
        self._owners = *owners, copy, row, hidden

    def begin(self, marks: np.ndarray | None, stride: int, number: np.dtype) -> None:
        """Begin with planes of which nothing is known; their sums are of the dtype ``number``.

        ``marks`` (bands, H, phases, `line_bytes`), uint8, are overwritten in the ``rows`` that have
        a missing pixel: 0 for those, else 1, as many phases of the stride along x as there is room
        for. None if nobody asks. The caller holds them.
        """
        self._table[FOUND] = self._table[ANY] = self._table[KEPT] = 0
        self.rows[...] = 0
        if marks is not None:
            kept = address(marks)
            self._table[KEPT], self._table[KEEP] = kept, _keeper()
            self._table[KEPT_PHASES] = marks.shape[2]
            self._table[KEPT_WORDS] = marks.shape[3] * 8 // WORD
            self._phases = _phase_tables(stride, marks.shape[2])
            self._table[[MASKS, SHIFTS]] = [address(table) for table in self._phases]
            for settler in self.settlers:
                if settler is not None:
                    settler.begin(kept)
        # what settles them takes seconds to compile, for nothing where no pixel is missing; but
        # later kernels may read other pixels, and would leave other marks to the earlier ones
        self.settles = len(self.settlers) > 1 or (bool(self.settlers) and is_ready(number))

    @property
    def found(self) -> bool:
        """Some pixel was missing."""
        return bool(self._table[ANY])

    def start(
        self, kernel: int, number: np.dtype, stride: int, past: int
    ) -> tuple[np.uintp, np.uintp]:
        """Return what stands in for the dealer of the planes' pixels, and its table's address.

        ``kernel`` says whose sums are made, ``past`` how many there are in a row at the most if
        they are to be written past the caches, else 0.
        """
        table, copied = self._table, self._gap.instead.dtype
        self._settle_with(kernel, number, past)
        table[DEAL] = dealer(self._gap.dtype, number, stride, watches=True)
        table[DEAL_COPY] = dealer(copied, number, stride, watches=True)
        return _sifting_dealer(), self._address

    def start_rows(
        self, kernel: int, number: np.dtype, past: int, rows: int, width: int
    ) -> tuple[np.uintp, np.uintp, np.uintp, int]:
        """Begin where rows of pixels are read as they lie in memory, or as copies without gaps.

        Return what stands in for a dealer that lays nothing out, the table's address, and room for
        ``rows`` copies of ``width`` pixels: its address, and bytes from row to row. Where a row is
        to be copied to is written to COPY before it is dealt out, and FOUND says afterwards whether
        it was. Copies are of the dtype of the pixels. All else is as for `start`.
        """
        self._settle_with(kernel, number, past)
        self._copies = buffers.scratch("copies of rows", (rows, width), self._gap.dtype)
        self._table[DEAL], self._table[DEAL_COPY] = watchers(self._gap.dtype)
        return (
            _sifting_dealer(),
            self._address,
            address(self._copies),
            self._copies.strides[0],
        )

    def _settle_with(self, kernel: int, number: np.dtype, past: int) -> None:
        table, settler = self._table, self.settlers[kernel] if self.settles else None
        table[SETTLE:] = 0 if settler is None else settler.addresses(number)
        table[WRITE] = 0
        if settler is not None and past:
            self._aside = buffers.scratch("aside", (ROWS, past), number)
            table[WRITE], table[ASIDE] = rows_writer(number), address(self._aside)
            table[ASIDE_PITCH] = self._aside.strides[0]


def choose_dealer(
    pixel: np.dtype,
    number: np.dtype,
    stride: int,
    sieve: Sieve | None,
    *,
    kernel: int = 0,
    past: int = 0,
) -> tuple[np.uintp, np.uintp]:
    """Return what lays pixels out as numbers, and what it has to be told: the address of a sieve.

    Without one that is `pack.rows.dealer`, and 0; ``kernel`` and ``past`` are as for
    `Sieve.start`.
    """
    if sieve is None:
        return dealer(pixel, number, stride), np.uintp(0)
    return sieve.start(kernel, number, stride, past)


@cache
def _sifting_dealer() -> np.uintp:
    i, u = types.intp, types.uintp
    return address_of(_deal_sifted, dealer_type(u, i, u, u, types.CPointer(i)))


@loop
def _deal_sifted(  # type: ignore[no-untyped-def]
    source, step, width, stride, places, count, lines, ahead, ahead_bytes, mark, table
):
    """Deal a row out without its missing pixels; see `pack.rows`.

    It knows no dtype: pointers are addresses.
    """
    width = min(width, count * stride)  # what is to the right of it no output reads
    watch = address_at(pointer_to(table, WATCH))
    # the row may well be like the one before it
    alike = table[FOUND] != 0 or table[HIDDEN] != 0
    if not alike:
        call_at(
            np.uintp(table[DEAL]),
            source,
            step,
            width,
            stride,
            places,
            count,
            lines,
            ahead,
            ahead_bytes,
            mark,
            watch,
        )
    copy, marks = np.uintp(table[COPY]), np.uintp(table[MARKS])
    if alike or table[FOUND]:
        hidden = np.uintp(0)
        if table[HIDDEN]:
            hidden = np.uintp(table[HIDDEN] + mark)
        table[FOUND] = 0
        call_at(
            np.uintp(table[SIFT]),
            source,
            step,
            width,
            marks,
            hidden,
            np.uintp(table[NODATA]),
            table[KINDS],
            np.uintp(table[INSTEAD]),
            copy,
            address_at(pointer_to(table, FOUND)),
        )
    if table[KEPT] and (table[FOUND] or table[ANY]):
        row = mark // table[KEPT_WIDTH]
        call_at(
            np.uintp(table[KEEP]),
            marks,
            width,
            np.uintp(table[KEPT] + row * table[KEPT_PHASES] * table[KEPT_WORDS] * INDEX),
            mark - row * table[KEPT_WIDTH],
            np.uintp(table[KEPT_ROWS] + row * INDEX),
            table[FOUND],
            np.intp(stride),
            table[KEPT_PHASES],
            table[KEPT_WORDS],
            np.uintp(table[MASKS]),
            np.uintp(table[SHIFTS]),
        )
    found = table[FOUND]
    if not alike and found == 0:
        return
    deal = np.uintp(table[DEAL])
    if found:
        deal, source, step = np.uintp(table[DEAL_COPY]), copy, table[COPY_BYTES]
    call_at(
        deal,
        source,
        step,
        width,
        stride,
        places,
        count,
        lines,
        ahead if alike else np.uintp(0),
        ahead_bytes,
        mark,
        watch,
    )
    table[FOUND] = found  # the dealer has its own opinion
    table[ANY] |= found


@lru_cache(16)
def _phase_tables(stride: int, phases: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how marks are dealt out: (masks, shifts), each (phases, stride).

    They are for strides up to WORD, and empty for others. As many words as the stride hold WORD
    marks of each phase. Of each of them: which bits those are, and behind how many of the words
    before they come.
    """
    if stride > WORD:
        return np.zeros(0, np.uint64), np.zeros(0, np.intp)
    places = np.arange(WORD * stride).reshape(stride, WORD)  # of pixels, in words
    masks = np.zeros((phases, stride), np.uint64)
    counts = np.zeros((phases, stride), np.intp)
    for phase in range(phases):
        taken = places % stride == phase
        masks[phase] = np.packbits(taken, axis=1, bitorder="little").view("<u8").ravel()
        counts[phase] = taken.sum(axis=1)
    return masks, np.cumsum(counts, axis=1) - counts


@cache
def _keeper() -> np.uintp:
    marks, index, i = types.CPointer(types.uint64), types.CPointer(types.intp), types.intp
    kinds = marks, i, marks, i, index, i, i, i, i, marks, index
    return address_of(_keep_marks, types.void(*kinds))


@loop
def _keep_marks(  # type: ignore[no-untyped-def]
    marks, width, kept, before, row, found, stride, phases, words, masks, shifts
):
    """Keep the marks of a part of a row, if a pixel of the row is missing, so far.

    marks, width   pointer to uint64, those of this part, and how many
    kept           pointer to where those of the row are kept: a line of ``words`` for each of the
                   first ``phases`` phases of a stride; ``before`` pixels, a multiple of it, lie to
                   the left
    row            pointer to intp: 1 if such a pixel was found before, updated
    found          not 0 if one is found here
    masks, shifts  pointers to what `_phase_tables` returns
    """
    first, shift = before // stride // WORD, np.uint64(before // stride % WORD)
    if found != 0 and row[0] == 0:
        row[0] = 1
        for phase in range(phases):
            for i in range(first + 1):
                kept[phase * words + i] = EVERY
    if row[0] == 0:
        return
    looked = (width + WORD - 1) // WORD
    count = (looked + stride - 1) // stride
    near, far = found != 0 and 1 < stride <= WORD, found != 0 and stride > WORD
    for phase in range(phases):
        line = pointer_to(kept, phase * words + first)
        under = line[0] & ~(EVERY << shift)
        for i in range(count):
            word = EVERY
            if found:  # without a stride all marks of a word are of one phase
                word = marks[i] if stride == 1 else NONE
            begin = i * WORD * stride + phase
            for bit in range(min(WORD, (width - begin + stride - 1) // stride) if far else 0):
                at = begin + bit * stride
                mark = marks[at // WORD] >> np.uint64(at % WORD) & np.uint64(1)
                word |= mark << np.uint64(bit)
            for k in range(min(stride, looked - i * stride) if near else 0):
                bits = pick_bits(marks[i * stride + k], masks[phase * stride + k])
                word |= bits << np.uint64(shifts[phase * stride + k])
            line[i] = under | word << shift
            under = word >> np.uint64(1) >> np.uint64(WORD - 1) - shift
        line[count] = under


def in_phases(marks: np.ndarray, width: int, stride: int, kept: np.ndarray) -> None:
    """Lay marks of rows (bands, H, `line_bytes`) out in stride phases, as a `Sieve` keeps them.

    ``kept`` (bands, H, phases, `line_bytes`) is overwritten.
    """
    pitches = marks.strides[1], kept.strides[1]
    count, words = marks.shape[0] * marks.shape[1], kept.shape[3] * 8 // WORD
    found = np.ones(1, np.intp)
    tables = _phase_tables(stride, kept.shape[2])
    lines = stride, kept.shape[2], words, *map(address, tables)
    _lay_marks(
        _keeper(), address(marks), width, address(kept), pitches, count, address(found), lines
    )
    del found, tables


@loop
def _lay_marks(keep, marks, width, kept, pitches, count, found, lines):  # type: ignore[no-untyped-def]
    for row in range(count):
        call_at(
            keep,
            marks + np.uintp(row * pitches[0]),
            width,
            kept + np.uintp(row * pitches[1]),
            0,
            found,
            1,
            *lines,
        )


@loop
def _look(table_at, source, shape, strides, marks, copy, table):  # type: ignore[no-untyped-def]
    """Look at the rows of a plane up to the first one with a missing pixel."""
    rows, columns = shape
    y = 0
    while y < rows and not table[FOUND]:
        call_at(
            np.uintp(table[SIFT]),
            source + np.uintp(y * strides[0]),
            strides[1],
            columns,
            marks,
            np.uintp(0),
            np.uintp(table[NODATA]),
            table[KINDS],
            np.uintp(table[INSTEAD]),
            copy,
            table_at + np.uintp(FOUND * INDEX),
        )
        y += 1


@loop
def _take_out(  # type: ignore[no-untyped-def]
    table_at, source, shape, strides, hidden, marks, mark_pitch, out, pitch, table
):
    """Mark and copy all rows of a plane."""
    rows, columns = shape
    for y in range(rows):
        cover = np.uintp(0)
        if hidden != np.uintp(0):
            cover = hidden + np.uintp(y * columns)
        call_at(
            np.uintp(table[SIFT]),
            source + np.uintp(y * strides[0]),
            strides[1],
            columns,
            marks + np.uintp(y * mark_pitch),
            cover,
            np.uintp(table[NODATA]),
            table[KINDS],
            np.uintp(table[INSTEAD]),
            out + np.uintp(y * pitch),
            table_at + np.uintp(FOUND * INDEX),
        )


@cache
def sifter(pixel: np.dtype, copied: np.dtype) -> np.uintp:
    """Return the address of `_sift_row` for pixels of one dtype and copies of another."""
    pixels, copies = (types.CPointer(from_dtype(dtype)) for dtype in (pixel, copied))
    marks, bytes_, i = types.CPointer(types.uint64), types.CPointer(types.uint8), types.intp
    kinds = (pixels, i, i, marks, bytes_, pixels, i, copies, copies, types.CPointer(i))
    return address_of(_sift_row, types.void(*kinds))


@loop
def _sift_row(  # type: ignore[no-untyped-def]
    source, step, width, marks, hidden, nodata, kinds, instead, copy, found
):
    """Mark the pixels of a row and copy it without the missing ones; say if there are some.

    source   pointer to the row's first pixel; step: bytes from one to the next
    width    pixels to look at
    marks    pointer to uint64, overwritten
    hidden   pointer to uint8, not 0 where a pixel is missing, or to nowhere
    nodata   pointer to what missing pixels equal; kinds: BY_VALUE, BY_NAN or both
    instead  pointer to what takes their place in ``copy``, a pointer
    found    pointer to intp, set to 1 if one is missing
    """
    by_value, by_nan = kinds & BY_VALUE != 0, kinds & BY_NAN != 0
    covered = address_at(hidden) != np.uintp(0)
    beside = step == pixel_bytes(source) and width >= WORD
    valid = True
    done = 0
    while beside and done < width:
        first = min(done, width - WORD)  # the last ones overlap
        valid &= sift_pixels(
            pointer_to(source, first),
            nodata[0],
            by_value,
            by_nan,
            pointer_to(hidden, first if covered else 0),
            pointer_to(marks, done // WORD),
            done - first,
            instead[0],
            pointer_to(copy, first),
        )
        done += WORD
    for x in range(done, width):
        value = pixel_at(source, x * step)
        lost = (by_value & (value == nodata[0])) | (by_nan & (value != value))  # noqa: PLR0124
        if covered:
            lost |= hidden[x] != 0
        if x % WORD == 0:
            marks[x // WORD] = NONE
        marks[x // WORD] |= np.uint64(not lost) << np.uint64(x % WORD)
        copy[x] = instead[0] if lost else value
        valid &= not lost
    if not valid:
        found[0] = 1
