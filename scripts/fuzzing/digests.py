"""What an output is, in a few characters: the same for the same pixels in the same place."""

import hashlib
import warnings
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning

RASTERS = (".tif", ".vrt")


def digest_of_raster(path: Path) -> str:
    """Return a digest of pixels, profile and tags; threads may write blocks in any order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            told = f"{sorted(dataset.profile.items(), key=str)} {dataset.tags()}"
            found = hashlib.sha256(told.encode("utf-8", "replace"))
            for band in dataset.indexes:
                found.update(dataset.read(band).tobytes())
    return found.hexdigest()[:16]


def digest_of_folder(folder: Path) -> str:
    """Return a digest of all outputs, without reports: they tell the time that was taken."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".json":
            continue
        found.update(path.name.encode("utf-8", "surrogateescape"))
        is_raster = path.suffix in RASTERS
        found.update(digest_of_raster(path).encode() if is_raster else path.read_bytes())
    return found.hexdigest()[:16]
