"""How tags and other metadata are propagated from the input to the output.

Whatever holds positions in pixels (ground control points, RPCs) is mapped by the
rule of the transform: an output pixel's centre lies on its field's centre. What
is no longer true of the output (statistics, palettes, the encoding of numbers)
is left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.rpc import RPC
from rasterio.transform import Affine

from tileconv.propagation import (
    POINTS_OF_AREAS,
    Origin,
    common,
    propagate_tiff_tags,
    rpc_offsets,
    says_extent,
    says_file,
    says_numbers,
    scale_of_sums,
)
from tileconv.raster import gdal
from tileconv.raster.tag_model import DOMAIN, NO_COLOURS, Band, Metadata, Tags

if TYPE_CHECKING:
    from rasterio.crs import CRS

    from tileconv.geometry import Geometry

_UNWRITABLE = {"bidx", "ns", "self"}
"""Names that rasterio takes for its own arguments."""


def propagate_tags(
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
    scales, offsets = [band.scale for band in given.bands], [band.offset for band in given.bands]
    of_sums = [scale_of_sums(origin, scales, offsets, skips=skips) for origin in origins]
    if scaled:
        of_sums = [None] * len(of_sums)
        if given.scaled_bands:
            notes.append("scale and offset are applied, so the output has none")
    elif any(of is None for of, origin in zip(of_sums, origins, strict=True) if origin.sums):
        notes.append(
            "scale and offset are dropped where sums of stored values have none; "
            "input.scaled applies them first"
        )
    bands = tuple(
        _band(given, origin, geometry, of) for origin, of in zip(origins, of_sums, strict=True)
    )
    _note_bands(given, origins, bands, geometry, notes)
    gcps = () if placed else tuple(_gcp(point, geometry) for point in given.gcps)
    if given.gcps and placed:
        notes.append(
            f"{len(given.gcps)} ground control points are dropped: a GeoTIFF has a transform or "
            "these, not both"
        )
    tags = _tags(given, geometry, notes)
    if gcps and given.is_point:
        tags[""]["AREA_OR_POINT"] = "Area"
        notes.append(POINTS_OF_AREAS)
    rpcs = None if given.rpcs is None else _rpc(given.rpcs, geometry)
    return Metadata(bands, tags, gcps, given.gcps_crs if gcps else None, rpcs), tuple(notes)


@lru_cache(16)
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
        row=geometry.y.out_position(point.row),
        col=geometry.x.out_position(point.col),
        x=point.x,
        y=point.y,
        z=point.z,
        id=point.id,
        info=point.info,
    )


def _rpc(given: RPC, geometry: Geometry) -> RPC:
    said = given.to_dict()
    return RPC(**{**said, **rpc_offsets(said, geometry)})


def _band(
    given: Metadata, origin: Origin, geometry: Geometry, of_sums: tuple[float, float] | None
) -> Band:
    """Say what is true of an output band; ``of_sums`` are its scale and offset."""
    sources = [given.bands[i] for i in origin.sums]
    if not sources:
        return Band(description=origin.description)
    scale, offset = of_sums or (1.0, 0.0)
    only = sources[0] if len(sources) == 1 else None
    keeps_colour = only is not None and origin.alone and only.colour not in NO_COLOURS
    return Band(
        description=origin.description,
        unit=common([band.unit for band in sources]),
        scale=scale,
        offset=offset,
        colour=only.colour if only is not None and keeps_colour else ColorInterp.undefined,
        tags={} if only is None else _still_true(only.tags, geometry),
    )


def _note_bands(
    given: Metadata,
    origins: Sequence[Origin],
    bands: Sequence[Band],
    geometry: Geometry,
    notes: list[str],
) -> None:
    used = [(origin, band) for origin, band in zip(origins, bands, strict=True) if origin.sums]
    if any(given.bands[i].unit and not band.unit for origin, band in used for i in origin.sums):
        notes.append("units are dropped where bands of different units are summed")
    if any(len(origin.sums) > 1 for origin, _ in used) and any(
        _still_true(band.tags, geometry) for band in given.bands
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
            kept[domain] = _still_true(tags, geometry)
    everything = (*given.tags.values(), *(band.tags for band in given.bands))
    if unwritable := _UNWRITABLE.intersection(name for tags in everything for name in tags):
        notes.append(f"tags named {' and '.join(sorted(unwritable))} are dropped")
    if opaque:
        notes.append(f"tags of the domain {' and '.join(sorted(opaque))} are dropped")
    everywhere = {name for tags in everything for name in tags}
    if extents := [name for name in sorted(everywhere) if _is_of_extent(name, geometry)]:
        notes.append(f"tags that tell the input's size or extent are dropped: {', '.join(extents)}")
    propagate_tiff_tags(kept[""], geometry, notes)
    return kept


def _is_of_extent(name: str, geometry: Geometry) -> bool:
    return says_extent(name) and not geometry.is_unchanged


def _still_true(tags: Tags, geometry: Geometry) -> dict[str, str]:
    return {
        name: text
        for name, text in tags.items()
        if not says_numbers(name)
        and not says_file(name)
        and not _is_of_extent(name, geometry)
        and name not in _UNWRITABLE
    }


def own_tags(metadata: Metadata, software: str, tags: Tags) -> Metadata:
    """Return ``metadata`` with the name of the software and tileconv's own tags."""
    plain = {**metadata.tags.get("", {}), "TIFFTAG_SOFTWARE": software}
    return replace(metadata, tags={**metadata.tags, "": plain, DOMAIN: dict(tags)})
