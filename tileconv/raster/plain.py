"""Plain reads for `tileconv verify`: no plan, no tiles, no store of blocks."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.windows import Window

from tileconv.bounded import check_regular, read_bounded
from tileconv.errors import InputError, TileconvError
from tileconv.raster import gdal
from tileconv.raster.carry import DOMAIN
from tileconv.raster.opening import Opening
from tileconv.raster.part_files import check_parts
from tileconv.raster.structure import check_complete, check_pages
from tileconv.raster.vrt import is_vrt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rasterio.io import DatasetReader

    from tileconv.raster.metadata import Header
    from tileconv.raster.sink import OutputSpec

LARGEST_JSON = 64 << 20
"""Bytes of what a Zarr store tells of itself, at the most."""


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
        _errors(header.path),
        gdal.environment(),
        gdal.open_dataset(header.opening) as dataset,
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


@dataclass(frozen=True)
class Output:
    """A finished output, as any reader sees it."""

    spec: OutputSpec

    @classmethod
    def of(cls, spec: OutputSpec, *, chosen: bool) -> Output:
        """Look at the output that ``spec`` describes; its blocks may have any size if ``chosen``.

        Where a job does not say the size, the plan chooses it, and on a machine or a cluster with
        other threads or memory it has chosen another.
        """
        with contextlib.suppress(TileconvError, *gdal.GDAL_ERRORS):  # `faults` tells
            return cls(replace(spec, block=_block(spec)) if chosen else spec)
        return cls(spec)

    def faults(self) -> list[str]:
        """Say what of structure, grid and dtype is not as the job would write it."""
        spec, wrong = self.spec, []
        try:
            if spec.driver == "Zarr":
                from tileconv.raster.zarr_store import check_store  # noqa: PLC0415 - an extra

                check_store(spec.path, spec)
                return []
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
                found["nodata"], nodata = str(Opening.of(spec.path).nodata_texts(1)[0]), spec.nodata
            expected = {
                "shape": spec.shape,
                "dtype": spec.dtype.name,
                "transform": tuple(spec.transform or identity),
                "CRS": spec.crs,
                "nodata": str(nodata),
            }
            wrong = [
                f"its {key} is {found[key]}, and the job gives {value}"
                for key, value in expected.items()
                if found[key] != value
            ]
            if not wrong and spec.driver == "COG":
                check_pages(spec.path, spec.shape)
            elif not wrong and spec.layout == "parts":
                check_parts(spec)
            elif not wrong:
                check_complete(spec.path, spec.blocks)
        except TileconvError as error:
            wrong.append(str(error))
        except gdal.GDAL_ERRORS as error:
            wrong.append(f"it cannot be read: {gdal.cause(error)}")
        return wrong

    def read(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Return the pixels (bands, rows, columns) of half-open ranges."""
        if self.spec.driver == "Zarr":
            from tileconv.raster.zarr_store import read_store  # noqa: PLC0415 - an extra

            return read_store(self.spec.path, rows, columns)
        window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        with (
            _errors(self.spec.path),
            gdal.environment(),
            _open(self.spec.path) as dataset,
            gdal.strictly(),
        ):
            return dataset.read(window=window)


def _block(spec: OutputSpec) -> int:
    """Return the side of the blocks that a finished output has."""
    if spec.driver == "Zarr":
        from tileconv.raster.zarr_store import chunk_side  # noqa: PLC0415 - an extra

        return chunk_side(spec.path)
    with gdal.environment(), _open(spec.path) as dataset:
        return int(dataset.block_shapes[0][0])


def _open(path: Path) -> DatasetReader:
    check_regular(path)  # GDAL would wait for what comes through a pipe
    with gdal.quietly():
        return rasterio.open(path, driver="VRT" if is_vrt(path) else "GTiff", sharing=False)


@contextlib.contextmanager
def _errors(path: object) -> Iterator[None]:
    try:
        yield
    except gdal.GDAL_ERRORS as error:
        if isinstance(error, TileconvError):
            raise
        raise InputError(f"{path}: cannot be read: {gdal.cause(error)}") from gdal.told(error)


def stored_tags(path: Path, driver: str) -> dict[str, str]:
    """Return tileconv's own tags of an output that is there; none if it cannot be read."""
    try:
        if driver == "Zarr":
            about = json.loads(read_bounded(path / "zarr.json", LARGEST_JSON))
            return dict(about["attributes"][DOMAIN])
        with gdal.environment(), _open(path) as dataset:
            return dict(dataset.tags(ns=DOMAIN))
    except (*gdal.GDAL_ERRORS, KeyError, TypeError, RecursionError):
        return {}


def gdal_version() -> str:
    """Return the version of GDAL, on which the bytes of compressed blocks depend."""
    return str(rasterio.__gdal_version__)
