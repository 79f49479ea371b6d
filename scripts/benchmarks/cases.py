"""What is convolved with what: the cases, and the work that each one cannot avoid."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

import tileconv
from benchmarks.images import outputs

Pair = tuple[int, int]

SHORT = {"uint8": "u8", "uint16": "u16", "int16": "i16", "float32": "f32", "float64": "f64"}
"""dtypes in the tables."""
CACHE_LINE = 64
"""Bytes that memory hands over at the least."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    suite: str
    dtype: str
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    kind: str = "dense"
    """dense, gaussian, box"""
    bands: int = 0
    """Of the image; 0 for an array (H, W)."""
    kernels: int = 0
    """Of a bank; 0 for one kernel that is applied to each band."""
    groups: int = 1
    missing: str = "none"
    """Which pixels are: none, few (1 in 1,000, scattered), third (in patches, as clouds are)"""
    policy: str = ""
    """What is done about them; empty: pixels cannot be missing."""
    layout: str = "contiguous"
    """contiguous, columns (each second one of a wider array), transposed, interleaved (bands)"""
    side: int = 0
    """Pixels a side; 0: as the command line says."""

    @property
    def name(self) -> str:
        words = [SHORT[self.dtype]]
        if self.kernels and self.groups > 1:
            words.append(f"depthwise {self.bands}")
        elif self.kernels:
            words.append(f"{self.bands or 1}->{self.kernels}")
        elif self.bands:
            words.append(f"{self.bands} bands")
        words += [
            _times(self.kernel),
            f"s{_times(self.stride) if self.unequal else self.stride[0]}",
        ]
        if self.dilation != (1, 1):
            words.append(f"d{self.dilation[0]}")
        if self.kind != "dense":
            words.append(self.kind)
        if self.policy:
            words.append(f"{self.policy}, {self.missing} missing")
        if self.layout != "contiguous":
            words.append(self.layout)
        if self.side:
            words.append(f"on {self.side}")
        return " ".join(words)

    @property
    def unequal(self) -> bool:
        return self.stride[0] != self.stride[1]

    @property
    def compute(self) -> np.dtype:
        """The dtype of products and sums."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    @property
    def span(self) -> Pair:
        """Pixels that a field covers."""
        ky, kx = self.kernel
        return (ky - 1) * self.dilation[0] + 1, (kx - 1) * self.dilation[1] + 1

    @cached_property
    def weights(self) -> np.ndarray:
        """The kernel as one hands it to tileconv."""
        if self.kind == "gaussian":
            return tileconv.kernels.gaussian(self.kernel, max(self.kernel) / 6)
        if self.kind == "box":
            return tileconv.kernels.box(self.kernel)
        shape: tuple[int, ...] = self.kernel
        if self.kernels and self.bands:
            shape = (self.kernels, self.bands // self.groups, *shape)
        elif self.kernels:
            shape = (self.kernels, *shape)
        weights = np.random.default_rng(shape).normal(size=shape).astype(self.compute)
        return np.abs(weights) if self.policy else weights  # some policies divide by their sum

    def out_shape(self, shape: tuple[int, ...]) -> Pair:
        """Rows and columns of the output for an image (..., H, W)."""
        rows, columns = (
            outputs(n, span, stride)
            for n, span, stride in zip(shape[-2:], self.span, self.stride, strict=True)
        )
        return rows, columns


def _times(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"


@dataclass(frozen=True)
class Work:
    """What no algorithm can avoid."""

    read: int
    """Bytes of the cache lines that fields touch."""
    written: int
    """Bytes of the output."""
    direct: int
    """Multiply-adds, one for each tap of each output."""
    fewest: int
    """Multiply-adds of the best algorithm known for the kernel: along columns, then along rows,
    for a separable one; two additions an axis, a running sum, for a box."""


def work(case: Case, shape: tuple[int, ...]) -> Work:
    """Count what ``case`` has to do on an image (..., H, W)."""
    rows, columns = case.out_shape(shape)
    planes = case.bands or 1
    made = rows * columns * (case.kernels or planes)
    taps = case.kernel[0] * case.kernel[1]
    if case.kernels:
        taps *= max(1, case.bands // case.groups)
    fewest = made * taps
    if case.kind != "dense":
        ky, kx = case.kernel if case.kind == "gaussian" else (2, 2)
        used_rows, used_columns = (int(_touched(case, shape, axis).sum()) for axis in (0, 1))
        along_columns_first = rows * used_columns * ky + rows * columns * kx
        along_rows_first = used_rows * columns * kx + rows * columns * ky
        fewest = min(fewest, planes * min(along_columns_first, along_rows_first))
    return Work(
        read=planes * _touched_bytes(case, shape),
        written=made * case.compute.itemsize,
        direct=made * taps,
        fewest=fewest,
    )


def _touched(case: Case, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Rows (axis 0) or columns (1) that some field reads, as a mask."""
    size = shape[axis - 2]
    touched = np.zeros(size, bool)
    first = np.arange(outputs(size, case.span[axis], case.stride[axis])) * case.stride[axis]
    for tap in range(case.kernel[axis]):
        touched[first + tap * case.dilation[axis]] = True
    return touched


def _touched_bytes(case: Case, shape: tuple[int, ...]) -> int:
    """Bytes of the cache lines of one band that hold pixels some field reads."""
    across, along = (0, 1) if case.layout != "transposed" else (1, 0)
    lines = int(_touched(case, shape, across).sum())
    apart = {"columns": 2, "interleaved": max(case.bands, 1)}.get(case.layout, 1)
    places = np.flatnonzero(_touched(case, shape, along)) * apart * np.dtype(case.dtype).itemsize
    if case.layout == "interleaved":  # a line holds all bands: each has its share of it
        return lines * np.unique(places // CACHE_LINE).size * CACHE_LINE // apart
    return lines * np.unique(places // CACHE_LINE).size * CACHE_LINE


# the cases


def _square(suite: str, dtype: str, size: int, stride: int = 1, **more: object) -> Case:
    return Case(suite, dtype, (size, size), (stride, stride), **more)  # type: ignore[arg-type]


BANKS = (  # dtype, bands, kernels, size, stride, groups, side
    ("float32", 0, 16, 7, 1, 1, 2048),
    ("float32", 4, 64, 3, 1, 1, 2048),
    ("float32", 4, 64, 3, 4, 1, 0),
    ("float32", 3, 64, 16, 16, 1, 0),
    ("float32", 3, 768, 16, 16, 1, 0),
    ("float32", 4, 4, 3, 1, 4, 0),
    ("uint16", 4, 4, 7, 2, 4, 0),
)


def _bank(
    dtype: str, bands: int, kernels: int, size: int, stride: int, groups: int, side: int
) -> Case:
    more = {"bands": bands, "kernels": kernels, "groups": groups, "side": side}
    return _square("bank", dtype, size, stride, **more)


def readme_cases() -> list[Case]:
    """Return a cross-section that takes about ten minutes."""
    dense = {
        "float32": ((3, 1), (7, 1), (15, 1), (31, 1), (3, 2), (7, 2), (7, 4), (15, 4), (31, 8)),
        "uint16": ((3, 1), (5, 1), (7, 1), (3, 2), (7, 2), (7, 8), (15, 4), (31, 16), (3, 16)),
        "uint8": ((3, 1),),
        "float64": ((7, 1),),
    }
    cases = [
        _square("dense" if stride == 1 else "stride", dtype, size, stride)
        for dtype, some in dense.items()
        for size, stride in some
    ]
    for dtype, size, stride in (("float32", 7, 1), ("float32", 31, 1), ("uint16", 31, 8)):
        cases.append(_square("separable", dtype, size, stride, kind="gaussian"))
    for dtype, size, stride in (("uint16", 15, 1), ("float32", 8, 8)):
        cases.append(_square("box", dtype, size, stride, kind="box"))
    # the same on a larger array: what a call costs beside its loops no longer counts
    cases.append(_square("stride", "uint16", 3, 16, side=16384))
    cases.append(_square("box", "float32", 8, 8, kind="box", side=16384))
    cases.append(_square("bands", "uint16", 5, 1, bands=4, side=2048))
    cases += [_bank(*figures) for figures in BANKS[:6]]
    for dtype, policy, share in (
        ("float32", "propagate", "few"),
        ("uint16", "renormalize", "none"),
        ("uint16", "renormalize", "third"),
    ):
        cases.append(_square("missing", dtype, 5, 1, policy=policy, missing=share))
    for size, stride, kind in ((3, 1, "dense"), (7, 2, "dense"), (7, 8, "dense"), *GAPPED):
        gaps = {"policy": "renormalize", "missing": "third"}
        cases.append(_square("missing", "uint16", size, stride, kind=kind, **gaps))
    return cases


GAPPED = ((15, 1, "gaussian"), (31, 1, "gaussian"), (31, 8, "gaussian"))
"""Kernels of rank one, (size, stride, kind), for pixels some of which are missing."""


SIZES = (1, 2, 3, 5, 7, 9, 11, 15, 21, 31, 63)
STRIDES = (2, 3, 4, 8, 16, 64)


def all_cases() -> list[Case]:
    """Return every case, the short table's first; together they take about an hour."""
    cases = readme_cases()
    for dtype, size in product(SHORT, SIZES):
        cases.append(_square("dense", dtype, size))
    for dtype, size, stride in product(("float32", "uint16"), (1, 2, 3, 7, 15, 31, 63), STRIDES):
        cases.append(_square("stride", dtype, size, stride))
    for dtype, stride in product(("uint8", "int16", "float64"), (2, 4, 16)):
        cases.append(_square("stride", dtype, 7, stride))
    for dtype, kernel in product(("float32", "uint16"), ((1, 9), (9, 1), (3, 15))):
        cases += [Case("shape", dtype, kernel, (s, s)) for s in (1, 4)]
    for dtype, stride in product(("float32", "uint16"), ((1, 8), (8, 1), (2, 3))):
        cases.append(Case("shape", dtype, (7, 7), stride))
    for dilation, stride in product((2, 4), (1, 2, 3)):
        cases.append(Case("shape", "float32", (3, 3), (stride, stride), (dilation, dilation)))
        cases.append(Case("shape", "uint16", (7, 7), (stride, stride), (dilation, dilation)))
    for dtype, size, stride in product(("float32", "uint16"), (3, 7, 15, 31, 63), (1, 2, 4, 8)):
        cases.append(_square("separable", dtype, size, stride, kind="gaussian"))
    for dtype, size in product(("float32", "uint16"), (3, 4, 8, 15, 16, 31)):
        cases += [_square("box", dtype, size, s, kind="box") for s in {1, size}]
    for dtype, bands, (size, stride) in product(
        ("float32", "uint16"), (3, 4), ((3, 1), (7, 1), (3, 4), (7, 4))
    ):
        cases.append(_square("bands", dtype, size, stride, bands=bands))
    cases += [_bank(*figures) for figures in BANKS]
    for dtype, policy, share in product(
        ("float32", "uint16"),
        ("propagate", "skip", "fill", "renormalize"),
        ("none", "few", "third"),
    ):
        cases += [_square("missing", dtype, 5, s, policy=policy, missing=share) for s in (1, 4)]
    for layout, size, stride in product(("columns", "transposed"), (3, 7), (1, 4)):
        cases.append(_square("layout", "float32", size, stride, layout=layout))
        cases.append(_square("layout", "uint16", size, stride, layout=layout))
    for size, stride in ((3, 1), (7, 4)):
        cases.append(_square("layout", "uint16", size, stride, bands=4, layout="interleaved"))
    for side, (size, stride) in product((64, 256, 1024, 20000), ((3, 1), (7, 1), (7, 4))):
        cases += [
            _square("size", dtype, size, stride, side=side) for dtype in ("float32", "uint16")
        ]
    return list(dict.fromkeys(cases))
