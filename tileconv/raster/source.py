"""Read windows of a raster: whole blocks, each decoded once, by a handle of each thread's own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
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
from tileconv.raster.rectangles import Extent, Frame, Part, Rectangle, join_blocks
from tileconv.raster.store import BlockStore, Key, Pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rasterio.io import DatasetReader

    from tileconv.geometry import Geometry
    from tileconv.padding import PaddingMode
    from tileconv.planning.reads import AxisRead
    from tileconv.planning.tiles import Tiles


@dataclass(eq=False)
class _Request:
    """A window that is being filled by one thread or many."""

    frame: Frame
    panel: int
    left: list[Rectangle] = field(default_factory=list)
    """What is not there yet."""
    error: BaseException | None = None


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
        request = _Request(Frame(rows, columns, window), panel)
        try:
            request.left = list(join_blocks(decode, self._most))
            self._store.deal([partial(self._fill, request, r) for r in request.left.copy()])
            self._store.work_until(lambda: not request.left)
            if request.error is not None:
                raise request.error
        except BaseException as error:
            self._store.fail([key for key, _ in decode], error)
            raise
        for pixels in self._store.take(take):
            request.frame.place(pixels)
        if window.masked is None:
            return window
        return Pixels(window.bands, np.broadcast_to(window.masked, window.bands.shape))

    def help_until(self, done: Callable[[], bool]) -> None:
        """Decode for the tiles of other threads until ``done``, which `wake` makes it look at."""
        self._store.work_until(done)

    def wake(self) -> None:
        """Let threads that help look again whether they are done."""
        self._store.wake()

    def _fill(self, request: _Request, rectangle: Rectangle) -> None:
        """Decode a rectangle into the window of a request, and into the store if it is shared."""
        try:
            if request.error is None:
                self._decode_for(request, rectangle)
        except BaseException as error:  # the thread that asked for the window raises it
            request.error = error
        request.left.remove(rectangle)

    def _decode_for(self, request: _Request, rectangle: Rectangle) -> None:
        layout = self.header.layout
        whole = rectangle.extent(layout.block, layout.shape)
        if rectangle.uses > 1:
            pixels = self._decode(rectangle, whole)
            self._store.put(rectangle.keys(request.panel), pixels)
            request.frame.place(pixels)
            return
        extent = request.frame.needed(whole)
        part = request.frame.part(extent)
        pixels = self._decode(rectangle, extent, part)
        if part is None:
            request.frame.place(pixels)

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

    @property
    def _most(self) -> int:
        """Blocks of one read: READ_BYTES of them, at least one."""
        layout = self.header.layout
        return max(1, READ_BYTES // (layout.block[0] * layout.block[1] * layout.read_pixel_bytes))

    def _decode(self, rectangle: Rectangle, extent: Extent, out: Part | None = None) -> Pixels:
        """Read a part of a rectangle of blocks; an error names the block that cannot be decoded."""
        try:
            return self._read(extent, out)
        except gdal.GDAL_ERRORS as error:
            gdal.check_memory(error)
            raise self._damaged(rectangle, error) from error

    def _read(self, extent: Extent, out: Part | None = None) -> Pixels:
        """Read pixels, into ``out`` (bands, masked) if it is given."""
        with gdal.environment():
            return self.header.decoding.read(self._dataset(), _window(extent), out)

    def _damaged(self, rectangle: Rectangle, error: BaseException) -> InputError:
        """Find the block, and the band, that cannot be decoded."""
        header = self.header
        layout = header.layout
        for row, column in rectangle:
            block = Rectangle((row, row + 1), (column, column + 1))
            where = _window(block.extent(layout.block, layout.shape))
            for part, read in header.decoding.parts(interleaved=layout.interleaved):
                try:
                    with gdal.environment():
                        read(self._dataset(), where)
                except gdal.GDAL_ERRORS as exact:
                    gdal.check_memory(exact)
                    return self._told(block, part, exact)
        return self._told(rectangle, "some band", error)

    def _told(self, rectangle: Rectangle, part: str, error: BaseException) -> InputError:
        layout = self.header.layout
        top, left, bottom, right = rectangle.extent(layout.block, layout.shape)
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


def _uses_of(
    geometry: Geometry, tiles: AxisTiles, columns: range, block: int, mode: PaddingMode
) -> np.ndarray:
    """Count block uses by some tile columns only."""
    uses = np.zeros(-(-geometry.x.size // block), np.int64)
    for column in columns:
        uses[read_axis(geometry.x, *tiles[column], mode, block).blocks(block)] += 1
    return uses


def _window(extent: Extent) -> Window:
    top, left, bottom, right = extent
    return Window(left, top, right - left, bottom - top)
