"""What is reported while a run goes on."""

from typing import Protocol


class Progress(Protocol):
    """Called with (tiles done, tiles in all).

    One that has a method ``detail`` also gets, in words, how fast the run is,
    by how many workers, and how many parts were begun again.
    """

    def __call__(self, done: int, total: int, /) -> None:
        """Take the numbers of tiles."""
