"""Read windows of a mosaic: each scene by itself, put together pixel by pixel."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tileconv import buffers
from tileconv.planning.reads import PADDING, AxisRead
from tileconv.planning.scenes import extents, scene_uses, used_index
from tileconv.raster import gdal
from tileconv.raster.reference_counts import ReferenceCounts, tile_rows
from tileconv.raster.source import RasterSource
from tileconv.raster.store import Decodings, Pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rasterio.io import DatasetReader

    from tileconv.geometry import Geometry
    from tileconv.planning.parts import Part
    from tileconv.planning.scenes import Extent
    from tileconv.planning.tiles import Tiles
    from tileconv.raster.header import Header
    from tileconv.raster.source import CachedBlocks

MOST_OPEN = 32
"""Scenes that a thread keeps open at a time: processes may hold few files."""

Places = slice | np.ndarray


def open_source(
    header: Header,
    geometry: Geometry,
    tiles: Tiles,
    *,
    handles: int = 1,
    part: Part | None = None,
    following: Part | None = None,
) -> RasterSource | MosaicSource:
    """Return the pixels that a plan, or a part of it, reads; ``handles`` threads will read them.

    Blocks that ``following``, the part below or above, uses too are kept in the end.
    """
    if header.scenes:
        return MosaicSource(header, geometry, tiles, part, following)
    if part is not None:
        uses = ReferenceCounts.of_part(geometry, tiles, part, header.layout.block, following)
        return RasterSource(header, uses, handles=handles)
    uses = ReferenceCounts.of(geometry, tiles, header.layout.block)
    return RasterSource(header, uses, handles=handles)


class MosaicSource:
    """The pixels of a mosaic, for the tiles of one plan. Safe to use from many threads.

    Where scenes overlap, a pixel is that of the first scene in which it is
    valid; where there is none, it is missing. Every scene decodes each of its
    needed blocks once, seen or not: what is valid is not known before.
    """

    def __init__(
        self,
        header: Header,
        geometry: Geometry,
        tiles: Tiles,
        part: Part | None = None,
        following: Part | None = None,
    ) -> None:
        self.header = header
        layout = header.layout
        self._places = [
            (*scene.offset, *np.add(scene.offset, scene.layout.shape).tolist())
            for scene in layout.scenes
        ]
        self._corners = np.array(self._places, np.int64)
        self._handles = _Handles()
        self._decodings = Decodings()
        every = [list(extents(layout, axis)) for axis in (0, 1)]
        which_rows = range(tiles.y.count) if part is None else tile_rows(part, following)
        rows = scene_uses(geometry.y, tiles.y, which_rows, layout.block[0], every[0])
        columns: dict[int, dict[Extent, np.ndarray]] = {}
        lock = threading.Lock()

        def of_panel(extent: Extent, panel: int) -> np.ndarray:
            with lock:
                if panel not in columns:
                    which = tiles.panel_columns(panel)
                    block = layout.block[1]
                    columns[panel] = scene_uses(geometry.x, tiles.x, which, block, every[1])
                    columns.pop(panel - 3, None)  # no thread is that far behind
                return columns[panel][extent]

        self._scenes = [
            RasterSource(
                scene,
                ReferenceCounts(rows[y], partial(of_panel, x)),
                handles=0,
                handle_provider=partial(self._handles.provide, scene),
                decodings=self._decodings,
            )
            for scene, y, x in zip(header.scenes, *every, strict=True)
        ]

    def __enter__(self) -> MosaicSource:
        self.check_unchanged()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handles.close()

    @property
    def blocks_decoded(self) -> int:
        """Storage blocks decoded so far, all scenes and bands."""
        return sum(scene.blocks_decoded for scene in self._scenes)

    def hand_over(self) -> CachedBlocks:
        """Return the decoded blocks of each scene that the next part of the run uses too."""
        return tuple(blocks for scene in self._scenes for blocks in scene.hand_over())

    def take_over(self, handed: CachedBlocks) -> None:
        """Take over what the part before hands over."""
        for scene, blocks in zip(self._scenes, handed, strict=True):
            scene.take_over((blocks,))

    def check_unchanged(self) -> None:
        """Raise `InputError` if a scene is no longer the one that was planned."""
        for scene in self._scenes:
            scene.check_unchanged()

    def help_until(self, done: Callable[[], bool]) -> None:
        """Decode for the tiles of other threads until ``done``, which `wake` makes it look at."""
        self._decodings.work_until(done)

    def wake(self) -> None:
        """Let threads that help look again whether they are done."""
        self._decodings.wake()

    def read(self, rows: AxisRead, columns: AxisRead, panel: int) -> Pixels:
        """Return the window of a tile; every tile must be read exactly once."""
        layout = self.header.layout
        shape = (rows.size, columns.size)
        window: Pixels | None = None
        seen: list[tuple[int, ...]] = []
        for i in self._touched(rows, columns):
            top, left, bottom, right = place = self._places[i]
            block_y, block_x = layout.scenes[i].layout.block
            at_y, part_y = _within(rows, top, bottom, block_y)
            at_x, part_x = _within(columns, left, right, block_x)
            if not part_y.size or not part_x.size:
                continue
            piece = self._scenes[i].read(part_y, part_x, panel)
            if window is None and (part_y.size, part_x.size) == shape:
                window = Pixels(piece.bands, _marks(piece, layout.marks))
            else:
                if window is None:
                    window = self._empty(shape)
                over = any(_intersect(place, other) for other in seen)
                self._put(piece, window, at_y, at_x, over=over)
            seen.append(place)
        window = window or self._empty(shape)
        if not layout.marks:
            return Pixels(window.bands, None)
        if window.masked is not None:
            window.masked[..., rows.index == PADDING, :] = False
            window.masked[..., columns.index == PADDING] = False
        return window

    def _touched(self, rows: AxisRead, columns: AxisRead) -> list[int]:
        """Return the scenes that may hold pixels of a window, in their order."""
        inside = np.ones(len(self._places), bool)
        for axis, read in ((0, rows), (1, columns)):
            places = read.index[read.index >= 0]
            if not places.size:
                return []
            inside &= self._corners[:, axis] <= places.max()
            inside &= self._corners[:, axis + 2] > places.min()
        return [int(i) for i in np.flatnonzero(inside)]

    def _empty(self, shape: tuple[int, int]) -> Pixels:
        """Return a window in which everything is missing."""
        layout, nodata = self.header.layout, self.header.nodata
        bands = buffers.zeros((layout.read_bands, *shape), layout.dtype)
        if nodata is None and layout.dtype.kind == "f":
            nodata = np.nan
        if layout.marks or nodata is None:  # in the end every pixel may turn out to be there
            return Pixels(bands, np.ones((layout.marks or 1, *shape), bool))
        bands[...] = nodata
        return Pixels(bands, None)

    def _put(self, piece: Pixels, window: Pixels, y: Places, x: Places, *, over: bool) -> None:
        """Put the pixels of a scene where they belong, under those of earlier scenes."""
        where = (y, x) if isinstance(y, slice) and isinstance(x, slice) else np.ix_(*_lists(y, x))
        marks = 0 if window.masked is None else len(window.masked)
        masked = _marks(piece, marks)
        every = (slice(None), *where)
        if not over:
            for band, values in zip(window.bands, piece.bands, strict=True):
                band[where] = values
            if window.masked is not None:
                window.masked[every] = masked
            return
        hidden = None if window.masked is None else window.masked[every]
        for i, (band, values) in enumerate(zip(window.bands, piece.bands, strict=True)):
            there = band[where]
            take = self._lost(there) & ~self._lost(values)
            if hidden is not None and masked is not None:
                plane = i if marks > 1 else 0
                take = (hidden[plane] | take) & ~masked[
                    plane
                ]  # nodata under a mask that opens stays nodata
            there[take] = values[take]
            band[where] = there
        if window.masked is not None and hidden is not None and masked is not None:
            window.masked[every] = hidden & masked

    def _lost(self, values: np.ndarray) -> np.ndarray:
        """Say where values themselves mark missing pixels."""
        nodata = self.header.nodata
        lost = np.zeros(values.shape, bool) if values.dtype.kind != "f" else np.isnan(values)
        if nodata is not None and nodata == nodata:  # noqa: PLR0124 - NaN is there already
            lost |= values == nodata
        return lost


class _Handles:
    """The open scenes of each thread, the most recently used ones."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._all: set[DatasetReader] = set()
        self._lock = threading.Lock()

    def provide(self, scene: Header) -> DatasetReader:
        """Return this thread's handle of a scene."""
        mine: OrderedDict[str, DatasetReader] = self._local.__dict__.setdefault(
            "handles", OrderedDict()
        )
        key = str(scene.path)
        if key not in mine:
            if len(mine) >= MOST_OPEN:
                self._drop(mine.popitem(last=False)[1])
            mine[key] = handle = gdal.open_scene(scene.spec)
            with self._lock:
                self._all.add(handle)
        mine.move_to_end(key)
        return mine[key]

    def _drop(self, handle: DatasetReader) -> None:
        with self._lock:
            self._all.discard(handle)
        handle.close()

    def close(self) -> None:
        with self._lock:
            for handle in self._all:
                with suppress(*gdal.GDAL_ERRORS):
                    handle.close()
            self._all.clear()


def _within(read: AxisRead, start: int, stop: int, block: int) -> tuple[Places, AxisRead]:
    """Return the window places that hold pixels of a scene, and the part of it that they hold.

    Pixels in gaps come along, for they keep the part in one piece, unless they
    would bring blocks that no field touches.
    """
    places, part = _part(read, read.index, start, stop)
    used_places, used = _part(read, used_index(read), start, stop)
    if used.size < part.size and used.blocks(block).size < part.blocks(block).size:
        places, part = used_places, used
    if places.size and int(places[-1]) - int(places[0]) == places.size - 1:
        return slice(int(places[0]), int(places[-1]) + 1), part
    return places, part


def _part(read: AxisRead, index: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, AxisRead]:
    places = np.flatnonzero((index >= start) & (index < stop))
    return places, AxisRead(index[places] - start, read.stride, read.dilation, read.outputs)


def _lists(*places: Places) -> list[np.ndarray]:
    return [np.arange(p.start, p.stop) if isinstance(p, slice) else p for p in places]


def _marks(piece: Pixels, planes: int) -> np.ndarray | None:
    """Return a scene's marks as the mosaic has them: all open if the scene has none."""
    if not planes:
        return None
    shape = (planes, *piece.bands.shape[1:])
    if piece.masked is None:
        return np.zeros(shape, bool)
    if len(piece.masked) == planes:
        return piece.masked
    return np.repeat(piece.masked, planes, axis=0)  # a copy: other scenes' marks go into it


def _intersect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(one[a] < other[a + 2] and other[a] < one[a + 2] for a in (0, 1))
