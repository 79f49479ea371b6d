"""Focal statistics: one value out of the pixels that a footprint covers."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from tileconv.arguments import (
    as_whole,
    as_word,
    check_array,
    check_finite,
    check_flag,
    check_float,
    check_fraction,
    check_pair,
    check_word,
    members,
    short_repr,
)
from tileconv.dtypes import Numbers, check_input, check_output, compute_dtype, exact_value
from tileconv.errors import ConvolutionError, UnsupportedError
from tileconv.geometry import Geometry, lay_out
from tileconv.operators.base import Description, MissingRule, Sampling
from tileconv.operators.convolution import LARGEST_KERNEL, SHORT_KERNEL, Convolution
from tileconv.padding import (
    LARGEST,
    Padding,
    PaddingMode,
    check_modes_and_value,
    check_padding,
)
from tileconv.propagation import Origin
from tileconv.text import plural

STATISTICS = ("max", "median")
PLANNED = re.compile(
    r"min|range|mean|sum|count|std|var|mode|minority|variety|p\d+(\.\d+)?|share(:.+)?"
)
"""Statistics that are foreseen and not there yet."""
POLICIES = ("propagate", "skip", "fill")
LARGEST_SIDE = 1024
"""Longest side of a footprint given by its size, in pixels."""
DEFAULTS: Mapping[str, Any] = {
    "only_missing": False,
    "method": "linear",
    "ties": "lowest",
    "ddof": 0,
    "classes": None,
}
"""Options that are foreseen, each with the only value that it may have yet."""


@dataclass(frozen=True)
class Reduction:
    """A statistic of the pixels under a footprint, of every band by itself. Pairs are (y, x).

    Build it with `Reduction.of`, which checks and normalises what people write.
    """

    statistic: str
    footprint: np.ndarray
    """(kh, kw) bool, read-only."""
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    padding_mode: tuple[PaddingMode, PaddingMode] = ("missing", "missing")
    padding_value: float = 0.0
    missing: str = "propagate"
    fill_value: float = 0.0
    """What missing pixels count as under ``fill``."""
    min_valid_fraction: float = 0.0
    """Least share of the footprint's pixels that must be valid; else the output is missing."""
    require_center: bool = False
    """A missing pixel at (kh // 2, kw // 2) makes the output missing."""

    @classmethod
    def of(
        cls,
        statistic: str,
        footprint: Any,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "valid",
        padding_mode: str | Sequence[str] = "missing",
        padding_value: float = 0.0,
        missing: str = "propagate",
        fill_value: float = 0.0,
        min_valid_fraction: float = 0.0,
        require_center: bool = False,
        **foreseen: Any,
    ) -> "Reduction":
        """Check everything and return the value; `ConvolutionError` says what does not fit."""
        for name, value in foreseen.items():
            default = DEFAULTS[name]
            if type(value) is not type(default) or value != default:
                raise UnsupportedError(f"{name} {short_repr(value)} is not supported yet")
        modes, value = check_modes_and_value(
            padding_mode, check_float(padding_value, "padding_value")
        )
        return cls(
            statistic=_check_statistic(statistic),
            footprint=_check_footprint(footprint),
            stride=check_pair(stride, "stride", 1, LARGEST),
            dilation=check_pair(dilation, "dilation", 1, LARGEST),
            padding=check_padding(padding),
            padding_mode=modes,
            padding_value=value,
            missing=_check_policy(missing),
            fill_value=check_finite(fill_value, "fill_value"),
            min_valid_fraction=check_fraction(min_valid_fraction, "min_valid_fraction"),
            require_center=check_flag(require_center, "require_center"),
        )

    @property
    def kernel_shape(self) -> tuple[int, int]:
        """(kh, kw) of the footprint."""
        return self.footprint.shape[0], self.footprint.shape[1]

    @cached_property
    def tap_count(self) -> int:
        """Pixels of the footprint."""
        return int(np.count_nonzero(self.footprint))

    @property
    def new_dimension(self) -> None:
        """Each plane gives one plane."""

    @property
    def mixes_bands(self) -> bool:
        """Each band is reduced by itself."""
        return False

    @property
    def is_ordered(self) -> bool:
        """The largest pixel is not the smallest one; the median stays the median."""
        return self.statistic == "max"

    @property
    def is_small(self) -> bool:
        """There is nothing to prepare."""
        return False

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """The one step's."""
        own = Sampling(
            self.kernel_shape,
            self.stride,
            self.dilation,
            self.padding,
            self.padding_mode,
            self.padding_value,
        )
        return (own,)

    @property
    def missing_rules(self) -> tuple[MissingRule, ...]:
        """The one step's."""
        own = MissingRule(
            self.missing, self.fill_value, self.min_valid_fraction, self.require_center
        )
        return (own,)

    @property
    def returns_pixels(self) -> bool:
        """Each output is one of the pixels, so that it has their dtype."""
        odd = self.tap_count % 2 == 1
        return self.statistic == "max" or (odd and self.missing != "skip")

    def geometry(self, shape: tuple[int, int]) -> Geometry:
        """Return where the fields lie on a raster of ``shape`` (rows, columns)."""
        return lay_out(
            shape, self.kernel_shape, self.stride, self.dilation, self.padding, self.padding_mode
        )

    def outputs(self, bands: int) -> int:
        """Return the number of output planes: one for each band."""
        return bands

    def dtypes(
        self,
        source: np.dtype,
        target: np.dtype | None = None,
        *,
        nodata: float | None = None,
        fill: float | None = None,
    ) -> Numbers:
        """Return the dtypes: the pixels' own where outputs are pixels, else a float.

        >>> largest = Reduction.of("max", 3)
        >>> largest.dtypes(np.dtype("uint64")).target
        dtype('uint64')
        >>> Reduction.of("median", 2).dtypes(np.dtype("uint16")).target
        dtype('float32')
        """
        found = _dtypes(self.returns_pixels, source, target, nodata, fill)
        if self.missing == "fill":
            exact_value(self.fill_value, found.compute, "fill_value")
        if "constant" in self.padding_mode:
            exact_value(self.padding_value, found.compute, "padding_value")
        return found

    def origins(
        self, names: Sequence[str | None], numbers: Sequence[int] | None = None
    ) -> tuple[Origin, ...]:
        """Return where each output band comes from: the input band of the same name."""
        del numbers
        return tuple(Origin(name, {i: 1.0}, alone=True) for i, name in enumerate(names))

    def identity(self) -> dict[str, Any]:
        """Return the fields, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def facts(self) -> dict[str, Any]:
        """Return the statistic and the size of the footprint, as JSON's values."""
        return {
            "statistic": self.statistic,
            "kernel_shape": list(self.kernel_shape),
            "taps": self.tap_count,
            "kernels": 1,
        }

    def description(self) -> Description:
        """Return the statistic in words."""
        kh, kw = self.kernel_shape
        text = f"{self.statistic} of {kh} x {kw}, {plural(self.tap_count, 'pixel')}"
        return Description("Focal", text, "comparisons")

    def tags(self) -> dict[str, str]:
        """Return the statistic, and the footprint written out or by its hash, and its shape."""
        footprint = json.dumps(self.footprint.astype(int).tolist())
        if self.footprint.size > SHORT_KERNEL:
            footprint = f"sha256 {hashlib.sha256(self.footprint.tobytes()).hexdigest()}"
        shape = "{} {}".format(*self.kernel_shape)
        return {"STATISTIC": self.statistic, "FOOTPRINT": footprint, "FOOTPRINT_SHAPE": shape}

    def collision(self, fill: float) -> None:
        """Return nothing: no value is more frequent than in the input."""
        del fill

    def without_padding(self) -> "Reduction":
        """Return the same for pixels that hold their padding already."""
        return replace(self, padding="valid", padding_mode=("missing", "missing"))

    def of_parts(self) -> "tuple[Reduction, Reduction]":
        """Refuse complex pixels, which have no order."""
        raise UnsupportedError(
            f"complex numbers have no order, so no {self.statistic}; take abs() of them first"
        )

    def weighing(self) -> Convolution:
        """Return what counts the valid pixels of a field, for planes of 1 and 0."""
        return Convolution(
            self.footprint.astype(np.float64), self.stride, self.dilation, self.padding
        )

    def weights_of_fields(self, outputs: int) -> np.ndarray:
        """Return the pixels of each output's footprint."""
        return np.full(outputs, float(self.tap_count))


@lru_cache(64)
def _dtypes(
    returns_pixels: bool,
    source: np.dtype,
    target: np.dtype | None,
    nodata: float | None,
    fill: float | None,
) -> Numbers:
    given = check_input(source)
    natural = given if returns_pixels else compute_dtype(given)
    wanted = natural if target is None else check_output(target)
    compute = natural if natural.kind in "iu" else compute_dtype(natural, wanted)
    if fill is None and wanted.kind == "f":
        fill = np.nan
    return Numbers(
        source=given,
        compute=compute,
        target=wanted,
        nodata=None if nodata is None else exact_value(nodata, given, "nodata"),
        fill=None if fill is None else exact_value(fill, wanted, "output nodata"),
    )


def _check_statistic(given: Any) -> str:
    word = as_word(given)
    there = " and ".join(STATISTICS)
    if members(given) is not None:
        raise UnsupportedError(f"statistic: lists are not supported yet; give one of {there}")
    if word is None or (word not in STATISTICS and not PLANNED.fullmatch(word)):
        near = difflib.get_close_matches(word or "", STATISTICS, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConvolutionError(
            f"statistic must be one of {', '.join(STATISTICS)}; got {short_repr(given)}{meant}"
        )
    if word not in STATISTICS:
        raise UnsupportedError(f"statistic: {word} is not supported yet; there are {there}")
    return word


def _check_footprint(given: Any) -> np.ndarray:
    """Return a footprint as a boolean array: given by its size, or by where it is not 0."""
    if as_word(given) is not None or issubclass(type(given), Mapping):
        raise UnsupportedError(
            "footprint: names are not supported yet; give a size, or an array of 0 and 1"
        )
    sides = members(given)
    if as_whole(given) is not None or (sides and all(as_whole(each) is not None for each in sides)):
        footprint = np.ones(check_pair(given, "footprint", 1, LARGEST_SIDE), bool)
    else:
        footprint = _check_array(given)
    footprint.setflags(write=False)
    return footprint


def _check_array(given: Any) -> np.ndarray:
    array = check_array(given, "footprint")
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size:
        raise ConvolutionError(
            "footprint must be n, (y, x), or an array (kh, kw) of 0 and 1; "
            f"got {array.dtype} of shape {array.shape}"
        )
    if array.size > LARGEST_KERNEL:
        raise ConvolutionError(
            f"footprint: at most {LARGEST_KERNEL} pixels, got shape {array.shape}"
        )
    values = np.unique(array[array != 0])
    if not values.size:
        raise ConvolutionError("footprint holds no pixel: all of it is 0")
    if values.size > 1 or not 0 < values[0] < np.inf:
        raise ConvolutionError(
            "footprint holds 0 and one positive value; for weights there is tileconv.convolve"
        )
    return array != 0


def _check_policy(given: Any) -> str:
    if as_word(given) == "renormalize":
        raise ConvolutionError("missing: renormalize is for weighted sums; use skip")
    return check_word(given, "missing", POLICIES)
