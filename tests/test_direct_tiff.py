"""Blocks that are decoded without GDAL's cache: GDAL's pixels, or GDAL itself."""

import numpy as np
import pytest
import tifffile
from conftest import held_files, read
from rasterio.windows import Window
from test_files import job_for
from test_reading import LAYOUTS, OF_BYTES, SHAPE, TILED, pixels_for

import tileconv
from tileconv.raster import direct_tiff, gdal
from tileconv.raster.direct_tiff import UndecodableError
from tileconv.raster.header import Wanted, read_header

pytest.importorskip("imagecodecs")

DIRECT = {
    name
    for name, layout in LAYOUTS.items()
    if layout.get("compress", "none") in ("none", "deflate", "zstd") and "SPARSE_OK" not in layout
} - {"one strip"}  # GDAL cuts it into smaller ones
MORE = {
    "predictor, by pixel": TILED | {"compress": "deflate", "predictor": 2, "interleave": "pixel"},
    "predictor, big-endian": TILED | {"compress": "zstd", "predictor": 2, "ENDIANNESS": "BIG"},
    "predictor, strips": {"blockysize": 7, "compress": "deflate", "predictor": 2},
}
DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint64", "float32", "float64")


def numbers(rng, dtype):
    if dtype.startswith("float"):
        return pixels_for(rng, {}, dtype)
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, SHAPE, dtype, endpoint=True)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in [*sorted(DIRECT), *MORE]
        for dtype in DTYPES
        # predictor 2 of floats is not GDAL's
        if not (dtype.startswith("float") and "predictor" in (LAYOUTS | MORE)[name])
    ],
)
def test_any_window_holds_the_pixels_that_gdal_reads(make_raster, rng, name, dtype):
    layout = (LAYOUTS | MORE)[name]
    header = read_header(make_raster(numbers(rng, dtype), **layout), Wanted())
    blocks = header.find_direct_tiff()
    assert blocks is not None
    assert header.layout.direct
    same_windows(header, blocks, rng, dtype)


def same_windows(header, blocks, rng, dtype):
    with gdal.open_dataset(header.spec) as dataset:
        for _ in range(25):
            (top, bottom), (left, right) = (
                sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in SHAPE[1:]
            )
            bands = rng.choice([1, 2, 3], rng.integers(1, 5)).tolist()
            window = Window(left, top, right - left, bottom - top)
            expected = dataset.read(bands, window=window)
            around = np.zeros((len(bands), bottom - top + 3, right - left + 5), dtype)
            found = around[:, 2:-1, 3:-2]
            with blocks.opened() as reader:
                reader.window(window, bands, found)
            assert found.tobytes() == expected.tobytes()
            found[...] = 0
            assert not around.any()  # nothing was written beside the window


@pytest.mark.parametrize("name", sorted({*LAYOUTS, *OF_BYTES} - DIRECT))
def test_what_is_not_plain_is_left_to_gdal(make_raster, rng, name):
    layout = (LAYOUTS | OF_BYTES)[name]
    header = read_header(make_raster(pixels_for(rng, layout, "uint8"), **layout), Wanted())
    assert header.find_direct_tiff() is None
    assert not header.layout.direct


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["tiles", "strips"])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("compress", ["deflate", "zstd"])
def test_the_predictor_of_floats(make_raster, rng, order, dtype, layout, interleave, compress):
    cut = TILED if layout == "tiles" else {"blockysize": 7}
    about = {"compress": compress, "interleave": interleave, "ENDIANNESS": order}
    pixels = numbers(rng, dtype)
    header = read_header(make_raster(pixels, **cut | about, predictor=3), Wanted())
    blocks = header.find_direct_tiff()
    assert blocks is not None
    same_windows(header, blocks, rng, dtype)


def test_masks_are_left_to_gdal(make_raster, rng):
    shown = np.full(SHAPE[1:], 255, "uint8")
    path = make_raster(numbers(rng, "float32"), **TILED, mask=shown)
    assert read_header(path, Wanted()).find_direct_tiff() is None


def test_halves_are_left_to_a_gdal_that_makes_them_float32(make_raster, rng):
    header = read_header(make_raster(numbers(rng, "float32"), **TILED, NBITS=16), Wanted())
    blocks = header.find_direct_tiff()
    with gdal.open_dataset(header.spec) as dataset:
        dtype = dataset.dtypes[0]  # GDAL has a dtype for them from 3.11 on, rasterio from 1.5
    if dtype == "float32":
        assert blocks is None
    else:
        same_windows(header, blocks, rng, dtype)


def test_without_the_library_gdal_reads_the_same_bits(make_raster, tmp_path, rng, monkeypatch):
    source = make_raster(numbers(rng, "uint16"), **TILED | {"compress": "deflate"})
    job = job_for(source, tmp_path / "out.tif", stride=2)
    assert tileconv.plan(job).layout.direct
    tileconv.run(job)
    made = read(tmp_path / "out.tif").tobytes()
    monkeypatch.setattr(direct_tiff, "library", lambda: None)
    assert not tileconv.plan(job).layout.direct
    tileconv.run(job)
    assert read(tmp_path / "out.tif").tobytes() == made


@pytest.mark.parametrize("compress", ["deflate", "zstd"])
def test_a_damaged_block_is_found(make_raster, tmp_path, rng, compress):
    """GDAL is not asked; the error names the block as if it had been."""
    source = make_raster(numbers(rng, "uint16"), **TILED | {"compress": compress})
    with tifffile.TiffFile(source) as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    data = bytearray(source.read_bytes())
    data[offset : offset + count] = rng.bytes(count)
    source.write_bytes(data)
    header = read_header(source, Wanted())
    blocks = header.find_direct_tiff()
    whole = np.zeros((1, *SHAPE[1:]), "uint16")
    with blocks.opened() as reader, pytest.raises(UndecodableError):
        reader.window(Window(0, 0, SHAPE[2], SHAPE[1]), [1], whole)
    with pytest.raises(tileconv.InputError, match=r"block \(1, 1\) of .*cannot be decoded"):
        tileconv.run(job_for(source, tmp_path / "out.tif"))
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("compress", ["deflate", None])
def test_a_strip_that_gdal_cuts_is_left_to_gdal(tmp_path, rng, compress, bands):
    """One strip of 2600 rows: blocks of one row to GDAL."""
    pixels = rng.integers(0, 255, (bands, 2600, 90), "uint8")
    page = pixels[0] if bands == 1 else np.moveaxis(pixels, 0, -1)
    how = {} if bands == 1 else {"photometric": "rgb"}
    tifffile.imwrite(
        tmp_path / "in.tif", page, compression=compress, rowsperstrip=2600, metadata=None, **how
    )
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    tileconv.run(job_for(source, target, kernel={"weights": np.ones((3, 3)).tolist()}))
    expected = tileconv.convolve(pixels, np.ones((3, 3), "float32"))
    assert read(target).tobytes() == expected.tobytes()


def test_one_file_is_opened_for_all_threads_and_closed(make_raster, tmp_path, rng, monkeypatch):
    source = make_raster(numbers(rng, "uint16"), **TILED | {"compress": "deflate"})
    opened = []
    real = gdal.open_dataset
    monkeypatch.setattr(gdal, "open_dataset", lambda *a: opened.append(a) or real(*a))
    tileconv.run(job_for(source, tmp_path / "first.tif"))
    opened.clear()
    tileconv.run(job_for(source, tmp_path / "out.tif", compute={"workers": 3, "tile": 64}))
    assert len(opened) == 1  # the header
    assert not [name for name in held_files() if name == str(source)]


def test_a_table_that_points_beyond_the_file_is_left_to_gdal(make_raster, tmp_path, rng):
    source = make_raster(numbers(rng, "uint16"), **TILED | {"compress": "deflate"})
    source.write_bytes(source.read_bytes()[:-100])
    header = read_header(source, Wanted())
    assert header.find_direct_tiff() is None
    with pytest.raises(tileconv.InputError, match="cannot be decoded"):
        tileconv.run(job_for(source, tmp_path / "out.tif"))


PLAIN_TILES = {"tiled": True, "blockxsize": 256, "blockysize": 256}
LARGE_BLOCKS = {
    "tiles": PLAIN_TILES | {"compress": "deflate"},
    "predictor": PLAIN_TILES | {"compress": "deflate", "predictor": 2},
    "predictor, by pixel": PLAIN_TILES
    | {"compress": "zstd", "predictor": 2, "interleave": "pixel", "ENDIANNESS": "BIG"},
    "strips, the last one shorter": {"blockysize": 256, "compress": "zstd"},
}


def mostly_repeated(dtype):
    """Blocks of one value, of one row, and almost so."""
    pixels = np.full((2, 1000, 1024), 7, dtype)
    pixels[:, 256:512, 256:] = np.arange(768) % 5
    pixels[:, 300, 300] = 1
    pixels[:, 511, 1000] = 2
    pixels[:, 767, 1023] = 3  # the last pixel of a block
    pixels[1, 512:768, 256:768] = 0
    return pixels


@pytest.mark.parametrize("name", LARGE_BLOCKS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_blocks_of_one_row_are_unpacked_once(make_raster, rng, monkeypatch, name, dtype):
    layout = LARGE_BLOCKS[name]
    if dtype == "float64":
        layout = {key: value for key, value in layout.items() if key != "predictor"}
    pixels = mostly_repeated(dtype)
    header = read_header(make_raster(pixels, **layout), Wanted())
    unpacked = []
    with header.find_direct_tiff().opened() as reader:
        decode = reader._decode

        def counted(packed, out):
            unpacked.append(packed.tobytes())
            return decode(packed, out=out)

        monkeypatch.setattr(reader, "_decode", counted)
        for turn in range(3):
            found = np.zeros_like(pixels)
            reader.window(Window(0, 0, 1024, 1000), [1, 2], found)
            assert found.tobytes() == pixels.tobytes()
            for _ in range(20):
                (top, bottom), (left, right) = (
                    sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in (1000, 1024)
                )
                part = np.zeros((1, bottom - top, right - left), dtype)
                reader.window(Window(left, top, right - left, bottom - top), [2], part)
                assert part.tobytes() == pixels[1:, top:bottom, left:right].tobytes()
            if turn == 0:
                unpacked.clear()
    assert unpacked
    assert 0 < len(reader._rows) <= direct_tiff.MOST_ROWS
    assert not {packed for _, packed in reader._rows} & {*unpacked}


def test_many_blocks_of_one_row_are_remembered_up_to_a_limit(make_raster):
    pixels = np.repeat(np.arange(40), 256).astype("uint8")[None, None] * np.ones(
        (1, 256, 1), "uint8"
    )
    header = read_header(make_raster(pixels, **PLAIN_TILES, compress="deflate"), Wanted())
    with header.find_direct_tiff().opened() as reader:
        for _ in range(2):
            found = np.zeros_like(pixels)
            reader.window(Window(0, 0, pixels.shape[2], 256), [1], found)
            assert (found == pixels).all()
    assert len(reader._rows) == direct_tiff.MOST_ROWS


def test_a_damaged_block_beside_one_of_the_same_row_is_found(make_raster, tmp_path):
    source = make_raster(np.full((1, 512, 1024), 3, "uint8"), **PLAIN_TILES, compress="deflate")
    with tifffile.TiffFile(source) as tiff:
        end = tiff.pages[0].dataoffsets[5] + tiff.pages[0].databytecounts[5]
    data = bytearray(source.read_bytes())
    data[end - 1] ^= 1  # of its checksum
    source.write_bytes(data)
    with pytest.raises(tileconv.InputError, match=r"block \(1, 1\) of .*cannot be decoded"):
        tileconv.run(job_for(source, tmp_path / "out.tif"))


def test_long_rows_and_strips_of_one_row_are_not_remembered(make_raster):
    for rows, layout in ((40, {"blockysize": 1}), (8, {"blockysize": 4})):
        pixels = np.full((1, rows, 90_000), 2.5, "float64")
        header = read_header(make_raster(pixels, **layout, compress="deflate"), Wanted())
        found = np.zeros_like(pixels)
        with header.find_direct_tiff().opened() as reader:
            reader.window(Window(0, 0, 90_000, rows), [1], found)
            assert not reader._rows
        assert (found == pixels).all()
