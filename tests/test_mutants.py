"""Rasters with flipped and zeroed bytes: a run, or an error of tileconv's own; no leftovers."""

import logging

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from test_files import job_for
from test_metadata import rational, unplaced, updated

import tileconv

LARGEST = 256
"""Tiles of a mutant that is worth running: some declare rasters of billions of pixels."""


def described(make_raster, rng):
    source = make_raster(
        rng.integers(0, 999, (3, 50, 60)).astype("uint16"),
        block=(16, 16),
        compress="deflate",
        nodata=3,
        photometric="RGB",
    )
    with rasterio.open(source, "r+") as dataset:
        dataset.units, dataset.descriptions = ("m", "K", ""), ("red", "green", "blue")
        dataset.scales, dataset.offsets = (0.1, 0.2, 1), (1, 2, 3)
        dataset.update_tags(mission="seven", TIFFTAG_XRESOLUTION="300")
        dataset.update_tags(1, wavelength="665")
    return source


def placed_by_points(make_raster, rng):
    source = unplaced(make_raster)
    places = rng.uniform(0, 50, (5, 4)).tolist()
    with updated(source) as dataset:
        points = [GroundControlPoint(row=r, col=c, x=x, y=y) for r, c, x, y in places]
        dataset.gcps = (points, CRS.from_epsg(4326))
        dataset.rpcs = rational(rng)
    return source


def masked(make_raster, rng):
    array = rng.integers(0, 255, (4, 50, 60)).astype("uint8")
    return make_raster(array, compress="lzw", photometric="RGB", alpha="YES", blockysize=7)


def mutant(data, rng):
    """Damage a few bytes, most of them in the header and the tags."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        reach = min(len(data), 1500) if rng.random() < 0.8 else len(data)
        at = int(rng.integers(reach))
        at = len(data) - 1 - at if rng.random() < 0.5 else at
        kind = rng.integers(3)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        else:
            data[at : at + 4] = bytes(len(data[at : at + 4]))
    return bytes(data)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # rasterio's log
@pytest.mark.parametrize("make", [described, placed_by_points, masked])
@pytest.mark.parametrize("count", [40, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_headers(make, count, make_raster, tmp_path, rng, caplog):
    caplog.set_level(logging.CRITICAL)
    whole = make(make_raster, rng).read_bytes()
    source, target = tmp_path / "in.tif", tmp_path / "out" / "out.tif"
    ran, told = 0, []
    for i in range(count):
        source.write_bytes(mutant(whole, rng))
        keys = {"kernel.weights": np.ones((3, 3)), "stride": 2, "input.scaled": bool(i % 2)}
        keys |= {"compute.scheduler": "synchronous", "compute.memory_limit": "1 GiB"}
        job = job_for(source, target, **keys)
        try:
            if tileconv.plan(job).tiles.count <= LARGEST:
                tileconv.run(job)
                ran += 1
        except tileconv.TileconvError as error:
            told.append(str(error))
        left = [path.name for path in target.parent.glob("*")] if target.parent.exists() else []
        assert left in ([], ["out.tif"]), i
        target.unlink(missing_ok=True)
    assert ran
    assert told
    assert [text for text in told if "in.tif" not in text and "memory_limit" not in text] == []
