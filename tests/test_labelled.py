"""xarray in, xarray out: dims, coordinates, transform, nodata and attributes follow."""

import numpy as np
import pytest

xr = pytest.importorskip("xarray")

import dask.array as da  # noqa: E402

import tileconv  # noqa: E402
import tileconv.xarray  # noqa: E402
from tileconv import ConvolutionError  # noqa: E402

KERNEL = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])


def scene(rng, *, bands=None, dims=("y", "x"), size=(30, 40)):
    shape = size if bands is None else (bands, *size)
    y, x = dims
    coords = {y: 900.0 - 30 * np.arange(size[0]), x: 500.0 + 30 * np.arange(size[1])}
    names = dims
    if bands is not None:
        coords["band"] = np.arange(1, bands + 1)
        names = ("band", *dims)
    return xr.DataArray(
        rng.normal(size=shape), dims=names, coords=coords, name="reflectance", attrs={"units": "1"}
    )


def test_values_dims_and_attributes(rng):
    array = scene(rng, bands=2)
    out = tileconv.convolve(array, KERNEL, stride=3, padding=1, padding_mode="edge")
    expected = tileconv.convolve(array.values, KERNEL, stride=3, padding=1, padding_mode="edge")
    np.testing.assert_array_equal(out.values, expected)
    assert (out.dims, out.name, out.attrs) == (array.dims, "reflectance", {"units": "1"})
    np.testing.assert_array_equal(out.band, [1, 2])


def test_coordinates_are_the_centres_of_fields(rng):
    array = scene(rng)
    out = tileconv.convolve(array, np.ones((3, 4)), stride=(5, 2), dilation=2, padding=(1, 0))
    y = [array.y.values[0] - 30 * (o * 5 - 1 + 2) for o in range(out.sizes["y"])]
    x = [array.x.values[0] + 30 * (o * 2 + 3) for o in range(out.sizes["x"])]
    np.testing.assert_array_equal(out.y, y)
    np.testing.assert_array_equal(out.x, x)
    half = tileconv.convolve(array, np.ones((2, 2)), stride=2)
    np.testing.assert_array_equal(half.x.values[:2], [515, 575])


def test_an_unchanged_grid_stays_equal_to_the_last_bit(rng):
    array = scene(rng).assign_coords(x=np.linspace(0.1, 7.3, 40).astype("float32"))
    out = tileconv.convolve(array, KERNEL, padding="same")
    assert out.x.dtype == np.float32
    np.testing.assert_array_equal(out.x, array.x)
    assert (array - out).shape == array.shape  # xarray aligns them without losing a pixel


@pytest.mark.parametrize("dims", [("latitude", "longitude"), ("lat", "lon"), ("row", "col")])
def test_known_dimensions(rng, dims):
    out = tileconv.convolve(scene(rng, dims=dims), KERNEL, stride=2)
    assert out.dims == dims


def test_dimensions_in_any_order_and_with_any_name(rng):
    array = scene(rng, bands=3, dims=("line", "sample"))
    with pytest.raises(ConvolutionError, match="name them, like dims="):
        tileconv.convolve(array, KERNEL)
    turned = array.transpose("sample", "band", "line")
    out = tileconv.convolve(turned, KERNEL, dims=("line", "sample"))
    assert out.dims == ("sample", "band", "line")
    expected = tileconv.convolve(array.values, KERNEL)
    np.testing.assert_array_equal(out.transpose(*array.dims).values, expected)
    with pytest.raises(ConvolutionError, match="dims names rows and columns"):
        tileconv.convolve(array, KERNEL, dims=("line", "pixel"))
    with pytest.raises(ConvolutionError, match="dims names dimensions of xarray"):
        tileconv.convolve(array.values, KERNEL, dims=("line", "sample"))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rioxarray's, of affine
def test_the_transform_moves_with_the_grid(rng, make_raster, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    path = make_raster(rng.normal(size=(2, 40, 50)), nodata=-1.0)
    with rioxarray.open_rasterio(path) as array:
        assert array.rio.transform()[2] == 700000
        for options in (
            {"stride": 4},
            {"stride": 2, "padding": "same"},
            {"stride": 7, "dilation": 3, "padding": (1, 2)},
        ):
            out = array.load().tileconv.convolve(np.ones((3, 2)), **options)
            geometry = tileconv.plan(
                tileconv.load_job(
                    {
                        "input": {"path": str(path)},
                        "kernel": {"weights": np.ones((3, 2))},
                        "output": {"path": str(tmp_path / "o.tif")},
                        **options,
                    }
                )
            )
            np.testing.assert_allclose(
                tuple(out.rio.transform())[:6], geometry.out_transform, atol=1e-6
            )
            recalculated = tuple(out.rio.transform(recalc=True))[:6]
            np.testing.assert_allclose(recalculated, geometry.out_transform, atol=1e-6)
            assert out.rio.crs == array.rio.crs
            assert np.isnan(out.rio.nodata)


def test_declared_nodata_is_missing(rng):
    array = xr.DataArray(
        np.array([[7, 255, 9]], "uint8"), dims=("y", "x"), attrs={"_FillValue": np.uint8(255)}
    )
    out = tileconv.convolve(array, [[1.0]])
    assert np.isnan(out.values).tolist() == [[False, True, False]]
    assert np.isnan(out.attrs["_FillValue"])
    kept = tileconv.convolve(array, [[1.0]], dtype="uint8")
    assert kept.values.tolist() == [[7, 255, 9]]
    assert kept.attrs["_FillValue"] == 255
    other = tileconv.convolve(array, [[1.0]], nodata=7)
    assert np.isnan(other.values).tolist() == [[True, False, False]]


def test_lazy_arrays_stay_lazy(rng):
    array = scene(rng, bands=2)
    lazy = array.chunk({"y": 7, "x": 11})
    out = lazy.tileconv.convolve(KERNEL, stride=2)
    assert isinstance(out.data, da.Array)
    np.testing.assert_array_equal(out.compute().values, tileconv.convolve(array, KERNEL, stride=2))


def test_datasets_convolve_what_is_spatial(rng):
    data = xr.Dataset(
        {"a": scene(rng), "b": scene(rng, bands=2), "name": "x"}, attrs={"title": "scene"}
    )
    out = data.tileconv.convolve(KERNEL, stride=3)
    assert out.attrs == {"title": "scene"}
    assert out["name"].item() == "x"
    for name in ("a", "b"):
        np.testing.assert_array_equal(out[name], tileconv.convolve(data[name], KERNEL, stride=3))
    data["profile"] = ("y", np.ones(30))
    with pytest.warns(UserWarning, match="profile cannot be recomputed"):
        out = data.tileconv.convolve(KERNEL)
    assert "profile" not in out


def test_banks_and_sums_over_bands_name_their_bands(rng):
    array = scene(rng, bands=2)
    bank = tileconv.convolve(array, np.stack([KERNEL, KERNEL.T]))
    assert bank.band.values.tolist() == ["kernel 1:1", "kernel 2:1", "kernel 1:2", "kernel 2:2"]
    single = tileconv.convolve(array[0], np.stack([KERNEL, KERNEL.T]))
    assert single.dims == ("kernel", "y", "x")
    summed = tileconv.convolve(array, rng.normal(size=(5, 2, 3, 3)))
    assert summed.dims == ("band", "y", "x")
    assert summed.sizes["band"] == 5


def test_arrays_without_coordinates_get_none(rng):
    bare = scene(rng).drop_vars(["x", "y"])
    assert not tileconv.convolve(bare, KERNEL).coords


def test_other_coordinates_are_kept_or_dropped_loudly(rng):
    array = scene(rng).assign_coords(time=7, area=(("y", "x"), np.ones((30, 40))))
    with pytest.warns(UserWarning, match="area cannot be recomputed"):
        out = tileconv.convolve(array, KERNEL)
    assert out.time.item() == 7
    assert "area" not in out.coords
