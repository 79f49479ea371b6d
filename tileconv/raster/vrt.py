"""VRT mosaics: a list of TIFF files in XML, read only after every word of it is understood.

GDAL's virtual format can also name URLs, other formats, raw bytes of any file
and Python code. Here the XML is parsed first, anything that a plain mosaic does
not need is refused, and GDAL is then given the text that was checked, with
absolute names of files that were looked at: not the file, which may have
changed since.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from tileconv.bounded import TooLargeError, read_bounded, read_start
from tileconv.errors import InputError
from tileconv.raster.beside import check_beside
from tileconv.raster.names import TIFF_STARTS

LARGEST_BYTES = 64 << 20
"""A VRT of 100,000 sources is half of that."""

# What may stand in what, and with which attributes.
_SOURCE = {
    "SourceFilename": {"relativeToVRT", "shared", "relativetoVRT"},
    "SourceBand": set[str](),
    "SourceProperties": {"RasterXSize", "RasterYSize", "DataType", "BlockXSize", "BlockYSize"},
    "SrcRect": {"xOff", "yOff", "xSize", "ySize"},
    "DstRect": {"xOff", "yOff", "xSize", "ySize"},
}
_COMPLEX = _SOURCE | {
    "NODATA": set[str](),
    "UseMaskBand": set(),
    "ColorTableComponent": set(),
    "ScaleOffset": set(),
    "ScaleRatio": set(),
    "LUT": set(),
    "Exponent": set(),
    "SrcMin": set(),
    "SrcMax": set(),
    "DstMin": set(),
    "DstMax": set(),
    "Clamp": set(),
}
SOURCES = {"SimpleSource": _SOURCE, "AveragedSource": _SOURCE, "ComplexSource": _COMPLEX}
"""What a raster is mosaicked of, and what may stand in each."""
_BAND = {
    "Description": set[str](),
    "UnitType": set(),
    "Offset": set(),
    "Scale": set(),
    "NoDataValue": set(),
    "HideNoDataValue": set(),
    "ColorInterp": set(),
    "ColorTable": set(),
    "CategoryNames": set(),
    "Metadata": {"domain", "format"},
}
_DATASET = {
    "SRS": {"dataAxisToSRSAxisMapping", "coordinateEpoch"},
    "GeoTransform": set[str](),
    "GCPList": {"Projection", "dataAxisToSRSAxisMapping"},
    "Metadata": {"domain", "format"},
    "BlockXSize": set(),
    "BlockYSize": set(),
}
_INNER = {"MDI": {"key"}, "Entry": {"c1", "c2", "c3", "c4"}, "Category": set[str]()}
_INNER["GCP"] = {"Id", "Info", "Pixel", "Line", "X", "Y", "Z", "GCPPixel", "GCPLine"}
_UNUSED = ("Overview", "OverviewList", "Histograms")
"""Left out of what GDAL is given: tileconv reads full resolution."""
_REASONS = {
    "VRTDerivedRasterBand": "pixel functions run code",
    "VRTRawRasterBand": "raw bands read the bytes of any file",
    "VRTWarpedDataset": "warping resamples: warp the scenes to files first",
    "VRTWarpedRasterBand": "warping resamples: warp the scenes to files first",
    "VRTPansharpenedDataset": "pansharpening is no mosaic",
    "VRTProcessedDataset": "processing steps are no mosaic",
    "OpenOptions": "options could open other files",
    "GDALWarpOptions": "warping resamples: warp the scenes to files first",
}


def is_vrt(path: Path) -> bool:
    """Say whether a path is named as a VRT; one disguised as a TIFF is not read at all."""
    return path.suffix.lower() == ".vrt"


def check_vrt(path: Path, root: Path | None) -> tuple[str, tuple[Path, ...]]:
    """Return (the XML that GDAL may be given, the TIFF files that it names).

    The files must lie under ``root``, by default the folder of the VRT, links
    followed. Raises `InputError`, which says what is refused and why.
    """
    return _Checked(path, root).result()


class _Checked:
    def __init__(self, path: Path, root: Path | None) -> None:
        self._path = path
        self._folder = Path(os.path.realpath(path)).parent
        self._root = self._folder if root is None else Path(os.path.realpath(root))
        self._files: dict[str, Path] = {}

    def result(self) -> tuple[str, tuple[Path, ...]]:
        top = self._parse()
        if top.tag != "VRTDataset":
            raise self._refused(f"<{top.tag}> is not the <VRTDataset> of a raster")
        self._attributes(top, {"rasterXSize", "rasterYSize", "subClass"})
        for child in [*top]:
            if child.tag in _UNUSED:
                top.remove(child)
            elif child.tag == "VRTRasterBand":
                self._band(child)
            elif child.tag == "MaskBand":
                self._attributes(child, set())
                for band in child:
                    if band.tag != "VRTRasterBand":
                        raise self._unknown(band, child)
                    self._band(band)
            else:
                self._plain(child, top, _DATASET)
        if not self._files:
            raise self._refused("it names no source file")
        self._take_blocks(top)
        return ElementTree.tostring(top, encoding="unicode"), tuple(self._files.values())

    def _parse(self) -> ElementTree.Element:
        try:
            text = read_bounded(self._path, LARGEST_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise self._refused("it is not XML in UTF-8") from None
        except TooLargeError:
            raise self._refused(f"it is larger than {LARGEST_BYTES >> 20} MiB") from None
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}") from None
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise self._refused("document types and entities are not allowed")
        try:
            return ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise self._refused(f"it is not valid XML: {error}") from None

    def _band(self, band: ElementTree.Element) -> None:
        allowed = {"dataType", "band", "blockXSize", "blockYSize", "subClass"}
        self._attributes(band, allowed)
        for child in [*band]:
            if child.tag in _UNUSED:
                band.remove(child)
            elif child.tag in SOURCES:
                self._attributes(child, {"resampling", "name"})
                for part in child:
                    self._plain(part, child, SOURCES[child.tag])
                self._source(child)
            else:
                self._plain(child, band, _BAND)

    def _plain(
        self,
        element: ElementTree.Element,
        parent: ElementTree.Element,
        known: dict[str, set[str]],
    ) -> None:
        """Check an element that holds text, or small entries that hold text."""
        if element.tag not in known:
            raise self._unknown(element, parent)
        self._attributes(element, known[element.tag])
        for entry in element:
            if entry.tag not in _INNER or [*entry]:
                raise self._unknown(entry, element)
            self._attributes(entry, _INNER[entry.tag])

    def _attributes(self, element: ElementTree.Element, known: set[str]) -> None:
        kind = element.get("subClass")
        if kind is not None and kind != "VRTSourcedRasterBand":
            raise self._refused(_why(kind, f"{kind} is not allowed"))
        for name in {*element.keys()} - known:
            raise self._refused(f"<{element.tag}> has an unknown attribute {name}")

    def _source(self, source: ElementTree.Element) -> None:
        names = source.findall("SourceFilename")
        if len(names) != 1:
            raise self._refused(f"a <{source.tag}> names {len(names)} files, not one")
        name = names[0]
        given = (name.text or "").strip()
        relative = name.get("relativeToVRT", name.get("relativetoVRT", "0")) == "1"
        if given not in self._files:
            self._files[given] = self._file(given, relative=relative)
        name.text = str(self._files[given])
        name.attrib.clear()
        # Each handle reads in a thread of its own; shared sources would be those of another.
        name.attrib.update({"relativeToVRT": "0", "shared": "0"})

    def _file(self, given: str, *, relative: bool) -> Path:
        """Return the file that a source names, once it is sure to be a TIFF under the root."""
        if "://" in given or given.startswith(("/vsi", "<")) or "\0" in given or not given:
            raise self._refused(f"source {given!r} is not a file on disk")
        path = Path(given)
        if not relative and not path.is_absolute():
            raise self._refused(f"source {given!r} is relative to nowhere: relativeToVRT is not 1")
        file = Path(os.path.realpath(self._folder / path))
        if not file.is_relative_to(self._root):
            raise self._refused(
                f"source {given!r} lies outside {self._root}; set input.root to a folder "
                "that holds all sources"
            )
        try:
            magic = read_start(file, 4)
            check_beside(file)
        except (FileNotFoundError, IsADirectoryError):
            raise self._refused(f"source {given!r}: no such file ({file})") from None
        except OSError as error:
            raise self._refused(f"source {given!r}: {error.strerror}") from None
        if magic not in TIFF_STARTS:
            raise self._refused(f"source {given!r} is not a TIFF file")
        return file

    def _take_blocks(self, top: ElementTree.Element) -> None:
        """Let the VRT have its sources' blocks, if they all lie on one grid of them.

        GDAL takes no sides below 32 and keeps to 128 x 128 then.
        """
        blocks = set()
        for source in top.iter():
            if source.tag in SOURCES:
                blocks.add(_block(source))
        for band in top.iter("VRTRasterBand"):
            for name in ("blockXSize", "blockYSize"):
                band.attrib.pop(name, None)
            if len(blocks) == 1 and (block := next(iter(blocks))) is not None:
                band.attrib |= {"blockXSize": str(block[0]), "blockYSize": str(block[1])}

    def _unknown(self, element: ElementTree.Element, parent: ElementTree.Element) -> InputError:
        return self._refused(
            _why(element.tag, f"<{element.tag}> in <{parent.tag}> is not part of a plain mosaic")
        )

    def _refused(self, reason: str) -> InputError:
        return InputError(f"{self._path}: this VRT is not read: {reason}")


def _why(word: str, otherwise: str) -> str:
    return f"{word} is not allowed: {_REASONS[word]}" if word in _REASONS else otherwise


def _block(source: ElementTree.Element) -> tuple[int, int] | None:
    """Return (width, height) of a source's blocks if they begin at multiples of it in the VRT."""
    about, src, dst = (source.find(t) for t in ("SourceProperties", "SrcRect", "DstRect"))
    if about is None or src is None or dst is None:
        return None
    try:
        for name in ("xSize", "ySize"):
            if float(src.get(name, "")) != float(dst.get(name, "")):
                return None  # resampled
        block = []
        for side, offset in (("BlockXSize", "xOff"), ("BlockYSize", "yOff")):
            size = int(about.get(side, ""))
            if size < 1 or (float(dst.get(offset, "")) - float(src.get(offset, ""))) % size:
                return None
            block.append(size)
    except ValueError:
        return None
    return block[0], block[1]
