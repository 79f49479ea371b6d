"""The array call: the article's examples, scipy's cases, layouts of memory, messages."""

import importlib.util
import json

import dask.array as da
import naive
import numpy as np
import pytest
import xarray as xr
from conftest import SHARED
from scipy import ndimage, signal

import tileconv
from tileconv import ConvolutionError, UnsupportedError
from tileconv.dtypes import Numbers

IMAGE = np.arange(1.0, 17.0).reshape(4, 4)
EDGES = np.array([[1, 0, -1], [1, 0, -1], [1, 0, -1]])

# The founding article's examples: (stride, padding) -> correlation; convolution has the other sign.
SEED_EXAMPLES = {
    "stride 1": (1, 0, [[-6, -6], [-6, -6]]),
    "stride 4, above the kernel": (4, 0, [[-6]]),
    "stride 2, padding 1": (2, 1, [[-8, -4], [-30, -6]]),
}


@pytest.mark.parametrize(
    ("stride", "padding", "expected"), SEED_EXAMPLES.values(), ids=SEED_EXAMPLES
)
def test_the_articles_examples(stride, padding, expected):
    options = {"stride": stride, "padding": padding}
    np.testing.assert_array_equal(tileconv.convolve(IMAGE, EDGES, **options), expected)
    flipped = tileconv.convolve(IMAGE, EDGES, flip=True, **options)
    np.testing.assert_array_equal(flipped, -np.array(expected))


def test_the_articles_examples_are_those_of_the_shared_file():
    path = SHARED / "conformance" / "seed_examples.json"
    if not path.exists():
        pytest.skip("shared conformance data are not here")
    shared = json.loads(path.read_text())["examples"]
    assert len(shared) == len(SEED_EXAMPLES)
    for example, (stride, padding, expected) in zip(shared, SEED_EXAMPLES.values(), strict=True):
        assert example["stride"] == [stride] * 2
        assert example["pads"] == [padding] * 4
        assert example["correlate"] == expected


def test_literal_cases_of_other_projects():
    path = SHARED / "conformance" / "load.py"
    if not path.exists():
        pytest.skip("shared conformance data are not here")
    spec = importlib.util.spec_from_file_location("conformance", path)
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    checked = 0
    for name, x, kernel, attrs, expected in load.iter_cases("scipy"):  # the seed examples are above
        out = tileconv.convolve(
            x,
            kernel,
            stride=attrs["stride"],
            dilation=attrs["dilation"],
            padding=attrs["pads"],
            padding_mode=attrs["boundary"],
            padding_value=attrs.get("cval", 0.0),
            flip=attrs["op"] == "convolve",
            dtype="float64",
        )
        if attrs["crop"]:
            y0, x0, y1, x1 = attrs["crop"]
            out = out[y0:y1, x0:x1]
        np.testing.assert_allclose(out, expected, atol=max(attrs["tol"], 1e-12), err_msg=name)
        checked += 1
    assert checked == 50


@pytest.mark.parametrize(("ours", "theirs"), [("constant", "constant"), ("edge", "nearest")])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_against_scipy_ndimage(rng, ours, theirs, stride):
    array, kernel = rng.normal(size=(31, 29)), rng.normal(size=(3, 5))
    out = tileconv.convolve(array, kernel, padding="same", padding_mode=ours)
    expected = ndimage.correlate(array, kernel, mode=theirs)
    np.testing.assert_allclose(out, expected, atol=1e-12)
    sampled = tileconv.convolve(
        array, kernel, padding=(1, 2), padding_mode=ours, stride=(stride, stride)
    )
    np.testing.assert_array_equal(sampled, out[::stride, ::stride])


def test_flip_is_scipys_convolution(rng):
    array, kernel = rng.normal(size=(20, 21)), rng.normal(size=(4, 3))
    out = tileconv.convolve(array, kernel, flip=True)
    np.testing.assert_allclose(out, signal.convolve2d(array, kernel, "valid"), atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_globe_wraps_along_one_axis(rng, stride):
    world = rng.random((6, 8))
    kernel = rng.random((3, 5))
    wrapped = np.pad(world, ((0, 0), (2, 2)), mode="wrap")
    for rows in ("edge", "missing", "constant", "reflect"):
        options = {"padding_value": 7, "missing": "skip", "stride": stride, "padding": (1, 2)}
        out = tileconv.convolve(world, kernel, padding_mode=(rows, "wrap"), **options)
        options["padding"] = (1, 0)
        by_hand = tileconv.convolve(wrapped, kernel, padding_mode=rows, **options)
        assert out.tobytes() == by_hand.tobytes()


@pytest.mark.parametrize("rows", ["constant", "edge"])
@pytest.mark.parametrize("missing", ["propagate", "skip", "fill", "renormalize"])
def test_padding_of_nan_is_missing(rng, missing, rows):
    image, kernel = rng.random((9, 11)), rng.random((3, 5))
    options = {"missing": missing, "fill_value": 3, "stride": (1, 2)}
    given = {"padding": (1, 2), "padding_mode": (rows, "constant"), "padding_value": np.nan}
    out = tileconv.convolve(image, kernel, **given, **options)
    values = {"constant_values": np.nan} if rows == "constant" else {}
    padded = np.pad(image, ((1, 1), (0, 0)), mode=rows, **values)
    padded = np.pad(padded, ((0, 0), (2, 2)), constant_values=np.nan)
    assert out.tobytes() == tileconv.convolve(padded, kernel, **options).tobytes()
    assert np.isnan(out).any() == (missing == "propagate")


@pytest.mark.parametrize(
    "modes", [["edge"], ["edge", "blue"], ["edge", "wrap", "edge"], "edge,wrap", [["edge"], "wrap"]]
)
def test_wrong_modes_are_refused(modes):
    with pytest.raises(ConvolutionError, match=r"must be one of .*, or two of them as \[y, x\]"):
        tileconv.convolve(np.ones((3, 3)), [[1]], padding_mode=modes)


@pytest.mark.parametrize(
    ("source", "most"),
    [("uint8", 65793), ("int8", 131072), ("uint16", 256), ("int16", 512), ("float32", 0)],
)
def test_integers_are_computed_in_float64_where_float32_ends(source, most):
    assert Numbers.of(source, "int32", taps=most + 1).compute == np.float64
    assert Numbers.of(source, "float32", taps=most + 1).compute == np.float32
    assert not most or Numbers.of(source, "int32", taps=most).compute == np.float32


@pytest.mark.parametrize("radius", [15, 50, 127])
@pytest.mark.parametrize("source", ["uint16", "int16", "float32", "float16"])
def test_means_of_a_constant_are_this_constant_in_integers(radius, source):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    kernel = (y * y + x * x <= radius * radius).astype(float)
    value = 30001 if source != "float16" else 30000
    array = np.full(kernel.shape, value, source)
    out = tileconv.convolve(array, kernel / kernel.sum(), dtype="uint16")
    assert out.item() == value


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (17, 15), (1, 9), (40, 2)], ids=str)
@pytest.mark.parametrize("stride", [1, 3, 40])
def test_large_arrays_take_the_same_path_as_small_ones(rng, kernel, stride):
    # Larger than a stripe and a tile of the engine, with more than eight taps and fewer.
    array = rng.integers(0, 60000, (150, 4200)).astype("uint16")
    weights = rng.normal(size=kernel)
    out = tileconv.convolve(array, weights, stride=stride)
    expected = naive.convolve(array, weights, stride=(stride, stride))
    naive.assert_close(out, expected, "float32")
    part = tileconv.convolve(array[: 64 + 2 * stride, -90:], weights, stride=stride)
    first = (array.shape[1] - 90) % stride
    if first == 0:
        np.testing.assert_array_equal(part, out[: part.shape[0], -part.shape[1] :])


def layouts(array):
    yield "fortran", np.asfortranarray(array)
    yield "rows backwards", array[::-1].copy()[::-1]
    yield "both backwards", array[::-1, ::-1].copy()[::-1, ::-1]
    yield "every other column", np.repeat(array, 2, axis=1)[:, ::2]
    yield "byte-swapped", array.astype(array.dtype.newbyteorder())
    frozen = array.copy()
    frozen.setflags(write=False)
    yield "read-only", frozen
    yield "a subclass", array.copy().view(type("Sub", (np.ndarray,), {}))
    record = np.zeros(array.shape, [("pad", "u1"), ("x", array.dtype)])
    record["x"] = array
    yield "unaligned", record["x"]
    yield "a list", array.tolist()


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_the_layout_of_memory_changes_no_bit(rng, dtype):
    array = (rng.normal(size=(37, 41)) * 1000).astype(dtype)
    kernel = rng.normal(size=(3, 4))
    for stride in (1, 3):
        options = {"stride": stride, "padding": 2, "padding_mode": "reflect", "dtype": "float64"}
        expected = tileconv.convolve(array, kernel, **options)
        for name, view in layouts(array):
            before = np.array(view, copy=True)
            out = tileconv.convolve(view, kernel, **options)
            assert out.tobytes() == expected.tobytes(), name
            np.testing.assert_array_equal(np.asarray(view), before, err_msg=name)


def test_memory_mapped_arrays_work(tmp_path, rng):
    array = rng.integers(0, 255, (50, 60)).astype("uint8")
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    out = tileconv.convolve(mapped, EDGES)
    np.testing.assert_array_equal(out, tileconv.convolve(array, EDGES))


def test_bool_counts_as_numbers():
    array = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(
        tileconv.convolve(array, np.ones((2, 2))), [[2, 1, 0], [1, 2, 1], [0, 1, 2]]
    )


def test_every_plane_by_itself(rng):
    array = rng.normal(size=(2, 3, 12, 13))
    out = tileconv.convolve(array, EDGES, stride=2, padding="same")
    assert out.shape == (2, 3, 6, 7)
    for plane in np.ndindex(2, 3):
        np.testing.assert_array_equal(
            out[plane], tileconv.convolve(array[plane], EDGES, stride=2, padding="same")
        )


def test_nothing_under_a_zero_weight_matters():
    array = np.ones((3, 3), "float32")
    array[1, 1] = np.nan
    ring = np.ones((3, 3))
    assert np.isnan(tileconv.convolve(array, ring)).all()
    ring[1, 1] = 0
    array[1, 1] = np.inf
    assert tileconv.convolve(array, ring).item() == 8
    assert tileconv.convolve(array, np.zeros((3, 3))).item() == 0


def test_nodata_is_compared_in_the_arrays_own_dtype():
    exact = 2**53 + 1
    array = np.array([[exact, exact - 1]], "int64")
    out = tileconv.convolve(array, [[1.0]], nodata=exact)
    assert np.isnan(out).tolist() == [[True, False]]
    floats = np.array([[np.float32(-9999.1), 1.0]], "float32")
    assert np.isnan(tileconv.convolve(floats, [[1.0]], nodata=-9999.1)).tolist() == [[True, False]]


def test_integer_outputs_say_missing_with_nodata():
    array = np.array([[7, 255, 9]], "uint8")
    assert tileconv.convolve(array, [[1.0]], nodata=255, dtype="uint8").tolist() == [[7, 255, 9]]
    with pytest.raises(ConvolutionError, match="1 outputs are missing.*give nodata"):
        tileconv.convolve(np.array([[np.nan, 1]]), [[1.0]], dtype="int16")


def test_missing_padding_makes_the_border_missing():
    out = tileconv.convolve(np.ones((3, 3)), np.ones((3, 3)), padding=1, padding_mode="missing")
    assert np.isnan(out).sum() == 8
    assert out[1, 1] == 9


BAD = {
    "stride 0": (dict(stride=0), "stride must lie in 1"),
    "stride -1": (dict(stride=-1), "stride must lie in 1"),
    "stride 2**40": (dict(stride=2**40), "stride must lie in 1"),
    "stride 1.5": (dict(stride=1.5), "stride must be a whole number"),
    "stride of three": (dict(stride=(1, 2, 3)), r"or two as \(y, x\); got \(1, 2, 3\)"),
    "a true stride": (dict(stride=True), "whole number"),
    "dilation 0": (dict(dilation=0), "dilation must lie in 1"),
    "negative padding": (dict(padding=-1), "crop"),
    "padding of three": (dict(padding=(1, 2, 3)), r"got \(1, 2, 3\)"),
    "padding word": (dict(padding="full"), "valid, same"),
    "torch's word": (dict(padding=1, padding_mode="replicate"), "'edge'"),
    "scipy's word": (dict(padding=1, padding_mode="nearest"), "'edge'"),
    "scipy's mirror": (dict(padding=1, padding_mode="mirror"), "'reflect'"),
    "torch's circular": (dict(padding=1, padding_mode="circular"), "'wrap'"),
    "no mode": (dict(padding_mode="what"), "must be one of"),
    "text as value": (dict(padding_value="0"), "padding_value must be a number"),
    "policy": (dict(missing="drop"), "missing must be one of"),
    "renormalized edges": (dict(missing="renormalize"), "negative weights; use propagate"),
    "fraction": (dict(min_valid_fraction=1.5), "min_valid_fraction must lie in 0..1"),
    "endless fill": (dict(missing="fill", fill_value=np.inf), "fill_value must be finite"),
    "a centre of 1": (dict(require_center=1), "require_center must be true or false"),
    "groups of a plane": (dict(groups=2), "groups go with weights"),
    "bias of a plane": (dict(bias=[1.0]), "bias goes with weights"),
    "threads": (dict(threads=0), "threads must be a whole number"),
    "complex output": (dict(dtype="complex64"), "output dtype must be one of"),
    "unknown dtype": (dict(dtype="float23"), "not one that numpy knows"),
    "nodata out of range": (dict(nodata=-1), "nodata -1 is not a value of uint8"),
    "fractional nodata": (dict(nodata=3.5), "not a value of uint8"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConvolutionError, match=message):
        tileconv.convolve(np.ones((9, 9), "uint8"), EDGES, **options)


KERNELS = {
    "too large": (np.ones((3, 20)), "width: a receptive field spans 20 pixels.*only 9"),
    "1-D": (np.ones(3), r"\(kh, kw\), a bank"),
    "ragged": ([[1, 2], [3]], "not all of one length"),
    "empty": (np.ones((0, 3)), "the kernel is empty"),
    "5-D": (np.ones((1, 1, 1, 3, 3)), "got shape"),
    "huge": (np.ones((1025, 1025)), "at most 1048576 weights"),
    "NaN": ([[1, np.nan]], "row 0, column 1 is nan"),
    "infinite": ([[np.inf]], "finite"),
    "words": ([["a"]], "numbers"),
    "beyond float32": ([[1e300]], "float64"),
}


@pytest.mark.parametrize(("kernel", "message"), KERNELS.values(), ids=KERNELS)
def test_bad_kernels_are_named(kernel, message):
    with pytest.raises(ConvolutionError, match=message):
        tileconv.convolve(np.ones((9, 9), "uint8"), kernel)


ARRAYS = {
    "1-D": (np.ones(9), "shape"),
    "empty": (np.ones((0, 9)), "empty"),
    "words": (np.array([["a"]]), "cannot convolve"),
    "objects": (np.array([[None]]), "cannot convolve"),
    "dates": (np.array([["2020-01-01"]], "M8[D]"), "cannot convolve"),
}


@pytest.mark.parametrize(("array", "message"), ARRAYS.values(), ids=ARRAYS)
def test_bad_arrays_are_named(array, message):
    with pytest.raises(ConvolutionError, match=message):
        tileconv.convolve(array, [[1.0]])


@pytest.mark.parametrize("channels", [3, 4])
def test_channels_last_are_told(rng, channels):
    image = rng.random((48, 64, channels))
    with pytest.warns(UserWarning, match=rf"here 64 x {channels};.*numpy.moveaxis") as told:
        tileconv.convolve(image, EDGES[:1])
        tileconv.convolve(image.tolist(), EDGES[:1])
        tileconv.convolve(da.from_array(image), EDGES[:1], padding="same")
    assert [one.filename for one in told] == [__file__] * 3  # where it was called


@pytest.mark.parametrize("shape", [(3, 48, 64), (48, 3), (9, 64, 3), (48, 9, 3), (48, 64, 5)])
def test_other_shapes_are_not(rng, shape):
    tileconv.convolve(rng.random(shape), EDGES[:1])
    tileconv.convolve(rng.random((48, 64, 3)), [[1]])  # each pixel by itself
    named = xr.DataArray(rng.random((48, 64, 3)), dims=("band", "y", "x"))
    tileconv.convolve(named, EDGES[:1])


def test_other_kinds_of_arrays_are_refused_with_a_way_out():
    with pytest.raises(UnsupportedError, match="complex kernels"):
        tileconv.convolve(np.ones((9, 9)), EDGES * 1j)


def test_errors_are_builtins_too():
    with pytest.raises(ValueError):
        tileconv.convolve(np.ones((2, 2)), EDGES)
    with pytest.raises(tileconv.TileconvError):
        tileconv.convolve(np.ones((2, 2)), EDGES)
