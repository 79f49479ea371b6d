"""From a job and the header of its raster to the plan, and to the file it writes."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tileconv.convolution import Convolution
from tileconv.dtypes import Numbers
from tileconv.errors import ConfigError, OutputExistsError, TileconvError
from tileconv.jobs.job import Job
from tileconv.planning.plan import Plan, make_plan
from tileconv.raster.metadata import Header, check_file, read_header
from tileconv.raster.mosaic import read_mosaic
from tileconv.raster.remote import Place, Remote
from tileconv.raster.sink import OutputSpec
from tileconv.version import __version__


def plan_job(job: Job) -> Plan:
    """Plan ``job`` from headers alone: no pixel is read, nothing is written."""
    plan = plan_header(job, read_source(job))
    if os.path.lexists(job.target) and not job.overwrite:
        plan = replace(plan, notes=(*plan.notes, "the output exists; run it with --overwrite"))
    return plan


def read_source(job: Job) -> Header:
    """Read the header of the job's input, once it is sure that the output is another file."""
    for source in job.sources:
        check_file(source)
        check_distinct(source, job.target, "the output")
    if job.scenes:
        header = read_mosaic(job.scenes, job.bands, masks=job.masks, root=job.root)
    else:
        header = read_header(job.source, job.bands, masks=job.masks, root=job.root)
    for scene in header.scenes or (header,):
        for file in scene.files:  # those of a VRT too
            for path in job.written:
                check_distinct(file, path, "the output")
    return header


def check_distinct(source: Place, target: Path, what: str) -> None:
    """Check that a file to be written is not the input, by whatever name or link."""
    if isinstance(source, Remote):
        return
    if os.path.exists(target) and os.path.samefile(source, target):  # noqa: PTH110, PTH121
        raise OutputExistsError(f"{target}: {what} is the input itself; choose another path")


def plan_header(job: Job, header: Header) -> Plan:
    """Plan ``job`` for a raster whose header has been read."""
    try:
        convolution = _convolution(job, header)
        numbers = _numbers(job, convolution, header)
        if job.compress and job.predictor == 3 and numbers.target.kind != "f":
            raise ConfigError(
                "output.predictor: 3 is for floating point, and the output is "
                f"{numbers.target}; use 2 or auto"
            )
        if job.valid_fraction and numbers.target.kind != "f":
            raise ConfigError("output.valid_fraction: a share needs a float output.dtype")
        return make_plan(
            convolution,
            numbers,
            header.layout,
            threads=job.threads,
            memory_limit=job.memory_limit,
            tile=job.tile,
            block=job.block,
            valid_fraction=job.valid_fraction,
            transform=header.transform,
            source=str(job.source),
            target=str(job.target),
            scenes=tuple(map(str, job.scenes)),
            bands=header.bands,
            descriptions=header.descriptions,
            stored_bytes=header.stored_bytes,
            details=_details(job, header),
            notes=header.notes,
        )
    except ConfigError as error:
        raise ConfigError(f"{job.name}: {error}") from None
    except TileconvError as error:
        raise type(error)(f"{job.name}: {job.source.name}: {error}") from None


def _convolution(job: Job, header: Header) -> Convolution:
    """Return what to compute, now that the size of a pixel is known."""
    if job.convolution is not None:
        return job.convolution
    if job.named is None:
        raise ConfigError("kernel: there is none")
    return Convolution.of(job.named.weights(header.pixel_metres), **job.options)


def _numbers(job: Job, convolution: Convolution, header: Header) -> Numbers:
    """Settle dtypes and nodata; an integer output must be able to say that a pixel is missing."""
    source, fill = header.layout.dtype, job.nodata
    target = job.dtype
    if target is not None and target.kind in "iu" and fill is None:
        fill = _fitting(header.nodata, target)
        padded = any(
            (axis.before or axis.after)
            for g in (convolution.geometry(header.layout.shape),)
            for axis in (g.y, g.x)
        )
        reasons = {
            "the input has nodata": header.nodata is not None,
            "the input has a mask": header.mask_band is not None,
            "the input is floating point and may hold NaN": source.kind == "f",
            "padding_mode is missing": padded and convolution.padding_mode == "missing",
        }
        reason = next((text for text, holds in reasons.items() if holds), None)
        if fill is None and reason is not None:
            raise ConfigError(
                f"output.nodata: give a value of {target} for missing outputs ({reason})"
            )
    try:
        return Numbers.of(source, target, nodata=header.nodata, fill=fill)
    except TileconvError as error:
        raise ConfigError(str(error)) from None


def _fitting(value: float | int | None, dtype: np.dtype) -> int | None:
    """Return the input's nodata if an integer output can hold it too."""
    if value is None or not math.isfinite(value) or value != int(value):
        return None
    bounds = np.iinfo(dtype)
    return int(value) if bounds.min <= value <= bounds.max else None


def _details(job: Job, header: Header) -> dict[str, str]:
    codec = header.codec if header.codec == "uncompressed" else f"compressed with {header.codec}"
    compress = job.compress or "no compression"
    details = {"codec": codec, "driver": f"GeoTIFF with {compress}"}
    if header.crs is not None:
        name = header.crs.to_string()
        details["crs"] = name if len(name) <= 60 else f"{name[:57]}..."
    return details


def output_spec(job: Job, plan: Plan, header: Header) -> OutputSpec:
    """Return the GeoTIFF that ``plan`` writes."""
    c, target = plan.convolution, plan.numbers.target
    predictor = job.predictor or (3 if target.kind == "f" else 2)
    y, x = plan.geometry.y, plan.geometry.x
    tags = {
        "TILECONV_VERSION": __version__,
        "TILECONV_KERNEL": f"{c.kernel_shape[0]} x {c.kernel_shape[1]}",
        "TILECONV_STRIDE": f"{y.stride} {x.stride}",
        "TILECONV_DILATION": f"{y.dilation} {x.dilation}",
        "TILECONV_PADDING": f"{y.before} {x.before} {y.after} {x.after} {c.padding_mode}",
    }
    if header.area_or_point:
        tags["AREA_OR_POINT"] = header.area_or_point
    return OutputSpec(
        path=job.target,
        shape=plan.out_shape,
        dtype=target,
        nodata=plan.numbers.fill,
        block=plan.choice.block,
        transform=plan.out_transform,
        crs=header.crs,
        compress=job.compress,
        predictor=predictor if job.compress else 1,
        level=job.level,
        descriptions=_descriptions(plan),
        tags=tags,
        threads=plan.threads,
        overwrite=job.overwrite,
    )


def _descriptions(plan: Plan) -> tuple[str | None, ...]:
    """Return the names of the output's bands: the input's, or ``kernel:band`` for a bank."""
    c = plan.convolution
    names: list[str | None] = list(plan.descriptions)
    if c.mixes_bands:
        names = [f"output {m}" for m in range(1, c.count + 1)]
    elif c.weights.ndim == 3:
        bands = [text or f"band {b}" for text, b in zip(names, plan.bands, strict=True)]
        names = [f"kernel {k}:{band}" for band in bands for k in range(1, c.count + 1)]
    return (*names, *["valid fraction"] * plan.valid_fraction)
