"""Run cases in children of this process, and say how each ended.

A child is a copy of a process that has imported everything and compiled its loops: a case costs
milliseconds. It takes cases one after the other, tells of each one through a pipe, and is
replaced when one kills it. What a case wrote lies in a folder that is emptied before the next.
"""

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from fuzzing.outcomes import FaultError, Outcome
from tileconv.errors import TileconvError

CHUNK = 40
"""Cases that a child takes: it is young again after them."""
OFTEN = 10
"""Of so many cases one runs twice."""
TEMPORARY = "*.tileconv-*"
"""What tileconv calls files that are not finished."""
LAST_WORDS = 0.5
"""Seconds that a late child has to say where it is."""
DETAIL = 6000
"""Characters of an error that are kept."""


class Case(Protocol):
    """One thing to try."""

    label: str
    change: str

    def run(self, folder: Path) -> str:
        """Try it, writing into ``folder / "out"``; return a digest of the result."""


Make = Callable[[int, Path], Case]
"""Makes the case of a number, with its files in a folder ``in`` of an empty folder."""


@dataclass(frozen=True)
class Bounds:
    """What a case may take."""

    seconds: float = 20.0
    mebibytes: int = 2048
    """Of memory, beside what the process had before."""


USUAL_BOUNDS = Bounds()


def run_cases(
    make: Make,
    numbers: Iterable[int],
    root: Path,
    *,
    bounds: Bounds = USUAL_BOUNDS,
    processes: int = 1,
    often: int = OFTEN,
) -> Iterator[tuple[int, Outcome]]:
    """Yield how each case ends, as they end. ``often``: of so many, one runs twice; 0 is none."""
    _check_single()
    gc.collect()
    gc.freeze()  # or the collector copies pages of this process into each child
    waiting = deque(_chunks(list(numbers)))
    free = [root / f"child-{i}" for i in range(processes)]
    children = selectors.DefaultSelector()
    try:
        while waiting or children.get_map():
            while free and waiting:
                child = _Child.start(make, waiting.popleft(), free.pop(), bounds, often)
                children.register(child.pipe, selectors.EVENT_READ, child)
            for child in _ready(children):
                yield from child.answers()
                if not child.has_ended():
                    continue
                children.unregister(child.pipe)
                if child.numbers:  # the first of them is the one that it died of
                    yield child.numbers.popleft(), child.last_words()
                if child.numbers:
                    waiting.appendleft(child.numbers)
                child.close()
                free.append(child.folder)
    finally:
        for key in list(children.get_map().values()):
            key.data.kill()
            key.data.close()
        children.close()
        gc.unfreeze()


def _check_single() -> None:
    """Raise if this process has threads: its copies would lack them, and may wait for them."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise RuntimeError(f"a process with {threads} threads cannot be copied whole")


def _chunks(numbers: Sequence[int]) -> Iterator[deque[int]]:
    for first in range(0, len(numbers), CHUNK):
        yield deque(numbers[first : first + CHUNK])


def _ready(children: selectors.BaseSelector) -> list["_Child"]:
    """Wait for the next thing that some child has to say, or that its time is over."""
    now = time.monotonic()
    alive: list[_Child] = [key.data for key in children.get_map().values()]
    patience = max(0.0, min(child.deadline for child in alive) - now)
    told = [key.data for key, _ in children.select(patience)]
    late = [c for c in alive if c not in told and c.deadline <= time.monotonic()]
    for child in late:
        child.time_out()
    return told + late


@dataclass(eq=False)
class _Child:
    """A process that runs cases."""

    process: int
    pipe: int
    numbers: deque[int]
    """Those that it has not told of yet."""
    folder: Path
    bounds: Bounds
    deadline: float = 0.0
    timed_out: bool = False
    status: int | None = None
    _told: bytes = b""
    _ended: bool = field(default=False)

    @classmethod
    def start(
        cls, make: Make, numbers: deque[int], folder: Path, bounds: Bounds, often: int
    ) -> "_Child":
        folder.mkdir(exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(read)
            _serve(make, list(numbers), folder, bounds, often, write)
        os.close(write)
        return cls(process, read, numbers, folder, bounds, time.monotonic() + bounds.seconds)

    def answers(self) -> Iterator[tuple[int, Outcome]]:
        """Yield what it has told since the last time."""
        data = b"" if self.timed_out else os.read(self.pipe, 1 << 20)
        self._ended = not data
        *lines, self._told = (self._told + data).split(b"\n")
        for line in lines:
            self.deadline = time.monotonic() + self.bounds.seconds
            said = json.loads(line)
            if said is not None:  # nothing but that a case begins
                yield self.numbers.popleft(), Outcome(**said)

    def has_ended(self) -> bool:
        if self._ended and self.status is None:
            _, self.status = os.waitpid(self.process, 0)
        return self._ended

    def last_words(self) -> Outcome:
        """Return how the case ended that the process ended with."""
        label, change = _read_label(self.folder)
        noise = _noise(self.folder)
        if self.timed_out:
            told = f"not done after {self.bounds.seconds:g} s\n{noise}"
            return Outcome("timeout", label, change, told)
        assert self.status is not None
        if os.WIFSIGNALED(self.status):
            name = signal.Signals(os.WTERMSIG(self.status)).name
            return Outcome("signal", label, change, f"{name}\n{noise}")
        told = f"the process exited with {os.waitstatus_to_exitcode(self.status)}"
        return Outcome("exit", label, change, told, noise=noise)

    def time_out(self) -> None:
        """Have it say where it is, and kill it."""
        self.timed_out = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGUSR1)
            time.sleep(LAST_WORDS)
        self.kill()

    def kill(self) -> None:
        """Kill it, and what it has started."""
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(self.process, signal.SIGKILL)

    def close(self) -> None:
        self.kill_rest()
        os.close(self.pipe)
        if self.status is None:
            _, self.status = os.waitpid(self.process, 0)

    def kill_rest(self) -> None:
        """Kill what an ended child has left running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)


def _serve(
    make: Make, numbers: list[int], folder: Path, bounds: Bounds, often: int, pipe: int
) -> NoReturn:
    """Be the child: run cases and tell of them."""
    try:
        os.setsid()  # so that all of it can be killed, and Ctrl-C is the parent's alone
        _die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stderr = os.open(folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(stderr, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        faulthandler.enable(stderr)
        faulthandler.register(signal.SIGUSR1, stderr)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            _limit(bounds)
            outcome = _attempt(make, number, folder, bounds)
            if often and number % often == 0:
                _tell(pipe, None)
                again = _attempt(make, number, folder, bounds)
                if again.identity != outcome.identity and not outcome.is_fault:
                    told = f"first: {outcome.identity}\nthen: {again.identity}"
                    outcome = again if again.is_fault else _unsteady(outcome, told)
            _tell(pipe, outcome)
        os._exit(0)
    finally:
        os._exit(1)


def _unsteady(outcome: Outcome, told: str) -> Outcome:
    return Outcome("unsteady", outcome.label, outcome.change, told[:DETAIL], noise=outcome.noise)


def _die_with_parent() -> None:
    """Have the system kill this process if its parent is killed, on Linux."""
    death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def _limit(bounds: Bounds) -> None:
    """Let memory grow by no more than a case may take."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + (bounds.mebibytes << 20)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def _tell(pipe: int, outcome: Outcome | None) -> None:
    line = json.dumps(None if outcome is None else outcome.to_dict()).encode() + b"\n"
    while line:
        line = line[os.write(pipe, line) :]


def _attempt(make: Make, number: int, folder: Path, bounds: Bounds) -> Outcome:
    """Run one case in an empty folder."""
    place = folder / "case"
    os.chdir(folder)
    for name in ("in", "out", "tmp"):
        _empty(place / name)
    os.environ["TMPDIR"] = os.environ["CPL_TMPDIR"] = tempfile.tempdir = str(place / "tmp")
    os.chdir(place / "in")
    os.ftruncate(2, 0)
    case = make(number, place)
    (folder / "label").write_text(json.dumps([case.label, case.change]))
    before = _names(place)
    _forget_peak()
    resident = _memory("VmRSS")
    started = time.perf_counter()
    outcome = _ended(case, place)
    outcome.seconds = round(time.perf_counter() - started, 4)
    outcome.mebibytes = max(0, _memory("VmHWM") - resident) >> 10
    outcome.label, outcome.change = case.label, case.change
    outcome.notes = list(getattr(case, "notes", ()))
    outcome.detail = outcome.detail.replace(str(place), "FOLDER")[-DETAIL:]
    outcome.noise = _noise(folder)
    _look_around(outcome, place, before, bounds)
    return outcome


def _empty(folder: Path) -> None:
    """Leave a folder with nothing in it; to remove it and make it again takes longer."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            os.unlink(entry)  # noqa: PTH108


def _ended(case: Case, place: Path) -> Outcome:
    try:
        return Outcome("result", digest=case.run(place))
    except FaultError as fault:
        return Outcome(fault.kind, detail=str(fault))
    except MemoryError as error:
        return Outcome("memory", detail=_told(error))
    except TileconvError as error:
        told = f"{type(error).__name__}: {error}"
        return Outcome("refused", detail=told, code=error.exit_code)
    except BaseException as error:
        return Outcome("traceback", detail=_told(error))


def _told(error: BaseException) -> str:
    """Return a traceback; objects whose own text raises are no obstacle."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"{frames}{type(error).__name__}: cannot be told"


def _look_around(outcome: Outcome, place: Path, before: set[str], bounds: Bounds) -> None:
    """Find files that should not be there, and memory that should not have been taken."""
    if outcome.is_fault:
        return
    left = _names(place) - before
    if outcome.kind == "result":
        unfinished = {str(path.relative_to(place)) for path in place.rglob(TEMPORARY)}
        left = {name for name in left if name.startswith("tmp")} | unfinished
    if left:
        outcome.kind, outcome.detail = "left behind", f"{sorted(left)}; {outcome.detail}"
    elif outcome.mebibytes > bounds.mebibytes:
        outcome.kind, outcome.detail = "memory", f"{outcome.mebibytes} MiB; {outcome.detail}"


def _names(place: Path) -> set[str]:
    """Return the files below a folder."""
    found = set()
    for folder, _, files in os.walk(place):
        found |= {os.path.relpath(os.path.join(folder, name), place) for name in files}  # noqa: PTH118
    return found


def _forget_peak() -> None:
    """Reset what the system keeps as the peak of this process's memory."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    """Return a line of the system's about this process's memory, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _read_label(folder: Path) -> tuple[str, str]:
    try:
        label, change = json.loads((folder / "label").read_text())
    except (OSError, ValueError):
        return "?", "?"
    return label, change


def _noise(folder: Path) -> str:
    """Return the beginning of what was written to stderr."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(OSError):
        return (folder / "stderr").read_bytes()[:DETAIL].decode("utf-8", "replace")
    return ""
