"""Part files, written by many processes, and one GeoTIFF made of them without recompression.

A part file holds whole blocks of the output. Its name says what is in it, so
that whoever writes it a second time changes nothing. The output begins as
GDAL's own empty file, with all its metadata; the compressed blocks of the parts
are appended and entered into its table.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from tileconv.errors import DamagedPartError, OutputError
from tileconv.raster.cog import COGSink
from tileconv.raster.geotiff import GeoTIFFSink
from tileconv.raster.sink import OutputSpec
from tileconv.raster.structure import block_table, check_complete, value_places
from tileconv.raster.tag_model import Metadata

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from tileconv.planning.parts import Part
    from tileconv.planning.tiles import Tile

COPY_BYTES = 8 << 20
"""Bytes of one step of copying."""


@dataclass(frozen=True)
class PartFile:
    """A finished part on the disk."""

    bytes: int
    checksum: int
    """CRC-32 of the file."""

    @classmethod
    def of(cls, path: Path) -> PartFile:
        """Look at a file."""
        crc = size = 0
        add_up = crc32()
        with path.open("rb") as file:
            while chunk := file.read(COPY_BYTES):
                crc, size = add_up(chunk, crc), size + len(chunk)
        return cls(size, crc)

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> PartFile:
        """Return what the manifest says of a part."""
        return cls(entry["bytes_written"], entry["crc32"])


class PartSink(GeoTIFFSink):
    """A part file being written: whole, or absent, and the first one of its name stays.

    It is not synced: whoever uses it compares its checksum, and syncs what is made of it. A part
    that a machine without power has lost is computed again.
    """

    _fsyncs = False

    def __init__(self, spec: OutputSpec, part: Part, path: Path) -> None:
        super().__init__(part_spec(spec, part, path))
        self._corner = part.y[0], part.x[0]

    def __enter__(self) -> Self:
        try:
            self.spec.path.parent.mkdir(exist_ok=True)  # not its parents: a late twin makes no run
            self._create()
        except BaseException:
            self._discard()
            raise
        return self

    def entry(self) -> dict[str, Any]:
        """Check the file and give it its name; return what the manifest tells of it."""
        self.commit()
        stored = PartFile.of(self.spec.path)
        return {"bytes_written": stored.bytes, "crc32": stored.checksum}

    def _put(self, tile: Tile, pixels: np.ndarray) -> None:
        (y, end_y), (x, end_x), (top, left) = tile.y, tile.x, self._corner
        here = tile._replace(y=(y - top, end_y - top), x=(x - left, end_x - left))
        super()._put(here, pixels)

    def _check_target(self) -> None:
        """There may be one already: that of a twin."""

    def _rename(self) -> None:
        try:
            os.link(self._temporary, self.spec.path)
        except OSError:  # there is one, or the disk has no links
            try:
                check_complete(self.spec.path, self.spec.blocks)
            except OSError:  # there is none, or a machine that lost power left it
                os.replace(self._temporary, self.spec.path)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._temporary.unlink()


def part_spec(spec: OutputSpec, part: Part, path: Path) -> OutputSpec:
    """Return the file that holds a part of ``spec``, compressed as its blocks shall be."""
    changed: dict[str, Any] = {
        "path": path,
        "shape": (spec.shape[0], *part.shape),
        "transform": None,
        "crs": None,
        "metadata": Metadata(),
        "threads": 1,
        "layout": "single",
        "own": (),
    }
    if spec.layout == "parts":  # they stay, and are rasters by themselves
        changed["crs"] = spec.crs
        changed["metadata"] = replace(spec.metadata, gcps=(), gcps_crs=None, rpcs=None)
        if spec.transform is not None:
            a, b, c, d, e, f = spec.transform
            y, x = part.y[0], part.x[0]
            changed["transform"] = (a, b, a * x + b * y + c, d, e, d * x + e * y + f)
    return replace(spec, **changed)


@cache
def crc32() -> Callable[[bytes, int], int]:
    """Return zlib's checksum (of bytes, going on from another one), from the fastest library."""
    with contextlib.suppress(ImportError, AttributeError):
        found: Callable[[bytes, int], int] = importlib.import_module("imagecodecs").deflate_crc32
        return found  # a quarter of the time
    return zlib.crc32


class PartWriter(Protocol):
    """A part of an output being written by one task."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything."""

    def write(self, tile: Tile, pixels: np.ndarray) -> None:
        """Write one tile of the part."""

    def entry(self) -> dict[str, Any]:
        """Check what is written; return what the manifest says of it."""


class Assembly(Protocol):
    """What makes one output of parts; without `commit` nothing is left of it."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything."""

    def add(self, part: Part, path: Path, entry: Mapping[str, Any]) -> None:
        """Take in a part by its file and its entry in the manifest.

        Raises `DamagedPartError` if the file is not the one that was written.
        """

    def commit(self) -> int:
        """Check the output, sync it and put it in its place; return its bytes."""


class _Assembly(GeoTIFFSink):
    """An empty GeoTIFF whose blocks are those of parts."""

    def _create(self) -> None:
        super()._create()
        self._close()  # GDAL writes the header, and a table of nothing

    def _creation_options(self) -> dict[str, Any]:
        return {**super()._creation_options(), "SPARSE_OK": True}

    def add(self, part: Part, path: Path, entry: Mapping[str, Any]) -> None:
        """Append the blocks of a part file, if it is the one that was written."""
        side, bands = self.spec.block, self.spec.shape[0]
        down, across = (-(-size // side) for size in part.shape)
        offsets, counts = block_table(path)
        start = self._append(path, PartFile.of_entry(entry))
        with self._tables() as (all_offsets, all_counts):
            top, left = part.y[0] // side, part.x[0] // side
            where = np.s_[:, top : top + down, left : left + across]
            offsets = offsets.reshape(bands, down, across) + start
            for table, values in ((all_offsets, offsets), (all_counts, counts)):
                if int(values.max()) > np.iinfo(table.dtype).max:
                    raise OutputError(f"{self.spec.path}: a table of {table.dtype} cannot hold it")
                table[where] = values.reshape(bands, down, across)

    def _append(self, path: Path, stored: PartFile) -> int:
        """Copy a file behind what is there; return where it begins."""
        crc = size = 0
        add_up = crc32()
        with self._temporary.open("r+b") as target, path.open("rb") as source:
            start = target.seek(0, os.SEEK_END)
            start += target.write(b"\0" * (-start % 16))
            while chunk := source.read(COPY_BYTES):
                crc, size = add_up(chunk, crc), size + len(chunk)
                target.write(chunk)
            if PartFile(size, crc) != stored:
                target.truncate(start)
                raise DamagedPartError(f"the part {path} is not what was written")
        if self._sync is not None:
            self._sync.look()
        return start

    @contextlib.contextmanager
    def _tables(self) -> Any:
        """Give the offsets and byte counts of the output, (bands, rows, columns) of blocks."""
        bands, rows, columns = self.spec.shape
        side = self.spec.block
        shape = (bands, -(-rows // side), -(-columns // side))
        tables = [
            np.memmap(self._temporary, dtype, "r+", offset, shape) for dtype, offset in self._places
        ]
        yield tables  # not flushed: what syncs the file in the end syncs these pages too

    @property
    def _places(self) -> list[tuple[np.dtype, int]]:
        """Dtype and place in the file of both tables."""
        if not hasattr(self, "_found"):
            self._found = value_places(self._temporary)
        return self._found


class AssembledGeoTIFF(_Assembly):
    """A GeoTIFF made of parts."""


class AssembledCOG(_Assembly, COGSink):
    """A COG, copied from a GeoTIFF made of parts."""
