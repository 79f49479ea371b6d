"""Bad rasters and bad jobs: each gets one message that says what, where and what to do instead.

The exit code tells whose fault it is: 2 the user's, 3 the data's, 4 the system's.
"""

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from click.testing import CliRunner
from conftest import SHARED, read
from rasterio.enums import ColorInterp

import tileconv
from tileconv.cli import main

JOB = """\
input:
  path: in.tif
kernel:
  weights: [[1, 2, 1]]
stride: 1
output:
  path: out/out.tif
"""
PIXELS = np.arange(1, 41, dtype=np.uint8).reshape(5, 8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, make_raster):
    """A folder with a good raster; tests run inside it."""
    monkeypatch.chdir(tmp_path)
    make_raster(PIXELS)
    return tmp_path


def as_yaml(value):
    """JSON is YAML but for three words."""
    return json.dumps(value).replace("NaN", ".nan").replace("Infinity", ".inf")


def write_job(text):
    """Write job.yaml: a text, or changes to the keys of a good job, like ``input__path``."""
    if not isinstance(text, str):
        job = {"input": {"path": "in.tif"}, "kernel": {"weights": [[1]]}}
        job["output"] = {"path": "out/out.tif"}
        for name, value in text.items():
            *sections, key = name.split("__")
            place = job
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
        text = as_yaml(job)
    Path("job.yaml").write_text(text, "utf-8")


def everything():
    """All files below the folder with their bytes, and all links."""
    paths = [path for path in Path().rglob("*") if path.is_file() or path.is_symlink()]
    return {p: p.readlink() if p.is_symlink() else p.read_bytes() for p in paths}


def refused(code, words, job, *arguments):
    """Run a job that must fail; checks exit code, message, and that no file changed."""
    write_job(job)
    before = everything()
    result = CliRunner().invoke(main, ["run", "job.yaml", *arguments])
    told = result.stderr
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, told
    assert told.startswith("Error: ")
    assert [word for word in words if word not in told] == [], told
    assert result.stdout == ""
    assert everything() == before
    return told


def accepted(job, *arguments):
    """Run a job that must succeed; returns its pixels."""
    write_job(job)
    result = CliRunner().invoke(main, ["run", "job.yaml", *arguments])
    assert result.exit_code == 0, result.output
    return read("out/out.tif")


# ---- Inputs that are no raster


def test_a_missing_input(folder):
    refused(3, ["missing.tif: no such file"], {"input__path": "missing.tif"})
    refused(3, ["in.tif/x.tif: no such file"], {"input__path": "in.tif/x.tif"})


def test_what_is_not_a_file(folder):
    (folder / "scenes").mkdir()
    os.mkfifo("pipe.tif")
    (folder / "loop.tif").symlink_to("loop.tif")
    refused(3, ["scenes: is a folder, not a file"], {"input__path": "scenes"})
    refused(3, [": is a folder, not a file"], {"input__path": ""})
    refused(3, ["Too many levels of symbolic links"], {"input__path": "loop.tif"})
    refused(
        3, ["pipe.tif: is a named pipe, not a file"], {"input__path": "pipe.tif"}
    )  # opening it would wait


def test_an_empty_file(folder):
    (folder / "empty.tif").touch()
    refused(3, ["empty.tif: the file is empty"], {"input__path": "empty.tif"})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"just text\n", "cannot be opened as GeoTIFF"),
        (b"II*\0", "cannot be opened as GeoTIFF"),
        (b"II*\0\xff\xff\xff\xff", "cannot be opened as GeoTIFF"),
        (b"\0" * 4096, "cannot be opened as GeoTIFF"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG; inputs are GeoTIFFs"),
    ],
    ids=["text", "magic", "no directory", "zeros", "png"],
)
def test_another_kind_of_file(content, told, folder):
    (folder / "named.tif").write_bytes(content)
    refused(3, [f"named.tif: {told}"], {"input__path": "named.tif"})


def test_a_file_without_its_directory_is_named_once(folder):
    (folder / "cut.tif").write_bytes(b"II*\0\0\0\1\0" + bytes(500))
    told = refused(3, ["Failed to read directory"], {"input__path": "cut.tif"})
    assert told.count("cut.tif") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_without_permission(folder):
    write_job({})
    (folder / "in.tif").chmod(0)
    result = CliRunner().invoke(main, ["run", "job.yaml"])
    assert (result.exit_code, "in.tif: permission denied" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    "name", ["x" * 300, "a\0b.tif", "GTIFF_DIR:1:in.tif", "GTIFF_RAW:in.tif", "in.tif,1", "*.png"]
)
def test_names_that_are_no_file(name):
    refused(3, [], {"input__path": name})


# ---- Inputs that would lead elsewhere


@pytest.mark.parametrize(
    "path",
    [
        "http://{}/x.tif",
        "https://{}/x.tif",
        "/vsicurl/http://{}/x.tif",
        "/vsicurl_streaming/http://{}/x.tif",
        "/vsizip//vsicurl/http://{}/x.zip/x.tif",
        "s3://bucket/x.tif",
        "/vsis3/bucket/x.tif",
        "/vsimem/x.tif",
        "vrt:///vsicurl/http://{}/x.tif",
    ],
)
def test_remote_inputs_are_refused_unvisited(path, server):
    words = ["only files on disk are read; https:// and s3:// with input.remote: true"]
    refused(3, words, {"input__path": path.format(server)})


VRT = """<VRTDataset rasterXSize="8" rasterYSize="5"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("source", ["in.tif", "/etc/passwd", "/vsicurl/http://{}/x.tif"])
def test_a_vrt_named_tif_is_not_followed(source, server, folder):
    (folder / "disguised.tif").write_text(VRT.format(source.format(server)))
    told = ["disguised.tif: is a VRT; only one whose name ends in .vrt is read"]
    refused(3, told, {"input__path": "disguised.tif"})


def test_a_vrt_as_a_path_is_not_opened(server):
    refused(3, [], {"input__path": VRT.format(f"/vsicurl/http://{server}/x.tif")})


# ---- Damaged rasters


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw"])
def test_every_truncation_is_noticed(compress, folder, make_raster, rng):
    pixels = rng.integers(0, 255, (2, 70, 70), dtype=np.uint8)
    whole = make_raster(pixels, "whole.tif", block=(32, 32), compress=compress).read_bytes()
    for share in np.linspace(0.001, 0.999, 24):
        (folder / "cut.tif").write_bytes(whole[: int(share * len(whole))])
        refused(3, ["cut.tif"], {"input__path": "cut.tif"})


BAD = sorted((SHARED / "data" / "bad").glob("*")) if (SHARED / "data" / "bad").is_dir() else []


@pytest.mark.skipif(not BAD, reason="shared data are not here")
@pytest.mark.parametrize("path", BAD, ids=[path.name for path in BAD])
def test_known_bad_files(path):
    told = refused(3, [path.name], {"input__path": str(path)})
    assert len(told) < 1000  # one message, and no log of other libraries before it


def test_a_good_raster_with_a_bad_block_names_it(folder, make_raster, rng):
    pixels = rng.integers(0, 255, (70, 100), dtype=np.uint8)
    path = make_raster(pixels, "bad.tif", block=(32, 32), compress="deflate")
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].dataoffsets[6]  # of 3 rows of 4 blocks
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 50)
    refused(3, ["bad.tif: ", "rows 32 to 63, columns 64 to 95"], {"input__path": "bad.tif"})


# ---- Rasters that have no weighted sum, or cannot be told from missing


def test_a_palette(folder, make_raster):
    path = make_raster(PIXELS, "classes.tif")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {1: (0, 0, 0, 255), 2: (255, 0, 0, 255)})
    words = ["classes.tif: band 1 has a colour palette", "class codes"]
    refused(3, words, {"input__path": "classes.tif"})


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_complex_pixels(dtype):
    shape = {"count": 1, "height": 5, "width": 8, "transform": rasterio.Affine(1, 0, 9, 0, -1, 9)}
    with rasterio.open("waves.tif", "w", driver="GTiff", dtype=dtype, **shape):
        pass
    words = [f"waves.tif: complex input ({dtype})", ".real and .imag"]
    refused(3, words, {"input__path": "waves.tif"})


def test_a_mask_alone(make_raster):
    with rasterio.open(make_raster(PIXELS, "alpha.tif"), "r+") as dataset:
        dataset.colorinterp = [ColorInterp.alpha]
    refused(3, ["alpha.tif: its only band is an alpha band"], {"input__path": "alpha.tif"})


def test_bands_that_are_not_there():
    words = ["in.tif: there is no band 2; it has bands 1 to 1"]
    refused(3, words, {"input__bands": [2]})
    refused(2, ["input.bands: a band is given twice"], {"input__bands": [1, 1]})
    for bands in ([], [0], [-1], 1, "1", [1.0]):
        refused(2, ["input.bands: must be a list of band numbers from 1"], {"input__bands": bands})


@pytest.mark.parametrize("written", ["1e18", "1.152921504606847e+18", "nonsense"])
def test_nodata_that_a_double_distorts(written, folder):
    # GDAL reads the leading digits: 1 would be taken for missing.
    extra = [(42113, "s", 0, written, True)]
    tifffile.imwrite("big.tif", PIXELS.astype(np.int64), extratags=extra)
    words = [f"big.tif: nodata is written as {written}", "int64", "input.mask to none"]
    refused(3, words, {"input__path": "big.tif"})
    result = accepted({"input__path": "big.tif", "input__mask": "none"})
    np.testing.assert_array_equal(result[0], PIXELS)


@pytest.mark.parametrize(
    ("dtype", "nodata", "output"),
    [
        ("float32", -9999, "uint8"),
        ("float32", np.nan, "int16"),
        ("float32", np.inf, "int16"),
        ("float32", 0.5, "int16"),
        ("float64", 1e300, "int32"),
        ("float32", None, "int16"),
        ("int16", -32768, "uint16"),
        ("uint16", 65535, "uint8"),
    ],
)
def test_integer_outputs_need_a_nodata_that_fits(dtype, nodata, output, make_raster):
    make_raster(PIXELS.astype(dtype), "gaps.tif", nodata=nodata)
    job = {"input__path": "gaps.tif", "output__dtype": output}
    refused(2, ["job.yaml: output.nodata: give", output, "the input"], job)
    result = accepted(job | {"output__nodata": 0})
    np.testing.assert_array_equal(result[0], PIXELS)
    assert result.dtype == output


def test_an_output_nodata_that_the_dtype_cannot_hold():
    for nodata in (-1, 256, 0.5, float("inf"), "nan", 10**398):
        job = {"output__dtype": "uint8", "output__nodata": nodata}
        refused(2, ["job.yaml: output nodata", "is not a value of uint8", "0..255"], job)
    for nodata in (1e300, 10**398):
        refused(2, ["beyond the range of float32"], {"output__nodata": nodata})


# ---- Kernels, strides and padding


@pytest.mark.parametrize(
    "change",
    [{"stride": v} for v in (0, -1, 2**40, 10**398, 1.5, "4", True, None, [], [1, 2, 3], [1, 0])]
    + [{"dilation": v} for v in (0, -1, 2**40, 1.5, "4", True, [2, -2])],
    ids=lambda change: str(change)[:30],
)
def test_strides_and_dilations_are_whole_and_positive(change):
    (key,) = change
    words = ["job.yaml is not a valid job:", f"line 1: {key}: must be a whole number from 1"]
    refused(2, [*words, "or two as [y, x]"], change)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([], ["a kernel is (kh, kw)", "got shape (0,)"]),
        ([[]], ["the kernel is empty"]),
        ([[1, 2], [3]], ["not all of one length"]),
        ([[1, float("nan")]], ["must be finite", "row 0, column 1 is nan"]),
        ([[1], [float("-inf")]], ["must be finite", "row 1, column 0 is -inf"]),
        ([[[[[1]]]]], ["rows of numbers, like [[1, 0, -1]"]),
        ([1, 2], ["rows of numbers"]),
        (1, ["rows of numbers"]),
        ([["1"]], ["rows of numbers"]),
        ([[True]], ["rows of numbers"]),
        ([[10**398]], ["a kernel holds numbers"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_kernels_are_rows_of_finite_numbers(weights, words):
    told = refused(2, words, JOB.replace("[[1, 2, 1]]", as_yaml(weights)))
    assert "line 3: kernel" in told or "line 4: kernel.weights" in told


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ({}, ["exactly one of weights, name and file"]),
        ({"name": "box", "weights": [[1]]}, ["exactly one of weights, name and file"]),
        ({"weights": [[1]], "size": 3}, ["size go with a kernel by name"]),
        ({"name": "gauss"}, ["no kernel named 'gauss'", "gaussian"]),
        ({"name": "sobel_x", "size": 3}, ["sobel_x does not take size"]),
        ({"name": "gaussian", "size": 0}, ["kernel.size: must be a whole number from 1", "got 0"]),
        ({"name": "gaussian", "size": 5000}, ["1..1024, got 5000"]),
        ({"name": "gaussian", "sigma": 0}, ["sigma must be a number of pixels", "got 0"]),
        ({"name": "gaussian", "sigma": 1e-300}, ["sigma must be a number of pixels"]),
        ({"name": "gaussian", "sigma": 10**398}, ["sigma must be a number of pixels"]),
        ({"weights": [[1, -1]], "normalize": True}, ["normalize", "sums to 0"]),
        ({"weights": [[1e308, 1e308]], "normalize": True}, ["normalize", "beyond float64"]),
        ({"weights": [[1]], "flip": "yes"}, ["kernel.flip: must be true or false; got 'yes'"]),
    ],
    ids=str,
)
def test_kernels_that_have_no_meaning(kernel, words):
    refused(2, ["job.yaml is not a valid job:", *words], {"kernel": kernel})


def test_a_weight_beyond_float32_says_how_to_compute_in_float64():
    words = ["in.tif: a weight is beyond the range of float32", "dtype float64"]
    refused(2, words, {"kernel__weights": [[1e300]]})
    result = accepted({"kernel__weights": [[1e300]], "output__dtype": "float64"})
    np.testing.assert_array_equal(result[0], PIXELS * 1e300)


def test_a_kernel_larger_than_the_padded_raster():
    wide, tall = {"kernel__weights": [[1] * 9]}, {"kernel__weights": [[1]] * 9}
    words = ["job.yaml: in.tif: width", "spans 9 pixels", "only 8 (0 + 8 + 0", "more padding"]
    refused(2, words, wide)
    refused(2, ["height", "spans 9 pixels", "only 5 (0 + 5 + 0 with padding)"], tall)
    refused(2, ["only 7 (1 + 5 + 1 with padding)"], tall | {"padding": [1, 0]})
    refused(
        2, ["spans 9 pixels (kernel 5, dilation 2)"], {"kernel__weights": [[1]] * 5, "dilation": 2}
    )
    refused(
        2,
        ["spans 4294967295 pixels"],
        {"kernel__name": "box", "kernel__weights": None, "dilation": 2**31 - 1},
    )
    assert accepted(tall | {"padding": [2, 0]}).shape == (1, 1, 8)


@pytest.mark.parametrize(
    "padding", [-1, 1.5, "full", True, [1], [1, 2, 3], [1, 2, 3, 4, 5], [-1, 0], 2**31]
)
def test_paddings_that_have_no_meaning(padding):
    refused(2, ["job.yaml is not a valid job:", "line 1: padding: "], {"padding": padding})


def test_padding_that_makes_the_output_too_large_is_refused_at_once():
    words = ["height: there would be 4294967299 outputs", "at most 2147483647", "less padding"]
    refused(2, words, {"padding": 2**31 - 1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"padding_mode": "mirror"}, ["padding_mode", "'reflect'"]),
        ({"padding_mode": "zero"}, ["padding_mode", "'constant'"]),
        ({"padding_mode": "blue"}, ["constant, edge, reflect, symmetric, wrap, missing"]),
        ({"padding_value": "0"}, ["padding_value", "'0'"]),
        ({"padding_value": 10**398}, ["padding_value", "beyond the range of float64"]),
        (
            {"output__compress": "deflate", "output__level": 10},
            ["output.level: deflate has levels 1 to 9"],
        ),
        ({"output__compress": "lzw", "output__level": 3}, ["output.level: lzw has no level"]),
        (
            {"missing": "interpolate"},
            ["missing: must be one of propagate, skip, fill, renormalize"],
        ),
        ({"missing": "ignore"}, ["missing: must be one of propagate"]),
        ({"missing": {"policy": "skip"}}, ["missing: must be one of propagate, skip, fill"]),
        ({"output__dtype": "int12"}, ["output.dtype", "uint8", "float64"]),
        ({"output__dtype": "float16"}, ["GeoTIFF cannot store float16; use float32"]),
        ({"output__dtype": "bool"}, ["output.dtype", "bool"]),
        ({"output__compress": "jpeg"}, ["output.compress", "'deflate', 'zstd', 'lzw' or 'none'"]),
        ({"output__blocksize": 100}, ["output.blocksize", "multiple of 16"]),
        ({"output__predictor": 4}, ["output.predictor: must be auto, 1, 2 or 3; got 4"]),
        (
            {"output__predictor": 3, "output__dtype": "int16"},
            ["predictor: 3 is for floating point"],
        ),
        ({"compute__workers": 0}, ["compute.workers", "auto, or a whole number from 1"]),
        ({"compute__tile": [0, 1]}, ["compute.tile: must be auto, n or [y, x]"]),
        ({"compute__memory_limit": "2 Gib of it"}, ["auto or an amount like 2 GiB"]),
        ({"compute__memory_limit": 10**398}, ["is not an amount of memory"]),
        ({"compute__memory_limit": "1 MiB"}, ["needs at least", "the limit is 1 MiB"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_that_have_no_meaning(change, words):
    refused(2, ["job.yaml", *words], change)


# ---- One pixel


@pytest.fixture
def pixel(make_raster):
    make_raster(np.array([[7]], np.uint8), "one.tif")
    return {"input__path": "one.tif", "kernel__weights": np.ones((3, 3)).tolist()}


def test_one_pixel_under_one_weight(pixel):
    assert accepted(pixel | {"kernel__weights": [[2]]}).tolist() == [[[14]]]


def test_one_pixel_is_too_small_for_a_larger_kernel(pixel):
    refused(2, ["one.tif: height", "spans 3 pixels", "only 1 "], pixel)


@pytest.mark.parametrize(
    ("mode", "result"),
    [("constant", 7), ("edge", 63), ("reflect", 63), ("symmetric", 63), ("wrap", 63)],
)
@pytest.mark.parametrize("stride", [1, 2**31 - 1])
def test_one_pixel_with_padding(mode, result, stride, pixel):
    job = pixel | {"padding": "same", "padding_mode": mode, "stride": stride}
    assert accepted(job).tolist() == [[[result]]]


@pytest.mark.parametrize("stride", [1, 2**31 - 1])
def test_one_pixel_among_missing_ones(stride, pixel):
    job = pixel | {"padding": "same", "padding_mode": "missing", "missing": "renormalize"}
    assert accepted(job | {"stride": stride}).tolist() == [[[63]]]


# ---- Outputs


@pytest.mark.parametrize("make", ["file", "link", "dangling link"])
def test_an_output_that_exists_is_kept(make, folder):
    (folder / "out").mkdir()
    (folder / "other").write_bytes(b"precious")
    out = folder / "out" / "out.tif"
    if make == "file":
        shutil.copy("other", out)
    else:
        out.symlink_to("../other" if make == "link" else "out.tif")
    refused(2, ["exists already", "choose another path, or set output.overwrite"], {})


def test_an_output_that_is_a_folder(folder):
    (folder / "out" / "out.tif").mkdir(parents=True)
    refused(2, ["out/out.tif: is a folder"], {"output__overwrite": True})
    refused(2, ["is a folder"], {"output__path": "..", "output__overwrite": True})
    for path in ("", ".", "./"):
        refused(2, ["output.path: needs a file name"], {"output__path": path})


@pytest.mark.parametrize(
    "path", ["in.tif", "./in.tif", "x/../in.tif", "soft.tif", "hard.tif", "linked/in.tif", "{name}"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_output_is_never_the_input(path, overwrite, folder):
    (folder / "x").mkdir()
    (folder / "soft.tif").symlink_to("in.tif")
    (folder / "hard.tif").hardlink_to("in.tif")
    (folder / "linked").symlink_to(".")
    job = {"output__path": path, "output__overwrite": overwrite}
    words = "is the input itself; choose another path" if overwrite else "exists already"
    refused(2, [".tif: ", words], job)
    # The other way round
    job |= {"input__path": path.replace("{name}", "in.tif"), "output__path": "in.tif"}
    refused(2, ["in.tif: ", words], job)


def test_two_dots_behind_a_link_lead_where_the_system_says(folder, make_raster):
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "link").symlink_to("a/b")
    shutil.move(make_raster(PIXELS * 2, "twice.tif"), folder / "a" / "in.tif")
    job = {"input__path": "link/../in.tif"}  # a/in.tif, not in.tif
    np.testing.assert_array_equal(accepted(job)[0], PIXELS * 2)
    job |= {"output__path": "a/in.tif", "output__overwrite": True}
    refused(2, ["is the input itself"], job)


@pytest.mark.parametrize(
    "path", ["/vsimem/x.tif", "/vsis3/bucket/x.tif", "s3://bucket/x.tif", "http://{}/x.tif"]
)
def test_remote_outputs_are_refused_unvisited(path, server):
    job = {"output__path": path.format(server)}
    refused(2, ["line 1: output.path: only files on disk are written"], job)


def test_a_null_character_in_an_output():
    refused(2, ["output.path: needs a file name"], {"output__path": "a\0b.tif"})


@pytest.mark.parametrize(
    "template", ["{x}", "{}", "{stem", "stem}", "{stem.__class__}", "{0}", "{{}}"]
)
def test_only_known_fields_stand_in_braces(template):
    words = ["line 1: output.path: only {stem}, {name}, {parent} can stand in braces", template]
    refused(2, words, {"output__path": f"out/{template}.tif"})


def test_fields_are_filled_in(folder, make_raster):
    accepted({"output__path": "out/out.tif"})
    make_raster(PIXELS, "s{ce}ne.v2.tif")  # braces of a file's own are no fields
    for template, expected in {
        "a/{stem}_x.tif": "a/s{ce}ne.v2_x.tif",
        "b/{name}": "b/s{ce}ne.v2.tif",
        "c/{parent}/x.tif": f"c/{folder.name}/x.tif",
        "{parent}/x.tif": f"{folder.name}/x.tif",  # not /x.tif: the path is relative to the job
    }.items():
        write_job({"input__path": "s{ce}ne.v2.tif", "output__path": template})
        assert CliRunner().invoke(main, ["run", "job.yaml"]).exit_code == 0
        assert (folder / expected).is_file()


# ---- YAML


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("stride", "strid", ["line 5: strid: unknown key; did you mean `stride`?"]),
        ("weights", "wieghts", ["line 4: kernel.wieghts: unknown key; did you mean `weights`?"]),
        (
            "stride: 1",
            "bands: [1]",
            ["line 5: bands: unknown key here; it belongs at `input.bands`"],
        ),
        ("stride: 1", "zzz: 1", ["line 5: zzz: unknown key; the keys here are input, kernel,"]),
        ("path: in.tif", "path: in.tif\n  stride: 1", ["line 3: input.stride: unknown key here"]),
        ("  path: in.tif", "  bands: [1]", ["line 1: input.path: this key is needed"]),
        ("input:\n  path: in.tif\n", "", ["input: this key is needed"]),
        ("input:\n  path: in.tif", "input: in.tif", ["line 1: input: must hold keys of its own"]),
        ("path: in.tif", "path: 5", ["line 2: input.path", "got 5"]),
    ],
    ids=lambda value: str(value)[:24],
)
def test_unknown_and_missing_keys_are_named(old, new, words):
    assert old in JOB
    refused(2, ["job.yaml is not a valid job:", *words], JOB.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("output: {path: o.tif, creation_options: {}}", "output.creation_options"),
    ],
)
def test_what_comes_later_is_refused_not_ignored(text, key):
    sections = {
        "input": "input: {path: in.tif}",
        "kernel": "kernel: {weights: [[1]]}",
        "output": "output: {path: out/out.tif}",
    }
    sections[text.partition(":")[0]] = text
    told = refused(2, [f": {key}: ", "supported yet (tileconv "], "\n".join(sections.values()))
    assert len(told.splitlines()) == 2


def test_all_mistakes_are_told_at_once():
    job = JOB.replace("stride: 1", "stride: 0\ndilation: x\npading: 1").replace("path: o", "pth: o")
    words = ["line 5: stride", "line 6: dilation", "line 7: pading", "line 9: output.pth"]
    told = refused(2, words, job)
    assert len(told.splitlines()) == 5  # not that output.path is needed: it is there, misspelt
    job = JOB.replace("path: in.tif", "part: 3")  # a key of another section is no misspelt one
    refused(2, ["input.path: this key is needed", "it belongs at `compute.part`"], job)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (JOB + "stride: 2\n", ["job.yaml, line 8: `stride` is given twice (first on line 5)"]),
        (JOB.replace("stride: 1", "stride: &a 1"), ["line 5: anchors (&a) are not allowed"]),
        (JOB.replace("stride: 1", "stride: *a"), ["line 5: aliases (*a) are not allowed"]),
        (JOB.replace("stride: 1", "<<: *a"), ["line 5: aliases (*a) are not allowed"]),
        (JOB.replace(": 1", ": !!python/object/apply:os.system [ls]"), ["line 5: tags ("]),
        (JOB.replace("stride: 1", "stride: !!int 1"), ["line 5: tags ("]),
        (JOB.replace("stride: 1", "? [a]\n: 1"), ["line 5: a key must be a word"]),
        (JOB.replace("stride: 1", "stride: [1"), ["job.yaml, line 6: not valid YAML"]),
        (JOB.replace("stride: 1", "stride 1"), ["job.yaml, line 6: not valid YAML"]),
        (JOB.replace("  path: in", "\tpath: in"), ["job.yaml, line 2: not valid YAML"]),
        (JOB.replace("in.tif", "in\x07.tif"), ["job.yaml, line 2: not valid YAML: '\\x07'"]),
        (JOB + "---\nstride: 2\n", ["line 8: a second document begins here"]),
        (JOB.replace("1\n", "[" * 30 + "]" * 30 + "\n"), ["line 5: nested deeper than 20 levels"]),
        ("[" * 100_000, ["line 1: nested deeper than 20 levels"]),
        ("{a: " * 100_000, ["line 1: nested deeper than 20 levels"]),
        ("# nothing but a comment\n", ["job.yaml: a job is a mapping", "tileconv init"]),
        ("", ["job.yaml: a job is a mapping"]),
        ("- input\n- output\n", ["job.yaml: a job is a mapping"]),
        ("just words\n", ["job.yaml: a job is a mapping"]),
        (JOB + "#" * (1 << 20), ["job.yaml: a job is at most 1 MiB of YAML"]),
    ],
    ids=lambda value: str(value)[-30:].replace("\n", " "),
)
def test_yaml_that_is_not_a_plain_mapping(text, words):
    refused(2, words, text)


def test_a_job_that_is_not_text(folder):
    for content in (b"\xff\xfei\0n\0", "input: {path: \xe9.tif}".encode("latin-1")):
        (folder / "job.yaml").write_bytes(content)
        result = CliRunner().invoke(main, ["run", "job.yaml"])
        assert result.exit_code == 2
        assert "job.yaml: not a text file in UTF-8" in result.stderr


def test_a_job_that_is_not_there(folder):
    (folder / "loop.yaml").symlink_to("loop.yaml")
    for path, words in {
        "none.yaml": "none.yaml: no such job file; `tileconv init` makes one",
        ".": "cannot be read: Is a directory",
        "loop.yaml": "loop.yaml: cannot be read: Too many levels of symbolic links",
        "in.tif": "in.tif: not a text file in UTF-8",
    }.items():
        result = CliRunner().invoke(main, ["run", path])
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_a_huge_job_is_not_read_whole(folder):
    (folder / "job.yaml").touch()
    os.truncate("job.yaml", 1 << 28)
    tracemalloc.start()
    try:
        with pytest.raises(tileconv.ConfigError, match="at most 1 MiB"):
            tileconv.load_job("job.yaml")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_numbers_are_those_of_yaml_1_2(folder):
    job = JOB.replace("[[1, 2, 1]]", "[[1e-3, 1E3, +.5]]")
    weights = tileconv.load_job(write_job(job) or "job.yaml").operator.weights
    assert weights.tolist() == [[0.001, 1000, 0.5]]
    for text in ("010", "0x10", "1_000", "12:30", "0o7"):
        words = ["line 5: stride: must be a whole number from 1 to 2147483647", f"got '{text}'"]
        refused(2, words, JOB.replace("stride: 1", f"stride: {text}"))


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "y", "1", "'true'"])
def test_only_true_and_false_are_booleans(word):
    words = ["line 8: output.overwrite: must be true or false; got "]
    refused(2, words, f"{JOB}  overwrite: {word}\n")


def test_yaml_with_other_line_ends_and_a_mark_in_front(folder):
    (folder / "job.yaml").write_bytes(b"\xef\xbb\xbf" + JOB.replace("\n", "\r\n").encode())
    assert tileconv.load_job("job.yaml").operator.kernel_shape == (1, 3)


# ---- The command line's own


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("stride", ["--set stride: write KEY=VALUE, like stride=8"]),
        ("=8", ["--set =8: write KEY=VALUE"]),
        ("stride=", ["stride: must be a whole number from 1", "got None"]),
        ("stride=0", ["stride: must be a whole number from 1", "got 0"]),
        ("stride=[1", ["--set stride=[1, line 1: not valid YAML"]),
        ("stride=*a", ["--set stride=*a, line 1: aliases (*a) are not allowed"]),
        ("strid=8", ["strid: unknown key; did you mean `stride`?"]),
        ("output.overwrite=yes", ["output.overwrite: must be true or false; got 'yes'"]),
        ("output.pth=b.tif", ["output.pth: unknown key; did you mean `path`?"]),
        ("a.b.c=1", ["a: unknown key"]),
        ("stride.y=1", ["--set stride.y=1: there is no key stride.y"]),
        ("kernel.weights.0=1", ["there is no key kernel.weights.0"]),
        ("input=3", ["input: must hold keys of its own; got 3"]),
        (
            "compute.scheduler=tcp://h",
            ["compute.scheduler: must be threads, synchronous, processes, or an address"],
        ),
    ],
)
def test_assignments_that_do_not_fit(assignment, words):
    told = refused(2, words, JOB, "--set", assignment)
    assert "line 5" not in told  # where the file is right


def test_an_assignment_mends_a_job(folder):
    job = JOB.replace("stride: 1", "stride: 0")
    refused(2, ["line 5: stride"], job)
    assert accepted(job, "--set", "stride=2", "--set", "kernel.weights=[[1]]").shape == (1, 3, 4)


def test_a_scheduler_that_does_not_exist():
    refused(
        2,
        ["compute.scheduler", "threads, synchronous, processes, or an address"],
        JOB,
        "--scheduler",
        "fast",
    )


def test_plan_gives_the_same_messages_and_codes(folder):
    for job, code, words in (
        ({"input__path": "none.tif"}, 3, "none.tif: no such file"),
        ({"stride": 0}, 2, "line 1: stride"),
        ({"output__path": "in.tif"}, 2, "the output is the input itself"),
    ):
        write_job(job)
        result = CliRunner().invoke(main, ["plan", "job.yaml"])
        assert (result.exit_code, words in result.stderr) == (code, True), result.stderr


def test_errors_of_the_api_are_builtins_with_the_same_codes(folder):
    good = {"input": {"path": "in.tif"}, "kernel": {"name": "box"}, "output": {"path": "o.tif"}}
    with pytest.raises(ValueError, match="job is not a valid job:\n  stride: ") as wrong:
        tileconv.load_job(good | {"stride": 0})
    with pytest.raises(OSError, match="none.tif: no such file") as missing:
        tileconv.plan(tileconv.load_job(good | {"input": {"path": "none.tif"}}))
    with pytest.raises(FileExistsError, match="the output is the input itself") as same:
        tileconv.run(tileconv.load_job(good | {"output": {"path": "in.tif", "overwrite": True}}))
    assert [caught.value.exit_code for caught in (wrong, missing, same)] == [2, 3, 2]
