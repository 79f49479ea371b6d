"""Fixtures: rasters made on the spot, the scene in the box, and shared data where it is present."""

import contextlib
import os
import socket
import subprocess
import sys
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=60, **_common)
settings.register_profile("ci", max_examples=300, derandomize=True, **_common)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def rng():
    return np.random.default_rng(20261122)


@pytest.fixture(scope="session")
def scene():
    """The Landsat crop that ships with the package."""
    return Path(str(files("tileconv.data") / "landsat8_crop.tif"))


@pytest.fixture(scope="session")
def landsat():
    """The whole Landsat scene where shared data are present, else the crop in the box."""
    whole = SHARED / "data" / "real" / "lc08_3band_uint16.tif"
    return whole if whole.exists() else Path(str(files("tileconv.data") / "landsat8_crop.tif"))


@pytest.fixture
def make_raster(tmp_path):
    """Return a function that writes an array (B, H, W) as a GeoTIFF and returns its path."""

    def make(array, name="in.tif", *, block=None, mask=None, **profile):
        array = array[None] if array.ndim == 2 else array
        path = tmp_path / name
        if block is not None:
            profile |= {"tiled": True, "blockysize": block[0], "blockxsize": block[1]}
        profile.setdefault("transform", rasterio.Affine(30, 0, 700000, 0, -30, -2800000))
        profile.setdefault("crs", "EPSG:32621")
        profile.setdefault("photometric", "MINISBLACK")  # or GDAL takes a fourth band for alpha
        count, height, width = array.shape
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                count=count,
                height=height,
                width=width,
                dtype=array.dtype,
                **profile,
            ) as dataset,
        ):
            dataset.write(array)
            if mask is not None:
                dataset.write_mask(mask)
        return path

    return make


def held_files():
    """Yield what the descriptors of this process are of."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            yield str(link.readlink())


def read(path):
    """Return all bands of a raster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return dataset.read()


@pytest.fixture
def run_python():
    """Return a function that runs code in a fresh interpreter and returns what it printed."""

    def run(code):
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
        ).stdout

    return run


@pytest.fixture
def server():
    """A listening socket, which must not be called."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield "{}:{}".format(*listening.getsockname())
        with pytest.raises(BlockingIOError):
            listening.accept()
