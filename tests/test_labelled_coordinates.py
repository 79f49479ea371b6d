"""Coordinates and bounds, whatever their steps are, against a slow reference."""

import math

import numpy as np
import pytest
from labelled import BOX, QUIET, TRANSFORM, grid

xr = pytest.importorskip("xarray")

import dask.array as da  # noqa: E402

import tileconv  # noqa: E402

pytestmark = QUIET


def expected_at(values, position, *, cyclic=False):
    """Return one coordinate, slowly: on a pixel, between two, or beyond the edge."""

    def on(i):
        if i < 0:
            return values[0] - (0 - i) * apart(values[0], values[1])
        if i >= len(values):
            return values[-1] + (i - len(values) + 1) * apart(values[-2], values[-1])
        return values[i]

    def apart(a, b):
        return (b - a + 180) % 360 - 180 if cyclic else b - a

    low, high = on(math.floor(position)), on(math.ceil(position))
    return low + apart(low, high) / 2


def positions(size, kernel, stride, pad):
    """Return where fields have their centres, counted in pixels."""
    outs = (size + 2 * pad - kernel) // stride + 1
    return [(kernel - 1) / 2 - pad + stride * o for o in range(outs)]


GAUSSIAN = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
ACROSS_ZERO = (np.arange(335.05, 371, 0.9) % 360).round(2)
ACROSS_180 = ((np.arange(160.0, 196) + 180) % 360) - 180
COORDINATES = {
    "gaussian": ("lat", GAUSSIAN),
    "across 0": ("lon", ACROSS_ZERO),
    "across 180": ("lon", ACROSS_180),
    "float32": ("lat", GAUSSIAN.astype("float32")),
    "whole": ("lat", np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512])),
}


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize("name", COORDINATES)
def test_coordinates_without_equal_steps(name, kernel, stride, pad):
    dim, values = COORDINATES[name]
    array = xr.DataArray(np.ones((len(values), 6)), dims=(dim, "other"), coords={dim: values})
    out = tileconv.convolve(
        array, np.ones((kernel, 1)), stride=stride, padding=(pad, 0), dims=(dim, "other")
    )
    places = positions(len(values), kernel, stride, pad)
    got, cyclic = out[dim].values, dim == "lon"
    wanted = np.array([expected_at(values.astype(float), p, cyclic=cyclic) for p in places])
    if cyclic:
        assert np.abs((got - wanted + 180) % 360 - 180).max() < 1e-9
        low, high = (-180, 180) if (values < 0).any() else (0, 360)
        assert got.min() >= low
        assert got.max() <= high
    else:
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    on_pixels = [int(p) for p in places if 0 <= p < len(values) and p % 1 == 0]
    assert np.isin(values[on_pixels], got).all()  # to the last bit
    if values.dtype == np.float32:
        assert got.dtype == np.float32


def test_dates_and_words_along_an_axis():
    days = np.arange("2020-01-01", "2020-01-13", dtype="M8[D]")
    array = xr.DataArray(np.ones((12, 6)), dims=("lat", "lon"), coords={"lat": days})
    out = tileconv.convolve(array, np.ones((2, 1)), stride=3)
    assert out["lat"].values[0] == np.datetime64("2020-01-01T12")
    out = tileconv.convolve(array, np.ones((3, 1)), stride=3, padding=(2, 0))
    assert out["lat"].values[0] == np.datetime64("2019-12-31")
    words = array.assign_coords(lat=list("abcdefghijkl"))
    assert tileconv.convolve(words, BOX, stride=4).lat.values.tolist() == ["b", "f", "j"]
    with pytest.warns(UserWarning, match="lat cannot be recomputed"):
        out = tileconv.convolve(words, np.ones((2, 2)))
    assert "lat" not in out.coords


def test_no_transform_is_left_beside_unequal_steps():
    array = grid(attrs={"transform": TRANSFORM, "res": (10.0, 10.0)}).rio.write_transform()
    array.attrs["transform"] = TRANSFORM
    array = array.assign_coords(y=array.y.values**2)
    with pytest.warns(UserWarning, match="transform, res, GeoTransform"):
        out = tileconv.convolve(array, BOX, stride=2)
    assert not {"transform", "res"} & set(out.attrs)
    assert "GeoTransform" not in out.spatial_ref.attrs
    assert "crs_wkt" in out.spatial_ref.attrs


@pytest.mark.parametrize("lazy", [False, True])
def test_coordinates_of_two_dimensions(lazy):
    y, x = np.mgrid[0:8, 0:10].astype(float)
    lat, lon = 50 - y + 0.1 * x, (355 + x + 0.2 * y) % 360
    cells = {"lat": (("y", "x"), lat), "lon": (("y", "x"), lon), "area": (("y", "x"), lat * 0 + 9)}
    array = xr.DataArray(np.ones((8, 10)), dims=("y", "x"), coords=cells)
    array = array.chunk({"y": 3}) if lazy else array
    if lazy:
        array = array.assign_coords({name: array[name].chunk({"y": 3}) for name in cells})
    with pytest.warns(UserWarning, match="^area cannot be recomputed"):
        odd = tileconv.convolve(array, np.ones((3, 3)), stride=2)
    np.testing.assert_array_equal(odd.lat, lat[1:-1:2, 1:-1:2])
    np.testing.assert_array_equal(odd.lon, lon[1:-1:2, 1:-1:2])
    with pytest.warns(UserWarning, match="^area"):
        even = tileconv.convolve(array, np.ones((2, 2)), padding=1)
    if lazy:
        assert isinstance(even.lon.data, da.Array)
    for o, p in ((0, 0), (3, 4), (8, 10)):
        rows = 50 - (o - 0.5) + 0.1 * (p - 0.5), (355 + (p - 0.5) + 0.2 * (o - 0.5)) % 360
        np.testing.assert_allclose((even.lat[o, p], even.lon[o, p]), rows)


def with_bounds(lat, lat_bounds, *, as_coordinates=False):
    """Return a dataset with bounds of time, latitude and longitude."""
    data = xr.Dataset(
        {
            "t": (("time", "lat", "lon"), np.ones((2, len(lat), 8))),
            "lat_bnds": (("lat", "nv"), lat_bounds),
            "lon_bnds": (("lon", "nv"), np.stack([np.arange(8.0), np.arange(1.0, 9)], -1)),
            "time_bnds": (("time", "nv"), np.zeros((2, 2))),
        },
        coords={"time": [0, 1], "lat": lat, "lon": np.arange(8.0) + 0.5},
    )
    for dim in ("time", "lat", "lon"):
        data[dim].attrs["bounds"] = f"{dim}_bnds"
    return data.set_coords(["lat_bnds", "lon_bnds", "time_bnds"]) if as_coordinates else data


@pytest.mark.parametrize("as_coordinates", [False, True])
@pytest.mark.parametrize("downwards", [False, True])
def test_bounds_are_those_of_the_cells(as_coordinates, downwards):
    edges = np.array([0.0, 1, 3, 4, 8, 9, 11])
    lat, bounds = (edges[1:] + edges[:-1]) / 2, np.stack([edges[:-1], edges[1:]], -1)
    if downwards:  # north first, yet each pair goes upwards
        lat, bounds = lat[::-1], bounds[::-1]
    data = with_bounds(lat, bounds, as_coordinates=as_coordinates)
    out = tileconv.convolve(data, np.ones((2, 2)), stride=2)
    joined = np.stack([bounds[::2].min(1), bounds[1::2].max(1)], -1)
    if downwards:
        joined = np.stack([bounds[1::2].min(1), bounds[::2].max(1)], -1)
    np.testing.assert_array_equal(out.lat_bnds, joined)
    np.testing.assert_array_equal(out.lon_bnds, [[0, 2], [2, 4], [4, 6], [6, 8]])
    np.testing.assert_array_equal(out.time_bnds, np.zeros((2, 2)))
    assert {out[dim].attrs["bounds"] for dim in ("time", "lat", "lon")} == {
        "time_bnds", "lat_bnds", "lon_bnds"
    }  # fmt: skip
    # fields of three pixels, a stride of one: cells of one pixel, in the middle of each field
    same = tileconv.convolve(data, BOX)
    np.testing.assert_array_equal(same.lat_bnds, bounds[1:-1])
    np.testing.assert_array_equal(tileconv.convolve(data, BOX, padding="same").lat_bnds, bounds)


def test_bounds_with_gaps_or_corners_go_with_a_warning(tmp_path):
    lat = np.arange(6.0)
    data = with_bounds(lat, np.stack([lat - 0.4, lat + 0.4], -1))
    corners = ("y", "x", "vertices")
    data = data.assign(
        v=(("y", "x"), np.ones((6, 6))),
        lat2=(("y", "x"), np.ones((6, 6)), {"bounds": "lat2_corners", "standard_name": "latitude"}),
        lat2_corners=(corners, np.ones((6, 6, 4))),
        row_weight=("y", np.ones(6)),
    )
    data.v.attrs["coordinates"] = "lat2"
    with pytest.warns(UserWarning, match="lat_bnds, lat2_corners, row_weight cannot be recomputed"):
        out = tileconv.convolve(data, BOX)
    assert not {"lat_bnds", "lat2_corners", "row_weight"} & set(out)
    assert "bounds" not in out.lat.attrs
    assert "bounds" not in out.lat2.attrs
    assert out.lon.attrs == {"bounds": "lon_bnds"}
    np.testing.assert_array_equal(out.lat2, np.ones((4, 4)))  # at centres, not summed


def test_stacks_of_files(tmp_path):
    lat = np.linspace(50, 41, 10)
    bounds = np.stack([lat + 0.5, lat - 0.5], -1)
    for day in range(3):
        data = with_bounds(lat, bounds).isel(time=[0]).assign_coords(time=[day])
        data.assign(t=data.t + day).to_netcdf(tmp_path / f"{day}.nc", engine="scipy")
    paths = sorted(map(str, tmp_path.glob("*.nc")))
    with xr.open_mfdataset(
        paths,
        engine="scipy",
        combine="nested",
        concat_dim="time",
        data_vars="all",
        chunks={"lat": 4},
    ) as stack:
        assert stack.lat_bnds.dims == ("time", "lat", "nv")
        out = tileconv.convolve(stack, np.ones((2, 2)) / 4, stride=2)
        assert isinstance(out.t.data, da.Array)
        np.testing.assert_array_equal(out.t.mean(("lat", "lon")), [1, 2, 3])
        np.testing.assert_allclose(
            out.lat_bnds[1], [[50.5 - 2 * i, 48.5 - 2 * i] for i in range(5)]
        )
