"""Give tileconv damaged rasters, odd jobs and odd arguments: a result or an error of its own.

    python scripts/fuzz.py rasters --count 2000            damaged rasters of some 36 kinds
    python scripts/fuzz.py rasters --way gdal              all of them decoded by GDAL
    python scripts/fuzz.py jobs --count 500                odd YAML, --set values and kernel files
    python scripts/fuzz.py calls --count 2000              odd arguments of every public function
    python scripts/fuzz.py rasters --seed 7 --case 1234    one case, with all that it tells

A case is made from the seed and its number alone. It runs in a child of this process, with 20 s
and 2 GiB of memory. A fault is a traceback that is none of tileconv's errors, a signal, a case
out of time or memory, files that a failed run left, other pixels than those of GDAL and numpy,
and a case that ends in another way when it runs again. Exits with 1 if there was any.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from fuzzing.campaign import run_campaign
from fuzzing.rasters import WAYS, Rasters
from fuzzing.runner import Bounds

PARTS = ("rasters", "jobs", "calls")
FEW = 30
"""Cases that load the loops they need by themselves: to warm up takes seconds."""
TOLD = 4
"""Lines of a fault's story that are printed; a case that runs alone tells all."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TILECONV_NUM_THREADS": "1"}
"""A process that is copied must have no other threads."""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int, default=1000, metavar="N")
    parser.add_argument(
        "--first", type=int, default=0, metavar="K", help="number of the first case"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--case", type=int, metavar="K", help="run this case alone")
    parser.add_argument("--processes", type=int, default=1, metavar="P")
    parser.add_argument("--way", choices=WAYS, default="both", help="how rasters are decoded")
    parser.add_argument("--seconds", type=float, default=Bounds.seconds, help="bound of a case")
    parser.add_argument(
        "--memory", type=int, default=Bounds.mebibytes, metavar="MIB", help="bound of a case"
    )
    parser.add_argument(
        "--folder", type=Path, default=roomy_memory(), help="where a folder of its own is made"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    return parser


def main() -> None:
    options = arguments().parse_args()
    if not ONE_THREAD.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=options.folder))
    try:
        figures = run(options, root)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    report(figures, alone=options.case is not None)
    sys.exit(1 if figures["faults"] else 0)


def roomy_memory() -> str | None:
    """Return a folder that lies in memory, where there is one: a disk takes half of the time."""
    folder = "/dev/shm"
    return folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else None  # noqa: PTH112


def part(options: argparse.Namespace) -> Any:
    """Return what makes the cases; each part imports libraries of its own, which takes a second."""
    if options.part == "rasters":
        return Rasters(options.seed, way=options.way)
    if options.part == "jobs":
        from fuzzing.jobs import Jobs

        return Jobs(options.seed)
    from fuzzing.calls import Calls

    return Calls(options.seed)


def run(options: argparse.Namespace, root: Path) -> Any:
    """Run the cases that were asked for."""
    make = part(options)
    alone = options.case is not None
    numbers = [options.case] if alone else range(options.first, options.first + options.count)
    if len(numbers) > FEW:
        make.warm(root / "warm")
    way = f" --way {options.way}" if options.part == "rasters" else ""
    return run_campaign(
        make,
        numbers,
        root,
        command=f"python scripts/fuzz.py {options.part}{way} --seed {options.seed}",
        bounds=Bounds(options.seconds, options.memory),
        processes=options.processes,
    )


def report(figures: Any, *, alone: bool) -> None:
    """Print what came out: all of the figures, the faults last."""
    print(json.dumps({key: value for key, value in figures.items() if key != "faults"}, indent=2))
    for fault in figures["faults"]:
        print(f"\n{fault['count']} x {fault['cause']}")
        for example in fault["examples"]:
            print(f"  {example['reproduce']}   # {example['label']}: {example['change']}")
        told = fault["examples"][0]["detail"].strip().splitlines()
        print("\n".join(f"    {line}" for line in (told if alone else told[-TOLD:])))


if __name__ == "__main__":
    main()
