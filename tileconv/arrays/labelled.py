"""xarray in, xarray out: dimensions, coordinates, transform and nodata follow the pixels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from tileconv.convolution import Convolution
from tileconv.errors import ConvolutionError
from tileconv.geometry import Axis, Geometry

Compute = Callable[[Any, float | None], Any]
"""(numpy or dask array (..., H, W), nodata) -> its convolution."""

SPATIAL = (
    ("y", "x"),
    ("latitude", "longitude"),
    ("lat", "lon"),
    ("northing", "easting"),
    ("row", "col"),
)
"""Pairs of dimensions that are taken for (y, x) if no others are given."""
NODATA = ("_FillValue", "missing_value", "nodata")
"""Attributes that hold nodata, as rioxarray and CF know them."""
REGULAR = 1e-3
"""Steps of a regular coordinate differ by less than this share of one."""


def convolve_dataset(
    dataset: xr.Dataset,
    convolution: Convolution,
    compute: Compute,
    dims: Sequence[Hashable] | None,
    nodata: float | None,
) -> xr.Dataset:
    """Convolve every variable that has both spatial dimensions; the others stay as they are."""
    y, x = spatial_dims(dataset, dims)
    spatial = {name for name, v in dataset.data_vars.items() if y in v.dims and x in v.dims}
    for name, variable in dataset.data_vars.items():
        if name not in spatial and {y, x} & set(variable.dims):
            raise ConvolutionError(f"variable {name!r} has only one of the dimensions {y!r}, {x!r}")
    parts = {
        name: convolve_dataarray(variable, convolution, compute, (y, x), nodata)
        if name in spatial
        else variable
        for name, variable in dataset.data_vars.items()
    }
    return xr.Dataset(parts, attrs=dataset.attrs)


def convolve_dataarray(
    array: xr.DataArray,
    convolution: Convolution,
    compute: Compute,
    dims: Sequence[Hashable] | None,
    nodata: float | None,
) -> xr.DataArray:
    """Convolve over the spatial dimensions; a dask-backed array stays lazy."""
    y, x = spatial_dims(array, dims)
    lead = [dim for dim in array.dims if dim not in (y, x)]
    turned = array.transpose(*lead, y, x)
    geometry = convolution.geometry((turned.sizes[y], turned.sizes[x]))
    declared = _nodata(array)
    data = compute(turned.variable.data, declared if nodata is None else nodata)
    out_dims = _out_dims(lead, convolution, y, x)
    result = xr.DataArray(data, dims=out_dims, name=array.name, attrs=_attrs(array, data.dtype))
    result = result.assign_coords(_coords(turned, result, convolution, geometry, (y, x)))
    if "grid_mapping" in array.encoding:
        result.encoding["grid_mapping"] = array.encoding["grid_mapping"]
    order = [dim for dim in array.dims if dim in out_dims]
    return result.transpose(*(dim for dim in out_dims if dim not in order), *order)


def spatial_dims(
    data: xr.DataArray | xr.Dataset, dims: Sequence[Hashable] | None
) -> tuple[Hashable, Hashable]:
    """Return the dimensions that are rows and columns."""
    if dims is not None:
        if len(dims) != 2 or any(dim not in data.dims for dim in dims) or dims[0] == dims[1]:
            raise ConvolutionError(
                f"dims names rows and columns among {tuple(data.dims)}; got {tuple(dims)}"
            )
        return dims[0], dims[1]
    for pair in SPATIAL:
        if all(dim in data.dims for dim in pair):
            return pair
    raise ConvolutionError(
        f"none of the dimensions {tuple(data.dims)} are known as rows and columns; "
        "name them, like dims=('line', 'sample')"
    )


def _out_dims(
    lead: list[Hashable], convolution: Convolution, y: Hashable, x: Hashable
) -> tuple[Hashable, ...]:
    """Return the output's dimensions in the order in which arrays have them."""
    if convolution.weights.ndim == 2 or lead:
        return (*lead, y, x)
    return ("band" if convolution.mixes_bands else "kernel", y, x)


def _nodata(array: xr.DataArray) -> float | None:
    """Return the nodata that the array declares."""
    for key in NODATA:
        if key in array.attrs:
            value = array.attrs[key]
            plain = value.item() if hasattr(value, "item") else value
            if array.dtype.kind in "iu" and isinstance(plain, float) and plain.is_integer():
                return int(plain)
            return None if array.dtype.kind == "c" else plain
    return None


def _attrs(array: xr.DataArray, dtype: np.dtype) -> dict[Hashable, Any]:
    """Return the attributes; nodata becomes NaN where the output is floating point."""
    attrs = dict(array.attrs)
    for key in NODATA:
        if key in attrs and dtype.kind == "f":
            attrs[key] = np.nan
    return attrs


def _coords(
    array: xr.DataArray,
    result: xr.DataArray,
    convolution: Convolution,
    geometry: Geometry,
    dims: tuple[Hashable, Hashable],
) -> dict[Hashable, Any]:
    """Return the output's coordinates."""
    mapping = array.encoding.get("grid_mapping", array.attrs.get("grid_mapping", "spatial_ref"))
    coords: dict[Hashable, Any] = {}
    dropped = []
    for name, coord in array.coords.items():
        axes = dict(zip(dims, (geometry.y, geometry.x), strict=True))
        if not set(coord.dims) & set(dims):
            sizes = {dim: result.sizes.get(dim) for dim in coord.dims}
            if all(result.sizes.get(dim) == array.sizes[dim] for dim in sizes):
                coords[name] = _georeferenced(coord, geometry) if name == mapping else coord
            elif convolution.weights.ndim == 3 and coord.dims == (name,):
                bands, kernels = coord.values.tolist(), range(1, convolution.count + 1)
                coords[name] = (name, [f"kernel {k}:{band}" for band in bands for k in kernels])
            continue
        if coord.dims == (name,) and name in axes:
            coords[name] = (name, _centres(coord, axes[name]), coord.attrs)
        else:
            dropped.append(str(name))
    if dropped:
        warnings.warn(
            f"coordinates {', '.join(dropped)} cannot be recomputed at fields' centres: dropped",
            UserWarning,
            stacklevel=5,
        )
    return coords


def _centres(coord: xr.DataArray, axis: Axis) -> np.ndarray:
    """Return the coordinate at the fields' centres.

    A centre that lies on a pixel gets that pixel's own value, so that an
    unchanged grid stays equal to the last bit, which xarray's alignment asks for.
    """
    values = coord.values
    if values.dtype.kind not in "iuf":
        raise ConvolutionError(f"coordinate {coord.name!r} holds {values.dtype}, not numbers")
    positions = (axis.span - 1) / 2 - axis.before + axis.stride * np.arange(axis.out_size)
    whole = positions == np.floor(positions)
    inside = whole & (positions >= 0) & (positions < axis.size)
    if axis.size == 1:
        if not inside.all():
            raise ConvolutionError(
                f"coordinate {coord.name!r} has one value, so its spacing is unknown"
            )
        return values[positions.astype(np.intp)]
    exact = values.astype(np.float64)
    step = (exact[-1] - exact[0]) / (axis.size - 1)
    rounding = 0.0
    if values.dtype.kind == "f":
        rounding = 4 * float(np.finfo(values.dtype).eps) * float(np.abs(exact).max())
    uneven = np.abs(np.diff(exact) - step).max()
    if not step or not uneven <= REGULAR * abs(step) + rounding:
        raise ConvolutionError(
            f"coordinate {coord.name!r} is irregular (steps differ by up to {uneven:g}, "
            f"one is {step:g}), so a field has no place on it; interpolate to a regular grid first"
        )
    centres = exact[0] + step * positions
    if inside.all():
        return values[positions.astype(np.intp)]
    centres[inside] = exact[positions[inside].astype(np.intp)]
    return centres.astype(values.dtype) if values.dtype.kind == "f" else centres


def _georeferenced(coord: xr.DataArray, geometry: Geometry) -> xr.DataArray:
    """Return the grid mapping with its GeoTransform (GDAL's order, as in rioxarray) moved."""
    text = coord.attrs.get("GeoTransform")
    if text is None:
        return coord
    c, a, b, f, d, e = (float(part) for part in str(text).split())
    a, b, c, d, e, f = geometry.out_transform((a, b, c, d, e, f))
    moved = coord.copy()
    moved.attrs = dict(coord.attrs) | {"GeoTransform": " ".join(map(repr, (c, a, b, f, d, e)))}
    return moved
