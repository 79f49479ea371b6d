"""Texts of a finished TIFF, overwritten where they lie: what GDAL cannot be made to write.

Nothing else in the file moves, so that a COG stays one. A new text is as long as the old one at
the most; what is left of the old one's place is filled with what readers skip.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tileconv.raster.structure import open_tiff

GDAL_METADATA = 42112
GDAL_NODATA = 42113
ROOM = "TILECONV_ROOM"
"""A tag that holds the place of others until they are written."""
LONGEST_ESCAPE = len("&amp;quot;")
"""Of one character: GDAL escapes what is to stand in XML twice."""
ITEM = len('  <Item name="" domain=""></Item>\n')


def goes_through_double(nodata: np.generic | None) -> bool:
    """Say whether GDAL writes ``nodata`` as it is: it is handed over as a double, and as text.

    >>> [goes_through_double(np.int64(value)) for value in (-9999, 2**53 + 1, -(10**17))]
    [True, False, False]
    """
    return nodata is None or nodata.dtype.kind == "f" or abs(nodata.item()) < 1 << 53


def nodata_to_overwrite(dtype: np.dtype) -> float:
    """Return a nodata value of an integer dtype that GDAL writes with as many digits as any has."""
    return float(-(2**63) if dtype.kind == "i" else 2**63)


def overwrite_nodata(path: Path, nodata: np.generic) -> None:
    """Write an integer nodata of the first image with all its digits."""
    offset, count = _place_of(path, GDAL_NODATA)
    _overwrite(path, offset, count, str(nodata.item()).encode(), b"\0")


def room_for(tags: dict[str, dict[str, str]]) -> str:
    """Return the text that holds the place of the tags of some domains."""
    letters = ITEM * sum(len(each) for each in tags.values())
    for domain, each in tags.items():
        for name, text in each.items():
            letters += sum(map(_written, (domain, name, text)))
    return "x" * letters


def _written(text: str) -> int:
    """Return the most bytes that a text takes in XML."""
    return len(text.encode()) + (LONGEST_ESCAPE - 1) * sum(text.count(c) for c in "&<>\"'\r\n\t")


def overwrite_room(path: Path, source: Path) -> None:
    """Write the tags that the GeoTIFF ``source`` has in domains instead of the tag `ROOM`."""
    (offset, count), metadata = _metadata(path)
    for item in metadata.findall("Item"):
        if item.get("name") == ROOM:
            metadata.remove(item)
    _, given = _metadata(source)
    for item in given.findall("Item"):
        if item.get("domain") and item.get("sample") is None:
            metadata.append(item)
    _overwrite(path, offset, count, ElementTree.tostring(metadata, encoding="utf-8"), b" ")


def _metadata(path: Path) -> tuple[tuple[int, int], ElementTree.Element]:
    """Return where GDAL's metadata of the first image lie (offset, bytes), and what they are."""
    place = _place_of(path, GDAL_METADATA)
    with path.open("rb") as file:
        file.seek(place[0])
        text = file.read(place[1])
    try:
        return place, ElementTree.fromstring(text.rstrip(b"\0"))
    except ElementTree.ParseError as error:
        raise OSError(f"the tags of the file that was written are cut: {error}") from error


def _place_of(path: Path, code: int) -> tuple[int, int]:
    """Return where a tag of the first image lies (offset, bytes).

    Raises `OSError`, also for a file that did not reach the disk as a whole.
    """
    try:
        with open_tiff(path) as tiff:
            tag = tiff.pages.first.tags.get(code)
    except Exception as error:  # whatever tifffile meets in half a header
        raise OSError(f"the file that was written cannot be read back: {error}") from error
    if tag is None:
        raise OSError(f"the file that was written has no tag {code}")
    return tag.valueoffset, tag.count


def _overwrite(path: Path, offset: int, count: int, text: bytes, fill: bytes) -> None:
    """Write a text of ``count`` bytes, the last of which is null."""
    if len(text) >= count:
        raise OSError(f"a tag of {len(text)} bytes has no room in {count}")
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(text + fill * (count - 1 - len(text)) + b"\0")
