"""No loop reads or writes outside the memory that it is given: arrays between pages that fault."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import ctypes, itertools, mmap, sys
import numpy as np
import tileconv
from tileconv.arrays import eager
from tileconv.engine import kernel_layout
from tileconv.engine.loops import (
    columns_first, direct, kernel_gemm, panel_gemm, row_stream, two_pass
)

LIBC, PAGE = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
LIBC.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
RNG = np.random.default_rng(5)
KEPT = []


def guarded(size, *, end=True):
    """Return bytes that end with a page, or begin with one; those beside them fault."""
    whole = -(-max(size, 1) // PAGE) * PAGE
    mapping = mmap.mmap(-1, whole + 2 * PAGE)
    KEPT.append(mapping)  # a mapping that is given back would be somebody else's
    every = np.frombuffer(mapping, np.uint8)
    first = every.ctypes.data
    for page in (first, first + PAGE + whole):
        assert LIBC.mprotect(page, PAGE, 0) == 0
    start = PAGE + (whole - size if end else 0)
    return every[start : start + size]


def between_pages(array, *, end):
    there = guarded(array.nbytes, end=end).view(array.dtype).reshape(array.shape)
    there[...] = array
    return there


SCRATCH = {}


def scratch(count, dtype):
    size = -(-count * dtype.itemsize // 64) * 64  # ends with a page, begins with a cache line
    if size not in SCRATCH:
        SCRATCH[size] = guarded(size)
    SCRATCH[size][:] = 255
    return np.uintp(SCRATCH[size].ctypes.data), SCRATCH[size]


for module in (columns_first, direct, kernel_gemm, panel_gemm, row_stream, two_pass):
    module.scratch = scratch
phase_offsets = kernel_layout.KernelLayout.phase_offsets
kernel_layout.KernelLayout.phase_offsets = lambda self, line: between_pages(
    phase_offsets(self, line), end=True
)
eager.result = eager.buffers.result = lambda shape, dtype: guarded(
    int(np.prod(shape)) * dtype.itemsize
).view(dtype).reshape(shape)

part, past = sys.argv[1:]
if past == "past":
    eager.STREAM_BYTES = 0


def check(array, kernel, **options):
    expected = tileconv.convolve(array.copy(), kernel, threads=1, **options)
    for end in (True, False):
        found = tileconv.convolve(between_pages(array, end=end), kernel, threads=1, **options)
        assert found.tobytes() == expected.tobytes()


if part == "dealing":
    dtypes = ["uint8", "int16", "float32", "int32", "float64"]
    for dtype, stride in itertools.product(dtypes, [2, 3, 4, 5, 7, 8, 12, 16, 17, 32, 64]):
        for taps in ([0], [0, 1, 2], [0, stride - 1, stride + 2]):
            kernel = np.zeros((1, max(taps) + 1))
            kernel[:, taps] = RNG.normal(size=len(taps))
            for outputs in (1, 7, 16, 33, 131):
                width = (outputs - 1) * stride + kernel.shape[1] + int(RNG.integers(0, stride))
                array = RNG.integers(0, 200, (2, width)).astype(dtype)
                target = "float64" if dtype == "uint8" and outputs > 16 else None
                check(array, kernel, stride=(1, stride), dtype=target)
else:
    kernels = [
        RNG.normal(size=shape)
        for shape in [(3, 3), (5, 5), (7, 7), (4, 9), (9, 4), (1, 11), (5, 3, 3), (67, 1, 6, 6)]
    ]
    kernels += [np.outer([1, 2, 3, 2, 1], [1, 3, 5, 3, 1, 2]), np.ones((8, 8))]
    for kernel, dtype in itertools.product(kernels, ["uint8", "uint16", "float32", "float64"]):
        for stride, width in ((1, 173), (1, 16), (2, 150), (6, 331), ((1, 8), 290), (9, 130)):
            array = RNG.integers(0, 200, (29, width)).astype(dtype)
            check(array, kernel, stride=stride)
            gaps = {"nodata": 7, "missing": "skip", "min_valid_fraction": 0.3}
            array[:, 40:90] = 7
            check(array, kernel, stride=stride, **gaps)
'''


@pytest.mark.skipif(sys.platform != "linux", reason="pages are locked as Linux does it")
@pytest.mark.parametrize("past", ["past", "to"])
@pytest.mark.parametrize("part", ["dealing", "all loops"])
def test_no_loop_leaves_its_memory(part, past):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", SCRIPT, part, past]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
