"""Hand numbered tasks to a cluster, a bounded window of them at a time.

Ten million tasks then fill neither the scheduler nor the client: both hold the
window, whatever a task does.
"""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from distributed.scheduler import KilledWorker

from tileconv.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distributed import Client, Future

AHEAD = 3
"""Tasks in flight for each thread of the cluster: one runs, the next ones wait at the worker."""
FEWEST = 8
"""Tasks in flight of a cluster without workers yet."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the cluster."""


def submit_bounded(
    client: Client,
    task: Callable[[int], Any],
    numbers: Iterable[int],
    *,
    done: Callable[[int, Any], None],
    killed: Callable[[int, KilledWorker], None] | None = None,
    look: Callable[[int, int], None] | None = None,
    name: str = "tileconv-part",
) -> None:
    """Run ``task(number)`` on the cluster for every number.

    Parameters
    ----------
    task
        Anything that pickles; its results should be small.
    done
        Called with (number, result) in this thread as tasks end, in any order.
    killed
        Called with (number, error) of a task whose workers died, as often as dask allows. It
        raises the error to tell, or returns to have the task tried again. Default: raise.
    look
        Called with (workers, threads) of the cluster about once a second.
    name
        What the keys of the tasks begin with; a key of the scheduler is ``(name, number)``.

    Raises
    ------
    ClusterError
        The scheduler is lost.
    Exception
        What a task raised; tasks in flight are then cancelled.
    """
    ended: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
    pending: dict[int, Future[Any]] = {}
    tries: dict[int, int] = {}
    waiting = iter(numbers)
    more = True
    window, looked = FEWEST, -LOOK_EVERY

    def submit(number: int) -> None:
        again = tries.get(number, 0)
        key = (name, number, again) if again else (name, number)
        future = client.submit(task, number, key=key, pure=False)
        pending[number] = future
        future.add_done_callback(lambda future, number=number: ended.put((number, future)))

    try:
        while more or pending:
            if time.monotonic() - looked >= LOOK_EVERY:
                looked = time.monotonic()
                workers, threads = cluster_size(client)
                window = max(FEWEST, AHEAD * threads)
                if look is not None:
                    look(workers, threads)
            while more and len(pending) < window:
                number = next(waiting, None)
                if number is None:
                    more = False
                else:
                    submit(number)
            if not pending:
                continue
            try:
                number, future = ended.get(timeout=LOOK_EVERY)
            except Empty:
                check_connected(client)
                continue
            del pending[number]
            if future.status == "cancelled":
                raise lost_scheduler()
            if future.status == "error":
                error = future.exception()
                future.release()
                if not isinstance(error, KilledWorker) or killed is None:
                    raise error
                killed(number, error)
                tries[number] = tries.get(number, 0) + 1
                submit(number)
                continue
            result = future.result()
            future.release()
            tries.pop(number, None)
            done(number, result)
    except BaseException:
        cancel(client, list(pending.values()))
        raise


def cluster_size(client: Client) -> tuple[int, int]:
    """Return (workers, threads) of a cluster as its scheduler tells them."""
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except TypeError:  # older versions of distributed tell of all workers without being asked
        workers = client.scheduler_info()["workers"].values()
    except (OSError, AttributeError) as error:
        raise lost_scheduler() from error
    return len(workers), sum(worker["nthreads"] for worker in workers)


def check_connected(client: Client) -> None:
    """Raise `ClusterError` if the scheduler is not there any more."""
    if client.status not in ("running", "newly-created"):
        raise lost_scheduler()


def lost_scheduler() -> ClusterError:
    """Return the error that tells of a lost scheduler."""
    return ClusterError(
        "the connection to the dask scheduler was lost; finished parts are kept: "
        "run the job again with --resume"
    )


def cancel(client: Client, futures: list[Future[Any]]) -> None:
    """Let go of tasks in flight, as far as the scheduler still listens."""
    if client.status == "running" and futures:
        try:
            client.cancel(futures, force=True, asynchronous=False)
        except Exception:  # whatever went wrong before is what is told
            return
