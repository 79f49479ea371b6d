"""Convolve a numpy array: tiles of views where no padding is met, small copies where it is."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tileconv import buffers
from tileconv.arrays.threads import run_all
from tileconv.convolution import Convolution
from tileconv.dtypes import Numbers
from tileconv.geometry import Axis
from tileconv.planning.reads import read_axis
from tileconv.tile import Reads, Recipe, compute_tile

TILE = 4096
"""Most outputs in a row of a tile that copies its window."""
TILE_PIXELS = 1 << 20
"""Input pixels that such a tile aims at: 5 MiB of float32 and mask, a part of the third-level
cache."""
FEWEST_ROWS = 64
"""Fewest rows of a tile: below it, laying out the rows again costs more than a thread gains."""
FEWEST_APART = 8
"""The same where fields share no pixel, and nothing is laid out again."""
MOST_ROWS = 2048
"""Most rows of a tile, so that threads finish together."""
FEW = 16
"""Tiles of an array that are worth keeping for the next one of its shape: Python's share of a call
shows for small arrays."""
PAST_BYTES = 1 << 22
"""Results of this size and more are written past the caches, which would not hold them."""
REMEMBERED = 64
"""Recipes and cuts that are kept."""
SMALL_KERNEL_BYTES = 1 << 16
"""Weights of a convolution whose recipe is kept."""
SMALL = 1 << 18
"""Multiply-adds that are not worth a second thread."""
MANY = 1 << 22
"""Multiply-adds from which each thread gets several tiles, so that one that is held up delays none:
below it, handing them out would take longer."""

Range = tuple[int, int]


def out_shape(shape: tuple[int, ...], convolution: Convolution) -> tuple[int, ...]:
    """Return the shape that an array of ``shape`` (..., H, W) is convolved into.

    (kh, kw) keeps the leading axes; a bank turns (H, W) into (K, OH, OW) and
    (..., B, H, W) into (..., B * K, OH, OW); 4-D weights turn (..., B, H, W) into
    (..., M, OH, OW), and take (H, W) for one band.
    """
    planes = convolution.geometry((shape[-2], shape[-1])).out_shape
    if convolution.weights.ndim == 2:
        return (*shape[:-2], *planes)
    bands = shape[-3] if len(shape) > 2 else 1
    return (*shape[:-3], convolution.outputs(bands), *planes)


def convolve_numpy(
    array: np.ndarray, convolution: Convolution, numbers: Numbers, threads: int = 1
) -> np.ndarray:
    """Convolve ``array`` (..., H, W) into `out_shape` of ``numbers.target``."""
    out = buffers.result(out_shape(array.shape, convolution), numbers.target)
    single = convolution.weights.ndim == 2
    lead = array.shape[:-2] if single else array.shape[:-3]
    bands = 1 if single or array.ndim == 2 else array.shape[-3]
    threads = threads if out.size * convolution.tap_count > SMALL else 1
    recipe = _recipe(convolution, numbers, bands)
    source, target = _readable(array), out.reshape(*lead, -1, *out.shape[-2:])
    final = out.nbytes >= PAST_BYTES
    cuts = _cut(recipe, array.shape[-2:], threads)

    def compute(item: tuple[tuple[int, ...], Cut]) -> None:
        index, (y, x, reads) = item
        planes = source[index]
        planes = planes if planes.ndim == 3 else planes[None]
        window = take_window(planes, reads, numbers.source)
        compute_tile(recipe, reads, window, None, target[index][:, y, x], final=final)

    run_all(compute, itertools.product(np.ndindex(*lead), cuts), threads)
    return out


Cut = tuple[slice, slice, Reads]
"""Output rows and columns of a tile, and what they read."""

_recipes: dict[tuple[int, int, int], Recipe] = {}
_cuts_of: dict[tuple[int, tuple[int, ...], int], tuple[Recipe, list[Cut]]] = {}


def _recipe(convolution: Convolution, numbers: Numbers, bands: int) -> Recipe:
    """Return the recipe, the same for the same objects: laying out kernels takes its time.

    A recipe holds the objects, so that none of the numbers it is found by is used again.
    """
    key = id(convolution), id(numbers), bands
    found = _recipes.get(key)
    if found is None:
        found = Recipe.of(convolution, numbers, bands)
        if convolution.weights.nbytes <= SMALL_KERNEL_BYTES:
            _remember(_recipes, key, found)
    return found


def _remember(memory: dict[Any, Any], key: object, value: object) -> None:
    if len(memory) >= REMEMBERED:
        memory.clear()
    memory[key] = value


def _cut(recipe: Recipe, shape: tuple[int, ...], threads: int) -> list[Cut]:
    """Cut the outputs into tiles, those with padding apart from those without."""
    key = id(recipe), shape, threads
    found = _cuts_of.get(key)
    if found is not None:
        return found[1]
    c, numbers = recipe.convolution, recipe.numbers
    geometry = c.geometry((shape[0], shape[1]))
    rows, columns = geometry.out_shape
    copies = numbers.nodata is not None or (
        numbers.source.kind == "f" and (c.missing != "propagate" or c.require_center)
    )
    wide = TILE if copies else columns
    pieces = threads if rows * columns * c.tap_count < MANY else 4 * threads
    share = -(-rows // pieces) if threads > 1 else rows
    axis = geometry.y
    fewest = FEWEST_ROWS if axis.halo > 0 else FEWEST_APART
    most = min(max(share, fewest), MOST_ROWS)
    if copies:
        most = min(most, max(FEWEST_ROWS, TILE_PIXELS // shape[1]))
    cuts = []
    for y in _ranges(axis, most):
        read_y = read_axis(axis, *y, c.padding_mode)
        for x in _ranges(geometry.x, wide):
            reads = read_y, read_axis(geometry.x, *x, c.padding_mode)
            cuts.append((slice(*y), slice(*x), reads))
    if len(cuts) <= FEW:
        _remember(_cuts_of, key, (recipe, cuts))
    return cuts


def convolve_complex(
    array: np.ndarray, convolution: Convolution, numbers: Numbers, threads: int = 1
) -> np.ndarray:
    """Convolve a complex array with real weights: its real and imaginary parts, each by itself.

    A pixel is missing if either part is NaN. ``numbers`` are those of the parts.
    """
    lost = np.isnan(array)
    parts = [array.real, array.imag]
    if lost.any():
        parts = [np.where(lost, np.nan, part) for part in parts]
    halves = part_convolutions(convolution)
    real, imaginary = (
        convolve_numpy(part, half, numbers, threads)
        for part, half in zip(parts, halves, strict=True)
    )
    return combine_complex(real, imaginary)


def part_convolutions(convolution: Convolution) -> tuple[Convolution, Convolution]:
    """Return what to compute of the real and of the imaginary part.

    Bias, fill and padding values are real.
    """
    return convolution, replace(convolution, bias=None, fill_value=0.0, padding_value=0.0)


def combine_complex(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """Return ``real + 1j * imaginary`` without arithmetic: NaN and infinity stay where they are."""
    out = np.empty(real.shape, np.result_type(real.dtype, np.complex64))
    out.real, out.imag = real, imaginary
    return out


def compute_window(
    convolution: Convolution, numbers: Numbers, reads: Reads, window: np.ndarray
) -> np.ndarray:
    """Compute what a window (..., rows.size, columns.size) of ``numbers.source`` gives."""
    single = convolution.weights.ndim == 2
    lead = window.shape[:-2] if single else window.shape[:-3]
    bands = 1 if single or window.ndim == 2 else window.shape[-3]
    recipe = Recipe.of(convolution, numbers, bands)
    outputs = (reads[0].outputs, reads[1].outputs)
    middle = () if single else (recipe.outputs,)
    out = np.empty((*lead, *middle, *outputs), numbers.target)
    targets = out.reshape(*lead, recipe.outputs, *outputs)
    window = _readable(window)
    for index in np.ndindex(*lead):
        planes = window[index]
        planes = planes if planes.ndim == 3 else planes[None]
        compute_tile(recipe, reads, planes, None, targets[index])
    return out


def take_window(planes: np.ndarray, reads: Reads, source: np.dtype) -> np.ndarray:
    """Return the pixels of a tile: a view if it can be one, else a copy in native byte order."""
    rows, columns = reads
    window = planes
    if rows.span is not None:
        window = window[..., rows.span, :]
    if columns.span is not None:
        window = window[..., columns.span]
    if rows.span is None:
        window = window.take(np.maximum(rows.index, 0), axis=-2)
    if columns.span is None:
        window = window.take(np.maximum(columns.index, 0), axis=-1)
    return window if window.dtype == source else window.astype(source)


def _ranges(axis: Axis, most: int) -> Iterator[Range]:
    """Cut the outputs of an axis, those with padding apart from those without."""
    first, end = axis.interior
    for low, high in ((0, first), (first, end), (end, axis.out_size)):
        for start in range(low, high, most):
            yield start, min(start + most, high)


def _readable(array: np.ndarray) -> np.ndarray:
    """Return a plain view of ``array`` that the loops, which never write to it, take as writable.

    Numba compiles anew for a read-only array; and a subclass (memmap, matrix) is not its business.
    """
    array = np.asarray(array)
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.flags.writeable or not array.size:
        return array
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(_Exposed(interface, array))


class _Exposed:
    """An array interface that keeps its owner alive."""

    def __init__(self, interface: dict[str, object], owner: np.ndarray) -> None:
        self.__array_interface__ = interface
        self.owner = owner
