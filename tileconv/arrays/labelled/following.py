"""How coordinates, bounds and grid mappings follow the pixels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from tileconv.arrays.labelled.bands import Bands, label_bands, select_bands
from tileconv.arrays.labelled.bounds import at_cells, bounds_in
from tileconv.arrays.labelled.coordinates import at_centres, is_position, is_unchanged
from tileconv.arrays.labelled.grid import Grid, find_transform, follow_grid, follow_step
from tileconv.geometry import Axis, Geometry

Dims = tuple[Hashable, Hashable]
"""Rows and columns."""


@dataclass
class Notes:
    """What has to be told of an output, each thing once."""

    notes: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    """Attributes that were dropped."""
    variables: list[str] = field(default_factory=list)
    """Coordinates and variables that were dropped, because centres have none,"""
    of_bands: list[str] = field(default_factory=list)
    """or because outputs are sums of several bands."""

    def texts(self) -> list[str]:
        """Return a sentence for each kind of thing."""
        said = list(dict.fromkeys(self.notes))
        if self.variables:
            names = ", ".join(dict.fromkeys(self.variables))
            said.append(f"{names} cannot be recomputed at fields' centres: dropped")
        if self.of_bands:
            names = ", ".join(dict.fromkeys(self.of_bands))
            said.append(f"{names} tells of single bands, and outputs are sums of several: dropped")
        if self.attributes:
            names = ", ".join(dict.fromkeys(self.attributes))
            said.append(f"attributes that say what is not true of the output are dropped: {names}")
        return said


@dataclass(frozen=True)
class Place:
    """A pair of rows and columns, its grid, and the steps that attributes say."""

    dims: Dims
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
        grid = Grid.of(variables, dims, geometry)
        scalars = [variable.attrs for variable in variables.values() if not variable.ndim]
        stated = find_transform(*scalars, *attrs)
        steps: dict[Hashable, float | None] = {}
        for i, dim in enumerate(dims):
            said = variables[dim].attrs.get("resolution") if dim in variables else None
            steps[dim] = float(said) if isinstance(said, int | float) else grid.step(i, stated)
        return cls(dims, grid, steps)

    @property
    def axes(self) -> dict[Hashable, Axis]:
        """Both axes, by their dimensions."""
        geometry = self.grid.geometry
        return dict(zip(self.dims, (geometry.y, geometry.x), strict=True))


@dataclass
class Following:
    """How coordinates, bounds and grid mappings follow the pixels."""

    places: Mapping[Dims, Place]
    bands: Sequence[Bands]
    variables: Mapping[Hashable, xr.Variable]
    """All of the object's."""
    mapped: Mapping[Hashable, set[Dims]]
    notes: Notes

    def __post_init__(self) -> None:
        self._axes = {d: axis for place in self.places.values() for d, axis in place.axes.items()}
        self._steps = {d: s for place in self.places.values() for d, s in place.steps.items()}
        self._bounds = bounds_in(self.variables)

    def coordinates(self, coords: Any, dims: Iterable[Hashable]) -> Any:
        """Return the output's coordinates; those that stay keep their indexes."""
        moved, gone = {}, []
        for name, coord in coords.items():
            made = self.variable(name, coord.variable, is_coordinate=True)
            if made is not None and name in dims and not coord.ndim:
                self.notes.of_bands.append(str(name))  # was one of them, which are many now
                made = None
            if made is None:
                gone.append(name)
            elif made is not coord.variable:
                moved[name] = made
        kept = coords.to_dataset().drop_vars([*moved, *gone])
        return kept.assign_coords(moved).coords

    def variable(
        self, name: Hashable, given: xr.Variable, *, is_coordinate: bool
    ) -> xr.Variable | None:
        """Return what is true of the output; ``given`` itself if it stays; None if nothing is.

        What is dropped is noted.
        """
        moving = [dim for dim in given.dims if not is_unchanged(self._axes.get(dim, _STILL))]
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
        if made is not None and not given.ndim:
            made = self._grid_mapping(name, given)
        if made is not None and made is not given:
            self._bounds_of(name, made, moving)
        return made

    def _moved(
        self, name: Hashable, given: xr.Variable, moving: list[Hashable], *, is_coordinate: bool
    ) -> xr.Variable | None:
        if name in self._bounds:
            if len(moving) > 1:
                return None
            return at_cells(self._bounds[name], given, moving[0], self._axes[moving[0]])
        lies = is_coordinate and given.ndim == 1
        if not lies and not is_position(name, given):
            return None
        made = at_centres(name, given, self._axes, self._steps.get(moving[0]))
        if made is not None and given.ndim == 1:
            follow_step(made.attrs, self._axes[moving[0]], self.notes.attributes, name)
        return made

    def _grid_mapping(self, name: Hashable, given: xr.Variable) -> xr.Variable:
        """Return a variable without dimensions, with attributes that are true of the output."""
        pairs = self.mapped.get(name) or set(self.places)
        grid = self.places[next(iter(pairs))].grid if len(pairs) == 1 else None
        attrs = dict(given.attrs)
        follow_grid(attrs, grid, self.notes.attributes)
        if _same(attrs, given.attrs):
            return given
        made = given.copy(deep=False)
        made.attrs = attrs
        return made

    def _bounds_of(self, name: Hashable, made: xr.Variable, moving: list[Hashable]) -> None:
        """Forget the name of bounds that do not follow."""
        said = made.attrs.get("bounds", made.encoding.get("bounds"))
        if said is None or not moving:
            return
        bounds = self.variables.get(said)
        if bounds is None or self.variable(said, bounds, is_coordinate=True) is None:
            made.attrs.pop("bounds", None)
            made.encoding.pop("bounds", None)


_STILL = Axis(size=1, kernel=1)
"""An axis that is not convolved."""


def _same(one: Mapping[Hashable, Any], other: Mapping[Hashable, Any]) -> bool:
    """Say whether attributes are the very same objects."""
    return one.keys() == other.keys() and all(one[key] is other[key] for key in one)
