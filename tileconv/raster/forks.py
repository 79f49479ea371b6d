"""Forked children: what GDAL has of its parent and cannot use there.

GDAL keeps a pool of threads for the process, and in a child waits for ever for threads that have
stayed with the parent. It keeps connections to servers for each thread, and those of the thread
that forked are then the child's and the parent's: each may get what the other has asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from tileconv.raster.remote import Place, Remote

Made = TypeVar("Made")

_is_forked = False


def _note() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)


def threads(wanted: int) -> int:
    """Return how many threads GDAL may use by itself."""
    return 1 if _is_forked else wanted


def settings() -> dict[str, str]:
    """Return what keeps GDAL from its pool where nothing says how many threads it may use."""
    return {"GDAL_NUM_THREADS": "1"} if _is_forked else {}


def with_own_connections(sources: Iterable[Place], work: Callable[[], Made]) -> Made:
    """Return what ``work`` does, which reads ``sources``: from servers, in a thread of its own."""
    if not _is_forked or not any(isinstance(source, Remote) for source in sources):
        return work()
    made: list[Made] = []
    errors: list[BaseException] = []

    def try_to_work() -> None:
        try:
            made.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=try_to_work, name="tileconv-forked", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]
