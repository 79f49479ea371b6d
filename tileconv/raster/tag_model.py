"""What a raster's file says beside its pixels: one value, read from a file and written to one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from tileconv.raster import gdal

if TYPE_CHECKING:
    from rasterio.control import GroundControlPoint
    from rasterio.io import DatasetReader, DatasetWriter
    from rasterio.rpc import RPC

Tags = Mapping[str, str]

DOMAIN = "TILECONV"
"""The domain of tileconv's own tags."""

NO_COLOURS = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.palette, ColorInterp.alpha)
"""Interpretations that say nothing, or nothing that is true of sums of pixels."""

_OF_THE_FILE = (
    "IMAGE_STRUCTURE",
    "DERIVED_SUBDATASETS",
    "SUBDATASETS",
    "OVERVIEWS",  # names another file, which has those of the input
    "RPC",
    DOMAIN,
)
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
        cls,
        dataset: DatasetReader,
        bands: Sequence[int],
        colours: Sequence[ColorInterp],
        notes: list[str],
    ) -> Metadata:
        """Read what ``dataset`` says of the given bands (1-based); ``colours`` are of all bands."""
        texts = _Texts(dataset)
        descriptions, units = texts.of_bands("descriptions"), texts.of_bands("units")
        scales, offsets = dataset.scales, dataset.offsets  # rasterio makes lists of all bands
        tags = texts.all_tags((band, "") for band in bands)
        gcps, gcps_crs = dataset.gcps
        made = cls(
            bands=tuple(
                Band(
                    description=descriptions[band - 1],
                    unit=units[band - 1] or None,
                    scale=scales[band - 1],
                    offset=offsets[band - 1],
                    colour=colours[band - 1],
                    tags=tags_of_band,
                )
                for band, tags_of_band in zip(bands, tags, strict=True)
            ),
            tags={name: texts.tags(domain=name) for name in texts.domains()},
            gcps=tuple(gcps),
            gcps_crs=gcps_crs,
            rpcs=dataset.rpcs,
        )
        if lost := texts.domains_of(bands):
            notes.append(f"tags of bands in the domain {' and '.join(lost)} are dropped")
        if texts.unreadable:
            notes.append(f"{' and '.join(texts.unreadable)} are no text in UTF-8, and are dropped")
        return made

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
        if any(band.colour not in NO_COLOURS for band in self.bands):
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


class _Texts:
    """Reads the texts of a dataset; those that are not in UTF-8 are named, and left out."""

    def __init__(self, dataset: DatasetReader) -> None:
        self._dataset = dataset
        self.unreadable: dict[str, None] = {}
        """In the order of reading."""

    def of_bands(self, name: str) -> tuple[str | None, ...]:
        """Return ``descriptions`` or ``units``, one of each band in the file."""
        try:
            return tuple(getattr(self._dataset, name))
        except UnicodeDecodeError:
            self.unreadable[name] = None
            return (None,) * int(self._dataset.count)

    def domains(self) -> tuple[str, ...]:
        """Return the domains whose tags are the raster's own; "" is the default one."""
        named = (name for name in self._dataset.tag_namespaces() if name not in _OF_THE_FILE)
        return tuple(dict.fromkeys(("", *named)))

    def domains_of(self, bands: Sequence[int]) -> list[str]:
        """Return the domains, beside the default one, in which bands have tags."""
        named = {name for band in bands for name in self._dataset.tag_namespaces(band)}
        return sorted(named.difference(("", *_OF_THE_FILE)))

    def tags(self, band: int = 0, domain: str = "") -> Tags:
        """Return the tags of a band, or of the dataset."""
        (tags,) = self.all_tags([(band, domain)])
        return tags

    def all_tags(self, places: Iterable[tuple[int, str]]) -> list[Tags]:
        """Return the tags of each (band, domain); to listen to the log once is enough."""
        with gdal.undecoded() as missed:
            found: list[Tags] = [
                dict(self._dataset.tags(band, ns=name or None)) for band, name in places
            ]
        if missed:
            self.unreadable["tags"] = None
        return found
