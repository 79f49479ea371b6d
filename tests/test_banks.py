"""Banks, groups, bias, missing data, complex numbers and threads of the array call."""

import os
import subprocess
import sys
import threading
import time
import weakref

import naive
import numpy as np
import pytest

import tileconv
from tileconv import ConvolutionError


def test_a_bank_gives_one_plane_per_kernel_band_major(rng):
    array, bank = rng.normal(size=(2, 20, 21)), rng.normal(size=(3, 3, 4))
    out = tileconv.convolve(array, bank, stride=2)
    assert out.shape == (6, 9, 9)
    for band in range(2):
        for k in range(3):
            expected = tileconv.convolve(array[band], bank[k], stride=2)
            np.testing.assert_array_equal(out[band * 3 + k], expected)
    assert tileconv.convolve(array[0], bank).shape == (3, 18, 18)
    assert tileconv.convolve(array[None], bank).shape == (1, 6, 18, 18)


def test_weights_over_bands_sum_them(rng):
    array, weights = rng.normal(size=(5, 4, 15, 16)), rng.normal(size=(6, 2, 3, 3))
    bias = rng.normal(size=6)
    out = tileconv.convolve(array, weights, groups=2, bias=bias, padding=1)
    assert out.shape == (5, 6, 15, 16)
    for m in range(6):
        bands = array[:, :2] if m < 3 else array[:, 2:]
        expected = bias[m] + sum(
            tileconv.convolve(bands[:, c], weights[m, c], padding=1) for c in range(2)
        )
        np.testing.assert_allclose(out[:, m], expected, atol=1e-12)


def test_depthwise_is_as_many_groups_as_bands(rng):
    array, weights = rng.normal(size=(3, 15, 16)), rng.normal(size=(3, 1, 3, 3))
    out = tileconv.convolve(array, weights, groups=3)
    for band in range(3):
        np.testing.assert_array_equal(out[band], tileconv.convolve(array[band], weights[band, 0]))


def test_one_plane_counts_as_one_band(rng):
    array = rng.normal(size=(9, 9))
    assert tileconv.convolve(array, rng.normal(size=(4, 1, 3, 3))).shape == (4, 7, 7)


SHAPES = {
    "bands": (np.ones((4, 9, 9)), np.ones((2, 3, 3, 3)), {}, "for 3 bands.*there are 4"),
    "groups": (np.ones((4, 9, 9)), np.ones((3, 2, 3, 3)), {"groups": 2}, "multiple of groups"),
    "bias": (np.ones((2, 9, 9)), np.ones((3, 2, 3, 3)), {"bias": [1.0]}, "3 numbers, one per"),
    "NaN bias": (np.ones((2, 9, 9)), np.ones((1, 2, 3, 3)), {"bias": [np.nan]}, "finite"),
    "no groups": (np.ones((2, 9, 9)), np.ones((1, 2, 3, 3)), {"groups": 0}, "from 1"),
}


@pytest.mark.parametrize(("array", "weights", "options", "message"), SHAPES.values(), ids=SHAPES)
def test_shapes_that_do_not_fit_are_told_with_their_sizes(array, weights, options, message):
    with pytest.raises(ConvolutionError, match=message):
        tileconv.convolve(array, weights, **options)


def test_torch_computes_the_same_shapes_and_numbers(rng):
    torch = pytest.importorskip("torch")
    for i in range(500):
        rng = np.random.default_rng((20261122, i))
        groups, wide, many = rng.integers(1, 4, 3)
        kh, kw = rng.integers(1, 6, 2)
        stride, dilation = rng.integers(1, 8, 2).tolist(), rng.integers(1, 4, 2).tolist()
        pads = rng.integers(0, 4, 2).tolist()
        h, w = (dilation * (np.array([kh, kw]) - 1) + 1 + rng.integers(0, 20, 2)).tolist()
        dtype = str(rng.choice(["float32", "float64"]))
        array = rng.normal(size=(2, groups * wide, h, w)).astype(dtype)
        weights = rng.normal(size=(groups * many, wide, kh, kw)).astype(dtype)
        bias = rng.normal(size=groups * many).astype(dtype) if rng.random() < 0.5 else None
        theirs = torch.nn.functional.conv2d(
            torch.from_numpy(array),
            torch.from_numpy(weights),
            None if bias is None else torch.from_numpy(bias),
            stride,
            pads,
            dilation,
            int(groups),
        ).numpy()
        ours = tileconv.convolve(
            array,
            weights,
            bias=bias,
            stride=stride,
            padding=pads,
            dilation=dilation,
            groups=int(groups),
        )
        assert ours.dtype == theirs.dtype
        scale = 1e-4 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(ours, theirs, atol=scale, rtol=scale, err_msg=str(i))


@pytest.mark.parametrize("word", ["same_upper", "same_lower"])
def test_same_follows_the_formulas_of_onnx(word):
    """https://onnx.ai/onnx/operators/onnx__Conv.html: auto_pad."""
    for size in range(1, 20):
        for kernel in range(1, 6):
            for stride in range(1, 7):
                for dilation in (1, 2):
                    out = -(-size // stride)
                    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
                    half = total // 2
                    sides = (half, total - half) if word == "same_upper" else (total - half, half)
                    array = np.arange(1.0, size + 1)[None]
                    weights = np.arange(1.0, kernel + 1)[None]
                    options = {"stride": (1, stride), "dilation": (1, dilation)}
                    pads = (0, sides[0], 0, sides[1])
                    expected = tileconv.convolve(array, weights, padding=pads, **options)
                    actual = tileconv.convolve(array, weights, padding=word, **options)
                    assert actual.shape == (1, out)
                    np.testing.assert_array_equal(actual, expected)


class TestMissing:
    ROW = np.array([[1.0, np.nan, 3.0, 4.0]])
    MEAN = np.array([[0.5, 0.5]])

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"missing": "propagate"}, [np.nan, np.nan, 3.5]),
            ({"missing": "skip"}, [0.5, 1.5, 3.5]),
            ({"missing": "fill", "fill_value": 10}, [5.5, 6.5, 3.5]),
            ({"missing": "renormalize"}, [1.0, 3.0, 3.5]),
            ({"missing": "renormalize", "min_valid_fraction": 0.5}, [1.0, 3.0, 3.5]),
            ({"missing": "renormalize", "min_valid_fraction": 0.6}, [np.nan, np.nan, 3.5]),
            ({"missing": "skip", "require_center": True}, [np.nan, 1.5, 3.5]),
        ],
        ids=str,
    )
    def test_policies(self, options, expected):
        np.testing.assert_array_equal(
            tileconv.convolve(self.ROW, self.MEAN, **options)[0], expected
        )

    def test_a_field_without_a_valid_pixel_is_missing_except_under_fill(self):
        array = np.full((3, 3), np.nan)
        ones = np.ones((3, 3))
        for policy in ("propagate", "skip", "renormalize"):
            assert np.isnan(tileconv.convolve(array, ones, missing=policy)).all()
        assert tileconv.convolve(array, ones, missing="fill", fill_value=2).item() == 18

    def test_missing_padding_counts_as_missing(self):
        options = {"padding": 1, "padding_mode": "missing", "missing": "renormalize"}
        out = tileconv.convolve(np.full((4, 5), 7.0), tileconv.kernels.box(3), **options)
        np.testing.assert_allclose(out, 7, rtol=1e-15)

    @pytest.mark.parametrize("missing", ["propagate", "skip", "fill", "renormalize"])
    def test_nan_is_missing_in_padding_too(self, rng, missing):
        array = rng.random((4, 5))
        options = {"missing": missing, "fill_value": 3, "min_valid_fraction": 0.5}
        padded = np.pad(array, 1, constant_values=np.nan)
        expected = tileconv.convolve(padded, np.ones((3, 3)), **options)
        for given in ({"padding_value": np.nan}, {"padding_mode": "missing"}):
            out = tileconv.convolve(array, np.ones((3, 3)), padding=1, **given, **options)
            np.testing.assert_array_equal(out, expected)
        options["dtype"], options["nodata"] = "int16", -1  # missing outputs, not casts of NaN
        whole = tileconv.convolve(
            array, np.ones((3, 3)), padding=1, padding_value=np.nan, **options
        )
        assert (whole == -1).tolist() == np.isnan(expected).tolist()

    def test_nan_padding_is_missing_along_the_axes_that_have_a_value(self):
        options = {"padding": 1, "missing": "skip", "padding_value": np.nan}
        out = tileconv.convolve(
            np.ones((3, 3)), np.ones((3, 3)), padding_mode=["constant", "edge"], **options
        )
        assert out.tolist() == [[6, 6, 6], [9, 9, 9], [6, 6, 6]]

    def test_whole_fields_keep_their_bits_beside_missing_ones(self, rng):
        array = rng.normal(size=(40, 40)).astype("float32")
        kernel = rng.random((5, 5))
        plain = tileconv.convolve(array, kernel)
        holed = array.copy()
        holed[3, 3] = np.nan
        for policy in ("propagate", "skip", "fill", "renormalize"):
            out = tileconv.convolve(holed, kernel, missing=policy)
            np.testing.assert_array_equal(out[4:], plain[4:])
            np.testing.assert_array_equal(out[:, 4:], plain[:, 4:])

    def test_renormalize_is_refused_where_it_means_nothing(self):
        for kernel in ([[1, -1]], [[0, 0]]):
            with pytest.raises(ConvolutionError, match="renormalize"):
                tileconv.convolve(np.ones((3, 3)), kernel, missing="renormalize")

    def test_nodata_beyond_two_to_the_53_is_compared_exactly(self):
        array = np.array([[2**62 + 1, 2**62]], "int64")
        out = tileconv.convolve(array, [[1.0]], nodata=2**62 + 1, missing="skip")
        assert np.isnan(out).tolist() == [[True, False]]
        top = np.array([[2**64 - 1, 2**64 - 2]], "uint64")
        assert np.isnan(tileconv.convolve(top, [[1.0]], nodata=2**64 - 1)).tolist() == [
            [True, False]
        ]


def test_complex_arrays_are_their_parts(rng):
    array = (rng.normal(size=(2, 12, 13)) + 1j * rng.normal(size=(2, 12, 13))).astype("complex64")
    array[0, 5, 5] = complex(np.nan, 1)
    kernel = rng.random((3, 3))
    for policy in ("propagate", "skip", "renormalize"):
        out = tileconv.convolve(array, kernel, stride=2, missing=policy)
        assert out.dtype == np.complex64
        lost = np.isnan(array)
        for part, whole in ((out.real, array.real), (out.imag, array.imag)):
            given = np.where(lost, np.nan, whole)
            expected = tileconv.convolve(given, kernel, stride=2, missing=policy)
            np.testing.assert_array_equal(part, expected)
    assert tileconv.convolve(array, kernel, dtype="complex128").dtype == np.complex128
    with pytest.raises(ConvolutionError, match=r"\.real, \.imag or abs"):
        tileconv.convolve(array, kernel, dtype="float32")
    with pytest.raises(ConvolutionError, match="nodata has no meaning"):
        tileconv.convolve(array, kernel, nodata=0)


def test_the_bound_holds_where_sums_cancel(rng):
    """Exact integer arithmetic against float32 sums of numbers that nearly cancel."""
    array = rng.integers(0, 65535, (60, 60)).astype("uint16")
    kernel = rng.integers(-1000, 1000, (9, 9))
    kernel -= kernel.sum() // 81
    out = tileconv.convolve(array, kernel)
    exact = np.array(
        [
            [int((array[y : y + 9, x : x + 9].astype(object) * kernel).sum()) for x in range(52)]
            for y in range(52)
        ]
    )
    _, errors, _ = naive.convolve(array, kernel)
    assert (np.abs(out.astype(object) - exact) <= 2.0**-23 * errors).all()


def test_threads_change_no_bit(rng):
    array = rng.normal(size=(2, 700, 900)).astype("float32")
    array[0, 5, 5] = np.nan
    kernel = rng.normal(size=(7, 7))
    for options in ({}, {"stride": 3, "padding": 3, "padding_mode": "reflect", "missing": "skip"}):
        single = tileconv.convolve(array, kernel, threads=1, **options)
        for threads in (2, 3, 8, None):
            out = tileconv.convolve(array, kernel, threads=threads, **options)
            assert out.tobytes() == single.tobytes()


def test_many_callers_share_the_helpers(rng):
    array, kernel = rng.normal(size=(600, 600)), rng.normal(size=(7, 7))
    expected = tileconv.convolve(array, kernel, threads=1).tobytes()
    most, results = [], []

    def call():
        for _ in range(3):
            results.append(tileconv.convolve(array, kernel, threads=2).tobytes() == expected)
            most.append(threading.active_count())

    before = threading.active_count()
    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(results)
    assert len(results) == 24
    assert max(most) <= before + 8 + 1


def test_eight_dask_threads_call_at_once(rng):
    import dask

    array, kernel = rng.normal(size=(300, 300)), rng.normal(size=(5, 5))
    expected = tileconv.convolve(array, kernel).tobytes()
    calls = [dask.delayed(tileconv.convolve)(array, kernel) for _ in range(32)]
    for out in dask.compute(*calls, scheduler="threads", num_workers=8):
        assert out.tobytes() == expected


def test_an_error_in_a_helper_reaches_the_caller(monkeypatch, rng):
    from tileconv.arrays import threads

    def fail(item):
        if item == 5:
            raise RuntimeError("five")

    with pytest.raises(RuntimeError, match="five"):
        threads.run_all(fail, range(10), 4)
    assert threads._helpers._busy == 0


def test_an_error_in_a_helper_stops_the_others():
    from tileconv.arrays import threads

    done, failed, main = [], threading.Event(), threading.main_thread()

    def work(item):
        if threading.current_thread() is main:
            failed.wait(60)
            done.append(item)
            time.sleep(0.001)
        else:
            failed.set()
            raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        threads.run_all(work, range(10_000), 2)
    assert len(done) < 1000


def test_a_call_while_the_interpreter_ends_takes_no_helpers():
    script = """
import builtins, numpy, tileconv
convolve, image, kernel = tileconv.convolve, numpy.ones((600, 600)), numpy.ones((7, 7))
class Late:
    def __del__(self):
        print(convolve(image, kernel, threads=3).sum() > 0, flush=True)
builtins.late = Late()
convolve(image, kernel, threads=3)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() in ("True", "")  # what the call needs may be gone by then


def test_a_system_without_threads_to_give_is_done_without(monkeypatch):
    from tileconv.arrays import threads

    start = threading.Thread.start
    for granted in (0, 1):
        left = [None] * granted

        def refuse(self, left=left):
            if not left:
                raise RuntimeError("can't start new thread")
            left.pop()
            start(self)

        monkeypatch.setattr(threads, "_helpers", threads._Helpers())
        monkeypatch.setattr(threading.Thread, "start", refuse)
        seen, both = set(), threading.Barrier(1 + granted, timeout=60)

        def work(item, seen=seen, both=both):
            both.wait()
            seen.add(threading.get_ident())

        threads.run_all(work, range(1 + granted), 4)
        assert len(seen) == 1 + granted
        assert threads._helpers._busy == 0


def test_helpers_keep_nothing_of_a_call(monkeypatch):
    from tileconv.arrays import threads

    both = threading.Barrier(2, timeout=60)

    class Work:
        def __call__(self, item):
            both.wait()

    work = Work()
    gone = weakref.ref(work)
    threads.run_all(work, range(2), 2)
    del work
    until = time.monotonic() + 60
    while gone() is not None and time.monotonic() < until:
        time.sleep(0.01)  # the helper returns a moment after it has said that it is done
    assert gone() is None


def test_the_environment_says_how_many_threads(monkeypatch):
    from tileconv.arrays.threads import VARIABLE, thread_count

    monkeypatch.setenv(VARIABLE, "3")
    assert thread_count(None) == 3
    assert thread_count(5) == 5
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(ConvolutionError, match=f"{VARIABLE} must be a whole number"):
        tileconv.convolve(np.ones((3, 3)), [[1.0]])


FORK = """
import os, numpy as np, tileconv
array = np.arange(640000.0).reshape(800, 800)
kernel = np.ones((7, 7))
before = tileconv.convolve(array, kernel, threads=2)
child = os.fork()
if child == 0:
    same = tileconv.convolve(array, kernel, threads=2).tobytes() == before.tobytes()
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_the_same():
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "0"
