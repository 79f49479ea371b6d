"""Cores that a process may use: as many as dask counts, without its import."""

import dask.system
import pytest

from tileconv.jobs import machine


def test_cores_are_as_many_as_dask_counts():
    assert machine.cpu_count() == dask.system.cpu_count()


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000", 1.0), ("250000", 2.5), ("-1", None), ("max", None)]
)
def test_a_quota_of_the_control_group_is_heeded(quota, cores, tmp_path, monkeypatch):
    group = tmp_path / "cpu,cpuacct"
    group.mkdir()
    (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    found = machine._cpu_quota()
    assert (found if found is None or found > 0 else None) == cores
