"""GeoTIFFs, written by GDAL block by block."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import rasterio
from rasterio.windows import Window

from tileconv.errors import OutputError
from tileconv.raster import forks, gdal
from tileconv.raster.fsync import EarlySync
from tileconv.raster.overwrite import goes_through_double, overwrite_nodata
from tileconv.raster.sink import DEFAULT_LEVEL, LEVEL_OPTIONS, OutputSpec, Sink
from tileconv.raster.structure import check_complete

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from rasterio.io import DatasetWriter

    from tileconv.planning.tiles import Tile

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
            self._sync = EarlySync(self._temporary) if self._fsyncs else None
            spec.metadata.write(self._dataset)

    def _creation_options(self) -> dict[str, Any]:
        return creation_options(self.spec)

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


def creation_options(spec: OutputSpec) -> dict[str, Any]:
    """Return GDAL's GeoTIFF creation options."""
    options: dict[str, Any] = {
        "tiled": True,
        "blockxsize": spec.block,
        "blockysize": spec.block,
        "interleave": "band",
        "photometric": spec.metadata.photometric,
        "BIGTIFF": "IF_SAFER",
    }
    if spec.compress is not None:
        options |= {"compress": spec.compress, "NUM_THREADS": forks.threads(spec.threads)}
        if spec.predictor != 1:
            options["predictor"] = spec.predictor
        if spec.compress in LEVEL_OPTIONS:
            options[LEVEL_OPTIONS[spec.compress]] = spec.level or DEFAULT_LEVEL
    return options
