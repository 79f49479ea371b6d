"""DataArrays, Datasets and DataTrees: which variables are convolved, and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from tileconv.arrays.labelled.bands import (
    Bands,
    drop_untrue,
    follow_bands,
    follow_scales,
)
from tileconv.arrays.labelled.bounds import bounds_in
from tileconv.arrays.labelled.coordinates import is_position
from tileconv.arrays.labelled.following import Dims, Following, Notes, Place
from tileconv.arrays.labelled.grid import follow_grid
from tileconv.arrays.labelled.missing import CF, declare_missing, find_missing, holds
from tileconv.convolution import Convolution
from tileconv.errors import ConvolutionError
from tileconv.geometry import Geometry
from tileconv.propagation import POINTS_OF_AREAS, follow_tiff_tags

Compute = Callable[[Any, float | None, float | None], Any]
"""(numpy or dask array (..., H, W), nodata, what missing integers hold) -> its convolution."""
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
KEPT_ENCODING = ("grid_mapping",)
"""The rest says how the input's file holds its numbers; no computation of xarray keeps it."""


@dataclass(frozen=True)
class Labelled:
    """What is the same for every variable of a call."""

    convolution: Convolution
    compute: Compute
    dtype: np.dtype | None = None
    """Of the output, if it was asked for."""
    dims: Sequence[Hashable] | None = None
    nodata: float | None = None


def convolve_labelled(data: Any, work: Labelled) -> tuple[Any, list[str]]:
    """Convolve a DataArray, Dataset or DataTree; return it and what has to be told.

    Whatever is backed by dask stays lazy.
    """
    notes = Notes()
    if isinstance(data, xr.DataArray):
        return _dataarray(data, work, notes), notes.texts()
    if isinstance(data, xr.Dataset):
        pairs = spatial_pairs(data, work.dims)
        return _dataset(data, pairs, work, notes), notes.texts()
    if isinstance(data, xr.DataTree):
        return _datatree(data, work, notes), notes.texts()
    hint = "; give xarray.DataArray(variable)" if isinstance(data, xr.Variable) else ""
    raise ConvolutionError(
        f"cannot convolve xarray's {type(data).__name__}: give a DataArray, a Dataset or a "
        f"DataTree{hint}"
    )


def spatial_pairs(
    data: xr.DataArray | xr.Dataset, dims: Sequence[Hashable] | None
) -> tuple[Dims, ...]:
    """Return the pairs of dimensions that are rows and columns: the given one, or those known."""
    if dims is not None:
        if len(dims) != 2 or any(dim not in data.dims for dim in dims) or dims[0] == dims[1]:
            raise ConvolutionError(
                f"dims names rows and columns among {tuple(data.dims)}; got {tuple(dims)}"
            )
        return ((dims[0], dims[1]),)
    lower = {str(dim).lower(): dim for dim in data.dims}
    pairs = tuple((lower[y], lower[x]) for y, x in SPATIAL if y in lower and x in lower)
    pairs = pairs or _pairs_by_axis(data)
    if not pairs:
        raise ConvolutionError(
            f"none of the dimensions {tuple(data.dims)} are known as rows and columns; "
            "name them, like dims=('line', 'sample')"
        )
    return pairs


def _pairs_by_axis(data: xr.DataArray | xr.Dataset) -> tuple[Dims, ...]:
    """Return the dimensions whose coordinates say that they are CF's axes Y and X."""
    found: dict[str, list[Hashable]] = {"Y": [], "X": []}
    for dim in data.dims:
        if dim in data.coords:
            found.get(str(data.coords[dim].attrs.get("axis")).upper(), []).append(dim)
    y, x = found.values()
    return ((y[0], x[0]),) if len(y) == len(x) == 1 else ()


def _dataarray(array: xr.DataArray, work: Labelled, notes: Notes) -> xr.DataArray:
    dims = spatial_pairs(array, work.dims)[0]
    coords = {name: coord.variable for name, coord in array.coords.items()}
    place = Place.of(coords, [array.attrs], dims, _geometry(array, dims, work))
    bands = _bands(array, dims, work)
    made = _convolved(array, dims, place, bands, work.nodata, work, notes)
    following = Following({dims: place}, [bands], coords, {}, notes)
    moved = following.coordinates(array.coords, made.dims)
    result = xr.DataArray(made, coords=moved, name=array.name)
    result.encoding = dict(made.encoding)
    return result


def _dataset(data: xr.Dataset, pairs: tuple[Dims, ...], work: Labelled, notes: Notes) -> xr.Dataset:
    """Convolve every variable that has rows and columns; what lies along one of them follows."""
    variables = dict(data.variables)
    helpers = _helpers(variables)
    spatial = {
        name: pair
        for name, variable in data.data_vars.items()
        for pair in pairs
        if name not in helpers and set(pair) <= set(variable.dims)
    }
    places = {}
    for pair in pairs:
        said = [data[name].attrs for name, own in spatial.items() if own == pair]
        places[pair] = Place.of(variables, [*said, data.attrs], pair, _geometry(data, pair, work))
    bands = {name: _bands(data[name], pair, work) for name, pair in spatial.items()}
    _check_bands(data, bands)
    nodata = _nodata_of_each(data, spatial, work, notes)
    made: dict[Hashable, xr.Variable] = {
        name: _convolved(data[name], pair, places[pair], bands[name], nodata[name], work, notes)
        for name, pair in spatial.items()
    }
    mapped = _grid_mappings(variables, spatial)
    following = Following(places, list(bands.values()), variables, mapped, notes)
    dims = {dim for variable in made.values() for dim in variable.dims}
    coords = following.coordinates(data.coords, dims)
    for name in data.data_vars:
        if name not in made:
            kept = following.variable(name, variables[name], is_coordinate=False)
            if kept is not None:
                made[name] = kept
    attrs = dict(data.attrs)
    one = next(iter(places.values())).grid if len(places) == 1 else None
    follow_grid(attrs, one, notes.attributes)
    result = xr.Dataset(
        {name: made[name] for name in data.data_vars if name in made}, coords=coords, attrs=attrs
    )
    for name in result.data_vars:
        result[name].encoding = dict(made[name].encoding)
    return result


def _datatree(tree: xr.DataTree, work: Labelled, notes: Notes) -> xr.DataTree:
    """Convolve every node by itself; those without rows and columns stay as they are."""
    nodes: dict[str, xr.Dataset] = {}
    convolved = False
    for node in tree.subtree:
        data = node.to_dataset(inherit=True)
        path = "/" if node is tree else f"/{node.relative_to(tree)}"
        try:
            pairs = spatial_pairs(data, work.dims)
        except ConvolutionError:
            nodes[path] = data
            continue
        try:
            nodes[path] = _dataset(data, pairs, work, notes)
        except ConvolutionError as error:
            raise type(error)(f"{node.path}: {error}") from error
        convolved = True
    if not convolved:
        raise ConvolutionError(
            "no node of the tree has dimensions that are known as rows and columns; "
            "name them, like dims=('line', 'sample')"
        )
    return xr.DataTree.from_dict(nodes, name=tree.name)


def _geometry(data: xr.DataArray | xr.Dataset, dims: Dims, work: Labelled) -> Geometry:
    return work.convolution.geometry((data.sizes[dims[0]], data.sizes[dims[1]]))


def _bands(array: xr.DataArray, dims: Dims, work: Labelled) -> Bands:
    lead = [dim for dim in array.dims if dim not in dims]
    c = work.convolution
    count = array.sizes[lead[-1]] if lead else 1
    c.outputs(count)
    alike = c.weights.ndim == 2
    return Bands(lead[-1] if lead else None, count, alike, c.origins, c.missing == "skip")


def _convolved(
    array: xr.DataArray,
    dims: Dims,
    place: Place,
    bands: Bands,
    nodata: float | None,
    work: Labelled,
    notes: Notes,
) -> xr.Variable:
    """Return the output's variable, with all that is true of it."""
    array = _as_meant(array)
    missing = find_missing(array, nodata, notes.notes)
    lead = [dim for dim in array.dims if dim not in dims]
    turned = array.variable.transpose(*lead, *dims)
    wanted = work.dtype
    fill = nodata
    if nodata is None and wanted is not None and wanted.kind in "iu":
        fill = missing.fill(wanted)
    data = work.compute(missing.mark(turned.data), missing.value, fill)
    out_dims = _out_dims(lead, dims, work.convolution)
    order = [dim for dim in array.dims if dim in out_dims]
    attrs, encoding = _attributes(array, data, bands, place, fill, notes)
    made = xr.Variable(out_dims, data, attrs, encoding)
    return made.transpose(*(dim for dim in out_dims if dim not in order), *order)


def _attributes(
    array: xr.DataArray,
    data: Any,
    bands: Bands,
    place: Place,
    fill: float | None,
    notes: Notes,
) -> tuple[dict[Hashable, Any], dict[Hashable, Any]]:
    """Return attributes and encoding of the output."""
    attrs = dict(array.attrs)
    if attrs.get("dtype") == str(array.dtype):
        attrs["dtype"] = str(data.dtype)
    if "count" in attrs and attrs["count"] == bands.count:
        attrs["count"] = len(bands.outputs)
    follow_grid(attrs, place.grid, notes.attributes)
    if place.grid.has_gcps and attrs.get("AREA_OR_POINT") == "Point":
        attrs["AREA_OR_POINT"] = "Area"
        notes.notes.append(POINTS_OF_AREAS)
    follow_bands(attrs, bands, notes.attributes)
    follow_scales(attrs, bands, notes.attributes)
    follow_tiff_tags(attrs, place.grid.geometry, notes.notes)
    drop_untrue(attrs, notes.attributes)
    encoding: dict[Hashable, Any] = {
        key: array.encoding[key] for key in KEPT_ENCODING if key in array.encoding
    }
    hole = np.nan if data.dtype.kind in "fc" else fill
    declare_missing(attrs, encoding, data.dtype, hole, len(bands.outputs), notes.attributes)
    return attrs, encoding


def _as_meant(array: xr.DataArray) -> xr.DataArray:
    """Return an array whose integers are signed or not as ``_Unsigned`` says."""
    said = str(array.attrs.get("_Unsigned")).lower()
    kind = {"true": "u", "false": "i"}.get(said)
    if kind is None or array.dtype.kind not in "iu":
        return array
    dtype = np.dtype(f"{kind}{array.dtype.itemsize}")
    meant = array.copy(data=array.variable.data.astype(dtype))
    meant.attrs = {key: value for key, value in array.attrs.items() if key != "_Unsigned"}
    for key in CF:
        if key in meant.attrs and np.asarray(meant.attrs[key]).dtype.kind in "iu":
            meant.attrs[key] = np.asarray(meant.attrs[key]).astype(dtype)[()]
    return meant


def _out_dims(lead: list[Hashable], dims: Dims, convolution: Convolution) -> tuple[Hashable, ...]:
    """Return the output's dimensions in the order in which arrays have them."""
    if convolution.weights.ndim == 2 or lead:
        return (*lead, *dims)
    return ("band" if convolution.mixes_bands else "kernel", *dims)


def _helpers(variables: Mapping[Hashable, xr.Variable]) -> set[Hashable]:
    """Return the variables that are bounds, or positions that others name as coordinates."""
    named = {
        name
        for variable in variables.values()
        for said in (variable.attrs.get("coordinates"), variable.encoding.get("coordinates"))
        for name in str(said or "").split()
    }
    positions = {
        name
        for name, variable in variables.items()
        if name in named and is_position(name, variable)
    }
    return positions | set(bounds_in(variables))


def _check_bands(data: xr.Dataset, bands: Mapping[Hashable, Bands]) -> None:
    """Refuse variables of which one has as bands what the other has as something else."""
    changed = {
        own.dim: name for name, own in bands.items() if not own.alike and own.dim is not None
    }
    for name, own in bands.items():
        for dim in data[name].dims:
            if dim in changed and dim != own.dim:
                raise ConvolutionError(
                    f"dimension {dim!r} holds the bands of {changed[dim]!r}, and something else "
                    f"of {name!r}: a bank cannot make more of it; convolve them one by one"
                )


def _nodata_of_each(
    data: xr.Dataset, names: Iterable[Hashable], work: Labelled, notes: Notes
) -> dict[Hashable, float | None]:
    """Return the argument ``nodata`` for the variables whose dtype holds it."""
    given: dict[Hashable, float | None] = dict.fromkeys(names, work.nodata)
    if work.nodata is None:
        return given
    dtypes = {name: data[name].dtype for name in given}
    lacking = [
        n for n, dtype in dtypes.items() if dtype.kind != "c" and not holds(dtype, work.nodata)
    ]
    if len(lacking) == len(given):
        return given  # which is refused
    for name in lacking:
        given[name] = None
        notes.notes.append(
            f"nodata {work.nodata} is no value of {dtypes[name]}: no pixel of {name} is missing "
            "for it"
        )
    return given


def _grid_mappings(
    variables: Mapping[Hashable, xr.Variable], spatial: Mapping[Hashable, Dims]
) -> dict[Hashable, set[Dims]]:
    """Return which rows and columns name which grid mapping."""
    named: dict[Hashable, set[Dims]] = {}
    for name, pair in spatial.items():
        variable = variables[name]
        said = variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping"))
        for word in str(said or "").replace(":", " ").split():
            named.setdefault(word, set()).add(pair)
    return named
