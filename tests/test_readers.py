"""What other readers make of outputs: tags, masks, nodata and overviews that they act on."""

import itertools
import re

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import read
from rasterio.enums import ColorInterp, MaskFlags

import tileconv
from tileconv import ConfigError, InputError, OutputError
from tileconv.raster import overviews, overwrite, zarr_store
from tileconv.verify import verify

GDAL = tuple(map(int, rasterio.__gdal_version__.split(".")[:2]))
LAPLACE = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
KEEP = [[1]]

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def convolve(source, target, kernel=KEEP, **options):
    return tileconv.convolve_raster(source, target, kernel, overwrite=True, **options)


def masked(path, band=1):
    """Return where a reader that goes by GDAL finds no pixel."""
    with rasterio.open(path) as dataset:
        return dataset.read_masks(band) == 0


# ---- Tags


@pytest.fixture
def tagged(make_raster, rng):
    """A raster with tags in all domains, with letters that XML escapes."""
    path = make_raster(rng.integers(1, 99, (2, 300, 310)).astype("uint16"))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(PLAIN="1 < 2 & 'x' \"y\" é", TIFFTAG_ARTIST="me")
        dataset.update_tags(ns="MYDOMAIN", key="<&>'\"\n\té" * 40, other="")
        dataset.update_tags(ns="ANOTHER", **{f"k{i}": "v" * i for i in range(50)})
        dataset.update_tags(1, WAVELENGTH="665 & <more>")
        dataset.set_band_description(1, "red")
        dataset.units, dataset.scales = ("K", "m"), (0.5, 0.5)
    return path


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_cog_keeps_the_tags_that_a_geotiff_keeps(tagged, tmp_path, scheduler):
    from rio_cogeo import cog_validate

    said = {}
    for driver in ("GTiff", "COG"):
        path = tmp_path / f"{driver}.tif"
        convolve(tagged, path, "box", driver=driver, scheduler=scheduler, blocksize=128)
        with rasterio.open(path) as dataset:
            domains = sorted(
                n for n in dataset.tag_namespaces() if "STRUC" not in n and "DER" not in n
            )
            tags = [dataset.tags(ns=name) for name in domains]
            bands = [dataset.tags(band) for band in (1, 2)]
            said[driver] = domains, tags, bands, dataset.descriptions, dataset.units, dataset.tags()
            assert "MYDOMAIN" in domains
            assert dataset.tags(ns="TILECONV")["VERSION"] == tileconv.__version__
            assert dataset.overviews(1) == ([2, 4] if driver == "COG" else [])
    assert said["COG"] == said["GTiff"]
    assert cog_validate(tmp_path / "COG.tif", strict=True) == (True, [], [])


def test_room_for_tags_is_never_too_small(tmp_path, rng):
    letters = np.array([*"ab<>&'\"\n\té€ "])
    for i in range(50):
        tags = {
            f"D{j}": {f"k{k}": "".join(rng.choice(letters, rng.integers(0, 60))) for k in range(j)}
            for j in range(1, int(rng.integers(2, 5)))
        }
        source, copy = tmp_path / f"{i}.tif", tmp_path / f"{i}_copy.tif"
        about = {"driver": "GTiff", "width": 9, "height": 9, "count": 1, "dtype": "uint8"}
        with rasterio.open(source, "w", **about) as out, rasterio.open(copy, "w", **about) as other:
            for name, each in tags.items():
                out.update_tags(ns=name, **each)
            for dataset in (out, other):
                dataset.update_tags(PLAIN="x")
                dataset.write(np.ones((1, 9, 9), "uint8"))
            other.update_tags(**{overwrite.ROOM: overwrite.room_for(tags)})
        overwrite.overwrite_room(copy, source)
        with rasterio.open(source) as given, rasterio.open(copy) as made:
            assert made.tags() == given.tags()
            for name in tags:
                assert made.tags(ns=name) == given.tags(ns=name)
            assert made.read().all()


def test_nodata_of_all_bands_together_does_not_follow(tmp_path, make_raster):
    pixels = np.full((3, 40, 40), 90, "uint8")
    pixels[:, :, 20:] = 200
    pixels[:, 5, 5] = 0
    source = make_raster(pixels, photometric="RGB")
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(NODATA_VALUES="0 0 0")
    assert masked(source).sum() == 1
    convolve(source, tmp_path / "out.tif", {"name": "sobel_x"})
    out = read(tmp_path / "out.tif")[0]
    assert (out == 0).any()
    assert masked(tmp_path / "out.tif").tolist() == np.isnan(out).tolist()
    assert np.isnan(out).sum() == 6  # the sobel kernel has no taps in its middle column


DESCRIPTIONS = {
    '{"shape": [64, 64]}': None,
    '{"shape": [1, 64, 64], "axes": "CYX"}': None,
    '{"shape": [64, 64], "microns": 3}': "told",
    "ImageJ=1.11a\nimages=2\nslices=2\n": "told",
    '<?xml version="1.0"?><OME xmlns="x"></OME>': "told",
    "a view of the harbour": "kept",
    "shape: round": "kept",
}


@pytest.mark.parametrize(("text", "fate"), DESCRIPTIONS.items())
def test_layouts_do_not_follow(tmp_path, text, fate):
    tifffile.imwrite(
        tmp_path / "in.tif", np.ones((64, 64), "uint8"), description=text, metadata=None
    )
    report = convolve(tmp_path / "in.tif", tmp_path / "out.tif", "box", stride=2)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.series[0].shape == (31, 31)
        description = tiff.pages[0].description
    assert description == (text if fate == "kept" else "")
    assert [note for note in report.warnings if "IMAGEDESCRIPTION" in note] == (
        [report.warnings[0]] if fate == "told" else []
    )


def test_other_files_of_overviews_are_not_named(make_raster, tmp_path):
    source = make_raster(np.ones((1, 64, 64), "uint8"))
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE="elsewhere.ovr")
    convolve(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.tags(ns="OVERVIEWS") == {}


# ---- Overviews


@pytest.fixture
def holed(make_raster, rng):
    """A raster, a fiftieth of whose pixels are missing."""

    def make(dtype):
        pixels = rng.normal(100, 5, (2, 768, 1024)).astype(dtype)
        pixels[:, rng.random(pixels.shape[1:]) < 0.02] = np.nan
        return make_raster(pixels, nodata=np.nan), pixels

    return make


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["average", "bilinear", "cubic", "lanczos", "mode", "rms"])
def test_missing_pixels_do_not_spread_in_overviews(holed, tmp_path, dtype, way):
    from rio_cogeo import cog_validate

    source, pixels = holed(dtype)
    options = {"driver": "COG", "overviews": way, "blocksize": 256, "dtype": dtype}
    convolve(source, tmp_path / "nan.tif", **options)
    convolve(source, tmp_path / "number.tif", nodata=-9999, **options)
    assert read(tmp_path / "nan.tif").tobytes() == pixels.tobytes()
    assert cog_validate(tmp_path / "nan.tif", strict=True) == (True, [], [])
    with rasterio.open(tmp_path / "nan.tif") as dataset:
        assert dataset.overviews(1) == [2, 4]
        assert np.isnan(dataset.nodata)
    for level in range(2):
        with (
            rasterio.open(tmp_path / "nan.tif", overview_level=level) as by_nan,
            rasterio.open(tmp_path / "number.tif", overview_level=level) as by_number,
        ):
            found, expected = by_nan.read(), by_number.read()
        assert np.isnan(found).mean() < 0.01
        assert np.isnan(found).tolist() == (expected == -9999).tolist()
        np.testing.assert_array_equal(found[~np.isnan(found)], expected[expected != -9999])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "nan.tif", "number.tif"]


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (129, 40), (500, 257), (1000, 3)])
def test_there_are_as_many_overviews_as_gdal_makes(make_raster, tmp_path, shape):
    source = make_raster(np.ones((1, *shape), "float32"), nodata=np.nan)
    for way in ("average", "cubic"):
        convolve(source, tmp_path / f"{way}.tif", driver="COG", overviews=way, blocksize=64)
    made = []
    for way in ("average", "cubic"):
        with rasterio.open(tmp_path / f"{way}.tif") as dataset:
            made.append(len(dataset.overviews(1)))
    assert made[0] == made[1]
    assert bool(made[0]) == (max(shape) > 128)


def test_tasks_on_a_cluster_make_the_same_overviews(holed, tmp_path):
    source, _ = holed("float32")
    options = {"driver": "COG", "overviews": "cubic", "blocksize": 256}
    for scheduler in ("threads", "processes"):
        convolve(source, tmp_path / f"{scheduler}.tif", scheduler=scheduler, **options)
    made = []
    for scheduler, level in itertools.product(("threads", "processes"), (0, 1)):
        with rasterio.open(tmp_path / f"{scheduler}.tif", overview_level=level) as dataset:
            made.append(dataset.read().tobytes())
    assert made[:2] == made[2:]


def test_a_full_disk_while_overviews_are_made(holed, tmp_path, monkeypatch):
    source, _ = holed("float32")

    def full(*args, **options):
        raise rasterio.errors.RasterioIOError("No space left on device")

    monkeypatch.setattr(overviews.rasterio.shutil, "copy", full)
    with pytest.raises(OutputError, match="No space left"):
        convolve(source, tmp_path / "out.tif", driver="COG", overviews="cubic")
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


# ---- Nodata


INTEGERS = {
    "int64": [-9999, 0, 2**53 + 1, -(2**53) - 1, -(10**17), 10**18, 2**63 - 1, -(2**63)],
    "uint64": [0, 2**53 + 1, 2**63, 2**64 - 1, 10**19],
}


@pytest.mark.parametrize("driver", ["GTiff", "COG", "Zarr", "parts"])
@pytest.mark.parametrize(("dtype", "nodata"), [(d, v) for d in INTEGERS for v in INTEGERS[d]])
def test_integer_nodata_is_written_with_all_digits(make_raster, tmp_path, driver, dtype, nodata):
    pixels = np.arange(1, 601, dtype="int16").reshape(1, 20, 30)
    pixels[0, 3:5, 7] = 0
    source = make_raster(pixels, nodata=0)
    name = {"Zarr": "out.zarr", "parts": "out.vrt"}.get(driver, "out.tif")
    job = {
        "input": {"path": str(source)},
        "kernel": {"weights": [[1]]},
        "output": {"path": str(tmp_path / name), "dtype": dtype, "nodata": nodata},
    }
    if driver == "parts":
        if (dtype, nodata) not in (("int64", -(2**63)), ("uint64", 2**64 - 1)):
            return
        job["output"]["layout"], job["compute"] = "parts", {"scheduler": "processes"}
    elif driver != "Zarr":
        job["output"]["driver"] = driver
    job = tileconv.load_job(job)
    report = tileconv.run(job)
    assert report.missing == 2
    assert verify(job).passed
    if driver == "Zarr":
        stored = zarr_store.read_store(job.target, (0, 20), (0, 30))
        assert (stored == nodata).sum() == 2
        return
    assert masked(job.target).sum() == 2
    for path in [job.target] if driver != "parts" else tmp_path.rglob("parts-*/**/*.tif"):
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].tags[42113].value.strip("\0") == str(nodata)
    if driver == "parts":
        assert f"<NoDataValue>{nodata}</NoDataValue>" in job.target.read_text()
    # and read as an input it is the same
    convolve(job.target, tmp_path / "again.tif")
    assert np.isnan(read(tmp_path / "again.tif")).sum() == 2


def test_verify_sees_another_nodata(make_raster, tmp_path):
    source = make_raster(np.ones((1, 20, 30), "int16"), nodata=0)
    job = tileconv.load_job(
        {
            "input": {"path": str(source)},
            "kernel": {"weights": [[1]]},
            "output": {"path": str(tmp_path / "o.tif"), "dtype": "int64", "nodata": 2**53 + 1},
        }
    )
    tileconv.run(job)
    assert verify(job).passed
    overwrite.overwrite_nodata(job.target, np.int64(2**53))
    assert (
        "its nodata is 9007199254740992, and the job gives 9007199254740993"
        in (verify(job).faults[0])
    )


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_valid_outputs_that_equal_nodata_are_counted(make_raster, tmp_path, dtype, scheduler):
    pixels = np.full((1, 12, 12), 500, "int16")
    pixels[0, 6, 6], pixels[0, 0, 0] = 900, -9999
    source = make_raster(pixels, nodata=-9999)
    options = {"dtype": dtype, "nodata": 0, "scheduler": scheduler}
    report = convolve(source, tmp_path / "out.tif", LAPLACE, **options)
    assert (report.collisions, report.missing) == (95, 0)
    assert masked(tmp_path / "out.tif").sum() == 95
    assert "nodata is 0, and so is the kernel's sum" in report.warnings[0]
    assert report.warnings[1].startswith("95 valid outputs equal nodata (0) and will read as")
    report = convolve(source, tmp_path / "out.tif", np.ones((3, 3)), **options | {"nodata": -1})
    assert (report.collisions, report.missing, report.warnings) == (0, 1, ())


def test_valid_fractions_that_equal_nodata_are_counted(make_raster, tmp_path):
    pixels = np.ones((1, 4, 8), "float32")
    pixels[0, :, :3] = np.nan
    source = make_raster(pixels)
    options = {"valid_fraction": True, "missing": "skip"}
    report = convolve(source, tmp_path / "out.tif", nodata=0, **options)
    assert (report.collisions, report.missing) == (12, 12)
    assert report.warnings[0] == "a valid fraction of 0 equals nodata, and will read as missing"
    assert convolve(source, tmp_path / "out.tif", nodata=-1, **options).warnings == ()


HALF = {
    "-9999": 512,  # -10000 as float16, which is what the pixels hold
    "-65504": 64,
    "-1e5": 0,
    "-1.7976931348623157e+308": 0,
    "0.1": 128,
    "nan": 192,
}


@pytest.mark.parametrize(("nodata", "missing"), HALF.items())
def test_nodata_of_halves_is_compared_as_half(tmp_path, nodata, missing):
    pixels = np.full((64, 64), 100, "float16")
    pixels[:8], pixels[8], pixels[9:11], pixels[11:14] = -9999, -65504, 0.1, np.nan
    path = tmp_path / "in.tif"
    tag = (42113, 2, 0, nodata, True)
    tifffile.imwrite(path, pixels, tile=(64, 64), extratags=[tag], metadata=None)
    convolve(path, tmp_path / "out.tif")
    out = read(tmp_path / "out.tif")[0]
    assert np.isnan(out).sum() == (missing + 192 if nodata != "nan" else 192)
    np.testing.assert_array_equal(out[14:], 100)


@pytest.mark.parametrize("nodata", ["-3.40282e+38", "-3.4028235e+38", "-3.402823e+38"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nodata_with_few_digits_is_the_least_number_all_the_same(tmp_path, nodata, dtype):
    least = float(np.finfo(dtype).min)
    if dtype == "float64":
        nodata = {"-3.40282e+38": "-1.79769e+308"}.get(nodata, "-1.7976931348623157e+308")
    pixels = np.full((64, 64), 100, dtype)
    pixels[3, :7] = least
    path = tmp_path / "in.tif"
    tag = (42113, 2, 0, nodata, True)
    tifffile.imwrite(path, pixels, tile=(64, 64), extratags=[tag], metadata=None)
    assert masked(path).sum() == 7
    job = {"input": {"path": str(path)}, "kernel": {"weights": [[1]]}}
    job = tileconv.load_job({**job, "output": {"path": str(tmp_path / "out.tif")}})
    tileconv.run(job)
    assert np.isnan(read(job.target)).sum() == 7
    assert verify(job).passed


# ---- Masks


@pytest.fixture
def darkened(make_raster):
    """A raster with a mask and nodata: a dark pixel is valid for GDAL, and the left is hidden."""
    pixels = np.full((1, 40, 40), 90, "uint8")
    pixels[0, 20, 20] = 0
    mask = np.full((40, 40), True)
    mask[:, :4] = False
    return make_raster(pixels, nodata=0, mask=mask)


@pytest.mark.parametrize(
    ("mask", "missing"), [("auto", 161), ("dataset", 160), ("nodata", 1), ("none", 0)]
)
def test_who_says_what_is_missing(darkened, tmp_path, mask, missing):
    report = convolve(darkened, tmp_path / "out.tif", mask=mask)
    assert np.isnan(read(tmp_path / "out.tif")).sum() == missing
    if mask == "dataset":
        assert masked(darkened).sum() == missing
    told = "the mask and nodata 0 hide pixels, each by itself; GDAL goes by the mask alone"
    assert [note.partition(", and")[0] for note in report.warnings] == [told] * (mask == "auto")
    job = {"input": {"path": str(darkened), "mask": mask}, "kernel": {"weights": [[1]]}}
    assert verify(tileconv.load_job({**job, "output": {"path": str(tmp_path / "out.tif")}})).passed


def test_alpha_and_nodata(make_raster, tmp_path):
    pixels = np.full((2, 9, 9), 90, "uint8")
    pixels[0, 2, 2], pixels[1, 5] = 0, 0
    source = make_raster(pixels, nodata=0)
    with rasterio.open(source, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        assert dataset.mask_flag_enums[0] == [MaskFlags.nodata]
    counts = {"auto": 10, "dataset": 1, "nodata": 1, "none": 0}
    for mask, missing in counts.items():
        report = convolve(source, tmp_path / "out.tif", mask=mask)
        assert read(tmp_path / "out.tif").shape[0] == 1  # alpha is no data, whatever hides pixels
        assert np.isnan(read(tmp_path / "out.tif")).sum() == missing
        told = "the alpha band and nodata 0 hide pixels, each by itself; GDAL goes by nodata alone"
        assert (told in str(report.warnings)) == (mask == "auto")


def test_a_mask_of_an_unknown_kind_is_refused(darkened, tmp_path):
    with pytest.raises(ConfigError, match="must be auto, nodata, dataset or none; got 'gdal'"):
        convolve(darkened, tmp_path / "out.tif", mask="gdal")


# ---- Palettes


def greys(tmp_path, kind):
    """Write pixels that are no codes, and return them as they are stored."""
    grey = np.arange(4096, dtype="uint8").reshape(64, 64)
    path = tmp_path / "in.tif"
    if kind == "min is white":
        tifffile.imwrite(path, grey, photometric="miniswhite")
    elif kind == "min is white, 16 bits":
        grey = grey.astype("uint16") * 100
        tifffile.imwrite(path, grey, photometric="miniswhite")
    elif kind == "bilevel":
        grey = grey > 100
        tifffile.imwrite(path, grey)
    elif kind == "a grey palette":
        ramp = np.repeat(np.arange(256, dtype="uint16")[None] * 257, 3, axis=0)
        tifffile.imwrite(path, grey, photometric="palette", colormap=ramp)
    else:
        bits, white = {"1 bit": (1, False), "4 bits": (4, False), "4 bits, white": (4, True)}[kind]
        grey = grey % (1 << bits)
        about = {"photometric": "miniswhite"} if white else {}
        shape = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8"}
        with rasterio.open(path, "w", nbits=bits, **shape, **about) as out:
            out.write(grey[None])
    return path, grey


@pytest.mark.parametrize(
    "kind",
    [
        "min is white",
        "min is white, 16 bits",
        "bilevel",
        "a grey palette",
        "1 bit",
        "4 bits",
        "4 bits, white",
    ],
)
def test_greys_are_no_palette(tmp_path, kind):
    path, grey = greys(tmp_path, kind)
    report = convolve(path, tmp_path / "out.tif")
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], read(path)[0])
    if kind != "bilevel":  # GDAL turns those of TIFF files where 0 is white
        np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], grey)
    assert not any("palette" in note for note in report.warnings)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.colorinterp == (ColorInterp.gray,)


@pytest.mark.parametrize(
    "colours", [{0: (255, 0, 0), 1: (0, 255, 0)}, {0: (0, 0, 0), 1: (9, 9, 9)}]
)
def test_colours_are(make_raster, tmp_path, colours):
    source = make_raster(np.ones((1, 20, 20), "uint8"))
    with rasterio.open(source, "r+") as dataset:
        dataset.write_colormap(1, colours)
    with pytest.raises(InputError, match="colour palette"):
        convolve(source, tmp_path / "out.tif")
    report = convolve(source, tmp_path / "out.tif", palette=True, bands=[1])
    assert "the colour palette is dropped" in report.warnings[0]


# ---- Names and formats


@pytest.mark.parametrize(
    ("name", "kind"),
    [("o.nc", "a NetCDF"), ("o.PNG", "a PNG"), ("o.jp2", "a JPEG 2000"), ("o.h5", "an HDF5 file")],
)
def test_a_name_of_another_format_is_refused(tagged, tmp_path, name, kind):
    with pytest.raises(ConfigError, match=rf"path: '{name}' is the name of {kind}; outputs are"):
        convolve(tagged, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


def test_the_name_of_a_store_makes_one(tagged, tmp_path):
    convolve(tagged, tmp_path / "o.zarr")
    assert (tmp_path / "o.zarr" / "zarr.json").exists()
    for driver, name in (("GTiff", "o.zarr"), ("COG", "o.zarr"), ("Zarr", "o.tif")):
        with pytest.raises(ConfigError, match=rf"'{name}' is the name of a .*driver is {driver}"):
            convolve(tagged, tmp_path / name, driver=driver)
    for driver, name in (("GTiff", "o"), ("GTiff", "v1.2"), ("Zarr", "o.store"), ("COG", "o.TIFF")):
        convolve(tagged, tmp_path / name, driver=driver)


FORMATS = {
    "a NetCDF": b"CDF\x01\0\0\0\0",
    "an HDF5 file, as NetCDF-4 is": b"\x89HDF\r\n\x1a\n" + b"\0" * 30,
    "a JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "a PNG": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize(("kind", "start"), FORMATS.items())
def test_an_input_of_another_format_is_told_what_it_is(tmp_path, kind, start):
    (tmp_path / "in.tif").write_bytes(start)
    with pytest.raises(InputError, match=f"in.tif: is {kind}; inputs are GeoTIFFs and VRTs"):
        convolve(tmp_path / "in.tif", tmp_path / "o.tif")


def test_a_store_as_input_is_told(tagged, tmp_path):
    convolve(tagged, tmp_path / "o.zarr")
    with pytest.raises(InputError, match=r"o\.zarr: a Zarr store; inputs are GeoTIFFs"):
        convolve(tmp_path / "o.zarr", tmp_path / "o.tif")


# ---- Zarr


@pytest.mark.skipif(GDAL < (3, 11), reason="GDAL reads no array of zarr-python 3")
@pytest.mark.parametrize("compress", ["zstd", "deflate", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "int64"])
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_gdal_opens_a_store(tagged, tmp_path, compress, dtype, scheduler):
    if scheduler == "processes" and (dtype, compress) != ("float32", "zstd"):
        return
    options = {"compress": compress, "dtype": dtype, "nodata": np.nan if dtype[0] == "f" else 9}
    for name in ("o.tif", "o.zarr"):
        convolve(tagged, tmp_path / name, "box", scheduler=scheduler, **options)
    with (
        rasterio.open(tmp_path / "o.tif") as tif,
        rasterio.open(f'ZARR:"{tmp_path}/o.zarr":/band_data') as store,
    ):
        assert store.read().tobytes() == tif.read().tobytes()
        assert store.transform == tif.transform
        assert store.crs == tif.crs
        assert store.dtypes == tif.dtypes
        assert str(store.nodata) == str(tif.nodata)


def test_a_store_holds_checksums_where_the_job_says_so(tagged, tmp_path):
    import zarr

    for checksum in (False, True):
        convolve(tagged, tmp_path / "o.zarr", checksum=checksum)
        codecs = zarr.open_group(tmp_path / "o.zarr", mode="r")["band_data"].metadata.codecs
        assert ("Crc32cCodec" in {type(codec).__name__ for codec in codecs}) == checksum
    with pytest.raises(ConfigError, match="checksum: goes with driver Zarr; the driver is GTiff"):
        convolve(tagged, tmp_path / "o.tif", checksum=True)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("compress", ["zstd", "deflate", "none"])
@pytest.mark.parametrize("how", ["cut", "gone", "flipped"])
def test_chunks_that_are_not_what_was_written_are_found(
    tagged, tmp_path, monkeypatch, checksum, compress, how
):
    """While the store is written, whatever it holds; and afterwards by verify."""
    real = zarr_store._check_chunks

    def spoil(store):
        chunk = max(store.rglob("c/*/*/*"))
        if how == "gone":
            chunk.unlink()
        elif how == "cut":
            chunk.write_bytes(chunk.read_bytes()[:-9])
        else:
            content = bytearray(chunk.read_bytes())
            content[len(content) // 8] ^= 16
            chunk.write_bytes(content)

    def checked(store, spec, checksums):
        if checksums is not None:
            spoil(store)
        real(store, spec, checksums)

    options = {"checksum": checksum, "compress": compress}
    monkeypatch.setattr(zarr_store, "_check_chunks", checked)
    with pytest.raises(OutputError, match="chunk"):
        convolve(tagged, tmp_path / "o.zarr", **options)
    monkeypatch.setattr(zarr_store, "_check_chunks", real)
    assert not (tmp_path / "o.zarr").exists()
    convolve(tagged, tmp_path / "o.zarr", **options)
    job = {"input": {"path": str(tagged)}, "kernel": {"weights": [[1]]}}
    output = {"path": str(tmp_path / "o.zarr"), "compress": compress, "checksum": checksum}
    job = tileconv.load_job({**job, "output": output})
    assert verify(job).passed
    spoil(tmp_path / "o.zarr")
    found = verify(job, windows=200)
    told = r"chunk .*(not there|unpacked)"
    if how == "flipped" and not checksum and compress != "deflate":
        told += "|not what the job gives"  # zstd in blosc has no checksum of its own
    assert re.search(told, found.faults[0]), found.faults
