"""Read windows of a raster: whole blocks, each decoded once, by a handle of each thread's own."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tileconv import buffers
from tileconv.errors import InputError
from tileconv.planning.cost import READ_BYTES
from tileconv.raster import gdal
from tileconv.raster.blame import find_damage
from tileconv.raster.direct_tiff import DirectTIFF, Reader, UndecodableError
from tileconv.raster.header import Header, Identity
from tileconv.raster.rectangles import (
    Frame,
    PixelBounds,
    Rectangle,
    WindowPart,
    join_blocks,
    make_batches,
)
from tileconv.raster.reference_counts import ReferenceCounts
from tileconv.raster.remote import Remote
from tileconv.raster.store import BlockStore, Decodings, Key, Pixels
from tileconv.raster.streams import Streams, find_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rasterio.io import DatasetReader

    from tileconv.planning.reads import AxisRead

BATCH_BYTES = 1 << 20
"""Pixels that a thread decodes at a time, where blocks lie apart: to share out each costs more."""


CachedBlocks = tuple[dict[Key, Pixels], ...]
"""Decoded blocks that go from one part of a run to the next, for each file."""


@dataclass(eq=False)
class _Request:
    """A window that is being filled by one thread or many."""

    frame: Frame
    panel: int
    left: int = 0
    """Batches that are not there yet."""
    error: BaseException | None = None


class RasterSource:
    """The pixels of a raster, for the tiles of one plan, whose block uses are ``counts``.

    Safe to use from many threads. ``handles`` is how many of them will read:
    each gets a handle of its own, opened and closed by the ``with`` block, unless
    GDAL is not needed, and one open file serves all.
    A caller that opens files itself gives ``handle_provider``, which returns a thread's handle,
    and ``decodings`` where threads decode for many sources.
    """

    def __init__(
        self,
        header: Header,
        counts: ReferenceCounts,
        *,
        handles: int = 1,
        handle_provider: Callable[[], DatasetReader] | None = None,
        decodings: Decodings | None = None,
    ) -> None:
        self.header = header
        self._counts = counts
        self._handle_provider = handle_provider
        self._decodings = decodings or Decodings()
        self._store = BlockStore(self._decodings)
        self._windows = buffers.Pool()
        self._local = threading.local()
        self._stack = contextlib.ExitStack()
        self._reader: Reader | None = None
        self._handles: list[DatasetReader] = []
        self._count = handles
        self._lock = threading.Lock()

    def __enter__(self) -> RasterSource:
        try:
            if self._blocks is not None:
                self._reader = self._stack.enter_context(self._blocks.opened())
            else:
                with gdal.environment():
                    self._handles = [self._open() for _ in range(self._count)]
            self.check_unchanged()  # what was opened is what was planned
        except InputError:
            self.__exit__(None, None, None)
            raise
        except gdal.GDAL_ERRORS as error:
            self.__exit__(None, None, None)
            raise InputError(f"{self.header.path}: {gdal.cause(error)}") from gdal.told(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._reader = None
            self._stack.close()

    @property
    def blocks_decoded(self) -> int:
        """Storage blocks decoded so far, all bands."""
        return self._store.decoded * self.header.layout.planes

    def hand_over(self) -> CachedBlocks:
        """Return the decoded blocks that the next part of the run uses too, once all is read."""
        return (self._store.hand_over(),)

    def take_over(self, handed: CachedBlocks) -> None:
        """Take over what the part before hands over, before anything is read."""
        self._store.take_over(handed[0], self._uses_of)

    def _uses_of(self, key: Key) -> int:
        """Return how many tiles use a block."""
        return int(self._counts.rows[key.row] * self._counts.columns(key.panel)[key.column])

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
        """Return the window of a tile, with marks for all bands or for each if there are any.

        Places of padding hold zeros and are not masked.

        Every tile of the plan must be read exactly once: the blocks it shares
        with others are let go after the last of them.
        """
        layout = self.header.layout
        shape = (rows.size, columns.size)
        filled = rows.is_filled and columns.is_filled
        make = self._windows.array if filled else buffers.zeros
        window = Pixels(
            make((layout.read_bands, *shape), layout.dtype),
            np.zeros((layout.marks, *shape), bool) if layout.marks else None,
        )
        uses_x = self._counts.columns(panel)
        wanted = [
            (Key(panel, row, column), int(self._counts.rows[row] * uses_x[column]))
            for row in rows.blocks(layout.block[0]).tolist()
            for column in columns.blocks(layout.block[1]).tolist()
        ]
        decode, take = self._store.claim(wanted)
        request = _Request(Frame(rows, columns, window), panel)
        try:
            rectangles = join_blocks(decode, self._blocks_in(READ_BYTES))
            batches = list(make_batches(rectangles, self._blocks_in(BATCH_BYTES)))
            request.left = len(batches)
            self._decodings.submit([partial(self._fill, request, batch) for batch in batches])
            self._decodings.work_until(lambda: not request.left)
            if request.error is not None:
                raise request.error
        except BaseException as error:
            self._store.fail([key for key, _ in decode], error)
            raise
        for pixels in self._store.take(take):
            request.frame.place(pixels)
        return window

    def help_until(self, done: Callable[[], bool]) -> None:
        """Decode for the tiles of other threads until ``done``, which `wake` makes it look at."""
        self._decodings.work_until(done)

    def wake(self) -> None:
        """Let threads that help look again whether they are done."""
        self._decodings.wake()

    def _fill(self, request: _Request, batch: list[Rectangle]) -> None:
        """Decode into the window of a request, and into the store what is shared."""
        try:
            with gdal.environment(), self._opened() as reader:
                if reader is not None and self.header.decoding.plain:
                    batch = self._read_blocks(request.frame, batch, reader)
                for rectangle in batch:
                    if request.error is None:
                        self._decode_for(request, rectangle, reader)
        except BaseException as error:  # the thread that asked for the window raises it
            request.error = error
        with self._lock:
            request.left -= 1

    def _read_blocks(self, frame: Frame, batch: list[Rectangle], reader: Reader) -> list[Rectangle]:
        """Decode blocks straight into a window; return those of which that is not possible.

        Blocks are few pixels and little time to decode: what is done for each one counts.
        """
        layout, bands, out = self.header.layout, self.header.decoding.bands, frame.window.bands
        (tall, wide), (height, width) = layout.block, layout.shape
        left = []
        for rectangle in batch:
            if rectangle.uses > 1:
                left.append(rectangle)
                continue
            ys = frame.spans(0, rectangle.rows, tall, height)
            xs = frame.spans(1, rectangle.columns, wide, width)
            if ys is None or xs is None:
                left.append(rectangle)
                continue
            try:
                for row, y in enumerate(ys, rectangle.rows[0]):
                    for column, x in enumerate(xs, rectangle.columns[0]):
                        reader.block((row, column), bands, y, x, out)
            except UndecodableError as error:
                raise self._undecodable(error) from error
        return left

    def _decode_for(self, request: _Request, rectangle: Rectangle, reader: Reader | None) -> None:
        layout = self.header.layout
        whole = rectangle.extent(layout.block, layout.shape)
        if rectangle.uses > 1:
            pixels = self._decode(rectangle, whole, reader)
            self._store.put(rectangle.keys(request.panel), pixels)
            request.frame.place(pixels)
            return
        extent = request.frame.needed(whole)
        part = request.frame.part(extent)
        pixels = self._decode(rectangle, extent, reader, part)
        if part is None:
            request.frame.place(pixels)

    def _blocks_in(self, size: int) -> int:
        """Blocks of ``size`` bytes of pixels, at least one."""
        layout = self.header.layout
        return max(1, size // (layout.block[0] * layout.block[1] * layout.read_pixel_bytes))

    def _decode(
        self,
        rectangle: Rectangle,
        extent: PixelBounds,
        reader: Reader | None,
        out: WindowPart | None = None,
    ) -> Pixels:
        """Read a part of a rectangle of blocks; an error names the block that cannot be decoded."""
        decoding, window = self.header.decoding, _window(extent)
        try:
            if reader is not None:
                return decoding.read(None, window, out, reader=reader)
            if self._streams is not None:
                self._streams.check(rectangle, decoding.read_bands)
            with gdal.strictly():
                return decoding.read(self._dataset(), window, out)
        except UndecodableError as error:
            raise self._undecodable(error) from error
        except gdal.GDAL_ERRORS as error:
            gdal.check_memory(error)
            raise self._damaged(rectangle, error) from gdal.told(error)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Reader | None]:
        """Open what can be read without GDAL, if it is not open."""
        with contextlib.ExitStack() as stack:
            reader = self._reader
            if reader is None and self._blocks is not None:
                with contextlib.suppress(OSError):
                    reader = stack.enter_context(self._blocks.opened())
            yield reader

    @cached_property
    def _blocks(self) -> DirectTIFF | None:
        """What can be read without GDAL. Threads that look for it at once find the same."""
        return self.header.find_direct_tiff() if self.header.layout.direct else None

    @cached_property
    def _streams(self) -> Streams | None:
        """What GDAL decodes and does not check."""
        if self._blocks is not None:
            return None
        return find_streams(self.header.spec, self.header.layout)

    def _undecodable(self, error: UndecodableError) -> InputError:
        row, column = error.place
        block = Rectangle((row, row + 1), (column, column + 1))
        return self._told(block, error.part, error)

    def _damaged(self, rectangle: Rectangle, error: BaseException) -> InputError:
        """Find the block, and the band, that cannot be decoded."""
        reopened: DatasetReader | None = None
        with gdal.environment(), contextlib.ExitStack() as stack:
            if isinstance(error, gdal.DamageError):
                with contextlib.suppress(RasterioError):
                    if (found := self._damaged_source(rectangle)) is not None:
                        return found
                    # the cache of the other has what was decoded badly, and not a word of it
                    reopened = stack.enter_context(gdal.open_dataset(self.header.spec))
            found = self._damaged_in(rectangle, reopened)
        return found or self._told(rectangle, "some band", error)

    def _damaged_source(self, rectangle: Rectangle) -> InputError | None:
        header = self.header
        if not header.spec.is_vrt:
            return None
        extent = rectangle.extent(header.layout.block, header.layout.shape)
        found = find_damage(header.spec, extent)
        if found is None:
            return None
        block, error = found
        return InputError(f"{header.path}: {block} cannot be decoded: {gdal.cause(error)}")

    def _damaged_in(
        self, rectangle: Rectangle, reopened: DatasetReader | None = None
    ) -> InputError | None:
        layout = self.header.layout
        for row, column in rectangle:
            block = Rectangle((row, row + 1), (column, column + 1))
            where = _window(block.extent(layout.block, layout.shape))
            for part, read in self.header.decoding.parts(interleaved=layout.interleaved):
                try:
                    with gdal.strictly():
                        read(self._dataset() if reopened is None else reopened, where)
                except gdal.GDAL_ERRORS as exact:
                    gdal.check_memory(exact)
                    return self._told(block, part, exact)
        return None

    def _told(self, rectangle: Rectangle, part: str, error: BaseException) -> InputError:
        layout = self.header.layout
        top, left, bottom, right = rectangle.extent(layout.block, layout.shape)
        block = f"block ({rectangle.rows[0]}, {rectangle.columns[0]}) of {part}"
        where = f"rows {top} to {bottom - 1}, columns {left} to {right - 1}"
        path, cause = self.header.path, gdal.cause(error)
        if isinstance(path, Remote) and (trouble := path.trouble()):
            cause = f"{trouble}; {cause}"
        return InputError(f"{path}: {block}, {where}, cannot be decoded: {cause}")

    def _dataset(self) -> DatasetReader:
        """Return this thread's own handle: GDAL's are not safe to share."""
        if self._handle_provider is not None:
            return self._handle_provider()
        handle: DatasetReader | None = getattr(self._local, "handle", None)
        if handle is None:
            with self._lock:
                handle = self._handles.pop() if self._handles else self._open()
            self._local.handle = handle
        return handle

    def _open(self) -> DatasetReader:
        """Open a handle, which is closed in the end."""
        return self._stack.enter_context(gdal.open_dataset(self.header.spec))


def _window(extent: PixelBounds) -> Window:
    top, left, bottom, right = extent
    return Window(left, top, right - left, bottom - top)
