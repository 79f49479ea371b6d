"""Finished GeoTIFFs, COGs and VRTs of parts, as any reader sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rasterio
from rasterio.windows import Window

from tileconv.bounded import check_regular
from tileconv.raster import gdal
from tileconv.raster.dataset_spec import DatasetSpec
from tileconv.raster.tag_model import DOMAIN
from tileconv.raster.vrt import is_vrt

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from rasterio.io import DatasetReader

    from tileconv.raster.sink import OutputSpec


def find_differences(spec: OutputSpec) -> list[str]:
    """Say what of grid, dtype and nodata is not as ``spec`` has it."""
    with gdal.environment(), _open(spec.path) as dataset:
        found = {
            "shape": (dataset.count, dataset.height, dataset.width),
            "dtype": dataset.dtypes[0],
            "transform": tuple(dataset.transform)[:6],
            "CRS": dataset.crs,
            "nodata": str(dataset.nodata),
        }
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    nodata: object = None if spec.nodata is None else float(spec.nodata.item())
    if spec.dtype.itemsize == 8 and spec.dtype.kind in "iu":  # digit by digit
        found["nodata"], nodata = str(DatasetSpec.of(spec.path).nodata_texts(1)[0]), spec.nodata
    expected = {
        "shape": spec.shape,
        "dtype": spec.dtype.name,
        "transform": tuple(spec.transform or identity),
        "CRS": spec.crs,
        "nodata": str(nodata),
    }
    return [
        f"its {key} is {found[key]}, and the job gives {value}"
        for key, value in expected.items()
        if found[key] != value
    ]


def read_window(path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Return the pixels (bands, rows, columns) of half-open ranges."""
    window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
    with (
        gdal.reading_errors(path),
        gdal.environment(),
        _open(path) as dataset,
        gdal.strictly(),
    ):
        return dataset.read(window=window)


def block_side(path: Path) -> int:
    """Return the side of the blocks."""
    with gdal.environment(), _open(path) as dataset:
        return int(dataset.block_shapes[0][0])


def read_tags(path: Path) -> dict[str, str]:
    """Return tileconv's own tags."""
    with gdal.environment(), _open(path) as dataset:
        return dict(dataset.tags(ns=DOMAIN))


def _open(path: Path) -> DatasetReader:
    check_regular(path)  # GDAL would wait for what comes through a pipe
    with gdal.quietly():
        return rasterio.open(path, driver="VRT" if is_vrt(path) else "GTiff", sharing=False)
