"""The command line as a person meets it."""

import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import read

import tileconv
from tileconv.cli import main


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A folder in which `tileconv init` has been run."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["init"])
    assert result.exit_code == 0, result.output
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_init_then_run_gives_a_result(started):
    result = invoke("run", "job.yaml")
    assert result.exit_code == 0, result.output
    assert "landsat8_crop_smooth.tif" in result.stdout
    assert result.stderr == ""
    pixels = read(started / "landsat8_crop.tif")
    expected = tileconv.convolve(
        pixels,
        tileconv.kernels.gaussian(9, 2.0),
        stride=4,
        padding="same",
        padding_mode="reflect",
    )
    np.testing.assert_array_equal(read(started / "landsat8_crop_smooth.tif"), expected)
    assert (started / "landsat8_crop_smooth_quicklook.png").exists()


def test_init_replaces_nothing(started):
    before = (started / "job.yaml").read_bytes()
    result = invoke("init")
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert (started / "job.yaml").read_bytes() == before


def test_plan_writes_and_reads_nothing(started):
    result = invoke("plan", "job.yaml", "--set", "stride=8")
    assert result.exit_code == 0
    assert "stride 8 x 8" in result.stdout
    assert sorted(p.name for p in started.iterdir()) == ["job.yaml", "landsat8_crop.tif"]
    plan = json.loads(invoke("plan", "job.yaml", "--json").stdout)
    assert plan["out_shape"] == [3, 128, 128]


def test_quiet_prints_nothing_and_json_only_json(started):
    result = invoke("run", "job.yaml", "-q")
    assert (result.exit_code, result.output) == (0, "")
    result = invoke("run", "job.yaml", "--overwrite", "--json")
    assert json.loads(result.stdout)["tiles"] == 4


def test_overwrite_replaces_the_output_whole(started):
    invoke("run", "job.yaml", "-q")
    result = invoke("run", "job.yaml", "--overwrite", "--set", "stride=16")
    assert result.exit_code == 0
    assert read(started / "landsat8_crop_smooth.tif").shape == (3, 32, 32)


def test_scheduler_and_quicklook_options(started):
    job = ["job.yaml", "--set", "output.path=b.tif", "--set", "output.quicklook=false"]
    assert invoke("run", *job, "--quicklook", "--scheduler", "synchronous").exit_code == 0
    assert (started / "b_quicklook.png").exists()


def test_version_and_usage():
    assert invoke("--version").output == f"tileconv, version {tileconv.__version__}\n"
    assert invoke("run").exit_code == 2
    assert invoke("walk").exit_code == 2
    assert "No such command" in invoke("walk").stderr


def test_a_terminal_gets_progress_on_stderr(started):
    """In a pseudo-terminal: a bar while it runs, the summary on stdout."""
    parent, child = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "tileconv", "run", "job.yaml"],
        stdout=subprocess.PIPE,
        stderr=child,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(parent)
    out, _ = run.communicate()
    assert run.returncode == 0
    assert b"tiles" in seen
    assert b"landsat8_crop_smooth.tif" in out
    assert b"\x1b[" not in out


def test_a_job_is_relative_to_its_file_not_to_the_folder_it_is_run_from(started, monkeypatch):
    elsewhere = started / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert invoke("run", "../job.yaml", "-q").exit_code == 0
    assert (started / "landsat8_crop_smooth.tif").exists()
