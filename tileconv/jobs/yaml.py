"""Read YAML as people mean it, and remember the line of every key.

PyYAML's parser gives the events; the values are resolved here by YAML 1.2's
core schema: ``1e-3`` is a number, ``no`` is a word, a duplicate key is an
error, not the last one's win. Anchors, aliases and tags, which can blow up or
run code, are refused, and so are very large and very deep files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tileconv.bounded import TooLargeError, read_bounded
from tileconv.errors import ConfigError

LARGEST_BYTES = 1 << 20
DEEPEST = 20
_TOO_LARGE = f"{{}}: a job is at most {LARGEST_BYTES >> 20} MiB of YAML"

KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass
class Document:
    """What a YAML text says, and where."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """1-based line of each key and list entry."""

    def line(self, path: KeyPath) -> int | None:
        """Return the line of ``path``, or of the nearest key above it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def parse(text: str, name: str) -> Document:
    """Parse one YAML document; `ConfigError` names ``name`` and the line."""
    try:
        if len(text.encode()) > LARGEST_BYTES:
            raise ConfigError(_TOO_LARGE.format(name))
    except UnicodeEncodeError:  # bytes of the command line, for one
        raise ConfigError(f"{name}: is not text in UTF-8") from None
    reader = _Reader(text, name)
    try:
        return reader.document()
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(
            f"{name}{where}: not valid YAML: {error.problem or error.context}"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{name}, line {line}: not valid YAML: {chr(error.character)!r}: {error.reason}"
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # PyYAML leaves to Python what it makes of escapes beyond Unicode, and of huge numbers.
        raise ConfigError(
            f"{name}, line {reader.line}: not valid YAML: an escape or a number that is out of "
            f"bounds ({error})"
        ) from None


def scalar(text: str) -> Any:
    """Return what an unquoted scalar means in YAML 1.2.

    >>> [scalar(t) for t in ("12", "1e-3", "no", "True", "~", "12:30")]
    [12, 0.001, 'no', True, None, '12:30']
    """
    if text in _WORDS or (text.lower() in _WORDS and text in (text.capitalize(), text.upper())):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 400 else text
    if _LEADING_ZERO.fullmatch(text):  # octal for some, decimal for others: neither here
        return text
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _INF.fullmatch(text):
        return float(f"{match[1]}inf")
    if text in (".nan", ".NaN", ".NAN"):
        return float("nan")
    return text


def read_text(path: Path) -> str:
    """Return the text of a job file; `ConfigError` if there is none."""
    try:
        return read_bounded(path, LARGEST_BYTES).decode("utf-8-sig")
    except TooLargeError:
        raise ConfigError(_TOO_LARGE.format(path)) from None
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such job file; `tileconv init` makes one to start from"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def assign(document: Document, assignment: str) -> None:
    """Put the value of ``KEY=VALUE`` into ``document``."""
    key, separator, text = assignment.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"--set {assignment}: write KEY=VALUE, like stride=8 or output.overwrite=true"
        )
    value = parse(text, f"--set {assignment}").value
    path: KeyPath = tuple(key.strip().split("."))
    if document.value is None:
        document.value = {}
    place = document.value
    for part in path[:-1]:
        if not isinstance(place, dict):
            break
        place = place.setdefault(part, {})
    if not isinstance(place, dict):
        raise ConfigError(f"--set {assignment}: there is no key {key}")
    place[str(path[-1])] = value
    document.lines = {known: line for known, line in document.lines.items() if known != path}


class _Reader:
    """Builds values from the parser's events."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._loader: yaml.SafeLoader | None = None
        self._lines: dict[KeyPath, int] = {}

    @property
    def line(self) -> int:
        """The line that is being read, 1-based."""
        return 1 if self._loader is None else self._loader.line + 1

    def document(self) -> Document:
        self._loader = yaml.SafeLoader(self._text)
        self._events: Iterator[Any] = iter(self._loader.get_event, None)
        self._expect(yaml.StreamStartEvent)
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Document(None)
        value = self._value(next(self._events), (), 0)
        self._expect(yaml.DocumentEndEvent)
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(event, "a second document begins here; a job is one")
        return Document(value, self._lines)

    def _value(self, event: Any, path: KeyPath, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"aliases (*{event.anchor}) are not allowed; write the value out")
        if event.anchor is not None:
            self._refuse(event, f"anchors (&{event.anchor}) are not allowed; write the value out")
        if event.tag not in (None, "!"):
            self._refuse(event, f"tags ({event.tag}) are not allowed")
        if depth > DEEPEST:
            self._refuse(event, f"nested deeper than {DEEPEST} levels")
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.style is None else self._letters(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        return self._mapping(path, depth)

    def _sequence(self, path: KeyPath, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*path, len(values))
            self._lines[here] = event.start_mark.line + 1
            values.append(self._value(event, here, depth + 1))
        return values

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(event, "a key must be a word")
            key = self._letters(event)
            here = (*path, key)
            if key in values:
                self._refuse(event, f"`{key}` is given twice (first on line {self._lines[here]})")
            self._lines[here] = line
            values[key] = self._value(next(self._events), here, depth + 1)
        return values

    def _letters(self, event: Any) -> str:
        """Return a text in which two halves of a character, as JSON escapes them, are one."""
        text: str = event.value
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._refuse(event, f"{text!r} holds half of a character")

    def _expect(self, kind: type) -> None:
        event = next(self._events)
        if not isinstance(event, kind):
            self._refuse(event, "unexpected content")

    def _refuse(self, event: Any, problem: str) -> NoReturn:
        raise ConfigError(f"{self._name}, line {event.start_mark.line + 1}: {problem}")
