"""How tileconv's time follows the number of threads and the stride; how many loops it compiled."""

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from numba.core.dispatcher import Dispatcher

from benchmarks.cases import Case
from benchmarks.images import image
from benchmarks.machine import THREADS, pin
from benchmarks.race import Settings, ours
from benchmarks.tables import Row, print_table
from benchmarks.turns import take_turns, timed

THREADED = (
    Case("dense", "float32", (7, 7)),
    Case("dense", "float32", (15, 15)),
    Case("dense", "uint16", (7, 7)),
    Case("stride", "float32", (15, 15), (4, 4)),
    Case("separable", "float32", (31, 31), kind="gaussian"),
    Case("bank", "float32", (3, 3), bands=4, kernels=64, side=2048),
)
"""Cases that multiply and add more than they move."""
APART_SIDE = 1024
APART_SECONDS = 0.05
STRIDED = (("float32", 7), ("uint16", 7), ("float32", 31))
"""(dtype, kernel)"""


def scaling(settings: Settings) -> dict[str, list[Row]]:
    """Print how the time follows threads and strides, and return both tables."""
    pin()
    return {
        "threads": print_table(
            "scaling: milliseconds with 1 thread and with more, and how many times faster; "
            "apart: the same of threads that share no call and no pixel, each with a small array",
            thread_rows(settings),
            26,
        ),
        "strides": print_table(
            "scaling: milliseconds with stride 1 and with 8, and how many times less "
            "(there are 64 times fewer outputs)",
            stride_rows(settings),
            26,
        ),
    }


def thread_rows(settings: Settings) -> Iterator[Row]:
    """Time tileconv with one thread and with two."""
    for case in THREADED:
        pixels = image(case.dtype, case.bands, _side(case, settings))
        jobs = {str(n): ours(case, pixels, n) for n in (1, THREADS)}
        jobs["1"]()  # the warm-up
        taken = take_turns(jobs, settings.rounds)
        one, more = taken["1"], taken[str(THREADS)]
        yield {
            "case": case.name,
            "1 thread": 1e3 * one,
            f"{THREADS} threads": 1e3 * more,
            "faster": one / more,
            "apart": apart(case, settings.rounds),
        }


def apart(case: Case, rounds: int) -> float:
    """Return how much more threads do that share nothing but the machine's caches and clock."""
    pixels = image(case.dtype, case.bands, APART_SIDE)
    jobs = [ours(case, pixels.copy(), 1) for _ in range(THREADS)]
    repeats = max(1, round(APART_SECONDS / min(timed(jobs[0]) for _ in range(3))))

    def work(job: Callable[[], object]) -> None:
        for _ in range(repeats):
            job()

    with ThreadPoolExecutor(THREADS) as pool:
        ways = {"one": lambda: work(jobs[0]), "all": lambda: list(pool.map(work, jobs))}
        taken = take_turns(ways, rounds)
    return THREADS * taken["one"] / taken["all"]


def stride_rows(settings: Settings) -> Iterator[Row]:
    """Time tileconv with strides 1 and 8: the work falls to one 64th."""
    for dtype, size in STRIDED:
        pixels = image(dtype, 0, settings.side)
        cases = [Case("stride", dtype, (size, size), (s, s)) for s in (1, 8)]
        jobs = {case.name: ours(case, pixels) for case in cases}
        for job in jobs.values():
            job()  # the warm-up
        dense, strided = take_turns(jobs, settings.rounds).values()
        yield {
            "case": f"{dtype} {size}x{size}",
            "s1": 1e3 * dense,
            "s8": 1e3 * strided,
            "less": dense / strided,
        }


def _side(case: Case, settings: Settings) -> int:
    side = case.side or settings.side
    return min(side, settings.side) if settings.cap else side


def compiled_variants() -> int:
    """Count the compiled signatures of all of tileconv's loops, wherever the engine keeps them.

    `isinstance` would ask each object for its class, and wake what only answers with a warning.
    """
    loops = {
        id(each): each
        for each in gc.get_objects()
        if issubclass(type(each), Dispatcher) and each.py_func.__module__.startswith("tileconv.")
    }
    return sum(len(each.signatures) for each in loops.values())
