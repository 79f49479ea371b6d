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
    groups=1,
    bias=None,
    flip=False,
    nodata=None,
    masked=None,
    policy="propagate",
    fill_value=0.0,
    min_valid_fraction=0.0,
    require_center=False,
):
    """Return (outputs, errors, missing) in extended precision.

    ``array`` is (H, W) or (B, H, W), ``kernel`` (kh, kw), (K, kh, kw) or (M, C, kh, kw).
    ``errors`` is the error that each output may have, in units of eps.
    """
    kernel = np.asarray(kernel, np.float64)
    if flip:
        kernel = kernel[..., ::-1, ::-1]
    planes = array if array.ndim == 3 else array[None]
    if kernel.ndim < 4:
        bank = kernel if kernel.ndim == 3 else kernel[None]
        fields = [([b], k[None]) for b in range(len(planes)) for k in bank]
    else:
        wide, many = kernel.shape[1], kernel.shape[0] // groups
        fields = [
            (list(range(m // many * wide, (m // many + 1) * wide)), kernel[m])
            for m in range(len(kernel))
        ]
    padded = [
        _pad(_values(p, nodata, masked, policy, fill_value), pads, mode, value, policy, fill_value)
        for p in planes
    ]
    results = []
    for m, (bands, weights) in enumerate(fields):
        sums, magnitudes, valid, total, centre, lost = 0, 0, 0, 0, False, False
        for b, plane_weights in zip(bands, weights, strict=True):
            one = _one(*padded[b], plane_weights, stride, dilation)
            sums, magnitudes, valid, total = (
                a + b for a, b in zip((sums, magnitudes, valid, total), one[:4], strict=True)
            )
            centre, lost = centre | one[4], lost | one[5]
        taps = np.count_nonzero(weights)
        # One more eps of sum |w x| for the weights, which are rounded to the compute dtype too.
        errors = (taps + 1) * magnitudes
        missing = lost
        if policy != "propagate" and total:
            missing = valid < (min_valid_fraction - 1e-12) * total
            if policy != "fill":
                missing = missing | (valid == 0)
            if policy == "renormalize":
                share = np.where(valid == 0, 1, valid / total)
                sums, errors = sums / share, (errors + 2 * abs(sums)) / share
        elif policy != "propagate":
            missing = np.zeros_like(lost)
        if require_center:
            missing = missing | centre
        if bias is not None:
            sums = sums + bias[m]
            errors = errors + abs(sums) + abs(bias[m])
        results.append((sums, errors, missing))
    stacked = [np.array(part) for part in zip(*results, strict=True)]
    single = array.ndim == 2 and kernel.ndim == 2
    return tuple(part[0] if single else part for part in stacked)


def _values(plane, nodata, masked, policy, fill_value):
    """Return (pixels as counted, where they are missing)."""
    missing = np.isnan(plane) if plane.dtype.kind == "f" else np.zeros(plane.shape, bool)
    if nodata is not None and not math.isnan(nodata):
        missing |= plane == plane.dtype.type(nodata)
    if masked is not None:
        missing |= masked
    counted = fill_value if policy == "fill" else 0
    return np.where(missing, counted, plane).astype(np.longdouble), missing


def _pad(values_missing, pads, mode, value, policy, fill_value):
    """Pad axis by axis, last by modes that win in corners: constant, then missing."""
    values, missing = values_missing
    modes = (mode, mode) if isinstance(mode, str) else mode
    order = ("edge", "reflect", "symmetric", "wrap", "constant", "missing")
    for axis in sorted((0, 1), key=lambda axis: order.index(modes[axis])):
        around = [(0, 0), (0, 0)]
        around[axis] = (pads[axis], pads[axis + 2])
        if modes[axis] == "missing":
            counted = fill_value if policy == "fill" else 0
            values = np.pad(values, around, constant_values=counted)
            missing = np.pad(missing, around, constant_values=True)
        elif modes[axis] == "constant":
            values = np.pad(values, around, constant_values=np.longdouble(value))
            missing = np.pad(missing, around)
        else:
            values = np.pad(values, around, mode=modes[axis])
            missing = np.pad(missing, around, mode=modes[axis])
    return values, missing


def _one(values, missing, kernel, stride, dilation):
    """Return sums, magnitudes, valid |w|, all |w|, centre missing, any missing of one plane."""
    kh, kw = kernel.shape
    rows = (values.shape[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (values.shape[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    sums = np.zeros((rows, columns), np.longdouble)
    magnitudes, valid = np.zeros_like(sums), np.zeros_like(sums)
    lost, centre = np.zeros(sums.shape, bool), np.zeros(sums.shape, bool)
    for (ky, kx), weight in np.ndenumerate(kernel):
        y, x = ky * dilation[0], kx * dilation[1]
        taken = (
            slice(y, y + (rows - 1) * stride[0] + 1, stride[0]),
            slice(x, x + (columns - 1) * stride[1] + 1, stride[1]),
        )
        if (ky, kx) == (kh // 2, kw // 2):
            centre = missing[taken]
        if weight == 0:
            continue
        sums += weight * values[taken]
        magnitudes += abs(weight) * abs(values[taken])
        valid += abs(weight) * ~missing[taken]
        lost |= missing[taken]
    return sums, magnitudes, valid, abs(kernel).sum(), centre, lost


def assert_close(actual, expected, compute):
    """Check ``actual`` against what `convolve` returned, within the bound that the docs promise."""
    sums, errors, lost = expected
    assert actual.shape == sums.shape
    np.testing.assert_array_equal(np.isnan(actual), lost)
    bound = EPS[np.dtype(compute)] * errors
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
