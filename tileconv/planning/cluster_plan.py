"""The plan of a run on a cluster: a plan, and the parts that its output is cut into."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from tileconv.planning.blocks import count_uses, shared_blocks
from tileconv.planning.cost import MARGIN
from tileconv.planning.parts import Parts
from tileconv.planning.plan import Plan
from tileconv.planning.seams import decodings

SHORTEST_SECONDS = 0.2
"""Of a task: dask takes a few milliseconds for each."""
LONGEST_SECONDS = 2.0
"""What a task aims at where there is work for all: little is lost with a worker."""
TASKS_PER_SECOND = 100
"""What a scheduler bears easily: it takes 3 ms for a task. Large clusters get longer tasks."""
PARTS_PER_RUN = 16
"""Parts worth having, so that runs end together, if they are long enough."""
SEAMS = 0.05
"""Largest share of blocks that is decoded twice."""
DECODED_PER_SECOND = 300e6
ENCODED_PER_SECOND = 200e6
ADDED_PER_SECOND = 10e9
"""Bytes of pixels, and multiply-adds, of one core: deflate and zstd, and compiled loops."""


@dataclass(frozen=True)
class ClusterPlan(Plan):
    """A plan whose tiles are computed part by part; each part is a task."""

    parts: Parts = field(kw_only=True)

    @cached_property
    def blocks_decoded(self) -> int:
        """Block decodings of the run; more than needed where panels or parts share blocks."""
        return decodings(self.geometry, self.layout, self.parts)

    def _pieces(self) -> dict[str, Any]:
        return {**super()._pieces(), "parts": self.parts.count}

    def facts(self) -> dict[str, Any]:
        """Return `to_dict` and what else the page tells."""
        own = {"part_shape": self.parts[0].shape, "parts_at_a_time": self.parts.runs}
        return {**super().facts(), **own}


def cut_into_parts(
    plan: Plan, threads: int, *, part: tuple[int, int] | None = None, rows: int | None = None
) -> ClusterPlan:
    """Return ``plan`` with its parts, for a cluster of so many threads.

    ``part`` is the size of a part in outputs, if the job says it; ``rows`` keeps the panel of the
    plan, and takes so many tile rows of it, as an interrupted run did.
    """
    tiles = plan.tiles
    if part is not None:
        tall, wide = -(-part[0] // tiles.y.tile), -(-part[1] // tiles.x.tile)
        tiles = replace(tiles, panel=min(wide, tiles.x.count))
        rows = min(tall, tiles.y.count)
    if rows is not None:
        parts = Parts(tiles, rows)
        seams = (0.0, 0.0) if part is not None else _seams(plan, parts)
        return _with(plan, _in_runs(parts, threads, *seams))
    seconds = work_seconds(plan)
    best: tuple[tuple[bool, float, float], Parts] | None = None
    for columns in _cuts(tiles.x.count):
        chosen = replace(tiles, panel=columns)
        if columns > tiles.panel and plan.work.peak_bytes(chosen, 1) * MARGIN > plan.memory_limit:
            continue
        for tall in _cuts(tiles.y.count):
            parts = Parts(chosen, tall)
            each = seconds / parts.count
            if parts.count > 1 and each < SHORTEST_SECONDS:
                continue
            down, across = _seams(plan, parts)
            parts = _in_runs(parts, threads, down, across)
            aim = seconds / (PARTS_PER_RUN * parts.runs)
            aim = min(max(aim, SHORTEST_SECONDS), LONGEST_SECONDS)
            aim = max(aim, parts.runs / TASKS_PER_SECOND)
            # busy threads count first, then the length of a task; where panels alone cost more than
            # the limit, the blocks decoded twice do
            over = across > SEAMS
            rank = (over, across if over else -parts.runs, abs(np.log(each / aim)))
            if best is None or rank < best[0]:
                best = rank, parts
    if best is None:  # not even a panel of the plan is long enough
        return _with(plan, Parts(tiles, tiles.y.count))
    return _with(plan, best[1])


def work_seconds(plan: Plan) -> float:
    """Estimate the seconds that one core takes for the whole job."""
    layout = plan.layout
    rows, columns = layout.block
    pixels = plan.blocks_needed * rows * columns * layout.decoded_pixel_bytes
    bands, height, width = plan.out_shape
    adds = bands * height * width * plan.operator.tap_count
    return (
        pixels / DECODED_PER_SECOND
        + plan.output_bytes / ENCODED_PER_SECOND
        + adds / ADDED_PER_SECOND
    )


def _with(plan: Plan, parts: Parts) -> ClusterPlan:
    own = {each.name: getattr(plan, each.name) for each in fields(Plan)}
    own["choice"] = replace(plan.choice, tiles=parts.tiles)
    cut = ClusterPlan(**own, parts=parts)
    share = cut.blocks_decoded / max(cut.blocks_needed, 1) - 1
    if share > SEAMS:
        note = f"{share:.1%} of the blocks are decoded twice, at the borders of parts"
        cut = replace(cut, notes=(*cut.notes, note))
    return cut


def _seams(plan: Plan, parts: Parts) -> tuple[float, float]:
    """Return what is decoded twice under the border of two parts, and under all of panels.

    Both as shares of what is needed, as if scenes had one grid; that of a part is the largest.
    """
    (y, x), (by, bx) = parts.axes(), plan.layout.block
    geometry = plan.geometry
    rows, columns = count_uses(geometry.y, y, by), count_uses(geometry.x, x, bx)
    across = columns.total / max(columns.touched, 1) - 1
    down = shared_blocks(geometry.y, y, by) / max(rows.touched, 1)
    return down * (1 + across) / parts.grid[1], across


def _in_runs(parts: Parts, threads: int, down: float, across: float) -> Parts:
    most = _runs(parts, parts.count, down, across)
    return replace(parts, runs=_runs(parts, threads, down, across), most_runs=most)


def _runs(parts: Parts, threads: int, down: float, across: float) -> int:
    """Return how many runs, at most ``threads``, decode no more than `SEAMS` twice.

    A run that begins inside a panel costs the border to the part above, ``down``.

    >>> from tileconv.planning.tiles import AxisTiles, Tiles
    >>> parts = Parts(Tiles(AxisTiles(8, 1), AxisTiles(4, 1), panel=1), rows=1)
    >>> [_runs(parts, threads, 0.005, 0.02) for threads in (1, 5, 8, 9, 100)]
    [1, 5, 8, 8, 8]
    """
    most = min(threads, parts.count)
    if across > SEAMS or down <= 0:
        return most
    inside = int((SEAMS - across) / down + 1e-9)
    panels = parts.grid[1]
    # all runs but the first begin inside panels, or each panel holds as many runs
    whole = panels * min(most // panels, 1 + inside // panels)
    return max(min(most, 1 + inside), whole)


def _cuts(count: int) -> list[int]:
    """Return sizes of even pieces of ``count`` things: 1, 2, 3, 4, 6, 8, 12, ... of them."""
    pieces = [n for k in range(count.bit_length() + 1) for n in (2**k, 3 * 2**k) if n <= count]
    return sorted({-(-count // n) for n in pieces}, reverse=True)
