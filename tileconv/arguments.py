"""What people pass as arguments: one check for each kind of value, whatever is given.

A check returns plain Python, or raises a `ConvolutionError` that names the argument. Only what
is a number, a word or a list is looked into: bytes and sets are no numbers, and an iterator, which
may have no end, is never asked for anything. What a user's own object raises is told, with the
error as the cause.
"""

import math
import reprlib
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from operator import index
from typing import Any

import numpy as np

from tileconv.errors import ConvolutionError, TileconvError

DEEPEST = 32
"""Lists within lists; numpy has no more axes than that, or than twice as many."""
MOST = 5
"""Members of a list that are looked at where numbers or words are asked for: one too many."""

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def short_repr(value: Any) -> str:
    """Return the repr of anything on one line, shortened; one that fails is replaced.

    >>> short_repr(b"2"), short_repr([1, "a"]), short_repr(list(range(99)))
    ("b'2'", "[1, 'a']", '[0, 1, 2, 3, 4, 5, ...]')
    """
    try:
        return " ".join(_repr.repr(value).split())
    except Exception:  # an int with thousands of digits, for one
        return f"<{type(value).__name__}>"


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn what a user's object raises while it is looked into to an error that names it."""
    try:
        yield
    except (TileconvError, MemoryError):
        raise
    except Exception as error:
        raise ConvolutionError(f"{name} cannot be used: {_words(error)}") from error


def _words(error: Exception) -> str:
    """Return what an error says, and its kind."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own text fails
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def as_whole(value: Any) -> int | None:
    """Return a whole number of Python or numpy as an int; None for anything else.

    >>> as_whole(np.int16(3)), as_whole(True), as_whole(2.0), as_whole(b"2")
    (3, None, None, None)
    """
    kind = type(value)
    if kind is int:
        return value
    value = _scalar(value)
    kind = type(value)
    if issubclass(kind, bool) or issubclass(kind, np.timedelta64):  # a subclass of np.integer
        return None
    return index(value) if issubclass(kind, int | np.integer) else None


def as_number(value: Any) -> int | float | None:
    """Return a real number of Python or numpy as Python's; None for anything else.

    >>> as_number(np.float32(0.5)), as_number(7), as_number("7"), as_number(np.bool_(True))
    (0.5, 7, None, None)
    """
    value = _scalar(value)
    if issubclass(type(value), float | np.floating):
        return float(value)
    return as_whole(value)


def _scalar(value: Any) -> object:
    """Return what an array without axes holds; anything else as it is."""
    if issubclass(type(value), np.ndarray) and value.ndim == 0:
        return value[()]
    return value


def members(value: Any) -> tuple[Any, ...] | None:
    """Return the first `MOST` members of a list, a tuple or an array of one axis; else None.

    >>> members([1, 2]), members(np.array([3, 4])), members("12"), members({1, 2})
    ((1, 2), (np.int64(3), np.int64(4)), None, None)
    """
    kind = type(value)
    if issubclass(kind, tuple):
        return tuple.__getitem__(value, slice(MOST))
    if issubclass(kind, list):
        return tuple(list.__getitem__(value, slice(MOST)))
    if issubclass(kind, np.ndarray) and value.ndim == 1:
        return tuple(value[:MOST])
    return None


def check_whole(value: Any, name: str, low: int = 1, high: int | None = None) -> int:
    """Return a whole number from ``low`` to ``high``."""
    with told(name):
        number = as_whole(value)
    if number is None or number < low or (high is not None and number > high):
        raise ConvolutionError(
            f"{name} must be a whole number {within(low, high)}, got {short_repr(value)}"
        )
    return number


def within(low: int, high: int | None) -> str:
    """Return the words for a range.

    >>> within(1, None), within(1, 16)
    ('from 1', 'in 1..16')
    """
    return f"from {low}" if high is None else f"in {low}..{high}"


def check_number(value: Any, name: str) -> int | float:
    """Return a real number, an int exactly as it is; NaN and infinities are numbers."""
    with told(name):
        number = as_number(value)
    if number is None:
        raise ConvolutionError(f"{name} must be a number, got {short_repr(value)}")
    return number


def check_float(value: Any, name: str) -> float:
    """Return a real number as a float."""
    number = check_number(value, name)
    try:
        return float(number)
    except OverflowError:
        raise ConvolutionError(f"{name} is beyond the range of float64") from None


def check_fraction(value: Any, name: str) -> float:
    """Return a number from 0 to 1 as a float."""
    fraction = check_float(value, name)
    if not 0 <= fraction <= 1:
        raise ConvolutionError(f"{name} must lie in 0..1, got {fraction}")
    return fraction


def check_finite(value: Any, name: str) -> float:
    """Return a finite real number as a float."""
    number = check_float(value, name)
    if not math.isfinite(number):
        raise ConvolutionError(f"{name} must be finite, got {number}")
    return number


def as_flag(value: Any) -> bool | None:
    """Return a truth value of Python or numpy as a bool; None for anything else."""
    value = _scalar(value)
    return bool(value) if issubclass(type(value), bool | np.bool_) else None


def check_flag(value: Any, name: str) -> bool:
    """Return a truth value; a number or a word is none."""
    with told(name):
        flag = as_flag(value)
    if flag is None:
        raise ConvolutionError(f"{name} must be true or false, got {short_repr(value)}")
    return flag


def as_word(value: Any) -> str | None:
    """Return a text as a plain str; None for anything else."""
    return str.__str__(value) if issubclass(type(value), str) else None


def check_word(value: Any, name: str, words: Collection[str]) -> str:
    """Return one of ``words``."""
    word = as_word(value)
    if word is None or word not in words:
        raise ConvolutionError(f"{name} must be one of {', '.join(words)}; got {short_repr(value)}")
    return word


def check_pair(value: Any, name: str, low: int, high: int) -> tuple[int, int]:
    """Return a whole number, or two as (y, x), as two ints from ``low`` to ``high``."""
    if type(value) is int and low <= value <= high:
        return value, value
    with told(name):
        given = members(value)
        numbers = [as_whole(each) for each in ((value, value) if given is None else given)]
    whole = [number for number in numbers if number is not None]
    if not len(numbers) == len(whole) == 2:
        raise ConvolutionError(
            f"{name} must be a whole number, or two as (y, x); got {short_repr(value)}"
        )
    for number in whole:
        if not low <= number <= high:
            raise ConvolutionError(f"{name} must lie in {low}..{high}, got {short_repr(number)}")
    return whole[0], whole[1]


def check_lengths(value: Any, name: str, low: float, high: float) -> tuple[float, float]:
    """Return a number of pixels, or two as (y, x), as two floats from ``low`` to ``high``."""
    with told(name):
        given = members(value)
        numbers = [as_number(each) for each in ((value, value) if given is None else given)]
    fitting = [number for number in numbers if number is not None and low <= number <= high]
    if not len(numbers) == len(fitting) == 2:
        raise ConvolutionError(
            f"{name} must be a number of pixels, {low} to {high}, or two as (y, x); "
            f"got {short_repr(value)}"
        )
    return float(fitting[0]), float(fitting[1])


def check_names(value: Any, name: str) -> tuple[Hashable, Hashable]:
    """Return two names of dimensions, of which neither is the other."""
    check_nesting(value, name)  # or hashing it could exhaust the stack
    try:
        given = members(value)
        if given is not None and len(given) == 2 and len({given[0], given[1]}) == 2:
            return given[0], given[1]
        cause = None
    except Exception as error:  # what has no hash names nothing
        cause = error
    raise ConvolutionError(
        f"{name} names rows and columns, as ('y', 'x'); got {short_repr(value)}"
    ) from cause


def check_array(value: Any, name: str) -> np.ndarray:
    """Return what `numpy.asarray` makes of ``value``; the mask of a masked array is forgotten."""
    if type(value) is np.ndarray:
        return value
    check_nesting(value, name)
    try:
        with told(name):
            return np.asarray(value)
    except ConvolutionError as error:
        if isinstance(error.__cause__, ValueError) and type(value) in (list, tuple):
            raise ConvolutionError(
                f"{name}'s rows are not all of one length, or hold what are no numbers"
            ) from error.__cause__
        raise


def check_nesting(value: Any, name: str) -> None:
    """Refuse lists that hold themselves, which numpy would follow for ever, and very deep ones."""
    level = _lists([value])
    for _ in range(DEEPEST):
        if not level:
            return
        level = {key: each for outer in level.values() for key, each in _lists(outer).items()}
    raise ConvolutionError(f"{name} holds lists deeper than {DEEPEST} levels, or a list itself")


def _lists(value: Any) -> dict[int, Any]:
    """Return the lists and tuples in a list or tuple, each once."""
    walk = list.__iter__ if issubclass(type(value), list) else tuple.__iter__
    kinds = {type(each) for each in walk(value)}
    if not any(issubclass(kind, list | tuple) for kind in kinds):  # a row of numbers
        return {}
    return {id(each): each for each in walk(value) if issubclass(type(each), list | tuple)}


def check_dtype(value: Any, name: str = "dtype") -> np.dtype:
    """Return a dtype that numpy knows."""
    if type(value) in (list, tuple, dict):  # a structure, which numpy would look through
        raise ConvolutionError(f"{name} is one dtype, like 'float32'; got {short_repr(value)}")
    try:
        return np.dtype(value)
    except Exception as error:
        raise ConvolutionError(f"{name} {short_repr(value)} is not one that numpy knows") from error
