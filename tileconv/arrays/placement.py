"""Where the chunks of a persisted dask array lie, so that tasks go to them and not they to tasks.

A scheduler weighs the bytes that a task would move against the load of the
workers, and guesses half a second for a task of a kind it has not seen: it
moves whole chunks to idle workers although computing them takes milliseconds.
Where chunks lie in the memory of workers already, the tasks are asked for
there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dask.array as da


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


def wishes_for(workers: Mapping[Any, str]) -> dict[str, Any]:
    """Return annotations for a layer: a wish, not an order, because workers may die."""
    return {"workers": Homes(workers), "allow_other_workers": True}


def find_chunks(array: da.Array) -> dict[Any, str] | None:
    """Return the address of a worker that holds each chunk, by key.

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
    return {key: workers[0] for key, workers in found.items()}
