"""Odd objects: what hostile readings of labelled arrays found, each kind once."""

import contextlib
import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from labelled import BLOCKS, BOX, QUIET, TRANSFORM, bands, grid

xr = pytest.importorskip("xarray")
rioxarray = pytest.importorskip("rioxarray")

import dask  # noqa: E402
import dask.array as da  # noqa: E402
import rasterio  # noqa: E402

import tileconv  # noqa: E402
import tileconv.xarray  # noqa: E402
from tileconv import ConvolutionError  # noqa: E402

pytestmark = QUIET

YX = ("y", "x")
PAIR = np.ones((2, 1))


def along(values, **attrs):
    """Return an array with a coordinate along its rows."""
    return xr.DataArray(np.ones((len(values), 3)), dims=YX, coords={"c": ("y", values, attrs)})


@contextlib.contextmanager
def nothing_computed():
    """Fail if dask computes anything."""

    def refuse(*_, **__):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        yield


# ------------------------------------------------------------------------------------ coordinates


def test_longitudes_that_do_not_turn_stay_in_their_range():
    lon = np.arange(0, 360, 30.0)
    cells = np.stack([lon - 15, lon + 15], 1)
    data = xr.Dataset(
        {"v": (("lat", "lon"), np.ones((6, 12)))},
        coords={
            "lon": ("lon", lon, {"bounds": "lon_bnds", "units": "degrees_east"}),
            "lon_bnds": (("lon", "b"), cells),
        },
    )
    out = tileconv.convolve(data, BOX, stride=2)
    np.testing.assert_array_equal(out.lon, [30, 90, 150, 210, 270])
    np.testing.assert_array_equal(out.lon_bnds, [[c - 30, c + 30] for c in out.lon.values])
    out = tileconv.convolve(data.assign_coords(lon=data.lon + 15), np.ones((1, 2)), padding=(0, 1))
    np.testing.assert_array_equal(out.lon_bnds[:, 0] + 15, (out.lon - 15).values)
    uneven = lon.copy()
    uneven[3] += 1
    for shift in (0, -280):
        moved = data.drop_vars("lon_bnds").assign_coords(lon=uneven + shift)
        got = tileconv.convolve(moved, np.ones((1, 2)), padding=(0, 1)).lon.values
        assert (np.diff(got) > 0).all()
        np.testing.assert_allclose(got[0], -15 + shift)


@pytest.mark.parametrize("values", [[358.0, 359, 0, 1], [178.0, 179, -180, -179]])
def test_other_angles_turn_too(values):
    out = tileconv.convolve(along(values, units="degree", standard_name="azimuth"), PAIR)
    assert out.c.values[1] in (359.5, 179.5)
    plain = tileconv.convolve(along(values, units="m"), PAIR).c.values
    assert abs(plain[1]) < 180


def test_what_is_not_known_stays_beside_itself():
    y, _ = np.mgrid[0:8, 0:10].astype(float)
    known = np.hypot(y - 4, np.arange(10) - 5) < 4
    array = xr.DataArray(
        np.ones((8, 10)), dims=YX, coords={"lat": (YX, np.where(known, y, np.nan))}
    )
    for kernel, pad in ((3, 2), (2, 1), (4, 2)):
        out = tileconv.convolve(array, np.ones((kernel, kernel)), padding=pad).lat.values
        shift = (kernel - 1) / 2 - pad
        for o in np.ndindex(out.shape):
            rows, columns = ([int(np.floor(i + shift)), int(np.ceil(i + shift))] for i in o)
            inside = min(rows + columns) >= 0 and rows[1] < 8 and columns[1] < 10
            if inside:
                assert np.isfinite(out[o]) == known[np.ix_(rows, columns)].all()
    row = along([np.nan, 0, 1, 2, 3, 4])
    got = tileconv.convolve(row, PAIR, padding=(1, 0)).c.values
    np.testing.assert_array_equal(got[2:], [0.5, 1.5, 2.5, 3.5, 4.5])


def test_equal_steps_are_measured_from_the_line():
    rows = np.arange(4000)
    drift = rows + 0.99e-3 / 4000 * rows**2.0  # no step differs by a thousandth, the sum does
    out = tileconv.convolve(along(drift), PAIR)
    np.testing.assert_allclose(out.c, (drift[1:] + drift[:-1]) / 2, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "attrs"),
    [
        (np.array([1, 7, 7, 7, 1, 1, 7, 1], "uint8"), {}),
        (np.arange(8), {"flag_values": [1, 2], "flag_meanings": "a b"}),
        (np.arange(8) > 3, {}),
    ],
)
def test_codes_are_picked_or_dropped(values, attrs):
    out = tileconv.convolve(along(values, **attrs), np.ones((3, 1)), stride=2)
    np.testing.assert_array_equal(out.c, values[1:-1:2])
    for kernel, pad in ((2, 0), (3, 2)):
        with pytest.warns(UserWarning, match="^c cannot be recomputed"):
            out = tileconv.convolve(along(values, **attrs), np.ones((kernel, 1)), padding=(pad, 0))
        assert "c" not in out.coords


def test_whole_numbers_stay_whole_in_padding():
    ids = 2**60 + np.arange(5)
    out = tileconv.convolve(along(ids), np.ones((3, 1)), padding=(2, 0))
    assert out.c.values.tolist() == [2**60 + i for i in range(-1, 6)]


def test_dates_of_whole_seconds_have_halves():
    times = np.array(["2020-01-01T00:00:00", "2020-01-01T00:00:01"], "M8[s]")
    out = tileconv.convolve(along(times), PAIR)
    assert out.c.values[0] == np.datetime64("2020-01-01T00:00:00.5")
    out = tileconv.convolve(along(times - times[0]), PAIR, padding=(1, 0))
    assert out.c.values[0] == np.timedelta64(-500, "ms")


def test_picked_coordinates_keep_their_indexes():
    index = pd.MultiIndex.from_product([[1, 2], list("abc")], names=["block", "col"])
    levels = xr.Coordinates.from_pandas_multiindex(index, "x")
    array = xr.DataArray(np.ones((6, 6)), dims=YX, coords=levels)
    out = tileconv.convolve(array, np.ones((3, 3)), stride=2)
    assert out.x.values.tolist() == [(1, "b"), (2, "a")]
    assert out.sel(block=2).col.values.tolist() == ["a"]
    with pytest.warns(UserWarning, match="x, block, col cannot be recomputed"):
        out = tileconv.convolve(array, np.ones((2, 2)))
    assert not set(out.coords)


def test_coordinates_of_two_dimensions_named_like_one():
    two = xr.Variable(YX, np.add.outer(np.arange(8.0), np.arange(10.0)))
    coords = xr.Coordinates({"x": two}, indexes={})
    out = tileconv.convolve(xr.Dataset({"v": (YX, np.ones((8, 10)))}, coords=coords), BOX)
    np.testing.assert_array_equal(out.x, two[1:-1, 1:-1])


def test_one_pixel_whose_step_is_known():
    for step in (np.float32(-2), np.int64(-2), -2):
        y = ("y", [5.0], {"resolution": step})
        array = xr.DataArray(np.ones((1, 6)), dims=YX, coords={"y": y})
        out = tileconv.convolve(array, np.ones((3, 1)), padding=(2, 0))
        np.testing.assert_array_equal(out.y, [7, 5, 3])
    with pytest.warns(UserWarning, match="y cannot be recomputed"):
        out = tileconv.convolve(array.assign_coords(y=[5.0]), np.ones((3, 1)), padding=(2, 0))
    assert "y" not in out.coords


@pytest.mark.parametrize("given", [[10.0], (10.0,), np.array([10.0]), 10, np.float32(10)])
def test_steps_in_attributes_of_coordinates(given):
    array = grid().assign_coords(x=grid().x.assign_attrs(resolution=given))
    out = tileconv.convolve(array, BOX, stride=2).x.attrs["resolution"]
    assert np.ravel(out).tolist() == [20]
    assert isinstance(out, list | tuple | np.ndarray) == isinstance(
        given, list | tuple | np.ndarray
    )


# ------------------------------------------------------------------------------------- attributes


def test_grid_mappings_of_stacks():
    said = {"GeoTransform": "0 10 0 100 0 -10"}
    for values in ([0, 0], [0]):
        data = xr.Dataset(
            {
                "v": (("time", *YX), np.ones((len(values), 12, 16)), {"grid_mapping": "crs"}),
                "crs": ("time", values, said),
            }
        )
        out = tileconv.convolve(data, np.ones((4, 4)), stride=4)
        assert out.crs.attrs == {"GeoTransform": "0.0 40.0 0.0 100.0 0.0 -40.0"}
        array = data.set_coords("crs").v
        moved = tileconv.convolve(array, np.ones((4, 4)), stride=4)
        assert moved.crs.attrs == out.crs.attrs


@pytest.mark.parametrize("dtype", [np.int16, np.int8, np.uint8, int])
def test_offsets_of_whole_numbers(dtype):
    array = xr.DataArray(
        np.full((8, 8), 20, "uint16"),
        dims=YX,
        attrs={"scale_factor": 1.0, "add_offset": dtype(100)},
    )
    for kernel in (BOX, BOX * 9, -BOX, np.array([[0.1, 0.2], [0.3, 0.1]])):
        out = tileconv.convolve(array, kernel)
        decoded = out.values * out.attrs["scale_factor"] + out.attrs["add_offset"]
        np.testing.assert_allclose(decoded, 120 * kernel.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DX", 10.0), ("northernmost_latitude", 5.0), ("latitude_step", 0.1), ("cellsize", 10),
        ("geospatial_westbound_longitude", 5.0), ("x#actual_range", "0 5"), ("data_minimum", 1),
        ("NC_GLOBAL#geospatial_lat_min", "3"), ("spatial_resolution", "10 m"), ("v#valid_max", 5),
    ],
)  # fmt: skip
def test_words_of_other_communities(name, value):
    with pytest.warns(UserWarning, match="not true of the output"):
        out = tileconv.convolve(grid(attrs={name: value}).to_dataset(), BOX, stride=2)
    assert name not in out.v.attrs


def test_what_is_still_true_stays():
    said = {"bbox": (0, 1, 2, 3), "geospatial_lat_min": 5.0, "extent": "Full Disk", "spec": "ISO"}
    assert tileconv.convolve(grid(attrs=said), BOX, padding="same").attrs == said
    words = {"extent": "Full Disk", "spec": "ISO", "area": "Alps"}
    assert tileconv.convolve(grid(attrs=words), BOX, stride=3).attrs == words


@pytest.mark.parametrize(
    "attrs",
    [
        {"bounds": [0, 0, 10, 10]}, {"bounds": {"a": 1}}, {"coordinates": np.array([1, 2])},
        {"grid_mapping": np.array([1, 2])}, {"count": np.array([3, 5])}, {"dtype": np.array([1])},
        {"height": np.array([1, 2]), "width": 4}, {"transform": range(1, 7)}, {"transform": None},
        {"transform": {1, 2, 3, 4, 5, 6}}, {"res": [[1], [2, 3]]}, {"resolution": True},
        {"shape": [[1], [2, 3]]}, {"proj:shape": [[1], [2, 3]]}, {"long_name": [["a"], ["b", "c"]]},
        {"units": [[1], [1, 2]]}, {"gcps": np.array([1, 2])}, {"gcps": np.float64(3)}, {"rpcs": 5},
        {"LINE_OFF": "x"}, {1: 2, None: 3}, {"_FillValue": b"x"}, {"scale_factor": [[1], [1, 2]]},
        {"missing_value": {"a": 1}}, {"nodatavals": [[1], [2, 3]]}, {"TIFFTAG_XRESOLUTION": [1]},
    ],
    ids=lambda attrs: str(attrs)[:30],
)  # fmt: skip
@pytest.mark.parametrize("kernel", [BOX, np.stack([BOX, BOX]), BOX[None, None].repeat(2, axis=1)])
def test_attributes_of_any_kind_raise_nothing(attrs, kernel):
    array = bands(2).assign_attrs(attrs)
    mapped = array.assign_coords(spatial_ref=((), 0, attrs))
    coordinate = array.assign_coords(y=array.y.assign_attrs(attrs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for data in (array, mapped, coordinate, array.to_dataset().assign_attrs(attrs)):
            out = tileconv.convolve(data, kernel, stride=2)
            pickle.loads(pickle.dumps(copy.deepcopy(out)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[10, 0, 0], [0, -10, 100], [0, 0, 1]], [[40, 0, 0], [0, -40, 100], [0, 0, 1]]),
        ("(10, 0, 0, 0, -10, 100)", "(40.0, 0.0, 0.0, 0.0, -40.0, 100.0)"),
        ("10 0 0 0 -10 100", "40.0 0.0 0.0 0.0 -40.0 100.0"),
    ],
)
def test_transforms_keep_their_form(given, expected):
    out = tileconv.convolve(grid(attrs={"transform": given}), np.ones((4, 4)), stride=4)
    assert out.attrs["transform"] == expected


def test_names_of_what_is_gone():
    data = grid().to_dataset().assign(weight=("y", np.ones(12)))
    data.v.attrs["ancillary_variables"] = "weight"
    with pytest.warns(UserWarning, match="ancillary_variables|weight"):
        out = tileconv.convolve(data, BOX, stride=2)
    assert "ancillary_variables" not in out.v.attrs


def test_rows_along_x():
    array = grid(place=True).transpose("x", "y")
    named = tileconv.convolve(array, np.ones((1, 2)), stride=(4, 2), dims=("x", "y"))
    found = tileconv.convolve(array, np.ones((2, 1)), stride=(2, 4))
    xr.testing.assert_identical(named, found)
    assert named.spatial_ref.attrs["GeoTransform"] == "-15.0 40.0 0.0 100.0 0.0 -20.0"


def test_rasters_without_a_place_get_none(make_raster, tmp_path):
    pixels = np.ones((1, 12, 12), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        source = make_raster(pixels, transform=rasterio.Affine.identity(), crs=4326)
        with rioxarray.open_rasterio(source) as array:
            out = tileconv.convolve(array.load(), BOX, stride=2)
        tileconv.convolve_raster(source, tmp_path / "out.tif", BOX, stride=2)
        with rioxarray.open_rasterio(tmp_path / "out.tif") as theirs:
            np.testing.assert_array_equal(out.x, theirs.x)
            assert out.spatial_ref.attrs == theirs.spatial_ref.attrs
        out.rio.to_raster(tmp_path / "o.tif")
        with rasterio.open(tmp_path / "o.tif") as dataset:
            assert dataset.transform == rasterio.Affine.identity()


@pytest.mark.parametrize(
    ("said", "slices", "expected"),
    [
        ({"resolution": 3000}, slice(None), 6000),  # metres beside another unit
        ({"resolution": 10.0}, slice(None, None, 3), 60.0),  # left behind by the slice
        ({"res": (10.0, 10.0)}, slice(None, None, 3), (60.0, 60.0)),
        ({"resolution_at_standard_parallel": 50000.0}, slice(None), 100000.0),
        ({"resolution": "high"}, slice(None), "high"),
        ({"transform": "log"}, slice(None), "log"),
    ],
)
def test_sizes_of_pixels_in_any_units(said, slices, expected):
    array = grid(np.ones((36, 36)), attrs=said).isel(y=slices, x=slices)
    out = tileconv.convolve(array, BOX, stride=2)
    assert out.attrs == {next(iter(said)): expected}


def test_attributes_of_a_whole_dataset():
    said = {"TIFFTAG_XRESOLUTION": 1.0, "transform": (10, 0, 0, 0, -10, 100), "title": "scene"}
    out = tileconv.convolve(grid().to_dataset().assign_attrs(said), np.ones((4, 4)), stride=4)
    assert out.attrs == {"TIFFTAG_XRESOLUTION": 0.25, "transform": BLOCKS, "title": "scene"}


def test_labels_of_banks_are_words(tmp_path):
    said = {"units": "days since 2000-01-01", "scale_factor": 1.0, "axis": "T"}
    planes = ("time", *YX), np.ones((2, 6, 6))
    data = xr.Dataset({"v": planes}, coords={"time": ("time", [0.0, 1.0], said)})
    out = tileconv.convolve(data, np.ones((2, 3, 3)))
    assert out.time.attrs == {"axis": "T"}
    out.to_netcdf(tmp_path / "o.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "o.nc", engine="scipy") as again:
        assert again.time.values.astype(str)[3] == "kernel 2:1.0"


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_stored_positions_with_a_fill(dtype):
    lat = np.arange(64).reshape(8, 8).astype(dtype)
    lat[:, :3] = -999
    said = {"_FillValue": lat.dtype.type(-999), "scale_factor": 0.5, "units": "degrees_north"}
    data = xr.Dataset({"v": (YX, np.ones((8, 8)))}, coords={"lat": (YX, lat, said)})
    meant = xr.decode_cf(data)
    for kernel in (2, 3):
        out = xr.decode_cf(tileconv.convolve(data, np.ones((kernel, kernel)), stride=2))
        expected = tileconv.convolve(meant, np.ones((kernel, kernel)), stride=2)
        np.testing.assert_allclose(out.lat, expected.lat)


@pytest.mark.parametrize("lazy", [False, True])
def test_stored_longitudes_turn_as_they_are_meant(lazy):
    lon = (np.arange(350, 371, 2.0)[None] + np.zeros((6, 1))) % 360
    said = {"scale_factor": 0.01, "add_offset": 180.0, "units": "degrees_east"}
    stored = xr.Variable(YX, ((lon - 180) * 100).astype("int16"), said)
    data = xr.Dataset({"v": (YX, np.ones(lon.shape))}, coords={"lon": stored})
    data = data.assign_coords(lon=data.lon.chunk({"x": 3})) if lazy else data
    out = xr.decode_cf(tileconv.convolve(data, np.ones((2, 2))))
    np.testing.assert_allclose(out.lon[0], [351, 353, 355, 357, 359, 1, 3, 5, 7, 9])


def test_signs_that_are_stored():
    array = xr.DataArray(np.full((5, 5), 3.0), dims=YX, attrs={"_Unsigned": "true"})
    with pytest.warns(UserWarning, match="_Unsigned"):
        assert tileconv.convolve(array, -BOX, dtype="int16").attrs == {}


STORED = {"scale_factor": 0.1}


def test_stored_coordinates_mean_places():
    y = ("y", (950 - 100 * np.arange(12)).astype("i2"), STORED)
    x = ("x", (50 + 100 * np.arange(16)).astype("i2"), {**STORED, "units": "degrees_east"})
    said = {"transform": TRANSFORM, "res": (10.0, 10.0)}
    array = xr.DataArray(np.ones((12, 16)), dims=YX, coords={"y": y, "x": x}, attrs=said)
    out = tileconv.convolve(array, np.ones((4, 4)), stride=4)
    assert out.attrs == {"transform": BLOCKS, "res": (40.0, 40.0)}
    np.testing.assert_allclose(out.x * 0.1, 20 + 40.0 * np.arange(4))
    one = array.isel(x=[0])
    out = tileconv.convolve(one, np.ones((2, 2)), padding="same")
    np.testing.assert_allclose(out.x * 0.1, [10])


@pytest.mark.parametrize("where", ["bounds", "coordinate"])
def test_units_of_bounds_are_those_of_their_coordinate(where):
    cells = (np.stack([np.arange(95, 255, 10), np.arange(105, 265, 10)], 1) + 180) % 360 - 180
    said = {"units": "degrees_east"}
    stored = (cells * 100).astype("i4") if where == "bounds" else cells
    own = {"scale_factor": 0.01, **said} if where == "bounds" else {}
    data = xr.Dataset(
        {"a": (YX, np.ones((12, 16))), "xb": (("x", "n"), stored, own)},
        coords={
            "x": ("x", (np.arange(100, 260, 10.0) + 180) % 360 - 180, {"bounds": "xb", **said})
        },
    )
    out = tileconv.convolve(data, np.ones((2, 2)))
    bounds = out.xb.values * (0.01 if where == "bounds" else 1)
    assert np.abs((bounds.mean(1) - out.x + 180) % 360 - 180).max() in (0, 180)
    np.testing.assert_allclose(bounds[:7], [[c - 5, c + 5] for c in out.x.values[:7]])


@pytest.mark.parametrize("place", ["stack", "attributes"])
def test_control_points_anywhere(place):
    point = {"properties": {"id": "1", "info": "", "row": 2.0, "col": 2.0}, "geometry": {}}
    points = {"type": "FeatureCollection", "features": [point]}
    array = xr.DataArray(np.ones((2, 12, 16)), dims=("band", *YX), attrs={"AREA_OR_POINT": "Point"})
    if place == "attributes":
        array.attrs["gcps"] = points
    else:
        array = array.assign_coords(spatial_ref=("band", [0, 0], {"gcps": points}))
    with pytest.warns(UserWarning, match="AREA_OR_POINT is Area"):
        assert tileconv.convolve(array, BOX, stride=2).attrs["AREA_OR_POINT"] == "Area"


def test_stacks_without_a_place_get_none():
    said = {"GeoTransform": "0 1 0 0 0 1"}
    for first in (0.5, 0):
        array = xr.DataArray(
            np.ones((2, 12, 16)),
            dims=("band", *YX),
            coords={
                "spatial_ref": ("band", [0, 0], said),
                "y": np.arange(12) + first,
                "x": np.arange(16) + first,
            },
        )
        out = tileconv.convolve(array, np.ones((2, 2)), stride=2)
        assert out.spatial_ref.attrs == said
        np.testing.assert_array_equal(out.x, np.arange(8) + first)
        assert out.x.dtype == array.x.dtype


def test_ends_of_coordinates_of_two_dimensions():
    lat = np.tile(np.arange(12.0)[:, None], (1, 16))
    said = {"actual_range": [0.0, 11.0], "units": "degrees_north"}
    array = xr.DataArray(np.ones((12, 16)), dims=YX, coords={"lat": (YX, lat, said)})
    with pytest.warns(UserWarning, match="actual_range of lat"):
        out = tileconv.convolve(array, BOX, stride=2)
    assert out.lat.attrs == {"units": "degrees_north"}


def test_picked_coordinates_forget_what_is_gone():
    x = xr.Variable("x", np.arange(16.0), {}, {"bounds": "xb", "chunks": (16,), "source": "f.nc"})
    gaps = np.stack([np.arange(16.0) - 0.4, np.arange(16.0) + 0.4], 1)
    data = xr.Dataset({"a": (YX, np.ones((12, 16)))}, coords={"x": x, "xb": (("x", "n"), gaps)})
    with pytest.warns(UserWarning, match="xb cannot"):
        out = tileconv.convolve(data, BOX, stride=3)
    assert out.x.encoding == {}
    assert data.x.encoding["bounds"] == "xb"
    named = xr.Dataset({"a": (("band", *YX), np.ones((2, 8, 8))), "bb": (("band", "n"), gaps[:2])})
    named = named.assign_coords(band=("band", [5, 6], {"bounds": "bb"}))
    with pytest.warns(UserWarning, match="band, bb tells|bb, band tells"):
        out = tileconv.convolve(named, np.ones((1, 2, 3, 3)))
    assert "band" not in out.coords
    assert "bb" not in out


def test_whole_longitudes_turn():
    lon = np.array([330, 340, 350, 0, 10, 20])
    array = xr.DataArray(np.ones((8, 6)), dims=("lat", "lon"), coords={"lon": lon})
    out = tileconv.convolve(array, np.ones((2, 2)), stride=2)
    assert out.lon.values.tolist() == [335, 355, 15]


# ---------------------------------------------------------------------------------- missing pixels


def test_nodata_of_signs_that_are_stored():
    ones = np.ones((5, 5), "i1")
    data = xr.Dataset({"a": (YX, -ones, {"_Unsigned": "true"}), "f": (YX, ones)})
    with pytest.warns(UserWarning, match="no pixel of f is missing"):
        out = tileconv.convolve(data, BOX, nodata=255)
    assert np.isnan(out.a).all()
    np.testing.assert_allclose(out.f, 1)


@pytest.mark.parametrize("declared", [-9999.0, complex(-9999), np.complex64(-9999), 1j])
def test_complex_values_that_are_declared(declared):
    values = np.full((4, 4), 3 + 1j, "complex64")
    values[1, 1] = -9999
    array = xr.DataArray(values, dims=YX, attrs={"_FillValue": declared})
    if declared == 1j:
        with pytest.warns(UserWarning, match="is no real number"):
            assert not np.isnan(tileconv.convolve(array, [[1.0]])).any()
    else:
        assert np.isnan(tileconv.convolve(array, [[1.0]]).values).sum() == 1


@pytest.mark.parametrize("lazy", [False, True])
def test_complex_pixels_that_are_declared_missing(lazy):
    values = np.full((4, 4), 3 + 1j, "complex64")
    values[1, 1] = -9999
    array = xr.DataArray(values, dims=YX, attrs={"_FillValue": -9999.0})
    out = tileconv.convolve(array.chunk({"x": 2}) if lazy else array, [[1.0]])
    assert np.argwhere(np.isnan(out.values)).tolist() == [[1, 1]]
    assert np.isnan(out.attrs["_FillValue"])


@pytest.mark.parametrize("lazy", [False, True])
def test_nodatavals_belong_to_the_dimension_band(lazy):
    values = np.arange(36.0).reshape(2, 2, 3, 3)
    array = xr.DataArray(values, dims=("band", "time", *YX), attrs={"nodatavals": (1.0, 19.0)})
    array = array.chunk({"x": 2, "band": 1}) if lazy else array
    missing = np.isnan(tileconv.convolve(array, [[1.0]]).values)
    assert np.argwhere(missing).tolist() == [[0, 0, 0, 1], [1, 0, 0, 1]]


@pytest.mark.parametrize("which", [0, [0, 1], slice(1, None)])
def test_nodatavals_of_other_bands(which):
    array = bands(3, nodatavals=(1, 2, 3)).isel(band=which)
    with pytest.warns(UserWarning, match="nodatavals has 3 values"):
        assert not np.isnan(tileconv.convolve(array, BOX)).any()


def test_names_belong_to_the_dimension_band():
    said = {"long_name": ("red", "green"), "nodatavals": (-1.0, -2.0)}
    array = xr.DataArray(np.ones((2, 2, 8, 8)), dims=("band", "time", *YX), attrs=said)
    out = tileconv.convolve(array, np.ones((3, 3, 3)))
    assert (out.sizes["time"], out.attrs["long_name"]) == (6, ("red", "green"))
    assert len(out.attrs["nodatavals"]) == 2


# ------------------------------------------------------------------------------ datasets and trees


def test_latitudes_among_the_variables_are_no_data():
    y, x = np.mgrid[40:48, 5:15].astype(float)
    data = xr.Dataset(
        {
            "v": (YX, np.ones((8, 10))),
            "lat": (YX, y, {"standard_name": "latitude"}),
            "lon": (YX, x, {"units": "degrees_east"}),
            "line_time": (YX, np.full((8, 10), "2020-01-01", "M8[ns]")),
        }
    )
    out = tileconv.convolve(data, BOX)
    np.testing.assert_array_equal(out.lat, y[1:-1, 1:-1])
    np.testing.assert_array_equal(out.lon, x[1:-1, 1:-1])
    assert out.line_time.dtype.kind == "M"


def test_only_grids_with_variables_move():
    data = xr.Dataset(
        {"v": (YX, np.ones((8, 10))), "p": (("time", "lat"), np.ones((2, 1))), "q": ("lon", [7.0])},
        coords={"lat": [5.0], "lon": [6.0]},
    )
    out = tileconv.convolve(data, BOX, stride=2)
    xr.testing.assert_identical(out.drop_vars("v"), data.drop_vars("v"))
    with pytest.raises(ConvolutionError, match=r"no variable among \('p', 'q'\) has rows"):
        tileconv.convolve(data.drop_vars("v"), BOX)


def test_two_grids_of_one_variable():
    four = xr.DataArray(
        np.ones((6, 6, 8, 8)), dims=("lat", "lon", *YX), coords={"y": np.arange(8.0)}
    )
    out = tileconv.convolve(four.to_dataset(name="v"), BOX)
    assert out.v.shape == (6, 6, 6, 6)
    both = xr.Dataset({"v": four, "w": (("lat", "lon"), np.ones((6, 6)))})
    with pytest.raises(ConvolutionError, match="'v' has rows and columns of two grids"):
        tileconv.convolve(both, BOX)
    assert tileconv.convolve(both, BOX, dims=YX).w.shape == (6, 6)


BANK = np.ones((2, 3, 3))


def test_names_of_new_dimensions_that_are_taken():
    data = xr.Dataset({"v": (YX, np.ones((8, 10)))})
    many = (("kernel", *YX), np.ones((3, 8, 10)))
    for taken in (
        data.assign(kernel=3),
        data.assign(w=("kernel", np.arange(5))),
        data.assign(w=many),
    ):
        with pytest.raises(ConvolutionError, match="dimension 'kernel', and there is one"):
            tileconv.convolve(taken, BANK)
    with pytest.raises(ConvolutionError, match="dimension 'kernel'"):
        tileconv.convolve(
            xr.DataArray(np.ones((8, 8)), dims=("kernel", "x")), BANK, dims=("kernel", "x")
        )
    mixed = data.assign(b=(("band", *YX), np.ones((1, 8, 10))))
    assert tileconv.convolve(mixed, np.ones((3, 1, 3, 3))).sizes["band"] == 3


def test_variables_without_numbers():
    data = xr.Dataset(
        {
            "v": (YX, np.ones((8, 8))),
            "word": (YX, np.full((8, 8), "a")),
            "t": (YX, np.zeros((8, 8), "m8[s]")),
        }
    )
    with pytest.warns(UserWarning, match="word, t cannot be recomputed"):
        out = tileconv.convolve(data, BOX, nodata=5)
    assert list(out) == ["v"]
    with pytest.raises(ConvolutionError, match="cannot convolve"):
        tileconv.convolve(data.word.assign_attrs(_FillValue=0), BOX)


def test_errors_name_the_variable_or_the_node():
    data = xr.Dataset({"b": (("band", *YX), np.ones((3, 8, 8))), "qa": (YX, np.ones((8, 8)))})
    with pytest.raises(ConvolutionError, match="^qa: .*there are 1"):
        tileconv.convolve(data, np.ones((1, 3, 3, 3)))
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), "/r10m": data})
    with pytest.raises(ConvolutionError, match="^/r10m: qa: "):
        tileconv.convolve(tree, np.ones((1, 3, 3, 3)))


def test_what_nodes_of_a_tree_hand_down():
    red = xr.Dataset(coords={"band": ["r", "g"]})
    child = xr.Dataset({"v": (("band", *YX), np.ones((2, 8, 8)))})
    tree = xr.DataTree.from_dict({"/": red, "/a": child, "/b": xr.Dataset({"q": ("band", [1, 2])})})
    out = tileconv.convolve(tree, BANK)
    assert out.band.values.tolist() == ["kernel 1:r", "kernel 2:r", "kernel 1:g", "kernel 2:g"]
    assert out["b/q"].values.tolist() == [1, 1, 2, 2]
    lat = xr.Dataset(coords={"lat": np.arange(8.0)})
    leaf = xr.Dataset({"v": (("lat", "lon"), np.ones((8, 8)))})
    tree = xr.DataTree.from_dict(
        {"/": lat, "/a/b": leaf, "/c": xr.Dataset({"lat_name": ("lat", [*"abcdefgh"])})}
    )
    with pytest.warns(UserWarning, match="lat_name cannot"):
        out = tileconv.convolve(tree, BOX)
    assert out.lat.values.tolist() == [1, 2, 3, 4, 5, 6]
    part = tileconv.convolve(tree["a"], BOX)
    assert part["b"].v.shape == (6, 6)
    stack = xr.Dataset(coords={"time": [1, 2, 3]})
    three = xr.Dataset({"v": (("time", *YX), np.ones((3, 8, 8)))})
    four = xr.Dataset({"v": (("time", "band", *YX), np.ones((3, 2, 8, 8)))})
    with pytest.raises(ConvolutionError, match="/b: dimension 'time' holds the bands of another"):
        tileconv.convolve(xr.DataTree.from_dict({"/": stack, "/a": three, "/b": four}), BANK)
    # sizes may differ between nodes that share nothing
    tree = xr.DataTree.from_dict({"/a": leaf, "/b": leaf.isel(lat=slice(5))})
    assert {n.path: dict(n.sizes) for n in tileconv.convolve(tree, BOX).leaves} == {
        "/a": {"lat": 6, "lon": 6}, "/b": {"lat": 3, "lon": 6}
    }  # fmt: skip


# -------------------------------------------------------------------------------- laziness, calls


def test_nothing_is_computed_before_it_is_asked_for():
    y = np.arange(40.0)
    rows, columns = np.mgrid[0:40, 0:50].astype(float)
    data = xr.Dataset(
        {
            "v": (YX, da.ones((40, 50), chunks=10)),
            "n": (YX, da.zeros((40, 50), chunks=10, dtype="int16")),
        },
        coords={
            "y": y,
            "lat": (YX, da.from_array(rows, chunks=10)),
            "lon": (YX, da.from_array(columns, chunks=10)),
        },
    )
    data.n.attrs.update(_FillValue=3, missing_value=[4, 5])
    with nothing_computed():
        out = tileconv.convolve(data, np.ones((2, 2)), padding=1, chunks=7)
    for name in ("v", "n", "lat", "lon"):
        assert {size for sizes in out[name].chunks for size in sizes[:-1]} == {7}
    np.testing.assert_allclose(out.lat[:, 3], np.arange(41) - 0.5)


@pytest.mark.parametrize(
    "dims",
    [
        5,
        True,
        {"y", "x"},
        (d for d in YX),
        {"y": 1, "x": 2},
        [["y"], ["x"]],
        ("y",),
        "y",
        ("y", "y"),
    ],
)
def test_dims_that_are_none(dims):
    for data in (grid(), grid().to_dataset(), xr.DataTree.from_dict({"/": grid().to_dataset()})):
        with pytest.raises(ConvolutionError, match="dims names rows and|no node of the tree"):
            tileconv.convolve(data, BOX, dims=dims)


@pytest.mark.parametrize("nodata", ["abc", "5", [5], np.array([5]), {}, 5j, True])
def test_nodata_that_is_no_number(nodata):
    for data in (np.ones((5, 5), "uint8"), np.ones((5, 5)), grid(), grid().to_dataset()):
        with pytest.raises(ConvolutionError, match="nodata must be a number, got"):
            tileconv.convolve(data, BOX, nodata=nodata)


def test_nodata_of_numpy():
    array = np.arange(25.0).reshape(5, 5)
    for nodata in (np.float32(12), np.int64(12), np.array(12)):
        assert np.isnan(tileconv.convolve(array, BOX, nodata=nodata)).all()


def test_warnings_of_the_accessor_point_at_the_call():
    with pytest.warns(UserWarning, match="valid_min") as told:
        grid(attrs={"valid_min": 0}).tileconv.convolve(BOX)
    assert told[0].filename == __file__


def test_chunks_of_variables_that_have_others():
    data = xr.Dataset(
        {"v": (YX, da.ones((20, 20), chunks=6)), "w": (YX, da.ones((20, 20), chunks=7))}
    )
    out = tileconv.convolve(data, BOX, stride=2, chunks=4)
    assert out.v.chunks == out.w.chunks == ((4, 4, 1), (4, 4, 1))


def test_chunks_of_what_is_not_lazy():
    for data in (grid(), grid().to_dataset(), xr.DataTree.from_dict({"/": grid().to_dataset()})):
        with pytest.raises(ConvolutionError, match="chunks is for dask arrays"):
            tileconv.convolve(data, BOX, chunks=4)
