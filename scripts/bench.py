"""Measure tileconv beside what people would use instead, and print ratios: nothing passes or fails.

    python scripts/bench.py                  all parts: a few minutes on two cores
    python scripts/bench.py arrays files     some of them
    python scripts/bench.py --quick --json figures.json

arrays  `tileconv.convolve` beside OpenCV, torch, SciPy and a plain Numba loop, those installed.
        Each gets one thread. All must compute the same numbers before
        any is timed; then they take turns. OpenCV and SciPy know no stride: they compute every
        output, and what was not asked for is cut away. SciPy is slow: it gets as many rows as it
        manages in about a second, and its time is scaled up and marked ~ if those are not all.
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
from pathlib import Path
from typing import Any

from benchmarks.arrays import arrays
from benchmarks.files import files, memory
from benchmarks.graphs import graphs
from benchmarks.machine import HUGE_PAGES, machine, print_machine

PARTS = {"arrays": arrays, "files": files, "memory": memory, "graphs": graphs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["all", *PARTS], default="all")
    parser.add_argument("--quick", action="store_true", help="take smaller rasters")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    if not HUGE_PAGES.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HUGE_PAGES})
    about = machine()
    print_machine(about)
    figures: dict[str, Any] = {"machine": about}
    for name in PARTS if "all" in options.parts else options.parts:
        figures[name] = PARTS[name](2 if options.quick else 1)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
