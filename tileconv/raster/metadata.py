"""The header of a raster: everything a plan and an output need, without a pixel read."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from tileconv.dtypes import check_input
from tileconv.errors import InputError, TileconvError
from tileconv.planning.layout import Layout
from tileconv.raster import gdal
from tileconv.raster.opening import Opening
from tileconv.raster.remote import Place, Remote
from tileconv.raster.structure import nodata_text, stored_bytes

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

    from tileconv.geometry import Transform

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_SIDECARS = (".aux.xml", ".msk", ".tfw", ".tifw", ".wld")
_EXACT_INTEGERS = 1 << 53
"""Beyond it a float no longer holds every integer."""


@dataclass(frozen=True)
class Identity:
    """Tells whether a file is still the one that was planned."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, *paths: Path) -> Identity:
        """Look at ``paths`` now; of several files it is the sum."""
        found = [os.stat(path) for path in paths]
        return cls(
            sum(f.st_size for f in found),
            sum(f.st_mtime_ns for f in found),
            sum(f.st_ino for f in found),
        )


@dataclass(frozen=True)
class Header:
    """What a raster's header says. Bands are 1-based."""

    path: Place
    opening: Opening
    identity: Identity
    layout: Layout
    bands: tuple[int, ...]
    """Bands to convolve."""
    transform: Transform | None
    crs: CRS | None
    nodata: float | int | None
    """As the bands' own dtype can hold it, else None."""
    mask_band: int | None
    """Alpha band, or 0 for the dataset's mask; None if there is neither."""
    descriptions: tuple[str | None, ...]
    """Of the bands to convolve."""
    area_or_point: str | None
    codec: str
    stored_bytes: int
    notes: tuple[str, ...]
    scenes: tuple[Header, ...] = ()
    """Of a mosaic, whose ``path`` is that of its first scene."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file on disk that is read, those that a VRT names too."""
        return _files(self.path, self.opening)

    @property
    def pixel_metres(self) -> tuple[float, float] | None:
        """Height and width of a pixel on the ground; None without a projected coordinate system."""
        if self.transform is None or self.crs is None or not self.crs.is_projected:
            return None
        a, b, _, d, e, _ = self.transform
        metres = float(self.crs.linear_units_factor[1])
        return math.hypot(b, e) * metres, math.hypot(a, d) * metres


def _files(path: Place, opening: Opening) -> tuple[Path, ...]:
    local = () if isinstance(path, Remote) else (path,)
    return (*dict.fromkeys((*local, *opening.files)),)


def read_header(
    path: Place,
    bands: tuple[int, ...] | None,
    *,
    masks: bool = True,
    root: Path | None = None,
) -> Header:
    """Open ``path``, check that tileconv can convolve it, and return what its header says.

    ``masks`` false ignores nodata, mask and alpha; files of a VRT must lie
    under ``root``. Raises `InputError`.
    """
    check_file(path)
    opening = Opening.of(path, root)
    try:
        with gdal.environment(), gdal.open_dataset(opening) as dataset:
            return _read(path, opening, dataset, bands, masks=masks)
    except TileconvError:
        raise
    except gdal.GDAL_ERRORS as error:
        cause = gdal.cause(error)
        if opening.driver == "GTiff" and not opening.remote:
            raise InputError(f"{path}: cannot be opened as GeoTIFF: {cause}") from error
        raise InputError(
            f"{path}: cannot be read: {cause.replace(opening.name, path.name)}"
        ) from error


def check_file(path: Place) -> None:
    """Check that ``path`` is an ordinary file that may be read, unless it is a URL."""
    if isinstance(path, Remote):
        return
    text = str(path)
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character
        if "://" in text or ":/" in text or text.startswith(("/vsi", "<")):
            raise InputError(
                f"{text}: only files on disk are read; https:// and s3:// with input.remote: true"
            ) from None
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: not a file")
    if found.st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: permission denied")


def _read(
    path: Place,
    opening: Opening,
    dataset: DatasetReader,
    bands: tuple[int, ...] | None,
    *,
    masks: bool,
) -> Header:
    interpretation = dataset.colorinterp
    alpha = [i for i, c in enumerate(interpretation, 1) if c == ColorInterp.alpha]
    chosen = bands or tuple(i for i in dataset.indexes if i not in alpha)
    for band in chosen:
        if band not in dataset.indexes:
            raise InputError(f"{path}: there is no band {band}; it has bands 1 to {dataset.count}")
        if interpretation[band - 1] == ColorInterp.palette:
            raise InputError(
                f"{path}: band {band} has a colour palette: its pixels are class codes, "
                "which have no weighted sum"
            )
    if not chosen:
        raise InputError(f"{path}: its only band is an alpha band, which is a mask, not data")
    dtypes = {dataset.dtypes[band - 1] for band in dataset.indexes}
    if len(dtypes) > 1:
        raise InputError(f"{path}: bands of different dtypes ({', '.join(sorted(dtypes))})")
    try:
        dtype = check_input(dtypes.pop())
    except TileconvError as error:
        raise InputError(f"{path}: {error}") from None
    notes: list[str] = []
    nodata = _nodata(path, dataset, chosen, dtype, notes) if masks else None
    mask_band = _mask_band(dataset, chosen, alpha) if masks else None
    transform = tuple(dataset.transform)[:6]
    _note_what_is_lost(dataset, chosen, notes)
    notes += [
        f"{path.name}{suffix} is read beside the raster"
        for suffix in _SIDECARS
        if isinstance(path, Path) and path.with_name(path.name + suffix).exists()
    ]
    return Header(
        path=path,
        opening=opening,
        identity=Identity.of(*_files(path, opening)),
        layout=Layout(
            shape=(dataset.height, dataset.width),
            dtype=dtype,
            block=_block(dataset),
            bands=dataset.count,
            read_bands=len(chosen),
            interleaved=dataset.count > 1 and dataset.profile.get("interleave") == "pixel",
            masked=mask_band is not None,
        ),
        bands=tuple(chosen),
        transform=None if transform == _IDENTITY else transform,
        crs=dataset.crs,
        nodata=nodata,
        mask_band=mask_band,
        descriptions=tuple(dataset.descriptions[band - 1] for band in chosen),
        area_or_point=dataset.tags().get("AREA_OR_POINT"),
        codec=str(dataset.profile.get("compress") or "uncompressed"),
        stored_bytes=_sampled_bytes(dataset) if opening.remote else _stored_bytes(opening),
        notes=tuple(notes),
    )


def _stored_bytes(opening: Opening) -> int:
    return sum(map(stored_bytes, opening.files))


def _sampled_bytes(dataset: DatasetReader) -> int:
    """Estimate the compressed bytes of a remote raster from a few blocks along its diagonal."""
    rows, columns = dataset.block_shapes[0]
    grid = -(-dataset.height // rows), -(-dataset.width // columns)
    planes = 1 if dataset.profile.get("interleave") == "pixel" else dataset.count
    sizes = []
    for step in range(16):
        row, column = (count * step // 16 for count in grid)
        text = dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
        sizes.append(int(text or 0))
    return round(sum(sizes) / len(sizes) * grid[0] * grid[1] * planes)


def _block(dataset: DatasetReader) -> tuple[int, int]:
    """Return the storage block, cut to the raster: strips are declared taller than they are."""
    rows, columns = dataset.block_shapes[0]
    return min(rows, dataset.height), min(columns, dataset.width)


def _nodata(
    path: Place, dataset: DatasetReader, bands: tuple[int, ...], dtype: np.dtype, notes: list[str]
) -> float | int | None:
    """Return nodata if the bands' dtype holds it; GDAL never matches a value it cannot hold."""
    values = {dataset.nodatavals[band - 1] for band in bands}
    if len({None if v is None or math.isnan(v) else v for v in values}) > 1:
        raise InputError(f"{path}: bands with different nodata ({values}) are not supported yet")
    value: float | int | None = values.pop()
    if value is None or dtype.kind == "f":
        return value
    if dtype.itemsize == 8:  # rasterio passes nodata through a double
        text = nodata_text(path) if isinstance(path, Path) else None
        if text is not None and text.lstrip("+-").isdigit():
            value = int(text)
        elif text is not None and not _says(text, value):  # GDAL takes the 1 of 1e18
            raise InputError(
                f"{path}: nodata is written as {text}, which is no exact {dtype}; "
                "correct the file, or set input.mask to none to take all pixels as valid"
            )
        if isinstance(value, float) and abs(value) >= _EXACT_INTEGERS:
            raise InputError(f"{path}: nodata {value!r} is too large to be exact in {dtype}")
    bounds = np.iinfo(dtype)
    if not math.isfinite(value) or value != int(value) or not bounds.min <= value <= bounds.max:
        notes.append(f"nodata {value:g} is not a value of {dtype}, so no pixel can equal it")
        return None
    return int(value)


def _says(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _mask_band(dataset: DatasetReader, bands: tuple[int, ...], alpha: list[int]) -> int | None:
    """Return what masks pixels beside nodata: an alpha band, 0 for a dataset's mask, or None."""
    if alpha and alpha[0] not in bands:
        return alpha[0]
    flags = dataset.mask_flag_enums[bands[0] - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return 0
    return None


def _note_what_is_lost(dataset: DatasetReader, bands: tuple[int, ...], notes: list[str]) -> None:
    if dataset.gcps[0]:
        notes.append(
            f"{len(dataset.gcps[0])} ground control points are not carried over yet: dropped"
        )
    if dataset.rpcs is not None:
        notes.append("RPCs are not carried over yet: dropped")
    scaled = [b for b in bands if (dataset.scales[b - 1], dataset.offsets[b - 1]) != (1.0, 0.0)]
    if scaled:
        notes.append(
            "scale and offset tags are neither applied nor kept: stored values are convolved"
        )
