"""Children that are forked from a process that has run before: they run too, and never wait."""

import json
import os
import subprocess
import sys

import pytest
import rasterio
from servers import http_server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

MAKE = """
import contextlib, json, multiprocessing, os, sys, warnings
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import rasterio, rasterio.shutil
import tileconv

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks beside threads
folder, pattern, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = json.loads(sys.argv[4])
fork = multiprocessing.get_context("fork")
pixels = np.random.default_rng(0).integers(0, 250, (1, 300, 400)).astype("uint8")
profile = dict(driver="GTiff", count=1, height=300, width=400, dtype="uint8", tiled=True,
               blockxsize=64, blockysize=64, compress="deflate", crs="EPSG:32633",
               transform=rasterio.Affine(10, 0, 0, 0, -10, 0))
with rasterio.open(f"{folder}/in.tif", "w", **profile) as file:
    file.write(pixels)
rasterio.shutil.copy(f"{folder}/in.tif", f"{folder}/in.vrt", driver="VRT")
source = f"{folder}/{options.pop('source', 'in.tif')}"
suffix = options.pop("suffix", "tif")


def run(name):
    target = f"{folder}/{name}.{suffix}"
    tileconv.convolve_raster(source, target, "box", padding="same", **options)
    return target


def serve(indices, results):
    # what a loader of training samples does: workers that take indices until there are no more
    for i in iter(indices.get, None):
        results.put(run(i))


def read(path):
    if suffix == "tif":
        with rasterio.open(path) as file:
            return file.read().tobytes()
    import zarr
    group = zarr.open_group(path, mode="r")
    return b"".join(group[name][...].tobytes() for name in sorted(group.array_keys()))


def main():
    expected = read(run("parent"))
    if pattern == "pool":
        with fork.Pool(4, maxtasksperchild=1) as pool:
            made = pool.map(run, range(count), chunksize=1)
    elif pattern == "executor":
        with ProcessPoolExecutor(4, mp_context=fork) as pool:
            made = list(pool.map(run, range(count)))
    else:
        indices, results = fork.SimpleQueue(), fork.SimpleQueue()
        workers = [fork.Process(target=serve, args=(indices, results)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for i in [*range(count), *[None] * 4]:
            indices.put(i)
        made = [results.get() for _ in range(count)]
        for worker in workers:
            worker.join()
    assert len(made) == count
    print(sum(read(path) == expected for path in made))


if __name__ == "__main__":
    main()
"""


def forked(folder, pattern, count, **options):
    """Return how many of ``count`` runs in forked children gave what the parent's gave."""
    script = folder / "forks.py"
    script.write_text(MAKE)
    command = [sys.executable, str(script), str(folder), pattern, str(count), json.dumps(options)]
    # a child that waits for threads that are not there waits for ever
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + count, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


PATTERNS = ("pool", "executor", "loader")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_children_run_after_their_parent_has(tmp_path, pattern):
    assert forked(tmp_path, pattern, 6) == 6


@pytest.mark.parametrize(
    "options",
    [
        {"driver": "COG", "overviews": "bilinear", "dtype": "float32", "nodata": float("nan")},
        {"source": "in.vrt", "compress": "deflate"},
        {"suffix": "zarr"},
    ],
    ids=["COG", "VRT", "Zarr"],
)
def test_whatever_they_read_and_write(tmp_path, options):
    assert forked(tmp_path, "pool", 4, **options) == 4


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_hundred_children(tmp_path, pattern):
    assert forked(tmp_path, pattern, 100) == 100


SERVED = """
import os, sys, warnings
import numpy as np
import rasterio
import tileconv

warnings.simplefilter("ignore")
address, folder, scheduler = sys.argv[1:]


def run(name):
    target = f"{folder}/{name}.tif"
    tileconv.convolve_raster(
        f"{address}/in.tif", target, "box", stride=2, remote=True, scheduler=scheduler
    )
    with rasterio.open(target) as file:
        return file.read().tobytes()


expected = run("parent")
children = []
for i in range(4):
    child = os.fork()
    if not child:
        code = 2
        try:
            code = int(run(f"child{i}") != expected)
        except BaseException as error:
            print(error, flush=True)
        os._exit(code)
    children.append(child)
assert run("again") == expected  # beside the children
print([os.waitpid(child, 0)[1] for child in children])
"""


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_children_do_not_read_what_others_have_asked_servers_for(tmp_path, rng, scheduler):
    pixels = rng.integers(0, 60000, (1, 800, 800)).astype("u2")
    profile = {"driver": "GTiff", "count": 1, "height": 800, "width": 800, "dtype": "uint16"}
    profile |= {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    profile["transform"] = rasterio.Affine(10, 0, 0, 0, -10, 0)
    with rasterio.open(tmp_path / "in.tif", "w", **profile) as file:
        file.write(pixels)
    with http_server(tmp_path) as (address, *_):
        done = subprocess.run(
            [sys.executable, "-c", SERVED, address, str(tmp_path), scheduler],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.stdout.strip() == "[0, 0, 0, 0]", done.stdout + done.stderr


CLUSTER = """
import os, sys, warnings
import distributed, rasterio, numpy as np
import tileconv

warnings.simplefilter("ignore")
folder = sys.argv[1]
with rasterio.open(f"{folder}/in.tif", "w", driver="GTiff", count=1, height=40, width=40,
                   dtype="uint8") as file:
    file.write(np.ones((1, 40, 40), "u1"))


def main():
    with distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address=None, worker_class=distributed.Worker
    ) as cluster, distributed.Client(cluster) as client:
        client.submit(len, "ab").add_done_callback(print)
        client.submit(len, "abc").result()
    child = os.fork()
    if not child:
        try:
            tileconv.convolve_raster(
                f"{folder}/in.tif", f"{folder}/out.tif", "box", scheduler="tcp://127.0.0.1:9"
            )
        except tileconv.TileconvError as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    os._exit(0)


import tileconv.cluster.connect  # as a run on a cluster has it
main()
"""


def test_a_child_of_a_client_says_that_it_cannot_be_one(tmp_path):
    pytest.importorskip("distributed")
    script = tmp_path / "client.py"
    script.write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "ClusterError this process was forked from one that has used a dask cluster" in (
        done.stdout
    ), done.stderr
