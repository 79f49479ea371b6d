"""A small picture of input and output, side by side, from what a run has in its hands anyway.

Nothing is read twice and nothing is resampled: a few rows and columns of every
window and every tile are kept, and stretched from the 2nd to the 98th percentile.
On a cluster the tasks leave them beside the parts, and the client draws.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tileconv.errors import UnsupportedError
from tileconv.raster.writing import put

if TYPE_CHECKING:
    from pathlib import Path

    from tileconv.geometry import Axis
    from tileconv.planning.plan import Plan
    from tileconv.planning.reads import AxisRead
    from tileconv.planning.tiles import Tile
    from tileconv.raster.reading import Pixels
    from tileconv.raster.writing import OwnFile, Target

SIDE = 560
"""Longest side of each of the two pictures, in pixels."""
_INK, _PAPER, _MISSING = (40, 44, 52), (255, 255, 255), (226, 228, 232)


def check_available() -> None:
    """Raise `UnsupportedError` if the library that draws is not installed."""
    if find_spec("PIL") is None:
        raise UnsupportedError(
            "output.quicklook needs Pillow: pip install 'tileconv[quicklook]', or leave the key out"
        )


class Samples(NamedTuple):
    """Some pixels of a tile, or of its fields: rows, columns, and (bands, rows, columns)."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    """NaN where missing."""


class Sampler:
    """Takes the samples of input and output that lie in a tile."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bands = _red_green_blue(plan.descriptions)
        each = plan.operator.new_dimension is None  # output bands are those of the input
        self._drawn = self._bands if each else [0]
        self._in = _Grid.of(len(self._bands), plan.layout.shape)
        self._out = _Grid.of(len(self._drawn), plan.geometry.out_shape)

    def take(
        self, tile: Tile, reads: tuple[AxisRead, AxisRead], window: Pixels, output: np.ndarray
    ) -> tuple[Samples, Samples]:
        """Return the samples (of the input, of the output) that lie in one tile."""
        rows, columns = self._out.inside(tile.y, 0), self._out.inside(tile.x, 1)
        drawn = output[self._drawn][:, rows - tile.y[0]][:, :, columns - tile.x[0]].astype(float)
        fill = self._plan.numbers.fill
        if fill is not None:
            drawn[drawn == float(fill.item())] = np.nan
        geometry = self._plan.geometry
        y_samples = self._in.inside(_territory(geometry.y, tile.y), 0)
        x_samples = self._in.inside(_territory(geometry.x, tile.x), 1)
        at_y, at_x = _nearest(reads[0], y_samples), _nearest(reads[1], x_samples)
        read = window.bands[self._bands][:, at_y][:, :, at_x]
        seen = read.astype(float)
        nodata = self._plan.numbers.nodata
        if nodata is not None:
            seen[read == nodata] = np.nan
        if window.masked is not None:
            hidden = np.broadcast_to(window.masked, window.bands.shape)
            seen[hidden[self._bands][:, at_y][:, :, at_x]] = np.nan
        return Samples(y_samples, x_samples, seen), Samples(rows, columns, drawn)


class Quicklook(Sampler):
    """Collects samples while tiles are computed; safe for many threads."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._pictures = self._in.empty(), self._out.empty()
        self._lock = threading.Lock()

    def add(
        self, tile: Tile, reads: tuple[AxisRead, AxisRead], window: Pixels, output: np.ndarray
    ) -> None:
        """Take the samples that lie in one tile."""
        self.put(self.take(tile, reads, window, output))

    def put(self, taken: tuple[Samples, Samples]) -> None:
        """Put samples to their places."""
        with self._lock:
            for grid, picture, samples in zip(
                (self._in, self._out), self._pictures, taken, strict=True
            ):
                grid.put(samples, picture)

    def save(self, target: Target, own: Iterable[OwnFile]) -> None:
        """Write the PNG, whole or not at all."""
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - an extra

        pictures = [_enlarge(_stretch(values)) for values in self._pictures]
        height, width = self._plan.layout.shape
        out_height, out_width = self._plan.geometry.out_shape
        sampling = self._plan.operator.samplings[-1]
        (kh, kw), (sy, sx) = sampling.kernel, sampling.stride
        titles = (
            f"input   {width:,} x {height:,}",
            f"output   {out_width:,} x {out_height:,}   kernel {kw} x {kh}, stride {sx} x {sy}",
        )
        margin, head = 16, 40
        canvas = Image.new(
            "RGB",
            (
                sum(p.shape[1] for p in pictures) + 3 * margin,
                max(p.shape[0] for p in pictures) + head + margin,
            ),
            _PAPER,
        )
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
        left = margin
        for picture, title in zip(pictures, titles, strict=True):
            draw.text((left, 12), title, fill=_INK, font=font)
            canvas.paste(Image.fromarray(picture), (left, head))
            left += picture.shape[1] + margin
        put(target, own, lambda path: canvas.save(path, format="PNG"))


def join_samples(each: Sequence[Samples]) -> Samples:
    """Put the samples of neighbouring tiles, which form a rectangle, together."""
    rows = np.unique(np.concatenate([samples.rows for samples in each]))
    columns = np.unique(np.concatenate([samples.columns for samples in each]))
    grid = _Grid(len(each[0].values), (rows, columns))
    picture = grid.empty()
    for samples in each:
        grid.put(samples, picture)
    return Samples(rows, columns, picture)


def save_samples(path: Path, taken: Iterable[tuple[Samples, Samples]]) -> None:
    """Write the samples of the tiles of a part beside it. Raises `OSError`."""
    arrays = [array for each in zip(*taken, strict=True) for array in join_samples(each)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    path.parent.mkdir(exist_ok=True)
    try:
        with temporary.open("wb") as file:
            np.savez(file, *arrays)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load_samples(path: Path) -> tuple[Samples, Samples]:
    """Read what `save_samples` has written. Raises anything if the file is damaged."""
    with np.load(path, allow_pickle=False) as found:
        arrays = [found[f"arr_{i}"] for i in range(6)]
    return Samples(*arrays[:3]), Samples(*arrays[3:])


def _red_green_blue(descriptions: Sequence[str | None]) -> list[int]:
    """Return the bands to draw: red, green and blue by name, else the first three, else one."""
    names = [(text or "").lower() for text in descriptions]
    colours = ("red", "green", "blue")
    if all(names.count(colour) == 1 for colour in colours):
        return [names.index(colour) for colour in colours]
    return [0, 1, 2] if len(names) >= 3 else [0]


class _Grid(NamedTuple):
    """Every n-th row and column of a raster."""

    bands: int
    positions: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, bands: int, shape: tuple[int, int]) -> _Grid:
        every = -(-max(shape) // SIDE)
        return cls(bands, (_centres(shape[0], every), _centres(shape[1], every)))

    def empty(self) -> np.ndarray:
        """Return a picture of which nothing is known."""
        return np.full((self.bands, *(places.size for places in self.positions)), np.nan)

    def inside(self, span: tuple[int, int], axis: int) -> np.ndarray:
        """Positions that lie in the half-open range ``span``."""
        positions = self.positions[axis]
        return positions[(positions >= span[0]) & (positions < span[1])]

    def put(self, samples: Samples, picture: np.ndarray) -> None:
        """Put samples to their places in a picture."""
        at = (
            np.searchsorted(places, which)
            for places, which in zip(self.positions, samples[:2], strict=True)
        )
        picture[np.ix_(np.arange(self.bands), *at)] = samples.values


def _centres(size: int, every: int) -> np.ndarray:
    return np.minimum(np.arange(0, size, every) + every // 2, size - 1)


def _territory(axis: Axis, outputs: tuple[int, int]) -> tuple[int, int]:
    """Input pixels that belong to a tile's fields and to no other tile's."""
    first = 0 if outputs[0] == 0 else outputs[0] * axis.stride - axis.before
    end = axis.size if outputs[1] == axis.out_size else outputs[1] * axis.stride - axis.before
    return max(first, 0), min(max(end, 0), axis.size)


def _nearest(read: AxisRead, positions: np.ndarray) -> np.ndarray:
    """Return the window place that holds the source pixel nearest to each position."""
    places = np.flatnonzero(read.index >= 0)
    if not places.size:
        return np.zeros(positions.size, np.intp)
    order = places[np.argsort(read.index[places], kind="stable")]
    pixels = read.index[order]
    right = np.clip(np.searchsorted(pixels, positions), 1, max(pixels.size - 1, 1))
    right = np.minimum(right, pixels.size - 1)
    left = np.maximum(right - 1, 0)
    closer = np.abs(pixels[left] - positions) <= np.abs(pixels[right] - positions)
    return order[np.where(closer, left, right)]


def _stretch(values: np.ndarray) -> np.ndarray:
    """Return (h, w, 3) uint8: each band from its 2nd to its 98th percentile, missing in grey."""
    bands = np.empty((*values.shape[1:], 3), np.uint8)
    missing = ~np.isfinite(values).all(axis=0)
    for i in range(3):
        band = values[i if values.shape[0] == 3 else 0]
        finite = band[np.isfinite(band)]
        low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
        scaled = (band - low) / (high - low if high > low else 1.0)
        bands[..., i] = np.nan_to_num(np.clip(scaled, 0, 1)) * 255
    bands[missing] = _MISSING
    return bands


def _enlarge(picture: np.ndarray) -> np.ndarray:
    """Repeat pixels of a small picture until its longer side is near SIDE."""
    times = max(1, SIDE // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
