"""The consoles in the docs show what the commands really print.

``TILECONV_WRITE_DOCS=1 pytest tests/test_docs.py`` writes them again.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

CONSOLE = re.compile(r"```console\n(\$ .*?)\n```", re.DOTALL)
VOLATILE = (  # what differs from machine to machine, and between versions of GDAL
    (re.compile(r"ZIPDecode:[^;]*;"), "ZIPDecode:Decoding error at scanline 128;"),
    (re.compile(r"the limit is [0-9.]+ [KMGT]iB"), "the limit is 8.0 GiB"),
    (re.compile(r"\b[0-9]+\.[0-9] s, "), "0.5 s, "),
    (re.compile(r" in [0-9]+\.[0-9] s"), " in 0.5 s"),
    (re.compile(r" +[0-9]+ MiB$", re.MULTILINE), "      243 MiB"),
    (
        re.compile(r"[0-9]+(?:\.[0-9])? KiB( +[0-9]+ +)[0-9]\.[0-9]$", re.MULTILINE),
        r"57.5 KiB\g<1>0.1",
    ),
    (re.compile(r'"seconds": [0-9.]+'), '"seconds": 0.5'),
    (re.compile(r"[0-9]+ threads?;"), "2 threads;"),
    (re.compile(r"about [0-9.]+ MiB at the peak"), "about 247 MiB at the peak"),
    (re.compile(r"[0-9.]+ KiB on disk"), "127 KiB on disk"),
    (re.compile(r'"bytes_written": [0-9]+'), '"bytes_written": 129757'),
    (re.compile(r"[0-9]+ tiles? of [0-9,]+ x [0-9,]+ outputs"), "4 tiles of 64 x 64 outputs"),
    (re.compile(r"[0-9]+ tiles,"), "4 tiles,"),
    (re.compile(r'"tiles": [0-9]+'), '"tiles": 4'),
)


def printed(command, folder):
    """Return what a command prints, output and errors together, with its exit code if not 0."""
    python = shlex.quote(sys.executable)
    shell = re.sub(r"(?<!rio )\btileconv ", f"{python} -m tileconv ", command)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where rio lies
    done = subprocess.run(
        ["bash", "-c", shell],
        check=False,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "100", "PATH": beside},
    )
    text = done.stdout.rstrip().replace(f"{folder}/", "").replace("python -m tileconv", "tileconv")
    return text + (f"\n(exit code {done.returncode})" if done.returncode else "")


def settled(text):
    for pattern, usual in VOLATILE:
        text = pattern.sub(usual, text)
    return text


YAML_FILE = re.compile(r"```yaml\n# (\S+\.yaml)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "docs/command-line.md", "docs/inputs.md"])
def test_consoles_show_what_is_printed(tmp_path, scene, name):
    page = ROOT / name
    text = page.read_text()
    if name == "README.md":
        (tmp_path / scene.name).write_bytes(scene.read_bytes())
    for job, keys in YAML_FILE.findall(text):
        (tmp_path / job).write_text(keys)
    new, end = [], 0
    for match in CONSOLE.finditer(text):
        command = match[1].splitlines()[0].removeprefix("$ ")
        new += [
            text[end : match.start()],
            f"```console\n$ {command}\n",
            settled(printed(command, tmp_path)),
            "\n```",
        ]
        end = match.end()
    new = "".join([*new, text[end:]])
    if os.environ.get("TILECONV_WRITE_DOCS"):
        page.write_text(new)
    assert end > 0
    assert settled(text) == new


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / Path(target)).exists(), f"{page.name}: {target}"


def test_the_architecture_names_files_that_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*/?(?:\.py)?)`", page)
    files = [name for name in named if "/" in name or name.endswith(".py")]
    assert len(files) > 20
    for name in files:
        at = [ROOT / name, ROOT / "tileconv" / name, ROOT / "tileconv" / f"{name}.py"]
        assert any(path.exists() for path in at), name


def test_the_readmes_job_and_code_run(tmp_path, scene, monkeypatch):
    text = (ROOT / "README.md").read_text()
    job = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "edges.yaml").write_text(job)
    (tmp_path / scene.name).write_bytes(scene.read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "out" / "landsat8_crop_edges.tif").exists()
    assert (tmp_path / "out" / "landsat8_crop_edges_quicklook.png").exists()


@pytest.mark.parametrize("name", ["inputs.md", "semantics.md", "xarray.md"])
def test_the_code_of_a_page_says_what_it_gives(tmp_path, scene, monkeypatch, name):
    if name == "xarray.md":
        pytest.importorskip("xarray")
    (tmp_path / scene.name).write_bytes(scene.read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in code_blocks(name):
        for statement in ast.parse(code).body:
            source = ast.get_source_segment(code, statement)
            if not isinstance(statement, ast.Expr):
                exec(source, names)
                continue
            line = code.splitlines()[statement.end_lineno - 1]
            said = line.partition("  # ")[2].partition(":")[0]
            assert repr(eval(source, names)) == said


def code_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_same_call_in_other_libraries_gives_the_same(number):
    """docs/coming-from.md: the first block sets up, each other one compares."""
    blocks = code_blocks("coming-from.md")
    assert len(blocks) == 10
    for library in re.findall(r"^(?:import|from) (\w+)", blocks[number], re.MULTILINE):
        pytest.importorskip(library)
    names = {}
    exec(compile(blocks[0] + blocks[number], "coming-from.md", "exec"), names)
    theirs, ours = np.asarray(names["theirs"]), np.asarray(names["ours"])
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)
    if hasattr(names["ours"], "coords"):
        np.testing.assert_array_equal(names["ours"].x, names["theirs"].x)
