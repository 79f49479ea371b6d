"""COGs and Zarr stores as others see them, and outputs that are verified."""

import json
import os

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from conftest import read
from test_files import job_for

import tileconv
from tileconv.cli import main
from tileconv.errors import ConfigError, OutputExistsError
from tileconv.verify import verify

RIOXARRAY = "ignore:Use `@` matmul:PendingDeprecationWarning"
"""rioxarray multiplies transforms in the way that affine has deprecated."""


@pytest.fixture
def pixels(rng):
    return rng.integers(1, 4000, (3, 300, 410)).astype("uint16")


@pytest.fixture
def source(make_raster, pixels):
    pixels[:, 40:60, 100:130] = 0
    return make_raster(pixels, block=(64, 64), compress="deflate", nodata=0)


def blur(source, target, **keys):
    return job_for(source, target, **{"kernel.weights": np.ones((3, 5)) / 15, **keys})


# ---- COG


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_cog_is_valid_and_holds_the_bits_of_the_geotiff(source, tmp_path, compress, dtype):
    from rio_cogeo import cog_validate

    keys = {"output.dtype": dtype, "output.nodata": -1, "output.compress": compress}
    tileconv.run(blur(source, tmp_path / "a.tif", **keys))
    tileconv.run(blur(source, tmp_path / "c.tif", **keys, **{"output.driver": "COG"}))
    valid, errors, warnings = cog_validate(tmp_path / "c.tif", strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    assert read(tmp_path / "c.tif").tobytes() == read(tmp_path / "a.tif").tobytes()
    with rasterio.open(tmp_path / "a.tif") as plain, rasterio.open(tmp_path / "c.tif") as cog:
        if compress != "none":  # GDAL 3.10 leaves this mark out of uncompressed bands
            assert cog.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        for name in ("crs", "transform", "nodata", "dtypes", "descriptions"):
            assert getattr(cog, name) == getattr(plain, name)
        assert cog.tags() == plain.tags()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "c.tif", "in.tif"]


@pytest.mark.parametrize(("overviews", "factors"), [("average", [2]), ("mode", [2]), ("none", [])])
def test_overviews_are_made_as_asked(make_raster, rng, tmp_path, overviews, factors):
    array = rng.integers(1, 9, (700, 900)).astype("uint8")
    keys = {"output.driver": "COG", "output.blocksize": 512, "output.overviews": overviews}
    tileconv.run(job_for(make_raster(array), tmp_path / "c.tif", **keys))
    with rasterio.open(tmp_path / "c.tif") as cog:
        assert cog.overviews(1) == factors
    if factors:
        with rasterio.open(tmp_path / "c.tif", overview_level=0) as half:
            small = half.read(1)
        four = array.reshape(350, 2, 450, 2)
        if overviews == "average":
            np.testing.assert_allclose(small, four.mean((1, 3)), rtol=1e-6)
        else:
            assert set(np.unique(small)) <= set(np.unique(array))


# ---- Zarr


@pytest.mark.filterwarnings(RIOXARRAY)
@pytest.mark.parametrize("compress", ["deflate", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_xarray_opens_a_store_with_its_grid(source, tmp_path, compress, dtype):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    keys = {"output.dtype": dtype, "output.compress": compress, "stride": 2, "padding": 1}
    keys |= {"output.nodata": -1} if dtype == "int16" else {}
    tileconv.run(blur(source, tmp_path / "a.tif", **keys))
    report = tileconv.run(blur(source, tmp_path / "z.zarr", **keys, **{"output.driver": "Zarr"}))
    with rasterio.open(tmp_path / "a.tif") as tiff:
        with xr.open_zarr(tmp_path / "z.zarr", mask_and_scale=False) as raw:
            assert raw.band_data.values.tobytes() == tiff.read().tobytes()
        with xr.open_zarr(tmp_path / "z.zarr") as store:
            data = store.band_data
            assert data.rio.crs == tiff.crs
            assert data.rio.transform() == tiff.transform
            np.testing.assert_equal(data.rio.encoded_nodata, tiff.nodata)
            missing = tiff.read_masks() == 0
            np.testing.assert_array_equal(np.isnan(data.values), missing)
            assert data.x.values[0] == tiff.transform.c + tiff.transform.a / 2
    stored = sum(p.stat().st_size for p in (tmp_path / "z.zarr").rglob("*") if p.is_file())
    assert report.bytes_written == stored


def test_a_rotated_store_has_no_axes_and_names_of_bands_are_kept(make_raster, tmp_path, rng):
    zarr = pytest.importorskip("zarr")
    turned = rasterio.Affine(20, 5, 700000, 5, -20, -2800000)
    source = make_raster(rng.random((2, 50, 60), "float32"), transform=turned)
    with rasterio.open(source, "r+") as dataset:
        dataset.set_band_description(1, "red")
    tileconv.run(job_for(source, tmp_path / "z", **{"output.driver": "Zarr", "stride": 5}))
    store = zarr.open_group(tmp_path / "z", mode="r")
    assert sorted(store.array_keys()) == ["band", "band_data", "spatial_ref"]
    assert store["band_data"].attrs["long_name"] == ["red", "band 2"]
    numbers = [float(n) for n in store["spatial_ref"].attrs["GeoTransform"].split()]
    expected = turned @ rasterio.Affine.translation(-2, -2) @ rasterio.Affine.scale(5)
    np.testing.assert_allclose(numbers, expected.to_gdal(), rtol=1e-12)


def test_a_store_is_replaced_only_by_a_store(source, tmp_path):
    pytest.importorskip("zarr")
    keys = {"output.driver": "Zarr"}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious.txt").write_text("keep me")
    (tmp_path / "file.zarr").write_text("keep me")
    for name in ("folder", "file.zarr"):
        with pytest.raises(OutputExistsError, match="not replaced"):
            tileconv.run(blur(source, tmp_path / name, **keys))
    assert (tmp_path / "folder" / "precious.txt").read_text() == "keep me"
    tileconv.run(blur(source, tmp_path / "z", **keys))
    tileconv.run(blur(source, tmp_path / "z", **keys, stride=2))
    assert verify(blur(source, tmp_path / "z", **keys, stride=2)).passed
    with pytest.raises(OutputExistsError, match="exists already"):
        tileconv.run(blur(source, tmp_path / "z", **keys, **{"output.overwrite": False}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.zarr", "folder", "in.tif", "z"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"output.overviews": "mode"}, "overviews: go with driver COG; the driver is GTiff"),
        ({"output.driver": "Zarr", "output.compress": "lzw"}, "compress: Zarr stores"),
        ({"output.driver": "Zarr", "output.predictor": 2}, "predictor: Zarr has none"),
        ({"output.driver": "PNG"}, "driver: must be GTiff, COG or Zarr; got 'PNG'"),
    ],
)
def test_what_does_not_go_with_a_driver_is_refused(keys, told, source, tmp_path):
    with pytest.raises(ConfigError, match=told):
        blur(source, tmp_path / "x", **keys)


# ---- verify

VARIED = {
    "plain": {},
    "stride beyond blocks": {"stride": 90},
    "reflect": {"padding": [2, 3, 4, 5], "padding_mode": "reflect", "stride": [2, 3]},
    "wrap": {"padding": 7, "padding_mode": "wrap"},
    "constant": {"padding": 2, "padding_value": 7.5},
    "missing": {"padding": 2, "padding_mode": "missing", "missing": "renormalize"},
    "skip": {"missing": "skip", "output.valid_fraction": True, "min_valid_fraction": 0.4},
    "integers": {"output.dtype": "uint8", "output.nodata": 255},
    "float64": {"output.dtype": "float64", "dilation": 3, "kernel.flip": True},
    "bank": {"kernel.weights": np.arange(1, 19.0).reshape(2, 3, 3), "output.valid_fraction": True},
    "sums": {"kernel.weights": np.arange(1, 28.0).reshape(1, 3, 3, 3), "bias": [2.5]},
}


@pytest.mark.parametrize("keys", VARIED.values(), ids=VARIED)
def test_a_right_output_passes(keys, source, tmp_path):
    keys = {"compute.tile": 64, "output.blocksize": 64} | keys
    job = blur(source, tmp_path / "out.tif", **keys)
    tileconv.run(job)
    found = verify(job, windows=10)
    assert found.passed, str(found)
    assert (found.windows, found.different) == (10, 0)
    assert found.outputs > 100


def test_a_mask_is_seen(make_raster, pixels, tmp_path):
    mask = np.full((300, 410), 255, np.uint8)
    mask[100:150, 50:300] = 0
    job = blur(make_raster(pixels, mask=mask, block=(64, 64)), tmp_path / "out.tif")
    tileconv.run(job)
    assert np.isnan(read(job.target)).any()
    assert verify(job).passed


@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
def test_an_output_of_another_job_is_found_out(driver, source, tmp_path):
    keys = {"output.driver": driver}
    tileconv.run(blur(source, tmp_path / "out", **keys))
    assert verify(blur(source, tmp_path / "out", **keys)).passed
    other = np.ones((3, 5)) / 15
    other[1, 1] += 1e-6  # one part in a million is another result
    found = verify(blur(source, tmp_path / "out", **keys, **{"kernel.weights": other}))
    assert not found.passed
    assert found.different > 0.2 * found.outputs


def test_one_changed_value_in_a_window_is_found(source, tmp_path):
    job = blur(source, tmp_path / "out.tif", **{"output.compress": "none"})
    tileconv.run(job)
    with rasterio.open(job.target, "r+") as dataset:
        block = dataset.read(2, window=((5, 6), (7, 8)))
        dataset.write(np.nextafter(block, np.inf, dtype=block.dtype), 2, window=((5, 6), (7, 8)))
    found = verify(job)
    assert found.different >= 1
    assert "rows 0 to 95, columns 0 to 95" in found.faults[0]


@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
def test_a_cut_output_is_found_out(driver, source, tmp_path):
    job = blur(source, tmp_path / "out", **{"output.driver": driver})
    tileconv.run(job)
    victim = job.target
    if driver == "Zarr":
        victim = max(job.target.rglob("c/*/*/*"), key=lambda path: path.stat().st_size)
    os.truncate(victim, victim.stat().st_size - 100)
    found = verify(job)
    assert not found.passed
    assert found.windows == 0


@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
def test_a_report_tells_rot_that_no_window_shows(driver, source, tmp_path):
    job = blur(
        source,
        tmp_path / "out",
        **{"output.driver": driver, "output.compress": "none", "output.report": True},
    )
    done = tileconv.run(job)
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["bytes_written"] == done.bytes_written
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o666 & ~umask()
    assert verify(job, windows=1).passed
    victim = tmp_path / "out" / "x" / "c" / "0" if driver == "Zarr" else tmp_path / "out"
    with victim.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        last = file.read(1)
        file.seek(-20, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    found = verify(job, windows=1)
    assert not found.passed
    assert "its report says" in found.faults[0]


def umask():
    now = os.umask(0)
    os.umask(now)
    return now


def test_the_command_says_what_it_found(source, tmp_path):
    keys = {"kernel": {"name": "box"}, "output": {"path": "out.tif"}}
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"input": {"path": str(source)}, **keys}))
    tell = CliRunner().invoke
    assert tell(main, ["verify", str(job)]).exit_code == 2  # no output yet
    assert tell(main, ["run", str(job), "-q"]).exit_code == 0
    done = tell(main, ["verify", str(job), "--windows", "5", "--json"])
    assert (done.exit_code, json.loads(done.output)["windows"]) == (0, 5)
    wrong = tell(main, ["verify", str(job), "--set", "kernel.size=5", "--set", "padding=1"])
    assert wrong.exit_code == 3, wrong.output
    assert "Wrong" in wrong.output
