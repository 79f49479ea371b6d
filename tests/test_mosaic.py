"""Many scenes as one raster: the bits of the merged array, every block of every scene once."""

import itertools
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import yaml
from click.testing import CliRunner
from conftest import read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.merge import merge
from strategies import random_case

import tileconv
from tileconv import InputError
from tileconv.cli import main
from tileconv.dtypes import Numbers
from tileconv.operators.convolution import Convolution
from tileconv.planning.layout import Layout, Scene
from tileconv.planning.plan import make_plan

GRID = rasterio.Affine(30, 0, 700000, 0, -30, -2800000)
KERNEL = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])


def cut(make_raster, array, place, name, **profile):
    """Write the part of an array at ``place`` (top, left, bottom, right) as a scene."""
    top, left, bottom, right = place
    grid = profile.pop("grid", GRID)
    part = array[..., top:bottom, left:right]
    return make_raster(
        part, name, transform=grid @ rasterio.Affine.translation(left, top), **profile
    )


def job_for(scenes, target, **keys):
    job = {
        "input": {"path": [str(s) for s in scenes], "mosaic": True},
        "kernel": {"weights": KERNEL.tolist()},
        "output": {"path": str(target), "overwrite": True},
    }
    for key, value in keys.items():
        *parents, last = key.split(".")
        place = job
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tileconv.load_job(job)


def run(job):
    """Run a job and return (pixels, report), having checked the blocks against the plan."""
    plan = tileconv.plan(job)
    report = tileconv.run(job)
    assert report.blocks_decoded == plan.blocks_decoded == plan.blocks_needed
    return read(job.target), report


def tiling(shape, rows, columns):
    """Cut a shape into (top, left, bottom, right) at the rows and columns given."""
    ys, xs = [0, *rows, shape[0]], [0, *columns, shape[1]]
    return [
        (top, left, bottom, right)
        for top, bottom in itertools.pairwise(ys)
        for left, right in itertools.pairwise(xs)
    ]


def random_layout(rng, shape):
    """Draw places of scenes: a tiling, grown to overlap, or with some left out."""
    rows = np.unique(rng.integers(1, shape[0], rng.integers(0, 4))) if shape[0] > 1 else []
    columns = np.unique(rng.integers(1, shape[1], rng.integers(0, 4))) if shape[1] > 1 else []
    places = tiling(shape, [int(r) for r in rows], [int(c) for c in columns])
    kind = rng.choice(["tiling", "overlaps", "holes", "both"])
    if kind in ("overlaps", "both"):
        grow = rng.integers(0, 12, (len(places), 4))
        places = [
            (max(t - a, 0), max(x - b, 0), min(b2 + c, shape[0]), min(r + d, shape[1]))
            for (t, x, b2, r), (a, b, c, d) in zip(places, grow.tolist(), strict=True)
        ]
    if kind in ("holes", "both") and len(places) > 2:
        places = [p for p in places if rng.random() < 0.7] or places[:1]
    return [places[i] for i in rng.permutation(len(places))]


def merged(arrays, places, nodata, dtype):
    """Merge by numpy as the words say: (pixels, hidden), the first valid pixel of each band."""
    top, left = min(p[0] for p in places), min(p[1] for p in places)
    shape = max(p[2] for p in places) - top, max(p[3] for p in places) - left
    count = arrays[0].shape[0]
    out = np.zeros((count, *shape), dtype)
    if nodata is not None or np.dtype(dtype).kind == "f":
        out[:] = np.nan if nodata is None else nodata
    valid = np.zeros((count, *shape), bool)
    inside = np.zeros(shape, bool)
    for array, (t, x, b, r) in zip(arrays, places, strict=True):
        here = np.s_[t - top : b - top, x - left : r - left]
        inside[here] = True
        good = ~np.isnan(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
        if nodata is not None:
            good &= array != nodata
        take = good & ~valid[:, *here]
        out[:, *here][take] = array[take]
        valid[:, *here] |= good
    return out, ~inside


@given(seed=st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_layout_gives_the_bits_of_the_merged_array(seed, make_raster, tmp_path):
    """Scenes of any blocks, overlapping, with holes, in any order; any geometry and tiling."""
    rng = np.random.default_rng(seed)
    case = random_case(seed)
    array = case.array if case.array.ndim == 3 else case.array[None]
    nodata = case.nodata
    if array.dtype.name in ("float16", "uint64", "int64"):
        array, nodata = array.astype("float64"), None
    places = random_layout(rng, array.shape[1:])
    scenes, arrays = [], []
    for i, place in enumerate(places):
        profile = {"interleave": str(rng.choice(["pixel", "band"])), "nodata": nodata}
        if rng.random() < 0.7:
            profile["block"] = tuple(16 * rng.integers(1, 4, 2))
        elif rng.random() < 0.5:
            profile["blockysize"] = int(rng.integers(1, 20))
        # Where scenes overlap they differ, so that it matters whose pixel counts.
        theirs = array if i % 2 == 0 else np.roll(array, 3, axis=-1)
        scenes.append(cut(make_raster, theirs, place, f"{i}.tif", **profile))
        top, left, bottom, right = place
        arrays.append(theirs[:, top:bottom, left:right])
    pixels, hidden = merged(arrays, places, nodata, array.dtype)
    keys = {
        **case.job_keys(),
        "output.blocksize": 16,
        "output.compress": "none",
        "compute.tile": [int(t) for t in rng.integers(1, 120, 2)],
        "compute.workers": int(rng.integers(1, 5)),
    }
    job = job_for(scenes, tmp_path / "mosaic.tif", **keys)
    short = np.array(case.dilation) * (np.array(case.kernel.shape[-2:]) - 1) + 1
    short -= np.array(pixels.shape[1:]) + np.array(case.pads).reshape(2, 2).sum(axis=0)
    if (short > 0).any():  # without the scenes left out
        with pytest.raises(tileconv.ConvolutionError):
            run(job)
        return
    out, _ = run(job)
    profile = {"nodata": nodata}
    if hidden.any() and nodata is None and array.dtype.kind != "f":
        profile["mask"] = np.where(hidden, 0, 255).astype("uint8")
    whole = make_raster(pixels, "merged.tif", **{**profile, "transform": GRID})
    single = tileconv.load_job(
        {**json.loads(json.dumps(_plain(keys, whole, tmp_path / "single.tif")))}
    )
    tileconv.run(single)
    assert out.tobytes() == read(tmp_path / "single.tif").tobytes()
    if "mask" not in profile:
        expected = tileconv.convolve(pixels, case.kernel, nodata=nodata, **case.options())
        assert out.tobytes() == expected.tobytes()


def _plain(keys, source, target):
    job = {"input": {"path": str(source)}, "output": {"path": str(target), "overwrite": True}}
    for key, value in keys.items():
        *parents, last = key.split(".")
        place = job
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value.tolist() if isinstance(value, np.ndarray) else value
    return job


@pytest.mark.parametrize("kind", ["alpha", "mask"])
@pytest.mark.parametrize("where", ["overlapping", "apart"])
def test_masks_of_scenes(kind, where, make_raster, tmp_path, rng):
    """Masked pixels are filled from later scenes; where there are none they are missing."""
    array = rng.integers(1, 255, (3, 64, 80)).astype("uint8")
    other = np.roll(array, 5, axis=1)
    places = (
        [(0, 0, 64, 50), (0, 40, 64, 80)]
        if where == "overlapping"
        else [(0, 0, 64, 30), (0, 50, 64, 80)]
    )
    scenes, out, seen = [], np.zeros_like(array), np.zeros((64, 80), bool)
    for i, (place, pixels) in enumerate(zip(places, (array, other), strict=True)):
        shown = rng.random((64, 80)) < 0.9
        mask = np.where(shown, 255, 0).astype("uint8")
        here = np.s_[place[0] : place[2], place[1] : place[3]]
        if kind == "mask":
            scenes.append(
                cut(make_raster, pixels, place, f"{i}.tif", block=(16, 16), mask=mask[here])
            )
        else:
            both = np.concatenate([pixels, mask[None]])
            profile = {"photometric": "RGB", "alpha": "YES", "block": (32, 16)}
            scenes.append(cut(make_raster, both, place, f"{i}.tif", **profile))
        inside = np.zeros((64, 80), bool)
        inside[here] = True
        take = inside & shown & ~seen
        out[:, take] = pixels[:, take]
        seen |= take
    result, _ = run(job_for(scenes, tmp_path / "o.tif", **{"compute.tile": 16, "stride": 2}))
    whole = make_raster(out, "whole.tif", mask=np.where(seen, 255, 0).astype("uint8"))
    tileconv.convolve_raster(whole, tmp_path / "w.tif", KERNEL, stride=2)
    assert result.tobytes() == read(tmp_path / "w.tif").tobytes()
    assert np.isnan(result).any()


def test_the_grid_is_that_of_rasterios_merge(make_raster, tmp_path, rng):
    array = rng.normal(size=(2, 70, 90)).astype("float32")
    places = [(20, 30, 70, 90), (0, 0, 40, 50), (35, 10, 60, 44)]
    scenes = [cut(make_raster, array, p, f"{i}.tif", nodata=-1.0) for i, p in enumerate(places)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio's own
        theirs, transform = merge(scenes)
    identity = {"kernel.weights": [[1.0]], "output.nodata": -1.0, "output.dtype": "float32"}
    out, report = run(job_for(scenes, tmp_path / "o.tif", **identity))
    np.testing.assert_array_equal(out, theirs)
    with rasterio.open(tmp_path / "o.tif") as made:
        assert made.transform.almost_equals(transform)
        assert made.crs == rasterio.crs.CRS.from_epsg(32621)
    assert [Path(s).name for s in report.scenes] == ["0.tif", "1.tif", "2.tif"]
    assert any("scenes overlap" in w for w in report.warnings)
    assert any("lies in no scene" in w for w in report.warnings)


@pytest.mark.parametrize(
    "grid",
    [
        rasterio.Affine(2.0, 0.5, 100.0, -0.25, -3.0, 900.0),
        rasterio.Affine(10, 0, 5e5, 0, 10, 4e6),
        rasterio.Affine(1 / 3600, 0, 7.0, 0, -1 / 3600, 47.0),
    ],
    ids=["rotated", "south up", "degrees"],
)
def test_rotated_and_south_up_grids(grid, make_raster, tmp_path, rng):
    array = rng.integers(0, 99, (1, 50, 60)).astype("uint8")
    places = tiling((50, 60), [17], [23, 41])
    scenes = [cut(make_raster, array, p, f"{i}.tif", grid=grid) for i, p in enumerate(places)]
    out, _ = run(job_for(scenes, tmp_path / "o.tif", stride=3))
    np.testing.assert_array_equal(out, tileconv.convolve(array, KERNEL, stride=3))
    plan = tileconv.plan(job_for(scenes, tmp_path / "o.tif"))
    np.testing.assert_allclose(plan.transform, tuple(grid)[:6], rtol=1e-12)


def touched(place, block, stride, taps, outputs):
    """Blocks of a scene that receptive fields touch, field by field."""
    blocks = set()
    for oy in range(outputs[0]):
        for ox in range(outputs[1]):
            y = oy * stride + taps - place[0]
            x = ox * stride + taps - place[1]
            rows = {*(y[(y >= 0) & (y < place[2] - place[0])] // block).tolist()}
            columns = {*(x[(x >= 0) & (x < place[3] - place[1])] // block).tolist()}
            blocks |= {(r, c) for r in rows for c in columns}
    return blocks


@pytest.mark.parametrize("stride", [1, 3, 5, 7, 9, 60])
@pytest.mark.parametrize("dilation", [1, 6, 20])
def test_blocks_are_those_that_fields_touch(stride, dilation, make_raster, tmp_path, rng):
    """Scenes narrower than a block, too, which gaps and holes may skip."""
    array = rng.integers(0, 999, (2, 110, 120)).astype("uint16")
    places = [*tiling((110, 120), [47, 91], [64, 68, 97]), (30, 40, 90, 120)]
    scenes = [
        cut(make_raster, array, p, f"{i}.tif", block=(16, 16), interleave="band")
        for i, p in enumerate(places)
    ]
    weights = rng.normal(size=(4, 4))
    keys = {"kernel.weights": weights, "stride": stride, "dilation": dilation}
    out, report = run(job_for(scenes, tmp_path / "o.tif", **keys))
    expected = tileconv.convolve(array, weights, stride=stride, dilation=dilation)
    np.testing.assert_array_equal(out, expected)
    taps = dilation * np.arange(4)
    needed = sum(len(touched(p, 16, stride, taps, out.shape[1:])) for p in places)
    assert report.blocks_decoded == 2 * needed


def test_scenes_and_blocks_outside_all_fields_are_never_read(make_raster, tmp_path, rng):
    array = rng.integers(0, 999, (1, 192, 192)).astype("uint16")
    places = tiling((192, 192), [64, 128], [64, 128])
    scenes = [
        cut(make_raster, array, p, f"{i}.tif", block=(64, 64), compress="deflate")
        for i, p in enumerate(places)
    ]
    keys = {"kernel.weights": np.ones((3, 3)), "stride": 130}
    needed = {0, 2, 6, 8}  # fields begin at 0 and 130
    for i in {*range(9)} - needed:
        with tifffile.TiffFile(scenes[i]) as tiff:
            start, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        stored = bytearray(scenes[i].read_bytes())
        stored[start : start + size] = b"\xff" * size
        scenes[i].write_bytes(stored)
        with rasterio.open(scenes[i]) as dataset, pytest.raises(rasterio.errors.RasterioIOError):
            dataset.read()
    out, report = run(job_for(scenes, tmp_path / "o.tif", **keys))
    assert report.blocks_decoded == 4
    np.testing.assert_array_equal(out, tileconv.convolve(array, np.ones((3, 3)), stride=130))


def test_panels_of_mosaics(make_raster, tmp_path, rng, monkeypatch):
    from dataclasses import replace

    from tileconv.jobs import prepare, schedule

    array = rng.integers(0, 999, (2, 120, 400)).astype("uint16")
    scenes = [
        cut(make_raster, array, p, f"{i}.tif", block=(32, 16 * (1 + i % 3)))
        for i, p in enumerate(tiling((120, 400), [50], [77, 201, 310]))
    ]
    weights = rng.normal(size=(9, 9))
    keys = {"kernel.weights": weights, "compute.tile": 16, "output.blocksize": 16}
    job = job_for(scenes, tmp_path / "o.tif", **keys, padding=4, padding_mode="wrap")
    plan = prepare.plan_header(job, prepare.read_source(job))
    for panel in (1, 3):
        choice = replace(plan.choice, tiles=replace(plan.tiles, panel=panel))
        narrow = replace(plan, choice=choice)
        monkeypatch.setattr(schedule, "plan_header", lambda job, header, narrow=narrow: narrow)
        report = tileconv.run(job)
        expected = tileconv.convolve(array, weights, padding=4, padding_mode="wrap")
        np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)
        assert report.blocks_decoded == narrow.blocks_decoded > narrow.blocks_needed


def test_more_scenes_than_a_process_may_open(make_raster, tmp_path, rng):
    """A thousand scenes are open a few at a time."""
    import resource

    array = rng.integers(0, 99, (1, 16, 2000)).astype("uint8")
    scenes = [cut(make_raster, array, (0, x, 16, x + 4), f"{x}.tif") for x in range(0, 2000, 4)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        out, _ = run(job_for(scenes, tmp_path / "o.tif", **{"compute.tile": [16, 64]}))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    np.testing.assert_array_equal(out, tileconv.convolve(array, KERNEL))


def test_memory_of_a_mosaic_is_as_planned(tmp_path):
    import test_memory

    test_memory.make(tmp_path / "0.tif", 4096)
    with rasterio.open(tmp_path / "0.tif") as dataset:
        pixels, profile = dataset.read(), dataset.profile
    scenes = []
    for i, (y, x) in enumerate([(0, 0), (0, 4000), (4000, 0), (4000, 4000)]):
        scenes.append(str(tmp_path / f"s{i}.tif"))
        profile["transform"] = GRID @ GRID.translation(x, y)
        with rasterio.open(scenes[-1], "w", **profile) as dataset:
            dataset.write(pixels)
    limit = 400 << 20
    job = {
        "input": {"path": scenes, "mosaic": True},
        "kernel": {"name": "box", "size": 5},
        "output": {"path": str(tmp_path / "o.tif")},
        "compute": {"memory_limit": limit, "workers": 2},
    }
    done = subprocess.run(
        [sys.executable, "-c", test_memory.CHILD, json.dumps(job)],
        capture_output=True,
        text=True,
        check=True,
    )
    planned, peak, _ = json.loads(done.stdout)
    assert peak <= limit
    assert 0.75 <= planned / peak <= 1.25


def test_a_quicklook_of_a_mosaic(make_raster, tmp_path, rng):
    array = rng.integers(0, 99, (1, 60, 60)).astype("uint8")
    places = [(0, 0, 60, 20), (0, 40, 60, 60)]
    scenes = [cut(make_raster, array, p, f"{i}.tif") for i, p in enumerate(places)]
    _, report = run(job_for(scenes, tmp_path / "o.tif", **{"output.quicklook": True}))
    assert Path(report.quicklook).stat().st_size > 1000


def test_the_plan_of_ten_thousand_scenes_takes_seconds():
    import time

    part = Layout((1000, 1000), np.dtype("uint16"), (256, 256))
    scenes = tuple(Scene(part, (1000 * (i // 100), 1000 * (i % 100))) for i in range(10_000))
    layout = Layout((100_000, 100_000), np.dtype("uint16"), (256, 256), scenes=scenes)
    started = time.perf_counter()
    plan = make_plan(
        Convolution.of(np.ones((3, 3))),
        Numbers.of("uint16"),
        layout,
        threads=2,
        memory_limit=4 << 30,
    )
    assert plan.blocks_needed == plan.layout.blocks_total == 160_000
    assert time.perf_counter() - started < 10


# ---- What does not fit


@pytest.fixture
def pair(make_raster):
    """Return a function that makes two neighbouring scenes, the second with changes."""

    def make(array=None, **changes):
        plain = np.ones((1, 20, 20), "uint8")
        right = {"transform": GRID @ rasterio.Affine.translation(20, 0), **changes}
        return [
            make_raster(plain, "left.tif"),
            make_raster(plain if array is None else array, "right.tif", **right),
        ]

    return make


MISFITS = {
    "half a pixel": (
        {"transform": GRID @ rasterio.Affine.translation(20.5, 0.25)},
        ["is not aligned with", "(+0.25, +0.5) pixels (y, x) off the grid"],
    ),
    "a hundredth": (
        {"transform": GRID @ rasterio.Affine.translation(20.01, 0)},
        ["is not aligned with", "(+0, +0.01) pixels"],
    ),
    "resolution": (
        {"transform": rasterio.Affine(15, 0, 700600, 0, -15, -2800000)},
        ["its pixels are 15 x -15, and those of the first scene 30 x -30", "not resampled"],
    ),
    "south up": (
        {"transform": rasterio.Affine(30, 0, 700600, 0, 30, -2800000)},
        ["its pixels are 30 x 30"],
    ),
    "crs": ({"crs": "EPSG:32622"}, ["different coordinate systems, EPSG:32622 and EPSG:32621"]),
    "nodata": ({"nodata": 0}, ["different nodata, 0 and none"]),
    "dtype": ({"array": np.ones((1, 20, 20), "int16")}, ["different dtypes, int16 and uint8"]),
    "bands": ({"array": np.ones((2, 20, 20), "uint8")}, ["different numbers of bands, 2 and 1"]),
}


@pytest.mark.parametrize(("changes", "words"), MISFITS.values(), ids=MISFITS)
def test_scenes_that_do_not_fit_are_refused(changes, words, pair, tmp_path):
    scenes = pair(**changes)
    with pytest.raises(InputError) as raised:
        tileconv.plan(job_for(scenes, tmp_path / "o.tif"))
    for word in [str(scenes[1]), *words]:
        assert word in str(raised.value)


def test_a_scene_without_a_place_is_refused(make_raster, tmp_path):
    scenes = [make_raster(np.ones((9, 9), "uint8"), "a.tif")]
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        scenes.append(make_raster(np.ones((9, 9), "uint8"), "b.tif", transform=None))
    with pytest.raises(InputError, match=r"b\.tif: has no transform"):
        tileconv.plan(job_for(scenes, tmp_path / "o.tif"))


def test_a_rounded_transform_is_aligned(pair, tmp_path):
    scenes = pair(transform=GRID @ rasterio.Affine.translation(20.0001, -0.0004))
    assert tileconv.plan(job_for(scenes, tmp_path / "o.tif")).layout.shape == (20, 40)


def test_the_command_line_and_its_messages(make_raster, tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = rng.integers(0, 99, (1, 40, 60)).astype("uint8")
    (tmp_path / "scenes").mkdir()
    for i, place in enumerate(tiling((40, 60), [], [30])):
        cut(make_raster, array, place, f"scenes/{i}.tif", block=(16, 16))
    job = {
        "input": {"path": "scenes/*.tif", "mosaic": True},
        "kernel": {"weights": KERNEL.tolist()},
        "output": {"path": "o.tif"},
    }
    Path("job.yaml").write_text(yaml.safe_dump(job))
    plan = CliRunner().invoke(main, ["plan", "job.yaml"])
    assert "mosaic of 2 scenes, the first scenes/0.tif" in plan.stdout
    assert "1 band of 40 x 60 uint8" in plan.stdout
    assert json.loads(CliRunner().invoke(main, ["plan", "job.yaml", "--json"]).stdout)["scenes"]
    assert CliRunner().invoke(main, ["run", "job.yaml", "-q"]).exit_code == 0
    np.testing.assert_array_equal(read("o.tif"), tileconv.convolve(array, KERNEL))
    for path, code, words in (
        ("{stem}.tif", 2, "a mosaic is made of many files"),
        ("scenes/1.tif", 2, "is the input itself"),
    ):
        result = CliRunner().invoke(
            main, ["run", "job.yaml", "--overwrite", "--set", f"output.path='{path}'"]
        )
        assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    stored = bytearray(Path("scenes/1.tif").read_bytes())
    Path("scenes/1.tif").write_bytes(stored[: len(stored) - 500])
    result = CliRunner().invoke(main, ["run", "job.yaml", "--overwrite"])
    assert result.exit_code == 3
    assert "scenes/1.tif: block (2, 0) of band 1, rows 32 to 39, columns 0 to 15" in result.stderr
    np.testing.assert_array_equal(read("o.tif"), tileconv.convolve(array, KERNEL))


def test_a_scene_that_changes_under_way_gives_no_output(pair, tmp_path):
    scenes = pair()
    job = job_for(scenes, tmp_path / "o.tif")
    with pytest.raises(InputError, match="changed while it was being read"):
        tileconv.run(job, progress=lambda done, total: scenes[1].touch())
    assert not (tmp_path / "o.tif").exists()
