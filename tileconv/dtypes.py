"""Dtypes: what comes in, what it is computed in, what goes out.

float32 carries every (u)int8, (u)int16, float16 and float32 input exactly;
32- and 64-bit integers and float64 are computed in float64. Asking for a
float64 output computes in float64, and so does an integer output whose sums
24 bits need not hold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from tileconv.arguments import check_dtype, short_repr
from tileconv.errors import ConvolutionError, UnsupportedError

INPUT_DTYPES = (
    "bool",
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
OUTPUT_DTYPES = INPUT_DTYPES[1:]


def check_input(dtype: DTypeLike) -> np.dtype:
    """Return ``dtype`` in native byte order if tileconv can convolve it; bool counts as uint8."""
    given = np.dtype(dtype)
    native = np.dtype(np.uint8) if given.kind == "b" else given.newbyteorder("=")
    if native.name in INPUT_DTYPES:
        return native
    if given.kind == "c":
        raise UnsupportedError(
            f"complex input ({given}) is not supported yet; convolve .real and .imag by themselves"
        )
    raise ConvolutionError(f"cannot convolve {given}; allowed are {', '.join(INPUT_DTYPES)}")


def check_output(dtype: DTypeLike) -> np.dtype:
    """Return ``dtype`` in native byte order if tileconv can return it."""
    try:
        native = check_dtype(dtype)
        if native.name in OUTPUT_DTYPES or native.newbyteorder("=").name in OUTPUT_DTYPES:
            return native.newbyteorder("=")
    except (ConvolutionError, TypeError):  # some of numpy's dtypes have no byte order
        pass
    raise ConvolutionError(
        f"output dtype must be one of {', '.join(OUTPUT_DTYPES)}; got {short_repr(dtype)}"
    )


SIGNIFICAND_BITS = 24
"""Of float32."""


def compute_dtype(source: np.dtype, target: np.dtype | None = None, taps: int = 1) -> np.dtype:
    """Return the dtype that products are added in: float32 or float64.

    Whoever asks for integers expects a mean of equal ones to be this one: they are computed in
    float64 where float32 does not hold ``taps`` times the largest input, of floats always.

    >>> compute_dtype(np.dtype("uint16"))
    dtype('float32')
    >>> compute_dtype(np.dtype("uint16"), np.dtype("float64"))
    dtype('float64')
    >>> [compute_dtype(np.dtype("uint16"), np.dtype("int16"), taps).name for taps in (256, 257)]
    ['float32', 'float64']
    """
    small = source.itemsize <= 2 or source == np.float32
    if not small or target == np.float64:
        return np.dtype(np.float64)
    if target is not None and target.kind in "iu" and not _float32_holds(source, taps):
        return np.dtype(np.float64)
    return np.dtype(np.float32)


def _float32_holds(source: np.dtype, taps: int) -> bool:
    """Say whether sums of ``taps`` values of ``source`` are whole numbers that float32 holds."""
    if source.kind == "f":
        return False
    bounds = np.iinfo(source)
    return taps * max(-int(bounds.min), int(bounds.max)) <= 1 << SIGNIFICAND_BITS


def exact_value(value: float, dtype: np.dtype, what: str) -> np.generic:
    """Return ``value`` as a scalar of ``dtype``; an error if ``dtype`` does not hold it exactly.

    A float32 or float16 takes the nearest number (-9999.1 is what people write
    for float32 nodata), an integer takes integers in its range only.
    """
    if dtype.kind == "f":
        try:
            with np.errstate(over="ignore"):
                scalar: np.generic = dtype.type(value)
        except OverflowError:  # an int with hundreds of digits
            scalar = dtype.type(np.inf)
        if np.isinf(scalar) and abs(value) != np.inf:
            raise ConvolutionError(f"{what} {short_repr(value)} is beyond the range of {dtype}")
        return scalar
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    whole = value == value and abs(value) != np.inf and int(value) == value  # noqa: PLR0124 - NaN
    if not whole or not low <= int(value) <= high:
        raise ConvolutionError(
            f"{what} {short_repr(value)} is not a value of {dtype}: a whole number in {low}..{high}"
        )
    return dtype.type(int(value))


@dataclass(frozen=True)
class Numbers:
    """How the numbers of a raster come in and go out."""

    source: np.dtype
    """Input dtype, native byte order."""
    compute: np.dtype
    """Of outputs before they are rounded to the target."""
    target: np.dtype
    """Output dtype."""
    nodata: np.generic | None = None
    """Input pixels that equal this are missing; a scalar of ``source``."""
    fill: np.generic | None = None
    """What missing outputs hold, a scalar of ``target``; None for integers without nodata."""

    @property
    def widened(self) -> bool:
        """Float32 would do for the input, but not for sums of it that are to be whole numbers."""
        wide = self.compute == np.float64 and compute_dtype(self.source) != np.float64
        return self.target.kind in "iu" and wide

    @property
    def keeps_nan(self) -> bool:
        """Missing outputs hold the NaN that their sums are."""
        return self.fill is not None and bool(np.isnan(self.fill))

    @classmethod
    def of(
        cls,
        source: DTypeLike,
        target: DTypeLike | None = None,
        *,
        nodata: float | None = None,
        fill: float | None = None,
        taps: int = 1,
    ) -> "Numbers":
        """Check dtypes and values; target defaults to the compute dtype, a float's fill to NaN.

        ``taps`` are those of an output, see `compute_dtype`.
        """
        given = check_input(source)
        wanted = compute_dtype(given) if target is None else check_output(target)
        if fill is None and wanted.kind == "f":
            fill = np.nan
        return cls(
            source=given,
            compute=compute_dtype(given, wanted, taps),
            target=wanted,
            nodata=None if nodata is None else exact_value(nodata, given, "nodata"),
            fill=None if fill is None else exact_value(fill, wanted, "output nodata"),
        )
