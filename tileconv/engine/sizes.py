"""Workspace: the memory that a thread takes beside in- and output, by algorithm.

It follows from kernels, width and vectors by arithmetic alone, so a plan knows it where nothing is
compiled. The loops take what is said here: strips, and the lines and sums of each.
"""

from collections.abc import Sequence

import numpy as np

from tileconv.convolution import Taps
from tileconv.engine.blocking import ADDED, LONG, PAST_BLOCKS, ROWS, WIDE, kernel_vectors
from tileconv.engine.factor import passes
from tileconv.engine.memory import CACHE_LINE, INDEX
from tileconv.engine.program import LONG_REACH, Pair, Program, lay_out


def direct_bytes(
    stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int, width: int, vector_bytes: int
) -> int:
    """Return what kernels that read the same ``bands`` planes take for outputs ``width`` wide."""
    program = lay_out(stride, dilation, kernels, bands, vector_bytes)
    if program is None:
        return 0
    if is_bank(program):
        size = sum(bank_sizes(program))
        if is_matrix(program):  # the dtype of the pixels chooses between the two
            size = max(size, matrix_size(program))
    elif is_streamed(program):
        size = streamed_size(program, streamed_columns(program, width))
    else:
        size = program.ring_size(program.columns(width)) + buffer_size(program.lanes)
    return size * program.weights.itemsize


def separable_bytes(
    stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int, width: int, vector_bytes: int
) -> int:
    """Return what kernels of rank one take, one after the other; ``bands`` is 1."""
    del bands
    pairs = [passes(stride, dilation, taps, vector_bytes) for taps in kernels]
    return max(
        sum(separable_sizes(along, down, separable_columns(along, down, width)))
        * down.weights.itemsize
        for along, down in pairs
    )


def columns_first_bytes(
    stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int, width: int, vector_bytes: int
) -> int:
    """Return what kernels of rank one take whose columns come first; ``bands`` is 1."""
    del bands
    sizes = []
    for taps in kernels:
        along, down = passes(stride, dilation, taps, vector_bytes)
        last_row = int(np.flatnonzero(down.weights)[-1]) * dilation[0]
        columns = columns_first_columns(along, stride[0], last_row, width)
        sizes.append(sum(columns_first_sizes(along, columns)) * along.weights.itemsize)
    return max(sizes)


def buffer_size(lanes: int) -> int:
    """Return the numbers in the buffer on the way past the caches, for vectors of ``lanes``."""
    return ROWS * PAST_BLOCKS * WIDE * lanes


# one kernel at a stride along the columns, row by row: tileconv.engine.streamed

LINE_BYTES = 5 << 12
"""Lines of a row of a strip: most of a first-level cache of 32 KiB, beside a few rows of sums."""
LINE_AND_SUM_BYTES = 9 << 12
"""These lines and the rows of sums that they are added to: little more than that."""
TOGETHER = len(ADDED) - 1
"""Most rows of sums that a line is added to at a time."""


def is_streamed(program: Program) -> bool:
    """Say whether a program that is no bank is run row by row: the additions are the same."""
    return len(program.weights) == 1 and program.stride[1] > 1


def in_flight(program: Program) -> int:
    """Return the output rows of a class that one input row may serve."""
    return -(-program.height // program.overlap)


def streamed_columns(program: Program, width: int) -> int:
    """Return the outputs in a row of a strip: strips are of about one width."""
    p = program
    together = LINE_AND_SUM_BYTES // ((p.line_count + in_flight(p)) * p.weights.itemsize)
    fit = min(LINE_BYTES // (p.line_count * p.weights.itemsize), together) - p.reach
    strips = -(-width // max(fit, min(p.reach, LONG_REACH), max(ADDED) * p.lanes))
    return -(-width // (strips * p.lanes)) * p.lanes


def streamed_padded(program: Program, columns: int) -> int:
    """Return the numbers of a row of sums, for no block is cut short."""
    return columns + max(ADDED) * program.lanes


def streamed_size(program: Program, columns: int) -> int:
    """Return the numbers of a row's lines and of rows of sums, with room for addresses."""
    padded = streamed_padded(program, columns)
    addresses = TOGETHER * INDEX // program.weights.itemsize
    return program.row_size(padded) + in_flight(program) * padded + addresses


# kernels of rank one, rows first: tileconv.engine.separable


def separable_columns(along: Program, down: Program, width: int) -> int:
    """Return the outputs in a row of a strip, which both passes have room for."""
    return min(along.columns(width), down.columns(width))


def separable_padded(along: Program, columns: int) -> int:
    """Return the columns that whole blocks of LONG vectors may come to cover."""
    return columns + LONG * along.lanes


def separable_sizes(along: Program, down: Program, columns: int) -> tuple[int, int, int]:
    """Return the numbers in the lines of a row, in the ring of sums, and in the buffer."""
    padded = separable_padded(along, columns)
    return along.row_size(padded), down.ring * down.line_size(padded), buffer_size(down.lanes)


# kernels of rank one, columns first: tileconv.engine.columns

COLUMN_SUM_BYTES = 5 << 12
"""A row of sums of a strip: most of a first-level cache of 32 KiB."""
FIELD_BYTES = 1 << 18
"""Pixels of a row of fields that later rows read again: half of a second-level cache."""
FEWEST_COLUMNS = 64
"""Fewest outputs in a row of a strip, if there are as many."""


def columns_first_columns(along: Program, stride: int, last_row: int, width: int) -> int:
    """Return the outputs in a row of a strip: strips are of about one width.

    ``stride`` and ``last_row`` count input rows: to the next output row, and to a field's last tap.
    """
    size = along.weights.itemsize
    numbers = COLUMN_SUM_BYTES // size
    if stride <= last_row:
        numbers = min(numbers, FIELD_BYTES // ((last_row + 1) * size))
    fit = (numbers - int(along.offsets[-1]) - 1) // along.stride[1] + 1
    strips = -(-width // max(fit, min(FEWEST_COLUMNS, width)))
    return -(-width // strips)


def columns_first_sizes(along: Program, columns: int) -> tuple[int, int, int, int]:
    """Return the numbers in a row of sums of pixels, its lines, sums of outputs, an address."""
    p = along
    padded = (-(-columns // p.lanes) + max(ADDED)) * p.lanes
    read = padded if p.stride[1] == 1 else columns  # without a stride, sums of pixels are lines
    pixels = (read - 1) * p.stride[1] + int(p.offsets[-1]) + 1
    block = CACHE_LINE // p.weights.itemsize
    lines = 0 if p.stride[1] == 1 else p.row_size(padded)
    return -(-pixels // block) * block, lines, padded, INDEX // p.weights.itemsize


# banks whose fields share no pixel: tileconv.engine.bank

MOST_PANELS = 4
"""Panels of a strip: results are written in runs of so many times 96 bytes."""
PANEL_BYTES = 3 << 16
"""Panels of a strip together: a part of a second-level cache of 512 KiB."""


def is_bank(program: Program) -> bool:
    """Say whether a program is a bank whose fields share no pixel."""
    p = program
    return p.weights.shape[0] > 1 and p.reach == 0 and p.hop >= p.height


def panel_row_size(program: Program) -> int:
    """Return the numbers of a panel for one row of pixels."""
    return program.line_count * WIDE * program.lanes


def panel_count(program: Program) -> int:
    """Return the panels of a strip."""
    _, bands, height, _ = program.weights.shape
    panel_bytes = bands * height * panel_row_size(program) * program.weights.itemsize
    return min(max(PANEL_BYTES // panel_bytes, 1), MOST_PANELS)


def bank_sizes(program: Program) -> tuple[int, int]:
    """Return the numbers in the panels and in the sums of a strip."""
    kernels, bands, height, _ = program.weights.shape
    line, panels = CACHE_LINE // program.weights.itemsize, panel_count(program)
    pixels = -(-bands * height * panel_row_size(program) * panels // line) * line
    return pixels, -(-kernels // ROWS) * ROWS * panels * WIDE * program.lanes


# the same with kernels side by side: tileconv.engine.matrix

STRIP_BYTES = 3 << 17
"""Pixels of a strip: they stay in the second-level cache while all kernels go over them."""
STRIP_UNIT, MOST_UNITS = 48, 2
"""Outputs in a strip: a multiple of PLACES and of any vector's lanes."""
LEAST_TAPS = 32
"""With fewer, results take longer to turn than pixels to deal out."""
MOST_SPARE = 2
"""Kernels for each lane that may be without one."""


def is_matrix(program: Program) -> bool:
    """Say whether a bank whose fields share no pixel is better off with kernels side by side."""
    p = program
    kernels, together = p.weights.shape[0], kernel_vectors(p.vector_bytes) * p.lanes
    spare = -kernels % together
    return not p.sparse and p.weights[0].size >= LEAST_TAPS and spare * MOST_SPARE <= kernels


def matrix_columns(program: Program) -> int:
    """Return the outputs in a row of a strip."""
    size = program.weights[0].nbytes * STRIP_UNIT
    return STRIP_UNIT * min(max(STRIP_BYTES // size, 1), MOST_UNITS)


def matrix_sums_size(program: Program) -> int:
    """Return the numbers in the sums of a strip, and in those that are turned."""
    vectors = kernel_vectors(program.vector_bytes)
    return matrix_columns(program) * (vectors + 1) * program.lanes


def matrix_row_size(program: Program) -> int:
    """Return the numbers of a strip's row of pixels, where they have to be converted."""
    return (matrix_columns(program) - 1) * program.stride[1] + int(program.offsets.max()) + 1


def matrix_converts(program: Program) -> bool:
    """Say whether few pixels between fields have to be converted with those of other dtypes."""
    return program.offsets.size * 2 >= program.stride[1]


def matrix_size(program: Program) -> int:
    """Return the numbers in the sums of a strip, and in its pixels if they are converted."""
    _, bands, height, _ = program.weights.shape
    pixels = bands * height * matrix_row_size(program) if matrix_converts(program) else 0
    return matrix_sums_size(program) + pixels
