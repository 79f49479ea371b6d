"""The report that a run leaves beside its output where the job asks for it: ``OUTPUT.json``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tileconv.errors import OutputError
from tileconv.raster.part_files import part_paths
from tileconv.raster.vrt import is_vrt
from tileconv.version import __version__

if TYPE_CHECKING:
    from tileconv.jobs.report import Report


def checksum(output: Path) -> str:
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


def write_sidecar(path: Path, report: Report) -> None:
    """Write a run's report and its output's checksum, whole or not at all."""
    temporary: str | None = None
    try:
        target = Path(report.target)
        content = {"tileconv": __version__, "sha256": checksum(target), **report.to_dict()}
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp", delete=False
        ) as file:
            temporary = file.name
            json.dump(content, file, indent=2)
            file.write("\n")
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 - a temporary file is its owner's
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise OutputError(f"{path}: the report could not be written: {error.strerror}") from error


def find_difference(path: Path, output: Path) -> str | None:
    """Say how an output differs from what its report tells; None if it does not."""
    try:
        told = json.loads(path.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its report {path.name} cannot be read: {error}"
    found = checksum(output)
    if found == told:
        return None
    return f"its SHA-256 is {found[:16]}..., and its report says {str(told)[:16]}..."


def _umask() -> int:
    now = os.umask(0o022)
    os.umask(now)
    return now
