"""What is true of an output of what is said of its input: one set of rules for files and arrays.

Nothing here knows a file, an xarray object or an operator. Whatever holds positions in
pixels is mapped by `Geometry`; what is said of a band follows from the bands that an output
comes from (`Origin`); what says something of the input's numbers or file is left behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tileconv.geometry import Geometry

Value = TypeVar("Value")

CF_NUMBERS = (
    "_FillValue",
    "missing_value",
    "scale_factor",
    "add_offset",
    "valid_min",
    "valid_max",
    "valid_range",
    "actual_range",
    "flag_values",
    "flag_masks",
    "flag_meanings",
    "_Unsigned",
)
"""CF's words for how numbers are stored, between which they lie, and what codes mean."""

_OF_THE_NUMBERS = ("STATISTICS_", "TIFFTAG_MINSAMPLEVALUE", "TIFFTAG_MAXSAMPLEVALUE", *CF_NUMBERS)
_OF_THE_FILE = (
    "TIFFTAG_SOFTWARE",  # names what made the file: now tileconv
    "OVR_RESAMPLING_ALG",
    "METADATATYPE",  # GDAL's own, for files that come with others
    "NODATA_VALUES",  # of all bands together: GDAL looks at it before nodata
)

POINTS_OF_AREAS = (
    "AREA_OR_POINT is Area in the output: GDAL moves ground control points of a raster of points "
    "by a pixel"
)

_EXTENTS = {
    "bbox",
    "proj:bbox",
    "spatial:bbox",
    # GDAL's, in older netCDF files
    "northernmost_northing",
    "southernmost_northing",
    "easternmost_easting",
    "westernmost_easting",
    # of ocean colour and sea surface temperature
    "northernmost_latitude",
    "southernmost_latitude",
    "easternmost_longitude",
    "westernmost_longitude",
    "latitude_step",
    "longitude_step",
    "number_of_lines",
    "number_of_columns",
    "data_minimum",
    "data_maximum",
    # of WRF
    "dx",
    "dy",
    "west-east_grid_dimension",
    "south-north_grid_dimension",
    # of ESRI's grids
    "cellsize",
    "ncols",
    "nrows",
    "xllcorner",
    "yllcorner",
    "xllcenter",
    "yllcenter",
    "pixel_size",
    "pixel_spacing",
    "spatial_resolution",
    "nominal_resolution",
    "latitude_resolution",
    "longitude_resolution",
    "cell_measures",  # names areas of the input's cells
}
"""Words, in small letters, that tell sizes and extents in ways that are not recomputed."""
_EXTENTS_BEGIN = (
    "geospatial_lat_",
    "geospatial_lon_",
    "geospatial_bounds",
    "geospatial_westbound_",
    "geospatial_eastbound_",
    "geospatial_northbound_",
    "geospatial_southbound_",
)
_NO_EXTENTS_END = ("_units", "_crs")
"""Ends of names that begin like these and say nothing of the extent."""

_LAYOUTS = re.compile(r'\s*\{.*"shape"|ImageJ=|<\?xml|<OME\b|SCANIMAGE|Aperio ', re.DOTALL)
"""Beginnings of TIFF's image description by which microscopy software tells sizes and axes."""
_BARE_LAYOUT = re.compile(r'\{"shape": \[[0-9, ]*\](, "axes": "\w*")?\}')
"""What tifffile writes where nobody says anything."""


@dataclass(frozen=True)
class Origin:
    """Where an output band comes from."""

    description: str | None
    sums: Mapping[int, float] = field(default_factory=dict)
    """Position of each input band that has weights, and the sum of these."""
    alone: bool = False
    """No other output comes from this input band."""


def says_numbers(name: str) -> bool:
    """Say whether a tag or attribute tells something of the input's numbers.

    >>> says_numbers("STATISTICS_MEAN"), says_numbers("units")
    (True, False)
    >>> says_numbers("height#valid_range")  # GDAL's name of an attribute of netCDF
    True
    """
    return name.rpartition("#")[2].startswith(_OF_THE_NUMBERS)


def says_extent(name: str) -> bool:
    """Say whether a tag or attribute tells how large the input is, or from where to where it goes.

    >>> says_extent("geospatial_lat_min"), says_extent("geospatial_lat_units")
    (True, False)
    """
    said = name.rpartition("#")[2].lower()
    begins = said.startswith(_EXTENTS_BEGIN) and not said.endswith(_NO_EXTENTS_END)
    return begins or said in _EXTENTS


def says_file(name: str) -> bool:
    """Say whether a tag or attribute tells something of the input's file."""
    return name.startswith(_OF_THE_FILE)


def common(values: Sequence[Value]) -> Value | None:
    """Return what all ``values`` are, or None if they differ.

    >>> common(["m", "m"]), common(["m", "K"])
    ('m', None)
    """
    return values[0] if values and all(value == values[0] for value in values) else None


def scale_of_sums(
    origin: Origin, scales: Sequence[float], offsets: Sequence[float], *, skips: bool
) -> tuple[float, float] | None:
    """Return scale and offset of sums of stored values, or None where they have none.

    With one scale ``a`` for all bands, ``sum w (a s + b) = a (sum w s) + sum w b``.
    ``skips`` says that missing pixels count as the stored value 0, which means no 0 unless
    there is no offset.

    >>> scale_of_sums(Origin(None, {0: 0.5, 1: 0.5}), [0.1, 0.1], [1.0, 3.0], skips=False)
    (0.1, 2.0)
    """
    scale = common([scales[band] for band in origin.sums])
    if scale is None or (skips and any(offsets[band] for band in origin.sums)):
        return None
    return scale, sum(offsets[band] * total for band, total in origin.sums.items())


def rpc_offsets(rpcs: Mapping[str, Any], geometry: Geometry) -> dict[str, float]:
    """Return offset and scale of line and sample; RPCs count from the centre of the first pixel."""
    moved = {}
    for name, axis in (("line", geometry.y), ("samp", geometry.x)):
        offset = float(rpcs[f"{name}_off"])
        moved[f"{name}_off"] = axis.out_position(offset + 0.5) - 0.5
        moved[f"{name}_scale"] = float(rpcs[f"{name}_scale"]) / axis.stride
    return moved


def propagate_tiff_tags(tags: dict[Any, Any], geometry: Geometry, notes: list[str]) -> None:
    """Map TIFF's resolution, and drop descriptions of the input's layout, in place."""
    description = tags.get("TIFFTAG_IMAGEDESCRIPTION")
    if isinstance(description, str) and _LAYOUTS.match(description):
        del tags["TIFFTAG_IMAGEDESCRIPTION"]
        if not _BARE_LAYOUT.fullmatch(description):
            notes.append("TIFFTAG_IMAGEDESCRIPTION is dropped: it tells the layout of the input")
    strides = {"TIFFTAG_XRESOLUTION": geometry.x.stride, "TIFFTAG_YRESOLUTION": geometry.y.stride}
    for name, stride in strides.items():
        given = tags.pop(name, None)
        try:
            moved = float(given) / stride
        except (TypeError, ValueError):  # there is none, or a text that is no number
            continue
        tags[name] = f"{moved:.9g}" if isinstance(given, str) else moved
