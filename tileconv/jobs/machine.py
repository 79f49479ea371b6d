"""What this machine, or its control group, lets a process use."""

import math
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")


@cache
def cpu_count() -> int:
    """Return the cores that this process may use, by its affinity and its group's quota.

    They are as many as `dask.system` counts, without the import of dask.
    """
    if sys.version_info >= (3, 13):
        count = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        count = min(count, len(process.cpu_affinity()))
    quota = _cpu_quota()
    return count if quota is None or quota <= 0 else min(count, math.ceil(quota))


def _cpu_quota() -> float | None:
    """Return the cores that the control group, of version 1 or 2, may keep busy."""
    for controller in ("cpuacct,cpu", "cpu,cpuacct"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            group = _GROUPS / controller
            microseconds = int((group / "cpu.cfs_quota_us").read_text())
            return microseconds / int((group / "cpu.cfs_period_us").read_text())
    with suppress(OSError, ValueError, ZeroDivisionError):
        own = Path("/proc/self/cgroup").read_text().strip().split(":")[-1]
        quota, period = (_GROUPS / own.strip("/") / "cpu.max").read_text().split()
        return int(quota) / int(period)
    return None


def available_memory() -> int:
    """Return the bytes that the machine, or the control group, has left."""
    available = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        most = (_GROUPS / "memory.max").read_text().strip()
        if most != "max":
            used = int((_GROUPS / "memory.current").read_text())
            available = min(available, max(int(most) - used, 0))
    return int(available)
