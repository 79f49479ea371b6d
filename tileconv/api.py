"""What people call from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.arrays.eager import convolve_numpy
from tileconv.convolution import Convolution
from tileconv.dtypes import Numbers
from tileconv.errors import ConvolutionError, UnsupportedError
from tileconv.jobs.job import Job, load_job, plan_job
from tileconv.jobs.schedule import run_job

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from tileconv.jobs.report import Report
    from tileconv.planning.plan import Plan

__all__ = ["convolve", "load_job", "plan", "run"]


def convolve(
    array: ArrayLike,
    kernel: ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = "valid",
    padding_mode: str = "constant",
    padding_value: float = 0.0,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    nodata: float | None = None,
    missing: str = "propagate",
    fill_value: float = 0,
    min_valid_fraction: float = 0.0,
    require_center: bool = False,
    dtype: DTypeLike | None = None,
) -> np.ndarray:
    """Correlate every plane of an array with a kernel, sampled with a stride.

    Parameters
    ----------
    array
        (..., H, W), bool, integer or floating point. A numpy array, or what
        `numpy.asarray` takes; dask and xarray are refused for now.
    kernel
        (kh, kw). Applied as it is, like torch, OpenCV and GDAL do (correlation).
    stride
        Input pixels between receptive fields, n or (y, x); may exceed the kernel.
    dilation
        Input pixels between taps, n or (y, x).
    padding
        "valid", "same" ("same_upper"), "same_lower", n, (y, x) or (top, left, bottom, right).
    padding_mode
        What padding holds, in numpy.pad's words: constant, edge, reflect, symmetric, wrap; or
        missing.
    padding_value
        What constant padding holds.
    flip
        Turn the kernel by 180 degrees: true convolution, as scipy.signal.convolve2d.
    nodata
        Pixels equal to it are missing. NaN always is.
    missing
        "propagate": a field with a missing pixel under a non-zero weight gives a missing output.
    dtype
        Of the output. Default float32 for bool, (u)int8, (u)int16, float16 and float32 input,
        float64 for the others. Integers are rounded half to even and saturated.
    groups, bias, fill_value, min_valid_fraction, require_center
        Not supported yet; anything but the default is refused.

    Returns
    -------
    numpy.ndarray
        (..., OH, OW) with OH = (H + top + bottom - dilation * (kh - 1) - 1) // stride + 1.
        Missing outputs are NaN, or ``nodata`` in integers.

    Raises
    ------
    ConvolutionError
        An argument has no meaning or does not fit; the message says which and why.
    UnsupportedError
        It is valid, but this version does not do it.

    Examples
    --------
    >>> import numpy as np, tileconv
    >>> image = np.arange(1, 17, dtype="uint8").reshape(4, 4)
    >>> edges = [[1, 0, -1], [1, 0, -1], [1, 0, -1]]
    >>> tileconv.convolve(image, edges)
    array([[-6., -6.],
           [-6., -6.]], dtype=float32)
    >>> tileconv.convolve(image, edges, stride=4)
    array([[-6.]], dtype=float32)
    """
    later = {
        "groups": groups != 1,
        "bias": bias is not None,
        "fill_value": fill_value != 0,
        "min_valid_fraction": min_valid_fraction != 0,
        "require_center": bool(require_center),
    }
    for name, given in later.items():
        if given:
            raise UnsupportedError(f"{name} is not supported yet; leave it out")
    plane = _as_array(array)
    convolution = Convolution.of(
        kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        padding_mode=padding_mode,
        padding_value=padding_value,
        flip=flip,
        missing=missing,
    )
    wanted = None if dtype is None else np.dtype(dtype)
    fill = nodata if wanted is not None and wanted.kind in "iu" else None
    return convolve_numpy(
        plane, convolution, Numbers.of(plane.dtype, wanted, nodata=nodata, fill=fill)
    )


def plan(job: Job) -> Plan:
    """Say what running ``job`` will read, compute, hold and write, from headers alone.

    Print the plan to read it; `Plan.to_dict` is for programs. Raises
    `InputError` for a raster that cannot be read, `ConfigError` for one that
    the job does not fit.
    """
    return plan_job(job)


def run(
    job: Job, client: object = None, *, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Run ``job`` and return a report; its output is then complete and checked.

    ``progress`` is called with (tiles done, tiles in all) from any thread. A
    dask ``client`` is not supported yet. On any error or interrupt the output
    is absent, or what it was before.
    """
    if client is not None:
        raise UnsupportedError("clusters are not supported yet; leave client out")
    return run_job(job, progress=progress)


def _as_array(array: Any) -> np.ndarray:
    """Return ``array`` as numpy's, with at least two axes and no empty one."""
    library = type(array).__module__.partition(".")[0]
    if library in ("dask", "xarray"):
        raise UnsupportedError(
            f"{library} arrays are not supported yet; pass array.compute() or numpy.asarray(array)"
        )
    if isinstance(array, np.ma.MaskedArray):
        raise UnsupportedError(
            "masked arrays are not supported yet; fill them: array.filled(numpy.nan), or nodata="
        )
    plain = np.asarray(array)
    if plain.ndim < 2:
        raise ConvolutionError(f"an array has shape (..., height, width); got {plain.shape}")
    if not plain.size:
        raise ConvolutionError(f"the array is empty: its shape is {plain.shape}")
    return plain
