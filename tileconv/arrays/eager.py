"""Convolve a numpy array: tiles of views where no padding is met, small copies where it is."""

import itertools
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tileconv import buffers
from tileconv.arrays.threads import run_all
from tileconv.dtypes import Numbers
from tileconv.errors import OutOfMemoryError
from tileconv.geometry import Axis, Geometry
from tileconv.operators.base import Operator
from tileconv.planning.reads import Reads, read_axis
from tileconv.text import size
from tileconv.tile import AnyRecipe, compute_tile, recipe_of

TILE = 4096
"""Most outputs in a row of a tile that copies its window, or keeps its validity plane."""
COPIED_PIXELS = 1 << 20
"""Input pixels of a tile that copies its window: 5 MiB of float32 and validity, a part of the
third-level cache."""
WEIGHED_PIXELS = 1 << 22
"""Those of one band of one that keeps a validity plane, of rows with missing pixels."""
MOST_COPIED = 1 << 26
"""The same whatever it keeps: large kernels at large strides read far more than they write."""
FEWEST_ROWS = 64
"""Fewest rows of a tile: below it, laying out the rows again costs more than a thread gains."""
FEWEST_APART = 8
"""The same where fields share no pixel, and nothing is laid out again."""
MOST_ROWS = 2048
"""Most rows of a tile, so that threads finish together."""
FEW = 1 << 17
"""Rows and columns of all tiles of an array, up to which these are kept for the next one of its
shape: 1 MiB at the most."""
STREAM_BYTES = 1 << 22
"""Results of this size and more go by streaming stores: caches would not hold them."""
REMEMBERED = 64
"""Recipes and layouts that are kept."""
SMALL = 1 << 18
"""Multiply-adds that are not worth a second thread."""
MANY = 1 << 22
"""Multiply-adds from which each thread gets several tiles, so that one that is held up delays none.
Below it handing them out would take longer; a single one more is for the caller's own thread, which
has done its first before the others are awake."""

Range = tuple[int, int]


def out_shape(shape: tuple[int, ...], operator: Operator) -> tuple[int, ...]:
    """Return the shape that an array of ``shape`` (..., H, W) is convolved into.

    (kh, kw) keeps the leading axes; a bank turns (H, W) into (K, OH, OW) and
    (..., B, H, W) into (..., B * K, OH, OW); 4-D weights turn (..., B, H, W) into
    (..., M, OH, OW), and take (H, W) for one band.
    """
    planes = operator.geometry((shape[-2], shape[-1])).out_shape
    if operator.new_dimension is None:
        return (*shape[:-2], *planes)
    bands = shape[-3] if len(shape) > 2 else 1
    return (*shape[:-3], operator.outputs(bands), *planes)


def convolve_numpy(
    array: np.ndarray,
    operator: Operator,
    numbers: Numbers,
    threads: int = 1,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Convolve ``array`` (..., H, W) into `out_shape` of ``numbers.target``.

    ``mask``, of its shape, is True where a pixel is missing whatever it holds.
    Raises `OutOfMemoryError` if there is not the memory for it.
    """
    try:
        return _convolve_numpy(array, operator, numbers, threads, mask)
    except MemoryError as error:
        if isinstance(error, OutOfMemoryError):
            raise
        shape = out_shape(array.shape, operator)
        raise OutOfMemoryError(
            f"out of memory: the result has shape {shape} of {numbers.target}, "
            f"{size(prod(shape) * numbers.target.itemsize)}, and tiles need some more; convolve "
            "a part at a time, or a dask array"
        ) from error


def _convolve_numpy(
    array: np.ndarray,
    operator: Operator,
    numbers: Numbers,
    threads: int,
    mask: np.ndarray | None,
) -> np.ndarray:
    recipe, shape, lead, threads, cuts = _lay_out(operator, numbers, array.shape, threads)
    out = buffers.result(shape, numbers.target)
    source, target = _readable(array), out.reshape(*lead, -1, *shape[-2:])
    stream = out.nbytes >= STREAM_BYTES

    def compute(item: tuple[tuple[int, ...], Cut]) -> None:
        index, (y, x, reads) = item
        planes = source[index]
        planes = planes if planes.ndim == 3 else planes[None]
        window = take_window(planes, reads, numbers.source)
        hidden = None if mask is None else take_window(mask[index], reads, mask.dtype)
        compute_tile(recipe, reads, window, hidden, target[index][:, y, x], stream=stream)

    indices = itertools.product(*map(range, lead))  # np.ndindex takes as long as a small tile
    run_all(compute, itertools.product(indices, cuts), threads)
    return out


Cut = tuple[slice, slice, Reads]
"""Output rows and columns of a tile, and what they read."""


class _Layout(NamedTuple):
    """What a call on an array of some shape comes to."""

    recipe: AnyRecipe
    out_shape: tuple[int, ...]
    lead: tuple[int, ...]
    """Axes of the array whose parts are convolved each by itself."""
    threads: int
    """Of those offered, which are worth taking."""
    cuts: list[Cut]


_recipes: dict[tuple[int, int, int], AnyRecipe] = {}
_layouts: dict[tuple[int, int, tuple[int, ...], int], _Layout] = {}


def _lay_out(operator: Operator, numbers: Numbers, shape: tuple[int, ...], threads: int) -> _Layout:
    """Return the layout of a call: Python's share of it shows for small arrays.

    It holds the objects, so that none of the numbers it is found by is used again.
    """
    key = id(operator), id(numbers), shape, threads
    found = _layouts.get(key)
    if found is None:
        single = operator.new_dimension is None
        lead = shape[:-2] if single else shape[:-3]
        recipe = _recipe(operator, numbers, 1 if single or len(shape) == 2 else shape[-3])
        whole = out_shape(shape, operator)
        _check_size(whole, numbers.target)
        threads = threads if prod(whole) * operator.tap_count > SMALL else 1
        cuts = _cut(operator, numbers, recipe, shape[-2:], threads)
        threads = min(threads, prod(lead) * len(cuts))
        found = _Layout(recipe, whole, lead, threads, cuts)
        if (
            operator.is_small
            and sum(rows.size + columns.size for _, _, (rows, columns) in found.cuts) <= FEW
        ):
            _remember(_layouts, key, found)
    return found


def _check_size(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse a result that the machine cannot hold, before any of it is there."""
    needed, there = prod(shape) * dtype.itemsize, buffers.machine_bytes()
    if there and needed > there:
        raise OutOfMemoryError(
            f"the result would have shape {shape} of {dtype}, {size(needed)}, and this machine has "
            f"{size(there)}; use less padding or a larger stride, or convolve a file or a dask "
            "array"
        )


def _recipe(operator: Operator, numbers: Numbers, bands: int) -> AnyRecipe:
    """Return the recipe, the same for the same objects: laying out kernels takes its time.

    It holds them, as a layout does.
    """
    key = id(operator), id(numbers), bands
    found = _recipes.get(key)
    if found is None:
        found = recipe_of(operator, numbers, bands)
        if operator.is_small:
            _remember(_recipes, key, found)
    return found


def _remember(memory: dict[Any, Any], key: object, value: object) -> None:
    if len(memory) >= REMEMBERED:
        memory.clear()
    memory[key] = value


def _cut(
    operator: Operator,
    numbers: Numbers,
    recipe: AnyRecipe,
    shape: tuple[int, ...],
    threads: int,
) -> list[Cut]:
    """Cut the outputs into tiles, those with padding apart from those without."""
    geometry = operator.geometry((shape[0], shape[1]))
    rows, columns = geometry.out_shape
    looks = numbers.nodata is not None or (
        numbers.source.kind == "f" and operator.missing_rules[-1].looks
    )
    held = looks and (recipe.copies or recipe.weighs)
    wide = TILE if held else columns
    pieces = threads + 1 if rows * columns * operator.tap_count < MANY else 4 * threads
    share = -(-rows // pieces) if threads > 1 else rows
    fewest = FEWEST_ROWS if geometry.y.halo > 0 else FEWEST_APART
    tall = min(max(share, fewest), MOST_ROWS)
    if held:
        pixels = COPIED_PIXELS if recipe.copies else WEIGHED_PIXELS
        tall = min(tall, max(FEWEST_ROWS, pixels // shape[1]))
    down, across = (
        [(slice(*part), read_axis(axis, *part)) for part in _ranges(axis, most)]
        for axis, most in ((geometry.y, tall), (geometry.x, wide))
    )
    most = MOST_COPIED // recipe.bands
    return [
        piece
        for y, read_y in down
        for x, read_x in across
        for piece in _pieces(geometry, (y, x, (read_y, read_x)), most)
    ]


def _pieces(geometry: Geometry, cut: Cut, most: int) -> Iterator[Cut]:
    """Halve a tile until its window, if padding has it copied, has at most ``most`` pixels."""
    y, x, (rows, columns) = cut
    viewed = rows.span is not None and columns.span is not None
    if viewed or rows.size * columns.size <= most or rows.outputs == columns.outputs == 1:
        yield cut
        return
    if columns.outputs == 1 or (rows.outputs > 1 and rows.size > columns.size):
        for part in _halves(y):
            read = read_axis(geometry.y, part.start, part.stop)
            yield from _pieces(geometry, (part, x, (read, columns)), most)
    else:
        for part in _halves(x):
            read = read_axis(geometry.x, part.start, part.stop)
            yield from _pieces(geometry, (y, part, (rows, read)), most)


def _halves(outputs: slice) -> tuple[slice, slice]:
    middle = (outputs.start + outputs.stop) // 2
    return slice(outputs.start, middle), slice(middle, outputs.stop)


def convolve_complex(
    array: np.ndarray, operator: Operator, numbers: Numbers, threads: int = 1
) -> np.ndarray:
    """Convolve a complex array with real weights: its real and imaginary parts, each by itself.

    A pixel is missing if either part is NaN. ``numbers`` are those of the parts.
    """
    lost = np.isnan(array)
    parts = [array.real, array.imag]
    if lost.any():
        parts = [np.where(lost, np.nan, part) for part in parts]
    halves = operator.of_parts()
    real, imaginary = (
        convolve_numpy(part, half, numbers, threads)
        for part, half in zip(parts, halves, strict=True)
    )
    return combine_complex(real, imaginary)


def combine_complex(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """Return ``real + 1j * imaginary`` without arithmetic: NaN and infinity stay where they are."""
    out = np.empty(real.shape, np.result_type(real.dtype, np.complex64))
    out.real, out.imag = real, imaginary
    return out


def compute_window(
    operator: Operator, numbers: Numbers, reads: Reads, window: np.ndarray
) -> np.ndarray:
    """Compute what a window (..., rows.size, columns.size) of ``numbers.source`` gives."""
    single = operator.new_dimension is None
    lead = window.shape[:-2] if single else window.shape[:-3]
    bands = 1 if single or window.ndim == 2 else window.shape[-3]
    recipe = _recipe(operator, numbers, bands)
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

    Numba compiles again for a read-only array; and a subclass (memmap, matrix) is not its business.
    """
    array = np.asarray(array)
    if array.dtype.kind == "b":
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
