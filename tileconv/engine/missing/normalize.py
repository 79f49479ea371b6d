"""Sums of fields with missing pixels, settled by the weight of those that are valid."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv import buffers
from tileconv.convolution import Taps
from tileconv.engine.jit import address_of, call, loop
from tileconv.engine.missing.validity import (
    BESIDE,
    BLOCKS,
    BLOCKS_GATHERED,
    GATHERED,
    WORD,
    add_words,
    blocks_that_are,
    first_bit,
    gather_words,
    join_rows,
    join_words,
    lose_block,
    settle_block,
    weigh_blocks,
)
from tileconv.engine.vectors import address_at, call_at, pointer_like, pointer_to
from tileconv.engine.workspace import INDEX, address

NONE, EVERY = np.uint64(0), np.uint64(2**64 - 1)
"""A word of marks of missing pixels, and of valid ones."""


@dataclass(frozen=True)
class Rule:
    """What becomes of the sum of a field with missing pixels."""

    scale: bool
    """It is multiplied by ``total / valid``, in float64, where that is not 1."""
    least: float
    """It is missing, that is NaN, where ``valid / total`` is less."""
    empty: bool
    """It is missing where ``valid`` is 0."""
    counts: bool = False
    """Taps are counted, instead of their weights added up: not one may be missing unnoticed."""


Factors = tuple[np.ndarray, np.ndarray]
"""A kernel of rank one: its column and its row, float64."""

(
    STRIDE_Y,
    STRIDE_X,
    SPAN,
    PHASES,
    PITCH,
    ROWS,
    ROW_COUNT,
    ROWS_HERE,
    WORDS,
    WORDS_EACH,
    ROOM,
    LOST,
    TAPS,
    PLACES,
    SIZES,
    SHARE,
    SHARE_PITCH,
    RULED,
    SCALE,
    EMPTY,
    PRESENCE,
    ROW,
    LINES,
    RING,
    LINE_BLOCKS,
    DOWN_SIZES,
    LINES_HERE,
    MADE,
    SEEN,
    KNOWN,
    WANTED,
) = range(31)
"""What a table of `_settle_rows` holds:

STRIDE_Y, STRIDE_X    input pixels between fields
SPAN                  pixels from a field's first column of taps to its last one
PHASES, PITCH         lines of marks of a row, one for each stride phase; words in a line
ROWS, ROW_COUNT       address of the rows that a field at the top reads; how many
ROWS_HERE             address of room for where the marks of those of some field begin
WORDS, WORDS_EACH     address of room for four lines of marks; words in each
ROOM                  of room for the places of BLOCKS blocks, and for the blocks of a row, twice
LOST                  address of what rows have missing pixels
TAPS, PLACES, SIZES   how many taps; addresses of where the mark of each lies, in bits from the
                      first one of all, and of their weights. With RING: those of a row
SHARE, SHARE_PITCH    address of the share of outputs, or 0; numbers in a row
RULED, SCALE, EMPTY   whether there is a `Rule`, and what it says
PRESENCE              whether only fields without a valid pixel are missing, and taps lie everywhere
ROW                   address of `_settle_row`
LINES                 address of room for the weights of fields
RING                  how many lines of it hold the weights of a row's taps, for rows of pixels; 0:
                      fields are weighed tap by tap
LINE_BLOCKS           blocks of BESIDE weights in such a line
DOWN_SIZES            address of the weights of the rows
LINES_HERE            address of room for where the lines of some field begin
MADE                  address of what says which row and column each block of them is of
SEEN, KNOWN           address of which output each block of a row was last asked for; how many rows
                      are known from the output row before
WANTED                address of room for the places of blocks, of marks and of lines
"""
ENTRIES = WANTED + 1
TOTAL, LEAST, WEIGHTS = range(3)
"""What it knows as float64: the weight of a whole field, the least one, and room for weights."""


class Settler:
    """Settles the sums of one kernel, row by row.

    The weight of a field's valid pixels is the sum of their ``|w|`` in float64,
    tap by tap; of a kernel that is summed up in two passes, in two passes too,
    along the rows and then down the columns. It is added up only where some are
    missing and some are not.
    """

    def __init__(
        self,
        valid: np.ndarray,
        lost: np.ndarray,
        width: int,
        taps: Taps,
        sampling: tuple[tuple[int, int], tuple[int, int]],
        rule: Rule | None,
        share: np.ndarray | None,
        factors: Factors | None = None,
    ) -> None:
        """Lay a kernel out that has taps.

        Parameters
        ----------
        valid
            (bands, H, phases, `line_bytes`) uint8, marks of rows of ``width`` pixels, 0 where one
            is missing, else 1, see `missing.validity`; the phases that fields read, at least.
            SLACK more may be read.
        lost
            (bands, H) intp, 0 where a row has no missing pixel: ``valid`` may then hold anything
            there, and is mended where it is looked at.
        sampling
            Stride and dilation, (y, x).
        rule
            None leaves the sums as they are.
        share
            (OH, OW) float64, rows contiguous; lowered to the share of the weight that is valid,
            where it is less.
        factors
            Of a kernel on one band that is summed up in two passes.
        """
        (stride_y, stride_x), (step_y, step_x) = sampling
        y, x = taps.y.astype(np.intp) * step_y, taps.x.astype(np.intp) * step_x
        _, height, phases, pitch = valid.shape
        pitch //= WORD // 8
        bands = np.unique(taps.band).astype(np.intp) * height
        rows = (bands[:, None] + np.unique(y)).ravel()
        span = int(x.max()) + 1
        reach = (span - 1) // stride_x + 1  # marks of a phase that a field reads
        columns = (width - span) // stride_x + 1
        blocks = columns // BESIDE + 2
        table, numbers = np.zeros(ENTRIES, np.intp), np.zeros(WEIGHTS + 2 * BESIDE)
        table[[STRIDE_Y, STRIDE_X, SPAN]] = stride_y, stride_x, span
        table[[PHASES, PITCH]] = phases, pitch
        table[ROW_COUNT] = rows.size
        counts = rule is not None and rule.counts
        # numbers of 8 bytes, by the entries that say where they lie
        self._room = {
            WORDS: 4 * _row_words(columns, reach),
            ROOM: 2 * (BLOCKS + blocks),
            LINES: blocks * BESIDE,
        }
        if factors is not None:
            x = np.flatnonzero(factors[1]).astype(np.intp) * step_x
        places = x % stride_x * pitch * WORD + x // stride_x
        if factors is None:
            places += (taps.band.astype(np.intp) * height + y) * phases * pitch * WORD
            sizes = np.abs(taps.exact)
            if counts:
                sizes = np.ones_like(sizes)
            total = np.cumsum(sizes)[-1]  # one after the other, as below
        else:
            down, sizes = (np.abs(line[np.flatnonzero(line)]) for line in factors)
            if counts:
                down, sizes = np.ones_like(down), np.ones_like(sizes)
            total = _join(down, np.cumsum(sizes)[-1])
            ring = int(rows[-1] - rows[0]) + 1
            table[[RING, LINE_BLOCKS]] = ring, blocks
            if ring == rows.size:
                table[KNOWN] = max(0, ring - stride_y)
            self._room |= {
                LINES: ring * blocks * BESIDE,
                WANTED: 2 * rows.size * blocks,
                LINES_HERE: rows.size,
                MADE: ring * blocks,
                SEEN: blocks,
            }
        arrays: dict[int, np.ndarray] = {
            ROWS: rows,
            ROWS_HERE: np.empty_like(rows),
            LOST: lost,
            PLACES: places,
            SIZES: sizes,
        }
        if factors is not None:
            arrays[DOWN_SIZES] = down
        if share is not None:
            arrays[SHARE], table[SHARE_PITCH] = share, share.strides[0] // share.itemsize
        for entry, array in arrays.items():
            table[entry] = address(array)
        table[[TAPS, WORDS_EACH]] = sizes.size, _row_words(columns, reach)
        numbers[[TOTAL, LEAST]] = total, -1
        if rule is not None:
            table[[RULED, SCALE, EMPTY]] = True, rule.scale, rule.empty
            numbers[LEAST] = rule.least * total
            whole = taps.exact.size == rows.size * span
            counted = rule.scale or rule.least > 0 or share is not None
            table[PRESENCE] = whole and not counted
        self._valid, self._held = address(valid), np.empty(0, np.intp)
        self._table, self._numbers, self._owners = table, numbers, arrays

    def begin(self, valid: np.uintp) -> None:
        """Begin with other marks, at an address; the caller holds them."""
        self._valid = valid

    def addresses(self, number: np.dtype) -> tuple[np.uintp, ...]:
        """Return what `settle_rows` is told: a function for sums of a dtype, and its tables.

        Nothing is known of the marks then. They are good until the thread asks another settler.
        """
        rows, row = settler(number)
        room = buffers.scratch("settler", (sum(self._room.values()),), np.dtype(np.intp))
        place = int(address(room))
        for entry, count in self._room.items():
            self._table[entry] = place
            place += count * INDEX
        if MADE in self._room:  # these two come last
            room[-self._room[MADE] - self._room[SEEN] :] = 0
        self._table[ROW] = row
        self._held = room
        return rows, address(self._table), address(self._numbers), self._valid

    def settle(self, sums: np.ndarray) -> None:
        """Settle all sums (OH, OW) in place."""
        rows, columns = sums.shape
        settle, *tables = self.addresses(sums.dtype)
        call(settle, *tables, address(sums), sums.strides[0], 0, 1, rows, 0, columns)


def _row_words(columns: int, reach: int) -> int:
    """Return the words of a line of marks, gathered, and beyond, where looks at fields go."""
    return (columns + WORD + 2 * reach) // WORD + 2 + GATHERED


def _join(sizes: np.ndarray, weight: float) -> float:
    """Return what `join_rows` makes of lines of one weight: fused multiply-adds, rounded once."""
    total = 0.0
    try:
        for size in sizes:
            total = float(Fraction(float(size)) * Fraction(float(weight)) + Fraction(total))
    except OverflowError:
        return np.inf
    return total


_ready: set[np.dtype] = set()


def is_ready(number: np.dtype) -> bool:
    """Say whether sums of a dtype can be settled without compiling anything."""
    return number in _ready


@cache
def settler(number: np.dtype) -> tuple[np.uintp, np.uintp]:
    """Return the addresses of `_settle_rows`, and of `_settle_row` for sums of a dtype."""
    index, floats, i = types.CPointer(types.intp), types.CPointer(types.float64), types.intp
    marks, sums, u = types.CPointer(types.uint64), types.CPointer(from_dtype(number)), types.uintp
    many = index, floats, marks, u, i, i, i, i, i, i
    one = index, floats, marks, sums, i, marks, marks, i, i, i
    found = tuple(
        address_of(function, types.void(*kinds))
        for function, kinds in ((_settle_rows, many), (_settle_row, one))
    )
    _ready.add(number)
    return found  # type: ignore[return-value]


@loop
def _settle_rows(  # type: ignore[no-untyped-def]
    table, numbers, valid, sums, pitch, first, apart, count, x, columns
):
    """Settle some rows of sums. It knows no dtype.

    table, numbers  pointers to intp and float64, see above
    valid           pointer to uint64
    sums, pitch     address of the first sum; the next row lies ``pitch`` bytes further on
    first, apart    output row of the first of ``count`` rows, and rows from one to the next
    x, columns      output column of the first sum of a row, and how many are there
    """
    words, phases, row_count = table[PITCH], table[PHASES], table[ROW_COUNT]
    lost = pointer_like(table, np.uintp(table[LOST]))
    rows = pointer_like(table, np.uintp(table[ROWS]))
    here = pointer_like(table, np.uintp(table[ROWS_HERE]))
    every = pointer_like(valid, np.uintp(table[WORDS]))
    some = pointer_to(every, table[WORDS_EACH])
    low, high = pointer_to(some, table[WORDS_EACH]), pointer_to(some, 2 * table[WORDS_EACH])
    asked = some if table[PRESENCE] else every
    looked = (columns + WORD - 1) // WORD
    behind = EVERY << np.uint64(columns % WORD) if columns % WORD else NONE
    for j in range(count):
        top = (first + j * apart) * table[STRIDE_Y]
        found = False
        for r in range(row_count):
            found |= lost[rows[r] + top] != 0
        if not found:
            continue
        for r in range(row_count):
            row = rows[r] + top
            here[r] = row * phases * words + x // WORD
            if lost[row] == 0:
                lost[row] = 1
                marks = pointer_to(valid, row * phases * words)
                for i in range(phases * words):
                    marks[i] = EVERY
        for phase in range(min(table[STRIDE_X], table[SPAN])):
            reach = (table[SPAN] - 1 - phase) // table[STRIDE_X] + 1
            marks = pointer_to(valid, phase * words)
            wide = looked + 2 + reach // WORD  # fields begin and end within words
            for i in range(0, wide, GATHERED):
                at = pointer_to(marks, i)
                gather_words(at, here, row_count, pointer_to(low, i), pointer_to(high, i))
            done = 1
            while done < reach:  # marks come to tell of twice as many
                step = min(done, reach - done)
                far, near = step // WORD, step % WORD
                for i in range(0, wide, GATHERED):
                    join_words(pointer_to(low, i), pointer_to(high, i), far, near)
                done += step
            for i in range(0, looked, GATHERED):
                lows, highs = pointer_to(low, i), pointer_to(high, i)
                to_every, to_some = pointer_to(every, i), pointer_to(some, i)
                add_words(lows, highs, x % WORD, to_every, to_some, phase == 0)
        every[looked - 1] |= behind
        some[looked - 1] |= behind
        whole = True
        for i in range(looked):
            whole &= asked[i] == EVERY
        if not whole:
            call_at(
                np.uintp(table[ROW]),
                address_at(table),
                address_at(numbers),
                address_at(valid),
                sums + np.uintp(j * pitch),
                columns,
                address_at(asked),
                address_at(some),
                top,
                x,
                (first + j * apart) * table[SHARE_PITCH] + x,
            )


@loop
def _settle_row(table, numbers, valid, sums, columns, asked, some, top, x, share_at):  # type: ignore[no-untyped-def]
    """Settle a row of sums, some of whose fields have missing pixels.

    asked     pointer to words: which fields have what is asked for, all their pixels or, with
              PRESENCE, one
    some      pointer to words: which have a valid pixel
    top, x    row of the first field's first pixel, column of the first output
    share_at  where the share of the first output lies
    """
    ruled, scale, loses = table[RULED] != 0, table[SCALE] != 0, table[EMPTY] != 0
    shared = table[SHARE] != 0
    total, least = numbers[TOTAL], numbers[LEAST]
    bits = pointer_like(table, np.uintp(table[ROOM]))
    places_here = pointer_to(bits, BLOCKS)
    blocks = pointer_to(places_here, BLOCKS)
    empties = pointer_to(blocks, columns // BESIDE + 2)
    far_empty = ruled and (loses or least > 0) and not shared
    mixed, lost = 0, 0
    for i in range(0, (columns + WORD - 1) // WORD, GATHERED):
        whole = blocks_that_are(pointer_to(asked, i), -1)
        empty = blocks_that_are(pointer_to(some, i), 0) if far_empty else NONE
        left = columns // BESIDE + (columns % BESIDE != 0) - i * WORD // BESIDE
        here = ~(EVERY << np.uint64(min(BLOCKS_GATHERED, left)))
        empty &= here
        others = here & ~whole & ~empty
        while others:
            blocks[mixed] = i * WORD + first_bit(others) * BESIDE
            others &= others - np.uint64(1)
            mixed += 1
        while empty:
            empties[lost] = i * WORD + first_bit(empty) * BESIDE
            empty &= empty - np.uint64(1)
            lost += 1
    for block in range(lost):
        lose_block(pointer_to(sums, empties[block]))
    ring, row_count, row_bits = table[RING], table[ROW_COUNT], table[PHASES] * table[PITCH] * WORD
    lines = pointer_like(numbers, np.uintp(table[LINES]))
    lines_here = pointer_like(table, np.uintp(table[LINES_HERE]))
    wanting = pointer_like(table, np.uintp(table[WANTED]))
    wanted = mixed
    base = top * row_bits + x
    if ring:
        rows = pointer_like(table, np.uintp(table[ROWS]))
        made = pointer_like(table, np.uintp(table[MADE]))
        seen = pointer_like(table, np.uintp(table[SEEN]))
        wanted = 0
        for r in range(row_count):
            lines_here[r] = (rows[r] + top) % ring * table[LINE_BLOCKS] * BESIDE
        for i in range(mixed):
            # most are there since the row before
            known = seen[blocks[i] // BESIDE] == base - table[STRIDE_Y] * row_bits + 1
            seen[blocks[i] // BESIDE] = base + 1
            for r in range(table[KNOWN] if known else 0, row_count):
                place, bit = lines_here[r] + blocks[i], base + rows[r] * row_bits
                if made[place // BESIDE] != bit + 1:
                    made[place // BESIDE] = bit + 1
                    wanting[2 * wanted] = bit + blocks[i]
                    wanting[2 * wanted + 1] = place
                    wanted += 1
    taps = pointer_like(table, np.uintp(table[PLACES]))
    sizes = pointer_like(numbers, np.uintp(table[SIZES]))
    for first in range(0, wanted, BLOCKS):
        for i in range(BLOCKS):
            one = min(first + i, wanted - 1)
            bits[i] = wanting[2 * one] if ring else base + blocks[one]
            places_here[i] = wanting[2 * one + 1] if ring else one * BESIDE
        weigh_blocks(valid, bits, taps, sizes, table[TAPS], lines, places_here)
    weights = pointer_to(numbers, WEIGHTS)
    aside = pointer_like(sums, address_at(pointer_to(weights, BESIDE)))
    share = pointer_to(pointer_like(numbers, np.uintp(table[SHARE])), share_at)
    down = pointer_like(numbers, np.uintp(table[DOWN_SIZES]))
    for i in range(mixed):
        at, number = blocks[i], min(BESIDE, columns - blocks[i])
        beside = pointer_to(lines, i * BESIDE)
        if ring:
            join_rows(pointer_to(lines, at), lines_here, down, row_count, weights)
            beside = weights
        if shared:
            for k in range(number):
                share[at + k] = min(share[at + k], beside[k] / total)
        if ruled:
            place = pointer_to(sums, at)
            if number < BESIDE:
                place = aside
                for k in range(number):
                    place[k] = sums[at + k]
            settle_block(place, beside, total, scale, least, loses)
            if number < BESIDE:
                for k in range(number):
                    sums[at + k] = place[k]
