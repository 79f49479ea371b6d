"""A persisted dask array on a cluster: its chunks stay where they lie, only edges travel."""

import itertools

import dask
import dask.array as da
import numpy as np
import pytest

import tileconv

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.admin.low-level-log-length": 10**6}),  # of transfers
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def transfers(dask_worker):
    """Return (key, bytes) of all that a worker has received from others."""
    return [
        (key, size)
        for one in dask_worker.transfer_incoming_log
        for key, size in one["keys"].items()
    ]


def exact_halo(client, array, out, kernel, stride, before):
    """Return the bytes that workers need for their outputs and do not hold, from the definition."""
    held, computed = client.who_has(array), client.who_has(out)
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    missing = np.zeros((len(workers), *array.shape), bool)
    bounds = [np.cumsum([0, *chunks]) for chunks in array.chunks]
    ends = [np.cumsum([0, *chunks]) for chunks in out.chunks]
    for i, j in itertools.product(*map(range, out.numblocks)):
        window = tuple(
            slice(max(first * stride - before, 0), (last - 1) * stride - before + kernel)
            for first, last in ((ends[0][i], ends[0][i + 1]), (ends[1][j], ends[1][j + 1]))
        )
        (worker,) = computed[out.name, i, j]
        missing[workers.index(worker)][window] = True
    for i, j in itertools.product(*map(range, array.numblocks)):
        chunk = slice(*bounds[0][i : i + 2]), slice(*bounds[1][j : j + 2])
        for worker in held[array.name, i, j]:
            missing[workers.index(worker)][chunk] = False
    return int(missing.sum()) * array.dtype.itemsize


@pytest.mark.parametrize(
    ("chunks", "kernel", "stride"),
    [(256, 7, 1), ((128, 2048), 7, 1), ((2048, 128), 31, 1), (256, 8, 3), (256, 3, 3)],
)
def test_only_edges_travel_between_workers(client, rng, chunks, kernel, stride):
    weights = rng.normal(size=(kernel, kernel))
    options = {"stride": stride, "padding": "same", "padding_mode": "edge"}
    chance = da.random.default_rng(20261122)
    array = client.persist(chance.normal(size=(2048, 2048), chunks=chunks).astype("float32"))
    distributed.wait(array)
    # what a first call compiles would look like long tasks, and have idle workers take some
    client.run(tileconv.convolve, np.zeros((64, 64), "float32"), weights, **options)
    seen = {worker: len(log) for worker, log in client.run(transfers).items()}
    held = client.who_has(array)
    lazy = tileconv.convolve(array, weights, **options)
    out = client.persist(lazy)
    distributed.wait(out)
    log = [entry for worker, log in client.run(transfers).items() for entry in log[seen[worker] :]]
    moved = sum(size for _, size in log)
    before = max((out.shape[0] - 1) * stride + kernel - array.shape[0], 0) // 2
    exact = exact_halo(client, array, out, kernel, stride, before)
    assert client.who_has(array) == held  # no chunk was copied
    assert 0 < moved < 2 * exact, f"{moved:,} bytes moved; the exact halo has {exact:,}"
    pixels = client.compute(array, sync=True)
    expected = tileconv.convolve(pixels, weights, **options)
    assert client.compute(out, sync=True).tobytes() == expected.tobytes()
