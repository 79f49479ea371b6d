"""A raster larger than the memory limit runs within it, and the plan knows how much it takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

MIB = 1 << 20
CHILD = """
import json, sys, tileconv
job = tileconv.load_job(json.loads(sys.argv[1]))
plan = tileconv.plan(job)
report = tileconv.run(job)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([plan.peak_memory_bytes, 1024 * int(status["VmHWM"].split()[0]), report.tiles]))
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)


def make(path, side):
    """Write a uint16 raster of ``side`` squared, block by block."""
    rows, columns = np.mgrid[0:512, 0:512]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (512, 512))
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=side,
        width=side,
        dtype="uint16",
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        zlevel=1,
        crs="EPSG:32621",
        transform=rasterio.Affine(30, 0, 0, 0, -30, 0),
    ) as dataset:
        for y in range(0, side, 512):
            for x in range(0, side, 512):
                waves = 3000 + 1500 * np.sin((rows + y) / 300) * np.cos((columns + x) / 170)
                pixels = (waves + noise).astype("uint16")
                dataset.write(pixels, 1, window=Window(x, y, 512, 512))


def check_peak(source, target, stride, limit, driver="GTiff", **keys):
    job = {
        "input": {"path": str(source)},
        "kernel": {"name": "box", "size": 5},
        "stride": stride,
        "output": {"path": str(target), "overwrite": True, "driver": driver},
        "compute": {"memory_limit": f"{limit} MiB", "workers": 2, **keys},
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(job)], capture_output=True, text=True, check=True
    )
    planned, peak, tiles = json.loads(done.stdout)
    told = f"planned {planned / MIB:.0f}, peak {peak / MIB:.0f}, limit {limit} MiB"
    print(told)
    assert tiles > 4
    assert peak <= limit * MIB, told
    assert 0.75 <= planned / peak <= 1.25, told


@pytest.mark.parametrize("stride", [1, 8])
def test_a_raster_runs_within_the_limit(tmp_path, stride):
    make(tmp_path / "in.tif", 8192)  # 128 MiB of pixels, 256 MiB of output at stride 1
    check_peak(tmp_path / "in.tif", tmp_path / "out.tif", stride, 360)


@pytest.mark.parametrize("driver", ["COG", "Zarr"])
def test_other_formats_run_within_the_limit(tmp_path, driver):
    make(tmp_path / "in.tif", 8192)
    check_peak(tmp_path / "in.tif", tmp_path / "out", 1, 480, driver)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("limit", [400, 1024])
def test_a_large_raster_runs_within_the_limit(tmp_path, stride, limit):
    make(tmp_path / "in.tif", 16384)  # 512 MiB of pixels, 1 GiB of output at stride 1
    check_peak(tmp_path / "in.tif", tmp_path / "out.tif", stride, limit)


@pytest.fixture(scope="module")
def giant(tmp_path_factory):
    """Four bands of 30,000 x 30,000 uint16, 6.7 GiB of pixels, in blocks that hold all bands."""
    path = tmp_path_factory.mktemp("giant") / "in.tif"
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 8, (5, 4, 512, 512), dtype="uint16") + 1000
    profile = {"driver": "GTiff", "count": 4, "height": 30000, "width": 30000, "dtype": "uint16"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel"}
    profile |= {"compress": "zstd", "zstd_level": 1, "NUM_THREADS": 2, "BIGTIFF": "YES"}
    place = rasterio.Affine(10, 0, 0, 0, -10, 0)
    with rasterio.open(path, "w", transform=place, **profile) as dataset:
        for y in range(0, 30000, 512):
            for x in range(0, 30000, 512):
                block = blocks[(x + y) // 512 % 5][:, : 30000 - y, : 30000 - x]
                window = Window(x, y, block.shape[2], block.shape[1])
                dataset.write(block, window=window)
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr"])
@pytest.mark.parametrize("limit", [512, 1024, 2048])
def test_a_giant_runs_within_the_limit(giant, tmp_path, limit, driver):
    check_peak(giant, tmp_path / "out", 4, limit, driver)
