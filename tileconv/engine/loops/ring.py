"""Which input rows a ring of packed rows, or of their sums, takes next."""

import numpy as np

from tileconv.engine.jit import loop
from tileconv.engine.micro.tile_rows import input_row


@loop
def list_rows(workspace, first, image, sampling, x, window, span):  # type: ignore[no-untyped-def]
    """Write the addresses of the rows of a class that lie in ``span``, and return how many."""
    source, (bands, _, _), strides = image
    stride_y, stride_x, _, row_dilation, row_stride, overlap = sampling
    c, height = window
    count = 0
    for number in range(span[0], span[1]):
        row = c * stride_y + input_row(number, row_stride, height, overlap) * row_dilation
        place = source + np.uintp(row * strides[1] + x * stride_x * strides[2])
        for band in range(bands):
            workspace[first + count] = np.intp(place) + band * strides[0]
            count += 1
    return count
