"""Jobs on a cluster of processes: the bits of a local run, whatever dies, and no work lost."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import read

import tileconv
from tileconv.cluster import worker
from tileconv.cluster.assignments import DOWN, UP, Assignments, Next, missing_ranges
from tileconv.cluster.block_cache import BlockCache
from tileconv.cluster.connect import connect, make_cluster
from tileconv.cluster.folder import Manifest, run_folder
from tileconv.cluster.submission import AHEAD, FETCH_AT_LEAST, submit_bounded
from tileconv.errors import (
    ClusterError,
    ConfigError,
    InputError,
    OutputError,
    OutputExistsError,
)
from tileconv.jobs.config import ClusterConfig
from tileconv.planning.cluster_plan import SEAMS, cut_into_parts
from tileconv.raster.geotiff_parts import PartFile, crc32
from tileconv.verify import verify

distributed = pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
DASK = [sys.executable, "-m", "dask"]
ALIVE = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60s",
    "PYTHONWARNINGS": "ignore",
}
SLOW_PART = """
import time
import tileconv.cluster.worker as worker
from tileconv.jobs.schedule import convolve_tile as plain  # a preload may be loaded twice
def slow(*arguments, **options):
    time.sleep({seconds})
    return plain(*arguments, **options)
worker.convolve_tile = slow
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Cluster:
    """A dask scheduler and workers, each a process of its own, on the loopback."""

    def __init__(self, folder, workers=3, preload="", nanny=True):
        self.folder = Path(folder)
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.environment = os.environ | ALIVE | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.scheduler = self._start(
            "scheduler", "--host", self.address, "--no-dashboard", "--no-show"
        )
        self.preload, self.nanny = self.folder / "preload.py", nanny
        self.preload.write_text(preload)
        self.workers = [self.add_worker() for _ in range(workers)]

    def _start(self, *command, prefix=()):
        log = (self.folder / "cluster.log").open("a")
        return subprocess.Popen(
            [*prefix, *DASK, *command],
            stdout=log,
            stderr=log,
            env=self.environment,
            cwd=self.folder,
            start_new_session=True,
        )

    def add_worker(self, prefix=()):
        options = ["--nthreads", "1", "--memory-limit", "2GiB", "--no-dashboard"]
        options += ["--preload", str(self.preload), "--local-directory", str(self.folder)]
        options += [] if self.nanny else ["--no-nanny"]
        return self._start("worker", self.address, *options, prefix=prefix)

    def client(self):
        client = distributed.Client(self.address, set_as_default=False, timeout=120)
        client.wait_for_workers(len(self.workers), timeout=180)
        return client

    def close(self):
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(cluster):
    with cluster.client() as client:
        yield client


@pytest.fixture
def source(make_raster, rng):
    pixels = rng.integers(1, 4000, (2, 500, 610)).astype("uint16")
    pixels[:, 40:60, 100:130] = 0
    mask = np.full((500, 610), 255, np.uint8)
    mask[200:230, 300:333] = 0
    return make_raster(pixels, block=(64, 64), compress="deflate", nodata=0, mask=mask)


def describe(source, target, *, stride=1, part=128, **output):
    return {
        "input": {"path": str(source)},
        "kernel": {"name": "gaussian", "size": 5, "sigma": 1.1},
        "stride": stride,
        "missing": "renormalize",
        "output": {"path": str(target), "blocksize": 64, **output},
        "compute": {"tile": 64, "part": part},
    }


def run(mapping, *arguments, **options):
    return tileconv.run(tileconv.load_job(mapping), *arguments, **options)


def pixels_of(path):
    if Path(path).is_dir():
        zarr = pytest.importorskip("zarr")
        return zarr.open_group(path, mode="r")["band_data"][...]
    return read(path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- the same bits


@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
@pytest.mark.parametrize("stride", [1, 5, 9])
def test_the_bits_are_those_of_a_local_run(client, source, tmp_path, driver, stride):
    keys = {"stride": stride, "driver": driver, "valid_fraction": True, "part": 64}
    end = "zarr" if driver == "Zarr" else "tif"
    first, second, third = (tmp_path / f"{name}.{end}" for name in "abc")
    run(describe(source, first, **keys))
    report = run(describe(source, second, **keys), client)
    assert pixels_of(second).tobytes() == pixels_of(first).tobytes()
    assert names(tmp_path) == [first.name, second.name, "in.tif"]
    plan = tileconv.plan(tileconv.load_job(describe(source, third, **keys)))
    parts = cut_into_parts(plan, 3, part=(64, 64))
    one, alone = (
        replace(parts, parts=replace(parts.parts, runs=runs)) for runs in (1, parts.parts.count)
    )
    # where runs meet shows only while they run: at the edge of a panel they share no block,
    # and a thread that takes over what is left of another's run costs one more border
    assert plan.blocks_needed <= one.blocks_decoded <= parts.blocks_decoded
    assert one.blocks_decoded <= report.blocks_decoded <= alone.blocks_decoded
    assert report.cluster.parts == parts.parts.count
    assert report.cluster.retries == report.cluster.resumed == 0
    assert sum(part.tiles for part in report.cluster.timings) == report.tiles == plan.tiles.count
    if driver != "Zarr":
        with rasterio.open(first) as a, rasterio.open(second) as b:
            assert str(a.profile) == str(b.profile)  # NaN is not itself
            assert a.tags() == b.tags()
            assert a.tags(ns="TILECONV") == b.tags(ns="TILECONV")
            assert a.descriptions == b.descriptions


@pytest.mark.parametrize("compress", ["deflate", "lzw", "none"])
def test_integers_in_any_codec(client, source, tmp_path, compress):
    keys = {"dtype": "int16", "nodata": -1, "compress": compress}
    run(describe(source, tmp_path / "a.tif", **keys))
    run(describe(source, tmp_path / "b.tif", **keys), client)
    assert pixels_of(tmp_path / "b.tif").tobytes() == pixels_of(tmp_path / "a.tif").tobytes()


def test_mosaics_and_batches(client, make_raster, rng, tmp_path):
    for i in range(2):
        place = rasterio.Affine(30, 0, 30 * 200 * i, 0, -30, 0)
        pixels = rng.integers(0, 99, (210, 230)).astype("uint8")
        make_raster(pixels, f"s{i}.tif", block=(64, 64), transform=place, nodata=0)
    paths = [str(tmp_path / f"s{i}.tif") for i in range(2)]
    mosaic = describe("", tmp_path / "a.tif", part=64)
    mosaic["input"] = {"path": paths, "mosaic": True}
    run(mosaic)
    mosaic["output"]["path"] = str(tmp_path / "b.tif")
    report = run(mosaic, client)
    assert read(tmp_path / "a.tif").tobytes() == read(tmp_path / "b.tif").tobytes()
    assert report.scenes == tuple(paths)
    batch = describe("", tmp_path / "l" / "{stem}.tif")
    batch["input"] = {"path": paths}
    run(batch)
    batch["output"]["path"] = str(tmp_path / "c" / "{stem}.tif")
    assert len(run(batch, client).done) == 2
    for name in ("s0.tif", "s1.tif"):
        assert read(tmp_path / "l" / name).tobytes() == read(tmp_path / "c" / name).tobytes()
    again = run(batch, client, resume=True)
    assert [r.warnings[-1] for r in again.done] == [
        "the output was finished already: nothing was done"
    ] * 2


def test_the_plan_decodes_few_blocks_twice(make_raster, tmp_path):
    path = make_raster(np.zeros((6000, 6000), "uint8"), block=(32, 32), compress="deflate")
    for stride in (1, 3, 40):
        plan = tileconv.plan(tileconv.load_job(describe(path, tmp_path / "o.tif", stride=stride)))
        parts = cut_into_parts(plan, 4)
        assert parts.blocks_decoded <= (1 + SEAMS) * plan.blocks_needed
        if stride == 1:
            assert parts.parts.count > 2


def first(number, _step):
    return number


def test_submission_is_bounded(client, monkeypatch):
    flying, most, results = set(), [0], []

    real = client.map

    def counted(task, numbers, steps, **options):
        flying.update(numbers)
        most[0] = max(most[0], len(flying))
        return real(task, numbers, steps, **options)

    def done(number, result):
        flying.discard(number)
        results.append((number, result))

    monkeypatch.setattr(client, "map", counted)
    submit_bounded(client, first, [range(150), range(160, 210)], done=done, name="bounded")
    assert sorted(results) == [(i, i) for i in [*range(150), *range(160, 210)]]
    # all that are in flight may end at once beside results that were one too few to be fetched,
    # and threads get new work before these are
    assert 3 <= most[0] < FETCH_AT_LEAST + 3 + 2 * AHEAD * 3


# ---- a quicklook


@pytest.mark.parametrize("stride", [1, 9])
def test_the_quicklook_is_that_of_a_local_run(client, source, tmp_path, stride):
    pytest.importorskip("PIL")
    keys = {"stride": stride, "quicklook": True, "part": 64, "report": True}
    run(describe(source, tmp_path / "a.tif", **keys))
    report = run(describe(source, tmp_path / "b.tif", **keys), client)
    assert report.quicklook == str(tmp_path / "b_quicklook.png")
    drawn = [(tmp_path / f"{name}_quicklook.png").read_bytes() for name in "ab"]
    assert drawn[0] == drawn[1]
    assert not [warning for warning in report.warnings if "quicklook" in warning]
    told = json.loads((tmp_path / "b.tif.json").read_text())
    assert told["quicklook"] == report.quicklook
    again = run(describe(source, tmp_path / "b.tif", **keys), client, resume=True)
    assert "finished already" in again.warnings[-1]
    assert len(again.warnings) == 1
    (tmp_path / "b_quicklook.png").rename(tmp_path / "moved.png")
    again = run(describe(source, tmp_path / "b.tif", **keys), client, resume=True)
    assert again.warnings[0].startswith("there is no b_quicklook.png")
    (tmp_path / "moved.png").rename(tmp_path / "b_quicklook.png")
    (tmp_path / "b.tif").unlink()
    (tmp_path / "b.tif.json").unlink()
    with pytest.raises(OutputExistsError, match="b_quicklook"):
        run(describe(source, tmp_path / "b.tif", **keys), client)


def run_without_samples(key, number, step):
    """A task whose samples do not reach the disk."""
    entry = worker.run_part(key, number, step)
    if number in (2, 5):
        worker.find_work(key).look_path(number).unlink()
    path = worker.find_work(key).look_path(number)
    damaged = {4: b"PK", 7: b"", 8: path.read_bytes()[:300] if path.exists() else b""}
    if number in damaged:
        path.write_bytes(damaged[number])
    return entry


def test_a_quicklook_that_lacks_parts_says_so(near, source, tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    monkeypatch.setattr("tileconv.cluster.run.run_part", run_without_samples)
    report = run(describe(source, tmp_path / "b.tif", quicklook=True, part=64), near)
    assert report.warnings[-1] == "the quicklook lacks 5 parts"
    assert (tmp_path / "b_quicklook.png").exists()


# ---- parts as the output


def in_parts(source, target, **output):
    """A job whose parts stay; with a float output that has everything a file can say."""
    return describe(source, target, layout="parts", valid_fraction=True, **output)


def folders(folder):
    return [name for name in names(folder) if ".parts-" in name]


def test_parts_and_a_vrt_are_one_raster(client, source, tmp_path):
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(PLACE="Paramaribo")
        dataset.descriptions = ("red", "near infrared")
        dataset.scales, dataset.offsets = (0.5, 2.0), (1.0, 0.0)
        dataset.units = ("m", "K")
    run(describe(source, tmp_path / "a.tif", valid_fraction=True))
    mapping = in_parts(source, tmp_path / "b.vrt", report=True)
    report = run(mapping, client)
    assert read(tmp_path / "b.vrt").tobytes() == read(tmp_path / "a.tif").tobytes()
    assert len(folders(tmp_path)) == 1
    files = [path for path in (tmp_path / folders(tmp_path)[0]).rglob("*") if path.is_file()]
    assert report.cluster.parts == len(files) == 20
    assert report.bytes_written == sum(p.stat().st_size for p in [*files, tmp_path / "b.vrt"])
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.vrt") as b:
        assert b.driver == "VRT"
        for name in ("crs", "transform", "descriptions", "scales", "offsets", "units", "shape"):
            assert getattr(a, name) == getattr(b, name), name
        assert (str(a.nodatavals), a.dtypes) == (str(b.nodatavals), b.dtypes)
        assert a.tags() == b.tags()
        assert a.tags(ns="TILECONV") == b.tags(ns="TILECONV")
        assert a.tags(1) == b.tags(1)
        assert a.block_shapes == b.block_shapes
        np.testing.assert_array_equal(a.dataset_mask(), b.dataset_mask())
        for path in files:  # each is a raster by itself
            with rasterio.open(path) as part:
                at = a.window(*part.bounds).round_offsets().round_lengths()
                np.testing.assert_array_equal(part.read(), a.read(window=at))
    assert verify(tileconv.load_job(mapping)).passed
    output = {key: value for key, value in mapping["output"].items() if key != "blocksize"}
    elsewhere = tileconv.load_job(mapping | {"output": output, "compute": {}})
    assert tileconv.plan(elsewhere).choice.block != 64  # as another machine would plan it
    assert verify(elsewhere).passed
    again = run(mapping | {"output": mapping["output"] | {"overwrite": True}}, client)
    assert again.blocks_decoded
    assert len(folders(tmp_path)) == 1
    assert not files[0].exists()  # those of the first run are gone
    onward = describe(tmp_path / "b.vrt", tmp_path / "c.tif")
    expected = describe(tmp_path / "a.tif", tmp_path / "d.tif")
    assert run(onward).blocks_decoded == run(expected).blocks_decoded
    assert read(tmp_path / "c.tif").tobytes() == read(tmp_path / "d.tif").tobytes()


def test_a_damaged_output_of_parts_is_told(client, source, tmp_path):
    mapping = in_parts(source, tmp_path / "b.vrt", report=True)
    run(mapping, client)
    job = tileconv.load_job(mapping)
    assert "finished already" in run(mapping, client, resume=True).warnings[-1]
    files = sorted((tmp_path / folders(tmp_path)[0]).rglob("*.tif"))
    stored = bytearray(files[3].read_bytes())
    stored[len(stored) // 2] ^= 1
    files[3].write_bytes(stored)
    assert any("SHA-256" in fault for fault in verify(job).faults)
    files[3].write_bytes(stored[:-1000])
    assert any(files[3].name in fault for fault in verify(job).faults)
    files[3].unlink()
    assert any("is not there" in fault for fault in verify(job).faults)
    with pytest.raises(OutputExistsError, match=r"1 part of it .*--overwrite"):
        run(mapping, client, resume=True)


@pytest.mark.parametrize("step", ["folder", "vrt", "removal"])
def test_an_output_of_parts_is_the_old_one_or_the_new_one(
    client, source, tmp_path, monkeypatch, step
):
    """Stopped at any step of the end, the VRT reads as before or as after; --resume ends it."""
    target = tmp_path / "b.vrt"
    run(in_parts(source, target, dtype="float64"), client)
    old = read(target)
    mapping = in_parts(source, target, overwrite=True)
    run(in_parts(source, tmp_path / "new.vrt"), client)
    new = read(tmp_path / "new.vrt")

    class Stopped(BaseException):
        pass

    def stop(*_):
        raise Stopped

    where = {
        "folder": ("tileconv.raster.part_files.AssembledVRT._rename", stop),
        "vrt": ("tileconv.raster.part_files.os.replace", stop),
        "removal": ("tileconv.raster.part_files.remove", stop),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*where[step])
        with pytest.raises(Stopped):
            run(mapping, client)
    assert read(target).tobytes() == (new if step == "removal" else old).tobytes()
    report = run(mapping, client, resume=True)
    assert report.cluster.resumed == report.cluster.parts
    assert read(target).tobytes() == new.tobytes()
    assert sum(name.startswith("b.") for name in folders(tmp_path)) == 1


def test_what_cannot_be_in_parts(source, tmp_path):
    with pytest.raises(ConfigError, match=r"let it end in \.vrt"):
        tileconv.load_job(in_parts(source, tmp_path / "b.tif"))
    with pytest.raises(ConfigError, match=r"layout: parts makes one"):
        tileconv.load_job(describe(source, tmp_path / "b.vrt"))
    with pytest.raises(ConfigError, match="driver GTiff; the driver is Zarr"):
        tileconv.load_job(in_parts(source, tmp_path / "b.vrt", driver="Zarr"))
    with pytest.raises(tileconv.UnsupportedError, match=r"compute\.scheduler to processes"):
        run(in_parts(source, tmp_path / "b.vrt"))


# ---- runs of parts


@pytest.fixture(scope="module")
def near():
    """One worker of one thread in this process, so that tests can reach into it."""
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with (
        distributed.LocalCluster(**options, dashboard_address="127.0.0.1:0") as here,
        distributed.Client(here, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["constant", "reflect", "wrap"])
@pytest.mark.parametrize(("stride", "part"), [(1, 64), (1, 192), (3, 64), (40, 64)])
def test_a_run_decodes_what_the_plan_says(near, source, tmp_path, stride, part, mode):
    """One run: blocks under borders of parts are decoded once, under those of panels twice."""
    mapping = describe(source, tmp_path / "b.tif", stride=stride, part=part)
    mapping |= {"padding": 3, "padding_mode": mode}
    report = run(mapping, near)
    plan = tileconv.plan(
        tileconv.load_job(mapping | {"output": {"path": "c.tif", "blocksize": 64}})
    )
    plan = cut_into_parts(plan, 1, part=(part, part))
    assert report.blocks_decoded == plan.blocks_decoded
    mapping["output"]["path"] = str(tmp_path / "a.tif")
    run(mapping)
    assert read(tmp_path / "b.tif").tobytes() == read(tmp_path / "a.tif").tobytes()


class Upward(Assignments):
    """All parts of a run in the other order."""

    def __init__(self, missing, slots):
        super().__init__(missing, slots)
        self.last = len(self) - 1

    def next(self, slot):
        found = super().next(slot)
        return found and Next(self.last - found.number, UP)


@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
@pytest.mark.parametrize(("stride", "part"), [(1, 64), (1, 192), (3, 64)])
def test_a_run_upwards_decodes_as_much(near, source, tmp_path, monkeypatch, stride, part, driver):
    monkeypatch.setattr("tileconv.cluster.submission.Assignments", Upward)
    keys = {"stride": stride, "part": part, "driver": driver}
    end = "zarr" if driver == "Zarr" else "tif"
    report = run(describe(source, tmp_path / f"b.{end}", **keys) | {"padding": 3}, near)
    local = describe(source, tmp_path / f"a.{end}", **keys) | {"padding": 3}
    local["output"]["blocksize"] = 64
    run(local)
    plan = cut_into_parts(tileconv.plan(tileconv.load_job(local)), 1, part=(part, part))
    assert report.blocks_decoded == plan.blocks_decoded
    parted, alone = (pixels_of(tmp_path / f"{name}.{end}") for name in "ba")
    assert parted.tobytes() == alone.tobytes()


def test_the_checksum_is_the_same_by_any_library(tmp_path, rng, monkeypatch):
    path = tmp_path / "part.tif"
    path.write_bytes(rng.bytes(20 << 20))  # more than a step of copying
    found = []
    for library in ("imagecodecs", "none"):
        if library == "none":
            monkeypatch.setitem(sys.modules, "imagecodecs", None)
        crc32.cache_clear()
        found.append(PartFile.of(path))
    crc32.cache_clear()
    assert found == [PartFile(20 << 20, zlib.crc32(path.read_bytes()))] * 2


DAMAGED = []


def run_and_damage(key, number, step):
    """A task whose part file is changed before the client takes it in."""
    entry = worker.run_part(key, number, step)
    if number in (3, 7) and number not in DAMAGED:
        DAMAGED.append(number)
        path = worker.find_work(key).path(number)
        stored = bytearray(path.read_bytes())
        stored[-5] ^= 1
        path.write_bytes(stored)
    return entry


def test_a_damaged_part_is_computed_again(near, source, tmp_path, monkeypatch):
    DAMAGED.clear()
    run(describe(source, tmp_path / "a.tif"))
    monkeypatch.setattr("tileconv.cluster.run.run_part", run_and_damage)
    report = run(describe(source, tmp_path / "b.tif"), near)
    assert sorted(DAMAGED) == [3, 7]
    assert report.cluster.retries == 2
    assert read(tmp_path / "b.tif").tobytes() == read(tmp_path / "a.tif").tobytes()


def test_assignments_lose_and_repeat_nothing(rng):
    for _ in range(200):
        there = {*rng.integers(0, 60, rng.integers(0, 40)).tolist()}
        missing = missing_ranges(60, there)
        slots = list(range(int(rng.integers(1, 5))))
        left, given = Assignments(missing, slots), []
        while len(left):
            if rng.random() < 0.2:  # workers come and go
                slots = [*{*rng.integers(0, 6, 3).tolist()}]
                left.change(slots)
            given.append(left.next(int(rng.choice(slots))).number)
        assert sorted(given) == sorted({*range(60)} - there)
        assert [left.next(slot) for slot in slots] == [None] * len(slots)


def test_two_slots_meet_anywhere(rng):
    for _ in range(50):
        assignments, speed = Assignments([range(100)], ["a", "b"]), rng.random()
        given = {"a": [], "b": []}
        while len(assignments):
            slot = "a" if rng.random() < speed else "b"
            given[slot].append(assignments.next(slot))
        met = len(given["a"])
        assert given["a"] == [(i, DOWN) for i in range(met)]
        assert given["b"] == [(i, UP) for i in range(99, met - 1, -1)]


def test_a_third_slot_joins_between_two():
    assignments = Assignments([range(100)], ["a", "b"])
    assignments.change(["a", "b", "c"])
    assert (assignments.next("a"), assignments.next("b")) == ((0, DOWN), (99, UP))
    assert assignments.next("c") == (49, UP)  # towards a, which goes on where it was
    assert (assignments.next("a"), assignments.next("b"), assignments.next("c")) == (
        (1, DOWN),
        (98, UP),
        (48, UP),
    )
    assignments.change(["b", "c", "d"])  # what a has left has a free end
    assert assignments.next("d") == (50, DOWN)
    assert len(assignments) == 93


def test_what_is_kept_between_parts_is_bounded():
    cache = BlockCache(threads=2)
    for number in range(4):
        with cache.task(number) as handed:
            assert handed is None
            cache.put(number + 10, ({"some": "blocks"},))
    with cache.task(13) as first, cache.task(20) as second, cache.task(12) as third:
        assert first is not None
        assert second is None
        assert third is None  # two tasks that run leave no room for what a third one would need


HEAP = """
import resource, numpy as np
from tileconv.cluster.heap import keep_freed, release_freed
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(4 << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
keep_freed()
faults()
kept = faults()
release_freed()
print(plain, kept, faults())
"""


def test_workers_keep_freed_memory_while_a_run_goes_on(run_python, monkeypatch):
    if not os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("not glibc")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")  # as dask starts workers
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    plain, kept, after = map(int, run_python(HEAP).split())
    assert kept < plain / 10
    assert after > plain / 2


# ---- errors of tasks


FAILING_PART = """
import threading
import tileconv.cluster.worker as worker
class Unpicklable(OSError):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()
class Unloadable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
class Elsewhere(Exception):
    "Its module is there at the worker only."
Elsewhere.__module__ = "no_such_module"
def fail(plan, recipe, source, tile, **options):
    raise %s
worker.convolve_tile = fail
"""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ('Unpicklable("no room")', "no room"),
        ('Unloadable("this", "that")', "this and that"),
        ('Elsewhere("far away")', "far away"),
    ],
)
def test_an_error_that_does_not_travel_is_told_all_the_same(source, tmp_path, error, told):
    (tmp_path / "d").mkdir()
    made = Cluster(tmp_path / "d", workers=1, preload=FAILING_PART % error)
    try:
        child = cli(describe(source, tmp_path / "o.tif"), tmp_path, "--scheduler", made.address)
        text, _ = child.communicate(timeout=120)
    finally:
        made.close()
    assert child.returncode != 0
    assert told in text
    assert names(tmp_path) == ["d", "in.tif", "job.yaml"]


def damaged(source, tmp_path):
    """A copy of a raster with a block that cannot be decoded."""
    path = tmp_path / "bad.tif"
    data = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as tiff:
        start, size = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def test_a_block_that_cannot_be_decoded_is_told_as_in_a_local_run(client, source, tmp_path):
    mapping = describe(damaged(source, tmp_path), tmp_path / "o.tif")
    told = []
    for where in ((), (client,)):
        with pytest.raises(
            InputError, match=r"block \(\d+, \d+\) of .* cannot be decoded"
        ) as error:
            run(mapping, *where)
        told.append(str(error.value))
    assert told[0] == told[1]
    mapping["output"]["path"] = str(tmp_path / "p.tif")
    child = cli(mapping, tmp_path, "--scheduler", "processes")
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 3, text
    assert "cannot be decoded" in text
    assert "Traceback" not in text
    assert not {"o.tif", "p.tif"} & {*names(tmp_path)}


# ---- what is wrong at the start


def test_a_disk_that_workers_do_not_share(source, tmp_path):
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no mount namespaces here")
    (tmp_path / "out").mkdir()
    (tmp_path / "d").mkdir()
    made = Cluster(tmp_path / "d", workers=0)
    try:
        mount = f'mount -t tmpfs tmpfs {tmp_path / "out"} && exec "$@"'
        made.workers = [made.add_worker(["unshare", "-m", "sh", "-c", mount, "sh"])]
        with made.client() as client, pytest.raises(ClusterError, match="workers share"):
            run(describe(source, tmp_path / "out" / "o.tif"), client)
        assert names(tmp_path / "out") == []
    finally:
        made.close()


def test_messages(source, tmp_path):
    mapping = describe(source, tmp_path / "o.tif")
    mapping["compute"]["scheduler"] = f"tcp://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tileconv.cluster.connect.CONNECT_SECONDS", 0.3)
        with pytest.raises(ClusterError, match="no dask scheduler answers"):
            run(mapping)
    with pytest.raises(ConfigError, match="resume"):
        run(describe(source, tmp_path / "o.tif"), resume=True)
    mapping["compute"] = {"scheduler": "tcp:/x"}
    with pytest.raises(ConfigError, match="tls://host:8786"):
        tileconv.load_job(mapping)
    mapping["compute"] = {"cluster": {"name": "YarnCluster"}}
    with pytest.raises(ConfigError, match="SLURMCluster"):
        tileconv.load_job(mapping)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dask_gateway", None)
        with pytest.raises(ConfigError, match="pip install 'dask-gateway'"):
            make_cluster(ClusterConfig(name="GatewayCluster"))


# ---- survival


def kill_a_worker(client, after, rng):
    """Kill a worker process, not its nanny, after a while."""

    def work():
        time.sleep(after)
        pids = list(client.run(os.getpid).values())
        os.kill(rng.choice(pids), signal.SIGKILL)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def slow_cluster(tmp_path_factory):
    """Tiles that take 30 ms more, so that kills hit them."""
    preload = SLOW_PART.format(seconds=0.03)
    made = Cluster(tmp_path_factory.mktemp("slow"), preload=preload)
    yield made
    made.close()


def check_kill(cluster, source, folder, seed):
    rng = random.Random(seed)
    mapping = describe(source, folder / f"k{seed}.tif", part=64)
    with cluster.client() as client:
        thread = kill_a_worker(client, rng.uniform(0.05, 0.9), rng)
        report = run(mapping, client)
        thread.join()
    assert read(folder / f"k{seed}.tif").tobytes() == read(folder / "expected.tif").tobytes()
    return report.cluster.retries


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_worker(slow_cluster, source, tmp_path, seed):
    run(describe(source, tmp_path / "expected.tif"))
    check_kill(slow_cluster, source, tmp_path, seed)


@pytest.mark.slow
def test_twenty_killed_workers(slow_cluster, source, tmp_path):
    run(describe(source, tmp_path / "expected.tif"))
    retries = [check_kill(slow_cluster, source, tmp_path, seed) for seed in range(20)]
    print(f"20 right of 20, parts begun again: {retries}")


KILLER = """
import os, signal
import tileconv.cluster.worker as worker
from tileconv.jobs.schedule import convolve_tile as plain
def kill(plan, recipe, source, tile, **options):
    if (tile.row, tile.column) == (3, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(plan, recipe, source, tile, **options)
worker.convolve_tile = kill
"""


def test_a_part_that_kills_its_workers_is_named(source, tmp_path):
    (tmp_path / "d").mkdir()
    made = Cluster(tmp_path / "d", workers=2, preload=KILLER)
    target = tmp_path / "o.tif"
    mapping = describe(source, target, part=64)
    try:
        with made.client() as client, pytest.raises(ClusterError) as caught:
            run(mapping, client)
    finally:
        made.close()
    text = str(caught.value)
    assert re.search(r"in\.tif: part 19 killed its worker [3-9] times: tiles \(3, 2\)", text), text
    assert "output rows 192 to 255, columns 128 to 191, input rows 192 to 259" in text
    manifest = Manifest(run_folder(target))
    assert manifest.read()
    assert 19 not in manifest.parts
    kept = len(manifest.parts)
    assert f"{kept} finished part" in text
    assert kept > 10
    assert not target.exists()


def test_a_line_of_the_manifest_that_has_no_room_is_told_once(tmp_path):
    """What Python could not write it writes again when it closes the file."""
    manifest = Manifest(run_folder(tmp_path / "o.tif"))
    manifest.begin({"token": "a"})
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (manifest.path.stat().st_size, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            manifest.add({"part": 1})
        manifest.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    again = Manifest(run_folder(tmp_path / "o.tif"))
    assert again.read()
    assert again.header["token"] == "a"
    assert not again.parts


TWINS = []


def run_twice(key, number, step):
    """A task, and its late twin after it: the file of the first stays."""
    first = worker.run_part(key, number, step)
    path = worker.find_work(key).path(number)
    inode = path.stat().st_ino
    second = worker.run_part(key, number, -step)
    TWINS.append((first["crc32"] == second["crc32"], path.stat().st_ino == inode))
    return second


def test_a_late_twin_changes_nothing(source, tmp_path):
    target = tmp_path / "o.tif"
    TWINS.clear()
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as here,
        distributed.Client(here, set_as_default=False) as near,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("tileconv.cluster.run.run_part", run_twice)
        report = run(describe(source, target), near)
    assert [(True, True)] * report.cluster.parts == TWINS
    assert report.cluster.retries == report.cluster.parts
    run(describe(source, tmp_path / "a.tif"))
    assert read(target).tobytes() == read(tmp_path / "a.tif").tobytes()


def cli(mapping, folder, *arguments):
    path = folder / "job.yaml"
    path.write_text(json.dumps(mapping))
    command = [sys.executable, "-m", "tileconv", "run", str(path), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )


def begun(target):
    """How often parts of an interrupted run were begun."""
    tries = run_folder(target) / "tries"
    return sum(path.stat().st_size for path in tries.iterdir()) if tries.is_dir() else 0


def kill_and_resume(cluster, source, folder, seed):
    """Kill the client some time after it began; returns (parts, parts begun again)."""
    target = folder / f"c{seed}.tif"
    mapping = describe(source, target, part=64)
    child = cli(mapping, folder, "--scheduler", cluster.address)
    manifest = Manifest(run_folder(target))
    while not (manifest.path.exists() and begun(target)):
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 1.2))
    child.kill()
    child.wait()
    if target.exists():  # it was done by then, but for what it had to tidy up
        assert read(target).tobytes() == read(folder / "expected.tif").tobytes()
        child = cli(mapping, folder, "--scheduler", cluster.address, "--resume")
        assert "finished already" in child.communicate(timeout=120)[0]
        assert not run_folder(target).exists()
        return 0, 0
    assert manifest.read()
    left = len(manifest.parts)
    child = cli(mapping, folder, "--scheduler", cluster.address, "--resume", "--json")
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 0, text
    use = json.loads(text[text.index("{") :])["cluster"]
    assert read(target).tobytes() == read(folder / "expected.tif").tobytes()
    assert use["resumed"] >= left
    assert use["parts"] == 80
    return use["parts"], use["retries"]


IN_FLIGHT = 9
"""Parts that a client of three threads has in flight."""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_client(slow_cluster, source, tmp_path, seed):
    run(describe(source, tmp_path / "expected.tif"))
    _, again = kill_and_resume(slow_cluster, source, tmp_path, seed)
    assert again <= IN_FLIGHT


@pytest.mark.slow
def test_forty_killed_clients(slow_cluster, source, tmp_path):
    run(describe(source, tmp_path / "expected.tif"))
    again = [kill_and_resume(slow_cluster, source, tmp_path, seed)[1] for seed in range(40)]
    print(f"40 right of 40, parts begun again: {again}")
    assert max(again) <= IN_FLIGHT


def test_a_lost_scheduler_and_what_resume_refuses(source, tmp_path):
    (tmp_path / "d").mkdir()
    target = tmp_path / "o.tif"
    mapping = describe(source, target, part=64)
    made = Cluster(tmp_path / "d", workers=2, preload=SLOW_PART.format(seconds=0.05))
    try:
        child = cli(mapping, tmp_path, "--scheduler", made.address)
        manifest = Manifest(run_folder(target))
        while not (manifest.read() and len(manifest.parts) > 3):
            assert child.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        os.killpg(made.scheduler.pid, signal.SIGKILL)
        text, _ = child.communicate(timeout=60)
        assert child.returncode == 4, text
        assert "--resume" in text
        assert time.monotonic() - began < 40
    finally:
        made.close()
    manifest.read()
    kept = len(manifest.parts)
    assert not target.exists()
    options = {"n_workers": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(**options) as here,
        distributed.Client(here, set_as_default=False) as near,
    ):
        with pytest.raises(OutputExistsError, match=rf"{kept} finished parts.*--resume"):
            run(mapping, near)
        changed = json.loads(json.dumps(mapping))
        changed["kernel"]["sigma"] = 2.0
        with pytest.raises(OutputExistsError, match="the kernel's weights changed"):
            run(changed, near, resume=True)
        times = source.stat()
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
        with pytest.raises(OutputExistsError, match=r"the input .*in\.tif changed"):
            run(mapping, near, resume=True)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        victim = next(iter((run_folder(target) / "parts").rglob("*.tif")))
        victim.write_bytes(victim.read_bytes()[:-100])
        report = run(mapping, near, resume=True)
        assert kept - 1 <= report.cluster.resumed <= kept
        run(describe(source, tmp_path / "a.tif"))
        assert read(target).tobytes() == read(tmp_path / "a.tif").tobytes()
        before = target.stat()
        again = run(mapping, near, resume=True)
        assert "finished already" in again.warnings[-1]
        assert again.seconds == 0
        assert target.stat() == before


def test_processes_look_at_themselves_rarely_unless_they_are_watched(source, tmp_path):
    mapping = describe(source, tmp_path / "b.tif")
    mapping["compute"] |= {"workers": 1, "scheduler": "processes"}
    job = tileconv.load_job(mapping)

    def profiled():
        import dask

        return dask.config.get("distributed.worker.profile.enabled")

    for watched in (False, True):
        with connect(job, watched=watched) as client:
            assert [*client.run(profiled).values()] == [watched]


def test_processes_are_a_cluster_too(source, tmp_path):
    run(describe(source, tmp_path / "a.tif"))
    mapping = describe(source, tmp_path / "b.tif")
    mapping["compute"]["workers"] = 2
    child = cli(mapping, tmp_path, "--scheduler", "processes")
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 0, text
    assert "Cluster   20 parts" in text
    assert read(tmp_path / "b.tif").tobytes() == read(tmp_path / "a.tif").tobytes()
