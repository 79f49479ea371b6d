"""Compute one tile: put padding and missing data in place, run the loops, finish the numbers.

The meaning of a run is: for every tile, read its window, compute, write. This
is the middle step; it knows neither files nor dask.
"""

import math
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tileconv import buffers
from tileconv.dtypes import Numbers
from tileconv.engine.choose import Algorithm, choose
from tileconv.engine.focal import Focal, Outside
from tileconv.engine.missing import normalize
from tileconv.engine.missing.detect import MissingDetector, MissingPixelRule, bitmap_by_phase
from tileconv.engine.missing.validity import SLACK, bitmap_row_bytes, set_columns, unpack_bitmap
from tileconv.engine.prepare import Prepared, prepare
from tileconv.engine.round import round_and_saturate
from tileconv.errors import ConvolutionError
from tileconv.missing import TIE
from tileconv.operators.base import Operator
from tileconv.operators.convolution import SMALL_KERNEL_BYTES, Convolution, Group
from tileconv.operators.reduction import Reduction
from tileconv.planning.reads import AxisRead


class Counts(NamedTuple):
    """What a tile met."""

    missing: int = 0
    """Outputs that are missing (not counted where they are NaN)."""
    collisions: int = 0
    """Valid outputs that equal nodata."""

    def plus(self, *others: "Counts") -> "Counts":
        """Return the sum."""
        return Counts(*map(sum, zip(self, *others, strict=True)))


Reads = tuple[AxisRead, AxisRead]
"""How a window is sampled along (y, x)."""
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
    _pixel_rules: dict[tuple[np.dtype, bool, bool], MissingPixelRule] = field(
        default_factory=dict, repr=False
    )

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
    def plain(self) -> bool:
        """True if the loops can write the output directly: nothing to convert, add or replace.

        Padding is another matter, of each tile.
        """
        c, numbers = self.convolution, self.numbers
        looks = c.missing != "propagate" or c.require_center
        return (
            numbers.target == numbers.compute
            and numbers.source != np.float16
            and numbers.nodata is None
            and numbers.keeps_nan
            and not (looks and numbers.source.kind == "f")
            and self.bias is None
        )

    @cached_property
    def detecting(self) -> bool:
        """True if they can do so while missing pixels are detected and replaced row by row."""
        numbers = self.numbers
        return (
            numbers.target == numbers.compute
            and numbers.source != np.float16
            and numbers.keeps_nan
            and self.bias is None
            and self.pixel_rule(numbers.source, listed=self.listed).possible
            and not self.copies
        )

    @cached_property
    def listed(self) -> bool:
        """True if missing pixels have to be found: under "propagate" NaN need not."""
        c = self.convolution
        return c.require_center or c.missing != "propagate"

    @cached_property
    def rule(self) -> normalize.NormalizationRule | None:
        """What becomes of sums of fields with missing pixels; None if they stay as they are."""
        c = self.convolution
        if c.missing == "propagate":
            return None  # they are NaN already
        if c.missing == "fill" and not c.min_valid_fraction:
            return None
        return normalize.NormalizationRule(
            scale=c.missing == "renormalize",
            least=c.min_valid_fraction - TIE,
            empty=c.missing != "fill",
        )

    @cached_property
    def copies(self) -> bool:
        """True if tiles with missing pixels are copied; else these are replaced row by row."""
        c = self.convolution
        sampling = c.stride, c.dilation
        if c.require_center or not all(
            self._lay_out(g, sampling).detects_missing for g in self.groups
        ):
            return True
        return self.algorithm.in_place and not self.takes_place(self.numbers.source)

    def takes_place(self, dtype: np.dtype) -> bool:
        """Say whether copies of rows without missing pixels can be of the dtype of the pixels."""
        return self.pixel_rule(dtype, listed=self.listed, in_place=True).substitute.dtype == dtype

    @cached_property
    def counted(self) -> normalize.NormalizationRule | None:
        """The `rule` where copies of rows keep the dtype of the pixels: integers hold no NaN."""
        if self.convolution.missing == "propagate" and self.numbers.source.kind in "iu":
            return normalize.NormalizationRule(scale=False, least=1, empty=False, counts=True)
        return self.rule

    @property
    def bands(self) -> int:
        """Input planes."""
        return 1 + max(group.bands[-1] for group in self.groups)

    @property
    def outputs(self) -> int:
        """Output planes."""
        return sum(len(group.outputs) for group in self.groups)

    @property
    def keeps_bitmap(self) -> bool:
        """True if validity bits are kept where missing pixels are replaced row by row."""
        return (self.counted if self.algorithm.in_place else self.rule) is not None

    def pixel_rule(
        self, dtype: np.dtype, *, listed: bool, in_place: bool = False
    ) -> MissingPixelRule:
        """Return which pixels of a dtype are missing, and what replaces them.

        ``listed`` says that NaN has to be found; else it does what a missing pixel does. With
        ``in_place`` the substitute is of their dtype where it can be; see `counted`.
        """
        found = self._pixel_rules.get((dtype, listed, in_place))
        if found is None:
            c, numbers = self.convolution, self.numbers
            nodata = None if numbers.nodata is None else dtype.type(numbers.nodata)
            if nodata is not None and np.isnan(nodata):
                nodata = None  # NaN is missing anyhow
            value = np.nan
            if c.missing != "propagate":
                value = c.fill_value if c.missing == "fill" else 0.0
            elif in_place and dtype.kind in "iu":
                value = 0.0
            # whole numbers stay what they are where they can, for less memory; a sum of theirs is
            # never -0, so that it does not matter which 0 is put in
            if dtype.kind in "iu":
                bounds = np.iinfo(dtype)
                same = value == np.rint(value) and bounds.min <= value <= bounds.max
            else:
                same = in_place and bool(np.isnan(value) or dtype.type(value) == value)
            substitute = dtype.type(value) if same else numbers.compute.type(value)
            found = MissingPixelRule(
                dtype, nodata, nan=listed and dtype.kind == "f", substitute=substitute
            )
            self._pixel_rules[dtype, listed, in_place] = found
        return found

    def prepared(self, group: Group, reads: Reads) -> Prepared:
        """Return the kernels of a group, laid out for windows.

        Laid out once for each way to sample a window; groups with the same kernels share it.
        """
        return self._lay_out(group, _sampling(reads))

    def detects_missing(self, reads: Reads) -> bool:
        """Say whether missing pixels of windows are replaced row by row.

        Fields that overlap in the raster lie side by side in a packed window, and may then be read
        as a whole.
        """
        return all(self.prepared(group, reads).detects_missing for group in self.groups)

    def _lay_out(self, group: Group, sampling: Sampling) -> Prepared:
        key = id(group.taps), sampling
        found = self._prepared.get(key)
        if found is None:
            found = prepare(self.algorithm, *sampling, group.taps, len(group.bands))
            self._prepared[key] = found
        return found


@dataclass(frozen=True)
class FocalRecipe:
    """The same for focal statistics, whose bands are computed one by one."""

    focal: Focal
    bands: int

    @property
    def outputs(self) -> int:
        """Output planes."""
        return self.bands

    @property
    def copies(self) -> bool:
        """Every tile is copied."""
        return True

    @property
    def keeps_bitmap(self) -> bool:
        """Which pixels are valid is found strip by strip."""
        return False


def recipe_of(operator: Operator, numbers: Numbers, bands: int) -> Recipe | FocalRecipe:
    """Return what all tiles have in common, for ``bands`` input planes."""
    if isinstance(operator, Convolution):
        return Recipe.of(operator, numbers, bands)
    assert isinstance(operator, Reduction)
    return FocalRecipe(Focal(operator, numbers), bands)


def _sampling(reads: Reads) -> Sampling:
    rows, columns = reads
    return (rows.stride, columns.stride), (rows.dilation, columns.dilation)


def compute_tile(
    recipe: Recipe | FocalRecipe,
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
    if isinstance(recipe, FocalRecipe):
        return _compute_focal(recipe.focal, reads, window, masked, out, share)
    rows, columns = reads
    as_it_is = masked is None and share is None and rows.outside is columns.outside is None
    if as_it_is and (recipe.plain or (recipe.detecting and recipe.detects_missing(reads))):
        for group in recipe.groups:
            planes = window[group.bands[0] : group.bands[-1] + 1]
            sums = out[group.outputs[0] : group.outputs[-1] + 1]
            if recipe.plain:
                recipe.prepared(group, reads).run(planes, sums, stream=stream)
            else:
                _run_detecting(recipe, group, reads, planes, sums, None, None, stream=stream)
        return Counts()
    counts = Counts()
    valid = None if share is None else np.ones(share.shape)
    for group in recipe.groups:
        counts = counts.plus(
            _compute_group(recipe, group, reads, window, masked, out, valid, stream=stream)
        )
    if share is not None:
        share[:] = valid
    return counts


def _compute_focal(
    focal: Focal,
    reads: Reads,
    window: np.ndarray,
    masked: np.ndarray | None,
    out: np.ndarray,
    share: np.ndarray | None,
) -> Counts:
    counts, modes = Counts(), focal.operator.padding_mode
    y, x = (
        Outside(read.outside, mode == "missing") for read, mode in zip(reads, modes, strict=True)
    )
    hidden = None if masked is None else np.broadcast_to(masked, window.shape)
    values = np.empty(out.shape[1:], focal.numbers.compute)
    holes = np.empty(values.shape, bool)
    valid = None if share is None else np.empty(values.shape)
    if share is not None:
        share[:] = 1
    for band, plane in enumerate(window):
        mask = None if hidden is None else hidden[band]
        focal.run(plane, mask, (y, x), _sampling(reads), values, holes, valid)
        counts = counts.plus(finish_pixels(values, holes, focal.numbers, out[band]))
        if share is not None and valid is not None:
            np.minimum(share, valid, out=share, casting="same_kind")
    return counts


def _compute_group(
    recipe: Recipe,
    group: Group,
    reads: Reads,
    window: np.ndarray,
    masked: np.ndarray | None,
    out: np.ndarray,
    share: np.ndarray | None,
    *,
    stream: bool,
) -> Counts:
    c, numbers = recipe.convolution, recipe.numbers
    prepared = recipe.prepared(group, reads)
    planes = window[group.bands[0] : group.bands[-1] + 1]
    if numbers.source == np.float16:  # no loops know it, and float32 holds all of it
        planes = planes.astype(numbers.compute)
    sums = out[group.outputs[0] : group.outputs[-1] + 1]
    if numbers.target != numbers.compute:
        sums = np.empty(sums.shape, numbers.compute)
    again = recipe.bias is not None or not numbers.keeps_nan
    stream = stream and sums.dtype == out.dtype and not again  # else they stay in the caches
    listed = share is not None or recipe.listed
    hidden = _hidden(masked, group.bands, planes.shape)
    pixel_rule = recipe.pixel_rule(planes.dtype, listed=listed)
    padded = any(read.outside is not None for read in reads)
    detects_missing = prepared.detects_missing and not (padded or c.require_center)
    if recipe.algorithm.in_place:
        detects_missing &= recipe.takes_place(planes.dtype)
        detects_missing &= share is None or recipe.counted is recipe.rule
    if not padded and hidden is None and not pixel_rule.possible:
        prepared.run(planes, sums, stream=stream)
    elif not detects_missing:
        planes, valid = _replace_beforehand(
            c, numbers, reads, planes, pixel_rule, hidden, listed=listed
        )
        prepared.run(planes, sums, stream=stream and valid is None)
        if valid is not None:
            missing = np.ones(planes.shape[:2], np.intp)
            width = planes.shape[2]
            stride, phases = _phases(c, reads)
            bitmap = valid[:, :, None]
            if stride > 1:
                bitmap = _bitmap("phases", planes.shape, stride, phases)
                bitmap_by_phase(valid, width, stride, bitmap)
            rule = recipe.rule
            _normalize_sums(
                _normalizers(recipe, group, reads, bitmap, missing, width, rule, share), sums
            )
            _require_centres(recipe, reads, unpack_bitmap(valid, width), sums)
    else:
        _run_detecting(recipe, group, reads, planes, sums, hidden, share, stream=stream)
    counts = Counts()
    for i, values in zip(group.outputs, sums, strict=True):
        if recipe.bias is not None:
            np.add(values, recipe.bias[i], out=values)
        counts = counts.plus(finish(values, numbers, out[i]))
    return counts


def _run_detecting(
    recipe: Recipe,
    group: Group,
    reads: Reads,
    planes: np.ndarray,
    sums: np.ndarray,
    hidden: np.ndarray | None,
    share: np.ndarray | None,
    *,
    stream: bool,
) -> None:
    """Compute the sums of a group without its missing pixels, and apply the policy for them."""
    shape, bitmap, in_place = planes.shape, None, recipe.algorithm.in_place
    listed = share is not None or recipe.listed
    pixel_rule = recipe.pixel_rule(planes.dtype, listed=listed, in_place=in_place)
    rule = recipe.counted if in_place else recipe.rule
    if rule is not None or share is not None:
        bitmap = _bitmap("valid", shape, *_phases(recipe.convolution, reads))
    detector = _detector_for(recipe, group, reads, pixel_rule, shape, hidden, bitmap, rule, share)
    detector.begin(bitmap, reads[1].stride, recipe.numbers.compute)
    recipe.prepared(group, reads).run(planes, sums, stream=stream, detector=detector)
    if bitmap is not None and detector.found and not detector.normalizes:
        normalizers = _normalizers(
            recipe, group, reads, bitmap, detector.rows, shape[2], rule, share
        )
        _normalize_sums(normalizers, sums)


def _hidden(
    masked: np.ndarray | None, bands: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray | None:
    """Return what a mask hides of some bands, (bands, H, W); None if that is nothing."""
    if masked is None:
        return None
    shared = masked.ndim == 2 or len(masked) == 1
    chosen = masked if shared else masked[bands[0] : bands[-1] + 1]
    return np.broadcast_to(chosen, shape) if chosen.any() else None


VALID = 255
"""A byte of a bitmap: eight valid pixels."""


class _Kept(threading.local):
    """Detectors of a thread, for its next tiles: making one takes as long as a small tile."""

    def __init__(self) -> None:
        self.detectors: dict[tuple[Any, ...], tuple[Recipe, MissingDetector]] = {}


REMEMBERED = 16
"""Detectors that a thread keeps; each holds its recipe."""
_kept = _Kept()


def _detector_for(
    recipe: Recipe,
    group: Group,
    reads: Reads,
    pixel_rule: MissingPixelRule,
    shape: tuple[int, ...],
    hidden: np.ndarray | None,
    bitmap: np.ndarray | None,
    rule: normalize.NormalizationRule | None,
    share: np.ndarray | None,
) -> MissingDetector:
    """Return a detector for planes of a shape, to begin with."""
    # it holds the recipe, so that none of the numbers it is found by is used again
    key = id(recipe), id(group.taps), _sampling(reads), shape
    plain = hidden is None and share is None
    detector = _kept.detectors[key][1] if plain and key in _kept.detectors else None
    if detector is None:
        detector = MissingDetector(pixel_rule, shape, hidden)
        if bitmap is not None and recipe.prepared(group, reads).normalizes:
            normalizers = _normalizers(
                recipe, group, reads, bitmap, detector.rows, shape[2], rule, share
            )
            detector.normalizers.extend(normalizers)
        if plain and recipe.convolution.weights.nbytes <= SMALL_KERNEL_BYTES:
            if len(_kept.detectors) >= REMEMBERED:
                _kept.detectors.clear()
            _kept.detectors[key] = recipe, detector
    return detector


def _phases(convolution: Convolution, reads: Reads) -> tuple[int, int]:
    """Return (the stride along x, how many of its phases fields read)."""
    columns = reads[1]
    span = (convolution.kernel_shape[1] - 1) * columns.dilation + 1
    return columns.stride, min(columns.stride, span)


def _bitmap(name: str, shape: tuple[int, ...], stride: int = 1, phases: int = 1) -> np.ndarray:
    """Return room for the validity bits of a tile (bands, H, W): (bands, H, phases, bytes)."""
    lines = (*shape[:2], phases, bitmap_row_bytes(-(-shape[2] // stride)))
    size = math.prod(lines)
    room = buffers.scratch(name, (size + SLACK,), np.dtype(np.uint8))
    return room[:size].reshape(lines)


def _replace_beforehand(
    convolution: Convolution,
    numbers: Numbers,
    reads: Reads,
    planes: np.ndarray,
    pixel_rule: MissingPixelRule,
    hidden: np.ndarray | None,
    *,
    listed: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (copies of planes with padding and missing pixels replaced, which pixels are valid).

    The latter is a bitmap (bands, H, `bitmap_row_bytes`), 0 where a pixel is missing; None if none
    is, or if it is not needed. The planes themselves are returned where nothing is replaced.
    """
    missing = [
        (hidden is not None and hidden[i].any()) or pixel_rule.any_in(plane)
        for i, plane in enumerate(planes)
    ]
    outside = [
        (axis, mode == "missing", np.flatnonzero(read.outside))
        for axis, (mode, read) in enumerate(zip(convolution.padding_mode, reads, strict=True))
        if read.outside is not None
    ]
    outside.sort(key=lambda part: part[1])  # a pixel is missing if either axis says so
    if not any(missing) and not outside:
        return planes, None
    listed = listed and (any(missing) or any(unseen for _, unseen, _ in outside))
    around = [
        pixel_rule.substitute if unseen else convolution.padding_value for _, unseen, _ in outside
    ]
    if pixel_rule.substitute.dtype.kind in "iu" and any(value != 0 for value in around):
        pixel_rule = replace(pixel_rule, substitute=numbers.compute.type(pixel_rule.substitute))
    pixels = buffers.scratch("pixels", planes.shape, pixel_rule.substitute.dtype)
    valid = _bitmap("valid", planes.shape)[:, :, 0]
    for i, (plane, made, seen) in enumerate(zip(planes, pixels, valid, strict=True)):
        if missing[i]:
            pixel_rule.replace_in(plane, None if hidden is None else hidden[i], made, seen)
        else:
            made[...] = plane
            seen[...] = VALID
        for (axis, unseen, places), value in zip(outside, around, strict=True):
            if axis == 0:
                made[places] = value
                seen[places] = 0 if unseen else VALID
            else:
                made[:, places] = value
                set_columns(seen, places, valid=not unseen)
    return pixels, valid if listed else None


def _normalizers(
    recipe: Recipe,
    group: Group,
    reads: Reads,
    valid: np.ndarray,
    missing: np.ndarray,
    width: int,
    rule: normalize.NormalizationRule | None,
    share: np.ndarray | None,
) -> list[normalize.Normalizer | None]:
    """Return what applies the policy for missing data to the sums of each kernel of a group.

    It is None for kernels without taps, whose fields miss nothing. ``valid``, ``missing_rows`` and
    ``width`` are as for `missing.normalize.Normalizer`.
    """
    if rule is None and share is None:
        return [None] * len(group.taps)
    made: list[normalize.Normalizer | None] = []
    for taps in group.taps:
        if not taps.exact.any():
            made.append(None)
            continue
        factors = recipe.algorithm.factors(taps)
        sampling = _sampling(reads)
        made.append(
            normalize.Normalizer(valid, missing, width, taps, sampling, rule, share, factors)
        )
    return made


def _normalize_sums(normalizers: list[normalize.Normalizer | None], sums: np.ndarray) -> None:
    for normalizer, values in zip(normalizers, sums, strict=True):
        if normalizer is not None:
            normalizer.normalize(values)


def _require_centres(recipe: Recipe, reads: Reads, seen: np.ndarray, sums: np.ndarray) -> None:
    """Make sums missing whose kernel's centre lies on a missing pixel, if that is prefetched.

    ``seen`` (bands, H, W) is 0 there.
    """
    if recipe.convolution.require_center:
        missing = (seen == 0).any(axis=0)
        hidden = _centres(recipe.convolution, reads, missing, sums[0].shape)
        for values in sums:
            values[hidden] = np.nan


def _centres(
    convolution: Convolution, reads: Reads, missing: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return the pixels of a window that lie under the kernel's centre (kh // 2, kw // 2)."""
    rows, columns = reads
    kh, kw = convolution.kernel_shape
    y, x = rows.dilation * (kh // 2), columns.dilation * (kw // 2)
    return missing[y :: rows.stride, x :: columns.stride][: shape[0], : shape[1]]


def finish_pixels(
    values: np.ndarray, holes: np.ndarray, numbers: Numbers, out: np.ndarray
) -> Counts:
    """Write values of the compute dtype into ``out``; ``holes`` are missing."""
    target, fill = numbers.target, numbers.fill
    if values.dtype.kind == "f":
        values[holes] = np.nan
        return finish(values, numbers, out)
    if target.kind in "iu":
        bounds, own = np.iinfo(target), np.iinfo(values.dtype)
        low, high = max(bounds.min, own.min), min(bounds.max, own.max)
        values = np.clip(values, values.dtype.type(low), values.dtype.type(high))
    out[:] = values
    missing = int(np.count_nonzero(holes))
    if fill is None:
        if missing:
            raise ConvolutionError(NO_NODATA.format(missing, target))
        return Counts()
    collisions = int(np.count_nonzero(out[~holes] == fill))
    out[holes] = fill
    return Counts(0 if np.isnan(fill) else missing, collisions)


NO_NODATA = (
    "{} outputs are missing, and {} without nodata cannot say so; give nodata, or a float dtype"
)


def finish(sums: np.ndarray, numbers: Numbers, out: np.ndarray) -> Counts:
    """Write ``sums`` (NaN: missing) into ``out`` in the output's dtype."""
    target, fill = numbers.target, numbers.fill
    if target.kind == "f":
        if not np.may_share_memory(sums, out):
            with np.errstate(over="ignore"):
                out[:] = sums
        if fill is None or np.isnan(fill):
            return Counts()
        collisions = int(np.count_nonzero(out == fill))
        missing = np.isnan(out)
        out[missing] = fill
        return Counts(int(np.count_nonzero(missing)), collisions)
    bounds = np.iinfo(target)
    counts = Counts(
        *round_and_saturate(
            sums,
            numbers.compute.type(bounds.min),
            numbers.compute.type(bounds.max),
            target.type(bounds.min),
            target.type(bounds.max),
            target.type(0) if fill is None else fill,
            out,
        )
    )
    if fill is not None:
        return counts
    if counts.missing:
        raise ConvolutionError(NO_NODATA.format(counts.missing, target))
    return Counts()
