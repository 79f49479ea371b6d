"""Odd arguments of every public function."""

from __future__ import annotations

import hashlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import dask
import numpy as np

import tileconv
from fuzzing.jobs import make_files
from fuzzing.oddities import ODD, OwnError, array
from tileconv.files import RasterOptions

COMPUTED = 1 << 20
"""Outputs of a lazy result that is computed."""
KERNEL = [[1.0, 2.0, 1.0], [0.0, 0.5, -1.0]]
SCENE = "scene.tif"
KEYS: dict[str, Any] = {
    "input": {"path": SCENE},
    "kernel": {"name": "box"},
    "output": {"path": "../out/means.tif"},
    "compute": {"scheduler": "synchronous"},
}
USUAL: Mapping[str, tuple[Any, ...]] = {
    "kernel": (KERNEL, np.ones((3, 3)), np.ones((2, 3, 3)), [[1]], np.ones((2, 1, 2, 2))),
    "stride": (1, 2, (2, 3), 7),
    "dilation": (1, 2, [1, 2]),
    "padding": ("valid", "same", "same_lower", 1, (1, 2), (0, 1, 2, 3)),
    "padding_mode": (
        "constant",
        "edge",
        "reflect",
        "symmetric",
        "wrap",
        "missing",
        ("edge", "wrap"),
    ),
    "padding_value": (0, 1.5, float("nan")),
    "groups": (1, 2),
    "bias": (None, [1.0]),
    "flip": (False, True),
    "normalize": (False, True),
    "nodata": (None, 3, float("nan")),
    "missing": ("propagate", "skip", "fill", "renormalize"),
    "fill_value": (0, -1.5),
    "min_valid_fraction": (0, 0.5, 1.0),
    "require_center": (False, True),
    "dtype": (None, "float32", "float64", "int16", np.uint8),
    "threads": (None, 1, 2),
    "dims": (None, ("y", "x")),
    "chunks": (None, 3, (2, 5)),
    "source": (SCENE, Path(SCENE), [SCENE]),
    "target": ("../out/made.tif", Path("../out/{stem}.tif")),
    "bands": (None, [1], (2, 1)),
    "overwrite": (False, True),
    "scheduler": ("synchronous",),
    "memory_limit": ("1 GiB", "auto"),
    "workers": (1, "auto"),
    "tile": (16, "auto", [16, 32]),
    "driver": ("GTiff", "COG"),
    "compress": ("deflate", "none"),
    "mask": ("auto", "none"),
    "layout": ("single",),
    "size": (3, 5, (3, 5)),
    "sigma": (1.0, (1, 2)),
    "radius": (2, 1.5),
    "outer": (3,),
    "inner": (1,),
    "wavelength": (4,),
    "lobes": (2, 3),
    "set": ((), ("stride=2",)),
    "client": (None,),
    "resume": (False,),
    "progress": (None, lambda *_: None),
}
"""Values that mean something, by the parameter's name."""


USUAL_ELSEWHERE = ("array", "job")
"""Parameters whose usual values are made for each case."""


def public_functions() -> dict[str, Callable[..., Any]]:
    """Return what people call, by name: the functions among the public names, and the kernels."""
    found = {name: getattr(tileconv, name) for name in tileconv.__all__}
    functions = {name: value for name, value in found.items() if inspect.isfunction(value)}
    named = {f"kernels.{name}": function for name, function in tileconv.kernels.BY_NAME.items()}
    return functions | named


def parameters(name: str, function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Return the names of the arguments that are needed, and of the others."""
    needed, others = [], []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            others += list(RasterOptions.__annotations__)
        elif parameter.default is parameter.empty:
            needed.append(parameter.name)
        else:
            others.append(parameter.name)
    return needed, others


@dataclass
class CallCase:
    """A call with odd arguments."""

    label: str
    change: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def run(self, folder: Path) -> str:
        if self.label in ("convolve_raster", "run") and not self._stays_below(folder):
            self.notes.append("not called: it would write elsewhere")
            return "not called"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = self.function(**self.arguments)
                return _digest(result)
            except OwnError as error:
                if "__repr__" in str(error):  # a message must not fail by what it is about
                    raise
                self.notes.append("an error of the caller's object")
                return str(error)

    def _stays_below(self, folder: Path) -> bool:
        """Say whether all that the call can write lies in the folder of the case."""
        target = self.arguments.get("target")
        if not isinstance(target, str | Path):
            return True  # refused, or a fault
        place = os.path.realpath(
            os.fsencode(str(target).replace("\0", "").encode("utf-8", "ignore"))
        )
        return Path(os.fsdecode(place)).is_relative_to(os.path.realpath(folder))


def _digest(result: Any) -> str:
    """Return a digest of what a call gave, computed where it is lazy and small."""
    if hasattr(result, "chunks") and hasattr(result, "dask"):
        if not np.prod([float(n) for n in result.shape]) <= COMPUTED:
            return f"lazy {result.shape} {result.dtype}"
        result = result.compute(scheduler="synchronous")
    elif type(result).__module__.startswith("xarray"):
        with dask.config.set(scheduler="synchronous"):
            result = result.compute()
        return hashlib.sha256(repr(result).encode("utf-8", "replace")).hexdigest()[:16]
    if isinstance(result, np.ndarray):
        told = f"{result.shape} {result.dtype}".encode() + np.ascontiguousarray(result).tobytes()
        return hashlib.sha256(told).hexdigest()[:16]
    if hasattr(result, "to_dict"):
        report = {k: v for k, v in result.to_dict().items() if "seconds" not in k}
        return f"{type(result).__name__} {sorted(report)}"
    return type(result).__name__


class Calls:
    """The cases of a seed, by number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.files = make_files()
        self.functions = public_functions()

    def warm(self, folder: Path) -> None:
        """Compile what many cases need, by calls of the usual kind."""
        folder.mkdir(parents=True, exist_ok=True)
        random = Random("warm")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(150):
                _, pixels = array(random)
                kernel = random.choice(USUAL["kernel"])
                options = {"missing": random.choice(USUAL["missing"]), "threads": 1}
                try:
                    _digest(tileconv.convolve(pixels, kernel, **options))
                except tileconv.TileconvError:
                    continue

    def __call__(self, number: int, folder: Path) -> CallCase:
        """Make the case of a number, with its files in a folder ``in``."""
        random = Random(f"call {self.seed} {number}")
        for name, data in self.files.items():
            (folder / "in" / name).write_bytes(data)
        (folder / "in" / "folder").mkdir()
        label = random.choice(("convolve",) * 6 + ("convolve_raster",) * 3 + (*self.functions,))
        needed, others = parameters(label, self.functions[label])
        chosen = needed + random.sample(others, min(len(others), random.choice((0, 1, 2, 3))))
        odd = {random.choice(chosen)} if chosen else set()
        odd |= {name for name in chosen if random.random() < 0.15}
        arguments, told = {}, []
        for name in chosen:
            is_odd = name in odd or (name not in USUAL and name not in USUAL_ELSEWHERE)
            how, arguments[name] = _odd(random) if is_odd else _usual(name, label, random)
            told.append(f"{name}: {how}")
        if label == "convolve_raster":
            arguments.setdefault("scheduler", "synchronous")
        if callable(arguments.get("progress")):
            arguments["progress"] = _blamed(arguments["progress"])
        return CallCase(label, ", ".join(told), self.functions[label], arguments)


def _blamed(progress: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callback whose errors are its own: `len` is callable, and takes other arguments."""

    def call(*arguments: Any) -> None:
        try:
            progress(*arguments)
        except Exception as error:
            raise OwnError("progress") from error

    return call


def _odd(random: Random) -> tuple[str, Any]:
    """Return a value of some odd kind, and how it is called."""
    if random.random() < 0.1:
        return array(random)
    how = random.choice(list(ODD))
    return how, ODD[how]()


def _usual(name: str, label: str, random: Random) -> tuple[str, Any]:
    """Return a value that means something for a parameter, and how it is called."""
    if name == "array":
        return array(random)
    if name == "job":
        return "a job", tileconv.load_job(KEYS)
    if label == "load_job" and name == "source":
        return "keys", KEYS
    value = random.choice(USUAL[name])
    return " ".join(repr(value).split())[:40], value
