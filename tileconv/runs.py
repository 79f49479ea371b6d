"""What people call from Python on jobs: read, plan and run them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from tileconv.arguments import check_flag, short_repr
from tileconv.errors import ConfigError
from tileconv.jobs.batch import plan_batch, run_batch
from tileconv.jobs.given import check_path, config_errors
from tileconv.jobs.job import Batch, Job, load_job
from tileconv.jobs.prepare import plan_job
from tileconv.raster.reading import with_own_connections

if TYPE_CHECKING:
    from tileconv.jobs.batch import BatchPlan, BatchReport
    from tileconv.jobs.report import Report
    from tileconv.planning.plan import Plan
    from tileconv.raster.reading import Place

__all__ = ["load_job", "plan", "run"]


@overload
def plan(job: Job) -> Plan: ...
@overload
def plan(job: Batch) -> BatchPlan: ...
def plan(job: Job | Batch) -> Plan | BatchPlan:
    """Say what running ``job`` will read, compute, hold and write, from headers alone.

    Print the plan to read it; `Plan.to_dict` is for programs. Raises
    `InputError` for a raster that cannot be read, `ConfigError` for one that
    the job does not fit. A batch gives a `BatchPlan`, whose entries are plans
    or such failures.

    >>> import tileconv
    >>> from importlib.resources import files
    >>> scene = files("tileconv.data") / "landsat8_crop.tif"
    >>> keys = {"kernel": {"name": "box", "size": 7}, "stride": 64, "output": {"path": "means.tif"}}
    >>> plan = tileconv.plan(tileconv.load_job({"input": {"path": str(scene)}, **keys}))
    >>> plan.out_shape, plan.blocks_needed, plan.geometry.x.gap
    ((3, 8, 8), 16, 57)
    """
    _check_job(job)

    def make() -> Plan | BatchPlan:
        return plan_batch(job) if isinstance(job, Batch) else plan_job(job)

    return with_own_connections(_sources(job), make)


def _sources(job: Job | Batch) -> list[Place]:
    """Return all that a job reads."""
    jobs = job.jobs if isinstance(job, Batch) else (job,)
    return [source for each in jobs for source in each.sources]


def _check_job(job: Any) -> None:
    """Refuse what is no job."""
    if not issubclass(type(job), Job | Batch):
        raise ConfigError(f"a job is what load_job returns; got {short_repr(job)}")


@overload
def run(
    job: Job,
    client: object = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = False,
    performance_report: str | os.PathLike[str] | None = None,
) -> Report: ...
@overload
def run(
    job: Batch,
    client: object = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = False,
    performance_report: str | os.PathLike[str] | None = None,
) -> BatchReport: ...
def run(
    job: Job | Batch,
    client: object = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = False,
    performance_report: str | os.PathLike[str] | None = None,
) -> Report | BatchReport:
    """Run ``job`` and return a report; its output is then complete and checked.

    ``progress`` is called with (tiles done, tiles in all) from any thread. On
    any error or interrupt the output is absent, or what it was before.

    With a `dask.distributed.Client` as ``client``, or where the job names a
    scheduler or a cluster, tasks on workers compute it. ``resume`` then goes on
    with what an interrupted run left; ``performance_report`` is where dask
    writes its own page about the run.

    A batch runs all its inputs and returns a `BatchReport`; look at its
    ``failures``, which raise nothing. ``progress`` is then called with (inputs
    done, inputs in all).

    >>> import tempfile, tileconv
    >>> from importlib.resources import files
    >>> scene = files("tileconv.data") / "landsat8_crop.tif"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keys = {"kernel": {"name": "box"}, "output": {"path": f"{folder}/means.tif"}}
    ...     report = tileconv.run(tileconv.load_job({"input": {"path": str(scene)}, **keys}))
    >>> report.out_shape, report.dtype
    ((3, 510, 510), 'float32')
    """
    _check_job(job)
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress must be a function of two numbers, got {short_repr(progress)}")
    with config_errors():
        resume = check_flag(resume, "resume")
    jobs = job.jobs if isinstance(job, Batch) else (job,)
    if client is not None or jobs[0].on_cluster:
        from tileconv.cluster.start import run_anywhere  # noqa: PLC0415 - an extra

        path = None
        if performance_report is not None:
            path = check_path(performance_report, "performance_report")
        return run_anywhere(job, client, progress, resume=resume, performance_report=path)
    if resume or performance_report is not None:
        raise ConfigError(
            "resume and performance_report go with a cluster: set compute.scheduler to processes "
            f"or to an address; it is {jobs[0].scheduler}"
        )

    def work() -> Report | BatchReport:
        from tileconv.jobs.schedule import run_job  # noqa: PLC0415 - numba and dask, for no plan

        if isinstance(job, Batch):
            return run_batch(job, run_job, progress=progress)
        return run_job(job, progress=progress)

    return with_own_connections(_sources(job), work)
