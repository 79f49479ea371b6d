"""Write an output that is complete and checked, or absent.

Tiles go into something temporary beside the output; once closed, it is checked,
synced to disk and renamed. Nothing is ever at the output's path but a whole
output, or what was there before.
"""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from tileconv.errors import OutputError, OutputExistsError, TileconvError
from tileconv.raster import forks, gdal
from tileconv.raster.carry import Metadata
from tileconv.raster.durable import EarlySync, replace, sync
from tileconv.raster.leftovers import remove, remove_left, temporary
from tileconv.raster.overwrite import goes_through_double, nodata_to_overwrite, overwrite_nodata
from tileconv.raster.structure import check_complete
from tileconv.raster.targets import Kind, OwnFile, OwnFiles, Target
from tileconv.text import size

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from rasterio.crs import CRS
    from rasterio.io import DatasetWriter

    from tileconv.geometry import Transform
    from tileconv.planning.tiles import Tile


Driver = Literal["GTiff", "COG", "Zarr"]
Layout = Literal["single", "parts"]
SMALLEST_COG_BLOCK = 128
"""Of the COG driver, in pixels."""
LEVEL_OPTIONS = {"deflate": "ZLEVEL", "zstd": "ZSTD_LEVEL"}
DEFAULT_LEVEL = 1
"""Higher ones save a few per cent of the bytes, and take two to ten times as long."""


@dataclass(frozen=True)
class OutputSpec:
    """The file or store to write."""

    path: Path
    shape: tuple[int, int, int]
    """(bands, rows, columns)."""
    dtype: np.dtype
    nodata: np.generic | None
    block: int
    """Side of a block in pixels, a multiple of 16."""
    transform: Transform | None = None
    crs: CRS | None = None
    driver: Driver = "GTiff"
    compress: str | None = "zstd"
    predictor: int = 1
    level: int | None = None
    metadata: Metadata = field(default_factory=Metadata)
    threads: int = 1
    """Threads that compress."""
    overwrite: bool = False
    overviews: str = "average"
    """How a COG's overviews are resampled, or none."""
    layout: Layout = "single"
    """One file, or a VRT over part files."""
    checksum: bool = False
    """Chunks of a Zarr store end with a checksum."""
    own: tuple[OwnFile, ...] = ()
    """Files of the job, which are never replaced."""

    @property
    def target(self) -> Target:
        """The place that the output takes."""
        return Target(self.path, kind_of(self.driver, self.layout), overwrite=self.overwrite)

    @property
    def blocks(self) -> int:
        """Blocks of the file: every band has its own."""
        bands, rows, columns = self.shape
        return bands * -(-rows // self.block) * -(-columns // self.block)

    @property
    def cog_block(self) -> int:
        """Side of a block of a COG."""
        return max(self.block, SMALLEST_COG_BLOCK)

    def profile(self) -> dict[str, Any]:
        """Return what any driver of GDAL's is told of the raster."""
        bands, rows, columns = self.shape
        nodata = None if self.nodata is None else self.nodata.item()
        if not goes_through_double(self.nodata):
            nodata = nodata_to_overwrite(self.dtype)
        return {
            "count": bands,
            "height": rows,
            "width": columns,
            "dtype": self.dtype,
            "nodata": nodata,
            "crs": self.crs,
            "transform": None if self.transform is None else Affine(*self.transform),
        }

    def creation_options(self) -> dict[str, Any]:
        """Return GDAL's GeoTIFF creation options."""
        options: dict[str, Any] = {
            "tiled": True,
            "blockxsize": self.block,
            "blockysize": self.block,
            "interleave": "band",
            "photometric": self.metadata.photometric,
            "BIGTIFF": "IF_SAFER",
        }
        if self.compress is not None:
            options |= {"compress": self.compress, "NUM_THREADS": forks.threads(self.threads)}
            if self.predictor != 1:
                options["predictor"] = self.predictor
            if self.compress in LEVEL_OPTIONS:
                options[LEVEL_OPTIONS[self.compress]] = self.level or DEFAULT_LEVEL
        return options


class Sink(ABC):
    """An output being written by many threads, tile by tile.

    Leaving the ``with`` block without `commit` leaves nothing behind.
    """

    _durable = True
    """What is committed is on the disk, not only with the system."""

    def __init__(self, spec: OutputSpec) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._temporary = temporary(spec.path)

    def __enter__(self) -> Self:
        spec = self.spec
        self._check_target()
        try:
            spec.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.lstat(spec.path)  # a name too long fails now, not after the last tile
            remove_left(spec.path)
            self._create()
        except gdal.GDAL_ERRORS as error:
            self._discard()
            raise self._failed(error) from error
        except BaseException:  # an interrupt
            self._discard()
            raise
        return self

    def write(self, tile: Tile, pixels: np.ndarray) -> None:
        """Write the pixels (bands, rows, columns) of one tile: whole blocks, each one once."""
        try:
            self._put(tile, pixels)
        except TileconvError:
            raise
        except gdal.GDAL_ERRORS as error:
            gdal.check_memory(error)
            raise self._failed(error) from error

    def commit(self) -> int:
        """Close, check, sync and rename: from here on the output is there. Returns its bytes."""
        try:
            self._complete()
            size = self._stored_bytes()
            self._check_target()
            self._rename()
            if self._durable:
                with contextlib.suppress(OSError):  # the output is there, whatever the folder says
                    sync(self.spec.path.parent)
        except OutputExistsError:
            raise
        except gdal.GDAL_ERRORS as error:
            raise self._failed(error) from error
        return size

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()

    @abstractmethod
    def _create(self) -> None:
        """Make what is temporary."""

    @abstractmethod
    def _put(self, tile: Tile, pixels: np.ndarray) -> None:
        """Write one tile."""

    @abstractmethod
    def _complete(self) -> None:
        """Close, check and sync what is temporary; raise an error if it is not whole."""

    @abstractmethod
    def _discard(self) -> None:
        """Let go of everything; what is temporary is gone afterwards."""

    def _check_target(self) -> None:
        self.spec.target.check(OwnFiles(self.spec.own))

    def _stored_bytes(self) -> int:
        return self._temporary.stat().st_size

    def _rename(self) -> None:
        replace(self._temporary, self.spec.path)

    def _remove(self) -> None:
        """Remove what is temporary, and what GDAL put beside it."""
        with contextlib.suppress(OSError):  # where there is no folder there is no file
            for left in self._temporary.parent.iterdir():
                if left.name.startswith(self._temporary.name):
                    remove(left)

    def _failed(self, error: BaseException) -> OutputError:
        path = self.spec.path
        free = ""
        with contextlib.suppress(OSError):
            stat = os.statvfs(path.parent)
            free = f" ({size(stat.f_bavail * stat.f_frsize)} free there)"
        return OutputError(
            f"{path}: could not be written{free}: {gdal.cause(error)}; no output is left behind"
        )


_abandoned: list[DatasetWriter] = []
"""Files given up where memory ended: GDAL crashes when it closes one without room for its blocks.

They are closed with the process, when they have no name any more.
"""


class GeoTIFFSink(Sink):
    """A GeoTIFF being written."""

    def __init__(self, spec: OutputSpec) -> None:
        super().__init__(spec)
        self._dataset: DatasetWriter | None = None
        self._sync: EarlySync | None = None

    def _create(self) -> None:
        spec = self.spec
        with gdal.writing(), gdal.quietly():
            self._dataset = rasterio.open(
                self._temporary,
                "w",
                driver="GTiff",
                **spec.profile(),
                **self._creation_options(),
            )
            self._sync = EarlySync(self._temporary) if self._durable else None
            spec.metadata.write(self._dataset)

    def _creation_options(self) -> dict[str, Any]:
        return self.spec.creation_options()

    def _put(self, tile: Tile, pixels: np.ndarray) -> None:
        window = Window(tile.x[0], tile.y[0], pixels.shape[2], pixels.shape[1])
        with self._lock, gdal.environment():
            if self._dataset is None:
                raise OutputError(f"{self.spec.path}: writing had already ended")
            self._dataset.write(pixels, window=window)
            if self._sync is not None:
                self._sync.look()

    def _complete(self) -> None:
        self._close()
        check_complete(self._temporary, self.spec.blocks)
        if self._sync is not None:
            self._sync.finish()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, MemoryError) and self._dataset is not None:
            _abandoned.append(self._dataset)
            self._dataset = None
        self._discard()

    def _close(self) -> None:
        with self._lock, gdal.writing():
            if self._dataset is not None:
                dataset, self._dataset = self._dataset, None
                dataset.close()
                if self.spec.nodata is not None and not goes_through_double(self.spec.nodata):
                    overwrite_nodata(self._temporary, self.spec.nodata)

    def _discard(self) -> None:
        try:
            with contextlib.suppress(*gdal.GDAL_ERRORS):
                self._close()
        finally:
            if self._sync is not None:
                self._sync.close()
                self._sync = None
            self._remove()


def kind_of(driver: Driver, layout: Layout) -> Kind:
    """Return what an output is on the disk."""
    if driver == "Zarr":
        return "Zarr store"
    return "VRT" if layout == "parts" else "TIFF file"
