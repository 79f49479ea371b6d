"""The door to the engine: kernels are prepared once, and then run on the planes of a tile.

Missing pixels are the engine's business: it finds and replaces them, while it packs rows where it
can, and normalizes what fields that hold some of them gave.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tileconv import buffers
from tileconv.dtypes import Numbers
from tileconv.engine.choose import Algorithm
from tileconv.engine.kernel_layout import Pair
from tileconv.engine.missing.detect import MissingDetector
from tileconv.engine.missing.normalize import (
    NormalizationRule,
    Normalizer,
    ValidWeights,
    lower_shares,
)
from tileconv.engine.missing.replace import MissingPixelRule
from tileconv.engine.prepare import Loops, prepare
from tileconv.missing import TIE
from tileconv.operators.convolution import Convolution, Taps

DOUBLE = np.dtype(np.float64)


class Valid(NamedTuple):
    """Which pixels of some planes are valid."""

    plane: np.ndarray | None = None
    """(bands, H, W) uint8 or bool, contiguous, 0 where a pixel is missing; None: all are valid."""
    replaced: bool = False
    """Missing pixels were found and replaced: ``plane`` tells of all of them. Else those that
    equal nodata, or are NaN, are missing, too."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The kernels of some outputs on the same bands, for windows that are sampled in one way."""

    convolution: Convolution
    numbers: Numbers
    kernels: tuple[Taps, ...]
    bands: int
    sampling: tuple[Pair, Pair]
    """Stride and dilation."""
    loops: Loops
    in_place: bool
    """The loops read rows where they lie, so that copies of them have to be of their dtype."""
    _rules: dict[tuple[np.dtype, bool, bool], MissingPixelRule] = field(default_factory=dict)
    _normalizers: dict[NormalizationRule, Normalizer] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        convolution: Convolution,
        numbers: Numbers,
        algorithm: Algorithm,
        kernels: Sequence[Taps],
        bands: int,
        sampling: tuple[Pair, Pair],
    ) -> "Prepared":
        """Lay kernels out."""
        loops = prepare(algorithm, *sampling, kernels, bands)
        in_place = algorithm.in_place
        return cls(convolution, numbers, tuple(kernels), bands, sampling, loops, in_place)

    def run(
        self,
        planes: np.ndarray,
        valid: Valid,
        out: np.ndarray,
        share: np.ndarray | None = None,
        *,
        stream: bool = False,
    ) -> None:
        """Write what the kernels give into ``out``, NaN where that is missing.

        Parameters
        ----------
        planes
            (bands, H, W), native byte order, any real dtype but float16.
        valid
            Which of their pixels are valid.
        out
            (kernels, OH, OW) of the compute dtype, rows contiguous, overwritten.
        share
            (OH, OW) float64, lowered to the least share of ``sum |w|`` that lies on valid pixels;
            None if nobody asks.
        stream
            Nobody reads ``out`` soon: it may be written by streaming stores.
        """
        listed = share is not None or self.listed
        if not valid.replaced:
            rule = self.pixel_rule(planes.dtype, listed=listed)
            if valid.plane is None and not rule.possible:
                self.loops.run(planes, out, stream=stream)
                return
            if self.detects(planes.dtype):
                self._run_detecting(planes, valid.plane, out, share, stream=stream)
                return
            planes, valid = self.replace(planes, valid.plane, listed=listed)
        seen = valid.plane if listed else None
        self.loops.run(planes, out, stream=stream and seen is None)
        if seen is not None:
            self._finish(self.rule, planes, seen, None, out, share)

    def _run_detecting(
        self,
        planes: np.ndarray,
        given: np.ndarray | None,
        out: np.ndarray,
        share: np.ndarray | None,
        *,
        stream: bool,
    ) -> None:
        """Run the loops, which find missing pixels and replace them row by row."""
        listed = share is not None or self.listed
        pixel_rule = self.pixel_rule(planes.dtype, listed=listed, in_place=self.in_place)
        rule = self._counted if self.in_place else self.rule
        seen = None
        if rule is not None or share is not None:
            seen = buffers.scratch("valid", planes.shape, np.dtype(np.uint8))
        detector = MissingDetector(pixel_rule, planes.shape, given, seen)
        self.loops.run(planes, out, stream=stream, detector=detector)
        if seen is not None and detector.found:
            self._finish(rule, planes, seen, detector.rows, out, share)

    def _finish(
        self,
        rule: NormalizationRule | None,
        planes: np.ndarray,
        valid: np.ndarray,
        rows: np.ndarray | None,
        out: np.ndarray,
        share: np.ndarray | None,
    ) -> None:
        """Apply the rules for missing pixels to sums."""
        if rule is not None:
            normalizer = self._normalizers.get(rule)
            if normalizer is None:
                compute = self.numbers.compute
                normalizer = Normalizer(rule, self.kernels, self.sampling, self.bands, compute)
                self._normalizers[rule] = normalizer
            normalizer.normalize(planes, valid, rows, out)
        if share is not None:
            lower_shares(self._share_weights, valid, rows, share)
        if self.convolution.require_center:
            self._require_centers(valid, out)

    @cached_property
    def _share_weights(self) -> ValidWeights:
        return ValidWeights(self.kernels, self.sampling, self.bands, DOUBLE)

    def _require_centers(self, valid: np.ndarray, sums: np.ndarray) -> None:
        """Make sums missing whose kernel's centre (kh // 2, kw // 2) lies on a missing pixel."""
        missing = (valid == 0).any(axis=0)
        stride, dilation = self.sampling
        y, x = (d * (k // 2) for d, k in zip(dilation, self.convolution.kernel_shape, strict=True))
        hidden = missing[y :: stride[0], x :: stride[1]][: sums.shape[1], : sums.shape[2]]
        for values in sums:
            values[hidden] = np.nan

    @cached_property
    def listed(self) -> bool:
        """True if missing pixels have to be found: under "propagate" NaN need not."""
        c = self.convolution
        return c.require_center or c.missing != "propagate"

    @cached_property
    def rule(self) -> NormalizationRule | None:
        """What becomes of sums of fields with missing pixels; None if they stay as they are."""
        c = self.convolution
        if c.missing == "propagate":
            return None  # they are NaN already
        if c.missing == "fill" and not c.min_valid_fraction:
            return None
        return NormalizationRule(
            scale=c.missing == "renormalize",
            least=c.min_valid_fraction - TIE,
            empty=c.missing != "fill",
        )

    @cached_property
    def _counted(self) -> NormalizationRule | None:
        """The `rule` where copies of rows keep the dtype of the pixels: integers hold no NaN."""
        if self.convolution.missing == "propagate" and self.numbers.source.kind in "iu":
            return NormalizationRule(scale=False, least=1, empty=False, counts=True)
        return self.rule

    @property
    def weighs(self) -> bool:
        """True if a validity plane is kept where missing pixels are replaced row by row."""
        return (self._counted if self.in_place else self.rule) is not None

    def detects(self, dtype: np.dtype) -> bool:
        """Say whether missing pixels of a dtype are replaced row by row, while rows are packed."""
        if self.convolution.require_center or not self.loops.detects_missing:
            return False
        if not self.in_place:
            return True
        return self.pixel_rule(dtype, listed=self.listed, in_place=True).substitute.dtype == dtype

    def pixel_rule(
        self, dtype: np.dtype, *, listed: bool, in_place: bool = False
    ) -> MissingPixelRule:
        """Return which pixels of a dtype are missing, and what replaces them.

        ``listed`` says that NaN has to be found; else it does what a missing pixel does. With
        ``in_place`` the substitute is of their dtype where it can be; see `_counted`.
        """
        found = self._rules.get((dtype, listed, in_place))
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
            self._rules[dtype, listed, in_place] = found
        return found

    def replace(
        self,
        planes: np.ndarray,
        given: np.ndarray | None,
        *,
        listed: bool,
        dtype: np.dtype | None = None,
    ) -> tuple[np.ndarray, Valid]:
        """Return (planes without missing pixels, which of their pixels are valid).

        The planes themselves are returned if no pixel is missing, unless ``dtype`` is given: then
        a copy is, of this dtype. ``listed`` is as for `pixel_rule`.
        """
        rule = self.pixel_rule(planes.dtype, listed=listed)
        missing = [
            (given is not None and not given[i].all()) or rule.any_in(plane)
            for i, plane in enumerate(planes)
        ]
        if not any(missing) and dtype is None:
            return planes, Valid(replaced=True)
        if dtype is not None and dtype != rule.substitute.dtype:
            rule = rule.into(dtype)
        pixels = buffers.scratch("pixels", planes.shape, rule.substitute.dtype)
        valid = buffers.scratch("valid", planes.shape, np.dtype(np.uint8))
        for i, (plane, made, seen) in enumerate(zip(planes, pixels, valid, strict=True)):
            if missing[i]:
                rule.replace_in(plane, None if given is None else given[i], made, seen)
            else:
                made[...] = plane
                seen[...] = 1
        return pixels, Valid(valid if any(missing) else None, replaced=True)
