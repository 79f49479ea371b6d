"""Jobs and batches on a cluster: one connection for all inputs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tileconv.cluster.connect import connect
from tileconv.cluster.run import run_on_cluster
from tileconv.jobs.batch import run_batch
from tileconv.jobs.job import Batch

if TYPE_CHECKING:
    from pathlib import Path

    from tileconv.cluster.progress import Progress
    from tileconv.jobs.batch import BatchReport
    from tileconv.jobs.job import Job
    from tileconv.jobs.report import Report


def run_anywhere(
    job: Job | Batch,
    client: Any,
    progress: Progress | None,
    *,
    resume: bool,
    performance_report: Path | None,
) -> Report | BatchReport:
    """Run a job, or the inputs of a batch one after the other, each by the whole cluster."""
    run = partial(run_on_cluster, resume=resume, performance_report=performance_report)
    if not isinstance(job, Batch):
        return run(job, client, progress=progress)
    watched = performance_report is not None
    with connect(job.jobs[0], client, watched=watched) as connected:
        return run_batch(job, lambda each: run(each, connected), progress=progress, resume=resume)
