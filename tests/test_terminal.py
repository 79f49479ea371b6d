"""What leaves for a terminal: nothing that it would obey, and one message if it takes nothing."""

import json
import os
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import read

import tileconv
from tileconv.cli import main
from tileconv.errors import ConfigError
from tileconv.text import visible, visible_lines

ODD = "a\x1b[31m\r\n\x07\x9b\u202e\u2066\u2028b"
SHOWN = r"a\x1b[31m\r\n\x07\x9b\u202e\u2066\u2028b"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, make_raster):
    """A folder with a raster of an odd name, in which the tests run."""
    monkeypatch.chdir(tmp_path)
    make_raster(np.ones((9, 9), np.uint8), f"{ODD}.tif")
    return tmp_path


def write_job(path=f"{ODD}.tif", target="{stem}_o.tif", **keys):
    job = {"input": {"path": path}, "kernel": {"name": "box"}}
    job["output"] = {"path": target, "quicklook": True}
    Path("job.yaml").write_text(yaml.safe_dump(job | keys))


def printed(code, *arguments, shown=SHOWN):
    """Run a command; check that what it prints is lines of visible text, and return it."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    text = result.stdout + result.stderr
    assert {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} <= {"\n"}
    assert shown in text
    return text


def test_lines_stay_and_all_else_is_written_out():
    assert visible(ODD) == SHOWN
    assert visible(SHOWN) == SHOWN  # nothing is written out twice
    assert visible_lines(f"{ODD}\nb") == f"{visible(ODD[:7])}\n{visible(ODD[8:])}\nb".replace(
        "\n", "\n"
    )
    assert visible("Zürich, 東京") == "Zürich, 東京"


def test_names_of_files_are_shown_not_obeyed(folder):
    write_job()
    assert "Input     " + SHOWN in printed(0, "plan", "job.yaml")
    assert "Picture   " + SHOWN in printed(0, "run", "job.yaml")
    assert "Output    " + SHOWN in printed(0, "verify", "job.yaml")
    told = printed(2, "run", "job.yaml")
    assert told == f"Error: {SHOWN}_o.tif: exists already; choose another path, or set " + (
        "output.overwrite (--overwrite)\n"
    )
    (folder / f"{ODD}.tif.aux.xml").write_text("<PAMDataset/>")
    assert f"Note      {SHOWN}.tif.aux.xml is read beside" in printed(0, "plan", "job.yaml")


def test_tables_and_failures_of_batches_too(folder):
    (folder / f"{ODD}.bad.tif").write_bytes(b"no raster")
    write_job("*.tif", "out/{stem}_o.tif")
    assert f"Error: {SHOWN}.bad.tif: cannot be opened" in printed(3, "plan", "job.yaml")
    assert f"Error: {SHOWN}.bad.tif: cannot be opened" in printed(3, "run", "job.yaml")
    printed(2, "verify", "job.yaml")
    report = CliRunner().invoke(main, ["run", "job.yaml", "--overwrite", "--json"]).stdout
    assert json.loads(report)["inputs"][1]["source"] == f"{folder}/{ODD}.tif"  # a program's own


def test_words_of_jobs_and_of_the_command_line_too():
    sections = ["input: {path: a.tif}", "kernel: {name: box}", "output: {path: o.tif}"]
    Path("job.yaml").write_text("\n".join(['"st\\e[31m\\nride": 1', *sections]))
    told = printed(2, "run", "job.yaml", shown=r"line 1: st\x1b[31m\nride: unknown key")
    assert len(told.splitlines()) == 2
    write_job("a.tif", kernel={"name": ODD})
    assert len(printed(2, "run", "job.yaml").splitlines()) == 2
    printed(2, "run", f"{ODD}.yaml")
    printed(2, "run", "job.yaml", "--set", ODD)
    printed(2, "run", "job.yaml", "--scheduler", ODD, shown=r"\x1b[31m")
    printed(2, f"--{ODD}")
    printed(2, ODD)
    printed(2, "kernels", ODD)
    printed(0, "init", f"{ODD}.yaml")
    printed(0, "plan", f"{ODD}.yaml", shown="landsat8_crop_smooth.tif")


def test_messages_in_python_too():
    job = {"kernel": {"name": "box"}, "output": {"path": "o.tif"}}
    with pytest.raises(tileconv.InputError) as caught:
        tileconv.plan(tileconv.load_job({"input": {"path": "a\x1b\nb.none"}, **job}))
    assert str(caught.value) == f"{Path.cwd()}/a\\x1b\\nb.none: no such file"
    lines = ConfigError("a job:", "one\ntwo", "three")
    assert str(pickle.loads(pickle.dumps(lines))) == "a job:\n  one\\ntwo\n  three"


# ---- Streams that take nothing


def run(command, **streams):
    shell = ["sh", "-c", f"exec {sys.executable} -m tileconv {command}"]
    return subprocess.run(shell, check=False, capture_output=not streams, text=True, **streams)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["kernels", "--help", "run --help", "--version"])
@pytest.mark.parametrize("where", ["> /dev/full", "| exec sleep 0"])
def test_standard_output_that_takes_nothing(command, where):
    if where.startswith("|"):
        reading, writing = os.pipe()
        os.close(reading)
        done = run(command, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        words = "Broken pipe"
    else:
        done = run(f"{command} {where}")
        words = "No space left on device"
    assert done.returncode == 4
    assert done.stderr == f"Error: standard output cannot be written: {words}\n"


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_standard_error_that_takes_nothing():
    for silent in ("2> /dev/full", "2>&-"):
        done = run(f"run none.yaml {silent}")
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
        assert run(f"frob {silent}").returncode == 2


def test_closed_streams_are_no_place_for_an_output():
    """A file that is opened first would have the number of standard output or standard error."""
    write_job()
    done = run("run job.yaml 1>&- 2>&- 0>&-")
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")
    assert read(f"{ODD}_o.tif").tolist() == np.ones((1, 7, 7)).tolist()
    done = run("kernels >&-")
    assert done.returncode == 4
    assert done.stderr.startswith("Error: standard output is closed")


def test_letters_that_a_terminal_lacks():
    done = subprocess.run(
        [sys.executable, "-m", "tileconv", "init", "\xe9\u6771.yaml"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.stdout.startswith(b"wrote \xe9\\u6771.yaml\n")
