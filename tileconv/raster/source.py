"""Read windows of a raster: whole blocks, each decoded once, by a handle of each thread's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rasterio.windows import Window

from tileconv import buffers
from tileconv.errors import InputError
from tileconv.planning.cost import READ_BYTES
from tileconv.raster import gdal
from tileconv.raster.metadata import Header, Identity
from tileconv.raster.remote import Remote
from tileconv.raster.store import BlockStore, Key, Pixels
from tileconv.raster.uses import BlockUses

if TYPE_CHECKING:
    from types import TracebackType

    from rasterio.io import DatasetReader

    from tileconv.planning.reads import AxisRead


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
    """The pixels of a raster, for the tiles of one plan, which ``uses`` has counted.

    Safe to use from many threads. ``handles`` is how many of them will read:
    each gets a handle of its own, opened and closed by the ``with`` block.
    Whoever opens files otherwise gives ``lend``, which returns a thread's handle.
    """

    def __init__(
        self,
        header: Header,
        uses: BlockUses,
        *,
        handles: int = 1,
        lend: Callable[[], DatasetReader] | None = None,
    ) -> None:
        self.header = header
        self._uses = uses
        self._lend = lend
        self._store = BlockStore()
        self._local = threading.local()
        self._handles: list[DatasetReader] = []
        self._free = handles
        self._lock = threading.Lock()

    def __enter__(self) -> RasterSource:
        try:
            with gdal.environment():
                for _ in range(self._free):
                    self._handles.append(gdal.open_dataset(self.header.opening))
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
            same = Identity.of(*self.header.files) == self.header.identity
        except OSError:
            same = False
        if not same:
            raise InputError(
                f"{self.header.path}: changed while it was being read; no output is kept"
            )

    def read(self, rows: AxisRead, columns: AxisRead, panel: int) -> Pixels:
        """Return the window of a tile; places of padding hold zeros and are not masked.

        Every tile of the plan must be read exactly once: the blocks it shares
        with others are let go after the last of them.
        """
        layout = self.header.layout
        shape = (rows.size, columns.size)
        window = Pixels(
            buffers.zeros((layout.read_bands, *shape), layout.dtype),
            np.zeros(shape, bool) if layout.masked else None,
        )
        uses_x = self._uses.columns(panel)
        wanted = [
            (Key(panel, row, column), int(self._uses.rows[row] * uses_x[column]))
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
        return window

    def _rectangles(self, keys: list[Key]) -> Iterator[_Rectangle]:
        """Join blocks to decode into rectangles of at most READ_BYTES, or one block."""
        layout = self.header.layout
        most = max(1, READ_BYTES // (layout.block[0] * layout.block[1] * layout.pixel_bytes))
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
            return self._read(rectangle)
        except gdal.GDAL_ERRORS as error:
            gdal.check_memory(error)
            for row, column in rectangle.blocks:
                block = _Rectangle((row, row + 1), (column, column + 1))
                try:
                    self._read(block)
                except gdal.GDAL_ERRORS as exact:
                    raise self._damaged(block, exact) from exact
            raise self._damaged(rectangle, error) from error

    def _read(self, rectangle: _Rectangle) -> Pixels:
        layout = self.header.layout
        top, left, bottom, right = self._extent(rectangle)
        where = Window(left, top, right - left, bottom - top)
        bands = buffers.zeros((layout.read_bands, bottom - top, right - left), layout.dtype)
        with gdal.environment():
            dataset = self._dataset()
            dataset.read(indexes=list(self.header.bands), window=where, out=bands)
            return Pixels(bands, self._masked(dataset, where))

    def _extent(self, rectangle: _Rectangle) -> tuple[int, int, int, int]:
        """Return (top, left, bottom, right) in pixels, half-open."""
        layout = self.header.layout
        top, left = self._corner(rectangle)
        bottom = min(rectangle.rows[1] * layout.block[0], layout.shape[0])
        right = min(rectangle.columns[1] * layout.block[1], layout.shape[1])
        return top, left, bottom, right

    def _damaged(self, rectangle: _Rectangle, error: BaseException) -> InputError:
        top, left, bottom, right = self._extent(rectangle)
        block = f"block ({rectangle.rows[0]}, {rectangle.columns[0]})"
        where = f"rows {top} to {bottom - 1}, columns {left} to {right - 1}"
        path, cause = self.header.path, gdal.cause(error)
        if isinstance(path, Remote) and (trouble := path.trouble()):
            cause = f"{trouble}; {cause}"
        return InputError(f"{path}: {block}, {where}, cannot be decoded: {cause}")

    def _masked(self, dataset: DatasetReader, where: Window) -> np.ndarray | None:
        band = self.header.mask_band
        if band is None:
            return None
        valid = (
            dataset.read_masks(1, window=where) if band == 0 else dataset.read(band, window=where)
        )
        return valid == 0

    def _dataset(self) -> DatasetReader:
        """Return this thread's own handle: GDAL's are not safe to share."""
        if self._lend is not None:
            return self._lend()
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
            masked = None if pixels.masked is None else pixels.masked[y, x].copy()
            self._store.put(key, Pixels(buffers.copy(pixels.bands[:, y, x]), masked))


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
    picked = pixels.bands[:, from_y][:, :, from_x]
    if isinstance(to_y, slice) and isinstance(to_x, slice):
        window.bands[:, to_y, to_x] = picked
    else:
        window.bands[np.ix_(np.arange(picked.shape[0]), _indices(to_y), _indices(to_x))] = picked
    if pixels.masked is not None and window.masked is not None:
        window.masked[np.ix_(_indices(to_y), _indices(to_x))] = pixels.masked[from_y][:, from_x]


def _indices(places: slice | np.ndarray) -> np.ndarray:
    return np.arange(places.start, places.stop) if isinstance(places, slice) else places
