"""The kernel of a job: written out, by name, or from a file."""

from __future__ import annotations

import inspect
import io
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tileconv import kernels
from tileconv.bounded import TooLargeError, read_bounded
from tileconv.errors import ConfigError
from tileconv.operators.convolution import LARGEST_KERNEL

_METRES = {"m": 1.0, "km": 1000.0, "ft": 0.3048}
_LARGEST_FILE = LARGEST_KERNEL * 256
"""Bytes of a kernel file at the most, and of an array in it: 32 outputs of the largest kernel."""
_LARGEST_CSV = LARGEST_KERNEL * 32
"""Bytes of one kernel at the most, written out."""
_ZIP_ENTRY = b"PK\x01\x02"
"""Begins each entry in the table of a ZIP archive."""
_MOST_MEMBERS = 10_000
_MOST_NAMED = 10


@dataclass(frozen=True)
class NamedKernel:
    """A function of `tileconv.kernels` and its arguments; lengths may be in map units."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def in_map_units(self) -> bool:
        """Some argument is a length on the ground, like "90 m"."""
        return any(isinstance(value, str) for value in self.arguments.values())

    def __str__(self) -> str:
        """Return it as a call."""
        said = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.name}({said})"

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
    if not all(map(math.isfinite, lengths)):
        raise ConfigError(f"{key}: {text} is more than a number can tell")
    if key not in kernels.PIXELS:
        return lengths
    return [max(1, math.floor(length + 0.5)) for length in lengths]


def kernel_path(folder: Path, text: str) -> Path:
    """Return the file that ``kernel.file`` names."""
    name, separator, _ = text.partition(".npz:")
    return folder / (f"{name}.npz" if separator else text)


def load_kernel(folder: Path, text: str) -> np.ndarray:
    """Read weights from ``file.npy``, ``file.npz:key`` or ``file.csv``; pickles are refused."""
    path = kernel_path(folder, text)
    readers: dict[str, Callable[[], np.ndarray]] = {
        ".npy": lambda: _from_npy(read_bounded(path, _LARGEST_FILE)),
        ".npz": lambda: _from_npz(read_bounded(path, _LARGEST_FILE), text),
        ".csv": lambda: _from_csv(read_bounded(path, _LARGEST_CSV)),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"a kernel file is .npy, .npz:key or .csv; got {text!r}")
    try:
        return reader()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except TooLargeError as error:
        raise ConfigError(f"{path}: too large for a kernel: {error.strerror}") from None
    except OSError as error:
        told = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise ConfigError(f"{path}: {told}") from None
    except Exception as error:  # numpy and zipfile raise whatever their parsers and codecs do
        raise ConfigError(f"{path}: cannot be read as a kernel: {error}") from None


def _from_csv(data: bytes) -> np.ndarray:
    lines = [
        line for line in data.decode("utf-8-sig").splitlines() if line.partition("#")[0].strip()
    ]
    if not lines:
        raise ConfigError("holds no numbers")
    return np.loadtxt(lines, delimiter=",", ndmin=2)


def _from_npy(data: bytes) -> np.ndarray:
    """Read an array whose header has been found to be true: numpy makes room for what it says."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ConfigError(f".npy version {version} is not supported")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ConfigError("holds Python objects (a pickle), which are never loaded")
    if dtype.kind not in "biufc":
        raise ConfigError("holds no plain numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > len(data) - file.tell():
        raise ConfigError("its header promises more numbers than the file has")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _from_npz(data: bytes, text: str) -> np.ndarray:
    name, _, key = Path(text).name.partition(":")
    if data.count(_ZIP_ENTRY) > _MOST_MEMBERS:  # zipfile makes an object of each
        raise ConfigError("holds too many arrays")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        known = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if key not in known:
            more = ", ..." if len(known) > _MOST_NAMED else ""
            raise ConfigError(
                f"holds {', '.join(known[:_MOST_NAMED])}{more}; write one as {name}:KEY"
            )
        member = archive.getinfo(f"{key}.npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ConfigError(f"{key} is compressed by a method that numpy does not use")
        if member.file_size > _LARGEST_FILE:
            raise ConfigError(f"{key} is too large for a kernel")
        with archive.open(member) as file:  # without a bound it inflates more than it says it has
            return _from_npy(file.read(member.file_size))
