"""Run a plan: every tile is one dask task that reads, computes and writes; only counts come back.

The meaning of a run is the plain loop over the plan's tiles. The threaded
scheduler must only agree with it.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.local
import dask.threaded
import numpy as np
from dask.task_spec import Task

from tileconv import buffers
from tileconv.errors import (
    ConfigError,
    OutOfMemoryError,
    OutputError,
    OutputExistsError,
    TileconvError,
    UnsupportedError,
)
from tileconv.finish import Counts
from tileconv.jobs import quicklook
from tileconv.jobs.job import Job
from tileconv.jobs.prepare import (
    check_targets,
    output_spec,
    plan_header,
    read_source,
    remove_leftovers,
)
from tileconv.jobs.report import Report
from tileconv.jobs.sidecar import write_sidecar
from tileconv.planning.reads import Reads, read_axis
from tileconv.raster.reading import MosaicSource, environment, open_source
from tileconv.raster.writing import Sink
from tileconv.text import size
from tileconv.tile import AnyRecipe, compute_tile, recipe_of

if TYPE_CHECKING:
    from tileconv.planning.plan import Plan
    from tileconv.planning.tiles import Tile
    from tileconv.raster.reading import Pixels, RasterSource

Progress = Callable[[int, int], None]
"""Called with (tiles done, tiles in all) as tiles end, from any thread."""

BATCH = 2048
"""Tasks handed to dask at a time: a graph of millions would not fit into memory."""


def run_job(job: Job, *, progress: Progress | None = None) -> Report:
    """Run ``job``; its output is then complete and checked, or absent and an error raised."""
    if job.on_cluster:
        raise ConfigError(f"{job.name}: compute.scheduler names a cluster; run it by tileconv.run")
    if job.layout == "parts":
        raise UnsupportedError(
            f"{job.name}: output.layout: parts needs a cluster, whose tasks write them; set "
            "compute.scheduler to processes, or leave the key out"
        )
    if job.quicklook:
        quicklook.check_available()
    check_targets(job)
    header = read_source(job)
    plan = plan_header(job, header)
    removed = remove_leftovers(job)
    spec = output_spec(job, plan, header)
    started = time.perf_counter()
    source = open_source(header, plan.geometry, plan.tiles, handles=plan.threads)
    picture = quicklook.Quicklook(plan) if job.quicklook else None
    with source, job.format.open_sink(spec) as sink:
        work = _Work(plan, source, sink, picture, progress)
        try:
            counts = _execute(work, job.scheduler)
        except MemoryError as error:
            if isinstance(error, TileconvError):
                raise
            # Let go of the tiles that the traceback holds: GDAL, which crashes where memory ends,
            # needs room to close the unfinished file.
            traceback.clear_frames(error.__traceback__)
            raise OutOfMemoryError(
                f"{job.name}: out of memory; the plan needs about {size(plan.peak_memory_bytes)}: "
                "give compute.memory_limit less than the machine has left"
            ) from error
        source.check_unchanged()
        bytes_written = sink.commit()
    warnings = [*plan.notes, *removed, *count_warnings(plan, counts)]
    if picture is not None:
        try:
            picture.save(job.quicklook_target, spec.own)
        except (OutputError, OutputExistsError) as error:  # the output itself is whole
            picture = None
            warnings.append(str(error))
    covered = plan.geometry.y.covered * plan.geometry.x.covered
    report = Report(
        source=str(job.source),
        target=str(job.target),
        out_shape=plan.out_shape,
        dtype=plan.numbers.target.name,
        seconds=time.perf_counter() - started,
        tiles=plan.tiles.count,
        blocks_decoded=source.blocks_decoded,
        pixels_covered=covered * plan.layout.read_bands,
        bytes_written=bytes_written,
        missing=counts.missing,
        collisions=counts.collisions,
        quicklook=None if picture is None else str(job.quicklook_path),
        warnings=tuple(warnings),
        scenes=tuple(map(str, job.scenes)),
    )
    if job.report:
        try:
            write_sidecar(job.report_target, spec.own, report)
        except (OutputError, OutputExistsError) as error:  # the output itself is whole
            report = replace(report, warnings=(*report.warnings, str(error)))
    return report


def count_warnings(plan: Plan, counts: Counts) -> Iterator[str]:
    """Yield what the user should know of the pixels that were written."""
    if counts.collisions:
        fill = plan.numbers.fill
        assert fill is not None
        way = "another output.nodata or a float output.dtype"
        if fill.dtype.kind == "f":
            way = "another output.nodata; nan is no valid output"
        yield (
            f"{counts.collisions:,} valid outputs equal nodata ({fill.item():g}) and will read as "
            f"missing; choose {way}"
        )


class _Work:
    """What every task needs, and the plain meaning of one."""

    def __init__(
        self,
        plan: Plan,
        source: RasterSource | MosaicSource,
        sink: Sink,
        picture: quicklook.Quicklook | None,
        progress: Progress | None,
    ) -> None:
        self.plan = plan
        self._source, self._sink, self._picture = source, sink, picture
        self._progress = progress
        self._recipe = recipe_of(plan.operator, plan.numbers, plan.layout.read_bands)
        self._tiles = iter(plan.tiles)
        self._read = self._done = 0
        self._cancelled = False
        self._lock = threading.Lock()

    def next_tile(self) -> Counts:
        """Compute the next tile of the plan.

        A task is not bound to a tile: dask may run independent tasks in any
        order, and only the plan's order lets shared blocks go soon. Where there
        is no tile left, it decodes for the others.
        """
        with environment():
            with self._lock:
                tile = next(self._tiles, None)
            if tile is None:
                self._source.help_until(self._all_read)
            elif not self._cancelled:
                return self.tile(tile)
            return Counts()

    def cancel(self) -> None:
        """Begin no more tiles."""
        self._cancelled = True
        self._source.wake()

    def _all_read(self) -> bool:
        return self._cancelled or self._read == self.plan.tiles.count

    def tile(self, tile: Tile) -> Counts:
        """Read the tile's window, compute every band, write."""
        plan = self.plan

        def read() -> None:
            with self._lock:
                self._read += 1
            if self._all_read():
                self._source.wake()

        reads, window, output, counts = convolve_tile(
            plan, self._recipe, self._source, tile, read=read
        )
        if self._picture is not None:
            self._picture.add(tile, reads, window, output)
        del window
        self._sink.write(tile, output)
        self._tell()
        return counts

    def _tell(self) -> None:
        with self._lock:
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self.plan.tiles.count)


def convolve_tile(
    plan: Plan,
    recipe: AnyRecipe,
    source: RasterSource | MosaicSource,
    tile: Tile,
    *,
    read: Callable[[], None] | None = None,
) -> tuple[Reads, Pixels, np.ndarray, Counts]:
    """Read a tile's window and compute every band; ``read`` is called between the two."""
    block = plan.layout.block
    reads = (
        read_axis(plan.geometry.y, *tile.y, block[0]),
        read_axis(plan.geometry.x, *tile.x, block[1]),
    )
    window = source.read(*reads, tile.column // plan.tiles.panel)
    if read is not None:
        read()
    output = buffers.zeros((plan.out_shape[0], *tile.shape), plan.numbers.target)
    convolved = output[:-1] if plan.valid_fraction else output
    share = output[-1] if plan.valid_fraction else None
    counts = compute_tile(recipe, reads, window.bands, window.masked, convolved, share)
    if share is not None and not plan.numbers.keeps_nan:
        counts = counts.plus(Counts(0, int(np.count_nonzero(share == plan.numbers.fill))))
    return reads, window, output, counts


def _execute(work: _Work, scheduler: str) -> Counts:
    """Compute all tiles; after an error or interrupt none is begun, and those begun end first."""
    if scheduler == "synchronous":
        return _in_batches(work, dask.local.get_sync)
    with ThreadPoolExecutor(work.plan.threads, thread_name_prefix="tileconv") as pool:
        try:
            return _in_batches(work, partial(dask.threaded.get, pool=pool))
        except BaseException:
            work.cancel()
            raise


def _in_batches(work: _Work, get: Callable[[dict[Any, Task], list[Any]], Any]) -> Counts:
    """Hand dask one task per tile, at most BATCH at a time, and one for each thread that helps."""
    counts = Counts()
    tasks = work.plan.tiles.count + work.plan.threads - 1
    for first in range(0, tasks, BATCH):
        keys = [("tileconv-tile", i) for i in range(first, min(first + BATCH, tasks))]
        graph = {key: Task(key, work.next_tile) for key in keys}
        counts = counts.plus(*get(graph, keys))
    return counts
