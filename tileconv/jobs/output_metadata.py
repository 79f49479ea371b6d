"""What the output's file says: what follows from the input's, and tileconv's own tags."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.propagation import Origin
from tileconv.raster.writing import Metadata, own_tags, propagate_tags, storable_crs
from tileconv.version import __version__

if TYPE_CHECKING:
    from tileconv.jobs.job import Job
    from tileconv.operators.base import Operator
    from tileconv.planning.plan import Plan
    from tileconv.raster.reading import Header

DECIDING = ("bands", "mask", "scaled", "palette", "dtype", "nodata", "valid_fraction")
"""Fields of a job that decide on the values of its output, beside its operator."""


def output_metadata(job: Job, plan: Plan, header: Header) -> Metadata:
    """Return what the file that ``plan`` writes has to say."""
    propagated, _ = _propagate(job, plan.operator, header)
    return own_tags(propagated, f"tileconv {__version__}", _own_tags(job, plan, header))


def what_is_lost(job: Job, operator: Operator, header: Header) -> tuple[str, ...]:
    """Return a note for each thing that the input's file says and the output's cannot."""
    propagated, notes = _propagate(job, operator, header)
    notes += job.format.losses(propagated)
    if header.crs is not None and job.format.storable_crs(header.crs) is None:
        notes = (
            *notes,
            f"a {job.format.container} cannot hold this coordinate system: the output has none, "
            "and the tag CRS of the domain TILECONV keeps its text",
        )
    return notes


def config_hash(job: Job, operator: Operator) -> str:
    """Return a hash of all that a job says about the values of its output.

    Paths, formats and what the run may use have no part in it, nor the words that
    were chosen: ``stride: 4`` and ``stride: [4, 4]`` are the same.
    """
    said = dict(operator.identity())
    said |= {name: getattr(job, name) for name in DECIDING}
    text = json.dumps(said, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _propagate(job: Job, operator: Operator, header: Header) -> tuple[Metadata, tuple[str, ...]]:
    made = operator.origins(header.descriptions, header.bands)
    if job.valid_fraction:
        made = (*made, Origin("valid fraction"))
    return propagate_tags(
        header.metadata,
        operator.geometry(header.layout.shape),
        made,
        scaled=header.scaled,
        skips=operator.missing_rules[-1].counts_as_zero,
        placed=header.transform is not None,
    )


def _own_tags(job: Job, plan: Plan, header: Header) -> dict[str, str]:
    """Return tileconv's own tags; pairs are (y, x)."""
    operator, sampling = plan.operator, plan.operator.samplings[-1]
    y, x = plan.geometry.y, plan.geometry.x
    lost = header.crs if storable_crs(header.crs) is None else None
    return {
        "VERSION": __version__,
        "CONFIG_SHA256": config_hash(job, operator),
        **operator.tags(),
        **({} if job.named is None else {"KERNEL": str(job.named)}),
        "STRIDE": f"{y.stride} {x.stride}",
        "DILATION": f"{y.dilation} {x.dilation}",
        "PADDING": f"{y.before} {x.before} {y.after} {x.after}",
        "PADDING_MODE": " ".join(dict.fromkeys(sampling.padding_mode)),
        "MISSING": operator.missing_rules[-1].policy,
        "COVERAGE": f"{plan.coverage['total']:.9g}",
        "UNCOVERED": f"{y.uncovered} {x.uncovered}",
        "BANDS": " ".join(map(str, plan.bands)),
    } | ({} if lost is None else {"CRS": lost.to_wkt()})


def _plain(value: Any) -> Any:
    """Return what JSON does not know as what it does."""
    return value.name if isinstance(value, np.dtype) else value.tolist()
