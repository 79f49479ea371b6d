"""How tileconv's time follows the number of threads and the stride; how many loops it compiled."""

import gc
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numba.core.dispatcher import Dispatcher

from benchmarks.cases import Case
from benchmarks.images import image
from benchmarks.machine import THREADS, pin
from benchmarks.race import Settings, ours
from benchmarks.roofline import multiply_adds_in_registers
from benchmarks.tables import Row, print_table
from benchmarks.turns import seconds_by_turns, take_turns

THREADED = (
    Case("dense", "float32", (7, 7)),
    Case("dense", "float32", (15, 15)),
    Case("dense", "uint16", (7, 7)),
    Case("stride", "float32", (15, 15), (4, 4)),
    Case("separable", "float32", (31, 31), kind="gaussian"),
    Case("bank", "float32", (3, 3), bands=4, kernels=64, side=1024),
)
"""Cases that multiply and add more than they move."""
REGISTER_SECONDS = 0.01
STRIDED = (("float32", 7), ("uint16", 7), ("float32", 31))
"""(dtype, kernel)"""


def scaling(settings: Settings) -> dict[str, list[Row]]:
    """Print how the time follows threads and strides, and return both tables."""
    pin()
    return {
        "threads": print_table(
            "scaling: milliseconds with 1 thread and with more, and how many times faster, round "
            "by round; calls: as many calls of 1 thread, each on its part of the rows; registers: "
            "multiply-adds alone, in the same rounds; best: the least times of all rounds",
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
    """Time tileconv with one thread and with more, and what the machine gives two threads."""
    add = multiply_adds_in_registers(REGISTER_SECONDS)
    with ThreadPoolExecutor(THREADS) as pool:

        def all_at_once(jobs: list[Callable[[], object]]) -> Callable[[], object]:
            return lambda: list(pool.map(lambda job: job(), jobs))

        for case in THREADED:
            pixels = image(case.dtype, case.bands, _side(case, settings))
            jobs = {
                "one": ours(case, pixels, 1),
                "more": ours(case, pixels, THREADS),
                "calls": all_at_once([ours(case, part, 1) for part in _parts(case, pixels)]),
                "adds": add,
                "all add": all_at_once([add] * THREADS),
            }
            seconds_by_turns(jobs, 1)  # the warm-up
            taken = seconds_by_turns(jobs, settings.rounds)
            yield {
                "case": case.name,
                "1 thread": 1e3 * statistics.median(taken["one"]),
                f"{THREADS} threads": 1e3 * statistics.median(taken["more"]),
                "faster": _times(taken["one"], taken["more"]),
                "calls": _times(taken["one"], taken["calls"]),
                "registers": THREADS * _times(taken["adds"], taken["all add"]),
                "best": min(taken["one"]) / min(taken["more"]),
            }


def _parts(case: Case, pixels: np.ndarray) -> list[np.ndarray]:
    """Return the rows that each thread's share of the outputs reads: views."""
    outputs = (pixels.shape[-2] - case.span[0]) // case.stride[0] + 1
    ends = [outputs * i // THREADS for i in range(THREADS + 1)]
    return [
        pixels[..., first * case.stride[0] : (end - 1) * case.stride[0] + case.span[0], :]
        for first, end in pairwise(ends)
    ]


def _times(slow: list[float], fast: list[float]) -> float:
    """Return how many times faster, the median of all rounds: a round has one hour's speed."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


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
