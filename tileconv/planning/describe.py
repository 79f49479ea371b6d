"""The page that a plan prints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tileconv.text import visible

if TYPE_CHECKING:
    from tileconv.planning.plan import Plan


def describe(plan: Plan) -> str:
    """Return a page that tells a person what a run will do."""
    lines: list[tuple[str, str]] = []
    add = lines.append
    rows, columns = plan.layout.shape
    add(("Input", _input(plan)))
    add(("", f"{_shape(plan.layout.bands, rows, columns)} {_dtype(plan)}{_bands(plan)}"))
    where = ", pixel-interleaved" if plan.layout.interleaved and plan.layout.bands > 1 else ""
    add(("", f"stored in blocks of {_blocks(plan)}{where}{_detail(plan, 'codec')}"))
    if "crs" in plan.details:
        add(("", plan.details["crs"]))
    add(("Kernel", _kernel(plan)))
    add(("", _sampling(plan)))
    add(("Output", shown(plan.target)))
    add(("", _output(plan)))
    add(("", _place(plan)))
    add(("Coverage", _coverage(plan)))
    add(("Read", _reading(plan)))
    add(("Compute", _computing(plan)))
    if plan.parts is not None:
        add(("Cluster", _parts(plan)))
    add(("Memory", _memory(plan)))
    if plan.convolution.missing != "propagate" or plan.convolution.require_center:
        add(("Missing", _missing(plan)))
    for note in plan.notes:
        add(("Note", note))
    return "\n".join(f"{label:<9} {visible(text)}".rstrip() for label, text in lines)


def shown(path: str) -> str:
    """Return a path as people like to read it: relative if it lies in the current folder.

    >>> import os
    >>> shown(os.path.join(os.getcwd(), "out", "a.tif")) == os.path.join("out", "a.tif")
    True
    """
    here = str(Path.cwd())
    inside = path.startswith(here + os.sep) and here != os.sep
    return visible(os.path.relpath(path) if inside else path)


def size(count: float) -> str:
    """Return a number of bytes as people say it.

    >>> size(300), size(5 << 20), size(3 << 29)
    ('300 bytes', '5.0 MiB', '1.5 GiB')
    """
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1024 or unit == "TiB":
            break
    return f"{count:.1f} {unit}" if count < 99.95 else f"{count:.0f} {unit}"


def plural(count: int, word: str) -> str:
    """Return ``count`` and ``word`` in the right number.

    >>> plural(1, "tile"), plural(20000, "tile")
    ('1 tile', '20,000 tiles')
    """
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _shape(bands: int, rows: int, columns: int) -> str:
    return f"{plural(bands, 'band')} of {rows:,} x {columns:,}"


def _dtype(plan: Plan) -> str:
    if plan.layout.stored is None:
        return str(plan.layout.dtype)
    return f"{plan.layout.stored}, scaled to {plan.layout.dtype}"


def _bands(plan: Plan) -> str:
    if plan.layout.read_bands == plan.layout.bands:
        return ""
    return f", of which {plural(plan.layout.read_bands, 'band')}: {', '.join(map(str, plan.bands))}"


def _input(plan: Plan) -> str:
    if not plan.scenes:
        return shown(plan.source)
    return f"mosaic of {plural(len(plan.scenes), 'scene')}, the first {shown(plan.source)}"


def _blocks(plan: Plan) -> str:
    """Return the sizes of storage blocks, of which the scenes of a mosaic may have several."""
    layout = plan.layout
    sizes = {scene.layout.block for scene in layout.scenes} or {layout.block}
    texts = [f"{rows} x {columns}" for rows, columns in sorted(sizes, reverse=True)]
    return ", ".join(texts[:3]) + ", ..." * (len(texts) > 3)


def _detail(plan: Plan, key: str) -> str:
    return f", {plan.details[key]}" if key in plan.details else ""


def _kernel(plan: Plan) -> str:
    kh, kw = plan.convolution.kernel_shape
    c = plan.convolution
    y, x = plan.geometry.y, plan.geometry.x
    text = f"{kh} x {kw}, {plural(c.tap_count, 'tap')}"
    if c.weights.ndim == 2:
        text += f", sum {c.weights.sum():g}"
    elif c.mixes_bands:
        text = f"{plural(c.count, 'output')}, each {c.weights.shape[1]} bands x {text}"
        text += f", {c.groups} groups" * (c.groups > 1) + ", bias" * (c.bias is not None)
    else:
        text = f"{plural(c.count, 'kernel')} of {text}, each on every band"
    if (y.dilation, x.dilation) != (1, 1):
        text += f", dilation {y.dilation} x {x.dilation} (spans {y.span} x {x.span})"
    return text


def _sampling(plan: Plan) -> str:
    y, x = plan.geometry.y, plan.geometry.x
    pads = (y.before, x.before, y.after, x.after)
    text = f"stride {y.stride} x {x.stride}, "
    if not any(pads):
        return text + "no padding"
    modes = dict.fromkeys((y.mode, x.mode))
    told = " and ".join(
        f"{mode} {plan.convolution.padding_value:g}" if mode == "constant" else mode
        for mode in modes
    )
    if len(modes) > 1:
        told += " along y and x"
    sides = (
        f"{pads[0]}"
        if len(set(pads)) == 1
        else "top {}, left {}, bottom {}, right {}".format(*pads)
    )
    return text + f"padding {sides} ({told})"


def _output(plan: Plan) -> str:
    fill = plan.numbers.fill
    nodata = "no nodata" if fill is None else f"nodata {fill.item():g}"
    text = f"{_shape(*plan.out_shape)} {plan.numbers.target}, {nodata}"
    return f"{text}, up to {size(plan.output_bytes)}" + _detail(plan, "driver")


def _place(plan: Plan) -> str:
    y, x = plan.geometry.y, plan.geometry.x
    text = f"pixel = {y.stride} x {x.stride} input pixels; "
    if plan.out_transform is None:
        return text + "the input has no transform, so neither has the output"
    if y.shift == x.shift == 0:
        return text + "origin unchanged"
    return text + f"origin moved by ({y.shift:+g}, {x.shift:+g}) input pixels (y, x)"


def _coverage(plan: Plan) -> str:
    y, x = plan.geometry.y, plan.geometry.x
    text = f"{plan.coverage['total']:.1%} of the input lies in a receptive field"
    if y.gap or x.gap:
        text += f"; gaps of {y.gap} x {x.gap} pixels between fields"
    if y.uncovered or x.uncovered:
        left = ((y.uncovered, "row"), (x.uncovered, "column"))
        parts = [plural(count, word) for count, word in left if count]
        text += f"; the last {' and '.join(parts)} are beyond every field"
    return text


def _reading(plan: Plan) -> str:
    needed, total, decoded = plan.blocks_needed, plan.layout.blocks_total, plan.blocks_decoded
    text = f"{needed:,} of {plural(total, 'block')} ({needed / total:.1%}), "
    if decoded == needed:
        text += "each decoded once"
    else:
        pieces = f"{plan.tiles.panels} panels" if plan.parts is None else "parts"
        text += f"{decoded:,} decodings ({pieces} share blocks at their borders)"
    stored = plan.bytes_to_read
    return text if stored is None else text + f", about {size(stored)} compressed"


def _computing(plan: Plan) -> str:
    tiles = plan.tiles
    shape = (min(tiles.y.tile, tiles.y.total), min(tiles.x.tile, tiles.x.total))
    taps = plan.convolution.tap_count
    bands, rows, columns = plan.out_shape
    loops = f"{plan.algorithm.name} loops in {plan.numbers.compute}"
    if plan.numbers.widened:
        loops += f" (whole sums of {plural(taps, 'tap')} of {plan.numbers.source} need it)"
    return (
        f"{plural(tiles.count, 'tile')} of {shape[0]:,} x {shape[1]:,} outputs, "
        f"{plural(plan.threads, 'thread')}; {loops}, "
        f"{_si(bands * rows * columns * taps)}multiply-adds"
    )


def _parts(plan: Plan) -> str:
    """Say what the tasks of a cluster are, and what it costs that they share no memory."""
    assert plan.parts is not None
    part = plan.parts[0]
    again = plan.blocks_decoded / max(plan.blocks_needed, 1) - 1
    return (
        f"{plural(plan.parts.count, 'task')} of {part.shape[0]:,} x {part.shape[1]:,} outputs, "
        f"{plan.parts.runs:,} at a time; "
        f"{again:.1%} of the blocks are decoded twice"
    )


def _missing(plan: Plan) -> str:
    c = plan.convolution
    text = f"{c.missing} {c.fill_value:g}" if c.missing == "fill" else c.missing
    if c.min_valid_fraction:
        text += f", where at least {c.min_valid_fraction:.0%} of the weights lie on valid pixels"
    return text + ", where the centre is valid" * c.require_center


def _si(count: float) -> str:
    """Return a number with k, M, G or T and a space.

    >>> _si(12), _si(16384**2 * 9)
    ('12 ', '2.42 G ')
    """
    units = ["", "k ", "M ", "G ", "T "]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:,.3g} {units[0]}"


def _memory(plan: Plan) -> str:
    peak, limit = size(plan.peak_memory_bytes), size(plan.memory_limit)
    return f"about {peak} at the peak; the limit is {limit}"
