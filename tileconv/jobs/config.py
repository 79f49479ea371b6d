"""The keys of a job, one field each, and messages that name file, line and key."""

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from tileconv.arguments import short_repr
from tileconv.dtypes import OUTPUT_DTYPES
from tileconv.errors import ConfigError
from tileconv.jobs.yaml import Document, KeyPath
from tileconv.missing import MISSING_POLICIES
from tileconv.padding import LARGEST, PADDING_MODES
from tileconv.version import __version__

Count = Annotated[int, Field(ge=1, le=LARGEST)]
Amount = Annotated[int, Field(ge=0, le=LARGEST)]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
Length = int | float | str | Annotated[list[int | float], Field(min_length=2, max_length=2)] | None
"""Pixels, n or [y, x], or a length on the ground like "90 m"."""

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_bytes(value: object) -> int | Literal["auto"]:
    """Return "2 GiB", "500 MB" or a number as bytes.

    >>> parse_bytes("2 GiB")
    2147483648
    """
    if value == "auto":
        return "auto"
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)", str(value).strip())
    if match is None or isinstance(value, bool) or match[2].lower() not in _UNITS:
        raise ValueError(f"write auto or an amount like 2 GiB or 500 MB; got {short_repr(value)}")
    amount = float(match[1]) * _UNITS[match[2].lower()]
    if not 1 <= amount < 2**62:
        raise ValueError(f"{short_repr(value)} is not an amount of memory")
    return int(amount)


def _parse_nan(value: object) -> object:
    if isinstance(value, str) and value.lower() == "nan":
        return math.nan
    return value


def _parse_weights(value: object) -> object:
    """Check that weights are lists of lists of numbers; no word or truth value is one."""
    if value is not None and not (isinstance(value, list) and _are_rows(value)):
        raise ValueError("not rows of numbers")
    return value


def _are_rows(value: list[Any], depth: int = 1) -> bool:
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in value]
    if depth > 1 and all(numbers):
        return True
    return depth < 4 and all(isinstance(v, list) and _are_rows(v, depth + 1) for v in value)


def _check_place(value: str) -> str:
    """Return a path that can be said in the bytes of the system's names."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("not a path: it holds half a character") from None
    return value


PathText = Annotated[str, AfterValidator(_check_place)]
"""A path, a glob or a URL."""


class _Section(BaseModel):
    """A mapping of known keys, taken literally: no word becomes a number by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InputConfig(_Section):
    """What is read."""

    path: PathText | Annotated[list[PathText], Field(min_length=1)]
    """A GeoTIFF, a list or a glob of them; relative to the YAML file."""
    bands: list[Count] | None = Field(default=None, min_length=1)
    """1-based; default all but an alpha band."""
    mask: Literal["auto", "nodata", "dataset", "none"] = "auto"
    """What makes pixels missing. auto: nodata, mask and alpha, each of them; nodata: that alone;
    dataset: whichever of them GDAL goes by; none: nothing but NaN."""
    scaled: bool = False
    """Apply scale and offset tags."""
    palette: bool = False
    """Take the class codes of a band with a colour palette as numbers."""
    root: PathText | None = None
    """A folder that holds all files of a VRT; default that of the VRT."""
    remote: bool = False
    """Allow https:// and s3://."""
    mosaic: bool = False
    """The rasters of a list or a glob lie on one grid, and are read as one raster."""


class KernelConfig(_Section):
    """What it is convolved with: exactly one of weights, name and file."""

    weights: Annotated[list[Any] | None, BeforeValidator(_parse_weights)] = None
    """Two, three or four levels of lists."""
    name: str | None = None
    file: PathText | None = None
    """.npy, .npz:key or .csv; relative to the YAML file."""
    size: Count | Pair | str | None = None
    sigma: Length = None
    radius: Length = None
    outer: Length = None
    inner: Length = None
    wavelength: Length = None
    stride: Count | Pair | None = None
    """Of lanczos; default the job's."""
    lobes: Count | None = None
    amount: int | float | None = None
    theta: int | float | None = None
    phase: int | float | None = None
    aspect: int | float | None = None
    flip: bool = False
    normalize: bool = False


class FootprintConfig(_Section):
    """The pixels that a statistic is of."""

    size: Count | Pair


class FocalConfig(_Section):
    """A statistic of the pixels under a footprint."""

    statistic: str | list[str]
    footprint: FootprintConfig


class OutputConfig(_Section):
    """What is written."""

    path: PathText
    """May hold {stem}, {name} and {parent} of the input."""
    driver: Literal["GTiff", "COG", "Zarr"] | None = None
    """Default Zarr for a path that ends so, else GTiff."""
    dtype: str | None = None
    nodata: Annotated[int | float | None, BeforeValidator(_parse_nan)] = None
    compress: Literal["deflate", "zstd", "lzw", "none"] = "zstd"
    predictor: Literal["auto"] | Annotated[int, Field(ge=1, le=3)] = "auto"
    level: Annotated[int, Field(ge=1, le=22)] | None = None
    overviews: (
        Literal["average", "nearest", "bilinear", "cubic", "lanczos", "mode", "rms", "none"] | None
    ) = None
    """Of a COG: how they are resampled, or none; default average."""
    blocksize: Annotated[int, Field(ge=16, le=8192, multiple_of=16)] | None = None
    layout: Literal["single", "parts"] = "single"
    """One file, or part files and a VRT over them."""
    checksum: bool = False
    """Of a Zarr store: chunks end with a checksum. GDAL up to 3.12 opens none that do."""
    valid_fraction: bool = False
    """One more band: the valid share of each field."""
    quicklook: bool = False
    report: bool = False
    """Leave a report with the output's checksum beside it."""
    overwrite: bool = False


CLUSTERS: Mapping[str, tuple[str, str]] = {
    "LocalCluster": ("distributed", "tileconv[cluster]"),
    "SLURMCluster": ("dask_jobqueue", "dask-jobqueue"),
    "PBSCluster": ("dask_jobqueue", "dask-jobqueue"),
    "SGECluster": ("dask_jobqueue", "dask-jobqueue"),
    "LSFCluster": ("dask_jobqueue", "dask-jobqueue"),
    "KubeCluster": ("dask_kubernetes.operator", "dask-kubernetes"),
    "GatewayCluster": ("dask_gateway", "dask-gateway"),
}
"""Cluster classes that a job may name: the module of each, and what pip installs it by."""


def _check_scheduler(value: object) -> object:
    if value in ("threads", "synchronous", "processes"):
        return value
    if isinstance(value, str) and re.fullmatch(r"(tcp|tls)://\S+:[0-9]+", value):
        return value
    raise ValueError("no scheduler")


def security_files(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of the files that ``compute.security`` names.

    A value of several lines is the certificate itself.
    """
    for key, value in given.items():
        named = key.endswith(("_file", "_cert", "_key")) and isinstance(value, str)
        if named and "\n" not in value:
            yield key, value


class AdaptConfig(_Section):
    """A cluster that grows and shrinks with its work."""

    minimum: Amount = 0
    maximum: Count


class ClusterConfig(_Section):
    """A dask cluster that is started for the run and closed after it."""

    name: str
    """One of `CLUSTERS`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class."""
    scale: Count | None = None
    """Workers."""
    adapt: AdaptConfig | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CLUSTERS:
            raise ValueError(f"must be one of {', '.join(CLUSTERS)}")
        return value


class ComputeConfig(_Section):
    """What the run may use."""

    scheduler: Annotated[str, BeforeValidator(_check_scheduler)] = "threads"
    """threads, synchronous, processes, or the address of a dask scheduler."""
    cluster: ClusterConfig | None = None
    security: dict[str, Any] | None = None
    """TLS: keyword arguments of distributed's Security."""
    part: Literal["auto"] | Count | Pair = "auto"
    """Outputs of a task on a cluster, n or [y, x]."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    memory_limit: Annotated[int | Literal["auto"], BeforeValidator(parse_bytes)] = "auto"
    tile: Literal["auto"] | Count | Pair = "auto"


class JobConfig(_Section):
    """Each raster in gives one out. Every key of the YAML file is a field here."""

    input: InputConfig
    kernel: KernelConfig = Field(default=None)  # type: ignore[assignment]
    """None where ``focal`` is there, of which exactly one is: see `check_job`."""
    focal: FocalConfig = Field(default=None)  # type: ignore[assignment]
    stride: Count | Pair = 1
    dilation: Count | Pair = 1
    padding: (
        Literal["valid", "same", "same_upper", "same_lower"]
        | Amount
        | Annotated[list[Amount], Field(min_length=2, max_length=4)]
    ) = "valid"
    padding_mode: str | Annotated[list[str], Field(min_length=2, max_length=2)] = "constant"
    """One word, or two as [y, x]; the default of ``focal`` is missing."""
    padding_value: Annotated[int | float, BeforeValidator(_parse_nan)] = 0
    groups: Count = 1
    bias: list[int | float] | None = None
    missing: str = "propagate"
    fill_value: int | float = 0
    min_valid_fraction: Annotated[int | float, Field(ge=0, le=1)] = 0
    require_center: bool = False
    output: OutputConfig
    compute: ComputeConfig = ComputeConfig()


PLANNED: Mapping[str, Sequence[str]] = {
    "output": ("creation_options",),
    "focal": ("method", "ties", "ddof", "classes", "only_missing"),
    "focal.footprint": ("name", "file", "radius", "outer", "inner"),
}
"""Keys that the interface foresees and this version does not have."""

_CHOICES: Mapping[KeyPath, str] = {
    ("stride",): f"a whole number from 1 to {LARGEST}, or two as [y, x]",
    ("dilation",): f"a whole number from 1 to {LARGEST}, or two as [y, x]",
    (
        "padding",
    ): "valid, same, same_upper, same_lower, n, [y, x] or [top, left, bottom, right], from 0",
    ("padding_mode",): f"one of {', '.join(PADDING_MODES)}, or two of them as [y, x]",
    ("missing",): f"one of {', '.join(MISSING_POLICIES)}",
    ("compute", "workers"): "auto, or a whole number from 1 to 1024",
    ("compute", "tile"): "auto, n or [y, x]",
    ("compute", "part"): "auto, n or [y, x]",
    (
        "compute",
        "scheduler",
    ): "threads, synchronous, processes, or an address like tcp://host:8786 or tls://host:8786",
    ("compute", "security"): "keys like tls_ca_file, tls_client_cert and tls_client_key",
    ("input", "mask"): "auto, nodata, dataset or none",
    ("output", "driver"): "GTiff, COG or Zarr",
    (
        "output",
        "overviews",
    ): "average, nearest, bilinear, cubic, lanczos, mode, rms or none",
    ("output", "dtype"): f"one of {', '.join(OUTPUT_DTYPES)}",
    ("output", "predictor"): "auto, 1, 2 or 3",
    ("output", "nodata"): "a number, or nan",
    (
        "kernel",
        "weights",
    ): "rows of numbers, like [[1, 0, -1], [2, 0, -2], [1, 0, -1]], or a bank of such",
    ("focal", "statistic"): "a word, like max",
    ("focal", "footprint", "size"): "a whole number from 1, or two as [y, x]",
    ("kernel", "size"): "a whole number from 1, two as [y, x], or a length like 90 m",
    **{
        ("kernel", key): "a number of pixels, two as [y, x], or a length like 90 m"
        for key in ("sigma", "radius", "outer", "inner", "wavelength")
    },
    ("min_valid_fraction",): "a number from 0 to 1",
    ("fill_value",): "a number",
    ("bias",): "a list of numbers, one per output",
    ("groups",): "a whole number from 1",
    ("padding_value",): "a number, or nan",
    ("input", "bands"): "a list of band numbers from 1",
    ("input", "path"): "a path, a list of paths, or a glob like scenes/*.tif",
}


class _WithKernel(JobConfig):
    """A job that has neither section of `OPERATORS`: it is told to have a kernel."""

    kernel: KernelConfig


def option_places() -> dict[str, str]:
    """Return the section of each key whose own name says enough; "" is the top of a job.

    >>> places = option_places()
    >>> places["stride"], places["flip"], places["dtype"], "path" in places
    ('', 'kernel', 'output', False)
    """
    places = {
        name: section
        for section, model in (
            ("input", InputConfig),
            ("output", OutputConfig),
            ("compute", ComputeConfig),
        )
        for name in model.model_fields
        if name not in ("path", "bands", "overwrite")
    }
    sections = {"input", *OPERATORS, "output", "compute"}
    top = {name: "" for name in JobConfig.model_fields if name not in sections}
    return places | {"flip": "kernel", "normalize": "kernel"} | top


NEEDED = "this key is needed"
OPERATORS = ("kernel", "focal")
"""Sections of which a job has exactly one: what is computed."""


def check_job(document: Document, name: str) -> JobConfig:
    """Return the job that ``document`` holds; `ConfigError` lists all that is wrong with it."""
    value = document.value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name}: a job is a mapping with input, kernel and output; see `tileconv init`"
        )
    given = [name for name in OPERATORS if value.get(name) is not None]
    if len(given) > 1:
        line = document.line((given[1],))
        where = f"line {line}: " if line else ""
        told = f"{where}{given[1]}: give exactly one of {' and '.join(OPERATORS)}"
        raise ConfigError(f"{name} is not a valid job:", told)
    model = JobConfig if given else _WithKernel
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems: dict[KeyPath, tuple[int, str]] = {}
        for detail in error.errors():
            path = _key_path(detail["loc"])
            problems.setdefault(path, (document.line(path) or 0, _explain(path, detail, value)))
        texts = {path: text for path, (_, text) in problems.items()}
        for path, text in texts.items():
            meant = _meant(path)
            if meant and text == _misspelt(meant) and texts.get((*path[:-1], meant)) == NEEDED:
                problems.pop((*path[:-1], meant), None)  # it is there, under another name
        lines = [
            f"{f'line {line}: ' if line else ''}{'.'.join(map(str, path))}: {text}"
            for path, (line, text) in sorted(problems.items(), key=lambda item: item[1][0])
        ]
    raise ConfigError(f"{name} is not a valid job:", *lines)


def _key_path(location: Sequence[str | int]) -> KeyPath:
    """Return pydantic's location without the names of the alternatives of a union."""
    path: list[str | int] = []
    model: type[BaseModel] | None = JobConfig
    for part in location:
        if model is None:
            break
        path.append(part)
        known = model.model_fields.get(str(part))
        annotation = None if known is None else known.annotation
        model = (
            annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel)
            else None
        )
    return tuple(path)


def _explain(path: KeyPath, detail: Any, value: Any) -> str:
    """Say what is wrong at ``path`` and what would be right."""
    kind, given = detail["type"], _at(value, path)
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return NEEDED
    if kind in ("model_type", "model_attributes_type"):
        return f"must hold keys of its own; got {short_repr(given)}"
    if path in _CHOICES:
        return f"must be {_CHOICES[path]}; got {short_repr(given)}"
    if kind == "bool_type":
        return f"must be true or false; got {short_repr(given)}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message if short_repr(given) in message else f"{message}; got {short_repr(given)}"


def _known_keys() -> dict[str, str]:
    """Return every key of a job, with its section before it, and the section."""
    everywhere = dict.fromkeys(JobConfig.model_fields, "")
    sections: list[tuple[str, type[BaseModel]]] = [("", JobConfig)]
    for section, model in sections:  # which grows
        for name, known in model.model_fields.items():
            path = f"{section}.{name}" if section else name
            everywhere[path] = section
            if isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
                sections.append((path, known.annotation))
    return everywhere


def _keys_beside(path: KeyPath) -> list[str]:
    """Return the keys that are known where ``path`` is."""
    section = ".".join(map(str, path[:-1]))
    return [key.rpartition(".")[2] for key, home in _known_keys().items() if home == section]


def _meant(path: KeyPath) -> str | None:
    """Return the known key that the last one of ``path`` looks like."""
    near = difflib.get_close_matches(str(path[-1]), _keys_beside(path), 1, 0.6) if path else []
    return near[0] if near else None


def _misspelt(meant: str) -> str:
    return f"unknown key; did you mean `{meant}`?"


def _unknown_key(path: KeyPath) -> str:
    section, key = ".".join(map(str, path[:-1])), str(path[-1])
    if key in PLANNED.get(section, ()):
        return f"this key is not supported yet (tileconv {__version__})"
    elsewhere = [known for known in _known_keys() if known.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown key here; it belongs at `{elsewhere[0]}`"
    if meant := _meant(path):
        return _misspelt(meant)
    return f"unknown key; the keys here are {', '.join(_keys_beside(path))}"


def _at(value: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value
