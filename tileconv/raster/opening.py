"""What GDAL is told to open: never a name as it was given, always one driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tileconv.raster.remote import Place, Remote
from tileconv.raster.vrt import check_vrt, is_vrt


@dataclass(frozen=True)
class Opening:
    """A raster as GDAL is given it."""

    name: str
    """A file's path, GDAL's name for a URL, or the XML of a VRT."""
    driver: str
    files: tuple[Path, ...]
    """The TIFF files on disk that hold the pixels."""
    remote: bool = False

    @classmethod
    def of(cls, path: Place, root: Path | None = None) -> Opening:
        """Return how ``path`` is opened; files of a VRT must lie under ``root``.

        The driver is named because a guessed VRT reads other files and the network.
        """
        if isinstance(path, Remote):
            return cls(path.gdal_name, "GTiff", (), remote=True)
        if is_vrt(path):
            text, files = check_vrt(path, root)
            return cls(text, "VRT", files)
        return cls(str(path), "GTiff", (path,))
