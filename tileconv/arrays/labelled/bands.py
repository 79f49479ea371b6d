"""Names, units, scales and offsets: what attributes say of bands and their numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from tileconv.arrays.labelled.missing import CF
from tileconv.propagation import Origin, common, says_file, says_numbers, scale_of_sums

NAMES = ("long_name", "descriptions", "band_names", "band_descriptions")
"""Attributes that hold a name of each band; a text is the whole array's."""
OF_BANDS = ("units", "band_tags")
"""Other attributes that may hold something of each band."""
NOTHING: dict[str, Any] = {"units": "", "band_tags": {}}
"""What they hold where bands have nothing in common."""
OF_LABELS = {
    "units",
    "calendar",
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "valid_min",
    "valid_max",
    "valid_range",
}
"""Attributes that say how to read numbers, and nothing of words."""
SCALES = ("scale_factor", "add_offset", "scales", "offsets")


@dataclass(frozen=True)
class Bands:
    """The bands of an array, and how those of its output come from them."""

    dim: Hashable | None
    """The dimension along which they lie; None for a plane."""
    count: int
    alike: bool
    """Each output band comes from the input band of the same place, and from no other."""
    origins: Callable[[Sequence[str | None]], tuple[Origin, ...]]
    """Those of the output's bands, from names of the input's."""
    skips: bool
    """Missing pixels count as the stored value 0."""
    listed: bool = True
    """Attributes with a value of each band are about these, not about another dimension."""

    def names(self, given: Sequence[str | None]) -> list[str | None]:
        """Return the names of the output's bands."""
        return [origin.description for origin in self.origins(given)]

    @cached_property
    def outputs(self) -> tuple[Origin, ...]:
        """Where each output band comes from."""
        return self.origins([None] * self.count)

    @cached_property
    def sources(self) -> list[int] | None:
        """The one input band of each output band; None where bands are summed."""
        sums = [list(origin.sums) for origin in self.outputs]
        return [each[0] for each in sums] if all(len(each) == 1 for each in sums) else None


def label_bands(name: Hashable, labels: xr.Variable, bands: Bands) -> xr.Variable | None:
    """Return the labels along the dimension of the bands.

    Those of banks are ``kernel 1:red``; sums are counted where bands were, and those of one
    band each keep its label.
    """
    values = labels.values
    if not _sums_bands(bands):
        named = bands.names([_readable(value) for value in values])
        words = {key: said for key, said in labels.attrs.items() if key not in OF_LABELS}
        return xr.Variable((name,), named, words)
    if values.dtype.kind in "iu" and np.array_equal(values, np.arange(1, bands.count + 1)):
        made = np.arange(1, len(bands.outputs) + 1, dtype=values.dtype)
        return xr.Variable((name,), made, labels.attrs)
    if bands.sources is not None and len(set(bands.sources)) == len(bands.sources):
        return labels.isel({name: bands.sources})
    return None


def select_bands(variable: xr.Variable, bands: Bands) -> xr.Variable | None:
    """Return what is said of each input band for each output band; None where bands are summed."""
    sources = bands.sources
    return None if sources is None else variable.isel({bands.dim: sources})


def _sums_bands(bands: Bands) -> bool:
    """Say whether names of the output's bands tell nothing of the input's."""
    return bands.names(["a"] * bands.count) == bands.names(["b"] * bands.count)


def _readable(value: Any) -> str:
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, unit="auto"))
    return str(value)


def follow_bands(attrs: dict[Hashable, Any], bands: Bands, dropped: list[str]) -> None:
    """Map names, units and tags of bands, in place."""
    if bands.alike or not bands.listed:
        return
    for key in [key for key in (*NAMES, *OF_BANDS) if _is_of_bands(attrs.get(key), bands, key)]:
        given = attrs[key]
        if key in NAMES:
            said = [given] if isinstance(given, str) else list(given)
            made = bands.names([None if each is None else str(each) for each in said])
        else:
            made = _selected(list(given), bands)
            if any(
                origin.sums and each is None
                for origin, each in zip(bands.outputs, made, strict=True)
            ):
                dropped.append(key)
        if all(each is None for each in made):
            del attrs[key]
            continue
        made = [NOTHING[key] if each is None and key in NOTHING else each for each in made]
        single = len(made) == 1 and key in ("long_name", "units")
        attrs[key] = made[0] if single else _like(given, made)


def _is_of_bands(value: Any, bands: Bands, key: str) -> bool:
    """Say whether an attribute holds one value of each band.

    rioxarray gives the name of a single band as a text.
    """
    if isinstance(value, str):
        return key == "long_name" and bands.dim == "band" and bands.count == 1
    many = isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1)
    return many and len(value) == bands.count


def _selected(given: list[Any], bands: Bands) -> list[Any]:
    """Return what each output band's sources have in common, None where it is nothing."""
    return [common([given[band] for band in origin.sums]) for origin in bands.outputs]


def _like(given: Any, made: list[Any]) -> Any:
    if isinstance(given, list):
        return made
    return np.asarray(made) if isinstance(given, np.ndarray) else tuple(made)


def follow_scales(attrs: dict[Hashable, Any], bands: Bands, notes: list[str]) -> None:
    """Map scale and offset of stored numbers, in place; decoded arrays have none."""
    said = [key for key in SCALES if key in attrs]
    if not said:
        return
    scales = _of_each(attrs, "scales", "scale_factor", 1.0, bands)
    offsets = _of_each(attrs, "offsets", "add_offset", 0.0, bands)
    made: list[tuple[float, float] | None] = [None]
    if scales is not None and offsets is not None:
        made = [
            scale_of_sums(origin, scales, offsets, skips=bands.skips) if origin.sums else (1.0, 0.0)
            for origin in bands.outputs
        ]
    if None in made:
        notes.append(
            f"{', '.join(said)}: dropped where sums of stored values have none; decode first, "
            "as xarray.decode_cf does"
        )
    kept = [(1.0, 0.0) if each is None else each for each in made]
    old: dict[Hashable, Any] = {key: attrs.pop(key) for key in said}
    if all(each is None for each in made):
        return
    _say(attrs, old, ("scales", "scale_factor"), [scale for scale, _ in kept], 1.0)
    _say(attrs, old, ("offsets", "add_offset"), [offset for _, offset in kept], 0.0)


def _of_each(
    attrs: dict[Hashable, Any], many: str, one: str, usual: float, bands: Bands
) -> list[float] | None:
    """Return the scale or offset of each band; None if they cannot be read."""
    value = attrs.get(many, attrs.get(one, usual))
    try:
        numbers = [float(number) for number in np.ravel(np.asarray(value)).tolist()]
        if len(numbers) > 1 and not bands.listed:
            return None
    except (TypeError, ValueError):
        return None
    if len(numbers) == 1:
        numbers *= bands.count
    return numbers if len(numbers) == bands.count else None


def _say(
    attrs: dict[Hashable, Any],
    old: dict[Hashable, Any],
    names: tuple[str, str],
    numbers: list[float],
    usual: float,
) -> None:
    """Write one number of all bands, or one of each, as rioxarray has them."""
    many, one = names
    if common(numbers) is None:
        attrs[many] = tuple(numbers)
    elif one in old or many in old or numbers[0] != usual:
        given = old.get(one)
        dtype = getattr(given, "dtype", np.dtype(object))
        if dtype.kind == "f":  # decoding gives the dtype of the scale
            attrs[one] = dtype.type(numbers[0])
        else:
            attrs[one] = given if _number_of(given) == numbers[0] else numbers[0]


def _number_of(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | np.number) else None


def drop_untrue(attrs: dict[Hashable, Any], dropped: list[str]) -> None:
    """Drop what says something of the input's numbers or file, in place.

    Scale, offset and nodata are given again by those who know them.
    """
    for key in [key for key in attrs if isinstance(key, str) and key not in (*SCALES, *CF)]:
        if says_numbers(key):
            dropped.append(key)
            del attrs[key]
        elif says_file(key):
            del attrs[key]
