"""Cloud-optimised GeoTIFFs: a checked GeoTIFF, copied by GDAL's COG driver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import rasterio.shutil

from tileconv.raster import forks, gdal
from tileconv.raster.fsync import sync
from tileconv.raster.geotiff import GeoTIFFSink, creation_options
from tileconv.raster.overviews import spreads_nan, with_overviews
from tileconv.raster.overwrite import ROOM, overwrite_room, room_for
from tileconv.raster.sink import DEFAULT_LEVEL, LEVEL_OPTIONS, OutputSpec
from tileconv.raster.structure import check_complete, check_pages


def intermediate(spec: OutputSpec) -> OutputSpec:
    """Return how the pixels are stored until they are copied: quickly, and smaller than raw."""
    return replace(spec, compress="zstd", level=1)


class COGSink(GeoTIFFSink):
    """A COG: its tiles go into a GeoTIFF, which is copied once it is whole.

    A COG begins with its overviews, so none can be written before the last tile is known. GDAL
    copies tags of the default domain and of bands; those of other domains get room, and are written
    into the finished file.
    """

    def __init__(self, spec: OutputSpec) -> None:
        metadata = spec.metadata
        self._domains = {name: dict(tags) for name, tags in metadata.tags.items() if name and tags}
        if self._domains:
            plain = {**metadata.tags.get("", {}), ROOM: room_for(self._domains)}
            metadata = replace(metadata, tags={**metadata.tags, "": plain})
        super().__init__(replace(spec, metadata=metadata))

    def _creation_options(self) -> dict[str, Any]:
        return creation_options(intermediate(self.spec))

    def _complete(self) -> None:
        self._close()
        whole = self._temporary
        check_complete(whole, self.spec.blocks)
        copied = whole.with_name(f"{whole.name}.cog")
        source, options = whole, self._copy_options()
        try:
            with gdal.writing():
                if spreads_nan(self.spec):
                    source = with_overviews(whole, self.spec)
                    options["OVERVIEWS"] = "FORCE_USE_EXISTING"
                rasterio.shutil.copy(source, copied, driver="COG", **options)
        except SystemError as error:  # how rasterio tells of a failure that GDAL has no words for
            raise OSError("GDAL could not copy the pixels into a COG") from error
        if self._domains:
            overwrite_room(copied, whole)
        check_pages(copied, self.spec.shape)
        sync(copied)
        self._temporary.unlink()
        copied.rename(whole)  # beside nothing else: what fails from here on removes it

    def _copy_options(self) -> dict[str, Any]:
        spec = self.spec
        options: dict[str, Any] = {
            "BLOCKSIZE": spec.cog_block,
            "BIGTIFF": "IF_SAFER",
            "NUM_THREADS": forks.threads(spec.threads),
            "COMPRESS": (spec.compress or "none").upper(),
            "OVERVIEWS": "NONE" if spec.overviews == "none" else "IGNORE_EXISTING",
        }
        if spec.overviews != "none":
            options["OVERVIEW_RESAMPLING"] = spec.overviews.upper()
        if spec.compress is not None and spec.predictor != 1:
            options["PREDICTOR"] = {2: "STANDARD", 3: "FLOATING_POINT"}[spec.predictor]
        if spec.compress in LEVEL_OPTIONS:
            options["LEVEL"] = spec.level or DEFAULT_LEVEL
        return options
