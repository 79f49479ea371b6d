"""What the figures were taken on, and how processes are set up."""

import os
import platform
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numba
import rasterio

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
THREADS = 2
"""Of every contender."""
PEERS = {"OpenCV": "cv2", "torch": "torch", "onnxruntime": "onnxruntime", "SciPy": "scipy"}
"""Names in the tables, and of modules."""
INSTALLED = tuple(
    name
    for name, module in PEERS.items()
    if find_spec(module) and (name != "onnxruntime" or find_spec("onnx"))
)
"""Peers that can be asked; onnxruntime's model is built with onnx."""


def pin() -> None:
    """Keep this process on as many cores as contenders have threads, the same for all."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def use_threads() -> None:
    """Give every library that keeps threads of its own as many as tileconv gets."""
    numba.set_num_threads(min(THREADS, numba.config.NUMBA_NUM_THREADS))
    if "OpenCV" in INSTALLED:
        import_module("cv2").setNumThreads(THREADS)
    if "torch" in INSTALLED:
        import_module("torch").set_num_threads(THREADS)


def machine() -> dict[str, str]:
    """Say what the figures were taken on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    modules = [
        "tileconv",
        "numpy",
        "numba",
        "dask",
        "rasterio",
        *(["imagecodecs"] if find_spec("imagecodecs") else []),
        *(PEERS[name] for name in INSTALLED),
    ]
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: import_module(name).__version__ for name in modules},
        "gdal": rasterio.__gdal_version__,
        "environment": " ".join(f"{name}={os.environ.get(name, '')}" for name in HUGE_PAGES),
    }


def libraries(about: Mapping[str, str]) -> str:
    """Return the libraries of `machine` with their versions."""
    others = ("cpu", "cores", "system", "environment")
    return ", ".join(f"{name} {number}" for name, number in about.items() if name not in others)


def describe(about: Mapping[str, str]) -> str:
    """Say it in a sentence, for a page."""
    return (
        f"Measured on {about['cpu']}, {about['cores']} cores, {about['system']}, "
        f"with {libraries(about)}; {about['environment']}."
    )


def print_machine(about: Mapping[str, str]) -> None:
    print(f"{about['cpu']}, {about['cores']} cores, {about['system']}")
    print(libraries(about))
    print(f"environment: {about['environment']}")
    absent = [name for name in PEERS if name not in INSTALLED]
    if absent:
        print(f"not installed: {', '.join(absent)}")
