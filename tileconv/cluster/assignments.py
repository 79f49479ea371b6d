"""Which part each worker slot computes next: intervals of part numbers, shared by two slots each.

A worker that computes parts one below the other decodes the blocks under their
borders once. So each slot, a thread of the cluster, goes through neighbouring
numbers: one goes down the raster from the start of an interval, another up from its
end. They meet wherever their speeds bring them, at no further border: all end together.
A slot that comes to its end joins the interval that has most left, which costs one
more border.

    interval 0   0 1 2 > . . . . < 7 8 9     slots a and b
    interval 1   10 11 > . . . . . . . . .   slot c
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

DOWN, UP = 1, -1


class Next(NamedTuple):
    """A number, and the step to the one that its slot takes after it."""

    number: int
    step: int


class Assignments:
    """Numbers that are still to be handed out. Holds ranges, never all numbers.

    >>> assignments = Assignments([range(6)], ["a", "b"])
    >>> [assignments.next(slot).number for slot in "aaabab"]
    [0, 1, 2, 5, 3, 4]
    >>> assignments.next("a") is None
    True
    """

    def __init__(self, missing: Iterable[range], slots: Sequence[Hashable]) -> None:
        whole = _Interval(missing)
        count, among = len(whole), len(slots)
        self._intervals: list[_Interval] = []
        self._at: dict[Hashable, tuple[_Interval, int]] = {}
        """The interval of each slot that has one, and its direction."""
        begin = 0
        for first in range(0, among, 2):
            end = min(first + 2, among) * count // among  # as `Parts.starts` has them
            interval = whole.cut(end - begin)
            begin = end
            self._intervals.append(interval)
            for slot, step in zip(slots[first : first + 2], (DOWN, UP), strict=False):
                self._at[slot] = (interval, step)
        self._slots = set(slots)
        if not slots:
            self._intervals.append(whole)
        self._left = count

    def __len__(self) -> int:
        """Numbers that are left."""
        return self._left

    def change(self, slots: Sequence[Hashable]) -> None:
        """Have other slots: what those that are gone leave is taken over by the next in need."""
        self._slots = set(slots)
        for slot in [slot for slot in self._at if slot not in self._slots]:
            del self._at[slot]

    def next(self, slot: Hashable) -> Next | None:
        """Return the next number of a slot; None if nothing is left for it."""
        if slot not in self._slots:
            raise KeyError(slot)
        interval, step = self._at.get(slot, (_EMPTY, DOWN))
        if not interval.ranges:
            self._at.pop(slot, None)
            self._intervals = [interval for interval in self._intervals if interval.ranges]
            if not self._intervals:
                return None
            interval, step = self._at[slot] = self._join()
        self._left -= 1
        return Next(interval.pop(step), step)

    def _join(self) -> tuple[_Interval, int]:
        """Find the interval where one more slot helps most, and its free end."""
        taken: dict[int, dict[int, Hashable]] = {id(interval): {} for interval in self._intervals}
        for slot, (interval, step) in self._at.items():
            taken.get(id(interval), {})[step] = slot
        longest = max(self._intervals, key=lambda each: len(each) / (1 + len(taken[id(each)])))
        ends = taken[id(longest)]
        if DOWN not in ends:
            return longest, DOWN
        if UP not in ends:
            return longest, UP
        first = longest.cut(len(longest) // 2)
        if not first.ranges:  # a single number: whoever comes first takes it
            return longest, DOWN
        self._intervals.append(first)
        self._at[ends[DOWN]] = (first, DOWN)
        return first, UP


class _Interval:
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

    def cut(self, size: int) -> _Interval:
        """Take the first ``size`` numbers away."""
        taken: list[range] = []
        while size > 0 and self.ranges:
            first = self.ranges.popleft()
            if len(first) > size:
                self.ranges.appendleft(first[size:])
                first = first[:size]
            taken.append(first)
            size -= len(first)
        return _Interval(taken)


_EMPTY = _Interval()


def missing_ranges(count: int, there: Iterable[int]) -> list[range]:
    """Return which of the numbers below ``count`` are not ``there``.

    >>> missing_ranges(6, [4, 2])
    [range(0, 2), range(3, 4), range(5, 6)]
    """
    edges = [-1, *sorted(there), count]
    return [range(a + 1, b) for a, b in pairwise(edges) if b - a > 1]
