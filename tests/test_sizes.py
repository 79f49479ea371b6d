"""Absurd sizes: found out by arithmetic, not by running out of memory or time."""

import json
import struct
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_case
from test_properties import axes, check_case

import tileconv
from tileconv.arrays.threads import PER_CORE, cores
from tileconv.errors import OutOfMemoryError
from tileconv.geometry import Axis
from tileconv.planning import blocks, reads
from tileconv.planning.blocks import (
    block_uses,
    count_uses,
    is_countable,
    most_shared,
    most_uses,
    shared_blocks,
    tiles_reaching,
)
from tileconv.planning.reads import read_axis
from tileconv.planning.tiles import AxisTiles
from tileconv.raster import header, reference_counts
from tileconv.raster.tag_model import Band, Metadata
from tileconv.raster.tag_propagation import propagate_tags

LARGEST = 2**31 - 1
MODES = ("constant", "missing", "edge", "reflect", "symmetric", "wrap")


@given(axes(), st.sampled_from(MODES), st.integers(1, 40), st.integers(1, 64))
def test_what_is_counted_for_the_largest_is_never_too_little(parameters, mode, tile, block):
    axis = Axis(**parameters, mode=mode)
    tiles = AxisTiles(axis.out_size, tile)
    exact, most = count_uses(axis, tiles, block), most_uses(axis, tiles, block)
    assert exact.touched <= most.touched
    assert exact.total <= most.total
    assert shared_blocks(axis, tiles, block) <= most_shared(axis, block)
    low, high = axis.reach(0, axis.out_size)
    inside = low >= 0 and high <= axis.size
    if inside and axis.gap < block and axis.dilation <= block:
        assert exact.touched == most.touched


@given(axes(), st.sampled_from(MODES), st.integers(1, 40), st.integers(1, 64))
def test_uses_that_are_looked_up_are_those_that_are_counted(parameters, mode, tile, block):
    axis = Axis(**parameters, mode=mode)
    tiles = AxisTiles(axis.out_size, tile)
    counted = block_uses(axis, tiles, block)
    looked_up = reference_counts._LookedUp(axis, tiles, range(tiles.count), block)
    assert [looked_up[i] for i in range(counted.size)] == counted.tolist()
    for i in range(counted.size):
        pixels = (i * block, min((i + 1) * block, axis.size))
        reaching = tiles_reaching(axis, tiles, range(tiles.count), [pixels])
        touching = [
            t for t in range(tiles.count) if i in read_axis(axis, *tiles[t], block).blocks(block)
        ]
        assert set(touching) <= set(reaching)


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_looks_at_few_numbers(mode, monkeypatch):
    """What is countable is counted with as few steps as `is_countable` promises."""
    looked_at = []

    def read(axis, first, end, block):
        made = read_axis(axis, first, end, block)
        looked_at.append(made.size)
        return made

    monkeypatch.setattr(blocks, "read_axis", read)
    for axis in (
        Axis(LARGEST, 3, mode=mode),
        Axis(60, 3, 4, before=LARGEST, after=LARGEST, mode=mode),
        Axis(60, 3, dilation=LARGEST, before=LARGEST, after=LARGEST, mode=mode),
        Axis(LARGEST, 9, 1000, 200, mode=mode),
        Axis(10**6, 5, before=3, after=3, mode=mode),
    ):
        for tile in (1, 512, LARGEST):
            for block in (1, 256, LARGEST):
                tiles = AxisTiles(axis.out_size, tile)
                looked_at.clear()
                found = count_uses.__wrapped__(axis, tiles, block)
                assert 0 <= found.touched <= -(-axis.size // block)
                assert sum(looked_at) <= blocks.MOST_STEPS
                if not is_countable(axis, tiles, block):
                    assert not looked_at


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_windows_of_overlapping_fields_may_be_packed(monkeypatch):
    monkeypatch.setattr(reads, "SPARSE", 0.5)  # nearly all are
    overlapping, packs = [], reads.packs

    def packs_told(axis, block, outputs):
        packed = packs(axis, block, outputs)
        overlapping.append(packed and axis.stride < axis.span and outputs > 1)
        return packed

    monkeypatch.setattr(reads, "packs", packs_told)
    for i in range(200):
        try:
            check_case(random_case((20261130, i)))
        except Exception as error:
            raise AssertionError(f"random_case((20261130, {i})) fails") from error
    assert sum(overlapping) > 100


@pytest.mark.parametrize("mode", MODES)
def test_padding_far_larger_than_the_array(rng, mode):
    array, kernel = rng.random((31, 8)), rng.random((3, 3))
    out = tileconv.convolve(array, kernel, dilation=LARGEST, padding="same", padding_mode=mode)
    far = np.array([-LARGEST, 0, LARGEST])
    expected = np.zeros(array.shape)
    for y, x in np.ndindex(array.shape):
        rows, columns = (
            reads.source_index(place + far, size, mode)
            for place, size in zip((y, x), array.shape, strict=True)
        )
        taps = array[np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))]
        outside = (rows < 0)[:, None] | (columns < 0)
        filled = np.where(outside, np.nan if mode == "missing" else 0.0, taps)
        expected[y, x] = (filled * kernel).sum()
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    sparse = tileconv.convolve(
        array, np.ones((40, 40)), stride=10**6, padding=10**8, padding_mode=mode
    )
    assert sparse.shape == (200, 200)


def test_a_result_that_no_machine_holds_is_refused():
    with pytest.raises(OutOfMemoryError, match="the result would have shape .* TiB, and this"):
        tileconv.convolve(np.ones((31, 8)), np.ones((3, 3)), stride=4, padding=LARGEST)


def test_threads_are_bounded(monkeypatch):
    monkeypatch.setenv("TILECONV_NUM_THREADS", "5000")
    before = threading.active_count()
    for threads in (3000, None):
        tileconv.convolve(np.ones((2000, 2000), "f4"), np.ones((3, 3)), threads=threads)
        assert threading.active_count() - before <= PER_CORE * cores()


def test_workers_are_bounded(scene, tmp_path):
    job = {
        "input": {"path": str(scene)},
        "kernel": {"name": "box"},
        "output": {"path": str(tmp_path / "out.tif")},
        "compute": {"workers": 1024},
    }
    plan = tileconv.plan(tileconv.load_job(job))
    if plan.threads < 1024:
        assert any("compute.workers: 1024 are more than" in note for note in plan.notes)
    threads = threading.active_count()
    tileconv.run(tileconv.load_job(job))
    assert threading.active_count() <= threads + 1


PLAN = """
import json, sys, warnings
import tileconv
warnings.simplefilter("ignore")
job = json.loads(sys.argv[1])
run = job.pop("run", False)
try:
    job = tileconv.load_job(job)
    plan = tileconv.plan(job)
    print(len(str(plan)) + len(plan.to_json()) > 500)
    if run:
        tileconv.run(job)
except tileconv.TileconvError as error:
    print(type(error).__name__, error)
with open("/proc/self/status") as file:  # getrusage tells what the parent took before, too
    print(next(int(line.split()[1]) >> 10 for line in file if line.startswith("VmHWM")))
"""
MOST_MIB = 300
SECONDS = 150
"""Some hundred times what a plan takes; some took longer."""


def planned(folder, *, width=None, run=False, **keys):
    """Plan in a process of its own; returns what it says, and the MiB that it took."""
    path = folder / "in.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 48, "width": 64, "dtype": "uint16"}
    profile["transform"] = rasterio.Affine(10, 0, 0, 0, -10, 0)
    if width is not None:
        profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.ones((1, 48, 64), "u2"))
    if width is not None:
        _widen(path, width)
    job = {
        "input": {"path": str(path)},
        "kernel": {"name": "box"},
        "output": {"path": str(folder / "out.tif")},
        "run": run,
    }
    done = subprocess.run(
        [sys.executable, "-c", PLAN, json.dumps(job | keys)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    *said, mebibytes = done.stdout.splitlines()
    return "\n".join(said), int(mebibytes)


def _widen(path, width):
    """Have a TIFF say another width than it has blocks for."""
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == 256:
            struct.pack_into("<HII", data, entry + 2, 4, 1, width)
    path.write_bytes(data)


ABSURD = {
    "padding": {"padding": LARGEST, "stride": 4},
    "padding that turns around": {"padding": LARGEST, "stride": 4, "padding_mode": "reflect"},
    "dilation": {"padding": "same", "dilation": LARGEST},
    "width": {"width": LARGEST, "stride": 3},
    "width and gaps": {"width": LARGEST, "stride": 300, "padding": [0, 200]},
    "width that wraps": {"width": LARGEST, "padding": "same", "padding_mode": "wrap"},
    "a cluster": {"width": LARGEST, "stride": 300, "padding": [0, 200], "scheduler": "processes"},
}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
@pytest.mark.parametrize("keys", ABSURD.values(), ids=ABSURD.keys())
def test_anything_is_planned_in_little_memory(tmp_path, keys):
    keys = dict(keys)
    compute = {"memory_limit": "1 GiB", "scheduler": keys.pop("scheduler", "threads")}
    said, mebibytes = planned(tmp_path, compute=compute, **keys)
    assert said == "True" or "are more than the 268,435,455 that a GeoTIFF may have" in said
    assert mebibytes < MOST_MIB


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
def test_blocks_of_a_wide_raster_are_not_all_counted_before_a_run(tmp_path):
    said, mebibytes = planned(tmp_path, width=LARGEST, stride=300, padding=[0, 200], run=True)
    assert "InputError" in said
    assert mebibytes < 2 * MOST_MIB


@pytest.mark.parametrize("through", ["TIFF", "VRT"])
@pytest.mark.parametrize("compress", ["deflate", "lzw"])
def test_tiles_that_reach_far_over_the_edge_are_in_the_plan(
    make_raster, tmp_path, compress, through
):
    """What is unpacked is a whole tile, whatever of it lies in the raster."""
    tall, wide = 16384, 8192
    path = make_raster(
        np.ones((1, 48, 64), "u1"), block=(tall, wide), compress=compress, sparse_ok=True
    )
    if through == "VRT":
        rasterio.shutil.copy(path, path := tmp_path / "in.vrt", driver="VRT")
    job = {
        "input": {"path": str(path)},
        "kernel": {"name": "box"},
        "output": {"path": str(tmp_path / "out.tif")},
        "compute": {"workers": 1},
    }
    plan = tileconv.plan(tileconv.load_job(job))
    assert plan.peak_memory_bytes > 2 * tall * wide
    small = job | {"compute": {"workers": 1, "memory_limit": "300 MiB"}}
    with pytest.raises(tileconv.ConfigError, match="this job needs at least"):
        tileconv.plan(tileconv.load_job(small))


class Counted(tuple):
    """Bands that count how often all of them are looked at."""

    looks = 0

    def __iter__(self):
        type(self).looks += 1
        return super().__iter__()


def test_metadata_takes_time_with_the_bands_not_with_their_square():
    convolution = tileconv.operators.convolution.Convolution.of(np.ones((3, 3)))
    looks = []
    for count in (10, 100):
        Counted.looks = 0
        numbers = tuple(range(1, count + 1))
        origins = convolution.origins((None,) * count, numbers)
        given = Metadata(bands=Counted(Band(scale=0.5) for _ in numbers))
        made, _ = propagate_tags(
            given, convolution.geometry((9, 9)), origins, scaled=False, skips=False, placed=True
        )
        assert [band.scale for band in made.bands] == [0.5] * count
        looks.append(Counted.looks)
    assert looks[0] == looks[1]


OF_ALL_BANDS = "dtypes scales offsets units descriptions nodatavals mask_flag_enums colorinterp"


class Looks:
    """A dataset that counts how often it is asked for something that it says of all bands."""

    def __init__(self, dataset):
        self.dataset, self.counts = dataset, Counter()

    def __getattr__(self, name):
        if name in OF_ALL_BANDS.split():
            self.counts[name] += 1
        return getattr(self.dataset, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dataset.close()


def test_a_header_is_asked_for_all_bands_a_few_times_only(make_raster, monkeypatch):
    opened = []

    def open_and_count(spec):
        opened.append(Looks(rasterio.open(spec.name)))
        return opened[-1]

    monkeypatch.setattr(header.gdal, "open_dataset", open_and_count)
    for count in (5, 60):
        path = make_raster(np.ones((count, 16, 16), "u1"), nodata=3, photometric="MINISBLACK")
        header.read_header(path, header.Wanted())
    few, many = (looks.counts for looks in opened)
    assert few == many
