"""Damage to bytes, to the tags of TIFFs, and to text; each by a random number generator's will."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

TAGS = {
    "ImageWidth": 256,
    "ImageLength": 257,
    "BitsPerSample": 258,
    "Compression": 259,
    "Photometric": 262,
    "FillOrder": 266,
    "StripOffsets": 273,
    "Orientation": 274,
    "SamplesPerPixel": 277,
    "RowsPerStrip": 278,
    "StripByteCounts": 279,
    "PlanarConfiguration": 284,
    "Predictor": 317,
    "ColorMap": 320,
    "TileWidth": 322,
    "TileLength": 323,
    "TileOffsets": 324,
    "TileByteCounts": 325,
    "SubIFDs": 330,
    "ExtraSamples": 338,
    "SampleFormat": 339,
    "JPEGTables": 347,
    "YCbCrSubSampling": 530,
    "ModelPixelScale": 33550,
    "ModelTiepoint": 33922,
    "ModelTransformation": 34264,
    "GeoKeyDirectory": 34735,
    "GDALMetadata": 42112,
    "GDALNoData": 42113,
    "LercParameters": 50674,
}
NAMES = {number: name for name, number in TAGS.items()}
NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 16, 24, 32, 64, 255, 256, 4096, 65535, 65536),
    *(2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1),
)
"""What a count, an offset, a width or a choice may be said to be."""


@dataclass(frozen=True)
class Entry:
    """Where a TIFF has a tag."""

    at: int
    """Of its 12 or 20 bytes."""
    tag: int
    kind: int
    count: int
    order: str
    """The file's, as in `struct`."""
    big: bool
    """Its counts and offsets have 64 bits."""

    @property
    def word(self) -> str:
        return f"{self.order}{'Q' if self.big else 'I'}"

    @property
    def value_at(self) -> int:
        return self.at + (12 if self.big else 8)


def entries(data: bytes) -> list[Entry]:
    """Return the tags of all directories of a TIFF, as far as they can be followed."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return []
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    return list(_walk(data, order, big=big))


def _walk(data: bytes, order: str, *, big: bool) -> Iterator[Entry]:
    word, short = f"{order}{'Q' if big else 'I'}", f"{order}{'Q' if big else 'H'}"
    size = 20 if big else 12
    seen: set[int] = set()
    (at,) = struct.unpack_from(word, data, 8 if big else 4)
    while at and at not in seen and at + 8 <= len(data) and len(seen) < 20:
        seen.add(at)
        (count,) = struct.unpack_from(short, data, at)
        at += struct.calcsize(short)
        for _ in range(min(count, 100)):
            if at + size > len(data):
                return
            tag, kind = struct.unpack_from(f"{order}HH", data, at)
            (values,) = struct.unpack_from(word, data, at + 4)
            yield Entry(at, tag, kind, values, order, big)
            at += size
        if at + struct.calcsize(word) > len(data):
            return
        (at,) = struct.unpack_from(word, data, at)


def _place(data: bytearray, random: Random) -> int:
    """Choose a byte, most often near one of the ends, where headers are."""
    reach = min(len(data), 1500) if random.random() < 0.6 else len(data)
    at = random.randrange(max(1, reach))
    return len(data) - 1 - at if random.random() < 0.4 else at


def flip_bit(data: bytearray, random: Random) -> str:
    if data:
        data[_place(data, random)] ^= 1 << random.randrange(8)
    return "bit flipped"


def overwrite(data: bytearray, random: Random) -> str:
    at, size = _place(data, random), random.choice((1, 1, 2, 4, 8))
    data[at : at + size] = random.randbytes(len(data[at : at + size]))
    return "bytes overwritten"


def truncate(data: bytearray, random: Random) -> str:
    del data[_place(data, random) :]
    return "truncated"


def zero(data: bytearray, random: Random) -> str:
    at, size = _place(data, random), random.choice((4, 16, 64, 512, 4096))
    data[at : at + size] = bytes(len(data[at : at + size]))
    return "piece zeroed"


def _pieces(data: bytearray, random: Random) -> tuple[slice, slice]:
    size = random.choice((2, 12, 16, 128, 512))
    first, second = _place(data, random), _place(data, random)
    return slice(first, first + size), slice(second, second + size)


def swap(data: bytearray, random: Random) -> str:
    a, b = sorted(_pieces(data, random), key=lambda piece: piece.start)
    if a.stop <= b.start and b.stop <= len(data):
        data[a], data[b] = data[b], data[a]
    return "pieces swapped"


def repeat(data: bytearray, random: Random) -> str:
    a, b = _pieces(data, random)
    if random.random() < 0.5:
        data[b.start : b.start + len(data[a])] = data[a]  # over what is there
    else:
        data[b.start : b.start] = data[a]
    return "piece repeated"


def patch_tag(data: bytearray, random: Random) -> str:
    """Give a tag another number, type, count or value."""
    known = [entry for entry in entries(bytes(data)) if entry.tag in NAMES]
    if not known:
        return flip_bit(data, random)
    entry = random.choice(known)
    name, what = NAMES[entry.tag], random.choice(("tag", "type", "count", "value", "value"))
    value = random.choice(NUMBERS)
    if what == "tag":
        other = random.choice(list(TAGS))
        struct.pack_into(f"{entry.order}H", data, entry.at, TAGS[other])
        return f"{name} called {other}"
    if what == "type":
        struct.pack_into(f"{entry.order}H", data, entry.at + 2, value % random.choice((19, 65536)))
    elif what == "count":
        struct.pack_into(entry.word, data, entry.at + 4, value)
    else:
        if random.random() < 0.7:  # a value that is a number has the type and count of one
            struct.pack_into(f"{entry.order}H", data, entry.at + 2, 4)
            struct.pack_into(entry.word, data, entry.at + 4, 1)
        struct.pack_into(f"{entry.order}I", data, entry.value_at, value)
    return f"{what} of {name}"


def patch_table(data: bytearray, random: Random) -> str:
    """Change where a block is said to lie, or how many bytes it is said to have."""
    tables = [e for e in entries(bytes(data)) if e.tag in (273, 279, 324, 325) and e.count > 1]
    if not tables:
        return patch_tag(data, random)
    entry = random.choice(tables)
    width = {3: "H", 4: "I", 16: "Q"}.get(entry.kind)
    if width is None:
        return patch_tag(data, random)
    (table,) = struct.unpack_from(entry.word, data, entry.value_at)
    number = f"{entry.order}{width}"
    size = struct.calcsize(number)
    if entry.count * size <= struct.calcsize(entry.word):
        table = entry.value_at
    at = table + size * random.randrange(min(entry.count, 1 << 20))
    if at + size > len(data):
        return patch_tag(data, random)
    (before,) = struct.unpack_from(number, data, at)
    near = before + random.choice((-1000, -16, -1, 1, 16, 1000))
    value = random.choice((near, near, *NUMBERS)) % (1 << 8 * size)
    struct.pack_into(number, data, at, value)
    return f"an entry of {NAMES[entry.tag]}"


Change = Callable[[bytearray, Random], str]
OF_BYTES: tuple[Change, ...] = (flip_bit, overwrite, truncate, zero, swap, repeat)
OF_TIFFS: tuple[Change, ...] = (*OF_BYTES, *(patch_tag,) * 5, *(patch_table,) * 2)


def mutate(data: bytes, random: Random, ways: tuple[Change, ...] = OF_TIFFS) -> tuple[bytes, str]:
    """Damage bytes in one to three ways; returns them, and in which."""
    changed = bytearray(data)
    count = random.choice((1, 1, 1, 2, 3))
    told = [random.choice(ways)(changed, random) for _ in range(count)]
    return bytes(changed), ", ".join(told)


ODD_WORDS = (
    *("", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1_000", "٣"),
    *("2147483647", "2147483648", "9223372036854775808", "9" * 30, "9" * 400, "0.5", "1,5", "-0"),
    *("true", "null", "Byte", "Float64", "CFloat32", "Int64", "x" * 300, "é", "a b", "%s", "{0}"),
    *("../x", ".", "/", "~", "{stem}", "$HOME", "scene.tif", "missing.tif", "<a>", "&amp;", "&#0;"),
)
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def mutate_text(data: bytes, random: Random) -> tuple[bytes, str]:
    """Damage a text, an XML say, in one or two ways; returns it, and in which."""
    if random.random() < 0.1:
        return mutate(data, random, OF_BYTES)
    text, told = data.decode(), []
    for _ in range(random.choice((1, 1, 2))):
        text, how = random.choice((_other_word, _other_word, _lines, _characters))(text, random)
        told.append(how)
    return text.encode("utf-8", "surrogatepass"), ", ".join(told)


def _other_word(text: str, random: Random) -> tuple[str, str]:
    found = list(random.choice((_NUMBER, _NUMBER, _WORD)).finditer(text))
    if not found:
        return text, "nothing"
    old = random.choice(found)
    word = random.choice(ODD_WORDS)
    return text[: old.start()] + word + text[old.end() :], f"{old[0][:20]} became {word[:20]}"


def _lines(text: str, random: Random) -> tuple[str, str]:
    """Drop, repeat or move a line."""
    lines = text.splitlines(keepends=True)
    if not lines:
        return text, "nothing"
    at, how = random.randrange(len(lines)), random.choice(("dropped", "repeated", "moved"))
    line = lines[at] if how == "repeated" else lines.pop(at)
    if how != "dropped":
        lines.insert(random.randrange(len(lines) + 1), line)
    return "".join(lines), f"line {how}"


def _characters(text: str, random: Random) -> tuple[str, str]:
    at, size = random.randrange(len(text) + 1), random.randrange(3)
    new = random.choice(("", "<", ">", '"', "\0", " ", "\n", "\t", ":", "-", "&", "\u2028", "é"))
    return text[:at] + new + text[at + size :], "characters changed"
