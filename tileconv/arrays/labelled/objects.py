"""DataArrays, Datasets and DataTrees: which variables are convolved, and what follows them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from tileconv.arguments import short_repr, told
from tileconv.arrays.labelled.bands import (
    Bands,
    drop_untrue,
    follow_bands,
    follow_scales,
)
from tileconv.arrays.labelled.bounds import bounds_in
from tileconv.arrays.labelled.coordinates import is_geographic, is_position
from tileconv.arrays.labelled.following import SPATIAL, Dims, Following, Notes, Place
from tileconv.arrays.labelled.grid import Grid, follow_grid
from tileconv.arrays.labelled.missing import (
    CF,
    declare_missing,
    find_missing,
    holds,
    meant_dtype,
)
from tileconv.errors import ConvolutionError
from tileconv.geometry import Axis, Geometry
from tileconv.operators.base import Operator
from tileconv.propagation import POINTS_OF_AREAS, propagate_tiff_tags

Compute = Callable[[Any, float | None, float | None], Any]
"""(numpy or dask array (..., H, W), nodata, what missing integers hold) -> its operator."""
KEPT_ENCODING = ("grid_mapping",)
"""The rest says how the input's file holds its numbers; no computation of xarray keeps it."""


@dataclass(frozen=True)
class Labelled:
    """What is the same for every variable of a call."""

    operator: Operator
    compute: Compute
    dtype: np.dtype | None = None
    """Of the output, if it was asked for."""
    dims: Dims | None = None
    nodata: float | None = None
    chunks: tuple[int, int] | None = None
    """Outputs in each chunk of what is lazy."""


def convolve_labelled(data: Any, work: Labelled) -> tuple[Any, list[str]]:
    """Convolve a DataArray, Dataset or DataTree; return it and what has to be told.

    Whatever is backed by dask stays lazy.
    """
    notes = Notes()
    if work.chunks is not None and not _is_lazy(data):
        raise ConvolutionError("chunks is for dask arrays: the output of others has none")
    if isinstance(data, xr.DataArray):
        return _dataarray(data, work, notes), notes.texts()
    if isinstance(data, xr.Dataset):
        spatial_pairs(data, work.dims)
        return _dataset(data, work, notes), notes.texts()
    if isinstance(data, xr.DataTree):
        return _datatree(data, work, notes), notes.texts()
    variable = isinstance(data, xr.Variable)
    way = "xarray.DataArray(variable)" if variable else "a DataArray, a Dataset or a DataTree"
    raise ConvolutionError(f"cannot convolve xarray's {type(data).__name__}; give {way}")


def _is_lazy(data: Any) -> bool:
    """Say whether any variable is dask's."""
    if isinstance(data, xr.DataTree):
        return any(_is_lazy(node.dataset) for node in data.subtree)
    variables = data.variables.values() if isinstance(data, xr.Dataset) else [data]
    return any(getattr(variable, "chunks", None) is not None for variable in variables)


def spatial_pairs(data: xr.DataArray | xr.Dataset, dims: Dims | None) -> tuple[Dims, ...]:
    """Return the pairs of dimensions that are rows and columns: the given one, or those known."""
    if dims is not None:
        with told("dims"):
            known = all(dim in data.dims for dim in dims)
        if not known:
            raise ConvolutionError(
                f"dims names rows and columns among {tuple(data.dims)}; got {short_repr(dims)}"
            )
        return (dims,)
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
    _check_new_dimension(array.dims, [bands], work)
    made = _convolved(array, dims, place, bands, work.nodata, work, notes)
    following = Following({dims: place}, [bands], coords, {}, notes, chunks=work.chunks)
    moved = following.coordinates(array.coords, made.dims)
    result = xr.DataArray(made, coords=moved, name=array.name)
    result.encoding = dict(made.encoding)
    return result


@dataclass
class _Around:
    """What other nodes of a tree do to dimensions that a node shares with them."""

    pairs: Sequence[Dims] = ()
    axes: Mapping[Hashable, Axis] = field(default_factory=dict)
    bands: Sequence[Bands] = ()


def _dataset(
    data: xr.Dataset, work: Labelled, notes: Notes, around: _Around | None = None
) -> xr.Dataset:
    """Convolve every variable that has rows and columns; what lies along one of them follows."""
    variables = dict(data.variables)
    spatial = _spatial(data, work)
    if not spatial and around is None:
        raise ConvolutionError(
            f"no variable among {tuple(map(str, data.data_vars))} has rows and columns"
        )
    around = around or _Around()
    pairs = dict.fromkeys([*spatial.values(), *around.pairs])
    places = {}
    for pair in pairs:
        said = [data[name].attrs for name, own in spatial.items() if own == pair]
        places[pair] = Place.of(variables, [*said, data.attrs], pair, _geometry(data, pair, work))
    bands = {}
    for name, pair in spatial.items():
        with _naming(name):
            bands[name] = _bands(data[name], pair, work)
    _check_dimensions(data, spatial, bands)
    _check_new_dimension([*data.dims, *data.data_vars], list(bands.values()), work)
    nodata = _nodata_of_each(data, spatial, work, notes)
    made: dict[Hashable, xr.Variable] = {}
    for name, pair in spatial.items():
        with _naming(name):
            made[name] = _convolved(
                data[name], pair, places[pair], bands[name], nodata[name], work, notes
            )
    following = Following(
        places,
        [*bands.values(), *around.bands],
        variables,
        _grid_mappings(variables, spatial),
        notes,
        around.axes,
        work.chunks,
    )
    dims = {dim for variable in made.values() for dim in variable.dims}
    coords = following.coordinates(data.coords, dims)
    for name in data.data_vars:
        if name not in made:
            kept = following.variable(name, variables[name], is_coordinate=False)
            if kept is not None:
                made[name] = kept
    attrs = dict(data.attrs)
    if len(places) == 1:
        _follow_place(attrs, next(iter(places.values())).grid, notes)
    elif places:
        follow_grid(attrs, None, notes.attributes)
    _forget(set(variables) - set(made) - set(coords), made, notes)
    result = xr.Dataset(
        {name: made[name] for name in data.data_vars if name in made}, coords=coords, attrs=attrs
    )
    for name in result.data_vars:
        result[name].encoding = dict(made[name].encoding)
    return result


def _datatree(tree: xr.DataTree, work: Labelled, notes: Notes) -> xr.DataTree:
    """Convolve every node by itself; those without rows and columns stay as they are.

    Nodes hand down coordinates, so a dimension moves in all nodes that have it of one another.
    """
    nodes = {node.path: node.to_dataset(inherit=True) for node in tree.subtree}
    owners = {
        path: {dim: _owner(nodes, path, dim) for dim in data.sizes} for path, data in nodes.items()
    }
    axes: dict[tuple[str, Hashable], Axis] = {}
    bands: dict[tuple[str, Hashable], Bands] = {}
    pairs: set[Dims] = set()
    for path, data in nodes.items():
        for name, pair in _spatial(data, work).items():
            with _naming(path), _naming(name):
                geometry, own = _geometry(data, pair, work), _bands(data[name], pair, work)
            for dim, axis in zip(pair, (geometry.y, geometry.x), strict=True):
                axes[owners[path][dim], dim] = axis
            pairs.add(pair)
            if not own.alike and own.dim is not None:
                bands[owners[path][own.dim], own.dim] = own
    if not axes:
        raise ConvolutionError(
            "no node of the tree has dimensions that are known as rows and columns; "
            "name them, like dims=('line', 'sample')"
        )
    for path, data in nodes.items():
        for name, pair in _spatial(data, work).items():
            _check_around(data[name], pair, owners[path], bands, path)
    made = {}
    for path, data in nodes.items():
        keys = [(owner, dim) for dim, owner in owners[path].items()]
        moving = {dim: axes[owner, dim] for owner, dim in keys if (owner, dim) in axes}
        around = _Around(
            [pair for pair in pairs if set(pair) <= set(moving)],
            moving,
            [bands[key] for key in keys if key in bands],
        )
        with _naming(path):
            made[path] = _dataset(data, work, notes, around) if moving or around.bands else data
    root = tree.path.rstrip("/")
    parts = {path.removeprefix(root) or "/": data for path, data in made.items()}
    try:
        return xr.DataTree.from_dict(parts, name=tree.name)
    except ValueError as error:
        raise ConvolutionError(
            f"the nodes' outputs do not fit together; convolve them one by one ({error})"
        ) from error


def _check_around(
    array: xr.DataArray,
    pair: Dims,
    owners: Mapping[Hashable, str],
    bands: Mapping[tuple[str, Hashable], Bands],
    path: str,
) -> None:
    """Refuse an array of which another node's bands are something else."""
    lead = [dim for dim in array.dims if dim not in pair]
    for dim in lead[:-1]:
        if (owners[dim], dim) in bands:
            raise ConvolutionError(
                f"{path}: dimension {dim!r} holds the bands of another node, and something else of "
                f"{array.name!r}: a bank cannot make more of it; convolve them one by one"
            )


def _owner(nodes: Mapping[str, xr.Dataset], path: str, dim: Hashable) -> str:
    """Return the path of the uppermost node from which a node has a dimension."""
    parts = path.strip("/").split("/")
    above = ["/" + "/".join(parts[:depth]) for depth in range(len(parts))]
    return next((p for p in [*above, path] if p in nodes and dim in nodes[p].sizes), path)


@contextlib.contextmanager
def _naming(name: Hashable) -> Iterator[None]:
    """Put the name of a variable or node before messages of errors."""
    try:
        yield
    except ConvolutionError as error:
        raise type(error)(f"{name}: {error}") from error


def _spatial(data: xr.Dataset, work: Labelled) -> dict[Hashable, Dims]:
    """Return the variables to convolve, and their rows and columns."""
    helpers = _helpers(data)
    try:
        pairs = spatial_pairs(data, work.dims)
    except ConvolutionError:
        return {}
    found: dict[Hashable, Dims] = {}
    for name, variable in data.data_vars.items():
        if name not in helpers and variable.dtype.kind in "biufc":
            for pair in pairs:
                if set(pair) <= set(variable.dims):
                    found.setdefault(name, pair)
    return found


def _geometry(data: xr.DataArray | xr.Dataset, dims: Dims, work: Labelled) -> Geometry:
    return work.operator.geometry((data.sizes[dims[0]], data.sizes[dims[1]]))


def _bands(array: xr.DataArray, dims: Dims, work: Labelled) -> Bands:
    lead = [dim for dim in array.dims if dim not in dims]
    operator = work.operator
    count = array.sizes[lead[-1]] if lead else 1
    operator.outputs(count)
    return Bands(
        dim=lead[-1] if lead else None,
        count=count,
        alike=operator.new_dimension is None,
        origins=operator.origins,
        skips=operator.missing_rules[-1].counts_as_zero,
        listed="band" not in lead[:-1],
    )


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
    lead = [dim for dim in array.dims if dim not in dims]
    missing = find_missing(array, nodata, lead, notes.notes)
    turned = array.variable.transpose(*lead, *dims)
    fill = nodata
    if nodata is None and turned.dtype.kind != "c":
        target = work.operator.dtypes(turned.dtype, work.dtype).target
        fill = missing.fill(target) if target.kind in "iu" else None
    data = work.compute(missing.mark(turned.data), missing.value, fill)
    out_dims = _out_dims(lead, dims, work.operator)
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
    for key, old, new in (
        ("dtype", str(array.dtype), str(data.dtype)),
        ("count", bands.count, len(bands.outputs)),
    ):
        if isinstance(attrs.get(key), str | int | np.integer) and attrs[key] == old:
            attrs[key] = new
    follow_bands(attrs, bands, notes.attributes)
    follow_scales(attrs, bands, notes.notes)
    _follow_place(attrs, place.grid, notes)
    encoding: dict[Hashable, Any] = {
        key: array.encoding[key] for key in KEPT_ENCODING if key in array.encoding
    }
    hole = np.nan if data.dtype.kind in "fc" else fill
    count = len(bands.outputs) if bands.listed else array.sizes["band"]
    declare_missing(attrs, encoding, data.dtype, hole, count, notes.attributes)
    return attrs, encoding


def _follow_place(attrs: dict[Hashable, Any], grid: Grid, notes: Notes) -> None:
    """Map what attributes say of the grid, and drop what they say of the input's numbers."""
    has_gcps = grid.has_gcps or "gcps" in attrs
    follow_grid(attrs, grid, notes.attributes)
    if has_gcps and attrs.get("AREA_OR_POINT") == "Point":
        attrs["AREA_OR_POINT"] = "Area"
        notes.notes.append(POINTS_OF_AREAS)
    propagate_tiff_tags(attrs, grid.geometry, notes.notes)
    drop_untrue(attrs, notes.attributes)


def _as_meant(array: xr.DataArray) -> xr.DataArray:
    """Return an array whose integers are signed or not as ``_Unsigned`` says."""
    dtype = meant_dtype(array.variable)
    if dtype == array.dtype:
        return array
    meant = array.copy(data=array.variable.data.astype(dtype))
    meant.attrs = {key: value for key, value in array.attrs.items() if key != "_Unsigned"}
    for key in CF:
        if key in meant.attrs and np.asarray(meant.attrs[key]).dtype.kind in "iu":
            meant.attrs[key] = np.asarray(meant.attrs[key]).astype(dtype)[()]
    return meant


def _out_dims(lead: list[Hashable], dims: Dims, operator: Operator) -> tuple[Hashable, ...]:
    """Return the output's dimensions in the order in which arrays have them."""
    new = operator.new_dimension
    return (*lead, *dims) if lead or new is None else (new, *dims)


def _helpers(data: xr.Dataset) -> set[Hashable]:
    """Return the variables that are bounds, latitudes or longitudes, or positions of others."""
    variables = data.variables
    named = {
        name
        for variable in variables.values()
        for said in (variable.attrs.get("coordinates"), variable.encoding.get("coordinates"))
        if isinstance(said, str)
        for name in said.split()
    }
    positions = {
        name
        for name, variable in variables.items()
        if is_geographic(name, variable) or (name in named and is_position(name, variable))
    }
    return positions | set(bounds_in(variables))


def _check_dimensions(
    data: xr.Dataset, spatial: Mapping[Hashable, Dims], bands: Mapping[Hashable, Bands]
) -> None:
    """Refuse variables of which one has as rows or bands what the other has as something else."""
    rows = {dim: (name, pair) for name, pair in spatial.items() for dim in pair}
    changed = {
        own.dim: name for name, own in bands.items() if not own.alike and own.dim is not None
    }
    for name, own in bands.items():
        for dim in data[name].dims:
            other, pair = rows.get(dim, (name, spatial[name]))
            if pair != spatial[name]:
                raise ConvolutionError(
                    f"{name!r} has rows and columns of two grids, {spatial[name]} and {pair} as "
                    f"{other!r}; convolve them one by one, with dims="
                )
            if dim in changed and dim != own.dim:
                raise ConvolutionError(
                    f"dimension {dim!r} holds the bands of {changed[dim]!r}, and something else "
                    f"of {name!r}: a bank cannot make more of it; convolve them one by one"
                )


def _check_new_dimension(names: Iterable[Hashable], bands: Sequence[Bands], work: Labelled) -> None:
    """Refuse a dimension that planes would get if its name is taken."""
    planes = [own for own in bands if own.dim is None and not own.alike]
    new = work.operator.new_dimension
    same = new == "band" and any(own.dim == new for own in bands)  # sums: as many of both
    if planes and new in names and not same:
        raise ConvolutionError(
            f"the output of a plane gets the dimension {new!r}, and there is one of that name; "
            "rename it first"
        )


def _forget(gone: set[Hashable], made: dict[Hashable, xr.Variable], notes: Notes) -> None:
    """Drop what names variables that are not there any more; those that stay are the input's."""
    for name, variable in made.items():
        for key in ("coordinates", "cell_measures", "ancillary_variables"):
            for said in (variable.attrs, variable.encoding):
                words = said.get(key)
                if isinstance(words, str) and gone & set(words.split()):
                    variable = variable.copy(deep=False)  # noqa: PLW2901 - the same, but ours
                    variable.attrs = {k: v for k, v in variable.attrs.items() if k != key}
                    variable.encoding = {k: v for k, v in variable.encoding.items() if k != key}
                    made[name] = variable
                    notes.attributes.append(key)


def _nodata_of_each(
    data: xr.Dataset, names: Iterable[Hashable], work: Labelled, notes: Notes
) -> dict[Hashable, float | None]:
    """Return the argument ``nodata`` for the variables whose dtype holds it."""
    given: dict[Hashable, float | None] = dict.fromkeys(names, work.nodata)
    if work.nodata is None:
        return given
    dtypes = {name: meant_dtype(data[name].variable) for name in given}
    lacking = [n for n, dtype in dtypes.items() if not holds(dtype, work.nodata)]
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
        for word in said.replace(":", " ").split() if isinstance(said, str) else []:
            named.setdefault(word, set()).add(pair)
    return named
