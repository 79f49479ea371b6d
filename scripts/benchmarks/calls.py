"""What a call costs beside its loops: importing, compiling, Python's share, and memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

import tileconv
from benchmarks.images import landscape, outputs
from benchmarks.machine import HUGE_PAGES, THREADS, pin
from benchmarks.tables import Row, print_table
from benchmarks.turns import timed

SMALL = 64
"""Side of the array that a call is measured on."""
CALLS = 2000
IMPORTS = 7

IMPORT = """
import sys, time
start = time.perf_counter()
import tileconv
print(time.perf_counter() - start, "numba" in sys.modules)
"""

FIRST_CALLS = """
import json, sys, time
start = time.perf_counter()
import numpy as np, tileconv
imported = time.perf_counter() - start
random = np.random.default_rng(0)
def convolve(dtype, shape, kernel, stride, **missing):
    pixels = (random.random(shape) * 100).astype(dtype)
    start = time.perf_counter()
    tileconv.convolve(pixels, kernel, stride=stride, **missing)
    return time.perf_counter() - start
dense = lambda *shape: random.normal(size=shape).astype(np.float32)
plane, bands = (256, 256), (4, 256, 256)
seconds = {"import": imported}
for name, call in {
    "float32 3x3 s1, the first of all": ("float32", plane, dense(3, 3), 1),
    "uint16 3x3 s1": ("uint16", plane, dense(3, 3), 1),
    "float32 7x7 s1": ("float32", plane, dense(7, 7), 1),
    "float32 7x7 s4": ("float32", plane, dense(7, 7), 4),
    "float32 31x31 s1": ("float32", plane, dense(31, 31), 1),
    "uint16 3x3 s16": ("uint16", plane, dense(3, 3), 16),
    "float32 15x15 gaussian": ("float32", plane, tileconv.kernels.gaussian(15, 3), 1),
    "float32 15x15 box": ("float32", plane, tileconv.kernels.box(15), 1),
    "float32 4->64 3x3": ("float32", bands, dense(64, 4, 3, 3), 1),
    "float64 7x7 s1": ("float64", plane, dense(7, 7), 1),
}.items():
    seconds[name] = convolve(*call)
for policy in ("propagate", "renormalize"):  # one pixel in a hundred is missing
    call = "uint16", plane, np.ones((3, 3)), 1
    seconds[f"uint16 3x3 s1 {policy}"] = convolve(*call, nodata=0, missing=policy)
print(json.dumps(seconds))
"""

PEAK = """
import json, pathlib, sys
import numpy as np, tileconv
side, dtype, size, stride, threads = json.loads(sys.argv[1])
def kib(name):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.partition(name + ":")[2].split()[0])
kernel = np.random.default_rng(0).normal(size=(size, size))
def convolve(pixels):
    return tileconv.convolve(pixels, kernel, stride=stride, threads=threads)
convolve(np.ones((512, 512), dtype))
pixels = np.ones((side, side), dtype)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = kib("VmHWM")
out = convolve(pixels)
print(kib("VmHWM") * 1024 - before * 1024 - out.nbytes, pixels.nbytes)
"""
"""Resets the peak that the system keeps, and tells how much a call added to it."""


def calls(*, quick: bool) -> dict[str, list[Row]]:
    """Measure and print all of it."""
    pin()
    tables = {
        "overhead": print_table(
            f"calls: {SMALL} x {SMALL}, microseconds, medians of {CALLS}; "
            "loop: a plain compiled loop that does the same work",
            overhead_rows(200 if quick else CALLS),
            16,
        ),
        "import": print_table("import tileconv, a process of its own: seconds", import_rows(), 16),
        "first calls": print_table(
            "first calls of variants in a new process: seconds, with an empty cache and after",
            first_call_rows(),
            40,
        ),
    }
    tables["memory"] = print_table(
        "memory of a call beside its input and its output: MiB, and percent of the input",
        memory_rows(2048 if quick else 8192),
        16,
    )
    return tables


# a call


def overhead_rows(rounds: int) -> Iterator[Row]:
    """Time a call on a small array, and the loop alone."""
    for dtype, size in (("float32", 3), ("uint16", 3), ("float32", 7)):
        pixels = landscape(SMALL, SMALL).astype(dtype)
        kernel = np.random.default_rng(size).normal(size=(size, size)).astype(np.float32)
        out = np.empty([outputs(n, size, 1) for n in pixels.shape], np.float32)
        taken: dict[str, list[float]] = {"call": [], "loop": []}
        for _ in range(rounds):
            taken["call"].append(timed(partial(tileconv.convolve, pixels, kernel)))
            taken["loop"].append(timed(partial(row_loop, pixels, kernel, out)))
        call, loop = (1e6 * statistics.median(taken[name]) for name in ("call", "loop"))
        yield {"case": f"{dtype} {size}x{size}", "call": call, "loop": loop, "over": call - loop}


@numba.njit(fastmath=True, cache=True)
def row_loop(image, kernel, out):
    """Taps outside, columns inside: the fastest loop of its length."""
    for y in range(out.shape[0]):
        row = out[y]
        row[:] = 0
        for i in range(kernel.shape[0]):
            for j in range(kernel.shape[1]):
                weight = kernel[i, j]
                pixels = image[y + i, j:]
                for x in range(row.size):
                    row[x] += weight * np.float32(pixels[x])


# processes


def child(program: str, *arguments: str, **environment: str) -> str:
    """Run a program in a process with the user's own environment, and return what it prints."""
    own = {name: value for name, value in os.environ.items() if HUGE_PAGES.get(name) != value}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**own, **environment},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout


def import_rows() -> Iterator[Row]:
    """Import tileconv in new processes; what comes first fills the system's file cache."""
    seconds, with_numba = [], ""
    for _ in range(IMPORTS):
        first, with_numba = child(IMPORT).split()
        seconds.append(float(first))
    yield {
        "": "tileconv",
        "median": statistics.median(seconds),
        "least": min(seconds),
        "with Numba": {"True": "yes", "False": "no"}[with_numba],
    }


def first_call_rows() -> Iterator[Row]:
    """Call variants for the first time: compiled, then from the cache of another process."""
    with tempfile.TemporaryDirectory(prefix="tileconv-bench-") as folder:
        first, later = (json.loads(child(FIRST_CALLS, NUMBA_CACHE_DIR=folder)) for _ in range(2))
    for name in first:
        yield {"": name, "first process": first[name], "later": later[name]}


def memory_rows(side: int) -> Iterator[Row]:
    """Measure how far a call drives the peak above its input and its output."""
    if not Path("/proc/self/clear_refs").exists():
        print("left out: only Linux tells a process its own peak")
        return
    for dtype, size, stride in (
        ("float32", 7, 1),
        ("float32", 7, 4),
        ("uint16", 31, 8),
        ("uint16", 3, 16),
    ):
        figures: list[Any] = [side, dtype, size, stride, THREADS]
        extra, given = map(int, child(PEAK, json.dumps(figures)).split())
        yield {
            "case": f"{dtype} {size}x{size} s{stride}",
            "MiB": extra / (1 << 20),
            "% of input": 100 * extra / given,
        }
