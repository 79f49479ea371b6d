"""Run many cases, tell of the progress, and count how they ended."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzing.outcomes import Outcome
from fuzzing.runner import USUAL_BOUNDS, Bounds, Make, run_cases

EXAMPLES = 3
"""Cases that are named for each cause."""
DETAIL = 1500
"""Characters of a fault's story."""


@dataclass
class Tally:
    """What came out."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    """Outcomes by what the cases were."""
    codes: Counter[int] = field(default_factory=Counter)
    """Exit codes of what was refused."""
    notes: Counter[str] = field(default_factory=Counter)
    noise: Counter[str] = field(default_factory=Counter)
    noisy: dict[str, int] = field(default_factory=dict)
    """A case that made each noise."""
    faults: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By cause."""
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)
    """MiB, and the case that took them."""

    def add(self, number: int, outcome: Outcome, reproduce: str) -> None:
        self.outcomes[outcome.kind] += 1
        self.kinds.setdefault(outcome.label, Counter())[outcome.kind] += 1
        self.notes.update(outcome.notes)
        self.slowest = max(self.slowest, (outcome.seconds, number))
        self.largest = max(self.largest, (outcome.mebibytes, number))
        if outcome.kind == "refused":
            self.codes[outcome.code] += 1
        if outcome.noise:
            self.notes["stderr noise"] += 1
            words = outcome.noise.strip().partition("\n")[0][:60]
            self.noise[words] += 1
            self.noisy.setdefault(words, number)
        if outcome.is_fault:
            told = {
                "reproduce": reproduce,
                "case": number,
                "label": outcome.label,
                "change": outcome.change,
                "detail": outcome.detail[-DETAIL:],
            }
            self.faults.setdefault(outcome.cause, []).append(told)

    @property
    def fault_count(self) -> int:
        return sum(map(len, self.faults.values()))

    def to_dict(self) -> dict[str, Any]:
        return {
            "cases": self.outcomes.total(),
            "outcomes": dict(self.outcomes),
            "exit_codes": {str(code): count for code, count in sorted(self.codes.items())},
            "kinds": {kind: dict(count) for kind, count in sorted(self.kinds.items())},
            "notes": dict(self.notes),
            "noise": {
                words: {"count": count, "case": self.noisy[words]}
                for words, count in self.noise.most_common(30)
            },
            "slowest": {"seconds": self.slowest[0], "case": self.slowest[1]},
            "largest": {"mebibytes": self.largest[0], "case": self.largest[1]},
            "faults": [
                {"cause": cause, "count": len(found), "examples": found[:EXAMPLES]}
                for cause, found in sorted(self.faults.items(), key=lambda item: -len(item[1]))
            ],
        }


def run_campaign(
    make: Make,
    numbers: Iterable[int],
    root: Path,
    *,
    command: str,
    bounds: Bounds = USUAL_BOUNDS,
    processes: int = 1,
) -> Mapping[str, Any]:
    """Run the cases of ``numbers``; ``command`` with a case's number behind it runs that alone."""
    tally, started, before = Tally(), time.perf_counter(), _processor_time()
    asked = list(numbers)
    told = started
    for number, outcome in run_cases(make, asked, root, bounds=bounds, processes=processes):
        tally.add(number, outcome, f"{command} --case {number}")
        if outcome.is_fault:  # now, for a campaign may be interrupted
            print(f"{outcome.kind}: {command} --case {number}", file=sys.stderr, flush=True)
        if time.perf_counter() - told > 5:
            told = time.perf_counter()
            _tell_progress(tally, len(asked), told - started)
    seconds = time.perf_counter() - started
    _tell_progress(tally, len(asked), seconds)
    figures = tally.to_dict()
    figures["seconds"] = round(seconds, 1)
    figures["processor_seconds"] = round(_processor_time() - before, 1)
    figures["per_second"] = round(len(asked) / seconds, 1)
    return figures


def _processor_time() -> float:
    """Return what this process and its ended children have taken of the processor."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _tell_progress(tally: Tally, total: int, seconds: float) -> None:
    done = tally.outcomes.total()
    counts = ", ".join(f"{count} {kind}" for kind, count in tally.outcomes.most_common())
    print(
        f"{done} of {total}, {done / seconds:.0f} a second: {counts}", file=sys.stderr, flush=True
    )
