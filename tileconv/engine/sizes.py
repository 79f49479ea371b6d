"""Sizes of strips, and of the workspace that a thread takes for one besides planes and out.

They follow from kernels, width and vectors by arithmetic alone, so a plan knows them where nothing
is compiled. The loops take what is said here: columns of a strip, its packed rows and its sums.
"""

from collections.abc import Sequence

import numpy as np

from tileconv.engine.blocking import LONG_NR, MR, NR, STAGED_TILES, UPDATE_NR, kernel_vectors
from tileconv.engine.factor import passes
from tileconv.engine.kernel_layout import LONG_REACH, KernelLayout, Pair, layout_of
from tileconv.engine.workspace import CACHE_LINE, INDEX
from tileconv.operators.convolution import Taps


def direct_bytes(
    stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int, width: int, vector_bytes: int
) -> int:
    """Return what kernels that read the same ``bands`` planes take for outputs ``width`` wide."""
    layout = layout_of(stride, dilation, kernels, bands, vector_bytes)
    if layout is None:
        return 0
    if is_gemm(layout):
        size = sum(panel_gemm_sizes(layout))
        if is_kernel_gemm(layout):  # the dtype of the pixels chooses between the two
            size = max(size, kernel_gemm_size(layout))
    elif is_row_stream(layout):
        size = row_stream_size(layout, row_stream_columns(layout, width))
    else:
        size = layout.ring_size(layout.columns(width)) + staging_size(layout.lanes)
    return size * layout.weights.itemsize


def two_pass_bytes(
    stride: Pair, dilation: Pair, kernels: Sequence[Taps], bands: int, width: int, vector_bytes: int
) -> int:
    """Return what kernels of rank one take, one after the other; ``bands`` is 1."""
    del bands
    pairs = [passes(stride, dilation, taps, vector_bytes) for taps in kernels]
    return max(
        sum(two_pass_sizes(along, down, two_pass_columns(along, down, width)))
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


def staging_size(lanes: int) -> int:
    """Return the elements of the staging buffer of streaming stores, for vectors of ``lanes``."""
    return MR * STAGED_TILES * NR * lanes


# one kernel at a stride along the columns, row by row: loops.row_stream

PACKED_BYTES = 5 << 12
"""A packed row of a strip: most of a first-level cache of 32 KiB, with a few rows of sums."""
PACKED_AND_SUM_BYTES = 9 << 12
"""The packed row and the rows of sums that it is added to: little more than that."""
TOGETHER = len(UPDATE_NR) - 1
"""Most rows of sums that a packed row is added to at a time."""


def is_row_stream(layout: KernelLayout) -> bool:
    """Say whether kernels are run row by row: the chains of additions are the same."""
    return len(layout.weights) == 1 and layout.stride[1] > 1


def in_flight(layout: KernelLayout) -> int:
    """Return the output rows of a class that one input row may serve."""
    return -(-layout.height // layout.overlap)


def row_stream_columns(layout: KernelLayout, width: int) -> int:
    """Return the outputs in a row of a strip: strips are of about one width."""
    p = layout
    together = PACKED_AND_SUM_BYTES // ((p.line_count + in_flight(p)) * p.weights.itemsize)
    fit = min(PACKED_BYTES // (p.line_count * p.weights.itemsize), together) - p.reach
    strips = -(-width // max(fit, min(p.reach, LONG_REACH), max(UPDATE_NR) * p.lanes))
    return -(-width // (strips * p.lanes)) * p.lanes


def row_stream_padded(layout: KernelLayout, columns: int) -> int:
    """Return the elements of a row of sums: whole tiles fit."""
    return columns + max(UPDATE_NR) * layout.lanes


def row_stream_size(layout: KernelLayout, columns: int) -> int:
    """Return the elements of a packed row and of rows of sums, with room for addresses."""
    padded = row_stream_padded(layout, columns)
    addresses = TOGETHER * INDEX // layout.weights.itemsize
    return layout.row_size(padded) + in_flight(layout) * padded + addresses


# kernels of rank one, along the rows first: loops.two_pass


def two_pass_columns(along: KernelLayout, down: KernelLayout, width: int) -> int:
    """Return the outputs in a row of a strip, which both passes have room for."""
    return min(along.columns(width), down.columns(width))


def two_pass_padded(along: KernelLayout, columns: int) -> int:
    """Return the columns that whole tiles of LONG_NR vectors may come to cover."""
    return columns + LONG_NR * along.lanes


def two_pass_sizes(along: KernelLayout, down: KernelLayout, columns: int) -> tuple[int, int, int]:
    """Return the elements of a packed row, of the ring of sums, and of the staging buffer."""
    padded = two_pass_padded(along, columns)
    return along.row_size(padded), down.ring * down.line_size(padded), staging_size(down.lanes)


# kernels of rank one, down the columns first: loops.columns_first

COLUMN_SUM_BYTES = 5 << 12
"""A row of sums of a strip: most of a first-level cache of 32 KiB."""
FIELD_BYTES = 1 << 18
"""Pixels of a row of fields that later rows read again: half of a second-level cache."""
FEWEST_COLUMNS = 64
"""Fewest outputs in a row of a strip, if there are as many."""


def columns_first_columns(along: KernelLayout, stride: int, last_row: int, width: int) -> int:
    """Return the outputs in a row of a strip: strips are of about one width.

    ``stride`` and ``last_row`` count input rows: to the next output row, and to a field's last tap.
    """
    size = along.weights.itemsize
    numbers = COLUMN_SUM_BYTES // size
    if stride <= last_row:
        numbers = min(numbers, FIELD_BYTES // ((last_row + 1) * size))
    fit = (numbers - int(along.tap_columns[-1]) - 1) // along.stride[1] + 1
    strips = -(-width // max(fit, min(FEWEST_COLUMNS, width)))
    return -(-width // strips)


def columns_first_sizes(along: KernelLayout, columns: int) -> tuple[int, int, int, int]:
    """Return the elements of a row of sums of pixels, packed, and of outputs; of an address."""
    p = along
    padded = (-(-columns // p.lanes) + max(UPDATE_NR)) * p.lanes
    read = padded if p.stride[1] == 1 else columns  # at stride 1 nothing is packed
    pixels = (read - 1) * p.stride[1] + int(p.tap_columns[-1]) + 1
    block = CACHE_LINE // p.weights.itemsize
    packed = 0 if p.stride[1] == 1 else p.row_size(padded)
    return -(-pixels // block) * block, packed, padded, INDEX // p.weights.itemsize


# banks whose fields share no pixel: loops.panel_gemm

MOST_PANELS = 4
"""Panels of a strip: results are written in runs of so many times 96 bytes."""
PANEL_BYTES = 3 << 16
"""Panels of a strip together: a part of a second-level cache of 512 KiB."""


def is_gemm(layout: KernelLayout) -> bool:
    """Say whether kernels are a bank whose fields share no pixel: sums are a matrix product."""
    p = layout
    return p.weights.shape[0] > 1 and p.reach == 0 and p.row_stride >= p.height


def panel_row_size(layout: KernelLayout) -> int:
    """Return the elements of a panel for one row of pixels."""
    return layout.line_count * NR * layout.lanes


def panel_count(layout: KernelLayout) -> int:
    """Return the panels of a strip."""
    _, bands, height, _ = layout.weights.shape
    panel_bytes = bands * height * panel_row_size(layout) * layout.weights.itemsize
    return min(max(PANEL_BYTES // panel_bytes, 1), MOST_PANELS)


def panel_gemm_sizes(layout: KernelLayout) -> tuple[int, int]:
    """Return the elements of the panels and of the sums of a strip."""
    kernels, bands, height, _ = layout.weights.shape
    line, panels = CACHE_LINE // layout.weights.itemsize, panel_count(layout)
    pixels = -(-bands * height * panel_row_size(layout) * panels // line) * line
    return pixels, -(-kernels // MR) * MR * panels * NR * layout.lanes


# the same with kernels as lanes: loops.kernel_gemm

STRIP_BYTES = 3 << 17
"""Pixels of a strip: they stay in the second-level cache while all kernels go over them."""
STRIP_UNIT, MOST_UNITS = 48, 2
"""Outputs in a strip: a multiple of OUTPUTS and of any vector's lanes."""
LEAST_TAPS = 32
"""With fewer, transposing results takes longer than packing pixels."""
MOST_SPARE = 2
"""Kernels for each empty lane, at least."""
WIDE_VECTOR = 64
"""Bytes of a vector from which this pays for any bank: on AVX-512 it takes 0.68 to 0.9 of the time
of panels. On AVX2 (an EPYC, one core, 56 banks) it takes 0.5 to 1.0 of it where taps are many, and
up to 1.6 times as long where kernels are: their results are transposed."""
TAPS_PER_KERNEL = 2
"""Fewest taps for each kernel where vectors are shorter."""


def is_kernel_gemm(layout: KernelLayout) -> bool:
    """Say whether a bank whose fields share no pixel is faster with its kernels as lanes."""
    p = layout
    kernels, together = p.weights.shape[0], kernel_vectors(p.vector_bytes) * p.lanes
    full = -kernels % together * MOST_SPARE <= kernels
    least = LEAST_TAPS
    if p.vector_bytes < WIDE_VECTOR:
        least = max(least, TAPS_PER_KERNEL * kernels)
    return full and not p.sparse and p.weights[0].size >= least


def kernel_gemm_columns(layout: KernelLayout) -> int:
    """Return the outputs in a row of a strip."""
    size = layout.weights[0].nbytes * STRIP_UNIT
    return STRIP_UNIT * min(max(STRIP_BYTES // size, 1), MOST_UNITS)


def kernel_gemm_sums_size(layout: KernelLayout) -> int:
    """Return the elements of the sums of a strip, and of those that are being transposed."""
    vectors = kernel_vectors(layout.vector_bytes)
    return kernel_gemm_columns(layout) * (vectors + 1) * layout.lanes


def kernel_gemm_row_size(layout: KernelLayout) -> int:
    """Return the elements of a strip's row of pixels, where they have to be converted."""
    return (kernel_gemm_columns(layout) - 1) * layout.stride[1] + int(layout.tap_columns.max()) + 1


def kernel_gemm_converts(layout: KernelLayout) -> bool:
    """Say whether pixels of other dtypes are converted: few of them lie between fields."""
    return layout.tap_columns.size * 2 >= layout.stride[1]


def kernel_gemm_size(layout: KernelLayout) -> int:
    """Return the elements of the sums of a strip, and of its pixels if they are converted."""
    _, bands, height, _ = layout.weights.shape
    pixels = bands * height * kernel_gemm_row_size(layout) if kernel_gemm_converts(layout) else 0
    return kernel_gemm_sums_size(layout) + pixels
