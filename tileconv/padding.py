"""Padding: how many pixels are added at the raster's edges, and what they hold.

Amounts are counted per side; the names of the modes are `numpy.pad`'s. Padding
belongs to the raster's edge, never to the edge of a tile.
"""

from typing import Literal, get_args

import numpy as np

from tileconv.arguments import as_whole, as_word, members, short_repr, told
from tileconv.errors import ConvolutionError

PaddingMode = Literal["constant", "edge", "reflect", "symmetric", "wrap", "missing"]
PaddingWord = Literal["valid", "same", "same_upper", "same_lower"]
Padding = PaddingWord | tuple[int, int, int, int]
"""A word, or (top, left, bottom, right): ONNX's order."""

PADDING_MODES: tuple[str, ...] = get_args(PaddingMode)
OUTSIDE = ("constant", "missing")
"""Modes whose padding is no pixel of the raster."""
PADDING_WORDS: tuple[str, ...] = get_args(PaddingWord)

LARGEST = 2**31 - 1
"""Largest stride, dilation or padding: no raster is larger along an axis (GDAL's limit)."""

_OTHER_NAMES = {
    "zeros": "constant",
    "zero": "constant",
    "fill": "constant",
    "nearest": "edge",
    "replicate": "edge",
    "mirror": "reflect",
    "reflect_101": "reflect",
    "reflect101": "reflect",
    "grid-mirror": "symmetric",
    "grid-constant": "constant",
    "grid-wrap": "wrap",
    "circular": "wrap",
    "nan": "missing",
}
"""Words of scipy.ndimage, OpenCV, torch and TensorFlow, and ours for the same thing."""


def check_modes(modes: object) -> tuple[PaddingMode, PaddingMode]:
    """Return the modes along (y, x), which may be given as one.

    >>> check_modes("edge"), check_modes(["edge", "wrap"])
    (('edge', 'edge'), ('edge', 'wrap'))
    """
    with told("padding_mode"):
        given = members(modes)
    if given is not None and len(given) == 2:
        return _check_mode(given[0]), _check_mode(given[1])
    mode = _check_mode(modes)
    return mode, mode


def check_modes_and_value(
    modes: object, value: float
) -> tuple[tuple[PaddingMode, PaddingMode], float]:
    """Return (modes along y and x, the value of constant padding): NaN is always missing.

    >>> check_modes_and_value(["edge", "constant"], float("nan"))
    (('edge', 'missing'), 0.0)
    """
    y, x = check_modes(modes)
    if not np.isnan(value):
        return (y, x), value
    return ("missing" if y == "constant" else y, "missing" if x == "constant" else x), 0.0


def _check_mode(mode: object) -> PaddingMode:
    """Return ``mode`` if it is a padding mode; another library's word is named in ours."""
    word = as_word(mode)
    if word is not None:
        if word in PADDING_MODES:
            return word  # type: ignore[return-value]
        ours = _OTHER_NAMES.get(word.lower())
        if ours is not None:
            raise ConvolutionError(
                f"padding_mode {word!r} is another library's word; "
                f"numpy and tileconv call it {ours!r}"
            )
    raise ConvolutionError(
        f"padding_mode must be one of {', '.join(PADDING_MODES)}, or two of them as [y, x]; "
        f"got {short_repr(mode)}"
    )


def check_padding(padding: object) -> Padding:
    """Return ``padding`` as a word or as (top, left, bottom, right).

    >>> check_padding("same")
    'same'
    >>> check_padding(1)
    (1, 1, 1, 1)
    >>> check_padding([1, 2])
    (1, 2, 1, 2)
    """
    allowed = f"{', '.join(PADDING_WORDS)}, n, [y, x] or [top, left, bottom, right]"
    word = as_word(padding)
    if word is not None and word in PADDING_WORDS:
        return word  # type: ignore[return-value]
    with told("padding"):
        given = members(padding)
        amounts = [as_whole(each) for each in ((padding,) * 4 if given is None else given)]
    numbers = [amount for amount in amounts if amount is not None]
    if len(numbers) < len(amounts) or len(amounts) not in (2, 4):
        raise ConvolutionError(f"padding must be {allowed}; got {short_repr(padding)}")
    for amount in numbers:
        if not 0 <= amount <= LARGEST:
            raise ConvolutionError(
                f"a padding amount must lie in 0..{LARGEST}, got {short_repr(amount)}"
                + ("; to crop, slice the array or raster first" if amount < 0 else "")
            )
    top, left, bottom, right = numbers if len(numbers) == 4 else numbers * 2
    return top, left, bottom, right


def same_amounts(size: int, span: int, stride: int, *, lower: bool) -> tuple[int, int]:
    """Return (before, after) so that an axis gives ``ceil(size / stride)`` outputs.

    ONNX's ``auto_pad``: SAME_UPPER puts the odd pixel at the end, SAME_LOWER at
    the beginning.

    >>> same_amounts(size=5, span=3, stride=2, lower=False)
    (1, 1)
    >>> same_amounts(size=4, span=3, stride=2, lower=False)
    (0, 1)
    """
    outputs = -(-size // stride)
    total = max(0, (outputs - 1) * stride + span - size)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def source_index(positions: np.ndarray, size: int, mode: PaddingMode) -> np.ndarray:
    """Say which pixel of an axis each position reads; -1 is a pixel of constant or missing padding.

    ``positions`` are int64 and may lie anywhere outside ``0 .. size - 1``: the
    index arithmetic is `numpy.pad`'s, for amounts beyond the axis's size too.

    >>> source_index(np.arange(-3, 6), 3, "reflect").tolist()
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    >>> source_index(np.arange(-2, 5), 3, "constant").tolist()
    [-1, -1, 0, 1, 2, -1, -1]
    """
    if mode in OUTSIDE:
        return np.where((positions >= 0) & (positions < size), positions, -1)
    if mode == "edge" or size == 1:
        return np.clip(positions, 0, size - 1)
    if mode == "wrap":
        return positions % size
    if mode == "symmetric":
        folded = positions % (2 * size)
        return np.where(folded < size, folded, 2 * size - 1 - folded)
    folded = positions % (2 * size - 2)
    return np.where(folded < size, folded, 2 * size - 2 - folded)
