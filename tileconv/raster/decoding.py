"""From stored values to pixels: which bands are read, what hides a pixel, scale and offset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from tileconv import buffers
from tileconv.dtypes import exact_value
from tileconv.errors import InputError
from tileconv.raster.remote import Remote
from tileconv.raster.store import Pixels

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

    from tileconv.raster.dataset_spec import DatasetSpec
    from tileconv.raster.remote import Place

Nodata = float | int | None
Mask = Literal["dataset", "bands"]
"""A mask of the whole dataset, or one for each band."""
Flags = Sequence[Sequence[MaskFlags]]
"""What GDAL says of the mask of each band."""

NEARLY = 1 - 1e-5
"""How close to the largest number of its dtype a nodata value lies that was meant to be it."""
_EXACT_INTEGERS = 1 << 53
"""Beyond it a float no longer holds every integer."""


class WindowReader(Protocol):
    """Reads stored values without GDAL."""

    def window(self, window: Window, bands: Sequence[int], out: np.ndarray) -> None:
        """Read ``bands`` (1-based) of a window into ``out`` (bands, h, w), of the native dtype."""


@dataclass(frozen=True)
class Decoding:
    """How the stored values of a raster become the pixels that tiles convolve. Bands are 1-based.

    A pixel is stored as ``stored`` and handed on as ``dtype``. They differ where
    scale and offset are applied: ``stored * scale + offset`` is computed in
    float64 and rounded once, to ``dtype``; nodata is compared before, and
    becomes NaN.
    """

    bands: tuple[int, ...]
    stored: np.dtype
    """Native byte order."""
    dtype: np.dtype
    alpha: int | None = None
    """A band that hides pixels where it is 0."""
    mask: Mask | None = None
    """What else hides pixels."""
    nodata: tuple[np.generic | None, ...] = ()
    """Of each band, where it must be found while reading; else tiles compare with one value."""
    scales: tuple[tuple[float, float], ...] = ()
    """(scale, offset) of each band, where they are applied."""

    @property
    def marks(self) -> int:
        """Planes of marks that go with the pixels: none, one, or one a band."""
        if self.dtype.kind != "f" and any(value is not None for value in self.nodata):
            return len(self.bands)
        if self.mask == "bands":
            return len(self.bands)
        return 0 if self.mask is None and self.alpha is None else 1

    @property
    def plain(self) -> bool:
        """Pixels are what is stored, and nothing else than their values can mark them."""
        return not (self.masks or self.nodata or self.scales) and self.dtype == self.stored

    @property
    def masks(self) -> bool:
        """A mask or an alpha band hides pixels."""
        return self.mask is not None or self.alpha is not None

    def read(
        self,
        dataset: DatasetReader | None,
        window: Window,
        out: tuple[np.ndarray, np.ndarray | None] | None = None,
        *,
        reader: WindowReader | None = None,
    ) -> Pixels:
        """Read a window, into ``out`` (bands, marks) if given. Marks are (1 or B, h, w) or None.

        Pixels come from ``reader``, without ``dataset``, where GDAL need not read them.
        """
        read = self.read_bands
        straight = out is not None and self.alpha is None and self.dtype == self.stored
        if out is not None and straight:
            values = out[0]  # no copy of what needs no change
        else:
            values = buffers.zeros((len(read), int(window.height), int(window.width)), self.stored)
        masked: np.ndarray | None = None
        if reader is not None:
            reader.window(window, read, values)
        elif dataset is not None:
            dataset.read(indexes=list(read), window=window, out=values)
            masked = self._read_mask(dataset, window)
        if self.alpha is not None:
            values, clear = values[:-1], values[-1:] == 0
            masked = clear if masked is None else masked | clear
        if self.nodata or self.scales:
            values, masked = self._convert(values, masked)
        if out is not None:
            bands, marks = out
            if not straight:
                bands[...] = values
            if marks is not None:
                marks[...] = False if masked is None else masked
        return Pixels(values, masked, (int(window.row_off), int(window.col_off)))

    @property
    def read_bands(self) -> tuple[int, ...]:
        """Bands to read at one go: blocks that hold all bands are decoded once, alpha included."""
        return self.bands if self.alpha is None else (*self.bands, self.alpha)

    def _read_mask(self, dataset: DatasetReader, window: Window) -> np.ndarray | None:
        """Return (1 or B, h, w) booleans, True where a mask hides the pixel."""
        if self.mask is None:
            return None
        chosen = self.bands if self.mask == "bands" else self.bands[:1]
        return dataset.read_masks(list(chosen), window=window) == 0

    def _convert(
        self, values: np.ndarray, masked: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Find nodata, then apply scale and offset; plane by plane, to hold little at a time."""
        pixels = values if self.dtype == self.stored else buffers.zeros(values.shape, self.dtype)
        if self.marks > 1 or (self.marks and masked is None):
            marks = np.zeros(values.shape, bool)
            masked = marks if masked is None else np.logical_or(marks, masked, out=marks)
        for i, plane in enumerate(values):
            nodata = self.nodata[i] if self.nodata else None
            lost = None if nodata is None else plane == nodata
            if self.scales:
                scale, offset = self.scales[i]
                scaled = np.multiply(plane, scale, dtype=np.float64)
                scaled += offset
                with np.errstate(over="ignore"):
                    pixels[i] = scaled
            if lost is None:
                continue
            if self.dtype.kind == "f":
                pixels[i][lost] = np.nan
            elif masked is not None:
                masked[i] |= lost
        return pixels, masked

    def parts(
        self, *, interleaved: bool
    ) -> Iterator[tuple[str, Callable[[DatasetReader, Window], object]]]:
        """Yield what a block consists of, by name, and how to decode it alone."""
        bands = self.read_bands
        for group in (bands,) if interleaved else tuple((band,) for band in bands):
            name = "all bands" if interleaved else f"band {group[0]}"
            yield name, partial(_read, group)
        if self.mask is not None:
            yield "the mask", self._read_mask


def _read(bands: tuple[int, ...], dataset: DatasetReader, window: Window) -> np.ndarray:
    return dataset.read(list(bands), window=window)


def true_colours(dataset: DatasetReader) -> tuple[ColorInterp, ...]:
    """Return what each band of a dataset is of; a palette of nothing but even greys is none.

    GDAL makes such a one up for bilevel files, and for those that say that 0 is white.
    """
    return tuple(
        ColorInterp.gray if colour == ColorInterp.palette and _is_grey(dataset, band) else colour
        for band, colour in enumerate(dataset.colorinterp, 1)
    )


def _is_grey(dataset: DatasetReader, band: int) -> bool:
    """Say whether the colours of a palette are the greys from black to white, or back."""
    if dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        return True
    try:
        colours = np.array([*dataset.colormap(band).values()], np.int64)
    except ValueError:  # there are none
        return False
    if len(colours) < 2:
        return False
    ramp = np.arange(len(colours)) * 255 // (len(colours) - 1)
    even = any((abs(colours[:, :3] - grey[:, None]) <= 1).all() for grey in (ramp, ramp[::-1]))
    return even and bool((colours[:, 3] == 255).all())


def find_mask(
    dataset: DatasetReader, bands: tuple[int, ...], every: Flags, *, gdals: bool
) -> Mask | None:
    """Return what hides pixels beside nodata and alpha; with ``gdals`` what does for GDAL.

    ``every`` are the flags of all bands of the file.
    """
    values, dtypes = dataset.nodatavals, dataset.dtypes
    flags = [every[band - 1] for band in bands]
    if gdals:
        if all(MaskFlags.all_valid in f for f in flags):
            return None
        return "dataset" if all(MaskFlags.per_dataset in f for f in flags) else "bands"
    rounded = any(_is_rounded(values[band - 1], dtypes[band - 1]) for band in bands)
    if rounded or any(MaskFlags.nodata in every[b - 1] and values[b - 1] is None for b in bands):
        return "bands"
    if any(MaskFlags.per_dataset in f and MaskFlags.alpha not in f for f in flags):
        return "dataset"
    return "bands" if any(not f for f in flags) else None


def find_nodata(
    path: Place,
    spec: DatasetSpec,
    dataset: DatasetReader,
    bands: tuple[int, ...],
    flags: Flags,
    dtype: np.dtype,
    notes: list[str],
) -> tuple[Nodata, ...]:
    """Return each band's nodata, None where there is none or ``dtype`` cannot hold it.

    GDAL never matches a value that the dtype cannot hold.
    """
    found: list[Nodata] = []
    given = dataset.nodatavals  # each look at it reads all bands
    long = dtype.kind in "iu" and dtype.itemsize == 8  # rasterio passes nodata through a double
    written = spec.nodata_texts(dataset.count) if long else (None,) * dataset.count
    for band in bands:
        value, text = given[band - 1], written[band - 1]
        if value is not None and dtype == np.float32 and _is_half(dataset, band):
            value = _in_half(value, notes)
        if value is None and text is not None and MaskFlags.nodata in flags[band - 1]:
            value = int(text) if _is_whole(text) else None  # not in range, for rasterio
        elif value is not None and long:
            value = _exact(path, dataset, value, text, dtype)
        if value is not None and dtype.kind in "iu":
            if not _holds(dtype, value):
                note = f"nodata {value:g} is not a value of {dtype}, so no pixel can equal it"
                notes.extend([note] if note not in notes else [])
                value = None
            else:
                value = int(value)
        found.append(value)
    return tuple(found)


def _is_half(dataset: DatasetReader, band: int) -> bool:
    """Say whether a band that GDAL reads as float32 is stored as float16."""
    return dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS") == "16"


def _in_half(value: float, notes: list[str]) -> float | None:
    """Return nodata as float16 has it, which is what the pixels hold; None if it has it not."""
    with np.errstate(over="ignore"):
        half = float(np.float64(value).astype(np.float16))
    if math.isinf(half) and not math.isinf(value):
        note = f"nodata {value:g} is beyond float16, so no pixel can equal it"
        notes.extend([note] if note not in notes else [])
        return None
    return half


def _is_rounded(value: float | None, dtype: str) -> bool:
    """Say whether nodata is written as the least or largest number of a dtype, with few digits.

    GDAL holds the two for equal.
    """
    if value is None or not math.isfinite(value) or dtype not in ("float32", "float64"):
        return False
    most = float(np.finfo(dtype).max)
    return NEARLY * most < abs(value) < most


def common_nodata(values: tuple[Nodata, ...]) -> tuple[bool, Nodata]:
    """Return (whether all bands have the same nodata, that nodata).

    NaN is missing anyhow, so it is as good as none.

    >>> common_nodata((0, 0)), common_nodata((0, None)), common_nodata((float("nan"), None))
    ((True, 0), (False, None), (True, nan))
    """
    told = {None if v is None or math.isnan(v) else v for v in values}
    if len(told) > 1:
        return False, None
    return True, next((v for v in values if v is not None), None)


def in_dtype(values: tuple[Nodata, ...], dtype: np.dtype) -> tuple[np.generic | None, ...]:
    """Return nodata values as scalars of the stored dtype, to compare with."""
    return tuple(
        None if v is None or math.isnan(v) else exact_value(v, dtype, "nodata") for v in values
    )


def _is_whole(text: str) -> bool:
    return text.lstrip("+-").isdigit()


def _exact(
    path: Place, dataset: DatasetReader, value: float, text: str | None, dtype: np.dtype
) -> float | int:
    """Return nodata as it is written: rasterio passes it through a double."""
    if text is not None and _is_whole(text) and float(text) == value:
        return int(text)
    # what a file beside the raster says counts; GDAL would ask a server for each that may be there
    local = not isinstance(path, Remote)
    beside = local and any(name.endswith(".aux.xml") for name in dataset.files[1:])
    if not beside and text is not None and not _says(text, value):  # GDAL takes the 1 of 1e18
        raise InputError(
            f"{path}: nodata is written as {text}, which is no exact {dtype}; "
            "correct the file, or set input.mask to none to take all pixels as valid"
        )
    if abs(value) >= _EXACT_INTEGERS:
        raise InputError(f"{path}: nodata {value!r} is too large to be exact in {dtype}")
    return value


def _holds(dtype: np.dtype, value: float | int) -> bool:
    bounds = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and bounds.min <= value <= bounds.max


def _says(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False
