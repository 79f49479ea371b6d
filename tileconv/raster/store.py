"""Decoded blocks, shared between tiles and threads until the last tile has used them.

The plan says how many tiles touch each block. A block is decoded by the first
tile that needs it; others wait for it or find it; the last one lets go of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Condition
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

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


@dataclass(slots=True)
class _Entry:
    uses: int
    pixels: Pixels | None = None
    """None while a thread is decoding."""
    error: BaseException | None = None


@dataclass
class BlockStore:
    """Blocks that more than one tile uses."""

    decoded: int = 0
    """Blocks decoded so far."""
    _entries: dict[Key, _Entry] = field(default_factory=dict)
    _changed: Condition = field(default_factory=Condition)

    def claim(self, wanted: Iterable[tuple[Key, int]]) -> tuple[list[Key], list[Key]]:
        """Split ``wanted`` (key, number of tiles that use it) into (to decode here, to take).

        What is to be decoded must be handed in with `put` or `fail`: others may wait for it.
        """
        decode, take = [], []
        with self._changed:
            for key, uses in wanted:
                if key in self._entries:
                    take.append(key)
                    continue
                decode.append(key)
                self.decoded += 1
                if uses > 1:
                    self._entries[key] = _Entry(uses)
        return decode, take

    def shares(self, key: Key) -> bool:
        """Say whether another tile will use a block that this thread decodes."""
        return key in self._entries

    def put(self, key: Key, pixels: Pixels) -> None:
        """Hand in a decoded block, already used once by the tile that decoded it."""
        with self._changed:
            self._entries[key].pixels = pixels
            self._use(key)
            self._changed.notify_all()

    def fail(self, keys: Iterable[Key], error: BaseException) -> None:
        """Say that blocks could not be decoded: whoever waits for them gets ``error``."""
        with self._changed:
            for key in keys:
                entry = self._entries.get(key)
                if entry is not None and entry.pixels is None:
                    entry.error = error
            self._changed.notify_all()

    def take(self, key: Key) -> Pixels:
        """Return a block that another thread decodes or has decoded, waiting for it."""
        with self._changed:
            entry = self._entries[key]
            while entry.pixels is None:
                if entry.error is not None:
                    raise entry.error
                self._changed.wait()
            self._use(key)
            return entry.pixels

    def _use(self, key: Key) -> None:
        entry = self._entries[key]
        entry.uses -= 1
        if entry.uses == 0:
            del self._entries[key]
