"""From one stream of changes to many watchers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.store.base import Compacted
from twinstack.store.broadcast import Batch, Broadcast


class Note(NamedTuple):
    revision: int
    size: int = 10


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Listener:
    def __init__(self) -> None:
        self.heard: list[int] = []
        self.backlog = 0
        self.was_cut = False

    def deliver(self, batch: Batch[Note]) -> None:
        self.heard += [change.revision for change in batch.changes]

    def cut(self) -> None:
        self.was_cut = True


def broadcast(*, max_bytes: int = 1000, max_age_seconds: float = 60.0, clock: Clock | None = None) -> Broadcast[Note]:
    return Broadcast(0, clock=clock or Clock(), max_bytes=max_bytes, max_age_seconds=max_age_seconds, max_backlog=100)


def revisions(changes: Sequence[Note]) -> list[int]:
    return [change.revision for change in changes]


def test_every_watcher_hears_every_change_in_order() -> None:
    one, listeners = broadcast(), [Listener(), Listener()]
    for listener in listeners:
        one.subscribe(listener)
    one.publish([Note(1), Note(3)])
    one.publish([Note(4)])
    one.unsubscribe(listeners[0])
    one.publish([Note(9)])
    assert [listener.heard for listener in listeners] == [[1, 3, 4], [1, 3, 4, 9]]


def test_a_slow_watcher_is_cut_and_the_others_hear_on() -> None:
    one, slow, quick = broadcast(), Listener(), Listener()
    one.subscribe(slow)
    one.subscribe(quick)
    one.publish([Note(1)])
    slow.backlog = 101
    one.publish([Note(2)])
    one.publish([Note(3)])
    assert (slow.was_cut, slow.heard, one.cuts, one.watchers) == (True, [1, 2], 1, 1)
    assert (quick.was_cut, quick.heard) == (False, [1, 2, 3])


def test_a_watcher_that_fails_is_cut_and_the_others_hear_on() -> None:
    class Broken(Listener):
        def deliver(self, batch: Batch[Note]) -> None:
            raise ValueError("cannot be shown")

    one, broken, good = broadcast(), Broken(), Listener()
    one.subscribe(broken)
    one.subscribe(good)
    one.publish([Note(1)])
    one.publish([Note(2)])
    assert (broken.was_cut, good.heard) == (True, [1, 2])


def test_who_comes_late_is_told_exactly_the_rest() -> None:
    one = broadcast()
    one.publish([Note(2), Note(5), Note(6)])
    assert revisions(one.since(0)) == [2, 5, 6]
    assert revisions(one.since(2)) == [5, 6]
    assert revisions(one.since(4)) == [5, 6]
    assert revisions(one.since(6)) == []
    assert revisions(one.since(99)) == []


def test_history_is_bounded_by_bytes() -> None:
    one = broadcast(max_bytes=30)
    for revision in range(1, 6):
        one.publish([Note(revision)])
    assert revisions(one.since(2)) == [3, 4, 5]
    with pytest.raises(Compacted) as caught:
        one.since(1)
    assert (caught.value.revision, caught.value.floor) == (1, 2)


def test_history_is_bounded_by_age() -> None:
    clock = Clock()
    one = broadcast(max_age_seconds=60, clock=clock)
    one.publish([Note(1)])
    clock.now = 50
    one.publish([Note(2)])
    clock.now = 100
    one.trim()
    assert (one.floor, revisions(one.since(1))) == (1, [2])
    clock.now = 200
    one.trim()
    assert (one.floor, len(one)) == (2, 0)


def test_a_change_too_large_for_the_history_still_moves_its_floor() -> None:
    one = broadcast(max_bytes=30)
    one.publish([Note(1, 500)])
    assert (one.floor, len(one)) == (1, 0)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 40)), max_size=300), st.integers(1, 400))
def test_the_history_is_a_complete_suffix_whatever_is_published(steps: list[tuple[int, int]], max_bytes: int) -> None:
    one = broadcast(max_bytes=max_bytes)
    published: list[Note] = []
    revision = 0
    for step, size in steps:
        revision += step
        published.append(Note(revision, size))
        one.publish(published[-1:])
    assert revisions(one.since(one.floor)) == [note.revision for note in published if note.revision > one.floor]
    assert sum(note.size for note in one.since(one.floor)) <= max_bytes
