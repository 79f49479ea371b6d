"""Values of every odd kind, by name: each is made again for every case, since some are used up."""

from __future__ import annotations

import fractions
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import dask.array
import numpy as np
import xarray

Value = Callable[[], Any]


class OwnError(Exception):
    """What an object of the caller's raises when it is used: no fault of who uses it."""


class _Raises:
    """An object that raises where it is asked for numbers."""

    def __init__(self, method: str) -> None:
        self.method = method

    def _raise(self, method: str) -> None:
        if method == self.method:
            raise OwnError(f"{method} of an odd object")

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self._raise("__array__")
        return np.ones((9, 9))

    def __index__(self) -> int:
        self._raise("__index__")
        return 2

    def __float__(self) -> float:
        self._raise("__float__")
        return 2.0

    def __len__(self) -> int:
        self._raise("__len__")
        return 2

    def __getitem__(self, item: Any) -> int:
        self._raise("__getitem__")
        if item > 1:
            raise IndexError
        return 1

    def __bool__(self) -> bool:
        self._raise("__bool__")
        return True

    def __fspath__(self) -> str:
        self._raise("__fspath__")
        return "scene.tif"


class Speechless:
    """An object that cannot be put into a message."""

    def __repr__(self) -> str:
        raise OwnError("__repr__ of an odd object")


def _unknown() -> Any:
    array = dask.array.ones((8, 8), chunks=4)
    return array[array[:, 0] > 0]


ODD: Mapping[str, Value] = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "3": lambda: 3,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "10**400": lambda: 10**400,
    "-(10**400)": lambda: -(10**400),
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1.5": lambda: 1.5,
    "1j": lambda: 1j,
    "a fraction": lambda: fractions.Fraction(1, 3),
    "no text": lambda: "",
    "a word": lambda: "same",
    "a name": lambda: "scene.tif",
    "a surrogate": lambda: "\ud800",
    "a null": lambda: "a\0b",
    "a long text": lambda: "x" * 5000,
    "braces": lambda: "{nothing}",
    "bytes": lambda: b"valid",
    "a bytearray": lambda: bytearray(b"\1\2"),
    "a memoryview": lambda: memoryview(b"\1\2"),
    "a set": lambda: {1, 2},
    "a dict": lambda: {"a": 1},
    "a dict of numbers": lambda: {1: 2},
    "no list": lambda: [],
    "a list": lambda: [1, 2],
    "a list of text": lambda: ["a", "b"],
    "a ragged list": lambda: [[1, 2], [3]],
    "a list of None": lambda: [None, None],
    "a tuple of five": lambda: (1, 2, 3, 4, 5),
    "huge ones": lambda: [10**30, 10**30],
    "nans": lambda: [float("nan"), float("nan")],
    "a generator": lambda: (n for n in (1, 2)),
    "a range": lambda: range(2),
    "a slice": lambda: slice(1, 2),
    "a function": lambda: len,
    "a type": lambda: int,
    "an object": object,
    "a path": lambda: Path("scene.tif"),
    "a folder's path": lambda: Path("folder"),
    "Ellipsis": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "a numpy int": lambda: np.int64(2),
    "a numpy float": lambda: np.float32(1.5),
    "a numpy bool": lambda: np.True_,
    "a numpy text": lambda: np.str_("same"),
    "a numpy date": lambda: np.datetime64("2026-11-30"),
    "a dtype": lambda: np.dtype("float32"),
    "a big-endian dtype": lambda: np.dtype(">i2"),
    "a structured dtype": lambda: np.dtype([("a", "i4")]),
    "a 0-d array": lambda: np.array(2),
    "an empty array": lambda: np.zeros((0, 3)),
    "an array of objects": lambda: np.array([[1, None], ["a", 2]], object),
    "an array of text": lambda: np.array([["a", "b"]]),
    "an array of dates": lambda: np.zeros((4, 4), "datetime64[D]"),
    "a structured array": lambda: np.zeros((4, 4), [("a", "i4")]),
    "halves": lambda: np.ones((5, 5), "float16"),
    "long doubles": lambda: np.ones((5, 5), np.longdouble),
    "complex": lambda: np.ones((5, 5), complex),
    "five axes": lambda: np.ones((1, 2, 1, 3, 3)),
    "NaNs": lambda: np.full((5, 5), np.nan),
    "a masked array": lambda: np.ma.masked_less(np.arange(25.0).reshape(5, 5), 7),
    "a dask array": lambda: dask.array.ones((7, 9), chunks=(3, 4)),
    "a dask array of unknown shape": _unknown,
    "a DataArray": lambda: xarray.DataArray(np.ones((6, 7)), dims=("y", "x")),
    "a Dataset": lambda: xarray.Dataset({"a": (("y", "x"), np.ones((6, 7)))}),
    "no Dataset": xarray.Dataset,
    "one that cannot be told": Speechless,
    "a dict that cannot be told": lambda: {"weights": Speechless()},
    "a list that cannot be told": lambda: [Speechless(), Speechless()],
    **{
        f"{method} raises": (lambda method=method: _Raises(method))
        for method in (
            *("__array__", "__index__", "__float__", "__len__"),
            *("__getitem__", "__bool__", "__fspath__", "nothing"),
        )
    },
}


def array(random: Random) -> tuple[str, Any]:
    """Make an array that can be convolved, of some library, dtype and layout."""
    dtype = random.choice(
        ("bool", "uint8", "int8", ">i2", "uint16", "int32", "uint64", "float32", ">f8", "complex64")
    )
    shape = random.choice(((7, 9), (12, 5), (1, 1), (3, 8, 7), (2, 3, 6, 6), (40, 33)))
    numbers = np.random.default_rng(random.randrange(1 << 30)).integers(0, 100, shape)
    plain = numbers.astype(dtype)
    how = random.choice(list(LAYOUTS))
    return f"{how} {dtype} {shape}", LAYOUTS[how](plain)


def _memmap(plain: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, plain.dtype, "w+", shape=plain.shape)
        mapped[...] = plain
        return mapped


def _named(plain: np.ndarray) -> Any:
    dims = ("time", "band", "y", "x")[-plain.ndim :]
    coords = {"y": np.arange(plain.shape[-2]) * -10.0, "x": np.arange(plain.shape[-1]) * 10.0}
    return xarray.DataArray(plain, dims=dims, coords=coords, attrs={"_FillValue": 3})


LAYOUTS: Mapping[str, Callable[[np.ndarray], Any]] = {
    "plain": lambda plain: plain,
    "Fortran": np.asfortranarray,
    "reversed": lambda plain: plain[..., ::-1, ::-1],
    "sliced": lambda plain: np.repeat(plain, 3, -1)[..., ::3],
    "broadcast": lambda plain: np.broadcast_to(plain[..., :1, :], plain.shape),
    "a list": lambda plain: plain.tolist(),
    "masked": lambda plain: np.ma.masked_equal(plain, 3),
    "mapped": _memmap,
    "read-only": lambda plain: np.frombuffer(plain.tobytes(), plain.dtype).reshape(plain.shape),
    "dask": lambda plain: dask.array.from_array(plain, chunks=4),
    "a DataArray of": _named,
    "a chunked DataArray of": lambda plain: _named(plain).chunk(5),
    "a Dataset of": lambda plain: xarray.Dataset({"a": _named(plain), "b": _named(plain)}),
}
