"""Where receptive fields lie: the arithmetic of sizes, windows, coverage and transforms.

Everything is Python's own integers, one axis at a time, and knows neither
pixels nor files. Sampling is torch's and ONNX's: output ``o`` reads the inputs
``o * stride - before + dilation * j`` for ``j = 0 .. kernel - 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import gcd

from tileconv.errors import ConvolutionError
from tileconv.padding import LARGEST, Padding, PaddingMode, same_amounts

Transform = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f), as affine.Affine: x = a * col + b * row + c, y = d * col + e * row + f."""


@dataclass(frozen=True, slots=True)
class Axis:
    """How one axis of a raster is sampled."""

    size: int
    """Input pixels."""
    kernel: int
    """Taps."""
    stride: int = 1
    """Input pixels between receptive fields; larger than ``span`` leaves gaps."""
    dilation: int = 1
    """Input pixels between neighbouring taps."""
    before: int = 0
    """Padding pixels ahead of the first input pixel."""
    after: int = 0
    """Padding pixels behind the last input pixel."""
    name: str = "axis"
    """What messages call it."""
    mode: PaddingMode = "constant"
    """What padding holds."""

    def __post_init__(self) -> None:
        for field in ("size", "kernel", "stride", "dilation"):
            if not 1 <= getattr(self, field) <= LARGEST:
                raise ConvolutionError(
                    f"{self.name}: {field} must lie in 1..{LARGEST}, got {getattr(self, field)}"
                )
        if self.padded < self.span:
            raise ConvolutionError(
                f"{self.name}: a receptive field spans {self.span} pixels "
                f"(kernel {self.kernel}, dilation {self.dilation}), but there are only "
                f"{self.padded} ({self.before} + {self.size} + {self.after} with padding); "
                "use a smaller kernel or dilation, or more padding"
            )
        if self.out_size > LARGEST:
            raise ConvolutionError(
                f"{self.name}: there would be {self.out_size} outputs, and a raster has at most "
                f"{LARGEST} along an axis; use less padding"
            )

    @property
    def span(self) -> int:
        """Input pixels one receptive field covers, holes included."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        """Input pixels and padding."""
        return self.size + self.before + self.after

    @property
    def out_size(self) -> int:
        """Number of outputs.

        >>> Axis(size=23, kernel=3, stride=5).out_size
        5
        """
        return (self.padded - self.span) // self.stride + 1

    @property
    def halo(self) -> int:
        """Pixels that neighbouring fields share; negative where they leave a gap."""
        return self.span - self.stride

    @property
    def gap(self) -> int:
        """Pixels between neighbouring fields that nobody reads (0 if fields touch or overlap)."""
        return max(0, self.stride - self.span)

    def reach(self, first: int, end: int) -> tuple[int, int]:
        """Return the half-open range of positions that the outputs ``first .. end - 1`` span.

        Positions count from the first input pixel; they are negative, or beyond
        ``size``, inside the padding.

        >>> Axis(size=23, kernel=3, stride=5).reach(2, 5)
        (10, 23)
        """
        return (
            first * self.stride - self.before,
            (end - 1) * self.stride - self.before + self.span,
        )

    @property
    def uncovered(self) -> int:
        """Trailing input pixels that no field reaches.

        >>> Axis(size=23, kernel=3, stride=6).uncovered
        2
        """
        return max(0, self.size - self.reach(0, self.out_size)[1])

    @property
    def covered(self) -> int:
        """Input pixels that lie inside at least one field, holes included."""
        first, end = self.reach(0, self.out_size)
        if not self.gap:
            return max(0, min(end, self.size) - max(first, 0))
        inside_from, inside_to = self.interior
        edges = [o for o in (inside_from - 1, inside_to) if 0 <= o < self.out_size]
        total = max(0, inside_to - inside_from) * self.span
        for output in set(edges):  # a field across an edge of the raster: at most one on each side
            lo, hi = self.reach(output, output + 1)
            total += max(0, min(hi, self.size) - max(lo, 0))
        return total

    @property
    def interior(self) -> tuple[int, int]:
        """Half-open range of the outputs whose fields hold no padding (may be empty)."""
        first = -(-self.before // self.stride)
        end = (self.size + self.before - self.span) // self.stride + 1
        end = min(max(end, 0), self.out_size)
        return min(first, end), end

    @property
    def shift(self) -> float:
        """Input pixels from the raster's edge to the output's edge.

        An output pixel's centre lies on its field's centre.
        """
        return (self.span - self.stride) / 2 - self.before

    @property
    def is_unchanged(self) -> bool:
        """Outputs lie on the input's pixels, one on each."""
        return self.stride == 1 and self.shift == 0 and self.out_size == self.size

    def out_position(self, position: float) -> float:
        """Return where a place on the input lies on the output, both in pixels from the edge.

        >>> Axis(size=12, kernel=3, stride=3).out_position(4.5)
        1.5
        """
        return (position - self.shift) / self.stride


def compose(axes: Sequence[Axis]) -> Axis:
    """Return the one axis that samples as a chain of axes does, first step first.

    It has the chain's outputs, transform, fields and interior. Its taps are the
    coarsest regular grid that holds all taps of the chain. Near an edge it says
    how far fields reach, not what they read: each step pads its own input, so
    `mode` is that of the first step alone.

    >>> smooth = Axis(size=100, kernel=5, before=2, after=2)
    >>> compose([smooth, Axis(size=100, kernel=3, stride=4, before=1)])
    Axis(size=100, kernel=7, stride=4, dilation=1, before=3, after=2, name='axis', mode='constant')
    >>> compose([Axis(size=100, kernel=1, stride=6), Axis(size=17, kernel=3, dilation=2)]).dilation
    12
    """
    return reduce(_compose_two, axes)


def _compose_two(first: Axis, second: Axis) -> Axis:
    if second.size != first.out_size:
        raise ConvolutionError(
            f"{second.name}: a step has {second.size} inputs, "
            f"but the step before it gives {first.out_size} outputs"
        )
    reach = first.span - 1 + (second.span - 1) * first.stride
    # a step of one tap has no distance between taps, so its dilation does not count
    dilation = gcd(
        first.dilation if first.kernel > 1 else 0,
        second.dilation * first.stride if second.kernel > 1 else 0,
    )
    return Axis(
        size=first.size,
        kernel=reach // dilation + 1 if reach else 1,
        stride=first.stride * second.stride,
        dilation=dilation or 1,
        before=first.before + second.before * first.stride,
        after=first.after + second.after * first.stride,
        name=first.name,
        mode=first.mode,
    )


@dataclass(frozen=True, slots=True)
class Geometry:
    """Both axes of a raster."""

    y: Axis
    x: Axis

    @property
    def shape(self) -> tuple[int, int]:
        """Input (rows, columns)."""
        return self.y.size, self.x.size

    @property
    def out_shape(self) -> tuple[int, int]:
        """Output (rows, columns)."""
        return self.y.out_size, self.x.out_size

    @property
    def is_unchanged(self) -> bool:
        """Outputs lie on the input's pixels, one on each."""
        return self.y.is_unchanged and self.x.is_unchanged

    def out_transform(self, transform: Transform) -> Transform:
        """Return the transform of the output: ``A * translation(shift) * scale(stride)``.

        >>> blocks = Geometry(Axis(12, 3, stride=3), Axis(12, 3, stride=3))
        >>> blocks.out_transform((30.0, 0.0, 500.0, 0.0, -30.0, 900.0))
        (90.0, 0.0, 500.0, 0.0, -90.0, 900.0)
        """
        a, b, c, d, e, f = transform
        tx, ty = self.x.shift, self.y.shift
        sx, sy = self.x.stride, self.y.stride
        return (
            a * sx,
            b * sy,
            a * tx + b * ty + c,
            d * sx,
            e * sy,
            d * tx + e * ty + f,
        )


@lru_cache(256)
def lay_out(
    shape: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding: Padding = "valid",
    modes: tuple[PaddingMode, PaddingMode] = ("constant", "constant"),
) -> Geometry:
    """Resolve ``padding`` for a raster of ``shape`` and return both axes. Pairs are (y, x)."""
    axes = []
    for i, name in enumerate(("height", "width")):
        span = dilation[i] * (kernel[i] - 1) + 1
        if padding == "valid":
            before, after = 0, 0
        elif isinstance(padding, str):
            before, after = same_amounts(shape[i], span, stride[i], lower=padding == "same_lower")
        else:
            before, after = padding[i], padding[i + 2]
        axes.append(
            Axis(shape[i], kernel[i], stride[i], dilation[i], before, after, name, modes[i])
        )
    return Geometry(*axes)
