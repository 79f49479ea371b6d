"""Missing pixels detected while rows are packed: the bits of tiles searched beforehand."""

import itertools

import numpy as np
import pytest

import tileconv
from tileconv.arrays import eager
from tileconv.dtypes import Numbers
from tileconv.engine.loops.columns_first import ColumnsFirst
from tileconv.engine.loops.direct import Direct
from tileconv.engine.loops.two_pass import TwoPass
from tileconv.operators.convolution import Convolution
from tileconv.planning.reads import read_axis
from tileconv.tile import Recipe, compute_tile

RNG = np.random.default_rng(20261126)
DENSE = RNG.uniform(0.1, 1, (3, 3))
KERNELS = {
    "dense": DENSE,
    "holes": np.where(RNG.random((5, 7)) < 0.5, 0.0, RNG.uniform(0.1, 1, (5, 7))),
    "separable": np.outer(RNG.uniform(0.1, 1, 7), RNG.uniform(0.1, 1, 6)),
    "large": RNG.uniform(0.1, 1, (11, 9)),
}
POLICIES = [
    {"missing": "propagate"},
    {"missing": "renormalize"},
    {"missing": "skip"},
    {"missing": "skip", "min_valid_fraction": 0.5},
    {"missing": "fill", "fill_value": 2.5},
    {"missing": "fill", "fill_value": 7},
]


@pytest.fixture
def beforehand(monkeypatch):
    """Return what computes like `tileconv.convolve`, with tiles searched beforehand."""

    def convolve(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(Direct, "detects_missing", False)
            patch.setattr(TwoPass, "detects_missing", False)
            patch.setattr(ColumnsFirst, "detects_missing", False)
            return tileconv.convolve(*args, **options)

    return convolve


def sprinkled(shape, dtype, nodata):
    """Return pixels, some of them missing: rows hold none, some, many or nothing else."""
    array = RNG.integers(1, 100, shape).astype(dtype)
    lost = RNG.random(shape) < 0.003
    lost[..., 5:8, :] = False
    lost[..., 20:22, :] = True
    lost[..., 30:40, 17:220] = True
    array[lost] = nodata
    return array


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: " ".join(map(str, policy.values())))
def test_bits_are_those_of_tiles_searched_beforehand(beforehand, policy, dtype):
    nodata = np.nan if dtype.startswith("float") else 0
    array = sprinkled((70, 901), dtype, nodata)
    sampling = itertools.product((1, 2, 3, 4, 8, 16, (3, 1), (1, 5)), (1, 2))
    for (name, kernel), (stride, dilation) in itertools.product(KERNELS.items(), sampling):
        options = {"stride": stride, "dilation": dilation, "nodata": nodata, **policy}
        detecting = tileconv.convolve(array, kernel, **options)
        expected = beforehand(array, kernel, **options)
        assert detecting.tobytes() == expected.tobytes(), (name, stride, dilation)


def comb(*columns):
    row = np.zeros(45)
    row[list(columns)] = np.arange(1, len(columns) + 1)
    return np.outer(np.arange(1, 10.0), row)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: " ".join(map(str, policy.values())))
def test_kernels_of_a_bank_may_read_pixels_that_others_do_not(beforehand, policy):
    array = RNG.integers(1, 100, (40, 16 * 30 + 45)).astype(np.uint16)
    array[20, 16 * 7 + 12] = array[22, 16 * 9] = array[30, -3:] = 0
    banks = [
        np.stack([comb(12, 28, 44), comb(0, 16, 32)]),
        np.stack([comb(0, 4, 8, 12, 16), comb(1, 5, 9)]),
        np.stack([DENSE, DENSE.T]),
        comb(0, 16, 32),
        DENSE,
    ]
    for kernel, stride in itertools.product(banks, (1, (1, 2), (1, 4), (1, 16), 3)):
        options = {"stride": stride, "nodata": 0, **policy}
        expected = beforehand(array, kernel, **options)
        nothing = {"nodata": 0, "missing": "skip"}
        tileconv.convolve(
            np.zeros_like(array), DENSE, **nothing
        )  # leaves its validity plane behind
        found = tileconv.convolve(array, kernel, **options)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kernel", ["separable", "row", "column"])
@pytest.mark.parametrize(
    ("stride", "dilation"),
    [(1, 1), (1, (2, 1)), (1, 3), ((2, 1), 1), (2, 1), (3, (2, 1)), ((1, 4), 1)],
)
def test_weights_of_two_passes_depend_on_no_tile(monkeypatch, kernel, stride, dilation):
    # weights of rows of taps are kept from one output row to the next
    kernels = {
        "separable": np.outer([0.5, 1, 0, 2, 0.7, 0, 0.3], RNG.uniform(0.1, 1, 9)),
        "row": np.outer([0, 1, 0, 0, 0, 0, 1], RNG.uniform(0.1, 1, 33)),
        "column": np.outer(RNG.uniform(0.1, 1, 33), [1, 0, 0, 0, 0, 0, 1]),
    }
    array = sprinkled((140, 500), "uint16", 0)
    options = {"stride": stride, "dilation": dilation, "nodata": 0, "missing": "renormalize"}
    whole = tileconv.convolve(array, kernels[kernel], threads=1, **options)
    assert np.isfinite(whole).any()
    for rows, wide in itertools.product((1, 3, 5, 30), (37, 4096)):
        with monkeypatch.context() as patch:
            patch.setattr(eager, "MOST_ROWS", rows)
            patch.setattr(eager, "TILE", wide)
            patch.setattr(eager, "_layouts", {})
            tiles = tileconv.convolve(array, kernels[kernel], threads=2, **options)
            assert tiles.tobytes() == whole.tobytes(), (rows, wide)


@pytest.mark.parametrize("stride", [1, 2, 8], ids=str)
@pytest.mark.parametrize("policy", POLICIES[:3], ids=lambda policy: policy["missing"])
def test_strips_of_a_row_may_differ(beforehand, policy, stride):
    # rows are cut into strips, of which one may hold missing pixels and the next one none
    clean = RNG.integers(1, 100, (33, 20011)).astype(np.uint16)
    kernel = KERNELS["large"]
    for places in ([3], [19990], [9000], [3, 19990], range(0, 20011, 4000)):
        array = clean.copy()
        array[15, list(places)] = 0
        options = {"stride": stride, "nodata": 0, **policy}
        detecting = tileconv.convolve(array, kernel, **options)
        assert detecting.tobytes() == beforehand(array, kernel, **options).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 11, 16])
def test_a_missing_pixel_is_found_wherever_it_lies(stride, dtype):
    clean = RNG.integers(1, 100, (5, 211)).astype(dtype)
    whole = tileconv.convolve(clean, DENSE, stride=stride)
    for x in range(211):
        array = clean.copy()
        array[2, x] = 0
        fields = np.arange(whole.shape[1]) * stride
        lost = (fields <= x) & (x < fields + 3)
        found = tileconv.convolve(array, DENSE, stride=stride, nodata=0)
        rows = np.arange(whole.shape[0]) * stride <= 2
        np.testing.assert_array_equal(np.isnan(found), rows[:, None] & lost)
        assert (found == whole)[~np.isnan(found)].all()


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_what_only_looks_like_nodata_is_valid(beforehand, stride):
    # a look at rows is coarse: numbers that differ by their sign, or less than a float can tell
    big = np.full((9, 300), 2**53 + 1, np.int64)
    assert not np.isnan(tileconv.convolve(big, DENSE, stride=stride, nodata=2**53)).any()
    floats = np.full((9, 300), 9999, np.float32)
    floats[4, 150] = -9999
    floats[4, 200] = np.nan
    for policy in POLICIES:
        options = {"stride": stride, "nodata": -9999, **policy}
        found = tileconv.convolve(floats, DENSE, **options)
        assert found.tobytes() == beforehand(floats, DENSE, **options).tobytes()
    zeros = np.where(np.eye(9, 300) > 0, -0.0, 1.0)
    found = tileconv.convolve(zeros, DENSE, stride=stride, nodata=0.0)
    np.testing.assert_array_equal(
        found, tileconv.convolve(zeros, DENSE, stride=stride, nodata=-0.0)
    )
    assert np.isnan(found).any()


@pytest.mark.parametrize("layout", ["columns", "backwards", "transposed"])
def test_rows_of_any_layout(beforehand, layout):
    array = sprinkled((70, 380), np.uint16, 0)
    laid_out = {
        "columns": np.repeat(array, 3, axis=1)[:, ::3],
        "backwards": np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
        "transposed": np.asfortranarray(array),
    }[layout]
    for stride, policy in itertools.product((1, 2, 8), POLICIES):
        options = {"stride": stride, "nodata": 0, **policy}
        found = tileconv.convolve(laid_out, KERNELS["holes"], **options)
        assert found.tobytes() == beforehand(array, KERNELS["holes"], **options).tobytes()


def test_a_thread_begins_anew_with_each_array():
    clean = RNG.integers(1, 100, (80, 300)).astype(np.uint16)
    gaps = clean.copy()
    gaps[::3, ::5] = 0
    options = {"nodata": 0, "missing": "renormalize", "threads": 1}
    plain = tileconv.convolve(clean, DENSE)
    first = tileconv.convolve(gaps, DENSE, **options)
    assert tileconv.convolve(clean, DENSE, **options).tobytes() == plain.tobytes()
    assert tileconv.convolve(gaps, DENSE, **options).tobytes() == first.tobytes()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["dense", "separable"])
def test_streamed_results(monkeypatch, beforehand, name, stride):
    for lost in (0, 40):  # the first rows are written past them, later ones, with gaps, are not
        array = RNG.integers(1, 100, (80, 1500)).astype(np.uint16)
        array[40:60, 10 : 10 + lost] = 0
        options = {"nodata": 0, "missing": "renormalize", "stride": stride}
        expected = beforehand(array, KERNELS[name], **options)
        with monkeypatch.context() as patch:
            patch.setattr(eager, "STREAM_BYTES", 0)
            found = tileconv.convolve(array, KERNELS[name], **options)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("masks", ["one", "shared", "each"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: " ".join(map(str, policy.values())))
@pytest.mark.parametrize("kernel", [DENSE, KERNELS["separable"], np.stack([[DENSE] * 3] * 2)])
def test_masks_hide_pixels(monkeypatch, kernel, policy, masks):
    bands, size = 3, (60, 333)
    window = sprinkled((bands, *size), np.uint16, 0)
    masked = RNG.random((bands, *size)) < 0.02
    masked[:, 11:20] = False
    masked = {"one": masked[0], "shared": masked[:1], "each": masked}[masks]
    convolution = Convolution.of(kernel, stride=2, **policy)
    geometry = convolution.geometry(size)
    reads = tuple(read_axis(axis, 0, axis.out_size) for axis in (geometry.y, geometry.x))
    results = []
    for detects_missing in (True, False):
        recipe = Recipe.of(convolution, Numbers.of(np.uint16, nodata=0), bands)
        out = np.zeros((recipe.outputs, *geometry.out_shape), np.float32)
        share = np.zeros(geometry.out_shape, np.float32)
        with monkeypatch.context() as patch:
            if not detects_missing:
                patch.setattr(Direct, "detects_missing", False)
                patch.setattr(TwoPass, "detects_missing", False)
            patch.setattr(ColumnsFirst, "detects_missing", False)
            compute_tile(recipe, reads, window, masked, out, share)
            alone = np.zeros_like(out)
            compute_tile(recipe, reads, window, masked, alone)
        assert alone.tobytes() == out.tobytes()
        results.append((out.tobytes(), share.tobytes()))
        assert 0 < share.mean() < 1
    assert results[0] == results[1]
