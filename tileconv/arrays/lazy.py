"""Convolve a dask array lazily: one task per output chunk, and thin strips of its neighbours.

An output chunk's task takes the input chunks it needs. Where it needs less
than half of one, it takes a strip instead, cut by a task of its own, so that a
cluster moves edges and not chunks:

    rows-strips     all thin rows that anybody reads of a chunk, one task a chunk
    columns-strips  all thin columns, one task a chunk
    chunk           window from chunks and strips, convolved

so a chunk costs at most three tasks. Chunks that no field touches are nobody's
dependency: dask does not compute them.

Of an array that is persisted on a cluster it is known where the chunks lie. What
an output chunk needs of other workers' chunks is then cut to size there and
brought to the worker that holds most of its window, before anything is computed:

    edge            the piece of a chunk that one output chunk needs
    halo            all edges of an output chunk, at the worker where it will be computed
    chunk           window from the worker's chunks and its halo, convolved

A scheduler runs a task where its dependencies lie. All of those of an output chunk
lie at one worker, so it needs no wish, which dask would lose as it fuses tasks.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, Task, TaskRef

from tileconv.arrays import placement
from tileconv.arrays.eager import combine_complex, compute_window
from tileconv.dtypes import Numbers
from tileconv.errors import ConvolutionError
from tileconv.missing import fill_masked, filled_dtype
from tileconv.operators.base import Operator
from tileconv.planning.chunks import AxisChunks, Piece
from tileconv.planning.reads import Reads

OutChunks = tuple[int, int] | None
"""Outputs in each chunk of the output along y and x; None: chunks follow the input's."""


def check_dask(array: Any) -> da.Array:
    """Return a dask array; an error for what else dask has."""
    if not isinstance(array, da.Array):
        raise ConvolutionError(f"cannot convolve dask's {type(array).__name__}; give a dask array")
    return array


class Block(NamedTuple):
    """Chunks that differ along the last two axes only."""

    place: tuple[int, ...]
    """Along the leading axes."""
    shape: tuple[int, ...]


class Declared(NamedTuple):
    """What dask was told of a chunk; what computes it may have other ideas."""

    place: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    def check(self, chunk: Any, *, masked: bool = False) -> np.ndarray:
        """Return the pixels of ``chunk``; an error if they are not what was declared.

        The loops read what they are told is there. ``masked`` says that pixels may be masked.
        """
        pixels = np.asarray(chunk)
        if np.ma.is_masked(chunk) and not masked:
            raise ConvolutionError(
                f"block {self.place} of the dask array is a masked array, and dask was not told: "
                "give what makes it meta=numpy.ma.empty(...), and its masked pixels are missing"
            )
        same = pixels.dtype.newbyteorder("=") == self.dtype.newbyteorder("=")
        if pixels.shape != self.shape or not same:
            raise ConvolutionError(
                f"block {self.place} of the dask array is not what it was declared to be: "
                f"declared {self.shape} of {self.dtype}, computed {pixels.shape} of "
                f"{pixels.dtype}; give what makes it (map_blocks, from_delayed, ...) its true "
                "chunks= and dtype="
            )
        return pixels


@dataclass(frozen=True)
class _Shared:
    """What the tasks of one graph have in common."""

    operator: Operator
    numbers: Numbers
    y: AxisChunks
    x: AxisChunks
    dtype: np.dtype
    """Of the array."""

    def declared(self, block: Block, y: int, x: int) -> Declared:
        """Return what is known of the input chunk (y, x) of a block along the leading axes."""
        shape = (*block.shape, self.y.chunks[y], self.x.chunks[x])
        return Declared((*block.place, y, x), shape, self.dtype)

    def reads(self, i: int, j: int) -> Reads:
        """How the window of output chunk (i, j) is sampled."""
        return self.y.read(i), self.x.read(j)


def convolve_dask(
    array: da.Array, operator: Operator, numbers: Numbers, chunks: OutChunks = None
) -> da.Array:
    """Return the convolution of ``array`` (..., H, W) as a lazy array of ``numbers.target``.

    The same bits as `convolve_numpy` gives on the computed array, for any chunks.
    """
    array = _rechunked(array, operator)
    geometry = operator.geometry((array.shape[-2], array.shape[-1]))
    shared = _Shared(
        operator,
        numbers,
        AxisChunks(geometry.y, array.chunks[-2], chunks and chunks[0]),
        AxisChunks(geometry.x, array.chunks[-1], chunks and chunks[1]),
        array.dtype,
    )
    lead = _lead_chunks(array, operator)
    made = (*lead, shared.y.out_chunks, shared.x.out_chunks)
    name = f"tileconv-{tokenize(array.name, operator, numbers, chunks)}"
    meta = np.empty((0,) * len(made), numbers.target)
    if not isinstance(array.dask, HighLevelGraph):
        return _convolve_expression(name, array, shared, made, meta)
    held = placement.find_chunks(array)
    needed: list[da.Array] = [array]
    if held is None:
        tasks = _tasks(name, array, shared, len(lead))
    else:
        tasks, halos = _placed_tasks(name, array, shared, len(lead), held)
        needed.append(placement.bring(halos, array, held.client))
    graph = HighLevelGraph.from_collections(
        name,
        tasks,
        dependencies=needed,  # type: ignore[arg-type]
    )
    return da.Array(graph, name, made, meta=meta)


def _convolve_expression(
    name: str, array: Any, shared: _Shared, chunks: tuple[tuple[int, ...], ...], meta: np.ndarray
) -> Any:
    """Return the same where dask plans arrays as expressions (``array.query-planning``).

    What is before the convolution is planned by itself, and what comes after it, too.
    """
    from dask.array._array_expr._collection import from_graph  # noqa: PLC0415 - there is no other

    planned = array.optimize()
    tasks = _tasks(name, planned, shared, len(chunks) - 2)
    keys = [key for key in tasks if isinstance(key, tuple) and key[0] == name]
    return from_graph({**planned.dask, **tasks}, meta, chunks, keys, "tileconv")


def convolve_dask_complex(
    array: da.Array, operator: Operator, numbers: Numbers, chunks: OutChunks = None
) -> da.Array:
    """Convolve the real and the imaginary part of a complex dask array, each by itself."""
    parts = [
        convolve_dask(
            _block_by_block(array, partial(_part, name), numbers.source), half, numbers, chunks
        )
        for name, half in zip(("real", "imag"), operator.of_parts(), strict=True)
    ]
    target = np.result_type(numbers.target, np.complex64)
    return da.map_blocks(
        combine_complex, *parts, dtype=target, meta=np.empty((0,) * parts[0].ndim, target)
    )


def is_masked(array: da.Array) -> bool:
    """Say whether the chunks of an array are masked arrays, as far as dask was told."""
    return isinstance(array._meta, np.ma.MaskedArray)


def fill_masked_dask(array: da.Array, nodata: float | None) -> da.Array:
    """Return `fill_masked` of a lazy array."""
    fill = partial(_filled, nodata=nodata)
    return _block_by_block(array, fill, filled_dtype(array.dtype))


def _block_by_block(array: da.Array, function: Any, dtype: np.dtype) -> da.Array:
    """Return ``function(block, declared)`` of every block as a lazy array of ``dtype``."""
    _check_chunks(array)
    work = partial(_declared_block, function=function, declared=array.dtype)
    meta = np.empty((0,) * array.ndim, dtype)
    return da.map_blocks(work, array, dtype=dtype, meta=meta)


def _declared_block(
    block: Any, function: Any, declared: np.dtype, block_info: Any = None
) -> np.ndarray:
    about = block_info[0]
    shape = tuple(stop - start for start, stop in about["array-location"])
    made: np.ndarray = function(block, Declared(tuple(about["chunk-location"]), shape, declared))
    return made


def _part(name: str, block: Any, declared: Declared) -> np.ndarray:
    """Return the real or the imaginary part, NaN where either is."""
    pixels = declared.check(block)
    part: np.ndarray = getattr(pixels, name)
    return np.where(np.isnan(pixels), np.nan, part).astype(part.dtype)


def _verified(block: Any, declared: Declared) -> np.ndarray:
    return declared.check(block)


def _filled(block: Any, declared: Declared, nodata: float | None) -> np.ndarray:
    declared.check(block, masked=True)
    return fill_masked(block, nodata)


def _rechunked(array: da.Array, operator: Operator) -> da.Array:
    """Return the array with all bands that a field spans in one chunk."""
    _check_chunks(array)
    if operator.mixes_bands and array.ndim > 2 and len(array.chunks[-3]) > 1:
        array = _block_by_block(array, _verified, array.dtype)
        return array.rechunk({array.ndim - 3: -1})
    return array


def _check_chunks(array: da.Array) -> None:
    if any(np.isnan(size) for axis in array.chunks for size in axis):
        raise ConvolutionError(
            "the array's chunk sizes are unknown, so no overlap can be computed; "
            "call array.compute_chunk_sizes() first"
        )


def _lead_chunks(array: da.Array, operator: Operator) -> tuple[tuple[int, ...], ...]:
    """Chunks of the output's leading axes."""
    lead = array.chunks[:-2]
    if operator.new_dimension is None:
        return lead
    if not lead:
        return ((operator.outputs(1),),)
    if operator.mixes_bands:
        return (*lead[:-1], (operator.outputs(array.shape[-3]),))
    return (*lead[:-1], tuple(operator.outputs(size) for size in lead[-1]))


def _tasks(name: str, array: da.Array, shared: _Shared, lead_axes: int) -> dict[Any, Any]:
    """Return the graph: the shared value, the strips, and a task per output chunk."""
    common = f"{name}-shared"
    tasks: dict[Any, Any] = {common: DataNode(common, shared)}
    value = TaskRef(common)
    blocks = list(itertools.product(*(range(len(c)) for c in array.chunks[:-2])))
    rows, columns = shared.y.pieces, shared.x.pieces
    for index in blocks:
        out_block = index if len(index) == lead_axes else (0,)
        block = Block(index, tuple(array.chunks[k][b] for k, b in enumerate(index)))
        for i, j in itertools.product(range(len(rows)), range(len(columns))):
            needs = [
                TaskRef(_need(name, array.name, block, y, x, shared, tasks))
                for y in rows[i]
                for x in columns[j]
            ]
            key = (name, *out_block, i, j)
            tasks[key] = Task(key, _compute_chunk, value, block, i, j, *needs)
    return tasks


def _placed_tasks(
    name: str, array: da.Array, shared: _Shared, lead_axes: int, held: placement.Held
) -> tuple[dict[Any, Any], placement.Placed]:
    """Return the graph for chunks that workers hold, and that of the halos it needs."""
    common = f"{name}-shared"
    halo, cutting = (placement.unmoved(f"{name}-{what}") for what in ("halo", "edge"))
    tasks: dict[Any, Any] = {}
    halos: dict[Any, Any] = {common: DataNode(common, shared)}
    homes: dict[Any, str] = {}
    rows, columns = shared.y.pieces, shared.x.pieces
    for index in itertools.product(*(range(len(c)) for c in array.chunks[:-2])):
        out_block = index if len(index) == lead_axes else (0,)
        block = Block(index, tuple(array.chunks[k][b] for k, b in enumerate(index)))
        for i, j in itertools.product(range(len(rows)), range(len(columns))):
            pieces = list(itertools.product(rows[i], columns[j]))
            chunks = [(array.name, *index, y.chunk, x.chunk) for y, x in pieces]
            pixels: Counter[str] = Counter()
            for chunk, (y, x) in zip(chunks, pieces, strict=True):
                pixels[held.workers[chunk]] += (y.stop - y.start) * (x.stop - x.start)
            home = pixels.most_common(1)[0][0] if pixels else None
            here: list[Any] = []
            edges: list[Any] = []
            for chunk, (y, x) in zip(chunks, pieces, strict=True):
                if held.workers[chunk] == home:
                    here.append(TaskRef(chunk))
                    continue
                edge = (cutting, *chunk[1:], y.start, y.stop, x.start, x.stop)
                declared = shared.declared(block, y.chunk, x.chunk)
                halos[edge] = Task(edge, _cut_edge, TaskRef(chunk), declared, *edge[-4:])
                homes[edge] = held.workers[chunk]
                edges.append(TaskRef(edge))
            brought = (halo, len(tasks))
            halos[brought] = Task(brought, _Halo, TaskRef(common), *edges)
            if home is not None:
                homes[brought] = home
            cut = tuple(held.workers[chunk] != home for chunk in chunks)
            key = (name, *out_block, i, j)
            tasks[key] = Task(key, _compute_placed, TaskRef(brought), block, i, j, cut, *here)
    return tasks, placement.Placed(halo, halos, homes, len(tasks))


class _Halo:
    """What the task of an output chunk needs beside the chunks of its worker."""

    def __init__(self, shared: _Shared, *edges: np.ndarray) -> None:
        self.shared, self.edges = shared, edges

    def __sizeof__(self) -> int:
        return sum(edge.nbytes for edge in self.edges)  # the rest is there once for all


def _need(
    name: str,
    source: str,
    block: Block,
    y: Piece,
    x: Piece,
    shared: _Shared,
    tasks: dict[Any, Any],
) -> Any:
    """Return the key that holds a piece of an input chunk; its strips are cut once."""
    chunk: Any = (source, *block.place, y.chunk, x.chunk)
    declared = shared.declared(block, y.chunk, x.chunk)
    if y.strip is not None:
        key = (f"{name}-rows", *block.place, y.chunk, x.chunk)
        if key not in tasks:
            tasks[key] = Task(key, _cut_rows, TaskRef(chunk), declared, shared.y.strips[y.chunk])
        return key
    if x.strip is not None:
        key = (f"{name}-columns", *block.place, y.chunk, x.chunk)
        if key not in tasks:
            spans = shared.x.strips[x.chunk]
            tasks[key] = Task(key, _cut_columns, TaskRef(chunk), declared, spans)
        return key
    return chunk


Spans = tuple[tuple[int, int], ...]


def _cut_rows(chunk: Any, declared: Declared, spans: Spans) -> list[np.ndarray]:
    """Copy some rows of a chunk: a view would keep, and send, the whole of it."""
    pixels = declared.check(chunk)
    return [pixels[..., first:end, :].copy() for first, end in spans]


def _cut_columns(chunk: Any, declared: Declared, spans: Spans) -> list[np.ndarray]:
    pixels = declared.check(chunk)
    return [pixels[..., first:end].copy() for first, end in spans]


def _cut_edge(
    chunk: Any, declared: Declared, top: int, bottom: int, left: int, right: int
) -> np.ndarray:
    return declared.check(chunk)[..., top:bottom, left:right].copy()


def _compute_chunk(shared: _Shared, block: Block, i: int, j: int, *parts: Any) -> np.ndarray:
    """Compute output chunk (i, j) from the chunks and strips it needs, row by row."""
    pieces = list(itertools.product(shared.y.pieces[i], shared.x.pieces[j]))
    pixels = [_piece(shared, block, part, y, x) for (y, x), part in zip(pieces, parts, strict=True)]
    return _compute(shared, block.shape, (i, j), pieces, pixels)


def _compute_placed(
    halo: _Halo, block: Block, i: int, j: int, cut: tuple[bool, ...], *chunks: Any
) -> np.ndarray:
    """Compute output chunk (i, j); ``cut`` tells which pieces are edges in the halo, row by row."""
    shared = halo.shared
    pieces = list(itertools.product(shared.y.pieces[i], shared.x.pieces[j]))
    edges, here = iter(halo.edges), iter(chunks)
    pixels = [
        next(edges) if ready else _whole(shared, block, next(here), y, x)
        for (y, x), ready in zip(pieces, cut, strict=True)
    ]
    return _compute(shared, block.shape, (i, j), pieces, pixels)


def _compute(
    shared: _Shared,
    lead: tuple[int, ...],
    chunk: tuple[int, int],
    pieces: list[tuple[Piece, Piece]],
    pixels: list[np.ndarray],
) -> np.ndarray:
    reads = shared.reads(*chunk)
    window = _window(shared, reads, lead, pieces, pixels)
    return compute_window(shared.operator, shared.numbers, reads, window)


def _window(
    shared: _Shared,
    reads: Reads,
    lead: tuple[int, ...],
    pieces: list[tuple[Piece, Piece]],
    pixels: list[np.ndarray],
) -> np.ndarray:
    """Put pieces of chunks together into the window of an output chunk."""
    source = shared.numbers.source
    if len(pixels) == 1 and all(read.span is not None for read in reads):
        return pixels[0].astype(source, copy=False)
    window = np.zeros((*lead, reads[0].size, reads[1].size), source)
    for (y, x), part in zip(pieces, pixels, strict=True):
        top = int(shared.y.bounds[y.chunk]) + y.start
        left = int(shared.x.bounds[x.chunk]) + x.start
        to_y, from_y = reads[0].places(top, top + part.shape[-2])
        to_x, from_x = reads[1].places(left, left + part.shape[-1])
        picked = part[..., from_y, :][..., from_x]
        if isinstance(to_y, slice) or isinstance(to_x, slice):
            window[..., to_y, to_x] = picked
        else:
            window[..., to_y[:, None], to_x[None, :]] = picked
    return window


def _piece(shared: _Shared, block: Block, part: Any, y: Piece, x: Piece) -> np.ndarray:
    """Return the pixels of a piece from the chunk or the strips that hold it."""
    if y.strip is not None:
        return part[y.strip][..., x.start : x.stop]
    if x.strip is not None:
        return part[x.strip][..., y.start : y.stop, :]
    return _whole(shared, block, part, y, x)


def _whole(shared: _Shared, block: Block, chunk: Any, y: Piece, x: Piece) -> np.ndarray:
    """Return the pixels of a piece from its chunk."""
    pixels = shared.declared(block, y.chunk, x.chunk).check(chunk)
    return pixels[..., y.start : y.stop, x.start : x.stop]
