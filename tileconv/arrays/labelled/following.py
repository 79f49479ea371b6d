"""How coordinates, bounds and grid mappings follow the pixels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from tileconv.arrays.labelled.bands import Bands, label_bands, select_bands
from tileconv.arrays.labelled.bounds import at_cells, bounds_in
from tileconv.arrays.labelled.coordinates import at_centres, is_position, line_of, picks
from tileconv.arrays.labelled.grid import (
    Grid,
    find_transform,
    follow_grid,
    follow_step,
    maps_grid,
)
from tileconv.geometry import Axis, Geometry

Dims = tuple[Hashable, Hashable]
"""Rows and columns."""

SPATIAL: tuple[tuple[str, str], ...] = (
    ("y", "x"),
    ("latitude", "longitude"),
    ("lat", "lon"),
    ("northing", "easting"),
    ("row", "col"),
    ("yc", "xc"),
    ("rlat", "rlon"),
    ("grid_latitude", "grid_longitude"),
    ("projection_y_coordinate", "projection_x_coordinate"),
    ("south_north", "west_east"),
    ("nlat", "nlon"),
)
"""Pairs of dimensions that are taken for (y, x) if no others are given, in small or capitals."""


@dataclass
class Notes:
    """What has to be told of an output, each thing once."""

    notes: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    """Attributes that were dropped."""
    variables: list[str] = field(default_factory=list)
    """Coordinates and variables without a value at the fields' centres."""
    of_bands: list[str] = field(default_factory=list)
    """Those of bands that were summed."""
    taken: list[str] = field(default_factory=list)
    """Those whose name is a dimension of the output."""

    def texts(self) -> list[str]:
        """Return a sentence for each kind of thing."""
        kinds = (
            (self.variables, "{} cannot be recomputed at fields' centres: dropped"),
            (self.of_bands, "{} tells of single bands, and outputs are sums of several: dropped"),
            (self.taken, "{} is a dimension of the output: the coordinate is dropped"),
            (self.attributes, "attributes that say what is not true of the output are dropped: {}"),
        )
        told = [text.format(", ".join(dict.fromkeys(names))) for names, text in kinds if names]
        return [*dict.fromkeys(self.notes), *told]


@dataclass(frozen=True)
class Place:
    """A pair of rows and columns, its grid, and the steps that attributes say."""

    dims: Dims
    """As transforms have them: y, x."""
    grid: Grid
    steps: Mapping[Hashable, float | None]

    @classmethod
    def of(
        cls,
        variables: Mapping[Hashable, xr.Variable],
        attrs: Iterable[Mapping[Hashable, Any]],
        dims: Dims,
        geometry: Geometry,
    ) -> Place:
        """Look at all variables of an object, and at attributes of those that lie there."""
        if _is_turned(dims, variables):  # transforms and control points still mean x by columns
            dims, geometry = (dims[1], dims[0]), Geometry(geometry.x, geometry.y)
        grid = Grid.of(variables, dims, geometry)
        mappings = [variable.attrs for variable in variables.values() if maps_grid(variable)]
        stated = find_transform(*mappings, *attrs)
        steps: dict[Hashable, float | None] = {}
        for i, dim in enumerate(dims):
            said = variables[dim].attrs.get("resolution") if dim in variables else None
            if isinstance(said, int | float | np.integer | np.floating):
                steps[dim] = float(said)
            else:
                steps[dim] = grid.step(i, stated)
        return cls(dims, grid, steps)

    @property
    def axes(self) -> dict[Hashable, Axis]:
        """Both axes, by their dimensions."""
        geometry = self.grid.geometry
        return dict(zip(self.dims, (geometry.y, geometry.x), strict=True))


def _is_turned(dims: Dims, variables: Mapping[Hashable, xr.Variable]) -> bool:
    """Say whether rows lie along what is x, and columns along what is y."""
    names = (str(dims[1]).lower(), str(dims[0]).lower())
    said = [str(variables[dim].attrs.get("axis")).upper() for dim in dims if dim in variables]
    return names in SPATIAL or said == ["X", "Y"]


@dataclass
class Following:
    """How coordinates, bounds and grid mappings follow the pixels."""

    places: Mapping[Dims, Place]
    bands: Sequence[Bands]
    variables: Mapping[Hashable, xr.Variable]
    """All of the object's."""
    mapped: Mapping[Hashable, set[Dims]]
    """The rows and columns whose variables name a grid mapping."""
    notes: Notes
    axes: Mapping[Hashable, Axis] = field(default_factory=dict)
    """Of single dimensions, which other nodes of a tree convolve."""
    chunks: tuple[int, int] | None = None
    """Outputs in each chunk."""

    def __post_init__(self) -> None:
        places = self.places.values()
        axes = dict(self.axes) | {dim: axis for p in places for dim, axis in p.axes.items()}
        self._axes = {dim: axis for dim, axis in axes.items() if not axis.is_unchanged}
        self._numbered = {dim for p in places if p.grid.is_unplaced for dim in p.dims}
        self._steps = {dim: step for place in places for dim, step in place.steps.items()}
        self._bounds = bounds_in(self.variables)

    def coordinates(self, coords: Any, dims: Iterable[Hashable]) -> Any:
        """Return the output's coordinates; those that stay, or are picked, keep their indexes."""
        slices = {dim: picks(axis) for dim, axis in self._axes.items()}
        picked = {dim: place for dim, place in slices.items() if place is not None}
        data = coords.to_dataset().copy(deep=False)  # attributes below are the output's
        data = data.isel({dim: place for dim, place in picked.items() if dim in data.dims})
        moved, gone = {}, []
        for name, coord in coords.items():
            made = self.variable(name, coord.variable, is_coordinate=True)
            moving = [dim for dim in coord.dims if dim in self._axes]
            if (
                made is not None
                and name in dims
                and name not in coord.dims
                and (not coord.ndim or name not in coords.dims)
            ):
                self.notes.taken.append(str(name))
                made = None
            elif made is not None and set(moving) - set(picked) and _has_levels(coords, name):
                self.notes.variables.append(str(name))
                made = None
            if made is None:
                gone.append(name)
            elif made is not coord.variable and (
                name in self._bounds
                or name in self._numbered
                or made.dtype != coord.dtype
                or self._is_new(coord, picked)
            ):
                moved[name] = made
            elif made is not coord.variable:
                data[name].attrs, data[name].encoding = made.attrs, made.encoding
        kept = data.drop_vars([*moved, *gone])
        flat = {
            name: made for name, made in moved.items() if name not in made.dims or made.ndim < 2
        }
        kept = kept.assign_coords(flat)
        odd = {name: made for name, made in moved.items() if name not in flat}
        return kept.assign_coords(xr.Coordinates(odd, indexes={})).coords if odd else kept.coords

    def _is_new(self, coord: xr.DataArray, picked: Mapping[Hashable, slice]) -> bool:
        """Say whether slices of a coordinate are not all that becomes of it."""
        changed = {bands.dim for bands in self.bands if not bands.alike}
        return any(d in changed or (d in self._axes and d not in picked) for d in coord.dims)

    def variable(
        self, name: Hashable, given: xr.Variable, *, is_coordinate: bool
    ) -> xr.Variable | None:
        """Return what is true of the output; ``given`` itself if it stays; None if nothing is.

        What is dropped is noted.
        """
        moving = [dim for dim in given.dims if dim in self._axes]
        made: xr.Variable | None = given
        if moving:
            made = self._moved(name, given, moving, is_coordinate=is_coordinate)
            if made is None:
                self.notes.variables.append(str(name))
        for bands in self.bands:
            if made is not None and not bands.alike and bands.dim in made.dims:
                is_label = name == bands.dim
                made = label_bands(name, made, bands) if is_label else select_bands(made, bands)
                if made is None:
                    self.notes.of_bands.append(str(name))
                break
        if made is not None and not moving and maps_grid(given):
            made = self._grid_mapping(name, made)
        if made is not None and made is not given:
            self._bounds_of(name, made)
        return made

    def _moved(
        self, name: Hashable, given: xr.Variable, moving: list[Hashable], *, is_coordinate: bool
    ) -> xr.Variable | None:
        if name in self._bounds:
            if len(moving) > 1:
                return None
            owner = self._bounds[name]
            said = {**self.variables[owner].attrs, **given.attrs}  # as CF has it
            own = xr.Variable(given.dims, given.data, said)
            made = at_cells(owner, own, moving[0], self._axes[moving[0]])
            if made is not None:
                made.attrs = dict(given.attrs)
            return made
        if name in self._numbered and given.dims == (name,):  # pixels, which have no place
            numbers = given.values[0] + np.arange(self._axes[name].out_size)
            return xr.Variable((name,), numbers, given.attrs)
        lies = is_coordinate and given.ndim == 1
        if not lies and not is_position(name, given):
            return None
        made = at_centres(name, given, self._axes, self._steps.get(moving[0]))
        if made is not None:
            line = line_of(name, given) if given.ndim == 1 else None
            follow_step(made.attrs, self._axes[moving[0]], line, self.notes.attributes, name)
        if made is not None and self.chunks is not None and made.chunks is not None:
            sizes = {d: n for place in self.places for d, n in zip(place, self.chunks, strict=True)}
            made = made.chunk({dim: sizes[dim] for dim in moving if dim in sizes})
        return made

    def _grid_mapping(self, name: Hashable, given: xr.Variable) -> xr.Variable:
        """Return a variable with attributes that are true of the output."""
        pairs = self.mapped.get(name) or set(self.places)
        grid = self.places[next(iter(pairs))].grid if len(pairs) == 1 else None
        attrs = dict(given.attrs)
        follow_grid(attrs, grid, self.notes.attributes)
        if _same(attrs, given.attrs):
            return given
        made = given.copy(deep=False)
        made.attrs = attrs
        return made

    def _bounds_of(self, name: Hashable, made: xr.Variable) -> None:
        """Forget the name of bounds that do not follow."""
        said = made.attrs.get("bounds", made.encoding.get("bounds"))
        if not isinstance(said, str) or not made.ndim:
            return
        bounds = self.variables.get(said)
        if bounds is None or self.variable(said, bounds, is_coordinate=True) is None:
            made.attrs.pop("bounds", None)
            made.encoding.pop("bounds", None)


def _has_levels(coords: Any, name: Hashable) -> bool:
    """Say whether a coordinate is one of several that make an index."""
    index = coords.xindexes.get(name)
    return index is not None and sum(other is index for other in coords.xindexes.values()) > 1


def _same(one: Mapping[Hashable, Any], other: Mapping[Hashable, Any]) -> bool:
    """Say whether attributes are the very same objects."""
    return one.keys() == other.keys() and all(one[key] is other[key] for key in one)
