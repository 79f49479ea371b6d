"""Headers with tags of odd types, counts and values: GDAL's pixels, or no pixels, by either way."""

import contextlib
import os
import struct

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_files import job_for

import tileconv
from tileconv.raster import gdal
from tileconv.raster.direct_tiff import UndecodableError
from tileconv.raster.header import Wanted, read_header

pytest.importorskip("imagecodecs")

EXAMPLES = int(os.environ.get("TILECONV_TAG_EXAMPLES", "200"))
SIDES = (24, 40)
TILES = {"tiled": True, "blockxsize": 16, "blockysize": 16}
STRIPS = {"blockysize": 7}
FILES = {
    "deflate": TILES | {"compress": "deflate", "predictor": 2},
    "by pixel": TILES | {"compress": "zstd", "predictor": 2, "count": 3, "interleave": "pixel"},
    "by band": TILES | {"compress": "deflate", "count": 3, "interleave": "band"},
    "plain tiles": TILES | {"ENDIANNESS": "BIG"},
    "plain strips": STRIPS | {"count": 3, "interleave": "pixel"},
    "strips": STRIPS | {"compress": "deflate", "predictor": 2, "ENDIANNESS": "BIG"},
    "BigTIFF": TILES | {"compress": "zstd", "BIGTIFF": "YES"},
    "BigTIFF strips": STRIPS | {"compress": "deflate", "BIGTIFF": "YES", "ENDIANNESS": "BIG"},
    "LZW": TILES | {"compress": "lzw", "predictor": 2},
    "floats": TILES | {"compress": "deflate", "predictor": 3, "dtype": "float32"},
}
TAGS = [254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324]
TAGS += [325, 338, 339, 347, 330, 530, 32995, 32996, 32997, 32998, 42112, 42113, 50674]
TYPES = [*range(19), 129, 65535]
VALUES = [*range(18), 24, 32, 40, 64, 255, 256, 32946, 50000, 65535, 2**31, 2**32 - 1]
LARGEST = 1 << 20
"""Pixels of a raster that is worth reading."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a valid file of each kind, and the pixels."""
    made, path = {}, tmp_path_factory.mktemp("whole") / "in.tif"
    common = {"dtype": "uint16", "count": 1, "height": SIDES[0], "width": SIDES[1]}
    common |= {"transform": rasterio.Affine(30, 0, 0, 0, -30, 0), "crs": "EPSG:32621"}
    for name, layout in FILES.items():
        about = common | {"photometric": "MINISBLACK"} | layout
        pixels = np.random.default_rng(7).integers(0, 999, (about["count"], *SIDES))
        with rasterio.open(path, "w", driver="GTiff", **about) as dataset:
            dataset.write(pixels.astype(about["dtype"]))
        made[name] = path.read_bytes()
        path.unlink()
    return made


class Directory:
    """The tags of a TIFF's first image, to be changed in place."""

    def __init__(self, data):
        self.data = bytearray(data)
        self._order = "<" if data[:2] == b"II" else ">"
        self._big = data[2:4] in (b"\x2b\0", b"\0\x2b")
        (start,) = self._numbers(8 if self._big else 4, "Q" if self._big else "I")
        (count,) = self._numbers(start, "Q" if self._big else "H")
        self._first, self._size = start + (8 if self._big else 2), 20 if self._big else 12
        self.places = [self._first + self._size * i for i in range(count)]

    def _numbers(self, place, code):
        return struct.unpack_from(self._order + code, self.data, place)

    def _put(self, place, code, value):
        struct.pack_into(self._order + code, self.data, place, value)

    def find(self, tag):
        """Return the place of a tag, and of some tag if it is not there."""
        for place in self.places:
            if self._numbers(place, "H") == (tag,):
                return place
        return self.places[tag % len(self.places)]

    def change(self, tag, *, to=None, kind=None, count=None, value=None):
        """Give a tag another number, type, count or value."""
        place = self.find(tag)
        wide = "Q" if self._big else "I"
        if to is not None:
            self._put(place, "H", to)
        if kind is not None:
            self._put(place + 2, "H", kind)
        if count is not None:
            self._put(place + 4, wide, count)
        if value is not None:
            at = place + (12 if self._big else 8)
            # as the type has it: a SHORT lies in the first two bytes
            code = {1: "B", 3: "H", 6: "B", 8: "H"}.get(self._numbers(place + 2, "H")[0], "I")
            self._put(at, code, value % (1 << 8 * struct.calcsize(code)))

    def swap(self, one, other):
        """Let two tags change places."""
        a, b = self.places[one % len(self.places)], self.places[other % len(self.places)]
        first, second = self.data[a : a + self._size], self.data[b : b + self._size]
        self.data[a : a + self._size], self.data[b : b + self._size] = second, first


def changes():
    """Return strategies for what is done to a directory."""
    counts = st.sampled_from([0, 1, 2, 3, 4, 6, 9, 2**16, 2**32 - 1])
    change = st.fixed_dictionaries(
        {
            "tag": st.sampled_from(TAGS),
            "to": st.none() | st.none() | st.sampled_from(TAGS),
            "kind": st.none() | st.sampled_from(TYPES),
            "count": st.none() | st.none() | counts,
            "value": st.none() | st.sampled_from(VALUES),
        }
    )
    places = st.integers(0, 20)
    return st.lists(change | st.tuples(places, places), min_size=1, max_size=3)


def changed(data, steps):
    directory = Directory(data)
    for step in steps:
        if isinstance(step, tuple):
            directory.swap(*step)
        else:
            directory.change(**step)
    return bytes(directory.data)


def gdals(header):
    """Return GDAL's pixels, None if it has none."""
    try:
        with (
            gdal.environment(),
            gdal.open_dataset(header.spec) as dataset,
            gdal.strictly(),
        ):
            return dataset.read(list(header.decoding.bands))
    except gdal.GDAL_ERRORS:
        return None


def straight(header, blocks):
    """Return the pixels without GDAL, None if they are damaged."""
    made = np.zeros((len(header.decoding.bands), *header.layout.shape), header.decoding.stored)
    try:
        with blocks.opened() as reader:
            reader.window(whole_window(header), header.decoding.bands, made)
    except UndecodableError:
        return None
    return made


def whole_window(header):
    height, width = header.layout.shape
    return rasterio.windows.Window(0, 0, width, height)


def one(tag, **what):
    return [{"tag": tag, **what}]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # rasterio's log
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=10_000,
)
@example("deflate", one(323, kind=1))  # TileLength as a BYTE
@example("deflate", one(317, kind=13))  # a predictor that libtiff does not take for one
@example("strips", one(284, to=322, value=2))  # TileWidth in a file of strips
@example("strips", one(278, value=0))
@example("plain tiles", one(284, to=317, value=2))  # a predictor of what is not compressed
@example("by pixel", one(339, count=1))
@example("by pixel", one(258, count=2))
@example("by band", one(284, value=3))
@example("BigTIFF", [(4, 5)])
@given(st.sampled_from(sorted(FILES)), changes())
def test_pixels_are_gdals_or_there_are_none(whole, tmp_path_factory, name, steps):
    path = tmp_path_factory.getbasetemp() / "changed.tif"
    path.write_bytes(changed(whole[name], steps))
    try:
        header = read_header(path, Wanted(mask="none", palette=True, bands=(1,)))
    except tileconv.TileconvError:
        return
    if np.prod(header.layout.shape, dtype=float) * header.layout.bands > LARGEST:
        return
    blocks = header.find_direct_tiff()
    if blocks is not None:
        theirs, ours = gdals(header), straight(header, blocks)
        assert (ours is None) == (theirs is None)
        assert ours is None or ours.tobytes() == theirs.tobytes()
    with contextlib.suppress(tileconv.TileconvError):
        keys = {"compute.scheduler": "synchronous", "compute.memory_limit": "1 GiB"}
        tileconv.run(job_for(path, path.with_name("out.tif"), **keys))
