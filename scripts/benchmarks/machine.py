"""What the figures were taken on, and how processes are set up."""

import os
import platform
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import rasterio

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
PEERS = {"OpenCV": "cv2", "torch": "torch", "SciPy": "scipy", "Numba": "numba"}
"""Names in the tables, and of modules."""
INSTALLED = tuple(name for name, module in PEERS.items() if find_spec(module))


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
