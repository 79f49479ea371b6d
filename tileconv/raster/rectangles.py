"""Rectangles of neighbouring blocks, and where their pixels go in a window: no file is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tileconv.raster.store import Key, Pixels

if TYPE_CHECKING:
    from tileconv.planning.reads import AxisRead

PixelBounds = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels of the raster, half-open."""
WindowPart = tuple[np.ndarray, np.ndarray | None]
"""Bands and mask of a part of a window, to be overwritten."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Neighbouring blocks that one read decodes: half-open block rows and columns."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    uses: int = 1
    """How many tiles use each of the blocks."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the blocks as (row, column)."""
        for row in range(*self.rows):
            for column in range(*self.columns):
                yield row, column

    def keys(self, panel: int) -> list[Key]:
        """Return the blocks as keys of a store."""
        return [Key(panel, row, column) for row, column in self]

    def __len__(self) -> int:
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])

    def extent(self, block: tuple[int, int], shape: tuple[int, int]) -> PixelBounds:
        """Return the pixels of the blocks that lie in a raster of ``shape``."""
        return (
            self.rows[0] * block[0],
            self.columns[0] * block[1],
            min(self.rows[1] * block[0], shape[0]),
            min(self.columns[1] * block[1], shape[1]),
        )


def join_blocks(blocks: list[tuple[Key, int]], most: int) -> Iterator[Rectangle]:
    """Join blocks (key, uses), row by row, into rectangles of at most ``most`` blocks.

    Only blocks that as many tiles use are joined, so that a shared rectangle is let go as a whole.

    >>> row = [(Key(0, 0, column), uses) for column, uses in enumerate((1, 1, 1, 2))]
    >>> [(r.columns, r.uses) for r in join_blocks(row, most=2)]
    [((0, 2), 1), ((2, 3), 1), ((3, 4), 2)]
    """
    waiting: dict[tuple[int, int], Rectangle] = {}
    for run in _runs(blocks, most):
        above = waiting.get(run.columns)
        if above is not None and above.rows[1] == run.rows[0] and above.uses == run.uses:
            tall = Rectangle((above.rows[0], run.rows[1]), run.columns, run.uses)
            if (tall.rows[1] - tall.rows[0]) * (run.columns[1] - run.columns[0]) <= most:
                waiting[run.columns] = tall
                continue
        if above is not None:
            yield above
        waiting[run.columns] = run
    yield from waiting.values()


def make_batches(rectangles: Iterable[Rectangle], most: int) -> Iterator[list[Rectangle]]:
    """Put small rectangles together, up to ``most`` blocks.

    >>> each = [Rectangle((0, 1), (column, column + 1)) for column in (0, 2, 4)]
    >>> [len(batch) for batch in make_batches(each, most=2)]
    [2, 1]
    """
    batch: list[Rectangle] = []
    blocks = 0
    for rectangle in rectangles:
        if batch and blocks + len(rectangle) > most:
            yield batch
            batch, blocks = [], 0
        batch.append(rectangle)
        blocks += len(rectangle)
    if batch:
        yield batch


def _runs(blocks: list[tuple[Key, int]], most: int) -> Iterator[Rectangle]:
    """Join neighbours within a block row, at most ``most`` of them."""
    start = 0
    for i in range(1, len(blocks) + 1):
        (first, uses), (last, _) = blocks[start], blocks[i - 1]
        if i < len(blocks) and i - start < most:
            key, same = blocks[i][0], blocks[i][1] == uses
            if same and key.row == first.row and key.column == last.column + 1:
                continue
        yield Rectangle((first.row, first.row + 1), (first.column, last.column + 1), uses)
        start = i


class Frame:
    """A window, and which pixels of the raster go where in it."""

    def __init__(self, rows: AxisRead, columns: AxisRead, window: Pixels) -> None:
        self.window = window
        self._axes = rows, columns
        self._spans: dict[tuple[int, int, int], _Span] = {}
        self._blocks: tuple[dict[int, tuple[slice, slice] | None], ...] = ({}, {})

    def spans(
        self, axis: int, blocks: tuple[int, int], block: int, size: int
    ) -> list[tuple[slice, slice]] | None:
        """Return (places, pixels) of each of some blocks along an axis, None if some lie apart."""
        known, found = self._blocks[axis], []
        for i in range(*blocks):
            if i not in known:
                known[i] = self._span(axis, i * block, min((i + 1) * block, size)).plain
            if (pair := known[i]) is None:
                return None
            found.append(pair)
        return found

    def needed(self, extent: PixelBounds) -> PixelBounds:
        """Cut ``extent``, of blocks that the window touches, down to what it needs of them."""
        (top, bottom), (left, right) = (span.pixels for span in self._look(extent))
        return extent[0] + top, extent[1] + left, extent[0] + bottom, extent[1] + right

    def part(self, extent: PixelBounds) -> WindowPart | None:
        """Return the part of the window that holds ``extent`` pixel for pixel, if one does."""
        y, x = self._look(extent)
        if not (y.plain and x.plain):
            return None
        masked = None if self.window.masked is None else self.window.masked[:, y.to, x.to]
        return self.window.bands[:, y.to, x.to], masked

    def place(self, pixels: Pixels) -> None:
        """Copy what the window needs of the pixels of a rectangle."""
        (top, left), (height, width) = pixels.corner, pixels.bands.shape[1:]
        y, x = self._look((top, left, top + height, left + width))
        pairs = (pixels.bands, self.window.bands), (pixels.masked, self.window.masked)
        for source, target in pairs:
            if source is None or target is None:
                continue
            picked = source[:, y.source][:, :, x.source]
            if isinstance(y.to, slice) and isinstance(x.to, slice):
                target[:, y.to, x.to] = picked
            else:
                target[np.ix_(np.arange(target.shape[0]), _indices(y.to), _indices(x.to))] = picked

    def _look(self, extent: PixelBounds) -> tuple[_Span, _Span]:
        top, left, bottom, right = extent
        return self._span(0, top, bottom), self._span(1, left, right)

    def _span(self, axis: int, start: int, stop: int) -> _Span:
        """Look up pixels along one axis, once: a sparse window has many blocks in a row."""
        key = axis, start, stop
        if key not in self._spans:
            self._spans[key] = _Span.of(*self._axes[axis].places(start, stop))
        return self._spans[key]


class _Span(NamedTuple):
    """Where pixels of a range along one axis go."""

    to: slice | np.ndarray
    """Window places."""
    source: slice | np.ndarray
    """Pixels, counted from the start of the range."""
    pixels: tuple[int, int]
    """The first of these pixels, and the last plus one."""
    plain: tuple[slice, slice] | None
    """Places and pixels, where neighbouring pixels go to neighbouring places."""

    @classmethod
    def of(cls, to: slice | np.ndarray, source: slice | np.ndarray) -> _Span:
        """Look whether pixels and places are neighbours."""
        if isinstance(source, np.ndarray):
            low, high = (int(source.min()), int(source.max()) + 1) if source.size else (0, 0)
            if not (isinstance(to, slice) and high - low == source.size and _ascends(source)):
                return cls(to, source, (low, high), None)
            source = slice(low, high)
        plain = (to, source) if isinstance(to, slice) else None
        return cls(to, source, (source.start, source.stop), plain)


def _ascends(numbers: np.ndarray) -> bool:
    return bool((np.diff(numbers) == 1).all())


def _indices(places: slice | np.ndarray) -> np.ndarray:
    return np.arange(places.start, places.stop) if isinstance(places, slice) else places
