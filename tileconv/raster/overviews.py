"""Overviews of rasters whose missing pixels are NaN.

GDAL's bilinear, cubic and lanczos resampling knows missing pixels by a finite nodata and leaves
them out; a NaN it multiplies by its weight, be it 0, so that it takes all of the kernel with it.
So GDAL is shown the raster with a finite number in the place of NaN, makes overviews of that, and
is shown these with NaN again. The pixels themselves go no such way.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling

from tileconv.raster import forks

if TYPE_CHECKING:
    from tileconv.raster.sink import OutputSpec

SPREADING = {
    "bilinear": Resampling.bilinear,
    "cubic": Resampling.cubic,
    "lanczos": Resampling.lanczos,
}
"""Ways to resample that a NaN spreads in."""
_GDAL_NAMES = {"float32": "Float32", "float64": "Float64"}


def spreads_nan(spec: OutputSpec) -> bool:
    """Say whether GDAL's own overviews would lose pixels beside missing ones."""
    nan = spec.nodata is not None and bool(np.isnan(spec.nodata))
    return nan and spec.overviews in SPREADING and bool(_factors(spec))


def with_overviews(whole: Path, spec: OutputSpec) -> Path:
    """Return a VRT of the GeoTIFF ``whole`` and of overviews, which are made beside it."""
    factors = _factors(spec)
    finite = whole.with_name(f"{whole.name}.finite.vrt")
    # no sum of floating point numbers is the least one but by overflow, and that is an infinity
    stand_in = repr(float(np.finfo(spec.dtype).min))
    _write_vrt(finite, whole, spec, spec.shape[1:], {"nan": stand_in})
    options = {
        "COMPRESS_OVERVIEW": "ZSTD",
        "ZSTD_LEVEL_OVERVIEW": 1,
        "BIGTIFF_OVERVIEW": "IF_SAFER",
        "GDAL_NUM_THREADS": forks.threads(spec.threads),
    }
    with rasterio.Env(**options), rasterio.open(finite, "r+", driver="VRT") as dataset:
        dataset.build_overviews(factors, SPREADING[spec.overviews])
    levels = []
    for level in range(len(factors)):
        path = whole.with_name(f"{whole.name}.{level}.vrt")
        with rasterio.open(finite, driver="VRT", overview_level=level) as dataset:
            shape = dataset.shape
        _write_vrt(path, finite, spec, shape, {stand_in: "nan"}, level)
        levels.append(path)
    return _join(whole, levels)


def _factors(spec: OutputSpec) -> list[int]:
    """Return how many pixels of the raster make one of each overview, as GDAL's COG driver does."""
    factors: list[int] = []
    size = max(spec.shape[1:])
    while size > spec.cog_block:
        size //= 2
        factors.append(2 * (factors[-1] if factors else 1))
    return factors


def _write_vrt(
    path: Path,
    source: Path,
    spec: OutputSpec,
    shape: tuple[int, int],
    replaced: dict[str, str],
    level: int | None = None,
) -> None:
    """Write a VRT of a file, or of an overview of it, with one value of its pixels replaced."""
    ((value, by),) = replaced.items()
    root = ElementTree.Element("VRTDataset", rasterXSize=str(shape[1]), rasterYSize=str(shape[0]))
    for number in range(1, spec.shape[0] + 1):
        about = {"dataType": _GDAL_NAMES[spec.dtype.name], "band": str(number)}
        band = ElementTree.SubElement(root, "VRTRasterBand", about)
        ElementTree.SubElement(band, "NoDataValue").text = by
        read = ElementTree.SubElement(band, "ComplexSource")
        _name(read, source)
        if level is not None:
            options = ElementTree.SubElement(read, "OpenOptions")
            ElementTree.SubElement(options, "OOI", key="OVERVIEW_LEVEL").text = str(level)
        ElementTree.SubElement(read, "SourceBand").text = str(number)
        ElementTree.SubElement(read, "NODATA").text = value
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def _join(whole: Path, levels: list[Path]) -> Path:
    """Write a VRT of a file with all that it says, and of its overviews."""
    joined = whole.with_name(f"{whole.name}.joined.vrt")
    rasterio.shutil.copy(whole, joined, driver="VRT")
    tree = ElementTree.parse(joined)
    for band in tree.getroot().iter("VRTRasterBand"):
        for level in levels:
            overview = ElementTree.SubElement(band, "Overview")
            _name(overview, level)
            ElementTree.SubElement(overview, "SourceBand").text = band.get("band")
    tree.write(joined, encoding="utf-8")
    return joined


def _name(parent: ElementTree.Element, path: Path) -> None:
    """Say that a source or an overview is a file beside the VRT."""
    ElementTree.SubElement(parent, "SourceFilename", relativeToVRT="1").text = path.name
