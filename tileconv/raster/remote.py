"""Rasters on servers: which URLs are read, and how GDAL reads them.

GDAL's /vsicurl and /vsis3 fetch byte ranges: the header at opening, then for
each read the ranges of its blocks, neighbours in one request. Folders are never
listed, and nothing but the URL itself is asked for.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tileconv.text import hide, shown_url

SETTINGS: dict[str, Any] = {
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",  # what is closed is fetched again
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,  # a server that sends nothing is given up
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
}
"""GDAL's settings for everything remote; local files do not look at them."""

OPENING: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": 4 << 20,  # per handle
}
"""Settings while a remote raster is opened.

Locally they would hide sidecar files, and read 32 KiB more around every block.
"""

_SCHEMES = ("https", "http", "s3")


@dataclass(frozen=True)
class Remote:
    """A raster at a URL, with as much of a path's ways as naming outputs needs.

    >>> scene = Remote("s3://bucket/tiles/b%204.tif")
    >>> scene.name, scene.stem, scene.parent.name, scene.gdal_name
    ('b 4.tif', 'b 4', 'tiles', '/vsis3/bucket/tiles/b%204.tif')
    >>> print(Remote("https://example.org/a.tif?token=secret"))
    https://example.org/a.tif?...
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        hide(self.url)

    def __reduce__(self) -> tuple[type[Remote], tuple[str]]:
        """Construct it again in other processes, so that they hide secrets, too."""
        return Remote, (self.url,)

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(unquote(urlsplit(self.url).path))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.name

    @property
    def stem(self) -> str:
        """`name` without its suffix."""
        return self._path.stem

    @property
    def parent(self) -> PurePosixPath:
        """The path above `name`."""
        return self._path.parent

    @property
    def gdal_name(self) -> str:
        """GDAL's name for it."""
        if urlsplit(self.url).scheme == "s3":
            return f"/vsis3/{self.url.removeprefix('s3://')}"
        return f"/vsicurl/{self.url}"

    def trouble(self) -> str:
        """Ask the server for one byte and say what is wrong, if anything; S3 is not asked.

        GDAL tells of a read that failed, and not why.
        """
        if urlsplit(self.url).scheme == "s3":
            return ""
        parts = urlsplit(self.url)
        user, _, host = parts.netloc.rpartition("@")
        url = parts._replace(netloc=host).geturl()
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        if user:
            code = base64.b64encode(unquote(user).encode()).decode()
            request.add_header("Authorization", f"Basic {code}")
        try:
            with urllib.request.urlopen(request, timeout=10):
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            return f"the server answers {error.code} {error.reason}"
        except (OSError, ValueError) as error:
            return f"the server does not answer: {getattr(error, 'reason', error)}"

    def __str__(self) -> str:
        """Return the URL without its query and password: those may be secret."""
        return shown_url(self.url)

    def __repr__(self) -> str:
        """Return the same, with the name of the class."""
        return f"Remote({str(self)!r})"


Place = Path | Remote
"""Where a raster is."""


def is_url(text: str) -> bool:
    """Say whether ``text`` begins like a URL; GDAL's own names for networks do not."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", text) is not None


def wrong_url(text: str) -> str | None:
    """Say why a URL is not read, if so: a name is needed, and encryption but on this machine.

    >>> wrong_url("http://example.org/a.tif")
    'http:// is read from this machine only; use https://'
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        return "not a valid URL"
    if not host or not PurePosixPath(parts.path).name or set(text) & set(' \t\r\n\0<>"\\'):
        return "not the URL of a file"
    if parts.scheme not in _SCHEMES:
        return f"remote inputs are https:// or s3://, not {parts.scheme}://"
    if parts.scheme == "http" and not _is_here(host):
        return "http:// is read from this machine only; use https://"
    return None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
