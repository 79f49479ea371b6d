"""Where a job reads and writes: relative paths, globs, and the names put into ``output.path``."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tileconv.errors import ConfigError, InputError
from tileconv.raster.reading import Place, Remote, is_url, wrong_url
from tileconv.text import shown_url

LONGEST_NAME = 255
"""Bytes, of nearly every file system."""


def find_inputs(folder: Path, given: str | Sequence[str], *, remote: bool = False) -> list[Place]:
    """Return the files that ``input.path`` names, those of each glob sorted, none of them twice.

    A name with ``*``, ``?`` or ``[`` that is there as written is a file, not a
    glob. URLs are read if ``remote`` says so.
    """
    found: dict[Place, None] = {}
    for text in [given] if isinstance(given, str) else given:
        if is_glob(folder, text):
            found |= dict.fromkeys(_matches(folder, text))
            continue
        path: Place = place(folder, text)
        if remote and is_url(text):
            if (wrong := wrong_url(text)) is not None:
                raise ConfigError(f"{shown_url(text)}: {wrong}")
            scheme, _, rest = text.partition("://")
            path = Remote(f"{scheme.lower()}://{rest}")
        if path in found:
            raise ConfigError(f"{text} is given twice")
        found[path] = None
    return list(found)


def is_glob(folder: Path, text: str) -> bool:
    """Say whether ``text`` stands for the files that match it."""
    if "\0" in text or "://" in text or text.startswith(("/vsi", "<")) or not glob.has_magic(text):
        return False
    return not os.path.lexists(folder / text)


def _matches(folder: Path, pattern: str) -> list[Path]:
    """Return the files that match, sorted; ``**`` stands for any folders, none of them hidden."""
    try:
        names = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - Path.glob has no root_dir
    except ValueError:  # letters that no name can have
        names = []
    paths = sorted(path for name in names if os.path.isfile(path := place(folder, name)))  # noqa: PTH113 - Path.is_file raises
    if not paths:
        raise InputError(f"{folder / pattern}: no file matches")
    return paths


def place(folder: Path, path: str) -> Path:
    """Return where an input lies, without ``..``; behind a link that is not the folder before."""
    short = Path(os.path.normpath(folder / path))
    parent = folder / Path(path.partition("\0")[0]).parent
    with contextlib.suppress(ValueError):  # letters that no name can have
        if ".." in parent.parts and os.path.realpath(parent) != os.path.realpath(short.parent):
            return Path(os.path.realpath(parent)) / short.name
    return short


def fill_in(template: str, source: Place) -> str:
    """Put the input's names into {stem}, {name} and {parent}; no other field has a meaning."""
    fields = {"{stem}": source.stem, "{name}": source.name, "{parent}": source.parent.name}
    mark = re.compile("|".join(map(re.escape, fields)))
    rest = mark.sub("", template)
    if "{" in rest or "}" in rest:
        raise ConfigError(f"only {', '.join(fields)} can stand in braces; got {template!r}")
    path = mark.sub(lambda found: fields[found[0]], template)
    if not Path(path).name or "\0" in path:
        raise ConfigError(f"needs a file name; got {path!r}")
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes of the command line, or of another file's name
        raise ConfigError(f"is not text in UTF-8: {path!r}") from None
    if "://" in path or path.startswith("/vsi"):  # GDAL's names for networks and memory
        raise ConfigError(f"only files on disk are written; got {path!r}")
    return path


def check_no_fields(template: str) -> None:
    """Check that the output of a mosaic has a name of its own."""
    if "{" in template:
        raise ConfigError(
            f"a mosaic is made of many files: give its output a name; got {template!r}"
        )


def check_lengths(made: Mapping[Path, str]) -> None:
    """Check that a disk takes the names of files that a run makes; each is said in words."""
    limits: dict[Path, int] = {}
    for path, what in made.items():
        if path.parent not in limits:
            limits[path.parent] = _longest_name(path.parent)
        length, limit = len(os.fsencode(path.name)), limits[path.parent]
        if length > limit:
            raise ConfigError(
                f"name too long: {what} would have one of {length} bytes, {path.name!r}, and the "
                f"disk takes {limit}"
            )


def _longest_name(folder: Path) -> int:
    """Return how many bytes a name may have in a folder that is there, or is going to be."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return LONGEST_NAME


def check_distinct_names(sources: Sequence[Place], targets: Sequence[Path]) -> None:
    """Check that no two inputs share an output and that no output is an input, by their names."""
    owner: dict[Path, Place] = {}
    for source, target in zip(sources, targets, strict=True):
        other = owner.setdefault(target, source)
        if other != source:
            raise ConfigError(
                f"{other} and {source} would both be written to {target}; "
                "put {stem}, {name} or {parent} into the path"
            )
    if len(sources) == 1:
        return  # reported when the files are looked at
    for source in sources:
        if isinstance(source, Path) and source in owner:
            raise ConfigError(
                f"{source} is an input, and the output of {owner[source]}; "
                "write into another folder, or narrow input.path"
            )
