"""Decoded blocks, shared between tiles and threads until the last tile has used them.

The plan says how many tiles touch each block. A block is decoded for the first
tile that needs it; the last one lets go of it. Decodings are queued in small
pieces that any thread takes: a thread that waits for a block decodes another one,
so that all cores decode even if there is only one tile.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import Condition
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np


class Key(NamedTuple):
    """A storage block, within one panel of the plan."""

    panel: int
    row: int
    column: int


class Pixels(NamedTuple):
    """Decoded pixels of a rectangle."""

    bands: np.ndarray
    """(B, h, w)."""
    masked: np.ndarray | None
    """(1, h, w) or (B, h, w) boolean, True where a pixel is hidden."""
    corner: tuple[int, int] = (0, 0)
    """Row and column of the first pixel in the raster."""


@dataclass(slots=True)
class _Entry:
    uses: int
    pixels: Pixels | None = None
    """The rectangle that the block is a part of; None until it is decoded."""
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.pixels is not None or self.error is not None


@dataclass
class Decodings:
    """Decodings that wait for a thread, of one raster or of all scenes of a mosaic."""

    changed: Condition = field(default_factory=Condition)
    """Held while anything is looked at or changed."""
    _waiting: deque[Callable[[], None]] = field(default_factory=deque)

    def submit(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Put decodings into the queue. A task must not raise, nor wait for another."""
        with self.changed:
            self._waiting.extend(tasks)
            self.changed.notify_all()

    def work_until(self, done: Callable[[], bool]) -> None:
        """Decode what waits in the queue until ``done``; sleep where there is nothing to do."""
        while True:
            with self.changed:
                while not done():
                    if self._waiting:
                        task = self._waiting.popleft()
                        break
                    self.changed.wait()
                else:
                    return
            task()
            self.wake()

    def wake(self) -> None:
        """Let all threads that sleep look again whether they are done."""
        with self.changed:
            self.changed.notify_all()


@dataclass
class BlockStore:
    """Blocks that more than one tile uses."""

    decodings: Decodings = field(default_factory=Decodings)
    decoded: int = 0
    """Blocks decoded so far."""
    _entries: dict[Key, _Entry] = field(default_factory=dict)

    @property
    def _changed(self) -> Condition:
        return self.decodings.changed

    def claim(self, wanted: Iterable[tuple[Key, int]]) -> tuple[list[tuple[Key, int]], list[Key]]:
        """Split ``wanted`` (key, number of tiles that use it) into (to decode, to take).

        What is to be decoded must be handed in with `put` or `fail`: others may wait for it.
        """
        decode, take = [], []
        with self._changed:
            for key, uses in wanted:
                if key in self._entries:
                    take.append(key)
                    continue
                decode.append((key, uses))
                self.decoded += 1
                if uses > 1:
                    self._entries[key] = _Entry(uses)
        return decode, take

    def put(self, keys: Iterable[Key], pixels: Pixels) -> None:
        """Hand in a decoded rectangle of blocks, once used by the tile that it was decoded for."""
        with self._changed:
            for key in keys:
                self._entries[key].pixels = pixels
                self._use(key)
            self._changed.notify_all()

    def hand_over(self) -> dict[Key, Pixels]:
        """Return the decoded blocks that somebody still wants to use."""
        with self._changed:
            entries = self._entries.items()
            return {key: entry.pixels for key, entry in entries if entry.pixels is not None}

    def take_over(self, handed: dict[Key, Pixels], uses: Callable[[Key], int]) -> None:
        """Take over blocks that another store hands over, as far as they are used here.

        ``handed`` is empty afterwards: only this store holds the blocks, and releases them.
        """
        with self._changed:
            while handed:
                key, pixels = handed.popitem()
                if count := uses(key):
                    self._entries[key] = _Entry(count, pixels)

    def fail(self, keys: Iterable[Key], error: BaseException) -> None:
        """Say that blocks could not be decoded: whoever waits for them gets ``error``."""
        with self._changed:
            for key in keys:
                entry = self._entries.get(key)
                if entry is not None and entry.pixels is None:
                    entry.error = error
            self._changed.notify_all()

    def take(self, keys: list[Key]) -> list[Pixels]:
        """Return the rectangles that hold some blocks, each one once, when all are decoded."""
        entries = [self._entries[key] for key in keys]
        self.decodings.work_until(lambda: all(entry.done for entry in entries))
        rectangles: dict[int, Pixels] = {}
        with self._changed:
            for key, entry in zip(keys, entries, strict=True):
                if entry.pixels is None:
                    assert entry.error is not None
                    raise entry.error
                rectangles[id(entry.pixels.bands)] = entry.pixels
                self._use(key)
        return list(rectangles.values())

    def _use(self, key: Key) -> None:
        entry = self._entries[key]
        entry.uses -= 1
        if entry.uses == 0:
            del self._entries[key]
