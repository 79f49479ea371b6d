"""The numbers of docs/scale.md follow from its formulae, and its rates are the planner's."""

import re

import pytest
from conftest import ROOT

from tileconv.planning import cluster_plan

PAGE = (ROOT / "docs" / "scale.md").read_text()
GIVEN = re.compile(r"^\| `(\w+)` \|[^|]*\| ([0-9.e]+) \|$", re.MULTILINE)
ROW = re.compile(r"^\| ([^|`]+) \| `([^`]+)` \| ([0-9.e+]+) \|$", re.MULTILINE)
NAMES = {
    "bytes of output, not compressed": "bytes_of_output",
    "core seconds to decode": "decode_seconds",
    "core seconds to encode": "encode_seconds",
    "core seconds to compute": "compute_seconds",
    "core seconds": "core_seconds",
    "seconds of a task": "task_seconds",
}


def test_the_table_follows_from_its_formulae():
    values = {name: float(value) for name, value in GIVEN.findall(PAGE)}
    rows = ROW.findall(PAGE)
    assert len(values) == 11
    assert len(rows) == 18
    for name, formula, told in rows:
        value = eval(formula, {"__builtins__": {}}, values)
        assert value == pytest.approx(float(told), rel=6e-3), name
        values[NAMES.get(name, name)] = value


def test_rates_are_those_that_the_planner_uses():
    values = {name: float(value) for name, value in GIVEN.findall(PAGE)}
    assert values["decode"] == cluster_plan.DECODED_PER_SECOND
    assert values["encode"] == cluster_plan.ENCODED_PER_SECOND
    assert values["adds"] == cluster_plan.ADDED_PER_SECOND
    assert values["rate"] == cluster_plan.TASKS_PER_SECOND
