"""Transforms, control points and sizes: what attributes say of the grid, moved with it.

Coordinates win over attributes: xarray's own slicing moves coordinates and leaves attributes
as they were. What an attribute says is believed where there are no coordinates, or where it
says the same.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from tileconv.arrays.labelled.coordinates import REGULAR, Line, line_of
from tileconv.geometry import Axis, Geometry, Transform
from tileconv.propagation import rpc_offsets, says_extent

IDENTITY: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

PIXEL_NUMBERS = ((0.0, 1.0), (0.5, 1.0))
"""(first, step) of coordinates that number pixels, as rioxarray's where GDAL knows no transform."""

GDAL_ORDER = ("GeoTransform", "geotransform")
"""Attributes that hold (c, a, b, f, d, e)."""
TRANSFORMS = ("transform", "affine", "Affine", "proj:transform", "spatial:transform")
"""Attributes that hold (a, b, c, d, e, f), as rasterio and STAC have them."""
RESOLUTIONS = ("res", "resolution", "resolution_at_standard_parallel")
"""Attributes that hold the size of a pixel, one number or (x, y)."""
MOST_SLICED = 32
"""Longest step of a slice that is told from other units."""
SIZES = ("proj:shape", "spatial:shape", "shape")
UNTRUE_OBJECTS = {"area", "spec", "geobox", "extent"}
"""Of satpy, stackstac, odc-geo; the words have other meanings as texts and numbers."""
OF_COORDINATES = ("resolution", "spacing", "step", "point_spacing", "grid_spacing")
"""Attributes of a coordinate that hold its step."""
EXTENTS_OF_COORDINATES = ("actual_range", "valid_range", "valid_min", "valid_max")


def maps_grid(variable: xr.Variable) -> bool:
    """Say whether a variable is a grid mapping, which stacks may give a dimension."""
    return not variable.ndim or bool({"GeoTransform", "gcps"} & set(variable.attrs))


@dataclass(frozen=True)
class Grid:
    """Where the input's pixels lie, and how the output's follow."""

    geometry: Geometry
    y: Line | None = None
    x: Line | None = None
    """None: there is no coordinate, it numbers pixels, or its steps differ."""
    uneven: tuple[str, ...] = ()
    """Coordinates without equal steps: no transform says where their pixels lie."""
    has_gcps: bool = False
    """Ground control points say where they lie."""
    is_unplaced: bool = False
    """A grid mapping holds the identity, which is no transform: rioxarray found none."""

    @classmethod
    def of(
        cls,
        coords: Mapping[Hashable, xr.Variable],
        dims: tuple[Hashable, Hashable],
        geometry: Geometry,
    ) -> Grid:
        """Look at the coordinates of rows and columns."""
        lines: list[Line | None] = [None, None]
        uneven, numbered = [], True
        for i, dim in enumerate(dims):
            if dim in coords and coords[dim].dims == (dim,):
                line = line_of(dim, coords[dim])
                if line is None:
                    uneven.append(str(dim))
                    numbered = False
                elif (line.first, line.step) not in PIXEL_NUMBERS:
                    lines[i] = line
                    numbered = False
        mappings = [coord.attrs for coord in coords.values() if maps_grid(coord)]
        stated = (parse_transform(said.get("GeoTransform"), gdal_order=True) for said in mappings)
        return cls(
            geometry,
            lines[0],
            lines[1],
            tuple(uneven),
            any("gcps" in said for said in mappings),
            numbered and IDENTITY in stated,
        )

    def step(self, axis: int, stated: Transform | None) -> float | None:
        """Return the step along y (0) or x (1) that the attributes say."""
        if stated is None or stated[1] or stated[3]:
            return None
        return stated[4] if axis == 0 else stated[0]

    def true(self, stated: Transform) -> Transform | None:
        """Return the input's transform, which is as ``stated`` unless coordinates know better."""
        if self.uneven:
            return None
        a, b, c, d, e, f = stated
        if (b or d) and self.x is not None and self.y is not None:
            if self.x.step is None or self.y.step is None:
                return None
            b = d = 0.0
            a = e = 0.0
        if not b and not d:
            a, c = _true_axis(a, c, self.x, self.geometry.x.size)
            e, f = _true_axis(e, f, self.y, self.geometry.y.size)
        return a, b, c, d, e, f

    def moved(self, stated: Transform) -> Transform | None:
        """Return the output's transform where the input's attributes state one."""
        true = self.true(stated)
        return None if true is None else self.geometry.out_transform(true)


def _true_axis(step: float, edge: float, line: Line | None, size: int) -> tuple[float, float]:
    """Return (step, edge) of an axis: as stated, if the coordinate's line is this one."""
    if line is None:
        return step, edge
    real = step if line.step is None else line.step
    first, last = edge + step / 2, edge + step * (size - 0.5)
    slack = REGULAR * abs(real) + line.slack
    if abs(first - line.first) <= slack and abs(last - line.first - real * (size - 1)) <= slack:
        return step, edge
    return real, line.first - real / 2


def find_transform(*attrs: Mapping[Hashable, Any]) -> Transform | None:
    """Return the first transform that any of the attributes state."""
    for said in attrs:
        for name in (*GDAL_ORDER, *TRANSFORMS):
            stated = parse_transform(said.get(name), gdal_order=name in GDAL_ORDER)
            if stated is not None:
                return stated
    return None


def parse_transform(value: Any, *, gdal_order: bool) -> Transform | None:
    """Return (a, b, c, d, e, f) of what an attribute holds, or None if it is no transform."""
    numbers = _numbers(value)
    if numbers is None or len(numbers) not in (6, 9) or not np.isfinite(numbers).all():
        return None
    a, b, c, d, e, f = numbers[:6]
    made = (b, c, a, e, f, d) if gdal_order else (a, b, c, d, e, f)
    return made if made[0] * made[4] != made[1] * made[3] else None


def _numbers(value: Any) -> list[float] | None:
    """Return the numbers of a sequence, an array, an Affine or a text, or of one number."""
    if isinstance(value, str):
        value = value.strip("[]() ").replace(",", " ").split()
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        value = [value]
    elif isinstance(value, set | dict):
        return None
    try:
        return [float(number) for number in np.ravel(list(value))]
    except (TypeError, ValueError):
        return None


def _like(value: Any, transform: Transform, *, gdal_order: bool) -> Any:
    """Return a transform as ``value`` holds it: a text, a tuple, an Affine."""
    a, b, c, d, e, f = transform
    numbers = [c, a, b, f, d, e] if gdal_order else [a, b, c, d, e, f]
    if isinstance(value, str):
        made = (", " if "," in value else " ").join(map(repr, numbers))
        begin, end = value.strip()[0], value.strip()[-1]
        return f"{begin}{made}{end}" if begin in "[(" and end in ")]" else made
    if hasattr(value, "to_gdal"):
        return type(value)(*numbers)
    shape = np.shape(value)
    last = [0.0, 0.0, 1.0] if np.size(value) > 6 else []
    whole = np.asarray(numbers + last).reshape(shape)
    if isinstance(value, np.ndarray):
        return whole
    return whole.tolist() if isinstance(value, list) else tuple(whole.tolist())


def follow_grid(attrs: dict[Hashable, Any], grid: Grid | None, dropped: list[str]) -> None:
    """Map what attributes say of the grid, in place; what has to go joins ``dropped``.

    ``grid`` is None where several grids share the attributes.
    """
    unplaced = grid is not None and grid.is_unplaced
    for name in (*GDAL_ORDER, *TRANSFORMS):
        if name in attrs:
            gdal = name in GDAL_ORDER
            given = parse_transform(attrs[name], gdal_order=gdal)
            if (given == IDENTITY and unplaced) or _is_word(attrs[name], name):
                continue
            moved = None if given is None or grid is None else grid.moved(given)
            _replace(attrs, name, moved and _like(attrs[name], moved, gdal_order=gdal), dropped)
    for name in RESOLUTIONS:
        if name in attrs and not unplaced and not _is_word(attrs[name], name):
            _replace(attrs, name, grid and _resolution(attrs[name], name, grid), dropped)
    if "gcps" in attrs:
        _replace(attrs, "gcps", grid and _gcps(attrs["gcps"], grid.geometry), dropped)
    _follow_rpcs(attrs, grid, dropped)
    _follow_sizes(attrs, grid, dropped)
    if grid is None or not grid.geometry.is_unchanged:
        for said in [key for key in attrs if _is_untrue(key, attrs[key])]:
            _replace(attrs, said, None, dropped)


def _is_word(value: Any, name: str) -> bool:
    """Say whether a text says nothing of the grid: ``transform: "log"``."""
    return isinstance(value, str) and name != "GeoTransform" and not any(map(str.isdigit, value))


def follow_step(
    attrs: dict[Hashable, Any], axis: Axis, line: Line | None, dropped: list[str], name: Hashable
) -> None:
    """Map what the attributes of a coordinate say of its step and its ends, in place."""
    for key in OF_COORDINATES:
        if key in attrs:
            numbers = None if isinstance(attrs[key], str) else _numbers(attrs[key])
            moved = None
            if numbers is not None and len(numbers) == 1:
                step = _true_size(numbers[0], line, same_units=False)
                moved = _as_one(attrs[key], step * axis.stride)
            _replace(attrs, key, moved, dropped, f" of {name}")
    for key in EXTENTS_OF_COORDINATES:
        if key in attrs:
            _replace(attrs, key, None, dropped, f" of {name}")


def _as_one(value: Any, number: float) -> Any:
    """Return a number as ``value`` holds one: as it is, or alone in a sequence."""
    if isinstance(value, list | tuple):
        return type(value)([_as_one(value[0], number)])
    if isinstance(value, np.ndarray):
        return np.full(value.shape, number)
    return int(number) if isinstance(value, int) and number.is_integer() else number


def _replace(
    attrs: dict[Hashable, Any], name: Hashable, value: Any, dropped: list[str], of: str = ""
) -> None:
    """Put a value in the place of an attribute, or drop it."""
    if value is None:
        del attrs[name]
        dropped.append(f"{name}{of}")
    else:
        attrs[name] = value


def _resolution(value: Any, name: str, grid: Grid) -> Any:
    """Return the size of an output's pixel as ``value`` holds it."""
    numbers = None if isinstance(value, str) else _numbers(value)
    if numbers is None or len(numbers) not in (1, 2) or grid.uneven:
        return None
    same = name == "res"  # rasterio's, in the units of the transform
    sizes = (
        _true_size(numbers[0], grid.x, same_units=same),
        _true_size(numbers[-1], grid.y, same_units=same),
    )
    made = [sizes[0] * grid.geometry.x.stride, sizes[1] * grid.geometry.y.stride]
    if len(numbers) == 1 and made[0] == made[1]:
        return _as_one(value, made[0])
    if isinstance(value, np.ndarray):
        return np.asarray(made)
    return made if isinstance(value, list) else tuple(made)


def _true_size(size: float, line: Line | None, *, same_units: bool) -> float:
    """Return the input's step, of which a slice left ``size`` behind if it has a step itself.

    In other units (metres beside degrees) the coordinate says nothing but how many times as long
    its step has become.
    """
    if line is None or line.step is None or not size:
        return size
    if abs(abs(line.step) - abs(size)) <= REGULAR * abs(line.step) + line.slack:
        return size
    times = abs(line.step / size)
    sliced = 2 <= round(times) <= MOST_SLICED and abs(times - round(times)) <= REGULAR * times
    return float(np.copysign(line.step, size)) if same_units or sliced else size


def _gcps(value: Any, geometry: Geometry) -> Any:
    """Return ground control points, in GeoJSON as rioxarray writes them, moved."""
    try:
        points = json.loads(value) if isinstance(value, str) else value
        features = [
            {
                **feature,
                "properties": {
                    **feature["properties"],
                    "row": geometry.y.out_position(float(feature["properties"]["row"])),
                    "col": geometry.x.out_position(float(feature["properties"]["col"])),
                },
            }
            for feature in points["features"]
        ]
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    made = {**points, "features": features}
    return json.dumps(made) if isinstance(value, str) else made


RPC_WORDS = ("line_off", "line_scale", "samp_off", "samp_scale")


def _follow_rpcs(attrs: dict[Hashable, Any], grid: Grid | None, dropped: list[str]) -> None:
    """Map RPCs: GDAL's words among the attributes, or all of them in one."""
    words = {word: word.upper() for word in RPC_WORDS}
    if any(word in attrs for word in words.values()):
        moved = grid and _rpcs({key: attrs.get(word) for key, word in words.items()}, grid)
        for key, word in words.items():
            if word in attrs:
                _replace(attrs, word, moved and _as_given(attrs[word], moved[key]), dropped)
    for name in ("rpcs", "rpc", "RPC"):
        if name not in attrs:
            continue
        value, made = attrs[name], None
        said = value.to_dict() if hasattr(value, "to_dict") else value
        if grid is not None and isinstance(said, Mapping):
            keys = {str(key).lower(): key for key in said}
            moved = _rpcs({key: said.get(keys.get(key, key)) for key in RPC_WORDS}, grid)
            if moved is not None:
                new = {keys[key]: _as_given(said[keys[key]], moved[key]) for key in RPC_WORDS}
                made = {**said, **new}
                made = made if isinstance(value, Mapping) else type(value)(**made)
        _replace(attrs, name, made, dropped)


def _rpcs(said: Mapping[str, Any], grid: Grid) -> dict[str, float] | None:
    try:
        return rpc_offsets(said, grid.geometry)
    except (TypeError, ValueError):
        return None


def _as_given(value: Any, number: float) -> Any:
    return repr(number) if isinstance(value, str) else number


def _follow_sizes(attrs: dict[Hashable, Any], grid: Grid | None, dropped: list[str]) -> None:
    """Replace the input's height and width by the output's, where they are these."""
    if grid is None:
        return
    old, new = grid.geometry.shape, grid.geometry.out_shape
    if tuple(_numbers(attrs.get(name)) for name in ("height", "width")) == ([old[0]], [old[1]]):
        attrs["height"], attrs["width"] = new
    for name in SIZES:
        if name in attrs and not isinstance(attrs[name], str):
            numbers = _numbers(attrs[name])
            if numbers is not None and tuple(numbers[-2:]) == old:
                whole = [int(n) for n in numbers[:-2]] + list(new)
                attrs[name] = whole if isinstance(attrs[name], list) else tuple(whole)
            elif ":" in name:
                _replace(attrs, name, None, dropped)


def _is_untrue(name: Hashable, value: Any) -> bool:
    if name in UNTRUE_OBJECTS:
        return not isinstance(value, str | int | float | None)
    if name == "bounds":  # of the raster; a text is the name of a coordinate's
        return not isinstance(value, str)
    return says_extent(str(name))
