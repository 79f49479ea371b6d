"""Which pixels an xarray object declares missing, and what says so of its output.

CF's ``_FillValue`` and ``missing_value`` hold together; the others are believed where
neither is there, in rioxarray's order. An encoding says what stands for missing in a file:
floating-point arrays hold NaN instead, integers can only hold the value itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from tileconv.dtypes import exact_value
from tileconv.errors import ConvolutionError

CF = ("_FillValue", "missing_value")
OTHERS = ("fill_value", "nodata", "nodatavals")
"""Of rioxarray, datacube and odc-geo, and the first ``xarray.open_rasterio``; the last of bands."""


@dataclass(frozen=True)
class Missing:
    """What is missing in an array."""

    value: float | None = None
    """Pixels that equal it are missing; compared in the array's own dtype."""
    others: tuple[float, ...] = ()
    """Further values whose pixels are missing."""
    of_bands: tuple[float | None, ...] = ()
    """Each band's own value, where they differ; None: the band has none."""
    axis: int = -3
    """The axis of the bands that ``of_bands`` tells of."""
    candidates: tuple[float, ...] = ()
    """What a missing output may hold if it is an integer, best first."""

    def fill(self, target: np.dtype) -> float | None:
        """Return what missing outputs hold; None for integers that can hold none of it."""
        if target.kind in "fc":
            return float("nan")
        return next((value for value in self.candidates if holds(target, value)), None)

    def mark(self, data: Any) -> Any:
        """Return ``data`` as a masked array where one value does not say what is missing."""
        if not self.others and not self.of_bands:
            return data
        scalar = np.dtype(data.dtype).type
        masks = [data == scalar(value) for value in self.others]
        if self.of_bands:
            shape = (len(self.of_bands), *[1] * (-self.axis - 1))
            known = np.reshape([value is not None for value in self.of_bands], shape)
            values = np.asarray([value or 0 for value in self.of_bands], data.dtype).reshape(shape)
            masks.append((data == values) & known)
        mask = masks[0]
        for more in masks[1:]:
            mask = mask | more
        if isinstance(data, np.ndarray):
            return np.ma.masked_array(data, mask=mask)
        import dask.array as da  # noqa: PLC0415 - whoever has a dask array has dask

        return da.ma.masked_array(data, mask=mask)


def find_missing(
    array: xr.DataArray, given: float | None, lead: Sequence[Hashable], notes: list[str]
) -> Missing:
    """Return what the argument ``nodata`` says, or else what the array declares.

    ``lead`` are the dimensions before rows and columns.
    """
    dtype = array.dtype
    if given is not None:
        return Missing(value=given, candidates=(given,))
    encoded = [v for key in CF for v in _values(array.encoding.get(key))]
    declared, of_bands, along = _declared(array, lead, notes)
    if dtype.kind == "c":  # for which no value can be looked for while it is convolved
        odd = [key for key in CF if isinstance(array.attrs.get(key), complex | np.complexfloating)]
        if odd and not declared:
            notes.append(f"{', '.join(odd)} is no real number, so no pixel is missing for it")
        return Missing(others=tuple(dict.fromkeys(v for v in declared if not _is_nan(v))))
    candidates = tuple(dict.fromkeys(v for v in (*declared, *of_bands, *encoded) if not _is_nan(v)))
    if dtype.kind in "iub":
        declared += encoded
    texts = {
        key: value
        for key in (*CF, *OTHERS)
        if isinstance(value := array.attrs.get(key), str) and not _values(value)
    }
    if texts:
        notes.append(f"{_listed(texts)} is no number, so no pixel is missing for it")
    possible = [value for value in dict.fromkeys(declared) if holds(dtype, value)]
    impossible = [value for value in dict.fromkeys(declared) if not holds(dtype, value)]
    if impossible:
        notes.append(
            f"nodata {', '.join(map(str, impossible))} is no value of {dtype}, so no pixel is "
            "missing for it"
        )
    numbers = list(dict.fromkeys(exact_value(v, dtype, "nodata").item() for v in possible))
    numbers = [value for value in numbers if not _is_nan(value)]  # NaN is missing anyhow
    bands = tuple(v if holds(dtype, v) and not _is_nan(v) else None for v in of_bands)
    return Missing(
        value=numbers[0] if numbers else None,
        others=tuple(numbers[1:]),
        of_bands=bands if any(v is not None for v in bands) else (),
        axis=-3 if not of_bands else list(lead).index(along) - len(lead) - 2,
        candidates=candidates,
    )


def _declared(
    array: xr.DataArray, lead: Sequence[Hashable], notes: list[str]
) -> tuple[list[float], list[float], Hashable]:
    """Return what attributes declare: of the array, or of each band along a dimension."""
    along = "band" if "band" in lead else (lead[-1] if lead else None)
    declared = [v for key in CF for v in _values(array.attrs.get(key))]
    for key in OTHERS:
        found = [] if declared else _values(array.attrs.get(key))
        if key != "nodatavals" or len({repr(value) for value in found}) < 2:
            declared = declared or found
        elif along is not None and len(found) == array.sizes[along]:
            return [], found, along
        else:
            notes.append(
                f"nodatavals has {len(found)} values, and there are other bands: no pixel is "
                "missing for it"
            )
    return declared, [], along


def meant_dtype(variable: xr.Variable) -> np.dtype:
    """Return the dtype of integers that are signed or not as ``_Unsigned`` says."""
    kind = {"true": "u", "false": "i"}.get(str(variable.attrs.get("_Unsigned")).lower())
    if kind is None or variable.dtype.kind not in "iu":
        return variable.dtype
    return np.dtype(f"{kind}{variable.dtype.itemsize}")


def declare_missing(
    attrs: dict[Hashable, Any],
    encoding: dict[Hashable, Any],
    target: np.dtype,
    hole: float | None,
    bands: int,
    dropped: list[str],
) -> None:
    """Say in all places that said it what missing outputs hold, and in one if none did.

    ``hole`` is what they hold; None: integers, of which none is missing.
    """
    places = [key for key in (*CF, *OTHERS) if key in attrs]
    if hole is None:
        for key in places:
            del attrs[key]
            dropped.append(str(key))
        return
    value = (np.dtype(np.float64) if target.kind == "c" else target).type(hole)
    for key in places:
        attrs[key] = (value.item(),) * bands if key == "nodatavals" else value
    if "_FillValue" in attrs or target.kind == "c":
        return
    if target.kind == "f":
        encoding["_FillValue"] = value  # as of what xarray decodes: NaN is in the array
    else:
        attrs["_FillValue"] = value


def _values(value: Any) -> list[float]:
    """Return the numbers that an attribute declares: none, one or many, also as a text."""
    if value is None:
        return []
    try:
        found = [_number(each) for each in np.ravel(np.asarray(value)).tolist()]
    except (TypeError, ValueError, OverflowError):
        return []
    return [each for each in found if each is not None]


def _number(value: Any) -> float | None:
    if isinstance(value, complex) and value.imag == 0:
        value = value.real
    if value is None or isinstance(value, bool | complex):
        return None
    if isinstance(value, int):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


def holds(dtype: np.dtype, value: float) -> bool:
    """Say whether an array of ``dtype`` can have a pixel of that value."""
    if dtype.kind not in "biuf":
        return False
    try:
        exact_value(value, dtype, "nodata")
    except ConvolutionError:
        return False
    return True


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _listed(texts: dict[str, str]) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in texts.items())
