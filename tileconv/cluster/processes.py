"""Worker processes on this machine, which end with the run however it is stopped.

Ctrl-C reaches every process of a terminal at once. Workers do not hear it: they would tell of it
in a traceback each, and be gone before anybody could tidy up after them. They are closed by the
run that has started them, and it is not held up in the midst of starting or closing them.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask
import distributed
from distributed.utils import LoopRunner, silence_logging_cmgr

from tileconv.errors import ClusterError
from tileconv.raster.writing import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tileconv.jobs.job import Job

CALM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
}
"""Of worker processes on this machine: by default, idle ones take 3 % of a core each, and the
scheduler 6 %, to look at themselves up to a hundred times a second."""

FOLDER = "temporary-directory"
"""dask's setting for where workers keep what does not fit into memory."""
PATIENCE = 1.0
"""Seconds that a worker is given to end by itself."""

LOOK_EVERY = 0.5
"""Seconds after which it is looked whether work has ended, should its word of it be lost."""


def _scratch_folder() -> str:
    """Make a folder whose name tells the process, and remove those of killed ones."""
    above = Path(dask.config.get(FOLDER, None) or tempfile.gettempdir())
    begins = f"tileconv-{socket.gethostname()}-"
    with suppress(OSError):
        for each in above.glob(f"{glob.escape(begins)}*"):
            pid = each.name.removeprefix(begins).partition("-")[0]
            if pid.isdecimal() and not is_alive(int(pid)):
                shutil.rmtree(each, ignore_errors=True)
    try:
        above.mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix=f"{begins}{os.getpid()}-", dir=above)
    except OSError as error:
        raise ClusterError(
            f"{above}: workers cannot keep there what does not fit into memory: {error.strerror}; "
            f"set dask's {FOLDER}"
        ) from error


@contextmanager
def start_processes(
    job: Job, connect: Callable[[Any], distributed.Client], *, calm: bool
) -> Iterator[distributed.Client]:
    """Start worker processes of one thread each, and give what ``connect`` makes of them."""
    begun = ExitStack()
    try:
        runner = _deaf_loop(begun)

        def start() -> distributed.Client:
            scratch = _scratch_folder()
            begun.callback(shutil.rmtree, scratch, ignore_errors=True)
            with dask.config.set(CALM if calm else {}):
                cluster = distributed.LocalCluster(
                    n_workers=job.threads,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=job.memory_limit // job.threads,
                    silence_logs=logging.CRITICAL,
                    local_directory=scratch,
                    loop=runner.loop,
                )
            begun.callback(_close, cluster)
            client = connect(cluster)
            begun.callback(client.close)
            return client

        yield uninterrupted(start)
    finally:
        uninterrupted(begun.close)


def _close(cluster: distributed.LocalCluster) -> None:
    """Close the workers, in the midst of a task too, and then the cluster."""

    async def close_workers() -> None:
        closing = [worker.close(timeout=PATIENCE) for worker in cluster.workers.values()]
        await asyncio.gather(*closing, return_exceptions=True)

    for close in (partial(cluster.sync, close_workers), cluster.close):
        with suppress(Exception):  # the run is over, and workers end with this process in any case
            close()


def _deaf_loop(stack: ExitStack) -> LoopRunner:
    """Start a loop whose thread does not hear Ctrl-C; threads and processes of its own neither.

    A process inherits which signals are blocked, so it does not hear them from its first moment.
    """
    # a failed task is reported by its error, without a traceback
    stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
    runner = LoopRunner()
    stack.callback(runner.stop)
    resource_tracker.ensure_running()  # later it would unblock signals in the thread it starts in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # of what is under way when the cluster is closed; the run waits for what it needs
    runner.loop.asyncio_loop.set_exception_handler(lambda loop, context: None)
    return runner


def uninterrupted(work: Callable[[], Any]) -> Any:
    """Do some work to its end; an interrupt is raised after it.

    It is done in a thread of its own, for interrupts are raised in the main one. What it makes
    and whoever tidies up after it stay in step.
    """
    outcome: list[tuple[Any, BaseException | None]] = []
    mine, ended = threading.Lock(), SimpleQueue[None]()

    def run() -> None:
        if not mine.acquire(blocking=False):
            return  # another thread does it: the first start was interrupted, but had come about
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))
        ended.put(None)

    begun, stop = False, None
    while not outcome:
        try:
            if not begun:
                threading.Thread(target=run, name="tileconv-uninterrupted", daemon=True).start()
                begun = True
            # not `Thread.join`, which an interrupt makes believe that the thread has ended
            with suppress(Empty):
                ended.get(timeout=LOOK_EVERY)
        except KeyboardInterrupt as interrupt:
            stop = interrupt
    made, error = outcome[0]
    if stop is not None:
        raise stop
    if error is not None:
        raise error
    return made
