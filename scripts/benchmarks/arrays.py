"""`tileconv.convolve` beside the machine's limit, and beside what people would use instead."""

import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from textwrap import fill
from typing import Any

from benchmarks import results, roofline
from benchmarks.cases import Case, all_cases, readme_cases
from benchmarks.machine import THREADS, pin, use_threads
from benchmarks.race import Race, Settings, race
from benchmarks.roofline import Rates
from benchmarks.scaling import compiled_variants
from benchmarks.tables import Row, print_table

QUICK_SIDE = 1024


@dataclass(frozen=True)
class Figures:
    """What the part measured."""

    settings: Settings
    single: Rates
    rates: Rates
    races: Sequence[Race]
    variants: int
    """Loops of tileconv that were compiled."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for programs."""
        return {
            "settings": asdict(self.settings),
            "rates": [asdict(self.single), asdict(self.rates)],
            "cases": [results.to_dict(each, self.rates) for each in self.races],
            "summary": results.summary(self.races, self.rates),
            "variants": self.variants,
        }


LEGEND = (
    "ms: tileconv's time; limit: the fewest milliseconds that this machine allows, set by memory "
    "or by multiply-adds (FMA); share: how much of the limit's speed is reached; peers: their time "
    "over tileconv's, ~ where it is scaled up from a part of the rows; masked: tileconv's time "
    "over its own where no pixel can be missing."
)


def title(settings: Settings) -> str:
    return (
        f"Arrays of {settings.side} x {settings.side} where the case does not say; "
        f"{THREADS} threads each; medians of up to {settings.rounds} rounds"
    )


def settings_of(options: Namespace) -> Settings:
    """Return what the command line asks for."""
    given = {
        name: value
        for name in ("side", "rounds", "seconds")
        if (value := getattr(options, name)) is not None
    }
    settings = Settings(peers=not options.no_peers)
    if options.quick:
        settings = replace(settings, side=QUICK_SIDE, rounds=3, seconds=0.3, cap=True)
    return replace(settings, **given, cap=options.quick or options.side is not None)


def selected(options: Namespace) -> list[Case]:
    """Return the cases that the command line asks for."""
    cases = all_cases() if options.all else readme_cases()
    if options.only:
        pattern = re.compile(options.only)
        cases = [case for case in cases if pattern.search(f"{case.suite}: {case.name}")]
        if not cases:
            raise SystemExit(f"no case matches --only {options.only!r}; --list shows their names")
    return cases


def arrays(options: Namespace) -> Figures:
    """Measure and print the roofline, the table, and what it comes to."""
    pin()
    use_threads()
    settings, cases = settings_of(options), selected(options)
    print("\nroofline: the best of some rounds of loops that do nothing else\n")
    single = roofline.measure(1, options.quick)
    rates = roofline.best(single, roofline.measure(THREADS, options.quick))
    print(f"{roofline.describe(single)}\n{roofline.describe(replace(rates, threads=THREADS))}")
    races: list[Race] = []

    def rows() -> Iterator[Row]:
        for case in cases:
            races.append(race(case, settings))
            yield results.table_row(races[-1], rates)

    print_table(
        f"{title(settings)}\n{fill(LEGEND, 100)}", rows(), max(len(case.name) for case in cases)
    )
    again = roofline.measure(THREADS, options.quick)
    rates = roofline.best(rates, again)  # a busy moment at the start may have passed
    print(f"\nat the end: {roofline.describe(again)}; the summary takes the best of all\n")
    for line in results.summary(races, rates):
        print(line)
    variants = compiled_variants()
    print(f"\ncompiled variants of tileconv's loops in all of this: {variants}")
    return Figures(settings, single, rates, races, variants)
