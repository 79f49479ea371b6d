"""The tags that decide on the pixels of a TIFF: whether every reader must take them alike.

TIFF says of which type each tag is and how many values it has, and that tags come in
ascending order, each once. Files do not always keep to it, and what a reader makes of
them then is its own affair: a predictor that is not a SHORT counts for tifffile, and
not for libtiff. Such files are for GDAL alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import tifffile

_SHORT, _LONG, _LONG8 = 3, 4, 16


@dataclass(frozen=True)
class _Rule:
    """What a tag may be."""

    types: tuple[int, ...]
    values: Literal["one", "each band", "each block"]


_CHOICE = _Rule((_SHORT,), "one")
_SIZE = _Rule((_SHORT, _LONG), "one")
_OF_BANDS = _Rule((_SHORT,), "each band")
_OF_BLOCKS = _Rule((_SHORT, _LONG, _LONG8), "each block")

_RULES = {
    256: _SIZE,  # ImageWidth
    257: _SIZE,  # ImageLength
    258: _OF_BANDS,  # BitsPerSample
    259: _CHOICE,  # Compression
    262: _CHOICE,  # PhotometricInterpretation
    266: _CHOICE,  # FillOrder
    273: _OF_BLOCKS,  # StripOffsets
    277: _CHOICE,  # SamplesPerPixel
    278: _SIZE,  # RowsPerStrip
    279: _OF_BLOCKS,  # StripByteCounts
    284: _CHOICE,  # PlanarConfiguration
    317: _CHOICE,  # Predictor
    322: _SIZE,  # TileWidth
    323: _SIZE,  # TileLength
    324: _OF_BLOCKS,  # TileOffsets
    325: _OF_BLOCKS,  # TileByteCounts
    339: _OF_BANDS,  # SampleFormat
}
_NEEDED = {256, 257, 258, 259, 262}
_STRIPS, _STRIP_HEIGHT = {273, 279}, 278
_TILES = {322, 323, 324, 325}
_ODD = {32996, 32997, 32998}
"""Data type, image depth and tile depth: of old files, and of volumes."""


def are_strict(tiff: tifffile.TiffFile) -> bool:
    """Say whether the first image has what pixels need: each tag once, as TIFF wants it."""
    entries = _entries(tiff)
    codes = [code for code, _, _ in entries]
    found = set(codes)
    tiled = found >= _TILES and not found & {*_STRIPS, _STRIP_HEIGHT}
    in_strips = found >= _STRIPS and not found & _TILES
    if codes != sorted(found) or not found >= _NEEDED or found & _ODD or not (tiled or in_strips):
        return False
    page = tiff.pages.first
    blocks = len(page.dataoffsets)
    wanted = {"one": 1, "each band": page.samplesperpixel, "each block": blocks}
    for code, kind, count in entries:
        rule = _RULES.get(code)
        if rule is None:
            continue
        if kind not in rule.types or count != wanted[rule.values]:
            return False
        if kind == _LONG8 and not tiff.is_bigtiff:
            return False
    return True


def _entries(tiff: tifffile.TiffFile) -> list[tuple[int, int, int]]:
    """Return (tag, type, number of values) of the first image, as they lie in the file.

    tifffile leaves out tags that it does not understand, and keeps them sorted.
    """
    wide, few = ("u8", "u8") if tiff.is_bigtiff else ("u4", "u2")
    number = np.dtype(few).newbyteorder(tiff.byteorder)
    entry = np.dtype(f"u2,u2,{wide},{wide}").newbyteorder(tiff.byteorder)
    file = tiff.filehandle
    file.seek(tiff.pages.first.offset)
    count = int(np.frombuffer(file.read(number.itemsize), number)[0])  # tifffile has read as many
    entries = np.frombuffer(file.read(count * entry.itemsize), entry)
    return [(int(tag), int(kind), int(values)) for tag, kind, values, _ in entries]
