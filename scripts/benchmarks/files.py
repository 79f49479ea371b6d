"""`tileconv.run` on files: its time over the floor of decoding and writing, and its peak memory."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
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
"""Rows that a raster is written in at a time."""
MIB = 1 << 20

STORED: dict[str, dict[str, Any]] = {
    "blocks of 512": {"tiled": True, "blockxsize": 512, "blockysize": 512},
    "blocks of 256": {"tiled": True, "blockxsize": 256, "blockysize": 256},
    "strips of 16": {"blockysize": 16},
    "4 bands a block": {
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "count": 4,
        "interleave": "pixel",
    },
}
"""How rasters are stored, as creation options; all are compressed with DEFLATE."""
FILE_CASES = {
    "blocks of 512": ((5, 4), (5, 1), (3, 4), (15, 16)),
    "blocks of 256": ((3, 1024),),
    "strips of 16": ((5, 4),),
    "4 bands a block": ((5, 4),),
}
"""(kernel, stride) for each way of storing."""
WINDOW = 2048
"""Pixels a side that the loop by hand reads at a time."""


def files(smaller: int) -> list[Row]:
    side = 16384 // smaller
    title = (
        f"files: {side} x {side} uint16, DEFLATE in, DEFLATE level 1 out; {THREADS} threads; "
        "floor = decode + write; share of ideal = decode all x needed / blocks / tileconv's; "
        "by hand: its time / tileconv's"
    )
    return print_table(title, all_file_rows(side, rounds=3))


def all_file_rows(side: int, rounds: int) -> Iterator[Row]:
    for name, cases in FILE_CASES.items():
        with raster(side // math.isqrt(STORED[name].get("count", 1)), **STORED[name]) as source:
            for size, stride in cases:
                yield {"stored in": name} | file_row(source, size, stride, rounds)


def file_row(source: Path, size: int, stride: int, rounds: int) -> Row:
    """Time a job on a file, its floor and the loop by hand; count the blocks it decodes."""
    config = gaussian(source, size, stride)
    config["output"]["compress"] = "deflate"
    job = tileconv.load_job(config)
    plan, report = tileconv.plan(job), tileconv.run(job)  # the warm-up, too
    timed = take_turns(file_jobs(job, plan, source), rounds)
    ours, by_hand = timed["tileconv"], timed.get("by hand")
    needed = plan.blocks_needed / plan.layout.blocks_total
    return {
        "kernel": size,
        "stride": stride,
        "tileconv ms": 1e3 * ours,
        "over floor": ours / (timed["decode"] + timed["write"]),
        "decode ms": 1e3 * timed["decode"],
        "write ms": 1e3 * timed["write"],
        "share of ideal": timed["all"] * needed / ours if needed < 1 else None,
        "by hand": by_hand and by_hand / ours,
        "blocks": plan.layout.blocks_total,
        "needed": plan.blocks_needed,
        "decoded": report.blocks_decoded,
    }


def file_jobs(
    job: tileconv.Job, plan: tileconv.Plan, source: Path
) -> dict[str, Callable[[], object]]:
    """Return what takes turns, having seen that all do the same work."""
    size, stride = plan.operator.kernel_shape[0], plan.operator.stride[0]
    rows, columns = (
        touched_blocks(n, block, size, stride)
        for n, block in zip(plan.layout.shape, plan.layout.block, strict=True)
    )
    if rows.size * columns.size != plan.blocks_needed:
        raise SystemExit(f"the plan is wrong: {rows.size} x {columns.size} blocks are needed")
    options, output = read_output(job.target)
    again = source.with_name("again.tif")
    jobs: dict[str, Callable[[], object]] = {
        "tileconv": lambda: tileconv.run(job),
        "decode": lambda: decode_once(source, rows, columns),
        "write": lambda: write_output(again, options, output),
    }
    if plan.blocks_needed < plan.layout.blocks_total:
        every = map(np.arange, plan.layout.block_grid)
        jobs["all"] = partial(decode_once, source, *every)
    if "OpenCV" in INSTALLED and plan.layout.bands == 1:
        cv2.setNumThreads(THREADS)
        kernel = plan.operator.weights.astype(np.float32)
        jobs["by hand"] = lambda: convolve_by_hand(source, again, options, kernel, stride)
        jobs["by hand"]()
        if not np.allclose(read_output(again)[1][0], output[0], rtol=1e-5):
            raise SystemExit("tileconv and the loop by hand write different numbers")
    return jobs


def touched_blocks(pixels: int, block: int, size: int, stride: int) -> np.ndarray:
    """Blocks along one axis that some receptive field touches."""
    fields = np.arange(outputs(pixels, size, stride)) * stride
    return np.unique((fields[:, None] + np.arange(size)) // block)


def decode_once(source: Path, rows: np.ndarray, columns: np.ndarray) -> None:
    """Decode the blocks of some block rows and columns: each thread has a band of rows."""

    def decode(band: np.ndarray) -> None:
        with small_cache(), rasterio.open(source, sharing=False) as dataset:
            tall, wide = dataset.block_shapes[0]
            for row in band.tolist():
                height = min(tall, dataset.height - row * tall)
                for first, end in runs(columns):
                    width = min(end * wide, dataset.width) - first * wide
                    dataset.read(window=Window(first * wide, row * tall, width, height))

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
        options = {"predictor": predictor, "ZLEVEL": 1, "NUM_THREADS": THREADS}
        return {**dataset.profile, **options}, dataset.read()


def write_output(path: Path, options: Mapping[str, Any], output: np.ndarray) -> None:
    with small_cache(), rasterio.open(path, "w", **options) as dataset:
        dataset.write(output)


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
def raster(side: int, **stored: Any) -> Iterator[Path]:
    """Give the path of a uint16 raster in a folder of its own, and remove both."""
    options = {
        "driver": "GTiff",
        "height": side,
        "width": side,
        "count": 1,
        "dtype": "uint16",
        "transform": from_origin(500_000, 5_000_000, 10, 10),
        "compress": "deflate",
        "predictor": 2,
        "NUM_THREADS": THREADS,
    } | (stored or STORED["blocks of 512"])
    with tempfile.TemporaryDirectory(prefix="tileconv-bench-") as folder:
        path = Path(folder, "input.tif")
        with rasterio.open(path, "w", **options) as dataset:
            for top in range(0, side, BLOCK):
                pixels = landscape(BLOCK, side, top).astype(np.uint16)
                bands = np.stack([pixels + band for band in range(options["count"])])
                dataset.write(bands, window=Window(0, top, side, BLOCK))
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
