"""Measure tileconv beside what people would use instead, and print ratios: nothing passes or fails.

    python scripts/bench.py                              all parts: about 20 minutes on two cores
    python scripts/bench.py arrays files                 some of them
    python scripts/bench.py --quick --json figures.json  smaller arrays and rasters
    python scripts/bench.py arrays --list                the cases of the table, by name
    python scripts/bench.py arrays --only 'stride: u16'  some of them
    python scripts/bench.py arrays --all                 hundreds of cases: about an hour
    python scripts/bench.py --from figures.json --markdown docs/benchmarks.md   a page of it

arrays  `tileconv.convolve` beside the limit of this machine, which is measured first, and beside
        OpenCV, torch, onnxruntime, SciPy and a plain Numba loop, those installed. All get two
        threads, compute the same numbers before any is timed, and take turns. OpenCV and SciPy
        know no stride: they compute every output, and what was not asked for is cut away. Who is
        slow gets fewer rows, and its time is scaled up and marked ~.
scaling How tileconv's time follows the number of threads and the stride.
calls   What a call costs beside its loops: importing tileconv, compiling, Python's share on a
        small array, and memory.
files   `tileconv.run` on a compressed GeoTIFF over its floor: decoding each block that a receptive
        field touches exactly once, by as many threads with a handle each, and then writing the
        same output from memory. Beside it a loop over windows, as one writes it by hand with
        rasterio and OpenCV.
memory  The peak of a process that runs a job on a raster half as large as its memory limit, and
        the peak that the job's plan foretells.
graphs  What building the graph of a lazy convolution takes per chunk, beside dask's map_overlap.

A time is the median of a few rounds after a warm-up. With glibc's own defaults torch is measured
by its page faults: the script starts itself again with huge pages, for all contenders alike.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arrays import arrays, selected, settings_of
from benchmarks.calls import calls
from benchmarks.files import files, memory
from benchmarks.graphs import graphs
from benchmarks.machine import HUGE_PAGES, machine, print_machine
from benchmarks.pages import joined, page
from benchmarks.scaling import scaling
from benchmarks.tables import write_between_marks

PARTS = ("arrays", "scaling", "calls", "files", "memory", "graphs")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=["all", *PARTS], default="all")
    parser.add_argument("--quick", action="store_true", help="smaller arrays and rasters")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write tables between the marks of a page, or as a page of their own",
    )
    parser.add_argument(
        "--from",
        dest="earlier",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing: join the figures that earlier runs on this machine wrote",
    )
    group = parser.add_argument_group("arrays")
    group.add_argument("--list", action="store_true", help="name the cases, and measure nothing")
    group.add_argument("--all", action="store_true", help="every case, not the short table's")
    group.add_argument("--only", metavar="REGEX", help="cases whose 'suite: name' it is found in")
    group.add_argument("--no-peers", action="store_true", help="tileconv and the limit alone")
    group.add_argument("--side", type=int, metavar="N", help="pixels a side, at the most")
    group.add_argument("--rounds", type=int, metavar="N", help="most rounds of each contender")
    group.add_argument("--seconds", type=float, metavar="S", help="of each contender in each case")
    return parser


def main() -> None:
    options = arguments().parse_args()
    if options.list:
        print("\n".join(f"{case.suite}: {case.name}" for case in selected(options)))
        return
    if options.earlier:
        report(options, [json.loads(path.read_text()) for path in options.earlier])
        return
    if not HUGE_PAGES.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HUGE_PAGES})
    about = machine()
    print_machine(about)
    smaller = 2 if options.quick else 1
    parts: dict[str, Callable[[], object]] = {
        "arrays": lambda: arrays(options).to_dict(),
        "scaling": lambda: scaling(settings_of(options)),
        "calls": lambda: calls(quick=options.quick),
        "files": lambda: files(smaller),
        "memory": lambda: memory(smaller),
        "graphs": lambda: graphs(smaller),
    }
    figures: dict[str, Any] = {"machine": about}
    for name in PARTS if "all" in options.parts else options.parts:
        figures[name] = parts[name]()
    report(options, [figures])


def report(options: argparse.Namespace, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write what was asked for."""
    figures = joined(runs)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.markdown:
        write_between_marks(options.markdown, page(figures))
    elif options.earlier:
        print(page(figures))


if __name__ == "__main__":
    main()
