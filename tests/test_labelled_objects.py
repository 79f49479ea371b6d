"""Datasets, trees and lazy arrays; what is written says the same when it is read again."""

import numpy as np
import pytest
from labelled import BLOCK, BOX, QUIET, TRANSFORM, grid

xr = pytest.importorskip("xarray")

import dask.array as da  # noqa: E402
import rasterio  # noqa: E402

import tileconv  # noqa: E402
import tileconv.xarray  # noqa: E402
from tileconv import ConvolutionError  # noqa: E402

pytestmark = QUIET


def test_datasets_of_mixed_dtypes_and_grids(tmp_path):
    fine, coarse = grid(size=(12, 12), place=True), np.arange(36.0).reshape(6, 6)
    data = xr.Dataset(
        {
            "v": fine,
            "whole": (("y", "x"), np.arange(144, dtype="uint16").reshape(12, 12)),
            "double": (("y", "x"), np.ones((12, 12))),
            "coarse": (("lat", "lon"), coarse),
            "other": (("row_20m", "col_20m"), coarse),
            "table": ("n", [1, 2]),
        },
        coords={"lat": np.arange(6.0), "lon": np.arange(6.0)},
        attrs={"title": "mixed"},
    ).chunk({"y": 5})
    out = data.tileconv.convolve(BOX, stride=2)
    assert {name: (v.shape, v.dtype.name) for name, v in out.data_vars.items()} == {
        "v": ((5, 5), "float32"), "whole": ((5, 5), "float32"), "double": ((5, 5), "float64"),
        "coarse": ((2, 2), "float64"), "other": ((6, 6), "float64"), "table": ((2,), "int64"),
    }  # fmt: skip
    assert isinstance(out.whole.data, da.Array)
    np.testing.assert_array_equal(out.lat, [1, 3])
    only = data.tileconv.convolve(BOX, dims=("row_20m", "col_20m"))
    assert (only.other.shape, only.v.shape) == ((4, 4), (12, 12))
    out.compute().drop_vars(["coarse", "other", "table"]).to_netcdf(
        tmp_path / "o.nc", engine="scipy"
    )
    with xr.open_dataset(tmp_path / "o.nc", engine="scipy") as again:
        np.testing.assert_array_equal(again.whole, out.whole)
    with rasterio.open(f"netcdf:{tmp_path}/o.nc:v") as dataset:
        assert dataset.transform[:6] == (20.0, 0.0, 5.0, 0.0, -20.0, 95.0)
        np.testing.assert_array_equal(dataset.read(1), out.v)


def test_variables_that_disagree_on_their_bands_are_refused():
    ones = np.ones((2, 3, 6, 6))
    data = xr.Dataset(
        {"a": (("time", "y", "x"), ones[:, 0]), "b": (("time", "band", "y", "x"), ones)}
    )
    assert tileconv.convolve(data, BOX).b.shape == (2, 3, 4, 4)
    with pytest.raises(ConvolutionError, match="'time' holds the bands of 'a'"):
        tileconv.convolve(data, np.ones((2, 3, 3)))


@pytest.mark.parametrize(
    ("dims", "attrs"),
    [
        (("LAT", "LON"), {}),
        (("rlat", "rlon"), {}),
        (("nlat", "nlon"), {}),
        (("j", "i"), {"axis": True}),
    ],
)
def test_rows_and_columns_are_known(dims, attrs):
    y, x = dims
    coords = {y: (y, np.arange(6.0)), x: (x, np.arange(8.0))}
    if attrs:
        coords = {y: (y, np.arange(6.0), {"axis": "Y"}), x: (x, np.arange(8.0), {"axis": "X"})}
    turned = xr.DataArray(np.ones((6, 8)), dims=dims, coords=coords).transpose(x, y)
    assert tileconv.convolve(turned, np.ones((1, 3))).sizes == {y: 6, x: 6}


def test_every_node_of_a_tree(tmp_path):
    fine = grid(size=(24, 24)).to_dataset()
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords={"y": fine.y, "x": fine.x}, attrs={"title": "product"}),
            "/bands": xr.Dataset({"b": (("y", "x"), np.ones((24, 24)))}),
            "/r20m": xr.Dataset({"c": (("lat", "lon"), np.ones((12, 12)))}),
            "/quality": xr.Dataset({"q": ("n", [1])}),
        },
        name="scene",
    )
    out = tree.tileconv.convolve(BOX, stride=3)
    assert isinstance(out, xr.DataTree)
    assert out.name == "scene"
    assert {node.path: dict(node.sizes) for node in out.subtree} == {
        "/": {"y": 8, "x": 8},
        "/bands": {"y": 8, "x": 8},
        "/r20m": {"y": 8, "x": 8, "lat": 4, "lon": 4},
        "/quality": {"y": 8, "x": 8, "n": 1},
    }
    np.testing.assert_array_equal(out["bands"].x, 15 + 30 * np.arange(8))
    assert out.attrs == {"title": "product"}
    assert list(out["r20m"].to_dataset(inherit=False).coords) == []
    out.to_zarr(tmp_path / "tree.zarr")
    with xr.open_datatree(tmp_path / "tree.zarr", engine="zarr") as again:
        np.testing.assert_array_equal(again["bands/b"], out["bands/b"])
    with pytest.raises(ConvolutionError, match="/r20m: c: height: a receptive field spans 20"):
        tileconv.convolve(tree, np.ones((20, 20)))
    with pytest.raises(ConvolutionError, match="no node of the tree"):
        tileconv.convolve(tree, BOX, dims=("line", "sample"))


def test_what_is_no_array_is_refused_with_the_way_to_do_it():
    with pytest.raises(ConvolutionError, match=r"Variable.*give xarray.DataArray\(variable\)"):
        tileconv.convolve(xr.Variable(("y", "x"), np.ones((5, 5))), BOX)
    with pytest.raises(ConvolutionError, match="cannot convolve xarray's DataArrayRolling"):
        tileconv.convolve(grid().rolling(x=3), BOX)


def test_subclasses_are_labelled_arrays():
    class Own(xr.DataArray):
        __slots__ = ()

    out = tileconv.convolve(
        Own(np.ones((6, 6)), dims=("y", "x"), coords={"x": np.arange(6.0)}), BOX
    )
    assert isinstance(out, xr.DataArray)
    assert out.x.values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("stride", [1, 3, (2, 5)])
@pytest.mark.parametrize("chunks", [4, (3, 7), 100])
def test_chunks_of_the_output(tmp_path, rng, stride, chunks):
    array = grid(rng.normal(size=(40, 50)).astype("float32")).chunk({"y": 7, "x": 11})
    out = tileconv.convolve(array, BOX, stride=stride, chunks=chunks)
    tall, wide = (chunks, chunks) if isinstance(chunks, int) else chunks
    for sizes, most in zip(out.chunks, (tall, wide), strict=True):
        assert set(sizes[:-1]) <= {most}
        assert sizes[-1] <= most
    whole = tileconv.convolve(array.compute(), BOX, stride=stride)
    assert out.values.tobytes() == whole.values.tobytes()
    out.to_dataset().to_zarr(tmp_path / "o.zarr", zarr_format=2, consolidated=False)
    with xr.open_zarr(tmp_path / "o.zarr", consolidated=False, decode_coords="all") as again:
        np.testing.assert_array_equal(again.v, whole)
        assert again.v.rio.transform(recalc=True) == whole.rio.transform(recalc=True)
        assert again.rio.crs == array.rio.crs
    with rasterio.open(f'ZARR:"{tmp_path}/o.zarr":/v') as dataset:
        np.testing.assert_array_equal(dataset.read(1), whole)


def test_chunks_are_for_lazy_arrays():
    lazy = da.ones((20, 20), chunks=6, dtype="complex64")
    assert tileconv.convolve(lazy, BOX, stride=2, chunks=4).chunks == ((4, 4, 1), (4, 4, 1))
    for eager in (np.ones((5, 5)), grid()):
        with pytest.raises(ConvolutionError, match="chunks is for dask arrays"):
            tileconv.convolve(eager, BOX, chunks=4)
    with pytest.raises(ConvolutionError, match="chunks must lie in 1"):
        tileconv.convolve(lazy, BOX, chunks=0)
    mixed = grid(size=(9, 9)).to_dataset().assign(lazy=grid(size=(9, 9)).chunk({"x": 4}))
    out = tileconv.convolve(mixed, BOX, chunks=5)
    assert out.lazy.chunks == ((5, 2), (5, 2))
    assert out.v.chunks is None


def test_inputs_are_left_as_they_were():
    said = {"transform": TRANSFORM, "valid_range": [0, 1], "_FillValue": 3.0, "scale_factor": 0.5}
    array = grid(attrs=dict(said)).rio.write_transform()
    array.attrs.update(said)
    array.encoding.update({"_FillValue": 4.0}, zlib=True)
    before = array.copy(deep=True)
    encoding = dict(array.encoding)
    with pytest.warns(UserWarning, match="valid_range"):
        tileconv.convolve(array, BLOCK, stride=4)
    xr.testing.assert_identical(array, before)
    assert array.encoding == encoding


@pytest.mark.parametrize("kernel", [BLOCK, BOX, np.stack([BOX, BOX])])
@pytest.mark.parametrize("lazy", [False, True])
def test_datasets_and_trees_are_left_as_they_were(kernel, lazy):
    data = grid(attrs={"transform": TRANSFORM}, place=True).to_dataset()
    data = data.assign_coords(x=data.x.assign_attrs(resolution=10.0, bounds="x_bnds"))
    edges = 10.0 * np.arange(16)
    data = data.assign(
        x_bnds=(("x", "nv"), np.stack([edges, edges + 10], -1)), crs=data.spatial_ref
    )
    data.attrs = {"transform": [*TRANSFORM], "geospatial_lat_min": 3}
    gone = {"ancillary_variables": "row_area"}
    data = data.assign(row_area=("y", np.ones(12)), t=("time", np.arange(3.0), gone))
    data = data.chunk({"y": 5}) if lazy else data
    tree = xr.DataTree.from_dict({"/": data, "/a": xr.Dataset({"w": data.v})})
    for given in (data, data.set_coords(["x_bnds", "crs"]), data.drop_vars("spatial_ref"), tree):
        before = given.copy(deep=True)
        with pytest.warns(UserWarning, match="geospatial_lat_min|row_area"):
            tileconv.convolve(given, kernel, stride=(3, 2))
        xr.testing.assert_identical(given, before)
