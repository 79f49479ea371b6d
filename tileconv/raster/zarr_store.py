"""Zarr v3 stores that xarray and rioxarray open with grid, nodata and band names.

The store is written beside the target, chunk by chunk, by all threads. Of every
chunk the CRC-32C of its bytes is kept, 4 bytes; once all tiles are there, each
chunk is read back and compared with it. A store may hold it, too, at the end of
each chunk, but GDAL up to 3.12 opens no such store.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from tileconv.errors import ConfigError, OutputError
from tileconv.raster.fsync import sync
from tileconv.raster.sink import DEFAULT_LEVEL, OutputSpec, Sink

try:
    import google_crc32c
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec
    from zarr.core.sync import sync as run_on_loop
    from zarr.storage import LocalStore
except ImportError as error:
    raise ConfigError(
        "output.driver: Zarr needs the package zarr: pip install 'tileconv[zarr]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zarr.core.buffer import Buffer

    from tileconv.planning.parts import Part
    from tileconv.planning.tiles import Tile
    from tileconv.raster.tag_model import Metadata

VARIABLE = "band_data"
"""What rioxarray calls the pixels of a raster."""
CHECKSUM = np.dtype("<u4")
"""A CRC-32C as it goes from one process to another."""
LONGEST_WRITE = 10.0
"""Seconds after which a write that still goes on is given up."""
_Coordinate = tuple[str, np.ndarray, dict[str, Any]]
_EXCHANGE = 2
_HERE = -100
"""RENAME_EXCHANGE and AT_FDCWD of Linux's renameat2."""


class _Recorder(LocalStore):
    """A folder that keeps the checksum of each chunk that is written into it."""

    def __init__(self, root: Path, checksums: np.ndarray) -> None:
        super().__init__(root)
        self._checksums = checksums

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file of the store."""
        name, _, place = key.partition("/c/")
        if name == VARIABLE and place:
            band, row, column = map(int, place.split("/"))
            self._checksums[band, row, column] = google_crc32c.value(value.to_bytes())
        await super().set(key, value)


class ZarrSink(Sink):
    """A Zarr store being written: one chunk for each block of each band."""

    def __init__(self, spec: OutputSpec) -> None:
        super().__init__(spec)
        self._array: zarr.Array[Any] | None = None
        bands, rows, columns = spec.shape
        grid = (bands, -(-rows // spec.block), -(-columns // spec.block))
        self._checksums = np.zeros(grid, np.uint32)

    def _create(self) -> None:
        spec = self.spec
        block = spec.block
        store = _Recorder(self._temporary, self._checksums)
        root = zarr.create_group(store, zarr_format=3, attributes=_root_attributes(spec.metadata))
        fill = np.zeros((), spec.dtype)[()] if spec.nodata is None else spec.nodata
        self._array = root.create_array(
            VARIABLE,
            shape=spec.shape,
            chunks=(1, block, block),
            dtype=spec.dtype,
            compressors=_codecs(spec),
            filters=None,
            fill_value=fill,
            attributes=_attributes(spec),
            dimension_names=("band", "y", "x"),
            config={"write_empty_chunks": True},  # a chunk that is not there did not reach the disk
        )
        for name, values, attributes in _coordinates(spec):
            dims = () if values.ndim == 0 else (name,)
            made = root.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                compressors=None,
                attributes=attributes,
                dimension_names=dims,
                config={"write_empty_chunks": True},
            )
            made[...] = values
        with warnings.catch_warnings():  # not in the standard yet; xarray warns where it is missing
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
            zarr.consolidate_metadata(store, zarr_format=3)

    def _put(self, tile: Tile, pixels: np.ndarray) -> None:
        if self._array is None:
            raise OutputError(f"{self.spec.path}: writing had already ended")
        # One chunk a call: where zarr writes many and one fails, it goes on with the others behind
        # our back, even into a folder that is being removed.
        side = self.spec.block
        for band, y, x in product(
            range(pixels.shape[0]), range(*tile.y, side), range(*tile.x, side)
        ):
            part = pixels[band, y - tile.y[0] :, x - tile.x[0] :][:side, :side]
            self._array[band, y : y + part.shape[0], x : x + part.shape[1]] = part

    def _complete(self) -> None:
        self._array = None
        os.sync()  # all at once: the syncs below then find nothing left to do
        _check_chunks(self._temporary, self.spec, self._checksums)
        for place, _, files in os.walk(self._temporary):
            if "zarr.json" in files:
                sync(Path(place, "zarr.json"))
            sync(Path(place))

    def _stored_bytes(self) -> int:
        return sum(
            os.stat(os.path.join(folder, name)).st_size  # noqa: PTH118 - a Path each is slow
            for folder, _, files in os.walk(self._temporary)
            for name in files
        )

    def _rename(self) -> None:
        """Put the store in place; where an old one lies, the two change places at once."""
        target = self.spec.path
        if not os.path.isdir(target):  # noqa: PTH112
            os.replace(self._temporary, target)
        elif not _exchange(self._temporary, target):
            # Not on this system: for a moment neither is there, and the old one has our name.
            aside = self._temporary.with_name(f"{self._temporary.name}.old")
            os.rename(target, aside)  # noqa: PTH104
            os.rename(self._temporary, target)  # noqa: PTH104

    def _discard(self) -> None:
        self._array = None
        if os.path.lexists(self._temporary):
            _let_writes_end()
        self._remove()


def _let_writes_end() -> None:
    """Wait for what zarr still writes behind our back.

    To make an array it writes several files at once; where one fails, it tells so and goes on with
    the others, even into a folder that is being removed.
    """

    async def wait() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=LONGEST_WRITE)

    run_on_loop(wait())


class SharedStore(ZarrSink):
    """A store at a known place, whose chunks others write with `StorePart`."""

    def __init__(self, spec: OutputSpec, place: Path) -> None:
        super().__init__(spec)
        self._temporary = place

    def _create(self) -> None:
        if not (self._temporary / VARIABLE / "zarr.json").exists():
            self._remove()
            super()._create()

    def add(self, part: Part, path: Path, entry: Mapping[str, Any]) -> None:
        """Take in the checksums of a part; its chunks are where they belong."""
        where = _chunks(self.spec, part.y, part.x)
        checksums = bytes.fromhex(entry["crc32c"])
        shape = self._checksums[where].shape
        self._checksums[where] = np.frombuffer(checksums, CHECKSUM).reshape(shape)

    def _discard(self) -> None:
        """Keep what is there, for a resumed run."""
        self._array = None


class StorePart(ZarrSink):
    """A part of a store that is there already: its chunks, each replaced as a whole."""

    def __init__(self, spec: OutputSpec, place: Path, part: Part) -> None:
        super().__init__(spec)
        self._temporary, self._part = place, part

    def __enter__(self) -> Self:
        self._array = zarr.open_array(
            _Recorder(self._temporary, self._checksums),
            path=VARIABLE,
            mode="r+",
            config={"write_empty_chunks": True},
        )
        return self

    def commit(self) -> int:
        """Check and sync the chunks; returns their bytes."""
        return check_part(self._temporary, self.spec, self._part, self._written)

    def entry(self) -> dict[str, Any]:
        """Check and sync the chunks; return what the manifest tells of them."""
        return {"bytes_written": self.commit(), "crc32c": self._written.hex()}

    @property
    def _written(self) -> bytes:
        """The checksums of the chunks that were written, as `SharedStore.add` takes them."""
        where = _chunks(self.spec, self._part.y, self._part.x)
        return self._checksums[where].astype(CHECKSUM).tobytes()

    def _discard(self) -> None:
        self._array = None


def _chunks(spec: OutputSpec, y: tuple[int, int], x: tuple[int, int]) -> tuple[slice, ...]:
    """Return which chunks cover half-open ranges of the output."""
    rows, columns = (slice(a // spec.block, -(-b // spec.block)) for a, b in (y, x))
    return slice(None), rows, columns


def check_part(store: Path, spec: OutputSpec, part: Part, checksums: bytes) -> int:
    """Check and sync the chunks of a part; raise `OutputError` if one is not whole.

    Returns their bytes.
    """
    _, rows, columns = (range(*each.indices(1 << 31)) for each in _chunks(spec, part.y, part.x))
    found = np.frombuffer(checksums, CHECKSUM).tolist()
    places = list(product(range(spec.shape[0]), rows, columns))
    if len(places) != len(found):
        raise OutputError(f"{store}: {len(found)} checksums for {len(places)} chunks")
    return sum(
        _check_chunk(store / VARIABLE / "c" / f"{band}/{row}/{column}", checksum)
        for (band, row, column), checksum in zip(places, found, strict=True)
    )


def _codecs(spec: OutputSpec) -> tuple[Any, ...]:
    """Return how chunks are compressed, and the checksum at their end."""
    end = (Crc32cCodec(),) if spec.checksum else ()
    level = spec.level or DEFAULT_LEVEL
    if spec.compress is None:
        return end
    if spec.compress == "deflate":
        return GzipCodec(level=level), *end
    shuffle: Literal["shuffle", "noshuffle"] = "shuffle" if spec.dtype.itemsize > 1 else "noshuffle"
    blosc = BloscCodec(cname="zstd", clevel=min(level, 9), shuffle=shuffle)
    return blosc, *end


def _attributes(spec: OutputSpec) -> dict[str, Any]:
    """Return what CF and rioxarray look for beside the pixels."""
    attributes: dict[str, Any] = {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    if spec.nodata is not None:
        attributes["_FillValue"] = _fill_value(spec.nodata)
    bands = spec.metadata.bands
    if any(band.description for band in bands):
        names = [band.description or f"band {i}" for i, band in enumerate(bands, 1)]
        attributes["long_name"] = names[0] if len(names) == 1 else names
    said = {(band.unit, band.scale, band.offset) for band in bands}
    if len(said) == 1:  # CF has one of each for all bands of an array
        unit, scale, offset = said.pop()
        attributes |= {"units": unit} if unit else {}
        if (scale, offset) != (1.0, 0.0):
            attributes |= {"scale_factor": scale, "add_offset": offset}
    return attributes


def _root_attributes(metadata: Metadata) -> dict[str, Any]:
    """Return tags: those of a domain as an object of its name."""
    attributes: dict[str, Any] = {"Conventions": "CF-1.11", **metadata.tags.get("", {})}
    return attributes | {name: dict(tags) for name, tags in metadata.tags.items() if name and tags}


def _fill_value(value: np.generic) -> int | str:
    """Return a fill value as xarray writes it for Zarr v3: JSON has no NaN."""
    if value.dtype.kind != "f":
        return int(value.item())
    return base64.standard_b64encode(struct.pack("<d", value.item())).decode()


def _coordinates(spec: OutputSpec) -> list[_Coordinate]:
    """Return (name, values, attributes) of the coordinates: pixel centres, band numbers, grid."""
    bands, rows, columns = spec.shape
    grid: dict[str, Any] = {}
    if spec.crs is not None:
        grid["crs_wkt"] = grid["spatial_ref"] = spec.crs.to_wkt()
    found: list[_Coordinate] = [("band", np.arange(1, bands + 1), {})]
    if spec.transform is not None:
        a, b, c, d, e, f = spec.transform
        grid["GeoTransform"] = " ".join(map(repr, (c, a, b, f, d, e)))
        if b == d == 0:  # a rotated grid has no coordinates along one axis
            y, x = f + e * (np.arange(rows) + 0.5), c + a * (np.arange(columns) + 0.5)
            geographic = spec.crs is not None and spec.crs.is_geographic
            found += [("y", y, _axis("y", geographic)), ("x", x, _axis("x", geographic))]
    return [*found, ("spatial_ref", np.zeros((), np.int64), grid)]


def _axis(name: str, geographic: bool) -> dict[str, str]:
    """Return CF's attributes of a coordinate."""
    if not geographic:
        return {"axis": name.upper(), "standard_name": f"projection_{name}_coordinate"}
    word, way = ("latitude", "north") if name == "y" else ("longitude", "east")
    return {"axis": name.upper(), "standard_name": word, "units": f"degrees_{way}"}


def check_store(path: Path, spec: OutputSpec) -> None:
    """Check that a finished store is what ``spec`` says, chunk by chunk."""
    array = _open_array(path)
    found, wanted = (array.shape, array.dtype), (spec.shape, spec.dtype)
    if found != wanted:
        raise OutputError(f"it holds {found[0]} of {found[1]}, not {wanted[0]} of {wanted[1]}")
    if array.chunks != (1, spec.block, spec.block):
        raise OutputError(f"its chunks are {array.chunks}, not (1, {spec.block}, {spec.block})")
    expected = _attributes(spec)
    if dict(array.attrs) != expected:
        raise OutputError(f"its attributes are {dict(array.attrs)}, not {expected}")
    _check_chunks(path, spec, None)


def chunk_side(path: Path) -> int:
    """Return the side of the chunks of a finished store."""
    return int(_open_array(path).chunks[1])


def read_store(path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Return the pixels (bands, rows, columns) of half-open ranges of a finished store."""
    return np.asarray(_open_array(path)[:, slice(*rows), slice(*columns)])


def _open_array(path: Path) -> zarr.Array[Any]:
    array = zarr.open_group(path, mode="r")[VARIABLE]
    if not isinstance(array, zarr.Array):
        raise OutputError(f"{path}: {VARIABLE} is not an array")
    return array


def _check_chunks(store: Path, spec: OutputSpec, checksums: np.ndarray | None) -> None:
    """Check every chunk, by the checksums that were kept.

    Without them it is unpacked; zarr then looks at the checksum in the store, too, if it has one.
    """
    bands, rows, columns = spec.shape
    across, down = -(-columns // spec.block), -(-rows // spec.block)
    check: Callable[..., object] = _check_chunk
    if checksums is None:
        check = partial(_unpack_chunk, _open_array(store))
    with ThreadPoolExecutor(spec.threads) as pool:
        for band, row in product(range(bands), range(down)):  # a store of millions has no list
            folder = store / VARIABLE / "c" / str(band) / str(row)
            kept = [] if checksums is None else [checksums[band, row].tolist()]
            list(pool.map(check, (folder / str(i) for i in range(across)), *kept))


def _check_chunk(path: Path, checksum: int) -> int:
    """Sync a chunk, and compare a checksum with its bytes as they are now; return their number."""
    try:
        with path.open("rb") as file:
            stored = file.read()
            os.fsync(file.fileno())
    except FileNotFoundError:
        raise OutputError(f"chunk {path.name} of {path.parent} did not reach the disk") from None
    if google_crc32c.value(stored) != checksum:
        raise OutputError(f"chunk {path}: its checksum is not that of what was written")
    return len(stored)


def _unpack_chunk(array: zarr.Array[Any], path: Path) -> None:
    """Read a chunk, which must be there: zarr takes one that is not for nothing but fill values."""
    if not path.is_file():
        raise OutputError(f"chunk {path}: is not there")
    band, row, column = map(int, path.parts[-3:])
    side = array.chunks[1]
    try:
        array[band, row * side : (row + 1) * side, column * side : (column + 1) * side]
    except Exception as error:  # each codec has errors of its own
        raise OutputError(f"chunk {path}: cannot be unpacked: {error}") from error


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; say whether the system can."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(one), os.fsencode(other)
        done: int = libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
        return done == 0
    return False
