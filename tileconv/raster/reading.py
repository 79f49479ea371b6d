"""What the rest of tileconv reads rasters with; all other modules are raster's own."""

from tileconv.raster.direct_reads import read_pixels
from tileconv.raster.forks import with_own_connections
from tileconv.raster.gdal import environment, gdal_version
from tileconv.raster.header import Header, Identity, Wanted, check_file, read_header
from tileconv.raster.mosaic import read_mosaic
from tileconv.raster.mosaic_reader import MosaicSource, open_source
from tileconv.raster.remote import Place, Remote, is_url, wrong_url
from tileconv.raster.source import CachedBlocks, RasterSource
from tileconv.raster.store import Pixels
from tileconv.raster.vrt import check_vrt, is_vrt

__all__ = [
    "CachedBlocks",
    "Header",
    "Identity",
    "MosaicSource",
    "Pixels",
    "Place",
    "RasterSource",
    "Remote",
    "Wanted",
    "check_file",
    "check_vrt",
    "environment",
    "gdal_version",
    "is_url",
    "is_vrt",
    "open_source",
    "read_header",
    "read_mosaic",
    "read_pixels",
    "with_own_connections",
    "wrong_url",
]
