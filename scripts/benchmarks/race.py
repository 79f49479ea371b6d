"""One case: every contender is checked, given as many rows as its time allows, and timed."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import tileconv
from benchmarks import peers
from benchmarks.cases import Case, Work, work
from benchmarks.images import NODATA, STRIP, image
from benchmarks.machine import THREADS
from benchmarks.peers import Peer, Way
from benchmarks.turns import take_cold_turns, timed

EPSILONS = 32
"""Of the largest sum that could be: by what orders of addition, and transforms, may differ."""
SAMPLES = 64
"""Outputs of tileconv that are held against sums in float64."""
FEWEST_ROUNDS = 3
TRIAL_SECONDS = 0.1
"""What trying one of several ways may take, about."""


@dataclass(frozen=True)
class Settings:
    """How long all of it may take."""

    side: int = 4096
    """Pixels a side where the case does not say; with ``cap``, nowhere more."""
    cap: bool = False
    rounds: int = 9
    seconds: float = 1.0
    """For each contender and case; who is too slow gets fewer rounds, then fewer rows."""
    peers: bool = True


@dataclass(frozen=True)
class Timing:
    """What one contender took."""

    seconds: float
    """Median, for the whole image."""
    rounds: int
    scaled: bool
    """Scaled up from a part of the rows."""


@dataclass(frozen=True)
class Race:
    """What the contenders took on one case."""

    case: Case
    work: Work
    tileconv: Timing
    peers: dict[str, Timing]
    without: Timing | None
    """tileconv on the same image where no pixel can be missing; None if none can anyway."""


@dataclass(frozen=True)
class Entrant:
    """A contender, ready to run."""

    run: Callable[[], object]
    rounds: int
    scale: float
    """Output rows of the image over those of the part that it gets."""


def race(case: Case, settings: Settings) -> Race:
    """Time every contender on a case."""
    side = case.side or settings.side
    side = min(side, settings.side) if settings.cap else side
    pixels = image(case.dtype, case.bands, side, case.missing, case.layout)
    entrants = {"tileconv": whole(ours(case, pixels), settings)}
    expected = peers.as_planes(np.asarray(entrants["tileconv"].run()))
    largest = largest_sum(case, pixels)
    if not case.policy:
        check_samples(case, pixels, expected, largest)
    else:
        complete = image(case.dtype, case.bands, side, "none", case.layout)
        plain = replace(case, policy="", missing="none")
        entrants["without"] = whole(ours(plain, complete), settings)
    for name, peer in peers.available().items() if settings.peers else ():
        if peers.can_compute(name, case):
            check = partial(check_planes, name, case, expected, largest)
            entrant = enter(peer, case, pixels, check, settings)
            if entrant:
                entrants[name] = entrant
    taken = take_cold_turns(
        {name: each.run for name, each in entrants.items()},
        {name: each.rounds for name, each in entrants.items()},
    )
    timings = {
        name: Timing(statistics.median(taken[name]) * each.scale, each.rounds, each.scale != 1)
        for name, each in entrants.items()
    }
    mine, without = timings.pop("tileconv"), timings.pop("without", None)
    return Race(case, work(case, pixels.shape), mine, timings, without)


def ours(case: Case, pixels: np.ndarray, threads: int = THREADS) -> "partial[Any]":
    """Return the call that a user makes."""
    more: dict[str, Any] = {}
    if case.policy:
        more = {"missing": case.policy, "nodata": NODATA.get(case.dtype)}
    return partial(
        tileconv.convolve,
        pixels,
        case.weights,
        stride=case.stride,
        dilation=case.dilation,
        groups=case.groups,
        threads=threads,
        **more,
    )


def whole(run: Callable[[], object], settings: Settings) -> Entrant:
    """Return an entrant that gets all rows."""
    run()  # the warm-up
    rounds = int(settings.seconds / max(timed(run), 1e-6))
    return Entrant(run, min(max(rounds, FEWEST_ROUNDS), settings.rounds), 1.0)


def enter(
    peer: Peer,
    case: Case,
    pixels: np.ndarray,
    check: Callable[[peers.Planes], None],
    settings: Settings,
) -> Entrant | None:
    """Return a peer's best way on as many rows as it has time for, its numbers checked."""
    rows, all_outputs = pixels.shape[-2], case.out_shape(pixels.shape)[0]
    part, best, seconds = min(case.span[0] + case.stride[0], rows), 0, 0.0
    for allowed in (TRIAL_SECONDS, settings.seconds / FEWEST_ROUNDS):  # from few rows to all
        ways = peer(case, pixels[..., :part, :])
        if not ways:
            return None
        best, seconds = fastest(ways)
        per_output = seconds / case.out_shape((part, rows))[0]
        part = (
            rows
            if per_output * all_outputs < 1.5 * allowed
            else rows_for(allowed / per_output, case, rows)
        )
    run = peer(case, pixels[..., :part, :])[best]
    check(run())
    rounds = int(settings.seconds / max(timed(run), 1e-6))
    scale = all_outputs / case.out_shape((part, rows))[0]
    return Entrant(run, min(max(rounds, FEWEST_ROUNDS), settings.rounds), scale)


def fastest(ways: list[Way]) -> tuple[int, float]:
    """Return which way is the fastest, and its seconds."""
    seconds = []
    for way in ways:
        way()  # the warm-up
        seconds.append(timed(way))
    best = int(np.argmin(seconds))
    return best, seconds[best]


def rows_for(outputs: float, case: Case, rows: int) -> int:
    """Return the rows of an image that give about as many rows of outputs."""
    wanted = max(int(outputs) - 1, 1) * case.stride[0] + case.span[0]
    return int(min(wanted, rows))


# the same numbers?


def largest_sum(case: Case, pixels: np.ndarray) -> float:
    """Return the largest sum that could be: of all |w|, times the largest pixel."""
    weights = np.abs(case.weights.astype(np.float64))
    if case.kernels:
        sums = weights.reshape(len(weights), -1).sum(axis=1)
    else:
        sums = weights.sum(keepdims=True)
    return float(sums.max()) * float(max(np.nanmax(pixels), -float(np.nanmin(pixels))))


def check_planes(
    name: str, case: Case, expected: np.ndarray, largest: float, found: peers.Planes
) -> None:
    """Stop if a peer computes something else than tileconv."""
    tolerance = EPSILONS * float(np.finfo(case.compute).eps) * largest
    if len(found) != len(expected):
        raise SystemExit(f"{case.name}: {name} gives {len(found)} planes, not {len(expected)}")
    for theirs, mine in zip(found, expected, strict=True):
        if theirs.shape[1] != mine.shape[1] or theirs.shape[0] > mine.shape[0]:
            raise SystemExit(f"{case.name}: {name} gives {theirs.shape}, not {mine.shape}")
        for top in range(0, theirs.shape[0], STRIP):
            a, b = theirs[top : top + STRIP], mine[top : min(top + STRIP, theirs.shape[0])]
            if not np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
                error = np.nanmax(np.abs(a - b))
                raise SystemExit(
                    f"{case.name}: {name} computes something else than tileconv; they differ by "
                    f"{error:.3g}, or in where they are missing, and may by {tolerance:.3g}"
                )


def check_samples(case: Case, pixels: np.ndarray, found: np.ndarray, largest: float) -> None:
    """Stop if some of tileconv's outputs differ from their sums in float64."""
    weights, groups = peers.as_bank(case)
    planes, random = peers.as_planes(pixels), np.random.default_rng(SAMPLES)
    each = weights.shape[1]
    for _ in range(SAMPLES):
        m, y, x = (int(random.integers(n)) for n in found.shape)
        first = m // (len(weights) // groups) * each
        top, left = y * case.stride[0], x * case.stride[1]
        field = planes[
            first : first + each,
            top : top + case.span[0] : case.dilation[0],
            left : left + case.span[1] : case.dilation[1],
        ]
        total = float((field.astype(np.float64) * weights[m].astype(np.float64)).sum())
        if not abs(total - found[m, y, x]) <= EPSILONS * np.finfo(case.compute).eps * largest:
            raise SystemExit(f"{case.name}: output {m, y, x} is {found[m, y, x]}, not {total}")
