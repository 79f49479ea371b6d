"""Whatever is passed to a public function, the answer is a result or one of tileconv's errors.

The tables of docs/arguments.md say what each argument accepts; they drive these tests.
``TILECONV_ARGUMENT_EXAMPLES=20000 pytest tests/test_arguments.py`` tries more.
"""

import array as buffers
import datetime
import decimal
import fractions
import inspect
import itertools
import os
import re
import subprocess
import sys
import uuid
import warnings
from collections import UserDict, deque
from collections.abc import Mapping
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import tileconv
import tileconv.xarray
from tileconv import ConfigError, ConvolutionError, TileconvError
from tileconv.arguments import check_nesting, short_repr
from tileconv.files import RasterOptions
from tileconv.jobs.config import (
    ComputeConfig,
    InputConfig,
    JobConfig,
    OutputConfig,
    option_places,
)
from tileconv.verify import verify

EXAMPLES = int(os.environ.get("TILECONV_ARGUMENT_EXAMPLES", "300"))
IMAGE = np.arange(1.0, 257.0, dtype="float32").reshape(16, 16)
BOX = np.ones((3, 3))

# ---- What the docs say


def read_tables():
    """Return {function: {argument: (kind, allowed)}} and the kinds, as the page has them."""
    page = (ROOT / "docs" / "arguments.md").read_text()
    head, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    kinds = re.findall(r"^\| ([a-z]+) \| (?!---)", head, re.MULTILINE)
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\|$", re.MULTILINE)
    tables = {
        section.splitlines()[0]: {
            name: (kind, allowed) for name, kind, allowed in row.findall(section)
        }
        for section in sections
    }
    return tables, [kind for kind in kinds if kind != "kind"]


TABLES, KINDS = read_tables()


def parameters(function):
    """Return the names of a function's arguments, those of ``**options`` too."""
    names = list(inspect.signature(function).parameters)
    if "options" in names:
        names.remove("options")
        names += RasterOptions.__annotations__
    return names


FUNCTIONS = {
    "tileconv.convolve": tileconv.convolve,
    "tileconv.convolve_raster": tileconv.convolve_raster,
    "tileconv.focal": tileconv.focal,
    "tileconv.load_job": tileconv.load_job,
    "tileconv.plan": tileconv.plan,
    "tileconv.run": tileconv.run,
    "tileconv.verify.verify": verify,
    **tileconv.kernels.BY_NAME,
}


def test_the_tables_are_those_of_the_signatures():
    for name, function in FUNCTIONS.items():
        if name in tileconv.kernels.BY_NAME:
            continue
        assert list(TABLES[name]) == parameters(function), name
    made = {name for make in tileconv.kernels.BY_NAME.values() for name in parameters(make)}
    assert set(TABLES["tileconv.kernels"]) == made
    assert {kind for table in TABLES.values() for kind, _ in table.values()} == set(KINDS)
    functions = {
        f"tileconv.{name}" for name in tileconv.__all__ if callable(getattr(tileconv, name))
    }
    functions -= {f"tileconv.{name}" for name in tileconv.__all__ if name[0].isupper()}
    assert functions <= set(TABLES)


# ---- What a kind is, said a second time


def is_whole(value):
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    kind = type(value)
    return issubclass(kind, int | np.integer) and not issubclass(kind, bool | np.timedelta64)


def is_number(value):
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return is_whole(value) or issubclass(type(value), float | np.floating)


def is_finite(value):
    return is_number(value) and (is_whole(value) or bool(np.isfinite(value)))


def is_flag(value):
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return issubclass(type(value), bool | np.bool_)


def is_text(value):
    return issubclass(type(value), str)


def is_path(value):
    return is_text(value) or issubclass(type(value), os.PathLike)


def is_list(value, fits, sizes=range(1 << 20)):
    kind = type(value)
    if issubclass(kind, np.ndarray) and value.ndim == 1:
        value = list(value.view(np.ndarray))
    for base in (list, tuple):  # its own ways to its members may raise
        if issubclass(type(value), base):
            return base.__len__(value) in sizes and all(map(fits, base.__iter__(value)))
    return False


def is_pair(value):
    return is_whole(value) or is_list(value, is_whole, [2])


def is_array(value):
    """Say whether numpy makes numbers of it; those who raise do not get here."""
    try:
        check_nesting(value, "the array")
        return np.asarray(value).dtype.kind in "biufc"
    except (TileconvError, ValueError, TypeError):
        return False


def is_dtype(value):
    try:
        return np.dtype(value).kind in "iufc"
    except (TypeError, ValueError):
        return False


def is_mapping(value):
    return issubclass(type(value), Mapping)


FITS = {
    "whole": is_whole,
    "number": lambda v: is_number(v) or (is_text(v) and v.lower() == "nan"),
    "finite": is_finite,
    "flag": is_flag,
    "word": is_text,
    "words": lambda v: is_text(v) or is_list(v, is_text, [2]),
    "pair": is_pair,
    "pads": lambda v: is_text(v) or is_pair(v) or is_list(v, is_whole, [4]),
    "length": lambda v: is_number(v) or is_list(v, is_number, [2]),
    "array": is_array,
    "footprint": lambda v: is_pair(v) or is_array(v),
    "image": lambda v: is_array(v) or type(v).__module__.split(".")[0] in ("dask", "xarray"),
    "dtype": is_dtype,
    "names": lambda v: is_list(v, lambda _: True, [2]),
    "numbers": lambda v: is_list(v, is_number),
    "wholes": lambda v: is_list(v, is_whole),
    "auto": lambda v: is_whole(v) or is_text(v),
    "autopair": lambda v: is_pair(v) or is_text(v),
    "bytes": lambda v: is_number(v) or is_text(v),
    "texts": lambda v: is_list(v, is_text),
    "path": is_path,
    "paths": lambda v: is_path(v) or is_list(v, is_path),
    "kernel": lambda v: is_array(v) or is_text(v) or is_mapping(v),
    "keys": is_mapping,
    "job": lambda v: isinstance(v, tileconv.Job),
    "batch": lambda v: isinstance(v, tileconv.Job | tileconv.Batch),
    "source": lambda v: is_path(v) or is_mapping(v),
    "client": lambda v: False,
    "function": callable,
}
"""Whether a value may be accepted, by kind."""

# ---- Values that nobody should pass


def raising(name, base=object):
    """Make an object of which one method raises."""

    def fail(self, *args, **kwargs):
        raise RuntimeError(f"{name} of a user's object")

    body = {name: fail}
    if name == "__eq__":
        body["__hash__"] = base.__hash__
    if base is object and name in ("__iter__", "__len__"):
        body.setdefault("__len__", lambda self: 2)
        body["__getitem__"] = fail
    return type(f"With{name.strip('_').title()}", (base,), body)


METHODS = ("__array__", "__index__", "__float__", "__len__", "__iter__", "__eq__", "__hash__")
METHODS += ("__repr__", "__str__", "__bool__", "__getattr__", "__fspath__", "__int__")


def itself():
    value = []
    value += [value, value]
    return value


def rows_of_itself():
    value = [[1, 2]]
    value.append([value, 1])
    return value


def deep():
    value = (1,)
    for _ in range(100_000):  # hashing it would exhaust the stack
        value = (value, 1)
    return value


def keys_of_itself():
    value = {"path": "in.tif"}
    value["input"] = value
    return value


def endless():
    while True:
        yield 1


ODD = {
    "None": lambda: None,
    **{
        repr(v)[:40]: lambda v=v: v
        for v in (
            True,
            0,
            -1,
            2**70,
            -(2**70),
            2.0,
            2.5,
            1e308,
            1j,
            b"2",
            b"",
            bytearray(b"12"),
            "",
            "2",
            "nan",
            "same\0",
            "\ud800",
            "é" * 300,
            (2,),
            [1],
            (),
            [],
            (1, True),
            (1, 2.0),
            [2.0, 2.0],
            (1, 2, 3),
            ("1", "2"),
            [None, None],
            {1, 2},
            frozenset({1, 2}),
            {},
            {"y": 1, "x": 2},
            {1: 2, 3: 4},
            {b"input": 1},
            range(1, 3),
            slice(1, 2),
            ...,
            NotImplemented,
            object,
            int,
            datetime.date(2026, 1, 1),
            datetime.timedelta(2),
            decimal.Decimal("2"),
            decimal.Decimal("sNaN"),
            fractions.Fraction(4, 2),
            Path("none.tif"),
            [[1, 2], [3]],
            [["a"]],
            [[1, None]],
            [[2**70]],
            ["a\0b", "c"],
            [Path("none.tif")],
        )
    },
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "hundreds of digits": lambda: 10**400,
    "thousands of digits": lambda: 10**6000,
    "minus thousands of digits": lambda: -(10**6000),
    "generator": endless,
    "count": itertools.count,
    "iterator of a list": lambda: iter([1, 2]),
    "map": lambda: map(int, endless()),
    "zip": lambda: zip(endless(), endless(), strict=False),
    "dict keys": {1: 1, 2: 2}.keys,
    "UserDict": lambda: UserDict({"a": 1}),
    "deque": lambda: deque([1, 2]),
    "buffer": lambda: buffers.array("i", [1, 2]),
    "memoryview": lambda: memoryview(b"12"),
    "a list in itself": itself,
    "rows in themselves": rows_of_itself,
    "tuples in tuples": deep,
    "keys in themselves": keys_of_itself,
    "lambda": lambda: lambda *a: None,
    "module": lambda: np,
    "uuid": uuid.uuid4,
    **{
        f"numpy {v!r}": lambda v=v: v
        for v in (
            np.bool_(True),
            np.int8(2),
            np.uint64(2**63),
            np.float64(2.0),
            np.float16(2),
            np.longdouble(2),
            np.complex64(2),
            np.datetime64("2026-01-01"),
            np.timedelta64(2, "s"),
            np.timedelta64(2, "ns"),
            np.timedelta64("NaT", "s"),
            np.str_("2"),
            np.bytes_(b"2"),
            np.void(b"22"),
            np.dtype("f4"),
            np.dtype("f4,i4"),
            np.float32,
            np.ma.masked,
            np.random.default_rng(0),
        )
    },
    **{
        f"array {v!r} {v.dtype}": lambda v=v: v.copy()
        for v in (
            np.array(2),
            np.array(2.0),
            np.array(True),
            np.array("2"),
            np.array(None),
            np.array([1, 2]),
            np.array([1.0, 2.0]),
            np.array(["a", "b"]),
            np.array([1, 2], object),
            np.array([[], []]),
            np.array([[1, 2], [3, 4]], object),
            np.array([["a", "b"]]),
            np.array([[1j, 2], [3, 4]]),
            np.array([[1, 2]], "m8[ns]"),
            np.array([1, 2], "m8[ns]"),
            np.array(["2026-01-01"], "M8[D]"),
            np.array([[(1, 2.0)]], "i4,f8"),
            np.array([[np.nan, 1], [1, 1]]),
            np.array([[np.inf, 1]]),
            np.zeros((0, 3)),
            np.zeros((1,) * 20),
            np.ones((2, 2), "g"),
            np.ones((2, 2), "G"),
            np.ones((2, 2), ">f4"),
            np.ones((2, 2), "e"),
            np.ma.array([[1.0, 2.0]], mask=[[True, False]]),
            np.ma.array([1, 2], mask=[True, False]),
        )
    },
    "numpy matrix": lambda: np.ones((2, 2)).view(type("Matrix", (np.ndarray,), {})),
    "numpy's own texts": lambda: np.array([["a", "b"]], np.dtypes.StringDType()),
    "numpy's own texts' dtype": np.dtypes.StringDType,
    "record": lambda: np.rec.array([(1, 2)]),
    "dask array": lambda: da.ones((4, 4), chunks=2),
    "dask number": lambda: da.ones((), chunks=()),
    "dask delayed": lambda: dask.delayed(1),
    "dask words": lambda: da.from_array(np.array([["a", "b"]])),
    "DataArray": lambda: xr.DataArray(np.ones((4, 4)), dims=("y", "x")),
    "DataArray of no axes": lambda: xr.DataArray(1),
    "DataArray of words": lambda: xr.DataArray([["a"]], dims=("y", "x")),
    "DataArray of objects": lambda: xr.DataArray(np.array([[None]]), dims=("y", "x")),
    "Dataset": xr.Dataset,
    "DataTree": xr.DataTree,
    "Variable": lambda: xr.Variable(("y", "x"), np.ones((4, 4))),
    "job": lambda: tileconv.load_job(keys_of_job()),
    "foreign module": type("Odd", (), {"__module__": 3}),
    **{f"object {name}": lambda name=name: raising(name)() for name in METHODS},
    **{
        f"int {name}": lambda name=name: raising(name, int)(2)
        for name in ("__index__", "__eq__", "__hash__", "__repr__", "__int__", "__float__")
    },
    **{
        f"str {name}": lambda name=name: raising(name, str)("same")
        for name in ("__eq__", "__hash__", "__repr__", "__str__", "__len__", "__iter__", "lower")
    },
    **{
        f"list {name}": lambda name=name: raising(name, list)([1, 2])
        for name in ("__len__", "__iter__", "__getitem__", "__eq__", "__repr__")
    },
    **{
        f"dict {name}": lambda name=name: raising(name, dict)(a=1)
        for name in ("__len__", "__iter__", "__getitem__", "items", "keys", "__repr__")
    },
    **{
        f"ndarray {name}": lambda name=name: np.ones(2, int).view(raising(name, np.ndarray))
        for name in ("__len__", "__iter__", "__getitem__", "__array__", "__repr__", "__eq__")
    },
    **{
        f"tuple {name}": lambda name=name: raising(name, tuple)((1, 2))
        for name in ("__len__", "__iter__", "__getitem__", "__hash__", "__eq__", "__repr__")
    },
    "float __float__": lambda: raising("__float__", float)(2.5),
    "path __fspath__": raising("__fspath__", os.PathLike),
    "path of bytes": type("Odd", (os.PathLike,), {"__fspath__": lambda self: b"in.tif"}),
}


def filled(value):
    held = np.empty(2, object)
    held[:] = None
    held[0] = value
    return held


AROUND = {
    "itself": lambda v: v,
    "in a tuple": lambda v: (v, 1),
    "in a list": lambda v: [1, v],
    "alone in a list": lambda v: [v],
    "twice": lambda v: [v, v],
    "in rows": lambda v: [[v, 1], [1, 1]],
    "under a key": lambda v: {"name": v},
    "in an array": filled,
    "in options": lambda v: {"name": "LocalCluster", "scale": v},
}


# ---- What is called


def keys_of_job(**changes):
    keys = {"input": {"path": "in.tif"}, "kernel": {"name": "box"}, "output": {"path": "out.tif"}}
    keys["output"]["overwrite"] = True
    return keys | changes


def kernel_call(make):
    return make


CALLS = {
    "tileconv.convolve": lambda **given: tileconv.convolve(
        **{"array": IMAGE, "kernel": BOX} | given
    ),
    "accessor": lambda **given: xr.DataArray(IMAGE, dims=("y", "x")).tileconv.convolve(
        **{"kernel": BOX} | given
    ),
    "tileconv.focal": lambda **given: tileconv.focal(
        **{"array": IMAGE, "statistic": "median", "footprint": 3} | given
    ),
    "focal accessor": lambda **given: xr.DataArray(IMAGE, dims=("y", "x")).tileconv.focal(
        **{"statistic": "max", "footprint": 3} | given
    ),
    "lazy": lambda **given: tileconv.convolve(
        **{"array": da.from_array(IMAGE, chunks=5), "kernel": BOX} | given
    ),
    "bank": lambda **given: tileconv.convolve(
        **{"array": np.ones((4, 9, 9)), "kernel": np.ones((2, 4, 3, 3))} | given
    ),
    "tileconv.convolve_raster": lambda **given: tileconv.convolve_raster(
        **{"source": "in.tif", "target": "out.tif", "kernel": "box", "overwrite": True} | given
    ),
    "tileconv.load_job": lambda **given: tileconv.load_job(**{"source": keys_of_job()} | given),
    "tileconv.plan": tileconv.plan,
    "tileconv.run": lambda **given: tileconv.run(
        **{"job": tileconv.load_job(keys_of_job())} | given
    ),
    "tileconv.verify.verify": lambda **given: verify(
        **{"job": tileconv.load_job(keys_of_job()), "windows": 1} | given
    ),
    **{
        name: kernel_call(make)
        for name, make in tileconv.kernels.BY_NAME.items()
        if parameters(make)
    },
}


def table_of(call):
    if call in tileconv.kernels.BY_NAME:
        names = parameters(tileconv.kernels.BY_NAME[call])
        return {name: TABLES["tileconv.kernels"][name] for name in names}
    if call == "focal accessor":
        return TABLES["tileconv.focal"]
    return TABLES.get(call, TABLES["tileconv.convolve"])


PLACES = [
    (call, name)
    for call in CALLS
    for name in table_of(call)
    if name != "array" or "accessor" not in call
]


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory):
    """Work where odd names may be files."""
    folder, before = tmp_path_factory.mktemp("arguments"), Path.cwd()
    os.chdir(folder)
    write_raster(folder / "in.tif")
    tileconv.run(tileconv.load_job(keys_of_job()))
    yield
    os.chdir(before)


def write_raster(path):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=16,
        height=16,
        count=1,
        dtype="float32",
        crs="EPSG:32621",
        transform=rasterio.Affine(30, 0, 7e5, 0, -30, 0),
    ) as raster:
        raster.write(IMAGE, 1)


def may_be_none(call, name):
    """Say whether None stands for what an argument is by default, as keys of jobs have it."""
    known = {**FUNCTIONS, "focal accessor": tileconv.focal}
    own = inspect.signature(known.get(call, tileconv.convolve)).parameters
    if name in own:
        return own[name].default is None
    sections = {"input": InputConfig, "output": OutputConfig, "compute": ComputeConfig}
    place = sections.get(option_places()[name], JobConfig)
    return name in place.model_fields and place.model_fields[name].default is None


def try_odd(place, odd, around):
    """Pass an odd value; tileconv refuses it by an error of its own, or it is of the kind asked."""
    call, name = place
    kind, _ = table_of(call)[name]
    value = AROUND[around](ODD[odd]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            CALLS[call](**{name: value})
        except TileconvError as error:
            str(error).encode("utf-8", "backslashreplace")
            return
        except BaseException as error:
            if kind == "function" and callable(value):  # its own error, as it raised it
                return
            error.add_note(f"{call}({name}={short_repr(value)}): {odd}, {around}")
            raise
    if value is None:
        assert may_be_none(call, name)
        return
    assert FITS[kind](value), f"{call}({name}={short_repr(value)}) is no {kind}, and was accepted"


@settings(max_examples=EXAMPLES)
@given(
    place=st.sampled_from(PLACES),
    odd=st.sampled_from(list(ODD)),
    around=st.sampled_from(list(AROUND)),
)
def test_odd_arguments_are_refused(place, odd, around):
    try_odd(place, odd, around)


# ---- Values that the tables allow

PAIRS = [1, 2, np.int16(2), np.array(2), (1, 2), [2, 1], (np.uint8(1), 2), np.array([1, 2])]
NUMBERS = [0, 1, 0.5, np.float32(0.5), np.int8(1), np.array(0.25)]
FLAGS = [True, False, np.True_, np.array(False)]
WHOLES = [1, np.int64(2), np.array(1)]
LENGTHS = [1, 1.5, np.float32(2), (2, 1.5), [2, 2], np.array([1.5, 2]), np.array(2.0)]
FINITE = [*NUMBERS, -2]
PADS = [*PAIRS, 0, "valid", "same", np.str_("same"), "same_lower", (0, 1, 2, 3), np.arange(4)]
MODES = ["constant", "edge", np.str_("wrap"), ("edge", "wrap"), ["edge", "missing"]]
MODES += [np.array(["edge", "wrap"])]
SAME = {  # of arrays and of files
    "stride": PAIRS,
    "dilation": PAIRS,
    "padding": PADS,
    "padding_mode": MODES,
    "padding_value": [*FINITE, float("nan")],
    "flip": FLAGS,
    "nodata": [0, 1.5, np.int64(3), np.array(3.0), float("nan")],
    "missing": ["propagate", "skip", np.str_("fill"), "renormalize"],
    "fill_value": FINITE,
    "min_valid_fraction": NUMBERS,
    "require_center": FLAGS,
    "dtype": ["float32", np.float64, np.dtype("int16"), "u1", float, ">f4"],
}
ARRAYS = {
    **SAME,
    "array": [IMAGE, IMAGE.tolist(), IMAGE.astype(">i2"), IMAGE > 3, np.ma.array(IMAGE)],
    "kernel": [BOX, BOX.tolist(), BOX.astype("u1"), ((1, 2), (3, 4)), BOX > 0],
    "threads": WHOLES,
    "dims": [("y", "x"), ["x", "y"], np.array(["y", "x"])],
    "chunks": PAIRS,
    "groups": [1, 2, np.int8(4), np.array(1)],
    "bias": [[1, 2, 3, 4], (1.5,) * 4, np.arange(4), None],
}


def convolve_groups(groups=4, bias=None):
    kernel = np.ones((4, 4 // groups, 3, 3))
    return tileconv.convolve(np.ones((4, 9, 9)), kernel, groups=groups, bias=bias)


FOCAL = {
    **{name: ARRAYS[name] for name in ARRAYS if name in TABLES["tileconv.focal"]},
    "statistic": ["max", np.str_("median")],
    "footprint": [3, (2, 3), np.array([3, 1]), BOX, BOX.tolist(), BOX > 0, np.eye(3, dtype="u1")],
    "missing": ["propagate", "skip", np.str_("fill")],
    "only_missing": [False],
    "method": ["linear"],
    "ties": ["lowest"],
    "ddof": [0],
    "classes": [None],
}
WHERE = {"groups": convolve_groups, "bias": convolve_groups}
WHERE |= {"dims": CALLS["accessor"], "chunks": CALLS["lazy"]}
"""The calls that have a use for some arguments of `convolve`."""
VALID = {
    "tileconv.convolve": ARRAYS,
    "tileconv.focal": FOCAL,
    "tileconv.convolve_raster": {
        **SAME,
        "source": ["in.tif", Path("in.tif"), ["in.tif"], (Path("in.tif"),)],
        "target": ["other.tif", Path("other.tif")],
        "kernel": ["box", BOX, BOX.tolist(), BOX > 0, {"name": "box", "size": np.int8(3)}],
        "bands": [[1], (1,), np.array([1]), None],
        "progress": [None, lambda done, total: None],
        "mask": ["auto", "none", np.str_("nodata")],
        "scaled": FLAGS,
        "palette": FLAGS,
        "root": [".", None],
        "remote": FLAGS,
        "mosaic": [False, True],
        "overwrite": [True, np.True_],
        "groups": WHOLES[:1],
        "bias": [None],
        "normalize": FLAGS,
        "padding_value": [*FINITE, float("nan"), "nan"],
        "driver": ["GTiff", "COG", None],
        "overviews": [None],
        "layout": ["single"],
        "checksum": [False],
        "dtype": ["float32", np.float64, np.dtype("float32"), float, None],
        "compress": ["deflate", "none"],
        "predictor": ["auto", 1, np.int8(3)],
        "level": [3, np.int8(3)],
        "blocksize": [16, np.int16(32)],
        "valid_fraction": FLAGS,
        "quicklook": [False],
        "report": FLAGS,
        "scheduler": ["threads", "synchronous"],
        "workers": [1, np.int8(1), "auto"],
        "memory_limit": ["auto", "1 GiB", 2**30, np.int64(2**30)],
        "tile": ["auto", *PAIRS],
        "cluster": [None],
        "security": [None, {}],
        "part": ["auto", *PAIRS],
    },
    "tileconv.load_job": {
        "source": ["job.yaml", Path("job.yaml"), UserDict(keys_of_job())],
        "set": [(), [], ["stride=8"], ("stride=8", "groups=1")],
    },
    "tileconv.verify.verify": {"windows": WHOLES, "seed": [0, np.int64(3), np.array(2)]},
    "tileconv.run": {
        "client": [None],
        "progress": [None, lambda done, total: None],
        "resume": [False, np.False_],
        "performance_report": [None],
    },
    "tileconv.kernels": {
        "size": [*PAIRS, 3],
        "sigma": LENGTHS,
        "radius": LENGTHS,
        "outer": [2, 3.5, (3, 2), np.array([2, 3])],
        "inner": [0.5, np.float32(1), (1, 0.5)],
        "amount": FINITE,
        "stride": PAIRS,
        "lobes": WHOLES,
        "wavelength": [2, np.float32(2.5), (3, 3)],
        "theta": FINITE,
        "phase": FINITE,
        "aspect": [1, 0.5, np.int8(2), [2, 2]],
    },
}
ONE_NUMBER = {"gabor": {"sigma": [1, 1.5, (2, 2)]}, "unsharp": {"size": [3, (1, 5)]}}
ACCEPTED = [
    (call, name)
    for call in (*VALID, *tileconv.kernels.BY_NAME)
    if call != "tileconv.kernels"
    for name in (VALID[call] if call in VALID else table_of(call))
]


def test_every_argument_has_values_that_must_be_accepted():
    for function, table in TABLES.items():
        assert set(table) - set(VALID.get(function, {})) <= {"job"}, function


@pytest.mark.parametrize(("call", "name"), ACCEPTED, ids=map(str, ACCEPTED))
def test_what_the_tables_allow_is_accepted(call, name):
    values = VALID[call][name] if call in VALID else VALID["tileconv.kernels"][name]
    values = ONE_NUMBER.get(call, {}).get(name, values)
    Path("job.yaml").write_text(
        "{input: {path: in.tif}, kernel: {name: box}, output: {path: o.tif}}"
    )
    function = CALLS[call]
    if call == "tileconv.convolve" and name in WHERE:
        function = WHERE[name]
    if call == "tileconv.focal" and name == "dims":
        function = CALLS["focal accessor"]
    for value in values:
        assert function(**{name: value}) is not None
        assert value is None or FITS[table_of(call)[name][0]](value)


# ---- Some odd ones by name


@pytest.mark.parametrize(
    "options",
    [
        {"padding": b"1"},
        {"stride": b"2"},
        {"stride": bytearray(b"22")},
        {"stride": (2,)},
        {"padding": [1]},
        {"padding": range(1, 3)},
        {"dilation": b"\x01"},
        {"dilation": np.timedelta64(2, "s")},
        {"fill_value": np.timedelta64(2, "s")},
        {"flip": "no"},
        {"flip": np.ones(2)},
        {"bias": [[1], [2, 3]]},
        {"dtype": "float32,int8"},
        {"nodata": 10**6000},
        {"groups": 10**6000},
        {"missing": np.array(["skip", "fill"])},
    ],
    ids=short_repr,
)
def test_what_is_no_number_word_or_flag_is_refused(options):
    (name,) = options
    bank = np.ones((1, 1, 2, 2)) if name in ("bias", "groups") else BOX
    with pytest.raises(ConvolutionError, match=name):
        tileconv.convolve(np.ones((1, 60, 60), "u1"), bank, **options)


@pytest.mark.parametrize("twins", [((1, 1), (1, True)), ((2, 2), (2.0, 2.0)), ([1, 1], [True, 1])])
def test_what_equals_a_valid_option_is_checked_by_itself(twins):
    good, bad = twins
    for _ in range(2):  # the second time from what is remembered
        tileconv.convolve(IMAGE, BOX, stride=good)
        with pytest.raises(ConvolutionError, match="stride must be a whole number"):
            tileconv.convolve(IMAGE, BOX, stride=bad)


def try_endless():
    """Pass what has no end to arguments of an array's call."""
    for name in ("array", "kernel", "bias", "stride", "padding", "dims", "nodata"):
        for make in (itself, rows_of_itself, deep, endless, itertools.count):
            kernel = np.ones((1, 1, 2, 2)) if name == "bias" else BOX
            with pytest.raises(TileconvError):
                tileconv.convolve(**{"array": IMAGE[None], "kernel": kernel, name: make()})


def test_what_has_no_end_is_refused_at_once():
    # in a process of its own, which may hang, or die of an exhausted stack
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    code += "import test_arguments; test_arguments.try_endless()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_a_users_object_raises_is_the_cause():
    for name in ("array", "kernel", "bias"):
        kernel = np.ones((1, 1, 2, 2)) if name == "bias" else BOX
        given = {"array": IMAGE, "kernel": kernel, name: raising("__array__")()}
        with pytest.raises(ConvolutionError, match=f"{name} cannot be used: RuntimeError") as told:
            tileconv.convolve(**given)
        assert isinstance(told.value.__cause__, RuntimeError)


def test_interrupts_and_the_errors_of_callbacks_are_nobody_elses():
    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tileconv.convolve(type("Slow", (), {"__array__": interrupted})(), BOX)

    def progress(done, total):
        raise LookupError("of the callback")

    with pytest.raises(LookupError, match="of the callback"):
        tileconv.convolve_raster("in.tif", "o.tif", "box", progress=progress, overwrite=True)


def test_iterators_are_not_asked():
    asked = []
    lazy = (asked.append(n) for n in range(3))
    for name in ("array", "kernel", "stride", "padding", "dims", "chunks", "nodata"):
        with pytest.raises(ConvolutionError):
            tileconv.convolve(**{"array": IMAGE, "kernel": BOX, name: lazy})
    with pytest.raises(ConfigError):
        tileconv.load_job({"input": {"path": lazy}})
    with pytest.raises(ConfigError):
        tileconv.load_job("job.yaml", set=lazy)
    assert not asked


def test_a_repr_is_short_whatever_it_is_of():
    assert short_repr(raising("__repr__")()).startswith("<WithRepr ")
    assert short_repr(10**6000)[0] == "<"
    assert len(short_repr("long " * 1000)) < 100
    assert len(short_repr([["long " * 1000] * 1000] * 1000)) < 5000
    assert "\n" not in short_repr(np.ones((9, 9)))


def test_a_mapping_of_the_callers_stays_as_it_is(tmp_path, scene):
    kernel = {"name": "box"}
    tileconv.convolve_raster(scene, tmp_path / "out.tif", kernel, flip=True, bands=[1])
    assert kernel == {"name": "box"}
    strange = xr.Dataset({"name": ("x", [1])})
    with pytest.raises(TileconvError):
        tileconv.convolve_raster(scene, tmp_path / "other.tif", strange, flip=True)
