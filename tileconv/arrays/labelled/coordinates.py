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

HALF_TURN = 180.0

LONGITUDES = {"lon", "long", "longitude", "longitudes", "nav_lon", "xlong", "glamt"}
PLACES = {"lat", "latitude", "latitudes", "nav_lat", "xlat", "gphit", "x", "y", "xc", "yc"}
EAST = {"degrees_east", "degree_east", "degreese", "degrees_e"}
NORTH = {"degrees_north", "degree_north", "degreesn", "degrees_n"}
DEGREES = EAST | {"degree", "degrees"}
POSITIONS = (
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


def is_number(variable: xr.Variable) -> bool:
    """Say whether a variable holds real numbers."""
    return variable.dtype.kind in "iuf"


def is_angle(name: Hashable, variable: xr.Variable) -> bool:
    """Say whether values go round at 360 degrees; latitudes never come that far."""
    units = variable.attrs.get("units")
    return str(name).lower() in LONGITUDES if units is None else str(units).lower() in DEGREES


def is_geographic(name: Hashable, variable: xr.Variable) -> bool:
    """Say whether a variable holds latitudes or longitudes."""
    said = variable.attrs
    units = str(said.get("units")).lower()
    return (
        str(said.get("standard_name")) in ("latitude", "longitude")
        or units in NORTH
        or (units in EAST and str(name).lower() in LONGITUDES)
    )


def is_position(name: Hashable, variable: xr.Variable) -> bool:
    """Say whether values lie between their neighbours, as latitudes do and areas do not."""
    return (
        is_geographic(name, variable)
        or str(variable.attrs.get("standard_name")) in POSITIONS
        or str(variable.attrs.get("units")).lower() in EAST
        or str(name).lower() in PLACES | LONGITUDES
        or variable.dtype.kind == "M"
    )


def is_label(name: Hashable, variable: xr.Variable) -> bool:
    """Say whether nothing lies between two values: words, and codes."""
    kind = variable.dtype.kind
    if kind in "USbV" or {"flag_values", "flag_meanings"} & set(variable.attrs):
        return True
    if kind not in "iu" or variable.ndim != 1 or is_position(name, variable):
        return False
    before, behind = variable.values[:-1], variable.values[1:]
    return not ((before < behind).all() or (before > behind).all())


def line_of(name: Hashable, variable: xr.Variable) -> Line | None:
    """Return the line on which the values of a 1-D variable lie, or None if they lie on none."""
    values = variable.values
    if not is_number(variable) or not values.size:
        return None
    scale, offset = stored_as(variable.attrs)
    if (scale, offset) != (1.0, 0.0):
        values = values * scale + offset
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return None
    first = values[0]
    if values.dtype.kind in "iu":  # whole numbers that float64 does not hold have steps, too
        apart = (values.astype(np.int64) - first.astype(np.int64)).astype(np.float64)
    else:
        apart = values.astype(np.float64) - np.float64(first)
    if values.size == 1:
        return Line(float(first), None, 0.0)
    step = float(apart[-1]) / (values.size - 1)
    slack = 0.0
    if values.dtype.kind == "f":
        slack = 4 * float(np.finfo(values.dtype).eps) * float(np.abs(values).max())
    if not step or (abs(step) > HALF_TURN and is_angle(name, variable)):  # two, beside 0
        return None
    off = np.abs(apart - step * np.arange(values.size)).max()
    return Line(float(first), step, slack) if off <= REGULAR * abs(step) + slack else None


def picks(axis: Axis) -> slice | None:
    """Return the pixels on which the fields have their centres, if all have one.

    >>> picks(Axis(size=12, kernel=3, stride=4))
    slice(1, 10, 4)
    """
    positions = centres(axis)
    if not _inside(positions, axis.size).all():
        return None
    return slice(int(positions[0]), int(positions[-1]) + 1, axis.stride)


def at_centres(
    name: Hashable, variable: xr.Variable, axes: Mapping[Hashable, Axis], step: float | None = None
) -> xr.Variable | None:
    """Return the coordinate at the fields' centres; None if it has no value there.

    ``step`` is that of a coordinate with a single value, if anything else says it.
    """
    moving = [dim for dim in variable.dims if dim in axes]
    picked = {dim for dim in moving if picks(axes[dim]) is not None}
    attrs, encoding = dict(variable.attrs), dict(variable.encoding)
    between = len(picked) < len(moving)
    if between:
        variable, attrs, encoding = _without_gaps(variable), _in_floats(attrs), {}
        if is_label(name, variable):
            return None
    line = line_of(name, variable) if variable.ndim == 1 else None
    turns = between and line is None and is_angle(name, variable)
    scale, offset = stored_as(attrs) if turns else (1.0, 0.0)
    if (scale, offset) != (1.0, 0.0):  # what goes round is what is meant
        variable = xr.Variable(variable.dims, variable.data * scale + offset, attrs)
    moved: xr.Variable | None = variable.to_base_variable()
    if line is not None:
        moved = _on_the_line(variable, line, axes[variable.dims[0]], step)
    else:
        for dim in moving:
            if moved is not None:
                moved = sample(moved, dim, centres(axes[dim]), cyclic=is_angle(name, variable))
    if moved is None:
        return None
    if (scale, offset) != (1.0, 0.0):
        moved = (moved - offset) / scale
    for stored in ("chunks", "preferred_chunks", "chunksizes", "original_shape", "source"):
        encoding.pop(stored, None)
    moved.attrs, moved.encoding = attrs, encoding
    if between and (gap := attrs.get("_FillValue")) is not None:
        moved = moved.fillna(gap)
        moved.attrs = attrs
    return moved


def stored_as(attrs: Mapping[Any, Any]) -> tuple[float, float]:
    """Return scale and offset of stored values."""
    try:
        scale, offset = float(attrs.get("scale_factor", 1.0)), float(attrs.get("add_offset", 0.0))
    except (TypeError, ValueError):
        return 1.0, 0.0
    return (scale, offset) if scale else (1.0, 0.0)


def _without_gaps(variable: xr.Variable) -> xr.Variable:
    """Return a variable whose stored values that mean none are NaN."""
    gaps = [
        value
        for key in ("_FillValue", "missing_value")
        if is_number(variable)
        for value in np.ravel(np.asarray(variable.attrs.get(key, []))).tolist()
        if isinstance(value, int | float)
    ]
    given = variable
    for gap in gaps:
        if isinstance(gap, float) and np.isnan(gap):
            continue  # it is NaN already
        variable = variable.astype(np.float64).where(given != gap)
    return variable


def _in_floats(attrs: dict[Hashable, Any]) -> dict[Hashable, Any]:
    """Return attributes whose missing value is the floating-point number of the one given."""
    gap = attrs.pop("missing_value", None)
    gap = attrs.pop("_FillValue", gap)
    if isinstance(gap, int | float | np.number):
        attrs["_FillValue"] = float(gap)
    return attrs


def sample(
    variable: xr.Variable, dim: Hashable, positions: np.ndarray, *, cyclic: bool = False
) -> xr.Variable | None:
    """Return a variable between its own values along ``dim``; None if it has none there.

    ``positions`` count values, and are whole or half. ``cyclic``: where neighbours lie half a
    turn apart, values go round at 360.
    """
    size = variable.sizes[dim]
    if _inside(positions, size).all():
        return variable.isel({dim: positions.astype(np.intp)})
    if size == 1 or variable.dtype.kind in "USbV":
        return None
    values = variable.astype(np.float64) if is_number(variable) else _finer(variable)
    cyclic = cyclic and is_number(variable)
    try:
        low = _continued(values, dim, np.floor(positions), cyclic=cyclic)
        high = _continued(values, dim, np.ceil(positions), cyclic=cyclic)
        between = low + _apart(high - low, cyclic=cyclic) / 2
    except TypeError:  # objects that are no dates
        return None
    if cyclic:
        steps = values.isel({dim: slice(1, None)}) - values.isel({dim: slice(None, -1)})
        between = _turned(between, values, (abs(steps) > HALF_TURN).any())
    return between.astype(variable.dtype) if variable.dtype.kind == "f" else between


def _inside(positions: np.ndarray, size: int) -> np.ndarray:
    """Say which positions lie on one of ``size`` values."""
    on: np.ndarray = (positions == np.floor(positions)) & (positions >= 0) & (positions < size)
    return on


def _finer(variable: xr.Variable) -> xr.Variable:
    """Return dates and times in units that hold the half of one."""
    if variable.dtype.kind in "mM" and np.datetime_data(variable.dtype)[0] == "s":
        return variable.astype(f"{variable.dtype.kind}8[ms]")
    return variable


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
    scale, offset = stored_as(variable.attrs)
    step = step / scale  # values stay as they are stored
    on = positions[inside].astype(np.intp)
    made: np.ndarray = (line.first - offset) / scale + step * positions
    if values.dtype.kind in "iu" and step.is_integer() and (positions % 1 == 0).all():
        made = int(values[0]) + int(step) * positions.astype(np.int64)
    made[inside] = values[on]
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
            inside = xr.Variable(dim, beyond == 0)
            made = made.where(inside, made + step * xr.Variable(dim, beyond.astype(np.int64)))
    return made.transpose(*values.dims)


def _apart(difference: xr.Variable, *, cyclic: bool) -> xr.Variable:
    """Return the shorter way from one value to the other."""
    return difference - 360.0 * np.rint(difference / 360.0) if cyclic else difference


def _turned(values: xr.Variable, given: xr.Variable, turns: Any) -> xr.Variable:
    """Return angles in the range of the given ones: from 0, from -180 or from the least of them.

    As they are, if those given do not turn.
    """
    least, most = given.min(), given.max()
    half = (least >= -HALF_TURN) & (most <= HALF_TURN)
    begin = least.where((least < 0) | (most > 360.0), 0.0).where(~half | (least >= 0), -HALF_TURN)
    turned = values - 360.0 * (turns & (values > begin + 360.0))
    return turned + 360.0 * (turns & (turned < begin))
