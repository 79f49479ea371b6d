"""Output chunks from input chunks, along one axis: pure arithmetic for lazy arrays.

An output belongs to the input chunk that holds its field's centre, so an array
convolved with stride 1 and padding ``same`` keeps its chunks. Which pixels an
output chunk reads follows from the outputs, whatever the input's chunks are:
ragged, smaller than the kernel, one pixel.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tileconv.geometry import Axis
from tileconv.planning.reads import AxisRead, read_axis

THIN = 0.5
"""A piece smaller than this share of its chunk travels by itself, not with the chunk."""


class Piece(NamedTuple):
    """What an output chunk reads of one input chunk."""

    chunk: int
    start: int
    """First pixel, counted within the chunk."""
    stop: int
    strip: int | None
    """Which of the chunk's strips holds it; None if the whole chunk is taken."""


@dataclass(frozen=True)
class AxisChunks:
    """How one axis of a chunked array is convolved."""

    axis: Axis
    chunks: tuple[int, ...]
    """Input chunks; they add up to the axis's size."""
    wanted: int | None = None
    """Outputs in each output chunk but the last, if they are to be even."""

    @cached_property
    def bounds(self) -> np.ndarray:
        """Where input chunks begin, and the axis's size."""
        return np.concatenate([[0], np.cumsum(self.chunks)]).astype(np.int64)

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Half-open output range of every output chunk; chunks without outputs are left out.

        >>> AxisChunks(Axis(12, kernel=3, before=1, after=1), (4, 8)).ranges
        ((0, 4), (4, 12))
        >>> AxisChunks(Axis(12, kernel=1, stride=10), (4, 4, 4)).ranges
        ((0, 1), (1, 2))
        >>> AxisChunks(Axis(12, kernel=1), (4, 8), wanted=5).ranges
        ((0, 5), (5, 10), (10, 12))
        """
        axis = self.axis
        if self.wanted is not None:
            firsts = range(0, axis.out_size, self.wanted)
            return tuple((o, min(o + self.wanted, axis.out_size)) for o in firsts)
        to_centre = axis.span // 2 - axis.before
        cuts = -((to_centre - self.bounds) // axis.stride)  # the first output centred at or behind
        cuts = np.clip(cuts, 0, axis.out_size)
        cuts[0], cuts[-1] = 0, axis.out_size
        pairs = zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        return tuple((first, end) for first, end in pairs if first < end)

    @property
    def out_chunks(self) -> tuple[int, ...]:
        """Outputs in each output chunk."""
        return tuple(end - first for first, end in self.ranges)

    @cached_property
    def _block(self) -> int:
        """Smallest chunk: what a gap or a hole must reach to skip one."""
        return min(size for size in self.chunks if size)

    def read(self, i: int) -> AxisRead:
        """Say what output chunk ``i`` reads."""
        return read_axis(self.axis, *self.ranges[i], self._block)

    @cached_property
    def _hulls(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """For every output chunk: (input chunk, start, stop) of what it touches."""
        hulls = []
        for i in range(len(self.ranges)):
            index = self.read(i).index
            pixels = np.unique(index[index >= 0])
            owners = np.searchsorted(self.bounds, pixels, side="right") - 1
            touched, first = np.unique(owners, return_index=True)
            last = np.append(first[1:], owners.size)[: touched.size] - 1
            hulls.append(
                tuple(
                    (int(c), int(pixels[a] - self.bounds[c]), int(pixels[b] - self.bounds[c]) + 1)
                    for c, a, b in zip(touched, first, last, strict=True)
                )
            )
        return tuple(hulls)

    @cached_property
    def strips(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For every input chunk, the thin pieces (start, stop) that output chunks read of it."""
        wanted: list[dict[tuple[int, int], None]] = [{} for _ in self.chunks]
        for hulls in self._hulls:
            for chunk, start, stop in hulls:
                if stop - start < THIN * self.chunks[chunk]:
                    wanted[chunk][start, stop] = None
        return tuple(tuple(ranges) for ranges in wanted)

    @cached_property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        """What every output chunk reads of which input chunks."""
        order = [{span: k for k, span in enumerate(spans)} for spans in self.strips]
        return tuple(
            tuple(Piece(c, a, b, order[c].get((a, b))) for c, a, b in hulls)
            for hulls in self._hulls
        )
