"""An output of many files: parts stay as GeoTIFFs in a folder, and a VRT beside it makes them one.

The VRT is what counts: it is renamed last, in one step, and names a folder that
no other run has used. Whoever opens it sees all parts, or those of the output
before.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import rasterio

from tileconv.bounded import read_bounded
from tileconv.errors import DamagedPartError, OutputError, OutputExistsError
from tileconv.raster import gdal
from tileconv.raster.fsync import sync
from tileconv.raster.geotiff_parts import PartFile
from tileconv.raster.leftovers import remove
from tileconv.raster.overwrite import goes_through_double
from tileconv.raster.sink import Sink
from tileconv.raster.structure import check_complete
from tileconv.raster.targets import OwnFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from tileconv.planning.parts import Part
    from tileconv.planning.tiles import Tile
    from tileconv.raster.sink import OutputSpec

LARGEST_VRT = 1 << 30
"""Bytes of a VRT of parts, at the most: a million of them."""
MARK = 8
"""Letters of a run's token in the name of its folder."""


def parts_folder(target: Path, token: str) -> Path:
    """Return the folder beside ``target`` that holds the parts of one run."""
    return target.with_name(f"{target.stem}.parts-{token[:MARK]}")


def part_paths(target: Path) -> list[Path]:
    """Return the files that a VRT of parts names, each one once."""
    top = ElementTree.fromstring(read_bounded(target, LARGEST_VRT))
    names = [name.text or "" for name in top.iter("SourceFilename")]
    return [target.parent / name for name in dict.fromkeys(names)]


def missing_parts(target: Path) -> int:
    """Return how many of the files that a VRT of parts names are not there."""
    try:
        return sum(not path.is_file() for path in part_paths(target))
    except (OSError, ElementTree.ParseError) as error:
        raise OutputError(f"{target}: cannot be read: {error}") from error


def stored_bytes(target: Path) -> int:
    """Return the bytes of a VRT and its parts."""
    return sum(path.stat().st_size for path in (target, *part_paths(target)))


class AssembledVRT(Sink):
    """A VRT of parts, which lie in ``folder`` until all are there."""

    def __init__(self, spec: OutputSpec, folder: Path, token: str) -> None:
        super().__init__(spec)
        self._folder = folder
        self._place = parts_folder(spec.path, token)
        self._parts: dict[str, Part] = {}
        """By the name of the file, within the folder."""
        self._bytes = 0

    def _create(self) -> None:
        """Begin with nothing: the VRT is written when all parts are known."""

    def _check_target(self) -> None:
        super()._check_target()
        if not self.spec.path.parent.is_dir():
            return
        own = OwnFiles(self.spec.own)
        for folder in earlier_folders(self.spec.path):
            if (inside := own.find_within(folder)) is not None:
                raise OutputExistsError(
                    f"{folder}: holds {inside}, and would be removed with the output that is "
                    "replaced; choose another path"
                )

    def _put(self, tile: Tile, pixels: np.ndarray) -> None:
        raise NotImplementedError("parts are written by tasks")

    def add(self, part: Part, path: Path, entry: Mapping[str, Any]) -> None:
        """Take in a part file, if it is the one that was written; sync it."""
        stored = PartFile.of_entry(entry)
        if PartFile.of(path) != stored:
            raise DamagedPartError(f"the part {path} is not what was written")
        sync(path)
        self._parts[path.relative_to(self._folder).as_posix()] = part
        self._bytes += stored.bytes

    def _complete(self) -> None:
        _, rows, columns = self.spec.shape
        covered = sum(part.shape[0] * part.shape[1] for part in self._parts.values())
        if covered != rows * columns:
            raise OutputError(f"parts cover {covered:,} of {rows * columns:,} pixels")
        self._write_header()
        tree = ElementTree.parse(self._temporary)
        for band in tree.getroot().iter("VRTRasterBand"):
            side = str(self.spec.block)
            band.attrib |= {"blockXSize": side, "blockYSize": side}
            nodata = band.find("NoDataValue")
            if nodata is not None and not goes_through_double(self.spec.nodata):
                nodata.text = str(self.spec.nodata)
            for name, part in self._parts.items():
                band.append(self._source(name, part, band.get("band", "1"), band.get("dataType")))
        tree.write(self._temporary, encoding="utf-8")
        sync(self._temporary)

    def _write_header(self) -> None:
        """Let GDAL write a VRT of nothing, with all metadata."""
        with gdal.writing(), gdal.quietly():
            profile = self.spec.profile()
            with rasterio.open(self._temporary, "w", driver="VRT", **profile) as dataset:
                self.spec.metadata.write(dataset)

    def _source(self, name: str, part: Part, band: str, dtype: str | None) -> ElementTree.Element:
        (rows, columns), side = part.shape, str(self.spec.block)
        size = {"xSize": str(columns), "ySize": str(rows)}
        source = ElementTree.Element("SimpleSource")
        file = ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1")
        file.text = f"{self._place.name}/{name}"
        ElementTree.SubElement(source, "SourceBand").text = band
        about = {"RasterXSize": str(columns), "RasterYSize": str(rows), "DataType": dtype or ""}
        blocks = {"BlockXSize": side, "BlockYSize": side}
        ElementTree.SubElement(source, "SourceProperties", about | blocks)
        ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
        ElementTree.SubElement(
            source, "DstRect", {"xOff": str(part.x[0]), "yOff": str(part.y[0])} | size
        )
        return source

    def _stored_bytes(self) -> int:
        return self._temporary.stat().st_size + self._bytes

    def _rename(self) -> None:
        """Move the folder, then the VRT that names it; then remove folders of earlier runs."""
        self._folder.rename(self._place)
        try:
            sync(self._place)
            sync(self._place.parent)
            os.replace(self._temporary, self.spec.path)
        except OSError:
            self._place.rename(self._folder)  # for --resume
            raise
        for folder in earlier_folders(self.spec.path):
            if folder != self._place:
                remove(folder)

    def _discard(self) -> None:
        self._remove()


def earlier_folders(target: Path) -> list[Path]:
    """Return the folders of parts that runs have left beside ``target``."""
    name = re.compile(rf"{re.escape(target.stem)}\.parts-[0-9a-f]{{{MARK}}}")
    return [path for path in target.parent.iterdir() if name.fullmatch(path.name)]


def restore(target: Path, token: str, folder: Path) -> None:
    """Move parts back that a run had moved when it was stopped before it renamed the VRT."""
    place = parts_folder(target, token)
    if place.is_dir() and not folder.exists():
        place.rename(folder)


def check_parts(spec: OutputSpec) -> None:
    """Check that each part of a VRT is whole; raise `OutputError` if one is not."""
    try:
        paths = part_paths(spec.path)
    except (OSError, ElementTree.ParseError) as error:
        raise OutputError(f"{spec.path}: cannot be read: {error}") from error
    total = 0
    for path in paths:
        if not path.is_file():
            raise OutputError(f"its part {path} is not there")
        with gdal.environment(), gdal.quietly(), rasterio.open(path, driver="GTiff") as dataset:
            down, across = -(-dataset.height // spec.block), -(-dataset.width // spec.block)
            total += dataset.height * dataset.width
        try:
            check_complete(path, spec.shape[0] * down * across)
        except OutputError as error:
            raise OutputError(f"its part {path.name}: {error}") from None
    if total != spec.shape[1] * spec.shape[2]:
        raise OutputError(f"its parts have {total:,} pixels, not {spec.shape[1] * spec.shape[2]:,}")
