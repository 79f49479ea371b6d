"""Many scenes as one raster: where each lies on the grid of the first, and what they must share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tileconv.errors import InputError
from tileconv.planning.layout import Layout, Scene
from tileconv.raster.header import Header, Wanted, read_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tileconv.geometry import Transform
    from tileconv.raster.remote import Place

ALIGNED = 1e-3
"""How far, in pixels, a scene may lie off the grid: the rounding of its transform, no more."""


def read_mosaic(paths: Sequence[Place], wanted: Wanted) -> Header:
    """Read the headers of scenes and return that of the raster which they make.

    Its ``scenes`` are in the order given: where several have a valid pixel the
    first counts. Raises `InputError` for scenes that do not fit together, with
    their offsets in pixels where they are not aligned.
    """
    headers = [read_header(path, wanted) for path in paths]
    first = headers[0]
    for header in headers:
        _check_alike(first, header)
    places = [_place(first, header) for header in headers]
    top, left = (min(place[axis] for place in places) for axis in (0, 1))
    bottom, right = (
        max(place[axis] + header.layout.shape[axis] for place, header in _zip(places, headers))
        for axis in (0, 1)
    )
    scenes = tuple(
        Scene(header.layout, (y - top, x - left)) for (y, x), header in _zip(places, headers)
    )
    shape = (bottom - top, right - left)
    stored, covered = _areas(scenes)
    holes = covered < shape[0] * shape[1]
    by_value = first.nodata is not None or first.layout.dtype.kind == "f"  # NaN needs no declaring
    marks = max(header.layout.marks for header in headers)
    marks = max(marks, 1 if holes and not by_value else 0)
    assert first.transform is not None
    return replace(
        first,
        layout=Layout(
            shape=shape,
            dtype=first.layout.dtype,
            block=(
                min(scene.layout.block[0] for scene in scenes),
                min(scene.layout.block[1] for scene in scenes),
            ),
            bands=first.layout.bands,
            read_bands=first.layout.read_bands,
            interleaved=all(scene.layout.interleaved for scene in scenes),
            marks=marks,
            alpha=any(header.layout.alpha for header in headers),
            stored=first.layout.stored,
            direct=all(scene.layout.direct for scene in scenes),
            scenes=scenes,
        ),
        transform=_moved(first.transform, top, left),
        decoding=replace(first.decoding, mask="dataset" if marks else None),
        codec=first.codec if len({h.codec for h in headers}) == 1 else "various codecs",
        stored_bytes=sum(header.stored_bytes for header in headers),
        notes=_notes(headers, shape, stored, covered),
        scenes=tuple(headers),
    )


def _zip(
    places: Sequence[tuple[int, int]], headers: Sequence[Header]
) -> list[tuple[tuple[int, int], Header]]:
    return list(zip(places, headers, strict=True))


def _check_alike(first: Header, other: Header) -> None:
    """Check what scenes must share beside the grid."""
    for what, ours, theirs in (
        ("coordinate systems", first.crs, other.crs),
        ("dtypes", first.layout.dtype, other.layout.dtype),
        ("numbers of bands", first.layout.bands, other.layout.bands),
        ("nodata", _nodata(first), _nodata(other)),
        ("scale and offset", first.decoding.scales, other.decoding.scales),
        ("bands beside the alpha band", first.bands, other.bands),
    ):
        if ours != theirs:
            raise InputError(
                f"{other.path}: cannot be mosaicked with {first.path}: "
                f"they have different {what}, {_said(theirs)} and {_said(ours)}"
            )


def _nodata(header: Header) -> str:
    each = header.decoding.nodata
    return ", ".join(map(_said, each)) if each else _said(header.nodata)


def _said(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(first: Header, other: Header) -> tuple[int, int]:
    """Return the place of a scene's first pixel on the grid of the first scene, (y, x)."""
    for header in (first, other):
        if header.transform is None:
            raise InputError(
                f"{header.path}: has no transform, so its place in a mosaic is not known"
            )
    assert first.transform is not None
    assert other.transform is not None
    grid, its = np.array(first.transform).reshape(2, 3), np.array(other.transform).reshape(2, 3)
    height, width = other.layout.shape
    inverse = np.linalg.inv(grid[:, :2])
    corner = inverse @ (its[:, 2] - grid[:, 2])  # (x, y)
    sides = (
        inverse @ its[:, :2] @ np.diag([width, height])
    )  # its rows and columns, in pixels of ours
    if (np.abs(sides - np.diag([width, height])) > ALIGNED).any():
        raise InputError(
            f"{other.path}: cannot be mosaicked with {first.path}: its pixels are "
            f"{_pixel(its)}, and those of the first scene {_pixel(grid)}; "
            "scenes are not resampled: warp it to the same resolution first"
        )
    nearest = np.rint(corner)
    if (np.abs(corner - nearest) > ALIGNED).any():
        y, x = corner[1] - nearest[1], corner[0] - nearest[0]
        raise InputError(
            f"{other.path}: is not aligned with {first.path}: it lies ({y:+.3g}, {x:+.3g}) "
            f"pixels (y, x) off the grid, at ({corner[1]:.3f}, {corner[0]:.3f}); "
            "scenes are not resampled: warp it onto the same grid first"
        )
    return int(nearest[1]), int(nearest[0])


def _pixel(grid: np.ndarray) -> str:
    (a, b), (d, e) = grid[:, :2]
    return f"{a:g} x {e:g}" if b == d == 0 else f"({a:g}, {b:g}, {d:g}, {e:g})"


def _moved(transform: Transform, rows: int, columns: int) -> Transform:
    a, b, c, d, e, f = transform
    return a, b, c + a * columns + b * rows, d, e, f + d * columns + e * rows


def _areas(scenes: Sequence[Scene]) -> tuple[int, int]:
    """Return the pixels of all scenes, and how many pixels of the grid they cover."""
    corners = np.array([(*s.offset, *np.add(s.offset, s.layout.shape)) for s in scenes], np.int64)
    rows, columns = np.unique(corners[:, ::2]), np.unique(corners[:, 1::2])
    covered = np.zeros((rows.size, columns.size), bool)
    for top, left, bottom, right in corners:
        y = slice(*np.searchsorted(rows, (top, bottom)))
        covered[y, slice(*np.searchsorted(columns, (left, right)))] = True
    heights, widths = np.diff(rows, append=rows[-1:]), np.diff(columns, append=columns[-1:])
    stored = int(((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])).sum())
    return stored, int(heights @ covered.astype(np.int64) @ widths)


def _notes(
    headers: Sequence[Header], shape: tuple[int, int], stored: int, covered: int
) -> tuple[str, ...]:
    notes = dict.fromkeys(note for header in headers for note in header.notes)
    if len(notes) > 6:
        more = len(notes) - 5
        notes = dict.fromkeys([*[*notes][:5], f"and {more} more notes on single scenes"])
    if stored > covered:
        share = (stored - covered) / covered
        notes[f"scenes overlap ({share:.1%}): the first valid pixel counts"] = None
    area = shape[0] * shape[1]
    if covered < area:
        notes[f"{1 - covered / area:.1%} of the mosaic lies in no scene and is missing"] = None
    return tuple(notes)
