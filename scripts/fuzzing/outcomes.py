"""How a case can end, and which ends are faults."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

FAULTS = (
    "traceback",  # an exception that is none of tileconv's
    "signal",  # the process was killed, or killed itself
    "exit",  # the process ended before the case did
    "timeout",
    "memory",
    "left behind",  # files of a run that failed, or temporary ones of a run that did not
    "differs",  # other pixels than those that GDAL and numpy give
    "unsteady",  # a second run ended in another way
)
FINE = ("result", "refused")
"""A result, and an error of tileconv's."""

_VOLATILE = re.compile(r"0x[0-9a-f]{4,}|\btmp[a-z0-9_]{8}\b")
"""Addresses and random names, which differ from run to run."""


class FaultError(Exception):
    """What a case raises that has found a fault by itself."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass
class Outcome:
    """How a case ended."""

    kind: str
    """One of `FINE` and `FAULTS`."""
    label: str = ""
    """What the case was, for counting: the kind of file, the function."""
    change: str = ""
    """What was odd in it."""
    detail: str = ""
    """The error, or the end of a traceback."""
    code: int = 0
    """Of an error of tileconv's: what the command line exits with."""
    digest: str = ""
    """Of a result: the bits of it."""
    noise: str = ""
    """What C libraries wrote to stderr."""
    notes: list[str] = field(default_factory=list)
    """What else is worth counting."""
    seconds: float = 0.0
    mebibytes: int = 0
    """The peak of the process's memory beside what it had at the start."""

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS

    @property
    def identity(self) -> tuple[str, str, str]:
        """What must be the same when the case runs again; threads may meet another block first."""
        detail = self.detail.partition(":")[0] if self.kind == "refused" else self.detail
        return self.kind, _VOLATILE.sub("-", detail), self.digest

    @property
    def cause(self) -> str:
        """Return what faults of one cause have in common: the kind, the error and its place."""
        lines = [line.strip() for line in self.detail.strip().splitlines() if line.strip()]
        places = [line for line in lines if line.startswith("File ")]
        if not places:
            return f"{self.kind}: {self.label}"
        if "most recent call first" in self.detail:  # as the interpreter tells where it was killed
            places.reverse()
        inside = [line for line in places if "/tileconv/" in line and "/scripts/" not in line]
        where = (inside or places)[-1].partition("tileconv/")[2] or places[-1]
        last = "" if self.kind in ("signal", "timeout") else lines[-1].partition(":")[0][:80]
        return f"{self.kind}: {last} at {where}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
