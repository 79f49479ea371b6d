"""`tileconv verify` on every kind of input that runs, beside values merged by numpy alone."""

import json

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from click.testing import CliRunner
from conftest import read

import tileconv
from tileconv.cli import main
from tileconv.verify import verify

GRID = rasterio.Affine(30, 0, 700000, 0, -30, -2800000)
KERNEL = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
SHAPE = (70, 110)
PLACES = ((0, 0, 70, 60), (0, 20, 48, 110))
"""Of two scenes that overlap and leave a hole: top, left, bottom, right."""
DRIVERS = ("GTiff", "COG", "Zarr")


def load(source, target, driver="GTiff", stride=2, **of_input):
    return tileconv.load_job(
        {
            "input": {"path": source, **of_input},
            "kernel": {"weights": KERNEL},
            "stride": stride,
            "output": {
                "path": target,
                "driver": driver,
                "blocksize": 128 if driver == "COG" else 16,
            },
            "compute": {"tile": 16},
        }
    )


def each_band_masked(make, path, valid):
    """Give a raster a mask of each band, in a file beside it."""
    beside = make(np.where(valid, 255, 0).astype("uint8"), f"{path.name}.msk", block=(16, 32))
    with rasterio.open(beside, "r+") as dataset:
        dataset.update_tags(**{f"INTERNAL_MASK_FLAGS_{i + 1}": 0 for i in range(len(valid))})


def nodata_of_bands(path, values):
    told = "".join(
        f'<PAMRasterBand band="{i}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
        for i, value in enumerate(values, 1)
    )
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{told}</PAMDataset>")


def make_scene(make, kind, pixels, name, transform, rng):
    """Write a scene in which some pixels are missing; return (path, where it is valid)."""
    profile = {"block": (16, 32), "transform": transform}
    valid = np.broadcast_to(rng.random(pixels.shape[1:]) < 0.9, pixels.shape)
    mask = np.where(valid[0], 255, 0).astype("uint8")
    if kind == "alpha":
        profile |= {"photometric": "RGB", "alpha": "YES"}
        return make(np.concatenate([pixels, mask[None]]), name, **profile), valid
    if kind == "mask":
        return make(pixels, name, mask=mask, **profile), valid
    if kind == "nodata of bands":
        path = make(pixels, name, **profile)
        nodata_of_bands(path, (7, 8, 9))
        return path, pixels != np.array([7, 8, 9])[:, None, None]
    if kind == "masks of bands":
        path = make(pixels, name, **profile)
        valid = rng.random(pixels.shape) < 0.9
        each_band_masked(make, path, valid)
        return path, valid
    path = make(pixels, name, nodata=5, **profile)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.1, 3.0, 1.0), (-7.3, 0.0, 2.0)
    return path, pixels != 5


def merged(scenes, scaled):
    """Return what the scenes mean together, NaN where none of them is valid."""
    out = np.full((3, *SHAPE), np.nan, "float32")
    for pixels, valid, (top, left, bottom, right) in scenes:
        values = pixels.astype("float64")
        if scaled:
            scales, offsets = np.array([0.1, 3.0, 1.0]), np.array([-7.3, 0.0, 2.0])
            values = values * scales[:, None, None] + offsets[:, None, None]
        here = out[:, top:bottom, left:right]
        take = valid & np.isnan(here)
        here[take] = values.astype("float32")[take]
    return out


MIXES = {
    "alpha": ("alpha", "alpha"),
    "mask": ("mask", "mask"),
    "nodata of bands": ("nodata of bands", "nodata of bands"),
    "masks of bands": ("masks of bands", "masks of bands"),
    "a mask, then masks of bands": ("mask", "masks of bands"),
    "masks of bands, then a mask": ("masks of bands", "mask"),
    "scaled": ("scaled", "scaled"),
}


@pytest.mark.parametrize("kinds", MIXES.values(), ids=MIXES)
def test_a_mosaic_whose_pixels_are_hidden(kinds, make_raster, tmp_path, rng):
    scenes, paths = [], []
    for i, (place, kind) in enumerate(zip(PLACES, kinds, strict=True)):
        top, left, bottom, right = place
        pixels = rng.integers(1, 40, (3, bottom - top, right - left)).astype("uint8")
        grid = GRID @ rasterio.Affine.translation(left, top)
        path, valid = make_scene(make_raster, kind, pixels, f"{i}.tif", grid, rng)
        scenes.append((pixels, valid, place))
        paths.append(str(path))
    keys = {"mosaic": True, "scaled": "scaled" in kinds}
    job = load(paths, str(tmp_path / "out.tif"), **keys)
    report = tileconv.run(job)
    assert report.blocks_decoded == tileconv.plan(job).blocks_needed
    expected = tileconv.convolve(merged(scenes, keys["scaled"]), KERNEL, stride=2)
    assert np.isnan(expected).any()
    assert not np.isnan(expected).all()
    assert read(job.target).tobytes() == expected.tobytes()
    found = verify(job, windows=8)
    assert found.passed, str(found)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", ["masks of bands", "nodata of bands", "alpha", "scaled"])
def test_a_raster_whose_pixels_are_hidden(kind, driver, make_raster, tmp_path, rng):
    pixels = rng.integers(1, 40, (3, *SHAPE)).astype("uint8")
    path, valid = make_scene(make_raster, kind, pixels, "in.tif", GRID, rng)
    target = tmp_path / "out"
    job = load(str(path), str(target), driver, scaled=kind == "scaled")
    tileconv.run(job)
    found = verify(job, windows=6)
    assert found.passed, str(found)
    if driver != "Zarr":
        whole = merged([(pixels, valid, (0, 0, *SHAPE))], kind == "scaled")
        expected = tileconv.convolve(whole, KERNEL, stride=2)
        assert read(target).tobytes() == expected.tobytes()
    without = verify(load(str(path), str(target), driver, mask="none"), windows=6)
    assert not without.passed  # a mask that is left out shows


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_mosaic_that_changed_fails(driver, make_raster, tmp_path, rng):
    pixels = rng.integers(1, 4000, (1, *SHAPE)).astype("uint16")
    paths = [
        make_raster(pixels[..., :60], "a.tif", block=(16, 16), transform=GRID),
        make_raster(
            pixels[..., 60:] + 0,
            "b.tif",
            block=(16, 16),
            transform=GRID @ rasterio.Affine.translation(60, 0),
        ),
    ]
    job = load([*map(str, paths)], str(tmp_path / "out"), driver, mosaic=True)
    tileconv.run(job)
    assert verify(job).passed
    with rasterio.open(paths[1], "r+") as scene:
        scene.write(scene.read() + 1)
    found = verify(job)
    assert not found.passed
    assert found.different


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_output_of_another_machine(driver, make_raster, tmp_path, rng):
    """Where the job does not say it, the size of blocks depends on threads and memory."""
    path = make_raster(rng.integers(1, 4000, (2, 600, 600)).astype("uint16"), block=(64, 64))

    def job(workers, **output):
        return tileconv.load_job(
            {
                "input": {"path": str(path)},
                "kernel": {"weights": KERNEL},
                "output": {"path": str(tmp_path / "out"), "driver": driver, **output},
                "compute": {"workers": workers},
            }
        )

    sides = [tileconv.plan(job(workers)).choice.block for workers in (1, 16)]
    assert sides[0] > sides[1]
    tileconv.run(job(1))
    found = verify(job(16), windows=6)
    assert found.passed, str(found)
    if driver == "Zarr":
        folder = tmp_path / "out" / "band_data" / "c" / "1" / "0"
        next(folder.iterdir()).unlink()
    else:
        with (tmp_path / "out").open("r+b") as file:
            file.truncate((tmp_path / "out").stat().st_size - 5000)
    assert not verify(job(16), windows=6).passed
    if driver == "Zarr":
        asked = verify(job(16, blocksize=64), windows=6)
        assert "its chunks are" in asked.faults[0]


def test_a_vrt(make_raster, tmp_path, rng):
    pixels = rng.integers(1, 4000, (2, *SHAPE)).astype("uint16")
    path = make_raster(pixels, "in.tif", block=(32, 32))
    rasterio.shutil.copy(path, tmp_path / "in.vrt", driver="VRT")
    job = load(str(tmp_path / "in.vrt"), str(tmp_path / "out.tif"))
    tileconv.run(job)
    assert read(job.target).tobytes() == tileconv.convolve(pixels, KERNEL, stride=2).tobytes()
    found = verify(job)
    assert found.passed, str(found)


def test_a_batch_tells_each_output(make_raster, tmp_path, rng):
    for name in "abc":
        make_raster(rng.integers(1, 99, (1, 40, 50)).astype("uint8"), f"{name}.tif")
    job = tmp_path / "job.yaml"
    keys = {"input": {"path": ["a.tif", "b.tif", "c.tif"]}, "kernel": {"name": "box"}}
    job.write_text(json.dumps({**keys, "output": {"path": "out/{stem}.tif"}}))
    tell = CliRunner().invoke
    assert tell(main, ["run", str(job), "-q"]).exit_code == 0
    done = tell(main, ["verify", str(job), "--json"])
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.exit_code, [each["passed"] for each in told]) == (0, [True] * 3)
    with rasterio.open(tmp_path / "out" / "b.tif", "r+") as dataset:
        dataset.write(dataset.read() + 1)
    (tmp_path / "out" / "c.tif").unlink()
    done = tell(main, ["verify", str(job)])
    assert done.exit_code == 3, done.output  # b is wrong, which is graver than no c
    assert "c.tif: there is no output to verify" in done.stderr
    assert done.stdout.count("all bits are those of a single pass") == 1


def test_a_store_says_what_a_geotiff_says_and_what_it_drops(make_raster, tmp_path, rng):
    """Root attributes by domain; units, scale and offset where xarray looks for them."""
    import xarray

    raw = rng.integers(1, 4000, (2, 40, 50)).astype("uint16")
    path = make_raster(raw, "in.tif", block=(32, 32))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(MISSION="Landsat")
        dataset.update_tags(ns="SENSOR", GAIN="high")
        dataset.update_tags(1, WAVELENGTH="655")
        dataset.scales, dataset.offsets, dataset.units = (0.5, 0.5), (2.0, 2.0), ("K", "K")
    job = load(str(path), str(tmp_path / "out.zarr"), "Zarr", stride=1)
    notes = tileconv.plan(job).notes
    assert "tags of bands are dropped: a Zarr store has no place for them" in notes
    report = tileconv.run(job)
    assert set(notes) == set(report.warnings)
    with xarray.open_zarr(tmp_path / "out.zarr", consolidated=False) as opened:
        found = opened.load()
    assert found.attrs["MISSION"] == "Landsat"
    assert found.attrs["SENSOR"] == {"GAIN": "high"}
    assert found.attrs["TILECONV"]["STRIDE"] == "1 1"
    band = found.band_data
    assert band.attrs["units"] == "K"
    meant = tileconv.convolve(raw * 0.5 + 2.0, KERNEL)  # xarray applies scale and offset
    np.testing.assert_allclose(band.values, meant, rtol=1e-6)
    np.testing.assert_allclose(band.x.values, 700000 + 30 * (np.arange(48) + 1.5))
    np.testing.assert_allclose(band.y.values, -2800000 - 30 * (np.arange(38) + 1.5))


def test_a_store_of_bands_that_differ_has_no_scale(make_raster, tmp_path, rng):
    path = make_raster(rng.integers(1, 99, (2, 20, 20)).astype("uint16"), "in.tif")
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (0.5, 2.0)
    job = load(str(path), str(tmp_path / "out.zarr"), "Zarr")
    assert any("units, scale and offset differ" in note for note in tileconv.plan(job).notes)
    tileconv.run(job)
    told = json.loads((tmp_path / "out.zarr" / "band_data" / "zarr.json").read_text())
    assert "scale_factor" not in told["attributes"]
