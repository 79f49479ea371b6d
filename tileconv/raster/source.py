"""Read windows of a raster: whole blocks, each decoded once, by a handle of each thread's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rasterio.windows import Window

from tileconv import buffers
from tileconv.errors import InputError
from tileconv.planning.blocks import block_uses
from tileconv.planning.cost import READ_BYTES
from tileconv.planning.reads import read_axis
from tileconv.planning.tiles import AxisTiles
from tileconv.raster import gdal
from tileconv.raster.metadata import Header, Identity
from tileconv.raster.store import BlockStore, Key, Pixels

if TYPE_CHECKING:
    from types import TracebackType

    from rasterio.io import DatasetReader

    from tileconv.geometry import Geometry
    from tileconv.padding import PaddingMode
    from tileconv.planning.reads import AxisRead
    from tileconv.planning.tiles import Tiles


@dataclass(frozen=True, slots=True)
class _Rectangle:
    """Neighbouring blocks that one read decodes: half-open block rows and columns."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def blocks(self) -> Iterator[tuple[int, int]]:
        for row in range(*self.rows):
            for column in range(*self.columns):
                yield row, column


class RasterSource:
    """The pixels of a raster, for the tiles of one plan.

    Safe to use from many threads. ``handles`` is how many of them will read:
    each gets a handle of its own, opened and closed by the ``with`` block.
    """

    def __init__(
        self,
        header: Header,
        geometry: Geometry,
        tiles: Tiles,
        mode: PaddingMode,
        *,
        handles: int = 1,
    ) -> None:
        self.header = header
        self._tiles = tiles
        self._geometry = geometry
        self._mode: PaddingMode = mode
        self._uses_y = block_uses(geometry.y, tiles.y, header.layout.block[0], mode)
        self._uses_x: dict[int, np.ndarray] = {}
        self._store = BlockStore()
        self._local = threading.local()
        self._handles: list[DatasetReader] = []
        self._free = handles
        self._lock = threading.Lock()

    def __enter__(self) -> RasterSource:
        try:
            with gdal.environment():
                for _ in range(self._free):
                    self._handles.append(gdal.open_dataset(self.header.path))
            self.check_unchanged()  # what was opened is what was planned
        except InputError:
            self.__exit__(None, None, None)
            raise
        except gdal.GDAL_ERRORS as error:
            self.__exit__(None, None, None)
            raise InputError(f"{self.header.path}: {gdal.cause(error)}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    @property
    def blocks_decoded(self) -> int:
        """Storage blocks decoded so far, all bands."""
        return self._store.decoded * self.header.layout.planes

    def check_unchanged(self) -> None:
        """Raise `InputError` if the file is no longer the one that was planned."""
        try:
            same = Identity.of(self.header.path) == self.header.identity
        except OSError:
            same = False
        if not same:
            raise InputError(
                f"{self.header.path}: changed while it was being read; no output is kept"
            )

    def read(self, rows: AxisRead, columns: AxisRead, panel: int) -> Pixels:
        """Return the window of a tile, with marks for each band if there are any.

        Places of padding hold zeros and are not masked.

        Every tile of the plan must be read exactly once: the blocks it shares
        with others are let go after the last of them.
        """
        layout = self.header.layout
        shape = (rows.size, columns.size)
        window = Pixels(
            buffers.zeros((layout.read_bands, *shape), layout.dtype),
            np.zeros((layout.marks, *shape), bool) if layout.marks else None,
        )
        uses_x = self._panel_uses(panel)
        wanted = [
            (Key(panel, row, column), int(self._uses_y[row] * uses_x[column]))
            for row in rows.blocks(layout.block[0]).tolist()
            for column in columns.blocks(layout.block[1]).tolist()
        ]
        decode, take = self._store.claim(wanted)
        try:
            for rectangle in self._rectangles(decode):
                pixels = self._decode(rectangle)
                _place(pixels, self._corner(rectangle), rows, columns, window)
                self._share(rectangle, pixels, panel)
        except BaseException as error:
            self._store.fail(decode, error)
            raise
        for key in take:
            corner = (key.row * layout.block[0], key.column * layout.block[1])
            _place(self._store.take(key), corner, rows, columns, window)
        if window.masked is None:
            return window
        return Pixels(window.bands, np.broadcast_to(window.masked, window.bands.shape))

    def _panel_uses(self, panel: int) -> np.ndarray:
        """Return how many tile columns of a panel touch each block column."""
        with self._lock:
            if panel not in self._uses_x:
                columns = self._tiles.panel_columns(panel)
                block = self.header.layout.block[1]
                if self._tiles.panels == 1:
                    uses = block_uses(self._geometry.x, self._tiles.x, block, self._mode)
                else:
                    uses = _uses_of(self._geometry, self._tiles.x, columns, block, self._mode)
                self._uses_x[panel] = uses
                self._uses_x.pop(panel - 3, None)  # no thread is that far behind
            return self._uses_x[panel]

    def _rectangles(self, keys: list[Key]) -> Iterator[_Rectangle]:
        """Join blocks to decode into rectangles of at most READ_BYTES, or one block."""
        layout = self.header.layout
        most = max(1, READ_BYTES // (layout.block[0] * layout.block[1] * layout.read_pixel_bytes))
        waiting: list[_Rectangle] = []
        for run in _runs(keys, most):
            if waiting:
                last = waiting[-1]
                rows = last.rows[0], run.rows[1]
                fits = (rows[1] - rows[0]) * (run.columns[1] - run.columns[0]) <= most
                if last.columns == run.columns and last.rows[1] == run.rows[0] and fits:
                    waiting[-1] = _Rectangle(rows, run.columns)
                    continue
                yield waiting.pop()
            waiting.append(run)
        yield from waiting

    def _corner(self, rectangle: _Rectangle) -> tuple[int, int]:
        block = self.header.layout.block
        return rectangle.rows[0] * block[0], rectangle.columns[0] * block[1]

    def _decode(self, rectangle: _Rectangle) -> Pixels:
        """Read a rectangle of whole blocks; an error names the block that cannot be decoded."""
        try:
            with gdal.environment():
                return self.header.decoding.read(self._dataset(), self._where(rectangle))
        except gdal.GDAL_ERRORS as error:
            gdal.check_memory(error)
            raise self._damaged(rectangle, error) from error

    def _where(self, rectangle: _Rectangle) -> Window:
        top, left, bottom, right = self._extent(rectangle)
        return Window(left, top, right - left, bottom - top)

    def _extent(self, rectangle: _Rectangle) -> tuple[int, int, int, int]:
        """Return (top, left, bottom, right) in pixels, half-open."""
        layout = self.header.layout
        top, left = self._corner(rectangle)
        bottom = min(rectangle.rows[1] * layout.block[0], layout.shape[0])
        right = min(rectangle.columns[1] * layout.block[1], layout.shape[1])
        return top, left, bottom, right

    def _damaged(self, rectangle: _Rectangle, error: BaseException) -> InputError:
        """Find the block, and the band, that cannot be decoded."""
        header = self.header
        for row, column in rectangle.blocks:
            block = _Rectangle((row, row + 1), (column, column + 1))
            for part, read in header.decoding.parts(interleaved=header.layout.interleaved):
                try:
                    with gdal.environment():
                        read(self._dataset(), self._where(block))
                except gdal.GDAL_ERRORS as exact:
                    gdal.check_memory(exact)
                    return self._told(block, part, exact)
        return self._told(rectangle, "some band", error)

    def _told(self, rectangle: _Rectangle, part: str, error: BaseException) -> InputError:
        top, left, bottom, right = self._extent(rectangle)
        block = f"block ({rectangle.rows[0]}, {rectangle.columns[0]}) of {part}"
        where = f"rows {top} to {bottom - 1}, columns {left} to {right - 1}"
        return InputError(
            f"{self.header.path}: {block}, {where}, cannot be decoded: {gdal.cause(error)}"
        )

    def _dataset(self) -> DatasetReader:
        """Return this thread's own handle: GDAL's are not safe to share."""
        handle: DatasetReader | None = getattr(self._local, "handle", None)
        if handle is None:
            with self._lock:
                self._free -= 1
                handle = self._handles[self._free]
            self._local.handle = handle
        return handle

    def _share(self, rectangle: _Rectangle, pixels: Pixels, panel: int) -> None:
        """Hand blocks that other tiles use to the store, copied: a view would hold it all."""
        height, width = self.header.layout.block
        for row, column in rectangle.blocks:
            key = Key(panel, row, column)
            if not self._store.shares(key):
                continue
            y = slice((row - rectangle.rows[0]) * height, (row - rectangle.rows[0] + 1) * height)
            x = slice(
                (column - rectangle.columns[0]) * width, (column - rectangle.columns[0] + 1) * width
            )
            masked = None if pixels.masked is None else pixels.masked[:, y, x].copy()
            self._store.put(key, Pixels(buffers.copy(pixels.bands[:, y, x]), masked))


def _uses_of(
    geometry: Geometry, tiles: AxisTiles, columns: range, block: int, mode: PaddingMode
) -> np.ndarray:
    """Count block uses by some tile columns only."""
    uses = np.zeros(-(-geometry.x.size // block), np.int64)
    for column in columns:
        uses[read_axis(geometry.x, *tiles[column], mode, block).blocks(block)] += 1
    return uses


def _runs(keys: list[Key], most: int) -> Iterator[_Rectangle]:
    """Join neighbours within a block row, at most ``most`` of them; ``keys`` are row by row."""
    start = 0
    for i in range(1, len(keys) + 1):
        first = keys[start]
        if (
            i < len(keys)
            and keys[i].row == first.row
            and keys[i].column == keys[i - 1].column + 1
            and i - start < most
        ):
            continue
        yield _Rectangle((first.row, first.row + 1), (first.column, keys[i - 1].column + 1))
        start = i


def _place(
    pixels: Pixels, corner: tuple[int, int], rows: AxisRead, columns: AxisRead, window: Pixels
) -> None:
    """Copy what a window needs of the pixels of a rectangle whose first pixel is ``corner``."""
    height, width = pixels.bands.shape[1:]
    to_y, from_y = rows.places(corner[0], corner[0] + height)
    to_x, from_x = columns.places(corner[1], corner[1] + width)
    for source, target in zip(pixels, window, strict=True):
        if source is None or target is None:
            continue
        picked = source[:, from_y][:, :, from_x]
        if isinstance(to_y, slice) and isinstance(to_x, slice):
            target[:, to_y, to_x] = picked
        else:
            target[np.ix_(np.arange(picked.shape[0]), _indices(to_y), _indices(to_x))] = picked


def _indices(places: slice | np.ndarray) -> np.ndarray:
    return np.arange(places.start, places.stop) if isinstance(places, slice) else places
