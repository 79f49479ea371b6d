"""Hypothesis strategies, and one seeded generator, of geometries to try."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from tileconv.geometry import Axis

MODES = ("constant", "edge", "reflect", "symmetric", "wrap", "missing")
POLICIES = ("propagate", "propagate", "skip", "fill", "renormalize")
DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)


class Case(NamedTuple):
    """An array, a kernel, one way to sample it."""

    array: np.ndarray
    kernel: np.ndarray
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    mode: str | tuple[str, str]
    value: float
    flip: bool
    nodata: float | None
    policy: str
    fill_value: float
    min_valid_fraction: float
    require_center: bool
    groups: int
    bias: np.ndarray | None
    tile: tuple[int, int]
    block: tuple[int, int]

    def options(self):
        """Keyword arguments of `tileconv.convolve`."""
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": self.pads,
            "padding_mode": self.mode,
            "padding_value": self.value,
            "flip": self.flip,
            "groups": self.groups,
            "bias": self.bias,
            "missing": self.policy,
            "fill_value": self.fill_value,
            "min_valid_fraction": self.min_valid_fraction,
            "require_center": self.require_center,
        }

    def job_keys(self):
        """Return the same for a job, with dotted keys."""
        return {
            "kernel.weights": self.kernel,
            "kernel.flip": self.flip,
            "stride": list(self.stride),
            "dilation": list(self.dilation),
            "padding": list(self.pads),
            "padding_mode": self.mode if isinstance(self.mode, str) else list(self.mode),
            "padding_value": self.value,
            "groups": self.groups,
            "bias": self.bias,
            "missing": self.policy,
            "fill_value": self.fill_value,
            "min_valid_fraction": self.min_valid_fraction,
            "require_center": self.require_center,
        }

    def reference_options(self):
        """Keyword arguments of `naive.convolve`."""
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "pads": self.pads,
            "mode": self.mode,
            "value": self.value,
            "flip": self.flip,
            "groups": self.groups,
            "bias": self.bias,
            "nodata": self.nodata,
            "policy": self.policy,
            "fill_value": self.fill_value,
            "min_valid_fraction": self.min_valid_fraction,
            "require_center": self.require_center,
        }


def random_case(seed):
    """Draw a geometry: shapes 1..97, kernels 1..17, strides 1..3k, any padding, any tiling."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 98, 2)
    kernel = np.minimum(rng.integers(1, 18, 2), rng.integers(1, 18, 2))
    dilation = rng.choice([1, 1, 1, 2, 3, 20], 2)
    stride = [int(rng.integers(1, 3 * k + 1)) for k in kernel]
    pads = rng.choice([0, 0, 1, 2, 5, 30], 4) * (rng.random() < 0.7)
    span = dilation * (kernel - 1) + 1
    for axis in (0, 1):  # a kernel that does not fit gets room
        short = span[axis] - shape[axis] - pads[axis] - pads[axis + 2]
        pads[axis] += max(0, short) * int(rng.integers(0, 2))
        pads[axis + 2] += max(0, span[axis] - shape[axis] - pads[axis] - pads[axis + 2])
    dtype = np.dtype(rng.choice(DTYPES))
    form = rng.choice(["plane", "plane", "bank", "mix"])
    bands, groups, bias = 1, 1, None
    sizes = [int(k) for k in kernel]
    if form != "plane":
        bands = int(rng.integers(1, 5))
        kernel = np.minimum(kernel, 6)
        span = dilation * (kernel - 1) + 1
        sizes = [int(rng.integers(1, 4)), *map(int, kernel)]
    if form == "mix":
        groups = int(rng.choice([g for g in range(1, bands + 1) if bands % g == 0]))
        sizes = [groups * sizes[0], bands // groups, *sizes[1:]]
        bias = rng.normal(size=sizes[0]) * 10 if rng.random() < 0.5 else None
    shape = tuple(shape) if form == "plane" else (bands, *shape)
    array = _pixels(rng, shape, dtype)
    weights = rng.normal(size=sizes)
    weights[rng.random(sizes) < rng.choice([0, 0.3, 0.9])] = 0
    policy = str(rng.choice(POLICIES))
    if policy == "renormalize":
        weights = np.abs(weights)
        weights[..., 0, 0] += 0.1
    return Case(
        array=array,
        kernel=weights,
        stride=(stride[0], stride[1]),
        dilation=tuple(int(d) for d in dilation),
        pads=tuple(int(p) for p in pads),
        mode=_modes(rng),
        value=float(rng.choice([0.0, -3.5, 1e4])),
        flip=bool(rng.integers(0, 2)),
        nodata=float(array.flat[0]) if dtype.itemsize < 8 and rng.random() < 0.4 else None,
        policy=policy,
        fill_value=float(rng.choice([0.0, 2.5, -7.0])),
        min_valid_fraction=float(rng.choice([0.0, 0.5, 0.8, 1.0])),
        require_center=bool(rng.random() < 0.2),
        groups=groups,
        bias=bias,
        tile=tuple(int(t) for t in rng.integers(1, 40, 2)),
        block=tuple(int(b) for b in rng.choice([1, 3, 16, 40, 200], 2)),
    )


def _modes(rng):
    y, x = (str(mode) for mode in rng.choice(MODES, 2))
    return (y, x) if rng.random() < 0.3 else y


def _pixels(rng, shape, dtype):
    if dtype.kind == "f":
        array = (rng.normal(size=shape) * 100).astype(dtype)
        array[rng.random(shape) < rng.choice([0, 0.01])] = np.nan
        return array
    bounds = np.iinfo(dtype)
    small = rng.random() < 0.5
    low, high = (max(bounds.min, -9), 9) if small else (bounds.min, bounds.max)
    return rng.integers(low, high, shape, dtype=dtype, endpoint=True)


cases = st.integers(0, 2**63 - 1).map(random_case)


@st.composite
def axes(draw):
    """Any valid axis, as keyword arguments of `tileconv.geometry.Axis`."""
    axis = {
        "size": draw(st.integers(1, 120)),
        "kernel": draw(st.integers(1, 17)),
        "stride": draw(st.integers(1, 60)),
        "dilation": draw(st.integers(1, 12)),
        "before": draw(st.integers(0, 40)),
        "after": draw(st.integers(0, 40)),
    }
    span = axis["dilation"] * (axis["kernel"] - 1) + 1
    axis["after"] += max(0, span - axis["size"] - axis["before"] - axis["after"])
    return axis


@st.composite
def chains(draw):
    """One to five axes, each of the size of the outputs of the one before."""
    chain = []
    size = draw(st.integers(1, 150))
    for _ in range(draw(st.integers(1, 5))):
        axis = {
            "size": size,
            "kernel": draw(st.integers(1, 5)),
            "stride": draw(st.integers(1, 7)),
            "dilation": draw(st.integers(1, 3)),
            "before": draw(st.integers(0, 9)),
            "after": draw(st.integers(0, 9)),
            "mode": draw(st.sampled_from(MODES)),
        }
        span = axis["dilation"] * (axis["kernel"] - 1) + 1
        axis["after"] += max(0, span - size - axis["before"] - axis["after"])
        chain.append(Axis(**axis))
        size = chain[-1].out_size
    return tuple(chain)
