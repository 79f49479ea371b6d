"""Padding of a tile's window, and what it hides or shows."""

import numpy as np

from tileconv import buffers
from tileconv.engine.backend import Prepared, Valid
from tileconv.planning.reads import Reads


def pad(
    prepared: Prepared,
    reads: Reads,
    planes: np.ndarray,
    given: np.ndarray | None,
    *,
    listed: bool,
) -> tuple[np.ndarray, Valid]:
    """Return (copies of planes with padding in place, which of their pixels are valid)."""
    c = prepared.convolution
    substitute = prepared.pixel_rule(planes.dtype, listed=listed).substitute
    outside = [
        (axis, mode == "missing", np.flatnonzero(read.outside))
        for axis, (mode, read) in enumerate(zip(c.padding_mode, reads, strict=True))
        if read.outside is not None
    ]
    outside.sort(key=lambda part: part[1])  # a pixel is missing if either axis says so
    around = [substitute if unseen else c.padding_value for _, unseen, _ in outside]
    floats = substitute.dtype.kind == "f" or any(value != 0 for value in around)
    dtype = prepared.numbers.compute if floats else substitute.dtype
    pixels, valid = prepared.replace(planes, given, listed=listed, dtype=dtype)
    plane = valid.plane
    if plane is None and any(unseen for _, unseen, _ in outside):
        plane = buffers.scratch("valid", pixels.shape, np.dtype(np.uint8))
        plane[...] = 1
    for (axis, unseen, places), value in zip(outside, around, strict=True):
        at = np.s_[:, places] if axis == 0 else np.s_[:, :, places]
        pixels[at] = value
        if plane is not None:
            plane[at] = not unseen
    return pixels, Valid(plane, replaced=True)
