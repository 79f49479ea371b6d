"""VRT mosaics: what GDAL reads through them, from files that were looked at, and nothing else."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from conftest import read

import tileconv
from tileconv import InputError, OutputExistsError

KERNEL = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}


def source(name, band, place, block=(16, 16), kind="SimpleSource", size=None, extra=""):
    """Return a source as gdalbuildvrt writes it; ``place`` is (x, y, width, height)."""
    x, y, w, h = place
    sw, sh = size or (w, h)
    return f"""<{kind}><SourceFilename relativeToVRT="1">{name}</SourceFilename>
      <SourceBand>{band}</SourceBand>
      <SourceProperties RasterXSize="{sw}" RasterYSize="{sh}" DataType="UInt16"
        BlockXSize="{block[1]}" BlockYSize="{block[0]}" />
      <SrcRect xOff="0" yOff="0" xSize="{sw}" ySize="{sh}" />
      <DstRect xOff="{x}" yOff="{y}" xSize="{w}" ySize="{h}" />{extra}</{kind}>"""


def vrt(path, shape, bands, dtype="uint16", nodata=None, more=""):
    """Write a VRT; ``bands`` are lists of sources."""
    fill = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
    inner = "".join(
        f'<VRTRasterBand dataType="{TYPES[dtype]}" band="{i}">{fill}'
        f"{''.join(parts)}</VRTRasterBand>"
        for i, parts in enumerate(bands, 1)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}">'
        "<SRS>EPSG:32621</SRS>"
        "<GeoTransform>700000, 30, 0, -2800000, 0, -30</GeoTransform>"
        f"{inner}{more}</VRTDataset>"
    )
    return path


@pytest.fixture
def mosaic(make_raster, tmp_path, rng):
    """Return (a VRT of four tiles of 96 x 64 in two bands, its array)."""
    array = rng.integers(1, 999, (2, 192, 128)).astype("uint16")
    bands = [[], []]
    for i, (y, x) in enumerate([(0, 0), (0, 64), (96, 0), (96, 64)]):
        make_raster(array[:, y : y + 96, x : x + 64], f"{i}.tif", block=(32, 32), interleave="band")
        for band in (1, 2):
            bands[band - 1].append(source(f"{i}.tif", band, (x, y, 64, 96), (32, 32)))
    return vrt(tmp_path / "m.vrt", (192, 128), bands), array


def convolve(path, target, **options):
    return tileconv.convolve_raster(path, target, KERNEL, overwrite=True, **options)


def plan_of(path, **keys):
    job = {"input": {"path": str(path), **keys}, "kernel": {"weights": KERNEL}}
    return tileconv.plan(tileconv.load_job({**job, "output": {"path": "o.tif"}}))


@pytest.mark.parametrize("stride", [1, 3, 75])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_mosaic_gives_the_bits_of_its_array(stride, workers, mosaic, tmp_path):
    path, array = mosaic
    report = convolve(path, tmp_path / "o.tif", stride=stride, workers=workers, tile=16)
    expected = tileconv.convolve(array, KERNEL, stride=stride)
    assert read(tmp_path / "o.tif").tobytes() == expected.tobytes()
    fields = expected.shape[1:]
    rows, columns = (
        {p // 32 for o in range(n) for p in range(o * stride, o * stride + 3)} for n in fields
    )
    assert report.blocks_decoded == 2 * len(rows) * len(columns)  # those of the sources
    with rasterio.open(tmp_path / "o.tif") as made:
        assert made.crs == rasterio.crs.CRS.from_epsg(32621)


def test_sources_off_one_block_grid_count_blocks_of_the_vrt(make_raster, tmp_path, rng):
    array = rng.integers(1, 999, (1, 40, 90)).astype("uint16")
    make_raster(array[..., :37], "a.tif", block=(16, 16))
    make_raster(array[..., 37:], "b.tif", block=(32, 32))
    sources = [source("a.tif", 1, (0, 0, 37, 40)), source("b.tif", 1, (37, 0, 53, 40), (32, 32))]
    path = vrt(tmp_path / "m.vrt", (40, 90), [sources])
    assert plan_of(path).layout.block == (40, 90)  # GDAL's 128 x 128, cut to the raster
    convolve(path, tmp_path / "o.tif", stride=2)
    np.testing.assert_array_equal(
        read(tmp_path / "o.tif"), tileconv.convolve(array, KERNEL, stride=2)
    )


def gdal_reads(path):
    with rasterio.open(path, driver="VRT") as dataset:
        return dataset.read(), dataset.dataset_mask() != 0


def test_nodata_and_holes(make_raster, tmp_path, rng):
    array = rng.integers(0, 5, (1, 40, 40)).astype("uint16")
    make_raster(array, "a.tif", nodata=0)
    make_raster(array[:, ::-1], "b.tif", nodata=0)
    nodata = "<NODATA>0</NODATA>"
    sources = [
        source("a.tif", 1, (0, 0, 40, 40), kind="ComplexSource", extra=nodata),
        source("b.tif", 1, (30, 10, 40, 40), kind="ComplexSource", extra=nodata),
    ]
    path = vrt(tmp_path / "m.vrt", (50, 70), [sources], nodata=0)
    convolve(path, tmp_path / "o.tif")
    pixels, valid = gdal_reads(path)
    assert 0 < valid.sum() < valid.size
    expected = tileconv.convolve(pixels, KERNEL, nodata=0)
    assert read(tmp_path / "o.tif").tobytes() == expected.tobytes()


def test_stacks_scales_and_resampled_sources(make_raster, tmp_path, rng):
    """What GDAL does on the way is done: bands of other files, factors, other resolutions."""
    red, blue = (rng.integers(0, 200, (1, 40, 30)).astype("uint16") for _ in "rb")
    make_raster(red, "red.tif")
    make_raster(blue[:, ::2, ::2].copy(), "blue.tif")
    scaled = "<ScaleOffset>5</ScaleOffset><ScaleRatio>2</ScaleRatio>"
    path = vrt(
        tmp_path / "stack.vrt",
        (40, 30),
        [
            [source("red.tif", 1, (0, 0, 30, 40), kind="ComplexSource", extra=scaled)],
            [source("blue.tif", 1, (0, 0, 30, 40), size=(15, 20))],
        ],
    )
    pixels, _ = gdal_reads(path)
    np.testing.assert_array_equal(pixels[0], red[0] * 2 + 5)
    convolve(path, tmp_path / "o.tif", padding="same")
    np.testing.assert_array_equal(
        read(tmp_path / "o.tif"), tileconv.convolve(pixels, KERNEL, padding="same")
    )


def test_mask_bands(make_raster, tmp_path, rng):
    array = rng.integers(1, 99, (1, 40, 30)).astype("uint8")
    mask = np.where(rng.random((40, 30)) < 0.9, 255, 0).astype("uint8")
    whole = make_raster(array, "a.tif", mask=mask)
    part = source("a.tif", "mask,1", (0, 0, 30, 40))
    more = f'<MaskBand><VRTRasterBand dataType="Byte">{part}</VRTRasterBand></MaskBand>'
    bands = [[source("a.tif", 1, (0, 0, 30, 40))]]
    path = vrt(tmp_path / "m.vrt", (40, 30), bands, dtype="uint8", more=more)
    convolve(path, tmp_path / "o.tif")
    convolve(whole, tmp_path / "w.tif")
    assert read(tmp_path / "o.tif").tobytes() == read(tmp_path / "w.tif").tobytes()
    assert np.isnan(read(tmp_path / "o.tif")).any()


def test_a_vrt_as_gdal_writes_it(landsat, tmp_path):
    shutil.copy(landsat, tmp_path / "scene.tif")
    rasterio.shutil.copy(tmp_path / "scene.tif", tmp_path / "scene.vrt", driver="VRT")
    for name in ("scene.vrt", "scene.tif"):
        convolve(tmp_path / name, tmp_path / f"{name}.out.tif", stride=16)
    one, other = tmp_path / "scene.vrt.out.tif", tmp_path / "scene.tif.out.tif"
    assert read(one).tobytes() == read(other).tobytes()
    with rasterio.open(one) as made, rasterio.open(other) as expected:
        assert made.transform == expected.transform
        assert made.descriptions == expected.descriptions


def test_vrts_are_scenes_of_a_mosaic(mosaic, make_raster, tmp_path, rng):
    path, array = mosaic
    beside = rng.integers(1, 999, (2, 192, 40)).astype("uint16")
    grid = rasterio.Affine(30, 0, 700000 + 128 * 30, 0, -30, -2800000)
    other = make_raster(beside, "beside.tif", transform=grid)
    report = convolve([path, other], tmp_path / "o.tif", mosaic=True, stride=3)
    expected = tileconv.convolve(np.concatenate([array, beside], axis=2), KERNEL, stride=3)
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)
    assert len(report.scenes) == 2


# ---- What is refused


def band(inner, attributes='dataType="Byte" band="1"'):
    inner = f"<VRTRasterBand {attributes}>{inner}</VRTRasterBand>"
    return f'<VRTDataset rasterXSize="9" rasterYSize="9">{inner}</VRTDataset>'


def simple(name, relative=1, more="", tag="SimpleSource"):
    return band(
        f'<{tag}><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>{more}</{tag}>'
    )


DERIVED = 'dataType="Byte" band="1" subClass="VRTDerivedRasterBand"'
REFUSED = {
    "url": (simple("http://{server}/x.tif"), "is not a file on disk"),
    "vsicurl": (simple("/vsicurl/http://{server}/x.tif", 0), "is not a file on disk"),
    "vsizip": (simple("/vsizip/a.zip/x.tif", 0), "is not a file on disk"),
    "s3": (simple("s3://bucket/x.tif"), "is not a file on disk"),
    "inline": (simple("&lt;VRTDataset/>"), "is not a file on disk"),
    "empty name": (simple(""), "is not a file on disk"),
    "absolute": (simple("/etc/passwd", 0), "lies outside"),
    "upwards": (simple("../x.tif"), "lies outside"),
    "link": (simple("link.tif"), "lies outside"),
    "missing": (simple("none.tif"), "no such file"),
    "folder": (simple("."), "no such file"),
    "pipe": (simple("pipe.tif"), "is a named pipe"),
    "relative to nowhere": (simple("in.tif", 0), "is relative to nowhere"),
    "text": (simple("text.tif"), "is not a TIFF file"),
    "a VRT again": (simple("other.vrt"), "is not a TIFF file"),
    "a VRT as TIFF": (simple("vrt.tif"), "is not a TIFF file"),
    "subdataset": (simple("GTIFF_DIR:1:in.tif"), "no such file"),
    "options": (simple("in.tif", more="<OpenOptions><OOI/></OpenOptions>"), "options could open"),
    "filter": (simple("in.tif", tag="KernelFilteredSource"), "is not part of a plain mosaic"),
    "two names": (
        simple("in.tif", more="<SourceFilename>/etc/passwd</SourceFilename>"),
        "names 2 files, not one",
    ),
    "python": (
        band("<PixelFunctionLanguage>Python</PixelFunctionLanguage>", DERIVED),
        "pixel functions run code",
    ),
    "pixel function": (
        band("<PixelFunctionType>sum</PixelFunctionType>"),
        "<PixelFunctionType> in <VRTRasterBand> is not part of a plain mosaic",
    ),
    "raw": (
        band("<SourceFilename>/etc/passwd</SourceFilename>", 'subClass="VRTRawRasterBand"'),
        "raw bands read the bytes of any file",
    ),
    "warped": ('<VRTDataset subClass="VRTWarpedDataset"/>', "warping resamples"),
    "attribute": (band("", 'dataType="Byte" onload="x"'), "unknown attribute onload"),
    "metadata": (
        band("<Metadata><x><SourceFilename>/etc/passwd</SourceFilename></x></Metadata>"),
        "<x> in <Metadata>",
    ),
    "no source": (band(""), "names no source file"),
    "entities": ("<!DOCTYPE x [<!ENTITY a '/etc/passwd'>]><VRTDataset/>", "entities are not"),
    "no XML": ("<VRTDataset", "not valid XML"),
    "another root": ("<VRTRasterBand/>", "is not the <VRTDataset>"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_plain_mosaic_does_not_need_is_refused(text, words, make_raster, server, tmp_path):
    (tmp_path / "sub").mkdir()
    make_raster(np.ones((9, 9), "uint8"), "sub/in.tif")
    make_raster(np.ones((9, 9), "uint8"), "x.tif")
    (tmp_path / "sub" / "link.tif").symlink_to(tmp_path / "x.tif")
    (tmp_path / "sub" / "text.tif").write_text("no raster")
    os.mkfifo(tmp_path / "sub" / "pipe.tif")
    for name in ("other.vrt", "vrt.tif"):
        (tmp_path / "sub" / name).write_text(simple("/etc/passwd", 0))
    path = tmp_path / "sub" / "m.vrt"
    path.write_text(text.replace("{server}", server))
    with pytest.raises(InputError, match="this VRT is not read") as raised:
        convolve(path, tmp_path / "o.tif")
    assert words in str(raised.value)
    assert raised.value.exit_code == 3
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_encodings_hide_nothing(encoding, tmp_path):
    (tmp_path / "m.vrt").write_bytes(simple("/etc/passwd", 0).encode(encoding))
    with pytest.raises(InputError, match="this VRT is not read"):
        convolve(tmp_path / "m.vrt", tmp_path / "o.tif")


def test_a_root_lets_a_vrt_name_files_elsewhere(make_raster, tmp_path):
    for folder in ("tiles", "mosaics"):
        (tmp_path / folder).mkdir()
    array = np.arange(81, dtype="uint8").reshape(9, 9)
    make_raster(array, "tiles/a.tif")
    bands = [[source("../tiles/a.tif", 1, (0, 0, 9, 9))]]
    path = vrt(tmp_path / "mosaics" / "m.vrt", (9, 9), bands, dtype="uint8")
    with pytest.raises(InputError, match=r"lies outside .*mosaics; set input\.root"):
        convolve(path, tmp_path / "o.tif")
    convolve(path, tmp_path / "o.tif", root=tmp_path)
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0], tileconv.convolve(array, KERNEL))
    with pytest.raises(InputError, match="lies outside"):
        convolve(path, tmp_path / "o.tif", root=tmp_path / "mosaics")


def test_an_output_is_no_source(mosaic, tmp_path):
    path, array = mosaic
    with pytest.raises(OutputExistsError, match="is the input itself"):
        convolve(path, tmp_path / "2.tif")
    np.testing.assert_array_equal(read(tmp_path / "2.tif"), array[:, 96:, :64])


@pytest.mark.parametrize("name", ["m.vrt", "3.tif"])
def test_a_change_under_way_gives_no_output(name, mosaic, tmp_path):
    path, _ = mosaic
    with pytest.raises(InputError, match="changed while it was being read"):
        convolve(path, tmp_path / "o.tif", progress=lambda *told: (tmp_path / name).touch())
    assert not (tmp_path / "o.tif").exists()


def test_a_damaged_source_is_named(mosaic, tmp_path):
    path, _ = mosaic
    whole = (tmp_path / "3.tif").read_bytes()
    (tmp_path / "3.tif").write_bytes(whole[: len(whole) - 700])
    with pytest.raises(InputError, match=r"m\.vrt: block \(.*cannot be decoded.*3\.tif"):
        convolve(path, tmp_path / "o.tif")


def test_gdal_gets_what_was_checked_not_the_file(mosaic, tmp_path):
    from tileconv.raster.dataset_spec import DatasetSpec

    spec = DatasetSpec.of(mosaic[0])
    assert spec.driver == "VRT"
    assert [f.name for f in spec.files] == [f"{i}.tif" for i in range(4)]
    Path(mosaic[0]).write_text(simple("/etc/passwd", 0))
    with rasterio.open(spec.name, driver=spec.driver) as dataset:
        np.testing.assert_array_equal(dataset.read(), mosaic[1])
