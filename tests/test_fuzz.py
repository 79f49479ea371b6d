"""The fuzz harness: it finds each kind of fault, and none in the library."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from tileconv.jobs.config import JobConfig
from tileconv.jobs.yaml import parse

SCRIPTS = ROOT / "scripts"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TILECONV_NUM_THREADS": "1"}
PATIENT = ("--seconds", 120)
"""Where loops are compiled by the first case that needs them, on a busy machine."""

for module in ("imagecodecs", "xarray"):
    pytest.importorskip(module)


@pytest.fixture
def in_scripts(run_python, monkeypatch, tmp_path):
    """Return a function that runs code beside the scripts, in a folder that is ``root`` to it."""
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    start = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\nfrom pathlib import Path\n"
    start += f"root = Path({str(tmp_path)!r})\nfrom fuzzing.runner import Bounds, run_cases\n"
    return lambda code: json.loads(run_python(start + code).splitlines()[-1])


def fuzz(*arguments):
    """Run the script; returns its process and its figures."""
    command = [sys.executable, SCRIPTS / "fuzz.py", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


BROKEN = """
import json, os, time
from fuzzing.outcomes import FaultError
from tileconv.errors import InputError

def crash(folder): os.kill(os.getpid(), 11)
def abort(folder): os.abort()
def end(folder): os._exit(0)
def hang(folder): time.sleep(60)
def take(folder): return str(len(bytearray(1 << 30)))
def fail(folder): return {}["missing"]
def leave(folder):
    (folder / "out" / "half.tif").write_bytes(b"half")
    raise InputError("damaged")
def litter(folder): (folder / "tmp" / "left").write_bytes(b""); return "done"
def waver(folder): return str(os.urandom(8))
def differ(folder): raise FaultError("differs", "1 of 9 outputs")
def refuse(folder): raise InputError("damaged")
def work(folder): (folder / "out" / "whole.tif").write_bytes(b"whole"); return "done"

class Case:
    change = "none"
    def __init__(self, function): self.run, self.label = function, function.__name__

WAYS = [work, crash, abort, end, hang, take, fail, leave, litter, waver, differ, refuse, work]
def make(number, folder): return Case(WAYS[number])
"""


def test_each_kind_of_fault_is_found(in_scripts):
    """A case that dies takes no other with it, and all are told in spite of it."""
    told = in_scripts(
        f"{BROKEN}\n"
        "bounds = Bounds(seconds=2, mebibytes=256)\n"
        "ends = run_cases(make, range(len(WAYS)), root, bounds=bounds, processes=2, often=1)\n"
        "print(json.dumps({number: [end.label, end.kind] for number, end in ends}))\n"
    )
    assert [told[str(number)] for number in range(13)] == [
        ["work", "result"],
        ["crash", "signal"],
        ["abort", "signal"],
        ["end", "exit"],
        ["hang", "timeout"],
        ["take", "memory"],
        ["fail", "traceback"],
        ["leave", "left behind"],
        ["litter", "left behind"],
        ["waver", "unsteady"],
        ["differ", "differs"],
        ["refuse", "refused"],
        ["work", "result"],
    ]


def test_a_fault_is_told_with_what_shows_it_again(in_scripts):
    figures = in_scripts(
        f"{BROKEN}\n"
        "from fuzzing.campaign import run_campaign\n"
        "print(json.dumps(run_campaign(make, [0, 6, 11], root, command='again')))\n"
    )
    assert figures["outcomes"] == {"result": 1, "traceback": 1, "refused": 1}
    assert figures["exit_codes"] == {"3": 1}
    (fault,) = figures["faults"]
    (example,) = fault["examples"]
    assert example["reproduce"] == "again --case 6"
    assert "KeyError: 'missing'" in example["detail"]


def test_sound_cases_and_odd_ones(in_scripts):
    """What is not damaged gives results; what is, results or errors, and no fault.

    One process for all, whose imports take longer than the cases.
    """
    ends = in_scripts(
        "import json\n"
        "from fuzzing.calls import Calls\n"
        "from fuzzing.jobs import JOBS, Jobs\n"
        "from fuzzing.rasters import Rasters\n"
        "from tileconv.raster import direct_tiff\n"
        "def told(make, count):\n"
        "    cases = run_cases(make, range(count), root, bounds=Bounds(seconds=120))\n"
        "    ends = [end for _, end in cases]\n"
        "    return [[end.kind, end.label, end.notes, end.detail] for end in ends]\n"
        "sound = Rasters(1, whole=True)\n"
        "found = {'sound rasters': told(sound, len(sound.seeds))}\n"
        "found['sound jobs'] = told(Jobs(1, whole=True), len(JOBS))\n"
        "found |= {p.__name__: told(p(4), 20) for p in (Rasters, Jobs, Calls)}\n"
        "direct_tiff.Reader._put = lambda self, samples, columns, out: out.fill(1)\n"
        "for way, count in (('both', 4), ('direct', 20), ('gdal', 4)):\n"
        "    found[way] = told(Rasters(1, way=way, whole=True), count)\n"
        "print(json.dumps(found))\n"
    )
    kinds = {name: [kind for kind, *_ in found] for name, found in ends.items()}
    sound = [*ends["sound rasters"], *ends["sound jobs"]]
    assert [end[1] for end in sound if end[0] != "result"] == ["complex"], sound
    assert sum("compared with GDAL's pixels" in notes for _, _, notes, _ in sound) > 5
    for part in ("Rasters", "Jobs", "Calls"):
        assert set(kinds[part]) == {"result", "refused"}, ends[part]
    # and where blocks are decoded wrongly, that is found, beside GDAL's way and beside rasterio
    assert "differs" in kinds["both"]
    assert "differs" in kinds["direct"]
    assert kinds["gdal"] == ["result"] * 4


def test_the_jobs_have_every_key(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from fuzzing.jobs import JOBS

    found = set()
    for text in JOBS.values():
        for key, value in parse(text, "job.yaml").value.items():
            found |= {key} | (
                {f"{key}.{name}" for name in value} if isinstance(value, dict) else set()
            )
    known = set(JobConfig.model_fields)
    for name, field in JobConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {})
        known |= {f"{name}.{key}" for key in inner}
    assert known - {"kernel.weights"} <= found | {"kernel.weights"}
    assert known <= found


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_an_interrupted_campaign_leaves_nothing(tmp_path, sent, code):
    # A shell may start the tests with SIGINT ignored, and children inherit that
    heed = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    heed += "sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:]; "
    heed += "runpy.run_path(sys.argv[0], run_name='__main__')"
    script = [SCRIPTS, SCRIPTS / "fuzz.py", "calls", "--count", "100000"]
    command = [sys.executable, "-c", heed, *script]
    with subprocess.Popen(
        [*command, "--folder", tmp_path],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/child-0/case")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sent)
        assert process.wait(timeout=30) == code
    assert list(tmp_path.iterdir()) == []


def test_the_figures_of_a_few_cases(tmp_path):
    file = tmp_path / "figures.json"
    few = ("--count", 20, "--seed", 4, *PATIENT)
    done = fuzz("jobs", *few, "--json", file, "--folder", tmp_path)
    figures = json.loads(file.read_text())
    assert figures["faults"] == []
    assert done.returncode == 0
    assert sum(figures["outcomes"].values()) == figures["cases"] == 20
    assert sum(figures["exit_codes"].values()) == figures["outcomes"]["refused"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        ("rasters", "--way", "direct", "--count", 200),
        ("rasters", "--way", "gdal", "--count", 200),
        ("jobs", "--count", 100),
        ("calls", "--count", 300),
    ],
    ids=lambda what: " ".join(map(str, what[:3])),
)
def test_some_hundred_cases(what, tmp_path):
    file = tmp_path / "figures.json"
    done = fuzz(*what, *PATIENT, "--json", file)
    assert json.loads(file.read_text())["faults"] == [], done.stdout
    assert done.returncode == 0
