"""Kernels by name: functions that return weights as float64 arrays of shape (kh, kw).

Sizes and lengths are in pixels; one number serves both axes, a pair is (y, x).
They are meant as correlations: a weight lies where the pixel it weighs lies.
`BY_NAME` is what ``kernel: {name: ...}`` of a job can ask for, and there a
length may also be given in map units ("30 m").
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from tileconv.arguments import check_finite, check_lengths, check_pair, check_whole, short_repr
from tileconv.errors import ConvolutionError

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
Size = int | Sequence[int]
"""Whole pixels, n or (y, x)."""
Length = float | Sequence[float]
"""Pixels, n or (y, x)."""

LARGEST_SIDE = 1024
"""Longest side of a kernel made by name, in pixels."""
SHORTEST = 1e-6
"""Shortest length, in pixels."""


def box(size: Size = 3) -> FloatArray:
    """Return the mean over a rectangle: equal weights, sum 1.

    >>> box(2)
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """
    kh, kw = _sizes(size)
    return np.full((kh, kw), 1 / (kh * kw))


def gaussian(size: Size = 5, sigma: Length = 1.0) -> FloatArray:
    """Return exp(-(y/sigma_y)**2/2 - (x/sigma_x)**2/2) at pixel centres, sum 1.

    ``2 * ceil(3 * sigma) + 1`` pixels hold 99.7 % of each axis.

    >>> gaussian(3, sigma=0.5).round(3)
    array([[0.011, 0.084, 0.011],
           [0.084, 0.619, 0.084],
           [0.011, 0.084, 0.011]])
    """
    y, x = _centred(size)
    sy, sx = _lengths(sigma, "sigma")
    weights = np.outer(_bell(y / sy), _bell(x / sx))
    return weights / weights.sum()


def circle(radius: Length = 2.0) -> FloatArray:
    """Return the mean over the pixels whose centres lie within ``radius``, sum 1.

    >>> circle(1) * 5
    array([[0., 1., 0.],
           [1., 1., 1.],
           [0., 1., 0.]])
    """
    inside = _distance(radius) <= 1 + 1e-9
    return inside / inside.sum()


def annulus(outer: Length = 3.0, inner: Length = 1.0) -> FloatArray:
    """Return the mean over pixel centres farther than ``inner`` and within ``outer``, sum 1.

    >>> (annulus(1, 0.5) * 4)[1]
    array([1., 0., 1.])
    """
    outside, hole = _lengths(outer, "outer"), _lengths(inner, "inner")
    if not (hole[0] < outside[0] and hole[1] < outside[1]):
        raise ConvolutionError(f"inner must be below outer, got {hole} and {outside}")
    y, x = _grid(outside)
    ring = _norm(y, x, outside) <= 1 + 1e-9
    ring &= _norm(y, x, hole) > 1 + 1e-9
    if not ring.any():
        raise ConvolutionError(f"no pixel centre lies between {hole} and {outside}")
    return ring / ring.sum()


def sobel_x() -> FloatArray:
    """Return Sobel's derivative along x, positive where values rise eastwards; gain 8 per pixel.

    Sobel & Feldman (1968).

    >>> sobel_x()
    array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]])
    """
    return np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])


def sobel_y() -> FloatArray:
    """Return Sobel's derivative along y, positive where values rise downwards; gain 8 per pixel.

    >>> sobel_y()[:, 1]
    array([-2.,  0.,  2.])
    """
    return sobel_x().T.copy()


def prewitt_x() -> FloatArray:
    """Return Prewitt's derivative along x, positive where values rise eastwards; gain 6 per pixel.

    Prewitt (1970).

    >>> prewitt_x()[0]
    array([-1.,  0.,  1.])
    """
    return np.outer([1.0, 1.0, 1.0], [-1.0, 0.0, 1.0])


def prewitt_y() -> FloatArray:
    """Return Prewitt's derivative along y, positive where values rise downwards; gain 6.

    >>> prewitt_y()[:, 0]
    array([-1.,  0.,  1.])
    """
    return prewitt_x().T.copy()


def scharr_x() -> FloatArray:
    """Return Scharr's derivative along x, positive where values rise eastwards; gain 32 per pixel.

    The 3 x 3 weights (3, 10, 3) whose direction errs least (Scharr, 2000).

    >>> scharr_x()[:, 2]
    array([ 3., 10.,  3.])
    """
    return np.outer([3.0, 10.0, 3.0], [-1.0, 0.0, 1.0])


def scharr_y() -> FloatArray:
    """Return Scharr's derivative along y, positive where values rise downwards; gain 32.

    >>> scharr_y()[2]
    array([ 3., 10.,  3.])
    """
    return scharr_x().T.copy()


def laplacian() -> FloatArray:
    """Return the five-point Laplacian, d2/dx2 + d2/dy2 per pixel squared; sum 0.

    >>> laplacian()
    array([[ 0.,  1.,  0.],
           [ 1., -4.,  1.],
           [ 0.,  1.,  0.]])
    """
    return np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


def log(size: Size = 9, sigma: Length = 1.4) -> FloatArray:
    """Return the Laplacian of a Gaussian (Marr & Hildreth, 1980), shifted to sum to 0.

    The second derivatives of `gaussian` along y and x at pixel centres:
    ``(y**2/sigma**4 - 1/sigma**2 + x**2/sigma**4 - 1/sigma**2) * gaussian``.
    Negative in the centre.

    >>> abs(float(log().sum())) < 1e-15
    True
    """
    y, x = _centred(size)
    sy, sx = _lengths(sigma, "sigma")
    curvature = ((y / sy) ** 2 - 1)[:, None] / sy**2 + ((x / sx) ** 2 - 1)[None, :] / sx**2
    weights = curvature * gaussian(size, sigma)
    return weights - weights.mean()


def sharpen() -> FloatArray:
    """Return the pixel minus its Laplacian, sum 1.

    >>> sharpen()
    array([[ 0., -1.,  0.],
           [-1.,  5., -1.],
           [ 0., -1.,  0.]])
    """
    return np.array([[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]])


def unsharp(size: Size = 5, sigma: Length = 1.0, amount: float = 1.0) -> FloatArray:
    """Return unsharp masking: the pixel plus ``amount`` times its distance from `gaussian`, sum 1.

    Needs an odd size: the pixel itself must have a place.

    >>> round(float(unsharp(3, sigma=0.5)[1, 1]), 3)
    1.381
    """
    weights = -check_finite(amount, "amount") * gaussian(size, sigma)
    kh, kw = weights.shape
    if not (kh % 2 and kw % 2):
        raise ConvolutionError(f"unsharp needs an odd size, got {short_repr(size)}")
    weights[kh // 2, kw // 2] += 1 + amount
    return weights


def emboss() -> FloatArray:
    """Return a relief lit from the upper left, sum 1.

    >>> emboss()
    array([[-2., -1.,  0.],
           [-1.,  1.,  1.],
           [ 0.,  1.,  2.]])
    """
    return np.array([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])


def lanczos(stride: Size = 2, lobes: int = 3) -> FloatArray:
    """Return the anti-alias kernel for downsampling by ``stride``, sum 1.

    ``sinc(x / stride) * sinc(x / (lobes * stride))`` for ``|x| < lobes *
    stride`` (Lanczos; Duchon, 1979), centred on a block of ``stride`` pixels:
    with padding ``same`` the output's pixels are those blocks.

    >>> lanczos(4).shape, lanczos(3).shape
    ((24, 24), (17, 17))
    """
    steps, lobes = _sizes(stride), check_whole(lobes, "lobes", 1, 16)
    y, x = _centred([2 * lobes * step - step % 2 for step in steps])
    profiles = [
        np.sinc(p / s) * np.sinc(p / (lobes * s)) for p, s in zip((y, x), steps, strict=True)
    ]
    weights = np.outer(*profiles)
    return weights / weights.sum()


def gabor(
    size: Size = 15,
    sigma: float = 3.0,
    wavelength: float = 6.0,
    theta: float = 0.0,
    phase: float = 0.0,
    aspect: float = 1.0,
) -> FloatArray:
    """Return a wave under a Gaussian (Gabor, 1946; Daugman, 1985): stripes of one width.

    ``exp(-(u**2 + (aspect * v)**2) / (2 sigma**2)) * cos(2 pi u / wavelength + phase)`` with
    ``u = x cos(theta) + y sin(theta)``, ``v = -x sin(theta) + y cos(theta)``; angles in degrees,
    theta from the x axis towards growing y. Not normalised.

    >>> [abs(round(float(w), 2)) for w in gabor(7, wavelength=4)[3]]
    [0.0, 0.8, 0.0, 1.0, 0.0, 0.8, 0.0]
    """
    spread, step = _length(sigma, "sigma"), _length(wavelength, "wavelength")
    ratio = _length(aspect, "aspect")
    y, x = _centred(size)
    angle, shift = np.deg2rad(check_finite(theta, "theta")), check_finite(phase, "phase")
    u = x[None, :] * np.cos(angle) + y[:, None] * np.sin(angle)
    v = -x[None, :] * np.sin(angle) + y[:, None] * np.cos(angle)
    envelope = np.exp(-(u**2 + (ratio * v) ** 2) / (2 * spread**2))
    return envelope * np.cos(2 * np.pi * u / step + np.deg2rad(shift))


BY_NAME: Mapping[str, Callable[..., FloatArray]] = MappingProxyType(
    {
        f.__name__: f
        for f in (
            box,
            gaussian,
            circle,
            annulus,
            sobel_x,
            sobel_y,
            prewitt_x,
            prewitt_y,
            scharr_x,
            scharr_y,
            laplacian,
            log,
            sharpen,
            unsharp,
            emboss,
            lanczos,
            gabor,
        )
    }
)

PIXELS = frozenset({"size"})
"""Arguments that count whole pixels."""
LENGTHS = frozenset({"sigma", "radius", "outer", "inner", "wavelength"})
"""Arguments that are lengths; together with `PIXELS`, those that may be given in map units."""


def _sizes(size: Size) -> tuple[int, int]:
    """Return ``size`` as (y, x)."""
    return check_pair(size, "a kernel's side", 1, LARGEST_SIDE)


def _lengths(length: Length, name: str) -> tuple[float, float]:
    """Return ``length`` as (y, x)."""
    return check_lengths(length, name, SHORTEST, LARGEST_SIDE)


def _length(length: Length, name: str) -> float:
    """Return ``length`` of what has none of its own along each axis."""
    y, x = _lengths(length, name)
    if y != x:
        raise ConvolutionError(f"{name} must be one number for both axes, got {short_repr(length)}")
    return y


def _centred(size: Size) -> tuple[FloatArray, FloatArray]:
    """Return the distances of pixel centres from the kernel's centre, along y and x."""
    kh, kw = _sizes(size)
    return np.arange(kh) - (kh - 1) / 2, np.arange(kw) - (kw - 1) / 2


def _grid(radius: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Return the distances of pixel centres in the smallest odd square around ``radius``."""
    return _centred([2 * int(r + 1e-9) + 1 for r in radius])


def _norm(y: FloatArray, x: FloatArray, radius: tuple[float, float]) -> FloatArray:
    return np.hypot((y / radius[0])[:, None], (x / radius[1])[None, :])


def _distance(radius: Length) -> FloatArray:
    """Return the distances of pixel centres from the centre, in units of ``radius``."""
    lengths = _lengths(radius, "radius")
    return _norm(*_grid(lengths), lengths)


def _bell(u: FloatArray) -> FloatArray:
    """Return exp(-u**2 / 2), scaled to 1 at its largest so that it is never 0 everywhere."""
    squares = u**2
    return np.exp(-(squares - squares.min()) / 2)
