"""What this machine can do at the most: how fast it reads, writes, and multiplies and adds.

Each figure is the best of some rounds of a loop that does nothing else. They bound every contender:
no convolution can be done before its input has been read once, its output written once, and its
products added up.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BYTES = 1 << 28
"""Of each array: several times what caches hold."""
STEPS = 1 << 24
"""Of the loop that multiplies and adds: about a tenth of a second."""
CHAINS = 12
"""Sums that grow independently: two units that take four to five cycles each need ten."""
ROUNDS = 8


@dataclass(frozen=True)
class Rates:
    """What some threads reach together."""

    threads: int
    read: float
    """Bytes per second."""
    write: float
    """Bytes per second, into pages that the process already holds."""
    write_fresh: float
    """Bytes per second, into pages that the system has yet to give: what a new array costs."""
    copy: float
    """Bytes per second, those read and those written together."""
    fma32: float
    """Multiply-adds of float32 per second."""
    fma64: float
    """Multiply-adds of float64 per second."""
    sgemm: float
    """Multiply-adds per second of numpy's float32 matrix product, to compare."""

    def move_seconds(self, read: float, written: float, *, fresh: bool = False) -> float:
        """Return what it takes to read and write some bytes once.

        What is read and what is written pair up and move at the rate of a copy; the rest of
        the larger one moves at its own rate.
        """
        paired = min(read, written)
        rest = (read - paired) / self.read + (written - paired) / self.write
        zeroed = written * max(0.0, 1 / self.write_fresh - 1 / self.write) if fresh else 0.0
        return 2 * paired / self.copy + rest + zeroed

    def add_seconds(self, multiply_adds: float, dtype: np.dtype) -> float:
        """Return what it takes to add up some products of ``dtype``."""
        return multiply_adds / (self.fma32 if dtype == np.float32 else self.fma64)


def best(*rates: Rates) -> Rates:
    """Return the best of several measurements: what the machine can do if it is let."""
    figures = [asdict(each) for each in rates]
    return Rates(**{name: max(each[name] for each in figures) for name in figures[0]})


def measure(threads: int, quick: bool = False) -> Rates:
    """Measure the rates of ``threads`` threads; takes a few seconds, ``quick`` a tenth of that."""
    size, steps, side = (n // 8 if quick else n for n in (BYTES, STEPS, 1024))
    source, target = np.ones(size // 8, np.uint64), np.ones(size // 8, np.uint64)
    sources, targets = np.array_split(source, threads), np.array_split(target, threads)
    with ThreadPoolExecutor(threads) as pool:

        def rate(work: float, *loops: Callable[[int], object]) -> float:
            """The best of some loops, each on all threads at once."""
            return work / min(_best_seconds(pool, loop, threads) for loop in loops)

        return Rates(
            threads=threads,
            read=rate(size, lambda i: _read(sources[i]), lambda i: sources[i].max()),
            write=rate(size, lambda i: _write(targets[i], 3), lambda i: targets[i].fill(0)),
            write_fresh=rate(size, lambda i: _write(np.empty_like(targets[i]), 3)),
            copy=rate(
                2 * size,
                lambda i: _copy(sources[i], targets[i]),
                lambda i: np.copyto(targets[i], sources[i]),
            ),
            fma32=rate(*_fma_loop(np.float32, threads, steps)),
            fma64=rate(*_fma_loop(np.float64, threads, steps)),
            sgemm=_sgemm(threads, side),
        )


def _best_seconds(pool: ThreadPoolExecutor, loop: Callable[[int], object], threads: int) -> float:
    list(pool.map(loop, range(threads)))  # compile, and map the pages
    best = np.inf
    for _ in range(ROUNDS):
        start = time.perf_counter()
        list(pool.map(loop, range(threads)))
        best = min(best, time.perf_counter() - start)
    return float(best)


@numba.njit(nogil=True, cache=True)
def _read(array):
    total = np.uint64(0)
    for i in range(array.size):
        total ^= array[i]
    return total


@numba.njit(nogil=True, cache=True)
def _write(array, value):
    for i in range(array.size):
        array[i] = value


@numba.njit(nogil=True, cache=True)
def _copy(source, target):
    for i in range(source.size):
        target[i] = source[i]


# multiply-adds


def _vector_bytes() -> int:
    """Width of this CPU's vector registers."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


@intrinsic
def _chains(typingctx: Any, steps: Any, seed: Any) -> Any:
    """Grow `CHAINS` vectors by one fused multiply-add each per step; return a sum of them all.

    Written in the compiler's own language, as nothing else keeps the vectors in registers.
    """
    if not (isinstance(steps, types.Integer) and isinstance(seed, types.Float)):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = args[1].type
        lanes = _vector_bytes() * 8 // seed.bitwidth
        vector = ir.VectorType(scalar, lanes)
        fma = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [vector] * 3),
            f"llvm.fma.v{lanes}f{seed.bitwidth}",
        )
        factor = ir.Constant(vector, ir.Undefined)
        for lane in range(lanes):
            factor = builder.insert_element(factor, args[1], ir.IntType(32)(lane))
        sums = [cgutils.alloca_once_value(builder, factor) for _ in range(CHAINS)]
        with cgutils.for_range(builder, args[0]):
            for total in sums:
                builder.store(builder.call(fma, [builder.load(total), factor, factor]), total)
        whole = builder.load(sums[0])
        for total in sums[1:]:
            whole = builder.fadd(whole, builder.load(total))
        return builder.extract_element(whole, ir.IntType(32)(0))

    return seed(steps, seed), generate


@numba.njit(nogil=True, cache=True)
def _multiply_add(steps, seed):
    return _chains(steps, seed)


def multiply_adds_in_registers(seconds: float) -> Callable[[], object]:
    """Return a loop of multiply-adds of float32 that takes about ``seconds`` and no memory."""
    loop = _fma_loop(np.float32, 1, STEPS // 64)[1]
    loop(0)  # the warm-up
    start = time.perf_counter()
    loop(0)
    steps = round(STEPS // 64 * seconds / (time.perf_counter() - start))
    return partial(_multiply_add, steps, np.float32(0.5))


def _fma_loop(dtype: type, threads: int, steps: int) -> tuple[float, Callable[[int], object]]:
    """Return the multiply-adds of all threads together, and the loop."""
    lanes = _vector_bytes() // np.dtype(dtype).itemsize
    loop = partial(_multiply_add, steps, dtype(0.5))
    return float(steps) * CHAINS * lanes * threads, lambda _: loop()


def _sgemm(threads: int, side: int) -> float:
    """Multiply-adds per second of numpy's matrix product, or 0 if its threads cannot be set."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return 0.0
    a = np.ones((side, side), np.float32)
    best = np.inf
    with threadpool_limits(threads):
        for _ in range(ROUNDS):
            start = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - start)
    return float(side**3 / best)


def describe(rates: Rates) -> str:
    """One line for people."""
    giga = {name: value / 1e9 for name, value in asdict(rates).items()}
    return (
        f"{rates.threads} thread{'s' if rates.threads > 1 else ''}: "
        f"read {giga['read']:.1f} GB/s, write {giga['write']:.1f} "
        f"({giga['write_fresh']:.1f} into fresh pages), copy {giga['copy']:.1f}; "
        f"multiply-adds {giga['fma32']:.1f} G/s float32, {giga['fma64']:.1f} float64"
        + (f" (sgemm {giga['sgemm']:.1f})" if rates.sgemm else "")
    )
