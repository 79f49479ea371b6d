"""Many inputs by one job: one output each, nothing written twice, one bad file stops no other."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import read

import tileconv
from tileconv.cli import main

KERNEL = [[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    return tmp_path


@pytest.fixture
def scenes(folder, make_raster, rng):
    """Three rasters of different sizes and dtypes, and their arrays by stem."""
    arrays = {
        "a": rng.integers(0, 999, (2, 60, 50)).astype("uint16"),
        "b": rng.integers(0, 99, (1, 40, 70)).astype("uint8"),
        "c": rng.normal(size=(1, 33, 35)).astype("float32"),
    }
    for stem, array in arrays.items():
        make_raster(array, f"scenes/{stem}.tif", block=(16, 16))
    return arrays


def write_job(path="scenes/*.tif", output="out/{stem}_s2.tif", **keys):
    job = {
        "input": {"path": path},
        "kernel": {"weights": KERNEL},
        "stride": 2,
        "output": {"path": output, **keys},
    }
    job["compute"] = {"memory_limit": "2 GiB"}
    Path("job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def written():
    return (
        sorted(str(p) for p in Path("out").rglob("*") if p.is_file())
        if Path("out").exists()
        else []
    )


def check(arrays, output="out/{stem}_s2.tif"):
    for stem, array in arrays.items():
        expected = tileconv.convolve(array, KERNEL, stride=2)
        np.testing.assert_array_equal(read(output.format(stem=stem)), expected)


def test_a_glob_gives_one_output_each(scenes):
    write_job()
    result = invoke("run", "job.yaml")
    assert result.exit_code == 0, result.output
    check(scenes)
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "Input",
        "Output",
        "Bands,",
        "rows,",
        "columns",
        "On",
        "disk",
        "Blocks",
        "Seconds",
    ]
    assert [line.split()[0] for line in lines[1:4]] == [f"scenes/{s}.tif" for s in "abc"]
    assert lines[4].startswith("Batch     3 of 3 inputs done in ")
    assert written() == [f"out/{s}_s2.tif" for s in "abc"]


def test_a_list_keeps_its_order_and_may_hold_globs(scenes):
    write_job(["scenes/c.tif", "scenes/[ab].tif"])
    report = tileconv.run(tileconv.load_job("job.yaml"))
    assert [Path(r.source).stem for r in report.done] == ["c", "a", "b"]
    assert report.failures == ()
    check(scenes)


def test_globs_go_into_folders_and_see_no_hidden_files(folder, make_raster):
    for name in ("scenes/x/1.tif", "scenes/y/1.tif", "scenes/.hidden.tif", "scenes/y/z/1.tif"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        make_raster(np.ones((9, 9), "uint8"), name)
    (folder / "scenes" / "folder.tif").mkdir()
    write_job("scenes/**/*.tif", "out/{parent}_{name}")
    report = tileconv.run(tileconv.load_job("job.yaml"))
    assert written() == ["out/x_1.tif", "out/y_1.tif", "out/z_1.tif"]
    assert len(report.entries) == 3


def test_a_glob_is_relative_to_the_job(scenes, folder, monkeypatch):
    write_job()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert invoke("run", "../job.yaml", "-q").exit_code == 0
    monkeypatch.chdir(folder)
    check(scenes)


def test_a_name_with_a_glob_s_marks_is_a_file_if_it_is_there(folder, make_raster):
    array = np.arange(81, dtype="uint8").reshape(9, 9)
    make_raster(array, "scenes/x[1]*.tif")
    write_job("scenes/x[1]*.tif", "out/x.tif")
    report = tileconv.run(tileconv.load_job("job.yaml"))
    assert report.out_shape == (1, 4, 4)  # a job of one raster, not a batch


def test_nothing_matches(folder):
    write_job("scenes/*.tiff")
    for command in ("run", "plan"):
        result = invoke(command, "job.yaml")
        assert result.exit_code == 3
        assert "scenes/*.tiff: no file matches" in result.stderr


def test_one_bad_file_does_not_stop_the_others(scenes, folder):
    whole = (folder / "scenes" / "b.tif").read_bytes()
    (folder / "scenes" / "b.tif").write_bytes(whole[: len(whole) // 2])
    write_job(["scenes/a.tif", "scenes/b.tif", "scenes/missing.tif", "scenes/c.tif"])
    result = invoke("run", "job.yaml")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1].startswith("Batch     2 of 4 inputs done in ")
    assert result.stdout.endswith(" s, 2 failed\n")
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert errors[0].startswith("Error: scenes/b.tif: ")
    assert errors[1] == "Error: scenes/missing.tif: no such file"
    del scenes["b"]
    check(scenes)
    assert written() == ["out/a_s2.tif", "out/c_s2.tif"]


def test_json_has_an_entry_per_input(scenes, folder):
    (folder / "scenes" / "bb.tif").write_text("no raster")
    write_job()
    result = invoke("run", "job.yaml", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == report["exit_code"] == 3
    assert (report["done"], report["failed"]) == (3, 1)
    entries = {Path(entry["source"]).stem: entry for entry in report["inputs"]}
    assert list(entries) == ["a", "b", "bb", "c"]
    assert entries["a"]["status"] == "done"
    assert entries["a"]["out_shape"] == [2, 29, 24]
    bad = entries["bb"]
    assert (bad["status"], bad["kind"], bad["exit_code"]) == ("failed", "InputError", 3)
    assert "cannot be opened as GeoTIFF" in bad["error"]


def test_quiet_tells_of_failures_only(scenes, folder):
    write_job()
    assert invoke("run", "job.yaml", "-q").output == ""
    (folder / "scenes" / "b.tif").write_text("no raster")
    result = invoke("run", "job.yaml", "-q", "--overwrite")
    assert (result.exit_code, result.stdout) == (3, "")
    assert len(result.stderr.splitlines()) == 1


def test_the_gravest_failure_gives_the_exit_code(scenes, folder):
    (folder / "scenes" / "b.tif").write_text("no raster")
    (folder / "out").mkdir()
    (folder / "out" / "a").write_text("a file where a folder should be")
    write_job(output="out/{stem}/s2.tif")
    result = invoke("run", "job.yaml", "--json")
    codes = [entry.get("exit_code", 0) for entry in json.loads(result.stdout)["inputs"]]
    assert codes == [4, 3, 0]
    assert result.exit_code == 4


def test_a_plan_of_a_batch(scenes, folder):
    (folder / "scenes" / "bb.tif").write_text("no raster")
    write_job()
    result = invoke("plan", "job.yaml")
    assert result.exit_code == 3
    assert "3 of 4 inputs can run, 1 failed" in result.stdout
    assert "scenes/bb.tif: cannot be opened" in result.stderr
    assert not Path("out").exists()
    plan = json.loads(invoke("plan", "job.yaml", "--json").stdout)
    assert [entry["status"] for entry in plan["inputs"]] == ["done", "done", "failed", "done"]
    assert plan["inputs"][0] == {
        "status": "done",
        **tileconv.plan(tileconv.load_job("job.yaml", set=["input.path=scenes/a.tif"])).to_dict(),
    }


@pytest.mark.parametrize(
    ("path", "output", "words"),
    [
        ("scenes/*.tif", "out/x.tif", ["would both be written to", "put {stem}, {name}"]),
        ("scenes/*.tif", "out/{parent}.tif", ["would both be written to"]),
        (["scenes/a.tif", "scenes/a.tif"], "out/{stem}.tif", ["scenes/a.tif is given twice"]),
        (["a.tif", "scenes/a.tif"], "out/{stem}.tif", ["would both be written to"]),
        ("scenes/*.tif", "scenes/{stem}.tif", ["a.tif is an input, and the output of"]),
        (["scenes/a.tif", "scenes/a_s2.tif"], "scenes/{stem}_s2.tif", ["and the output of"]),
        ([], "out/{stem}.tif", ["line 2: input.path: must be a path, a list of paths, or a glob"]),
        ([1], "out/{stem}.tif", ["input.path"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_would_make_two_files_one_is_refused_first(
    path, output, words, command, scenes, folder
):
    write_job(path, output, overwrite=True)
    before = sorted(folder.rglob("*"))
    result = invoke(command, "job.yaml")
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_hide_no_input(link, scenes, folder):
    (folder / "out").mkdir()
    link(folder / "scenes" / "a.tif", folder / "out" / "c_s2.tif")
    write_job(overwrite=True)
    result = invoke("run", "job.yaml")
    assert result.exit_code == 2
    assert "is an input, and the output" in result.stderr or "it is the input" in result.stderr
    assert written() == ["out/c_s2.tif"]
    assert read("scenes/a.tif").tobytes() == scenes["a"].tobytes()


def test_outputs_that_exist_are_told_before_anything_is_written(scenes, folder):
    (folder / "out").mkdir()
    (folder / "out" / "b_s2.tif").write_bytes(b"II*\0precious")
    write_job()
    result = invoke("run", "job.yaml")
    assert result.exit_code == 2
    assert "out/b_s2.tif: exists already" in result.stderr
    assert written() == ["out/b_s2.tif"]
    assert Path("out/b_s2.tif").read_bytes() == b"II*\0precious"
    result = invoke("plan", "job.yaml")
    assert result.exit_code == 0
    assert "scenes/b.tif: the output exists" in result.stdout
    assert invoke("run", "job.yaml", "--overwrite").exit_code == 0
    check(scenes)


def test_quicklooks_do_not_collide(folder, make_raster):
    for name in ("x.tif", "x.tiff"):
        make_raster(np.ones((9, 9), "uint8"), f"scenes/{name}")
    write_job(["scenes/x.tif", "scenes/x.tiff"], "out/{name}", quicklook=True)
    result = invoke("run", "job.yaml")
    assert result.exit_code == 2
    assert "would both write" in result.stderr
    assert written() == []


def test_progress_counts_inputs(scenes):
    write_job()
    seen = []
    tileconv.run(tileconv.load_job("job.yaml"), progress=lambda *told: seen.append(told))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupt_keeps_what_is_finished(scenes, folder):
    write_job()
    code = (
        "import os, signal, sys, tileconv\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell's child
        "from tileconv.jobs import schedule\n"
        "run, done = schedule.run_job, []\n"
        "def stop(job):\n"
        "    if done: os.kill(os.getpid(), signal.SIGINT)\n"
        "    done.append(run(job)); return done[-1]\n"
        "schedule.run_job = stop\n"
        "from tileconv.cli import main\n"
        "main(['run', 'job.yaml'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 128 + signal.SIGINT
    assert "no output was left unfinished" in ended.stderr
    assert written() == ["out/a_s2.tif"]
    del scenes["b"], scenes["c"]
    check(scenes)
