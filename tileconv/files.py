"""Rasters in files by one call: the keys of a job as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

from tileconv.arguments import check_dtype, told
from tileconv.errors import ConfigError
from tileconv.jobs.config import option_places
from tileconv.jobs.given import config_errors
from tileconv.operators.convolution import check_weights
from tileconv.runs import load_job, run

if TYPE_CHECKING:
    from typing import Unpack

    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike

    from tileconv.jobs.batch import BatchReport
    from tileconv.jobs.report import Report

_Pathlike = str | os.PathLike[str]


class RasterOptions(TypedDict, total=False):
    """The keys of a job that `convolve_raster` takes, by their names in YAML."""

    mask: str
    scaled: bool
    palette: bool
    root: str
    remote: bool
    mosaic: bool
    stride: int | Sequence[int]
    dilation: int | Sequence[int]
    padding: str | int | Sequence[int]
    padding_mode: str | Sequence[str]
    padding_value: float
    groups: int
    bias: Sequence[float] | np.ndarray | None
    flip: bool
    normalize: bool
    missing: str
    fill_value: float
    min_valid_fraction: float
    require_center: bool
    driver: str
    overviews: str
    layout: str
    checksum: bool
    dtype: DTypeLike | None
    nodata: float | None
    compress: str
    predictor: int | str
    level: int | None
    blocksize: int | None
    valid_fraction: bool
    quicklook: bool
    report: bool
    scheduler: str
    workers: int | str
    memory_limit: int | str
    tile: int | str | Sequence[int]
    cluster: Mapping[str, Any]
    security: Mapping[str, Any]
    part: int | Sequence[int]


def convolve_raster(
    source: _Pathlike | Sequence[_Pathlike],
    target: _Pathlike,
    kernel: ArrayLike | str | Mapping[str, Any],
    *,
    bands: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[RasterOptions],
) -> Report | BatchReport:
    """Convolve a raster in a file into another: a job without YAML.

    Parameters
    ----------
    source
        What ``input.path`` may be: a file, a list or a glob; relative to the current folder.
    target
        ``output.path``: may hold {stem}, {name} and {parent} of the input.
    kernel
        Weights, as `convolve` takes them; the name of a kernel; or the keys of a job's
        ``kernel``, like ``{"name": "gaussian", "size": 9}``.
    bands
        Bands to convolve, 1-based. Default all but an alpha band.
    overwrite
        Replace an output that is there.
    progress
        As in `run`.
    options
        All other keys of ``input``, ``output`` and ``compute``, and those that stand at the top
        of a job, by their own names: ``stride=4, dtype="int16", memory_limit="2 GiB"``.

    Returns
    -------
    Report, or BatchReport for a list or a glob

    Raises
    ------
    ConfigError, InputError, OutputError, OutputExistsError
        As `load_job` and `run`.

    Examples
    --------
    >>> import tempfile, tileconv
    >>> from importlib.resources import files
    >>> scene = files("tileconv.data") / "landsat8_crop.tif"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = f"{folder}/{{stem}}_means.tif"
    ...     report = tileconv.convolve_raster(scene, target, "box", stride=64, bands=[3])
    >>> report.out_shape, report.dtype
    ((1, 8, 8), 'float32')
    """
    weights: Any = kernel  # the keys of a job's kernel
    if issubclass(type(kernel), str):
        weights = {"name": kernel}
    elif issubclass(type(kernel), Mapping):
        with config_errors(), told("kernel"):
            weights = dict(weights)  # options are put in beside
    else:
        weights = {"weights": check_weights(weights)}
    job: dict[str, Any] = {
        "input": {"path": source, "bands": bands},
        "kernel": weights,
        "output": {"path": target, "overwrite": overwrite},
    }
    places = option_places()
    for name, value in cast("dict[str, Any]", options).items():
        if name in ("input", "output", "compute"):
            raise ConfigError(f"{name}: give its keys by their own names, like dtype='int16'")
        section = places.get(name, "")
        keys = job.setdefault(section, {}) if section else job
        keys[name] = _dtype(value) if name == "dtype" else value
    return run(load_job(job), progress=progress)


def _dtype(value: DTypeLike | None) -> str | None:
    """Return the name that a job gives a dtype."""
    if value is None or isinstance(value, str):
        return value
    return check_dtype(value).name
