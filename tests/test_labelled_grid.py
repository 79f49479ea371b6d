"""What attributes say of the grid: moved with it, dropped with a warning, or overruled."""

import json

import numpy as np
import pytest
from labelled import BLOCK, BLOCKS, BOX, QUIET, TRANSFORM, gdal_of, grid

xr = pytest.importorskip("xarray")
rioxarray = pytest.importorskip("rioxarray")

import rasterio  # noqa: E402

import tileconv  # noqa: E402

pytestmark = QUIET


@pytest.mark.parametrize("name", ["transform", "affine", "proj:transform", "spatial:transform"])
@pytest.mark.parametrize(
    "kind",
    [
        tuple,
        list,
        np.array,
        lambda six: rasterio.Affine(*six),
        lambda six: np.array([*six, 0, 0, 1]).reshape(3, 3),
        lambda six: " ".join(map(str, six)),
        lambda six: str([*six]),
    ],
)
@pytest.mark.parametrize("with_coordinates", [True, False])
def test_transforms_in_attributes_move(name, kind, with_coordinates):
    array = grid(attrs={name: kind(TRANSFORM)})
    array = array if with_coordinates else array.drop_vars(["x", "y"])
    out = tileconv.convolve(array, BLOCK, stride=4)
    expected = kind(BLOCKS)
    assert type(out.attrs[name]) is type(expected)
    if isinstance(expected, str):
        assert json.loads(
            f"[{out.attrs[name].strip('[]').replace(' ', ',').replace(',,', ',')}]"
        ) == [*BLOCKS]
    else:
        np.testing.assert_allclose(np.ravel(out.attrs[name])[:6], np.ravel(expected)[:6])
    if name == "transform" and kind in (tuple, list):
        assert tuple(out.rio.transform()[:6]) == BLOCKS


def test_resolutions_move():
    said = {
        "res": (10.0, 10.0),
        "resolution": 10,
        "height": 12,
        "width": 16,
        "spatial:shape": [12, 16],
    }
    out = tileconv.convolve(grid(attrs=said), BLOCK, stride=(4, 2))
    assert out.attrs["res"] == (20.0, 40.0)
    assert out.attrs["resolution"] == (20.0, 40.0)
    assert (out.attrs["height"], out.attrs["width"]) == out.shape == (3, 7)
    assert out.attrs["spatial:shape"] == [3, 7]
    out = tileconv.convolve(grid(attrs=said), BLOCK, stride=4)
    assert (out.attrs["resolution"], type(out.attrs["resolution"])) == (40, int)
    # the input's size is another's: it says nothing of this array
    out = tileconv.convolve(grid(attrs={"height": 99, "width": 16}), BLOCK, stride=4)
    assert (out.attrs["height"], out.attrs["width"]) == (99, 16)


def test_attributes_of_coordinates_move():
    array = grid()
    array = array.assign_coords(
        x=array.x.assign_attrs(resolution=10.0, units="metre", actual_range=[0, 160]),
        y=array.y.assign_attrs(resolution=-10.0),
    )
    with pytest.warns(UserWarning, match="actual_range of x"):
        out = tileconv.convolve(array, BLOCK, stride=4)
    assert out.x.attrs == {"resolution": 40.0, "units": "metre"}
    assert out.y.attrs == {"resolution": -40.0}
    assert array.x.attrs["resolution"] == 10.0  # the input's own are not touched


class Area:
    """What satpy has in attrs["area"]."""


@pytest.mark.parametrize(
    "said",
    [
        {"area": Area()},
        {"spec": object()},
        {"bbox": (0, -20, 160, 100)},
        {"geospatial_lat_min": 3.5},
        {"geospatial_bounds": "POLYGON ((0 0, 1 0, 1 1, 0 0))"},
        {"Northernmost_Northing": 100.0},
        {"transform": "10 20 30"},
        {"GeoTransform": "none"},
        {"res": "10 m"},
        {"valid_range": [0, 5]},
        {"actual_range": [0.0, 5.0]},
        {"STATISTICS_MEAN": 0.5},
        {"flag_meanings": "land sea"},
    ],
)
def test_what_cannot_be_said_anew_is_dropped_with_a_warning(said):
    keeps = {"title": "scene", "area_code": 7, "geospatial_lat_units": "degrees_north"}
    (name,) = said
    with pytest.warns(UserWarning, match=f"not true of the output are dropped: {name}$"):
        out = tileconv.convolve(grid(attrs={**said, **keeps}), BOX, stride=2)
    assert out.attrs == keeps


def test_a_warning_points_at_the_call():
    with pytest.warns(UserWarning, match="valid_min") as told:
        tileconv.convolve(grid(attrs={"valid_min": 0, "valid_max": 5}), BOX)
    (only,) = told
    assert only.filename == __file__
    assert "valid_min, valid_max" in str(only.message)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(10, None), slice(20, None)),
        (slice(None, None, 2), slice(None, None, 2)),
        (slice(None, None, -1), slice(None)),
        (slice(5, 20), slice(3, None, 3)),
        (slice(7, 8), slice(2, 30)),
    ],
)
def test_coordinates_win_over_attributes(tmp_path, rows, columns):
    source = tmp_path / "in.tif"
    whole = grid(np.arange(2400, dtype="float32").reshape(40, 60))
    whole.rio.to_raster(source)
    with rioxarray.open_rasterio(source) as opened:
        piece = (
            opened[0]
            .load()
            .isel(y=rows, x=columns)
            .assign_attrs(transform=TRANSFORM, res=(10.0, 10.0))
        )
    out = tileconv.convolve(piece, np.ones((1, 4)), stride=2).rename("v")
    a, _, _, _, e, f = TRANSFORM
    y, x = np.arange(40)[rows], np.arange(60)[columns]
    dy = (y[1] - y[0]) if y.size > 1 else 1
    dx = x[1] - x[0]
    expected = (
        2 * a * dx, 0.0, a * (x[0] + 0.5 - dx / 2 + dx), 0.0, 2 * e * dy,
        f + e * (y[0] + 0.5 - dy / 2 - dy * 0.5),
    )  # fmt: skip
    np.testing.assert_allclose(out.attrs["transform"], expected)
    np.testing.assert_allclose(out.attrs["res"], (abs(expected[0]), abs(expected[4])))
    stated = [float(part) for part in out.spatial_ref.attrs["GeoTransform"].split()]
    np.testing.assert_allclose(stated, np.array(expected)[[2, 0, 1, 5, 3, 4]])
    if out.sizes["y"] > 1:
        np.testing.assert_allclose(out.rio.transform(recalc=True)[:6], expected)
        np.testing.assert_allclose(gdal_of(out, tmp_path / "out.tif")[0], expected)
    if dy > 0:  # GDAL turns a raster that it reads from netCDF north up
        np.testing.assert_allclose(gdal_of(out.to_dataset(), tmp_path / "out.nc")[0], expected)


def test_coordinates_that_number_pixels_do_not_win():
    # rioxarray's, where it takes the transform of another grid mapping
    array = grid().assign_coords(y=np.arange(12) + 0.5, x=np.arange(16) + 0.5)
    array = array.rio.write_transform(rasterio.Affine(*TRANSFORM))
    out = tileconv.convolve(array, BLOCK, stride=4)
    assert out.spatial_ref.attrs["GeoTransform"] == "0.0 40.0 0.0 100.0 0.0 -40.0"
    np.testing.assert_array_equal(out.x, [2, 6, 10, 14])


@pytest.mark.parametrize("decode", [True, "all"])
@pytest.mark.parametrize("words", ["spatial_ref", "spatial_ref: x y"])
@pytest.mark.parametrize("as_array", [False, True])
def test_grid_mappings_move_among_data_variables(tmp_path, decode, words, as_array):
    source = grid().rio.write_transform().to_dataset()
    if as_array:
        said = source.spatial_ref.attrs["GeoTransform"]
        source.spatial_ref.attrs["GeoTransform"] = np.array([float(part) for part in said.split()])
    source.v.encoding["grid_mapping"] = words
    source.to_netcdf(tmp_path / "in.nc", engine="scipy")
    if decode == "all" and ":" in words:
        pytest.skip("xarray decodes the plain form")
    with xr.open_dataset(tmp_path / "in.nc", engine="scipy", decode_coords=decode) as data:
        assert ("spatial_ref" in data.data_vars) == (decode is True)
        out = tileconv.convolve(data.load(), BLOCK, stride=4)
    if not as_array:
        assert out.spatial_ref.attrs["GeoTransform"] == "0.0 40.0 0.0 100.0 0.0 -40.0"
    else:
        assert out.spatial_ref.attrs["GeoTransform"].tolist() == [0, 40, 0, 100, 0, -40]
    if as_array:
        return  # GDAL reads a text alone
    assert gdal_of(out, tmp_path / "out.nc")[0] == BLOCKS
    with xr.open_dataset(tmp_path / "out.nc", engine="scipy", decode_coords="all") as again:
        assert tuple(again.v.rio.transform(recalc=True)[:6]) == BLOCKS
        np.testing.assert_array_equal(again.v, out.v)


def test_a_grid_mapping_of_two_grids_says_nothing_of_either():
    mapping = xr.DataArray(0, attrs={"GeoTransform": "0 10 0 100 0 -10", "crs_wkt": "..."})
    data = xr.Dataset(
        {
            "a": (("y", "x"), np.ones((8, 8)), {"grid_mapping": "crs"}),
            "b": (("lat", "lon"), np.ones((6, 6)), {"grid_mapping": "crs"}),
            "crs": mapping,
        }
    )
    with pytest.warns(UserWarning, match="GeoTransform"):
        out = tileconv.convolve(data, BOX, stride=2)
    assert out.crs.attrs == {"crs_wkt": "..."}
    assert (out.a.shape, out.b.shape) == ((3, 3), (2, 2))


def test_gcps_and_rpcs_move():
    points = {
        "type": "FeatureCollection",
        "features": [
            {"properties": {"id": "1", "info": "", "row": 6.0, "col": 2.0}, "geometry": {"a": 1}}
        ],
    }
    rpc = {"LINE_OFF": "5.5", "LINE_SCALE": "6", "SAMP_OFF": 7.5, "SAMP_SCALE": 8.0}
    array = xr.DataArray(
        np.ones((12, 16)),
        dims=("y", "x"),
        coords={
            "spatial_ref": ((), 0, {"gcps": json.dumps(points), "GeoTransform": "0 1 0 0 0 1"})
        },
        attrs={
            **rpc,
            "AREA_OR_POINT": "Point",
            "rpcs": {k.lower(): float(v) for k, v in rpc.items()},
        },
    )
    with pytest.warns(UserWarning, match="AREA_OR_POINT is Area"):
        out = tileconv.convolve(array, np.ones((2, 4)), stride=(2, 4))
    (feature,) = json.loads(out.spatial_ref.attrs["gcps"])["features"]
    assert feature == {
        "properties": {"id": "1", "info": "", "row": 3.0, "col": 0.5}, "geometry": {"a": 1}
    }  # fmt: skip
    assert out.spatial_ref.attrs["GeoTransform"] == "0 1 0 0 0 1"
    assert out.attrs["AREA_OR_POINT"] == "Area"
    assert (out.attrs["LINE_OFF"], out.attrs["LINE_SCALE"]) == ("2.5", "3.0")
    assert (out.attrs["SAMP_OFF"], out.attrs["SAMP_SCALE"]) == (1.5, 2.0)
    assert out.attrs["rpcs"]["samp_off"] == 1.5
