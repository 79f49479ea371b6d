"""What can go wrong, each with the exit code that the command line gives it.

Every error is a `TileconvError` and also the builtin that fits, so that
``except ValueError`` and ``except OSError`` go on working. A message says what
was given, what is allowed, and where.
"""

from typing import ClassVar


class TileconvError(Exception):
    """Root of all errors that tileconv raises on purpose."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 2 the user's mistake, 3 the data's, 4 the system's."""


class ConvolutionError(TileconvError, ValueError):
    """A kernel, stride, padding or dtype that has no meaning, or does not fit the raster."""

    exit_code = 2


class ConfigError(TileconvError, ValueError):
    """A job that cannot run as written: a wrong key, value or combination of them."""

    exit_code = 2


class UnsupportedError(TileconvError, NotImplementedError):
    """A thing that is valid, but that this version of tileconv does not do."""

    exit_code = 2


class OutputExistsError(TileconvError, FileExistsError):
    """The output is there already and the job does not say to overwrite it."""

    exit_code = 2


class InputError(TileconvError, OSError):
    """An input that is missing, unreadable, damaged, or of a kind tileconv refuses."""

    exit_code = 3


class OutputError(TileconvError, OSError):
    """An output that could not be written whole; nothing is left at its path."""

    exit_code = 4


class OutOfMemoryError(TileconvError, MemoryError):
    """The job does not fit into the memory that the machine has left."""

    exit_code = 4
