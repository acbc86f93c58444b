"""A store that keeps nothing on disk: for tests, and for clusters that live as long as their process.

It passes the suite that the durable store passes, durability itself excepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twinstack.store.base import Event, Item, Ledger, Revision, StoreError, Subscriber, Write


class MemoryStore:
    """The present state as a dict of bytes."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._state: dict[str, tuple[bytes, Revision]] = {}
        self._subscribers: list[Subscriber] = []
        self._compacted: Revision = 0
        self._closed = False

    @property
    def revision(self) -> Revision:
        return self._ledger.accepted

    @property
    def compacted(self) -> Revision:
        return self._compacted

    def load(self) -> Iterable[Item]:
        return [Item(key, value, revision) for key, (value, revision) in sorted(self._state.items())]

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    async def commit(self, writes: Sequence[Write]) -> list[Revision]:
        if self._closed:
            raise StoreError("the store is closed")
        revisions, _ = self._ledger.accept(writes)
        events = [Event(revision, write.key, write.value, write.note) for revision, write in zip(revisions, writes, strict=True)]
        for event in events:
            if event.value is None:
                self._state.pop(event.key, None)
            else:
                self._state[event.key] = (event.value, event.revision)
        for subscriber in self._subscribers:
            subscriber(events)
        return revisions

    async def settled(self) -> None:
        return None

    async def compact(self, revision: Revision) -> None:
        self._compacted = max(self._compacted, min(revision, self.revision))

    async def close(self) -> None:
        self._closed = True
