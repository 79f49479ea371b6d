"""Missing data: which pixels count as missing, and what a field that holds some of them gives.

A pixel is missing if it is NaN, equals nodata (compared in its own dtype), lies
under a mask, or lies in ``missing`` padding. A field is looked at through its
taps; zero weights are none.

propagate    missing if any pixel is
skip         missing pixels count as 0
fill         missing pixels count as ``fill_value``
renormalize  ``sum(w) * sum_valid(w x) / sum_valid(w)``: keeps the kernel's gain
"""

from typing import Literal, get_args

import numpy as np

from tileconv.arguments import check_word
from tileconv.dtypes import check_input, compute_dtype
from tileconv.errors import ConvolutionError

MissingPolicy = Literal["propagate", "skip", "fill", "renormalize"]
MISSING_POLICIES: tuple[str, ...] = get_args(MissingPolicy)

TIE = 1e-12
"""A valid fraction this little below ``min_valid_fraction`` still counts as enough."""


def filled_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype that holds all pixels of ``dtype``, and NaN, as far as sums tell them apart.

    >>> filled_dtype(np.dtype("uint16")), filled_dtype(np.dtype("float16"))
    (dtype('float32'), dtype('float16'))
    """
    if dtype.kind in "fc":
        return dtype.newbyteorder("=")
    return compute_dtype(check_input(dtype))


def fill_masked(array: np.ndarray, nodata: float | None = None) -> np.ndarray:
    """Return the pixels of a masked array as floating point, NaN where they are missing.

    Those that equal ``nodata`` in their own dtype are missing, too.

    >>> fill_masked(np.ma.array([[1, 2, 3]], mask=[[False, True, False]], dtype="uint8"), 3)
    array([[ 1., nan, nan]], dtype=float32)
    """
    values = np.asarray(array)
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    filled = values.astype(filled_dtype(values.dtype))
    filled[np.ma.getmaskarray(array)] = np.nan
    if nodata is not None:
        filled[values == values.dtype.type(nodata)] = np.nan
    return filled


def check_policy(policy: object, weights: np.ndarray) -> MissingPolicy:
    """Return ``policy`` if it has a meaning for a kernel of ``weights``."""
    word = check_word(policy, "missing", MISSING_POLICIES)
    if word == "renormalize":
        if (weights < 0).any():
            raise ConvolutionError(
                "missing: renormalize divides by the sum of the valid weights, which means nothing "
                "for a kernel with negative weights; use propagate, skip or fill"
            )
        kernels = weights.reshape(-1, weights[0].size if weights.ndim > 2 else weights.size)
        with np.errstate(over="ignore"):
            sums = kernels.sum(axis=1)
        if not np.isfinite(sums).all():
            raise ConvolutionError(
                "missing: renormalize keeps the kernel's sum, and float64 does not hold this one; "
                "use smaller weights"
            )
        if (sums == 0).any():
            raise ConvolutionError(
                "missing: renormalize keeps the kernel's sum, and this one sums to 0; "
                "use propagate, skip or fill"
            )
    return word  # type: ignore[return-value]
