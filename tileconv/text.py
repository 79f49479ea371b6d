"""Texts that people read: sizes and paths as they are said, nothing secret, no moved cursor."""

import os
import re
from pathlib import Path


def visible(text: str) -> str:
    r"""Return one line of text in which what a terminal would obey, or hide, is written out.

    Names of files, tags and YAML may hold line breaks, escape sequences, or marks that turn the
    direction of writing: printed as they are, they could forge a message.

    >>> print(visible("a\x1b[31m\n\u202eb.tif"), visible("M\xfcnchen.tif"))
    a\x1b[31m\n\u202eb.tif M\xfcnchen.tif
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def visible_lines(text: str) -> str:
    """Return a page of lines, each as `visible` has it."""
    return "\n".join(map(visible, text.split("\n")))


def shown(path: str) -> str:
    """Return a path as people like to read it: relative if it lies in the current folder.

    >>> import os
    >>> shown(os.path.join(os.getcwd(), "out", "a.tif")) == os.path.join("out", "a.tif")
    True
    """
    here = str(Path.cwd())
    inside = path.startswith(here + os.sep) and here != os.sep
    return visible(os.path.relpath(path) if inside else path)


def size(count: float) -> str:
    """Return a number of bytes as people say it.

    >>> size(300), size(5 << 20), size(3 << 29)
    ('300 bytes', '5.0 MiB', '1.5 GiB')
    """
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1024 or unit == "TiB":
            break
    return f"{count:.1f} {unit}" if count < 99.95 else f"{count:.0f} {unit}"


def plural(count: int, word: str) -> str:
    """Return ``count`` and ``word`` in the right number.

    >>> plural(1, "tile"), plural(20000, "tile")
    ('1 tile', '20,000 tiles')
    """
    return f"{count:,} {word}{'' if count == 1 else 's'}"


_SCHEMES = "https?|s3|gs|gcs|az|abfss?|adls?|wasbs?|oss|swift|ftps?|sftp|ssh|tcp|tls|wss?|ucx"
_START = rf"(?<![a-zA-Z0-9+.-])(?P<scheme>{_SCHEMES}):/{{1,2}}"
_QUOTED = re.compile(
    rf"(?P<quote>['\"])(?P<before>[^'\"\s]*?){_START}(?P<rest>[^'\"]*)", re.IGNORECASE
)
_PLAIN = re.compile(rf"{_START}(?P<rest>[^\s'\"<>]*)", re.IGNORECASE)
_WHOLE = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*):/{1,3}(?P<rest>.*)", re.DOTALL)
_IN_QUERY = re.compile(r"(/vsi[a-z0-9_]+)\?[^\s'\"<>]*")
"""GDAL's other way to name a URL: all of it is a query."""


def without_secrets(text: str) -> str:
    """Return a text without user names, passwords, queries and fragments of the URLs in it.

    >>> without_secrets("/vsicurl/https://me:word@example.org/a.tif?token=secret: not found")
    '/vsicurl/https://example.org/a.tif?... not found'
    >>> without_secrets("'s3://bucket/a b.tif' and 'https://u:p@h/c d.tif?key=e f' differ")
    "'s3://bucket/a b.tif' and 'https://h/c d.tif?...' differ"
    """
    if _known:
        for secret, shown in sorted(_known.items(), key=lambda item: -len(item[0])):
            text = text.replace(secret, shown)
    if ":/" not in text and "/vsi" not in text:
        return text
    text = _QUOTED.sub(lambda m: f"{m['quote']}{m['before']}{_clean(m)}", text)
    return _IN_QUERY.sub(r"\1?...", _PLAIN.sub(_clean, text))


SHORTEST = 4
"""Letters of a secret, its question mark included."""
MOST_KNOWN = 4096
_known: dict[str, str] = {}
"""Secret parts of URLs in use, and what is shown in their place."""


def hide(url: str) -> None:
    """Have `without_secrets` know what is secret in a URL wherever it stands.

    GDAL tells of a file by the last part of its URL, query and all, as if that were its name.
    """
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    tail = url[len(head) :]
    parts = {tail: f"{tail[:1]}..."} | ({tail.rpartition("/")[2]: "..."} if "/" in tail else {})
    _known.update((secret, by) for secret, by in parts.items() if len(secret) >= SHORTEST)
    while len(_known) > MOST_KNOWN:
        _known.pop(next(iter(_known)), None)


def shown_url(url: str) -> str:
    """Return a URL, valid or not, as people may see it.

    >>> shown_url("https://me:wo rd@example.org/a.tif?token=a 'secret'")
    'https://example.org/a.tif?...'
    """
    match = _WHOLE.match(url)
    return without_secrets(url) if match is None else _clean(match)


def _clean(match: re.Match[str]) -> str:
    """Return a URL, of which a scheme and the rest have been found."""
    rest = match["rest"]
    head = re.split(r"[?#]", rest, maxsplit=1)[0]
    hidden = f"{rest[len(head)]}..." if len(head) < len(rest) else ""
    return f"{match['scheme']}://{_without_user(head)}{hidden}"


def _without_user(head: str) -> str:
    """Return host and path of a URL without the user before them."""
    authority = head.partition("/")[0]
    if "@" in authority:
        return head[authority.rindex("@") + 1 :]
    port = authority.rpartition(":")[2] if ":" in authority else ""
    if "@" in head and port and not port.isdigit() and not authority.endswith("]"):
        return head.rpartition("@")[2]  # a password with a slash in it
    return head
