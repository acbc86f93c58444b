"""How a Deployment's ReplicaSets are sized: rolling over, scaling while rolling, and what that says of progress.

Rule of this file: numbers in, numbers out. It knows ReplicaSets by their counts and neither makes nor writes any.

Theory. Two fences bound a rolling update: never more than ``replicas + surge`` pods, never fewer than
``replicas - unavailable`` available ones. The new ReplicaSet grows up to the upper fence; the old ones shrink down to
the lower one, unhealthy pods first, since they hold nothing up. When the count changes in the middle, all ReplicaSets
with pods share the change in proportion to their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Size(NamedTuple):
    """A ReplicaSet as this file sees it: how many it should have, and how many of them are available."""

    replicas: int
    available: int


def grown(new: int, others: int, *, replicas: int, surge: int) -> int:
    """The size of the new ReplicaSet, which has *new* pods while the others have *others*."""
    if new >= replicas:
        return replicas
    room = replicas + surge - (new + others)
    return new + max(0, min(room, replicas - new))


def shrunk(old: Sequence[Size], new: Size, *, replicas: int, unavailable: int) -> list[int]:
    """The sizes of the old ReplicaSets, oldest first."""
    sizes = [one.replicas for one in old]
    fence = replicas - unavailable
    missing = max(0, new.replicas - new.available)
    room = sum(sizes) + new.replicas - fence - missing
    if room <= 0:
        return sizes
    freed = 0
    for i, one in enumerate(old):
        cut = max(0, min(room - freed, one.replicas - min(one.available, one.replicas)))
        sizes[i] -= cut
        freed += cut
    spare = sum(min(one.available, one.replicas) for one in old) + new.available - fence
    for i in range(len(sizes)):
        cut = max(0, min(sizes[i], spare))
        sizes[i] -= cut
        spare -= cut
    return sizes


def in_proportion(sizes: Sequence[int], total: int) -> list[int]:
    """The sizes after they share the way to *total* in proportion; what rounding leaves goes to the first, the largest.

    *sizes* are ordered, those that shall have the remainder first. None falls below zero.
    """
    before = sum(sizes)
    if not sizes or not before:
        return list(sizes)
    difference = total - before
    result = [max(0, size + round(difference * size / before)) for size in sizes]
    left = total - sum(result)
    for i in range(len(result)):
        change = max(-result[i], left)
        result[i] += change
        left -= change
    return result
