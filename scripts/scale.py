#!/usr/bin/env python
"""Run jobs of up to a million tiles without their pixels: what do client and scheduler bear?

    python scripts/scale.py                               # 10^4, 10^5 and 10^6 tiles, in parts
    python scripts/scale.py --tiles 100000 --one-per-task  # the stress case: a task for each tile

The planning, the parts, the bounded submission, the manifest and the scheduler (a process of its
own on loopback, with two workers) are the real ones. Reader and writer are not there: a task takes
``--cost`` seconds and returns what a real one returns, its line of the manifest. A real task takes
0.2 s or more, so the scheduler is loaded far more here than by any job.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import distributed
import numpy as np
import psutil
import rasterio

import tileconv
from tileconv.cluster.folder import Manifest
from tileconv.cluster.submission import submit_bounded
from tileconv.jobs.prepare import plan_header, read_source
from tileconv.planning.cluster_plan import cut_into_parts

TILE = 512
MIB = 2**20


def simulate(cost: float, tiles: int, number: int, _step: int) -> dict[str, object]:
    """Take a task's time, and return what `tileconv.cluster.worker.run_part` returns."""
    if cost:
        time.sleep(cost)
    return {
        "part": number,
        "tiles": tiles,
        "seconds": 0.2345,
        "attempt": 1,
        "blocks_decoded": 1234,
        "bytes_written": 1_234_567 + number,
        "crc32": 3_735_928_559,
        "missing": 0,
        "collisions": 0,
        "worker": "node-0001-12345",
    }


@contextmanager
def cluster(workers: int):
    """Give a client, and the process of its scheduler."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
        scheduler = _start(stack, "scheduler", *common, "--port", "0")
        for _ in range(workers):
            _start(stack, "worker", *common, "--nthreads", "1", "--no-nanny")
        client = distributed.Client(scheduler_file=str(file), timeout=60)
        stack.enter_context(client)
        client.wait_for_workers(workers, timeout=60)
        yield client, psutil.Process(scheduler.pid)


def _start(stack: ExitStack, what: str, *options: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + what, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    return process


def make_raster(path: Path, tiles: int) -> None:
    """Write a sparse raster of about so many tiles: headers and no pixels."""
    side = round(tiles**0.5) * TILE
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=1,
        dtype="uint16",
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        compress="deflate",
        BIGTIFF="YES",
        SPARSE_OK=True,
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
        crs="EPSG:32621",
    ):
        pass


def plan_parts(folder: Path, tiles: int, threads: int, *, one_per_task: bool):
    """Plan a smoothing of so many tiles; returns the plan, and the seconds it took."""
    source = folder / "in.tif"
    make_raster(source, tiles)
    file = folder / "job.yaml"
    keys = {
        "input": {"path": str(source)},
        "kernel": {"weights": np.ones((3, 3)).tolist()},
        "padding": "same",
        "padding_mode": "edge",
        "output": {"path": str(folder / "out.tif")},
        "compute": {"tile": TILE},
    }
    file.write_text(json.dumps(keys))  # JSON is YAML
    started = time.perf_counter()
    job = tileconv.load_job(file)
    header = read_source(job)
    part = (TILE, TILE) if one_per_task else None
    plan = cut_into_parts(plan_header(replace(job, part=part), header), threads, part=part)
    return plan, time.perf_counter() - started


def run(tiles: int, *, one_per_task: bool, workers: int, cost: float) -> dict[str, object]:
    """Run a simulated job; returns what was seen."""
    with tempfile.TemporaryDirectory() as name, cluster(workers) as (client, scheduler):
        folder = Path(name)
        plan, planning = plan_parts(folder, tiles, workers, one_per_task=one_per_task)
        parts = plan.parts
        per_part = plan.tiles.count // parts.count
        manifest = Manifest(folder / "run")
        manifest.begin({"identity": {}, "grid": {}, "token": "simulated"})
        # A first round, so that what a scheduler holds once is not counted for each tile
        task = partial(simulate, 0.0, per_part)
        submit_bounded(client, task, [range(200)], done=lambda *_: None, name="warm-up")
        before = {
            "client": psutil.Process().memory_info().rss,
            "sched": scheduler.memory_info().rss,
        }
        started = time.perf_counter()
        busy = scheduler.cpu_times()
        first = 0.0
        most_tasks = 0

        def done(number, entry):
            nonlocal first
            first = first or time.perf_counter() - started
            manifest.add(entry)

        def look(_workers, _threads):
            nonlocal most_tasks
            most_tasks = max(most_tasks, client.run_on_scheduler(count_tasks))

        task = partial(simulate, cost, per_part)
        numbers = [range(parts.count)]
        submit_bounded(client, task, numbers, done=done, look=look, name="part")
        seconds = time.perf_counter() - started
        after = scheduler.cpu_times()
        grown = scheduler.memory_info().rss - before["sched"]
        client_grown = psutil.Process().memory_info().rss - before["client"]
        left = client.run_on_scheduler(count_tasks)
        finished = len(manifest.parts)
        manifest.close()
    return {
        "tiles": plan.tiles.count,
        "tasks": parts.count,
        "finished": finished,
        "planning_s": round(planning, 2),
        "first_task_s": round(first, 3),
        "tasks_per_s": round(parts.count / seconds),
        "seconds": round(seconds, 1),
        "client_grown_mib": round(client_grown / MIB, 1),
        "client_mib": round((before["client"] + client_grown) / MIB),
        "scheduler_grown_mib": round(grown / MIB, 1),
        "scheduler_bytes_per_tile": round(grown / plan.tiles.count, 1),
        "scheduler_cpu_share": round(
            (after.user + after.system - busy.user - busy.system) / seconds, 2
        ),
        "most_tasks_held": most_tasks,
        "tasks_left": left,
    }


def count_tasks(dask_scheduler) -> int:
    """Return how many tasks a scheduler knows."""
    return len(dask_scheduler.tasks)


def main() -> None:
    """Print one line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, nargs="*", default=[10**4, 10**5, 10**6])
    parser.add_argument("--one-per-task", action="store_true", help="a task for each tile")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cost", type=float, default=0.0, help="seconds that a task takes")
    options = parser.parse_args()
    for tiles in options.tiles:
        seen = run(
            tiles, one_per_task=options.one_per_task, workers=options.workers, cost=options.cost
        )
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
