"""Normalize sums of fields with missing pixels by the weight of those that are valid."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv import buffers
from tileconv.engine.jit import address_of, call, loop
from tileconv.engine.missing.validity import (
    CHUNK_GROUPS,
    CHUNK_WORDS,
    GROUP,
    GROUPS,
    WORD_BITS,
    combine_phase,
    combine_rows,
    combine_shifted,
    groups_equal_to,
    lowest_bit,
    normalize_group,
    store_nan_group,
    weigh_down,
    weigh_groups,
)
from tileconv.engine.vectors import (
    advance,
    call_at,
    double_pointer,
    index_pointer,
    pointer_address,
    pointer_like,
    record_at,
)
from tileconv.engine.workspace import INDEX, address
from tileconv.operators.convolution import Taps

NO_BITS, ALL_BITS = np.uint64(0), np.uint64(2**64 - 1)
"""A word of validity bits of missing pixels, and one of valid ones."""


@dataclass(frozen=True)
class NormalizationRule:
    """What becomes of the sum of a field with missing pixels."""

    scale: bool
    """It is multiplied by ``total / valid``, in float64, where that is not 1."""
    least: float
    """It is missing, that is NaN, where ``valid / total`` is less."""
    empty: bool
    """It is missing where ``valid`` is 0."""
    counts: bool = False
    """Count valid taps instead of summing their weights, so that a missing tap of tiny weight is
    not lost to rounding."""


Factors = tuple[np.ndarray, np.ndarray]
"""A kernel of rank one: its column and its row, float64."""

NORMALIZATION = np.dtype(
    [
        *(
            (name, np.intp)
            for name in (
                "stride_y",
                "stride_x",
                "span",
                "phases",
                "line_words",
                "rows",
                "row_count",
                "field_rows",
                "combined",
                "combined_words",
                "groups",
                "missing_rows",
                "tap_count",
                "tap_bits",
                "tap_weights",
                "share",
                "share_stride",
                "ruled",
                "scale",
                "empty",
                "any_suffices",
                "normalize_row",
                "line_weights",
                "ring",
                "line_groups",
                "down_weights",
                "field_lines",
                "made",
                "seen",
                "known",
                "wanted",
                "group",
            )
        ),
        ("total", np.float64),
        ("least", np.float64),
    ]
)
"""What `_normalize_rows` knows of a kernel:

stride_y, stride_x  input pixels between fields
span                pixels from a field's first column of taps to its last one
phases, line_words  lines of validity bits of a row, one for each stride phase; words of a line
rows, row_count     address of the rows that a field at the top reads; how many
field_rows          address of workspace: where the bits of those of some field begin
combined, combined_words
                    address of workspace for four lines of combined bits; words of each
groups              of workspace: where GROUPS groups lie, and twice the groups of a row
missing_rows        address of flags: which rows have missing pixels
tap_count, tap_bits, tap_weights
                    taps; addresses of where the validity bit of each lies, counted from the first
                    one of all, and of their weights. With ring: those of a row
share, share_stride address of the share of outputs, or 0; elements of a row
ruled, scale, empty whether there is a `NormalizationRule`, and what it says
any_suffices        only fields without a valid pixel are missing, and taps lie everywhere
normalize_row       address of `_normalize_row`
line_weights        address of workspace for the weights of fields
ring                how many lines of it hold the weights of a row's taps, for rows of pixels; 0:
                    fields are weighed tap by tap
line_groups         groups of GROUP weights in such a line
down_weights        address of the weights of the rows
field_lines         address of workspace: where the lines of some field begin
made                address of what says which row and column each group of them is of
seen, known         address of which output each group of a row was last weighed for; how many rows
                    are known from the output row before
wanted              address of workspace for where groups lie, in bits and in lines
group               address of 2 * GROUP float64: weights of a group, and staged sums
total, least        the weight of a whole field, and the least one that is not missing
"""


class Normalizer:
    """Normalizes the sums of one kernel, row by row.

    The weight of a field's valid pixels is the sum of their ``|w|`` in float64, tap by tap; for a
    kernel that is summed up in two passes, in two passes too, along the rows and then down the
    columns. It is added up only where some pixels are missing and some are not.
    """

    def __init__(
        self,
        valid: np.ndarray,
        missing_rows: np.ndarray,
        width: int,
        taps: Taps,
        sampling: tuple[tuple[int, int], tuple[int, int]],
        rule: NormalizationRule | None,
        share: np.ndarray | None,
        factors: Factors | None = None,
    ) -> None:
        """Lay a kernel out that has taps.

        Parameters
        ----------
        valid
            (bands, H, phases, `bitmap_row_bytes`) uint8, validity bits of rows of ``width`` pixels,
            0 where one is missing, else 1, see `missing.validity`; at least the phases that fields
            read.
            SLACK more may be read.
        missing_rows
            (bands, H) intp, 0 where a row has no missing pixel: ``valid`` may then hold anything
            there, and is set to 1 where it is read.
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
        _, height, phases, line_words = valid.shape
        line_words //= WORD_BITS // 8
        bands = np.unique(taps.band).astype(np.intp) * height
        rows = (bands[:, None] + np.unique(y)).ravel()
        span = int(x.max()) + 1
        reach = (span - 1) // stride_x + 1  # validity bits of a phase that a field reads
        columns = (width - span) // stride_x + 1
        groups = columns // GROUP + 2
        table = np.zeros(1, NORMALIZATION)
        table["stride_y"], table["stride_x"], table["span"] = stride_y, stride_x, span
        table["phases"], table["line_words"], table["row_count"] = phases, line_words, rows.size
        counts = rule is not None and rule.counts
        # elements of 8 bytes, by the fields that hold their addresses
        self._workspace = {
            "combined": 4 * _row_words(columns, reach),
            "groups": 2 * (GROUPS + groups),
            "line_weights": groups * GROUP,
        }
        if factors is not None:
            x = np.flatnonzero(factors[1]).astype(np.intp) * step_x
        places = x % stride_x * line_words * WORD_BITS + x // stride_x
        if factors is None:
            places += (taps.band.astype(np.intp) * height + y) * phases * line_words * WORD_BITS
            sizes = np.abs(taps.exact)
            if counts:
                sizes = np.ones_like(sizes)
            total = np.cumsum(sizes)[-1]  # one after the other, as below
        else:
            down, sizes = (np.abs(line[np.flatnonzero(line)]) for line in factors)
            if counts:
                down, sizes = np.ones_like(down), np.ones_like(sizes)
            total = _combine(down, np.cumsum(sizes)[-1])
            ring = int(rows[-1] - rows[0]) + 1
            table["ring"], table["line_groups"] = ring, groups
            if ring == rows.size:
                table["known"] = max(0, ring - stride_y)
            self._workspace |= {
                "line_weights": ring * groups * GROUP,
                "wanted": 2 * rows.size * groups,
                "field_lines": rows.size,
                "made": ring * groups,
                "seen": groups,
            }
        arrays: dict[str, np.ndarray] = {
            "rows": rows,
            "field_rows": np.empty_like(rows),
            "missing_rows": missing_rows,
            "tap_bits": places,
            "tap_weights": sizes,
            "group": np.zeros(2 * GROUP),
        }
        if factors is not None:
            arrays["down_weights"] = down
        if share is not None:
            arrays["share"], table["share_stride"] = share, share.strides[0] // share.itemsize
        for name, array in arrays.items():
            table[name] = address(array)
        table["tap_count"], table["combined_words"] = sizes.size, _row_words(columns, reach)
        table["total"], table["least"] = total, -1
        if rule is not None:
            table["ruled"], table["scale"], table["empty"] = True, rule.scale, rule.empty
            table["least"] = rule.least * total
            whole = taps.exact.size == rows.size * span
            counted = rule.scale or rule.least > 0 or share is not None
            table["any_suffices"] = whole and not counted
        self._valid, self._held = address(valid), np.empty(0, np.intp)
        self._table, self._owners = table, arrays

    def begin(self, valid: np.uintp) -> None:
        """Begin with another bitmap, at an address; the caller holds it."""
        self._valid = valid

    def addresses(self, dtype: np.dtype) -> tuple[np.uintp, ...]:
        """Return what `_normalize_rows` takes: its address for sums of a dtype, and its tables.

        Nothing is known of the bitmap then. They are good until the thread asks another normalizer.
        """
        rows, row = normalizer(dtype)
        workspace = buffers.scratch(
            "normalizer", (sum(self._workspace.values()),), np.dtype(np.intp)
        )
        place = int(address(workspace))
        for name, count in self._workspace.items():
            self._table[name] = place
            place += count * INDEX
        if "made" in self._workspace:  # these two come last
            workspace[-self._workspace["made"] - self._workspace["seen"] :] = 0
        self._table["normalize_row"] = row
        self._held = workspace
        return rows, address(self._table), self._valid

    def normalize(self, sums: np.ndarray) -> None:
        """Normalize all sums (OH, OW) in place."""
        rows, columns = sums.shape
        normalize, *tables = self.addresses(sums.dtype)
        call(normalize, *tables, address(sums), sums.strides[0], 0, 1, rows, 0, columns)


def _row_words(columns: int, reach: int) -> int:
    """Return the words of a line of combined bits, with room for reads at its end."""
    return (columns + WORD_BITS + 2 * reach) // WORD_BITS + 2 + CHUNK_WORDS


def _combine(sizes: np.ndarray, weight: float) -> float:
    """Return what `weigh_down` makes of lines of one weight: fused multiply-adds, rounded once."""
    total = 0.0
    try:
        for size in sizes:
            total = float(Fraction(float(size)) * Fraction(float(weight)) + Fraction(total))
    except OverflowError:
        return np.inf
    return total


_ready: set[np.dtype] = set()


def is_ready(dtype: np.dtype) -> bool:
    """Say whether sums of a dtype can be normalized without compiling anything."""
    return dtype in _ready


@cache
def normalizer(dtype: np.dtype) -> tuple[np.uintp, np.uintp]:
    """Return the addresses of `_normalize_rows`, and of `_normalize_row` for sums of a dtype."""
    table, i = types.CPointer(from_dtype(NORMALIZATION)), types.intp
    bitmap, sums, u = types.CPointer(types.uint64), types.CPointer(from_dtype(dtype)), types.uintp
    many = table, bitmap, u, i, i, i, i, i, i
    index = table, bitmap, sums, i, bitmap, bitmap, i, i, i
    found = tuple(
        address_of(function, types.void(*kinds))
        for function, kinds in ((_normalize_rows, many), (_normalize_row, index))
    )
    _ready.add(dtype)
    return found  # type: ignore[return-value]


@loop
def _normalize_rows(  # type: ignore[no-untyped-def]
    table_at, valid, sums, row_bytes, first, row_step, count, x, columns
):
    """Normalize some rows of sums. It knows no dtype.

    table_at         pointer to NORMALIZATION
    valid            pointer to uint64, the bitmap
    sums, row_bytes  address of the first sum; bytes from row to row
    first, row_step  output row of the first of ``count`` rows, and rows from one to the next
    x, columns       output column of the first sum of a row, and how many are there
    """
    table = record_at(table_at)
    words, phases, row_count = table.line_words, table.phases, table.row_count
    missing_rows = index_pointer(table.missing_rows)
    rows = index_pointer(table.rows)
    here = index_pointer(table.field_rows)
    every = pointer_like(valid, np.uintp(table.combined))
    some = advance(every, table.combined_words)
    low, high = advance(some, table.combined_words), advance(some, 2 * table.combined_words)
    clean = some if table.any_suffices else every
    looked = (columns + WORD_BITS - 1) // WORD_BITS
    behind = ALL_BITS << np.uint64(columns % WORD_BITS) if columns % WORD_BITS else NO_BITS
    for j in range(count):
        top = (first + j * row_step) * table.stride_y
        found = False
        for r in range(row_count):
            found |= missing_rows[rows[r] + top] != 0
        if not found:
            continue
        for r in range(row_count):
            row = rows[r] + top
            here[r] = row * phases * words + x // WORD_BITS
            if missing_rows[row] == 0:
                missing_rows[row] = 1
                bitmap = advance(valid, row * phases * words)
                for i in range(phases * words):
                    bitmap[i] = ALL_BITS
        for phase in range(min(table.stride_x, table.span)):
            reach = (table.span - 1 - phase) // table.stride_x + 1
            bitmap = advance(valid, phase * words)
            wide = looked + 2 + reach // WORD_BITS  # fields begin and end within words
            for i in range(0, wide, CHUNK_WORDS):
                at = advance(bitmap, i)
                combine_rows(at, here, row_count, advance(low, i), advance(high, i))
            done = 1
            while done < reach:  # each bit then covers twice as many pixels
                step = min(done, reach - done)
                far, near = step // WORD_BITS, step % WORD_BITS
                for i in range(0, wide, CHUNK_WORDS):
                    combine_shifted(advance(low, i), advance(high, i), far, near)
                done += step
            for i in range(0, looked, CHUNK_WORDS):
                lows, highs = advance(low, i), advance(high, i)
                to_every, to_some = advance(every, i), advance(some, i)
                combine_phase(lows, highs, x % WORD_BITS, to_every, to_some, phase == 0)
        every[looked - 1] |= behind
        some[looked - 1] |= behind
        whole = True
        for i in range(looked):
            whole &= clean[i] == ALL_BITS
        if not whole:
            call_at(
                np.uintp(table.normalize_row),
                pointer_address(table_at),
                pointer_address(valid),
                sums + np.uintp(j * row_bytes),
                columns,
                pointer_address(clean),
                pointer_address(some),
                top,
                x,
                (first + j * row_step) * table.share_stride + x,
            )


@loop
def _normalize_row(table_at, valid, sums, columns, clean, some, top, x, share_at):  # type: ignore[no-untyped-def]
    """Normalize a row of sums, some of whose fields have missing pixels.

    clean     pointer to words: which fields need no normalization, those whose pixels are all valid
              or, with ``any_suffices``, those with a valid pixel
    some      pointer to words: which have a valid pixel
    top, x    row of the first field's first pixel, column of the first output
    share_at  where the share of the first output lies
    """
    table = record_at(table_at)
    ruled, scale, loses = table.ruled != 0, table.scale != 0, table.empty != 0
    shared = table.share != 0
    total, least = table.total, table.least
    bits = index_pointer(table.groups)
    places_here = advance(bits, GROUPS)
    groups = advance(places_here, GROUPS)
    empties = advance(groups, columns // GROUP + 2)
    far_empty = ruled and (loses or least > 0) and not shared
    mixed, empty_count = 0, 0
    for i in range(0, (columns + WORD_BITS - 1) // WORD_BITS, CHUNK_WORDS):
        whole = groups_equal_to(advance(clean, i), -1)
        empty = groups_equal_to(advance(some, i), 0) if far_empty else NO_BITS
        left = columns // GROUP + (columns % GROUP != 0) - i * WORD_BITS // GROUP
        here = ~(ALL_BITS << np.uint64(min(CHUNK_GROUPS, left)))
        empty &= here
        others = here & ~whole & ~empty
        while others:
            groups[mixed] = i * WORD_BITS + lowest_bit(others) * GROUP
            others &= others - np.uint64(1)
            mixed += 1
        while empty:
            empties[empty_count] = i * WORD_BITS + lowest_bit(empty) * GROUP
            empty &= empty - np.uint64(1)
            empty_count += 1
    for group in range(empty_count):
        store_nan_group(advance(sums, empties[group]))
    ring, row_count = table.ring, table.row_count
    row_bits = table.phases * table.line_words * WORD_BITS
    lines = double_pointer(table.line_weights)
    lines_here = index_pointer(table.field_lines)
    wanting = index_pointer(table.wanted)
    wanted = mixed
    base = top * row_bits + x
    if ring:
        rows = index_pointer(table.rows)
        made = index_pointer(table.made)
        seen = index_pointer(table.seen)
        wanted = 0
        for r in range(row_count):
            lines_here[r] = (rows[r] + top) % ring * table.line_groups * GROUP
        for i in range(mixed):
            # most are known from the row before
            known = seen[groups[i] // GROUP] == base - table.stride_y * row_bits + 1
            seen[groups[i] // GROUP] = base + 1
            for r in range(table.known if known else 0, row_count):
                place, bit = lines_here[r] + groups[i], base + rows[r] * row_bits
                if made[place // GROUP] != bit + 1:
                    made[place // GROUP] = bit + 1
                    wanting[2 * wanted] = bit + groups[i]
                    wanting[2 * wanted + 1] = place
                    wanted += 1
    taps = index_pointer(table.tap_bits)
    sizes = double_pointer(table.tap_weights)
    for first in range(0, wanted, GROUPS):
        for i in range(GROUPS):
            index = min(first + i, wanted - 1)
            bits[i] = wanting[2 * index] if ring else base + groups[index]
            places_here[i] = wanting[2 * index + 1] if ring else index * GROUP
        weigh_groups(valid, bits, taps, sizes, table.tap_count, lines, places_here)
    weights = double_pointer(table.group)
    staging = pointer_like(sums, pointer_address(advance(weights, GROUP)))
    share = advance(double_pointer(table.share), share_at)
    down = double_pointer(table.down_weights)
    for i in range(mixed):
        at, number = groups[i], min(GROUP, columns - groups[i])
        weights_here = advance(lines, i * GROUP)
        if ring:
            weigh_down(advance(lines, at), lines_here, down, row_count, weights)
            weights_here = weights
        if shared:
            for k in range(number):
                share[at + k] = min(share[at + k], weights_here[k] / total)
        if ruled:
            place = advance(sums, at)
            if number < GROUP:
                place = staging
                for k in range(number):
                    place[k] = sums[at + k]
            normalize_group(place, weights_here, total, scale, least, loses)
            if number < GROUP:
                for k in range(number):
                    sums[at + k] = place[k]
