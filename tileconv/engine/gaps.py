"""Sums of fields with missing pixels, settled by the weight of those that are valid."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.convolution import Taps
from tileconv.engine.jit import address_of, loop
from tileconv.engine.lanes import address_at, call_at, pointer_like, pointer_to
from tileconv.engine.marks import (
    BESIDE,
    BLOCKS,
    GATHERED,
    WIDE_MARKS,
    all_are,
    gather_rows,
    gather_wide_rows,
    lose_block,
    mark_picks,
    settle_block,
    weigh_blocks,
)
from tileconv.engine.memory import address

FAR = WIDE_MARKS
"""Neighbouring outputs whose marks are looked at together first."""
SLACK = 2 * WIDE_MARKS
"""Bytes after the marks that looks at the last ones may read."""
BLOCK_BITS = np.uint64((1 << BESIDE) - 1)
"""A bit for each of BESIDE fields."""


@dataclass(frozen=True)
class Rule:
    """What becomes of the sum of a field with missing pixels."""

    scale: bool
    """It is multiplied by ``total / valid``, in float64, where that is not 1."""
    least: float
    """It is missing, that is NaN, where ``valid / total`` is less."""
    empty: bool
    """It is missing where ``valid`` is 0."""


(
    STRIDE_Y,
    STRIDE_X,
    SPAN,
    WIDTH,
    ROWS,
    ROW_COUNT,
    ROWS_HERE,
    WORDS,
    ROOM,
    LOST,
    PLACES,
    SIZES,
    TAPS,
    MARKS,
    SHARE,
    SHARE_PITCH,
    RULED,
    SCALE,
    EMPTY,
    PICKED,
    ROW,
    PICKS,
) = range(22)
"""What a table of `_settle_rows` holds:

STRIDE_Y, STRIDE_X    input pixels between fields
SPAN                  pixels from a field's first column of taps to its last one
WIDTH                 marks in a row
ROWS, ROW_COUNT       address of the rows of marks that a field at the top reads; how many
ROWS_HERE, WORDS      addresses of room for where those of some field begin; for bits of marks
ROOM                  of room for the places of BLOCKS blocks, and for those of a row, three times
LOST                  address of what rows have missing pixels
PLACES, SIZES, TAPS   addresses of where among all marks those of the taps of the first field lie,
                      and of their weights; how many taps
MARKS                 address of room for two rows of marks
SHARE, SHARE_PITCH    address of the share of outputs, or 0; numbers in a row
RULED, SCALE, EMPTY   whether there is a `Rule`, and what it says
PICKED, PICKS         whether fields are weighed many at a time; `mark_picks`
ROW                   address of `_settle_row`
"""
ENTRIES = PICKS + 3
TOTAL, LEAST, WEIGHTS = range(3)
"""What it knows as float64: the weight of a whole field, the least one, and room for weights."""


class Settler:
    """Settles the sums of one kernel, row by row.

    The weight of a field's valid pixels is the sum of their ``|w|`` in float64,
    tap by tap; it is added up only where some are missing and some are not.
    """

    def __init__(
        self,
        valid: np.ndarray,
        lost: np.ndarray,
        taps: Taps,
        sampling: tuple[tuple[int, int], tuple[int, int]],
        rule: Rule | None,
        share: np.ndarray | None,
    ) -> None:
        """Lay a kernel out that has taps.

        Parameters
        ----------
        valid
            (bands, H, W) uint8, 0 where a pixel is missing, else 1. SLACK more bytes may be read.
        lost
            (bands, H) uint8, 0 where a row has no missing pixel: ``valid`` may then hold anything
            there, and is mended where it is looked at.
        sampling
            Stride and dilation, (y, x).
        rule
            None leaves the sums as they are.
        share
            (OH, OW) float64, rows contiguous; lowered to the share of the weight that is valid,
            where it is less.
        """
        (stride_y, stride_x), (step_y, step_x) = sampling
        y, x = taps.y.astype(np.intp) * step_y, taps.x.astype(np.intp) * step_x
        sizes = np.abs(taps.exact)
        total = np.cumsum(sizes)[-1]  # one after the other, as below
        _, height, width = valid.shape
        bands = np.unique(taps.band).astype(np.intp) * height
        rows = (bands[:, None] + np.unique(y)).ravel()
        places = (taps.band.astype(np.intp) * height + y) * width + x
        span = int(x.max()) + 1
        marks = np.empty((2, width + WIDE_MARKS), np.uint8)
        here, words = np.empty_like(rows), np.empty(2 * (width // WIDE_MARKS + 2), np.intp)
        room = np.empty(BLOCKS + 3 * (width // BESIDE + 2), np.intp)
        table, numbers = np.zeros(ENTRIES, np.intp), np.zeros(WEIGHTS + BLOCKS * BESIDE)
        table[[STRIDE_Y, STRIDE_X, SPAN, WIDTH]] = stride_y, stride_x, span, width
        table[[ROW_COUNT, TAPS]] = rows.size, sizes.size
        for entry, array in (
            (ROWS, rows),
            (ROWS_HERE, here),
            (WORDS, words),
            (ROOM, room),
            (LOST, lost),
            (PLACES, places),
            (SIZES, sizes),
            (MARKS, marks),
        ):
            table[entry] = address(array)
        numbers[[TOTAL, LEAST]] = total, -1
        if rule is not None:
            table[[RULED, SCALE, EMPTY]] = True, rule.scale, rule.empty
            numbers[LEAST] = rule.least * total
        picks = mark_picks(stride_x)
        if picks is not None:
            table[PICKED], table[PICKS:] = True, picks
        if share is not None:
            table[[SHARE, SHARE_PITCH]] = address(share), share.strides[0] // share.itemsize
        self.valid = address(valid)
        """Where the marks lie, which the caller holds."""
        self._table, self._numbers = table, numbers
        self._owners = rows, here, words, room, lost, places, sizes, marks, share

    def addresses(self, number: np.dtype) -> tuple[np.uintp, ...]:
        """Return what `settle_rows` is told: a function for sums of a dtype, and its tables."""
        rows, row = settler(number)
        self._table[ROW] = row
        return rows, address(self._table), address(self._numbers), self.valid

    def settle(self, sums: np.ndarray) -> None:
        """Settle all sums (OH, OW) in place."""
        _settle_plane(self.addresses(sums.dtype), address(sums), sums.strides[0], *sums.shape)


@loop
def _settle_plane(addresses, sums, pitch, rows, columns):  # type: ignore[no-untyped-def]
    settle, table, numbers, valid = addresses
    call_at(settle, table, numbers, valid, sums, pitch, 0, 1, rows, 0, columns)


_ready: set[np.dtype] = set()


def is_ready(number: np.dtype) -> bool:
    """Say whether sums of a dtype can be settled without compiling anything."""
    return number in _ready


@cache
def settler(number: np.dtype) -> tuple[np.uintp, np.uintp]:
    """Return the addresses of `_settle_rows`, and of `_settle_row` for sums of a dtype."""
    index, floats, i = types.CPointer(types.intp), types.CPointer(types.float64), types.intp
    marks, sums, u = types.CPointer(types.uint8), types.CPointer(from_dtype(number)), types.uintp
    many = index, floats, marks, u, i, i, i, i, i, i
    one = index, floats, marks, sums, i, marks, marks, index, i
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
    valid           pointer to uint8
    sums, pitch     address of the first sum; the next row lies ``pitch`` bytes further on
    first, apart    output row of the first of ``count`` rows, and rows from one to the next
    x, columns      output column of the first sum of a row, and how many are there
    """
    width, row_count = table[WIDTH], table[ROW_COUNT]
    lost = pointer_like(valid, np.uintp(table[LOST]))
    rows = pointer_like(table, np.uintp(table[ROWS]))
    here = pointer_like(table, np.uintp(table[ROWS_HERE]))
    low = pointer_like(valid, np.uintp(table[MARKS]))
    high = pointer_to(low, width + WIDE_MARKS)
    words = pointer_like(table, np.uintp(table[WORDS]))
    left = x * table[STRIDE_X]
    reads = (columns - 1) * table[STRIDE_X] + table[SPAN]
    for j in range(count):
        top = (first + j * apart) * table[STRIDE_Y]
        some = False
        for r in range(row_count):
            some |= lost[rows[r] + top] != 0
        if not some:
            continue
        for r in range(row_count):
            row = rows[r] + top
            here[r] = row * width + left
            if lost[row] == 0:
                lost[row] = 1
                marks = pointer_to(valid, row * width)
                for i in range(width):
                    marks[i] = 1
        if not _gather(valid, here, row_count, reads, low, high, words):
            call_at(
                np.uintp(table[ROW]),
                address_at(table),
                address_at(numbers),
                address_at(pointer_to(valid, top * width + left)),
                sums + np.uintp(j * pitch),
                columns,
                address_at(low),
                address_at(high),
                address_at(words),
                (first + j * apart) * table[SHARE_PITCH] + x,
            )


@loop
def _settle_row(table, numbers, valid, sums, columns, low, high, words, share_at):  # type: ignore[no-untyped-def]
    """Settle a row of sums, some of whose fields have missing pixels.

    valid      pointer to the mark of the first field's first pixel
    low, high  pointers to the least and the greatest mark of each column of pixels; words: the same
               in bits, see `_gather`
    share_at   where the share of the first output lies
    """
    stride_x, span, taps = table[STRIDE_X], table[SPAN], table[TAPS]
    ruled, scale, loses = table[RULED] != 0, table[SCALE] != 0, table[EMPTY] != 0
    shared = table[SHARE] != 0
    total, least = numbers[TOTAL], numbers[LEAST]
    share = pointer_to(pointer_like(numbers, np.uintp(table[SHARE])), share_at)
    places = pointer_like(table, np.uintp(table[PLACES]))
    sizes = pointer_like(numbers, np.uintp(table[SIZES]))
    weights = pointer_to(numbers, WEIGHTS)
    room = pointer_like(table, np.uintp(table[ROOM]))
    places_here, blocks = room, pointer_to(room, BLOCKS)
    empties = pointer_to(blocks, columns // BESIDE + 2)
    picked, picks = table[PICKED] != 0, pointer_to(table, PICKS)
    presence = ruled and not scale and least <= 0 and not shared  # only empty fields are missing
    presence &= taps == table[ROW_COUNT] * span  # and taps lie everywhere in a field
    far_empty = ruled and (loses or least > 0) and not shared
    mixed, lost, done = 0, 0, 0
    if stride_x == 1 and span <= FAR:
        far_blocks, fars = pointer_to(empties, columns // BESIDE + 2), 0
        edge = (np.uint64(1) << np.uint64(span - 1)) - np.uint64(1)
        for far in range(columns // FAR):
            whole = (~np.uint64(words[2 * far]) | (~np.uint64(words[2 * far + 2]) & edge)) == 0
            some = np.uint64(words[2 * far + 1]) | (np.uint64(words[2 * far + 3]) & edge)
            empty = far_empty and some == 0
            far_blocks[fars] = far  # no branches: the processor would guess wrong
            fars += not (whole or empty)
            if empty:
                for first in range(far * FAR, (far + 1) * FAR, BESIDE):
                    lose_block(pointer_to(sums, first))
        for i in range(fars):
            far = far_blocks[i]
            whole_bits = _fields(words[2 * far], words[2 * far + 2], span, True)
            valid_bits = _fields(words[2 * far + 1], words[2 * far + 3], span, False)
            for block in range(FAR // BESIDE):
                some = valid_bits >> np.uint64(block * BESIDE) & BLOCK_BITS
                whole = whole_bits >> np.uint64(block * BESIDE) & BLOCK_BITS == BLOCK_BITS
                whole |= presence and some == BLOCK_BITS
                empty = far_empty and some == 0
                blocks[mixed] = empties[lost] = far * FAR + block * BESIDE
                mixed += not (whole or empty)
                lost += empty
        done = columns // FAR * FAR
    for first in range(done, columns, BESIDE):
        number = min(BESIDE, columns - first)
        left, reads = first * stride_x, (number - 1) * stride_x + span
        whole = all_are(pointer_to(low, left), reads, np.intp(1))
        empty = (
            far_empty and number == BESIDE and all_are(pointer_to(high, left), reads, np.intp(0))
        )
        blocks[mixed] = empties[lost] = first
        mixed += not (whole or empty)
        lost += empty
    for block in range(lost):
        lose_block(pointer_to(sums, empties[block]))
    rest = columns % BESIDE != 0 and mixed > 0 and blocks[mixed - 1] + BESIDE > columns
    many = mixed - rest if picked else 0
    for first in range(0, many, BLOCKS):
        together = min(BLOCKS, many - first)
        for i in range(BLOCKS):
            places_here[i] = blocks[first + min(i, together - 1)] * stride_x
        weigh_blocks(valid, places_here, places, sizes, taps, weights, picks)
        for i in range(together):
            at, beside = blocks[first + i], pointer_to(weights, i * BESIDE)
            if shared:
                for k in range(BESIDE):
                    share[at + k] = min(share[at + k], beside[k] / total)
            if ruled:
                settle_block(pointer_to(sums, at), beside, total, scale, least, loses)
    for block in range(many, mixed):
        for i in range(blocks[block], min(blocks[block] + BESIDE, columns)):
            here = pointer_to(valid, i * stride_x)
            weight = 0.0
            for t in range(taps):
                weight += sizes[t] * here[places[t]]
            if shared:
                share[i] = min(share[i], weight / total)
            if ruled and scale and weight != total:
                sums[i] = sums[i] * (total / weight)
            if ruled and ((weight < least) | (loses & (weight == 0))):
                sums[i] = np.nan


@loop
def _fields(word, after, span, every):  # type: ignore[no-untyped-def]
    """Return bits that say of runs of ``span`` bits whether all are set, or if some are.

    The runs begin with each bit of ``word`` and go on in the one ``after`` it.
    """
    word, after = np.uint64(word), np.uint64(after)
    seen = word
    for i in range(1, span):
        here = word >> np.uint64(i) | after << np.uint64(FAR - i)
        seen = seen & here if every else seen | here
    return seen


@loop
def _gather(valid, rows, count, width, low, high, words):  # type: ignore[no-untyped-def]
    """Write the least and the greatest mark of each column of some rows; say whether all are 1.

    ``rows`` is a pointer to intp, where in ``valid`` each of ``count`` begins; the others are
    pointers to uint8, and to intp: for each WIDE_MARKS columns, the bits of the least marks, then
    of the greatest.
    """
    whole = True
    wide = width // (GATHERED * WIDE_MARKS) * GATHERED * WIDE_MARKS
    for first in range(0, wide, GATHERED * WIDE_MARKS):
        here = pointer_to(words, first // WIDE_MARKS * 2)
        least, greatest = pointer_to(low, first), pointer_to(high, first)
        gather_wide_rows(pointer_to(valid, first), rows, count, least, greatest, here, 0)
        for i in range(0, 2 * GATHERED, 2):
            whole &= here[i] == -1
    for first in range(wide, width, WIDE_MARKS):
        # the last ones overlap; in narrow rows, marks that lie behind them are gathered too
        done = max(0, min(first, width - WIDE_MARKS))
        here = pointer_to(words, first // WIDE_MARKS * 2)
        least, greatest = pointer_to(low, done), pointer_to(high, done)
        gather_rows(pointer_to(valid, done), rows, count, least, greatest, here, first - done)
        left = width - first
        bits = -1 if left >= WIDE_MARKS else (1 << left) - 1
        whole &= here[0] & bits == bits
    return whole
