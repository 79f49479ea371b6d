"""xarray in, xarray out: what an object says is true of its output, as a file's is.

objects      which variables are convolved, and what becomes of the others
coordinates  where fields have their centres, whatever a coordinate's steps are
bounds       the edges of the output's cells
grid         transforms, control points, sizes
bands        names, units, scales and offsets
missing      nodata in attributes and encodings
"""

from tileconv.arrays.labelled.objects import Labelled, convolve_labelled

__all__ = ["Labelled", "convolve_labelled"]
