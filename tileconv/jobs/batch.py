"""Many rasters by one job: checked as a whole, then planned or run one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tileconv.errors import ConfigError, InputError, OutputExistsError, TileconvError
from tileconv.jobs.prepare import plan_job
from tileconv.jobs.report import Report
from tileconv.jobs.table import table
from tileconv.planning.plan import Plan
from tileconv.raster.reading import check_vrt, is_vrt
from tileconv.raster.writing import OwnFile, OwnFiles
from tileconv.text import plural, shown, size, visible

if TYPE_CHECKING:
    from tileconv.jobs.job import Batch, Job

_Done = TypeVar("_Done", Plan, Report)


@dataclass(frozen=True)
class Failure:
    """An input of a batch that could not be planned or run, and why."""

    source: str
    target: str
    error: TileconvError

    def to_dict(self) -> dict[str, Any]:
        """Return the failure as values that JSON knows."""
        return {
            "source": self.source,
            "target": self.target,
            "kind": type(self.error).__name__,
            "error": str(self.error),
            "exit_code": self.error.exit_code,
        }


@dataclass(frozen=True)
class _Results(Generic[_Done]):
    """What came of each input, in their order."""

    entries: tuple[_Done | Failure, ...]

    @property
    def done(self) -> tuple[_Done, ...]:
        """What succeeded."""
        return tuple(entry for entry in self.entries if not isinstance(entry, Failure))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What did not."""
        return tuple(entry for entry in self.entries if isinstance(entry, Failure))

    @property
    def exit_code(self) -> int:
        """0 if all is well, else the highest code of a failure: the system's before the data's."""
        return max((failure.error.exit_code for failure in self.failures), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON knows, one entry per input."""
        return {
            "inputs": [
                {"status": "failed" if isinstance(entry, Failure) else "done", **entry.to_dict()}
                for entry in self.entries
            ],
            "done": len(self.done),
            "failed": len(self.failures),
            "exit_code": self.exit_code,
        }

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)


@dataclass(frozen=True)
class BatchPlan(_Results[Plan]):
    """The plans of a batch; entries are plans, or failures of inputs that cannot be read.

    >>> import tileconv
    >>> from importlib.resources import files
    >>> scene = files("tileconv.data") / "landsat8_crop.tif"
    >>> keys = {"kernel": {"name": "box"}, "output": {"path": "out/{stem}_mean.tif"}}
    >>> batch = tileconv.load_job({"input": {"path": [str(scene), "missing.tif"]}, **keys})
    >>> plan = tileconv.plan(batch)
    >>> [p.out_shape for p in plan.done], [f.error.exit_code for f in plan.failures]
    ([(3, 510, 510)], [3])
    """

    def __str__(self) -> str:
        """Return a table with a line per input, and sums."""
        columns = ["Input", "Output", "Bands, rows, columns", ">Blocks", ">Read", ">Peak memory"]
        rows = []
        for entry in self.entries:
            if isinstance(entry, Failure):
                rows.append([shown(entry.source), "not possible", "", "", "", ""])
                continue
            bands, height, width = entry.out_shape
            read = entry.bytes_to_read
            rows.append(
                [
                    shown(entry.source),
                    shown(entry.target),
                    f"{bands} x {height:,} x {width:,} {entry.numbers.target}",
                    f"{entry.blocks_decoded:,} of {entry.layout.blocks_total:,}",
                    "" if read is None else size(read),
                    size(entry.peak_memory_bytes),
                ]
            )
        blocks = sum(plan.blocks_decoded for plan in self.done)
        read = sum(plan.bytes_to_read or 0 for plan in self.done)
        written = sum(plan.output_bytes for plan in self.done)
        lines = [
            table(columns, rows),
            f"Batch     {_tally(self, 'can run')}",
            f"          {plural(blocks, 'block')} to decode, about {size(read)} compressed; "
            f"up to {size(written)} to write",
        ]
        notes = dict.fromkeys(
            f"Note      {shown(plan.source)}: {visible(note)}"
            for plan in self.done
            for note in plan.notes
        )
        return "\n".join([*lines, *notes])


@dataclass(frozen=True)
class BatchReport(_Results[Report]):
    """What the run of a batch did; entries are reports, or failures, which leave no output.

    >>> import tempfile, tileconv
    >>> from importlib.resources import files
    >>> scene = files("tileconv.data") / "landsat8_crop.tif"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keys = {"kernel": {"name": "box"}, "output": {"path": f"{folder}/{{stem}}_mean.tif"}}
    ...     batch = tileconv.load_job({"input": {"path": [str(scene), "missing.tif"]}, **keys})
    ...     report = tileconv.run(batch)
    >>> len(report.done), [str(f.error)[-25:] for f in report.failures], report.exit_code
    (1, ['missing.tif: no such file'], 3)
    """

    seconds: float
    """Wall time of all."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON knows, one entry per input."""
        return {**super().to_dict(), "seconds": self.seconds}

    def __str__(self) -> str:
        """Return a table with a line per input."""
        columns = ["Input", "Output", "Bands, rows, columns", ">On disk", ">Blocks", ">Seconds"]
        rows = []
        for entry in self.entries:
            if isinstance(entry, Failure):
                rows.append([shown(entry.source), "failed", "", "", "", ""])
                continue
            bands, height, width = entry.out_shape
            rows.append(
                [
                    shown(entry.source),
                    shown(entry.target),
                    f"{bands} x {height:,} x {width:,} {entry.dtype}",
                    size(entry.bytes_written),
                    f"{entry.blocks_decoded:,}",
                    f"{entry.seconds:.1f}",
                ]
            )
        lines = [table(columns, rows), f"Batch     {_tally(self, f'done in {self.seconds:.1f} s')}"]
        lines += [
            f"Warning   {shown(report.source)}: {visible(text)}"
            for report in self.done
            for text in report.warnings
        ]
        return "\n".join(lines)


def plan_batch(batch: Batch) -> BatchPlan:
    """Plan every input of ``batch`` from headers alone."""
    check_batch(batch)
    return BatchPlan(tuple(_each(batch, plan_job)))


def run_batch(
    batch: Batch,
    run: Callable[[Job], Report],
    *,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = False,
) -> BatchReport:
    """Run ``batch``: an input that fails leaves no output and does not stop the others.

    What would make two files one is refused before anything is written. ``run``
    runs each input; with ``resume`` it looks at outputs that are there.
    """
    check_batch(batch)
    if not resume:
        _check_free(batch)
    started = time.perf_counter()
    entries: list[Report | Failure] = []
    for entry in _each(batch, run):
        entries.append(entry)
        if progress is not None:
            progress(len(entries), len(batch.jobs))
    return BatchReport(tuple(entries), time.perf_counter() - started)


def check_batch(batch: Batch) -> None:
    """Check that nothing is written twice, nor over an input or what else is not to be replaced."""
    writer: dict[Path, Job] = {}
    for job in batch.jobs:
        for path in job.written:
            if (other := writer.setdefault(path, job)) != job:
                raise ConfigError(
                    f"{batch.name}: {other.source} and {job.source} would both write {path}"
                )
    own = _own_files(batch)
    for path, job in writer.items():
        if (found := own.find(path)) is not None:
            raise OutputExistsError(
                f"{path}: to be written for {job.source}, but it is {found}; "
                "choose another output.path"
            )
    for target in (target for job in batch.jobs for target in job.targets):
        target.check_distinct(own)
        if target.overwrite:
            target.check(own)


def _own_files(batch: Batch) -> OwnFiles:
    """Return the files that all jobs of a batch are made of and read, those of VRTs too."""
    files: list[OwnFile] = []
    for job in batch.jobs:
        files += job.files
        if isinstance(job.source, Path):
            what = f"the input {job.source}"
            files.append((job.source, what))
            if is_vrt(job.source):
                with contextlib.suppress(InputError):  # reported when its turn comes
                    files += [(file, what) for file in check_vrt(job.source, job.root)[1]]
    return OwnFiles(files)


def _check_free(batch: Batch) -> None:
    """Check that no output is there already, unless the job says to replace it."""
    there = [
        path
        for job in batch.jobs
        for path in job.written
        if os.path.lexists(path) and not job.overwrite
    ]
    if there:
        more = f" (and {len(there) - 1} more of the {len(batch.jobs)} outputs)"
        raise OutputExistsError(
            f"{there[0]}{more * (len(there) > 1)}: exists already; choose another output.path, "
            "narrow input.path to what is missing, or set output.overwrite (--overwrite)"
        )


def _each(batch: Batch, work: Callable[[Job], _Done]) -> Iterator[_Done | Failure]:
    for job in batch.jobs:
        try:
            yield work(job)
        except TileconvError as error:
            yield Failure(str(job.source), str(job.target), error)


def _tally(results: BatchPlan | BatchReport, word: str) -> str:
    total, failed = len(results.entries), len(results.failures)
    text = f"{total - failed} of {plural(total, 'input')} {word}"
    return f"{text}, {failed} failed" if failed else text
