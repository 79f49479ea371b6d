"""Cloud-optimised GeoTIFFs: a checked GeoTIFF, copied by GDAL's COG driver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import rasterio.shutil

from tileconv.raster import gdal
from tileconv.raster.durable import sync
from tileconv.raster.sink import DEFAULT_LEVEL, LEVEL_OPTIONS, GeoTIFFSink
from tileconv.raster.structure import check_complete, check_pages

OVERVIEWS = ("average", "nearest", "bilinear", "cubic", "lanczos", "mode", "rms", "none")
"""Ways to resample overviews, in GDAL's words, and to have none."""
SMALLEST_BLOCK = 128
"""Of the COG driver, in pixels."""


class COGSink(GeoTIFFSink):
    """A COG: its tiles go into a GeoTIFF, which is copied once it is whole.

    A COG begins with its overviews, so none can be written before the last tile is known.
    """

    def _creation_options(self) -> dict[str, Any]:
        # The copy reads it once and throws it away: quick to write, and smaller than raw pixels.
        return replace(self.spec, compress="zstd", level=1).creation_options()

    def _complete(self) -> None:
        self._close()
        whole = self._temporary
        check_complete(whole, self.spec.blocks)
        copied = whole.with_name(f"{whole.name}.cog")
        try:
            with gdal.writing():
                rasterio.shutil.copy(whole, copied, driver="COG", **self._copy_options())
        except SystemError as error:  # how rasterio tells of a failure that GDAL has no words for
            raise OSError("GDAL could not copy the pixels into a COG") from error
        check_pages(copied, self.spec.shape)
        sync(copied)
        self._temporary.unlink()
        copied.rename(whole)  # beside nothing else: what fails from here on removes it

    def _copy_options(self) -> dict[str, Any]:
        spec = self.spec
        options: dict[str, Any] = {
            "BLOCKSIZE": max(spec.block, SMALLEST_BLOCK),
            "BIGTIFF": "IF_SAFER",
            "NUM_THREADS": spec.threads,
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
