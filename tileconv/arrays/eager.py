"""Convolve a numpy array: tiles of views where no padding is met, small copies where it is."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tileconv.arrays.threads import run_all
from tileconv.convolution import Convolution
from tileconv.dtypes import Numbers
from tileconv.geometry import Axis, Geometry
from tileconv.planning.reads import read_axis
from tileconv.tile import Reads, Recipe, compute_tile

TILE = 2048
"""Most outputs per side of a tile: bounds the copies that padding and missing data need."""
FEWEST_ROWS = 64
"""Fewest rows of a tile: below it, splitting the rows again costs more than a thread gains."""
SMALL = 1 << 18
"""Multiply-adds that are not worth a second thread."""

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
    out = np.empty(out_shape(array.shape, convolution), numbers.target)
    geometry = convolution.geometry((array.shape[-2], array.shape[-1]))
    work = _Work(convolution, numbers, geometry, _readable(array), out)
    threads = threads if work.cost > SMALL else 1
    run_all(work.tile, work.tiles(threads), threads)
    return out


class _Work:
    """Tiles of an array, each of some leading index and some outputs."""

    def __init__(
        self,
        convolution: Convolution,
        numbers: Numbers,
        geometry: Geometry,
        array: np.ndarray,
        out: np.ndarray,
    ) -> None:
        single = convolution.weights.ndim == 2
        lead = array.shape[:-2] if single else array.shape[:-3]
        self._bands = 1 if single or array.ndim == 2 else array.shape[-3]
        self._array, self._lead = array, lead
        self._out = out.reshape(*lead, -1, *out.shape[-2:])
        self._geometry = geometry
        self._recipe = Recipe.of(convolution, numbers, self._bands)
        self.cost = out.size * convolution.tap_count

    def tiles(self, threads: int) -> Iterator[tuple[tuple[int, ...], Range, Range]]:
        """Leading index, output rows and output columns of each tile."""
        rows = self._geometry.y.out_size
        share = -(-rows // (4 * threads)) if threads > 1 else TILE
        most = min(TILE, max(FEWEST_ROWS, -(-share // FEWEST_ROWS) * FEWEST_ROWS))
        for index in np.ndindex(*self._lead):
            for y in _cuts(self._geometry.y, most):
                for x in _cuts(self._geometry.x, TILE):
                    yield index, y, x

    def tile(self, tile: tuple[tuple[int, ...], Range, Range]) -> None:
        """Compute one tile into the output."""
        index, y, x = tile
        c, numbers = self._recipe.convolution, self._recipe.numbers
        reads = (
            read_axis(self._geometry.y, *y, c.padding_mode),
            read_axis(self._geometry.x, *x, c.padding_mode),
        )
        planes = self._array[index]
        planes = planes if planes.ndim == 3 else planes[None]
        window = take_window(planes, reads, numbers.source)
        compute_tile(self._recipe, reads, window, None, self._out[index][:, slice(*y), slice(*x)])


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


def _cuts(axis: Axis, most: int) -> Iterator[Range]:
    """Cut the outputs into tiles, those with padding apart from those without."""
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
