"""What people would use instead, each set up as well as we know how.

A peer is a function of a case and an image that returns ways to compute it, all of them worth a
try: the fastest is timed. What is prepared beforehand (weights, models, a layout that the peer
likes better) is not; conversions of the pixels are, where the peer cannot take them as they are. A
way returns planes (OH, OW), as a list or an array (..., OH, OW). OpenCV and SciPy know no stride:
they compute every output, and what was not asked for is cut away.
"""

from collections.abc import Callable, Sequence

import numba
import numpy as np

from benchmarks.cases import Case
from benchmarks.images import cut
from benchmarks.machine import INSTALLED, THREADS

if "OpenCV" in INSTALLED:
    import cv2
if "torch" in INSTALLED:
    import torch
if "onnxruntime" in INSTALLED:
    import onnx
    import onnxruntime
if "SciPy" in INSTALLED:
    from scipy import ndimage

Planes = Sequence[np.ndarray]
Way = Callable[[], Planes]
Peer = Callable[[Case, np.ndarray], list[Way]]


def dilated(weights: np.ndarray, case: Case) -> np.ndarray:
    """Return kernels with the zeros that a dilation puts between taps, for those who know none."""
    out = np.zeros((*weights.shape[:-2], *case.span), case.compute)
    out[..., :: case.dilation[0], :: case.dilation[1]] = weights
    return out


def as_planes(image: np.ndarray) -> np.ndarray:
    """Return (H, W) as (1, H, W)."""
    return image if image.ndim == 3 else image[None]


def as_bank(case: Case) -> tuple[np.ndarray, int]:
    """Return weights (M, B / groups, kh, kw) and groups: every case in torch's terms."""
    weights = case.weights.astype(case.compute)
    if weights.ndim == 4:
        return weights, case.groups
    if weights.ndim == 3:
        return weights[:, None], 1
    bands = max(case.bands, 1)
    return np.repeat(weights[None, None], bands, axis=0), bands


def mixes_bands(case: Case) -> bool:
    return bool(case.kernels and case.bands and case.groups != case.bands)


# OpenCV


def opencv(case: Case, image: np.ndarray) -> list[Way]:
    """Return filter2D, sepFilter2D, boxFilter; plane by plane, or with bands interleaved."""
    if mixes_bands(case):
        return []
    depth = cv2.CV_64F if case.compute == np.float64 else cv2.CV_32F
    planes, bank = as_planes(image), dilated(as_bank(case)[0][:, 0], case)
    pairs = [(b, m) for b in range(len(planes)) for m in range(len(bank))]
    if len(planes) > 1:
        pairs = [(b, b) for b in range(len(planes))]
    kernels = [np.ascontiguousarray(each) for each in bank]
    size, step = case.span, case.stride

    def by_plane() -> Planes:
        return [cut(_opencv(case, planes[b], depth, kernels[m]), size, step) for b, m in pairs]

    ways: list[Way] = [by_plane]
    if len(planes) > 1 and not case.kernels:
        pixels = np.ascontiguousarray(np.moveaxis(planes, 0, -1))

        def interleaved() -> Planes:
            dense = _opencv(case, pixels, depth, kernels[0])
            return [cut(dense[..., b], size, step) for b in range(len(planes))]

        ways.append(interleaved)
    if case.kind == "box" and case.kernel == case.stride and len(planes) == 1:
        ways.append(lambda: [_opencv_area(case, image)])
    return ways


def _opencv(case: Case, pixels: np.ndarray, depth: int, kernel: np.ndarray) -> np.ndarray:
    if case.kind == "gaussian":
        column, row = separated(case)
        return cv2.sepFilter2D(pixels, depth, row, column)
    if case.kind == "box":
        return cv2.boxFilter(pixels, depth, case.kernel[::-1])
    return cv2.filter2D(pixels, depth, kernel)


def _opencv_area(case: Case, image: np.ndarray) -> np.ndarray:
    """Means of blocks are what resize calls the area."""
    rows, columns = case.out_shape(image.shape)
    whole = image[: rows * case.kernel[0], : columns * case.kernel[1]].astype(
        case.compute, copy=False
    )
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)


def separated(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the column and the row whose outer product the kernel is."""
    column = case.weights.sum(axis=1)
    row = case.weights.sum(axis=0) / case.weights.sum()
    return column.astype(case.compute), row.astype(case.compute)


# torch


def torch_plain(case: Case, image: np.ndarray) -> list[Way]:
    return _torch(case, image, channels_last=False)


def torch_channels_last(case: Case, image: np.ndarray) -> list[Way]:
    return _torch(case, image, channels_last=True)


def _torch(case: Case, image: np.ndarray, *, channels_last: bool) -> list[Way]:
    """Return conv2d; bands that do not mix as groups and as a batch."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    kind = torch.float64 if case.compute == np.float64 else torch.float32
    weights, groups = as_bank(case)
    pixels = torch.from_numpy(as_planes(image))

    def way(kernels: np.ndarray, groups: int, *, batch: bool) -> Way:
        prepared = torch.from_numpy(kernels).contiguous(memory_format=layout)

        def run() -> Planes:
            with torch.inference_mode():
                given = (pixels[:, None] if batch else pixels[None]).to(kind)
                given = given.contiguous(memory_format=layout)
                out = torch.conv2d(
                    given, prepared, stride=case.stride, dilation=case.dilation, groups=groups
                )
                return out.flatten(0, 1).numpy()

        return run

    ways = [way(weights, groups, batch=False)]
    if case.bands > 1 and not case.kernels:
        ways.append(way(weights[:1], 1, batch=True))
    return ways


# onnxruntime


def onnx_runtime(case: Case, image: np.ndarray) -> list[Way]:
    """Return a model of one Conv; pixels are cast before it by numpy, or in it."""
    if case.compute == np.float64:
        return []  # it has no such convolution for a CPU
    weights, groups = as_bank(case)
    planes = as_planes(image)

    def way(session: "onnxruntime.InferenceSession", dtype: str, *, batch: bool) -> Way:
        def run() -> Planes:
            pixels = np.ascontiguousarray(planes[:, None] if batch else planes[None], dtype)
            out = session.run(None, {"pixels": pixels})[0]
            return out.reshape(-1, *out.shape[-2:])

        return run

    plain = _session(case, weights, groups, "float32")
    ways = [way(plain, "float32", batch=False)]
    if case.bands > 1 and not case.kernels:
        ways.append(way(_session(case, weights[:1], 1, "float32"), "float32", batch=True))
    if case.dtype != "float32":
        ways.append(way(_session(case, weights, groups, case.dtype), case.dtype, batch=False))
    return ways


def _session(
    case: Case, weights: np.ndarray, groups: int, dtype: str
) -> "onnxruntime.InferenceSession":
    kinds = onnx.TensorProto
    casts = dtype != "float32"
    conv = onnx.helper.make_node(
        "Conv",
        ["floats" if casts else "pixels", "weights"],
        ["sums"],
        strides=list(case.stride),
        dilations=list(case.dilation),
        group=groups,
        kernel_shape=list(case.kernel),
    )
    cast = onnx.helper.make_node("Cast", ["pixels"], ["floats"], to=kinds.FLOAT)
    graph = onnx.helper.make_graph(
        [cast, conv] if casts else [conv],
        "convolution",
        [
            onnx.helper.make_tensor_value_info(
                "pixels", onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None] * 4
            )
        ],
        [onnx.helper.make_tensor_value_info("sums", kinds.FLOAT, [None] * 4)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weights), "weights")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 3
    # Else its threads wait actively for a second after a run, and whoever comes next has one core.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


# SciPy


def scipy(case: Case, image: np.ndarray) -> list[Way]:
    """Return correlate, correlate1d along both axes, uniform_filter; it has no threads."""
    if mixes_bands(case):
        return []
    planes, bank = as_planes(image), dilated(as_bank(case)[0][:, 0], case)
    pairs = [(b, m) for b in range(len(planes)) for m in range(len(bank))]
    if len(planes) > 1:
        pairs = [(b, b) for b in range(len(planes))]

    def run() -> Planes:
        return [cut(_scipy(case, planes[b], bank[m]), case.span, case.stride) for b, m in pairs]

    return [run]


def _scipy(case: Case, plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    if case.kind == "gaussian":
        column, row = separated(case)
        along = ndimage.correlate1d(plane, column, axis=0, output=case.compute)
        return ndimage.correlate1d(along, row, axis=1)
    if case.kind == "box":
        return ndimage.uniform_filter(plane, case.kernel, output=case.compute)
    return ndimage.correlate(plane, kernel, output=case.compute)


# a loop


def plain_loop(case: Case, image: np.ndarray) -> list[Way]:
    """Return the loop that one writes by hand, the rows of outputs shared out to threads."""
    weights, groups = as_bank(case)
    planes = as_planes(image)

    def run() -> Planes:
        out = np.empty((len(weights), *case.out_shape(planes.shape)), weights.dtype)
        nested_loops(planes, weights, *case.stride, *case.dilation, groups, out)
        return out

    return [run]


@numba.njit(parallel=True, fastmath=True, cache=True)
def nested_loops(planes, weights, sy, sx, dy, dx, groups, out):
    kernels, bands, kh, kw = weights.shape
    rows = out.shape[1]
    for task in numba.prange(kernels * rows):
        m, y = task // rows, task % rows
        first = m // (kernels // groups) * bands
        for x in range(out.shape[2]):
            total = weights[0, 0, 0, 0] * 0
            for b in range(bands):
                for i in range(kh):
                    for j in range(kw):
                        pixel = planes[first + b, y * sy + i * dy, x * sx + j * dx]
                        total += weights[m, b, i, j] * weights.dtype.type(pixel)
            out[m, y, x] = total


ALL: dict[str, Peer] = {
    "OpenCV": opencv,
    "torch": torch_plain,
    "torch cl": torch_channels_last,
    "onnxruntime": onnx_runtime,
    "SciPy": scipy,
    "loop": plain_loop,
}
"""By their columns."""


def available() -> dict[str, Peer]:
    """Return the peers that are installed; the loop needs nothing."""
    return {n: p for n, p in ALL.items() if n == "loop" or n.removesuffix(" cl") in INSTALLED}


def can_compute(name: str, case: Case) -> bool:
    """Whether a peer has a notion of missing pixels like the case's; NaN spreads in OpenCV."""
    if not case.policy:
        return True
    return name == "OpenCV" and case.policy == "propagate" and case.dtype.startswith("float")
