"""Make the output of parts while others are still computed, in a thread of the client."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from tileconv.errors import DamagedPartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from tileconv.planning.parts import Part
    from tileconv.raster.writing import Assembly


class Assembler:
    """Hands finished parts to what makes the output of them.

    ``find`` says which part a number is, and where its file lies.
    """

    def __init__(self, output: Assembly, find: Callable[[int], tuple[Part, Path]]) -> None:
        self._output, self._find = output, find
        self._waiting: SimpleQueue[tuple[int, Mapping[str, Any]] | threading.Event | None] = (
            SimpleQueue()
        )
        self._damaged: list[int] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="tileconv-parts", daemon=True)

    def __enter__(self) -> Self:
        self._output.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._error = self._error or error  # what still waits is not looked at
        self._waiting.put(None)
        self._thread.join()
        self._output.__exit__(kind, error, trace)

    def add(self, number: int, entry: Mapping[str, Any]) -> None:
        """Hand in a part by its line of the manifest; raise what went wrong with an earlier one."""
        self._check()
        self._waiting.put((number, entry))

    def drain(self) -> list[int]:
        """Wait until all parts are added; return those whose files are not what was written."""
        drained = threading.Event()
        self._waiting.put(drained)
        drained.wait()
        self._check()
        damaged, self._damaged = self._damaged, []
        return damaged

    def commit(self) -> int:
        """Check the output and put it in its place; return its bytes."""
        return self._output.commit()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            elif self._error is None:
                self._put(*item)

    def _put(self, number: int, entry: Mapping[str, Any]) -> None:
        try:
            self._output.add(*self._find(number), entry)
        except DamagedPartError:
            self._damaged.append(number)
        except BaseException as error:  # the thread that hands in parts raises it
            self._error = error
