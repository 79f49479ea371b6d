"""The register tile of a bank: kernels times outputs, as in a matrix product.

A panel holds the pixels of NR vectors of neighbouring outputs, tap by tap, side
by side in memory, so that all kernels of a bank read them from the first-level
cache in whole vectors. Weights lie in the order they are read in too, those of
MR kernels for each tap. Every sum still adds its own taps in their one order.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tileconv.engine.blocking import MR, NR
from tileconv.engine.micro.register_tile import RegisterTile
from tileconv.engine.vectors import INDEX_TYPE, constant_index, intrinsic

UNROLLED = 4
"""Taps in a step of the loop: its own instructions are then few."""


def _panel_tile(*, sparse: bool) -> Any:
    """Return an intrinsic that sums up MR kernels times NR vectors of outputs.

    panel            pointer to float, the pixels
    offsets, count   pointer to intp: where in the panel the NR vectors of each tap lie
    weights          pointer to float, MR of them for each tap
    sums             address of the first sum
    sums_stride      elements from the sums of one kernel to those of the next
    accumulate       the sums continue what lies there, instead of beginning with 0

    Every sum adds its taps in the order of ``offsets``, each by one fused multiply-add. Weights of
    0 are skipped if ``sparse``: they are no taps.
    """
    unrolled = 1 if sparse else UNROLLED

    def typer(
        typingctx: Any,
        panel: Any,
        offsets: Any,
        weights: Any,
        count: Any,
        sums: Any,
        sums_stride: Any,
        accumulate: Any,
    ) -> Any:
        kinds = panel, offsets, weights, types.intp, types.uintp, types.intp, types.boolean
        return types.void(*kinds), generate

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        panel, offsets, weights, count, sums, sums_stride, accumulate = args
        tile = RegisterTile(context, builder, signature.args[0].dtype, MR, NR)
        add = tile.fma_unless_zero if sparse else tile.fma
        tile.zero()
        with builder.if_then(accumulate):
            tile.load(tile.rows_at(sums, sums_stride))
        offsets_at = cgutils.alloca_once_value(builder, offsets)
        weights_at = cgutils.alloca_once_value(builder, weights)

        def add_taps(taps: int) -> None:
            offset_at, weight_at = builder.load(offsets_at), builder.load(weights_at)
            for tap in range(taps):
                offset = builder.load(builder.gep(offset_at, [constant_index(tap)]))
                pixels = tile.vectors_at(builder.gep(panel, [offset]))
                for j in range(MR):
                    weight = builder.gep(weight_at, [constant_index(tap * MR + j)])
                    add(j, builder.load(weight), pixels)
            builder.store(builder.gep(offset_at, [constant_index(taps)]), offsets_at)
            builder.store(builder.gep(weight_at, [constant_index(taps * MR)]), weights_at)

        repeat_unrolled(builder, count, unrolled, add_taps)
        tile.store(tile.rows_at(sums, sums_stride))
        return context.get_dummy_value()

    return intrinsic(typer)


def repeat_unrolled(
    builder: ir.IRBuilder, count: ir.Value, unrolled: int, add_taps: Callable[[int], None]
) -> None:
    """Generate loops that add ``count`` taps: ``unrolled`` at a time, then one by one."""
    steps = builder.udiv(count, constant_index(unrolled))
    with cgutils.for_range(builder, steps, intp=INDEX_TYPE):
        add_taps(unrolled)
    if unrolled > 1:
        left = builder.urem(count, constant_index(unrolled))
        with cgutils.for_range(builder, left, intp=INDEX_TYPE):
            add_taps(1)


sum_panel = _panel_tile(sparse=False)
sum_sparse_panel = _panel_tile(sparse=True)
