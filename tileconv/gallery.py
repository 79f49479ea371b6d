"""The kernels that have a name, as pages for the terminal."""

import inspect
import textwrap

import numpy as np

from tileconv import kernels
from tileconv.errors import ConfigError

_POSITIVE, _NEGATIVE = " ░▒▓█", " ·∙•●"
_WIDEST = 9
"""Columns up to which weights are printed as numbers."""


def list_kernels() -> str:
    """Return one line per kernel: call and first sentence."""
    calls = {name: f"{name}{_arguments(name)}" for name in kernels.BY_NAME}
    width = max(map(len, calls.values()))
    width = min(width, 44)
    lines = []
    for name, call in calls.items():
        text = _doc(name)[0].removeprefix("Return ")
        lines.append(
            f"{call:<{width}}  {text}" if len(call) <= width else f"{call}\n{'':{width}}  {text}"
        )
    return "\n".join([*lines, "", "tileconv kernels NAME shows one with its weights."])


def show_kernel(name: str) -> str:
    """Return a page on one kernel with its default arguments: doc, weights, sum, gain, picture."""
    make = kernels.BY_NAME.get(name)
    if make is None:
        raise ConfigError(
            f"there is no kernel named {name!r}; there are {', '.join(kernels.BY_NAME)}"
        )
    weights = make()
    kh, kw = weights.shape
    page = [f"{name}{_arguments(name)}", "", *_doc(name), ""]
    if kw <= _WIDEST:
        page += [" ".join(f"{w:8.4f}" for w in row) for row in weights]
        page.append("")
    gain, size = _clean(float(weights.sum())), np.abs(weights).sum()
    page.append(f"{kh} x {kw} pixels, sum (gain) {gain:g}, sum of |w| {size:g}")
    page += ["", *_picture(weights), "", f"{_POSITIVE.strip()} above 0, {_NEGATIVE.strip()} below"]
    return "\n".join(page)


def _arguments(name: str) -> str:
    given = inspect.signature(kernels.BY_NAME[name]).parameters.values()
    return f"({', '.join(f'{p.name}={p.default}' for p in given)})"


def _doc(name: str) -> list[str]:
    """Return the docstring without its examples, one paragraph per line."""
    text = inspect.getdoc(kernels.BY_NAME[name]) or ""
    text = text.partition(">>>")[0].strip()
    return [
        line
        for paragraph in text.split("\n\n")
        for line in textwrap.wrap(" ".join(paragraph.replace("``", "").split()), 96)
    ]


def _clean(value: float) -> float:
    return 0.0 if abs(value) < 1e-12 else float(value)


def _picture(weights: np.ndarray) -> list[str]:
    """Return two characters per weight, shaded by its size."""
    largest = np.abs(weights).max()
    rows = []
    for row in weights:
        marks = []
        for weight in row:
            ramp = _POSITIVE if weight >= 0 else _NEGATIVE
            marks.append(ramp[int(np.ceil(abs(weight) / largest * 4 - 1e-9))] * 2)
        rows.append("".join(marks).rstrip())
    return rows
