"""What breaks under way: full disks, kills, signals, files that change, damaged caches.

One claim lies behind all of it: at the output's path is a whole file, or what was there before.
"""

import asyncio
import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import read

import tileconv
from tileconv.errors import ConfigError, InputError, OutputError, OutputExistsError
from tileconv.jobs.prepare import plan_header, read_source
from tileconv.raster.leftovers import remove
from tileconv.raster.mosaic_reader import open_source
from tileconv.raster.overwrite import overwrite_nodata, overwrite_room

OLD = b"II*\0the old output"
CODECS = ("none", "deflate", "zstd")
TEMPORARY = ".*.tileconv-*.tmp"
FILES_ROOM = {"COG": 1.3, "Zarr": 1}
"""The largest file on the way to an output, in sizes of the largest in it."""
DISK_ROOM = {"GTiff": 1, "COG": 3.5, "Zarr": 1.6}
"""Room that a run takes on a disk, in sizes of its output; small files fill whole pages."""
# A shell may start the tests with SIGINT ignored, and children inherit that.
CLI = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from tileconv.cli import main; main()"
)


def start_cli(*arguments, **options):
    command = [sys.executable, "-c", CLI, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, **options)


def run_cli(*arguments, **options):
    """Run the command line to its end; returns the exit code and all it printed."""
    child = start_cli(*arguments, **options)
    printed, _ = child.communicate(timeout=300)
    return child.returncode, printed


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def write_job(path, mapping):
    path.write_text(json.dumps(mapping))  # JSON is YAML
    return path


def run(mapping, **options):
    return tileconv.run(tileconv.load_job(mapping), **options)


@pytest.fixture
def noise(rng):
    """Two bands that no codec can shrink."""
    return rng.integers(0, 255, (2, 162, 162), dtype=np.uint8)


@pytest.fixture
def small(noise, make_raster, tmp_path):
    """Return a function that describes a job of nine tiles with an output folder of its own."""
    source = make_raster(noise, block=(64, 64), compress="deflate")

    def describe(**output):
        name = "out.zarr" if output.get("driver") == "Zarr" else "out.tif"
        return {
            "input": {"path": str(source)},
            "kernel": {"name": "gaussian", "size": 3},
            "output": {"path": str(tmp_path / "out" / name), "blocksize": 64} | output,
            "compute": {"tile": 64, "workers": 2},
        }

    return describe


@pytest.fixture
def expected(noise):
    """What the small job gives, computed without tiles or files."""
    return tileconv.convolve(noise, tileconv.kernels.gaussian(3))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "out.tif"


# ---- Full disks

# One child tries every limit: a soft limit can be raised again, and nothing is imported twice.
# Python ignores SIGXFSZ, so that a write beyond the limit fails as it does on a full disk.
SWEEP = """
import json, resource, shutil, subprocess, sys
import numpy as np
import rasterio
import zarr as zarr_python
from PIL import Image
import tileconv

mapping, reference, count, way, most_of_all = json.loads(sys.argv[1])
job = tileconv.load_job(mapping)
reference = np.load(reference)
folder = job.target.parent
folder.mkdir(exist_ok=True)
OLD = b"II*\\0the old output"
zarr = job.driver == "Zarr"

def put_old():
    if zarr:
        job.target.mkdir()
    (job.target / "zarr.json" if zarr else job.target).write_bytes(OLD)

def is_old():
    found = job.target / "zarr.json" if zarr else job.target
    return found.read_bytes() == OLD and (not zarr or len([*job.target.iterdir()]) == 1)

def clear():
    if zarr:
        shutil.rmtree(job.target, ignore_errors=True)
    else:
        job.target.unlink(missing_ok=True)

def pixels():
    if zarr:
        return zarr_python.open_group(job.target, mode="r")["band_data"][...]
    with rasterio.open(job.target) as dataset:
        return dataset.read()

def limit_files(most):
    soft = resource.RLIM_INFINITY if most is None else most
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

def limit_disk(most):  # 0 would mean no limit
    size = 1 << 30 if most is None else max(most, 4096)
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

def state():
    if not job.target.exists():
        return "absent"
    if is_old():
        return "old"
    return "whole" if np.array_equal(pixels(), reference) else "WRONG"

beside = [job.quicklook_path] * job.quicklook + [job.report_path] * job.report

def check_beside(report):
    # what goes beside an output is whole, or absent and told
    for path in beside:
        if not path.exists():
            assert report is None or any(path.name in told for told in report.warnings), path
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        else:
            assert json.loads(path.read_text())["tileconv"]
        if path.exists() and report is None:
            raise AssertionError(f"{path} is there, and its output is not")
        path.unlink(missing_ok=True)

limit = {"files": limit_files, "disk": limit_disk}[way]
if way == "disk":
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
if job.overwrite:
    put_old()
done = tileconv.run(job)
size = done.bytes_written
check_beside(done)
if zarr and way == "files":  # it is the largest file that counts
    size = max(path.stat().st_size for path in job.target.rglob("*") if path.is_file())
attempts = []
for most in np.linspace(0, 1.2 * most_of_all * size, count).astype(int).tolist():
    clear()
    if job.overwrite:
        put_old()
    limit(most)
    done = None
    try:
        done = tileconv.run(job)
        code = 0
    except tileconv.TileconvError as error:
        code = error.exit_code
    except BaseException as error:
        code = repr(error)
    finally:
        limit(None)
    check_beside(done)
    others = [path.name for path in folder.iterdir() if path != job.target]
    attempts.append((most, code, state(), others))
print(json.dumps([size, attempts]))
"""


def sweep(mapping, expected, folder, *, count, way="files", prefix=(), most=1):
    """Run a job under ``count`` limits, from nothing to more than it needs.

    It needs at most ``most`` times as much as its output has bytes.
    Checks that each run either failed with exit code 4 and left what was there before, or wrote
    all; returns how many failed.
    """
    np.save(folder / "expected.npy", expected)
    arguments = json.dumps([mapping, str(folder / "expected.npy"), count, way, most])
    command = [*prefix, sys.executable, "-W", "error", "-c", SWEEP, arguments]
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr[-3000:]
    size, attempts = json.loads(child.stdout)
    before = "old" if mapping["output"].get("overwrite") else "absent"
    assert [a for a in attempts if a[1:] not in ([4, before, []], [0, "whole", []])] == []
    assert len(attempts) == count
    # The sweep has teeth: little room always fails, and room enough never does.
    assert {code for limit, code, *_ in attempts if limit < 0.8 * size} == {4}
    assert {code for limit, code, *_ in attempts if limit > 1.15 * most * size} == {0}
    return sum(code == 4 for _, code, *_ in attempts)


@pytest.mark.parametrize("compress", CODECS)
def test_a_full_disk_is_never_silent(compress, small, expected, tmp_path):
    assert sweep(small(compress=compress), expected, tmp_path, count=100) > 50


@pytest.mark.parametrize("compress", CODECS)
def test_a_full_disk_spares_the_old_output(compress, small, expected, tmp_path):
    mapping = small(compress=compress, overwrite=True)
    assert sweep(mapping, expected, tmp_path, count=25) > 12


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("driver", ["COG", "Zarr"])
def test_a_full_disk_is_never_silent_for_other_formats(
    driver, overwrite, small, expected, tmp_path
):
    mapping = small(driver=driver, overwrite=overwrite)
    failed = sweep(mapping, expected, tmp_path, count=30, most=FILES_ROOM[driver])
    assert failed > 12


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("compress", CODECS)
@pytest.mark.parametrize("driver", ["COG", "Zarr"])
def test_no_limit_of_hundreds_is_silent_for_other_formats(
    driver, compress, overwrite, small, expected, tmp_path
):
    mapping = small(driver=driver, compress=compress, overwrite=overwrite)
    failed = sweep(mapping, expected, tmp_path, count=300, most=FILES_ROOM[driver])
    print(f"{driver} {compress} overwrite {overwrite}: 300 limits, {failed} failed")
    assert failed > 120


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("compress", [*CODECS, "lzw"])
def test_no_limit_of_a_thousand_is_silent(compress, overwrite, small, expected, tmp_path):
    mapping = small(compress=compress, overwrite=overwrite)
    assert sweep(mapping, expected, tmp_path, count=1000) > 500


@pytest.mark.parametrize("length", [0, 8, 60])
def test_texts_of_a_file_that_is_cut_short_are_not_looked_for_in_vain(small, out, length):
    run(small())
    out.write_bytes(out.read_bytes()[:length])
    for overwrite in (lambda: overwrite_nodata(out, np.int64(5)), lambda: overwrite_room(out, out)):
        with pytest.raises(OSError, match="the file that was written|tags of the file"):
            overwrite()


ALL_ON = {"quicklook": True, "report": True}


@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
def test_a_full_disk_and_all_that_goes_beside_an_output(driver, small, expected, tmp_path):
    mapping = small(driver=driver, **ALL_ON)
    assert sweep(mapping, expected, tmp_path, count=16, most=FILES_ROOM.get(driver, 1)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("compress", CODECS)
@pytest.mark.parametrize(("driver", "count"), [("GTiff", 150), ("COG", 100), ("Zarr", 85)])
def test_no_limit_of_two_thousand_is_silent_with_all_on(
    driver, count, compress, overwrite, small, expected, tmp_path
):
    mapping = small(driver=driver, compress=compress, overwrite=overwrite, **ALL_ON)
    failed = sweep(mapping, expected, tmp_path, count=count, most=FILES_ROOM.get(driver, 1))
    print(f"{driver} {compress} overwrite {overwrite}: {count} limits, {failed} failed")
    assert failed > count / 3


# Workers of a cluster get the same limits as their client; what failed is resumed without one.
CLUSTER_SWEEP = """
import json, os, resource, shutil, sys
from pathlib import Path
import distributed
import numpy as np
import rasterio
import zarr
import tileconv

def limit(most):
    soft = resource.RLIM_INFINITY if most is None else most
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}

def main():
    mapping, reference, count = json.loads(sys.argv[1])
    job = tileconv.load_job(mapping)
    reference = np.load(reference)
    folder = job.target.parent
    folder.mkdir(exist_ok=True)
    vrt = job.target.suffix == ".vrt"
    OLD = b"<VRTDataset>the old output</VRTDataset>" if vrt else b"II*\\0the old output"

    def empty():
        shutil.rmtree(folder)
        folder.mkdir()
        if job.overwrite:
            job.target.write_bytes(OLD)

    def state():
        if not job.target.exists():
            return "absent"
        if job.target.is_file() and job.target.read_bytes() == OLD:
            return "old"
        if job.driver == "Zarr":
            found = zarr.open_group(job.target, mode="r")["band_data"][...]
        else:
            with rasterio.open(job.target) as dataset:
                found = dataset.read()
        return "whole" if np.array_equal(found, reference) else "WRONG"

    options = {"processes": True, "dashboard_address": None, "local_directory": "workers"}
    with distributed.LocalCluster(2, threads_per_worker=1, **options) as cluster:
        with distributed.Client(cluster) as client:
            empty()
            tileconv.run(job, client=client)
            whole = files(folder)
            # without room for its samples a picture lacks parts, and the report says so
            output = whole - {job.quicklook_path, job.report_path}
            largest = max(path.stat().st_size for path in output)
            attempts = []
            for most in np.linspace(0, 1.3 * largest, count).astype(int).tolist():
                empty()
                limit(most)
                client.run(limit, most)
                try:
                    tileconv.run(job, client=client)
                    code = 0
                except tileconv.TileconvError as error:
                    code = error.exit_code
                except BaseException as error:
                    code = repr(error)
                finally:
                    limit(None)
                    client.run(limit, None)
                found = state()
                if code:
                    tileconv.run(job, client=client, resume=True)
                left = len(files(folder)) - len(whole)
                attempts.append((most, code, found, state(), left))
    print(json.dumps([largest, attempts]))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "output",
    [
        {"overwrite": False},
        {"overwrite": True},
        {"overwrite": False, "layout": "parts"},
        {"overwrite": True, "layout": "parts"},
        {"overwrite": True, "driver": "COG"},
        {"overwrite": False, "driver": "Zarr"},
    ],
    ids=lambda output: "-".join(map(str, output.values())),
)
def test_no_full_disk_is_silent_on_a_cluster(output, small, expected, tmp_path):
    mapping = small(**ALL_ON, **output)
    if "layout" in output:
        mapping["output"]["path"] = str(tmp_path / "out" / "out.vrt")
    del mapping["compute"]["workers"]
    np.save(tmp_path / "expected.npy", expected)
    script = tmp_path / "sweep.py"
    script.write_text(CLUSTER_SWEEP)
    arguments = json.dumps([mapping, str(tmp_path / "expected.npy"), 40])
    child = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
        cwd=tmp_path,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    largest, attempts = json.loads(child.stdout)
    before = "old" if output["overwrite"] else "absent"
    fine = ([4, before, "whole", 0], [0, "whole", "whole", 0])
    assert [a for a in attempts if a[1:] not in fine] == []
    assert {code for limit, code, *_ in attempts if limit < 0.8 * largest} == {4}
    failed = sum(code == 4 for _, code, *_ in attempts)
    print(f"{output}: {len(attempts)} limits, {failed} failed")


@pytest.fixture
def own_mounts():
    """How to start a child that may mount a file system nobody else sees."""
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("needs unshare and mount")
    attempt = [*prefix, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    if subprocess.run(attempt, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let its users mount in a namespace of their own")
    return prefix


@pytest.mark.parametrize("compress", CODECS)
@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
def test_a_file_system_without_room_is_never_silent(
    driver, compress, small, expected, own_mounts, tmp_path
):
    mapping, most = small(driver=driver, compress=compress), DISK_ROOM[driver]
    found = sweep(mapping, expected, tmp_path, count=15, way="disk", prefix=own_mounts, most=most)
    assert found > 3


@pytest.mark.slow
@pytest.mark.parametrize("compress", CODECS)
@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
def test_no_file_system_of_hundreds_is_silent(
    driver, compress, small, expected, own_mounts, tmp_path
):
    mapping, most = small(driver=driver, compress=compress), DISK_ROOM[driver]
    found = sweep(mapping, expected, tmp_path, count=200, way="disk", prefix=own_mounts, most=most)
    print(f"{driver} {compress}: 200 sizes of a disk, {found} failed")
    assert found > 40


# ---- Kills and signals


@pytest.fixture(scope="module")
def long_job(tmp_path_factory):
    """A job that writes for about a second: (YAML file, expected pixels, seconds)."""
    folder = tmp_path_factory.mktemp("long")
    pixels = np.random.default_rng(7).integers(0, 255, (1, 2004, 2004), dtype=np.uint8)
    profile = {"count": 1, "height": 2004, "width": 2004, "dtype": "uint8", "tiled": True}
    place = rasterio.Affine(30, 0, 700000, 0, -30, -2800000)
    with rasterio.open(folder / "in.tif", "w", "GTiff", transform=place, **profile) as dataset:
        dataset.write(pixels)
    mapping = {
        "input": {"path": "in.tif"},
        "kernel": {"name": "gaussian"},
        "output": {"path": "out/out.tif", "level": 1},
        "compute": {"tile": 256, "workers": 2},
    }
    job = write_job(folder / "job.yaml", mapping)
    (folder / "out").mkdir()
    seconds = min(seconds_of_writing(job) for _ in range(3))
    return job, tileconv.convolve(pixels, tileconv.kernels.gaussian()), seconds


def seconds_of_writing(job):
    """How long a process of its own takes from its first byte to an output, its code to load."""
    folder = job.parent / "out"
    child = start_writing(job, folder)
    began = time.monotonic()
    while child.poll() is None and not list(folder.glob("out.*")):
        time.sleep(0.002)
    seconds = time.monotonic() - began
    printed, _ = child.communicate()
    assert child.returncode == 0, printed
    empty(folder)
    return seconds


@pytest.fixture(scope="module", params=["COG", "Zarr"])
def other_job(request, long_job):
    """The long job with another driver, and the seconds it takes."""
    job, expected, _ = long_job
    mapping = json.loads(job.read_text())
    mapping["output"]["driver"] = request.param
    if request.param == "Zarr":
        mapping["output"]["path"] = "out/out.zarr"
    job = write_job(job.with_name(f"{request.param}.yaml"), mapping)
    return job, expected, min(seconds_of_writing(job) for _ in range(2))


def empty(folder):
    for path in folder.iterdir():
        remove(path)


def pixels_of(path):
    """Read a finished output of any kind."""
    if path.suffix != ".zarr":
        return read(path)
    import zarr

    return zarr.open_group(path, mode="r")["band_data"][...]


@pytest.fixture
def long_out(long_job):
    """Where the long job writes; empty at the beginning and, whatever happened, at the end."""
    folder = long_job[0].parent / "out"
    yield folder
    empty(folder)


def start_writing(job, folder):
    """Start a job; return once it has begun to write."""
    before = set(folder.glob(TEMPORARY))
    child = start_cli("run", job, "--quiet")
    while child.poll() is None and not {*folder.glob(TEMPORARY)} - before:
        time.sleep(0.002)
    return child


def kill(child):
    child.kill()
    child.communicate()


def kill_sweep(job, expected, folder, delays, start):
    """Kill a run after each delay; returns how often (nothing, leftovers, a whole file) was there.

    Fails where a file that is not whole lies at the output's path.
    """
    absent = left = whole = 0
    out = folder / ("out.zarr" if "Zarr" in job.name else "out.tif")
    for delay in delays:
        child = start(job, folder)
        time.sleep(delay)
        kill(child)
        left += any(folder.glob(TEMPORARY))
        if out.exists():
            np.testing.assert_array_equal(pixels_of(out), expected)
            whole += 1
            remove(out)
        else:
            absent += 1
    return absent, left, whole


def test_a_killed_run_leaves_all_or_nothing(long_job, long_out):
    job, expected, seconds = long_job
    chance = random.Random(20261123)
    delays = [chance.uniform(0, 0.8 * seconds) for _ in range(10)]
    absent, left, _ = kill_sweep(job, expected, long_out, delays, start_writing)
    assert absent > 5
    assert left > 5  # killed while writing, not before

    kill(start_writing(job, long_out))
    assert run_cli("run", job)[0] == 0
    assert names(long_out) == ["out.tif"]  # nor the leftovers of the killed
    np.testing.assert_array_equal(read(long_out / "out.tif"), expected)


def test_a_killed_run_leaves_all_or_nothing_in_other_formats(other_job, long_out):
    job, expected, seconds = other_job
    chance = random.Random(20261125)
    delays = [chance.uniform(0, 0.8 * seconds) for _ in range(8)]
    absent, left, _ = kill_sweep(job, expected, long_out, delays, start_writing)
    assert absent > 1
    assert left > 1  # killed while writing, not before
    code, printed = run_cli("run", job)
    assert code == 0, printed
    assert len(names(long_out)) == 1  # nor the leftovers of the killed


@pytest.mark.slow
def test_a_run_killed_at_any_time_leaves_all_or_nothing_in_other_formats(other_job, long_out):
    job, expected, seconds = other_job
    chance = random.Random(2)
    delays = [chance.uniform(0, 1.3 * seconds) for _ in range(100)]
    absent, left, whole = kill_sweep(job, expected, long_out, delays, start_writing)
    print(f"{job.name}: 100 kills, {absent} absent, {left} with leftovers, {whole} whole")
    assert min(absent, left, whole) > 3
    assert run_cli("run", job)[0] == 0
    assert len(names(long_out)) == 1


@pytest.mark.slow
def test_a_run_killed_at_any_time_leaves_all_or_nothing(long_job, long_out):
    job, expected, seconds = long_job
    chance = random.Random(1)
    delays = [chance.uniform(0, 1.5 + 2 * seconds) for _ in range(200)]
    start = lambda job, folder: start_cli("run", job, "--quiet")  # noqa: E731
    absent, left, whole = kill_sweep(job, expected, long_out, delays, start)
    assert min(absent, left, whole) > 5
    assert run_cli("run", job)[0] == 0
    assert names(long_out) == ["out.tif"]


@pytest.mark.parametrize("share", [0, 0.2, 0.4])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_and_leaves_nothing(sent, code, share, long_job, long_out):
    job, _, seconds = long_job
    child = start_writing(job, long_out)
    time.sleep(share * seconds)
    child.send_signal(sent)
    printed, _ = child.communicate(timeout=60)
    assert child.returncode == code, printed
    assert "no output was left" in printed
    assert "Traceback" not in printed
    assert names(long_out) == []


def test_a_run_removes_what_the_dead_left_and_nothing_else(small, out):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    out.parent.mkdir()
    here = socket.gethostname()
    of_the_dead = f"tileconv-{here}-{dead.pid}-0a1b2c.tmp"
    job = tileconv.load_job(small(quicklook=True, report=True))
    written = {path.name for path in job.written}
    stale = [f".{name}.{of_the_dead}" for name in written]
    stale.append(f".out.tif.{of_the_dead}.ovr")  # GDAL's own beside it
    others = {
        f".out.tif.tileconv-{here}-{os.getpid()}-0a1b2c.tmp",  # of a process that is alive
        f".out.tif.tileconv-not-{here}-{dead.pid}-0a1b2c.tmp",  # of another machine
        f".other.tif.{of_the_dead}",  # of another output
    }
    for name in (*stale, *others):
        (out.parent / name).write_bytes(bytes(1000))
    told = "4 files of 3.9 KiB that a killed run left: "
    assert f"the run removes {told}" in str(tileconv.plan(job))
    report = tileconv.run(job)
    assert any(note.startswith(f"removed {told}") for note in report.warnings)
    assert set(names(out.parent)) == {*written, *others}


# ---- Memory

# The array of 64 MB that holds the only tile of output finds no room, whatever malloc has spare.
SQUEEZE = """
import json, resource, sys
import psutil
import tileconv

mapping = json.loads(sys.argv[1])
job = tileconv.load_job(mapping)
tileconv.run(tileconv.load_job(mapping | {"compute": {"scheduler": "synchronous", "tile": 512}}))
job.target.unlink()
room = psutil.Process().memory_info().vms + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
try:
    tileconv.run(job)
except tileconv.OutOfMemoryError as error:
    print(error.exit_code, error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print([path.name for path in job.target.parent.iterdir()])
tileconv.run(job)
"""


@pytest.mark.parametrize("room", [4, 24])
def test_too_little_memory_is_the_systems_fault(room, make_raster, out):
    source = make_raster(np.zeros((4000, 4000), np.uint8), block=(256, 256), compress="deflate")
    mapping = {
        "input": {"path": str(source)},
        "kernel": {"weights": [[1]]},
        "output": {"path": str(out), "level": 1},
        "compute": {"scheduler": "synchronous", "tile": 4096, "memory_limit": "4 GiB"},
    }
    command = [sys.executable, "-c", SQUEEZE, json.dumps(mapping), str(room)]
    told, left = subprocess.check_output(command, text=True).splitlines()
    assert told.startswith("4 job: out of memory; the plan needs about ")
    assert left == "[]"
    assert names(out.parent) == ["out.tif"]  # the same process goes on once there is room


# ---- Outputs that cannot be written


def test_an_output_below_a_file_is_the_systems_fault(small, tmp_path):
    (tmp_path / "plain.tif").write_bytes(b"no folder")
    mapping = small(path=str(tmp_path / "plain.tif" / "x.tif"))
    with pytest.raises(OutputError, match=r"plain\.tif/x\.tif: could not be written") as caught:
        run(mapping)
    assert caught.value.exit_code == 4
    assert (tmp_path / "plain.tif").read_bytes() == b"no folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_is_the_systems_fault(small, out):
    out.parent.mkdir(mode=0o555)
    with pytest.raises(OutputError, match=r"out\.tif: could not be written.*denied"):
        run(small())
    assert names(out.parent) == []


def test_a_name_too_long_fails_before_a_tile_is_computed(small, tmp_path):
    mapping, done = small(path=str(tmp_path / "out" / ("x" * 300))), []
    with pytest.raises(ConfigError, match="name too long: the output .* 300 bytes"):
        run(mapping, progress=lambda *count: done.append(count))
    assert (done, names(tmp_path / "out")) == ([], [])


def test_the_longest_name_that_a_disk_takes_is_fine(small, tmp_path):
    name = "x" * 251 + ".tif"
    run(small(path=str(tmp_path / "out" / name)))
    assert names(tmp_path / "out") == [name]


def test_a_folder_that_vanishes_under_way_is_an_error(small, out):
    with pytest.raises(OutputError, match="could not be written"):
        run(small(), progress=once(lambda: shutil.rmtree(out.parent)))
    assert not out.parent.exists()


def test_an_output_that_appears_under_way_is_not_replaced(small, out):
    with pytest.raises(OutputExistsError, match="exists already"):
        run(small(), progress=once(lambda: out.write_bytes(OLD)))
    assert out.read_bytes() == OLD
    assert names(out.parent) == ["out.tif"]


def test_an_error_in_the_callers_progress_leaves_nothing(small, out):
    def fail():
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        run(small(), progress=once(fail))
    assert names(out.parent) == []


def once(action):
    """Return a progress function that acts when the first tile is done."""

    def progress(done, total):
        if done == 1:
            action()

    return progress


# ---- Inputs that change or break


def replace_it(source):
    shutil.copy(source, source.with_name("new.tif"))
    os.replace(source.with_name("new.tif"), source)


def append_to_it(source):
    with source.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [replace_it, append_to_it, Path.touch, Path.unlink])
@pytest.mark.parametrize("old", [None, OLD])
def test_an_input_that_changes_under_way_gives_no_output(change, old, small, out):
    mapping = small(overwrite=old is not None)
    if old is not None:
        out.parent.mkdir()
        out.write_bytes(old)
    source = Path(mapping["input"]["path"])
    with pytest.raises(InputError, match=r"in\.tif: changed while it was being read") as caught:
        run(mapping, progress=once(lambda: change(source)))
    assert caught.value.exit_code == 3
    assert names(out.parent) == ([] if old is None else ["out.tif"])
    assert old is None or out.read_bytes() == old


def test_what_is_opened_is_what_was_planned(small, make_raster):
    job = tileconv.load_job(small())
    header = read_source(job)
    plan = plan_header(job, header)
    make_raster(np.zeros((1, 9, 9), np.uint8))  # in its place, with fewer bands and pixels
    source = open_source(header, plan.geometry, plan.tiles)
    with pytest.raises(InputError, match="changed while it was being read"), source:
        pass


def damage(source, how):
    """Cut a raster in the middle, or overwrite a block there; returns (top, left) of bad blocks."""
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        starts, sizes = np.array(page.dataoffsets), np.array(page.databytecounts)
        tall, wide = page.tilelength, page.tilewidth
        across, down = -(-page.imagewidth // wide), -(-page.imagelength // tall)
    middle = int(np.sort(starts)[starts.size // 2])
    if how == "cut":
        os.truncate(source, middle + 10)
        bad = np.flatnonzero(starts + sizes > middle + 10)
    else:
        with source.open("r+b") as file:
            file.seek(middle)
            file.write(b"\xff" * 100)
        bad = np.flatnonzero(starts == middle)
    return {(int(i) // across * tall, int(i) % across * wide) for i in bad % (across * down)}


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize("how", ["cut", "overwrite"])
def test_a_block_that_cannot_be_read_is_named(how, old, scheduler, small, out):
    mapping = small(overwrite=old is not None)
    mapping["compute"]["scheduler"] = scheduler
    if old is not None:
        out.parent.mkdir()
        out.write_bytes(old)
    bad = damage(Path(mapping["input"]["path"]), how)
    with pytest.raises(InputError) as caught:
        run(mapping)
    assert caught.value.exit_code == 3
    told = re.search(r"in\.tif: .*rows (\d+) to \d+, columns (\d+) to \d+", str(caught.value))
    assert (int(told[1]), int(told[2])) in bad
    assert names(out.parent) == ([] if old is None else ["out.tif"])
    assert old is None or out.read_bytes() == old


def test_a_damaged_block_outside_all_fields_does_not_matter(small, out, noise):
    # 162 pixels in blocks of 64: kernel 3 and stride 150 leave the middle blocks unread.
    mapping = small()
    mapping["stride"] = 150
    bad = damage(Path(mapping["input"]["path"]), "overwrite")
    assert bad == {(64, 64)}
    run(mapping)
    whole = tileconv.convolve(noise, tileconv.kernels.gaussian(3), stride=150)
    np.testing.assert_array_equal(read(out), whole)


# ---- Caches of compiled loops


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache folder that one run has filled, a job, and the bytes of its output."""
    folder = tmp_path_factory.mktemp("compiled")
    pixels = np.random.default_rng(3).integers(0, 999, (40, 40), dtype=np.uint16)
    place = rasterio.Affine(30, 0, 700000, 0, -30, -2800000)
    profile = {"count": 1, "height": 40, "width": 40, "dtype": "uint16", "transform": place}
    with rasterio.open(folder / "in.tif", "w", "GTiff", **profile) as dataset:
        dataset.write(pixels, 1)
    mapping = {
        "input": {"path": "in.tif"},
        "kernel": {"name": "gaussian"},
        "output": {"path": "out.tif", "overwrite": True},
    }
    job = write_job(folder / "job.yaml", mapping)
    code, printed = run_cli("run", job, env=os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")})
    assert code == 0, printed
    return folder / "cache", job, read(folder / "out.tif")


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def spoil(path):
    path.write_bytes(b"\x00nonsense" * 100)


@pytest.mark.parametrize("hurt", [lambda path: os.truncate(path, 0), halve, spoil])
def test_a_damaged_cache_is_compiled_anew(hurt, filled_cache, tmp_path):
    cache, job, before = filled_cache
    shutil.copytree(cache, tmp_path / "cache")
    files = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert len(files) > 2
    for path in files:
        hurt(path)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    code, printed = run_cli("run", job, env=environment)
    assert code == 0, printed
    np.testing.assert_array_equal(read(job.with_name("out.tif")), before)


def test_no_place_for_a_cache_is_no_obstacle(filled_cache, tmp_path):
    # A copy of the package whose cache folder cannot be made, below a home that cannot be either.
    _, job, before = filled_cache
    package = tmp_path / "code" / "tileconv"
    ignored = shutil.ignore_patterns("__pycache__", "*.tif")
    shutil.copytree(Path(tileconv.__file__).parent, package, ignore=ignored)
    for folder in (package / "engine", *(package / "engine").glob("*/")):
        (folder / "__pycache__").write_bytes(b"no folder")
    (tmp_path / "plain").write_bytes(b"no folder")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG"))}
    environment |= {
        "HOME": str(tmp_path / "plain" / "home"),
        "NUMBA_CACHE_DIR": str(tmp_path / "plain" / "cache"),
        "PYTHONPATH": str(tmp_path / "code"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    where = "import tileconv; print(tileconv.__file__)"
    command = [sys.executable, "-c", where]
    found = subprocess.check_output(command, env=environment, cwd=tmp_path, text=True)
    assert found.startswith(str(package))
    code, printed = run_cli("run", job, env=environment, cwd=tmp_path)
    assert code == 0, printed
    np.testing.assert_array_equal(read(job.with_name("out.tif")), before)
    assert not [*tmp_path.rglob("*.nb?")]


def test_what_zarr_still_writes_after_a_failure_is_not_left_behind(small, tmp_path, monkeypatch):
    """To make an array, zarr writes several files at once, and goes on when one of them fails."""
    zarr = pytest.importorskip("zarr")
    store, late = zarr.storage.LocalStore, []

    async def fail(self, key, value):
        if key.startswith("band_data/"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await put(self, key, value)

    async def put_late(self, key, value):
        await asyncio.sleep(0.3)
        await put(self, key, value)
        late.append(key)

    put = store.set
    monkeypatch.setattr(store, "set", fail)
    monkeypatch.setattr(store, "set_if_not_exists", put_late)
    job = tileconv.load_job(small(driver="Zarr", compress="none"))
    with pytest.raises(tileconv.OutputError, match="No space left"):
        tileconv.run(job)
    time.sleep(0.6)
    assert late
    assert not [*job.target.parent.iterdir()]
