"""The page that a plan prints, rendered from its facts alone (`Plan.facts`)."""

from collections.abc import Mapping
from typing import Any

from tileconv.text import plural, shown, size, visible

Facts = Mapping[str, Any]


def render(facts: Facts) -> str:
    """Return a page that tells a person what a run will do."""
    lines = [
        ("Input", _input(facts)),
        ("", f"{_shape(facts['in_shape'])} {_dtype(facts)}{_bands(facts)}"),
        ("", _storage(facts)),
    ]
    if "crs" in facts["details"]:
        lines.append(("", facts["details"]["crs"]))
    lines += [
        (facts["label"], _operator(facts)),
        ("", _sampling(facts)),
        ("Output", shown(facts["target"])),
        ("", _output(facts)),
        ("", _place(facts)),
        ("Coverage", _coverage(facts)),
        ("Read", _reading(facts)),
        ("Compute", _computing(facts)),
    ]
    if "parts" in facts:
        lines.append(("Cluster", _parts(facts)))
    lines.append(("Memory", _memory(facts)))
    if facts["missing"] != "propagate" or facts["require_center"]:
        lines.append(("Missing", _missing(facts)))
    lines += [("Note", note) for note in facts["notes"]]
    return "\n".join(f"{label:<9} {visible(text)}".rstrip() for label, text in lines)


def _shape(shape: list[int]) -> str:
    bands, rows, columns = shape
    return f"{plural(bands, 'band')} of {rows:,} x {columns:,}"


def _dtype(facts: Facts) -> str:
    if facts["stored_dtype"] is None:
        return str(facts["source_dtype"])
    return f"{facts['stored_dtype']}, scaled to {facts['source_dtype']}"


def _bands(facts: Facts) -> str:
    count = facts["read_bands"]
    if count == facts["in_shape"][0]:
        return ""
    return f", of which {plural(count, 'band')}: {', '.join(map(str, facts['bands']))}"


def _input(facts: Facts) -> str:
    if "scenes" not in facts:
        return shown(facts["source"])
    return f"mosaic of {plural(len(facts['scenes']), 'scene')}, the first {shown(facts['source'])}"


def _storage(facts: Facts) -> str:
    """Return the sizes of storage blocks, of which the scenes of a mosaic may have several."""
    sizes = [f"{rows} x {columns}" for rows, columns in facts["storage_blocks"]]
    text = "stored in blocks of " + ", ".join(sizes[:3]) + ", ..." * (len(sizes) > 3)
    text += ", pixel-interleaved" * facts["interleaved"]
    return text + _detail(facts, "codec")


def _detail(facts: Facts, key: str) -> str:
    details = facts["details"]
    return f", {details[key]}" if key in details else ""


def _operator(facts: Facts) -> str:
    text = str(facts["text"])
    if facts["dilation"] != [1, 1]:
        (dy, dx), (sy, sx) = facts["dilation"], facts["span"]
        text += f", dilation {dy} x {dx} (spans {sy} x {sx})"
    return text


def _sampling(facts: Facts) -> str:
    (y, x), pads = facts["stride"], facts["padding"]
    text = f"stride {y} x {x}, "
    if not any(pads):
        return text + "no padding"
    modes = dict.fromkeys(facts["padding_modes"])
    told = " and ".join(
        f"{mode} {facts['padding_value']:g}" if mode == "constant" else mode for mode in modes
    )
    if len(modes) > 1:
        told += " along y and x"
    sides = (
        f"{pads[0]}"
        if len(set(pads)) == 1
        else "top {}, left {}, bottom {}, right {}".format(*pads)
    )
    return text + f"padding {sides} ({told})"


def _output(facts: Facts) -> str:
    fill = facts["nodata"]
    nodata = "no nodata" if fill is None else f"nodata {float(fill):g}"
    text = f"{_shape(facts['out_shape'])} {facts['dtype']}, {nodata}"
    return f"{text}, up to {size(facts['output_bytes'])}" + _detail(facts, "driver")


def _place(facts: Facts) -> str:
    (y, x), (down, right) = facts["stride"], facts["shift"]
    text = f"pixel = {y} x {x} input pixels; "
    if facts["out_transform"] is None:
        return text + "the input has no transform, so neither has the output"
    if down == right == 0:
        return text + "origin unchanged"
    return text + f"origin moved by ({down:+g}, {right:+g}) input pixels (y, x)"


def _coverage(facts: Facts) -> str:
    gap, uncovered = facts["gap"], facts["uncovered"]
    text = f"{facts['coverage']['total']:.1%} of the input lies in a receptive field"
    if any(gap):
        text += f"; gaps of {gap[0]} x {gap[1]} pixels between fields"
    if any(uncovered):
        left = zip(uncovered, ("row", "column"), strict=True)
        rest = [plural(count, word) for count, word in left if count]
        text += f"; the last {' and '.join(rest)} are beyond every field"
    return text


def _reading(facts: Facts) -> str:
    needed, total, decoded = (facts[f"blocks_{kind}"] for kind in ("needed", "total", "decoded"))
    text = f"{needed:,} of {plural(total, 'block')} ({needed / total:.1%}), "
    if decoded == needed:
        text += "each decoded once"
    else:
        pieces = "parts" if "parts" in facts else f"{facts['panels']} panels"
        text += f"{decoded:,} decodings ({pieces} share blocks at their borders)"
    stored = facts["bytes_to_read"]
    return text if stored is None else text + f", about {size(stored)} compressed"


def _computing(facts: Facts) -> str:
    bands, rows, columns = facts["out_shape"]
    tile_rows, tile_columns = facts["tile_shape"]
    taps = facts["taps"]
    loops = f"{facts['algorithm']} loops in {facts['compute_dtype']}"
    if facts["widened_from"] is not None:
        loops += f" (whole sums of {plural(taps, 'tap')} of {facts['widened_from']} need it)"
    return (
        f"{plural(facts['tiles'], 'tile')} of {min(tile_rows, rows):,} x "
        f"{min(tile_columns, columns):,} outputs, "
        f"{plural(facts['threads'], 'thread')}; {loops}, "
        f"{_si(bands * rows * columns * taps)}{facts['operations']}"
    )


def _parts(facts: Facts) -> str:
    """Say what the tasks of a cluster are, and what it costs that they share no memory."""
    rows, columns = facts["part_shape"]
    again = facts["blocks_decoded"] / max(facts["blocks_needed"], 1) - 1
    return (
        f"{plural(facts['parts'], 'task')} of {rows:,} x {columns:,} outputs, "
        f"{facts['parts_at_a_time']:,} at a time; "
        f"{again:.1%} of the blocks are decoded twice"
    )


def _missing(facts: Facts) -> str:
    policy, least = facts["missing"], facts["min_valid_fraction"]
    text = f"{policy} {facts['fill_value']:g}" if policy == "fill" else policy
    if least:
        text += f", where at least {least:.0%} of the weights lie on valid pixels"
    return str(text + ", where the centre is valid" * facts["require_center"])


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


def _memory(facts: Facts) -> str:
    peak, limit = size(facts["peak_memory_bytes"]), size(facts["memory_limit"])
    return f"about {peak} at the peak; the limit is {limit}"
