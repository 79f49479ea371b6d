"""Focal statistics against a plain reference, by every path."""

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import tileconv
import tileconv.xarray
from tileconv.jobs.output_metadata import config_hash
from tileconv.padding import PADDING_MODES, source_index
from tileconv.verify import verify

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
DTYPES += ("float16", "float32", "float64")


def padded(plane, valid, around, modes, value):
    """Return a plane and what is valid of it, with padding (top, left, bottom, right)."""
    index, inside = [], []
    for axis, mode in enumerate(modes):
        size = plane.shape[axis]
        index.append(source_index(np.arange(-around[axis], size + around[axis + 2]), size, mode))
        inside.append(index[-1] >= 0)
    pixels = plane[np.ix_(*(np.maximum(each, 0) for each in index))]
    seen = valid[np.ix_(*(np.maximum(each, 0) for each in index))]
    for missing in (False, True):
        for axis, mode in enumerate(modes):
            if (mode == "missing") == missing:
                out = ~inside[axis]
                place = (out, slice(None)) if axis == 0 else (slice(None), out)
                if out.any():
                    pixels[place] = 0 if missing else value
                    seen[place] = not missing
    return pixels, seen


def key(value):
    """Order -0 before +0."""
    return value, not np.signbit(value)


def statistic_of(values, statistic, dtype):
    ordered = sorted(values, key=key)
    if statistic == "max":
        return ordered[-1]
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    if len(ordered) % 2 or low == high:
        return high
    with np.errstate(invalid="ignore", over="ignore"):
        return dtype.type(float(low) + 0.5 * (float(high) - float(low)))


def expected(plane, statistic, footprint, *, target, nodata=None, **options):
    """Return (values of the dtype ``target``, which are missing) of one plane."""
    (sy, sx), (dy, dx) = options["stride"], options["dilation"]
    valid = ~np.isnan(plane) if plane.dtype.kind == "f" else np.ones(plane.shape, bool)
    if nodata is not None:
        valid &= plane != plane.dtype.type(nodata)
    plane = plane.view("u1") if plane.dtype.kind == "b" else plane
    pixels, seen = padded(
        plane, valid, options["padding"], options["padding_mode"], options["padding_value"]
    )
    if options["missing"] == "fill":
        pixels[~seen] = options["fill_value"]
    kh, kw = footprint.shape
    rows = range(0, pixels.shape[0] - (kh - 1) * dy, sy)
    columns = range(0, pixels.shape[1] - (kw - 1) * dx, sx)
    out = np.zeros((len(rows), len(columns)), target)
    holes = np.zeros(out.shape, bool)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            field = (
                slice(top, top + (kh - 1) * dy + 1, dy),
                slice(left, left + (kw - 1) * dx + 1, dx),
            )
            under, there = pixels[field][footprint], seen[field][footprint]
            count = int(there.sum())
            missing = count < there.size if options["missing"] == "propagate" else False
            missing |= options["missing"] == "skip" and count == 0
            missing |= count / there.size < options["min_valid_fraction"] - 1e-12
            missing |= options["require_center"] and not seen[field][kh // 2, kw // 2]
            if missing:
                holes[i, j] = True
                continue
            used = under if options["missing"] == "fill" else under[there]
            value = statistic_of(list(used), statistic, np.dtype(target))
            out[i, j] = value
            holes[i, j] = np.isnan(value)
    return out, holes


@st.composite
def cases(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.integers(5, 14)), draw(st.integers(5, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "f":
        plane = rng.choice([0.0, -0.0, 1.5, -2.0, 3.0, np.inf, -np.inf, np.nan, 7.0], shape)
    elif dtype.kind == "b":
        plane = rng.integers(0, 2, shape)
    else:
        bounds = np.iinfo(dtype)
        some = rng.integers(bounds.min, bounds.max, 5, dtype, endpoint=True)
        plane = rng.choice([*some, dtype.type(0), dtype.type(1)], shape)
    plane = np.asarray(plane).astype(dtype)
    footprint = rng.random((draw(st.integers(1, 4)), draw(st.integers(1, 4)))) < 0.8
    footprint[0, 0] = True
    pair = st.tuples(st.integers(1, 5), st.integers(1, 5))
    modes = st.tuples(st.sampled_from(PADDING_MODES), st.sampled_from(PADDING_MODES))
    options = {
        "stride": draw(pair),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "padding": draw(st.tuples(*[st.integers(0, 4)] * 4)),
        "padding_mode": draw(modes),
        "padding_value": draw(st.sampled_from([0, 1])),
        "missing": draw(st.sampled_from(["propagate", "skip", "fill"])),
        "fill_value": draw(st.sampled_from([0, 1])),
        "min_valid_fraction": draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])),
        "require_center": draw(st.booleans()),
    }
    (kh, kw), (dy, dx) = footprint.shape, options["dilation"]
    assert (kh - 1) * dy < 14
    low = [max(0, (k - 1) * d + 1 - s) for k, d, s in zip((kh, kw), (dy, dx), shape, strict=True)]
    options["padding"] = tuple(max(p, low[i % 2]) for i, p in enumerate(options["padding"]))
    nodata = None if dtype.kind == "b" else draw(st.sampled_from([None, 0, 1]))
    return plane, draw(st.sampled_from(["max", "median"])), footprint, nodata, options


def natural(dtype, statistic, footprint, missing):
    """Return the dtype that operators of this kind give."""
    if statistic == "max" or (footprint.sum() % 2 and missing != "skip"):
        return np.dtype("u1") if dtype.kind == "b" else dtype
    return np.dtype("f4") if dtype.itemsize <= 2 or dtype == np.float32 else np.dtype("f8")


def same(found, values, holes, hole):
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(
        np.isnan(found) if hole is None else found[holes] == hole, holes if hole is None else True
    )
    kept, wanted = found[~holes], values[~holes]
    assert kept.tobytes() == wanted.tobytes()


@settings(max_examples=300, deadline=None)
@given(case=cases(), data=st.data())
def test_numpy_and_dask_give_the_bits_of_the_reference(case, data):
    plane, statistic, footprint, nodata, options = case
    target = natural(plane.dtype, statistic, footprint, options["missing"])
    values, holes = expected(plane, statistic, footprint, target=target, nodata=nodata, **options)

    def check(array):
        return tileconv.focal(array, statistic, footprint, nodata=nodata, **options)

    chunks = data.draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    lazy = check(da.from_array(plane, chunks))
    assert lazy.dtype == target
    if target.kind == "f":
        same(check(plane), values, holes, None)
        same(lazy.compute(), values, holes, None)
    elif nodata is None and holes.any():
        with pytest.raises(tileconv.ConvolutionError, match="give nodata, or a float dtype"):
            check(plane)
    else:
        same(check(plane), values, holes, nodata)
        same(lazy.compute(), values, holes, nodata)


PIXELS = np.random.default_rng(5).integers(0, 9000, (2, 90, 70)).astype("uint16")


@pytest.fixture
def scene(make_raster):
    return make_raster(PIXELS, nodata=0, block=(32, 32))


def job_for(path, target, **keys):
    job = {
        "input": {"path": str(path)},
        "focal": {"statistic": "median", "footprint": {"size": 3}},
        "output": {"path": str(target)},
    }
    for name, value in keys.items():
        section, _, key = name.rpartition("__")
        (job.setdefault(section, {}) if section else job)[key] = value
    return job


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
@pytest.mark.parametrize("statistic", ["max", "median"])
def test_a_job_gives_the_bits_of_the_array(scene, tmp_path, statistic, scheduler):
    keys = {"stride": [2, 3], "dilation": 2, "padding": "same", "missing": "skip"}
    job = job_for(
        scene,
        tmp_path / "out.tif",
        focal__statistic=statistic,
        output__nodata=0,
        output__blocksize=16,
        compute__tile=16,
        compute__scheduler=scheduler,
        **keys,
    )
    loaded = tileconv.load_job(job)
    tileconv.run(loaded)
    assert verify(loaded).passed
    with rasterio.open(tmp_path / "out.tif") as made:
        found, own = made.read(), made.tags(ns="TILECONV")
    expected = tileconv.focal(PIXELS, statistic, 3, nodata=0, **keys)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, np.where(np.isnan(expected), 0, expected))
    assert own["STATISTIC"] == statistic
    assert own["FOOTPRINT_SHAPE"] == "3 3"
    assert own["PADDING_MODE"] == "missing"


@pytest.mark.parametrize("statistic", ["max", "median"])
def test_a_valid_fraction_is_that_of_the_footprint(scene, tmp_path, statistic):
    keys = {"output__valid_fraction": True, "output__dtype": "float32", "missing": "skip"}
    job = tileconv.load_job(
        job_for(scene, tmp_path / "out.tif", focal__statistic=statistic, padding="same", **keys)
    )
    tileconv.run(job)
    assert verify(job).passed
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.descriptions[-1] == "valid fraction"
        assert made.read(3)[0, 0] == np.float32(4 / 9)


def test_whole_numbers_are_verified_where_padding_is_missing(scene, tmp_path):
    keys = {"padding": 2, "output__dtype": "int32", "output__nodata": -1}
    job = tileconv.load_job(job_for(scene, tmp_path / "out.tif", focal__statistic="max", **keys))
    report = tileconv.run(job)
    assert report.missing
    assert verify(job).passed


def test_the_plan_names_statistic_and_loops(scene, tmp_path):
    plan = tileconv.plan(tileconv.load_job(job_for(scene, tmp_path / "out.tif", stride=4)))
    assert plan.to_dict()["statistic"] == "median"
    assert plan.to_dict()["dtype"] == "uint16"
    page = str(plan)
    assert "Focal     median of 3 x 3, 9 pixels\n" in page
    assert "rank loops in uint16" in page
    assert "comparisons" in page


def test_jobs_with_other_statistics_have_other_hashes(scene, tmp_path):
    def hash_of(**keys):
        job = tileconv.load_job(job_for(scene, tmp_path / "out.tif", **keys))
        return config_hash(job, job.operator)

    plain = hash_of()
    assert plain == hash_of(stride=[1, 1])
    others = [{"focal__statistic": "max"}, {"focal__footprint": {"size": 5}}, {"missing": "skip"}]
    assert len({plain, *(hash_of(**keys) for keys in others)}) == 4


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"focal__statistic": "mx"}, "focal: statistic must be one of max, median; got 'mx'"),
        ({"focal__statistic": "p90"}, "focal: statistic: p90 is not supported yet"),
        ({"focal__statistic": ["max"]}, "lists are not supported yet"),
        ({"focal__method": "lower"}, "focal.method: this key is not supported yet"),
        ({"focal__footprint": {"name": "circle"}}, "focal.footprint.name: this key is not supp"),
        ({"focal__footprint": {"sise": 3}}, "did you mean `size`?"),
        ({"focal__footprint": {}}, "focal.footprint.size: this key is needed"),
        ({"kernel": {"name": "box"}}, "focal: give exactly one of kernel and focal"),
        ({"groups": 2}, "groups: groups goes with kernel"),
        ({"missing": "renormalize"}, "missing: renormalize is for weighted sums; use skip"),
    ],
)
def test_wrong_jobs_are_refused(tmp_path, keys, told):
    with pytest.raises(tileconv.ConfigError) as error:
        tileconv.load_job(job_for("a.tif", tmp_path / "out.tif", **keys))
    assert told in str(error.value)


def test_a_job_without_kernel_and_focal_is_told_so(tmp_path):
    keys = {"input": {"path": "a.tif"}, "output": {"path": str(tmp_path / "b.tif")}}
    with pytest.raises(tileconv.ConfigError, match="kernel: this key is needed"):
        tileconv.load_job(keys)


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        (("maxx", 3), {}, "did you mean 'max'"),
        ((3, 3), {}, "statistic must be one of"),
        (("share:5", 3), {}, "share:5 is not supported yet"),
        (("max", "circle"), {}, "names are not supported yet"),
        (("max", 0), {}, "footprint must lie in"),
        (("max", [[1, 2]]), {}, "tileconv.convolve"),
        (("max", [[0, 0]]), {}, "holds no pixel"),
        (("max", np.ones((2, 2, 2))), {}, "footprint must be n"),
        (("max", 3), {"ddof": 1}, "ddof 1 is not supported yet"),
        (("max", 3), {"only_missing": True}, "only_missing True is not supported yet"),
        (("max", 3), {"missing": "fill", "fill_value": 0.5}, "fill_value 0.5 is not a value"),
        (("max", 3), {"padding": 1, "padding_mode": "constant", "padding_value": -1}, "padding_v"),
        (("max", 3), {"padding": 1}, "give nodata, or a float dtype"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, told):
    with pytest.raises(tileconv.TileconvError) as error:
        tileconv.focal(np.ones((8, 8), "uint8"), *arguments, **options)
    assert told in str(error.value)


def test_complex_numbers_have_no_order():
    with pytest.raises(tileconv.UnsupportedError, match="abs"):
        tileconv.focal(np.ones((4, 4), complex), "max", 3)


def test_masked_integers_keep_every_bit():
    pixels = np.full((4, 4), 2**63 + 1, "uint64")
    array = np.ma.masked_array(pixels, np.zeros((4, 4), bool))
    array[0, 0] = np.ma.masked
    found = tileconv.focal(array, "max", 2, nodata=7)
    assert found[0, 0] == 7
    assert (found.ravel()[1:] == 2**63 + 1).all()


def test_labelled_arrays_keep_dtype_and_nodata():
    data = np.arange(36, dtype="int16").reshape(6, 6)
    attrs = {"_FillValue": np.int16(0), "units": "m"}
    array = xr.DataArray(data, dims=("y", "x"), coords={"x": np.arange(6.0)}, attrs=attrs)
    found = array.tileconv.focal("max", 3, stride=3)
    assert found.dtype == "int16"
    assert found.attrs == attrs
    np.testing.assert_array_equal(found, [[0, 17], [32, 35]])
    assert found.x.values.tolist() == [1, 4]
    halves = array.chunk(3).tileconv.focal("median", 2, stride=2, missing="skip")
    assert np.isnan(halves.attrs["_FillValue"])
    assert halves.dtype == "float32"
    np.testing.assert_array_equal(halves[0], [6, 5.5, 7.5])


@settings(max_examples=60, deadline=None)
@given(case=cases(), data=st.data())
def test_the_bits_do_not_depend_on_threads(case, data):
    plane, statistic, footprint, _, options = case
    array = np.tile(plane.astype("float64"), (9, 3))
    one, many = (
        tileconv.focal(array, statistic, footprint, threads=threads, **options)
        for threads in (1, data.draw(st.integers(2, 4)))
    )
    assert one.tobytes() == many.tobytes()


def test_a_scale_below_zero_turns_the_order_round(tmp_path):
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 1, "dtype": "int16"}
    profile["transform"] = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(tmp_path / "in.tif", "w", **profile, crs="EPSG:32633") as raster:
        raster.write(np.random.default_rng(7).integers(0, 99, (1, 32, 32)).astype("int16"))
        raster.scales, raster.offsets = (-0.5,), (2.0,)
    keys = {
        "input": {"path": str(tmp_path / "in.tif")},
        "focal": {"statistic": "max", "footprint": {"size": 3}},
        "output": {"path": str(tmp_path / "out.tif")},
    }
    with pytest.raises(tileconv.ConfigError, match=r"band 1 is -0\.5, .* input\.scaled: true"):
        tileconv.plan(tileconv.load_job(keys))
    keys["input"]["scaled"] = True
    tileconv.run(tileconv.load_job(keys))
    with rasterio.open(tmp_path / "in.tif") as raster, rasterio.open(tmp_path / "out.tif") as out:
        values = 2 - 0.5 * raster.read(1).astype("float32")
        np.testing.assert_array_equal(out.read(1), tileconv.focal(values, "max", 3))
