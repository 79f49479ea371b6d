"""Recompute windows of a finished output without plan, tiles or stores, and compare the bits.

What is independent of a run: pixels are read by plain windows, padding is
numpy's own, missing pixels are marked and results rounded here. What is the
same: the loops, called for one array as `tileconv.convolve` calls them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.api import apply
from tileconv.arguments import check_whole, short_repr
from tileconv.arrays.eager import convolve_numpy
from tileconv.errors import ConfigError
from tileconv.jobs.given import config_errors
from tileconv.jobs.job import Job
from tileconv.jobs.prepare import output_spec, plan_header, read_source
from tileconv.jobs.sidecar import find_difference
from tileconv.padding import OUTSIDE
from tileconv.raster.reading import read_pixels, with_own_connections
from tileconv.text import plural, shown, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tileconv.geometry import Axis
    from tileconv.operators.base import Operator
    from tileconv.planning.plan import Plan
    from tileconv.raster.reading import Header

WINDOWS = 24
MOST_WINDOWS = 1 << 20
"""Of a call: more would take for ever, and show no more."""
SIDE = 96
"""Most outputs along each side of a window."""
INPUT_SIDE = 4096
"""Most input pixels along each side of one, unless a single field is larger."""
Window = tuple[tuple[int, int], tuple[int, int]]
"""Half-open ranges of output rows and columns."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    >>> print(Verification("/out.tif", windows=24, outputs=9216, different=0, faults=()))
    Output    /out.tif
    Checked   24 windows, 9,216 outputs: all bits are those of a single pass
    """

    target: str
    windows: int
    outputs: int
    """Values compared."""
    different: int
    """Values with other bits."""
    faults: tuple[str, ...]
    """What is wrong, in words."""

    @property
    def passed(self) -> bool:
        """Nothing is wrong."""
        return not self.faults

    def to_json(self, indent: int | None = 2) -> str:
        """Return all of it as JSON."""
        return json.dumps({**asdict(self), "passed": self.passed}, indent=indent)

    def __str__(self) -> str:
        """Return a few lines for a person."""
        lines = [f"Output    {shown(self.target)}"]
        done = f"{plural(self.windows, 'window')}, {plural(self.outputs, 'output')}"
        told = "all bits are those of a single pass"
        if self.different:
            told = f"{self.different:,} differ from a single pass"
        if self.windows:
            lines.append(f"Checked   {done}: {told}")
        return "\n".join([*lines, *(f"Wrong     {visible(text)}" for text in self.faults)])


def verify(job: Job, *, windows: int = WINDOWS, seed: int = 0) -> Verification:
    """Check the structure of the output of ``job``, and the bits of ``windows`` windows of it."""
    if not issubclass(type(job), Job):
        raise ConfigError(f"verify takes one job, as load_job returns it; got {short_repr(job)}")
    with config_errors():
        windows = check_whole(windows, "windows", high=MOST_WINDOWS)
        seed = check_whole(seed, "seed", low=0)
    if not os.path.lexists(job.target):
        raise ConfigError(f"{job.target}: there is no output to verify; run the job first")
    return with_own_connections(job.sources, lambda: _verify(job, windows, seed))


def _verify(job: Job, windows: int, seed: int) -> Verification:
    header = read_source(job)
    plan = plan_header(job, header)
    spec = output_spec(job, plan, header)
    if job.block is None:
        spec = job.format.with_its_blocks(spec)
    faults = job.format.faults(spec)
    if job.report and not faults and (told := find_difference(job.report_path, job.target)):
        faults.append(told)
    compared = different = done = 0
    if not faults:
        for rows, columns in choose_windows(plan, windows, np.random.default_rng(seed)):
            found = job.format.read(job.target, rows, columns)
            expected = single_pass(plan, header, rows, columns)
            bad = int(np.count_nonzero(_bits(found) != _bits(expected)))
            done, compared, different = done + 1, compared + found.size, different + bad
            if bad:
                faults.append(
                    f"{bad} of {found.size} values in rows {rows[0]} to {rows[1] - 1}, "
                    f"columns {columns[0]} to {columns[1] - 1} are not what the job gives"
                )
    return Verification(str(job.target), done, compared, different, tuple(faults))


def choose_windows(plan: Plan, count: int, rng: np.random.Generator) -> Iterator[Window]:
    """Yield corners, then windows across borders of tiles, then any; each inside the output."""
    axes = (plan.geometry.y, plan.geometry.x)
    tiles = (plan.tiles.y, plan.tiles.x)
    sides = [_side(axis) for axis in axes]
    for i in range(count):
        ranges = []
        for k, (axis, tile, side) in enumerate(zip(axes, tiles, sides, strict=True)):
            last = max(axis.out_size - side, 0)
            if i < 4:
                first = last * (i >> k & 1)
            elif i % 2 and tile.count > 1:
                first = int(rng.integers(1, tile.count)) * tile.tile - side // 2
            else:
                first = int(rng.integers(0, last + 1))
            first = min(max(first, 0), last)
            ranges.append((first, min(first + side, axis.out_size)))
        yield ranges[0], ranges[1]


def _side(axis: Axis) -> int:
    return max(1, min(SIDE, axis.out_size, (INPUT_SIDE - axis.span) // axis.stride + 1))


def single_pass(
    plan: Plan, header: Header, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Return a window (bands, rows, columns) of what the job gives, from pixels read for it."""
    numbers = plan.numbers
    at_y = _positions(plan.geometry.y, rows)
    at_x = _positions(plan.geometry.x, columns)
    inside = (at_y >= 0)[:, None] & (at_x >= 0)
    ys, xs = np.maximum(at_y, 0), np.maximum(at_x, 0)
    pixels, masked = read_pixels(header, ys, xs)
    lost = np.zeros(pixels.shape, bool)
    if pixels.dtype.kind == "f":
        lost |= np.isnan(pixels)
    if numbers.nodata is not None:
        lost |= pixels == numbers.nodata
    if masked is not None:
        lost |= masked
    values = pixels.astype(numbers.compute)
    lost &= inside
    values[:, ~inside] = plan.operator.samplings[-1].padding_value
    if plan.geometry.y.mode == "missing":
        lost |= (at_y < 0)[:, None]
    if plan.geometry.x.mode == "missing":
        lost |= at_x < 0
    operator = plan.operator.without_padding()
    if numbers.compute.kind == "f":
        values[lost] = np.nan
        out = _finish(apply(operator, values, dtype=numbers.compute), plan)
    else:  # the loops' own results, no sums to be rounded
        whole = replace(numbers, source=numbers.compute, nodata=None)
        out = convolve_numpy(values, operator, whole, mask=lost)
    if plan.valid_fraction:
        share = _valid_share(operator, ~lost).astype(numbers.target)
        out = np.concatenate([out, share[None]])
    return out


def _positions(axis: Axis, outputs: tuple[int, int]) -> np.ndarray:
    """Return the source pixel of each place that some outputs read, -1 where there is none."""
    low = outputs[0] * axis.stride
    high = (outputs[1] - 1) * axis.stride + axis.span
    every = np.arange(axis.size)
    around = (axis.before, axis.after)
    filled: dict[str, Any] = {"mode": axis.mode}
    if axis.mode in OUTSIDE:
        filled = {"constant_values": -1}
    return np.pad(every, around, **filled)[low:high]


def _finish(sums: np.ndarray, plan: Plan) -> np.ndarray:
    """Return sums (NaN: missing) as the output has them: rounded half to even, saturated."""
    target, fill = plan.numbers.target, plan.numbers.fill
    missing = np.isnan(sums)
    if target.kind == "f":
        with np.errstate(over="ignore"):
            out = sums.astype(target)
    else:
        bounds = np.iinfo(target)
        whole = np.rint(np.where(missing, 0, sums).astype(np.float64))
        low, high = whole <= float(bounds.min), whole >= float(bounds.max)
        out = np.where(low | high, 0, whole).astype(target)
        out[low], out[high] = bounds.min, bounds.max
    if fill is not None:
        out[missing] = fill
    return out


def _valid_share(operator: Operator, valid: np.ndarray) -> np.ndarray:
    """Return the least share of ``sum |w|`` on valid pixels, over all outputs."""
    found = apply(operator.weighing(), valid.astype(np.float64))
    with np.errstate(invalid="ignore"):
        shares = found / operator.weights_of_fields(len(found))[:, None, None]
    return np.fmin.reduce([np.ones(found.shape[1:]), *shares])


def _bits(values: np.ndarray) -> np.ndarray:
    """Return values as integers, so that NaN equals NaN and 0 is not -0."""
    plain = np.ascontiguousarray(values)
    if plain.dtype.kind == "f":
        plain[np.isnan(plain)] = np.nan  # one NaN is as good as another
    return plain.view(f"u{plain.dtype.itemsize}")
