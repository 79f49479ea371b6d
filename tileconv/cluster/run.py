"""Run a job on a cluster: parts by tasks, one output of them, and a way to go on after a stop."""

from __future__ import annotations

import os
import pickle
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileconv.cluster.assembly import Assembler
from tileconv.cluster.assignments import missing_ranges
from tileconv.cluster.connect import connect, wait_for_workers
from tileconv.cluster.folder import Manifest, run_folder
from tileconv.cluster.identity import changes, grid_of, identity_of, key_of
from tileconv.cluster.plugin import RunPlugin
from tileconv.cluster.submission import check_connected, lost_scheduler, submit_bounded
from tileconv.cluster.worker import PartWork, forget, probe, run_part, without_parts
from tileconv.errors import (
    ClusterError,
    ConfigError,
    OutputError,
    OutputExistsError,
    TileconvError,
)
from tileconv.finish import Counts
from tileconv.jobs import quicklook
from tileconv.jobs.output_metadata import config_hash
from tileconv.jobs.prepare import (
    check_targets,
    output_spec,
    own_files,
    plan_header,
    read_source,
)
from tileconv.jobs.report import ClusterUse, PartReport, Report
from tileconv.jobs.schedule import count_warnings
from tileconv.jobs.sidecar import write_sidecar
from tileconv.planning.cluster_plan import ClusterPlan, cut_into_parts
from tileconv.planning.cost import BASE_BYTES, GDAL_CACHE_BYTES
from tileconv.raster.reading import Identity
from tileconv.raster.writing import (
    HTML_PAGE,
    OwnFiles,
    Target,
    missing_parts,
    restore,
    stored_bytes,
)
from tileconv.text import plural, size
from tileconv.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client
    from distributed.scheduler import KilledWorker

    from tileconv.cluster.progress import Progress
    from tileconv.jobs.job import Job
    from tileconv.planning.plan import Plan
    from tileconv.raster.reading import Header
    from tileconv.raster.writing import OutputSpec

WORKER_SHARE = 0.6
"""Of a worker's memory that tasks may plan with: dask begins to spill and to pause above it."""
AGAIN = 1
"""How often parts that are not what was written are computed again."""
WORKER_DEATHS = 5
"""How often workers may die while a run is made known to them."""
SETTINGS = ("NUMBA_CACHE_DIR", "NUMBA_CPU_NAME")
"""Environment variables that workers take over where they have none of their own."""


@dataclass(frozen=True)
class Workers:
    """The workers of a cluster, as they are at the start."""

    count: int
    threads: int
    memory: int | None
    """Bytes that a worker with one thread would have: what a task is planned for."""


def run_on_cluster(
    job: Job,
    client: Any = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    performance_report: Path | None = None,
) -> Report:
    """Run ``job``; its output is then complete and checked, or absent and an error raised.

    Parts that are finished when a run is stopped, by whatever, are kept for ``resume``.
    """
    if job.quicklook:
        quicklook.check_available()
    header = read_source(job)
    if resume and (finished := _finished(job, header)) is not None:
        return finished
    check_targets(job, header)
    if performance_report is not None:
        _check_page(performance_report, job, header)
    manifest = Manifest(run_folder(job.target))
    _look_at_leftovers(job, manifest, resume=resume)
    with connect(job, client, watched=performance_report is not None) as connected:
        wait_for_workers(connected)
        run = _Run(job, header, connected, manifest, progress)
        with run.recorded(performance_report):
            return run.execute()


def _check_page(path: Path, job: Job, header: Header) -> None:
    """Check that dask's page about the run takes the place of nothing but such a page."""
    place = Path(os.path.realpath(path))
    if place in job.written:
        raise OutputExistsError(f"{place}: the performance report would take an output's place")
    Target(place, HTML_PAGE, "the performance report", overwrite=True).check(
        OwnFiles(own_files(job, header))
    )


def _look_at_leftovers(job: Job, manifest: Manifest, *, resume: bool) -> None:
    """Refuse to run over what an interrupted run left, unless the user has said what to do."""
    if not manifest.read():
        return
    if manifest.is_locked():
        raise OutputExistsError(
            f"{manifest.folder}: another run is writing this output; wait for it, or stop it"
        )
    if not (resume or job.overwrite) and manifest.parts:
        written = sum(entry["bytes_written"] for entry in manifest.parts.values())
        raise OutputExistsError(
            f"{job.target}: an interrupted run left {plural(len(manifest.parts), 'finished part')} "
            f"({size(written)}) in {manifest.folder.name}; go on with --resume, or start again "
            "with --overwrite"
        )
    if not resume:
        manifest.header, manifest.parts = {}, {}


def _finished(job: Job, header: Header) -> Report | None:
    """Return a report if the output is there, whole, and what the job gives."""
    left = Manifest(run_folder(job.target))
    if not os.path.lexists(job.target) or (
        left.folder.exists() and (job.overwrite or left.is_locked())
    ):
        return None
    plan = plan_header(job, header)
    wanted = {"CONFIG_SHA256": config_hash(job, plan.operator), "VERSION": __version__}
    tags = job.format.tags(job.target)
    if {name: tags.get(name) for name in wanted} != wanted:
        if job.overwrite:
            return None
        raise OutputExistsError(
            f"{job.target}: exists already, and is not what this job gives with tileconv "
            f"{__version__}; choose another path, or start again with --overwrite"
        )
    newer = [
        file
        for scene in header.scenes or (header,)
        for file in scene.files
        if file.stat().st_mtime_ns > job.target.stat().st_mtime_ns
    ]
    if newer and not job.overwrite:
        raise OutputExistsError(
            f"{job.target}: exists already, and {newer[0]} has changed since; "
            "start again with --overwrite"
        )
    if newer:
        return None
    if job.layout == "parts" and (lost := missing_parts(job.target)):
        raise OutputExistsError(
            f"{job.target}: exists already, but {plural(lost, 'part')} of it are not there; "
            "start again with --overwrite"
        )
    left.discard()  # of a run that was stopped after it had renamed its output
    warnings = ["the output was finished already: nothing was done"]
    if job.quicklook and not job.quicklook_path.exists():
        warnings.insert(0, f"there is no {job.quicklook_path.name}: a quicklook needs a whole run")
    size_now = stored_bytes if job.layout == "parts" else lambda path: path.stat().st_size
    return replace(
        _report(job, plan, Counts(), 0.0, 0, size_now(job.target), None),
        tiles=0,
        warnings=tuple(warnings),
    )


class _Run:
    """One run of a job on a connected cluster."""

    def __init__(
        self,
        job: Job,
        header: Header,
        client: Client,
        manifest: Manifest,
        progress: Progress | None,
    ) -> None:
        self.job, self.header, self.client, self.manifest = job, header, client, manifest
        self.progress = progress
        self.started = time.monotonic()
        self.workers = look_at_workers(client)
        self.plan, self.spec, self.identity = self._plan()
        self.resumed = 0
        self.reports: list[PartReport] = []
        self._tiles_done = self._retried = 0
        self._bytes_here = 0
        self._picture: str | None = None
        self._trouble: list[str] = []
        """What went wrong beside the output."""
        self._leaving = threading.Thread(target=self._leave_workers, name="tileconv-leave")

    @contextmanager
    def recorded(self, path: Path | None) -> Iterator[None]:
        """Write dask's own report of the run."""
        if path is None:
            yield
            return
        if find_spec("bokeh") is None:
            raise ConfigError("--performance-report needs a package: pip install bokeh")
        from distributed import performance_report  # noqa: PLC0415

        with self.client.as_current(), performance_report(filename=str(path)):
            yield

    def _plan(self) -> tuple[ClusterPlan, OutputSpec, dict[str, Any]]:
        """Plan for a task of the smallest worker; a resumed run keeps the grid that it has."""
        job = replace(self.job, memory_limit=self._memory())
        grid = self.manifest.header.get("grid")
        if grid is not None:
            job = replace(job, tile=tuple(grid["tile"]), block=grid["block"])
        plan = plan_header(job, self.header)
        if grid is None:
            plan = cut_into_parts(plan, self.workers.threads, part=job.part)
        else:
            tiles = replace(plan.tiles, panel=grid["panel"])
            plan = replace(plan, choice=replace(plan.choice, tiles=tiles))
            plan = cut_into_parts(plan, self.workers.threads, rows=grid["rows"])
        spec = output_spec(self.job, plan, self.header)
        spec = replace(spec, threads=self.job.threads)  # of the client, which makes the output
        return plan, spec, identity_of(self.job, plan, self.header, spec)

    def _memory(self) -> int:
        told = self.workers.memory
        if told is None:
            return self.job.memory_limit
        return min(told, self.job.memory_limit) if self.job.memory_given else told

    def execute(self) -> Report:
        """Compute what is missing, then make the output."""
        manifest = self.manifest
        try:
            self._prepare()
            with self._output() as output:
                self._compute(output)
                begun = time.monotonic()
                for scene in self.header.scenes or (self.header,):
                    self._check_unchanged(scene)
                picture = self._draw() if self.job.quicklook else None
                written = output.commit()
                seconds = time.monotonic() - begun
            self._save(picture)
            manifest.discard()
        except BaseException:
            manifest.close()
            if not manifest.parts:
                manifest.discard()
            raise
        finally:
            if self._leaving.ident is not None:
                self._leaving.join()
        return self._finish(written, seconds)

    # what is there already

    def _prepare(self) -> None:
        manifest, grid = self.manifest, grid_of(self.plan)
        if manifest.header:
            if different := changes(manifest.header["identity"], self.identity):
                raise OutputExistsError(
                    f"{self.job.target}: cannot go on with the interrupted run: "
                    f"{', '.join(different)} changed since; start again with --overwrite"
                )
            if self.spec.layout == "parts":
                restore(self.job.target, manifest.header["token"], manifest.folder / "parts")
            self._check_parts()
            manifest.go_on()
            self.resumed = len(manifest.parts)
        else:
            self.job.target.parent.mkdir(parents=True, exist_ok=True)
            manifest.begin(
                {"identity": self.identity, "grid": grid, "token": secrets.token_hex(16)}
            )
        self.work = PartWork(
            key=key_of(self.identity, grid),
            plan=self.plan,
            header=self.header,
            spec=replace(self.spec, own=()),  # to workers, they are so many names
            folder=manifest.folder,
            token=manifest.header["token"],
            looks=self.job.quicklook,
        )
        self.run_key = f"{self.work.key}-{secrets.token_hex(4)}"
        self._reach_workers()

    def _check_parts(self) -> None:
        """Keep the finished parts that are whole."""
        parts, folder = self.manifest.parts, self.manifest.folder
        work = PartWork(
            key_of(self.identity, grid_of(self.plan)), self.plan, self.header, self.spec, folder, ""
        )
        for number in list(parts):
            part, path = work.part(number), work.path(number)
            try:
                self.job.format.check_part(self.spec, part, parts[number], folder, path)
            except (OSError, ValueError, KeyError, TypeError):
                del parts[number]
                path.unlink(missing_ok=True)

    # tasks

    def _reach_workers(self) -> None:
        """Give workers the run, and look whether they see its disk."""
        settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
        packed = pickle.dumps(without_parts(self.work))
        plugin = RunPlugin(self.run_key, packed, settings)
        for attempt in range(WORKER_DEATHS):
            try:
                self.client.register_plugin(plugin)
                break
            except ModuleNotFoundError as error:
                raise ClusterError(
                    f"workers lack a package: {error}; install tileconv {__version__} there too"
                ) from error
            except (OSError, TimeoutError) as error:  # also if a worker dies just now
                if self.client.status != "running" or attempt == WORKER_DEATHS - 1:
                    raise lost_scheduler() from error
        try:
            found = self.client.run(probe, self.run_key, on_error="return")
        except (OSError, TimeoutError):  # a worker has died: every task looks for itself
            check_connected(self.client)
            return
        for address, told in found.items():
            if isinstance(told, OSError) and not isinstance(told, TileconvError):
                continue
            if isinstance(told, BaseException):
                raise ClusterError(f"{address}: {told!r}") from told
            version, trouble = told
            if version != __version__:
                raise ClusterError(
                    f"{address} has tileconv {version}, and here is {__version__}; "
                    "install the same version"
                )
            if trouble is not None:
                raise ClusterError(f"{address}: {trouble}")

    def _compute(self, output: Assembler) -> None:
        """Compute the parts that are missing, and those that turn out to be damaged."""
        entries = self.manifest.parts
        for number, entry in entries.items():
            output.add(number, entry)
        try:
            for attempt in range(AGAIN + 1):
                self._tiles_done = sum(entry["tiles"] for entry in entries.values())
                self._retried = sum(entry["attempt"] - 1 for entry in entries.values())
                self._compute_missing(output, f"tileconv-{self.run_key}-{attempt}")
                damaged = output.drain()
                if not damaged:
                    return
                for number in damaged:
                    del entries[number]
                    self.work.path(number).unlink(missing_ok=True)
            raise OutputError(
                f"{self.manifest.folder}: {plural(len(damaged), 'part')} cannot be read back as "
                "written, not the second time either; look at that disk, then --resume"
            )
        finally:
            forget(self.run_key)
            try:
                self._leaving.start()
            except RuntimeError:  # no thread can be started
                self._leave_workers()

    def _leave_workers(self) -> None:
        """Have workers release the run while the output is finished."""
        if self.client.status == "running":
            with suppress(Exception):  # for example, the client is closed in the meantime
                self.client.unregister_worker_plugin(f"tileconv-{self.run_key}")

    def _compute_missing(self, output: Assembler, name: str) -> None:
        submit_bounded(
            self.client,
            partial(run_part, self.run_key),
            missing_ranges(self.plan.parts.count, self.manifest.parts),
            done=partial(self._done, output),
            killed=self._killed,
            look=self._look,
            name=name,
            most=self.plan.parts.most_runs,
        )

    def _done(self, output: Assembler, number: int, entry: dict[str, Any]) -> None:
        self.manifest.add(entry)
        output.add(number, entry)
        self._tiles_done += entry["tiles"]
        self._retried += entry["attempt"] - 1
        self._bytes_here += entry["blocks_decoded"]
        self._tell()

    def _killed(self, number: int, error: KilledWorker) -> None:
        """Try a part again that only waited where workers died; name one that was begun."""
        try:
            tries = self.work.tries_path(number).stat().st_size
        except OSError:
            tries = 0
        if tries <= error.allowed_failures:
            return
        part = self.work.part(number)
        raise ClusterError(
            f"{self.header.path}: part {number} killed its worker {tries} times: tiles "
            f"({part.rows[0]}, {part.columns[0]}) to ({part.rows[-1]}, {part.columns[-1]}), "
            f"output rows {part.y[0]} to {part.y[1] - 1}, columns {part.x[0]} to {part.x[1] - 1}, "
            f"{self._input_window(number)}. Most often memory ends: a task needs about "
            f"{size(self.plan.peak_memory_bytes)}; look at the workers' logs. "
            f"{plural(len(self.manifest.parts), 'finished part')} kept for --resume"
        )

    def _input_window(self, number: int) -> str:
        part, geometry = self.work.part(number), self.plan.geometry
        y, x = geometry.y.reach(*part.y), geometry.x.reach(*part.x)
        rows = max(y[0], 0), min(y[1], geometry.y.size) - 1
        columns = max(x[0], 0), min(x[1], geometry.x.size) - 1
        return f"input rows {rows[0]} to {rows[1]}, columns {columns[0]} to {columns[1]}"

    # progress

    def _look(self, workers: int, threads: int) -> None:
        self.workers = replace(self.workers, count=workers, threads=threads)
        self._tell()

    def _tell(self) -> None:
        if self.progress is None:
            return
        self.progress(self._tiles_done, self.plan.tiles.count)
        detail = getattr(self.progress, "detail", None)
        if detail is not None:
            layout = self.plan.layout
            block = layout.block[0] * layout.block[1] * layout.decoded_pixel_bytes
            rate = self._bytes_here * block / max(time.monotonic() - self.started, 1e-3) / 1e6
            detail(
                f"{rate:,.0f} MB/s, {plural(self.workers.count, 'worker')}, "
                f"{self._retried:,} retries"
            )

    # the output

    def _output(self) -> Assembler:
        """Return what makes one output of the parts, while others are still computed."""
        work = self.work
        made = self.job.format.open_assembly(self.spec, work.folder, work.token)
        return Assembler(made, lambda n: (work.part(n), work.path(n)))

    def _check_unchanged(self, scene: Header) -> None:
        if Identity.of(*scene.files) != scene.identity:
            raise ClusterError(f"{scene.path}: changed while it was being read; start again")

    def _draw(self) -> quicklook.Quicklook:
        """Put together what the tasks have left for the quicklook."""
        picture, lost = quicklook.Quicklook(self.plan), 0
        for number in self.manifest.parts:
            try:
                picture.put(quicklook.load_samples(self.work.look_path(number)))
            except Exception:  # whatever is wrong with it: a picture must not cost a run
                lost += 1
        if lost:
            self._trouble.append(f"the quicklook lacks {plural(lost, 'part')}")
        return picture

    def _save(self, picture: quicklook.Quicklook | None) -> None:
        """Write the quicklook of an output that is whole."""
        if picture is None:
            return
        try:
            picture.save(self.job.quicklook_target, self.spec.own)
            self._picture = str(self.job.quicklook_path)
        except (OutputError, OutputExistsError) as error:
            self._trouble.append(str(error))

    def _finish(self, written: int, assembly_seconds: float) -> Report:
        entries = list(self.manifest.parts.values())
        counts = Counts().plus(*(Counts(e["missing"], e["collisions"]) for e in entries))
        names = ("part", "tiles", "seconds", "attempt", "blocks_decoded", "bytes_written", "worker")
        use = ClusterUse(
            parts=len(entries),
            resumed=self.resumed,
            retries=self._retried,
            workers=len({entry["worker"] for entry in entries}),
            assembly_seconds=assembly_seconds,
            timings=tuple(PartReport(**{n: e[n] for n in names}) for e in entries),
        )
        blocks = sum(entry["blocks_decoded"] for entry in entries)
        seconds = time.monotonic() - self.started
        report = _report(self.job, self.plan, counts, seconds, blocks, written, use)
        warnings = (*report.warnings, *self._trouble)
        report = replace(report, quicklook=self._picture, warnings=warnings)
        if self.job.report:
            try:
                write_sidecar(self.job.report_target, self.spec.own, report)
            except TileconvError as error:  # the output itself is whole
                report = replace(report, warnings=(*report.warnings, str(error)))
        return report


def look_at_workers(client: Client) -> Workers:
    """Look how many workers there are, and how much memory the smallest has for a task."""
    try:
        info = client.scheduler_info(n_workers=-1)["workers"].values()
    except TypeError:
        info = client.scheduler_info()["workers"].values()
    common = BASE_BYTES + GDAL_CACHE_BYTES  # once a process, in the plan of every task
    rooms = [
        (int(WORKER_SHARE * worker["memory_limit"]) - common) // worker["nthreads"] + common
        for worker in info
        if worker["memory_limit"]
    ]
    threads = sum(worker["nthreads"] for worker in info)
    return Workers(len(info), max(threads, 1), min(rooms, default=None))


def _report(
    job: Job,
    plan: Plan,
    counts: Counts,
    seconds: float,
    blocks: int,
    written: int,
    use: ClusterUse | None,
) -> Report:
    covered = plan.geometry.y.covered * plan.geometry.x.covered
    return Report(
        source=str(job.source),
        target=str(job.target),
        out_shape=plan.out_shape,
        dtype=plan.numbers.target.name,
        seconds=seconds,
        tiles=plan.tiles.count,
        blocks_decoded=blocks,
        pixels_covered=covered * plan.layout.read_bands,
        bytes_written=written,
        missing=counts.missing,
        collisions=counts.collisions,
        warnings=(*plan.notes, *count_warnings(plan, counts)),
        scenes=tuple(map(str, job.scenes)),
        cluster=use,
    )
