"""What a store is: an append-only log of writes to keys, one revision per write.

Theory. A revision is the number of a write; the store's history is the sequence of them. A commit is
a group of writes that happen all or not at all, and it is answered only when it is durable. The present
state is the newest write of each key; whoever wants it in memory loads it once and then follows the events,
which every subscriber gets in the order of their revisions, before the commit that caused them is answered.

``expect`` makes a write conditional on the key's newest revision, writes that are accepted but
not yet durable included: so two writers who saw the same object cannot both win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from twinstack.net.errors import Error

Revision = int


class Write(NamedTuple):
    """One change of one key.

    ``value`` None deletes. ``expect`` is the revision that the key must have, 0 for a key that must not exist,
    None for any. ``note`` comes back in the event and is not stored.
    """

    key: str
    value: bytes | None
    expect: Revision | None = None
    note: Any = None


class Event(NamedTuple):
    """A write that is durable."""

    revision: Revision
    key: str
    value: bytes | None
    note: Any = None


class Item(NamedTuple):
    """A key's present state."""

    key: str
    value: bytes
    revision: Revision


class StoreError(Error):
    """The store cannot do it now: disk full, files unusable, closed. Nothing of the commit happened."""


class KeyExists(StoreError):
    """A key that must not exist does."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} exists already")
        self.key = key


class RevisionMismatch(StoreError):
    """A key has another revision than expected; 0 stands for a key that does not exist."""

    def __init__(self, key: str, expected: Revision, found: Revision) -> None:
        super().__init__(f"{key} is at revision {found}, not at {expected}")
        self.key, self.expected, self.found = key, expected, found


class Compacted(StoreError):
    """The history before ``floor`` is gone."""

    def __init__(self, revision: Revision, floor: Revision) -> None:
        super().__init__(f"revision {revision} is older than {floor}, the oldest that is kept")
        self.revision, self.floor = revision, floor


Subscriber = Callable[[Sequence[Event]], None]


class Store(Protocol):
    """The door to durable state. All methods are called on the event loop's thread."""

    @property
    def revision(self) -> Revision:
        """The newest revision that is durable."""

    @property
    def compacted(self) -> Revision:
        """The revision up to which superseded writes were forgotten; 0 for none."""

    def load(self) -> Iterable[Item]:
        """Every key's present state, by key. Once, before the first commit."""

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call *subscriber* with each group of durable writes, in order, before their commits are answered."""

    async def commit(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all or none of the writes, and return their revisions once they are durable.

        Raises KeyExists, RevisionMismatch, or StoreError when nothing could be stored.
        """

    async def settled(self) -> None:
        """Return when every commit accepted so far is durable or refused."""

    async def compact(self, revision: Revision) -> None:
        """Forget writes up to this revision that a later write, also up to it, superseded; and deletions."""

    async def close(self) -> None:
        """Finish what was accepted, and let go of the files."""


class Ledger:
    """The bookkeeping that stores share: each key's newest accepted revision, and what an accepted commit changed."""

    def __init__(self, revision: Revision = 0) -> None:
        self.accepted = revision
        self.revisions: dict[str, Revision] = {}

    def accept(self, writes: Sequence[Write]) -> tuple[list[Revision], list[tuple[str, Revision]]]:
        """Check every expectation, then give out revisions; also returns what :meth:`withdraw` needs."""
        revisions = self.revisions
        if len(writes) > 1 and len({write.key for write in writes}) != len(writes):
            raise StoreError("a commit writes a key twice")
        for write in writes:
            if write.expect is None:
                continue
            found = revisions.get(write.key, 0)
            if found != write.expect:
                raise KeyExists(write.key) if write.expect == 0 else RevisionMismatch(write.key, write.expect, found)
        given: list[Revision] = []
        undo: list[tuple[str, Revision]] = []
        for write in writes:
            self.accepted += 1
            given.append(self.accepted)
            undo.append((write.key, revisions.get(write.key, 0)))
            if write.value is None:
                revisions.pop(write.key, None)
            else:
                revisions[write.key] = self.accepted
        return given, undo

    def withdraw(self, undo: Iterable[tuple[str, Revision]]) -> None:
        """Take an accepted commit back; commits are withdrawn newest first."""
        for key, before in reversed(list(undo)):
            self.accepted -= 1
            if before:
                self.revisions[key] = before
            else:
                self.revisions.pop(key, None)
