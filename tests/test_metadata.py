"""What the output's file says: positions by the rule of the transform, and nothing untrue."""

import json
import math
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import SHARED, read
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer
from test_files import apply, job_for

import tileconv
from tileconv.jobs.job import Job
from tileconv.jobs.output_metadata import DECIDING, config_hash

PIXELS = np.arange(3 * 40 * 50).reshape(3, 40, 50).astype("float32")
KERNEL = np.arange(1.0, 21).reshape(4, 5)
STRIDE, PADS, DILATION = (3, 7), (1, 2, 1, 2), 2
SPAN = (DILATION * 3 + 1, DILATION * 4 + 1)
KEYS = {"kernel.weights": KERNEL, "stride": [3, 7], "padding": [1, 2], "dilation": 2}

TRANSFORMS = {
    "north-up": rasterio.Affine(30, 0, 700000, 0, -30, -2800000),
    "south-up": rasterio.Affine(30, 0, 700000, 0, 30, -2800000),
    "rotated": rasterio.Affine(2.0, 0.5, 100.0, -0.25, -3.0, 900.0),
    "degrees": rasterio.Affine(1 / 3600, 0, -68.00013889, 0, -1 / 3600, 7.00013889),
}


def unplaced(make_raster):
    """Write a raster without transform and coordinate system."""
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        return make_raster(PIXELS, crs=None, transform=None)


@contextmanager
def updated(path):
    """Open a raster that has no place yet."""
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path, "r+") as dataset,
    ):
        yield dataset


def field_centre(row, column):
    """Return (x, y) in input pixels, from the first pixel's corner, of an output's field."""
    first = row * STRIDE[0] - PADS[0], column * STRIDE[1] - PADS[1]
    return first[1] + SPAN[1] / 2, first[0] + SPAN[0] / 2


@pytest.mark.parametrize("kind", ["Area", "Point"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_centres_lie_on_the_centres_of_fields(make_raster, tmp_path, name, kind):
    source = make_raster(PIXELS, transform=TRANSFORMS[name])
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(AREA_OR_POINT=kind)
    tileconv.run(job_for(source, tmp_path / "out.tif", **KEYS))
    with rasterio.open(tmp_path / "out.tif") as made:
        transform = made.transform
        assert made.tags()["AREA_OR_POINT"] == kind
    for row, column in ((0, 0), (2, 3), (11, 6)):
        centre = apply(transform, column + 0.5, row + 0.5)
        expected = apply(TRANSFORMS[name], *field_centre(row, column))
        np.testing.assert_allclose(centre, expected, rtol=1e-12)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        tags = tiff.pages[0].tags
        if "ModelTiepointTag" in tags:  # what a reader that knows no GDAL sees
            row, column = (0.5, 0.5) if kind == "Point" else (0, 0)
            place = tags["ModelTiepointTag"].value
            assert place[:3] == (0, 0, 0)
            np.testing.assert_allclose(place[3:5], apply(transform, column, row), rtol=1e-12)
        else:
            assert name in ("rotated", "south-up")
            assert "ModelTransformationTag" in tags


CRS_OF = {
    "UTM": "EPSG:32621",
    "degrees": "EPSG:4326",
    "with heights": "EPSG:32631+5773",
    "custom": "+proj=laea +lat_0=12.5 +lon_0=34.25 +x_0=1000 +ellps=GRS80 +units=m",
    "of a sphere": "+proj=moll +lon_0=10 +R=3396190",
    "geostationary": "+proj=geos +h=35785831 +lon_0=0 +sweep=y",
    "feet": "EPSG:2263",
    "local": 'LOCAL_CS["site",UNIT["metre",1]]',
}


@pytest.mark.parametrize("name", CRS_OF)
def test_coordinate_systems_are_kept(make_raster, tmp_path, name):
    crs = CRS.from_user_input(CRS_OF[name])
    source = make_raster(PIXELS, crs=crs)
    report = tileconv.run(job_for(source, tmp_path / "out.tif"))
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.crs == crs
    assert report.warnings == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out.tif"]


def test_a_coordinate_system_that_geotiff_has_no_keys_for(make_raster, tmp_path):
    rotated_pole = CRS.from_proj4(
        "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 "
        "+to_meter=0.0174532925199433 +R=6371229"
    )
    source = make_raster(PIXELS, crs=rotated_pole)  # its text lies in in.tif.aux.xml
    job = job_for(source, tmp_path / "out.tif")
    notes = tileconv.plan(job).notes
    report = tileconv.run(job)
    assert report.warnings == notes
    assert notes[0] == "in.tif.aux.xml is read beside the raster"
    assert "cannot hold this coordinate system" in notes[1]
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.crs is None
        assert made.transform == rasterio.Affine(30, 0, 700000, 0, -30, -2800000)
        assert CRS.from_wkt(made.tags(ns="TILECONV")["CRS"]) == rotated_pole
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["in.tif", "in.tif.aux.xml", "out.tif"]


def test_a_world_file_is_told(make_raster, tmp_path):
    source = unplaced(make_raster)
    (tmp_path / "in.tfw").write_text("2\n0\n0\n-3\n101\n498.5\n")  # centre of the first pixel
    report = tileconv.run(job_for(source, tmp_path / "out.tif", stride=2))
    assert report.warnings == ("in.tfw is read beside the raster",)
    with rasterio.open(tmp_path / "out.tif") as made:
        # Outputs are centred on every second pixel's centre.
        assert made.transform == rasterio.Affine(4, 0, 99, 0, -6, 501.5)


# ---- Ground control points and RPCs


def test_ground_control_points_keep_their_places(make_raster, tmp_path, rng):
    points = [
        GroundControlPoint(row=row, col=column, x=10 + column / 7, y=50 - row / 3, z=float(i))
        for i, (row, column) in enumerate(rng.uniform(0, 40, (12, 2)).tolist())
    ]
    # One at the centre of the field of output (2, 3): it must lie at that output's centre.
    x, y = field_centre(2, 3)
    points.append(GroundControlPoint(row=y, col=x, x=1.0, y=2.0, z=3.0))
    source = unplaced(make_raster)
    with updated(source) as dataset:
        dataset.gcps = (points, CRS.from_epsg(4326))
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **KEYS))
    assert report.warnings == ()
    with rasterio.open(tmp_path / "out.tif") as made:
        moved, crs = made.gcps
        assert made.crs is None
        assert made.transform == rasterio.Affine.identity()
    assert crs == CRS.from_epsg(4326)
    assert len(moved) == len(points)
    for given, now in zip(points, moved, strict=True):
        assert (now.x, now.y, now.z) == pytest.approx((given.x, given.y, given.z), rel=1e-12)
        # Output pixels, counted in fields from the corner of the first one's share.
        assert now.row * 3 - 1 + (SPAN[0] - 3) / 2 == pytest.approx(given.row, abs=1e-9)
        assert now.col * 7 - 2 + (SPAN[1] - 7) / 2 == pytest.approx(given.col, abs=1e-9)
    assert (moved[-1].row, moved[-1].col) == pytest.approx((2.5, 3.5), abs=1e-9)


def test_ground_control_points_without_a_coordinate_system(make_raster, tmp_path):
    points = [GroundControlPoint(row=i, col=i * i, x=i + 5, y=i * i) for i in range(4)]
    source = unplaced(make_raster)
    with updated(source) as dataset:
        dataset.gcps = (points, CRS())
    assert tileconv.run(job_for(source, tmp_path / "out.tif")).warnings == ()
    with rasterio.open(tmp_path / "out.tif") as made:
        moved, crs = made.gcps
        assert crs is None
        assert [(p.row, p.col) for p in moved] == [(i, i * i) for i in range(4)]


def test_ground_control_points_of_a_raster_of_points(make_raster, tmp_path):
    points = [
        GroundControlPoint(row=row, col=column, x=float(column), y=float(row))
        for row, column in ((1, 2), (9, 4), (7, 30))
    ]
    source = unplaced(make_raster)
    with updated(source) as dataset:
        dataset.gcps = (points, CRS.from_epsg(4326))
        dataset.update_tags(AREA_OR_POINT="Point")
    with rasterio.open(source) as dataset:
        given = [(p.row, p.col) for p in dataset.gcps[0]]  # GDAL has moved them
    report = tileconv.run(job_for(source, tmp_path / "out.tif", stride=2))
    assert "AREA_OR_POINT is Area in the output" in report.warnings[0]
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags()["AREA_OR_POINT"] == "Area"
        for (row, column), now in zip(given, made.gcps[0], strict=True):
            # stride 2, kernel 1: the pixel's middle, a half, is the output's middle too
            assert now.row == pytest.approx((row + 0.5) / 2)
            assert now.col == pytest.approx((column + 0.5) / 2)


def rational(rng):
    coefficients = [1.0, *rng.normal(0, 1e-4, 19).tolist()]
    main_line, main_sample = [0.0] * 20, [0.0] * 20
    main_line[2], main_sample[1] = -1.0, 1.0
    return RPC(
        height_off=500.0,
        height_scale=600.0,
        lat_off=40.0,
        lat_scale=0.01,
        long_off=46.0,
        long_scale=0.02,
        line_off=19.25,
        line_scale=21.0,
        samp_off=24.75,
        samp_scale=26.0,
        line_num_coeff=(np.array(main_line) + rng.normal(0, 1e-3, 20)).tolist(),
        line_den_coeff=coefficients,
        samp_num_coeff=(np.array(main_sample) + rng.normal(0, 1e-3, 20)).tolist(),
        samp_den_coeff=coefficients,
        err_bias=1.5,
        err_rand=0.5,
    )


def test_rpcs_find_the_same_ground(make_raster, tmp_path, rng):
    """GDAL's own transformer: a place on the ground is found in both, by the rule for places."""
    rpcs = rational(rng)
    source = unplaced(make_raster)
    with updated(source) as dataset:
        dataset.rpcs = rpcs
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **KEYS))
    assert report.warnings == ()
    with rasterio.open(tmp_path / "out.tif") as made:
        moved = made.rpcs
    assert (moved.err_bias, moved.err_rand) == (1.5, 0.5)
    assert moved.line_num_coeff == pytest.approx(rpcs.line_num_coeff, rel=1e-12)
    longitudes, latitudes = rng.uniform(45.985, 46.015, 20), rng.uniform(39.992, 40.008, 20)
    heights = rng.uniform(0, 1000, 20)
    where = {"zs": heights, "op": lambda place: place}
    with RPCTransformer(rpcs) as before, RPCTransformer(moved) as after:
        rows, columns = before.rowcol(longitudes, latitudes, **where)
        now_rows, now_columns = after.rowcol(longitudes, latitudes, **where)
    np.testing.assert_allclose(
        np.multiply(now_rows, 3) - 1 + (SPAN[0] - 3) / 2, rows, rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        np.multiply(now_columns, 7) - 2 + (SPAN[1] - 7) / 2, columns, rtol=0, atol=1e-6
    )


def test_control_points_beside_a_transform_are_dropped(make_raster, tmp_path):
    source = make_raster(PIXELS)
    source.with_name("in.tif.aux.xml").write_text(
        '<PAMDataset><GCPList Projection="EPSG:4326">'
        '<GCP Id="1" Pixel="1" Line="2" X="3" Y="4"/></GCPList></PAMDataset>'
    )
    with rasterio.open(source) as dataset:
        assert len(dataset.gcps[0]) == 1
        given = dataset.transform
    report = tileconv.run(job_for(source, tmp_path / "out.tif"))
    assert "1 ground control points are dropped" in report.warnings[1]
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.gcps == ([], None)
        assert made.transform == given


# ---- Bands and tags


@pytest.fixture
def described(make_raster):
    """A raster with everything that a file can say of its bands."""
    source = make_raster(PIXELS.astype("uint16"), photometric="RGB", nodata=7)
    with rasterio.open(source, "r+") as dataset:
        dataset.descriptions = ("red", "green", None)
        dataset.units = ("W", "W", "K")
        dataset.update_tags(1, wavelength="665", STATISTICS_MEAN="3", scale_factor="2")
        dataset.update_tags(
            mission="seven",
            STATISTICS_MAXIMUM="9",
            _FillValue="7",
            OVR_RESAMPLING_ALG="NEAREST",
            TIFFTAG_SOFTWARE="somebody's",
            TIFFTAG_DATETIME="2018:07:16 06:06:23",
            TIFFTAG_XRESOLUTION="300",
            TIFFTAG_YRESOLUTION="150",
            TIFFTAG_RESOLUTIONUNIT="2",
        )
        dataset.update_tags(ns="FLIGHT", pilot="Ada")
        dataset.update_tags(ns="TILECONV", STRIDE="9 9", LEFT_OVER="yes")
    return source


def test_what_is_said_of_bands_and_dataset(described, tmp_path):
    job = job_for(described, tmp_path / "out.tif", stride=[3, 6])
    report = tileconv.run(job)
    assert report.warnings == tileconv.plan(job).notes[:-1] == ()  # the last: the output exists
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.descriptions == ("red", "green", None)
        assert made.units == ("W", "W", "K")
        assert made.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert [made.tags(band) for band in made.indexes] == [{"wavelength": "665"}, {}, {}]
        assert made.tags() == {
            "mission": "seven",
            "AREA_OR_POINT": "Area",
            "TIFFTAG_SOFTWARE": f"tileconv {tileconv.__version__}",
            "TIFFTAG_DATETIME": "2018:07:16 06:06:23",
            "TIFFTAG_XRESOLUTION": "50",
            "TIFFTAG_YRESOLUTION": "50",
            "TIFFTAG_RESOLUTIONUNIT": "2 (pixels/inch)",
        }
        assert made.tags(ns="FLIGHT") == {"pilot": "Ada"}
        assert made.tags(ns="TILECONV")["STRIDE"] == "3 6"
        assert "LEFT_OVER" not in made.tags(ns="TILECONV")
        assert all(math.isnan(value) for value in made.nodatavals)


def test_of_chosen_bands(described, tmp_path):
    tileconv.run(job_for(described, tmp_path / "out.tif", **{"input.bands": [3, 1]}))
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.descriptions == (None, "red")
        assert made.units == ("K", "W")
        assert made.colorinterp == (ColorInterp.blue, ColorInterp.red)
        assert [made.tags(band) for band in made.indexes] == [{}, {"wavelength": "665"}]


def test_of_a_bank_with_a_valid_fraction(described, tmp_path):
    keys = {"kernel.weights": np.ones((2, 3, 3)), "output.valid_fraction": True}
    report = tileconv.run(job_for(described, tmp_path / "out.tif", **keys))
    assert report.warnings == ()
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.descriptions[:4] == (
            "kernel 1:red",
            "kernel 2:red",
            "kernel 1:green",
            "kernel 2:green",
        )
        assert made.descriptions[4:] == ("kernel 1:band 3", "kernel 2:band 3", "valid fraction")
        assert made.units == ("W", "W", "W", "W", "K", "K", None)
        assert {*made.colorinterp} == {ColorInterp.gray, ColorInterp.undefined}
        assert made.tags(2) == {"wavelength": "665"}
        assert made.tags(7) == {}


def test_of_sums_over_bands(described, tmp_path):
    weights = np.zeros((2, 3, 1, 1))
    weights[0, :2], weights[1] = 1, 1
    report = tileconv.run(job_for(described, tmp_path / "out.tif", **{"kernel.weights": weights}))
    assert report.warnings == (
        "units are dropped where bands of different units are summed",
        "tags of bands are dropped where bands are summed",
    )
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.descriptions == ("output 1", "output 2")
        assert made.units == ("W", None)
        assert made.tags(1) == {}


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_no_band_of_bytes_becomes_a_colour_or_a_mask(make_raster, tmp_path, count):
    """GDAL takes three bands of bytes for colours and the fourth for alpha, unless told."""
    array = np.arange(count * 400).reshape(count, 20, 20).astype("uint8")
    keys = {"output.dtype": "uint8", "stride": 2}
    tileconv.run(job_for(make_raster(array), tmp_path / "out.tif", **keys))
    with rasterio.open(tmp_path / "out.tif") as made:
        assert {*made.colorinterp} == {ColorInterp.gray, ColorInterp.undefined}
        assert all(flags == [MaskFlags.all_valid] for flags in made.mask_flag_enums)
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), array[:, ::2, ::2])


def test_texts_in_another_encoding_are_dropped_with_a_warning(make_raster, tmp_path):
    items = (
        '<Item name="place">Z\xfcrich</Item>'
        '<Item name="DESCRIPTION" sample="0" role="description">gr\xfcn</Item>'
        '<Item name="UNITTYPE" sample="0" role="unittype">\xb5m</Item>'
    )
    source = make_raster(PIXELS)
    tag = f"<GDALMetadata>{items}</GDALMetadata>".encode("latin-1")
    tifffile.imwrite(source, PIXELS[0], extratags=[(42112, "s", 0, tag, True)], metadata=None)
    report = tileconv.run(job_for(source, tmp_path / "out.tif"))
    texts = "descriptions and units and tags are no text in UTF-8, and are dropped"
    assert report.warnings == (texts,)
    np.testing.assert_array_equal(read(tmp_path / "out.tif")[0], PIXELS[0])


def test_tags_that_rasterio_cannot_write_are_dropped_with_a_warning(make_raster, tmp_path):
    source = make_raster(PIXELS)
    tag = b'<GDALMetadata><Item name="ns">x</Item><Item name="kept">y</Item></GDALMetadata>'
    tifffile.imwrite(source, PIXELS[0], extratags=[(42112, "s", 0, tag, True)], metadata=None)
    report = tileconv.run(job_for(source, tmp_path / "out.tif"))
    assert report.warnings == ("tags named ns are dropped",)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        made = rasterio.open(tmp_path / "out.tif")
    with made:
        assert made.tags()["kept"] == "y"
        assert made.tag_namespaces() == ["IMAGE_STRUCTURE", "TILECONV", "DERIVED_SUBDATASETS"]


def test_tags_of_bands_in_other_domains_are_dropped_with_a_warning(make_raster, tmp_path):
    source = make_raster(PIXELS)
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(2, ns="SENSOR", gain="3")
    report = tileconv.run(job_for(source, tmp_path / "out.tif"))
    assert report.warnings == ("tags of bands in the domain SENSOR are dropped",)
    report = tileconv.run(job_for(source, tmp_path / "out.tif", **{"input.bands": [1]}))
    assert report.warnings == ()


def test_xmp_is_dropped_with_a_warning(make_raster, tmp_path):
    source = make_raster(PIXELS)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    tifffile.imwrite(source, PIXELS[0], extratags=[(700, "B", len(xmp), xmp, True)])
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(source) as dataset:
        assert "xml:XMP" in dataset.tag_namespaces()
    report = tileconv.run(job_for(source, tmp_path / "out.tif"))
    assert report.warnings == ("tags of the domain xml:XMP are dropped",)


# ---- tileconv's own tags


def test_own_tags_say_how_it_was_made(described, tmp_path):
    keys = {"kernel": {"name": "gaussian", "size": 5, "sigma": 1.5}, "stride": [8, 9]}
    keys |= {"padding": [1, 2], "padding_mode": "edge", "missing": "renormalize"}
    keys |= {"input.bands": [2, 1]}
    job = job_for(described, tmp_path / "out.tif", **keys)
    tileconv.run(job)
    with rasterio.open(tmp_path / "out.tif") as made:
        own = made.tags(ns="TILECONV")
    plan = tileconv.plan(job)
    assert own == {
        "VERSION": tileconv.__version__,
        "CONFIG_SHA256": config_hash(job, job.operator),
        "KERNEL": "gaussian(size=5, sigma=1.5)",
        "KERNEL_SHAPE": "5 5",
        "STRIDE": "8 9",
        "DILATION": "1 1",
        "PADDING": "1 2 1 2",
        "PADDING_MODE": "edge",
        "MISSING": "renormalize",
        "COVERAGE": f"{plan.coverage['total']:.9g}",
        "UNCOVERED": "{} {}".format(*plan.to_dict()["uncovered"]),
        "BANDS": "2 1",
    }


def test_kernels_in_tags(described, tmp_path):
    for weights, said in (
        ([[1.0, 0.5]], "[[1.0, 0.5]]"),
        (np.ones((10, 10)), "sha256 "),
    ):
        tileconv.run(job_for(described, tmp_path / "out.tif", **{"kernel.weights": weights}))
        with rasterio.open(tmp_path / "out.tif") as made:
            assert made.tags(ns="TILECONV")["KERNEL"].startswith(said)


def test_the_hash_is_of_what_is_said_not_of_how(tmp_path):
    def hash_of(**keys):
        job = job_for("a.tif", keys.pop("target", tmp_path / "b.tif"), **keys)
        return config_hash(job, job.operator)

    plain = hash_of(stride=4)
    assert len(plain) == 64
    assert plain == hash_of(stride=[4, 4])
    assert plain == hash_of(
        stride=4, target=tmp_path / "c.tif", **{"compute.workers": 7, "output.compress": "none"}
    )
    others = [
        {"stride": 5},
        {"stride": 4, "kernel.weights": [[2.0]]},
        {"stride": 4, "kernel.weights": [[[1.0]]]},
        {"stride": 4, "padding": "same"},
        {"stride": 4, "missing": "skip"},
        {"stride": 4, "bias": [1.0], "kernel.weights": [[[[1.0]]]]},
        {"stride": 4, "input.bands": [1]},
        {"stride": 4, "input.mask": "none"},
        {"stride": 4, "input.scaled": True},
        {"stride": 4, "input.palette": True},
        {"stride": 4, "output.dtype": "float64"},
        {"stride": 4, "output.nodata": -1},
        {"stride": 4, "output.valid_fraction": True},
    ]
    assert len({plain, *(hash_of(**keys) for keys in others)}) == len(others) + 1


def test_every_field_of_a_job_decides_on_values_or_does_not():
    """A new key must be put on one side: two jobs with one hash have one output."""
    not_deciding = {"name", "source", "target", "named", "quicklook", "overwrite"}
    not_deciding |= {
        "driver",
        "overviews",
        "compress",
        "predictor",
        "level",
        "block",
        "report",
        "layout",
        "checksum",
    }
    not_deciding |= {"scheduler", "cluster", "security", "part", "threads", "workers"}
    not_deciding |= {"memory_limit", "memory_given", "tile"}
    not_deciding |= {"files"}
    not_deciding |= {"scenes", "root"}  # which pixels are read, not what is done with them
    in_the_operator = {"operator", "options"}
    known = {*DECIDING} | not_deciding | in_the_operator
    assert known == {field.name for field in fields(Job)}


# ---- Other readers


def test_rio_info_sees_a_sane_raster(described, tmp_path):
    tileconv.run(job_for(described, tmp_path / "out.tif", **{**KEYS, "output.dtype": "int32"}))

    def rio(*arguments):
        start = "from rasterio.rio.main import main_group; main_group()"
        command = [sys.executable, "-c", start, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        return json.loads(done.stdout)

    told = rio("info", "--verbose", str(tmp_path / "out.tif"))
    assert told["crs"] == "EPSG:32621"
    assert told["shape"] == [12, 7]
    assert told["dtype"] == "int32"
    assert told["nodata"] == 7
    assert told["count"] == 3
    assert told["tiled"]
    assert told["descriptions"] == ["red", "green", None]
    assert told["units"] == ["W", "W", "K"]
    assert told["colorinterp"] == ["red", "green", "blue"]
    assert told["mask_flags"] == [["nodata"]] * 3
    assert told["res"] == [210.0, 90.0]
    tags = rio("info", "--tags", "--namespace", "TILECONV", str(tmp_path / "out.tif"))
    assert tags["STRIDE"] == "3 7"


@pytest.mark.skipif(not (SHARED / "data" / "real").is_dir(), reason="shared data are not here")
def test_the_output_of_an_output(tmp_path):
    """Tags do not pile up, and places follow through two steps as through one."""
    source = SHARED / "data" / "real" / "s1_gcps_uint16.tif"
    keys = {"stride": 2, "kernel": {"name": "box"}}
    tileconv.run(job_for(source, tmp_path / "a.tif", **keys))
    tileconv.run(job_for(tmp_path / "a.tif", tmp_path / "b.tif", stride=3))
    with rasterio.open(source) as given, rasterio.open(tmp_path / "b.tif") as made:
        for before, after in zip(given.gcps[0], made.gcps[0], strict=True):
            # Outputs are 6 pixels apart; the first field's centre is that of pixel 1.
            assert after.row == pytest.approx((before.row - 1.5) / 6 + 0.5, abs=1e-9)
            assert after.col == pytest.approx((before.col - 1.5) / 6 + 0.5, abs=1e-9)
        assert made.tags(ns="TILECONV")["STRIDE"] == "3 3"
        assert made.tags()["TIFFTAG_IMAGEDESCRIPTION"] == "Sentinel-1A IW GRD HR L1"
