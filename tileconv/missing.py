"""Missing data: which pixels count as missing, and what a field with one of them gives.

A pixel is missing if it is NaN, equals nodata (compared in its own dtype), or
lies under a mask. The one policy so far is ``propagate``: an output is missing
if any pixel under one of its taps is. Zero weights are not taps.
"""

from typing import Literal, get_args

import numpy as np

from tileconv.errors import ConvolutionError, UnsupportedError

MissingPolicy = Literal["propagate"]
MISSING_POLICIES: tuple[str, ...] = get_args(MissingPolicy)
_PLANNED = ("skip", "fill", "renormalize")


def check_policy(policy: object) -> MissingPolicy:
    """Return ``policy`` if it is one this version has."""
    if policy in MISSING_POLICIES:
        return policy  # type: ignore[return-value]
    if policy in _PLANNED:
        raise UnsupportedError(f"missing: {policy} is not supported yet; use propagate")
    raise ConvolutionError(
        f"missing must be one of {', '.join((*MISSING_POLICIES, *_PLANNED))}; got {policy!r}"
    )


def missing_pixels(pixels: np.ndarray, nodata: np.generic | None) -> np.ndarray | None:
    """Return where ``pixels`` equal ``nodata``, or None if none do.

    NaN needs no search: it travels through the sums by itself.
    """
    if nodata is None or (nodata.dtype.kind == "f" and np.isnan(nodata)):
        return None
    found = pixels == nodata
    return found if found.any() else None
