"""Kernels by name: functions that return weights as float64 arrays.

Each takes sizes in pixels. `BY_NAME` is what ``kernel: {name: ...}`` of a job
can ask for.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from tileconv.errors import ConvolutionError

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def box(size: int = 3) -> FloatArray:
    """Return the mean over ``size`` x ``size`` pixels; shape (size, size), sum 1.

    >>> box(2)
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """
    _check_size(size)
    return np.full((size, size), 1 / size**2)


def gaussian(size: int = 5, sigma: float = 1.0) -> FloatArray:
    """Return exp(-(y**2 + x**2) / (2 sigma**2)) sampled at pixel centres, sum 1.

    Parameters
    ----------
    size
        Pixels per side; 2 * ceil(3 * sigma) + 1 keeps 99.7 % of each axis.
    sigma
        Standard deviation in pixels, above 0.

    >>> gaussian(3, sigma=0.5).round(3)
    array([[0.011, 0.084, 0.011],
           [0.084, 0.619, 0.084],
           [0.011, 0.084, 0.011]])
    """
    _check_size(size)
    if not 1e-100 <= sigma <= 1e100:  # its square is still a number
        raise ConvolutionError(f"sigma must be a number above 0 (1e-100 to 1e100), got {sigma!r}")
    squares = (np.arange(size) - (size - 1) / 2) ** 2
    profile = np.exp(-(squares - squares.min()) / (2 * sigma**2))  # 1 in the middle: never all 0
    weights = np.outer(profile, profile)
    return weights / weights.sum()


def sobel_x() -> FloatArray:
    """Return Sobel's 3 x 3 derivative along x (columns), positive where values rise eastwards.

    As a correlation; the gain is 8 per unit of slope per pixel (Sobel & Feldman, 1968).

    >>> sobel_x()
    array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]])
    """
    return np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])


def sobel_y() -> FloatArray:
    """Return Sobel's 3 x 3 derivative along y (rows), positive where values rise downwards.

    >>> sobel_y()
    array([[-1., -2., -1.],
           [ 0.,  0.,  0.],
           [ 1.,  2.,  1.]])
    """
    return sobel_x().T.copy()


def laplacian() -> FloatArray:
    """Return the 3 x 3 five-point Laplacian, d2/dx2 + d2/dy2 per pixel squared; sum 0.

    >>> laplacian()
    array([[ 0.,  1.,  0.],
           [ 1., -4.,  1.],
           [ 0.,  1.,  0.]])
    """
    return np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


BY_NAME: Mapping[str, Callable[..., FloatArray]] = MappingProxyType(
    {f.__name__: f for f in (box, gaussian, sobel_x, sobel_y, laplacian)}
)


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= 1023:
        raise ConvolutionError(f"a kernel's size must be a whole number in 1..1023, got {size!r}")
