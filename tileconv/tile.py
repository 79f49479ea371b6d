"""Compute one tile: put padding in place, run the engine, finish the numbers.

The meaning of a run is: for every tile, read its window, compute, write. This
is the middle step; it knows neither files nor dask.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tileconv.dtypes import Numbers
from tileconv.engine.backend import Prepared, Valid
from tileconv.engine.choose import Algorithm, choose
from tileconv.engine.focal import Focal
from tileconv.finish import Counts, finish
from tileconv.focal_tile import FocalRecipe
from tileconv.operators.base import Operator
from tileconv.operators.convolution import Convolution, Group
from tileconv.operators.reduction import Reduction
from tileconv.pad import pad
from tileconv.planning.reads import Reads

Sampling = tuple[tuple[int, int], tuple[int, int]]
"""Stride and dilation of a window."""


@dataclass(frozen=True)
class Recipe:
    """All that the tiles of a run have in common."""

    convolution: Convolution
    numbers: Numbers
    algorithm: Algorithm
    groups: tuple[Group, ...]
    bias: np.ndarray | None
    """Of the compute dtype."""
    _prepared: dict[tuple[int, Sampling], Prepared] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, convolution: Convolution, numbers: Numbers, bands: int) -> "Recipe":
        """Return the recipe for ``bands`` input planes."""
        c = convolution
        return cls(
            convolution=c,
            numbers=numbers,
            algorithm=choose(c.weights, c.stride, c.dilation, numbers.compute),
            groups=c.plan_groups(bands, numbers.compute),
            bias=None if c.bias is None else c.bias.astype(numbers.compute),
        )

    @cached_property
    def direct(self) -> bool:
        """True if sums are what the output holds: nothing to convert, add or replace."""
        numbers = self.numbers
        return numbers.target == numbers.compute and numbers.keeps_nan and self.bias is None

    @cached_property
    def plain(self) -> bool:
        """True if, moreover, no pixel is missing for what it holds, or need be known to be."""
        c, numbers = self.convolution, self.numbers
        looks = c.missing != "propagate" or c.require_center
        return (
            self.direct
            and numbers.source != np.float16
            and numbers.nodata is None
            and not (looks and numbers.source.kind == "f")
        )

    @cached_property
    def copies(self) -> bool:
        """True if tiles with missing pixels are copied; else these are replaced row by row."""
        c, source = self.convolution, self.numbers.source
        sampling = c.stride, c.dilation
        return not all(self._prepare(g, sampling).detects(source) for g in self.groups)

    @property
    def weighs(self) -> bool:
        """True if validity planes are kept of tiles with missing pixels."""
        c = self.convolution
        return any(self._prepare(g, (c.stride, c.dilation)).weighs for g in self.groups)

    @property
    def bands(self) -> int:
        """Input planes."""
        return 1 + max(group.bands[-1] for group in self.groups)

    @property
    def outputs(self) -> int:
        """Output planes."""
        return sum(len(group.outputs) for group in self.groups)

    def prepared(self, group: Group, reads: Reads) -> Prepared:
        """Return the kernels of a group, laid out for windows.

        Laid out once for each way to sample a window; groups with the same kernels share it.
        """
        rows, columns = reads
        return self._prepare(
            group, ((rows.stride, columns.stride), (rows.dilation, columns.dilation))
        )

    def _prepare(self, group: Group, sampling: Sampling) -> Prepared:
        key = id(group.taps), sampling
        found = self._prepared.get(key)
        if found is None:
            c, numbers, bands = self.convolution, self.numbers, len(group.bands)
            found = Prepared.of(c, numbers, self.algorithm, group.taps, bands, sampling)
            self._prepared[key] = found
        return found

    def compute(
        self,
        reads: Reads,
        window: np.ndarray,
        masked: np.ndarray | None,
        out: np.ndarray,
        share: np.ndarray | None = None,
        *,
        stream: bool = False,
    ) -> Counts:
        """Compute all planes of one tile into ``out``; see `compute_tile`."""
        numbers, counts = self.numbers, Counts()
        least = None if share is None else np.ones(share.shape)
        padded = reads[0].outside is not None or reads[1].outside is not None
        plain = self.plain and masked is None and share is None and not padded
        for group in self.groups:
            prepared = self.prepared(group, reads)
            planes = window[group.bands[0] : group.bands[-1] + 1]
            sums = out[group.outputs[0] : group.outputs[-1] + 1]
            if plain:
                prepared.loops.run(planes, sums, stream=stream)
                continue
            if numbers.source == np.float16:  # no loops know it, and float32 holds all of it
                planes = planes.astype(numbers.compute)
            valid = UNKNOWN if masked is None else _valid(masked, group.bands, planes.shape)
            if padded:
                listed = least is not None or prepared.listed
                planes, valid = pad(prepared, reads, planes, valid.plane, listed=listed)
            if self.direct:
                prepared.run(planes, valid, sums, least, stream=stream)
                continue
            values = sums
            if numbers.target != numbers.compute:
                values = np.empty(sums.shape, numbers.compute)
            prepared.run(planes, valid, values, least)  # read again soon: they stay in the caches
            for i, plane in zip(group.outputs, values, strict=True):
                if self.bias is not None:
                    np.add(plane, self.bias[i], out=plane)
                counts = counts.plus(finish(plane, numbers, out[i]))
        if share is not None:
            share[:] = least
        return counts


UNKNOWN = Valid()
"""Nothing but their values makes pixels missing."""


def _valid(masked: np.ndarray, bands: tuple[int, ...], shape: tuple[int, ...]) -> Valid:
    """Return what a mask leaves valid of planes (bands, H, W)."""
    shared = masked.ndim == 2 or len(masked) == 1
    chosen = masked if shared else masked[bands[0] : bands[-1] + 1]
    if not chosen.any():
        return UNKNOWN
    return Valid(np.ascontiguousarray(np.broadcast_to(~chosen, shape)))


AnyRecipe = Recipe | FocalRecipe


def recipe_of(operator: Operator, numbers: Numbers, bands: int) -> AnyRecipe:
    """Return what all tiles have in common, for ``bands`` input planes."""
    if isinstance(operator, Convolution):
        return Recipe.of(operator, numbers, bands)
    assert isinstance(operator, Reduction)
    return FocalRecipe(Focal(operator, numbers), bands)


def compute_tile(
    recipe: AnyRecipe,
    reads: Reads,
    window: np.ndarray,
    masked: np.ndarray | None,
    out: np.ndarray,
    share: np.ndarray | None = None,
    *,
    stream: bool = False,
) -> Counts:
    """Compute all planes of one tile into ``out``.

    Parameters
    ----------
    window
        (B, rows.size, columns.size) of ``numbers.source``; places that hold padding may hold
        anything.
    masked
        Boolean (rows.size, columns.size), or one such plane for all bands or for each, True where
        a mask hides the pixel; None if none is hidden.
    out
        (outputs, rows.outputs, columns.outputs) of ``numbers.target``, overwritten.
    share
        (rows.outputs, columns.outputs) float, overwritten with the least share of ``sum |w|``
        that lies on valid pixels, over all outputs; None if nobody asks.
    stream
        ``out`` is a part of more than the caches hold, and nobody reads it soon: it may be written
        by streaming stores.
    """
    return recipe.compute(reads, window, masked, out, share, stream=stream)
