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

from rasterio.transform import Affine

from tileconv.errors import OutputError, OutputExistsError, TileconvError
from tileconv.raster import gdal
from tileconv.raster.fsync import replace, sync
from tileconv.raster.leftovers import remove, remove_left, temporary
from tileconv.raster.overwrite import goes_through_double, nodata_to_overwrite
from tileconv.raster.tag_model import Metadata
from tileconv.raster.targets import TIFF_FILE, Kind, OwnFile, OwnFiles, Target
from tileconv.text import size

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from rasterio.crs import CRS

    from tileconv.geometry import Transform
    from tileconv.planning.tiles import Tile


OutputLayout = Literal["single", "parts"]
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
    driver: str = "GTiff"
    """The name of its format."""
    kind: Kind = TIFF_FILE
    compress: str | None = "zstd"
    predictor: int = 1
    level: int | None = None
    metadata: Metadata = field(default_factory=Metadata)
    threads: int = 1
    """Threads that compress."""
    overwrite: bool = False
    overviews: str = "average"
    """How a COG's overviews are resampled, or none."""
    layout: OutputLayout = "single"
    """One file, or a VRT over part files."""
    checksum: bool = False
    """Chunks of a Zarr store end with a checksum."""
    own: tuple[OwnFile, ...] = ()
    """Files of the job, which are never replaced."""

    @property
    def target(self) -> Target:
        """The place that the output takes."""
        return Target(self.path, self.kind, overwrite=self.overwrite)

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
        """Return what every driver of GDAL's needs to know of the raster."""
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


class Sink(ABC):
    """An output being written by many threads, tile by tile.

    Leaving the ``with`` block without `commit` leaves nothing behind.
    """

    _fsyncs = True
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
            self.spec.target.remove_beside()
            self._rename()
            if self._fsyncs:
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
