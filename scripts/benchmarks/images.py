"""Test images, and the outputs that a convolution has on them."""

import numpy as np


def landscape(rows: int, columns: int, top: int = 0) -> np.ndarray:
    """Return hills with noise: the rows from ``top`` on of a scene without end."""
    y, x = np.ogrid[top : top + rows, :columns]
    noise = np.random.default_rng(top).standard_normal((rows, columns), np.float32)
    return 3000 + 1500 * np.sin(x / 700) * np.cos(y / 900) + 30 * noise


def outputs(pixels: int, size: int, stride: int) -> int:
    """Receptive fields along an axis."""
    return (pixels - size) // stride + 1


def cut(dense: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Cut outputs at every pixel down to those whose fields lie inside, each ``stride``-th."""
    first, last = size // 2, size - 1 - size // 2
    rows, columns = dense.shape
    return dense[first : rows - last : stride, first : columns - last : stride]
