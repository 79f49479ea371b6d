"""Slow, obvious twins of what tileconv computes, written from the definitions and numpy.pad."""

import math

import numpy as np

EPS = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}


def convolve(
    array,
    kernel,
    *,
    stride=(1, 1),
    dilation=(1, 1),
    pads=(0, 0, 0, 0),
    mode="constant",
    value=0.0,
    flip=False,
    nodata=None,
    masked=None,
):
    """Return (sums, magnitudes, missing) of one plane, in extended precision.

    ``magnitudes`` are the sums of ``|w x|``, from which the error bound follows.
    """
    kernel = np.asarray(kernel, np.float64)
    if flip:
        kernel = kernel[::-1, ::-1]
    top, left, bottom, right = pads
    missing = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
    if nodata is not None and not math.isnan(nodata):
        missing |= array == array.dtype.type(nodata)
    if masked is not None:
        missing |= masked
    values = np.where(missing, 0, array).astype(np.longdouble)
    around = ((top, bottom), (left, right))
    if mode == "missing":
        values, missing = np.pad(values, around), np.pad(missing, around, constant_values=True)
    elif mode == "constant":
        values = np.pad(values, around, constant_values=np.longdouble(value))
        missing = np.pad(missing, around)
    else:
        values, missing = np.pad(values, around, mode=mode), np.pad(missing, around, mode=mode)
    rows = (values.shape[0] - dilation[0] * (kernel.shape[0] - 1) - 1) // stride[0] + 1
    columns = (values.shape[1] - dilation[1] * (kernel.shape[1] - 1) - 1) // stride[1] + 1
    sums = np.zeros((rows, columns), np.longdouble)
    magnitudes = np.zeros_like(sums)
    lost = np.zeros(sums.shape, bool)
    for (ky, kx), weight in np.ndenumerate(kernel):
        if weight == 0:
            continue
        y, x = ky * dilation[0], kx * dilation[1]
        taken = (
            slice(y, y + (rows - 1) * stride[0] + 1, stride[0]),
            slice(x, x + (columns - 1) * stride[1] + 1, stride[1]),
        )
        sums += weight * values[taken]
        magnitudes += abs(weight) * abs(values[taken])
        lost |= missing[taken]
    return sums, magnitudes, lost


def assert_close(actual, expected, taps, compute):
    """Check ``actual`` against what `convolve` returned, within the bound that the docs promise."""
    sums, magnitudes, lost = expected
    assert actual.shape == sums.shape
    np.testing.assert_array_equal(np.isnan(actual), lost)
    # One more eps * sum|w x| for the weights, which are rounded to the compute dtype themselves.
    bound = (taps + 1) * EPS[np.dtype(compute)] * magnitudes
    error = np.abs(np.where(lost, 0, actual.astype(np.longdouble)) - np.where(lost, 0, sums))
    assert (error <= np.where(lost, 0, bound)).all(), f"off by up to {(error - bound).max()}"


def to_integers(sums, dtype):
    """Round half to even, then saturate."""
    bounds = np.iinfo(dtype)
    return [[min(max(round(float(v)), bounds.min), bounds.max) for v in row] for row in sums]


def touched(size, kernel, stride, dilation, before, after, mode):
    """Return the set of source pixels that any output reads along one axis."""
    padded = np.arange(size)
    if mode in ("constant", "missing"):
        padded = np.pad(padded, (before, after), constant_values=-1)
    else:
        padded = np.pad(padded, (before, after), mode=mode)
    outputs = (padded.size - dilation * (kernel - 1) - 1) // stride + 1
    places = [o * stride + j * dilation for o in range(outputs) for j in range(kernel)]
    return {int(p) for p in padded[places] if p >= 0}
