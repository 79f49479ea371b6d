"""A job given from Python: the plain values that YAML would give, and nothing else.

What YAML cannot hold stands in for itself by its repr, so that the message that refuses it names
its key as well, and nothing of the user's own is called while the job is checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tileconv.arguments import as_flag, as_number, as_word, short_repr, told
from tileconv.errors import ConfigError, ConvolutionError
from tileconv.jobs.yaml import DEEPEST, KeyPath

FREE: tuple[KeyPath, ...] = (("compute", "cluster", "options"), ("compute", "security"))
"""Keys whose values go to somebody else's class, which says what they may be."""


@dataclass(frozen=True, eq=False)
class Strange:
    """A value that no key of a job takes."""

    text: str

    def __repr__(self) -> str:
        return self.text


@contextmanager
def config_errors() -> Iterator[None]:
    """Let arguments of calls on jobs be refused as keys of jobs are."""
    try:
        yield
    except ConvolutionError as error:
        raise ConfigError(*error.args) from error.__cause__


def plain_job(source: Any) -> dict[str, Any]:
    """Return the keys of a job as plain values.

    >>> plain_job({"stride": (np.int64(2), 3), "bias": np.ones(1), "padding": b"1"})
    {'stride': [2, 3], 'bias': [1.0], 'padding': b'1'}
    """
    with config_errors(), told("the job"):
        keys: dict[str, Any] = _plain(source, (), {})
    return keys


def _plain(value: Any, path: KeyPath, above: dict[int, Any]) -> Any:
    """Return one value; ``above`` are the ones that it lies in."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if issubclass(kind, list | tuple | Mapping) or (
        issubclass(kind, np.ndarray) and value.ndim and not np.ma.is_masked(value)
    ):
        if id(value) in above or len(above) > DEEPEST:
            where = ".".join(map(str, path[:3]))
            raise ConfigError(f"{where}: nested deeper than {DEEPEST} levels, or in itself")
        return _plain_members(value, path, above | {id(value): value})
    if issubclass(kind, os.PathLike):
        value = os.fspath(value)
    for plain in (as_flag, as_number, as_word):
        found = plain(value)
        if found is not None:
            return found
    return value if path[:3] in FREE or path[:2] in FREE else Strange(short_repr(value))


def _plain_members(value: Any, path: KeyPath, above: dict[int, Any]) -> Any:
    """Return what a mapping, a list or an array holds."""
    if issubclass(type(value), Mapping):
        words = ((as_word(key) or short_repr(key), inner) for key, inner in value.items())
        return {word: _plain(inner, (*path, word), above) for word, inner in words}
    if issubclass(type(value), np.ndarray) and value.dtype.kind in "biuf":
        return value.tolist()
    walk = list.__iter__ if issubclass(type(value), list) else type(value).__iter__
    return [_plain(inner, (*path, i), above) for i, inner in enumerate(walk(value))]


def check_path(value: Any, name: str) -> Path:
    """Return a path that the system can be asked for."""
    with config_errors(), told(name):
        given = os.fspath(value) if issubclass(type(value), os.PathLike) else value
        text = as_word(given)
        if text is not None and "\0" not in text:
            os.fsencode(text)
            return Path(text)
    raise ConfigError(f"{name} must be a path, got {short_repr(value)}")
