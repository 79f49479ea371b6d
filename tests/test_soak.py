"""A process that runs jobs for days: descriptors, threads and memory stay what they were."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="told by /proc")

SOAK = """
import ctypes, gc, json, os, sys, threading, warnings
import numpy as np
import rasterio
import tileconv
warnings.simplefilter("ignore")
folder, count, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pixels = np.random.default_rng(0).integers(0, 250, (3, 200, 300)).astype("uint8")
profile = dict(driver="GTiff", count=3, height=200, width=300, dtype="uint8", nodata=7,
               crs="EPSG:32633", transform=rasterio.Affine(10, 0, 0, 0, -10, 0))
for compress in ("deflate", "lzw"):
    with rasterio.open(f"{folder}/{compress}.tif", "w", tiled=True, blockxsize=64, blockysize=64,
                       compress=compress, **profile) as file:
        file.write(pixels)
with open(f"{folder}/deflate.tif", "rb") as file:
    data = bytearray(file.read())
data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
with open(f"{folder}/damaged.tif", "wb") as file:
    file.write(data)
with open(f"{folder}/job.yaml", "w") as file:
    file.write("input: {path: lzw.tif}\\nkernel: {name: box}\\n"
               "output: {path: job.tif, overwrite: true}\\nstride: 2\\n")
KINDS = (
    dict(),
    dict(stride=5, quicklook=True, report=True),
    dict(driver="COG", padding="same", missing="skip"),
    dict(suffix="zarr"),
    dict(source="damaged"),
    dict(kernel="gaussian", dtype="int16", nodata=-1, missing="renormalize"),
    dict(source="missing"),
    dict(job=True),
)


def run(i):
    options = dict(KINDS[i % len(KINDS)])
    source = options.pop("source", ("deflate", "lzw")[i // len(KINDS) % 2])
    target = f"{folder}/out.{options.pop('suffix', 'tif')}"
    if options.pop("job", False):
        job = tileconv.load_job(f"{folder}/job.yaml")
        str(tileconv.plan(job))
        return tileconv.run(job).tiles
    kernel = options.pop("kernel", "box")
    try:
        return tileconv.convolve_raster(
            f"{folder}/{source}.tif", target, kernel, overwrite=True, **options
        ).tiles
    except tileconv.InputError:
        return 0


def looked():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of freed memory comes and goes
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir("/proc/self/fd")), threading.active_count(), resident


done, seen = 0, []
for i in range(count):
    done += run(i) > 0
    if (i + 1) % first == 0:
        seen.append(looked())
print(json.dumps({"done": done, "seen": seen, "left": sorted(os.listdir(folder))}))
"""


MIB = 1 << 20


def soak(folder, count, first):
    done = subprocess.run(
        [sys.executable, "-c", SOAK, str(folder), str(count), str(first)],
        capture_output=True,
        text=True,
        timeout=60 + count,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["done"] == count * 6 // 8
    assert not [name for name in said["left"] if name.startswith(".")]
    descriptors, threads, memory = zip(*said["seen"], strict=True)
    assert max(descriptors) <= descriptors[0]
    # zarr's pool of threads grows, up to its bound, as chance has it
    assert max(threads) <= threads[0] + 4
    half = len(threads) // 2
    assert half < 4 or max(threads[half:]) <= max(threads[:half])
    print(f"{count} jobs: {descriptors[-1]} descriptors, {threads[-1]} threads, memory", end=" ")
    print([f"{(each - memory[0]) / MIB:+.1f}" for each in memory], "MiB")
    return max(memory) - memory[0]


def test_a_hundred_jobs(tmp_path):
    assert soak(tmp_path, 96, 48) < 10 * MIB


@pytest.mark.slow
def test_two_thousand_jobs(tmp_path):
    assert soak(tmp_path, 2000, 104) < 10 * MIB
