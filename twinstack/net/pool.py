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
from typing import Final

_LONGEST_CHUNK: Final = 512


class Intervals:
    """A set of integers, kept as sorted disjoint half-open intervals.

    They lie in chunks, so that a new one moves some hundred others at most, however many there are.
    """

    __slots__ = ("_ends", "_heads", "_starts", "count")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._starts: list[list[int]] = []  # by chunk, none of which is empty
        self._ends: list[list[int]] = []
        self._heads: list[int] = []  # the first start of each chunk
        self.count = 0
        for number in numbers:
            self.add(number)

    def __contains__(self, number: int) -> bool:
        chunk, i = self._find(number)
        return chunk >= 0 and number < self._ends[chunk][i]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for starts, ends in zip(self._starts, self._ends, strict=True):
            for start, end in zip(starts, ends, strict=True):
                yield from range(start, end)

    def add(self, number: int) -> bool:
        """Add a number; False when it was there."""
        chunk, i = self._find(number)
        joins_left = False
        if chunk >= 0:
            end = self._ends[chunk][i]
            if number < end:
                return False
            joins_left = end == number
        after, j = self._next(chunk, i)
        joins_right = after < len(self._heads) and self._starts[after][j] == number + 1
        if joins_left and joins_right:
            self._ends[chunk][i] = self._ends[after][j]
            self._delete(after, j)
        elif joins_left:
            self._ends[chunk][i] = number + 1
        elif joins_right:
            self._starts[after][j] = number
            if j == 0:
                self._heads[after] = number
        else:
            self._insert(chunk, i, number, number + 1)
        self.count += 1
        return True

    def add_range(self, start: int, end: int) -> None:
        """Add every number of [start, end), however many."""
        if start >= end:
            return
        chunk, i = self._find(start)
        if chunk < 0 or self._ends[chunk][i] < start:  # nothing on the left to join
            chunk, i = self._next(chunk, i)
        while chunk < len(self._heads) and self._starts[chunk][i] <= end:
            first, last = self._starts[chunk][i], self._ends[chunk][i]
            start, end = min(start, first), max(end, last)
            self.count -= last - first
            self._delete(chunk, i)
            chunk, i = self._next(*self._find(start))
        self._insert(*self._find(start), start, end)
        self.count += end - start

    def remove(self, number: int) -> bool:
        """Remove a number; False when it was not there."""
        chunk, i = self._find(number)
        if chunk < 0 or number >= self._ends[chunk][i]:
            return False
        start, end = self._starts[chunk][i], self._ends[chunk][i]
        if start == number and end == number + 1:
            self._delete(chunk, i)
        elif start == number:
            self._starts[chunk][i] = number + 1
            if i == 0:
                self._heads[chunk] = number + 1
        else:
            self._ends[chunk][i] = number
            if end != number + 1:
                self._insert(chunk, i, number + 1, end)
        self.count -= 1
        return True

    def first_absent(self, start: int, end: int) -> int | None:
        """The first number in [start, end) that is not in the set."""
        chunk, i = self._find(start)
        candidate = self._ends[chunk][i] if chunk >= 0 and start < self._ends[chunk][i] else start
        return candidate if candidate < end else None

    def count_within(self, start: int, end: int) -> int:
        """How many numbers of [start, end) are in the set."""
        total = 0
        for chunk in range(max(bisect_right(self._heads, start) - 1, 0), bisect_left(self._heads, end)):
            starts, ends = self._starts[chunk], self._ends[chunk]
            for i in range(max(bisect_right(starts, start) - 1, 0), bisect_left(starts, end)):
                total += max(0, min(end, ends[i]) - max(start, starts[i]))
        return total

    # ---- places: a chunk, and an interval in it; chunk -1 is before the first

    def _find(self, number: int) -> tuple[int, int]:
        """The last interval that starts at the number or before."""
        chunk = bisect_right(self._heads, number) - 1
        return (chunk, bisect_right(self._starts[chunk], number) - 1) if chunk >= 0 else (-1, -1)

    def _next(self, chunk: int, i: int) -> tuple[int, int]:
        """The interval after this one; past the last chunk when there is none."""
        return (chunk, i + 1) if chunk >= 0 and i + 1 < len(self._starts[chunk]) else (chunk + 1, 0)

    def _insert(self, chunk: int, i: int, start: int, end: int) -> None:
        """Put an interval after this one, whose neighbours it does not touch."""
        if chunk < 0:
            if not self._heads:
                self._heads.append(start)
                self._starts.append([start])
                self._ends.append([end])
                return
            chunk = 0
            self._heads[0] = start
        starts, ends = self._starts[chunk], self._ends[chunk]
        starts.insert(i + 1, start)
        ends.insert(i + 1, end)
        if len(starts) > _LONGEST_CHUNK:
            half = len(starts) // 2
            self._starts.insert(chunk + 1, starts[half:])
            self._ends.insert(chunk + 1, ends[half:])
            self._heads.insert(chunk + 1, starts[half])
            del starts[half:], ends[half:]

    def _delete(self, chunk: int, i: int) -> None:
        starts, ends = self._starts[chunk], self._ends[chunk]
        del starts[i], ends[i]
        if not starts:
            del self._starts[chunk], self._ends[chunk], self._heads[chunk]
        elif i == 0:
            self._heads[chunk] = starts[0]


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
            if self.taken.add(begin):  # in most ranges most numbers are free
                return begin
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
