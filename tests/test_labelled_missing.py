"""Nodata in every attribute and encoding; missing outputs stay missing when they are written."""

import numpy as np
import pytest
from labelled import BOX, QUIET, gdal_of, grid

xr = pytest.importorskip("xarray")
rioxarray = pytest.importorskip("rioxarray")

import rasterio  # noqa: E402

import tileconv  # noqa: E402
from tileconv import ConvolutionError  # noqa: E402

pytestmark = QUIET


def missing_in(array, **options):
    """Return which pixels are missing, by a kernel of one pixel."""
    return np.isnan(tileconv.convolve(array, [[1.0]], **options).values)


VALUES = np.array([[-999, 5, -9999, 7, 0, 255]])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int16", "int32", "float64"])
@pytest.mark.parametrize(
    ("attrs", "missing"),
    [
        ({"missing_value": np.array([-999.0, -9999.0])}, [0, 2]),
        ({"_FillValue": [-999.0, -9999.0]}, [0, 2]),
        ({"missing_value": (-999, -9999)}, [0, 2]),
        ({"_FillValue": -999, "missing_value": -9999}, [0, 2]),
        ({"_FillValue": np.array([-999])}, [0]),
        ({"_FillValue": "-999"}, [0]),
        ({"fill_value": -999, "nodata": -9999}, [0]),  # as rioxarray: the first
        ({"nodata": -999}, [0]),
        ({"nodatavals": (-999.0,)}, [0]),
        ({"_FillValue": -999, "nodata": 7}, [0]),
        ({"nodata": None}, []),
    ],
)
def test_missing_values_of_all_kinds(attrs, missing, dtype, lazy):
    array = xr.DataArray(VALUES.astype(dtype), dims=("y", "x"), attrs=attrs)
    array = array.chunk({"x": 4}) if lazy else array
    assert np.flatnonzero(missing_in(array)).tolist() == missing
    out = tileconv.convolve(array, [[1.0]])
    for key in attrs:
        assert np.isnan(np.ravel(out.attrs[key])).all()
        assert np.size(out.attrs[key]) == 1
    whole = tileconv.convolve(array, [[1.0]], dtype="int32").values if missing else VALUES
    held = np.ravel(next(v for v in attrs.values()))[0]
    assert (whole.ravel()[missing] == int(held or 0)).all() or not missing


def test_nodata_of_each_band():
    values = np.stack([VALUES, VALUES]).astype("int16")
    for lazy in (False, True):
        array = xr.DataArray(values, dims=("band", "y", "x"), attrs={"nodatavals": (5, 7)})
        array = array.chunk({"band": 1, "x": 4}) if lazy else array
        missing = missing_in(array)
        assert np.argwhere(missing).tolist() == [[0, 0, 1], [1, 0, 3]]
        out = tileconv.convolve(array, [[[1.0]], [[2.0]]])
        assert len(out.attrs["nodatavals"]) == 4


def test_encoded_values_are_missing_where_an_array_cannot_hold_nan():
    array = xr.DataArray(VALUES.astype("int16"), dims=("y", "x"))
    array.encoding["_FillValue"] = 255
    assert np.flatnonzero(missing_in(array)).tolist() == [5]
    decoded = array.astype("float32")
    decoded.encoding["_FillValue"] = 255
    assert not missing_in(decoded).any()  # 255 is a value: what was missing is NaN
    decoded = decoded.where(decoded != 0)
    decoded.encoding["_FillValue"] = 255
    out = tileconv.convolve(decoded, [[1.0]])
    assert np.isnan(out.encoding["_FillValue"])
    assert np.isnan(out.rio.nodata)
    whole = tileconv.convolve(decoded, [[1.0]], dtype="int16")
    assert whole.values[0, 4] == 255
    assert whole.attrs == {"_FillValue": 255}
    assert not whole.encoding.get("_FillValue")


def test_unsigned_bytes_of_netcdf():
    array = xr.DataArray(
        np.array([[-1, 2, -128]], "int8"),
        dims=("y", "x"),
        attrs={"_Unsigned": "true", "_FillValue": np.int8(-1)},
    )
    out = tileconv.convolve(array, [[1.0]])
    np.testing.assert_array_equal(out.values, [[np.nan, 2, 128]])
    assert "_Unsigned" not in out.attrs


def test_the_argument_nodata_wins_over_attributes(tmp_path):
    values = np.zeros((8, 8), "uint8")
    values[:, 4:], values[2, 2] = 90, 255  # 0 is a value, 255 is missing
    array = grid(values, attrs={"_FillValue": 0, "missing_value": 0})
    out = tileconv.convolve(array, BOX, nodata=255, dtype="uint8")
    assert (out.attrs, out.rio.nodata) == ({"_FillValue": 255, "missing_value": 255}, 255)
    assert gdal_of(out, tmp_path / "out.tif")[1] == 255
    bare = tileconv.convolve(grid(values), BOX, nodata=255, dtype="uint8")
    assert bare.attrs == {"_FillValue": 255}
    assert np.isnan(tileconv.convolve(array, BOX, nodata=255).attrs["_FillValue"])
    with pytest.raises(ConvolutionError, match="nodata -9999 is not a value of uint8"):
        tileconv.convolve(array, BOX, nodata=-9999)
    with pytest.raises(ConvolutionError, match="output nodata 255 is not a value of int8"):
        tileconv.convolve(array, BOX, nodata=255, dtype="int8")


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        ("uint8", -9999),
        ("int16", np.nan),
        ("int64", float(2**63 - 1)),
        ("bool", 255),
        ("uint8", "none"),
        ("uint8", 1e20),
        ("float32", 10**400),
    ],
    ids=lambda value: str(value)[:9],
)
def test_nodata_that_the_dtype_cannot_hold(dtype, said):
    array = xr.DataArray(np.ones((5, 5), dtype), dims=("y", "x"), attrs={"_FillValue": said})
    with pytest.warns(UserWarning, match="no pixel is missing for it"):
        out = tileconv.convolve(array, BOX)
    assert np.isnan(out.attrs["_FillValue"])
    assert not np.isnan(out.values).any()
    with pytest.warns(UserWarning, match="no pixel is missing for it|_FillValue"):
        whole = tileconv.convolve(array, BOX, dtype="uint8")
    assert ("_FillValue" in whole.attrs) == (said == 255)  # which the output can hold


def test_nodata_for_some_variables_of_a_dataset():
    ones = np.ones((5, 5))
    data = xr.Dataset(
        {"b4": (("y", "x"), ones.astype("int16")), "qa": (("y", "x"), ones.astype("uint8"))}
    )
    data.b4[2, 2] = -9999
    with pytest.warns(UserWarning, match="no pixel of qa is missing"):
        out = tileconv.convolve(data, BOX, nodata=-9999)
    assert np.isnan(out.b4).all()
    assert not np.isnan(out.qa).any()
    with pytest.raises(ConvolutionError, match="nodata 70000 is not a value of int16"):
        tileconv.convolve(data, BOX, nodata=70000)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("declared", [None, 7.0])
def test_missing_outputs_stay_missing_when_they_are_written(
    make_raster, tmp_path, masked, declared
):
    pixels = np.ones((1, 12, 12), "float32")
    pixels[0, 5, 5] = 7 if declared else np.nan
    source = make_raster(pixels, nodata=declared)
    with rioxarray.open_rasterio(source, masked=masked) as array:
        out = tileconv.convolve(array.load(), BOX)
    assert np.isnan(out.rio.nodata)
    assert np.isnan(out).sum() == 9
    assert np.isnan(gdal_of(out, tmp_path / "out.tif")[1])
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert (dataset.read_masks(1) == 0).sum() == 9
    out[0].drop_vars("band").rename("v").to_dataset().to_netcdf(tmp_path / "o.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "o.nc", engine="scipy") as again:
        assert np.isnan(again.v).sum() == 9
    with rasterio.open(f"netcdf:{tmp_path}/o.nc:v") as dataset:
        assert (dataset.read_masks(1) == 0).sum() == 9
