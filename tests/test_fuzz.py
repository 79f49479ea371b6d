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


def test_wrong_pixels_are_found(in_scripts):
    """A block decoded wrongly without GDAL is found beside GDAL's way, and beside rasterio."""
    ends = in_scripts(
        "import json\n"
        "from fuzzing.rasters import Rasters\n"
        "from tileconv.raster import stored\n"
        "stored.Reader._put = lambda self, samples, columns, out: out.fill(1)\n"
        "def kinds(way, cases):\n"
        "    made = Rasters(1, way=way, whole=True)\n"
        "    return [end.kind for _, end in run_cases(made, cases, root)]\n"
        "cases = {'both': range(4), 'direct': range(20), 'gdal': range(4)}\n"
        "print(json.dumps({way: kinds(way, numbers) for way, numbers in cases.items()}))\n"
    )
    assert "differs" in ends["both"]
    assert "differs" in ends["direct"]
    assert ends["gdal"] == ["result"] * 4


def test_sound_rasters_and_jobs_give_results(in_scripts):
    """What is not damaged is no fault, and is held against GDAL's pixels."""
    ends = in_scripts(
        "import json\n"
        "from fuzzing.jobs import JOBS, Jobs\n"
        "from fuzzing.rasters import Rasters\n"
        "rasters = Rasters(1, whole=True)\n"
        "count = len(rasters.seeds)\n"
        "ends = [end for _, end in run_cases(rasters, range(count), root)]\n"
        "jobs = [end for _, end in run_cases(Jobs(1, whole=True), range(len(JOBS)), root)]\n"
        "print(json.dumps([[e.label, e.kind, e.notes, e.detail] for e in ends + jobs]))\n"
    )
    refused = [(label, detail) for label, kind, _, detail in ends if kind != "result"]
    assert [label for label, _ in refused] == ["complex"], refused
    assert sum("compared with GDAL's pixels" in notes for _, _, notes, _ in ends) > 5


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


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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


@pytest.mark.parametrize("part", ["rasters", "jobs", "calls"])
def test_a_few_cases(part, tmp_path):
    file = tmp_path / "figures.json"
    done = fuzz(part, "--count", 20, "--seed", 4, "--json", file, "--folder", tmp_path)
    figures = json.loads(file.read_text())
    assert figures["faults"] == []
    assert done.returncode == 0
    assert figures["cases"] == 20
    assert figures["outcomes"]["refused"] > 0
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
    done = fuzz(*what, "--json", file)
    assert json.loads(file.read_text())["faults"] == [], done.stdout
    assert done.returncode == 0
