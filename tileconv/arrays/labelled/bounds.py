"""Bounds: the edges of the output's cells, from those of the input's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import xarray as xr

from tileconv.arrays.labelled.coordinates import centres, is_angle, sample, stored_as
from tileconv.geometry import Axis

SUFFIXES = ("_bnds", "_bounds", "_bnd")
"""Ends of names of bounds that no coordinate names."""


def bounds_in(variables: Mapping[Hashable, xr.Variable]) -> dict[Hashable, Hashable]:
    """Return the variables that are bounds, and the coordinates they are of."""
    found: dict[Hashable, Hashable] = {}
    for name, variable in variables.items():
        said = variable.attrs.get("bounds", variable.encoding.get("bounds"))
        names = [f"{name}{suffix}" for suffix in SUFFIXES] if variable.dims == (name,) else []
        for bounds in (*names, *([said] if isinstance(said, str) else [])):
            given = variables.get(bounds)
            if given is not None and given.ndim > 1 and _spans(given, variable):
                found[bounds] = name
    return found


def _spans(bounds: xr.Variable, coordinate: xr.Variable) -> bool:
    """Say whether bounds have the coordinate's dimensions, and one more for the sides."""
    own = set(coordinate.dims)
    return bool(own) and own <= set(bounds.dims[:-1]) and bounds.dims[-1] not in own


def at_cells(
    coordinate: Hashable, bounds: xr.Variable, dim: Hashable, axis: Axis
) -> xr.Variable | None:
    """Return the bounds (..., dim, 2) of the output's cells: ``stride`` pixels about centres.

    None if it cannot be said: of cells that leave gaps, or that have four corners.
    """
    scale, offset = stored_as(bounds.attrs) if is_angle(coordinate, bounds) else (1.0, 0.0)
    if (scale, offset) != (1.0, 0.0):  # what goes round is what is meant
        bounds = xr.Variable(bounds.dims, bounds.data * scale + offset, bounds.attrs)
    side = bounds.dims[-1]
    if bounds.sizes[side] != 2:
        return None
    begins, ends = (bounds.isel({side: i}).to_base_variable() for i in (0, 1))
    downwards = not _touch(begins, ends, dim)
    if downwards:
        begins, ends = ends, begins
        if not _touch(begins, ends, dim):
            return None
    edges = xr.Variable.concat([begins, ends.isel({dim: slice(-1, None)})], dim)
    middles = centres(axis) + 0.5  # counted in edges
    cyclic = is_angle(coordinate, bounds)
    made = [
        sample(edges, dim, middles + half, cyclic=cyclic)
        for half in (-axis.stride / 2, axis.stride / 2)
    ]
    if made[0] is None or made[1] is None:
        return None
    if downwards:
        made.reverse()
    joined = xr.Variable.concat(made, side).transpose(*bounds.dims)
    if (scale, offset) != (1.0, 0.0):
        joined = (joined - offset) / scale
    joined.attrs = dict(bounds.attrs)
    return joined


def _touch(begins: xr.Variable, ends: xr.Variable, dim: Hashable) -> bool:
    """Say whether each cell ends where the next one begins, by one line of them."""
    line = {other: 0 for other in begins.dims if other != dim}
    left = ends.isel({dim: slice(None, -1), **line}).values
    right = begins.isel({dim: slice(1, None), **line}).values
    if left.dtype.kind != "f":
        return bool((left == right).all())
    return np.allclose(left, right, rtol=1e-6, atol=1e-9)
