"""Forked children of a process that has used dask's clusters: they cannot use one."""

from __future__ import annotations

import os
import threading

from tileconv.errors import ClusterError

THREADS = "Dask-"
"""How the names of the threads begin that dask.distributed keeps for a process."""
_has_lost_threads = _will_lose_threads = False


def _before_fork() -> None:
    """Look for threads that distributed will believe to be there still, in the child."""
    global _will_lose_threads
    _will_lose_threads = any(t.name.startswith(THREADS) for t in threading.enumerate())


def _in_child() -> None:
    global _has_lost_threads
    _has_lost_threads |= _will_lose_threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def check_not_forked() -> None:
    """Raise `ClusterError` where a client of a cluster would wait for ever."""
    if _has_lost_threads:
        raise ClusterError(
            "this process was forked from one that has used a dask cluster, whose threads are not "
            "here: start it by spawn or forkserver (multiprocessing.set_start_method), or set "
            "compute.scheduler to threads"
        )
