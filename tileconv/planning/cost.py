"""What a plan costs: memory per thread, blocks kept between tiles, the choice of tile and panel.

The model of a run's peak memory:

    base      the process with its libraries and compiled loops
    cache     GDAL's block cache, shared by reads and writes
    writer    what the driver takes
    threads   times (window + a block on its way + the larger of: a read; copies, scratch, output)
    kept      storage blocks that the next tile row, or the next tile, uses again

A COG is copied from a file once the tiles are done: the base, the cache and what the copy takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tileconv.errors import ConfigError
from tileconv.geometry import Axis, Geometry
from tileconv.planning.blocks import shared_blocks
from tileconv.planning.layout import Layout
from tileconv.planning.reads import window_size
from tileconv.planning.tiles import AxisTiles, Tiles

MIB = 1 << 20
BASE_BYTES = 240 * MIB
"""A process that has imported everything and compiled its loops.

Measured: 206 to 232 MiB where they were compiled before, up to 257 with rasterio 1.5 and numpy 2.5
where they were not.
"""
GDAL_CACHE_BYTES = 64 * MIB
"""What the GDAL block cache is held to, once per process."""
WRITTEN_BYTES = 16 * MIB
"""What it comes to hold of whole blocks that are written, where nothing is read through it."""
READ_BYTES = 8 * MIB
"""Decoded pixels of one read, if a single block is not larger."""
WINDOW_BYTES = 32 * MIB
"""Input and output that a tile aims at: far more work than scheduling it, little memory."""
WIDER = 3
"""How much more that may be in strips: tiles as wide as the raster have no block in common."""
SMALLEST_WINDOW_BYTES = 64 << 10
"""Where shrinking tiles ends."""
BLOCK_SIZES = (512, 256, 128, 64)
"""Output blocks to choose from; smaller ones let small outputs keep all threads busy."""
MARGIN = 1.1
"""How much more a job may need than the model says (77 measured runs: 1.04 at the most)."""
TILES_PER_THREAD = 4
"""Fewest tiles per thread worth having, so that threads finish together."""


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be computed, as far as its cost goes."""

    geometry: Geometry
    layout: Layout
    compute_itemsize: int
    target_itemsize: int
    scratch_bytes: int
    wraps: bool
    """Padding takes pixels from the opposite edge."""
    outputs: int
    """Output planes."""
    group: tuple[int, int]
    """Most input and output planes that are computed together."""
    policy: bool = False
    """Fields with missing pixels are weighed: valid weights are summed beside the products."""
    writer_bytes: int = 0
    """What the driver takes beside tiles."""
    copy_bytes: int = 0
    """What it takes after them."""
    marks: bool = True
    """Windows may hold padding or missing pixels, and may then be copied as floats."""

    def window(self, tile: tuple[int, int]) -> tuple[int, int]:
        """Window places of a tile of output."""
        sizes = []
        for axis, outputs, block in zip(
            (self.geometry.y, self.geometry.x), tile, self.layout.block, strict=True
        ):
            sizes.append(window_size(axis, outputs, block))
        return sizes[0], sizes[1]

    def read_bytes(self) -> int:
        """Bytes of one read: a few blocks, at least one."""
        block = self.layout.largest_block[0] * self.layout.largest_block[1]
        pixels = self.layout.shape[0] * self.layout.shape[1]
        most = self.layout.read_pixel_bytes
        return min(max(READ_BYTES, block * most), pixels * most)

    def tile_bytes(self, tile: tuple[int, int]) -> int:
        """Input window and output of a tile, all bands."""
        return self.window_bytes(tile) + self.output_bytes(tile)

    def window_bytes(self, tile: tuple[int, int]) -> int:
        """Input window of a tile, all bands and the mask."""
        wy, wx = self.window(tile)
        return wy * wx * self.layout.pixel_bytes

    def output_bytes(self, tile: tuple[int, int]) -> int:
        """Output of a tile, all bands."""
        return tile[0] * tile[1] * self.outputs * self.target_itemsize

    def thread_bytes(self, tile: tuple[int, int]) -> int:
        """Memory that one thread holds at its worst moment."""
        wy, wx = self.window(tile)
        planes, outputs = self.group
        copies = planes * wy * wx * (self.compute_itemsize + 1) * self.marks
        each = 8 * self.policy
        if self.target_itemsize != self.compute_itemsize:
            each += self.compute_itemsize
        copies += outputs * tile[0] * tile[1] * each
        computing = self.output_bytes(tile) + copies + self.scratch_bytes
        reading = self.read_bytes()
        if self.layout.scenes:  # the part of a scene, and what of it is valid, beside the window
            reading += 2 * self.window_bytes(tile)
        return self.window_bytes(tile) + self.unpacking_bytes() + max(reading, computing)

    def unpacking_bytes(self) -> int:
        """Bytes of a block as it is stored, and unpacked, that a thread holds.

        GDAL has room for blocks in its cache, unless one is larger than that.
        """
        block = self.layout.largest_unpacked * self.layout.decoded_pixel_bytes
        held = 4 if self.layout.dtype.kind == "f" else 2  # predictor 3 takes two more
        return held * block if self.layout.direct or block > GDAL_CACHE_BYTES else 0

    def kept_bytes(self, tiles: Tiles, threads: int = 1) -> int:
        """Blocks kept from one tile row to the next within a panel, and from tile to tile.

        As many tiles as there are threads give to the next row before they have
        taken from the last one.
        """
        by, bx = self.layout.largest_block
        y, x = self.geometry.y, self.geometry.x
        block = by * bx * self.layout.pixel_bytes
        panel = min(tiles.panel * tiles.x.tile, tiles.x.total)
        across = _blocks_across(x, panel, bx)
        ahead = min(threads * _blocks_across(x, tiles.x.tile, bx), across)
        rows = shared_blocks(y, tiles.y, by)
        if self.layout.scenes and tiles.y.count > 1 and y.stride < y.span + by:
            rows += 1  # blocks of scenes begin anywhere
        if self.wraps and tiles.y.count > 1:
            rows += -(-y.before // by) + -(-y.after // by)
        columns = shared_blocks(x, tiles.x, bx) * min(threads, 2) if tiles.panel > 1 else 0
        down = _blocks_across(y, tiles.y.tile, by)
        kept = block * (rows * (across + ahead) + columns * down)
        return int(kept * self.layout.overlap)

    def decodings(self, tiles: Tiles) -> float:
        """Block decodings per needed block: 1, and more where panels share block columns."""
        if tiles.panels == 1:
            return 1.0
        x, block = self.geometry.x, self.layout.block[1]
        panels = AxisTiles(tiles.x.total, tiles.panel * tiles.x.tile)
        shared = shared_blocks(x, panels, block)
        return 1 + (tiles.panels - 1) * shared / _blocks_across(x, x.out_size, block)

    def peak_bytes(self, tiles: Tiles, threads: int) -> int:
        """Peak memory of a run."""
        busy = min(threads, tiles.count)
        helping = threads - busy
        tile = (min(tiles.y.tile, tiles.y.total), min(tiles.x.tile, tiles.x.total))
        running = (
            self.cache_bytes()
            + self.writer_bytes
            + busy * self.thread_bytes(tile)
            + helping * (self.read_bytes() + self.unpacking_bytes())
            + self.kept_bytes(tiles, busy)
        )
        copying = self.copy_bytes and self.copy_bytes + min(GDAL_CACHE_BYTES, self.written_bytes)
        return BASE_BYTES + max(running, copying)

    @property
    def written_bytes(self) -> int:
        """Bytes of the whole output."""
        height, width = self.geometry.out_shape
        return height * width * self.outputs * self.target_itemsize

    def cache_bytes(self) -> int:
        """Return what GDAL's cache comes to hold: no more than all that it reads and writes."""
        if self.layout.direct:
            return min(WRITTEN_BYTES, self.written_bytes)
        rows, columns = self.layout.shape
        return min(GDAL_CACHE_BYTES, self.written_bytes + rows * columns * self.layout.pixel_bytes)


@dataclass(frozen=True, slots=True)
class Choice:
    """Tiles, output block and threads of a run."""

    tiles: Tiles
    block: int
    threads: int


def choose_tiles(
    work: Work,
    threads: int,
    memory_limit: int,
    *,
    tile: tuple[int, int] | None = None,
    block: int | None = None,
) -> Choice:
    """Choose tiles of whole output blocks that fit into ``memory_limit`` bytes.

    Given ``tile`` and ``block`` are kept (the tile rounded up to whole blocks).
    Otherwise the largest tile wins among those that decode the fewest blocks
    (within 2 %): smaller tiles, then narrower panels, then fewer threads make a
    job fit.
    """
    smallest: int | None = None
    for count in range(threads, 0, -1):
        fitting: list[tuple[float, Choice]] = []
        for choice in _candidates(work, count, tile, block):
            need = work.peak_bytes(choice.tiles, count)
            if need * MARGIN <= memory_limit:
                fitting.append((work.decodings(choice.tiles), choice))
            smallest = need if smallest is None else min(smallest, need)
        if fitting:
            least = min(decodings for decodings, _ in fitting)
            return next(choice for decodings, choice in fitting if decodings <= 1.02 * least)
    need_mib = -(-round((smallest or 0) * MARGIN) // MIB)
    raise ConfigError(
        f"compute.memory_limit: this job needs at least {need_mib} MiB"
        f", and the limit is {memory_limit // MIB} MiB"
        + ("" if tile is None else "; a smaller compute.tile needs less")
    )


def _candidates(
    work: Work, threads: int, tile: tuple[int, int] | None, block: int | None
) -> Iterator[Choice]:
    """Yield tiles from large to small, each in panels from one to as many as tile columns."""
    height, width = work.geometry.out_shape
    budget = WINDOW_BYTES * (WIDER if _stored_in_strips(work) else 1)
    while True:
        size = block or _block_size(work, threads, tile, budget)
        shape = _grow(work, size, threads, budget) if tile is None else _round_up(tile, size)
        y, x = AxisTiles(height, shape[0]), AxisTiles(width, shape[1])
        panel = x.count
        while True:
            yield Choice(Tiles(y, x, panel), size, threads)
            if panel == 1:
                break
            panel = -(-panel // 2)
        if tile is not None or budget < SMALLEST_WINDOW_BYTES:
            break
        budget //= 2


def _block_size(work: Work, threads: int, tile: tuple[int, int] | None, budget: int) -> int:
    """Choose the side of an output block: the largest that suits the tile, threads and budget."""
    height, width = work.geometry.out_shape
    for size in BLOCK_SIZES:
        if tile is not None and size > max(min(tile), 64):
            continue
        few = -(-height // size) * -(-width // size) < TILES_PER_THREAD * threads
        if few or work.tile_bytes((size, size)) > budget:
            continue
        return size
    return BLOCK_SIZES[-1]


def _grow(work: Work, block: int, threads: int, budget: int) -> tuple[int, int]:
    """Grow a tile from one output block, along the rows of blocks of the file first."""
    height, width = work.geometry.out_shape
    strips = _stored_in_strips(work)
    shape = [block, block]
    while True:
        wide = shape[1] < width and (strips or shape[1] <= shape[0] or shape[0] >= height)
        axis = 1 if wide else 0
        if shape[axis] >= (height, width)[axis]:
            break
        bigger = [*shape]
        bigger[axis] *= 2
        tiles = -(-height // bigger[0]) * -(-width // bigger[1])
        if work.tile_bytes((bigger[0], bigger[1])) > budget or tiles < TILES_PER_THREAD * threads:
            break
        shape = bigger
    return shape[0], shape[1]


def _stored_in_strips(work: Work) -> bool:
    return work.layout.block[1] >= work.layout.shape[1]


def _round_up(tile: tuple[int, int], block: int) -> tuple[int, int]:
    return -(-tile[0] // block) * block, -(-tile[1] // block) * block


def _blocks_across(axis: Axis, outputs: int, block: int) -> int:
    """Most blocks that ``outputs`` neighbouring outputs touch."""
    reach = (min(outputs, axis.out_size) - 1) * axis.stride + axis.span
    whole = -(-axis.size // block)
    touched = -(-reach // block) + 1
    if axis.gap >= block:
        touched = min(touched, outputs * (-(-axis.span // block) + 1))
    return int(min(whole, touched))
