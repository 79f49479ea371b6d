"""What every operator answers: the only questions that plan, page, tags, hash and arrays ask.

An operator is a frozen, hashable and picklable value. It knows neither files nor loops: which
loops compute it is for the engine to choose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from tileconv.dtypes import Numbers
from tileconv.geometry import Geometry
from tileconv.padding import Padding, PaddingMode
from tileconv.propagation import Origin


@dataclass(frozen=True)
class Sampling:
    """Where the fields of a step lie on its input. Pairs are (y, x)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    padding_mode: tuple[PaddingMode, PaddingMode]
    padding_value: float


@dataclass(frozen=True)
class MissingRule:
    """What a field with missing pixels gives."""

    policy: str
    fill_value: float
    """What missing pixels count as under ``fill``."""
    min_valid_fraction: float
    """Least share of valid weight; below it the output is missing."""
    require_center: bool
    """A missing pixel under the centre makes the output missing."""
    counts_as_zero: bool = False
    """Missing pixels count as the stored value 0."""

    @property
    def looks(self) -> bool:
        """Missing pixels have to be found, those that are NaN too."""
        return self.policy != "propagate" or self.require_center


class Description(NamedTuple):
    """An operator in words."""

    label: str
    """What the page calls its line."""
    text: str
    operations: str
    """What it does, once for each tap of each output."""


class Operator(Protocol):
    """What to compute for a raster."""

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """One for each step, first to last."""

    @property
    def missing_rules(self) -> tuple[MissingRule, ...]:
        """One for each step, first to last."""

    @property
    def tap_count(self) -> int:
        """Operations for one output."""

    @property
    def new_dimension(self) -> str | None:
        """Name of the dimension along which the outputs of one plane lie; None: there is one."""

    @property
    def mixes_bands(self) -> bool:
        """Fields span several bands."""

    @property
    def is_ordered(self) -> bool:
        """Another sign of all pixels gives another statistic, not just another sign."""

    @property
    def is_small(self) -> bool:
        """Preparing it takes long, compared with computing: it is kept for the next call."""

    def geometry(self, shape: tuple[int, int]) -> Geometry:
        """Return where the fields lie on a raster of ``shape`` (rows, columns)."""

    def outputs(self, bands: int) -> int:
        """Return the number of output planes for ``bands`` input planes."""

    def dtypes(
        self,
        source: np.dtype,
        target: np.dtype | None = None,
        *,
        nodata: float | None = None,
        fill: float | None = None,
    ) -> Numbers:
        """Return how numbers come in, are computed and go out; ``fill`` is for missing outputs."""

    def origins(
        self, names: Sequence[str | None], numbers: Sequence[int] | None = None
    ) -> tuple[Origin, ...]:
        """Return where each output band comes from, for input bands of the given names."""

    def identity(self) -> Mapping[str, Any]:
        """Return all that decides on the values of outputs, by name: for hashes."""

    def facts(self) -> Mapping[str, Any]:
        """Return what the plan tells programs of it, as JSON's values."""

    def description(self) -> Description:
        """Return what the plan tells people of it."""

    def tags(self) -> Mapping[str, str]:
        """Return what the output's file says of it."""

    def collision(self, fill: float) -> str | None:
        """Say why valid outputs will often equal nodata, if it is known beforehand."""

    def without_padding(self) -> "Operator":
        """Return the same for pixels that hold their padding already."""

    def of_parts(self) -> "tuple[Operator, Operator]":
        """Return what to compute of the real and of the imaginary part of complex pixels."""

    def weighing(self) -> "Operator":
        """Return what sums the weight of valid pixels, for planes of 1 (valid) and 0."""

    def weights_of_fields(self, outputs: int) -> np.ndarray:
        """Return the weight of each output's field without missing pixels; NaN if it is 0."""
