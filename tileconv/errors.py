"""What can go wrong, each with the exit code that the command line gives it.

Every error is a `TileconvError` and also the builtin that fits, so that
``except ValueError`` and ``except OSError`` go on working. A message says what
was given, what is allowed, and where.
"""

from typing import ClassVar

from tileconv.text import visible, without_secrets


class TileconvError(Exception):
    """Root of all errors that tileconv raises on purpose.

    >>> import tileconv
    >>> try:
    ...     tileconv.load_job("missing.yaml")
    ... except tileconv.TileconvError as error:
    ...     print(error.exit_code, error)
    2 missing.yaml: no such job file; `tileconv init` makes one to start from
    """

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 2 the user's mistake, 3 the data's, 4 the system's."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(visible(without_secrets(a)) if isinstance(a, str) else a for a in args))


class ConvolutionError(TileconvError, ValueError):
    """A kernel, stride, padding or dtype that has no meaning, or does not fit the raster.

    >>> import tileconv
    >>> tileconv.convolve([[1, 2], [3, 4]], [[1.0]], stride=0)
    Traceback (most recent call last):
    tileconv.errors.ConvolutionError: stride must lie in 1..2147483647, got 0
    """

    exit_code = 2


class ConfigError(TileconvError, ValueError):
    """A job that cannot run as written: a wrong key, value or combination of them.

    Each argument is a line of the message.

    >>> import tileconv
    >>> tileconv.load_job({"input": {"path": "a.tif"}, "kernel": {"name": "box"}, "ouput": {}})
    Traceback (most recent call last):
    tileconv.errors.ConfigError: job is not a valid job:
      ouput: unknown key; did you mean `output`?
    """

    exit_code = 2

    def __str__(self) -> str:
        """Return the lines; only between them can there be a line break."""
        return "\n  ".join(map(str, self.args))


class UnsupportedError(TileconvError, NotImplementedError):
    """A thing that is valid, but that this version of tileconv does not do.

    >>> import tileconv
    >>> tileconv.convolve([[1, 2], [3, 4]], [[1j]])
    Traceback (most recent call last):
    tileconv.errors.UnsupportedError: complex kernels are not supported yet
    """

    exit_code = 2


class OutputExistsError(TileconvError, FileExistsError):
    """The output is there already and the job does not say to overwrite it, or is the input.

    >>> issubclass(OutputExistsError, FileExistsError), OutputExistsError.exit_code
    (True, 2)
    """

    exit_code = 2


class InputError(TileconvError, OSError):
    """An input that is missing, unreadable, damaged, or of a kind tileconv refuses.

    >>> import tileconv
    >>> keys = {"kernel": {"name": "box"}, "output": {"path": "b.tif"}}
    >>> tileconv.plan(tileconv.load_job({"input": {"path": "/missing.tif"}, **keys}))
    Traceback (most recent call last):
    tileconv.errors.InputError: /missing.tif: no such file
    """

    exit_code = 3


class OutputError(TileconvError, OSError):
    """An output that could not be written whole; nothing is left at its path.

    >>> issubclass(OutputError, OSError), OutputError.exit_code
    (True, 4)
    """

    exit_code = 4


class DamagedPartError(OutputError):
    """A part of an output, written by a task on a cluster, that is not what was written.

    >>> issubclass(DamagedPartError, OutputError), DamagedPartError.exit_code
    (True, 4)
    """


class OutOfMemoryError(TileconvError, MemoryError):
    """The job does not fit into the memory that the machine has left.

    >>> issubclass(OutOfMemoryError, MemoryError), OutOfMemoryError.exit_code
    (True, 4)
    """

    exit_code = 4


class ClusterError(TileconvError, ConnectionError):
    """A cluster that cannot be used, or that was lost; finished parts are kept for ``--resume``.

    >>> issubclass(ClusterError, OSError), ClusterError.exit_code
    (True, 4)
    """

    exit_code = 4
