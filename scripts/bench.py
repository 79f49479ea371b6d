"""Measure tileconv beside what people would use instead, and print ratios: nothing passes or fails.

    python scripts/bench.py                  all parts: a few minutes on two cores
    python scripts/bench.py arrays files     some of them
    python scripts/bench.py --quick --json figures.json

arrays  `tileconv.convolve` beside OpenCV, torch, SciPy and a plain Numba loop, those installed.
        Each gets one thread. All must compute the same numbers before
        any is timed; then they take turns. OpenCV and SciPy know no stride: they compute every
        output, and what was not asked for is cut away. SciPy is slow: it gets as many rows as it
        manages in about a second, and its time is scaled up and marked ~ if those are not all.
files   `tileconv.run` on a compressed GeoTIFF over its floor: decoding each block that a receptive
        field touches exactly once, by as many threads with a handle each, and then writing the
        same output from memory. Beside it a loop over windows, as one writes it by hand with
        rasterio and OpenCV.
memory  The peak of a process that runs a job on a raster half as large as its memory limit, and
        the peak that the job's plan foretells.

graphs  What building the graph of a lazy convolution takes per chunk, beside dask's map_overlap.

A time is the median of a few rounds after a warm-up. With glibc's own defaults torch is measured
by its page faults: the script starts itself again with huge pages, for all contenders alike.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask.array as da
import numba
import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

import tileconv

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
PEERS = {"OpenCV": "cv2", "torch": "torch", "SciPy": "scipy", "Numba": "numba"}
"""Names in the tables, and of modules."""
INSTALLED = tuple(name for name, module in PEERS.items() if find_spec(module))
THREADS = 2
"""Of runs on files."""
BLOCK = 512
"""Pixels a side of the blocks of every raster here."""
Row = dict[str, Any]
"""A row of a table: figures by the names of their columns."""
MIB = 1 << 20

if "OpenCV" in INSTALLED:
    import cv2
if "torch" in INSTALLED:
    import torch
if "SciPy" in INSTALLED:
    from scipy import ndimage


# arrays

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


def cut(dense: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Cut outputs at every pixel down to those whose fields lie inside, each ``stride``-th."""
    first, last = size // 2, size - 1 - size // 2
    rows, columns = dense.shape
    return dense[first : rows - last : stride, first : columns - last : stride]


def use_one_thread() -> None:
    numba.set_num_threads(1)
    if "OpenCV" in INSTALLED:
        cv2.setNumThreads(1)
    if "torch" in INSTALLED:
        torch.set_num_threads(1)


# files

FILE_CASES = ((3, 4), (5, 1), (15, 16), (15, 2048))
"""(kernel, stride)."""
WINDOW = 2048
"""Pixels a side that the loop by hand reads at a time."""


def files(smaller: int) -> list[Row]:
    side = 8192 // smaller
    title = (
        f"files: {side} x {side} uint16, DEFLATE, blocks of {BLOCK}; "
        f"{THREADS} threads; floor = decode + write; by hand: its time / tileconv's"
    )
    with raster(side) as source:
        return print_table(title, file_rows(source, rounds=3))


def file_rows(source: Path, rounds: int) -> Iterator[Row]:
    """Time jobs on a file, their floor and the loop by hand; count the blocks they decode."""
    for size, stride in FILE_CASES:
        job = tileconv.load_job(gaussian(source, size, stride))
        plan, report = tileconv.plan(job), tileconv.run(job)  # the warm-up, too
        timed = take_turns(file_jobs(job, plan, source), rounds)
        ours, by_hand = timed["tileconv"], timed.get("by hand")
        yield {
            "kernel": size,
            "stride": stride,
            "tileconv ms": 1e3 * ours,
            "over floor": ours / (timed["decode"] + timed["write"]),
            "decode ms": 1e3 * timed["decode"],
            "write ms": 1e3 * timed["write"],
            "by hand": by_hand and by_hand / ours,
            "blocks": plan.layout.blocks_total,
            "needed": plan.blocks_needed,
            "decoded / needed": report.blocks_decoded / plan.blocks_needed,
            "decoded / blocks": report.blocks_decoded / plan.layout.blocks_total,
        }


def file_jobs(
    job: tileconv.Job, plan: tileconv.Plan, source: Path
) -> dict[str, Callable[[], object]]:
    """Return what takes turns, having seen that all do the same work."""
    size, stride = plan.convolution.kernel_shape[0], plan.convolution.stride[0]
    rows, columns = (touched_blocks(n, size, stride) for n in plan.layout.shape)
    if rows.size * columns.size != plan.blocks_needed:
        raise SystemExit(f"the plan is wrong: {rows.size} x {columns.size} blocks are needed")
    options, output = read_output(job.target)
    again = source.with_name("again.tif")
    jobs: dict[str, Callable[[], object]] = {
        "tileconv": lambda: tileconv.run(job),
        "decode": lambda: decode_once(source, rows, columns),
        "write": lambda: write_output(again, options, output),
    }
    if "OpenCV" in INSTALLED:
        cv2.setNumThreads(THREADS)
        kernel = plan.convolution.weights.astype(np.float32)
        jobs["by hand"] = lambda: convolve_by_hand(source, again, options, kernel, stride)
        jobs["by hand"]()
        if not np.allclose(read_output(again)[1], output, rtol=1e-5):
            raise SystemExit("tileconv and the loop by hand write different numbers")
    return jobs


def touched_blocks(pixels: int, size: int, stride: int) -> np.ndarray:
    """Blocks along one axis that some receptive field touches."""
    fields = np.arange(outputs(pixels, size, stride)) * stride
    return np.unique((fields[:, None] + np.arange(size)) // BLOCK)


def decode_once(source: Path, rows: np.ndarray, columns: np.ndarray) -> None:
    """Decode the blocks of some block rows and columns: each thread has a band of rows."""

    def decode(band: np.ndarray) -> None:
        with small_cache(), rasterio.open(source, sharing=False) as dataset:
            for row in band.tolist():
                for first, end in runs(columns):
                    width = (end - first) * BLOCK
                    dataset.read(1, window=Window(first * BLOCK, row * BLOCK, width, BLOCK))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(decode, np.array_split(rows, THREADS)))


def runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Half-open ranges of consecutive numbers: (3, 6) and (9, 10) for 3 4 5 9."""
    starts = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), numbers.size]
    for start, end in pairwise(starts):
        yield int(numbers[start]), int(numbers[end - 1]) + 1


def read_output(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return the options that an output was created with, and its pixels."""
    with rasterio.open(path) as dataset:
        predictor = dataset.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", 1)
        return {**dataset.profile, "predictor": predictor, "NUM_THREADS": THREADS}, dataset.read(1)


def write_output(path: Path, options: Mapping[str, Any], output: np.ndarray) -> None:
    with small_cache(), rasterio.open(path, "w", **options) as dataset:
        dataset.write(output, 1)


def convolve_by_hand(
    source: Path, target: Path, options: Mapping[str, Any], kernel: np.ndarray, stride: int
) -> None:
    """Convolve window by window, halo included, with no thought of blocks."""
    size, step = kernel.shape[0], max(1, WINDOW // stride)
    with rasterio.open(source) as src, rasterio.open(target, "w", **options) as dst:
        for y in range(0, dst.height, step):
            for x in range(0, dst.width, step):
                rows, columns = min(step, dst.height - y), min(step, dst.width - x)
                reach = (columns - 1) * stride + size, (rows - 1) * stride + size
                pixels = src.read(1, window=Window(x * stride, y * stride, *reach))
                part = with_opencv(pixels, kernel, stride)
                dst.write(part, 1, window=Window(x, y, columns, rows))


def small_cache() -> rasterio.Env:
    """Give GDAL the block cache that tileconv gives it."""
    return rasterio.Env(GDAL_CACHEMAX=64 * MIB)


# memory

MEMORY_CASES = ((3, 1), (7, 8))
"""(kernel, stride)."""
MEMORY_LIMIT = "1 GiB"
CHILD = """
import json, pathlib, sys, tileconv
tileconv.run(tileconv.load_job(json.loads(sys.argv[1])))
print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
"""Runs a job and tells its own peak in KiB: what `os.wait4` tells includes the parent's."""


def memory(smaller: int) -> list[Row]:
    side = 16384 // smaller
    title = f"memory: {side} x {side} uint16, limit {MEMORY_LIMIT}, {THREADS} threads"
    if not Path("/proc/self/status").exists():
        print(f"\n{title}: left out, for only Linux tells a process its own peak")
        return []
    with raster(side) as source:
        return print_table(title, memory_rows(source))


def memory_rows(source: Path) -> Iterator[Row]:
    """Run each job in a process of its own."""
    for size, stride in MEMORY_CASES:
        config = gaussian(source, size, stride)
        planned = tileconv.plan(tileconv.load_job(config)).peak_memory_bytes / MIB
        measured = peak_mib(config)
        yield {
            "kernel": size,
            "stride": stride,
            "plan MiB": planned,
            "measured MiB": measured,
            "plan / measured": planned / measured,
        }


def peak_mib(config: Mapping[str, Any]) -> float:
    """Run a job in a process with the user's own environment, and return its peak memory."""
    environment = {k: v for k, v in os.environ.items() if HUGE_PAGES.get(k) != v}
    command = [sys.executable, "-c", CHILD, json.dumps(config)]
    child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return int(child.stdout) / 1024


# graphs

CHUNK = 64
"""Side of a chunk of the dask array; nothing is computed, so its size does not matter."""


def graphs(smaller: int) -> list[Row]:
    side = 100 // smaller
    title = f"graphs: {side} x {side} chunks, 3 x 3 same; microseconds and tasks per chunk"
    return print_table(title, graph_rows(side, rounds=9))


def graph_rows(side: int, rounds: int) -> Iterator[Row]:
    """Build all tasks with tileconv and with map_overlap; compute nothing."""
    lazy = da.zeros((side * CHUNK, side * CHUNK), chunks=CHUNK)
    kernel = np.ones((3, 3))

    def ours() -> dict:
        return dict(tileconv.convolve(lazy, kernel, padding="same", padding_mode="edge").dask)

    def theirs() -> dict:
        return dict(da.map_overlap(lambda block: block, lazy, depth=1, boundary="nearest").dask)

    timed = take_turns({"tileconv": ours, "map_overlap": theirs}, rounds)
    for name, build in (("tileconv", ours), ("map_overlap", theirs)):
        tasks = len(build()) - len(dict(lazy.dask))
        yield {"library": name, "us": 1e6 * timed[name] / side**2, "tasks": tasks / side**2}


# shared by the parts


def landscape(rows: int, columns: int, top: int = 0) -> np.ndarray:
    """Return hills with noise: the rows from ``top`` on of a scene without end."""
    y, x = np.ogrid[top : top + rows, :columns]
    noise = np.random.default_rng(top).standard_normal((rows, columns), np.float32)
    return 3000 + 1500 * np.sin(x / 700) * np.cos(y / 900) + 30 * noise


@contextmanager
def raster(side: int) -> Iterator[Path]:
    """Give the path of a uint16 raster in a folder of its own, and remove both."""
    options = {
        "driver": "GTiff",
        "height": side,
        "width": side,
        "count": 1,
        "dtype": "uint16",
        "transform": from_origin(500_000, 5_000_000, 10, 10),
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "predictor": 2,
        "NUM_THREADS": THREADS,
    }
    with tempfile.TemporaryDirectory(prefix="tileconv-bench-") as folder:
        path = Path(folder, "input.tif")
        with rasterio.open(path, "w", **options) as dataset:
            for top in range(0, side, BLOCK):
                pixels = landscape(BLOCK, side, top).astype(np.uint16)
                dataset.write(pixels, 1, window=Window(0, top, side, BLOCK))
        yield path


def gaussian(source: Path, size: int, stride: int) -> dict[str, Any]:
    """Return the job that blurs ``source`` into a file beside it."""
    return {
        "input": {"path": str(source)},
        "kernel": {"name": "gaussian", "size": size, "sigma": size / 4},
        "stride": stride,
        "output": {"path": str(source.with_name("output.tif")), "overwrite": True},
        "compute": {"workers": THREADS, "memory_limit": MEMORY_LIMIT},
    }


def outputs(pixels: int, size: int, stride: int) -> int:
    """Receptive fields along an axis."""
    return (pixels - size) // stride + 1


def take_turns(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each job; each round runs them all, so that noise hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            result = job()
            seconds[name].append(time.perf_counter() - start)
            del result  # what freeing it takes is not counted
    return {name: statistics.median(times) for name, times in seconds.items()}


class Scaled(float):
    """Scaled up from a part of the work; printed with ~."""


def show(value: object) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    mark = "~" if isinstance(value, Scaled) else ""
    return mark + (f"{value:.2f}" if value < 10 else f"{value:.0f}")


def print_table(title: str, rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come, and return them."""
    print(f"\n{title}\n")
    printed: list[Row] = []
    for row in rows:
        widths = [max(len(name), 8) for name in row]
        for line in (row.values(),) if printed else (row.keys(), row.values()):
            cells = (show(cell).rjust(width) for cell, width in zip(line, widths, strict=True))
            print("  ".join(cells), flush=True)
        printed.append(row)
    return printed


def machine() -> dict[str, str]:
    """Say what the figures were taken on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    modules = ["tileconv", "numpy", "dask", "rasterio", *(PEERS[name] for name in INSTALLED)]
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: import_module(name).__version__ for name in modules},
        "gdal": rasterio.__gdal_version__,
    }


def print_machine(about: Mapping[str, str]) -> None:
    libraries = [f"{name} {number}" for name, number in about.items()][3:]
    print(f"{about['cpu']}, {about['cores']} cores, {about['system']}")
    print(", ".join(libraries))
    print(f"environment: {' '.join(f'{k}={os.environ[k]}' for k in HUGE_PAGES)}")
    absent = [name for name in PEERS if name not in INSTALLED]
    if absent:
        print(f"not installed: {', '.join(absent)}")


PARTS = {"arrays": arrays, "files": files, "memory": memory, "graphs": graphs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["all", *PARTS], default="all")
    parser.add_argument("--quick", action="store_true", help="take smaller rasters")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    if not HUGE_PAGES.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HUGE_PAGES})
    about = machine()
    print_machine(about)
    figures: dict[str, Any] = {"machine": about}
    for name in PARTS if "all" in options.parts else options.parts:
        figures[name] = PARTS[name](2 if options.quick else 1)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
