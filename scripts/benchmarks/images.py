"""Test images, and the outputs that a convolution has on them."""

from functools import lru_cache

import numpy as np

STRIP = 1024
"""Rows that are made at a time."""


def landscape(rows: int, columns: int, top: int = 0) -> np.ndarray:
    """Return hills with noise: the rows from ``top`` on of a scene without end."""
    y, x = np.ogrid[top : top + rows, :columns]
    noise = np.random.default_rng(top).standard_normal((rows, columns), np.float32)
    return 3000 + 1500 * np.sin(x / 700) * np.cos(y / 900) + 30 * noise


NODATA = {"uint8": 0, "uint16": 0, "int16": -32768}
"""What says that a pixel is missing; NaN for floats."""


@lru_cache(maxsize=2)
def image(
    dtype: str, bands: int, side: int, missing: str = "none", layout: str = "contiguous"
) -> np.ndarray:
    """Return a landscape (side, side) or (bands, side, side), some pixels missing.

    Its bands are shifted against each other, as a scene's are alike but not the same. It is made
    once for cases that follow each other: nobody may write to it.
    """
    planes = _empty(dtype, max(bands, 1), side, layout)
    for band, plane in enumerate(planes):
        for top in range(0, side, STRIP):
            rows = min(STRIP, side - top)
            strip = landscape(rows, side, top + 7 * band)
            if dtype == "uint8":
                strip = strip / 20
            elif dtype == "int16":
                strip = strip - 3000
            plane[top : top + rows] = strip
            if missing != "none":
                lost = _lost(missing, rows, side, top)
                plane[top : top + rows][lost] = NODATA.get(dtype, np.nan)
    return planes if bands else planes[0]


def _empty(dtype: str, bands: int, side: int, layout: str) -> np.ndarray:
    """Return an array (bands, side, side) of some layout in memory."""
    if layout == "columns":
        return np.empty((bands, side, 2 * side), dtype)[..., ::2]
    if layout == "transposed":
        return np.empty((bands, side, side), dtype).transpose(0, 2, 1)
    if layout == "interleaved":
        return np.empty((side, side, bands), dtype).transpose(2, 0, 1)
    return np.empty((bands, side, side), dtype)


def _lost(missing: str, rows: int, columns: int, top: int) -> np.ndarray:
    """Say which pixels of a strip are missing."""
    if missing == "few":
        return np.random.default_rng(top + 1).random((rows, columns), np.float32) < 1e-3
    y, x = np.ogrid[top : top + rows, :columns]
    clouds = np.sin(x / 97) * np.cos(y / 131) + 0.3 * np.sin((x + 2 * y) / 37)
    return clouds > 0.27  # a third of the plane


def outputs(pixels: int, size: int, stride: int) -> int:
    """Receptive fields along an axis."""
    return (pixels - size) // stride + 1


def cut(
    dense: np.ndarray, size: int | tuple[int, int], stride: int | tuple[int, int]
) -> np.ndarray:
    """Cut outputs at every pixel down to those whose fields lie inside, each ``stride``-th."""
    sizes = size if isinstance(size, tuple) else (size, size)
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    rows, columns = (
        slice(n // 2, length - (n - 1 - n // 2), step)
        for n, length, step in zip(sizes, dense.shape, strides, strict=True)
    )
    return dense[rows, columns]
