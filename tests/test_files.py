"""Jobs on files: the bits of the array call, every block decoded as planned, right grids."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import naive
import numpy as np
import pytest
import rasterio
from conftest import ROOT, SHARED, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import random_case

import tileconv
from tileconv.dtypes import Numbers
from tileconv.jobs import prepare, schedule
from tileconv.operators.convolution import Convolution
from tileconv.planning.layout import Layout
from tileconv.planning.plan import make_plan
from tileconv.raster import gdal
from tileconv.raster.dataset_spec import DatasetSpec

DTYPES_IN_FILES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def job_for(source, target, **keys):
    """Return a job from dotted keys, like ``**{"output.dtype": "int16"}``."""
    job = {
        "input": {"path": str(source)},
        "kernel": {"weights": [[1.0]]},
        "output": {"path": str(target), "overwrite": True},
    }
    for key, value in keys.items():
        place = job
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tileconv.load_job(job)


SCENE_JOBS = {  # kernel, stride, padding, mode
    "3x3 stride 4 valid": ((3, 3), 4, "valid", "constant"),
    "5x5 stride 2 same": ((5, 5), 2, "same", "constant"),
    "3x3 stride 1 edge": ((3, 3), 1, 1, "edge"),
    "7x7 stride 64": ((7, 7), 64, "valid", "constant"),
}


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "mode"), SCENE_JOBS.values(), ids=SCENE_JOBS
)
def test_landsat_equals_the_reference_on_every_pixel(
    landsat, tmp_path, rng, kernel, stride, padding, mode
):
    weights = rng.normal(size=kernel)
    job = job_for(
        landsat,
        tmp_path / "out.tif",
        **{"kernel.weights": weights, "stride": stride, "padding": padding, "padding_mode": mode},
    )
    plan = tileconv.plan(job)
    report = tileconv.run(job)
    pixels, out = read(landsat), read(tmp_path / "out.tif")
    pads = plan.to_dict()["padding"]
    for band in range(3):
        expected = naive.convolve(
            pixels[band], weights, stride=(stride, stride), pads=pads, mode=mode
        )
        naive.assert_close(out[band], expected, "float32")
    options = {"stride": stride, "padding": padding, "padding_mode": mode}
    assert out.tobytes() == tileconv.convolve(pixels, weights, **options).tobytes()
    assert report.blocks_decoded == plan.blocks_decoded == plan.blocks_needed
    with rasterio.open(landsat) as given, rasterio.open(tmp_path / "out.tif") as made:
        assert made.crs == given.crs
        check_centres(given.transform, made.transform, kernel, stride, pads)


def check_centres(given, made, kernel, stride, pads, *, dilation=1):
    """An output pixel's centre lies where its field's centre does (6 digits after the point)."""
    for row, column in ((0, 0), (3, 5)):
        centre_y = row * stride - pads[0] + (dilation * (kernel[0] - 1) + 1) / 2
        centre_x = column * stride - pads[1] + (dilation * (kernel[1] - 1) + 1) / 2
        expected = apply(given, centre_x, centre_y)
        centre = apply(made, column + 0.5, row + 0.5)
        np.testing.assert_allclose(centre, expected, atol=1e-6, rtol=0)


def apply(transform, x, y):
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * x + b * y + c, d * x + e * y + f


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_file_in_any_tiles_gives_the_bits_of_the_array_call(data, make_raster, tmp_path):
    seed = data.draw(st.integers(0, 2**32), label="seed")
    case = random_case(seed)
    rng = np.random.default_rng(seed)
    if case.array.dtype.name not in DTYPES_IN_FILES:
        case = case._replace(array=case.array.astype("float64"), nodata=None)
    array = case.array
    if array.ndim == 2:
        array = np.stack([array, array[::-1], np.rot90(array, 2)])
    profile = {"interleave": str(rng.choice(["pixel", "band"])), "nodata": case.nodata}
    if rng.random() < 0.7:
        profile["block"] = tuple(16 * rng.integers(1, 4, 2))
    elif rng.random() < 0.5:
        profile["blockysize"] = int(rng.integers(1, 20))
    if rng.random() < 0.5:
        profile["compress"] = "deflate"
    source = make_raster(array, **profile)
    tile = [int(t) for t in rng.integers(1, 120, 2)]
    threads = int(rng.integers(1, 5))
    job = job_for(
        source,
        tmp_path / "out.tif",
        **{
            **case.job_keys(),
            "output.blocksize": 16,
            "output.compress": "none",
            "compute.tile": tile,
            "compute.workers": threads,
        },
    )
    plan = tileconv.plan(job)
    report = tileconv.run(job)
    expected = tileconv.convolve(array, case.kernel, nodata=case.nodata, **case.options())
    assert read(tmp_path / "out.tif").tobytes() == expected.tobytes()
    assert report.blocks_decoded == plan.blocks_decoded == plan.blocks_needed


@pytest.mark.parametrize("panel", [1, 2, 5, 100])
@pytest.mark.parametrize("mode", ["edge", "wrap"])
@pytest.mark.parametrize("stride", [1, 30])
def test_panels_decode_as_planned(make_raster, tmp_path, rng, monkeypatch, panel, mode, stride):
    """Narrow panels give the same bits, and decode twice only what lies under their seams."""
    array = rng.integers(0, 999, (2, 200, 700)).astype("uint16")
    source = make_raster(array, block=(32, 48), interleave="band")
    kernel = rng.normal(size=(9, 9))
    options = {"padding": 4, "padding_mode": mode, "stride": stride}
    keys = {"kernel.weights": kernel, "output.blocksize": 16, "compute.tile": 16, **options}
    job = job_for(source, tmp_path / "out.tif", **keys)
    header = prepare.read_source(job)
    plan = prepare.plan_header(job, header)
    choice = replace(plan.choice, tiles=replace(plan.tiles, panel=panel))
    narrow = replace(plan, choice=choice)
    monkeypatch.setattr(schedule, "plan_header", lambda job, header: narrow)
    report = tileconv.run(job)
    expected = tileconv.convolve(array, kernel, **options)
    assert read(tmp_path / "out.tif").tobytes() == expected.tobytes()
    assert report.blocks_decoded == narrow.blocks_decoded
    if panel == 100:
        assert narrow.blocks_decoded == narrow.blocks_needed
    elif stride == 1:
        assert narrow.tiles.panels > 1
        assert narrow.blocks_decoded > narrow.blocks_needed


def test_a_tight_limit_narrows_panels_before_it_is_refused():
    convolution = Convolution.of(np.ones((9, 9)))
    layout = Layout((100_000, 1_000_000), np.dtype("uint16"), (512, 512))
    numbers = Numbers.of("uint16")
    seen = {}
    for limit in (8192, 2048, 1024, 512):
        plan = make_plan(convolution, numbers, layout, threads=2, memory_limit=limit << 20)
        seen[limit] = plan.tiles.panels
        assert plan.peak_memory_bytes <= limit << 20
        assert plan.blocks_decoded <= 1.02 * plan.blocks_needed
    assert seen[8192] == 1
    assert seen[512] > seen[1024] > 1
    with pytest.raises(tileconv.ConfigError, match="needs at least .* MiB, and the limit is 200"):
        make_plan(convolution, numbers, layout, threads=2, memory_limit=200 << 20)


def test_untouched_blocks_are_never_read(make_raster, tmp_path, rng):
    """Blocks that no field touches are cut out of the file: reading one would fail."""
    array = rng.integers(0, 255, (640, 640)).astype("uint8")
    source = make_raster(array, block=(64, 64))
    job = job_for(
        source,
        tmp_path / "out.tif",
        **{"kernel.weights": np.ones((3, 3)), "stride": 200, "output.compress": "none"},
    )
    plan = tileconv.plan(job)
    assert plan.blocks_needed == 16
    import tifffile

    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        tags = {name: page.tags[name] for name in ("TileOffsets", "TileByteCounts")}
        offsets = list(tags["TileOffsets"].value)
        where = tags["TileOffsets"].valueoffset
        size = tags["TileOffsets"].dtype.name, tiff.byteorder
    assert size == ("LONG", "<")
    needed = {(200 * o) // 64 for o in range(4)}
    with source.open("r+b") as file:
        for i in range(100):
            if not {i // 10, i % 10} <= needed:
                file.seek(where + 4 * i)
                file.write((2**31).to_bytes(4, "little"))
    assert len(offsets) == 100
    job = job_for(
        source,
        tmp_path / "out.tif",
        **{"kernel.weights": np.ones((3, 3)), "stride": 200, "output.compress": "none"},
    )
    report = tileconv.run(job)
    expected = tileconv.convolve(array, np.ones((3, 3)), stride=200)
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], expected)
    assert report.blocks_decoded == 16


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("kind", ["dataset mask", "alpha", "nodata"])
def test_masked_pixels_are_missing(make_raster, tmp_path, rng, kind, scheduler):
    array = rng.integers(1, 255, (3, 90, 80)).astype("uint8")
    hidden = rng.random((90, 80)) < 0.02
    shown = np.where(hidden, 0, 255).astype("uint8")
    if kind == "dataset mask":
        source = make_raster(array, block=(32, 32), mask=shown, interleave="pixel")
    elif kind == "alpha":
        bands = np.concatenate([array, shown[None]])
        source = make_raster(bands, block=(32, 32), photometric="RGB", alpha="YES")
    else:
        source = make_raster(np.where(hidden, 0, array), block=(32, 32), nodata=0)
    kernel = rng.normal(size=(3, 3))
    keys = {
        "kernel.weights": kernel,
        "stride": 2,
        "compute.scheduler": scheduler,
        "compute.tile": 16,
    }
    tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
    out = read(tmp_path / "out.tif")
    assert out.shape[0] == 3
    for band in range(3):
        expected = naive.convolve(array[band], kernel, stride=(2, 2), masked=hidden)
        naive.assert_close(out[band], expected, "float32")
    tileconv.run(job_for(source, tmp_path / "out.tif", **{**keys, "input.mask": "none"}))
    assert not np.isnan(read(tmp_path / "out.tif")).any()


def test_integer_output_with_nodata(make_raster, tmp_path):
    array = np.array([[1, 2, 3, 255], [4, 5, 6, 7]], "uint8")
    source = make_raster(array, nodata=255)
    report = tileconv.run(job_for(source, tmp_path / "o.tif", **{"output.dtype": "uint8"}))
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0], array)
    assert (report.missing, report.collisions, report.warnings) == (1, 0, ())
    keys = {"output.dtype": "int16", "output.nodata": 4}
    report = tileconv.run(job_for(source, tmp_path / "o.tif", **keys))
    assert report.collisions == 1
    assert "1 valid outputs equal nodata (4)" in report.warnings[0]
    with rasterio.open(tmp_path / "o.tif") as made:
        assert made.nodata == 4


def test_metadata_follows(make_raster, tmp_path, rng):
    array = rng.normal(size=(2, 40, 50)).astype("float32")
    transform = rasterio.Affine(2.0, 0.5, 100.0, -0.25, -3.0, 900.0)  # rotated
    source = make_raster(array, transform=transform, crs="EPSG:3857", nodata=-9999.0)
    with rasterio.open(source, "r+") as dataset:
        dataset.set_band_description(2, "near infrared")
        dataset.update_tags(AREA_OR_POINT="Point")
    keys = {"kernel.weights": np.ones((4, 5)), "stride": [3, 7], "padding": [1, 2], "dilation": 2}
    tileconv.run(job_for(source, tmp_path / "o.tif", **keys))
    with rasterio.open(source) as given, rasterio.open(tmp_path / "o.tif") as made:
        assert np.isnan(made.nodata)
        assert made.crs == given.crs
        assert made.descriptions == (None, "near infrared")
        assert made.tags()["AREA_OR_POINT"] == "Point"
        assert made.tags(ns="TILECONV")["STRIDE"] == "3 7"
        for row, column in ((0, 0), (2, 3)):
            expected = apply(given.transform, column * 7 - 2 + 9 / 2, row * 3 - 1 + 7 / 2)
            centre = apply(made.transform, column + 0.5, row + 0.5)
            np.testing.assert_allclose(centre, expected, atol=1e-6, rtol=0)


def test_no_crs_and_no_transform_are_invented(make_raster, tmp_path):
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        source = make_raster(np.ones((20, 20), "uint8"), crs=None, transform=None)
    tileconv.run(job_for(source, tmp_path / "o.tif", stride=2))
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(tmp_path / "o.tif") as made,
    ):
        assert made.crs is None
        assert made.transform == rasterio.Affine.identity()


@pytest.mark.parametrize("name", sorted(p.name for p in (SHARED / "data" / "real").glob("*.tif")))
def test_real_rasters(name, tmp_path):
    """Every shared raster of a sane size, value by value against the reference."""
    source = SHARED / "data" / "real" / name
    if name.startswith("world"):
        pytest.skip("648 Mpixel: see test_world_reads_only_the_blocks_it_needs")
    kernel = np.array([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]])
    job = job_for(source, tmp_path / "o.tif", **{"kernel.weights": kernel, "stride": 3})
    plan = tileconv.plan(job)
    report = tileconv.run(job)
    assert report.blocks_decoded == plan.blocks_needed
    out = read(tmp_path / "o.tif")
    with rasterio.open(source) as dataset:
        alpha = any(c.name == "alpha" for c in dataset.colorinterp)
        masked = None
        if alpha or rasterio.enums.MaskFlags.per_dataset in dataset.mask_flag_enums[0]:
            masked = dataset.dataset_mask() == 0
        for i, band in enumerate(plan.bands):
            pixels = dataset.read(band)
            nodata = dataset.nodatavals[band - 1]
            expected = naive.convolve(pixels, kernel, stride=(3, 3), nodata=nodata, masked=masked)
            naive.assert_close(out[i], expected, plan.numbers.compute)


def test_world_reads_only_the_blocks_it_needs(tmp_path):
    source = SHARED / "data" / "real" / "world_36000x18000.tif"
    if not source.exists():
        pytest.skip("shared data are not here")
    job = job_for(
        source, tmp_path / "o.tif", **{"kernel.weights": np.ones((15, 15)), "stride": 2048}
    )
    plan = tileconv.plan(job)
    report = tileconv.run(job)
    assert plan.layout.blocks_total == 36 * 71
    assert report.blocks_decoded == plan.blocks_needed == 9 * 18
    with rasterio.open(source) as dataset:
        window = rasterio.windows.Window(3 * 2048, 2 * 2048, 15, 15)
        pixels = dataset.read(1, window=window)
        expected = np.nan if (pixels == dataset.nodata).any() else pixels.sum(dtype=float)
    np.testing.assert_equal(read(tmp_path / "o.tif")[0][2, 3], expected)


def test_a_plan_of_ten_million_pixels_a_side_takes_under_a_second(make_raster, tmp_path):
    import time

    side = 10_000_000
    source = tmp_path / "huge.tif"
    with rasterio.open(
        source,
        "w",
        driver="GTiff",
        count=1,
        height=side,
        width=side,
        dtype="uint16",
        tiled=True,
        blockxsize=65536,
        blockysize=65536,
        SPARSE_OK=True,
        compress="deflate",
        BIGTIFF="YES",
        crs="EPSG:32621",
        transform=rasterio.Affine(30, 0, 0, 0, -30, 0),
    ):
        pass
    job = job_for(
        source,
        tmp_path / "o.tif",
        **{
            "kernel.weights": np.ones((3, 3)),
            "stride": 1,
            "compute.memory_limit": "64 GiB",
            "output.blocksize": 1024,  # GDAL writes no more than 2**28 blocks
        },
    )
    tileconv.plan(job)  # imports are not the plan's
    started = time.perf_counter()
    plan = tileconv.plan(job)
    page = str(plan)
    assert time.perf_counter() - started < 1
    assert plan.to_dict()["out_shape"] == [1, side - 2, side - 2]
    assert "10,000,000 x 10,000,000" in page


def test_the_plan_as_json_carries_what_the_interface_promises(scene, tmp_path):
    plan = tileconv.plan(job_for(scene, tmp_path / "o.tif", stride=4))
    carried = json.loads(plan.to_json())
    promised = (
        "out_shape out_transform dtype tiles coverage uncovered blocks_total blocks_needed "
        "blocks_decoded bytes_to_read peak_memory_bytes output_bytes algorithm"
    )
    assert set(promised.split()) <= set(carried)
    assert carried == plan.to_dict()


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_runs(config, tmp_path):
    target = tmp_path / "out.tif"
    job = tileconv.load_job(config, set=[f"output.path={target}"])
    report = tileconv.run(job)
    pixels = read(job.source)[[b - 1 for b in job.bands or (1, 2, 3)]]
    c = job.operator
    expected = tileconv.convolve(
        pixels,
        c.weights,
        stride=c.stride,
        padding=c.padding,
        padding_mode=c.padding_mode,
        dtype=job.dtype,
    )
    assert read(target).tobytes() == expected.tobytes()
    assert report.quicklook == str(tmp_path / "out_quicklook.png")
    from PIL import Image

    with Image.open(report.quicklook) as picture:
        picture.load()
        assert len(set(picture.convert("L").resize((64, 32)).tobytes())) > 20  # not a blank page


def test_opening_in_many_threads_never_warns(make_raster):
    """Workers of a cluster open in threads of their own what has no transform."""
    with gdal.quietly():
        spec = DatasetSpec.of(make_raster(np.ones((1, 8, 8), "uint8"), transform=None))
    before = list(warnings.filters)

    def open_often(_):
        for _ in range(50):
            gdal.open_dataset(spec).close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_often, range(8)))
    assert warnings.filters == before
