"""What a run keeps beside its output until it is done: parts, and a manifest of finished ones.

The first line of the manifest says what the run is; every other one tells of a
finished part. Each line ends with a checksum: one that was cut short, by a kill
or a full disk, does not count.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TextIO

from tileconv.bounded import open_regular, read_bounded
from tileconv.errors import OutputError, OutputExistsError
from tileconv.raster.writing import freed_aside, remove, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST_MANIFEST = 1 << 30
"""Bytes, at the most: a line is a few hundred."""
SYNC_EVERY = 1.0
"""Seconds between two syncs of the manifest: what power loss may cost."""


def run_folder(target: Path) -> Path:
    """Return where the run that writes ``target`` keeps its parts."""
    return target.with_name(f".{shortened(target.name[:100], 200)}.tileconv-run")


class Manifest:
    """The manifest of a run, locked against a second run of the same output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header: dict[str, Any] = {}
        self.parts: dict[int, dict[str, Any]] = {}
        self._file: TextIO | None = None
        self._synced = 0.0

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "manifest.jsonl"

    @property
    def token_path(self) -> Path:
        """A file by which workers know that they see the folder of this very run."""
        return self.folder / "token"

    def read(self) -> bool:
        """Read what an interrupted run left; say whether there is anything."""
        try:
            lines = read_bounded(self.path, LARGEST_MANIFEST).decode().splitlines()
        except (OSError, UnicodeDecodeError):
            return False
        entries = [entry for line in lines if (entry := _decode(line)) is not None]
        if not entries or "token" not in entries[0]:
            return False
        self.header = entries[0]
        self.parts = {entry["part"]: entry for entry in entries[1:]}
        return True

    def begin(self, header: Mapping[str, Any]) -> None:
        """Make the folder, empty."""
        try:
            remove(self.folder)
            self.folder.mkdir(parents=True)
            (self.folder / "parts").mkdir()
            (self.folder / "tries").mkdir()
            (self.folder / "looks").mkdir()
            self.token_path.write_text(header["token"])
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made: {error.strerror}") from error
        self.header, self.parts = dict(header), {}
        self._lock("x")
        self._write(self.header)

    def go_on(self) -> None:
        """Append to what an interrupted run left; a line that was cut short is taken away."""
        self._lock("r+")
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        self._write(self.header)
        for entry in self.parts.values():
            self._write(entry)

    def add(self, entry: dict[str, Any]) -> None:
        """Record a finished part."""
        self.parts[entry["part"]] = entry
        self._write(entry)

    def close(self) -> None:
        """Let go of the file and of the lock."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # a line that could not be written: `_write` said so
                file.close()

    def discard(self) -> None:
        """Remove everything."""
        self.close()
        with freed_aside((self.folder / "parts").rglob("*.tif")):
            shutil.rmtree(self.folder, ignore_errors=True)
        remove(self.folder)  # NFS keeps files that are held, under other names, until they are not

    def _lock(self, mode: Literal["x", "r+"]) -> None:
        self._file = file = self.path.open(mode, encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise OutputExistsError(
                f"{self.folder}: another run is writing this output; wait for it, or stop it"
            ) from None
        except OSError:  # a disk without locks
            return

    def is_locked(self) -> bool:
        """Say whether a run is writing there now."""
        try:
            with open_regular(self.path) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._file is None:
            raise OutputError(f"{self.path}: the run has ended")
        text = json.dumps(entry)
        try:
            self._file.write(f"{text} {zlib.crc32(text.encode()):08x}\n")
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error


def _decode(line: str) -> dict[str, Any] | None:
    text, _, crc = line.rpartition(" ")
    if crc != f"{zlib.crc32(text.encode()):08x}":
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
