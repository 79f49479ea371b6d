"""Fields of which only taps of faint weight are valid, summed once more.

Their products may lie where floats have few digits or none. So weights are counted in units of the
largest valid one, in float64, tap by tap.
"""

import numpy as np

from tileconv.engine.jit import loop
from tileconv.engine.kernel_layout import Pair
from tileconv.operators.convolution import Taps


def sum_faint_fields(
    pixels: tuple[np.ndarray, np.ndarray],
    sums: tuple[np.ndarray, np.ndarray, float],
    taps: Taps,
    sampling: tuple[Pair, Pair],
    first: int,
) -> None:
    """Replace the sums of faint fields.

    Parameters
    ----------
    pixels
        Planes and their validity plane, both (bands, H, W).
    sums
        Sums and the weights of their fields, both (rows, OW), and the weight below which a field
        is faint; those of 0 are left.
    sampling
        (stride, dilation), each (y, x).
    first
        Output row of the first row of sums.
    """
    values, weights, faint = sums
    y, x = np.nonzero((weights > 0) & (weights < faint))
    if not y.size:
        return
    stride, dilation = sampling
    tops, lefts = (y + first) * stride[0], x * stride[1]
    tap_places = np.stack([taps.band, taps.y * dilation[0], taps.x * dilation[1]]).astype(np.intp)
    found = np.empty(y.size)
    _sum_fields(*pixels, tops, lefts, tap_places, np.abs(taps.exact), found)
    values[y, x] = np.where(np.isnan(values[y, x]), np.nan, found * taps.exact.sum())


@loop
def _sum_fields(planes, valid, tops, lefts, places, weights, found):  # type: ignore[no-untyped-def]
    """Write the weighted mean of the valid pixels of each field."""
    for i in range(tops.size):
        largest = 0.0
        for t in range(weights.size):
            band, y, x = places[0, t], tops[i] + places[1, t], lefts[i] + places[2, t]
            if valid[band, y, x] and weights[t] > largest:
                largest = weights[t]
        total, weight = 0.0, 0.0
        for t in range(weights.size):
            band, y, x = places[0, t], tops[i] + places[1, t], lefts[i] + places[2, t]
            if valid[band, y, x]:
                share = weights[t] / largest
                total += share * np.float64(planes[band, y, x])
                weight += share
        found[i] = total / weight
