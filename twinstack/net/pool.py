"""Allocation as a value: what a pool of numbers gives, and what is left of it.

Rule of this file: a pool never walks its range. It keeps the taken numbers as disjoint intervals,
so that the next free number after any start is found by bisection, in a /24 and in a /64 alike.

Theory. A range has two bands (KEP-3070): the lower one is left to those who ask for a number by
name, the upper one is used first for those who do not care; when it is full, the lower one serves
too. Where to start looking is the caller's business (a random number makes clashes between two
servers rare); from there the first free number is taken, wrapping around within the band.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """A set of integers, kept as sorted disjoint half-open intervals."""

    __slots__ = ("_ends", "_starts", "count")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0
        for number in numbers:
            self.add(number)

    def __contains__(self, number: int) -> bool:
        i = bisect_right(self._starts, number) - 1
        return i >= 0 and number < self._ends[i]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)

    def add(self, number: int) -> bool:
        """Add a number; False when it was there."""
        i = bisect_right(self._starts, number) - 1
        if i >= 0 and number < self._ends[i]:
            return False
        joins_left = i >= 0 and self._ends[i] == number
        joins_right = i + 1 < len(self._starts) and self._starts[i + 1] == number + 1
        if joins_left and joins_right:
            self._ends[i] = self._ends.pop(i + 1)
            del self._starts[i + 1]
        elif joins_left:
            self._ends[i] = number + 1
        elif joins_right:
            self._starts[i + 1] = number
        else:
            self._starts.insert(i + 1, number)
            self._ends.insert(i + 1, number + 1)
        self.count += 1
        return True

    def add_range(self, start: int, end: int) -> None:
        """Add every number of [start, end), however many."""
        if start >= end:
            return
        low, high = bisect_left(self._ends, start), bisect_right(self._starts, end)
        removed = sum(self._ends[i] - self._starts[i] for i in range(low, high))
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high], self._ends[low:high] = [start], [end]
        self.count += end - start - removed

    def remove(self, number: int) -> bool:
        """Remove a number; False when it was not there."""
        i = bisect_right(self._starts, number) - 1
        if i < 0 or number >= self._ends[i]:
            return False
        start, end = self._starts[i], self._ends[i]
        if start == number and end == number + 1:
            del self._starts[i], self._ends[i]
        elif start == number:
            self._starts[i] = number + 1
        elif end == number + 1:
            self._ends[i] = number
        else:
            self._ends[i] = number
            self._starts.insert(i + 1, number + 1)
            self._ends.insert(i + 1, end)
        self.count -= 1
        return True

    def first_absent(self, start: int, end: int) -> int | None:
        """The first number in [start, end) that is not in the set."""
        i = bisect_right(self._starts, start) - 1
        candidate = self._ends[i] if i >= 0 and start < self._ends[i] else start
        return candidate if candidate < end else None

    def count_within(self, start: int, end: int) -> int:
        """How many numbers of [start, end) are in the set."""
        total = 0
        for i in range(max(bisect_right(self._starts, start) - 1, 0), bisect_left(self._starts, end)):
            total += max(0, min(end, self._ends[i]) - max(start, self._starts[i]))
        return total


class Pool:
    """The numbers first, …, last, of which the lowest *reserved* are handed out on their own only in need."""

    __slots__ = ("first", "last", "reserved", "taken")

    def __init__(self, first: int, last: int, *, reserved: int = 0, taken: Iterable[int] = ()) -> None:
        self.first, self.last, self.reserved = first, last, max(0, min(reserved, last - first + 1))
        self.taken = Intervals(taken)

    @property
    def size(self) -> int:
        return max(0, self.last - self.first + 1)

    @property
    def free(self) -> int:
        """How many numbers are left."""
        return self.size - self.taken.count

    def __contains__(self, number: int) -> bool:
        """Whether the number belongs to the pool, taken or not."""
        return self.first <= number <= self.last

    def take(self, number: int) -> bool:
        """Take this very number; False when it is taken or not of this pool."""
        return number in self and self.taken.add(number)

    def take_next(self, start: int) -> int | None:
        """Take the first free number from *start* on, upper band first; None when the pool is full.

        *start* may be any non-negative number: it is folded into each band.
        """
        for low, high in ((self.first + self.reserved, self.last + 1), (self.first, self.first + self.reserved)):
            if low >= high:
                continue
            begin = low + start % (high - low)
            number = self.taken.first_absent(begin, high)
            if number is None:
                number = self.taken.first_absent(low, begin)
            if number is not None:
                self.taken.add(number)
                return number
        return None

    def give(self, number: int) -> bool:
        """Give a number back; False when it was not taken."""
        return self.taken.remove(number)
