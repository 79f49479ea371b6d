"""What a raster's file says beside its pixels, and how it follows them into the output.

Whatever holds positions in pixels (ground control points, RPCs) is mapped by the
rule of the transform: an output pixel's centre lies on its field's centre. What
is no longer true of the output (statistics, palettes, the encoding of numbers)
is left behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.rpc import RPC
from rasterio.transform import Affine

from tileconv.raster import gdal

if TYPE_CHECKING:
    from rasterio.io import DatasetReader, DatasetWriter

    from tileconv.geometry import Geometry

Tags = Mapping[str, str]

DOMAIN = "TILECONV"
"""The domain of tileconv's own tags."""

_COLOURS = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.palette, ColorInterp.alpha)
"""Interpretations that say nothing, or nothing that is true of sums of pixels."""

_NO_LONGER_TRUE = (
    "STATISTICS_",
    "TIFFTAG_MINSAMPLEVALUE",
    "TIFFTAG_MAXSAMPLEVALUE",
    "TIFFTAG_SOFTWARE",  # names what made the file: now tileconv
    "OVR_RESAMPLING_ALG",
    "METADATATYPE",  # GDAL's own, for files that come with others
    # CF's words for how numbers are stored, and between which they lie, as rioxarray writes them
    "_FillValue",
    "missing_value",
    "scale_factor",
    "add_offset",
    "valid_min",
    "valid_max",
    "valid_range",
    "actual_range",
)
"""Beginnings of tags that describe the input's numbers or file."""

_OF_THE_FILE = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "RPC", DOMAIN)
"""Domains that GDAL derives from the file, or that are written in another way."""


@dataclass(frozen=True)
class Band:
    """What a file says of one band."""

    description: str | None = None
    unit: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    """The value that is meant is ``stored * scale + offset``."""
    colour: ColorInterp = ColorInterp.undefined
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True)
class Metadata:
    """What a file says beside pixels, transform and coordinate system."""

    bands: tuple[Band, ...] = ()
    tags: Mapping[str, Tags] = field(default_factory=dict)
    """By domain; "" is the default one."""
    gcps: tuple[GroundControlPoint, ...] = ()
    gcps_crs: CRS | None = None
    rpcs: RPC | None = None

    @classmethod
    def of(
        cls, dataset: DatasetReader, bands: Iterable[int], colours: Sequence[ColorInterp]
    ) -> Metadata:
        """Read what ``dataset`` says of the given bands (1-based); ``colours`` are of all bands."""
        gcps, gcps_crs = dataset.gcps
        domains = [name for name in dataset.tag_namespaces() if name not in ("", *_OF_THE_FILE)]
        return cls(
            bands=tuple(
                Band(
                    description=dataset.descriptions[band - 1],
                    unit=dataset.units[band - 1] or None,
                    scale=dataset.scales[band - 1],
                    offset=dataset.offsets[band - 1],
                    colour=colours[band - 1],
                    tags=dataset.tags(band),
                )
                for band in bands
            ),
            tags={"": dataset.tags()} | {name: dataset.tags(ns=name) for name in domains},
            gcps=tuple(gcps),
            gcps_crs=gcps_crs,
            rpcs=dataset.rpcs,
        )

    @property
    def is_point(self) -> bool:
        """Pixels stand for points, not for areas."""
        return self.tags.get("", {}).get("AREA_OR_POINT") == "Point"

    @property
    def scaled_bands(self) -> tuple[int, ...]:
        """Positions of the bands that have a scale or offset."""
        return tuple(i for i, b in enumerate(self.bands) if (b.scale, b.offset) != (1.0, 0.0))

    @property
    def photometric(self) -> str:
        """TIFF's photometric interpretation; without it GDAL takes three bytes for colours."""
        colours = [band.colour for band in self.bands[:3]]
        rgb = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
        return "RGB" if colours == rgb else "MINISBLACK"

    def write(self, dataset: DatasetWriter) -> None:
        """Write everything into a dataset that is being made."""
        for domain, tags in self.tags.items():
            if tags:
                dataset.update_tags(**({"ns": domain} if domain else {}), **tags)
        if self.gcps:
            dataset.gcps = (list(self.gcps), self.gcps_crs or CRS())
        if self.rpcs is not None:
            dataset.rpcs = self.rpcs
        if any(band.colour not in _COLOURS for band in self.bands):
            dataset.colorinterp = [band.colour for band in self.bands]
        if any(band.unit for band in self.bands):
            dataset.units = [band.unit or "" for band in self.bands]
        if self.scaled_bands:
            dataset.scales = [band.scale for band in self.bands]
            dataset.offsets = [band.offset for band in self.bands]
        for number, band in enumerate(self.bands, 1):
            if band.description:
                dataset.set_band_description(number, band.description)
            if band.tags:
                dataset.update_tags(number, **band.tags)


@dataclass(frozen=True)
class Origin:
    """Where an output band comes from."""

    description: str | None
    sums: Mapping[int, float] = field(default_factory=dict)
    """Position of each input band that has weights, and the sum of these."""
    alone: bool = False
    """No other output comes from this input band."""


def follow(
    given: Metadata,
    geometry: Geometry,
    origins: Sequence[Origin],
    *,
    scaled: bool,
    skips: bool,
    placed: bool,
) -> tuple[Metadata, tuple[str, ...]]:
    """Return what is true of the output, and a note for each thing that had to be dropped.

    Parameters
    ----------
    scaled
        Scale and offset were applied while reading.
    skips
        Missing pixels count as the stored value 0.
    placed
        The output has a transform.
    """
    notes: list[str] = []
    bands = tuple(_band(given, origin, scaled=scaled, skips=skips) for origin in origins)
    _note_bands(given, origins, bands, notes, scaled=scaled, skips=skips)
    gcps = () if placed else tuple(_gcp(point, geometry) for point in given.gcps)
    if given.gcps and placed:
        notes.append(
            f"{len(given.gcps)} ground control points are dropped: a GeoTIFF has a transform or "
            "these, not both"
        )
    tags = _tags(given, geometry, notes)
    if gcps and given.is_point:
        tags[""]["AREA_OR_POINT"] = "Area"
        notes.append(
            "AREA_OR_POINT is Area in the output: GDAL moves ground control points of a raster "
            "of points by a pixel"
        )
    rpcs = None if given.rpcs is None else _rpc(given.rpcs, geometry)
    return Metadata(bands, tags, gcps, given.gcps_crs if gcps else None, rpcs), tuple(notes)


def storable_crs(crs: CRS | None) -> CRS | None:
    """Return ``crs`` if a GeoTIFF can hold it, else None: a few projections have no keys there."""
    if crs is None:
        return None
    shape = {"width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    place = Affine(1.0, 0.0, 9.0, 0.0, -1.0, 9.0)
    with gdal.writing(), gdal.quietly(), MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=crs, transform=place, **shape):
            pass
        with memory.open() as dataset:
            return crs if dataset.crs == crs else None


def _gcp(point: GroundControlPoint, geometry: Geometry) -> GroundControlPoint:
    """Move a ground control point; GDAL counts from the corner of the first pixel."""
    return GroundControlPoint(
        row=(point.row - geometry.y.shift) / geometry.y.stride,
        col=(point.col - geometry.x.shift) / geometry.x.stride,
        x=point.x,
        y=point.y,
        z=point.z,
        id=point.id,
        info=point.info,
    )


def _rpc(given: RPC, geometry: Geometry) -> RPC:
    """Move RPCs; they count from the centre of the first pixel."""
    y, x = geometry.y, geometry.x
    return RPC(
        **{
            **given.to_dict(),
            "line_off": (given.line_off + 0.5 - y.shift) / y.stride - 0.5,
            "line_scale": given.line_scale / y.stride,
            "samp_off": (given.samp_off + 0.5 - x.shift) / x.stride - 0.5,
            "samp_scale": given.samp_scale / x.stride,
        }
    )


def _band(given: Metadata, origin: Origin, *, scaled: bool, skips: bool) -> Band:
    sources = [given.bands[i] for i in origin.sums]
    made = Band(description=origin.description)
    if not sources:
        return made
    if len({band.unit for band in sources}) == 1:
        made = replace(made, unit=sources[0].unit)
    if len(sources) == 1:
        colour = sources[0].colour
        keep = origin.alone and colour not in _COLOURS
        made = replace(
            made,
            tags=_without_what_is_no_longer_true(sources[0].tags),
            colour=colour if keep else ColorInterp.undefined,
        )
    if not scaled and _same_scale(sources, skips=skips):
        offset = sum(given.bands[i].offset * total for i, total in origin.sums.items())
        made = replace(made, scale=sources[0].scale, offset=offset)
    return made


def _same_scale(sources: Sequence[Band], *, skips: bool) -> bool:
    """Say whether sums of stored values still have a scale and an offset.

    With one scale ``a`` for all, ``sum w (a s + b) = a (sum w s) + sum w b``. A
    pixel that counts as 0 is stored as no 0, unless there is no offset.
    """
    return len({band.scale for band in sources}) == 1 and not (
        skips and any(band.offset for band in sources)
    )


def _note_bands(
    given: Metadata,
    origins: Sequence[Origin],
    bands: Sequence[Band],
    notes: list[str],
    *,
    scaled: bool,
    skips: bool,
) -> None:
    used = [(origin, band) for origin, band in zip(origins, bands, strict=True) if origin.sums]
    sources = [[given.bands[i] for i in origin.sums] for origin, _ in used]
    if scaled and given.scaled_bands:
        notes.append("scale and offset are applied, so the output has none")
    elif not all(_same_scale(each, skips=skips) for each in sources):
        notes.append(
            "scale and offset are dropped where sums of stored values have none; "
            "input.scaled applies them first"
        )
    if any(given.bands[i].unit and not band.unit for origin, band in used for i in origin.sums):
        notes.append("units are dropped where bands of different units are summed")
    if any(len(origin.sums) > 1 for origin, _ in used) and any(
        _without_what_is_no_longer_true(band.tags) for band in given.bands
    ):
        notes.append("tags of bands are dropped where bands are summed")
    if any(band.colour == ColorInterp.palette for band in given.bands):
        notes.append("the colour palette is dropped: sums of codes are no codes")


def _tags(given: Metadata, geometry: Geometry, notes: list[str]) -> dict[str, dict[str, str]]:
    """Return the tags of the dataset that are still true."""
    kept: dict[str, dict[str, str]] = {"": {}}
    opaque = []
    for domain, tags in given.tags.items():
        if ":" in domain or domain in ("EXIF", "COLOR_PROFILE", "GEOLOCATION"):
            opaque.append(domain)
        else:
            kept[domain] = _without_what_is_no_longer_true(tags)
    if opaque:
        notes.append(f"tags of the domain {' and '.join(sorted(opaque))} are dropped")
    plain = kept[""]
    strides = {"TIFFTAG_XRESOLUTION": geometry.x.stride, "TIFFTAG_YRESOLUTION": geometry.y.stride}
    for name, stride in strides.items():
        with contextlib.suppress(ValueError):  # a text that is no number is no resolution
            if text := plain.pop(name, None):
                plain[name] = f"{float(text) / stride:.9g}"
    return kept


def _without_what_is_no_longer_true(tags: Tags) -> dict[str, str]:
    return {name: text for name, text in tags.items() if not name.startswith(_NO_LONGER_TRUE)}


def own_tags(metadata: Metadata, software: str, tags: Tags) -> Metadata:
    """Return ``metadata`` with the name of the software and tileconv's own tags."""
    plain = {**metadata.tags.get("", {}), "TIFFTAG_SOFTWARE": software}
    return replace(metadata, tags={**metadata.tags, "": plain, DOMAIN: dict(tags)})
