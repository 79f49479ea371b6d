"""The formats of outputs: what each can hold, how it is written, checked and read back.

All that depends on the format is asked of it. A new one is a class here, with what
writes it in a module of its own, and its name in `tileconv.jobs.config`.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from tileconv.bounded import read_bounded
from tileconv.errors import TileconvError
from tileconv.raster import finished, gdal
from tileconv.raster.cog import COGSink, intermediate
from tileconv.raster.geotiff import GeoTIFFSink
from tileconv.raster.geotiff_parts import (
    AssembledCOG,
    AssembledGeoTIFF,
    Assembly,
    PartSink,
    PartWriter,
)
from tileconv.raster.part_files import AssembledVRT, check_parts
from tileconv.raster.sink import OutputLayout, OutputSpec, Sink
from tileconv.raster.structure import check_complete, check_pages
from tileconv.raster.tag_model import DOMAIN, Metadata
from tileconv.raster.tag_propagation import storable_crs
from tileconv.raster.targets import TIFF_FILE, VRT_FILE, Kind

if TYPE_CHECKING:
    import numpy as np
    from rasterio.crs import CRS

    from tileconv.planning.parts import Part

ZARR_STORE = Kind("Zarr store", marker="zarr.json")
_MIB = 1 << 20
LARGEST_JSON = 64 << 20
"""Bytes of what a Zarr store tells of itself, at the most."""


class Format(ABC):
    """A format of outputs."""

    name: str
    """What a job says: ``output.driver``."""
    title: str
    """For the plan."""
    container: str
    """What a file of this format is; a COG is a GeoTIFF."""
    suffixes: tuple[str, ...]
    """Of names that say this format. Of formats that share one, the first is meant."""
    compressions: tuple[str, ...] = ("deflate", "zstd", "lzw", "none")
    no_predictor: str | None = None
    """Why a job cannot name a predictor; None if it can."""
    overviews = False
    """It has overviews."""
    checksums = False
    """Its blocks can end with a checksum."""
    parts = False
    """It can stay in part files, under a VRT."""
    most_blocks: int | None = None
    writer_bytes = 0
    """Memory that writing takes beside the tiles and GDAL's cache."""
    copy_bytes = 0
    """Memory that finishing takes after the tiles."""

    def kind(self, layout: OutputLayout) -> Kind:
        """Return what an output is on the disk."""
        return TIFF_FILE

    # what it can hold

    @abstractmethod
    def storable_crs(self, crs: CRS | None) -> CRS | None:
        """Return ``crs`` if an output can hold it, else None."""

    @abstractmethod
    def losses(self, metadata: Metadata) -> tuple[str, ...]:
        """Return a note for each thing that an output cannot hold."""

    # how it is written

    @abstractmethod
    def open_sink(self, spec: OutputSpec) -> Sink:
        """Return what writes ``spec``, tile by tile."""

    @abstractmethod
    def open_part(self, spec: OutputSpec, part: Part, folder: Path, path: Path) -> PartWriter:
        """Return what writes a part of ``spec``: into ``path``, or elsewhere in a run's folder."""

    @abstractmethod
    def check_part(
        self, spec: OutputSpec, part: Part, entry: Mapping[str, Any], folder: Path, path: Path
    ) -> None:
        """Raise an error if a part is not whole; ``entry`` is what the manifest says of it."""

    @abstractmethod
    def open_assembly(self, spec: OutputSpec, folder: Path, token: str) -> Assembly:
        """Return what makes ``spec`` of the parts in a run's folder."""

    # how it is read back

    def with_its_blocks(self, spec: OutputSpec) -> OutputSpec:
        """Return ``spec`` with the block size of the finished output, as far as it can be read.

        Where a job does not say the size, the plan chooses it, and on a machine or a cluster with
        other threads or memory it has chosen another.
        """
        with contextlib.suppress(TileconvError, *gdal.GDAL_ERRORS):  # `faults` reports them
            return replace(spec, block=self._block_side(spec.path))
        return spec

    def faults(self, spec: OutputSpec) -> list[str]:
        """Say what of structure, grid and dtype of a finished output is not as ``spec`` has it."""
        try:
            return self._faults(spec)
        except TileconvError as error:
            return [str(error)]
        except gdal.GDAL_ERRORS as error:
            return [f"it cannot be read: {gdal.cause(error)}"]

    def tags(self, path: Path) -> dict[str, str]:
        """Return tileconv's own tags of a finished output; none if it cannot be read."""
        try:
            return self._tags(path)
        except (*gdal.GDAL_ERRORS, KeyError, TypeError, RecursionError):
            return {}

    @abstractmethod
    def read(self, path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Return the pixels (bands, rows, columns) of half-open ranges of a finished output."""

    @abstractmethod
    def _block_side(self, path: Path) -> int:
        """Return the side of the blocks of a finished output."""

    @abstractmethod
    def _faults(self, spec: OutputSpec) -> list[str]:
        """Say what is wrong with a finished output, or raise the first error."""

    @abstractmethod
    def _tags(self, path: Path) -> dict[str, str]:
        """Return tileconv's own tags of a finished output."""


class GeoTIFF(Format):
    """One GeoTIFF, or part files and a VRT over them."""

    name = "GTiff"
    title = container = "GeoTIFF"
    suffixes = (".tif", ".tiff")
    parts = True
    most_blocks = (2**31 - 1) // 8
    """GDAL refuses tables of more than 2 GiB, of 8 bytes a block."""

    def kind(self, layout: OutputLayout) -> Kind:
        """Return what an output is on the disk."""
        return VRT_FILE if layout == "parts" else TIFF_FILE

    def storable_crs(self, crs: CRS | None) -> CRS | None:
        """Return ``crs`` if a GeoTIFF has keys for it."""
        return storable_crs(crs)

    def losses(self, metadata: Metadata) -> tuple[str, ...]:
        """Return no note: metadata are GDAL's own."""
        return ()

    def open_sink(self, spec: OutputSpec) -> Sink:
        """Return what writes ``spec``."""
        return GeoTIFFSink(spec)

    def open_part(self, spec: OutputSpec, part: Part, folder: Path, path: Path) -> PartWriter:
        """Return what writes the part file ``path``."""
        return PartSink(spec, part, path)

    def check_part(
        self,
        spec: OutputSpec,
        part: Part,
        entry: Mapping[str, Any],
        folder: Path,
        path: Path,
    ) -> None:
        """Raise an error if a part file is not whole."""
        if path.stat().st_size != entry["bytes_written"]:
            raise OSError("another size")
        down, across = (-(-size // spec.block) for size in part.shape)
        check_complete(path, spec.shape[0] * down * across)

    def open_assembly(self, spec: OutputSpec, folder: Path, token: str) -> Assembly:
        """Return what puts part files together, or moves them and writes a VRT."""
        if spec.layout == "parts":
            return AssembledVRT(spec, folder / "parts", token)
        return AssembledGeoTIFF(spec)

    def read(self, path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Return pixels as GDAL reads them."""
        return finished.read_window(path, rows, columns)

    def _block_side(self, path: Path) -> int:
        return finished.block_side(path)

    def _faults(self, spec: OutputSpec) -> list[str]:
        if found := finished.find_differences(spec):
            return found
        self._check_structure(spec)
        return []

    def _check_structure(self, spec: OutputSpec) -> None:
        if spec.layout == "parts":
            check_parts(spec)
        else:
            check_complete(spec.path, spec.blocks)

    def _tags(self, path: Path) -> dict[str, str]:
        return finished.read_tags(path)


class COG(GeoTIFF):
    """A cloud-optimised GeoTIFF: GDAL copies it from a GeoTIFF once that is whole."""

    name = title = "COG"
    overviews = True
    parts = False
    copy_bytes = 130 * _MIB
    """GDAL's copy and its overviews."""

    def open_sink(self, spec: OutputSpec) -> Sink:
        """Return what writes ``spec``."""
        return COGSink(spec)

    def open_part(self, spec: OutputSpec, part: Part, folder: Path, path: Path) -> PartWriter:
        """Return what writes a part file of the GeoTIFF that is copied."""
        return super().open_part(intermediate(spec), part, folder, path)

    def open_assembly(self, spec: OutputSpec, folder: Path, token: str) -> Assembly:
        """Return what puts part files together and copies them."""
        return AssembledCOG(spec)

    def _check_structure(self, spec: OutputSpec) -> None:
        check_pages(spec.path, spec.shape)


class Zarr(Format):
    """A Zarr v3 store: a folder. What writes it is imported when it is used: zarr is an extra."""

    name = title = "Zarr"
    container = "Zarr store"
    suffixes = (".zarr",)
    compressions = ("deflate", "zstd", "none")
    no_predictor = "Zarr has none: with zstd its bytes are shuffled instead; leave it out"
    checksums = True
    writer_bytes = 12 * _MIB
    """zarr's code."""

    def kind(self, layout: OutputLayout) -> Kind:
        """Return what an output is on the disk."""
        return ZARR_STORE

    def storable_crs(self, crs: CRS | None) -> CRS | None:
        """Return ``crs``: a store holds its text."""
        return crs

    def losses(self, metadata: Metadata) -> tuple[str, ...]:
        """Return a note for each thing that a GeoTIFF would keep and a store does not."""
        notes = []
        if metadata.gcps:
            notes.append("ground control points are dropped: a Zarr store has no place for them")
        if metadata.rpcs is not None:
            notes.append("RPCs are dropped: a Zarr store has no place for them")
        if len({(band.unit, band.scale, band.offset) for band in metadata.bands}) > 1:
            notes.append(
                "units, scale and offset differ between bands and are dropped: "
                "a Zarr store has one of each for all bands"
            )
        if any(band.tags for band in metadata.bands):
            notes.append("tags of bands are dropped: a Zarr store has no place for them")
        return tuple(notes)

    def open_sink(self, spec: OutputSpec) -> Sink:
        """Return what writes ``spec``."""
        from tileconv.raster.zarr_store import ZarrSink  # noqa: PLC0415

        return ZarrSink(spec)

    def open_part(self, spec: OutputSpec, part: Part, folder: Path, path: Path) -> PartWriter:
        """Return what writes the chunks of a part into the store that all parts share."""
        from tileconv.raster.zarr_store import StorePart  # noqa: PLC0415

        return StorePart(spec, _store(folder), part)

    def check_part(
        self,
        spec: OutputSpec,
        part: Part,
        entry: Mapping[str, Any],
        folder: Path,
        path: Path,
    ) -> None:
        """Raise an error if a chunk of a part is not what was written."""
        from tileconv.raster.zarr_store import check_part  # noqa: PLC0415

        check_part(_store(folder), spec, part, bytes.fromhex(entry["crc32c"]))

    def open_assembly(self, spec: OutputSpec, folder: Path, token: str) -> Assembly:
        """Return the store that all parts share."""
        from tileconv.raster.zarr_store import SharedStore  # noqa: PLC0415

        return SharedStore(spec, _store(folder))

    def read(self, path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Return pixels as zarr reads them."""
        from tileconv.raster.zarr_store import read_store  # noqa: PLC0415

        return read_store(path, rows, columns)

    def _block_side(self, path: Path) -> int:
        from tileconv.raster.zarr_store import chunk_side  # noqa: PLC0415

        return chunk_side(path)

    def _faults(self, spec: OutputSpec) -> list[str]:
        from tileconv.raster.zarr_store import check_store  # noqa: PLC0415

        check_store(spec.path, spec)
        return []

    def _tags(self, path: Path) -> dict[str, str]:
        about = json.loads(read_bounded(path / "zarr.json", LARGEST_JSON))
        return dict(about["attributes"][DOMAIN])


def _store(folder: Path) -> Path:
    """Return the store in a run's folder."""
    return folder / "store"


FORMATS: Mapping[str, Format] = {each.name: each for each in (GeoTIFF(), COG(), Zarr())}
"""By name; the first one is the default."""
FORMATS_IN_WORDS = "GeoTIFFs (.tif), COGs (.tif, output.driver: COG) and Zarr stores (.zarr)"
"""All of them, for messages."""


def named_format(name: PurePath) -> Format | None:
    """Return the format that the name of an output says, None if it says none.

    >>> named_format(PurePath("a/out.zarr")).name, named_format(PurePath("out.TIF")).name
    ('Zarr', 'GTiff')
    >>> named_format(PurePath("b"))
    """
    suffix = name.suffix.lower()
    return next((each for each in FORMATS.values() if suffix in each.suffixes), None)


def names_where(has: str) -> str:
    """Return the names of the formats that have something, like ``overviews``, for messages."""
    return " or ".join(each.name for each in FORMATS.values() if getattr(each, has))
