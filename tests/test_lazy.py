"""dask in, dask out: the bits of the array call for any chunks, lazily, with few tasks."""

import itertools

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import axes, random_case
from test_properties import check_case

import tileconv
from tileconv import ConvolutionError
from tileconv.geometry import Axis
from tileconv.planning.chunks import AxisChunks


def cut(rng, size):
    """Cut ``size`` into random chunks: ragged, of one pixel, or one for all."""
    most = int(rng.choice([1, 2, 5, 40, size]))
    parts = []
    while sum(parts) < size:
        parts.append(int(min(rng.integers(1, most + 1), size - sum(parts))))
    return tuple(parts)


def check_chunks(seed):
    case = random_case(seed)
    rng = np.random.default_rng(seed)
    whole = tileconv.convolve(case.array, case.kernel, nodata=case.nodata, **case.options())
    chunks = tuple(cut(rng, size) for size in case.array.shape)
    lazy = da.from_array(case.array, chunks=chunks)
    out = tileconv.convolve(lazy, case.kernel, nodata=case.nodata, **case.options())
    assert isinstance(out, da.Array)
    assert (out.shape, out.dtype) == (whole.shape, whole.dtype)
    assert out._meta.dtype == whole.dtype
    assert 0 not in itertools.chain(*out.chunks)
    blocks = {
        index: np.asarray(block)
        for index, block in zip(
            itertools.product(*map(range, out.numblocks)),
            dask.compute(*out.to_delayed().ravel(), scheduler="sync"),
            strict=True,
        )
    }
    for index, block in blocks.items():  # every chunk has the shape that was announced
        assert block.shape == tuple(c[i] for c, i in zip(out.chunks, index, strict=True))
    assert out.compute(scheduler="sync").tobytes() == whole.tobytes()


@given(st.integers(0, 2**63 - 1))
def test_any_chunks_give_the_bits_of_the_array_call(seed):
    check_chunks(seed)


@pytest.mark.slow
def test_five_thousand_cases_of_numpy_dask_and_xarray():
    xr = pytest.importorskip("xarray")
    for i in range(5000):
        check_chunks((20261122, i))
        case = random_case((20261122, i))
        check_case(case)
        options = case.options() | {"nodata": case.nodata}
        whole = tileconv.convolve(case.array, case.kernel, **options)
        dims = ("band", "y", "x")[-case.array.ndim :]
        labelled = tileconv.convolve(xr.DataArray(case.array, dims=dims), case.kernel, **options)
        assert labelled.values.tobytes() == whole.tobytes()


def test_a_cluster_gives_the_same_bits(rng):
    distributed = pytest.importorskip("distributed")
    array, kernel = rng.normal(size=(130, 140)), rng.normal(size=(5, 5))
    expected = tileconv.convolve(array, kernel, stride=2, padding="same", padding_mode="edge")
    lazy = da.from_array(array, chunks=(60, 50))
    out = tileconv.convolve(lazy, kernel, stride=2, padding="same", padding_mode="edge")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.compute(out, sync=True).tobytes() == expected.tobytes()


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_every_scheduler_gives_the_same_bits(rng, scheduler):
    array = rng.normal(size=(3, 130, 140))
    kernel = rng.normal(size=(5, 5))
    expected = tileconv.convolve(array, kernel, stride=2, padding="same", padding_mode="wrap")
    lazy = da.from_array(array, chunks=(1, 60, 50))
    out = tileconv.convolve(lazy, kernel, stride=2, padding="same", padding_mode="wrap")
    assert out.compute(scheduler=scheduler).tobytes() == expected.tobytes()


def test_same_with_stride_one_keeps_the_chunks():
    lazy = da.zeros((100, 90), chunks=((30, 1, 69), (45, 45)))
    for size in (3, 5, 31):
        out = tileconv.convolve(lazy, np.ones((size, size)), padding="same", padding_mode="edge")
        assert out.chunks == lazy.chunks


def counting(shape, chunks, seen):
    """Return an array that notes which of its chunks are computed."""

    def block(block_info=None):
        info = block_info[None]
        seen.append(info["chunk-location"])
        return np.ones(info["chunk-shape"])

    return da.map_blocks(block, chunks=da.core.normalize_chunks(chunks, shape), dtype=float)


def test_chunks_that_no_field_touches_are_not_computed():
    seen = []
    lazy = counting((1000, 1000), (10, 10), seen)
    out = tileconv.convolve(lazy, np.ones((3, 3)), stride=100)
    seen.clear()
    assert out.compute(scheduler="sync").shape == (10, 10)
    assert sorted(seen) == list(itertools.product(range(0, 100, 10), repeat=2))


def test_a_corner_computes_no_more_than_it_needs():
    seen = []
    lazy = counting((1000, 1000), (100, 100), seen)
    out = tileconv.convolve(lazy, np.ones((5, 5)), padding="same")
    seen.clear()
    out[:100, :100].compute(scheduler="sync")
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_three_tasks_per_chunk_and_one_for_what_they_share():
    side = 100
    lazy = da.zeros((side * 64, side * 64), chunks=(64, 64))
    out = tileconv.convolve(lazy, np.ones((3, 3)), padding="same", padding_mode="edge")
    assert len(out.dask.layers[out.name]) == 3 * side**2 + 1


def test_strips_hold_edges_not_chunks(rng):
    lazy = da.from_array(rng.normal(size=(300, 300)), chunks=(100, 100))
    out = tileconv.convolve(lazy, np.ones((3, 3)), padding=1)
    layer = out.dask.layers[out.name]
    centre = layer[(out.name, 1, 1)]
    whole = [key for key in centre.dependencies if key[0] == lazy.name]
    assert whole == [(lazy.name, 1, 1)]
    graph = dict(out.dask)
    strips = dask.get(graph, (f"{out.name}-rows", 0, 1))
    assert [strip.shape for strip in strips] == [(1, 100)]
    assert all(strip.base is None for strip in strips)


@given(axes(), st.integers(1, 60))
def test_pieces_cover_what_chunks_read(parameters, most):
    axis = Axis(**parameters, mode="reflect")
    rng = np.random.default_rng(most)
    chunks = AxisChunks(axis, cut(rng, axis.size))
    assert sum(chunks.out_chunks) == axis.out_size
    for i, pieces in enumerate(chunks.pieces):
        index = chunks.read(i).index
        touched = set(index[index >= 0].tolist())
        held = set()
        for piece in pieces:
            first = int(chunks.bounds[piece.chunk])
            assert 0 <= piece.start < piece.stop <= chunks.chunks[piece.chunk]
            pixels = set(range(first + piece.start, first + piece.stop))
            assert pixels & touched
            held |= pixels
            if piece.strip is not None:
                assert chunks.strips[piece.chunk][piece.strip] == (piece.start, piece.stop)
        assert touched <= held


def test_unknown_chunks_are_refused_with_a_way_out():
    lazy = da.from_array(np.arange(20.0).reshape(5, 4), chunks=2)
    unknown = lazy[lazy[:, 0] > 3]
    with pytest.raises(ConvolutionError, match="compute_chunk_sizes"):
        tileconv.convolve(unknown, [[1.0]])


def test_complex_and_bool_arrays(rng):
    array = rng.normal(size=(40, 41)) + 1j * rng.normal(size=(40, 41))
    array[3, 4] = complex(1, np.nan)
    kernel = rng.random((3, 3))
    for values in (array, array.astype("complex64"), array.real > 0):
        expected = tileconv.convolve(values, kernel, stride=2)
        out = tileconv.convolve(da.from_array(values, chunks=(9, 16)), kernel, stride=2)
        assert out.dtype == expected.dtype
        assert out.compute(scheduler="sync").tobytes() == expected.tobytes()


def test_weights_over_bands_join_the_bands(rng):
    array, weights = rng.normal(size=(6, 30, 31)), rng.normal(size=(4, 3, 3, 3))
    lazy = da.from_array(array, chunks=(1, 10, 31))
    out = tileconv.convolve(lazy, weights, groups=2, bias=[1, 2, 3, 4])
    assert out.chunks[0] == (4,)
    expected = tileconv.convolve(array, weights, groups=2, bias=[1, 2, 3, 4])
    assert out.compute(scheduler="sync").tobytes() == expected.tobytes()


def test_errors_come_before_any_computing():
    lazy = da.from_delayed(dask.delayed(lambda: 1 / 0)(), (9, 9), float)
    with pytest.raises(ConvolutionError, match="only 9"):
        tileconv.convolve(lazy, np.ones((10, 10)))
    with pytest.raises(ConvolutionError, match="shape"):
        tileconv.convolve(lazy[0], [[1.0]])


def test_the_name_follows_the_content():
    lazy = da.zeros((9, 9), chunks=3)
    one, same = (tileconv.convolve(lazy, [[1.0, 2.0]]) for _ in range(2))
    other = tileconv.convolve(lazy, [[1.0, 3.0]])
    assert one.name == same.name != other.name
