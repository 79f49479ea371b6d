"""What a run is, field by field, so that a resumed one can say what has changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.jobs.output_metadata import DECIDING, config_hash
from tileconv.raster.reading import gdal_version
from tileconv.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tileconv.jobs.job import Job
    from tileconv.planning.cluster_plan import ClusterPlan
    from tileconv.planning.plan import Plan
    from tileconv.raster.reading import Header
    from tileconv.raster.writing import OutputSpec

WORDS = {"weights": "the kernel's weights", "dtype": "output.dtype", "nodata": "output.nodata"}
STORED = ("driver", "compress", "predictor", "level", "overviews", "layout")
"""Fields of an output that decide on the bytes of parts, beside its pixels."""


def identity_of(job: Job, plan: Plan, header: Header, spec: OutputSpec) -> dict[str, Any]:
    """Return all that decides on the parts of a run, each by a name that people know."""
    said: dict[str, Any] = {"the version of tileconv": __version__}
    said["the version of GDAL"] = gdal_version()
    for name, value in plan.operator.identity().items():
        said[WORDS.get(name, name)] = _digest(value)
    for name in DECIDING:
        said[WORDS.get(name, name)] = _digest(getattr(job, name))
    said |= {f"output.{name}": getattr(spec, name) for name in STORED}
    for scene in header.scenes or (header,):
        said[f"the input {scene.path}"] = asdict(scene.identity)
    said["the list of inputs"] = [str(source) for source in job.sources]
    said["config"] = config_hash(job, plan.operator)
    return said


def grid_of(plan: ClusterPlan) -> dict[str, Any]:
    """Return how the output is cut into parts."""
    tiles = plan.tiles
    return {
        "tile": [tiles.y.tile, tiles.x.tile],
        "panel": tiles.panel,
        "rows": plan.parts.rows,
        "block": plan.choice.block,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs."""
    names = dict.fromkeys([*before, *now])
    found = [name for name in names if before.get(name) != now.get(name)]
    return [name for name in found if name != "config"] or found


def key_of(identity: Mapping[str, Any], grid: Mapping[str, Any]) -> str:
    """Return a hash of a run."""
    text = json.dumps([identity, grid], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(value: Any) -> str:
    """Return short values as they are, and a hash of long ones."""

    def plain(value: Any) -> Any:
        return value.name if isinstance(value, np.dtype) else value.tolist()

    text = json.dumps(value, default=plain)
    return text if len(text) <= 64 else hashlib.sha256(text.encode()).hexdigest()[:32]
