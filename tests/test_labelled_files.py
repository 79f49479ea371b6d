"""What an xarray output says, against what the output of a file job says: one meaning for both.

Random rasters with all that files and rioxarray's objects say of grids, numbers, bands and
missing pixels are convolved twice: opened by rioxarray first, and as files. Both outputs must
say the same, in memory and written.
"""

import math
import os

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

rioxarray = pytest.importorskip("rioxarray")

import rasterio  # noqa: E402
import xarray as xr  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402

import tileconv  # noqa: E402
from tileconv import TileconvError  # noqa: E402

EXAMPLES = int(os.environ.get("TILECONV_LABELLED_EXAMPLES", "150"))
"""Of the comparison; thousands are run by hand."""
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.target)
"""Without shrinking: a case takes a tenth of a second."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # what is dropped is another test's
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),  # rioxarray's, of affine
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:string or file could not:DeprecationWarning"),  # of tags
]

TRANSFORMS = {
    "north up": rasterio.Affine(30, 0, 500000, 0, -30, 4600000),
    "south up": rasterio.Affine(10, 0, 300000, 0, 10, 100000),
    "oblong": rasterio.Affine(0.25, 0, -10.125, 0, -0.5, 60.25),
    "thirds": rasterio.Affine(1 / 3, 0, 1 / 7, 0, -1 / 3, 100 / 7),
    "rotated": rasterio.Affine(20, 5, 400000, 4, -18, 5000000),
}
TAGS = {
    "AREA_OR_POINT": ["Area", "Point"],
    "STATISTICS_MEAN": ["3.5"],
    "TIFFTAG_XRESOLUTION": ["72", "300.5"],
    "TIFFTAG_IMAGEDESCRIPTION": ["a scene", '{"shape": [3, 4]}'],
    "valid_min": ["0"],
    "valid_range": ["0 9"],
    "flag_values": ["1 2"],
    "sensor": ["ETM"],
    "cloud_cover": ["12.5"],
}
FORMS = ["default", "masked", "scaled"]
OPEN = {
    "default": {},
    "masked": {"masked": True},
    "scaled": {"mask_and_scale": True},
}


@st.composite
def rasters(draw):
    """Return (pixels, profile, what is said beside it) of a GeoTIFF."""
    dtype = draw(st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]))
    count, height, width = (
        draw(st.integers(1, 3)),
        draw(st.integers(9, 17)),
        draw(st.integers(9, 17)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pixels = rng.integers(0, 60, (count, height, width)).astype(dtype)
    nodata = draw(st.sampled_from([None, 7, 0, 59]))
    if pixels.dtype.kind == "f":
        nodata = draw(st.sampled_from([None, 7, float("nan"), -9999.5]))
        if nodata is not None and draw(st.booleans()):
            pixels[rng.random(pixels.shape) < 0.05] = nodata
    said = {"descriptions": None, "units": None, "scales": None, "offsets": None, "tags": {}}
    for key, pool in (
        ("descriptions", ["red", "green", "blue", "sea height"]),
        ("units", ["m", "K"]),
        ("scales", [1.0, 0.5, 0.1]),
        ("offsets", [0.0, 10.0, -2.5]),
    ):
        if draw(st.booleans()):
            many = st.lists(st.sampled_from(pool), min_size=count, max_size=count)
            one = st.sampled_from(pool).map(lambda value: [value] * count)
            said[key] = draw(st.one_of(many, one))
    for key in draw(st.lists(st.sampled_from(sorted(TAGS)), unique=True)):
        said["tags"][key] = draw(st.sampled_from(TAGS[key]))
    place = draw(st.sampled_from([*TRANSFORMS, "gcps", "none"]))
    said["gcps"] = None
    profile = {"nodata": nodata, "crs": draw(st.sampled_from([32633, 3035, 4326, None]))}
    if place == "gcps":
        said["gcps"] = [
            GroundControlPoint(row=r, col=c, x=10 + c / 9, y=50 - r / 7, z=0, id=str(i), info="")
            for i, (r, c) in enumerate([(0, 0), (0, 5), (6, 0), (8.5, 7.25)])
        ]
        profile["crs"] = None
    elif place != "none":
        profile["transform"] = TRANSFORMS[place]
    return pixels, profile, said


@st.composite
def options(draw, bands):
    """Return (kernel, options of both calls, dtype)."""
    kh, kw = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    form = draw(st.sampled_from(["one", "bank", "sums", "depthwise"]))
    shape = {
        "one": (kh, kw),
        "bank": (draw(st.integers(1, 3)), kh, kw),
        "sums": (draw(st.integers(1, 3)), bands, kh, kw),
        "depthwise": (bands, 1, kh, kw),
    }[form]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kernel = rng.integers(0, 5, shape) / 4
    kernel[..., 0, 0] += 0.25  # no output without a weight
    given = {
        "stride": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "dilation": draw(st.integers(1, 2)),
        "padding": draw(st.sampled_from(["valid", "same", "same_lower", 1, (0, 2)])),
        "padding_mode": draw(st.sampled_from(["constant", "edge", "missing"])),
        "missing": draw(st.sampled_from(["propagate", "skip", "fill", "renormalize"])),
    }
    if form == "depthwise":
        given["groups"] = bands
    dtype = draw(st.sampled_from([None, None, "float64", "int16", "int32"]))
    return kernel, given, dtype


def write(path, pixels, profile, said):
    """Write a GeoTIFF that says all this."""
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", photometric="MINISBLACK", **shape, **profile
    ) as f:
        f.write(pixels)
        f.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 1)
        f.update_tags(**said["tags"])
        for key in ("units", "scales", "offsets"):
            if said[key]:
                setattr(f, key, said[key])
        for band, name in enumerate(said["descriptions"] or [], 1):
            f.set_band_description(band, name)
        if said["gcps"]:
            f.gcps = (said["gcps"], rasterio.crs.CRS.from_epsg(4326))
    return path


def opened(path, form):
    """Return what rioxarray makes of a raster, in memory."""
    with rioxarray.open_rasterio(path, **OPEN[form]) as array:
        return array.load()


def made(call):
    """Return (what it returns, None), or (None, its error)."""
    try:
        return call(), None
    except TileconvError as error:
        return None, error


def numbers_of(array):
    """Return scale and offset of each band, from attributes."""
    count, said = array.sizes["band"], array.attrs
    scales = said.get("scales", (said.get("scale_factor", 1.0),) * count)
    offsets = said.get("offsets", (said.get("add_offset", 0.0),) * count)
    return np.array([scales, offsets], float)


def names_of(array):
    """Return the name of each band."""
    given = array.attrs.get("long_name")
    return [given] * array.sizes["band"] if given is None or isinstance(given, str) else [*given]


def units_of(array):
    """Return the unit of each band."""
    given = array.attrs.get("units")
    each = [given] * array.sizes["band"] if given is None or isinstance(given, str) else given
    return [unit or None for unit in each]


def points_of(array):
    """Return ground control points as tuples."""
    points = array.rio.get_gcps() or []
    return sorted((p.id, round(p.row, 6), round(p.col, 6), p.x, p.y) for p in points)


def same(one, other):
    """Say whether two values of nodata are the same."""
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def compare_values(one, other, *, decoded):
    """Compare pixels; rioxarray's decoding rounds in another place than ``input.scaled``."""
    if not decoded:
        np.testing.assert_array_equal(one, other)
    else:
        whole = one.dtype.kind == "i"
        np.testing.assert_allclose(one, other, rtol=0 if whole else 3e-6, atol=1 if whole else 1e-4)


def compare(ours, theirs, *, named, decoded):
    """Compare all that rioxarray reads of two outputs."""
    assert ours.dims == theirs.dims
    assert ours.dtype == theirs.dtype
    compare_values(ours.values, theirs.values, decoded=decoded)
    np.testing.assert_allclose(ours.rio.transform()[:6], theirs.rio.transform()[:6], rtol=1e-12)
    assert ours.rio.crs == theirs.rio.crs
    assert same(ours.rio.nodata, theirs.rio.nodata)
    np.testing.assert_allclose(numbers_of(ours), numbers_of(theirs), rtol=1e-12)
    assert points_of(ours) == points_of(theirs)
    for dim in ("x", "y", "xc", "yc"):
        assert (dim in ours.coords) == (dim in theirs.coords)
        if dim in theirs.coords:
            np.testing.assert_allclose(ours[dim], theirs[dim], rtol=1e-12)
    if named:
        assert names_of(ours) == names_of(theirs)
    assert units_of(ours) == units_of(theirs)
    for key in TAGS:
        mine, yours = ours.attrs.get(key), theirs.attrs.get(key)
        assert mine == yours or math.isclose(mine, yours, rel_tol=1e-8), key


@st.composite
def pieces(draw, transform):
    """Return (rows, columns) of a slice, and the transform of the pixels that it takes."""
    top, left = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    step = draw(st.integers(1, 3))
    a, _, c, _, e, f = transform[:6]
    # the centre of the first pixel stays where it is
    first = f + e * (top + (1 - step) / 2)
    moved = rasterio.Affine(a, 0, c + a * left, 0, e * step, first)
    return slice(top, None, step), slice(left, None), moved


def say_more(draw, array):
    """Add a random part of what readers other than rioxarray say, in place."""
    transform = array.rio.transform()
    said = {
        "transform": tuple(transform)[:6],
        "res": (abs(transform.a), abs(transform.e)),
        "nodatavals": (array.rio.nodata,) * array.sizes["band"],
        "height": array.sizes["y"],
        "width": array.sizes["x"],
    }
    for key in draw(st.lists(st.sampled_from(sorted(said)), unique=True)):
        array.attrs[key] = said[key]


def compare_more(ours, theirs):
    """Compare what `say_more` said."""
    said = ours.attrs
    if "transform" in said:
        np.testing.assert_allclose(said["transform"], theirs.rio.transform()[:6], rtol=1e-12)
    if "res" in said:
        assert said["res"] == pytest.approx(np.abs(theirs.rio.resolution()))
    if {"height", "width"} <= set(said):
        assert (said["height"], said["width"]) == ours.shape[1:]
    if "nodatavals" in said:
        assert len(said["nodatavals"]) == theirs.sizes["band"]
        assert all(same(value, theirs.rio.nodata) for value in said["nodatavals"])


def compare_files(one, other, *, named, decoded, has_gcps):
    """Compare what was written of an array with the output of a job."""
    with rasterio.open(one) as a, rasterio.open(other) as b:
        compare_values(a.read(), b.read(), decoded=decoded)
        if not has_gcps:
            np.testing.assert_allclose(a.transform[:6], b.transform[:6], rtol=1e-9, atol=1e-9)
        assert a.crs == b.crs
        assert same(a.nodata, b.nodata)
        np.testing.assert_allclose(a.scales, b.scales)
        np.testing.assert_allclose(a.offsets, b.offsets)
        assert len(a.gcps[0]) == len(b.gcps[0])
        if named:
            assert a.descriptions == b.descriptions


@settings(max_examples=EXAMPLES, phases=PHASES)
@given(st.data())
def test_arrays_say_what_files_say(tmp_path_factory, data):
    """Attributes, encodings, coordinates, slices, stacks and chunks: as of the file's output."""
    folder = tmp_path_factory.mktemp("pairs")
    pixels, profile, said = data.draw(rasters())
    kernel, given_options, dtype = data.draw(options(len(pixels)))
    form = data.draw(st.sampled_from(FORMS))
    source = write(folder / "in.tif", pixels, profile, said)
    array = opened(source, form)
    upright = "transform" in profile and profile["transform"].is_rectilinear
    if upright and data.draw(st.booleans()):  # the file's counterpart is the part, by itself
        rows, columns, moved = data.draw(pieces(profile["transform"]))
        array = array.isel(y=rows, x=columns)
        part = np.ascontiguousarray(pixels[:, rows, columns])
        source = write(folder / "part.tif", part, {**profile, "transform": moved}, said)
    if data.draw(st.booleans()):
        say_more(data.draw, array)
    asked = array.chunk({"y": 5, "x": 4}) if data.draw(st.booleans()) else array

    target = folder / "out.tif"
    double = "float64" if array.dtype == "float64" else None
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in given_options.items()}
    plain |= {"dtype": dtype or double, "scaled": form == "scaled"}
    _, refused = made(lambda: tileconv.convolve_raster(source, target, kernel, **plain))
    given_options["dtype"] = dtype
    ours, error = made(lambda: tileconv.convolve(asked, kernel, **given_options).compute())
    if "give a value of" in str(refused):
        return  # files that may hold missing pixels ask for an integer's nodata ahead
    assert (refused is None) == (error is None), (refused, error)
    if error is not None:
        return
    theirs = opened(target, "default" if ours.dtype.kind == "i" or form == "default" else "masked")
    # without names of bands they lie in the coordinate; a text is the name of the whole array
    text = isinstance(array.attrs.get("long_name"), str) and len(pixels) > 1
    named = "long_name" in array.attrs and not (text and kernel.ndim > 2)
    decoded = form == "scaled"
    compare(ours, theirs, named=named, decoded=decoded)
    compare_more(ours, theirs)
    stack = tileconv.convolve(xr.concat([array, array], "time"), kernel, **given_options)
    np.testing.assert_array_equal(stack.isel(time=1).values, ours.values)
    if upright or said["gcps"]:  # of others rioxarray writes what it makes of no coordinates
        ours.rio.to_raster(folder / "written.tif")
        compare_files(
            folder / "written.tif", target, named=named, decoded=decoded, has_gcps=said["gcps"]
        )


@st.composite
def datasets(draw):
    """Return a dataset on one grid, as it is written, and its transform."""
    place = TRANSFORMS[draw(st.sampled_from(["north up", "oblong", "thirds"]))]
    height, width = draw(st.integers(9, 15)), draw(st.integers(9, 15))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    a, _, c, _, e, f = place[:6]
    x, y = c + a * (np.arange(width) + 0.5), f + e * (np.arange(height) + 0.5)
    lead = draw(st.sampled_from([(), ("time",)]))
    shape = (2,) * len(lead) + (height, width)
    data = xr.Dataset(coords={"y": y, "x": x} | ({"time": [3, 4]} if lead else {}))
    for name, dtype in (("v", "int16"), ("w", "float32")):
        pixels = rng.integers(0, 50, shape).astype(dtype)
        said = {}
        if draw(st.booleans()):
            said["_FillValue"] = pixels.dtype.type(7)
        if draw(st.booleans()):
            said["missing_value"] = pixels.dtype.type(draw(st.sampled_from([7, 11])))
        if len(set(said.values())) > 1:
            del said["missing_value"]  # xarray warns, and GDAL believes the other
        if name == "v" and draw(st.booleans()):
            said |= {"scale_factor": 0.5, "add_offset": draw(st.sampled_from([0.0, 3.0]))}
        if draw(st.booleans()):
            said |= {"valid_range": np.array([0, 50], dtype), "units": "K"}
        data[name] = ((*lead, "y", "x"), pixels, said)
    if draw(st.booleans()):
        for dim, step in (("x", a), ("y", e)):
            centres = data[dim].values
            edges = np.stack([centres - step / 2, centres + step / 2], -1)
            data[f"{dim}_bnds"] = ((dim, "nv"), edges)
            data[dim].attrs["bounds"] = f"{dim}_bnds"
    data = data.rio.write_crs(draw(st.sampled_from([32633, 3035]))).rio.write_coordinate_system()
    if draw(st.booleans()):
        data = data.rio.write_transform(place)
    return data, place


@settings(max_examples=EXAMPLES, phases=PHASES)
@given(st.data())
def test_netcdf_says_the_same_before_and_after(tmp_path_factory, data):
    """Grid mappings among coordinates or variables, decoded or not, sliced, lazy: as GDAL reads."""
    folder = tmp_path_factory.mktemp("netcdf")
    written, place = data.draw(datasets())
    written.to_netcdf(folder / "in.nc", engine="scipy")
    how = {
        "decode_coords": data.draw(st.sampled_from([True, "all", "coordinates"])),
        "mask_and_scale": data.draw(st.booleans()),
    }
    with xr.open_dataset(folder / "in.nc", engine="scipy", **how) as opened_one:
        given_one = opened_one.load()
    with xr.open_dataset(folder / "in.nc", engine="scipy") as decoded:
        meant = decoded.load()
    sliced = data.draw(st.booleans())
    if sliced:
        rows, columns, place = data.draw(pieces(place))
        given_one, meant = (each.isel(y=rows, x=columns) for each in (given_one, meant))
    asked = given_one.chunk({"y": 5, "x": 4}) if data.draw(st.booleans()) else given_one
    kernel = np.ones(data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))) / 4
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    out = tileconv.convolve(asked, kernel, stride=stride).compute()
    out.to_netcdf(folder / "out.nc", engine="scipy")

    a, _, c, _, e, f = place[:6]
    (sy, sx), (ky, kx) = stride, kernel.shape
    expected = (a * sx, 0, c + a * (kx - sx) / 2, 0, e * sy, f + e * (ky - sy) / 2)
    with xr.open_dataset(folder / "out.nc", engine="scipy", decode_coords="all") as again:
        for name in ("v", "w"):
            wanted = tileconv.convolve(meant[name], kernel, stride=stride)
            np.testing.assert_allclose(again[name], wanted, rtol=1e-5)
            assert again[name].dims == wanted.dims
            assert again.rio.crs == written.rio.crs
            np.testing.assert_allclose(again.x, c + a * (kx / 2 + sx * np.arange(out.sizes["x"])))
            np.testing.assert_allclose(again.y, f + e * (ky / 2 + sy * np.arange(out.sizes["y"])))
            if min(out.sizes["x"], out.sizes["y"]) < 2:
                continue  # of one row GDAL and rioxarray make what they can
            np.testing.assert_allclose(again[name].rio.transform()[:6], expected, atol=1e-6)
            with rasterio.open(f"netcdf:{folder}/out.nc:{name}") as dataset:
                np.testing.assert_allclose(dataset.transform[:6], expected, atol=1e-6)
                assert dataset.crs == written.rio.crs
                read = dataset.read(masked=True).astype(float).filled(np.nan)
                scales, offsets = (
                    np.array(n)[:, None, None] for n in (dataset.scales, dataset.offsets)
                )
                np.testing.assert_allclose(
                    read * scales + offsets, wanted.values.reshape(read.shape), rtol=1e-5
                )
        for dim, step in (("x", a * sx), ("y", e * sy)):
            if f"{dim}_bnds" in again and not sliced:  # a slice with a step leaves gaps
                wide = np.stack([again[dim] - step / 2, again[dim] + step / 2], -1)
                np.testing.assert_allclose(again[f"{dim}_bnds"], wide, atol=1e-9)
