"""Damaged blocks: told with file, block, band and cause where they can be known, by either way.

Blocks are read without GDAL (imagecodecs) or by GDAL. What neither can know is in docs/files.md.
"""

import logging
import struct
import zlib

import numpy as np
import pytest
import tifffile
from conftest import read
from rasterio import Affine
from rasterio.windows import Window
from test_files import job_for
from test_vrt import source as vrt_source
from test_vrt import vrt

import tileconv
from tileconv.raster import gdal
from tileconv.raster.direct_reads import read_pixels
from tileconv.raster.direct_tiff import UndecodableError
from tileconv.raster.header import Wanted, read_header

TILES = {"tiled": True, "blockxsize": 32, "blockysize": 32}
SIDE = 96


def smooth(rng):
    """Pixels that lie near their neighbours, so that all sorts of codes are in the streams."""
    plain = np.add.outer(np.arange(SIDE) * 3, np.arange(SIDE) * 5) // 4 % 251
    return (plain + rng.integers(0, 5, plain.shape)).astype("uint8")[None]


def table(path):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


def flipped(path, rng, count):
    """Write a file again and again with another bit of its blocks flipped, and say of which."""
    whole, blocks = path.read_bytes(), table(path)
    for _ in range(count):
        data, block = bytearray(whole), int(rng.integers(len(blocks)))
        offset, length = blocks[block]
        data[offset + int(rng.integers(length))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        yield block
    path.write_bytes(whole)


def outcome(path, target, **keys):
    """Return the pixels that a run copies, or its error."""
    target.unlink(missing_ok=True)
    try:
        tileconv.run(job_for(path, target, **{"compute.scheduler": "synchronous", **keys}))
    except tileconv.InputError as error:
        assert not target.exists()
        return str(error)
    return read(target)


@pytest.mark.parametrize(
    "layout",
    [TILES, TILES | {"predictor": 2}, {"blockysize": 7, "predictor": 2}],
    ids=["tiles", "predictor", "strips"],
)
def test_one_bit_of_deflate_is_told(make_raster, tmp_path, rng, layout):
    """Some streams grow by it: GDAL takes the first bytes, and sees no checksum."""
    pytest.importorskip("imagecodecs")
    pixels = smooth(rng)
    path = make_raster(pixels, compress="deflate", **layout)
    across, tall = (3, 32) if "tiled" in layout else (1, 7)
    told = 0
    for block in flipped(path, rng, 40):
        found = outcome(path, tmp_path / "out.tif")
        row, column = divmod(block, across)
        if isinstance(found, str):
            where = f"in.tif: block ({row}, {column}) of band 1, rows {row * tall} to "
            assert where in found
            assert "cannot be decoded: its DEFLATE stream is damaged" in found
            told += 1
        else:  # two bits of each stream say how hard the writer tried
            assert (found == pixels).all()
    assert told > 30


@pytest.mark.parametrize("layout", [TILES, {"blockysize": 7}], ids=["tiles", "strips"])
def test_one_bit_of_deflate_is_told_where_gdal_decodes(make_raster, tmp_path, rng, layout):
    """GDAL alone passes over some of them, and gives what lay in memory."""
    pytest.importorskip("imagecodecs")
    pixels, shown = smooth(rng), np.full((SIDE, SIDE), 255, "uint8")
    path = make_raster(pixels, compress="deflate", mask=shown, **layout)
    assert read_header(path, Wanted()).find_direct_tiff() is None
    assert (outcome(path, tmp_path / "out.tif") == pixels).all()
    told = 0
    for _ in flipped(path, rng, 100):
        found = outcome(path, tmp_path / "out.tif")
        if isinstance(found, str):
            assert "cannot be decoded: its DEFLATE stream " in found
            told += 1
        else:
            assert (found == pixels).all()
    assert told > 80


def test_a_stream_that_asks_for_much_memory_is_damaged(make_raster, tmp_path, rng):
    """The words are about memory, and the machine has enough."""
    shown = np.full((SIDE, SIDE), 255, "uint8")
    path = make_raster(smooth(rng), compress="zstd", mask=shown, **TILES)
    data, (offset, _) = bytearray(path.read_bytes()), table(path)[0]
    data[offset + 4 : offset + 6] = b"\0\xff"  # a window of terabytes
    path.write_bytes(data)
    told = outcome(path, tmp_path / "out.tif")
    assert "block (0, 0) of band 1" in told
    assert "too much memory for decoding" in told


def test_a_bit_of_zstd_is_told_by_its_checksum(tmp_path, rng):
    pytest.importorskip("imagecodecs")
    numcodecs = pytest.importorskip("numcodecs")
    pixels, path = smooth(rng)[0], tmp_path / "in.tif"
    pack = numcodecs.Zstd(level=1, checksum=True).encode
    tiles = [
        pack(np.ascontiguousarray(pixels[y : y + 32, x : x + 32]))
        for y in range(0, SIDE, 32)
        for x in range(0, SIDE, 32)
    ]
    about = {"shape": pixels.shape, "dtype": "uint8", "tile": (32, 32), "compression": "zstd"}
    tifffile.imwrite(path, iter(tiles), metadata=None, photometric="minisblack", **about)
    assert (outcome(path, tmp_path / "out.tif") == pixels).all()
    told = [outcome(path, tmp_path / "out.tif") for _ in flipped(path, rng, 40)]
    for one in told:
        if isinstance(one, str):
            assert "its ZSTD stream " in one
        else:
            assert (one == pixels).all()
    assert sum(isinstance(one, str) for one in told) > 25


def packed_in_strips(path, streams, height, rows, compression):
    """Write a raster of one byte a pixel, 16 wide, in strips as they are given."""
    fixed = [(256, 4, 16), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1)]
    lengths, several = [*map(len, streams)], len(streams) > 1
    lists = 8 + 2 + 12 * (len(fixed) + 4) + 4
    starts = np.cumsum([lists + 8 * len(streams), *lengths])[:-1].tolist()
    entries = [(tag, kind, 1, value) for tag, kind, value in fixed]
    entries += [
        (273, 4, len(streams), lists if several else starts[0]),
        (277, 3, 1, 1),
        (278, 4, 1, rows),
        (279, 4, len(streams), lists + 4 * len(streams) if several else lengths[0]),
    ]
    data = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data += struct.pack(f"<I{2 * len(streams)}I", 0, *starts, *lengths)
    path.write_bytes(data + b"".join(streams))


CODES = {"none": 1, "deflate": 8, "zstd": 50000}


def packer(codec):
    imagecodecs = pytest.importorskip("imagecodecs")
    return {"none": bytes, "deflate": zlib.compress, "zstd": imagecodecs.zstd_encode}[codec]


def by_both_ways(path, shape):
    """Read a file without GDAL, and with it."""
    header = read_header(path, Wanted())
    straight = np.zeros((1, *shape), "uint8")
    with header.find_direct_tiff().opened() as reader:
        reader.window(Window(0, 0, shape[1], shape[0]), [1], straight)
    with gdal.environment(), gdal.open_dataset(header.spec) as dataset, gdal.strictly():
        return straight, dataset.read()


@pytest.mark.parametrize("codec", CODES)
@pytest.mark.parametrize("more", [0, 1, 80, 160], ids="{} bytes more".format)
def test_blocks_of_more_bytes_than_needed_are_no_damage(tmp_path, rng, codec, more):
    """160 more make the last strip as tall as the others: so some writers leave it."""
    pixels, path = rng.integers(0, 9, (22, 16)).astype("uint8"), tmp_path / "in.tif"
    stored = [pixels[:16].tobytes(), pixels[16:].tobytes() + bytes(more)]
    packed_in_strips(path, list(map(packer(codec), stored)), 22, 16, CODES[codec])
    straight, gdals = by_both_ways(path, pixels.shape)
    assert (straight[0] == pixels).all()
    assert (gdals[0] == pixels).all()
    assert (outcome(path, tmp_path / "out.tif")[0] == pixels).all()


def test_bytes_behind_a_deflate_stream_are_no_damage(tmp_path, rng):
    pixels, path = rng.integers(0, 9, (16, 16)).astype("uint8"), tmp_path / "in.tif"
    packed_in_strips(path, [packer("deflate")(pixels.tobytes()) + b"\0\0x"], 16, 16, 8)
    straight, gdals = by_both_ways(path, pixels.shape)
    assert (straight[0] == pixels).all()
    assert (gdals[0] == pixels).all()


@pytest.mark.parametrize("codec", ["deflate", "zstd"])
def test_a_stream_of_fewer_bytes_than_needed_is_told(tmp_path, codec):
    path = tmp_path / "in.tif"
    packed_in_strips(path, [packer(codec)(bytes(n)) for n in (256, 95)], 22, 16, CODES[codec])
    told = outcome(path, tmp_path / "out.tif")
    assert "in.tif: block (1, 0) of band 1, rows 16 to 21, columns 0 to 15, cannot" in told
    assert told.endswith(f"its {codec.upper()} stream holds 95 bytes, not 96")


def test_a_longer_stream_counts_by_its_checksum(tmp_path, rng):
    """The first bytes are right, and the block is told all the same: they need not be."""
    stored = bytearray(packer("deflate")(rng.bytes(256) + b"more"))
    stored[-1] ^= 1
    packed_in_strips(tmp_path / "in.tif", [bytes(stored)], 16, 16, 8)
    assert "its DEFLATE stream is damaged" in outcome(tmp_path / "in.tif", tmp_path / "out.tif")


def test_strips_that_are_too_short_are_left_to_gdal(tmp_path, rng):
    """libtiff has rules for byte counts of uncompressed strips that cannot be true."""
    packed_in_strips(tmp_path / "in.tif", [rng.bytes(256), rng.bytes(95)], 22, 16, 1)
    assert read_header(tmp_path / "in.tif", Wanted()).find_direct_tiff() is None
    assert "cannot be decoded" in outcome(tmp_path / "in.tif", tmp_path / "out.tif")


def test_a_file_that_is_cut_while_it_is_read(make_raster, rng):
    pytest.importorskip("imagecodecs")
    path = make_raster(smooth(rng), **TILES)
    last = table(path)[-1]
    with read_header(path, Wanted()).find_direct_tiff().opened() as reader:
        path.write_bytes(path.read_bytes()[: sum(last) - 24])
        with pytest.raises(UndecodableError, match="the file ends 24 bytes before the block") as it:
            reader.window(Window(0, 0, SIDE, SIDE), [1], np.zeros((1, SIDE, SIDE), "uint8"))
    assert (it.value.place, it.value.part) == ((2, 2), "band 1")


def broken_jpeg(path, block):
    """Cut the scan of a JPEG block short, for which libtiff has a warning and makes up pixels."""
    data = bytearray(path.read_bytes())
    offset, count = table(path)[block]
    data[offset + count - 12 : offset + count - 10] = b"\xff\xd9"
    path.write_bytes(data)


@pytest.fixture
def jpegs(make_raster, rng):
    """Two scenes side by side, with a damaged block in the second."""
    west, east = (Affine(30, 0, 30 * x, 0, -30, 0) for x in (0, SIDE))
    first = make_raster(smooth(rng), "a.tif", compress="jpeg", transform=west, **TILES)
    second = make_raster(smooth(rng), "b.tif", compress="jpeg", transform=east, **TILES)
    broken_jpeg(second, 5)
    return first, second


WHERE = "block (1, 2) of band 1, rows 32 to 63, columns 64 to 95, cannot be decoded: "


def test_what_gdal_gets_over_is_told(jpegs, tmp_path):
    told = outcome(jpegs[1], tmp_path / "out.tif", stride=7)
    assert f"b.tif: {WHERE}JPEGLib:Corrupt JPEG data" in told
    assert isinstance(outcome(jpegs[0], tmp_path / "out.tif"), np.ndarray)


def test_in_a_mosaic_too(jpegs, tmp_path):
    keys = {"input.path": [str(path) for path in jpegs], "input.mosaic": True}
    told = outcome(jpegs[0], tmp_path / "out.tif", **keys)
    assert f"b.tif: {WHERE}JPEGLib:Corrupt JPEG data" in told


def test_a_scene_that_goes_away_before_it_is_opened(jpegs, tmp_path):
    keys = {"input.path": [str(path) for path in jpegs], "input.mosaic": True, "compute.tile": 32}
    keys |= {"compute.scheduler": "synchronous"}
    job = job_for(jpegs[0], tmp_path / "out.tif", **keys)
    with pytest.raises(tileconv.InputError, match=r"b\.tif"):
        tileconv.run(job, progress=lambda done, total: jpegs[1].unlink(missing_ok=True))


def test_in_a_vrt_the_file_is_named(jpegs, tmp_path):
    """By the block of the file: the VRT's own blocks lie over many."""
    east = (SIDE, 0, SIDE, SIDE)
    sources = [vrt_source("a.tif", 1, (0, 0, SIDE, SIDE)), vrt_source("b.tif", 1, east)]
    path = vrt(tmp_path / "both.vrt", (SIDE, 2 * SIDE), [sources], "uint8")
    told = outcome(path, tmp_path / "out.tif")
    assert f"both.vrt: block (1, 2) of {jpegs[1]} cannot be decoded: JPEGLib:Corrupt" in told


def test_verify_reads_no_damage_either(make_raster, tmp_path, rng):
    path = make_raster(smooth(rng), compress="jpeg", **TILES)
    header = read_header(path, Wanted())
    broken_jpeg(path, 5)
    with pytest.raises(tileconv.InputError, match=r"in\.tif: cannot be read: .*Corrupt JPEG data"):
        read_pixels(header, np.arange(SIDE), np.arange(SIDE))


@pytest.mark.parametrize("compress", ["jpeg", "packbits", "lzma"])
def test_no_pixels_come_with_a_decoders_complaint(make_raster, tmp_path, rng, compress):
    """What GDAL says of a block that it reads, when it says anything, is the cause of an error."""
    path = make_raster(smooth(rng), compress=compress, **TILES)
    header = read_header(path, Wanted())
    silent = 0
    for _ in flipped(path, rng, 120):
        with gdal.environment(), gdal.open_dataset(header.spec) as dataset:
            try:
                with gdal._heard() as heard:
                    dataset.read()
            except gdal.GDAL_ERRORS:
                continue
        if not heard:
            silent += 1
            continue
        told = outcome(path, tmp_path / "out.tif")
        assert "of band 1, rows" in told
        assert any(words in told for words in heard)
        return
    pytest.fail(f"no flip was heard of: {silent} were silent")


def test_gdals_own_threads_print_nothing(make_raster, tmp_path, rng, monkeypatch, capfd):
    """GDAL reads files of a VRT by threads; up to 3.10 their words go to stderr, and are lost."""
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")
    side, sources = 1100, []
    for x in range(2):
        pixels = np.tile(smooth(rng)[0], (12, 12))[None, :side, :side]
        path = make_raster(pixels, f"{x}.tif", block=(256, 256), compress="jpeg")
        broken_jpeg(path, 3)
        sources.append(vrt_source(path.name, 1, (side * x, 0, side, side), (256, 256)))
    path = vrt(tmp_path / "both.vrt", (side, 2 * side), [sources], "uint8")
    for source in (path, tmp_path / "0.tif"):
        assert "block (0, 3) of " in outcome(source, tmp_path / "out.tif")
    assert capfd.readouterr().err == ""


def unsorted(path):
    """Swap two tags of a classic TIFF, of which libtiff warns."""
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0] + 2
    data[start : start + 24] = data[start + 12 : start + 24] + data[start : start + 12]
    path.write_bytes(data)


def test_what_gdal_warns_of_is_a_note(make_raster, tmp_path, rng, capfd):
    pixels = smooth(rng)
    path = make_raster(pixels, compress="lzw", **TILES)
    assert not read_header(path, Wanted()).notes
    unsorted(path)
    plan = tileconv.plan(job_for(path, tmp_path / "out.tif"))
    (note,) = [note for note in plan.notes if "GDAL warns" in note]
    assert "tags are not sorted in ascending order" in note
    assert (outcome(path, tmp_path / "out.tif") == pixels).all()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("how", ["all", "loggers", "levels"])
def test_what_gdal_gets_over_is_told_to_who_wants_no_logs(jpegs, tmp_path, monkeypatch, how):
    """logging.config.dictConfig disables all loggers that it does not name."""
    names = ("rasterio._err", "rasterio._env")
    if how == "all":
        monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    for log in map(logging.getLogger, names) if how != "all" else ():
        setting = ("disabled", True) if how == "loggers" else ("level", logging.CRITICAL)
        monkeypatch.setattr(log, *setting)
        log.manager._clear_cache()
    try:
        told = outcome(jpegs[1], tmp_path / "out.tif", stride=7)
    finally:
        monkeypatch.undo()
        logging.root.manager._clear_cache()
    assert f"b.tif: {WHERE}JPEGLib:Corrupt JPEG data" in told


def test_logs_are_as_loud_as_they_were(jpegs, tmp_path, caplog):
    """What rasterio logs for those who look for it is heard, and passed on to nobody else."""
    broken = outcome(jpegs[1], tmp_path / "out.tif")
    assert "Corrupt JPEG data" in broken
    logged = [record for record in caplog.records if record.name.startswith("rasterio")]
    assert all(record.levelno >= logging.WARNING for record in logged)
    data = bytearray(jpegs[0].read_bytes())
    data[table(jpegs[0])[0][0]] = 0  # no JPEG any more: an error
    jpegs[0].write_bytes(data)
    caplog.clear()
    outcome(jpegs[0], tmp_path / "out.tif")
    assert not [record for record in caplog.records if record.name == "rasterio._err"]
    with caplog.at_level(logging.INFO, "rasterio"):
        outcome(jpegs[0], tmp_path / "out.tif")
    assert [record for record in caplog.records if record.name == "rasterio._err"]
