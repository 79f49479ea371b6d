"""The kernel of a job: written out, by name, or from a file."""

from __future__ import annotations

import inspect
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tileconv import kernels
from tileconv.convolution import LARGEST_KERNEL
from tileconv.errors import ConfigError

_METRES = {"m": 1.0, "km": 1000.0, "ft": 0.3048}
_LARGEST_FILE = LARGEST_KERNEL * 64 * 16
"""Bytes of a kernel file, at the most."""


@dataclass(frozen=True)
class NamedKernel:
    """A function of `tileconv.kernels` and its arguments; lengths may be in map units."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def in_map_units(self) -> bool:
        """Some argument is a length on the ground, like "90 m"."""
        return any(isinstance(value, str) for value in self.arguments.values())

    def weights(self, pixel: tuple[float, float] | None = None) -> np.ndarray:
        """Return the weights; ``pixel`` is its (height, width) in metres, for map units."""
        arguments = {
            key: _in_pixels(key, value, pixel) if isinstance(value, str) else value
            for key, value in self.arguments.items()
        }
        return kernels.BY_NAME[self.name](**arguments)


def named_kernel(name: str, arguments: Mapping[str, Any], stride: Any) -> NamedKernel:
    """Check name and arguments; ``stride`` is the job's, which lanczos takes if given no other."""
    make = kernels.BY_NAME.get(name)
    if make is None:
        raise ConfigError(
            f"there is no kernel named {name!r}; there are {', '.join(kernels.BY_NAME)}"
        )
    allowed = inspect.signature(make).parameters
    if wrong := [key for key in arguments if key not in allowed]:
        takes = ", ".join(allowed) or "no arguments"
        raise ConfigError(f"{name} does not take {wrong[0]}; it takes {takes}")
    for key, value in arguments.items():
        if isinstance(value, str) and key not in kernels.PIXELS | kernels.LENGTHS:
            raise ConfigError(f"{key} must be a number, got {value!r}")
    chosen = dict(arguments)
    if name == "lanczos":
        chosen.setdefault("stride", stride)
    kernel = NamedKernel(name, chosen)
    if not kernel.in_map_units:
        kernel.weights()
    return kernel


def _in_pixels(key: str, text: str, pixel: tuple[float, float] | None) -> list[Any]:
    """Return a length like "90 m" as [y, x] in pixels; sizes are rounded to whole pixels."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)", text.strip())
    if match is None or match[2] not in _METRES:
        raise ConfigError(
            f"{key}: write pixels, or a length like 90 m, 1.5 km or 300 ft; got {text!r}"
        )
    if pixel is None:
        raise ConfigError(
            f"{key}: {text} needs a raster with a transform and a projected coordinate system; "
            "give pixels instead"
        )
    lengths = [float(match[1]) * _METRES[match[2]] / side for side in pixel]
    if key not in kernels.PIXELS:
        return lengths
    return [max(1, math.floor(length + 0.5)) for length in lengths]


def load_kernel(folder: Path, text: str) -> np.ndarray:
    """Read weights from ``file.npy``, ``file.npz:key`` or ``file.csv``; pickles are refused."""
    name, separator, key = text.partition(".npz:")
    path = folder / (f"{name}.npz" if separator else text)
    readers: dict[str, Callable[[], np.ndarray]] = {
        ".npy": lambda: _load_npy(path),
        ".npz": lambda: _load_npz(path, key),
        ".csv": lambda: np.loadtxt(path, delimiter=",", ndmin=2),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"a kernel file is .npy, .npz:key or .csv; got {text!r}")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{path}: too large for a kernel")
        return reader()
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError, MemoryError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read as a kernel: {error}") from None


def _load_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ConfigError(f"{path}: .npy version {version} is not supported")
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ConfigError(f"{path}: holds Python objects (a pickle), which are never loaded")
        if math.prod(shape) * dtype.itemsize > path.stat().st_size:
            raise ConfigError(f"{path}: its header promises more numbers than the file has")
    return np.load(path, allow_pickle=False)


def _load_npz(path: Path, key: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        if key not in archive.files:
            known = ", ".join(archive.files)
            raise ConfigError(f"{path}: holds {known}; write one as {path.name}:KEY")
        with zipfile.ZipFile(path) as members:
            if members.getinfo(f"{key}.npy").file_size > _LARGEST_FILE:
                raise ConfigError(f"{path}: {key} is too large for a kernel")
        return np.asarray(archive[key])
