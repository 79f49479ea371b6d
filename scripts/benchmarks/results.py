"""What the races say: rows of the table, figures for programs, and a summary in a few lines."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import peers
from benchmarks.cases import Case, Work
from benchmarks.race import Race, Timing
from benchmarks.roofline import Rates
from benchmarks.tables import Row, Scaled

STRIDED_PEERS = ("OpenCV", "torch", "torch cl", "onnxruntime")
BANK_PEERS = ("torch", "torch cl", "onnxruntime")


def limits(race: Race, rates: Rates) -> dict[str, float]:
    """Return what cannot be beaten, in seconds.

    memory         reading the cache lines that fields touch once, and writing the output once
    multiply-adds  of the best algorithm known for the kernel, at the highest rate
    direct         of every tap of every output: what an algorithm without tricks needs
    fresh          as memory, with the pages of a new output array, which the system clears first
    """
    work, dtype = race.work, race.case.compute
    return {
        "memory": rates.move_seconds(work.read, work.written),
        "multiply-adds": rates.add_seconds(work.fewest, dtype),
        "direct": rates.add_seconds(work.direct, dtype),
        "fresh": rates.move_seconds(work.read, work.written, fresh=True),
    }


def bound(race: Race, rates: Rates) -> tuple[float, str]:
    """Return the limit in seconds, and what sets it: memory, or multiply-adds."""
    each = limits(race, rates)
    return max((each[name], name) for name in ("memory", "multiply-adds"))


def share(race: Race, rates: Rates) -> float:
    """Return how much of the limit's speed is reached, 1 being all of it."""
    return bound(race, rates)[0] / race.tileconv.seconds


def ratios(race: Race, names: Iterable[str] = tuple(peers.ALL)) -> dict[str, float]:
    """Peers' times over tileconv's."""
    wanted = set(names)
    return {
        name: timing.seconds / race.tileconv.seconds
        for name, timing in race.peers.items()
        if name in wanted
    }


def table_row(race: Race, rates: Rates) -> Row:
    """Return a row of the table; columns without a figure are None."""
    limit, by = bound(race, rates)
    times = ratios(race)
    row: Row = {
        "case": race.case.name,
        "ms": 1e3 * race.tileconv.seconds,
        "limit": 1e3 * limit,
        "by": "memory" if by == "memory" else "FMA",
        "share %": 100 * share(race, rates),
    }
    for name in peers.available():
        kind = Scaled if name in times and race.peers[name].scaled else float
        row[name] = kind(times[name]) if name in times else None
    row["masked"] = race.without and race.tileconv.seconds / race.without.seconds
    return row


def to_dict(race: Race, rates: Rates) -> dict[str, Any]:
    """Return everything that is known of a case, for programs."""
    return {
        "case": race.case.name,
        "what": asdict(race.case),
        "work": asdict(race.work),
        "tileconv": asdict(race.tileconv),
        "peers": {name: asdict(timing) for name, timing in race.peers.items()},
        "without": race.without and asdict(race.without),
        "limits": limits(race, rates),
        "share": share(race, rates),
    }


def from_dict(figures: Mapping[str, Any]) -> Race:
    """Return what `to_dict` was given."""
    pairs = {name: tuple(figures["what"][name]) for name in ("kernel", "stride", "dilation")}
    without = figures["without"]
    return Race(
        Case(**{**figures["what"], **pairs}),
        Work(**figures["work"]),
        Timing(**figures["tileconv"]),
        {name: Timing(**timing) for name, timing in figures["peers"].items()},
        without and Timing(**without),
    )


# the summary


def summary(races: Sequence[Race], rates: Rates) -> list[str]:
    """Return what the table comes to; nothing passes or fails."""
    dense = [r for r in races if is_dense(r.case) and at_stride_1(r.case) and 3 <= side(r) <= 7]
    strided = [r for r in races if not at_stride_1(r.case) and not r.case.kernels]
    separable = [r for r in races if r.case.kind == "gaussian" and side(r) == 31]
    banks = [r for r in races if r.case.kernels]
    patches = [r for r in banks if r.case.stride == r.case.kernel]
    banks = [r for r in banks if r not in patches]
    lines = [
        _against("all cases, the best peer", races, tuple(peers.ALL), (1,)),
        _against("dense, stride 1, kernels 3 to 7, OpenCV", dense, ("OpenCV",), (2,)),
        _against(
            "strides from 2, the best of OpenCV, torch, onnxruntime",
            strided,
            STRIDED_PEERS,
            (1.5, 3),
        ),
        _against("separable 31 x 31, OpenCV", separable, ("OpenCV",), (1.3,)),
        _against("banks, the best of torch, onnxruntime", banks, BANK_PEERS, (1,)),
        _against("patch embedding, the best of torch, onnxruntime", patches, BANK_PEERS, (0.9,)),
        _of_limit("dense, kernels from 3", races, rates, _is_dense_from_3),
        _of_limit("dense, kernels from 3, stride 1", races, rates, _is_dense_from_3_at_stride_1),
        _of_limit("strides from the kernel's size", races, rates, _leaves_no_overlap),
    ]
    return [line for line in lines if line]


def is_dense(case: Case) -> bool:
    """Whether neither the kernel's form nor missing pixels nor a bank change the work."""
    return case.kind == "dense" and not case.policy and not case.kernels


def at_stride_1(case: Case) -> bool:
    return case.stride == (1, 1)


def side(race: Race) -> int:
    """Taps along the shorter side of the kernel."""
    return min(race.case.kernel)


def _is_dense_from_3(race: Race) -> bool:
    return is_dense(race.case) and side(race) >= 3


def _is_dense_from_3_at_stride_1(race: Race) -> bool:
    return _is_dense_from_3(race) and at_stride_1(race.case)


def _leaves_no_overlap(race: Race) -> bool:
    case = race.case
    apart = all(step >= span for step, span in zip(case.stride, case.span, strict=True))
    return is_dense(case) and apart and not at_stride_1(case)


def _against(
    what: str, races: Sequence[Race], names: Sequence[str], levels: Sequence[float]
) -> str:
    """Say how often some peers take so many times as long, on average and at the least."""
    best = {r.case.name: min(ratios(r, names).values()) for r in races if ratios(r, names)}
    if not best:
        return ""
    worst = min(best, key=lambda name: best[name])
    mean = math.exp(sum(map(math.log, best.values())) / len(best))
    counts = ", ".join(
        f"{sum(ratio >= level for ratio in best.values())} at {level:g}x" for level in levels
    )
    return (
        f"{what}: of {len(best)} cases {counts} and more; "
        f"geometric mean {mean:.2f}x; least {best[worst]:.2f}x ({worst})"
    )


def _of_limit(
    what: str, races: Sequence[Race], rates: Rates, belongs: Callable[[Race], bool]
) -> str:
    """Say how near the limit tileconv comes."""
    shares = {r.case.name: share(r, rates) for r in races if belongs(r)}
    if not shares:
        return ""
    worst = min(shares, key=lambda name: shares[name])
    counts = ", ".join(
        f"{sum(reached >= level for reached in shares.values())} at {level:.0%}"
        for level in (0.5, 0.6, 0.7)
    )
    return (
        f"share of the limit, {what}: of {len(shares)} cases {counts} and more; "
        f"least {shares[worst]:.0%} ({worst})"
    )
