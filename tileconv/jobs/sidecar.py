"""The report that a run leaves beside its output where the job asks for it: ``OUTPUT.json``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tileconv.bounded import read_bounded
from tileconv.raster.reading import is_vrt
from tileconv.raster.writing import part_paths, put
from tileconv.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tileconv.jobs.report import Report
    from tileconv.raster.writing import OwnFile, Target

LARGEST_REPORT = 1 << 28
"""Bytes, at the most: that of a run of a million parts on a cluster."""


def sha256_of_output(output: Path) -> str:
    """Return the SHA-256 of a file; of many files, that of their names and SHA-256 in order."""
    if is_vrt(output):
        return _joined(output.parent, [output, *part_paths(output)])
    if not output.is_dir():
        with output.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return _joined(output, sorted(path for path in output.rglob("*") if path.is_file()))


def _joined(folder: Path, paths: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {found}\n".encode())
    return whole.hexdigest()


def write_sidecar(target: Target, own: Iterable[OwnFile], report: Report) -> None:
    """Write a run's report and its output's checksum, whole or not at all."""

    def write(path: Path) -> None:
        found = sha256_of_output(Path(report.target))
        content = {"tileconv": __version__, "sha256": found, **report.to_dict()}
        with path.open("x", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")

    put(target, own, write)


def find_difference(path: Path, output: Path) -> str | None:
    """Say how an output differs from what its report tells; None if it does not."""
    try:
        told = json.loads(read_bounded(path, LARGEST_REPORT))["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its report {path.name} cannot be read: {error}"
    found = sha256_of_output(output)
    if found == told:
        return None
    return f"its SHA-256 is {found[:16]}..., and its report says {str(told)[:16]}..."
