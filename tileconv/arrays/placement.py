"""Where the chunks of a persisted dask array lie, so that tasks go to them and not they to tasks.

A scheduler weighs the bytes that a task would move against the load of the
workers, and guesses half a second for a task of a kind it has not seen: it
moves whole chunks to idle workers although computing them takes milliseconds.
So what a task needs of other workers is brought to its own first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Mapping


class Held(NamedTuple):
    """The chunks of a persisted array."""

    workers: Mapping[Any, str]
    """The address of a worker that holds each chunk, by key."""
    client: Any


class Placed(NamedTuple):
    """Tasks that shall run at certain workers; those that others need have keys (name, number)."""

    name: str
    tasks: Mapping[Any, Any]
    workers: Mapping[Any, str]
    numbers: int


@dataclass(frozen=True)
class Homes:
    """The worker at which each task of a graph should run, by key: a callable that dask asks."""

    workers: Mapping[Any, str]

    def __call__(self, key: Any) -> list[str] | None:
        """Return what dask's annotation ``workers`` wants; None for a task that may run anywhere.

        >>> Homes({"a": "tcp://10.0.0.1:40001"})("a"), Homes({})("a")
        (['tcp://10.0.0.1:40001'], None)
        """
        worker = self.workers.get(key)
        return None if worker is None else [worker]


def find_chunks(array: da.Array) -> Held | None:
    """Return where the chunks of an array lie.

    None unless the array is persisted on a cluster and all its chunks are computed.
    """
    distributed = sys.modules.get("distributed")
    layer = array.dask.layers.get(array.name)
    if distributed is None or not layer:
        return None
    futures = {}
    for key in layer:
        future = layer[key]
        if not isinstance(future, distributed.Future) or future.status != "finished":
            return None
        futures[key] = future
    client = next(iter(futures.values())).client
    if client.asynchronous:
        return None  # the answer could not be waited for here
    holders = client.who_has(list(futures.values()))
    found = {key: sorted(holders.get(future.key, ())) for key, future in futures.items()}
    if not all(found.values()):
        return None
    return Held({key: workers[0] for key, workers in found.items()}, client)


def unmoved(name: str) -> str:
    """Return a name for tasks that only cut and hand on: idle workers then do not take them.

    dask moves no task of the name "rechunk-split", which stands for cuts that take no time. Of any
    other it assumes half a second until it has seen some, and moves a chunk to an idle worker to
    have a few rows cut from it there.
    """
    return f"rechunk-split-{tokenize(name)}"


def bring(placed: Placed, array: da.Array, client: Any) -> da.Array:
    """Begin to run tasks on ``array``, each at its worker; return what stands for (name, number).

    The worker is a wish, not an order, because workers may die.
    """
    with dask.annotate(workers=Homes(placed.workers), allow_other_workers=True):  # type: ignore[attr-defined]
        graph = HighLevelGraph.from_collections(
            placed.name,
            placed.tasks,
            dependencies=[array],  # type: ignore[list-item]
        )
    numbered = da.Array(  # type: ignore[no-untyped-call]
        graph, placed.name, ((1,) * placed.numbers,), meta=np.empty(0, array.dtype)
    )
    brought: da.Array = client.persist(numbered, optimize_graph=False)
    return brought
