"""`tileconv.convolve` beside what people would use instead."""

from collections.abc import Iterator
from functools import partial

import numba
import numpy as np

import tileconv
from benchmarks.images import cut, landscape, outputs
from benchmarks.machine import INSTALLED
from benchmarks.tables import Row, Scaled, print_table
from benchmarks.turns import take_turns

if "OpenCV" in INSTALLED:
    import cv2
if "torch" in INSTALLED:
    import torch
if "SciPy" in INSTALLED:
    from scipy import ndimage
ARRAY_CASES = ((3, 1), (3, 4), (7, 1), (7, 4), (15, 4), (31, 8), (3, 16))
"""(kernel, stride)."""
TOLERANCE = 3e-6
"""Of the largest sum that could be: float32 products, added in different orders."""
SCIPY_PRODUCTS = 3e8
"""What SciPy manages in about a second."""


def arrays(smaller: int) -> list[Row]:
    side = 4096 // smaller
    title = f"arrays: {side} x {side}, one thread each; peers: their time / tileconv's"
    return print_table(title, array_rows(side, rounds=5))


def array_rows(side: int, rounds: int) -> Iterator[Row]:
    """Time every contender on every case."""
    use_one_thread()
    for dtype in ("uint16", "float32"):
        image = landscape(side, side).astype(dtype)
        for size, stride in ARRAY_CASES:
            kernel = np.random.default_rng(size).normal(size=(size, size)).astype(np.float32)
            timed = race(image, kernel, stride, rounds)
            ours = timed.pop("tileconv")
            case = {"dtype": dtype, "kernel": size, "stride": stride, "tileconv ms": 1e3 * ours}
            yield case | {name: type(theirs)(theirs / ours) for name, theirs in timed.items()}


def race(image: np.ndarray, kernel: np.ndarray, stride: int, rounds: int) -> dict[str, float]:
    """Return each contender's seconds for the whole image."""
    expected = CONTENDERS["tileconv"](image, kernel, stride)
    largest = np.abs(kernel).sum() * float(image.max())
    jobs, scale = {}, {}
    for name in ("tileconv", *INSTALLED):
        convolve, part = CONTENDERS[name], image
        if name == "SciPy":
            rows = int(SCIPY_PRODUCTS / (image.shape[1] * kernel.size))
            part = image[: max(rows, 2 * kernel.shape[0])]
        found = convolve(part, kernel, stride)  # the warm-up, too
        error = np.abs(found - expected[: found.shape[0]]).max() / largest
        if not error <= TOLERANCE:
            raise SystemExit(f"{name} computes something else: {error:.1e} of the largest sum")
        jobs[name] = partial(convolve, part, kernel, stride)
        scale[name] = image.shape[0] / part.shape[0]
    timed = take_turns(jobs, rounds)
    return {n: Scaled(timed[n] * scale[n]) if scale[n] > 1 else timed[n] for n in jobs}


def with_tileconv(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    return tileconv.convolve(image, kernel, stride=stride, threads=1)


def with_opencv(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    return cut(cv2.filter2D(image, cv2.CV_32F, kernel), kernel.shape[0], stride)


def with_torch(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    pixels, weights = torch.from_numpy(image).to(torch.float32), torch.from_numpy(kernel)
    with torch.inference_mode():
        return torch.conv2d(pixels[None, None], weights[None, None], stride=stride)[0, 0].numpy()


def with_scipy(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    return cut(ndimage.correlate(image, kernel, output=np.float32), kernel.shape[0], stride)


def with_numba(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    out = np.empty([outputs(n, kernel.shape[0], stride) for n in image.shape], np.float32)
    four_loops(image, kernel, stride, out)
    return out


@numba.njit(parallel=True, fastmath=True)
def four_loops(image, kernel, stride, out):
    for y in numba.prange(out.shape[0]):
        for x in range(out.shape[1]):
            total = np.float32(0)
            for i in range(kernel.shape[0]):
                for j in range(kernel.shape[1]):
                    total += kernel[i, j] * np.float32(image[y * stride + i, x * stride + j])
            out[y, x] = total


CONTENDERS = {
    "tileconv": with_tileconv,
    "OpenCV": with_opencv,
    "torch": with_torch,
    "SciPy": with_scipy,
    "Numba": with_numba,
}


def use_one_thread() -> None:
    numba.set_num_threads(1)
    if "OpenCV" in INSTALLED:
        cv2.setNumThreads(1)
    if "torch" in INSTALLED:
        torch.set_num_threads(1)
