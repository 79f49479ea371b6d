"""The command line: thin, and quick to say what is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn, TextIO

import click

from tileconv.errors import OutputError, TileconvError
from tileconv.text import visible, visible_lines
from tileconv.version import __version__

_JOB = click.argument("job_file", metavar="JOB.yaml", type=click.Path(path_type=Path))
_SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a value of the job, e.g. --set stride=8 --set output.path=b.tif.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class Terminated(KeyboardInterrupt):
    """SIGTERM came: stop as for Ctrl-C, but exit with 143."""


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


class _Group(click.Group):
    """Turns errors into one message and the exit code that fits."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run as a process of its own, which signals end tidily from its first line to its last."""
        try:
            signal.signal(signal.SIGTERM, _terminate)
            self.main(*args, **kwargs)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # what is left is to exit
                signal.signal(number, signal.SIG_IGN)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        _prepare_streams()
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.Exit as done:
            code = done.exit_code
        except click.UsageError as error:
            page = io.StringIO()
            error.show(page)
            with _heard_or_not():
                click.echo(visible_lines(page.getvalue()), err=True, nl=False)
            code = 2
        except TileconvError as error:
            _tell(error)
            code = error.exit_code
        except (KeyboardInterrupt, click.Abort) as stop:  # click makes an Abort of either signal
            terminated = isinstance(stop.__cause__ or stop, Terminated)
            word, code = ("Terminated", 143) if terminated else ("Interrupted", 130)
            with _heard_or_not():
                click.echo(f"{word}; no output was left unfinished.", err=True)
        sys.exit(code if isinstance(code, int) else 0)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _printing():  # here --help and --version are answered
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _printing():
            return super().invoke(ctx)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tileconv")
def main() -> None:
    """Strided convolution over rasters too big for memory.

    A job is a YAML file: what to read, the kernel, the stride, where to write.

    \b
      tileconv init           make a job and a scene to try it on
      tileconv plan job.yaml  see what it will read, hold and write
      tileconv run job.yaml   run it
      tileconv verify job.yaml  recompute parts of the output, compare the bits
      tileconv kernels        list the kernels that have a name
    """  # noqa: D301 - click wants the backspace itself


@main.command()
@_JOB
@_SET
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--quicklook", is_flag=True, help="Also write a PNG of input and output.")
@click.option(
    "--scheduler",
    metavar="WHERE",
    help="threads, synchronous, processes, or a dask scheduler like tcp://host:8786.",
)
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run left.")
@click.option(
    "--performance-report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write dask's own page about a run on a cluster.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary; errors only.")
@_JSON
def run(
    job_file: Path,
    assignments: tuple[str, ...],
    overwrite: bool,
    quicklook: bool,
    scheduler: str | None,
    resume: bool,
    performance_report: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a job. Each output is complete and checked, or absent."""
    extra = [*assignments]
    extra += ["output.overwrite=true"] if overwrite else []
    extra += ["output.quicklook=true"] if quicklook else []
    extra += [f"compute.scheduler={scheduler}"] if scheduler else []
    import tileconv  # noqa: PLC0415 - --help and --version answer without it

    job = tileconv.load_job(job_file, set=extra)
    unit = "inputs" if isinstance(job, tileconv.Batch) else "tiles"
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    with _progress(unit, show=not quiet and on_terminal) as progress:
        report = tileconv.run(
            job, progress=progress, resume=resume, performance_report=performance_report
        )
    if as_json:
        _say(json.dumps(report.to_dict(), indent=2))
    elif not quiet:
        _say(str(report))
    _end(report)


@main.command()
@_JOB
@_SET
@_JSON
def plan(job_file: Path, assignments: tuple[str, ...], as_json: bool) -> None:
    """Say what a job will read, compute, hold and write. Reads headers only."""
    import tileconv  # noqa: PLC0415

    result = tileconv.plan(tileconv.load_job(job_file, set=assignments))
    _say(result.to_json() if as_json else str(result))
    _end(result)


def _end(result: object) -> None:
    """Tell of each input of a batch that failed, and exit with the code of the gravest."""
    for failure in getattr(result, "failures", ()):
        _tell(failure.error)
    if code := getattr(result, "exit_code", 0):
        raise click.exceptions.Exit(code)


def _prepare_streams() -> None:
    """Make sure that text goes where it should, and nothing else does."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it is closed: the next file opened, like an output, would be in its place
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a name's letters


def _say(text: str) -> None:
    """Print a result: all that goes to standard output goes through here, but click's own pages."""
    if sys.stdout is None:
        raise OutputError("standard output is closed: there is nowhere to print the result")
    click.echo(visible_lines(text))


def _tell(error: TileconvError) -> None:
    """Print an error to standard error: its message bears nothing that a terminal would obey."""
    with _heard_or_not():
        click.secho("Error: ", fg="red", bold=True, err=True, nl=False)
        click.echo(str(error).replace(f"{visible(str(Path.cwd()))}{os.sep}", ""), err=True)


@contextmanager
def _printing() -> Iterator[None]:
    """Tell of a full disk or a closed pipe behind standard output: click tells nothing, or all."""
    try:
        yield
    except OSError as error:  # of a result, or of a page of click's own
        frames = walk_tb(error.__traceback__)
        if all(frame.f_code is not click.echo.__code__ for frame, _ in frames):
            raise
        _give_up(sys.stdout)
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


@contextmanager
def _heard_or_not() -> Iterator[None]:
    """Go on where standard error takes nothing: the exit code tells as well."""
    try:
        yield
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Lead a stream nowhere, or Python would tell at exit that it cannot be flushed."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@main.command()
@_JOB
@_SET
@click.option(
    "--windows", default=24, show_default=True, type=click.IntRange(1), help="Windows to compare."
)
@click.option("--seed", default=0, show_default=True, help="Chooses the windows.")
@_JSON
def verify(
    job_file: Path, assignments: tuple[str, ...], windows: int, seed: int, as_json: bool
) -> None:
    """Recompute windows of a finished output in a single pass, and compare the bits."""
    import tileconv  # noqa: PLC0415
    from tileconv.verify import verify as check  # noqa: PLC0415

    loaded = tileconv.load_job(job_file, set=assignments)
    jobs = loaded.jobs if isinstance(loaded, tileconv.Batch) else (loaded,)
    code = 0
    for job in jobs:  # of a batch: one result a line where it is JSON
        try:
            found = check(job, windows=windows, seed=seed)
        except TileconvError as error:
            if len(jobs) == 1:
                raise
            _tell(error)
            code = max(code, error.exit_code)
            continue
        _say(found.to_json(indent=None if len(jobs) > 1 else 2) if as_json else str(found))
        code = max(code, 0 if found.passed else 3)
    if code:
        raise click.exceptions.Exit(code)


@main.command()
@click.argument("name", required=False)
def kernels(name: str | None) -> None:
    """List the kernels that have a name, or show one."""
    from tileconv.gallery import list_kernels, show_kernel  # noqa: PLC0415

    _say(list_kernels() if name is None else show_kernel(name))


@main.command()
@click.argument(
    "job_file", metavar="[JOB.yaml]", default="job.yaml", type=click.Path(path_type=Path)
)
def init(job_file: Path) -> None:
    """Write a commented job, and a small Landsat scene to try it on."""
    from tileconv.data import write_starter  # noqa: PLC0415

    for path in write_starter(job_file):
        _say(f"wrote {visible(str(path))}")
    _say(f"next: tileconv run {visible(str(job_file))}")


@contextmanager
def _progress(unit: str, *, show: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on stderr while tiles, or the inputs of a batch, are computed."""
    if not show:
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("preparing", total=None, detail="")

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description="convolving")

        def detail(text: str) -> None:
            bar.update(task, detail=text)

        tell.detail = detail  # type: ignore[attr-defined]
        yield tell
