"""Which file and block of a VRT are damaged: decoders that GDAL has for its files name neither."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from tileconv.raster import gdal
from tileconv.raster.dataset_spec import DatasetSpec
from tileconv.raster.vrt import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tileconv.raster.rectangles import PixelBounds


def find_damage(vrt: DatasetSpec, extent: PixelBounds) -> tuple[str, BaseException] | None:
    """Return (block of a file, error) of what cannot be decoded under a part of a VRT.

    Each file is opened again: GDAL does not decode what it has in its cache.
    """
    for path, part in _sources(vrt.name, extent):
        with gdal.open_dataset(DatasetSpec.of(path)) as dataset:
            for (row, column), window in dataset.block_windows(1):
                top, left, bottom, right = part
                if not (
                    window.row_off < bottom
                    and top < window.row_off + window.height
                    and window.col_off < right
                    and left < window.col_off + window.width
                ):
                    continue
                try:
                    with gdal.strictly():
                        dataset.read(window=window)
                except gdal.GDAL_ERRORS as error:
                    gdal.check_memory(error)
                    return f"block ({row}, {column}) of {path}", error
    return None


def _sources(text: str, extent: PixelBounds) -> Iterator[tuple[Path, tuple[float, ...]]]:
    """Yield the files of a VRT that lie under a part of it, each with its own part there."""
    top, left, bottom, right = extent
    for source in ElementTree.fromstring(text).iter():
        if source.tag not in SOURCES:
            continue
        path = Path(source.findtext("SourceFilename") or "")
        theirs, ours = (_rectangle(source.find(name)) for name in ("SrcRect", "DstRect"))
        if theirs is None or ours is None:
            yield path, (0, 0, math.inf, math.inf)
            continue
        first = np.maximum((top, left), ours[0])
        last = np.minimum((bottom, right), ours[1])
        if (first < last).all():
            scale = np.subtract(*theirs[::-1]) / np.subtract(*ours[::-1])
            corners = [theirs[0] + (corner - ours[0]) * scale for corner in (first, last)]
            yield path, tuple(np.concatenate(corners).tolist())


def _rectangle(element: ElementTree.Element | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the corners (y, x) of a rectangle, None where it is the whole raster."""
    if element is None:
        return None
    x, y, width, height = (float(element.get(n) or 0) for n in ("xOff", "yOff", "xSize", "ySize"))
    return np.array([y, x]), np.array([y + height, x + width])
