"""What holds for every algorithm: the same bits for any tiling, threads, layout and vectors."""

import itertools

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tileconv
from tileconv.arrays import eager
from tileconv.dtypes import INPUT_DTYPES, Numbers
from tileconv.engine import kernel_layout, sizes
from tileconv.engine.choose import COLUMNS_FIRST, DIRECT, SEPARABLE, choose
from tileconv.engine.factor import factor
from tileconv.engine.kernel_layout import layout_of
from tileconv.engine.loops import columns_first, direct, row_stream, two_pass
from tileconv.engine.loops.kernel_gemm import KernelGemm
from tileconv.engine.loops.panel_gemm import CHUNK, TOGETHER
from tileconv.engine.micro.tile_rows import OVERWRITE, STREAM
from tileconv.engine.missing import normalize, replace
from tileconv.engine.pack.rows import NO_PREFETCH, PREFETCH_PARTS, early_prefetch
from tileconv.geometry import Axis
from tileconv.operators.convolution import Convolution
from tileconv.planning.reads import read_axis
from tileconv.tile import Recipe, compute_tile

RNG = np.random.default_rng(20261125)
GAUSS = np.outer(np.exp(-(np.linspace(-2, 2, 9) ** 2)), np.exp(-(np.linspace(-1, 1, 7) ** 2)))
HOLES = RNG.normal(size=(5, 6)) * (RNG.random((5, 6)) < 0.5)
BIG = RNG.normal(size=(9, 3, 9, 9))  # more taps than a chunk, more kernels than a block
HOLED_BANDS = RNG.normal(size=(1, 3, 5, 4)) * (RNG.random((1, 3, 5, 4)) < 0.8)
KERNELS = {
    "3x3": RNG.normal(size=(3, 3)),
    "dense": RNG.normal(size=(5, 7)),
    "row": RNG.normal(size=(1, 11)),
    "column": RNG.normal(size=(11, 1)),
    "holes": HOLES,
    "separable": GAUSS,
    "separable with holes": np.outer([1, 2, 0, 2, 1, 1], [1, -1, 0, 0, 1, 3, 1]),
    "box": np.ones((8, 8)),
    "bank": RNG.normal(size=(5, 3, 4)),
    "separable bank": np.stack([GAUSS, np.ones_like(GAUSS)]),
    "mix": RNG.normal(size=(6, 3, 3, 3)),
    "big mix": BIG,
    "many kernels": RNG.normal(size=(53, 3, 3, 4)),
    "sum over bands": HOLED_BANDS,
}
SAMPLINGS = [
    {"stride": 1},
    {"stride": 2},
    {"stride": (3, 1), "dilation": (2, 3)},
    {"stride": (1, 4), "dilation": (3, 1)},
    {"stride": (4, 8)},
    {"stride": (20, 17)},
]


def choice(kernel, *, stride=1, dilation=1, dtype=np.float32):
    convolution = Convolution.of(kernel, stride=stride, dilation=dilation)
    return choose(convolution.weights, convolution.stride, convolution.dilation, np.dtype(dtype))


def test_every_kind_of_kernel_meets_its_algorithm():
    chosen = {name: choice(kernel) for name, kernel in KERNELS.items()}
    separable = {"separable", "separable with holes", "box", "separable bank"}
    assert {name for name, algorithm in chosen.items() if algorithm is SEPARABLE} == separable
    assert choice(GAUSS, stride=9) is COLUMNS_FIRST
    assert choice(GAUSS, stride=(1, 9)) is SEPARABLE
    assert choice(GAUSS, stride=(3, 1), dilation=(3, 1)) is SEPARABLE  # they share all rows but one
    assert choice(GAUSS, stride=40) is DIRECT  # the pass down would add up what nobody reads
    assert BIG[0].size > CHUNK
    assert chosen["big mix"] is DIRECT


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_bits_depend_on_no_tiling_thread_or_layout(name, sampling, monkeypatch):
    kernel = KERNELS[name]
    bands = 3 if kernel.ndim == 4 else 2
    for dtype in ("uint16", "float32", "float64"):
        array = RNG.integers(0, 60000, (bands, 151, 187)).astype(dtype)
        expected = tileconv.convolve(array, kernel, threads=1, **sampling)
        reference = naive.convolve(
            array,
            kernel,
            stride=Convolution.of(kernel, **sampling).stride,
            dilation=Convolution.of(kernel, **sampling).dilation,
        )
        naive.assert_close(expected, reference, expected.dtype)
        for layout in layouts(array):
            assert np.array_equal(array, layout)
            again = tileconv.convolve(layout, kernel, **sampling)
            assert again.tobytes() == expected.tobytes()
        for small, threads in itertools.product((3, 40), (1, 2, 5)):
            with monkeypatch.context() as patch:
                for limit in ("FEWEST_ROWS", "FEWEST_APART", "MOST_ROWS", "TILE", "SMALL"):
                    patch.setattr(eager, limit, small)
                patch.setattr(eager, "_recipes", {})
                patch.setattr(eager, "_layouts", {})
                again = tileconv.convolve(array, kernel, threads=threads, **sampling)
            assert again.tobytes() == expected.tobytes()


@pytest.mark.parametrize("stride", [1, 2, (2, 1), (5, 8), (1, 3)], ids=str)
@pytest.mark.parametrize("name", ["dense", "holes", "separable", "box", "sum over bands", "bank"])
def test_bits_depend_on_no_width_of_strips(name, stride, monkeypatch):
    kernel = KERNELS[name]
    array = RNG.normal(size=(3 if kernel.ndim == 4 else 1, 30, 1700)).astype(np.float32)
    whole = tileconv.convolve(array, kernel, stride=stride)
    for module, limit in (
        (kernel_layout, "MOST_COLUMNS"),
        (kernel_layout, "RING_BYTES"),
        (sizes, "PACKED_BYTES"),
        (sizes, "COLUMN_SUM_BYTES"),
    ):
        monkeypatch.setattr(module, limit, 96)
    monkeypatch.setattr(eager, "_recipes", {})
    monkeypatch.setattr(eager, "_layouts", {})
    assert tileconv.convolve(array, kernel, stride=stride).tobytes() == whole.tobytes()


@pytest.mark.parametrize("stride", [2, 3, 4, 7, 8, 16, 19, 32])
@pytest.mark.parametrize(
    ("dtype", "target"),
    [*((dtype, None) for dtype in INPUT_DTYPES[1:]), ("uint8", "float64"), ("int16", "float64")],
)
def test_pixels_of_any_dtype_are_packed_for_any_stride(dtype, stride, target):
    # words hold several small pixels, and phases may be read by no tap; rows end anywhere
    for width, taps in (
        (400, [0, 1, 2, 3, 4, 5, 6]),
        (391, [0]),
        (173, [1, stride, 21]),
        (40, [3]),
    ):
        kernel = np.zeros((2, max(taps) + 1))
        kernel[:, taps] = RNG.normal(size=(2, len(taps)))
        array = (RNG.normal(size=(9, width)) * 1e4).astype(dtype)
        every = tileconv.convolve(array, kernel, dtype=target)
        some = tileconv.convolve(array, kernel, stride=(1, stride), dtype=target)
        assert some.tobytes() == every[:, ::stride].tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 16])
def test_bits_do_not_depend_on_whether_the_next_row_is_prefetched(dtype, stride, monkeypatch):
    kernel, asked = RNG.normal(size=(17, 19)), set()
    array = RNG.integers(0, 250, (90, 700)).astype(dtype)
    every = tileconv.convolve(array, kernel)
    for early in (NO_PREFETCH, 0, 1, PREFETCH_PARTS // 2, PREFETCH_PARTS):
        monkeypatch.setattr(
            row_stream, "early_prefetch", lambda apart, adds, early=early: asked.add(early) or early
        )
        eager._recipes.clear()  # with the layouts that hold what was prefetched before
        eager._layouts.clear()
        some = tileconv.convolve(array, kernel, stride=stride)
        assert some.tobytes() == np.ascontiguousarray(every[::stride, ::stride]).tobytes()
    assert len(asked) == (0 if stride == 1 else 5)


def test_the_next_row_is_prefetched_evenly():
    assert (
        early_prefetch(8, 0) == PREFETCH_PARTS
    )  # nothing to add: all of it while pixels are packed
    assert PREFETCH_PARTS > early_prefetch(8, 2) > early_prefetch(8, 20) > 0
    assert early_prefetch(128, 2) == NO_PREFETCH  # cache lines that nobody reads
    assert early_prefetch(-4, 2) == NO_PREFETCH


STORES = {  # which argument of a loop ends with how it stores sums
    direct: ("correlate_with_ring", 8),
    two_pass: ("correlate_in_two_passes", 6),
    row_stream: ("correlate_row_by_row", 9),
    columns_first: ("correlate_columns_first", 4),
}


@pytest.fixture
def stores(monkeypatch):
    """Collect how loops store sums, as they run."""
    found = set()

    def watched(run, at):
        return lambda *args: (found.add(args[at][-1]), run(*args))

    for module, (name, at) in STORES.items():
        monkeypatch.setattr(module, name, watched(getattr(module, name), at))
    return found


@pytest.fixture
def streamed(monkeypatch):
    """Return what computes like `tileconv.convolve`, with results that are streamed to memory."""

    def convolve(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(eager, "STREAM_BYTES", 0)
            return tileconv.convolve(*args, **options)

    return convolve


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("name", ["dense", "holes", "sum over bands", "separable", "box"])
@pytest.mark.parametrize("stride", [2, 3, (9, 8)], ids=str)
def test_bits_of_strides_do_not_depend_on_whether_they_are_streamed(
    name, dtype, stride, stores, streamed
):
    kernel = KERNELS[name]
    for width in (1601, 197, 40):
        array = RNG.integers(0, 250, (3 if kernel.ndim == 4 else 1, 61, width)).astype(dtype)
        stores.clear()
        plain = tileconv.convolve(array, kernel, stride=stride)
        assert stores == {row_stream.COPY_OUT}
        stores.clear()
        assert streamed(array, kernel, stride=stride).tobytes() == plain.tobytes()
        assert stores == {row_stream.STREAM_OUT}


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("name", ["3x3", "row", "column", "separable", "box"])
def test_bits_do_not_depend_on_whether_they_are_streamed(name, dtype, stores, streamed):
    # strips that hold several buffers of outputs, and less than one; rows that begin anywhere
    for width, dilation in ((1601, 1), (197, (2, 1)), (40, 1)):
        array = RNG.integers(0, 250, (61, width)).astype(dtype)
        stores.clear()
        plain = tileconv.convolve(array, KERNELS[name], dilation=dilation)
        assert stores == {OVERWRITE}
        stores.clear()
        assert streamed(array, KERNELS[name], dilation=dilation).tobytes() == plain.tobytes()
        assert stores == {STREAM}


def test_sums_that_are_read_again_are_not_streamed(stores, streamed):
    array = RNG.integers(1, 250, (61, 1601), np.uint8)
    array[7, 9] = 3
    for nodata, more, store in (
        (0, {}, {STREAM}),  # no pixel is missing
        (3, {}, {STREAM, OVERWRITE}),  # weights of valid pixels are read again
        (0, {"dtype": "float64"}, {STREAM}),
        (0, {"dtype": "int32"}, {OVERWRITE}),  # they have yet to be rounded
        (0, {"bias": [1.5]}, {OVERWRITE}),
    ):
        given = {"missing": "skip", "nodata": nodata, **more}
        given["kernel"] = np.reshape(KERNELS["3x3"], (1, 1, 3, 3))
        plain = tileconv.convolve(array[None], **given)
        stores.clear()
        assert streamed(array[None], **given).tobytes() == plain.tobytes()
        assert stores == store, given


def layouts(array):
    """The same numbers, lying differently in memory."""
    yield np.asfortranarray(array)
    yield np.ascontiguousarray(array.transpose(1, 2, 0)).transpose(2, 0, 1)  # pixel by pixel
    yield np.ascontiguousarray(array[:, ::-1, ::-1])[:, ::-1, ::-1]
    yield np.repeat(array, 3, axis=2)[:, :, ::3]
    yield array.astype(array.dtype.newbyteorder())
    odd = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    odd[:] = array
    yield odd
    locked = array.copy()
    locked.setflags(write=False)
    yield locked


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(3, 3), (4, 4), (5, 5), (4, 7), (9, 7), (12, 8), (5, 1)], ids=str
)
def test_a_dense_kernel_has_the_bits_of_its_place_in_a_bank(shape, dtype):
    # alone at stride 1 it has a block of its own, made for its width
    image = RNG.normal(size=(50, 131)).astype(dtype)
    kernel = RNG.normal(size=shape)
    assert choice(kernel, dtype=dtype) is DIRECT
    bank = tileconv.convolve(image, np.stack([kernel, RNG.normal(size=kernel.shape)]))
    assert tileconv.convolve(image, kernel).tobytes() == bank[0].tobytes()


@pytest.mark.parametrize("holes", [False, True], ids=["dense", "holes"])
@pytest.mark.parametrize("past", [0, 1 << 60], ids=["streamed", "cached"])
def test_kernels_of_a_bank_whose_fields_lie_apart_have_the_bits_they_have_alone(
    holes, past, monkeypatch
):
    # more kernels than go over a strip together
    monkeypatch.setattr(eager, "STREAM_BYTES", past)
    kernels = RNG.normal(size=(4 * TOGETHER + 3, 2, 3, 4))
    if holes:
        kernels *= RNG.random(kernels.shape) < 0.7
    image = RNG.integers(0, 60000, (2, 530, 601)).astype(np.uint16)
    together = tileconv.convolve(image, kernels, stride=(4, 4), threads=1)
    for kernel, plane in zip(kernels, together, strict=True):
        alone = tileconv.convolve(image, kernel[None], stride=(4, 4))
        assert alone[0].tobytes() == plane.tobytes()


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
@pytest.mark.parametrize("width", [640, 641, 801], ids="{} columns".format)
@pytest.mark.parametrize("number", [50, 64, 107])
@pytest.mark.parametrize("past", [0, 1 << 60], ids=["streamed", "cached"])
def test_many_kernels_side_by_side_have_the_bits_they_have_alone(
    monkeypatch, past, number, width, dtype
):
    # outputs in rows that begin with a cache line, and not; groups of kernels that are full, or not
    kernels = RNG.normal(size=(number, 3, 4, 5))
    image = RNG.integers(0, 60000, (3, 91, width)).astype(dtype)
    runs, run = [], KernelGemm.run
    monkeypatch.setattr(
        KernelGemm, "run", lambda *args, stream: (runs.append(stream), run(*args, stream=stream))
    )
    monkeypatch.setattr(eager, "STREAM_BYTES", past)
    monkeypatch.setattr(sizes, "WIDE_VECTOR", 0)  # on machines with short vectors, too
    together = tileconv.convolve(image, kernels, stride=(4, 5), threads=1)
    assert {*runs} == {past == 0}
    for kernel, plane in zip(kernels, together, strict=True):
        alone = tileconv.convolve(image, kernel[None], stride=(4, 5))
        assert alone[0].tobytes() == plane.tobytes()


def test_many_kernels_with_holes_pass_over_what_is_not_finite():
    kernels = RNG.normal(size=(64, 1, 6, 6))
    kernels[:, :, 2, 3] = 0
    image = RNG.normal(size=(1, 60, 60)).astype(np.float32)
    image[:, 2::6, 3::6] = np.nan
    assert np.isfinite(tileconv.convolve(image, kernels, stride=6)).all()


@given(st.data())
def test_a_tile_of_any_size_has_the_bits_of_the_whole(data):
    name = data.draw(st.sampled_from(sorted(KERNELS)))
    kernel, sampling = KERNELS[name], data.draw(st.sampled_from(SAMPLINGS))
    bands = 3 if kernel.ndim == 4 else 1
    array = RNG.normal(size=(bands, 140, 150)).astype(np.float32)
    whole = tileconv.convolve(array, kernel, **sampling)
    convolution = Convolution.of(kernel, **sampling)
    recipe = Recipe.of(convolution, Numbers.of(array.dtype), bands)
    geometry = convolution.geometry(array.shape[1:])
    cuts = []
    for axis in (geometry.y, geometry.x):
        first = data.draw(st.integers(0, axis.out_size - 1))
        cuts.append((first, data.draw(st.integers(first + 1, axis.out_size))))
    block = data.draw(st.sampled_from([None, 1, 16]))  # 1 and 16 pack what lies apart
    reads = tuple(
        read_axis(axis, *cut, block)
        for axis, cut in zip((geometry.y, geometry.x), cuts, strict=True)
    )
    window = array[:, np.maximum(reads[0].index, 0)][:, :, np.maximum(reads[1].index, 0)]
    shape = [end - first for first, end in cuts]
    out = np.empty((recipe.outputs, *shape), np.float32)
    compute_tile(recipe, reads, window, None, out)
    expected = whole.reshape(-1, *whole.shape[-2:])[:, slice(*cuts[0]), slice(*cuts[1])]
    assert out.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factors_multiply_to_the_kernel_or_are_refused(dtype):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(7)
    for rows, columns in itertools.product((2, 3, 8), (1, 5)):
        # Of float32's precision: float64 holds their products exactly. Products that were rounded
        # are not always of rank one to within `factor`'s bound, and then go the direct way.
        column, row = (rng.normal(size=n).astype("float32").astype(float) for n in (rows, columns))
        kernel = np.outer(column, row) / (7 if dtype == np.float32 else 1)
        found = factor(kernel, dtype)
        assert found is not None
        np.testing.assert_allclose(np.outer(*found), kernel, rtol=1e-14)
    assert factor(RNG.normal(size=(3, 3)), dtype) is None
    bent = np.outer([1.0, 2.0, 3.0], [1.0, 5.0, 1.0])
    bent[2, 2] *= 1 + 64 * np.finfo(dtype).eps
    assert factor(bent, dtype) is None
    holed = np.ones((5, 5))
    holed[2, 2] = 0  # no tap, where a product of factors would make one
    assert factor(holed, dtype) is None
    assert factor(np.zeros((2, 2)), dtype) is None


@pytest.mark.parametrize(("stride", "algorithm"), [(1, SEPARABLE), (3, COLUMNS_FIRST)])
def test_whole_numbers_stay_whole_in_two_passes(stride, algorithm):
    kernel = np.outer([1, 3, 3, 1, 5], [1, 7, 21, 7, 1, 2])
    assert choice(kernel, stride=stride) is algorithm
    image = RNG.integers(0, 200, (64, 80)).astype(np.uint8)
    exact = naive.convolve(image, kernel, stride=(stride, stride))[0].astype(float)
    np.testing.assert_array_equal(tileconv.convolve(image, kernel, stride=stride), exact)


@pytest.mark.parametrize("kernel", [KERNELS["dense"], GAUSS], ids=["direct", "separable"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_the_fields_that_hold_it(kernel, value):
    image = RNG.normal(size=(60, 70)).astype(np.float32)
    clean = tileconv.convolve(image, kernel)
    image[31, 40] = value
    spoilt = tileconv.convolve(image, kernel)
    kh, kw = kernel.shape
    hit = np.zeros(clean.shape, bool)
    hit[31 - kh + 1 : 32, 40 - kw + 1 : 41] = True
    assert (spoilt[~hit] == clean[~hit]).all()
    assert not np.isfinite(spoilt[hit]).any()


def test_a_weight_too_small_for_float32_is_still_a_tap():
    image = np.ones((4, 4), np.float32)
    image[1, 1] = np.nan
    out = tileconv.convolve(image, [[1.0, 1e-60]])
    assert np.isnan(out).tolist() == np.isnan(tileconv.convolve(image, [[1.0, 1.0]])).tolist()


def test_scratch_is_bounded_for_any_kernel():
    for size, stride, dilation in [(1, 1, 1), (63, 1, 1), (31, 8, 1), (9, 64, 1), (5, 1, 40)]:
        convolution = Convolution.of(np.ones((size, size)), stride=stride, dilation=dilation)
        taps = convolution.plan_groups(1, np.dtype(np.float32))[0].taps
        axis = Axis(50_000, size, stride, dilation)
        for vector_bytes in (16, 32, 64):
            layout = layout_of(convolution.stride, convolution.dilation, taps, 1, vector_bytes)
            ring = layout.ring_size(layout.columns(axis.out_size))
            assert ring * layout.weights.itemsize < 2 << 20


def test_memory_of_a_result_is_used_again_only_when_nobody_holds_it(monkeypatch):
    monkeypatch.setenv("TILECONV_KEEP_BYTES", str(1 << 30))
    image = RNG.normal(size=(1100, 1100)).astype(np.float32)
    first = tileconv.convolve(image, KERNELS["3x3"])
    address, part, copy = first.ctypes.data, first[5:9], first[5:9].copy()
    del first
    second = tileconv.convolve(image + 1, KERNELS["3x3"])
    assert second.ctypes.data != address
    np.testing.assert_array_equal(part, copy)
    del part
    third = tileconv.convolve(image, KERNELS["3x3"])
    assert third.ctypes.data == address
    monkeypatch.setenv("TILECONV_KEEP_BYTES", "0")
    address = third.ctypes.data
    del third
    np.testing.assert_array_equal(second, tileconv.convolve(image + 1, KERNELS["3x3"]))


def patches(shape, *, rows):
    """Say which pixels lie in patches, some of them wide, or are missing one by one."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    lost = np.sin(x / 40) * np.cos(y / rows) > 0.4
    return lost | (RNG.random(shape) < 0.002)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
@pytest.mark.parametrize("stride", [1, 2, (1, 5)], ids=str)
@pytest.mark.parametrize("name", ["3x3", "holes", "separable", "row", "column"])
@pytest.mark.parametrize(
    "policy",
    [
        {"missing": "renormalize"},
        {"missing": "renormalize", "min_valid_fraction": 0.4},
        {"missing": "skip"},
        {"missing": "fill", "fill_value": 3.0, "min_valid_fraction": 0.7},
    ],
    ids=lambda policy: " ".join(map(str, policy.values())),
)
def test_missing_pixels_of_wide_rows_are_those_of_narrow_ones(policy, name, stride, dtype):
    # wide rows are read 64 bits and outputs at a time, narrow ones singly
    kernel = np.abs(KERNELS[name])
    array = RNG.integers(1, 60000, (70, 391)).astype(dtype)
    array[patches(array.shape, rows=21)] = 0
    options = {"stride": stride, "nodata": 0, **policy}
    wide = tileconv.convolve(array, kernel, **options)
    pair = stride if isinstance(stride, tuple) else (stride, stride)
    reference = naive.convolve(
        array,
        kernel,
        stride=pair,
        nodata=0,
        policy=policy["missing"],
        **{key: value for key, value in policy.items() if key != "missing"},
    )
    naive.assert_close(wide, reference, wide.dtype)
    assert np.isnan(wide).any()
    assert np.isfinite(wide).any()
    for first in range(0, wide.shape[1], 8):
        left, end = first * pair[1], min(first + 8, wide.shape[1])
        part = array[:, left : (end - 1) * pair[1] + kernel.shape[1]]
        narrow = tileconv.convolve(part, kernel, **options)
        assert narrow.tobytes() == wide[:, first:end].tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
@pytest.mark.parametrize("policy", ["propagate", "skip", "fill", "renormalize"])
def test_whole_numbers_with_gaps_have_the_bits_of_floats_with_nan(policy, dtype):
    # a copy with missing pixels taken out keeps the dtype where what is put in is 0
    kernel = RNG.normal(size=(5, 4))
    kernel = np.abs(kernel) if policy == "renormalize" else kernel
    whole = RNG.integers(1, 100, (67, 190)).astype(dtype)
    whole[patches(whole.shape, rows=21)] = 0
    whole[:, 150:] *= RNG.integers(0, 2, (67, 40)).astype(dtype)
    numbers = np.dtype("float64" if dtype == "int32" else "float32")
    floats = np.where(whole == 0, np.nan, whole).astype(numbers)
    modes, values = ("constant", "edge", "missing"), (0.0, -0.0, 2.5)
    for mode, value, stride in itertools.product(modes, values, (1, 2, 8)):
        options = {"missing": policy, "stride": stride, "padding": 3, "padding_mode": mode}
        if mode == "constant":
            options["padding_value"] = value
        if policy == "fill":
            options["fill_value"] = value
        of_whole = tileconv.convolve(whole, kernel, nodata=0, dtype=numbers, **options)
        of_floats = tileconv.convolve(floats, kernel, dtype=numbers, **options)
        missing = np.isnan(of_floats)
        assert (np.isnan(of_whole) == missing).all()
        assert of_whole[~missing].tobytes() == of_floats[~missing].tobytes()


@pytest.mark.parametrize("stride", [1, (1, 2), (2, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("name", ["dense", "two passes"])
def test_looks_at_the_last_fields_of_strips_see_all_of_them(monkeypatch, name, stride):
    # what lies around the validity plane says that no pixel is missing
    held = np.empty

    def poisoned(shape, dtype=float, **options):
        array = held(shape, dtype, **options)
        array.view(np.uint8).fill(0xFF)
        return array

    def poisoned_scratch(name, shape, dtype):
        return poisoned(shape, dtype)

    kernel = np.ones((3, 31)) if name == "two passes" else RNG.uniform(0.1, 1, (3, 31))
    options = {"stride": stride, "missing": "skip", "min_valid_fraction": 1, "threads": 1}
    monkeypatch.setattr(normalize.buffers, "scratch", poisoned_scratch)
    monkeypatch.setattr(np, "empty", poisoned)
    step = stride if isinstance(stride, int) else stride[1]
    for width in range(2400 * step, 2400 * step + 1500, 31):
        array = np.ones((5, width), np.float64)
        last = (width - 31) // step * step + 30  # what the last field reads
        array[1, last] = np.nan
        found = tileconv.convolve(array, kernel, **options)
        assert np.isnan(found[0, -1]), width
        assert not np.isnan(found[:, : -31 // step - 1]).any(), width


WEIGHED = {
    "dense": np.abs(KERNELS["dense"]),
    "holes": np.where(RNG.random((4, 9)) < 0.5, RNG.uniform(0.1, 1, (4, 9)), 0),
    "wide": RNG.uniform(0.1, 1, (2, 150)),
    "rank one": np.outer(RNG.uniform(0.1, 1, 5), RNG.uniform(0.1, 1, 4)),
    "wide, of rank one": np.outer(RNG.uniform(0.1, 1, 3), RNG.uniform(0.1, 1, 131)),
}


@pytest.mark.parametrize("stride", [1, 2, 3, 8, 70])
@pytest.mark.parametrize("name", WEIGHED)
@pytest.mark.parametrize(
    "rule",
    [
        normalize.NormalizationRule(scale=True, least=0.0, empty=True),
        normalize.NormalizationRule(scale=False, least=0.3, empty=True),
        normalize.NormalizationRule(scale=False, least=1, empty=False, counts=True),
    ],
    ids=["renormalize", "least", "counts"],
)
def test_shares_and_sums_are_those_of_the_valid_pixels(rule, name, stride):
    kernel = WEIGHED[name]
    valid = ~patches((60, 430), rows=21)
    valid[:, 100:290] = False
    valid[50:] = True
    rows = (~valid).any(axis=1)[None].astype(np.intp)
    taps = Convolution.of(kernel).plan_groups(1, np.dtype(np.float32))[0].taps
    shape = tuple((n - k) // stride + 1 for n, k in zip(valid.shape, kernel.shape, strict=True))
    before, share = RNG.normal(size=(1, *shape)).astype(np.float32), np.ones(shape)
    sums, plane = before.copy(), valid[None].astype(np.uint8)
    plane[rows == 0] = 7  # what lies there must not matter
    sampling = (stride, stride), (1, 1)
    normalizer = normalize.Normalizer(rule, taps, sampling, 1, np.dtype(np.float32))
    normalizer.normalize(np.ones((1, *valid.shape)), plane, rows, sums)
    weights = normalize.ValidWeights(taps, sampling, 1, np.dtype(np.float64))
    normalize.lower_shares(weights, plane, rows, share)
    fields = np.lib.stride_tricks.sliding_window_view(valid, kernel.shape)[::stride, ::stride]
    expected = (fields * kernel).sum(axis=(2, 3)) / kernel.sum()
    np.testing.assert_allclose(share, expected, rtol=1e-12, atol=1e-15)
    whole = fields[..., kernel != 0].all(axis=2)
    np.testing.assert_array_equal(share == 1, whole)
    assert sums[0][whole].tobytes() == before[0][whole].tobytes()
    missing = ~whole if rule.counts else expected <= rule.least
    np.testing.assert_array_equal(np.isnan(sums[0]), missing)
    if rule.scale:
        scaled = before[0][~missing] / expected[~missing]
        np.testing.assert_allclose(sums[0][~missing], scaled, rtol=1e-5)


@pytest.mark.parametrize(("step", "span"), [(1, 1), (1, 5), (2, 5), (3, 1), (3, 3), (7, 4)])
def test_output_rows_are_those_that_read_a_missing_pixel(step, span):
    for share in (0, 0.02, 0.1, 0.5, 1):
        flags = (RNG.random((2, 200)) < share).astype(np.intp)
        height = (200 - span) // step + 1
        read = [flags[:, y * step : y * step + span].any() for y in range(height)]
        first, end, taken = 0, 0, []
        while end < height:
            first, end = normalize._next_rows(flags, step, span, end, height)
            if first == height:
                break
            assert read[first]
            assert read[end - 1]
            taken += range(first, end)
        assert taken == sorted(set(taken))
        assert set(np.flatnonzero(read)) <= set(taken)
        gaps = np.diff([y for y in range(height) if read[y]])
        assert len(taken) - sum(read) == sum(gap - 1 for gap in gaps if gap <= span // step + 1)


@pytest.mark.parametrize("number", ["float32", "float64"])
@pytest.mark.parametrize("stride", [1, 3])
def test_faint_weights_give_a_mean_of_what_is_valid(number, stride):
    # only weights near the end of what a float holds are valid
    axis = np.arange(41) - 20.0
    line = np.exp(-(axis**2) / (8.3 if number == "float32" else 1.1))
    array = np.full((160, 160), np.nan, number)
    array[::40, ::40] = RNG.uniform(4, 6, (4, 4))
    kernel = np.outer(line, line) / line.sum() ** 2
    assert 0 < kernel.min() < np.finfo(number).tiny
    for weights in (kernel, np.stack([kernel, 3 * kernel])):
        found = tileconv.convolve(array, weights, stride=stride, missing="renormalize")
        gain = weights.reshape(-1, 41 * 41).sum(axis=1).reshape(-1, 1, 1)
        mean = found.reshape(-1, *found.shape[-2:]) / gain
        assert not np.isnan(mean).any()
        assert mean.min() >= np.nanmin(array) * (1 - 1e-5)
        assert mean.max() <= np.nanmax(array) * (1 + 1e-5)


def test_weights_beyond_what_a_float_holds_are_normalized_all_the_same():
    array = np.full((9, 9), 1e-20, np.float32)
    array[4, 4] = np.nan
    kernel = np.full((3, 3), 1e38)
    found = tileconv.convolve(array, kernel, missing="renormalize")
    np.testing.assert_allclose(found, 9e18, rtol=1e-6)
    with pytest.raises(tileconv.ConvolutionError, match="float64 does not hold"):
        tileconv.convolve(array, np.full((3, 3), 1e308), missing="renormalize", dtype="float64")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint64", "float32", "float64"])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 100])
def test_missing_pixels_are_replaced(dtype, width):
    plane = RNG.integers(0, 3, (7, width)).astype(dtype)
    floats = plane.dtype.kind == "f"
    if floats:
        plane[RNG.random(plane.shape) < 0.2] = np.nan
    given = RNG.random(plane.shape) < 0.8
    for nodata, nan, hides in itertools.product((None, 2), {False, floats}, (False, True)):
        number = None if nodata is None else plane.dtype.type(nodata)
        rule = replace.MissingPixelRule(plane.dtype, number, nan, plane.dtype.type(9))
        missing = np.zeros(plane.shape, bool)
        missing |= plane == nodata if nodata is not None else False
        missing |= np.isnan(plane) if nan else False
        assert rule.any_in(plane) == missing.any()
        missing |= ~given if hides else False
        for layout in (plane, np.asfortranarray(plane)):
            copy, valid = np.empty_like(plane), np.empty(plane.shape, np.uint8)
            rule.replace_in(layout, given if hides else None, copy, valid)
            np.testing.assert_array_equal(valid, ~missing)
            np.testing.assert_array_equal(copy, np.where(missing, 9, plane))
