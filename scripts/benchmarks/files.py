"""`tileconv.run` on files: its time over the floor of decoding and writing, and its peak memory."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

import tileconv
from benchmarks.images import cut, landscape, outputs
from benchmarks.machine import HUGE_PAGES, INSTALLED
from benchmarks.tables import Row, print_table
from benchmarks.turns import take_turns

if "OpenCV" in INSTALLED:
    import cv2

THREADS = 2
"""Of runs on files."""
BLOCK = 512
"""Pixels a side of the blocks of every raster here."""
MIB = 1 << 20

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
                dense = cv2.filter2D(pixels, cv2.CV_32F, kernel)
                part = cut(dense, size, stride)
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


# rasters and jobs


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
