"""Write a GeoTIFF that is complete and checked, or absent.

Tiles go into a temporary file beside the output; once closed, its block table
is checked, the file synced to disk and renamed. Nothing is ever at the output's
path but a whole file, or what was there before.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from tileconv.errors import OutputError, OutputExistsError, TileconvError
from tileconv.planning.describe import size
from tileconv.raster import gdal
from tileconv.raster.durable import EarlySync, sync
from tileconv.raster.structure import check_complete

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from rasterio.crs import CRS
    from rasterio.io import DatasetWriter

    from tileconv.geometry import Transform
    from tileconv.planning.tiles import Tile


LEVEL_OPTIONS = {"deflate": "ZLEVEL", "zstd": "ZSTD_LEVEL"}
DEFAULT_LEVEL = 1
"""Against deflate's own 6, half the time for 2 to 3 % more bytes: writing is what takes longest."""


@dataclass(frozen=True)
class OutputSpec:
    """The GeoTIFF to write."""

    path: Path
    shape: tuple[int, int, int]
    """(bands, rows, columns)."""
    dtype: np.dtype
    nodata: np.generic | None
    block: int
    """Side of a block in pixels, a multiple of 16."""
    transform: Transform | None = None
    crs: CRS | None = None
    compress: str | None = "deflate"
    predictor: int = 1
    level: int | None = None
    descriptions: tuple[str | None, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    """Threads that compress."""
    overwrite: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of the file: every band has its own."""
        bands, rows, columns = self.shape
        return bands * -(-rows // self.block) * -(-columns // self.block)

    def creation_options(self) -> dict[str, Any]:
        """Return GDAL's GeoTIFF creation options."""
        options: dict[str, Any] = {
            "tiled": True,
            "blockxsize": self.block,
            "blockysize": self.block,
            "interleave": "band",
            "BIGTIFF": "IF_SAFER",
        }
        if self.compress is not None:
            options |= {"compress": self.compress, "NUM_THREADS": self.threads}
            if self.predictor != 1:
                options["predictor"] = self.predictor
            if self.compress in LEVEL_OPTIONS:
                options[LEVEL_OPTIONS[self.compress]] = self.level or DEFAULT_LEVEL
        return options


_abandoned: list[DatasetWriter] = []
"""Files given up where memory ended: GDAL crashes when it closes one without room for its blocks.

They are closed with the process, when they have no name any more.
"""


class GeoTIFFSink:
    """A GeoTIFF being written by many threads, tile by tile.

    Leaving the ``with`` block without `commit` leaves nothing behind.
    """

    def __init__(self, spec: OutputSpec) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._temporary = _temporary(spec.path)
        self._dataset: DatasetWriter | None = None
        self._sync: EarlySync | None = None

    def __enter__(self) -> GeoTIFFSink:
        spec = self.spec
        check_target(spec.path, overwrite=spec.overwrite)
        try:
            spec.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.lstat(spec.path)  # a name too long fails now, not after the last tile
            remove_stale(spec.path)
            with gdal.environment(), gdal.quietly():
                self._dataset = rasterio.open(
                    self._temporary,
                    "w",
                    driver="GTiff",
                    count=spec.shape[0],
                    height=spec.shape[1],
                    width=spec.shape[2],
                    dtype=spec.dtype,
                    nodata=None if spec.nodata is None else spec.nodata.item(),
                    crs=spec.crs,
                    transform=None if spec.transform is None else Affine(*spec.transform),
                    **spec.creation_options(),
                )
                self._sync = EarlySync(self._temporary)
                self._dataset.update_tags(**spec.tags)
                for band, text in enumerate(spec.descriptions, 1):
                    if text:
                        self._dataset.set_band_description(band, text)
        except gdal.GDAL_ERRORS as error:
            self._discard()
            raise self._failed(error) from error
        except BaseException:  # an interrupt
            self._discard()
            raise
        return self

    def write(self, tile: Tile, pixels: np.ndarray) -> None:
        """Write the pixels (bands, rows, columns) of one tile: whole blocks, each one once."""
        window = Window(tile.x[0], tile.y[0], pixels.shape[2], pixels.shape[1])
        try:
            with self._lock, gdal.environment():
                if self._dataset is None:
                    raise OutputError(f"{self.spec.path}: writing had already ended")
                self._dataset.write(pixels, window=window)
                if self._sync is not None:
                    self._sync.look()
        except TileconvError:
            raise
        except gdal.GDAL_ERRORS as error:
            gdal.check_memory(error)
            raise self._failed(error) from error

    def commit(self) -> None:
        """Close, check, sync and rename: from here on the output is there."""
        try:
            self._close()
            check_complete(self._temporary, self.spec.blocks)
            if self._sync is not None:
                self._sync.finish()
            check_target(self.spec.path, overwrite=self.spec.overwrite)
            os.replace(self._temporary, self.spec.path)
            with contextlib.suppress(OSError):  # the output is there, whatever the folder says
                sync(self.spec.path.parent)
        except OutputExistsError:
            raise
        except gdal.GDAL_ERRORS as error:
            raise self._failed(error) from error

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
        with self._lock, gdal.environment():
            if self._dataset is not None:
                dataset, self._dataset = self._dataset, None
                dataset.close()

    def _discard(self) -> None:
        try:
            with contextlib.suppress(*gdal.GDAL_ERRORS):
                self._close()
        finally:
            if self._sync is not None:
                self._sync.close()
                self._sync = None
            with contextlib.suppress(OSError):  # where there is no folder there is no file
                self._temporary.unlink()

    def _failed(self, error: BaseException) -> OutputError:
        path = self.spec.path
        free = ""
        with contextlib.suppress(OSError):
            stat = os.statvfs(path.parent)
            free = f" ({size(stat.f_bavail * stat.f_frsize)} free there)"
        return OutputError(
            f"{path}: could not be written{free}: {gdal.cause(error)}; no output is left behind"
        )


def check_target(path: Path, *, overwrite: bool) -> None:
    """Check that an output may be put at ``path``."""
    if os.path.isdir(path):  # noqa: PTH112 - says no where Path.is_dir raises
        raise OutputExistsError(f"{path}: is a folder; give the output a file name")
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(
            f"{path}: exists already; choose another path, or set output.overwrite (--overwrite)"
        )


def _temporary(path: Path) -> Path:
    """Return a name beside ``path`` that tells which process writes it."""
    mark = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    return path.with_name(f".{_start(path)}.tileconv-{mark}.tmp")


def _start(path: Path) -> str:
    """Return as much of the name as leaves room for a mark: a name has 255 bytes at the most."""
    return path.name.encode()[:128].decode(errors="ignore")


def remove_stale(path: Path) -> None:
    """Remove what killed processes of this machine left of earlier writes of ``path``."""
    host = re.escape(socket.gethostname())
    pattern = re.compile(rf"\.{re.escape(_start(path))}\.tileconv-{host}-(\d+)-[0-9a-f]{{6}}\.tmp")
    for left in path.parent.iterdir():
        match = pattern.fullmatch(left.name)
        if match and not _alive(int(match[1])):
            left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
