"""Ctrl-C and SIGTERM end a run on processes of this machine: quickly, quietly, and all of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio

from tileconv.cluster.folder import run_folder
from tileconv.cluster.processes import _scratch_folder, uninterrupted
from tileconv.errors import ClusterError

# A shell may start the tests with SIGINT ignored, and children inherit that.
CLI = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from tileconv.__main__ import main; main()"
)
DASKS_OWN = ("global.lock", "purge.lock")
"""Files that every use of dask's workers on a machine leaves in its folder, one of each."""


def test_the_folder_of_workers_is_made_or_told(tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path / "not" / "yet")}):
        assert Path(_scratch_folder()).parent == tmp_path / "not" / "yet"
    (tmp_path / "file").write_text("")
    with (
        dask.config.set({"temporary-directory": str(tmp_path / "file")}),
        pytest.raises(ClusterError, match="set dask's temporary-directory"),
    ):
        _scratch_folder()


def processes(session):
    """Return the command lines of the processes of a session that are alive."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = status.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found[int(status.parent.name)] = (status.parent / "cmdline").read_text()
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return found


class Run:
    """The command line at work, in a session of its own as in a terminal."""

    def __init__(self, folder, source):
        self.target, self.temporary = folder / "out" / "out.tif", folder / "temporary"
        self.temporary.mkdir()
        self.target.parent.mkdir()
        job = {
            "input": {"path": str(source)},
            "kernel": {"name": "gaussian", "size": 15, "sigma": 3},
            "output": {"path": str(self.target)},
            "compute": {"scheduler": "processes", "workers": 2, "tile": 128, "part": 128},
        }
        (folder / "job.yaml").write_text(json.dumps(job))
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLI, "run", str(folder / "job.yaml")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            start_new_session=True,
        )

    # moments of its life

    def imports(self):
        """Numpy is loaded, and the rest is being imported."""
        maps = Path(f"/proc/{self.process.pid}/maps")
        return "_multiarray_umath" in maps.read_text()

    def starts_workers(self):
        return any("spawn_main" in command for command in processes(self.process.pid).values())

    def computes(self):
        folder = run_folder(self.target) / "tries"
        return folder.is_dir() and any(folder.iterdir())

    def closes(self):
        return self.target.exists()

    def wait_until(self, moment):
        while not moment(self):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def send(self, sent):
        """Ctrl-C reaches every process of a terminal, SIGTERM the one that it is sent to."""
        if sent == signal.SIGINT:
            os.killpg(self.process.pid, sent)
        else:
            self.process.send_signal(sent)


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    path = tmp_path_factory.mktemp("interrupts") / "in.tif"
    pixels = np.random.default_rng(5).integers(0, 9000, (1, 1024, 1024), dtype="uint16")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=1024,
        height=1024,
        count=1,
        dtype="uint16",
        tiled=True,
        transform=rasterio.Affine(30, 0, 7e5, 0, -30, 0),
        crs="EPSG:32621",
    ) as raster:
        raster.write(pixels)
    return path


@pytest.fixture
def begun(tmp_path, raster):
    run = Run(tmp_path, raster)
    yield run
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)
    run.process.communicate()


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        (Run.imports, signal.SIGINT),
        (Run.starts_workers, signal.SIGINT),
        (Run.starts_workers, signal.SIGTERM),
        (Run.computes, signal.SIGINT),
        (Run.computes, signal.SIGTERM),
        (Run.closes, signal.SIGINT),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_interrupt_is_quiet_and_leaves_nothing(moment, sent, begun):
    run = begun
    run.wait_until(moment)
    run.send(sent)
    printed, told = run.process.communicate(timeout=60)
    word, code = ("Interrupted", 130) if sent == signal.SIGINT else ("Terminated", 143)
    if run.process.returncode != 0 or not run.target.exists():  # else it had ended meanwhile
        assert run.process.returncode == code, told
        assert told.strip() == f"{word}; no output was left unfinished."
        assert not printed
    deadline = time.monotonic() + 10
    while processes(run.process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes(run.process.pid)
    left = {path.name for path in run.temporary.rglob("*") if not path.is_dir()}
    assert left <= set(DASKS_OWN)
    kept = {path.name for path in run.target.parent.iterdir()}
    assert kept <= {run.target.name, run_folder(run.target).name}


def test_what_a_killed_run_leaves_is_removed_by_the_next(begun, raster, tmp_path):
    begun.wait_until(Run.computes)
    os.killpg(begun.process.pid, signal.SIGKILL)
    begun.process.communicate()
    assert [*begun.temporary.glob("tileconv-*")]
    assert run_folder(begun.target).is_dir()
    command = [sys.executable, "-c", CLI, "run", str(tmp_path / "job.yaml"), "--resume"]
    options = {"env": os.environ | {"TMPDIR": str(begun.temporary)}, "capture_output": True}
    again = subprocess.run(command, text=True, timeout=120, check=False, **options)
    assert again.returncode == 0, again.stderr
    assert not [*begun.temporary.glob("tileconv-*")]
    assert [path.name for path in begun.target.parent.iterdir()] == [begun.target.name]


def test_work_that_is_not_to_be_interrupted_comes_to_its_end():
    done = []

    def work():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        done.append(1)
        return "made"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            uninterrupted(work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [1]
    assert uninterrupted(lambda: "made") == "made"
    with pytest.raises(LookupError):
        uninterrupted(lambda: {}[0])
