"""Strided convolution over rasters too big for memory: exact, fast, true to the raster.

Names are imported when they are first used, so that ``tileconv --help`` and a
mistake in a job answer at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tileconv.version import __version__

if TYPE_CHECKING:
    from tileconv import kernels
    from tileconv.api import convolve, focal
    from tileconv.errors import (
        ClusterError,
        ConfigError,
        ConvolutionError,
        InputError,
        OutOfMemoryError,
        OutputError,
        OutputExistsError,
        TileconvError,
        UnsupportedError,
    )
    from tileconv.files import convolve_raster
    from tileconv.jobs.batch import BatchPlan, BatchReport
    from tileconv.jobs.job import Batch, Job
    from tileconv.jobs.report import Report
    from tileconv.planning.plan import Plan
    from tileconv.runs import load_job, plan, run

_HOMES = {
    "tileconv.api": ("convolve", "focal"),
    "tileconv.errors": (
        "ClusterError",
        "ConfigError",
        "ConvolutionError",
        "InputError",
        "OutOfMemoryError",
        "OutputError",
        "OutputExistsError",
        "TileconvError",
        "UnsupportedError",
    ),
    "tileconv.files": ("convolve_raster",),
    "tileconv.jobs.batch": ("BatchPlan", "BatchReport"),
    "tileconv.jobs.job": ("Batch", "Job"),
    "tileconv.jobs.report": ("Report",),
    "tileconv.planning.plan": ("Plan",),
    "tileconv.runs": ("load_job", "plan", "run"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "BatchPlan",
    "BatchReport",
    "ClusterError",
    "ConfigError",
    "ConvolutionError",
    "InputError",
    "Job",
    "OutOfMemoryError",
    "OutputError",
    "OutputExistsError",
    "Plan",
    "Report",
    "TileconvError",
    "UnsupportedError",
    "__version__",
    "convolve",
    "convolve_raster",
    "focal",
    "kernels",
    "load_job",
    "plan",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "kernels":
        return import_module("tileconv.kernels")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tileconv' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
