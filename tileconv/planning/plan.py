"""The plan of a run: pure data, made from headers, that prints itself.

Nothing in it grows with the number of tiles or blocks of a raster, only with
the tiles along one axis.
"""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tileconv.dtypes import Numbers
from tileconv.engine.choose import Algorithm, algorithm_of, demand
from tileconv.geometry import Geometry, Transform
from tileconv.operators.base import Operator
from tileconv.planning.blocks import count_uses
from tileconv.planning.cost import MIB, Choice, Work, choose_tiles
from tileconv.planning.layout import Layout
from tileconv.planning.page import render
from tileconv.planning.reads import packs
from tileconv.planning.scenes import count_blocks
from tileconv.planning.tiles import AxisTiles, Tiles


@dataclass(frozen=True)
class Plan:
    """What a run will read, compute, hold and write. Pairs are (y, x).

    >>> from tileconv.operators.convolution import Convolution
    >>> from tileconv.planning.layout import Layout
    >>> stored = Layout(shape=(2000, 3000), dtype=np.dtype("uint16"), block=(256, 256))
    >>> every = Convolution.of(np.ones((3, 3)), stride=512)
    >>> plan = make_plan(every, Numbers.of("uint16"), stored, threads=2, memory_limit=1 << 30)
    >>> plan.out_shape, plan.blocks_needed, plan.layout.blocks_total
    ((1, 4, 6), 24, 96)
    """

    operator: Operator
    numbers: Numbers
    geometry: Geometry
    layout: Layout
    work: Work
    choice: Choice
    memory_limit: int
    """Bytes the run may use at its peak."""
    transform: Transform | None = None
    """The input's, None if it has none."""
    source: str = "array"
    target: str = "array"
    scenes: tuple[str, ...] = ()
    """The files of a mosaic, the first of which is ``source``."""
    bands: tuple[int, ...] = ()
    """Bands that are convolved, 1-based."""
    descriptions: tuple[str | None, ...] = ()
    """What the file calls these bands."""
    stored_bytes: int | None = None
    """Compressed bytes of the input, for the estimate of ``bytes_to_read``."""
    details: dict[str, str] = field(default_factory=dict)
    """What only files know, for printing: codec, coordinate system, driver."""
    valid_fraction: bool = False
    """One more output band holds the valid share of each field."""
    notes: tuple[str, ...] = ()
    """Things the user should know before running."""

    @property
    def tiles(self) -> Tiles:
        """The output's tiles."""
        return self.choice.tiles

    @property
    def threads(self) -> int:
        """Threads that compute."""
        return self.choice.threads

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns)."""
        return (self.work.outputs, *self.geometry.out_shape)

    @property
    def out_transform(self) -> Transform | None:
        """Transform of the output; None if the input has none."""
        return None if self.transform is None else self.geometry.out_transform(self.transform)

    @cached_property
    def algorithm(self) -> Algorithm:
        """How a tile is computed."""
        return algorithm_of(self.operator, self.numbers.compute)

    @cached_property
    def _blocks_of_scenes(self) -> tuple[int, int]:
        return count_blocks(self.layout, self.geometry, self.tiles)

    @cached_property
    def blocks_needed(self) -> int:
        """Storage blocks that at least one receptive field touches, all bands."""
        if self.layout.scenes:
            return self._blocks_of_scenes[0]
        y, x = self.geometry.y, self.geometry.x
        by, bx = self.layout.block
        rows, columns = count_uses(y, self.tiles.y, by), count_uses(x, self.tiles.x, bx)
        return rows.touched * columns.touched * self.layout.planes

    @cached_property
    def blocks_decoded(self) -> int:
        """Block decodings of the run; more than needed where panels share blocks."""
        if self.layout.scenes:
            return self._blocks_of_scenes[1]
        y, x = self.geometry.y, self.geometry.x
        by, bx = self.layout.block
        panels = AxisTiles(self.tiles.x.total, self.tiles.panel * self.tiles.x.tile)
        rows, columns = count_uses(y, self.tiles.y, by), count_uses(x, panels, bx)
        return rows.touched * columns.total * self.layout.planes

    @property
    def bytes_to_read(self) -> int | None:
        """Compressed bytes of all decodings, by the file's mean block; None in memory."""
        if self.stored_bytes is None:
            return None
        return round(self.stored_bytes * self.blocks_decoded / self.layout.blocks_total)

    @property
    def peak_memory_bytes(self) -> int:
        """Estimated peak memory of the process."""
        return self.work.peak_bytes(self.tiles, self.threads)

    @property
    def output_bytes(self) -> int:
        """Bytes of the output before compression."""
        bands, rows, columns = self.out_shape
        return bands * rows * columns * self.numbers.target.itemsize

    @property
    def coverage(self) -> dict[str, float]:
        """Share of the input inside a receptive field: along y, along x, of all pixels."""
        y, x = self.geometry.y, self.geometry.x
        along_y, along_x = y.covered / y.size, x.covered / x.size
        return {"y": along_y, "x": along_x, "total": along_y * along_x}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON's values; pairs are (y, x), shapes (bands, rows, columns)."""
        y, x = self.geometry.y, self.geometry.x
        transform = self.out_transform
        return {
            "source": self.source,
            "target": self.target,
            **({"scenes": list(self.scenes)} if self.scenes else {}),
            "bands": list(self.bands),
            "in_shape": [self.layout.bands, *self.layout.shape],
            "out_shape": list(self.out_shape),
            "out_transform": None if transform is None else list(transform),
            "dtype": self.numbers.target.name,
            "compute_dtype": self.numbers.compute.name,
            "nodata": _number(self.numbers.fill),
            **self.operator.facts(),
            "missing": self.operator.missing_rules[-1].policy,
            "stride": [y.stride, x.stride],
            "dilation": [y.dilation, x.dilation],
            "padding": [y.before, x.before, y.after, x.after],
            "span": [y.span, x.span],
            "halo": [y.halo, x.halo],
            "coverage": self.coverage,
            "uncovered": [y.uncovered, x.uncovered],
            **self._pieces(),
            "block_shape": [self.choice.block, self.choice.block],
            "blocks_total": self.layout.blocks_total,
            "blocks_needed": self.blocks_needed,
            "blocks_decoded": self.blocks_decoded,
            "bytes_to_read": self.bytes_to_read,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_limit": self.memory_limit,
            "output_bytes": self.output_bytes,
            "algorithm": self.algorithm.name,
            "threads": self.threads,
            "notes": list(self.notes),
        }

    def _pieces(self) -> dict[str, Any]:
        """Return what `to_dict` says of the pieces that the output is computed in."""
        return {
            "tiles": self.tiles.count,
            "tile_shape": [self.tiles.y.tile, self.tiles.x.tile],
            "panels": self.tiles.panels,
        }

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def facts(self) -> dict[str, Any]:
        """Return `to_dict` and what else the page tells."""
        layout, numbers = self.layout, self.numbers
        sampling, rule = self.operator.samplings[-1], self.operator.missing_rules[-1]
        y, x = self.geometry.y, self.geometry.x
        blocks = {scene.layout.block for scene in layout.scenes} or {layout.block}
        return {
            **self.to_dict(),
            "source_dtype": str(layout.dtype),
            "stored_dtype": None if layout.stored is None else str(layout.stored),
            "read_bands": layout.read_bands,
            "interleaved": layout.interleaved and layout.bands > 1,
            "storage_blocks": sorted(blocks, reverse=True),
            "details": self.details,
            **self.operator.description()._asdict(),
            "padding_modes": [y.mode, x.mode],
            "padding_value": sampling.padding_value,
            "shift": [y.shift, x.shift],
            "gap": [y.gap, x.gap],
            "widened_from": str(numbers.source) if numbers.widened else None,
            "fill_value": rule.fill_value,
            "min_valid_fraction": rule.min_valid_fraction,
            "require_center": rule.require_center,
        }

    def __str__(self) -> str:
        """Return a page that tells a person what will happen."""
        return render(self.facts())


def _sampling(geometry: Geometry, layout: Layout) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the strides and dilations, along (y, x), at which windows are sampled."""
    y, x = (
        (axis.kernel, 1) if packs(axis, block, axis.out_size) else (axis.stride, axis.dilation)
        for axis, block in zip((geometry.y, geometry.x), layout.block, strict=True)
    )
    return (y[0], x[0]), (y[1], x[1])


def _pads(geometry: Geometry) -> bool:
    return any(axis.before or axis.after for axis in (geometry.y, geometry.x))


def _number(value: np.generic | None) -> float | int | str | None:
    """Return a scalar as JSON has it; JSON has no NaN."""
    if value is None:
        return None
    plain = value.item()
    return "nan" if plain != plain else plain  # noqa: PLR0124


def make_plan(
    operator: Operator,
    numbers: Numbers,
    layout: Layout,
    *,
    threads: int,
    memory_limit: int,
    tile: tuple[int, int] | None = None,
    block: int | None = None,
    valid_fraction: bool = False,
    writer_bytes: int = 0,
    copy_bytes: int = 0,
    **about: Any,
) -> Plan:
    """Plan what ``operator`` computes of a raster.

    Parameters
    ----------
    threads, memory_limit
        What the run may use, threads and bytes.
    tile, block
        Output tile (y, x) and side of an output block in pixels; chosen if None.
    valid_fraction
        Add a band with the valid share of each field.
    writer_bytes, copy_bytes
        What the output's driver holds beside tiles, and after them.
    about
        The fields of `Plan` that describe files: transform, source, target, ...
    """
    geometry = operator.geometry(layout.shape)
    needs = demand(
        operator,
        numbers.compute,
        layout.read_bands,
        _sampling(geometry, layout),
        geometry.out_shape[1],
    )
    listed = operator.missing_rules[-1].policy != "propagate" or valid_fraction
    work = Work(
        geometry=geometry,
        layout=layout,
        compute_itemsize=numbers.compute.itemsize,
        target_itemsize=numbers.target.itemsize,
        scratch_bytes=needs.workspace_bytes,
        wraps=geometry.y.mode == "wrap",
        outputs=operator.outputs(layout.read_bands) + valid_fraction,
        group=needs.planes,
        policy=listed,
        writer_bytes=writer_bytes,
        copy_bytes=copy_bytes,
        marks=bool(layout.marks)
        or numbers.nodata is not None
        or (listed and layout.dtype.kind == "f")
        or _pads(geometry),
    )
    choice = choose_tiles(work, threads, memory_limit, tile=tile, block=block)
    if work.decodings(choice.tiles) > 1.5:
        best = work.peak_bytes(replace(choice.tiles, panel=choice.tiles.x.count), threads)
        times = f"{work.decodings(choice.tiles):.1f}"
        note = (
            f"to keep to the memory limit, blocks are decoded {times} times over; "
            f"a compute.memory_limit of {-(-best // MIB)} MiB decodes each one once"
        )
        about["notes"] = (*about.get("notes", ()), note)
    return Plan(
        operator=operator,
        numbers=numbers,
        geometry=geometry,
        layout=layout,
        work=work,
        choice=choice,
        memory_limit=memory_limit,
        valid_fraction=valid_fraction,
        **about,
    )
