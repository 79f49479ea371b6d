"""Names, units, scale and offset follow the bands that an output comes from."""

import numpy as np
import pytest
from labelled import BLOCK, BOX, QUIET, bands, grid

xr = pytest.importorskip("xarray")

import rasterio  # noqa: E402

import tileconv  # noqa: E402

pytestmark = QUIET


def test_names_follow_the_bands(tmp_path):
    array = bands(
        3,
        long_name=("red", "green", "blue"),
        units=("1", "1", "K"),
        band_tags=[{"n": i} for i in range(3)],
    )
    array = array.assign_coords(wavelength=("band", [0.6, 0.5, 0.4]))
    bank = tileconv.convolve(array, np.ones((2, 3, 3)))
    assert bank.attrs["long_name"][:3] == ("kernel 1:red", "kernel 2:red", "kernel 1:green")
    assert bank.attrs["units"] == ("1", "1", "1", "1", "K", "K")
    assert [tags["n"] for tags in bank.attrs["band_tags"]] == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(bank.wavelength, [0.6, 0.6, 0.5, 0.5, 0.4, 0.4])
    bank.rio.to_raster(tmp_path / "bank.tif")
    with rasterio.open(tmp_path / "bank.tif") as dataset:
        assert dataset.descriptions == bank.attrs["long_name"]
    with pytest.warns(UserWarning, match="band") as told:
        sums = tileconv.convolve(array, np.ones((2, 3, 3, 3)))
    assert "wavelength" in str(told[0].message)
    assert "units, band_tags" in str(told[1].message)
    assert sums.attrs == {"long_name": ("output 1", "output 2")}
    assert sums.band.values.tolist() == [1, 2]
    with pytest.warns(UserWarning, match="wavelength tells|band_tags"):
        one = tileconv.convolve(array, [[[[1.0]], [[1.0]], [[0.0]]]])
    assert one.attrs["units"] == "1"
    assert one.attrs["long_name"] == "output 1"
    depthwise = tileconv.convolve(array, np.ones((3, 1, 3, 3)), groups=3)
    np.testing.assert_array_equal(depthwise.wavelength, array.wavelength)
    plain = tileconv.convolve(array, BOX)
    assert plain.attrs == array.attrs


def test_labels_of_bands_are_readable():
    times = np.array(["2020-01-01", "2020-02-01", "2020-03-01T12:30"], "M8[ns]")
    array = bands(3).rename(band="time").assign_coords(time=times, quality=("time", [1, 2, 3]))
    bank = tileconv.convolve(array, np.ones((2, 3, 3)))
    assert bank.time.values[0] in ("kernel 1:2020-01-01", "kernel 1:2020-01-01T00:00")
    assert bank.time.values[5] == "kernel 2:2020-03-01T12:30"
    assert bank.quality.values.tolist() == [1, 1, 2, 2, 3, 3]
    with pytest.warns(UserWarning, match="time, quality tells of single bands"):
        sums = tileconv.convolve(array, np.ones((3, 3, 3, 3)))  # three sums are not the three times
    assert "time" not in sums.coords
    assert "quality" not in sums.coords
    # a plane that was one of the bands
    with pytest.warns(UserWarning, match="band is a dimension of the output"):
        many = tileconv.convolve(bands(2)[0].assign_coords(band=1), np.ones((2, 1, 3, 3)))
    assert many.dims == ("band", "y", "x")
    assert "band" not in many.coords


def test_scale_and_offset_of_stored_numbers(tmp_path):
    stored = grid(
        np.full((12, 16), 40, "int16"),
        place=True,
        attrs={"scale_factor": 0.1, "add_offset": 7.0, "_FillValue": np.int16(-1)},
    ).to_dataset()
    meant = xr.decode_cf(stored).v
    for kernel, options in (
        (BLOCK, {}),
        (BLOCK * 3, {"stride": 4}),
        (BLOCK, {"missing": "renormalize"}),
    ):
        out = tileconv.convolve(stored, kernel, **options)
        expected = tileconv.convolve(meant, kernel, **options)
        assert not {"scale_factor", "add_offset"} & set(expected.attrs)
        np.testing.assert_allclose(xr.decode_cf(out).v, expected, rtol=1e-6)
        out.to_netcdf(tmp_path / "out.nc", engine="scipy")
        with xr.open_dataset(tmp_path / "out.nc", engine="scipy") as again:
            np.testing.assert_allclose(again.v, expected, rtol=1e-6)
        with rasterio.open(f"netcdf:{tmp_path}/out.nc:v") as dataset:
            read = dataset.read(1) * dataset.scales[0] + dataset.offsets[0]
            np.testing.assert_allclose(read[:2, :2], expected[:2, :2], rtol=1e-6)
    with pytest.warns(UserWarning, match="scale_factor, add_offset"):  # 0 stored is 7
        out = tileconv.convolve(stored, BLOCK, missing="skip")
    assert not {"scale_factor", "add_offset"} & set(out.v.attrs)


def test_scales_of_each_band():
    array = bands(2, scales=(0.5, 0.1), offsets=(1.0, 0.0))
    bank = tileconv.convolve(array, np.stack([BOX, 2 * BOX]))
    assert bank.attrs == {
        "scales": (0.5, 0.5, 0.1, 0.1),
        "offsets": pytest.approx((1.0, 2.0, 0.0, 0.0)),
    }
    with pytest.warns(UserWarning, match="scales, offsets"):
        sums = tileconv.convolve(array, np.ones((1, 2, 3, 3)))
    assert not {"scales", "offsets", "scale_factor"} & set(sums.attrs)
    same = tileconv.convolve(bands(2, scale_factor=0.5, add_offset=1.0), np.stack([BOX, 2 * BOX]))
    assert same.attrs == {"scale_factor": 0.5, "offsets": pytest.approx((1.0, 2.0, 1.0, 2.0))}
    odd = bands(2, scale_factor="half")
    with pytest.warns(UserWarning, match="scale_factor"):
        assert tileconv.convolve(odd, BOX).attrs == {}
