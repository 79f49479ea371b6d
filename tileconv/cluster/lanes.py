"""Which part comes next at which thread: runs of neighbouring numbers, one for each lane.

A worker that computes parts one below the other decodes the blocks under their
borders once. So each lane, a thread of the cluster, has a run of numbers of its
own. A lane that comes to its end takes half of the longest run that is left: all
end together, for the price of one more border.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise


class Lanes:
    """Numbers that are still to be handed out. Holds ranges, never all numbers.

    >>> lanes = Lanes([range(6)], ["a", "b"])
    >>> [lanes.next(lane) for lane in "aaababb"]
    [0, 1, 2, 3, 5, 4, None]
    """

    def __init__(self, missing: Iterable[range], lanes: Sequence[Hashable]) -> None:
        whole = _Run(missing)
        count, among = len(whole), len(lanes)
        cuts = [i * count // among for i in range(1, among + 1)]  # as `Parts.starts` has them
        sizes = [end - start for start, end in pairwise([0, *cuts])]
        self._runs = {lane: whole.cut(size) for lane, size in zip(lanes, sizes, strict=True)}
        self._free = deque([whole] if whole.ranges else [])

    def __len__(self) -> int:
        """Numbers that are left."""
        return sum(map(len, [*self._runs.values(), *self._free]))

    def change(self, lanes: Sequence[Hashable]) -> None:
        """Have other lanes: the runs of those that are gone are taken over by the next in need."""
        for lane in [lane for lane in self._runs if lane not in set(lanes)]:
            run = self._runs.pop(lane)
            if run.ranges:
                self._free.append(run)
        for lane in lanes:
            self._runs.setdefault(lane, _Run())

    def next(self, lane: Hashable) -> int | None:
        """Return the next number of a lane; None if nothing is left for it."""
        run = self._runs[lane]
        if not run.ranges:
            run = self._runs[lane] = self._another()
        return run.pop() if run.ranges else None

    def _another(self) -> _Run:
        if self._free:
            return self._free.popleft()
        longest = max(self._runs.values(), key=len)
        first = longest.cut(len(longest) // 2)
        second = _Run(longest.ranges)
        longest.ranges = first.ranges
        return second


class _Run:
    """Ascending numbers, as ranges."""

    def __init__(self, ranges: Iterable[range] = ()) -> None:
        self.ranges = deque(r for r in ranges if r)

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def pop(self) -> int:
        """Take the first number away."""
        first = self.ranges.popleft()
        if len(first) > 1:
            self.ranges.appendleft(first[1:])
        return first[0]

    def cut(self, size: int) -> _Run:
        """Take the first ``size`` numbers away."""
        taken: list[range] = []
        while size > 0 and self.ranges:
            first = self.ranges.popleft()
            if len(first) > size:
                self.ranges.appendleft(first[size:])
                first = first[:size]
            taken.append(first)
            size -= len(first)
        return _Run(taken)


def missing_ranges(count: int, there: Iterable[int]) -> list[range]:
    """Return which of the numbers below ``count`` are not ``there``.

    >>> missing_ranges(6, [4, 2])
    [range(0, 2), range(3, 4), range(5, 6)]
    """
    edges = [-1, *sorted(there), count]
    return [range(a + 1, b) for a, b in pairwise(edges) if b - a > 1]
