"""Convolve a numpy array: tiles of views where no padding is met, small copies where it is."""

from collections.abc import Iterator

import numpy as np

from tileconv.convolution import Convolution
from tileconv.dtypes import Numbers
from tileconv.engine.choose import choose
from tileconv.geometry import Axis
from tileconv.planning.reads import AxisRead, read_axis
from tileconv.tile import compute_tile

TILE = 2048
"""Outputs per side of a tile: bounds the copies that padding and missing data need."""


def convolve_numpy(array: np.ndarray, convolution: Convolution, numbers: Numbers) -> np.ndarray:
    """Convolve every plane of ``array`` (..., H, W) into (..., OH, OW) of the target dtype."""
    array = _readable(array)
    geometry = convolution.geometry(array.shape[-2:])
    out = np.empty((*array.shape[:-2], *geometry.out_shape), numbers.target)
    weights = convolution.weights_in(numbers.compute)
    algorithm = choose(
        convolution.weights, convolution.stride, convolution.dilation, numbers.compute
    )
    mode = convolution.padding_mode
    for y0, y1 in _cuts(geometry.y):
        rows = read_axis(geometry.y, y0, y1, mode)
        for x0, x1 in _cuts(geometry.x):
            columns = read_axis(geometry.x, x0, x1, mode)
            for plane in np.ndindex(*array.shape[:-2]):
                window = _window(array[plane], rows, columns, numbers.source)
                compute_tile(
                    convolution,
                    algorithm,
                    numbers,
                    weights,
                    (rows, columns),
                    window,
                    None,
                    out[plane][y0:y1, x0:x1],
                )
    return out


def _cuts(axis: Axis) -> Iterator[tuple[int, int]]:
    """Cut the outputs into tiles, those with padding apart from those without."""
    first, end = axis.interior
    for low, high in ((0, first), (first, end), (end, axis.out_size)):
        for start in range(low, high, TILE):
            yield start, min(start + TILE, high)


def _window(plane: np.ndarray, rows: AxisRead, columns: AxisRead, source: np.dtype) -> np.ndarray:
    """Return the pixels of a tile: a view if it can be one, else a copy in native byte order."""
    window = plane
    if rows.span is not None:
        window = window[rows.span]
    if columns.span is not None:
        window = window[:, columns.span]
    if rows.span is None:
        window = window.take(np.maximum(rows.index, 0), axis=0)
    if columns.span is None:
        window = window.take(np.maximum(columns.index, 0), axis=1)
    return window if window.dtype == source else window.astype(source)


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
