"""What GDAL opens: never a name as it was given, always with one driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tileconv.raster.remote import Place, Remote
from tileconv.raster.structure import nodata_text
from tileconv.raster.vrt import check_vrt, is_vrt


@dataclass(frozen=True)
class DatasetSpec:
    """Name and driver with which GDAL opens a raster."""

    name: str
    """A file's path, GDAL's name for a URL, or the XML of a VRT."""
    driver: str
    files: tuple[Path, ...]
    """The TIFF files on disk that hold the pixels."""
    remote: bool = False

    @property
    def is_vrt(self) -> bool:
        """The name is the XML of a VRT."""
        return self.driver == "VRT"

    @property
    def is_tiff_on_disk(self) -> bool:
        """The name is that of one file on disk, whose bytes may be looked at without GDAL."""
        return not (self.is_vrt or self.remote)

    def nodata_texts(self, bands: int) -> tuple[str | None, ...]:
        """Return each band's nodata as it is written; None where that cannot be known."""
        if self.is_vrt:
            root = ElementTree.fromstring(self.name)
            found = [band.findtext("NoDataValue") for band in root.iter("VRTRasterBand")]
            return tuple(text and text.strip() for text in found)
        return (None if self.remote else nodata_text(self.files[0]),) * bands

    @classmethod
    def of(cls, path: Place, root: Path | None = None) -> DatasetSpec:
        """Return how ``path`` is opened; files of a VRT must lie under ``root``.

        The driver is named because a guessed VRT reads other files and the network.
        """
        if isinstance(path, Remote):
            return cls(path.gdal_name, "GTiff", (), remote=True)
        if is_vrt(path):
            text, files = check_vrt(path, root)
            return cls(text, "VRT", files)
        return cls(str(path), "GTiff", (path,))
