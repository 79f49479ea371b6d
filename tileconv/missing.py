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

from tileconv.errors import ConvolutionError

MissingPolicy = Literal["propagate", "skip", "fill", "renormalize"]
MISSING_POLICIES: tuple[str, ...] = get_args(MissingPolicy)

TIE = 1e-12
"""A valid fraction this little below ``min_valid_fraction`` still counts as enough."""


def check_policy(policy: object, weights: np.ndarray) -> MissingPolicy:
    """Return ``policy`` if it has a meaning for a kernel of ``weights``."""
    if policy not in MISSING_POLICIES:
        raise ConvolutionError(
            f"missing must be one of {', '.join(MISSING_POLICIES)}; got {policy!r}"
        )
    if policy == "renormalize":
        if (weights < 0).any():
            raise ConvolutionError(
                "missing: renormalize divides by the sum of the valid weights, which means nothing "
                "for a kernel with negative weights; use propagate, skip or fill"
            )
        sums = weights.reshape(-1, weights[0].size if weights.ndim > 2 else weights.size).sum(
            axis=1
        )
        if (sums == 0).any():
            raise ConvolutionError(
                "missing: renormalize keeps the kernel's sum, and this one sums to 0; "
                "use propagate, skip or fill"
            )
    return policy  # type: ignore[return-value]


def missing_pixels(
    pixels: np.ndarray, nodata: np.generic | None, *, nan: bool
) -> np.ndarray | None:
    """Return where ``pixels`` are missing, or None if none are.

    ``nan`` false leaves NaN to travel through the sums by itself, which is all
    that ``propagate`` asks for.
    """
    found = None
    if nodata is not None and not (nodata.dtype.kind == "f" and np.isnan(nodata)):
        found = pixels == nodata
    if nan and pixels.dtype.kind == "f":
        found = np.isnan(pixels) if found is None else found | np.isnan(pixels)
    return found if found is not None and found.any() else None


def settle_sums(
    policy: MissingPolicy,
    sums: np.ndarray,
    valid: np.ndarray,
    total: float,
    min_valid_fraction: float,
) -> np.ndarray:
    """Apply a policy to the sums of fields of which some have missing pixels.

    Parameters
    ----------
    sums
        (OH, OW) sums of products, missing pixels counted as 0 or as the fill value.
    valid
        (OH, OW) float64, the sums of ``|w|`` over valid pixels.
    total
        The sum of all ``|w|``, added in the same order, so that a whole field equals it.

    Returns
    -------
    numpy.ndarray
        Of the dtype of ``sums``, NaN where missing. Whole fields are untouched, bit for bit.
    """
    if not total:  # no taps: nothing can be missing
        return sums
    if policy == "renormalize":
        with np.errstate(divide="ignore", invalid="ignore"):
            sums = np.where(valid == total, sums, sums * (total / valid)).astype(sums.dtype)
    lost = valid < (min_valid_fraction - TIE) * total
    if policy != "fill":
        lost |= valid == 0
    return np.where(lost, sums.dtype.type(np.nan), sums)
