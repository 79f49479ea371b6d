"""The promise: any tiling gives the same bits as one pass, and the numbers that the rules say.

Seeded sweeps, so that the count is known, and hypothesis on top, so that a
failure shrinks.
"""

import itertools

import naive
import numpy as np
import pytest
from hypothesis import given
from strategies import DTYPES, axes, cases, random_case

import tileconv
from tileconv.dtypes import Numbers
from tileconv.geometry import Axis
from tileconv.operators.convolution import Convolution
from tileconv.planning.blocks import block_uses, shared_blocks
from tileconv.planning.reads import HOLE, PADDING, read_axis
from tileconv.planning.tiles import AxisTiles, Tiles
from tileconv.tile import Recipe, compute_tile

SEED = 20261122
GEOMETRIES = 2000


def compute_in_tiles(case):
    """Compute a case tile by tile from what a file in blocks of ``case.block`` would give."""
    options = case.options()
    convolution = Convolution.of(case.kernel, **options)
    numbers = Numbers.of(case.array.dtype, nodata=case.nodata)
    planes = case.array if case.array.ndim == 3 else case.array[None]
    recipe = Recipe.of(convolution, numbers, len(planes))
    geometry = convolution.geometry(planes.shape[1:])
    out = np.zeros((recipe.outputs, *geometry.out_shape), numbers.target)
    y, x = (AxisTiles(n, t) for n, t in zip(geometry.out_shape, case.tile, strict=True))
    for tile in Tiles(y, x, panel=2):
        rows = read_axis(geometry.y, *tile.y, case.block[0])
        columns = read_axis(geometry.x, *tile.x, case.block[1])
        # Pixels that are not read hold rubbish: a tap that touched one would show.
        window = np.full((len(planes), rows.size, columns.size), 77, case.array.dtype)
        inside = np.ix_(range(len(planes)), rows.index >= 0, columns.index >= 0)
        window[inside] = planes[:, rows.index[rows.index >= 0]][
            :, :, columns.index[columns.index >= 0]
        ]
        part = out[:, slice(*tile.y), slice(*tile.x)]
        compute_tile(recipe, (rows, columns), window, None, part)
    return out


def check_case(case):
    whole = tileconv.convolve(case.array, case.kernel, nodata=case.nodata, **case.options())
    tiled = compute_in_tiles(case)
    assert whole.dtype == tiled.dtype
    assert whole.tobytes() == tiled.tobytes()
    expected = naive.convolve(case.array, case.kernel, **case.reference_options())
    naive.assert_close(whole, expected, whole.dtype)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_two_thousand_geometries():
    for i in range(GEOMETRIES):
        try:
            check_case(random_case((SEED, i)))
        except Exception as error:
            raise AssertionError(f"random_case(({SEED}, {i})) fails") from error


@given(cases)
def test_any_geometry(case):
    check_case(case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [None, "float64", "float32", "int16", "uint8"])
def test_every_pair_of_dtypes(rng, dtype, target):
    array = rng.integers(0, 100, (40, 37)).astype(dtype)
    kernel = rng.integers(-2, 4, (3, 5))  # whole numbers: every sum is exact
    out = tileconv.convolve(array, kernel, stride=2, dtype=target)
    sums, _, _ = naive.convolve(array, kernel, stride=(2, 2))
    if target in ("int16", "uint8"):
        np.testing.assert_array_equal(out, naive.to_integers(sums, target))
    else:
        np.testing.assert_array_equal(out, sums.astype(float))
    small = np.dtype(dtype).itemsize <= 2 or dtype == "float32"
    assert out.dtype == np.dtype(target or ("float32" if small else "float64"))


@pytest.mark.parametrize(
    "target", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_integers_round_half_to_even_and_saturate(target):
    values = np.array(
        [[-1e30, -200.5, -1.5, -0.5, 0.5, 1.5, 2.5, 254.5, 255.5, 4e9, 2.0**63, 1e30]]
    )
    out = tileconv.convolve(values, [[1.0]], dtype=target)
    assert out.tolist() == naive.to_integers(values, target)


@given(axes())
def test_windows_hold_each_field_and_nothing_else(parameters):
    for mode in ("constant", "reflect"):
        axis = Axis(**parameters, mode=mode)
        padded = np.arange(axis.size)
        around = (axis.before, axis.after)
        padded = (
            np.pad(padded, around, constant_values=PADDING)
            if mode == "constant"
            else np.pad(padded, around, mode=mode)
        )
        for block in (None, 1, 7, 64):
            for first, end in ((0, axis.out_size), (axis.out_size // 2, axis.out_size)):
                if first == end:
                    continue
                read = read_axis(axis, first, end, block)
                last = (read.outputs - 1) * read.stride + read.dilation * (axis.kernel - 1)
                assert read.size == last + 1
                for o in range(read.outputs):
                    field = padded[(first + o) * axis.stride :][: axis.span : axis.dilation]
                    seen = read.index[o * read.stride :][: last + 1 : read.dilation][: axis.kernel]
                    assert seen.tolist() == field.tolist()
                    assert HOLE not in seen


@given(axes())
def test_blocks_are_counted_as_the_tiles_touch_them(parameters):
    for mode in ("constant", "edge", "wrap"):
        axis = Axis(**parameters, mode=mode)
        for block in (1, 5, 32, 500):
            for size in (1, 7, 64):
                tiles = AxisTiles(axis.out_size, size)
                expected = np.zeros(-(-axis.size // block), int)
                for i in range(tiles.count):
                    expected[read_axis(axis, *tiles[i], block).blocks(block)] += 1
                uses = block_uses(axis, tiles, block)
                assert uses.tolist() == expected.tolist()
        # Needed are the blocks under a tap, no other.
        pixels = naive.touched(**parameters, mode=mode)
        for block in (1, 5, 32, 500):
            uses = block_uses(axis, AxisTiles(axis.out_size, 7), block)
            under_taps = {p // block for p in pixels}
            if axis.dilation > block or axis.gap >= block:
                assert set(np.flatnonzero(uses)) == under_taps
            else:
                assert set(np.flatnonzero(uses)) >= under_taps


@given(axes())
def test_neighbouring_tiles_share_no_more_blocks_than_planned(parameters):
    axis = Axis(**parameters)
    tiles = AxisTiles(axis.out_size, 7)
    for block in (1, 5, 32):
        touched = [
            set(read_axis(axis, *tiles[i], block).blocks(block).tolist())
            for i in range(tiles.count)
        ]
        most = max((len(a & b) for a, b in itertools.pairwise(touched)), default=0)
        assert most <= shared_blocks(axis, tiles, block)


@given(axes())
def test_coverage_counts_pixels_inside_fields(parameters):
    axis = Axis(**parameters)
    inside = set()
    for o in range(axis.out_size):
        low, high = axis.reach(o, o + 1)
        inside |= set(range(max(low, 0), min(high, axis.size)))
    assert axis.covered == len(inside)
    assert axis.uncovered == max(0, axis.size - axis.reach(0, axis.out_size)[1])
    first, end = axis.interior
    whole = [
        o
        for o in range(axis.out_size)
        if axis.reach(o, o + 1)[0] >= 0 and axis.reach(o, o + 1)[1] <= axis.size
    ]
    assert whole == list(range(first, end))
