"""What people call from Python on arrays.

It knows nothing of jobs: what reads and writes files takes half a second to import.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.arguments import (
    check_array,
    check_dtype,
    check_names,
    check_number,
    check_pair,
    check_whole,
)
from tileconv.arrays.eager import convolve_complex, convolve_numpy
from tileconv.arrays.threads import thread_count
from tileconv.dtypes import Numbers
from tileconv.errors import ConvolutionError, UnsupportedError
from tileconv.missing import fill_masked
from tileconv.operators.base import Operator
from tileconv.operators.convolution import SMALL_KERNEL_BYTES, Convolution
from tileconv.operators.reduction import Reduction
from tileconv.padding import LARGEST
from tileconv.text import visible

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

__all__ = ["apply", "convolve", "focal"]


def convolve(
    array: ArrayLike,
    kernel: ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = "valid",
    padding_mode: str | Sequence[str] = "constant",
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
    threads: int | None = None,
    dims: Sequence[Hashable] | None = None,
    chunks: int | Sequence[int] | None = None,
) -> Any:
    """Correlate an array with one kernel or many, sampled with a stride.

    Parameters
    ----------
    array
        (..., H, W), bool, integer, floating point or complex. A numpy array or what
        `numpy.asarray` takes; a dask array with any chunks; an xarray DataArray, Dataset or
        DataTree, of which every variable with rows and columns is convolved.
        Masked pixels of masked arrays are missing.
    kernel
        One of

        - (kh, kw): every plane by itself, (..., OH, OW).
        - (K, kh, kw): a bank. (H, W) gives (K, OH, OW), (..., B, H, W) gives (..., B * K, OH, OW),
          band-major: band 0 with each kernel, then band 1.
        - (M, B / groups, kh, kw): sums over bands, as in torch and ONNX. (..., B, H, W) gives
          (..., M, OH, OW).

        Applied as it is, like torch, OpenCV and GDAL do (correlation).
    stride
        Input pixels between receptive fields, n or (y, x); may exceed the kernel.
    dilation
        Input pixels between taps, n or (y, x).
    padding
        "valid", "same" ("same_upper"), "same_lower", n, (y, x) or (top, left, bottom, right).
    padding_mode
        What padding holds, in numpy.pad's words: constant, edge, reflect, symmetric, wrap; or
        missing. Two words are those of (y, x): ("edge", "wrap") for a raster that goes round the
        globe. In corners a pixel is missing if either axis says so, else constant if one does.
    padding_value
        What constant padding holds; NaN is missing padding.
    groups
        With 4-D kernels: output m reads the bands of group ``m * groups // M``. As many groups
        as bands is a depthwise convolution.
    bias
        With 4-D kernels: M numbers, added to the outputs.
    flip
        Turn each kernel by 180 degrees: true convolution, as scipy.signal.convolve2d.
    nodata
        Pixels equal to it, in the array's own dtype, are missing. NaN always is.
    missing
        What a field with missing pixels under non-zero weights gives: "propagate" (missing),
        "skip" (they count as 0), "fill" (as ``fill_value``), "renormalize" (the sum over valid
        pixels times sum(w) / sum of valid w). A field without a valid pixel is missing, except
        under fill.
    fill_value
        What missing pixels count as under fill.
    min_valid_fraction
        Least share of sum |w| that must lie on valid pixels, 0 to 1; below it the output is
        missing.
    require_center
        A missing pixel under the kernel's centre (kh // 2, kw // 2) makes the output missing.
    dtype
        Of the output. Default float32 for bool, (u)int8, (u)int16, float16 and float32 input,
        float64 for the others, complex64 or complex128 for complex ones. Integers are rounded
        half to even and saturated; their sums are added in float64 where float32 does not hold
        whole numbers of that size.
    threads
        Most threads to use. Default: the environment variable TILECONV_NUM_THREADS, or all cores
        when called from the main thread and one from any other. The result is the same. For dask
        arrays its scheduler decides.
    dims
        Names of rows and columns of an xarray object; known are ("y", "x"), ("latitude",
        "longitude") and the like.
    chunks
        Outputs in each chunk of the output of a dask array, n or (y, x). Default: chunks follow
        the input's, so that with a stride they are not all of one size, as Zarr asks for.

    Returns
    -------
    numpy.ndarray, dask.array.Array, xarray.DataArray, xarray.Dataset or xarray.DataTree
        What came in. A dask array gives a lazy dask array, whose chunks follow the input's. An
        xarray object says what is true of the output: coordinates at the fields' centres, moved
        transforms and bounds, names, scale and offset, nodata. What it cannot is dropped with a
        UserWarning.
        OH = (H + top + bottom - dilation * (kh - 1) - 1) // stride + 1. Missing outputs are NaN,
        or ``nodata`` in integers.

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
    >>> tileconv.convolve(image, tileconv.kernels.box(2), nodata=1, missing="renormalize")[0]
    array([4.3333335, 4.5      , 5.5      ], dtype=float32)
    """
    operator = _convolution(
        kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        padding_mode=padding_mode,
        padding_value=padding_value,
        groups=groups,
        bias=bias,
        flip=flip,
        missing=missing,
        fill_value=fill_value,
        min_valid_fraction=min_valid_fraction,
        require_center=require_center,
    )
    return apply(operator, array, nodata, dtype, threads, dims, chunks)


def focal(
    array: ArrayLike,
    statistic: str,
    footprint: ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = "valid",
    padding_mode: str | Sequence[str] = "missing",
    padding_value: float = 0.0,
    nodata: float | None = None,
    missing: str = "propagate",
    fill_value: float = 0,
    min_valid_fraction: float = 0.0,
    require_center: bool = False,
    only_missing: bool = False,
    method: str = "linear",
    ties: str = "lowest",
    ddof: int = 0,
    classes: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
    dims: Sequence[Hashable] | None = None,
) -> Any:
    """Compute a statistic of the pixels under a footprint, sampled with a stride.

    Parameters
    ----------
    array
        (..., H, W), bool, integer or floating point, as for `convolve`. Each plane is reduced by
        itself.
    statistic
        "max" or "median"; the median of an even number of pixels is the mean of the two in the
        middle.
    footprint
        n, (h, w), or an array of 0 and one positive value.
    stride, dilation, padding, padding_value, nodata, require_center, threads, dims
        As for `convolve`.
    padding_mode
        As for `convolve`, but "missing" by default: under skip the statistic is that of the pixels
        inside the raster.
    missing
        What a field with missing pixels gives: "propagate" (missing), "skip" (the statistic of the
        valid ones; missing if there are none), "fill" (missing pixels hold ``fill_value``).
    fill_value
        A value of the output's dtype if that is the input's.
    min_valid_fraction
        Least share of the footprint's pixels that must be valid; below it the output is missing.
    only_missing, method, ties, ddof, classes
        For statistics to come; no value but the default is supported yet.
    dtype
        Of the output. Default the input's for max, and for the median of an odd number of pixels
        under propagate and fill. Other medians are float32 for inputs of up to 16 bits and float32,
        float64 for the others.

    Returns
    -------
    numpy.ndarray, dask.array.Array, xarray.DataArray, xarray.Dataset or xarray.DataTree
        What came in, as from `convolve`. Missing outputs are NaN, or ``nodata`` in integers.

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
    >>> tileconv.focal(image, "max", 2, stride=2)
    array([[ 6,  8],
           [14, 16]], dtype=uint8)
    >>> tileconv.focal(image, "median", 3, padding="same", missing="skip")[0]
    array([3.5, 4. , 5. , 5.5], dtype=float32)
    """
    operator = Reduction.of(
        statistic,
        footprint,
        stride=stride,
        dilation=dilation,
        padding=padding,
        padding_mode=padding_mode,
        padding_value=padding_value,
        missing=missing,
        fill_value=fill_value,
        min_valid_fraction=min_valid_fraction,
        require_center=require_center,
        only_missing=only_missing,
        method=method,
        ties=ties,
        ddof=ddof,
        classes=classes,
    )
    return apply(operator, array, nodata, dtype, threads, dims)


def apply(
    operator: Operator,
    array: Any,
    nodata: float | None = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
    dims: Sequence[Hashable] | None = None,
    chunks: int | Sequence[int] | None = None,
) -> Any:
    """Compute ``operator`` of an array of any kind; the options are those of `convolve`."""
    wanted = None if dtype is None else check_dtype(dtype)
    nodata = None if nodata is None else check_number(nodata, "nodata")
    threads = None if threads is None else check_whole(threads, "threads")
    even = None if chunks is None else check_pair(chunks, "chunks", 1, LARGEST)
    names = None if dims is None else check_names(dims, "dims")
    # most calls; Python's share shows in small ones
    if type(array) is np.ndarray and dims is None and chunks is None:
        _check_shape(array.shape)
        _warn_of_channels(array.shape, operator)
        numbers = _numbers(operator, array.dtype, wanted, nodata, nodata)
        return _convolve_numpy(array, operator, numbers, threads)
    if not _is_labelled(array):
        if dims is not None:
            raise ConvolutionError(
                "dims names dimensions of xarray objects; arrays end with (y, x)"
            )
        plain = _as_array(array)
        _warn_of_channels(plain.shape, operator)
        return _convolve_plain(plain, operator, wanted, nodata, nodata, threads, even)
    return _convolve_labelled(array, operator, wanted, nodata, threads, names, even)


def _convolve_labelled(
    data: Any,
    operator: Operator,
    wanted: np.dtype | None,
    nodata: float | None,
    threads: int | None,
    dims: tuple[Hashable, Hashable] | None,
    chunks: tuple[int, int] | None,
) -> Any:
    """Convolve an xarray object, and warn of what does not follow."""
    from tileconv.arrays import labelled  # noqa: PLC0415 - whoever has a DataArray has xarray

    def compute(pixels: Any, nodata: float | None, fill: float | None) -> Any:
        even = chunks if _library(pixels) == "dask" else None
        return _convolve_plain(_as_array(pixels), operator, wanted, nodata, fill, threads, even)

    work = labelled.Labelled(operator, compute, wanted, dims, nodata, chunks)
    result, notes = labelled.convolve_labelled(data, work)
    for note in notes:
        warnings.warn(visible(note), UserWarning, stacklevel=_callers_level())
    return result


def _callers_level() -> int:
    """Return the level of stack, for a warning, of the first caller outside tileconv."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("tileconv."):
        frame, level = frame.f_back, level + 1
    return level


REMEMBERED = 64
"""Convolutions that are kept ready for the next call that asks for the same."""


def _convolution(kernel: ArrayLike, **options: Any) -> Convolution:
    """Return `Convolution.of`, the same value for the same arguments if they are simple."""
    if issubclass(type(kernel), np.ma.MaskedArray):
        return Convolution.of(kernel, **options)
    array = check_array(kernel, "the kernel")
    if array.dtype.kind not in "iuf" or array.nbytes > SMALL_KERNEL_BYTES:
        return Convolution.of(array, **options)
    given = tuple(options.values())
    types = tuple(map(type, given))
    if not _PLAIN.issuperset(types):
        if not _LISTS.issuperset(types):  # a bias, or what has no hash or one that fails
            return Convolution.of(array, **options)
        lists = [value for value in given if type(value) in (list, tuple)]
        if any(type(each) not in (int, str) for value in lists for each in value):
            return Convolution.of(array, **options)  # (1, True) is no (1, 1), and equal to it
        given = tuple(tuple(value) if type(value) is list else value for value in given)
    return _same_convolution(
        array.tobytes(), array.dtype, array.shape, tuple(options), given, types
    )


_PLAIN = frozenset({int, float, str, bool, type(None), np.int64, np.float64, np.bool_})
"""Types of options by which a convolution is remembered."""
_LISTS = _PLAIN | {list, tuple}


@lru_cache(REMEMBERED)
def _same_convolution(
    data: bytes,
    dtype: np.dtype,
    shape: tuple[int, ...],
    names: tuple[str, ...],
    values: tuple[Any, ...],
    types: tuple[type, ...],
) -> Convolution:
    """Return `Convolution.of`; ``types`` tell apart what is equal, such as 1 and True."""
    del types
    kernel = np.frombuffer(data, dtype).reshape(shape)
    return Convolution.of(kernel, **dict(zip(names, values, strict=True)))


def _convolve_plain(
    plain: Any,
    operator: Operator,
    wanted: np.dtype | None,
    nodata: float | None,
    fill: float | None,
    threads: int | None,
    chunks: tuple[int, int] | None,
) -> Any:
    """Convolve a numpy or dask array; masked pixels are missing.

    ``fill`` is what missing outputs hold if they are integers.
    """
    numbers = _numbers(operator, plain.dtype, wanted, nodata, fill)
    if _library(plain) != "dask":
        if chunks is not None:
            raise ConvolutionError("chunks is for dask arrays: the output of others has none")
        if isinstance(plain, np.ma.MaskedArray):
            if numbers.compute.kind != "f":  # no pixel of which can be NaN
                mask = np.ma.getmaskarray(plain)
                return convolve_numpy(
                    np.asarray(plain), operator, numbers, thread_count(threads), mask
                )
            plain = fill_masked(plain, nodata)
            numbers = _numbers(operator, plain.dtype, wanted, None, fill)
        return _convolve_numpy(plain, operator, numbers, threads)
    from tileconv.arrays import lazy  # noqa: PLC0415 - whoever has a dask array has dask

    if lazy.is_masked(plain):
        if numbers.compute.kind != "f":
            raise UnsupportedError(
                "masked dask arrays of integers are not supported here yet; fill them and give "
                "nodata"
            )
        plain = lazy.fill_masked_dask(plain, nodata)
        numbers = _numbers(operator, plain.dtype, wanted, None, fill)
    thread_count(threads)  # no use here, but wrong ones are refused
    delay = lazy.convolve_dask_complex if plain.dtype.kind == "c" else lazy.convolve_dask
    return delay(plain, operator, numbers, chunks)


def _convolve_numpy(
    plain: np.ndarray, operator: Operator, numbers: Numbers, threads: int | None
) -> np.ndarray:
    work = convolve_complex if plain.dtype.kind == "c" else convolve_numpy
    return work(plain, operator, numbers, thread_count(threads))


def _numbers(
    operator: Operator,
    source: np.dtype,
    wanted: np.dtype | None,
    nodata: float | None,
    fill: float | None,
) -> Numbers:
    """Return how numbers come in and go out; for complex input, those of its parts.

    ``fill`` is what missing outputs hold if they are integers.
    """
    if source.kind != "c":
        if fill is not None and operator.dtypes(source, wanted).target.kind not in "iu":
            fill = None
        return operator.dtypes(source, wanted, nodata=nodata, fill=fill)
    if nodata is not None:
        raise ConvolutionError("nodata has no meaning for complex arrays; mark pixels with NaN")
    if source.itemsize > 16:
        raise ConvolutionError(f"cannot convolve {source}; use complex64 or complex128")
    if wanted is not None and (wanted.kind != "c" or wanted.itemsize > 16):
        raise ConvolutionError(
            f"complex input gives complex64 or complex128, not {wanted}; "
            "for a real output pass .real, .imag or abs() of the array"
        )
    part = np.dtype(np.float32 if source.itemsize == 8 else np.float64)
    target = part if wanted is None else np.dtype(f"f{wanted.itemsize // 2}")
    return operator.dtypes(part, target)


def _library(array: Any) -> str:
    """Return the package that an array comes from."""
    return _home(type(array))


def _home(kind: type) -> str:
    """Return the package that a class comes from."""
    module = kind.__module__
    return module.partition(".")[0] if isinstance(module, str) else ""


def _is_labelled(array: Any) -> bool:
    """Say whether ``array`` is one of xarray's objects, or of a class made of one."""
    return any(_home(base) == "xarray" for base in type(array).__mro__)


def _as_array(array: Any) -> Any:
    """Return ``array`` as numpy's or dask's, with at least two axes and no empty one."""
    plain: Any
    if _library(array) == "dask":
        from tileconv.arrays import lazy  # noqa: PLC0415 - whoever has a dask array has dask

        plain = lazy.check_dask(array)
    elif issubclass(type(array), np.ma.MaskedArray):
        plain = array
    else:
        plain = check_array(array, "the array")
    _check_shape(plain.shape)
    return plain


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ConvolutionError(f"an array has shape (..., height, width); got {shape}")
    if 0 in shape:
        raise ConvolutionError(f"the array is empty: its shape is {shape}")


COLOURS = (3, 4)
"""Channels of a picture."""
PICTURE = 16
"""Fewest rows and columns of an array that may be taken for a picture."""


def _warn_of_channels(shape: tuple[int, ...], operator: Operator) -> None:
    """Warn where what is convolved as rows and columns seem to be columns and channels."""
    if len(shape) < 3 or shape[-1] not in COLOURS or min(shape[-3:-1]) < PICTURE:
        return
    if operator.samplings[0].kernel[1] > 1:
        warnings.warn(
            f"the array's last two axes are taken as rows and columns, here {shape[-2]} x "
            f"{shape[-1]}; an image with channels last, as OpenCV and Pillow have them, goes in "
            "as numpy.moveaxis(image, -1, 0)",
            UserWarning,
            stacklevel=4,
        )
