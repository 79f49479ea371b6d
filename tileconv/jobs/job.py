"""A job: a validated, frozen value, read from YAML or a mapping."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tileconv.arguments import short_repr
from tileconv.dtypes import check_output
from tileconv.errors import ConfigError, TileconvError
from tileconv.jobs.config import (
    ClusterConfig,
    JobConfig,
    KernelConfig,
    OutputConfig,
    check_job,
    security_files,
)
from tileconv.jobs.given import check_path, plain_job
from tileconv.jobs.kernel import NamedKernel, kernel_path, load_kernel, named_kernel
from tileconv.jobs.machine import available_memory, cpu_count
from tileconv.jobs.paths import (
    check_distinct_names,
    check_lengths,
    check_no_fields,
    fill_in,
    find_inputs,
    is_glob,
    place,
)
from tileconv.jobs.yaml import Document, KeyPath, assign, parse, read_text
from tileconv.operators.base import Operator
from tileconv.operators.build import build
from tileconv.raster.reading import Place
from tileconv.raster.writing import (
    FORMATS,
    FORMATS_IN_WORDS,
    MARK,
    PNG,
    REPORT,
    Format,
    OwnFile,
    Target,
    named_format,
    names_where,
    other_format_of,
    parts_folder,
)


@dataclass(frozen=True)
class Job:
    """One raster to compute from another: what `load_job` returns. Pairs are (y, x).

    >>> job = load_job(
    ...     {
    ...         "input": {"path": "scene.tif"},
    ...         "kernel": {"name": "box"},
    ...         "output": {"path": "out/{stem}_mean.tif"},
    ...     }
    ... )
    >>> job.target.name, job.operator.stride
    ('scene_mean.tif', (1, 1))
    """

    name: str
    """The YAML file, for messages."""
    source: Place
    """The raster, or the first scene of a mosaic."""
    target: Path
    operator: Operator | None
    """None until the raster is known, if the kernel's size is given on the ground."""
    named: NamedKernel | None = None
    """The kernel by name, if it has one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the operator beside the kernel."""
    bands: tuple[int, ...] | None = None
    mask: Literal["auto", "nodata", "dataset", "none"] = "auto"
    """What makes pixels missing, as `tileconv.raster.header.Wanted` has it."""
    scaled: bool = False
    """Scale and offset tags are applied."""
    palette: bool = False
    """Class codes of a band with a colour palette are taken as numbers."""
    dtype: np.dtype | None = None
    nodata: float | None = None
    driver: str = "GTiff"
    overviews: str | None = None
    compress: str | None = "zstd"
    predictor: int | None = None
    valid_fraction: bool = False
    level: int | None = None
    block: int | None = None
    layout: Literal["single", "parts"] = "single"
    checksum: bool = False
    """Chunks of a Zarr store end with a checksum."""
    quicklook: bool = False
    report: bool = False
    """Write `report_path`."""
    overwrite: bool = False
    scheduler: str = "threads"
    """threads, synchronous, processes, or the address of a dask scheduler."""
    cluster: ClusterConfig | None = None
    """A dask cluster to start."""
    security: Mapping[str, Any] | None = None
    part: tuple[int, int] | None = None
    """Outputs of a task on a cluster."""
    memory_given: bool = False
    """The job says ``memory_limit``; on a cluster it is that of each worker."""
    threads: int = 1
    """That compute; of ``processes`` these are processes."""
    workers: int | None = None
    """How many the job asks for."""
    memory_limit: int = 1 << 31
    tile: tuple[int, int] | None = None
    scenes: tuple[Place, ...] = ()
    """All scenes of a mosaic."""
    root: Path | None = None
    """A folder that holds all files of a VRT; None is that of the VRT."""
    files: tuple[OwnFile, ...] = ()
    """What the job is made of beside its inputs: the YAML file, that of the kernel, keys."""

    @property
    def sources(self) -> tuple[Place, ...]:
        """Every file that a run of the job reads."""
        return self.scenes or (self.source,)

    @property
    def format(self) -> Format:
        """The format of the output."""
        return FORMATS[self.driver]

    @property
    def on_cluster(self) -> bool:
        """The job runs in processes of their own."""
        return self.cluster is not None or self.scheduler not in ("threads", "synchronous")

    @property
    def quicklook_path(self) -> Path:
        """Where the picture goes: beside the output."""
        return self.target.with_name(f"{self.target.stem}_quicklook.png")

    @property
    def report_path(self) -> Path:
        """Where the report goes: beside the output."""
        return self.target.with_name(f"{self.target.name}.json")

    @property
    def quicklook_target(self) -> Target:
        """The place that the picture takes."""
        return Target(self.quicklook_path, PNG, "the quicklook", self.overwrite)

    @property
    def report_target(self) -> Target:
        """The place that the report takes."""
        return Target(self.report_path, REPORT, "the report", self.overwrite)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every place that a run of the job takes."""
        output = Target(self.target, self.format.kind(self.layout), overwrite=self.overwrite)
        picture = (self.quicklook_target,) if self.quicklook else ()
        return (output, *picture, *((self.report_target,) if self.report else ()))

    @property
    def written(self) -> tuple[Path, ...]:
        """Every file that a run of the job writes."""
        return tuple(target.path for target in self.targets)


@dataclass(frozen=True)
class Batch:
    """One job for many rasters: what `load_job` returns if ``input.path`` is a list or a glob.

    >>> batch = load_job(
    ...     {
    ...         "input": {"path": ["north.tif", "south.tif"]},
    ...         "kernel": {"name": "box"},
    ...         "output": {"path": "out/{stem}_mean.tif"},
    ...     }
    ... )
    >>> [job.target.name for job in batch.jobs]
    ['north_mean.tif', 'south_mean.tif']
    """

    name: str
    """The YAML file, for messages."""
    jobs: tuple[Job, ...]
    """One per input, in their order."""


def load_job(
    source: str | os.PathLike[str] | Mapping[str, Any], *, set: Sequence[str] = ()
) -> Job | Batch:
    """Read and check a job.

    Parameters
    ----------
    source
        A YAML file, or the same keys as a mapping (paths then relative to the current folder).
    set
        Assignments like ``"stride=8"`` that replace values of the file.

    Returns
    -------
    Job or Batch
        A `Batch` if ``input.path`` is a list or a glob, however many files that gives.

    Raises
    ------
    ConfigError
        Lists every wrong key and value, with its line.
    InputError
        No file matches a glob.

    >>> job = load_job(
    ...     {"input": {"path": "a.tif"}, "kernel": {"name": "box"}, "output": {"path": "b.tif"}}
    ... )
    >>> job.operator.kernel_shape
    (3, 3)
    """
    assignments = _assignments(set)
    files: list[OwnFile] = []
    if issubclass(type(source), Mapping):
        name, folder, document = "job", Path.cwd(), Document(plain_job(source))
    else:
        path = check_path(source, "a job, where it is no mapping of keys,")
        document = parse(read_text(path), str(path))
        name, folder = str(path), Path(os.path.realpath(path)).parent
        files.append((Path(os.path.realpath(path)), "the job file"))
    for assignment in assignments:
        assign(document, assignment)
    config = check_job(document, name)
    return _build(config, document, name, folder, files)


def _assignments(given: Any) -> list[str]:
    """Return the assignments of ``set``."""
    if type(given) not in (list, tuple) or not all(type(each) is str for each in given):
        raise ConfigError(f"set must be a list of texts like 'stride=8', got {short_repr(given)}")
    return list(given)


@dataclass(frozen=True)
class _Wrong:
    """Says where in a job something is wrong."""

    name: str
    document: Document

    def at(self, path: KeyPath, error: Exception | str) -> ConfigError:
        """Return the error for a key, with its line."""
        line = self.document.line(path)
        where = f"line {line}: " if line else ""
        key = ".".join(map(str, path))
        text = str(error).removeprefix(f"{path[-1]}: ")
        if text.startswith(f"{path[-1]} must"):  # the key stands before it already
            text = text.removeprefix(f"{path[-1]} ")
        return ConfigError(f"{self.name} is not a valid job:", f"{where}{key}: {text}")


def _build(
    config: JobConfig, document: Document, name: str, folder: Path, files: Sequence[OwnFile]
) -> Job | Batch:
    wrong = _Wrong(name, document)
    options, named, operator = _operator(config, folder, wrong)
    dtype = _output_dtype(config, wrong)
    sources, targets = _places(config, folder, wrong)
    root = _root(config, folder, wrong)
    _check_keys(config, wrong)
    compute, output = config.compute, config.output
    job = Job(
        name=name,
        source=sources[0],
        target=targets[0],
        operator=operator,
        named=named,
        options=options,
        bands=None if config.input.bands is None else tuple(config.input.bands),
        mask=config.input.mask,
        scaled=config.input.scaled,
        palette=config.input.palette,
        root=root,
        dtype=dtype,
        nodata=output.nodata,
        driver=_format(output).name,
        overviews=output.overviews,
        compress=None if output.compress == "none" else output.compress,
        predictor=None if output.predictor == "auto" else output.predictor,
        level=output.level,
        valid_fraction=output.valid_fraction,
        block=output.blocksize,
        layout=output.layout,
        checksum=output.checksum,
        quicklook=output.quicklook,
        report=output.report,
        overwrite=output.overwrite,
        scheduler=compute.scheduler,
        threads=_threads(compute.scheduler, compute.workers),
        workers=None if compute.workers == "auto" else compute.workers,
        memory_limit=_memory_limit(compute.memory_limit),
        memory_given=compute.memory_limit != "auto",
        tile=_pair(compute.tile),
        part=_pair(compute.part),
        cluster=compute.cluster,
        security=compute.security,
        files=(*files, *_named_files(config, folder)),
    )
    return _for_each(job, config, folder, wrong, sources, targets)


def _for_each(
    job: Job,
    config: JobConfig,
    folder: Path,
    wrong: _Wrong,
    sources: Sequence[Place],
    targets: Sequence[Path],
) -> Job | Batch:
    """Return the job of a mosaic or of one input, or that of each input."""
    if config.input.mosaic:
        jobs = [replace(job, scenes=tuple(sources))]
    else:
        pairs = zip(sources, targets, strict=True)
        jobs = [replace(job, source=s, target=t) for s, t in pairs]
    try:
        check_lengths({path: what for job in jobs for path, what in _made(job)})
    except ConfigError as error:
        raise wrong.at(("output", "path"), error) from None
    one = isinstance(config.input.path, str) and not is_glob(folder, config.input.path)
    return jobs[0] if one or config.input.mosaic else Batch(job.name, tuple(jobs))


def _operator(
    config: JobConfig, folder: Path, wrong: _Wrong
) -> tuple[dict[str, Any], NamedKernel | None, Operator | None]:
    """Return (its options, the kernel if it has a name, the operator if it is known by now)."""
    options = _options(config)
    try:
        if config.kernel is None:
            _check_no_options_of_kernels(config)
            focal = config.focal
            return options, None, build("focal", focal.statistic, focal.footprint.size, **options)
        options |= _options_of_kernels(config)
        named, weights = _kernel(config, folder)
        if weights is not None:
            return options, named, build("kernel", weights, **options)
        build("kernel", [[1.0]], **options)  # what does not depend on the weights is checked
    except (TileconvError, TypeError) as error:
        keys = (*options, *OPTIONS_OF_KERNELS)
        named_there = (k for k in keys if str(error).startswith(k))
        section = "focal" if config.kernel is None else "kernel"
        key = max(named_there, key=len, default=section)  # padding_mode, not padding
        raise wrong.at((key,), error) from None
    return options, named, None


def _output_dtype(config: JobConfig, wrong: _Wrong) -> np.dtype | None:
    if config.output.dtype is None:
        return None
    try:
        dtype = check_output(config.output.dtype)
    except TileconvError as error:
        raise wrong.at(("output", "dtype"), error) from None
    if dtype == np.float16:
        raise wrong.at(("output", "dtype"), "GeoTIFF cannot store float16; use float32")
    return dtype


def _places(
    config: JobConfig, folder: Path, wrong: _Wrong
) -> tuple[Sequence[Place], Sequence[Path]]:
    """Return the inputs, and the output of each."""
    try:
        sources = find_inputs(folder, config.input.path, remote=config.input.remote)
    except ConfigError as error:
        raise wrong.at(("input", "path"), error) from None
    try:
        targets = [
            Path(os.path.realpath(folder / fill_in(config.output.path, source)))
            for source in sources
        ]
        if config.input.mosaic:
            check_no_fields(config.output.path)
        else:
            check_distinct_names(sources, targets)
    except ConfigError as error:
        raise wrong.at(("output", "path"), error) from None
    return sources, targets


def _root(config: JobConfig, folder: Path, wrong: _Wrong) -> Path | None:
    if config.input.root is None:
        return None
    root = place(folder, config.input.root)
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises
        raise wrong.at(("input", "root"), f"there is no such folder: {config.input.root!r}")
    return root


def _check_keys(config: JobConfig, wrong: _Wrong) -> None:
    """Refuse values that do not go together."""
    if told := _wrong_level(config.output.compress, config.output.level):
        raise wrong.at(("output", "level"), told)
    if unfit := _unfit_for_format(config.output, _format(config.output)):
        raise wrong.at(("output", unfit[0]), unfit[1])
    bands = config.input.bands
    if bands is not None and len({*bands}) != len(bands):
        raise wrong.at(("input", "bands"), "a band is given twice")
    compute = config.compute
    if compute.cluster is not None and compute.scheduler != "threads":
        raise wrong.at(("compute", "cluster"), "give either compute.scheduler or compute.cluster")
    if compute.cluster and compute.cluster.scale and compute.cluster.adapt:
        raise wrong.at(("compute", "cluster"), "give either scale or adapt")


def _made(job: Job) -> Iterator[tuple[Path, str]]:
    """Yield what a run of ``job`` makes beside what is temporary, each with words for it."""
    for target in job.targets:
        yield target.path, target.what
    if job.layout == "parts":
        yield parts_folder(job.target, "0" * MARK), "the folder of the parts"


_ARGUMENTS = tuple(
    key
    for key in KernelConfig.model_fields
    if key not in ("weights", "name", "file", "flip", "normalize")
)


def _options(config: JobConfig) -> dict[str, Any]:
    """Return the keyword arguments that all operators have."""
    options: dict[str, Any] = {
        "stride": config.stride,
        "dilation": config.dilation,
        "padding": config.padding,
        "padding_value": config.padding_value,
        "missing": config.missing,
        "fill_value": config.fill_value,
        "min_valid_fraction": config.min_valid_fraction,
        "require_center": config.require_center,
    }
    if "padding_mode" in config.model_fields_set:  # else the operator's own default
        options["padding_mode"] = config.padding_mode
    return options


def _options_of_kernels(config: JobConfig) -> dict[str, Any]:
    """Return the keyword arguments that kernels alone have."""
    return {
        "groups": config.groups,
        "bias": config.bias,
        "flip": config.kernel.flip,
        "normalize": config.kernel.normalize,
    }


OPTIONS_OF_KERNELS = ("groups", "bias")
"""Keys at the top of a job that go with ``kernel`` alone."""


def _check_no_options_of_kernels(config: JobConfig) -> None:
    for key in OPTIONS_OF_KERNELS:
        if key in config.model_fields_set:
            raise ConfigError(f"{key} goes with kernel, and this job has focal")


def _kernel(config: JobConfig, folder: Path) -> tuple[NamedKernel | None, Any]:
    """Return (the kernel by name or None, its weights or None if they depend on the raster)."""
    kernel = config.kernel
    arguments = {key: getattr(kernel, key) for key in _ARGUMENTS}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if sum(given is not None for given in (kernel.weights, kernel.name, kernel.file)) != 1:
        raise ConfigError("give exactly one of weights, name and file")
    if kernel.name is None and arguments:
        raise ConfigError(f"{' and '.join(arguments)} go with a kernel by name only")
    if kernel.name is not None:
        named = named_kernel(kernel.name, arguments, config.stride)
        return named, None if named.in_map_units else named.weights()
    if kernel.file is not None:
        return None, load_kernel(folder, kernel.file)
    return None, kernel.weights


def _named_files(config: JobConfig, folder: Path) -> Iterator[OwnFile]:
    """Yield the files that a job names beside its inputs and outputs."""
    if config.kernel is not None and config.kernel.file is not None:
        yield kernel_path(folder, config.kernel.file), "the kernel file"
    for key, path in security_files(config.compute.security or {}):
        yield Path(path), f"the file of compute.security.{key}"


def _wrong_level(compress: str, level: int | None) -> str | None:
    """Say what is wrong with a compression level, if anything is."""
    highest = {"deflate": 9, "zstd": 22}.get(compress)
    if level is None or (highest is not None and level <= highest):
        return None
    return (
        f"{compress} has no level" if highest is None else f"{compress} has levels 1 to {highest}"
    )


def _format(output: OutputConfig) -> Format:
    """Return the format that the job, or the name of the output, says."""
    default = next(iter(FORMATS.values()))
    if output.driver is not None:
        return FORMATS[output.driver]
    return named_format(Path(output.path)) or default


def _unfit_name(path: Path, chosen: Format) -> str | None:
    """Say what is wrong with the name of an output, if anything is."""
    said = named_format(path)
    if said is not None and said.container != chosen.container:
        return (
            f"{path.name!r} is the name of a {said.container}, and output.driver is {chosen.name}"
        )
    other = other_format_of(path)
    if other is not None:
        return f"{path.name!r} is the name of {other}; outputs are {FORMATS_IN_WORDS}"
    return None


def _unfit_for_format(output: OutputConfig, chosen: Format) -> tuple[str, str] | None:
    """Return (key, what is wrong) if a key does not go with the format."""
    if wrong := _unfit_name(Path(output.path), chosen):
        return "path", wrong
    driver = f"the driver is {chosen.name}"
    if output.checksum and not chosen.checksums:
        return "checksum", f"goes with driver {names_where('checksums')}; {driver}"
    if output.overviews is not None and not chosen.overviews:
        return "overviews", f"go with driver {names_where('overviews')}; {driver}"
    if (output.layout == "parts") != (Path(output.path).suffix.lower() == ".vrt"):
        if output.layout == "parts":
            return (
                "path",
                f"output.layout: parts makes a VRT: let it end in .vrt; got {output.path!r}",
            )
        return "path", f"{output.path!r} is a VRT's name: output.layout: parts makes one"
    if output.layout == "parts" and not chosen.parts:
        return "layout", f"parts are GeoTIFFs, driver {names_where('parts')}; {driver}"
    if output.compress not in chosen.compressions:
        *most, last = chosen.compressions
        return (
            "compress",
            f"{chosen.container}s are compressed with {', '.join(most)} or {last}; "
            f"got {output.compress!r}",
        )
    if output.predictor != "auto" and chosen.no_predictor is not None:
        return "predictor", chosen.no_predictor
    return None


def _pair(value: int | list[int] | Literal["auto"]) -> tuple[int, int] | None:
    """Return n or [y, x] as a pair."""
    if isinstance(value, int):
        return value, value
    return None if isinstance(value, str) else (value[0], value[1])


THREADS_PER_CORE = 16
"""Most threads worth having: they wait for disks and networks."""
PROCESSES_PER_CORE = 4


def _threads(scheduler: str, workers: int | Literal["auto"]) -> int:
    """Return how many threads, or processes, compute."""
    if scheduler == "synchronous":
        return 1
    most = cpu_count() * (PROCESSES_PER_CORE if scheduler == "processes" else THREADS_PER_CORE)
    return cpu_count() if workers == "auto" else min(workers, most)


def _memory_limit(limit: int | Literal["auto"]) -> int:
    """Return bytes; auto is half of what the machine, or its control group, has left."""
    return available_memory() // 2 if limit == "auto" else limit
