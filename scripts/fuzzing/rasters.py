"""Damaged rasters: planned and convolved; results are held against the pixels that GDAL reads."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

import tileconv
from fuzzing.digests import digest_of_raster
from fuzzing.mutations import mutate, mutate_text
from fuzzing.outcomes import FaultError
from fuzzing.seeds import Seed, make_seeds
from tileconv.jobs.config import option_places
from tileconv.raster import direct_tiff

WAYS = ("direct", "gdal", "both")
"""How blocks are decoded: without GDAL where that is possible, by GDAL, or one after the other."""
LARGEST = 256
"""Tiles of a raster that is worth running: some say they have billions of pixels."""
MOST_BANDS = 1000
"""Of such a one: some say they have 65,535, each of which takes GDAL its time."""
COMPARED = 1 << 20
"""Pixels of a raster that is compared."""
WARM = 2
"""Undamaged cases of each kind that are run first."""
KERNELS: Mapping[str, Any] = {
    "identity": [[1.0]],
    "separable": [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]],
    "dense": [[0.5, -1.0, 3.0, 0.0, 1.0], [2.0, 4.0, 0.25, 1.0, -2.0]],
    "box": "box",
    "bank": [[[1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [-1.0, 0.0]]],
}


@dataclass
class RasterCase:
    """A damaged raster, and how it is convolved."""

    label: str
    change: str
    source: str
    """Its name in the folder ``in``."""
    kernel: str
    options: dict[str, Any]
    ways: Sequence[str]
    notes: list[str] = field(default_factory=list)

    def run(self, folder: Path) -> str:
        source = folder / "in" / self.source
        plan = tileconv.plan(self._job(source, folder / "out" / "planned.tif"))
        tiles = plan.tiles.count
        if tiles > LARGEST or plan.layout.bands > MOST_BANDS:
            self.notes.append("planned only")
            return f"{tiles} tiles"
        outputs = {way: folder / "out" / f"{way}.tif" for way in self.ways}
        found = {way: self._convolve(source, target, way) for way, target in outputs.items()}
        if len({*found.values()}) > 1:
            raise FaultError("differs", f"GDAL and the direct way: {found}")
        self._compare(source, outputs[self.ways[0]])
        return "".join({*found.values()})

    def _job(self, source: Path, target: Path) -> Any:
        """Return the job that `tileconv.convolve_raster` makes of the same options."""
        kernel = KERNELS[self.kernel]
        job: dict[str, Any] = {
            "input": {"path": source},
            "kernel": {"name": kernel} if isinstance(kernel, str) else {"weights": kernel},
            "output": {"path": target},
        }
        places = option_places()
        for name, value in self.options.items():
            section = "input" if name == "bands" else places[name]
            (job.setdefault(section, {}) if section else job)[name] = value
        return tileconv.load_job(job)

    def _convolve(self, source: Path, target: Path, way: str) -> str:
        """Return a digest of the output, or of the refusal where both ways are tried."""
        try:
            with decoded(way):
                tileconv.convolve_raster(source, target, KERNELS[self.kernel], **self.options)
        except tileconv.TileconvError:
            if len(self.ways) == 1 or way == self.ways[0]:
                raise
            return "refused"
        return digest_of_raster(target)

    def _compare(self, source: Path, target: Path) -> None:
        """Compare with the array call on the pixels that GDAL reads.

        That is done where no pixel is masked: those rules are tileconv's own.
        """
        if self.options["mask"] != "none" or self.options.get("scaled"):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                pixels = self._pixels(source)
            except (RasterioError, ValueError, MemoryError):
                self.notes.append("GDAL refuses what tileconv reads")
                return
            with rasterio.open(target) as dataset:
                found = dataset.read()
        if pixels is None:
            return
        names = ("stride", "padding", "padding_mode", "missing", "dtype")
        options = {name: self.options[name] for name in names if name in self.options}
        kernel = KERNELS[self.kernel]
        weights = np.full((3, 3), 1 / 9) if isinstance(kernel, str) else kernel
        expected = tileconv.convolve(pixels, weights, **options)
        if found.shape != expected.shape or not np.array_equal(found, expected, equal_nan=True):
            raise FaultError("differs", _difference(found, expected))
        self.notes.append("compared with GDAL's pixels")

    def _pixels(self, source: Path) -> np.ndarray | None:
        with rasterio.open(source, sharing=False) as dataset:
            if dataset.width * dataset.height * dataset.count > COMPARED:
                return None
            bands = tileconv.plan(
                self._job(source, source.parent.parent / "out" / "planned.tif")
            ).bands
            return dataset.read(list(bands))


def _difference(found: np.ndarray, expected: np.ndarray) -> str:
    if found.shape != expected.shape:
        return f"shape {found.shape}, expected {expected.shape}"
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    first = tuple(int(i) for i in np.argwhere(~same)[0])
    there = f"at {first} {found[first]}, expected {expected[first]}"
    return f"{np.count_nonzero(~same)} of {same.size} outputs; {there}"


@contextlib.contextmanager
def decoded(way: str) -> Iterator[None]:
    """Leave all decoding to GDAL, where ``way`` says so."""
    before = direct_tiff.library
    if way == "gdal":
        direct_tiff.library = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        direct_tiff.library = before


class Rasters:
    """The cases of a seed, by number."""

    def __init__(self, seed: int, *, way: str = "both", whole: bool = False) -> None:
        self.seed = seed
        self.ways = ("direct", "gdal") if way == "both" else (way,)
        self.whole = whole
        """No raster is damaged: what is then a fault is one of the harness."""
        self.seeds: list[Seed] = make_seeds()

    def warm(self, folder: Path) -> None:
        """Compile what cases need, by running undamaged ones in this process.

        No threads are started: those of GDAL's would be missing in its copies, which wait for them.
        """
        sound = Rasters(self.seed, way=self.ways[0], whole=True)
        for number in range(WARM * len(self.seeds)):
            place = folder / f"warm-{number}"
            for name in ("in", "out"):
                (place / name).mkdir(parents=True)
            case = sound(number, place)
            case.options = {**case.options, "scheduler": "synchronous"}
            case.options.pop("workers", None)
            with contextlib.suppress(tileconv.TileconvError, FaultError):
                case.run(place)

    def __call__(self, number: int, folder: Path) -> RasterCase:
        """Make the case of a number, with its files in a folder ``in``."""
        random = Random(f"raster {self.seed} {number}")
        seed = self.seeds[number % len(self.seeds)]
        files, change = dict(seed.files), "none"
        if not self.whole:
            weights = [3, *[1] * (len(files) - 1)]
            name = random.choices(list(files), weights)[0]
            is_text = name.endswith((".vrt", ".xml"))
            damage = mutate_text if is_text else mutate
            files[name], change = damage(files[name], random)
        for name, data in files.items():
            (folder / "in" / name).write_bytes(data)
        kernel, options = _options(random, seed.name)
        return RasterCase(seed.name, change, seed.main, kernel, options, self.ways)


def _options(random: Random, kind: str) -> tuple[str, dict[str, Any]]:
    """Choose the kernel and the keys of a job."""
    kernel = random.choices(list(KERNELS), [4, 2, 2, 1, 1])[0]
    options: dict[str, Any] = {
        "stride": random.choice((1, 1, 2, 3, [2, 5])),
        "padding": random.choice(("valid", "valid", "same", 1, [2, 0])),
        "padding_mode": random.choice(("constant", "edge", "reflect")),
        "mask": random.choice(("auto", "auto", "none", "none", "none", "nodata", "dataset")),
        "missing": random.choice(("propagate", "propagate", "renormalize")),
        "scheduler": random.choice(("synchronous", "synchronous", "synchronous", "threads")),
        "memory_limit": "1 GiB",
    }
    if random.random() < 0.2:
        options["tile"] = random.choice((16, [32, 16]))
    if random.random() < 0.1:
        options["workers"] = 2
    if options["scheduler"] == "synchronous":
        options.pop("workers", None)
    if random.random() < 0.3:
        options["scaled"] = True
    if kind == "palette":
        options |= {"palette": True, "bands": [1]}
    return kernel, options
