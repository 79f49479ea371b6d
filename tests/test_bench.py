"""The benchmark runs, its limits count the right work, and its pages are written where they should.

Nothing here looks at a time.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

SCRIPTS = ROOT / "scripts"
TINY = ["--quick", "--side", "96", "--seconds", "0.01", "--rounds", "3"]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


def bench(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, SCRIPTS / "bench.py", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def brute_force_lines(case, image):
    """Bytes of the cache lines that hold a pixel under some tap, one by one."""
    start = image.__array_interface__["data"][0]
    origin = start - start % 64 if image.flags.c_contiguous else start
    lines = set()
    rows, columns = case.out_shape(image.shape)
    strides = np.array(image.strides)
    for y, x, i, j in np.ndindex(rows, columns, *case.kernel):
        place = (
            y * case.stride[0] + i * case.dilation[0],
            x * case.stride[1] + j * case.dilation[1],
        )
        lines.add(int(strides[-2:] @ np.array(place) + start - origin) // 64)
    return 64 * len(lines)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "dtype"),
    [
        ((3, 3), (1, 1), (1, 1), "float32"),
        ((3, 3), (40, 40), (1, 1), "float32"),  # most lines of a row are left out
        ((2, 3), (5, 17), (1, 1), "uint8"),
        ((3, 2), (7, 9), (2, 5), "uint16"),
        ((1, 1), (64, 64), (1, 1), "float64"),
    ],
    ids=str,
)
def test_the_limit_reads_each_touched_cache_line_once(benchmarks, kernel, stride, dilation, dtype):
    from benchmarks.cases import Case, work

    case = Case("test", dtype, kernel, stride, dilation)
    raw = np.zeros(128 * 128 * 8 + 64, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    size = 128 * 128 * np.dtype(dtype).itemsize
    image = raw[start : start + size].view(dtype).reshape(128, 128)
    assert work(case, image.shape).read == brute_force_lines(case, image)


def test_separable_kernels_have_a_limit_of_their_own(benchmarks):
    from benchmarks.cases import Case, work

    shape, outputs = (100, 100), 94 * 94
    dense = work(Case("test", "float32", (7, 7)), shape)
    gaussian = work(Case("test", "float32", (7, 7), kind="gaussian"), shape)
    assert dense.fewest == dense.direct == gaussian.direct == outputs * 49
    assert gaussian.fewest == outputs * 7 + 94 * 100 * 7  # all rows need the columns at the edges


def test_the_table_is_made_and_joined(tmp_path):
    figures, page = tmp_path / "figures.json", tmp_path / "page.md"
    only = "f32 3x3 s2$|f32 31x31 s1 gaussian|4->64 3x3 s1 on|u16 5x5 s1 renormalize, third"
    done = bench("arrays", *TINY, "--only", only, "--json", figures)
    assert done.returncode == 0, done.stderr
    written = json.loads(figures.read_text())["arrays"]
    assert [case["case"] for case in written["cases"]] == [
        "f32 3x3 s2",
        "f32 31x31 s1 gaussian",
        "f32 4->64 3x3 s1 on 2048",
        "u16 5x5 s1 renormalize, third missing",
    ]
    for case in written["cases"][:3]:
        assert "loop" in case["peers"]  # which needs nothing but Numba
    assert written["cases"][3]["without"]
    assert written["variants"] > 0
    for installed in json.loads(figures.read_text())["machine"].keys() & {"scipy", "cv2", "torch"}:
        name = {"scipy": "SciPy", "cv2": "OpenCV", "torch": "torch"}[installed]
        assert name in written["cases"][0]["peers"]

    page.write_text("Before.\n\n<!-- bench:begin -->\nold\n<!-- bench:end -->\n\nAfter.\n")
    done = bench("--from", figures, figures, "--markdown", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("\n\nAfter.\n")
    assert "old" not in text
    assert text.count("| f32 3x3 s2 |") == 1


def test_a_case_that_is_not_there_is_told(tmp_path):
    done = bench("arrays", "--list", "--only", "no such case")
    assert done.returncode == 1
    assert "--only 'no such case'" in done.stderr


def test_every_case_has_a_name_of_its_own(benchmarks):
    from benchmarks.cases import all_cases, readme_cases

    names = [f"{case.suite}: {case.name}" for case in all_cases()]
    assert len(names) == len(set(names))
    assert {case.suite for case in readme_cases()} < {case.suite for case in all_cases()}
