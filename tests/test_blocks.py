"""Blocks of dask arrays that are not what dask was told, and masks: neither read past nor lost."""

import mmap
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import tileconv
from tileconv import ConvolutionError

KERNEL = np.ones((3, 3)) / 9
DTYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64", "complex64")


def other_dtype(block, rng):
    names = [name for name in (*DTYPES, "bool", "int64", "float16") if name != block.dtype.name]
    return block.real.astype(names[rng.integers(len(names))])


def masked(block, rng):
    del rng
    hidden = np.indices(block.shape).sum(axis=0) % 2 == 0
    return np.ma.masked_array(block, mask=hidden, fill_value=0)


LIES = {
    "fewer rows": lambda b, _: b[..., : b.shape[-2] // 2, :],
    "fewer columns": lambda b, _: b[..., :, :-1],
    "a quarter": lambda b, _: np.ascontiguousarray(b[..., 1::2, 1::2]),
    "more rows": lambda b, _: np.concatenate([b, b], axis=-2),
    "more columns": lambda b, _: np.concatenate([b, b[..., :1]], axis=-1),
    "nothing": lambda b, _: b[..., :0, :],
    "an axis more": lambda b, _: b[None],
    "an axis less": lambda b, _: b[..., 0],
    "a number": lambda b, _: b.flat[0],
    "turned": lambda b, _: np.concatenate([b, b], axis=-1).swapaxes(-1, -2),
    "another dtype": other_dtype,
    "masked": masked,
}


def lie(block, block_id=None, liar=None, how=None, seed=None):
    """Return a block as it is, or the liar as something else."""
    if tuple(block_id) != liar:
        return block
    return LIES[how](block, np.random.default_rng(seed))


def lying_array(seed):
    """Return (lazy array, place of the block that lies, options of a call that reads it)."""
    rng = np.random.default_rng((20261130, seed))
    lead = tuple(rng.integers(1, 3, rng.integers(0, 2)).tolist())
    shape = (*lead, *rng.integers(8, 60, 2).tolist())
    dtype = DTYPES[rng.integers(len(DTYPES))]
    pixels = (rng.random(shape) * 100).astype(dtype)
    chunks = tuple(int(rng.integers(4, size + 4)) if size > 4 else 1 for size in shape)
    array = da.from_array(pixels, chunks=chunks)
    liar = tuple(int(rng.integers(count)) for count in array.numblocks)
    how = [*LIES][rng.integers(len(LIES))]
    about = {"liar": liar, "how": how, "seed": seed}
    lying = array.map_blocks(
        lie, **about, dtype=array.dtype, meta=np.empty((0,) * array.ndim, dtype)
    )
    stride = int(rng.integers(1, 4))
    padding = ["valid", "same"][rng.integers(2)] if stride == 1 else "same"  # all are read
    return lying, liar, {"stride": stride, "padding": padding}, how


def check_told(seed, **compute):
    lying, liar, options, how = lying_array(seed)
    lazy = tileconv.convolve(lying, KERNEL, **options)
    with pytest.raises(ConvolutionError) as caught:
        lazy.compute(**compute)
    text = str(caught.value)
    assert f"block {liar} of the dask array" in text, (seed, how, text)
    if how == "masked":
        assert "masked array" in text
        return
    declared = tuple(sizes[i] for sizes, i in zip(lying.chunks, liar, strict=True))
    assert f"declared {declared} of {lying.dtype}, computed" in text, (seed, how)
    assert re.search(r"computed \([0-9, ]*\) of \w+; give", text), (seed, how)


def test_in_threads():
    for seed in range(150):
        check_told(seed, scheduler="threads")


def test_in_processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for seed in range(150, 200):
            check_told(seed, scheduler="processes", pool=pool)


@pytest.mark.slow
def test_a_thousand():
    for seed in range(1000, 1400):
        check_told(seed, scheduler="threads")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for seed in range(1400, 1700):
            check_told(seed, scheduler="processes", pool=pool)


def before_a_fault(block):
    """Return fewer pixels than declared, at the end of memory that may be read."""
    import ctypes

    less = np.ascontiguousarray(block[::2, ::2])
    page = mmap.PAGESIZE
    whole = -(-less.nbytes // page) * page
    mapping = mmap.mmap(-1, whole + page)
    every = np.frombuffer(mapping, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    assert libc.mprotect(every.ctypes.data + whole, page, 0) == 0
    there = every[whole - less.nbytes : whole].view(less.dtype).reshape(less.shape)
    there[...] = less
    KEPT.append(mapping)
    return there


KEPT = []


@pytest.mark.parametrize("chunks", [256, (64, 256), 48])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_nothing_is_read_behind_a_block(chunks, dtype):
    array = da.ones((256, 256), chunks=chunks, dtype=dtype).map_blocks(before_a_fault, dtype=dtype)
    for stride in (1, 2, 8):
        with pytest.raises(ConvolutionError, match="not what it was declared to be"):
            tileconv.convolve(array, KERNEL, stride=stride).compute(scheduler="synchronous")


def here(array):
    """Return a lazy array computed in this thread, whatever cluster there is."""
    return array.compute(scheduler="synchronous") if hasattr(array, "compute") else array


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int32", "int64", "float16"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("missing", ["propagate", "skip", "renormalize"])
def test_masked_pixels_are_missing(rng, dtype, lazy, missing):
    pixels = rng.integers(0, 2 if dtype == "bool" else 90, (20, 30)).astype(dtype)
    mask = rng.random(pixels.shape) < 0.1
    holed = np.where(mask, np.nan, pixels.astype(float))
    array = np.ma.masked_array(pixels, mask)
    options = {"missing": missing, "stride": 2}
    expected = tileconv.convolve(holed, KERNEL, dtype="float64", **options)
    given = da.from_array(array, chunks=7) if lazy else array
    out = here(tileconv.convolve(given, KERNEL, dtype="float64", **options))
    assert out.tobytes() == expected.tobytes()
    default = here(tileconv.convolve(given, KERNEL, **options))
    assert default.dtype == tileconv.convolve(pixels, KERNEL).dtype
    assert type(default) is np.ndarray
    whole = here(tileconv.convolve(given, KERNEL, dtype="uint8", nodata=101))
    lost = np.isnan(tileconv.convolve(holed, KERNEL))
    assert (whole == 101).tolist() == lost.tolist()


def test_masks_and_nodata_hide_pixels_both():
    array = np.ma.array([[1, 2, 3, 4]], mask=[[1, 0, 0, 0]], dtype="uint8")
    out = tileconv.convolve(array, [[1]], nodata=3)
    np.testing.assert_array_equal(out, [[np.nan, 2, np.nan, 4]])
    out = tileconv.convolve(array, [[1]], nodata=3, dtype="uint8")
    assert out.tolist() == [[3, 2, 3, 4]]
    with pytest.raises(ConvolutionError, match="without nodata cannot say so"):
        tileconv.convolve(array, [[1]], dtype="uint8")
    big = 2**60
    array = np.ma.array([[big, big + 1]], mask=[[0, 0]])
    assert np.isnan(tileconv.convolve(array, [[1]], nodata=big)).tolist() == [[True, False]]


def test_complex_masked_pixels_are_missing():
    array = np.ma.array([[1 + 1j, 2, 3]], mask=[[0, 1, 0]])
    for given in (array, da.from_array(array, chunks=2)):
        out = here(tileconv.convolve(given, [[1]]))
        assert np.isnan(out).tolist() == [[False, True, False]]


def test_masked_chunks_in_a_dataarray(rng):
    array = da.ma.masked_less(da.from_array(rng.random((8, 8)), chunks=4), 0.1)
    expected = tileconv.convolve(here(array), KERNEL)
    out = tileconv.convolve(xr.DataArray(array, dims=("y", "x")), KERNEL)
    np.testing.assert_array_equal(here(out.data), expected)
    assert np.isnan(expected).any()


def test_a_mask_that_hides_nothing_does_no_harm():
    array = da.ones((8, 8), chunks=4).map_blocks(np.ma.asarray, dtype=float)
    np.testing.assert_allclose(here(tileconv.convolve(array, KERNEL)), 1)


@pytest.mark.parametrize("nothing", [True, False])
def test_masked_kernels_are_refused(nothing):
    kernel = np.ma.array(np.ones((3, 3)), mask=np.zeros((3, 3)))
    if nothing:
        assert tileconv.convolve(np.ones((3, 3)), kernel).item() == 9
        return
    kernel[1, 1] = np.ma.masked
    with pytest.raises(ConvolutionError, match=r"masked array.*kernel.filled\(0\)"):
        tileconv.convolve(np.ones((3, 3)), kernel)
    bank, bias = np.ones((1, 1, 2, 2)), np.ma.array([1.0], mask=[True])
    with pytest.raises(ConvolutionError, match=r"bias is a masked array"):
        tileconv.convolve(np.ones((3, 3)), bank, bias=bias)


def test_with_dasks_query_planning(run_python):
    setting = "import dask; dask.config.set({'array.query-planning': True})"
    try:
        run_python(f"{setting}; import dask.array; dask.array.ones(3)")
    except subprocess.CalledProcessError:
        pytest.skip("this dask cannot be imported so")
    told = run_python(
        """
import warnings
warnings.simplefilter("default")
import dask
dask.config.set({"array.query-planning": True})
import dask.array as da, numpy as np, xarray as xr, tileconv
rng = np.random.default_rng(0)
planned = not hasattr(da.ones((2, 2)).dask, "layers")
image = rng.random((2, 60, 80), dtype="float32")
same = []
for kernel in (np.ones((3, 3)), np.ones((2, 3, 3)), np.ones((2, 2, 3, 3))):
    for pixels in (image, image + 1j, np.ma.masked_less(image, 0.1)):
        for stride in (1, 2, 40):
            lazy = da.from_array(pixels, chunks=(1, 25, 30))
            out = tileconv.convolve(lazy + lazy, kernel, stride=stride, padding="same")
            right = tileconv.convolve(pixels + pixels, kernel, stride=stride, padding="same")
            same.append(np.array_equal((out + out).compute(), right + right, equal_nan=True))
labelled = xr.DataArray(da.from_array(image, chunks=30), dims=("band", "y", "x"))
out = tileconv.convolve(labelled, np.ones((3, 3)))
same.append(np.array_equal(out.data.compute(), tileconv.convolve(image, np.ones((3, 3)))))
short = da.ones((9, 9), chunks=3).map_blocks(lambda block: block[:1], dtype=float)
try:
    tileconv.convolve(short, np.ones((3, 3))).compute()
except tileconv.ConvolutionError as error:
    print(str(error)[:60])
print(planned, len(same), all(same))
"""
    )
    lines = told.split("\n")
    assert re.match(r"block .* of the dask array is not what it was decl", lines[0])
    assert lines[1] in ("True 28 True", "False 28 True")


# a cluster is whose it is for all that follows in this file


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_on_a_cluster(client):
    for seed in range(200, 240):
        check_told(seed)


def test_persisted_on_a_cluster(client):
    distributed = pytest.importorskip("distributed")
    for seed in range(240, 270):
        lying, liar, options, _ = lying_array(seed)
        held = client.persist(lying)
        distributed.wait(held)
        with pytest.raises(ConvolutionError, match=re.escape(f"block {liar} of the dask array")):
            tileconv.convolve(held, KERNEL, **options).compute()


@pytest.mark.slow
def test_a_thousand_on_a_cluster(client):
    for seed in range(1700, 2000):
        check_told(seed)
