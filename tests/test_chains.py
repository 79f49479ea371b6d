"""Chains of axes against a reference that walks them tap by tap, over sets of positions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import chains

from tileconv.errors import ConvolutionError
from tileconv.geometry import Axis, Geometry, compose
from tileconv.planning.reads import HOLE, PADDING, read_axis, read_chain

OUTSIDE = -1


def field(axis, output):
    """Pixels under the taps of one output, in order, by `numpy.pad`; -1 outside the raster."""
    pixels = np.arange(axis.size)
    amounts = (axis.before, axis.after)
    if axis.mode in ("constant", "missing"):
        padded = np.pad(pixels, amounts, constant_values=OUTSIDE)
    else:
        padded = np.pad(pixels, amounts, mode=axis.mode)
    return [int(padded[output * axis.stride + axis.dilation * tap]) for tap in range(axis.kernel)]


def pixels_under(axis, outputs):
    return {pixel for output in outputs for pixel in field(axis, output)} - {OUTSIDE}


def hull(pixels):
    return set(range(min(pixels), max(pixels) + 1)) if pixels else set()


def positions_under(axes, output):
    """Positions on the raster that one output of a chain reaches, and whether a step pads."""
    positions, pads = {output}, False
    for axis in reversed(axes):
        positions = {
            each * axis.stride - axis.before + axis.dilation * tap
            for each in positions
            for tap in range(axis.kernel)
        }
        pads = pads or not all(0 <= each < axis.size for each in positions)
    return positions, pads


@st.composite
def requests(draw):
    """Draw a chain, a range of outputs of its last step, and the size of storage blocks."""
    axes = draw(chains())
    first = draw(st.integers(0, axes[-1].out_size - 1))
    end = draw(st.integers(first + 1, min(axes[-1].out_size, first + 30)))
    return axes, first, end, draw(st.sampled_from((None, 1, 4, 16, 512)))


@given(requests())
def test_every_step_gets_the_pixels_of_its_fields(request):
    axes, *outputs = request
    steps = read_chain(axes, *outputs)
    assert len(steps) == len(axes)
    for axis, (computed, read) in zip(axes, steps, strict=True):
        assert read.outputs == len(computed)
        for number, output in enumerate(computed):
            held = [
                int(read.pixels[number * read.stride + read.dilation * tap])
                for tap in range(axis.kernel)
            ]
            assert held == field(axis, int(output))


@given(requests())
def test_no_step_computes_or_reads_more_than_it_must(request):
    axes, first, end, _ = request
    steps = read_chain(axes, first, end, block=1)
    needed = set(range(first, end))
    for axis, (computed, read) in zip(reversed(axes), reversed(steps), strict=True):
        outputs = {int(output) for output in computed}
        if outputs != needed:
            assert outputs == hull(needed)
            assert read.size <= len(needed) * axis.kernel
        needed = pixels_under(axis, outputs)
        assert {int(pixel) for pixel in read.pixels} - {PADDING, HOLE} == needed


@given(requests())
def test_a_chain_reads_only_storage_blocks_under_its_taps(request):
    axes, first, end, block = request
    computed, read = read_chain(axes, first, end, block)[0]
    needed = pixels_under(axes[0], computed)
    assert needed <= {int(pixel) for pixel in read.pixels}
    if block is not None:
        # a last block of few pixels may lie between two taps, and is then read with its neighbour
        whole = set(range(axes[0].size // block))
        touched = {pixel // block for pixel in needed}
        assert whole & touched == whole & set(read.blocks(block).tolist())


@given(requests())
def test_values_are_those_of_whole_steps_one_after_the_other(request):
    axes, first, end, block = request
    raster = np.random.default_rng(0).integers(1, 100, axes[0].size)
    whole = raster
    for axis in axes:
        padded = np.append(whole, 7)  # what constant and missing padding hold here
        fields = [padded[field(axis, output)] for output in range(axis.out_size)]
        whole = np.array([each @ np.arange(1, axis.kernel + 1) for each in fields]) % 1009
    held, numbers = raster, np.arange(axes[0].size)
    for axis, (computed, read) in zip(axes, read_chain(axes, first, end, block), strict=True):
        # a place that no step fills holds rubbish: a tap that touched one would show
        window = np.full(read.size, -(10**6))
        inside = read.index >= 0
        window[inside] = held[np.searchsorted(numbers, read.index[inside])]
        window[read.index == PADDING] = 7
        sums = np.zeros(len(computed), np.int64)
        for tap in range(axis.kernel):
            sums += (tap + 1) * window[read.dilation * tap :][:: read.stride][: sums.size]
        held, numbers = sums % 1009, np.asarray(computed)
    np.testing.assert_array_equal(held, whole[first:end])


@given(requests())
def test_a_chain_of_one_step_reads_as_its_axis_does(request):
    axes, *_, block = request
    axis = axes[0]
    ((outputs, read),) = read_chain([axis], 0, axis.out_size, block)
    alone = read_axis(axis, 0, axis.out_size, block)
    assert outputs == range(axis.out_size)
    assert (read.stride, read.dilation) == (alone.stride, alone.dilation)
    np.testing.assert_array_equal(read.index, alone.index)


@given(chains())
def test_the_composed_axis_lies_where_the_chain_lies(axes):
    composed = compose(axes)
    assert composed.out_size == axes[-1].out_size
    position, transform = 40.0, (30.0, 2.0, 500.0, 1.0, -30.0, 900.0)
    stepwise = transform
    for axis in axes:
        position = axis.out_position(position)
        stepwise = Geometry(axis, axis).out_transform(stepwise)
    assert composed.out_position(40.0) == pytest.approx(position)
    assert Geometry(composed, composed).out_transform(transform) == pytest.approx(stepwise)


@given(chains())
def test_the_composed_field_spans_the_fields_of_all_steps(axes):
    composed = compose(axes)
    interior = []
    for output in range(composed.out_size):
        positions, pads = positions_under(axes, output)
        assert composed.reach(output, output + 1) == (min(positions), max(positions) + 1)
        if not pads:
            interior.append(output)
    low = composed.reach(0, 1)[0]
    offsets = {each - low for each in positions_under(axes, 0)[0]}
    assert offsets <= {composed.dilation * tap for tap in range(composed.kernel)}
    assert len(axes) == 1 or math.gcd(*offsets) in (0, composed.dilation)
    first, end = composed.interior
    assert list(range(first, end)) == interior


@given(requests())
def test_in_the_interior_one_read_is_as_good_as_a_chain(request):
    axes, first, end, _ = request
    composed = compose(axes)
    inside_from, inside_to = composed.interior
    first, end = max(first, inside_from), min(end, inside_to)
    if first >= end:
        return
    read = read_chain(axes, first, end)[0].read
    assert (int(min(read.pixels)), int(max(read.pixels)) + 1) == composed.reach(first, end)


def test_outputs_of_nothing_but_padding_need_no_earlier_step():
    smooth = Axis(size=30, kernel=3, before=1, after=1)
    steps = read_chain([smooth, Axis(size=30, kernel=2, before=4)], 0, 2, block=8)
    assert not steps[0].outputs
    assert not steps[0].read.size
    assert not steps[0].read.blocks(8).size
    assert steps[1].read.pixels.tolist() == [PADDING] * 3


def test_sparse_outputs_keep_earlier_steps_sparse():
    smooth = Axis(size=100_000, kernel=5, before=2, after=2, mode="reflect")
    sparse = Axis(size=100_000, kernel=3, stride=1000)
    first, _ = read_chain([smooth, sparse], 0, 100, block=256)
    assert len(first.outputs) == 300
    assert first.read.size == 1500
    assert first.read.blocks(256).size < 210


def test_steps_that_do_not_join_are_refused():
    with pytest.raises(ConvolutionError, match="has 9 inputs, but the step before it gives 8"):
        compose([Axis(size=10, kernel=3), Axis(size=9, kernel=3)])
