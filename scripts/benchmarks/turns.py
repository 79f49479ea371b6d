"""Contenders take turns, so that noise hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

SWEPT = 1 << 27
"""Bytes read between two turns: more than caches hold."""
PAUSE = 0.003
"""Seconds between two turns: threads that wait actively for more work fall asleep."""


def take_turns(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each job; each round runs them all, so that noise hits all."""
    rounds_of = seconds_by_turns(jobs, rounds)
    return {name: statistics.median(times) for name, times in rounds_of.items()}


def seconds_by_turns(
    jobs: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each job in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(timed(job))
    return seconds


def timed(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = job()
    seconds = time.perf_counter() - start
    del result  # what freeing it takes is not counted
    return seconds


def take_cold_turns(
    jobs: Mapping[str, Callable[[], object]], rounds: Mapping[str, int]
) -> dict[str, list[float]]:
    """Return the seconds of each job's rounds, each begun with its input in memory, not in caches.

    A job with fewer rounds than others has them spread over all of theirs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    most = max(rounds.values())
    for turn in range(1, most + 1):
        for name, job in jobs.items():
            if turn * rounds[name] // most > (turn - 1) * rounds[name] // most:
                sweep()
                seconds[name].append(timed(job))
    return seconds


def sweep() -> None:
    """Let active threads fall asleep, and fill the caches with something else."""
    time.sleep(PAUSE)
    _elsewhere().max()


@cache
def _elsewhere() -> np.ndarray:
    return np.zeros(SWEPT // 8, np.int64) + 1
