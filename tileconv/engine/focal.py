"""Statistics of a window: what is missing is found here, strip by strip, and the loops are run."""

import math
from dataclasses import dataclass

import numpy as np

from tileconv.dtypes import Numbers
from tileconv.engine.choose import STRIP_PIXELS
from tileconv.engine.loops.rank import Pair, Rank
from tileconv.missing import TIE
from tileconv.operators.reduction import Reduction


@dataclass(frozen=True)
class Outside:
    """Places of a window along one axis that hold padding."""

    places: np.ndarray | None
    """Boolean; None: there are none."""
    missing: bool
    """The padding is missing; else it is constant."""

    def part(self, first: int, end: int) -> "Outside":
        """Return the same of places ``first .. end - 1``."""
        return Outside(None if self.places is None else self.places[first:end], self.missing)


@dataclass(frozen=True)
class Focal:
    """A statistic, ready for windows of any sampling."""

    operator: Reduction
    numbers: Numbers

    @property
    def least(self) -> int:
        """Fewest valid pixels of a field that is not missing."""
        operator = self.operator
        if operator.missing == "propagate":
            return operator.tap_count
        least = math.ceil((operator.min_valid_fraction - TIE) * operator.tap_count)
        return max(least, 0 if operator.missing == "fill" else 1)

    def run(
        self,
        plane: np.ndarray,
        masked: np.ndarray | None,
        outside: tuple[Outside, Outside],
        sampling: tuple[Pair, Pair],
        out: np.ndarray,
        holes: np.ndarray,
        share: np.ndarray | None,
    ) -> None:
        """Reduce a plane (H, W) of pixels as they came in.

        Parameters
        ----------
        masked
            Boolean (H, W), True where a mask hides the pixel; None if none is hidden.
        outside
            Padding along (y, x); such places may hold anything.
        sampling
            Stride and dilation.
        out
            (OH, OW) of ``numbers.compute``, overwritten.
        holes
            Boolean (OH, OW), overwritten: True where the output is missing.
        share
            (OH, OW) float, overwritten with the share of valid pixels; None if nobody asks.
        """
        (stride, _), (dilation, _) = sampling
        span = (self.operator.kernel_shape[0] - 1) * dilation + 1
        rows = max(1, STRIP_PIXELS // (plane.shape[1] * min(stride, span)))
        for first in range(0, out.shape[0], rows):
            end = min(first + rows, out.shape[0])
            top, bottom = first * stride, (end - 1) * stride + span
            pixels, valid = self._replaced(
                plane[top:bottom],
                None if masked is None else masked[top:bottom],
                (outside[0].part(top, bottom), outside[1]),
            )
            self._reduce(
                pixels,
                valid,
                sampling,
                out[first:end],
                holes[first:end],
                None if share is None else share[first:end],
            )

    def _replaced(
        self, plane: np.ndarray, masked: np.ndarray | None, outside: tuple[Outside, Outside]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return (pixels of the compute dtype with padding in place, which are valid or None)."""
        operator, numbers = self.operator, self.numbers
        valid = np.ones(plane.shape, bool) if masked is None else ~masked
        if plane.dtype.kind == "f":
            valid &= ~np.isnan(plane)
        if numbers.nodata is not None:
            valid &= plane != numbers.nodata
        pixels = plane.astype(numbers.compute)
        axes = [(axis, of) for axis, of in enumerate(outside) if of.places is not None]
        for axis, of in sorted(axes, key=lambda each: each[1].missing):  # which holds in corners
            places = (of.places, slice(None)) if axis == 0 else (slice(None), of.places)
            valid[places] = not of.missing
            pixels[places] = 0 if of.missing else numbers.compute.type(operator.padding_value)
        if valid.all():
            return pixels, None
        if operator.missing == "fill":
            pixels[~valid] = operator.fill_value
        return pixels, valid

    def _reduce(
        self,
        pixels: np.ndarray,
        valid: np.ndarray | None,
        sampling: tuple[Pair, Pair],
        out: np.ndarray,
        holes: np.ndarray,
        share: np.ndarray | None,
    ) -> None:
        operator, (stride, dilation) = self.operator, sampling
        counts = np.empty(out.shape, np.uint32)
        rank = Rank(
            operator.statistic, operator.footprint, self.least, every=operator.missing == "fill"
        )
        seen = None if valid is None else valid[None]
        rank.run(pixels[None], seen, out[None], counts[None], stride=stride, dilation=dilation)
        holes[...] = counts < self.least
        if operator.require_center and valid is not None:
            y, x = (
                size // 2 * step for size, step in zip(operator.kernel_shape, dilation, strict=True)
            )
            centres = valid[y :: stride[0], x :: stride[1]]
            holes |= ~centres[: out.shape[0], : out.shape[1]]
        if share is not None:
            np.divide(counts, operator.tap_count, out=share)
