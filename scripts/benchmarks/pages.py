"""Pages from the figures of one run or of several."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import results, roofline
from benchmarks.arrays import LEGEND, title
from benchmarks.machine import describe
from benchmarks.race import Settings
from benchmarks.roofline import Rates
from benchmarks.tables import markdown

TITLES = {
    "threads": "Milliseconds with one thread and with more, and how many times faster, round by "
    "round. Calls: as many calls of one thread, each on its part of the rows; registers: "
    "multiply-adds alone, which touch no memory, in the same rounds; best: the least times of all "
    "rounds.",
    "strides": "Milliseconds with stride 1 and with 8, where outputs are 64 times fewer.",
    "overhead": "A call on 64 x 64 pixels, beside a plain compiled loop that does the same work; "
    "microseconds.",
    "import": "`import tileconv` in a new process; seconds.",
    "first calls": "The first call of a variant, in a process that compiles it, and in later ones "
    "that find it in the cache; seconds.",
    "memory": "Peak memory of a call beside its input and its output.",
}


def joined(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of several runs on one machine as those of one.

    A part that was run again counts as it was the last time, and so does each case of arrays; of
    the machine's rates the best count.
    """
    figures = {name: part for run in runs for name, part in run.items()}
    arrays = [run["arrays"] for run in runs if "arrays" in run]
    if arrays:
        single, rates = (
            roofline.best(*(Rates(**run["rates"][which]) for run in arrays)) for which in (0, 1)
        )
        cases = {each["case"]: results.from_dict(each) for run in arrays for each in run["cases"]}
        races = [*cases.values()]
        figures["arrays"] = {
            **arrays[-1],
            "rates": [vars(single), vars(rates)],
            "cases": [results.to_dict(each, rates) for each in races],
            "summary": results.summary(races, rates),
            "variants": max(run["variants"] for run in arrays),
        }
    return figures


def page(figures: Mapping[str, Any]) -> str:
    """Return the tables in Markdown, the machine named."""
    parts = [describe(figures["machine"])]
    if "arrays" in figures:
        parts += _arrays(figures["arrays"])
    for part in ("scaling", "calls"):
        for name, rows in figures.get(part, {}).items():
            if rows:
                parts += [TITLES[name], markdown(rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _arrays(figures: Mapping[str, Any]) -> list[str]:
    single, rates = (Rates(**each) for each in figures["rates"])
    races = [results.from_dict(each) for each in figures["cases"]]
    return [
        f"- {roofline.describe(single)}\n- {roofline.describe(rates)}",
        f"{title(Settings(**figures['settings']))}. {LEGEND}",
        markdown([results.table_row(each, rates) for each in races]),
        "\n".join(f"- {line}" for line in figures["summary"]),
        f"Variants of tileconv's loops compiled for the table: {figures['variants']}.",
    ]
