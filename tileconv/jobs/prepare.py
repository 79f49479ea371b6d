"""From a job and the header of its raster to the plan, and to the file it writes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tileconv.dtypes import Numbers
from tileconv.errors import ConfigError, TileconvError
from tileconv.jobs.job import Job
from tileconv.jobs.machine import cpu_count
from tileconv.jobs.output_metadata import output_metadata, what_is_lost
from tileconv.operators.base import Operator
from tileconv.operators.build import build
from tileconv.planning.cluster_plan import cut_into_parts
from tileconv.planning.plan import Plan, make_plan
from tileconv.raster.reading import Header, Wanted, check_file, read_header, read_mosaic
from tileconv.raster.writing import OutputSpec, OwnFile, OwnFiles, describe_left, remove_left
from tileconv.text import plural


def plan_job(job: Job) -> Plan:
    """Plan ``job`` from headers alone: no pixel is read, nothing is written."""
    header = read_source(job)
    if job.overwrite:
        check_targets(job, header)
    plan = plan_header(job, header)
    if job.on_cluster:
        plan = cut_into_parts(plan, job.threads, part=job.part)
    if (left := describe_left(target.path for target in job.targets)) is not None:
        plan = replace(plan, notes=(*plan.notes, f"the run removes {left}"))
    if os.path.lexists(job.target) and not job.overwrite:
        plan = replace(plan, notes=(*plan.notes, "the output exists; run it with --overwrite"))
    return plan


def remove_leftovers(job: Job) -> list[str]:
    """Remove what killed runs left where ``job`` writes; returns a note of it."""
    left = describe_left(target.path for target in job.targets)
    if left is None:
        return []
    try:
        for target in job.targets:
            remove_left(target.path)
    except OSError as error:
        return [f"cannot remove {left}: {error.strerror}"]
    return [f"removed {left}"]


def read_source(job: Job) -> Header:
    """Read the header of the job's input, once it is sure that the output is another file."""
    for source in job.sources:
        check_file(source)
    _check_distinct(job, None)
    wanted = Wanted(
        bands=job.bands,
        mask=job.mask,
        scaled=job.scaled,
        palette=job.palette,
        target=job.dtype,
        root=job.root,
    )
    header = read_mosaic(job.scenes, wanted) if job.scenes else read_header(job.source, wanted)
    _check_distinct(job, header)  # those of a VRT too
    return header


def own_files(job: Job, header: Header | None = None) -> tuple[OwnFile, ...]:
    """Return the files that ``job`` is made of and reads; with ``header``, also those of VRTs."""
    read = [source for source in job.sources if isinstance(source, Path)]
    if header is not None:
        read += [file for scene in header.scenes or (header,) for file in scene.files]
    return (*((file, "the input") for file in dict.fromkeys(read)), *job.files)


def check_targets(job: Job, header: Header | None = None) -> None:
    """Check that each file that ``job`` writes may be put where it is to be."""
    own = OwnFiles(own_files(job, header))
    for target in job.targets:
        target.check(own)


def _check_distinct(job: Job, header: Header | None) -> None:
    own = OwnFiles(own_files(job, header))
    for target in job.targets:
        target.check_distinct(own)


def plan_header(job: Job, header: Header) -> Plan:
    """Plan ``job`` for a raster whose header has been read."""
    try:
        operator = _operator(job, header)
        numbers = _numbers(job, operator, header)
        if job.compress and job.predictor == 3 and numbers.target.kind != "f":
            raise ConfigError(
                "output.predictor: 3 is for floating point, and the output is "
                f"{numbers.target}; use 2 or auto"
            )
        operator.outputs(header.layout.read_bands)  # the kernel is one for these bands
        if job.valid_fraction and numbers.target.kind != "f":
            raise ConfigError("output.valid_fraction: a share needs a float output.dtype")
        plan = make_plan(
            operator,
            numbers,
            header.layout,
            threads=1 if job.on_cluster else job.threads,  # of a task
            memory_limit=job.memory_limit,
            tile=job.tile,
            block=job.block,
            valid_fraction=job.valid_fraction,
            writer_bytes=job.format.writer_bytes,
            copy_bytes=job.format.copy_bytes,
            transform=header.transform,
            source=str(job.source),
            target=str(job.target),
            scenes=tuple(map(str, job.scenes)),
            bands=header.bands,
            descriptions=header.descriptions,
            stored_bytes=header.stored_bytes,
            details=_details(job, header),
            notes=(
                *header.notes,
                *what_is_lost(job, operator, header),
                *_collisions(job, operator, numbers),
                *_fewer_workers(job),
            ),
        )
        _check_table(job, plan)
        return plan
    except ConfigError as error:
        raise ConfigError(f"{job.name}: {error}") from None
    except TileconvError as error:
        raise type(error)(f"{job.name}: {job.source.name}: {error}") from None


def _operator(job: Job, header: Header) -> Operator:
    """Return what to compute, now that the size of a pixel is known."""
    if job.operator is not None:
        return job.operator
    if job.named is None:
        raise ConfigError("kernel: there is none")
    return build("kernel", job.named.weights(header.pixel_metres), **job.options)


def _numbers(job: Job, operator: Operator, header: Header) -> Numbers:
    """Decide on dtypes and nodata; an integer output must be able to say a pixel is missing."""
    source, fill = header.layout.dtype, job.nodata
    scales = [] if job.scaled else [band.scale for band in header.metadata.bands]
    if operator.is_ordered and min(scales, default=1) < 0:
        band = header.bands[scales.index(min(scales))]
        raise ConfigError(
            f"input: the scale of band {band} is {min(scales):g}, so that the largest "
            "stored number is the smallest value; give input.scaled: true"
        )
    target = _target(job, operator, source)
    if target.kind in "iu" and fill is None:
        fill = _fitting(header.nodata, target)
        geometry = operator.geometry(header.layout.shape)
        unseen = any(
            (axis.before or axis.after) and axis.mode == "missing"
            for axis in (geometry.y, geometry.x)
        )
        reasons = {
            "the input has nodata": header.has_nodata,
            "the input has a mask": header.decoding.masks,
            "the input is floating point and may hold NaN": source.kind == "f",
            "padding_mode is missing": unseen,
        }
        reason = next((text for text, holds in reasons.items() if holds), None)
        if fill is None and reason is not None:
            raise ConfigError(
                f"output.nodata: give a value of {target} for missing outputs ({reason})"
            )
    try:
        return operator.dtypes(source, job.dtype, nodata=header.nodata, fill=fill)
    except TileconvError as error:
        raise ConfigError(str(error)) from None


def _target(job: Job, operator: Operator, source: np.dtype) -> np.dtype:
    """Return the dtype of the output."""
    try:
        target = operator.dtypes(source, job.dtype).target
    except TileconvError as error:
        raise ConfigError(str(error)) from None
    if target == np.float16:
        raise ConfigError("output.dtype: GeoTIFF cannot store float16; use float32")
    return target


def _collisions(job: Job, operator: Operator, numbers: Numbers) -> Iterator[str]:
    """Yield what can be told beforehand of valid outputs that equal nodata."""
    if numbers.fill is None:
        return
    fill = numbers.fill.item()
    if (told := operator.collision(fill)) is not None:
        yield told
    if job.valid_fraction and 0 <= fill <= 1:
        yield f"a valid fraction of {fill:g} equals nodata, and will read as missing"


def _check_table(job: Job, plan: Plan) -> None:
    """Refuse a file of more blocks than its format allows."""
    most = job.format.most_blocks
    if most is None or job.layout != "single":
        return
    bands, rows, columns = plan.out_shape
    block = plan.choice.block
    blocks = bands * -(-rows // block) * -(-columns // block)
    if blocks > most:
        raise ConfigError(
            f"output: {plural(blocks, 'block')} of {block} x {block} pixels are more than the "
            f"{most:,} that a {job.format.container} may have; use a larger stride, less padding "
            "or larger blocks (output.blocksize)"
        )


def _fewer_workers(job: Job) -> Iterator[str]:
    """Yield that a job asks for more than this machine's cores have a use for."""
    if job.workers is not None and job.workers > job.threads and job.scheduler != "synchronous":
        kind = "processes" if job.scheduler == "processes" else "threads"
        yield (
            f"compute.workers: {job.workers} are more than {plural(cpu_count(), 'core')} can use; "
            f"{job.threads} {kind} are started"
        )


def _fitting(value: float | int | None, dtype: np.dtype) -> int | None:
    """Return the input's nodata if an integer output can hold it too."""
    if value is None or not math.isfinite(value) or value != int(value):
        return None
    bounds = np.iinfo(dtype)
    return int(value) if bounds.min <= value <= bounds.max else None


def _details(job: Job, header: Header) -> dict[str, str]:
    codec = header.codec if header.codec == "uncompressed" else f"compressed with {header.codec}"
    compress = job.compress or "no compression"
    name = job.format.title
    if job.layout == "parts":
        name = f"part files and a VRT, {name}"
    details = {"codec": codec, "driver": f"{name} with {compress}"}
    if header.crs is not None:
        name = header.crs.to_string()
        details["crs"] = name if len(name) <= 60 else f"{name[:57]}..."
    return details


def output_spec(job: Job, plan: Plan, header: Header) -> OutputSpec:
    """Return what ``plan`` writes."""
    target = plan.numbers.target
    predictor = job.predictor or (3 if target.kind == "f" else 2)
    return OutputSpec(
        path=job.target,
        shape=plan.out_shape,
        dtype=target,
        nodata=plan.numbers.fill,
        block=plan.choice.block,
        transform=plan.out_transform,
        crs=job.format.storable_crs(header.crs),
        driver=job.driver,
        kind=job.format.kind(job.layout),
        overviews=job.overviews or "average",
        compress=job.compress,
        predictor=predictor if job.compress else 1,
        level=job.level,
        metadata=output_metadata(job, plan, header),
        threads=plan.threads,
        overwrite=job.overwrite,
        layout=job.layout,
        checksum=job.checksum,
        own=own_files(job, header),
    )
