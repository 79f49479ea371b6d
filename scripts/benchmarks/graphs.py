"""What building the graph of a lazy convolution takes."""

from collections.abc import Iterator

import dask.array as da
import numpy as np

import tileconv
from benchmarks.tables import Row, print_table
from benchmarks.turns import take_turns

CHUNK = 64
"""Side of a chunk of the dask array; nothing is computed, so its size does not matter."""


def graphs(smaller: int) -> list[Row]:
    side = 100 // smaller
    title = f"graphs: {side} x {side} chunks, 3 x 3 same; microseconds and tasks per chunk"
    return print_table(title, graph_rows(side, rounds=9))


def graph_rows(side: int, rounds: int) -> Iterator[Row]:
    """Build all tasks with tileconv and with map_overlap; compute nothing."""
    lazy = da.zeros((side * CHUNK, side * CHUNK), chunks=CHUNK)
    kernel = np.ones((3, 3))

    def ours() -> dict:
        return dict(tileconv.convolve(lazy, kernel, padding="same", padding_mode="edge").dask)

    def theirs() -> dict:
        return dict(da.map_overlap(lambda block: block, lazy, depth=1, boundary="nearest").dask)

    timed = take_turns({"tileconv": ours, "map_overlap": theirs}, rounds)
    for name, build in (("tileconv", ours), ("map_overlap", theirs)):
        tasks = len(build()) - len(dict(lazy.dask))
        yield {"library": name, "us": 1e6 * timed[name] / side**2, "tasks": tasks / side**2}
