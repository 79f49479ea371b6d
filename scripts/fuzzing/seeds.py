"""Rasters of many kinds, made again from fixed seeds; `rasters` mutates them."""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy as gdal_copy

SHAPE = (50, 60)
NORTH_WEST = (30, 0, 700000, 0, -30, -2800000)
PLACED: Mapping[str, Any] = {"transform": rasterio.Affine(*NORTH_WEST), "crs": "EPSG:32621"}
TILES = {"tiled": True, "blockxsize": 32, "blockysize": 16}
DEFLATE = TILES | {"compress": "deflate"}


@dataclass(frozen=True)
class Seed:
    """A raster, and the files that belong to it; the first is the one to open."""

    name: str
    files: Mapping[str, bytes]

    @property
    def main(self) -> str:
        return next(iter(self.files))


GEOTIFFS: Mapping[str, tuple[str, int, dict[str, Any]]] = {
    "uint8 tiles": ("uint8", 1, TILES),
    "uint16 deflate tiles": ("uint16", 1, DEFLATE),
    "int16 zstd tiles, predictor 2": ("int16", 2, TILES | {"compress": "zstd", "predictor": 2}),
    "uint16 deflate by pixel, predictor 2": (
        *("uint16", 3),
        DEFLATE | {"predictor": 2, "interleave": "pixel", "photometric": "RGB"},
    ),
    "float32 deflate, predictor 3": ("float32", 1, DEFLATE | {"predictor": 3}),
    "float32 strips by band": ("float32", 2, {"blockysize": 7, "interleave": "band"}),
    "float64 zstd strips": ("float64", 1, {"blockysize": 9, "compress": "zstd"}),
    "int32 LZW strips": ("int32", 1, {"blockysize": 8, "compress": "lzw"}),
    "uint8 packbits": ("uint8", 4, {"blockysize": 5, "compress": "packbits"}),
    "uint32 big-endian": ("uint32", 1, DEFLATE | {"ENDIANNESS": "BIG", "predictor": 2}),
    "int16 big-endian strips": ("int16", 2, {"blockysize": 10, "ENDIANNESS": "BIG"}),
    "uint16 BigTIFF": ("uint16", 1, DEFLATE | {"BIGTIFF": "YES"}),
    "uint16 big-endian BigTIFF": ("uint16", 1, TILES | {"BIGTIFF": "YES", "ENDIANNESS": "BIG"}),
    "int16 nodata": ("int16", 1, DEFLATE | {"nodata": 7}),
    "float32 nodata nan": ("float32", 1, TILES | {"compress": "zstd", "nodata": float("nan")}),
    "sparse": ("uint16", 1, DEFLATE | {"SPARSE_OK": True}),
    "LERC": ("float32", 1, TILES | {"compress": "lerc"}),
    "JPEG YCbCr": (
        *("uint8", 3),
        TILES | {"compress": "jpeg", "photometric": "YCBCR", "interleave": "pixel"},
    ),
    "JPEG strips": ("uint8", 1, {"compress": "jpeg", "blockysize": 16}),
    "WebP": ("uint8", 3, TILES | {"compress": "webp", "interleave": "pixel"}),
    "one bit": ("uint8", 1, {"NBITS": 1, "blockysize": 8}),
    "twelve bits": ("uint16", 1, DEFLATE | {"NBITS": 12}),
    "complex": ("complex64", 1, DEFLATE),
    "int64": ("int64", 1, DEFLATE),
    "int8": ("int8", 1, DEFLATE),
}
"""Kinds that one call writes: dtype, bands, profile."""


def _pixels(dtype: str, bands: int) -> np.ndarray:
    """Return pixels that compress, among them some of each block that do not."""
    rng = np.random.default_rng(20261130)
    smooth = np.add.outer(np.arange(SHAPE[0]) // 4, np.arange(SHAPE[1]) // 4) % 120
    noise = rng.integers(0, 7, (bands, *SHAPE))
    return (smooth + noise * (rng.random(noise.shape) < 0.3)).astype(dtype)


def _write(path: Path, array: np.ndarray, **profile: Any) -> Path:
    count, height, width = array.shape
    known = {**PLACED} | {"driver": "GTiff", "photometric": "MINISBLACK"} | profile
    shape = {"count": count, "height": height, "width": width, "dtype": array.dtype}
    with rasterio.open(path, "w", **shape, **known) as dataset:
        if profile.get("SPARSE_OK"):
            dataset.write(array[:, :16, :32], window=((0, 16), (0, 32)))
        else:
            dataset.write(array)
    return path


def _masked(folder: Path) -> Path:
    path = folder / "masked.tif"
    array = _pixels("uint16", 1)
    count, height, width = array.shape
    shape = {"count": count, "height": height, "width": width, "dtype": array.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **shape, **DEFLATE, **PLACED) as dataset,
    ):
        dataset.write(array)
        dataset.write_mask(array[0] % 5 > 0)
    return path


def _with_mask_file(folder: Path) -> Path:
    path = _write(folder / "beside.tif", _pixels("uint8", 1), **TILES)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(_pixels("uint8", 1)[0] % 5 > 0)
    return path


def _alpha(folder: Path) -> Path:
    array = _pixels("uint8", 4)
    return _write(folder / "alpha.tif", array, **DEFLATE, photometric="RGB", alpha="YES")


def _overviews(folder: Path) -> Path:
    path = _write(folder / "overviews.tif", _pixels("uint16", 2), **DEFLATE)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
    return path


def _cog(folder: Path) -> Path:
    source = _write(folder / "source.tif", _pixels("uint16", 1), **TILES)
    gdal_copy(source, folder / "cog.tif", driver="COG", compress="deflate", overview_count=1)
    source.unlink()
    return folder / "cog.tif"


def _palette(folder: Path) -> Path:
    path = _write(folder / "palette.tif", _pixels("uint8", 1), **DEFLATE, photometric="PALETTE")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {i: (i, 255 - i, 7, 255) for i in range(256)})
    return path


def _scaled(folder: Path) -> Path:
    path = _write(folder / "scaled.tif", _pixels("int16", 2), **DEFLATE, nodata=-1)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.1, 2.0), (5.0, -3.0)
        dataset.units, dataset.descriptions = ("K", "m"), ("warm", "tall")
        dataset.update_tags(mission="seven")
    return path


def _points(folder: Path) -> Path:
    path = _write(folder / "points.tif", _pixels("uint8", 1), **DEFLATE, transform=None, crs=None)
    with rasterio.open(path, "r+") as dataset:
        places = ((0, 0), (0, 59), (49, 0), (49, 59))
        points = [GroundControlPoint(row=r, col=c, x=20 + c / 9, y=9 - r / 9) for r, c in places]
        dataset.gcps = (points, rasterio.CRS.from_epsg(4326))
    return path


def _of_tifffile(folder: Path) -> Path:
    """Leave tags as others than GDAL write them: white is zero, resolution, one long strip."""
    pixels = _pixels("uint8", 1)[0]
    how = {"photometric": "miniswhite", "rowsperstrip": 50, "resolution": (72, 72)}
    tifffile.imwrite(folder / "white.tif", pixels, metadata={"axes": "YX"}, **how)
    return folder / "white.tif"


def _described_beside(folder: Path) -> Path:
    """Put nodata and statistics into a file of GDAL's beside the raster."""
    path = _write(folder / "described.tif", _pixels("uint8", 1), **DEFLATE)
    Path(f"{path}.aux.xml").write_text(
        "<PAMDataset>\n"
        "  <GeoTransform>700000, 30, 0, -2800000, 0, -30</GeoTransform>\n"
        '  <Metadata>\n    <MDI key="made">2026</MDI>\n  </Metadata>\n'
        '  <PAMRasterBand band="1">\n'
        "    <Description>red</Description>\n"
        "    <NoDataValue>7</NoDataValue>\n"
        "    <Scale>0.5</Scale>\n"
        "    <Offset>3</Offset>\n"
        '    <Metadata>\n      <MDI key="STATISTICS_MEAN">60</MDI>\n    </Metadata>\n'
        "  </PAMRasterBand>\n"
        "</PAMDataset>\n"
    )
    return path


VRT_BAND = """  <VRTRasterBand dataType="UInt16" band="{band}">
    <NoDataValue>7</NoDataValue>
    <ColorInterp>Gray</ColorInterp>
    <{kind}>
      <SourceFilename relativeToVRT="1">{name}</SourceFilename>
      <SourceBand>1</SourceBand>
      <SourceProperties RasterXSize="60" RasterYSize="50" DataType="UInt16"
        BlockXSize="32" BlockYSize="16" />
      <SrcRect xOff="0" yOff="0" xSize="60" ySize="50" />
      <DstRect xOff="{left}" yOff="0" xSize="60" ySize="50" />
      {more}
    </{kind}>
  </VRTRasterBand>
"""


def _vrt(folder: Path) -> Path:
    for name in ("west.tif", "east.tif"):
        _write(folder / name, _pixels("uint16", 1), **DEFLATE)
    scaled = "<NODATA>7</NODATA><ScaleOffset>2</ScaleOffset><ScaleRatio>3</ScaleRatio>"
    bands = [
        VRT_BAND.format(band=1, kind="SimpleSource", name="west.tif", left=0, more=""),
        VRT_BAND.format(band=2, kind="ComplexSource", name="east.tif", left=60, more=scaled),
    ]
    (folder / "stack.vrt").write_text(
        '<VRTDataset rasterXSize="120" rasterYSize="50">\n'
        "  <SRS>EPSG:32621</SRS>\n"
        "  <GeoTransform>700000, 30, 0, -2800000, 0, -30</GeoTransform>\n"
        f"{''.join(bands)}</VRTDataset>\n"
    )
    return folder / "stack.vrt"


MORE: Mapping[str, Callable[[Path], Path]] = {
    "mask inside": _masked,
    "mask beside": _with_mask_file,
    "alpha": _alpha,
    "overviews": _overviews,
    "COG": _cog,
    "palette": _palette,
    "scale and offset": _scaled,
    "control points": _points,
    "white is zero": _of_tifffile,
    "described beside": _described_beside,
    "VRT": _vrt,
}
"""Kinds that take more than one call."""


def make_seeds() -> list[Seed]:
    """Return all kinds that this GDAL can write."""
    makers: dict[str, Callable[[Path], Path]] = {}
    for name, (dtype, bands, profile) in GEOTIFFS.items():
        makers[name] = _maker(dtype, bands, profile)
    seeds = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for name, make in (makers | dict(MORE)).items():
            try:
                seeds.append(_seed(name, make))
            except (RasterioError, ValueError, TypeError):  # a codec or dtype that is not built in
                continue
    return seeds


def _maker(dtype: str, bands: int, profile: Mapping[str, Any]) -> Callable[[Path], Path]:
    return lambda folder: _write(folder / "in.tif", _pixels(dtype, bands), **profile)


def _seed(name: str, make: Callable[[Path], Path]) -> Seed:
    with tempfile.TemporaryDirectory() as folder:
        main = make(Path(folder))
        others = sorted(path for path in Path(folder).iterdir() if path != main)
        return Seed(name, {path.name: path.read_bytes() for path in (main, *others)})


def write_raster(
    name: str, array: np.ndarray, *, left: int = 0, **profile: Any
) -> dict[str, bytes]:
    """Return a GeoTIFF as bytes, ``left`` pixels from where others begin, by its name."""
    placed = rasterio.Affine(30, 0, 700000 + 30 * left, 0, -30, -2800000)
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder) / name, array, **profile | {"transform": placed})
        return {name: path.read_bytes()}
