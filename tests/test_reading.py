"""Every way that a GeoTIFF stores pixels: the bits of the array call, each block decoded once."""

import shutil
from pathlib import Path

import naive
import numpy as np
import pytest
import rasterio
import tifffile
from conftest import read
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as gdal_copy
from test_files import job_for

import tileconv

SHAPE = (3, 150, 170)
SAMPLINGS = {  # kernel, stride, padding, mode: below, at and beyond the kernel, and beyond blocks
    "overlapping": ((3, 5), (1, 2), (1, 2, 1, 2), "reflect"),
    "touching": ((4, 4), (4, 4), (0, 0, 0, 0), "constant"),
    "apart": ((3, 3), (70, 50), (0, 1, 0, 1), "edge"),
    "wrapping": ((5, 3), (2, 3), (4, 2, 4, 2), "wrap"),
}
BANDS = ([1, 2, 3], [3, 1], [2], [3])
"""Read with each of the samplings."""
TILED = {"tiled": True, "blockysize": 32, "blockxsize": 48}
LAYOUTS = {
    "uncompressed tiles": TILED,
    "tiles by band": TILED | {"interleave": "band", "compress": "zstd", "predictor": 2},
    "tiles by pixel": TILED | {"interleave": "pixel", "compress": "deflate"},
    "LZW tiles": TILED | {"interleave": "pixel", "compress": "lzw", "predictor": 2},
    "one-row strips": {"blockysize": 1, "compress": "deflate", "interleave": "pixel"},
    "strips": {"blockysize": 13, "compress": "packbits", "interleave": "band"},
    "one strip": {"blockysize": 150, "compress": "none"},
    "one compressed strip": {"blockysize": 150, "compress": "deflate", "interleave": "pixel"},
    "blocks larger than the raster": {"tiled": True, "blockysize": 512, "blockxsize": 256},
    "big-endian": TILED | {"ENDIANNESS": "BIG", "interleave": "pixel"},
    "big-endian strips": {"ENDIANNESS": "BIG", "compress": "lzw", "blockysize": 8},
    "BigTIFF": TILED | {"BIGTIFF": "YES", "compress": "deflate"},
    "LERC": TILED | {"compress": "lerc"},
    "LERC with ZSTD": TILED | {"compress": "lerc_zstd", "interleave": "pixel"},
    "LZMA": TILED | {"compress": "lzma"},
    "sparse": TILED | {"compress": "deflate", "SPARSE_OK": True},
}
OF_BYTES = {
    "JPEG YCbCr": TILED
    | {"compress": "jpeg", "photometric": "YCBCR", "interleave": "pixel", "blockxsize": 64},
    "JPEG by band": TILED | {"compress": "jpeg", "interleave": "band", "blockxsize": 64},
    "JPEG strips": {"compress": "jpeg", "photometric": "YCBCR", "blockysize": 16},
    "WebP": TILED | {"compress": "webp", "WEBP_LOSSLESS": True, "interleave": "pixel"},
    "four bits": {"NBITS": 4, "compress": "deflate", "blockysize": 8},
    "one bit": {"NBITS": 1, "compress": "none", "blockysize": 8},
}
CASES = [
    *[
        pytest.param(layout, dtype, id=f"{name}, {dtype}")
        for name, layout in LAYOUTS.items()
        for dtype in ("uint8", "int16", "float32", "float64")
        if not (layout.get("predictor") == 2 and dtype.startswith("float"))
    ],
    *[pytest.param(layout, "uint8", id=name) for name, layout in OF_BYTES.items()],
    pytest.param(TILED | {"NBITS": 12, "compress": "lzw"}, "uint16", id="twelve bits"),
    pytest.param(TILED | {"compress": "deflate", "predictor": 3}, "float32", id="predictor 3"),
    pytest.param(TILED | {"interleave": "band"}, "int8", id="int8"),
    pytest.param(TILED | {"interleave": "pixel"}, "uint32", id="uint32"),
    pytest.param({"blockysize": 8}, "int64", id="int64"),
    pytest.param(TILED | {"ENDIANNESS": "BIG"}, "uint64", id="big-endian uint64"),
]


def pixels_for(rng, layout, dtype):
    if dtype.startswith("float"):
        array = rng.normal(size=SHAPE).astype(dtype)
        array[rng.random(SHAPE) < 0.003] = np.nan  # LERC keeps these in a mask
        return array
    most = min(np.iinfo(dtype).max, 2 ** layout.get("NBITS", 40) - 1)
    array = rng.integers(0, most, SHAPE, endpoint=True).astype(dtype)
    if "SPARSE_OK" in layout:
        array[:, :80] = 0  # whole blocks of zeros, which are not stored
    return array


def touched_blocks(plan, sampling):
    """Count the blocks that fields touch, pixel by pixel."""
    kernel, stride, pads, mode = sampling
    count = 1
    for axis in (0, 1):
        size, block = plan.layout.shape[axis], plan.layout.block[axis]
        places = naive.touched(
            size, kernel[axis], stride[axis], 1, pads[axis], pads[axis + 2], mode
        )
        count *= len({place // block for place in places})
    return count


@pytest.mark.parametrize(("layout", "dtype"), CASES)
def test_every_layout_gives_the_bits_of_the_array_call(layout, dtype, make_raster, tmp_path, rng):
    source = make_raster(pixels_for(rng, layout, dtype), **layout)
    whole = read(source)  # as rasterio reads it: JPEG has changed it
    with tifffile.TiffFile(source) as tiff:
        by_pixel = tiff.pages[0].planarconfig == tifffile.PLANARCONFIG.CONTIG
    for bands, sampling in zip(BANDS, SAMPLINGS.values(), strict=True):
        kernel, stride, pads, mode = sampling
        weights = rng.normal(size=kernel)
        options = {"stride": stride, "padding": pads, "padding_mode": mode}
        job = job_for(
            source,
            tmp_path / "out.tif",
            **{
                "kernel.weights": weights,
                "stride": list(stride),
                "padding": list(pads),
                "padding_mode": mode,
                "input.bands": bands,
                "output.blocksize": 16,
                "compute.tile": 16,
                "compute.workers": 3,
            },
        )
        plan = tileconv.plan(job)
        report = tileconv.run(job)
        expected = tileconv.convolve(whole[[b - 1 for b in bands]], weights, **options)
        assert read(tmp_path / "out.tif").tobytes() == expected.tobytes()
        needed = touched_blocks(plan, sampling) * (1 if by_pixel else len(bands))
        assert report.blocks_decoded == plan.blocks_decoded == plan.blocks_needed == needed


def bytes_read():
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar"):
            return int(line.split()[1])
    raise AssertionError("no rchar in /proc/self/io")


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's count of bytes read")
@pytest.mark.parametrize("stride", [1, 1200])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("bands", [[1, 2, 3], [2]])
def test_the_system_reads_each_needed_block_once_too(
    make_raster, tmp_path, rng, stride, interleave, alpha, bands
):
    """The count that tileconv keeps of its decodings is what the system sees of its reads."""
    array = rng.integers(0, 255, (4, 2400, 2600)).astype("uint8")
    array[3] = 255
    layout = {"block": (512, 512), "interleave": interleave, "compress": "none"}
    if alpha:
        layout |= {"photometric": "RGB", "alpha": "YES"}
    source = make_raster(array, **layout)
    keys = {
        "kernel.weights": np.ones((5, 5)),
        "stride": stride,
        "input.bands": bands,
        "output.compress": "none",
        "compute.workers": 2,
        "compute.tile": 128,
    }
    job = job_for(source, tmp_path / "out.tif", **keys)
    tileconv.run(job)  # compiles what it needs
    before = bytes_read()
    report = tileconv.run(job)
    seen = bytes_read() - before
    block = 512 * 512 * (4 if interleave == "pixel" else 1)
    needed = 30 if stride == 1 else 6
    if interleave == "band":
        needed *= len(bands) + alpha
    assert report.blocks_decoded == needed
    output = (tmp_path / "out.tif").stat().st_size
    # Headers, PROJ's database, and what is read back of the output to check it.
    assert needed * block <= seen <= needed * block * 1.01 + output * 0.01 + (400 << 10)


def test_overviews_are_not_read(make_raster, tmp_path, rng):
    array = rng.integers(0, 255, SHAPE).astype("uint8")
    source = make_raster(array, block=(16, 16))
    with rasterio.open(source, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    before = source.read_bytes()
    report = tileconv.run(job_for(source, tmp_path / "out.tif", stride=4))
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), array[:, ::4, ::4])
    assert report.warnings == ()
    assert source.read_bytes() == before


@pytest.mark.parametrize("nodata", [None, 7])
def test_blocks_that_are_not_stored_are_counted(make_raster, tmp_path, nodata):
    array = np.full((1, 96, 96), nodata or 0, "uint8")
    array[0, 40, 40] = 5
    source = make_raster(array, block=(32, 32), SPARSE_OK=True, nodata=nodata)
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **{"input.mask": "none"}))
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), array)
    value = "0" if nodata is None else "nodata"
    assert report.warnings == (f"8 of 9 blocks are not stored: their pixels read as {value}",)


def test_the_first_of_many_images_is_read(make_raster, tmp_path, rng):
    first, second = (rng.integers(0, 255, (30, 40)).astype("uint8") for _ in range(2))
    with tifffile.TiffWriter(tmp_path / "in.tif") as writer:
        writer.write(first, contiguous=False)
        writer.write(second, contiguous=False)
    report = tileconv.run(job_for(tmp_path / "in.tif", tmp_path / "out.tif"))
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], first)
    assert "the file holds 2 images; the first one is read" in report.warnings


# ---- What hides pixels


def check(source, target, values, hidden, **keys):
    """Compare a run with values (B, H, W) of which some are hidden."""
    kernel = np.array([[1.0, 2, 3], [4, 0, 6]])
    keys = {"kernel.weights": kernel, "stride": 2} | keys
    report = tileconv.run(job_for(source, target, **keys))
    out = read(target)
    assert len(out) == len(values)
    for made, band, lost in zip(out, values, hidden, strict=True):
        expected = naive.convolve(band, kernel, stride=(2, 2), masked=lost)
        naive.assert_close(made, expected, "float32")
    return report


@pytest.fixture
def bands(rng):
    return rng.integers(1, 50, (3, 90, 80)).astype("uint8")


def beside(source, values):
    """Write GDAL's file beside a raster, with nodata of each band."""
    told = "".join(
        f'<PAMRasterBand band="{i}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
        for i, value in enumerate(values, 1)
        if value is not None
    )
    source.with_name(source.name + ".aux.xml").write_text(f"<PAMDataset>{told}</PAMDataset>")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_bands_with_different_nodata(make_raster, tmp_path, bands, dtype):
    values = bands.astype(dtype)
    source = make_raster(values, block=(32, 16))
    beside(source, [7, None, 9])
    hidden = np.stack([values[0] == 7, np.zeros((90, 80), bool), values[2] == 9])
    report = check(source, tmp_path / "out.tif", values, hidden)
    assert report.warnings == ("in.tif.aux.xml is read beside the raster",)
    check(source, tmp_path / "out.tif", values[[2, 0]], hidden[[2, 0]], **{"input.bands": [3, 1]})
    nothing = np.zeros_like(hidden)
    check(source, tmp_path / "out.tif", values, nothing, **{"input.mask": "none"})


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_nodata_beside_a_raster_of_long_integers_counts(tmp_path, bands, dtype, make_raster):
    source = make_raster(bands.astype(dtype), block=(32, 16), nodata=7)
    beside(source, [9, 9, 9])
    tileconv.run(job_for(source, tmp_path / "out.tif"))
    np.testing.assert_array_equal(np.isnan(read(tmp_path / "out.tif")), bands == 9)


def test_different_nodata_and_a_mask(make_raster, tmp_path, bands, rng):
    shown = rng.random((90, 80)) > 0.02
    source = make_raster(bands, block=(32, 16), mask=np.where(shown, 255, 0).astype("uint8"))
    beside(source, [7, 8, None])
    hidden = np.stack([bands[0] == 7, bands[1] == 8, np.zeros((90, 80), bool)]) | ~shown
    check(source, tmp_path / "out.tif", bands, hidden)


def test_different_nodata_in_sums_over_bands(make_raster, tmp_path, bands):
    source = make_raster(bands, block=(32, 16))
    beside(source, [7, None, 9])
    weights = np.ones((1, 3, 1, 1))
    for policy, expected in (
        ("propagate", np.where((bands[0] == 7) | (bands[2] == 9), np.nan, bands.sum(0, "f4"))),
        ("skip", bands.sum(0, "f4") - 7.0 * (bands[0] == 7) - 9.0 * (bands[2] == 9)),
    ):
        keys = {"kernel.weights": weights, "missing": policy}
        tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
        np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], expected)


@pytest.mark.parametrize("kind", ["internal", "msk", "msk of each band"])
def test_masks(make_raster, tmp_path, bands, rng, kind):
    shown = rng.random((3, 90, 80)) > 0.02
    if kind != "msk of each band":
        shown[:] = shown[0]
    as_bytes = np.where(shown, 255, 0).astype("uint8")
    internal = {"mask": as_bytes[0]} if kind == "internal" else {}
    source = make_raster(bands, block=(32, 32), **internal)
    if kind != "internal":
        flags = 0 if "each" in kind else 2
        count = 3 if "each" in kind else 1
        made = make_raster(as_bytes[:count], "in.tif.msk", blockysize=7, compress="deflate")
        with rasterio.open(made, "r+") as dataset:
            dataset.update_tags(**{f"INTERNAL_MASK_FLAGS_{i + 1}": flags for i in range(3)})
    report = check(source, tmp_path / "out.tif", bands, ~shown)
    assert report.warnings == ("in.tif.msk is read beside the raster",) * (kind != "internal")
    check(source, tmp_path / "out.tif", bands[[1]], ~shown[[1]], **{"input.bands": [2]})
    nothing = np.zeros_like(shown)
    check(source, tmp_path / "out.tif", bands, nothing, **{"input.mask": "none"})


def test_a_mask_and_nodata_both_hide(make_raster, tmp_path, bands, rng):
    shown = rng.random((90, 80)) > 0.02
    mask = np.where(shown, 255, 0).astype("uint8")
    source = make_raster(bands, block=(32, 32), mask=mask, nodata=5)
    check(source, tmp_path / "out.tif", bands, ~shown | (bands == 5))


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_alpha_is_a_mask_unless_named(make_raster, tmp_path, bands, rng, interleave):
    alpha = rng.choice([0, 1, 128, 255], (90, 80), p=[0.02, 0.3, 0.3, 0.38]).astype("uint8")
    array = np.concatenate([bands, alpha[None]])
    source = make_raster(
        array, block=(32, 32), photometric="RGB", alpha="YES", interleave=interleave
    )
    hidden = np.broadcast_to(alpha == 0, bands.shape)
    report = check(source, tmp_path / "out.tif", bands, hidden)
    assert report.blocks_decoded == 9 * (1 if interleave == "pixel" else 4)
    everything = list(range(1, 5))
    shown = np.zeros((4, 90, 80), bool)
    report = check(source, tmp_path / "out.tif", array, shown, **{"input.bands": everything})
    with rasterio.open(tmp_path / "out.tif") as made:
        assert ColorInterp.alpha not in made.colorinterp
        assert not any(rasterio.enums.MaskFlags.alpha in f for f in made.mask_flag_enums)


@pytest.mark.parametrize("each", [False, True])
def test_alpha_and_a_mask_both_hide(make_raster, tmp_path, bands, rng, each):
    alpha = np.where(rng.random((90, 80)) > 0.02, 255, 0).astype("uint8")
    shown = rng.random((4, 90, 80)) > 0.02
    shown = shown if each else np.broadcast_to(shown[0], shown.shape)
    array = np.concatenate([bands, alpha[None]])
    source = make_raster(array, block=(32, 32), photometric="RGB", alpha="YES")
    mask = make_raster(np.where(shown, 255, 0).astype("uint8"), "in.tif.msk", block=(64, 64))
    with rasterio.open(mask, "r+") as dataset:
        flags = 0 if each else 2
        dataset.update_tags(**{f"INTERNAL_MASK_FLAGS_{i}": flags for i in range(1, 5)})
    check(source, tmp_path / "out.tif", bands, ~shown[:3] | (alpha == 0))


def test_nan_is_missing_beside_any_nodata(make_raster, tmp_path, bands):
    values = bands.astype("float32")
    values[:, 5, 5], values[:, 40, 40] = np.nan, -9999.1
    hidden = np.isnan(values) | (values == np.float32(-9999.1))
    for nodata in (-9999.1, None):
        source = make_raster(values, block=(32, 32), nodata=nodata)
        lost = hidden if nodata else np.isnan(values)
        check(source, tmp_path / "out.tif", values, lost)


# ---- Scale and offset


@pytest.fixture
def make_scaled(make_raster):
    def make(array, scales, offsets, **profile):
        path = make_raster(array, **profile)
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = scales, offsets
            dataset.units = ["K"] * len(array)
        return path

    return make


@pytest.mark.parametrize(
    ("dtype", "output", "computed"),
    [
        ("int16", None, "float32"),
        ("int16", "float64", "float64"),
        ("uint8", "float32", "float32"),
        ("float32", None, "float32"),
        ("int32", None, "float64"),
        ("float64", None, "float64"),
    ],
)
def test_scaled_values_are_those_meant(make_scaled, tmp_path, rng, dtype, output, computed):
    raw = rng.integers(0, 100, (2, 90, 80)).astype(dtype)
    scales, offsets = (0.1, 3.0), (-7.3, 0.0)
    source = make_scaled(raw, scales, offsets, block=(32, 32), nodata=0)
    kernel = rng.normal(size=(3, 3))
    keys = {"kernel.weights": kernel, "input.scaled": True, "stride": 2}
    keys |= {} if output is None else {"output.dtype": output}
    plan = tileconv.plan(job_for(source, tmp_path / "out.tif", **keys))
    assert f"{dtype}, scaled to {computed}" in str(plan)
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
    meant = np.stack(
        [(raw[i].astype("float64") * scales[i] + offsets[i]).astype(computed) for i in range(2)]
    )
    meant[raw == 0] = np.nan
    expected = tileconv.convolve(meant, kernel, stride=2)
    assert read(tmp_path / "out.tif").tobytes() == expected.tobytes()
    assert report.warnings == ("scale and offset are applied, so the output has none",)
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.dtypes[0] == (output or computed)
        assert made.scales == (1.0, 1.0)
        assert made.offsets == (0.0, 0.0)
        assert made.units == ("K", "K")


def test_scaled_integers_need_a_nodata_of_their_own(make_scaled, tmp_path):
    source = make_scaled(np.ones((1, 9, 9), "int16"), [0.5], [0.0], nodata=0)
    keys = {"input.scaled": True, "output.dtype": "int16"}
    with pytest.raises(tileconv.ConfigError, match="output.nodata: give a value of int16"):
        tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
    tileconv.run(job_for(source, tmp_path / "out.tif", **keys, **{"output.nodata": -1}))
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), 0)  # 0.5 to the even 0


def test_no_tags_to_apply(make_raster, tmp_path, bands):
    source = make_raster(bands)
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **{"input.scaled": True}))
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), bands)
    assert report.warnings == ("there are no scale and offset tags to apply",)


KERNELS = {
    "mean": np.full((3, 3), 1 / 9),
    "edges": np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]),
    "sum": np.ones((2, 2)),
    "bank": np.stack([np.ones((2, 2)), np.eye(2)]),
    "over bands": np.arange(16.0).reshape(2, 2, 2, 2) - 4,
}


@pytest.mark.parametrize("name", KERNELS)
def test_sums_of_stored_values_mean_what_their_tags_say(make_scaled, tmp_path, rng, name):
    """Read with its tags, the output is the convolution of the input read with its tags."""
    raw = rng.integers(1, 1000, (2, 30, 40)).astype("int16")
    raw[:, 3, 3] = 0
    offsets = (-7.5, 300.0)
    source = make_scaled(raw, (0.01, 0.01), offsets, nodata=0)
    keys = {"kernel.weights": KERNELS[name]}
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
    meant = np.where(raw == 0, np.nan, raw * 0.01 + np.reshape(offsets, (2, 1, 1)))
    expected = tileconv.convolve(meant, KERNELS[name])
    with rasterio.open(tmp_path / "out.tif") as made:
        out = made.read().astype("float64")
        told = out * np.reshape(made.scales, (-1, 1, 1)) + np.reshape(made.offsets, (-1, 1, 1))
        assert set(made.scales) == {0.01}
    np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-3)
    assert report.warnings == ()


def test_tags_that_would_be_wrong_are_dropped(make_scaled, tmp_path):
    raw = np.ones((2, 9, 9), "int16")
    warning = (
        "scale and offset are dropped where sums of stored values have none; "
        "input.scaled applies them first"
    )
    across = {"kernel.weights": np.ones((1, 2, 1, 1))}
    for scales, offsets, keys, dropped in (
        ((0.1, 0.2), (0, 0), across, True),  # two scales in one sum
        ((0.1, 0.2), (0, 0), {"kernel.weights": [[[[1.0]], [[0.0]]]]}, False),  # a weight of 0
        ((0.1, 0.1), (1, 0), {"missing": "skip"}, True),  # a 0 that is stored as no 0
        ((0.1, 0.1), (0, 0), {"missing": "skip"}, False),
        ((0.1, 0.1), (1, 0), {"missing": "renormalize"}, False),
    ):
        source = make_scaled(raw, scales, offsets)
        report = tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
        assert report.warnings == (warning,) * dropped
        with rasterio.open(tmp_path / "out.tif") as made:
            assert made.scales[0] == (1.0 if dropped else 0.1)


# ---- Palettes


def test_codes_of_a_palette_on_request(make_raster, tmp_path, bands):
    source = make_raster(bands[0], "classes.tif")
    with rasterio.open(source, "r+") as dataset:
        dataset.write_colormap(1, {1: (0, 0, 0, 255), 2: (255, 0, 0, 255)})
    for keys in ({}, {"input.bands": [1]}, {"input.palette": True}):
        with pytest.raises(tileconv.InputError, match="band 1 has a colour palette.*input.palette"):
            tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
    keys = {"input.bands": [1], "input.palette": True, "output.dtype": "uint8"}
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **keys))
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], bands[0])
    assert report.warnings == ("the colour palette is dropped: sums of codes are no codes",)
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.colorinterp == (ColorInterp.gray,)
        with pytest.raises(ValueError, match="NULL color table"):
            made.colormap(1)


# ---- Damage is told by block and band


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_block_is_named(make_raster, tmp_path, rng, interleave, threads):
    array = rng.integers(0, 255, (3, 100, 130)).astype("uint8")
    source = make_raster(array, block=(32, 32), compress="deflate", interleave=interleave)
    block = 7 if interleave == "pixel" else 7 + 20  # of 4 rows of 5 blocks; of band 2
    with tifffile.TiffFile(source) as tiff:
        start = tiff.pages[0].dataoffsets[block]
    with source.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 40)
    part = "all bands" if interleave == "pixel" else "band 2"
    words = rf"in.tif: block \(1, 2\) of {part}, rows 32 to 63, columns 64 to 95, cannot be decoded"
    with pytest.raises(tileconv.InputError, match=words):
        tileconv.run(job_for(source, tmp_path / "out.tif", **{"compute.workers": threads}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif"]
    if interleave == "band":  # a block that is not needed does no harm
        tileconv.run(job_for(source, tmp_path / "out.tif", **{"input.bands": [1, 3]}))
        np.testing.assert_array_equal(read(tmp_path / "out.tif"), array[[0, 2]])


def test_a_damaged_mask_is_named(make_raster, tmp_path, bands, rng):
    source = make_raster(bands, block=(32, 32))
    shown = np.where(rng.random((90, 80)) > 0.1, 255, 0).astype("uint8")
    mask = make_raster(shown, "in.tif.msk", block=(32, 32), compress="deflate")
    with rasterio.open(mask, "r+") as dataset:
        dataset.update_tags(INTERNAL_MASK_FLAGS_1=2)
    with tifffile.TiffFile(mask) as tiff:
        start = tiff.pages[0].dataoffsets[4]
    with mask.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 40)
    with pytest.raises(tileconv.InputError, match=r"in.tif: block \(1, 1\) of the mask, rows 32"):
        tileconv.run(job_for(source, tmp_path / "out.tif"))


def test_what_gdal_translate_makes_of_a_raster_reads_the_same(make_raster, tmp_path, rng):
    """A COG, whose blocks lie in another order behind a header of their own."""
    array = rng.integers(0, 255, (1, 700, 600)).astype("uint8")
    source = make_raster(array, block=(64, 64))
    gdal_copy(source, tmp_path / "cog.tif", driver="COG", blocksize=128)
    shutil.move(tmp_path / "cog.tif", source)
    kernel = rng.normal(size=(7, 7))
    job = job_for(source, tmp_path / "out.tif", **{"kernel.weights": kernel, "stride": 3})
    report = tileconv.run(job)
    expected = tileconv.convolve(array, kernel, stride=3)
    assert read(tmp_path / "out.tif").tobytes() == expected.tobytes()
    assert report.blocks_decoded == 6 * 5
