"""Direct reads of an input for `tileconv verify`: no plan, no tiles, no store of blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from rasterio.windows import Window

from tileconv.raster import gdal

if TYPE_CHECKING:
    from tileconv.raster.header import Header


def read_pixels(
    header: Header, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the bands of a raster at ``rows`` and ``columns``, in any order, repeated or not.

    With them, where a mask, an alpha band or a band's own nodata hides a pixel:
    (1 or bands, rows, columns), None if the file has no such thing.
    """
    if header.scenes:
        return _read_scenes(header, rows, columns)
    ys, at_y = np.unique(rows, return_inverse=True)
    xs, at_x = np.unique(columns, return_inverse=True)
    with (
        gdal.reading_errors(header.path),
        gdal.environment(),
        gdal.open_dataset(header.spec) as dataset,
        gdal.strictly(),
    ):
        read = [
            [
                header.decoding.read(dataset, Window(left, top, right - left, bottom - top))
                for left, right in _runs(xs)
            ]
            for top, bottom in _runs(ys)
        ]

    def gather(parts: list[list[np.ndarray]]) -> np.ndarray:
        whole = np.concatenate([np.concatenate(row, axis=2) for row in parts], axis=1)
        return whole[:, at_y][:, :, at_x]

    bands = gather([[part.bands for part in row] for row in read])
    marks = [[part.masked for part in row if part.masked is not None] for row in read]
    return bands, gather(marks) if marks[0] else None


def _read_scenes(
    header: Header, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read a mosaic: each pixel from the first scene in which it is valid."""
    layout = header.layout
    bands = np.zeros((layout.read_bands, rows.size, columns.size), layout.dtype)
    lost = np.ones(bands.shape, bool)
    for scene, place in zip(header.scenes, layout.scenes, strict=True):
        (top, left), (height, width) = place.offset, place.layout.shape
        y = np.flatnonzero((rows >= top) & (rows < top + height))
        x = np.flatnonzero((columns >= left) & (columns < left + width))
        if not y.size or not x.size:
            continue
        values, masked = read_pixels(scene, rows[y] - top, columns[x] - left)
        valid = values == values  # noqa: PLR0124 - NaN is not itself
        if header.nodata is not None:
            valid &= values != header.nodata
        if masked is not None:
            valid &= ~masked
        where = np.ix_(np.arange(len(bands)), y, x)
        take = lost[where] & valid
        bands[where] = np.where(take, values, bands[where])
        lost[where] &= ~valid
    return bands, lost


def _runs(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Return half-open ranges of consecutive numbers."""
    cuts = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), numbers.size]
    return [(int(numbers[a]), int(numbers[b - 1]) + 1) for a, b in pairwise(cuts)]
