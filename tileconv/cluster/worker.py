"""What a worker does: compute one part of a plan and write it; only numbers come back."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileconv.bounded import read_bounded
from tileconv.cluster.block_cache import BlockCache
from tileconv.errors import ClusterError, InputError, OutOfMemoryError, TileconvError
from tileconv.finish import Counts
from tileconv.jobs import quicklook
from tileconv.jobs.schedule import convolve_tile
from tileconv.raster.reading import Identity, environment, open_source
from tileconv.raster.writing import FORMATS
from tileconv.text import size
from tileconv.tile import AnyRecipe, recipe_of
from tileconv.version import __version__

if TYPE_CHECKING:
    from tileconv.planning.cluster_plan import ClusterPlan
    from tileconv.planning.parts import Part
    from tileconv.raster.reading import CachedBlocks, Header
    from tileconv.raster.writing import OutputSpec

LARGEST_TOKEN = 1024
PARTS_A_FOLDER = 1024
"""Part files in a folder: millions in one are slow, and to remove one takes as long as a file."""


@dataclass(frozen=True)
class PartWork:
    """All that the tasks of a run have in common; it reaches every worker once."""

    key: str
    """Of the run: a hash of all that decides on its parts."""
    plan: ClusterPlan
    header: Header
    spec: OutputSpec
    folder: Path
    token: str
    looks: bool = False
    """Tasks leave samples for a quicklook."""

    @cached_property
    def recipe(self) -> AnyRecipe:
        """How tiles are computed."""
        plan = self.plan
        return recipe_of(plan.operator, plan.numbers, plan.layout.read_bands)

    def part(self, number: int) -> Part:
        """Return a part by its number."""
        return self.plan.parts[number]

    def path(self, number: int) -> Path:
        """Return the file of a part, named by what is in it."""
        return self._file("parts", number, "tif")

    def look_path(self, number: int) -> Path:
        """Return the file with samples of a part for the quicklook."""
        return self._file("looks", number, "npz")

    def _file(self, kind: str, number: int, ending: str) -> Path:
        part = self.part(number)
        told = f"{self.key} {part.y} {part.x}".encode()
        name = f"{number:08d}-{hashlib.sha256(told).hexdigest()[:12]}.{ending}"
        return self.folder / kind / f"{number // PARTS_A_FOLDER:04}" / name

    def tries_path(self, number: int) -> Path:
        """Return the file that has a byte for each time that a part was begun."""
        return self.folder / "tries" / f"{number % 256:02x}-{number}"

    def check_place(self) -> None:
        """Check that this process sees the folder of the run, and the input that was planned."""
        where = socket.gethostname()
        try:
            found: str | None = read_bounded(self.folder / "token", LARGEST_TOKEN).decode()
        except (OSError, UnicodeDecodeError):
            found = None
        if found != self.token:
            raise ClusterError(
                f"worker on {where} does not see {self.folder}: the output must lie on a disk that "
                "all workers share with the client, under the same path"
            )
        for scene in self.header.scenes or (self.header,):
            try:
                same = Identity.of(*scene.files) == scene.identity
            except OSError:
                raise InputError(
                    f"{scene.path}: worker on {where} does not see it: the input must lie on a "
                    "disk that all workers share with the client, under the same path"
                ) from None
            if not same:
                raise InputError(
                    f"{scene.path}: worker on {where} sees another file than the one planned; "
                    "it was changed, or the disk is not shared"
                )


_works: dict[str, PartWork] = {}
_packed: dict[str, bytes] = {}
_caches: dict[str, BlockCache] = {}
_lock = threading.Lock()


def register(key: str, packed: bytes, threads: int = 1) -> None:
    """Take the pickled `PartWork` of a run, which the first task opens, for so many threads."""
    with _lock:
        _packed[key] = packed
        _caches[key] = BlockCache(threads)


def forget(key: str) -> None:
    """Let go of a run."""
    with _lock:
        for held in (_packed, _works, _caches):
            held.pop(key, None)


def find_work(key: str) -> PartWork:
    """Return the run that a task belongs to."""
    with _lock:
        if key not in _works:
            if key not in _packed:
                raise ClusterError("the run of this task has ended")
            _works[key] = pickle.loads(_packed[key])
        return _works[key]


def probe(key: str) -> tuple[str, str | None]:
    """Say (version, what is wrong) of a worker."""
    try:
        work = find_work(key)
        work.check_place()
        mark = work.folder / f"probe-{socket.gethostname()}-{os.getpid()}"
        mark.write_text(work.token)
        mark.unlink()
    except (TileconvError, OSError) as error:
        return __version__, str(error)
    return __version__, None


def run_part(key: str, number: int, step: int) -> dict[str, Any]:
    """Compute a part and write it; returns its line of the manifest.

    The part that comes next at this thread is ``number + step``, if that one lies below or above.
    """
    work = find_work(key)
    cache = _caches.get(key) or BlockCache(1)
    try:
        with cache.task(number) as handed:
            return _run_part(work, number, step, cache, handed)
    except TileconvError as error:
        told = type(error)(*error.args)
    raise told  # without its causes: GDAL's do not pickle, nor does what has one in its chain


def _run_part(
    work: PartWork, number: int, step: int, cache: BlockCache, handed: CachedBlocks | None
) -> dict[str, Any]:
    work.check_place()
    started = time.perf_counter()
    attempt = _begin(work.tries_path(number))
    plan, spec = work.plan, work.spec
    part = plan.parts[number]
    following = plan.parts.after(part) if step > 0 else plan.parts.before(part)
    source = open_source(work.header, plan.geometry, plan.tiles, part=part, following=following)
    if handed is not None:
        source.take_over(handed)
    sink = FORMATS[spec.driver].open_part(spec, part, work.folder, work.path(number))
    counts, tiles = Counts(), 0
    sampler = quicklook.Sampler(plan) if work.looks else None
    samples = []
    try:
        with source, sink, environment():
            for tile in plan.parts.tiles_of(part, step):
                reads, window, output, met = convolve_tile(plan, work.recipe, source, tile)
                if sampler is not None:
                    samples.append(sampler.take(tile, reads, window, output))
                del window
                sink.write(tile, output)
                counts, tiles = counts.plus(met), tiles + 1
            source.check_unchanged()
            written = sink.entry()
            if following is not None:
                cache.put(following.number, source.hand_over())
    except MemoryError as error:
        if isinstance(error, TileconvError):
            raise
        raise OutOfMemoryError(
            f"a worker is out of memory; a task needs about {size(plan.peak_memory_bytes)}: "
            "give workers more memory, or fewer threads"
        ) from None
    if work.looks:
        with suppress(OSError):  # the client tells of it
            quicklook.save_samples(work.look_path(number), samples)
    return {
        "part": number,
        "tiles": tiles,
        "seconds": round(time.perf_counter() - started, 4),
        "attempt": attempt,
        "blocks_decoded": source.blocks_decoded,
        **written,
        "missing": counts.missing,
        "collisions": counts.collisions,
        "worker": f"{socket.gethostname()}-{os.getpid()}",
    }


def _begin(path: Path) -> int:
    """Count one more beginning of a part."""
    with path.open("ab") as file:
        file.write(b".")
        file.flush()
        return os.fstat(file.fileno()).st_size


def without_parts(work: PartWork) -> PartWork:
    """Return a copy that pickles small: the receiver computes again what a plan has cached."""
    return replace(work, plan=replace(work.plan))
