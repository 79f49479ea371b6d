"""Coordinates at the centres of fields, whatever their steps are.

A centre that lies on a pixel gets that pixel's own value, so that an unchanged grid stays
equal to the last bit, which xarray's alignment asks for. Where steps are equal, others lie
on the line through the first and the last pixel. Where they are not, a centre between
pixels gets the mean of its neighbours (two, or four of 2-D coordinates), and one in the
padding goes on by the step at the edge.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from tileconv.geometry import Axis

REGULAR = 1e-3
"""Steps of a regular coordinate differ by less than this share of one."""

LONGITUDES = {"lon", "long", "longitude", "longitudes", "nav_lon", "xlong", "glamt"}
PLACES = {"lat", "latitude", "latitudes", "nav_lat", "xlat", "gphit", "x", "y", "xc", "yc"}
POSITIONS = (
    "latitude",
    "longitude",
    "grid_latitude",
    "grid_longitude",
    "projection_x_coordinate",
    "projection_y_coordinate",
    "time",
)
"""CF's standard names of what has a place between two others."""


@dataclass(frozen=True)
class Line:
    """What a coordinate with equal steps says of its axis."""

    first: float
    step: float | None
    """None if there is only one value."""
    slack: float
    """How far values may lie from the line for their rounding."""


def centres(axis: Axis) -> np.ndarray:
    """Return where fields have their centres, in pixels from the first pixel's centre.

    >>> centres(Axis(size=12, kernel=4, stride=4)).tolist()
    [1.5, 5.5, 9.5]
    """
    positions: np.ndarray = axis.stride * np.arange(axis.out_size) + (
        (axis.span - 1) / 2 - axis.before
    )
    return positions


def is_unchanged(axis: Axis) -> bool:
    """Say whether outputs lie on the input's pixels, one on each."""
    return axis.stride == 1 and axis.shift == 0 and axis.out_size == axis.size


def is_number(variable: xr.Variable) -> bool:
    """Say whether a variable holds real numbers."""
    return variable.dtype.kind in "iuf"


def is_longitude(name: Hashable, variable: xr.Variable) -> bool:
    """Say whether values go round at 360 degrees."""
    units = str(variable.attrs.get("units", "degrees")).lower()
    if not units.startswith("degree"):
        return False
    named = variable.attrs.get("standard_name") == "longitude" or str(name).lower() in LONGITUDES
    return named or units in ("degrees_east", "degree_east", "degreese")


def is_position(name: Hashable, variable: xr.Variable) -> bool:
    """Say whether values lie between their neighbours, as latitudes do and areas do not."""
    said = variable.attrs
    return (
        is_longitude(name, variable)
        or str(said.get("standard_name")) in POSITIONS
        or str(said.get("units")).lower() in ("degrees_north", "degree_north", "degreesn")
        or str(name).lower() in PLACES
        or variable.dtype.kind == "M"
    )


def line_of(name: Hashable, variable: xr.Variable) -> Line | None:
    """Return the line on which the values of a 1-D variable lie, or None if their steps differ."""
    values = variable.values
    if not is_number(variable) or not values.size:
        return None
    exact = values.astype(np.float64)
    if values.size == 1:
        return Line(float(exact[0]), None, 0.0)
    step = float(exact[-1] - exact[0]) / (values.size - 1)
    slack = 0.0
    if values.dtype.kind == "f":
        slack = 4 * float(np.finfo(values.dtype).eps) * float(np.abs(exact).max())
    uneven = np.abs(np.diff(exact) - step).max()
    if abs(step) > 180 and is_longitude(name, variable):  # two pixels, on both sides of 0
        return None
    if not step or not uneven <= REGULAR * abs(step) + slack:
        return None
    return Line(float(exact[0]), step, slack)


def at_centres(
    name: Hashable, variable: xr.Variable, axes: Mapping[Hashable, Axis], step: float | None = None
) -> xr.Variable | None:
    """Return the coordinate at the fields' centres; None if it has no value there.

    ``step`` is that of a coordinate with a single value, if anything else says it.
    """
    moved: xr.Variable | None = variable.to_base_variable()
    line = line_of(name, variable) if variable.ndim == 1 else None
    if line is not None:
        moved = _on_the_line(variable, line, axes[variable.dims[0]], step)
    else:
        for dim in variable.dims:
            if moved is not None and dim in axes:
                moved = sample(moved, dim, centres(axes[dim]), cyclic=is_longitude(name, variable))
    if moved is None:
        return None
    picked = moved.dtype == variable.dtype and all(
        _inside(centres(axes[dim]), variable.sizes[dim]).all()
        for dim in variable.dims
        if dim in axes
    )
    encoding = dict(variable.encoding) if picked else {}
    for stored in ("chunks", "preferred_chunks", "chunksizes", "original_shape", "source"):
        encoding.pop(stored, None)
    moved.attrs, moved.encoding = dict(variable.attrs), encoding
    return moved


def sample(
    variable: xr.Variable,
    dim: Hashable,
    positions: np.ndarray,
    *,
    cyclic: bool = False,
) -> xr.Variable | None:
    """Return a variable between its own values along ``dim``; None if it has none there.

    ``positions`` count values, and are whole or half. ``cyclic``: they go round at 360.
    """
    size = variable.sizes[dim]
    inside = _inside(positions, size)
    if inside.all():
        return variable.isel({dim: positions.astype(np.intp)})
    if size == 1 or variable.dtype.kind in "USb":
        return None
    values = variable.astype(np.float64) if is_number(variable) else variable
    try:
        low = _continued(values, dim, np.floor(positions), cyclic=cyclic)
        high = _continued(values, dim, np.ceil(positions), cyclic=cyclic)
        between = low + _apart(high - low, cyclic=cyclic) / 2
    except TypeError:  # objects that are no dates
        return None
    if cyclic:
        between = _turned(between, negative=(variable < 0).any())
    return between.astype(variable.dtype) if variable.dtype.kind == "f" else between


def _inside(positions: np.ndarray, size: int) -> np.ndarray:
    """Say which positions lie on one of ``size`` values."""
    on: np.ndarray = (positions == np.floor(positions)) & (positions >= 0) & (positions < size)
    return on


def _on_the_line(
    variable: xr.Variable, line: Line, axis: Axis, step: float | None
) -> xr.Variable | None:
    """Return the coordinate at the fields' centres, of the dtype it has if that holds it."""
    values, positions = variable.values, centres(axis)
    inside = _inside(positions, axis.size)
    if inside.all():
        return xr.Variable(variable.dims, values[positions.astype(np.intp)])
    step = line.step if line.step is not None else step
    if step is None:
        return None
    made = line.first + step * positions
    made[inside] = values[positions[inside].astype(np.intp)]
    return xr.Variable(
        variable.dims, made.astype(values.dtype) if values.dtype.kind == "f" else made
    )


def _continued(
    values: xr.Variable, dim: Hashable, whole: np.ndarray, *, cyclic: bool
) -> xr.Variable:
    """Return the values at ``whole`` positions, continued by the step at the edge outside."""
    last = values.sizes[dim] - 1
    made = values.isel({dim: np.clip(whole, 0, last).astype(np.intp)})
    for beyond, edge, within in (
        (np.maximum(-whole, 0), 0, 1),
        (np.maximum(whole - last, 0), last, last - 1),
    ):
        if beyond.any():
            step = _apart(values.isel({dim: edge}) - values.isel({dim: within}), cyclic=cyclic)
            made = made + step * xr.Variable(dim, beyond.astype(np.int64))
    return made.transpose(*values.dims)


def _apart(difference: xr.Variable, *, cyclic: bool) -> xr.Variable:
    """Return the shorter way from one value to the other."""
    return difference - 360.0 * np.rint(difference / 360.0) if cyclic else difference


def _turned(values: Any, negative: Any) -> Any:
    """Return longitudes within -180 to 180 if some of the input's are negative, else 0 to 360."""
    highest = 360.0 - 180.0 * negative
    turned = values - 360.0 * (values > highest)
    return turned + 360.0 * (turned < highest - 360.0)
