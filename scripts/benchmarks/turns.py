"""Contenders take turns, so that noise hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def take_turns(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each job; each round runs them all, so that noise hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            result = job()
            seconds[name].append(time.perf_counter() - start)
            del result  # what freeing it takes is not counted
    return {name: statistics.median(times) for name, times in seconds.items()}
