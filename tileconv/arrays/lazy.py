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
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, Task, TaskRef

from tileconv.arrays import placement
from tileconv.arrays.eager import combine_complex, compute_window, part_convolutions
from tileconv.convolution import Convolution
from tileconv.dtypes import Numbers
from tileconv.errors import ConvolutionError
from tileconv.planning.chunks import AxisChunks, Piece
from tileconv.tile import Reads


@dataclass(frozen=True)
class _Shared:
    """What the tasks of one graph have in common."""

    convolution: Convolution
    numbers: Numbers
    y: AxisChunks
    x: AxisChunks

    def reads(self, i: int, j: int) -> Reads:
        """How the window of output chunk (i, j) is sampled."""
        return self.y.read(i), self.x.read(j)


def convolve_dask(array: da.Array, convolution: Convolution, numbers: Numbers) -> da.Array:
    """Return the convolution of ``array`` (..., H, W) as a lazy array of ``numbers.target``.

    The same bits as `convolve_numpy` gives on the computed array, for any chunks.
    """
    array = _checked(array, convolution)
    geometry = convolution.geometry((array.shape[-2], array.shape[-1]))
    shared = _Shared(
        convolution,
        numbers,
        AxisChunks(geometry.y, array.chunks[-2], convolution.padding_mode),
        AxisChunks(geometry.x, array.chunks[-1], convolution.padding_mode),
    )
    lead = _lead_chunks(array, convolution)
    chunks = (*lead, shared.y.out_chunks, shared.x.out_chunks)
    name = f"tileconv-{tokenize(array.name, convolution, numbers)}"
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
    meta = np.empty((0,) * len(chunks), numbers.target)
    return da.Array(graph, name, chunks, meta=meta)


def convolve_dask_complex(array: da.Array, convolution: Convolution, numbers: Numbers) -> da.Array:
    """Convolve the real and the imaginary part of a complex dask array, each by itself."""
    lost = da.isnan(array)
    parts = [
        convolve_dask(da.where(lost, np.nan, part).astype(numbers.source), half, numbers)
        for part, half in zip((array.real, array.imag), part_convolutions(convolution), strict=True)
    ]
    target = np.result_type(numbers.target, np.complex64)
    return da.map_blocks(
        combine_complex, *parts, dtype=target, meta=np.empty((0,) * parts[0].ndim, target)
    )


def _checked(array: da.Array, convolution: Convolution) -> da.Array:
    if any(np.isnan(size) for axis in array.chunks for size in axis):
        raise ConvolutionError(
            "the array's chunk sizes are unknown, so no overlap can be computed; "
            "call array.compute_chunk_sizes() first"
        )
    if convolution.mixes_bands and array.ndim > 2 and len(array.chunks[-3]) > 1:
        return array.rechunk({array.ndim - 3: -1})  # a field spans the bands of its group
    return array


def _lead_chunks(array: da.Array, convolution: Convolution) -> tuple[tuple[int, ...], ...]:
    """Chunks of the output's leading axes."""
    lead = array.chunks[:-2]
    if convolution.weights.ndim == 2:
        return lead
    if not lead:
        return ((convolution.outputs(1),),)
    if convolution.mixes_bands:
        return (*lead[:-1], (convolution.outputs(array.shape[-3]),))
    return (*lead[:-1], tuple(size * convolution.count for size in lead[-1]))


def _tasks(name: str, array: da.Array, shared: _Shared, lead_axes: int) -> dict[Any, Any]:
    """Return the graph: the shared value, the strips, and a task per output chunk."""
    common = f"{name}-shared"
    tasks: dict[Any, Any] = {common: DataNode(common, shared)}
    value = TaskRef(common)
    blocks = list(itertools.product(*(range(len(c)) for c in array.chunks[:-2])))
    rows, columns = shared.y.pieces, shared.x.pieces
    for block in blocks:
        out_block = block if len(block) == lead_axes else (0,)
        for i, j in itertools.product(range(len(rows)), range(len(columns))):
            needs = [
                TaskRef(_need(name, array.name, block, y, x, shared, tasks))
                for y in rows[i]
                for x in columns[j]
            ]
            key = (name, *out_block, i, j)
            lead = tuple(array.chunks[k][b] for k, b in enumerate(block))
            tasks[key] = Task(key, _compute_chunk, value, lead, i, j, *needs)
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
    for block in itertools.product(*(range(len(c)) for c in array.chunks[:-2])):
        out_block = block if len(block) == lead_axes else (0,)
        lead = tuple(array.chunks[k][b] for k, b in enumerate(block))
        for i, j in itertools.product(range(len(rows)), range(len(columns))):
            pieces = list(itertools.product(rows[i], columns[j]))
            chunks = [(array.name, *block, y.chunk, x.chunk) for y, x in pieces]
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
                halos[edge] = Task(edge, _cut_edge, TaskRef(chunk), *edge[-4:])
                homes[edge] = held.workers[chunk]
                edges.append(TaskRef(edge))
            brought = (halo, len(tasks))
            halos[brought] = Task(brought, _Halo, TaskRef(common), *edges)
            if home is not None:
                homes[brought] = home
            cut = tuple(held.workers[chunk] != home for chunk in chunks)
            key = (name, *out_block, i, j)
            tasks[key] = Task(key, _compute_placed, TaskRef(brought), lead, i, j, cut, *here)
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
    block: tuple[int, ...],
    y: Piece,
    x: Piece,
    shared: _Shared,
    tasks: dict[Any, Any],
) -> Any:
    """Return the key that holds a piece of an input chunk; its strips are cut once."""
    chunk: Any = (source, *block, y.chunk, x.chunk)
    if y.strip is not None:
        key = (f"{name}-rows", *block, y.chunk, x.chunk)
        if key not in tasks:
            tasks[key] = Task(key, _cut_rows, TaskRef(chunk), shared.y.strips[y.chunk])
        return key
    if x.strip is not None:
        key = (f"{name}-columns", *block, y.chunk, x.chunk)
        if key not in tasks:
            tasks[key] = Task(key, _cut_columns, TaskRef(chunk), shared.x.strips[x.chunk])
        return key
    return chunk


def _cut_rows(chunk: np.ndarray, spans: tuple[tuple[int, int], ...]) -> list[np.ndarray]:
    """Copy some rows of a chunk: a view would keep, and send, the whole of it."""
    return [np.asarray(chunk)[..., first:end, :].copy() for first, end in spans]


def _cut_columns(chunk: np.ndarray, spans: tuple[tuple[int, int], ...]) -> list[np.ndarray]:
    return [np.asarray(chunk)[..., first:end].copy() for first, end in spans]


def _cut_edge(chunk: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    return np.asarray(chunk)[..., top:bottom, left:right].copy()


def _compute_chunk(
    shared: _Shared, lead: tuple[int, ...], i: int, j: int, *parts: Any
) -> np.ndarray:
    """Compute output chunk (i, j) from the chunks and strips it needs, row by row."""
    pieces = list(itertools.product(shared.y.pieces[i], shared.x.pieces[j]))
    pixels = [_piece(part, y, x) for (y, x), part in zip(pieces, parts, strict=True)]
    return _compute(shared, lead, (i, j), pieces, pixels)


def _compute_placed(
    halo: _Halo, lead: tuple[int, ...], i: int, j: int, cut: tuple[bool, ...], *chunks: np.ndarray
) -> np.ndarray:
    """Compute output chunk (i, j); ``cut`` tells which pieces are edges in the halo, row by row."""
    shared = halo.shared
    pieces = list(itertools.product(shared.y.pieces[i], shared.x.pieces[j]))
    edges, here = iter(halo.edges), iter(chunks)
    pixels = [
        next(edges) if ready else np.asarray(next(here))[..., y.start : y.stop, x.start : x.stop]
        for (y, x), ready in zip(pieces, cut, strict=True)
    ]
    return _compute(shared, lead, (i, j), pieces, pixels)


def _compute(
    shared: _Shared,
    lead: tuple[int, ...],
    chunk: tuple[int, int],
    pieces: list[tuple[Piece, Piece]],
    pixels: list[np.ndarray],
) -> np.ndarray:
    reads = shared.reads(*chunk)
    window = _window(shared, reads, lead, pieces, pixels)
    return compute_window(shared.convolution, shared.numbers, reads, window)


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


def _piece(part: Any, y: Piece, x: Piece) -> np.ndarray:
    """Return the pixels of a piece from the chunk or the strips that hold it."""
    if y.strip is not None:
        return part[y.strip][..., x.start : x.stop]
    if x.strip is not None:
        return part[x.strip][..., y.start : y.stop, :]
    return np.asarray(part)[..., y.start : y.stop, x.start : x.stop]
