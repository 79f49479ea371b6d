"""Weighted sums: one kernel, a bank of them, or sums over bands.

A job's YAML, the command line and the array call all build a `Convolution`;
the plan prices it and a tile runs it. It is checked once, here.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tileconv.arguments import (
    check_array,
    check_finite,
    check_flag,
    check_float,
    check_fraction,
    check_pair,
    check_whole,
    short_repr,
)
from tileconv.dtypes import Numbers
from tileconv.errors import ConvolutionError, UnsupportedError
from tileconv.geometry import Geometry, lay_out
from tileconv.missing import MissingPolicy, check_policy
from tileconv.operators.base import Description, MissingRule, Sampling
from tileconv.padding import LARGEST, Padding, PaddingMode, check_modes_and_value, check_padding
from tileconv.propagation import Origin
from tileconv.text import plural

LARGEST_KERNEL = 1 << 20
"""Most weights one output may have (1024 x 1024 of one band)."""


class Taps(NamedTuple):
    """The non-zero weights of one output, band by band and row by row: the order they are added in.

    Each is an array of T numbers.
    """

    band: np.ndarray
    """Which of the group's bands."""
    y: np.ndarray
    """Kernel row."""
    x: np.ndarray
    """Kernel column."""
    weights: np.ndarray
    """Of the dtype of the computation; none is 0."""
    exact: np.ndarray
    """float64, as they were given."""


@dataclass(frozen=True)
class Group:
    """Outputs whose fields lie on the same bands."""

    bands: tuple[int, ...]
    """Input planes, from 0."""
    outputs: tuple[int, ...]
    """Output planes, from 0."""
    taps: tuple[Taps, ...]
    """One for each output."""


SHORT_KERNEL = 81
"""Most weights that a tag spells out."""
SMALL_KERNEL_BYTES = 1 << 16
"""Weights of a convolution that is kept ready for the next call or tile, laid out: for larger ones
that is nothing beside computing with them."""


@dataclass(frozen=True)
class Convolution:
    """What to compute for a raster. Pairs are (y, x).

    Build it with `Convolution.of`, which checks and normalises what people write.
    """

    weights: np.ndarray
    """float64, read-only, already flipped where a true convolution was asked for; one of

    (kh, kw)                every band by itself: B outputs
    (K, kh, kw)             a bank: B * K outputs, band-major (band 0 with each kernel, band 1 ...)
    (M, B/groups, kh, kw)   M outputs, each a sum over the bands of its group (torch, ONNX)
    """
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    padding_mode: tuple[PaddingMode, PaddingMode] = ("constant", "constant")
    padding_value: float = 0.0
    """What ``constant`` padding holds, never NaN: such padding is ``missing``."""
    groups: int = 1
    bias: np.ndarray | None = None
    """(M,) float64, added to the outputs of 4-D weights."""
    missing: MissingPolicy = "propagate"
    fill_value: float = 0.0
    """What missing pixels count as under ``fill``."""
    min_valid_fraction: float = 0.0
    """Least share of ``sum |w|`` on valid pixels; below it the output is missing."""
    require_center: bool = False
    """A missing pixel under the kernel's centre (kh // 2, kw // 2) makes the output missing."""

    @classmethod
    def of(
        cls,
        kernel: ArrayLike,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "valid",
        padding_mode: str | Sequence[str] = "constant",
        padding_value: float = 0.0,
        groups: int = 1,
        bias: ArrayLike | None = None,
        flip: bool = False,
        normalize: bool = False,
        missing: str = "propagate",
        fill_value: float = 0.0,
        min_valid_fraction: float = 0.0,
        require_center: bool = False,
    ) -> "Convolution":
        """Check everything and return the value; `ConvolutionError` says what does not fit.

        ``flip`` turns each kernel by 180 degrees (the mathematician's
        convolution); ``normalize`` divides the weights of each output by their sum.
        """
        weights = check_weights(kernel)
        if check_flag(normalize, "normalize"):
            weights = _normalized(weights)
        if check_flag(flip, "flip"):
            weights = weights[..., ::-1, ::-1]
        weights = np.ascontiguousarray(weights)
        weights.setflags(write=False)
        fraction = check_fraction(min_valid_fraction, "min_valid_fraction")
        modes, value = check_modes_and_value(
            padding_mode, check_float(padding_value, "padding_value")
        )
        return cls(
            weights=weights,
            stride=check_pair(stride, "stride", 1, LARGEST),
            dilation=check_pair(dilation, "dilation", 1, LARGEST),
            padding=check_padding(padding),
            padding_mode=modes,
            padding_value=value,
            groups=_check_groups(groups, weights),
            bias=_check_bias(bias, weights),
            missing=check_policy(missing, weights),
            fill_value=check_finite(fill_value, "fill_value"),
            min_valid_fraction=fraction,
            require_center=check_flag(require_center, "require_center"),
        )

    @property
    def kernel_shape(self) -> tuple[int, int]:
        """(kh, kw)."""
        return self.weights.shape[-2], self.weights.shape[-1]

    @property
    def count(self) -> int:
        """Kernels: 1, K or M."""
        return 1 if self.weights.ndim == 2 else self.weights.shape[0]

    @property
    def mixes_bands(self) -> bool:
        """Fields span several bands: the weights are 4-D."""
        return self.weights.ndim == 4

    @property
    def new_dimension(self) -> str | None:
        """What the outputs of one plane lie along: a bank's kernels, sums' bands; None: one plane.

        >>> Convolution.of([[[1.0]], [[2.0]]]).new_dimension
        'kernel'
        """
        if self.weights.ndim == 2:
            return None
        return "band" if self.mixes_bands else "kernel"

    def outputs(self, bands: int) -> int:
        """Return the number of output planes for ``bands`` input planes."""
        if not self.mixes_bands:
            return bands * self.count
        needed = self.weights.shape[1] * self.groups
        if bands != needed:
            raise ConvolutionError(
                f"weights of shape {self.weights.shape} with groups={self.groups} are for "
                f"{needed} bands ({self.weights.shape[1]} per group), and there are {bands}"
            )
        return self.count

    def origins(
        self, names: Sequence[str | None], numbers: Sequence[int] | None = None
    ) -> tuple[Origin, ...]:
        """Return where each output band comes from, for input bands of the given names.

        Bands of a bank are named ``kernel:band``, by their ``numbers`` (1, 2, ...) where they have
        no names; sums over bands are named ``output 1``, ``output 2``, ...

        >>> bank = Convolution.of([[[1.0]], [[2.0]]])
        >>> [origin.description for origin in bank.origins(["red"])]
        ['kernel 1:red', 'kernel 2:red']
        """
        if self.mixes_bands:
            wide, many = self.weights.shape[1], self.count // self.groups
            return tuple(
                Origin(
                    f"output {m + 1}",
                    {
                        m // many * wide + i: float(plane.sum())
                        for i, plane in enumerate(planes)
                        if plane.any()
                    },
                )
                for m, planes in enumerate(self.weights)
            )
        if self.weights.ndim == 2:
            total = float(self.weights.sum())
            return tuple(Origin(name, {i: total}, alone=True) for i, name in enumerate(names))
        numbers = range(1, len(names) + 1) if numbers is None else numbers
        totals = [float(kernel.sum()) for kernel in self.weights]
        return tuple(
            Origin(f"kernel {k}:{name or f'band {band}'}", {i: total}, alone=self.count == 1)
            for i, (name, band) in enumerate(zip(names, numbers, strict=True))
            for k, total in enumerate(totals, 1)
        )

    def plan_groups(self, bands: int, dtype: np.dtype) -> tuple[Group, ...]:
        """Return which outputs come from which bands, with weights as numbers of ``dtype``."""
        self.outputs(bands)
        kernels = self.weights.reshape(self.count, -1, *self.kernel_shape)
        taps = _taps_of(kernels, dtype)
        if not self.mixes_bands:
            k = self.count
            return tuple(
                Group((band,), tuple(range(band * k, band * k + k)), taps) for band in range(bands)
            )
        wide, many = kernels.shape[1], self.count // self.groups
        return tuple(
            Group(
                tuple(range(g * wide, (g + 1) * wide)),
                tuple(range(g * many, (g + 1) * many)),
                taps[g * many : (g + 1) * many],
            )
            for g in range(self.groups)
        )

    @cached_property
    def tap_count(self) -> int:
        """Non-zero weights of the output that has most."""
        kernels = self.weights.reshape(self.count, -1)
        return int(np.count_nonzero(kernels, axis=1).max())

    @cached_property
    def sums_to_zero(self) -> bool:
        """The weights of some output sum to 0, but for rounding."""
        kernels = self.weights.reshape(self.count, -1)
        sizes = np.abs(kernels).sum(axis=1)
        totals = np.abs(kernels.sum(axis=1))
        return bool(((sizes > 0) & (totals <= np.finfo(np.float64).eps * sizes)).any())

    def geometry(self, shape: tuple[int, int]) -> Geometry:
        """Return where the fields lie on a raster of ``shape`` (rows, columns)."""
        return lay_out(
            shape, self.kernel_shape, self.stride, self.dilation, self.padding, self.padding_mode
        )

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
            self.missing,
            self.fill_value,
            self.min_valid_fraction,
            self.require_center,
            counts_as_zero=self.missing == "skip",
        )
        return (own,)

    @property
    def is_ordered(self) -> bool:
        """Sums keep their meaning."""
        return False

    @property
    def is_small(self) -> bool:
        """Laying its kernels out takes long, compared with computing."""
        return self.weights.nbytes <= SMALL_KERNEL_BYTES

    def dtypes(
        self,
        source: np.dtype,
        target: np.dtype | None = None,
        *,
        nodata: float | None = None,
        fill: float | None = None,
    ) -> Numbers:
        """Return the dtypes of the sums: a float wide enough for them."""
        taps = 1 if target is None or target.kind == "f" else self.tap_count
        return _dtypes(source, target, nodata, fill, taps)

    def identity(self) -> dict[str, Any]:
        """Return the fields, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def facts(self) -> dict[str, Any]:
        """Return the sizes of the kernels, as JSON's values."""
        return {
            "kernel_shape": list(self.kernel_shape),
            "taps": self.tap_count,
            "kernels": self.count,
        }

    def description(self) -> Description:
        """Return the kernels in words."""
        kh, kw = self.kernel_shape
        text = f"{kh} x {kw}, {plural(self.tap_count, 'tap')}"
        if self.weights.ndim == 2:
            text += f", sum {float(self.weights.sum()):g}"
        elif self.mixes_bands:
            outputs = plural(self.count, "output")
            text = f"{outputs}, each {self.weights.shape[1]} bands x {text}"
            text += f", {self.groups} groups" * (self.groups > 1)
            text += ", bias" * (self.bias is not None)
        else:
            text = f"{plural(self.count, 'kernel')} of {text}, each on every band"
        return Description("Kernel", text, "multiply-adds")

    def tags(self) -> dict[str, str]:
        """Return the kernel, written out or by its hash, and its shape."""
        if self.weights.size <= SHORT_KERNEL:
            kernel = json.dumps(self.weights.tolist())
        else:
            kernel = f"sha256 {hashlib.sha256(self.weights.tobytes()).hexdigest()}"
        return {"KERNEL": kernel, "KERNEL_SHAPE": " ".join(map(str, self.weights.shape))}

    def collision(self, fill: float) -> str | None:
        """Say that sums of flat fields are 0, if 0 is nodata."""
        if fill != 0 or self.bias is not None or not self.sums_to_zero:
            return None
        return (
            "nodata is 0, and so is the kernel's sum: where the input is flat, outputs are 0 and "
            "will read as missing; choose another output.nodata"
        )

    def without_padding(self) -> "Convolution":
        """Return the same for pixels that hold their padding already."""
        return replace(self, padding="valid", padding_mode=("constant", "constant"))

    def of_parts(self) -> "tuple[Convolution, Convolution]":
        """Return what to compute of the real and of the imaginary part of complex pixels.

        Bias, fill and padding values are real.
        """
        return self, replace(self, bias=None, fill_value=0.0, padding_value=0.0)

    def weighing(self) -> "Convolution":
        """Return what sums the absolute weights of valid pixels, for planes of 1 and 0."""
        return Convolution(
            np.abs(self.weights), self.stride, self.dilation, self.padding, groups=self.groups
        )

    def weights_of_fields(self, outputs: int) -> np.ndarray:
        """Return ``sum |w|`` of each output, added in the order of taps; NaN without taps."""
        kernels = np.abs(self.weights).reshape(self.count, -1)
        totals = [np.cumsum(k[k > 0])[-1] if k.any() else np.nan for k in kernels]
        return np.tile(np.array(totals), outputs // self.count)


@lru_cache(64)
def _dtypes(
    source: np.dtype,
    target: np.dtype | None,
    nodata: float | None,
    fill: float | None,
    taps: int,
) -> Numbers:
    """Return the same value for the same arguments: what is kept for a call is found by it."""
    return Numbers.of(source, target, nodata=nodata, fill=fill, taps=taps)


def _taps_of(kernels: np.ndarray, dtype: np.dtype) -> tuple[Taps, ...]:
    """Return the non-zero weights of each of ``kernels`` (M, bands, kh, kw).

    Kernels without a zero share their tables of places: banks of hundreds of them are common.
    """
    with np.errstate(over="ignore", under="ignore"):
        numbers = kernels.astype(dtype)
    # A weight too small for the dtype is still a tap: missing data under it count.
    least = np.finfo(dtype).smallest_subnormal
    lost = (numbers == 0) & (kernels != 0)
    numbers[lost] = np.copysign(least, kernels[lost])
    if not np.isfinite(numbers).all():
        raise ConvolutionError(
            f"a weight is beyond the range of {dtype}, the dtype of the computation; "
            "ask for dtype float64"
        )
    if kernels.all():
        band, y, x = np.nonzero(kernels[0])
        return tuple(
            Taps(band, y, x, own.ravel(), exact.ravel())
            for own, exact in zip(numbers, kernels, strict=True)
        )
    places = [np.nonzero(kernel) for kernel in kernels]
    return tuple(
        Taps(band, y, x, own[band, y, x], exact[band, y, x])
        for (band, y, x), own, exact in zip(places, numbers, kernels, strict=True)
    )


def check_weights(kernel: ArrayLike) -> np.ndarray:
    """Return ``kernel`` as a float64 array of two, three or four axes."""
    if _is_masked(kernel):
        raise ConvolutionError(
            "the kernel is a masked array, and a missing weight has no meaning; where there is to "
            "be no tap, say so: kernel.filled(0)"
        )
    array = check_array(kernel, "the kernel")
    if array.dtype.kind == "c":
        raise UnsupportedError("complex kernels are not supported yet")
    if array.dtype.kind not in "biuf":
        raise ConvolutionError(f"a kernel holds numbers, got {array.dtype}")
    if array.ndim not in (2, 3, 4):
        raise ConvolutionError(
            "a kernel is (kh, kw), a bank (K, kh, kw), or (M, bands per group, kh, kw); "
            f"got shape {array.shape}"
        )
    if not array.size:
        raise ConvolutionError(f"the kernel is empty: its shape is {array.shape}")
    one = array.size if array.ndim == 2 else array[0].size
    if one > LARGEST_KERNEL:
        raise ConvolutionError(
            f"an output has at most {LARGEST_KERNEL} weights, got shape {array.shape}"
        )
    weights = array.astype(np.float64)
    if not np.isfinite(weights).all():
        where = np.argwhere(~np.isfinite(weights))[0]
        names = ("output", "band", "row", "column")[4 - len(where) :]
        if len(where) == 3:
            names = ("kernel", "row", "column")
        place = ", ".join(f"{name} {i}" for name, i in zip(names, where, strict=True))
        raise ConvolutionError(
            f"the kernel's weights must be finite; {place} is {weights[tuple(where)]}"
        )
    return weights


def _normalized(weights: np.ndarray) -> np.ndarray:
    axes = (-2, -1) if weights.ndim < 4 else (-3, -2, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        totals = weights.sum(axis=axes, keepdims=True)
        sizes = np.abs(weights).sum(axis=axes, keepdims=True)
    if not np.isfinite(sizes).all():
        raise ConvolutionError(
            "normalize divides by the kernel's sum, and this one's is beyond float64"
        )
    if not (np.abs(totals) > np.finfo(np.float64).eps * sizes).all():
        raise ConvolutionError("normalize divides by the kernel's sum, and this one sums to 0")
    return weights / totals


def _check_groups(groups: object, weights: np.ndarray) -> int:
    number = check_whole(groups, "groups")
    if number > 1 and weights.ndim != 4:
        raise ConvolutionError(
            f"groups go with weights (M, bands per group, kh, kw); got shape {weights.shape}"
        )
    if weights.ndim == 4 and weights.shape[0] % number:
        raise ConvolutionError(
            f"{weights.shape[0]} outputs cannot be split into {short_repr(number)} groups: "
            "the first size of the weights must be a multiple of groups"
        )
    return number


def _check_bias(bias: ArrayLike | None, weights: np.ndarray) -> np.ndarray | None:
    if bias is None:
        return None
    if weights.ndim != 4:
        raise ConvolutionError(
            f"bias goes with weights (M, bands per group, kh, kw); got shape {weights.shape}"
        )
    if _is_masked(bias):
        raise ConvolutionError("bias is a masked array; where there is to be none: bias.filled(0)")
    array = check_array(bias, "bias")
    if array.dtype.kind not in "biuf" or array.shape != (weights.shape[0],):
        raise ConvolutionError(
            f"bias must be {weights.shape[0]} numbers, one per output; "
            f"got shape {array.shape} of {array.dtype}"
        )
    if not np.isfinite(array).all():
        raise ConvolutionError("bias must be finite")
    array = array.astype(np.float64)
    array.setflags(write=False)
    return array


def _is_masked(array: object) -> bool:
    """Say whether an array has masked elements."""
    return issubclass(type(array), np.ma.MaskedArray) and np.ma.is_masked(array)
