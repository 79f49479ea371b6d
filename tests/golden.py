"""Golden bits: hashes of the outputs of 2,000 seeded cases, so that an engine is compared with
yesterday's and not with itself.

    python tests/golden.py               # say which cases have other bits than golden.txt
    python tests/golden.py --write       # remake golden.txt

Cases reach every loop, dtype, stride, padding mode, policy for missing pixels, layout in memory,
arrays as well as files and dask graphs. A third of them run with narrower vectors than the machine
has, in processes of their own, and have to give the same bits. Whoever changes bits on purpose
remakes the file and names the cases, or their kind, in the commit and in the changelog.

Pixels and weights come from `numpy.random.RandomState`, whose streams are frozen, by operations
that IEEE 754 rounds one way, so that any machine makes the same cases.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
STORED = HERE / "golden.txt"
SEED = 20261130
DIGITS = 12
"""Of a SHA-256, in hexadecimal."""
WIDTHS = (None, None, None, None, 32, 16)
"""Bytes of a vector, case by case; None is what the machine has."""
FEW_DTYPES = {
    **dict.fromkeys(("bool", "uint8", "int8"), "uint8"),
    **dict.fromkeys(("uint16", "int16"), "uint16"),
    **dict.fromkeys(("float16", "float32", "complex64"), "float32"),
}
"""Dtypes of pixels where vectors are narrow, float64 for all others: to compile takes the time."""

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "float32", "float64")
MODES = ("constant", "edge", "reflect", "symmetric", "wrap", "missing")
POLICIES = ("propagate", "skip", "fill", "renormalize")
STRIDES = (1, 1, 1, 2, 3, 4, 5, 8, 16, 33)


class Draw:
    """Numbers of one case."""

    def __init__(self, case):
        self.state = np.random.RandomState(SEED + case)
        self.narrow = kind_of(case)[1] is not None

    def pick(self, options):
        return options[self.state.randint(len(options))]

    def dtype(self, *options):
        chosen = self.pick(options)
        return FEW_DTYPES.get(chosen, "float64") if self.narrow else chosen

    def chance(self, share):
        return self.state.random_sample() < share

    def whole(self, low, high):
        """Return a whole number of low .. high."""
        return int(self.state.randint(low, high + 1))

    def uniform(self, low, high, shape):
        return low + (high - low) * self.state.random_sample(shape)

    def pixels(self, shape, dtype):
        """Return an array of all sorts of values; floating point ones may hold NaN."""
        dtype = np.dtype(dtype)
        if dtype.kind == "c":
            parts = (self.pixels(shape, f"f{dtype.itemsize // 2}") for _ in range(2))
            out = np.empty(shape, dtype)
            out.real, out.imag = parts
            return out
        if dtype.kind == "f":
            array = self.uniform(-100, 100, shape).astype(dtype)
            if self.chance(0.4):
                array[self.lost(shape)] = np.nan
            return array
        size = int(np.prod(shape)) * dtype.itemsize
        array = np.frombuffer(self.state.bytes(size), dtype).reshape(shape).copy()
        return array % 19 if self.chance(0.5) else array

    def lost(self, shape):
        """Return where pixels are missing: some rows hold none, some, many, or nothing else."""
        lost = self.state.random_sample(shape) < self.pick((0.002, 0.02, 0.3))
        rows = shape[-2]
        lost[..., rows // 3 : rows // 2, :] = False
        if self.chance(0.5):
            lost[..., rows // 2 : rows // 2 + 2, :] = True
        return lost

    def weights(self, shape):
        """Return a kernel that is no column times a row."""
        weights = self.uniform(-1, 1, shape)
        share = self.pick((0, 0, 0, 0.3, 0.9))
        weights[self.state.random_sample(shape) < share] = 0
        return weights

    def layout(self, array):
        """Return the same pixels, lying in memory in another way."""
        way = self.pick(("plain", "plain", "turned", "apart", "backwards", "read-only", "swapped"))
        if way == "turned":
            return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)
        if way == "apart":
            wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
            wide[..., ::2] = array
            return wide[..., ::2]
        if way == "backwards":
            return np.ascontiguousarray(array[..., ::-1, ::-1])[..., ::-1, ::-1]
        if way == "swapped":
            return array.astype(array.dtype.newbyteorder(">"))
        if way == "read-only":
            array.setflags(write=False)
        return array


def policy(draw, weights):
    """Return (weights, keyword arguments for missing pixels)."""
    chosen = draw.pick(POLICIES)
    if chosen == "renormalize":
        weights = np.abs(weights)
        weights[..., 0, 0] += 0.125
    options = {
        "missing": chosen,
        "fill_value": draw.pick((0, 7, 2.5, -3)),
        "min_valid_fraction": draw.pick((0, 0, 0.25, 0.5, 1)),
        "require_center": draw.chance(0.1),
    }
    return weights, options


def padding(draw, shape, span):
    """Return amounts that leave room for a field, a mode and a value."""
    amounts = [draw.pick((0, 1, 2, 5, 30)) if draw.chance(0.6) else 0 for _ in range(4)]
    for axis in (0, 1):
        amounts[axis] += max(0, span[axis] - shape[axis] - amounts[axis] - amounts[axis + 2])
    value = draw.pick((0, -3.5, 1e4))
    return {"padding": amounts, "padding_mode": draw.pick(MODES), "padding_value": value}


def output_dtype(draw, array):
    """Return ``dtype`` and ``nodata``: missing pixels of whole numbers, and missing outputs."""
    options = {}
    if array.dtype.kind == "c":
        return {"dtype": draw.pick((None, None, "complex64", "complex128"))}
    if draw.chance(0.4):
        options["dtype"] = draw.pick(("float64", "float32", "float16", *INTEGERS))
    if draw.chance(0.6) or options.get("dtype") in INTEGERS:
        value = array.flat[array.size // 3]
        if options.get("dtype") in INTEGERS or not np.isfinite(value):
            value = 5  # any dtype holds it
        options["nodata"] = value.item() if hasattr(value, "item") else value
    return options


def any_geometry(draw):
    """Small arrays, kernels of every form, strides below, at and above them."""
    kernel = [draw.whole(1, 17), draw.whole(1, 17)]
    dilation = [draw.pick((1, 1, 1, 2, 3, 20)) for _ in range(2)]
    form = draw.pick(("plane", "plane", "bank", "sums"))
    bands, sizes, groups, bias = 1, kernel, 1, None
    if form != "plane":
        kernel = [min(k, 6) for k in kernel]
        bands = draw.whole(1, 4)
        sizes = [draw.whole(1, 5), *kernel]
    if form == "sums":
        groups = draw.pick([g for g in range(1, bands + 1) if bands % g == 0])
        sizes = [groups * sizes[0], bands // groups, *kernel]
        bias = draw.uniform(-10, 10, sizes[0]) if draw.chance(0.5) else None
    shape = (draw.whole(1, 97), draw.whole(1, 97))
    dtype = draw.dtype(*INTEGERS, *FLOATS, "bool", "complex64", "complex128")
    if dtype == "bool":
        array = draw.state.random_sample((bands, *shape)) < 0.5
    else:
        array = draw.pixels((bands, *shape), dtype)
    weights = draw.weights(sizes)
    if form == "plane" and draw.chance(0.3):
        weights = np.outer(draw.uniform(-1, 1, kernel[0]), draw.uniform(-1, 1, kernel[1]))
    weights, options = policy(draw, weights)
    options |= padding(
        draw, shape, [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    )
    options |= output_dtype(draw, array) if dtype != "bool" else {}
    options |= {
        "stride": [draw.whole(1, 3 * k + 1) for k in kernel],
        "dilation": dilation,
        "groups": groups,
        "bias": bias,
        "flip": draw.chance(0.3),
    }
    return convolved(draw.layout(array if form != "plane" else array[0]), weights, options)


KERNELS = ("3x3", "5x5", "7x7", "4x7", "11x9", "2x2", "1x9", "holes", "rank one", "whole", "bank")


def wide_rows(draw):
    """Rows of many vectors: each block of sums, each way to deal pixels out, some missing."""
    name = draw.pick(KERNELS)
    if name == "rank one":
        kh, kw = draw.pick(((7, 6), (15, 15), (31, 5), (9, 33)))
        weights = np.outer(draw.uniform(0.125, 1, kh), draw.uniform(-1, 1, kw))
    elif name == "whole":  # whole numbers, whose sums are exact
        weights = np.outer(np.arange(1, 8), np.arange(-3, 4)).astype(float)
    elif name == "holes":
        weights = draw.uniform(0.125, 1, (6, 7))
        weights[draw.state.random_sample((6, 7)) < 0.5] = 0
        weights[0, 0] = 1
    elif name == "bank":
        weights = draw.uniform(-1, 1, (draw.pick((2, 3, 4, 5, 9)), 3, 5))
    else:
        weights = draw.uniform(-1, 1, tuple(map(int, name.split("x"))))
    weights, options = policy(draw, weights)
    stride = draw.pick(STRIDES)
    options["stride"] = stride if draw.chance(0.8) else [stride, draw.pick(STRIDES)]
    options["dilation"] = draw.pick((1, 1, 1, 2, (2, 1), 3))
    array = draw.pixels((70, draw.pick((300, 901))), draw.dtype(*INTEGERS, *FLOATS))
    if array.dtype.kind in "iu" and draw.chance(0.6):
        array[draw.lost(array.shape)] = 3
        options["nodata"] = 3
    if draw.chance(0.3):
        options["padding"] = draw.pick(("same", "same_lower", 3))
        options["padding_mode"] = draw.pick(MODES)
    if draw.chance(0.2):
        options["dtype"] = draw.pick(("float64", "int16", "uint8"))
        options.setdefault("nodata", 5)
    options["threads"] = draw.pick((1, 2, 3))
    return convolved(draw.layout(array), weights, options)


def patches(draw):
    """Banks whose fields share no pixel: matrix products, few kernels and many, dense and not."""
    side, bands = draw.pick(((2, 1), (4, 3), (8, 3), (3, 4), (6, 2)))
    kernels = draw.pick((2, 5, 16, 64, 100))
    weights = draw.uniform(-1, 1, (kernels, bands, side, side))
    if draw.chance(0.2):
        weights[draw.state.random_sample(weights.shape) < 0.5] = 0
    dtype = draw.dtype("uint8", "uint16", "int32", "float32", "float64")
    array = draw.pixels((bands, 50, draw.pick((60, 403))), dtype)
    stride = side + draw.pick((0, 0, 1, 7))
    options = {"stride": stride, "missing": draw.pick(("propagate", "skip"))}
    return convolved(draw.layout(array), weights, options)


def large_results(draw):
    """Results that are written past the caches, by several threads."""
    stride = draw.pick((1, 1, 2, (1, 4)))
    weights = draw.pick((draw.uniform(0.125, 1, (3, 3)), draw.uniform(0.125, 1, (2, 5)), [[0.5]]))
    if draw.chance(0.3):
        weights = np.outer(draw.uniform(0.125, 1, 9), draw.uniform(0.125, 1, 7))
    across = 1300 * (stride if isinstance(stride, int) else stride[1])
    array = draw.pixels((1000, across), draw.dtype("uint8", "uint16", "int16", "float32"))
    weights, options = policy(draw, np.asarray(weights))
    options |= {"stride": stride, "threads": draw.pick((1, 2, 5))}
    if array.dtype.kind in "iu" and draw.chance(0.5):
        options["nodata"] = 3
    return convolved(array, weights, options)


def lazily(draw):
    """Dask arrays in ragged chunks."""
    import dask.array as da

    shape = (draw.whole(20, 90), draw.whole(20, 90))
    array = draw.pixels(shape, draw.dtype(*INTEGERS, *FLOATS))
    weights, options = policy(draw, draw.weights([draw.whole(1, 9), draw.whole(1, 9)]))
    options |= padding(draw, shape, weights.shape)
    options |= {"stride": draw.pick(STRIDES)} | output_dtype(draw, array)
    chunks = []
    for size in shape:
        cuts = sorted({0, size, draw.whole(1, size), draw.whole(1, size)})
        chunks.append(tuple(b - a for a, b in itertools.pairwise(cuts)))
    return convolved(da.from_array(array, chunks=tuple(chunks)), weights, options)


def from_files(draw):
    """GeoTIFFs: nodata of each band, masks, alpha, scale and offset, the valid share as a band."""
    import rasterio

    import tileconv

    dtype = draw.dtype(*INTEGERS, "float32", "float64")
    bands = draw.whole(1, 3)
    shape = (draw.whole(20, 150), draw.whole(20, 150))
    array = draw.pixels((bands, *shape), dtype)
    profile = {"tiled": True, "blockxsize": 32, "blockysize": 16, "photometric": "MINISBLACK"}
    if draw.chance(0.6):
        profile["nodata"] = draw.pick((0, 7))
    weights, options = policy(draw, draw.weights([draw.whole(1, 7), draw.whole(1, 7)]))
    options |= padding(draw, shape, weights.shape)
    options["stride"] = draw.pick(STRIDES)
    job = {
        "kernel": {"weights": weights.tolist()},
        "input": {"scaled": draw.chance(0.3)},
        "output": {"compress": "none", "blocksize": 16, "valid_fraction": draw.chance(0.3)},
        "compute": {"workers": 2, "tile": [draw.pick((16, 48)), draw.pick((16, 64))]},
        **options,
    }
    if draw.chance(0.4) and not job["output"]["valid_fraction"]:
        job["output"] |= {"dtype": draw.pick(INTEGERS), "nodata": 5}
    mask = draw.lost(shape) if draw.chance(0.4) else None
    scales = draw.chance(0.5)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        job["input"]["path"], job["output"]["path"] = f"{folder}/in.tif", f"{folder}/out.tif"
        raster = {"count": bands, "height": shape[0], "width": shape[1], "dtype": dtype}
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(f"{folder}/in.tif", "w", driver="GTiff", **raster, **profile) as out,
        ):
            out.write(array)
            if scales:
                out.scales, out.offsets = (0.125,) * bands, (-2.5,) * bands
            if mask is not None:
                out.write_mask(~mask)
        try:
            tileconv.run(tileconv.load_job(job))
        except tileconv.TileconvError as error:
            return digest(type(error).__name__)
        with rasterio.open(f"{folder}/out.tif") as out:
            return digest(out.read(), str(out.nodata))


KINDS = (
    *(any_geometry,) * 9,
    *(wide_rows,) * 6,
    *(from_files,) * 2,
    patches,
    lazily,
    large_results,
)
"""Kinds of cases, in turn: of each 120, one of each kind and width."""
COUNT = 2000


def convolved(array, weights, options):
    """Return the digest of what `tileconv.convolve` gives, or of the error that it raises."""
    import tileconv

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return digest(np.asarray(tileconv.convolve(array, weights, **options)))
    except tileconv.TileconvError as error:
        return digest(type(error).__name__)


def digest(*parts):
    """Return a hash of arrays and texts; all NaN are one."""
    told = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            told.update(part.encode())
            continue
        values = np.array(part, order="C")
        if values.dtype.kind in "fc":
            floats = values.view(
                f"f{values.dtype.itemsize // (2 if values.dtype.kind == 'c' else 1)}"
            )
            floats[np.isnan(floats)] = np.nan
        told.update(f"{values.dtype.str} {values.shape} ".encode())
        told.update(values.tobytes())
    return told.hexdigest()[:DIGITS]


def kind_of(case):
    """Return what a case is of: a function, and the bytes of a vector."""
    return KINDS[case % len(KINDS)], WIDTHS[case // len(KINDS) % len(WIDTHS)]


def run_cases(cases):
    """Return the digest of each case, in this process."""
    return {case: kind_of(case)[0](Draw(case)) for case in cases}


def narrow_vectors(size):
    """Make the engine, which is not imported yet, use vectors of ``size`` bytes at the most."""
    import llvmlite.binding as llvm

    wide = {64: "avx512f", 32: "avx"}
    found = llvm.get_host_cpu_features
    told = {**found(), **{name: False for width, name in wide.items() if width > size}}
    llvm.get_host_cpu_features = lambda: told
    try:
        import tileconv.engine.vectors as lanes
    finally:
        llvm.get_host_cpu_features = found
    assert size >= lanes.VECTOR_BYTES


def start_child(cases, width, cache):
    """Start computing cases with vectors of ``width`` bytes, in a process of its own.

    Its loops are cached apart: what is cached does not know of the width.
    """
    return subprocess.Popen(
        [sys.executable, __file__, "--child", str(width), *map(str, cases)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def stored():
    """Return the golden digest of each case."""
    return dict(enumerate(STORED.read_text().split()))


def compute(cache):
    """Return the digest of every case; loops for narrow vectors are cached below ``cache``."""
    by_width = {width: [] for width in WIDTHS}
    for case in range(COUNT):
        by_width[kind_of(case)[1]].append(case)
    own = by_width.pop(None)
    children = [start_child(cases, w, Path(cache, str(w))) for w, cases in by_width.items()]
    try:
        found = run_cases(own)
        for child in children:
            told, _ = child.communicate()
            if child.returncode:
                raise RuntimeError(f"a child ended with {child.returncode}")
            found |= {int(case): bits for case, bits in json.loads(told).items()}
    finally:
        for child in children:
            child.kill()
            child.wait()
    return found


def differences(found):
    """Return a line for each case whose digest is not the golden one."""
    golden = stored()
    return [
        f"{case} {kind_of(case)[0].__name__} {kind_of(case)[1] or 'widest'}"
        for case in range(COUNT)
        if found.get(case) != golden.get(case)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="remake golden.txt")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("cases", type=int, nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        narrow_vectors(given.child)
        json.dump(run_cases(given.cases), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as cache:
        found = compute(cache)
    if given.write:
        STORED.write_text("".join(f"{found[case]}\n" for case in range(COUNT)))
        return
    sys.stdout.writelines(f"{line}\n" for line in differences(found))


if __name__ == "__main__":
    main()
