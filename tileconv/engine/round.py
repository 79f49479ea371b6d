"""From sums to the output's dtype: round half to even, saturate, put in nodata."""

import numpy as np

from tileconv.engine.jit import loop


@loop
def round_and_saturate(sums, low, high, smallest, largest, fill, out):  # type: ignore[no-untyped-def]
    """Write ``sums`` as integers; NaN becomes ``fill``. Return (missing, collisions).

    sums               (H, W) float
    low, high          float of the dtype of sums, the range of out
    smallest, largest  the range of out, dtype of out
    fill               what missing outputs hold, dtype of out
    out                (H, W) integer, overwritten

    Collisions are valid outputs that happen to equal ``fill``.
    """
    missing = 0
    collisions = 0
    for y in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            value = sums[y, x]
            if value != value:  # noqa: PLR0124 - NaN
                missing += 1
                out[y, x] = fill
                continue
            value = np.rint(value)
            if value >= high:
                out[y, x] = largest
            elif value <= low:
                out[y, x] = smallest
            else:
                out[y, x] = value
            if out[y, x] == fill:
                collisions += 1
    return missing, collisions
