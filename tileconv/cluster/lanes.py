"""Which part comes next at which thread: stretches of neighbouring numbers, for two lanes each.

A worker that computes parts one below the other decodes the blocks under their
borders once. So each lane, a thread of the cluster, goes through neighbouring
numbers: one lane down from the begin of a stretch, another up from its end. Where
they meet shows how fast they were, and costs no further border: all end together.
A lane that comes to its end joins the stretch that has most left, for the price of
one more border.

    stretch 0   0 1 2 > . . . . < 7 8 9     lanes a and b
    stretch 1   10 11 > . . . . . . . . .   lane c
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

DOWN, UP = 1, -1


class Next(NamedTuple):
    """A number, and the step to the one that its lane takes after it."""

    number: int
    step: int


class Lanes:
    """Numbers that are still to be handed out. Holds ranges, never all numbers.

    >>> lanes = Lanes([range(6)], ["a", "b"])
    >>> [lanes.next(lane).number for lane in "aaabab"]
    [0, 1, 2, 5, 3, 4]
    >>> lanes.next("a") is None
    True
    """

    def __init__(self, missing: Iterable[range], lanes: Sequence[Hashable]) -> None:
        whole = _Stretch(missing)
        count, among = len(whole), len(lanes)
        self._stretches: list[_Stretch] = []
        self._at: dict[Hashable, tuple[_Stretch, int]] = {}
        """The stretch of each lane that has one, and its direction."""
        begin = 0
        for first in range(0, among, 2):
            end = min(first + 2, among) * count // among  # as `Parts.starts` has them
            stretch = whole.cut(end - begin)
            begin = end
            self._stretches.append(stretch)
            for lane, step in zip(lanes[first : first + 2], (DOWN, UP), strict=False):
                self._at[lane] = (stretch, step)
        self._lanes = set(lanes)
        if not lanes:
            self._stretches.append(whole)
        self._left = count

    def __len__(self) -> int:
        """Numbers that are left."""
        return self._left

    def change(self, lanes: Sequence[Hashable]) -> None:
        """Have other lanes: what those that are gone leave is taken over by the next in need."""
        self._lanes = set(lanes)
        for lane in [lane for lane in self._at if lane not in self._lanes]:
            del self._at[lane]

    def next(self, lane: Hashable) -> Next | None:
        """Return the next number of a lane; None if nothing is left for it."""
        if lane not in self._lanes:
            raise KeyError(lane)
        stretch, step = self._at.get(lane, (_EMPTY, DOWN))
        if not stretch.ranges:
            self._at.pop(lane, None)
            self._stretches = [stretch for stretch in self._stretches if stretch.ranges]
            if not self._stretches:
                return None
            stretch, step = self._at[lane] = self._join()
        self._left -= 1
        return Next(stretch.pop(step), step)

    def _join(self) -> tuple[_Stretch, int]:
        """Find the stretch where one more lane helps most, and its free end."""
        taken: dict[int, dict[int, Hashable]] = {id(stretch): {} for stretch in self._stretches}
        for lane, (stretch, step) in self._at.items():
            taken.get(id(stretch), {})[step] = lane
        longest = max(self._stretches, key=lambda each: len(each) / (1 + len(taken[id(each)])))
        ends = taken[id(longest)]
        if DOWN not in ends:
            return longest, DOWN
        if UP not in ends:
            return longest, UP
        first = longest.cut(len(longest) // 2)
        if not first.ranges:  # a single number: whoever comes first takes it
            return longest, DOWN
        self._stretches.append(first)
        self._at[ends[DOWN]] = (first, DOWN)
        return first, UP


class _Stretch:
    """Ascending numbers, as ranges."""

    def __init__(self, ranges: Iterable[range] = ()) -> None:
        self.ranges = deque(r for r in ranges if r)

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def pop(self, step: int) -> int:
        """Take the first number away, or the last one if ``step`` is -1."""
        if step == DOWN:
            first = self.ranges.popleft()
            if len(first) > 1:
                self.ranges.appendleft(first[1:])
            return first[0]
        last = self.ranges.pop()
        if len(last) > 1:
            self.ranges.append(last[:-1])
        return last[-1]

    def cut(self, size: int) -> _Stretch:
        """Take the first ``size`` numbers away."""
        taken: list[range] = []
        while size > 0 and self.ranges:
            first = self.ranges.popleft()
            if len(first) > size:
                self.ranges.appendleft(first[size:])
                first = first[:size]
            taken.append(first)
            size -= len(first)
        return _Stretch(taken)


_EMPTY = _Stretch()


def missing_ranges(count: int, there: Iterable[int]) -> list[range]:
    """Return which of the numbers below ``count`` are not ``there``.

    >>> missing_ranges(6, [4, 2])
    [range(0, 2), range(3, 4), range(5, 6)]
    """
    edges = [-1, *sorted(there), count]
    return [range(a + 1, b) for a, b in pairwise(edges) if b - a > 1]
