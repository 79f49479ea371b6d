"""The one frozen value that says what to compute.

A job's YAML, the command line and the array call all build a `Convolution`;
the plan prices it and a tile runs it. It is checked once, here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tileconv.errors import ConvolutionError, UnsupportedError
from tileconv.geometry import Geometry, lay_out
from tileconv.missing import MissingPolicy, check_policy
from tileconv.padding import LARGEST, Padding, PaddingMode, check_mode, check_padding

LARGEST_KERNEL = 1 << 20
"""Most weights a kernel may have (1024 x 1024)."""


@dataclass(frozen=True)
class Convolution:
    """What to compute for every plane of a raster. Pairs are (y, x).

    Build it with `Convolution.of`, which checks and normalises what people write.
    """

    weights: np.ndarray
    """(kh, kw) float64, read-only; already flipped where a true convolution was asked for."""
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    padding_mode: PaddingMode = "constant"
    padding_value: float = 0.0
    """What ``constant`` padding holds."""
    missing: MissingPolicy = "propagate"

    @classmethod
    def of(
        cls,
        kernel: ArrayLike,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "valid",
        padding_mode: str = "constant",
        padding_value: float = 0.0,
        flip: bool = False,
        normalize: bool = False,
        missing: str = "propagate",
    ) -> "Convolution":
        """Check everything and return the value; `ConvolutionError` says what does not fit.

        ``flip`` turns the kernel by 180 degrees (the mathematician's
        convolution); ``normalize`` divides it by its sum.
        """
        weights = check_weights(kernel)
        if normalize:
            with np.errstate(over="ignore", invalid="ignore"):
                total, magnitude = weights.sum(), np.abs(weights).sum()
            if not np.isfinite(magnitude):
                raise ConvolutionError(
                    "normalize divides by the kernel's sum, and this one's is beyond float64"
                )
            if not abs(total) > np.finfo(np.float64).eps * magnitude:
                raise ConvolutionError(
                    "normalize divides by the kernel's sum, and this one sums to 0"
                )
            weights = weights / total
        if flip:
            weights = weights[::-1, ::-1]
        weights = np.ascontiguousarray(weights)
        weights.setflags(write=False)
        if isinstance(padding_value, bool) or not isinstance(
            padding_value, int | float | np.integer | np.floating
        ):
            raise ConvolutionError(f"padding_value must be a number, got {padding_value!r}")
        try:
            value = float(padding_value)
        except OverflowError:
            raise ConvolutionError("padding_value is beyond the range of float64") from None
        return cls(
            weights=weights,
            stride=_pair(stride, "stride"),
            dilation=_pair(dilation, "dilation"),
            padding=check_padding(padding),
            padding_mode=check_mode(padding_mode),
            padding_value=value,
            missing=check_policy(missing),
        )

    @property
    def kernel_shape(self) -> tuple[int, int]:
        """(kh, kw)."""
        return self.weights.shape

    @cached_property
    def taps(self) -> tuple[np.ndarray, np.ndarray]:
        """(ky, kx) of the non-zero weights, row by row: the order in which products are added."""
        ky, kx = np.nonzero(self.weights)
        return ky, kx

    def weights_in(self, dtype: np.dtype) -> np.ndarray:
        """Return the non-zero weights, in the order of `taps`, as numbers of ``dtype``."""
        ky, kx = self.taps
        with np.errstate(over="ignore"):
            weights = self.weights[ky, kx].astype(dtype)
        if not np.isfinite(weights).all():
            raise ConvolutionError(
                f"a weight is beyond the range of {dtype}, the dtype of the computation; "
                "ask for dtype float64"
            )
        return weights

    def geometry(self, shape: tuple[int, int]) -> Geometry:
        """Return where the fields lie on a raster of ``shape`` (rows, columns)."""
        return lay_out(shape, self.kernel_shape, self.stride, self.dilation, self.padding)


def check_weights(kernel: ArrayLike) -> np.ndarray:
    """Return ``kernel`` as a float64 array of shape (kh, kw)."""
    try:
        array = np.asarray(kernel)
    except ValueError:
        raise ConvolutionError("the kernel's rows are not all of one length") from None
    if array.dtype.kind == "c":
        raise UnsupportedError("complex kernels are not supported yet")
    if array.dtype.kind not in "biuf":
        raise ConvolutionError(f"a kernel holds numbers, got {array.dtype}")
    if array.ndim in (3, 4):
        raise UnsupportedError(
            f"banks of kernels (here {array.ndim}-D) are not supported yet; "
            "call once per kernel of shape (kh, kw)"
        )
    if array.ndim != 2:
        raise ConvolutionError(f"a kernel is 2-D, (kh, kw); got shape {array.shape}")
    if not 1 <= array.size <= LARGEST_KERNEL:
        raise ConvolutionError(
            f"a kernel has 1 to {LARGEST_KERNEL} weights, got shape {array.shape}"
        )
    weights = array.astype(np.float64)
    if not np.isfinite(weights).all():
        ky, kx = np.argwhere(~np.isfinite(weights))[0]
        raise ConvolutionError(
            f"the kernel's weights must be finite; row {ky}, column {kx} is {weights[ky, kx]}"
        )
    return weights


def _pair(value: Any, name: str) -> tuple[int, int]:
    """Return ``value`` (n or [y, x]) as two ints from 1 to LARGEST."""
    numbers = (
        tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    )
    if len(numbers) not in (1, 2):
        raise ConvolutionError(f"{name} is n or [y, x]; got {value!r}")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise ConvolutionError(
                f"{name} must be a whole number, or two as [y, x]; got {value!r}"
            )
        if not 1 <= number <= LARGEST:
            raise ConvolutionError(f"{name} must lie in 1..{LARGEST}, got {number}")
    return int(numbers[0]), int(numbers[-1])
