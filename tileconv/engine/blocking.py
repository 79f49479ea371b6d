"""Blocking factors: how many rows, vectors and words the loops hold at a time.

They shape the generated code, and with it the workspace that a plan counts. So they are known
where nothing is compiled: this module imports neither numba nor llvmlite.
"""

from functools import cache
from importlib import import_module

MR = 4
"""Rows of a register tile: output rows, or kernels of a bank."""
NR = 3
"""Vectors in each row of a register tile: with MR, 12 of 16 registers, enough to keep both
multiply-add units busy in spite of their latency, and one loaded pixel serves MR sums."""
LONG_NR = 8
"""Vectors of sums in a tile of a single row."""
UPDATE_NR = (0, 8, 4, 3, 3)
"""Vectors of each row in a tile of as many rows of sums that rest in memory: 8 to 12 chains of
additions at a time, with room for their pixels in 16 registers."""
STAGED_TILES = 10
"""Tiles in a row of the staging buffer of streaming stores: a part of a first-level cache."""
OUTPUTS = 6
"""Outputs of a kernel that are summed up side by side where lanes are kernels: the rows of the
tile."""
MOST_WORDS = 4
"""Words of a field that are deinterleaved at a time; each holds a byte of pixels or more."""
UNUSED, END = -1, -2
"""In a table of phase offsets: no tap reads this phase; no tap reads any phase from here on."""


def kernel_vectors(vector_bytes: int) -> int:
    """Return the vectors of kernels in a tile: with OUTPUTS, 24 of 32 registers, or 12 of 16."""
    return 4 if vector_bytes == 64 else 2


@cache
def host_vector_bytes() -> int:
    """Return the bytes of a vector register of this machine, as numpy tells them.

    LLVM decides for the loops (`vectors.VECTOR_BYTES`), but loading it takes longer than a whole
    plan. Where numpy does not tell, the widest are assumed: a plan is then on the safe side.
    """
    try:
        features = import_module("numpy._core._multiarray_umath").__cpu_features__
    except (ImportError, AttributeError):  # numpy's own table, which it may move
        return 64
    if features.get("AVX512F"):
        return 64
    return 32 if features.get("AVX") else 16
