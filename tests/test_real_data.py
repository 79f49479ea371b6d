"""Real rasters, against a check that knows nothing of tileconv; damaged ones, to the last byte.

The check reads with rasterio, adds up with scipy and numpy in float64, and works
out places with affine, all from what `docs/how-it-works.md` says.
"""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import rasterio
from conftest import SHARED
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from scipy import ndimage
from test_files import job_for

import tileconv

REAL = sorted((SHARED / "data" / "real").glob("*.tif"))
BAD = sorted((SHARED / "data" / "bad").glob("*.tif"))
pytestmark = pytest.mark.skipif(not REAL or not BAD, reason="shared data are not here")
WORLD = "world_36000x18000.tif"

KERNELS = {
    "mean": np.full((3, 3), 1 / 9),
    "edges": np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]),
    "even": np.arange(1.0, 9).reshape(2, 4) - 3,
}
JOBS = {  # kernel, stride, padding (valid or same with an odd kernel)
    "mean 3x3, stride 3": ("mean", (3, 3), 0),
    "edges 3x3, stride 1, padded": ("edges", (1, 1), 1),
    "even 2x4, stride 5 x 2": ("even", (5, 2), 0),
}


def open_raster(path):
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    return rasterio.open(path)


def data_bands(dataset):
    return [i for i, c in enumerate(dataset.colorinterp, 1) if c != ColorInterp.alpha]


def valid_pixels(dataset, band, window=None):
    """GDAL's own mask (nodata, mask, alpha), and NaN."""
    pixels = dataset.read(band, window=window)
    with np.errstate(invalid="ignore"):
        return pixels, (dataset.read_masks(band, window=window) > 0) & ~np.isnan(
            pixels.astype("float64")
        )


def expected_band(pixels, valid, weights, stride, pad):
    """Return (values, bound on their error, valid outputs), all fields of one band."""
    values = np.where(valid, pixels, 0).astype("float64")
    padded = [np.pad(a, pad) for a in (values, abs(values), ~valid * 1.0)]  # zeros, not missing
    kernels = [weights, abs(weights), (weights != 0) * 1.0]
    kh, kw = weights.shape
    sums = []
    for array, kernel in zip(padded, kernels, strict=True):
        full = ndimage.correlate(array, kernel, mode="constant", origin=(-(kh // 2), -(kw // 2)))
        rows, columns = array.shape[0] - kh + 1, array.shape[1] - kw + 1
        sums.append(full[:rows:1, :columns:1][:: stride[0], :: stride[1]])
    eps = 2.0**-23 if pixels.dtype.itemsize <= 2 or pixels.dtype == "float32" else 2.0**-52
    bound = (np.count_nonzero(weights) + 1) * eps * sums[1]
    return sums[0], bound, sums[2] < 0.5


def moved(weights, stride, pad):
    """The affine map from output pixels to input pixels, corners as GDAL counts."""
    (kh, kw), (sy, sx) = weights.shape, stride
    # The first field spans from -pad to -pad + k: its centre is the first output's centre.
    first = rasterio.Affine.translation(-pad + kw / 2, -pad + kh / 2)
    return first @ rasterio.Affine.scale(sx, sy) @ rasterio.Affine.translation(-0.5, -0.5)


def check_places(given, made, to_input):
    """Transform, CRS, ground control points and RPCs."""
    assert made.crs == given.crs
    if given.transform == rasterio.Affine.identity():
        assert made.transform == rasterio.Affine.identity()
    else:
        expected = given.transform @ to_input
        np.testing.assert_allclose(tuple(made.transform), tuple(expected), rtol=1e-12, atol=1e-12)
    (points, crs), (now, now_crs) = given.gcps, made.gcps
    assert now_crs == crs
    assert len(now) == len(points)
    for before, after in zip(points, now, strict=True):
        assert (after.x, after.y, after.z) == pytest.approx((before.x, before.y, before.z))
        column, row = to_input @ (after.col, after.row)
        assert (column, row) == pytest.approx((before.col, before.row), abs=1e-6)
    assert (made.rpcs is None) == (given.rpcs is None)
    if given.rpcs is not None:
        for coefficients in ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "lat_off"):
            before = getattr(given.rpcs, coefficients)
            assert getattr(made.rpcs, coefficients) == pytest.approx(before, rel=1e-12)
        for normalized in (-0.7, 0.0, 0.9):  # what the polynomials give, from -1 to 1
            column, row = to_input @ (
                made.rpcs.samp_off + made.rpcs.samp_scale * normalized + 0.5,  # to corners
                made.rpcs.line_off + made.rpcs.line_scale * normalized + 0.5,
            )
            column_before = given.rpcs.samp_off + given.rpcs.samp_scale * normalized + 0.5
            row_before = given.rpcs.line_off + given.rpcs.line_scale * normalized + 0.5
            assert (column, row) == pytest.approx((column_before, row_before), abs=1e-6)


def check_tags(given, made, bands, total):
    assert made.descriptions == tuple(given.descriptions[b - 1] for b in bands)
    assert made.units == tuple(given.units[b - 1] for b in bands)
    assert made.colorinterp == tuple(given.colorinterp[b - 1] for b in bands)
    assert made.scales == tuple(given.scales[b - 1] for b in bands)
    expected = [given.offsets[b - 1] * total for b in bands]
    np.testing.assert_allclose(made.offsets, expected, atol=1e-9)
    assert made.tags()["AREA_OR_POINT"] == given.tags()["AREA_OR_POINT"]
    for name in ("TIFFTAG_IMAGEDESCRIPTION", "TIFFTAG_DATETIME"):
        assert made.tags().get(name) == given.tags().get(name)
    for band in made.indexes:
        assert not any(name.startswith("STATISTICS") for name in made.tags(band))
    assert all(math.isnan(value) for value in made.nodatavals)


@pytest.mark.parametrize("path", [p for p in REAL if p.name != WORLD], ids=lambda p: p.stem)
@pytest.mark.parametrize("name", JOBS)
def test_a_real_raster(path, name, tmp_path):
    kernel, stride, pad = JOBS[name]
    weights = KERNELS[kernel]
    target = tmp_path / "out.tif"
    keys = {"kernel.weights": weights, "stride": list(stride), "padding": pad}
    report = tileconv.run(job_for(path, target, **keys))
    assert report.warnings == ()
    assert [p.name for p in tmp_path.iterdir()] == ["out.tif"]
    with open_raster(path) as given, open_raster(target) as made:
        bands = data_bands(given)
        assert made.count == len(bands)
        for number, band in enumerate(bands, 1):
            pixels, valid = valid_pixels(given, band)
            values, bound, whole = expected_band(pixels, valid, weights, stride, pad)
            out = made.read(number)
            assert out.shape == values.shape
            np.testing.assert_array_equal(~np.isnan(out), whole)
            np.testing.assert_array_equal(made.read_masks(number) > 0, whole)
            assert (abs(out.astype("float64") - values) <= bound)[whole].all()
            small = pixels.dtype.itemsize <= 2 or pixels.dtype == "float32"
            assert out.dtype == ("float32" if small else "float64")
        check_places(given, made, moved(weights, stride, pad))
        check_tags(given, made, bands, weights.sum())


@pytest.mark.parametrize("stride", [2048, 701])
def test_the_world(stride, tmp_path):
    """648 million pixels, of which few blocks are needed."""
    path, target = SHARED / "data" / "real" / WORLD, tmp_path / "out.tif"
    weights = np.arange(225.0).reshape(15, 15) / 225
    keys = {"kernel.weights": weights, "stride": stride, "missing": "skip"}
    report = tileconv.run(job_for(path, target, **keys))
    assert report.warnings == ()
    with open_raster(path) as given, open_raster(target) as made:
        out = made.read(1)
        rows = range(0, given.height - 14, stride)
        columns = range(0, given.width - 14, stride)
        assert out.shape == (len(rows), len(columns))
        blocks = {
            (y // 512, x // 512)
            for row in rows
            for column in columns
            for y in (row, row + 14)
            for x in (column, column + 14)
        }
        assert report.blocks_decoded == len(blocks)
        seen = 0
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                pixels, valid = valid_pixels(given, 1, Window(column, row, 15, 15))
                if not valid.any():
                    assert np.isnan(out[i, j])
                    continue
                seen += 1
                products = np.where(valid, pixels.astype("float64"), 0) * weights
                assert abs(out[i, j] - products.sum()) <= 226 * 2.0**-23 * products.sum()
        assert seen > 20
        check_places(given, made, moved(weights, (stride, stride), 0))


@pytest.mark.parametrize("scaled", [False, True])
def test_scale_and_offset_of_a_real_raster(scaled, tmp_path):
    path, target = SHARED / "data" / "real" / "scale_offset_int16.tif", tmp_path / "out.tif"
    weights = KERNELS["even"]
    keys = {"kernel.weights": weights, "stride": 2, "input.scaled": scaled}
    report = tileconv.run(job_for(path, target, **keys))
    assert len(report.warnings) == scaled
    with open_raster(path) as given, open_raster(target) as made:
        for band in given.indexes:
            pixels, valid = valid_pixels(given, band)
            meant = pixels * given.scales[band - 1] + given.offsets[band - 1]
            values, _, whole = expected_band(meant, valid, weights, (2, 2), 0)
            out = made.read(band) * made.scales[band - 1] + made.offsets[band - 1]
            assert (made.scales[band - 1], made.offsets[band - 1]) == (
                (1, 0) if scaled else (given.scales[band - 1], given.offsets[band - 1] * 12)
            )
            np.testing.assert_array_equal(~np.isnan(out), whole)
            np.testing.assert_allclose(out[whole], values[whole], rtol=1e-5, atol=1e-3)


ASKED = {"irs_inf_loop_000029.tif": "bands: [1], palette: true"}
"""Else its palette is refused before its only block."""
CAUSES = {  # what is at fault, as the message must say it
    "irs_div0_000000.tif": ["cannot be opened as GeoTIFF", "RowsPerStrip"],
    "irs_inf_loop_000029.tif": [
        "block (0, 0) of band 1, rows 0 to 150, columns 0 to 156",
        "IReadBlock failed at X offset 0, Y offset 0: TIFFReadEncodedStrip() failed",
    ],
    "irs_oom_000001.tif": ["cannot be opened as GeoTIFF", "ImageWidth"],
    "pil__crash-2020-10-test.tif": ["block (", "TIFFReadRGBA"],
    "rasterio_corrupt.tif": [
        "block (1, 1) of all bands, rows 512 to 1023, columns 512 to 1023",
        "IReadBlock failed at X offset 1, Y offset 1",
    ],
}


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_bad_raster(path, workers, tmp_path):
    """The command itself: exit code 3, one message with file, block, band and cause, no file."""
    job = tmp_path / "job.yaml"
    job.write_text(
        f"input: {{path: {path}, {ASKED.get(path.name, '')}}}\nkernel: {{name: box}}\n"
        f"output: {{path: 'out/{{stem}}.tif'}}\ncompute: {{workers: {workers}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tileconv", "run", str(job)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: {path}: ")
    assert len(done.stderr.splitlines()) == 1
    for words in CAUSES[path.name]:
        assert words in done.stderr
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left == [job]
