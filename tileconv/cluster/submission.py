"""Hand numbered tasks to a cluster, a bounded window of them at a time.

Ten million tasks then fill neither the scheduler nor the client: both hold the
window, whatever a task does. Neighbouring numbers go to the same thread of the
cluster, as far as it lives.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.scheduler import KilledWorker

from tileconv.cluster.assignments import Assignments, Next
from tileconv.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from distributed import Client, Future

AHEAD = 2
"""Tasks in flight for each thread of the cluster: one runs, the next one waits at the worker."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the cluster."""
LOST_SECONDS = 5.0
"""How long results of finished tasks may take; those of a worker that died since never come."""
FETCH_PAUSE = 3.0
"""Where tasks are short, results are fetched after so many times what that took before."""
LONGEST_PAUSE = 0.05
"""Seconds; what a killed client has not fetched is computed again."""
FETCH_AT_LEAST = 16
"""Results that wait to be fetched, beside one for each thread: then they are, in any case."""
ANYWHERE = ""
"""The worker of a slot of a cluster without workers."""


class Slot(NamedTuple):
    """A thread of the cluster."""

    thread: int
    worker: str


class _Task(NamedTuple):
    future: Future[Any]
    slot: Slot
    step: int


_Outcome = tuple[Any, BaseException | None]
"""(result, error) of a task."""


def submit_bounded(
    client: Client,
    task: Callable[[int, int], Any],
    numbers: Iterable[range],
    *,
    done: Callable[[int, Any], None],
    killed: Callable[[int, KilledWorker], None] | None = None,
    look: Callable[[int, int], None] | None = None,
    name: str = "tileconv-part",
    most: int | None = None,
) -> None:
    """Run ``task(number, step)`` on the cluster for every number of some ranges.

    Parameters
    ----------
    task
        Anything that pickles; its results should be small. It gets the step, 1 or -1, to the
        number that the same thread takes next if there is one.
    done
        Called with (number, result) in this thread as tasks end, in any order.
    killed
        Called with (number, error) of a task whose workers died, as often as dask allows. It
        raises the error to tell, or returns to have the task tried again. Default: raise.
    look
        Called with (workers, threads) of the cluster about once a second.
    name
        What the keys of the tasks begin with; a key of the scheduler is ``(name, number)``.
    most
        How many threads may be busy at the same time, each with a run of neighbouring numbers.

    Raises
    ------
    ClusterError
        The scheduler is lost.
    Exception
        What a task raised; tasks in flight are then cancelled.
    """
    _Submission(client, task, done, killed, look, name, most).run(numbers)


class _Submission:
    """Tasks in flight, and where the next ones go."""

    def __init__(
        self,
        client: Client,
        task: Callable[[int, int], Any],
        done: Callable[[int, Any], None],
        killed: Callable[[int, KilledWorker], None] | None,
        look: Callable[[int, int], None] | None,
        name: str,
        most: int | None,
    ) -> None:
        self._client, self._task, self._name, self._most = client, task, name, most
        self._tell_done, self._tell_killed, self._tell_look = done, killed, look
        self._ended: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
        self._pending: dict[int, _Task] = {}
        self._tries: Counter[int] = Counter()
        self._busy: Counter[Slot] = Counter()
        """Tasks in flight of each slot."""
        self._slots: list[Slot] = []
        self._ahead = AHEAD
        self._looked = 0.0
        self._ready: dict[int, _Task] = {}
        """Tasks that have ended, and whose results are to be fetched."""
        self._fetch_at = 0.0

    def run(self, numbers: Iterable[range]) -> None:
        try:
            self._look()
            left = Assignments(numbers, self._slots)
            self._fill(left, self._slots)
            while self._pending or self._ready or len(left):
                free = self._wait() if self._pending else []
                if time.monotonic() - self._looked >= LOOK_EVERY or not (self._pending or free):
                    self._look()
                    left.change(self._slots)
                    free = self._slots
                self._fill(left, free)  # threads first, then what they have done
                many = len(self._ready) >= FETCH_AT_LEAST + len(self._slots)
                if time.monotonic() >= self._fetch_at or many or not self._pending:
                    self._fetch()
        except BaseException:
            flying = [*self._pending.values(), *self._ready.values()]
            cancel(self._client, [task.future for task in flying])
            raise

    def _look(self) -> None:
        """Have a slot for each thread of the cluster, as many as may be busy."""
        self._looked = time.monotonic()
        workers = look_at_threads(self._client)
        threads = sum(workers.values())
        # one thread of each worker, then a second one of each, ...
        slots = sorted(Slot(i, w) for w, count in workers.items() for i in range(count))
        if self._most is not None and self._most < len(slots):
            known = set(self._slots)  # a slot stays where it is
            slots = sorted(slots, key=lambda slot: slot not in known)[: self._most]
        self._slots = slots or [Slot(0, ANYWHERE)]
        self._free_stranded(workers)
        # Where threads are idle they would steal what waits at busy ones
        self._ahead = AHEAD if len(self._slots) == threads or not workers else 1
        if self._tell_look is not None:
            self._tell_look(len(workers), threads)

    def _free_stranded(self, workers: Mapping[str, int]) -> None:
        """Submit again the tasks that wait for a worker that is gone.

        dask gives them to any other worker, but not if there was none at that moment: then they
        wait for the one they were meant for.
        """
        gone = {n: t for n, t in self._pending.items() if t.slot.worker not in (*workers, ANYWHERE)}
        if not gone or not workers:
            return
        begun = {tuple(key) for keys in self._client.processing().values() for key in keys}
        for number, task in gone.items():
            if task.future.status == "pending" and task.future.key not in begun:
                self._tries[number] += 1
                self._take_out(number).future.release()
                self._submit([Next(number, task.step)], Slot(0, ANYWHERE))

    def _take_out(self, number: int) -> _Task:
        task = self._pending.pop(number)
        self._busy[task.slot] -= 1
        return task

    def _fill(self, left: Assignments, slots: Iterable[Slot]) -> None:
        """Give slots as many tasks as they may have, round after round."""
        wanting = list(dict.fromkeys(slots))
        chosen: dict[Slot, list[Next]] = defaultdict(list)
        while wanting:
            for slot in wanting.copy():
                # the last ones wait for whichever slot is idle first
                ahead = self._ahead if len(left) >= len(self._slots) else 1
                full = self._busy[slot] + len(chosen[slot]) >= ahead
                number = None if full else left.next(slot)
                if number is None:
                    wanting.remove(slot)
                else:
                    chosen[slot].append(number)
        for slot, numbers in chosen.items():
            self._submit(numbers, slot)

    def _submit(self, chosen: list[Next], slot: Slot) -> None:
        if not chosen:
            return
        tries, (numbers, steps) = self._tries, zip(*chosen, strict=True)
        keys = [(self._name, n, tries[n]) if n in tries else (self._name, n) for n in numbers]
        wish: dict[str, Any] = {}  # not an order: workers may die
        if slot.worker != ANYWHERE:
            wish = {"workers": [slot.worker], "allow_other_workers": True}
        futures = self._client.map(self._task, numbers, steps, key=keys, pure=False, **wish)
        for (number, step), future in zip(chosen, futures, strict=True):
            self._await(number, _Task(future, slot, step))

    def _await(self, number: int, task: _Task) -> None:
        self._pending[number] = task
        self._busy[task.slot] += 1
        task.future.add_done_callback(lambda future: self._ended.put((number, future)))

    def _wait(self) -> list[Slot]:
        """Wait for tasks to end; return the slots that have room now."""
        seconds = LOOK_EVERY
        if self._ready:
            seconds = max(self._fetch_at - time.monotonic(), 0)
        try:
            ended = [self._ended.get(timeout=seconds)]
        except Empty:
            check_connected(self._client)
            return []
        while not self._ended.empty():
            ended.append(self._ended.get())
        free = []
        for number, future in ended:
            task = self._pending.get(number)
            if task is not None and task.future is future:  # and not one that was given up
                self._ready[number] = self._take_out(number)
                free.append(task.slot)
        return [slot for slot in free if slot in self._slots]

    def _fetch(self) -> None:
        """Fetch the results of tasks that have ended, and tell of them."""
        if not self._ready:
            return
        began = time.monotonic()
        tasks, self._ready = self._ready, {}
        found = self._results([task.future for task in tasks.values()])
        for (number, task), outcome in zip(tasks.items(), found, strict=True):
            if outcome is None:
                self._await(number, task)
                continue
            result, error = outcome
            task.future.release()
            if error is not None:
                self._failed(Next(number, task.step), error)
            else:
                self._tries.pop(number, None)
                self._tell_done(number, result)
        now = time.monotonic()
        busy = len(tasks) > len(self._slots)  # tasks end faster than results are fetched
        self._fetch_at = now + min(FETCH_PAUSE * (now - began), LONGEST_PAUSE) * busy

    def _results(self, futures: list[Future[Any]]) -> list[_Outcome | None]:
        """Return (result, error) of tasks that have ended; None if a result was lost since."""
        if all(future.status == "finished" for future in futures):
            # all at once: each question to the scheduler takes milliseconds
            gather = partial(self._client.gather, futures, asynchronous=True)
            with suppress(KilledWorker, OSError):
                results = self._client.sync(gather, callback_timeout=LOST_SECONDS)
                return [(result, None) for result in results]
        return [self._result(future) for future in futures]

    def _result(self, future: Future[Any]) -> _Outcome | None:
        check_connected(self._client)
        if future.status == "cancelled":
            raise lost_scheduler()
        with suppress(TimeoutError):
            error = future.exception(timeout=LOOK_EVERY)
            return (None, error) if error else (future.result(timeout=LOOK_EVERY), None)
        return None

    def _failed(self, failed: Next, error: BaseException) -> None:
        """Raise what a task raised, or try it again."""
        if not isinstance(error, KilledWorker) or self._tell_killed is None:
            raise error
        self._tell_killed(failed.number, error)
        self._tries[failed.number] += 1
        self._submit([failed], Slot(0, ANYWHERE))


def look_at_threads(client: Client) -> dict[str, int]:
    """Return the threads of each worker, by address, as the scheduler tells them."""
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"]
    except TypeError:  # older versions of distributed tell of all workers without being asked
        workers = client.scheduler_info()["workers"]
    except (OSError, AttributeError) as error:
        raise lost_scheduler() from error
    return {address: worker["nthreads"] for address, worker in workers.items()}


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
        except Exception:  # the error before this one is reported
            return
