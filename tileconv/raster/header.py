"""The header of a raster: everything a plan and an output need, without a pixel read."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rasterio.enums import ColorInterp, MaskFlags

from tileconv.bounded import kind_of
from tileconv.dtypes import check_input, compute_dtype
from tileconv.errors import InputError, TileconvError
from tileconv.planning.layout import Layout
from tileconv.raster import gdal
from tileconv.raster.beside import check_beside
from tileconv.raster.dataset_spec import DatasetSpec
from tileconv.raster.decoding import (
    Decoding,
    Flags,
    Mask,
    Nodata,
    common_nodata,
    find_mask,
    find_nodata,
    in_dtype,
    true_colours,
)
from tileconv.raster.direct_tiff import DirectTIFF, find_direct_tiff
from tileconv.raster.names import VRT, format_of
from tileconv.raster.remote import Place, Remote
from tileconv.raster.structure import sparse_blocks, stored_bytes, tile_shape
from tileconv.raster.tag_model import Metadata

if TYPE_CHECKING:
    import numpy as np
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

    from tileconv.geometry import Transform

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
MOST_WARNINGS = 3
"""Warnings of GDAL's that are reported of one file; a damaged one gives any number."""


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
    spec: DatasetSpec
    identity: Identity
    layout: Layout
    bands: tuple[int, ...]
    """Bands to convolve."""
    transform: Transform | None
    crs: CRS | None
    nodata: Nodata
    """What tiles compare pixels with, None if there is none or it is found while reading."""
    has_nodata: bool
    decoding: Decoding
    metadata: Metadata
    """Of the bands to convolve."""
    codec: str
    stored_bytes: int
    notes: tuple[str, ...]
    scenes: tuple[Header, ...] = ()
    """Of a mosaic, whose ``path`` is that of its first scene."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file on disk that is read, those that a VRT names too."""
        return _files(self.path, self.spec)

    @property
    def scaled(self) -> bool:
        """Scale and offset are applied while reading."""
        return bool(self.decoding.scales)

    @property
    def descriptions(self) -> tuple[str | None, ...]:
        """Names of the bands to convolve."""
        return tuple(band.description for band in self.metadata.bands)

    @property
    def pixel_metres(self) -> tuple[float, float] | None:
        """Height and width of a pixel on the ground; None without a projected coordinate system."""
        if self.transform is None or self.crs is None or not self.crs.is_projected:
            return None
        a, b, _, d, e, _ = self.transform
        metres = float(self.crs.linear_units_factor[1])
        return math.hypot(b, e) * metres, math.hypot(a, d) * metres

    def find_direct_tiff(self) -> DirectTIFF | None:
        """Return how the blocks are stored, None if GDAL must read them."""
        return find_direct_tiff(self.spec, self.layout, self.decoding)


def _files(path: Place, spec: DatasetSpec) -> tuple[Path, ...]:
    local = () if isinstance(path, Remote) else (path,)
    return (*dict.fromkeys((*local, *spec.files)),)


@dataclass(frozen=True)
class Wanted:
    """What a job asks of a raster."""

    bands: tuple[int, ...] | None = None
    """1-based; None: all but an alpha band."""
    mask: Literal["auto", "nodata", "dataset", "none"] = "auto"
    """What makes pixels missing: nodata, mask and alpha, each of them; nodata alone; whichever of
    them GDAL goes by; nothing but NaN."""
    scaled: bool = False
    """Apply scale and offset."""
    palette: bool = False
    """Take the codes of a band with a colour palette as numbers."""
    target: np.dtype | None = None
    """Dtype of the output, if the job says it."""
    root: Path | None = None
    """A folder that holds all files of a VRT; None is that of the VRT."""


def read_header(path: Place, wanted: Wanted) -> Header:
    """Open ``path``, check that tileconv can convolve it, and return what its header says.

    Raises `InputError`.
    """
    check_file(path)
    spec = DatasetSpec.of(path, wanted.root)
    try:
        with (
            gdal.environment(),
            gdal.listening() as warned,
            gdal.open_dataset(spec) as dataset,
        ):
            header = _read(path, spec, dataset, wanted)
        return replace(header, notes=(*header.notes, *_warnings(path, warned)))
    except TileconvError:
        raise
    except gdal.GDAL_ERRORS as error:
        cause = gdal.cause(error)
        if spec.is_tiff_on_disk:
            if isinstance(path, Path) and (kind := format_of(path)) is not None:
                raise InputError(
                    f"{path}: is a VRT; only one whose name ends in .vrt is read"
                    if kind == VRT
                    else f"{path}: is {kind}; inputs are GeoTIFFs and VRTs of them: convert it, "
                    "like gdal_translate does"
                ) from error
            cause = cause.removeprefix(f"{Path(str(path)).name}: ")  # libtiff begins with it
            raise InputError(f"{path}: cannot be opened as GeoTIFF: {cause}") from error
        raise InputError(
            f"{path}: cannot be read: {cause.replace(spec.name, path.name)}"
        ) from gdal.told(error)


def _warnings(path: Place, warned: list[str]) -> list[str]:
    """Return notes of what GDAL warns of when it opens a raster, which is printed nowhere."""
    told = [*dict.fromkeys(words.removeprefix(f"{path.name}: ") for words in warned)]
    notes = [f"GDAL warns: {words}" for words in told[:MOST_WARNINGS]]
    if len(told) > MOST_WARNINGS:
        notes.append(f"GDAL warns of {len(told) - MOST_WARNINGS} more things")
    return notes


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
        # os.path.exists says no where Path.exists raises: in folders that may not be entered
        store = any(os.path.exists(Path(path) / name) for name in ("zarr.json", ".zgroup"))  # noqa: PTH110
        if store:
            raise InputError(f"{path}: a Zarr store; inputs are GeoTIFFs and VRTs of them")
        raise InputError(f"{path}: {kind_of(found.st_mode)}")
    if found.st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: permission denied")
    try:
        check_beside(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _read(path: Place, spec: DatasetSpec, dataset: DatasetReader, wanted: Wanted) -> Header:
    colours = true_colours(
        dataset
    )  # first of all: rasterio takes earlier errors of GDAL for its own
    alpha = [i for i, colour in enumerate(colours, 1) if colour == ColorInterp.alpha]
    bands = _choose_bands(path, wanted, colours, alpha)
    notes: list[str] = []
    if dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        notes.append("the file says that 0 is white; numbers are taken as they are stored")
    metadata = Metadata.of(dataset, bands, colours, notes)
    nodata, decoding = _decoding(path, spec, dataset, wanted, metadata, bands, alpha, notes)
    transform = tuple(dataset.transform)[:6]
    if dataset.subdatasets:
        notes.append(f"the file holds {len(dataset.subdatasets)} images; the first one is read")
    _note_sparse_blocks(dataset, spec, notes)
    if spec.is_tiff_on_disk:  # GDAL would ask the server for each
        beside = [Path(name).name for name in dataset.files[1:] if not name.endswith(".ovr")]
        notes += [f"{name} is read beside the raster" for name in beside]
    header = Header(
        path=path,
        spec=spec,
        identity=Identity.of(*_files(path, spec)),
        layout=Layout(
            shape=(dataset.height, dataset.width),
            dtype=decoding.dtype,
            block=_block(dataset),
            unpacked=_unpacked(dataset, spec),
            bands=dataset.count,
            read_bands=len(bands),
            interleaved=dataset.count > 1 and dataset.profile.get("interleave") == "pixel",
            marks=decoding.marks,
            alpha=decoding.alpha is not None,
            stored=decoding.stored if decoding.scales else None,
        ),
        bands=bands,
        transform=None if transform == _IDENTITY else transform,
        crs=dataset.crs,
        nodata=nodata,
        has_nodata=nodata is not None or any(v is not None for v in decoding.nodata),
        decoding=decoding,
        metadata=metadata,
        codec=str(dataset.profile.get("compress") or "uncompressed"),
        stored_bytes=_sampled_bytes(dataset) if spec.remote else _stored_bytes(spec),
        notes=tuple(notes),
    )
    direct = header.find_direct_tiff() is not None
    return replace(header, layout=replace(header.layout, direct=direct))


def _note_sparse_blocks(dataset: DatasetReader, spec: DatasetSpec, notes: list[str]) -> None:
    counts = [sparse_blocks(file) for file in spec.files]
    sparse, blocks = sum(count[0] for count in counts), sum(count[1] for count in counts)
    if sparse:
        value = "0" if dataset.nodata is None else "nodata"
        notes.append(
            f"{sparse:,} of {blocks:,} blocks are not stored: their pixels read as {value}"
        )


def _choose_bands(
    path: Place, wanted: Wanted, colours: Sequence[ColorInterp], alpha: list[int]
) -> tuple[int, ...]:
    everything = range(1, len(colours) + 1)
    bands = wanted.bands or tuple(i for i in everything if i not in alpha)
    for band in bands:
        if band not in everything:
            raise InputError(f"{path}: there is no band {band}; it has bands 1 to {len(colours)}")
        palette = colours[band - 1] == ColorInterp.palette
        if palette and not (wanted.palette and wanted.bands):
            raise InputError(
                f"{path}: band {band} has a colour palette: its pixels are class codes, which "
                "have no weighted sum; to convolve the codes as numbers all the same, name the "
                "band in input.bands and set input.palette to true"
            )
    if not bands:
        raise InputError(f"{path}: its only band is an alpha band, which is a mask, not data")
    return tuple(bands)


def _decoding(
    path: Place,
    spec: DatasetSpec,
    dataset: DatasetReader,
    wanted: Wanted,
    metadata: Metadata,
    bands: tuple[int, ...],
    alpha: list[int],
    notes: list[str],
) -> tuple[Nodata, Decoding]:
    """Return (nodata that tiles compare with, how stored values become pixels)."""
    dtypes = {*dataset.dtypes}
    if len(dtypes) > 1:
        raise InputError(f"{path}: bands of different dtypes ({', '.join(sorted(dtypes))})")
    name = dtypes.pop()
    if name.startswith("complex"):
        raise InputError(
            f"{path}: complex input ({name}) is not supported yet; write .real and .imag into "
            "rasters of their own, and convolve these"
        )
    try:
        stored = check_input(name)
    except TileconvError as error:
        raise InputError(f"{path}: {error}") from None
    scales: tuple[tuple[float, float], ...] = ()
    if wanted.scaled and metadata.scaled_bands:
        scales = tuple((band.scale, band.offset) for band in metadata.bands)
        if not all(math.isfinite(value) for pair in scales for value in pair):
            raise InputError(f"{path}: its scale and offset tags are no numbers: {scales}")
    elif wanted.scaled:
        notes.append("there are no scale and offset tags to apply")
    hides = {"auto": ("nodata", "mask"), "nodata": ("nodata",), "dataset": ("mask",), "none": ()}
    by = hides[wanted.mask]
    values: tuple[Nodata, ...] = ()
    mask: Mask | None = None
    flags: Flags = dataset.mask_flag_enums if by else ()  # each look at them reads all bands
    if "nodata" in by:
        values = find_nodata(path, spec, dataset, bands, flags, stored, notes)
    if "mask" in by:
        mask = find_mask(dataset, bands, flags, gdals=wanted.mask == "dataset")
    transparent = wanted.mask == "auto" and bool(alpha) and alpha[0] not in bands
    _note_both(dataset, bands, values, notes, mask=mask == "dataset", alpha=transparent)
    same, nodata = common_nodata(values)
    sought: tuple[np.generic | None, ...] = ()
    if scales or not same:
        sought, nodata = in_dtype(values, stored), None
        sought = sought if any(value is not None for value in sought) else ()
    return nodata, Decoding(
        bands=bands,
        stored=stored,
        dtype=compute_dtype(stored, wanted.target) if scales else stored,
        alpha=alpha[0] if transparent else None,
        mask=mask,
        nodata=sought,
        scales=scales,
    )


def _note_both(
    dataset: DatasetReader,
    bands: tuple[int, ...],
    values: tuple[Nodata, ...],
    notes: list[str],
    *,
    mask: bool,
    alpha: bool,
) -> None:
    """Note that pixels are missing for two reasons, of which GDAL knows one."""
    told = next((value for value in values if value is not None), None)
    if told is None or not (mask or alpha):
        return
    by_nodata = MaskFlags.nodata in dataset.mask_flag_enums[bands[0] - 1]
    other = "the mask" if mask else "the alpha band"
    notes.append(
        f"{other} and nodata {told:g} hide pixels, each by itself; GDAL goes by "
        f"{'nodata' if by_nodata else other} alone, and so does input.mask: dataset"
    )


def _stored_bytes(spec: DatasetSpec) -> int:
    return sum(map(stored_bytes, spec.files))


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


def _unpacked(dataset: DatasetReader, spec: DatasetSpec) -> tuple[int, int]:
    """Return what is unpacked of a storage block: of tiles all, over the raster's edge too.

    Of a VRT that is the largest tile of its files.
    """
    if spec.is_vrt:
        return max(map(tile_shape, spec.files), key=math.prod)
    rows, columns = dataset.block_shapes[0]
    is_strip = columns == dataset.width
    return _block(dataset) if is_strip else (rows, columns)
