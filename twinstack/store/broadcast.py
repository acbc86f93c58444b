"""From one stream of changes to many watchers, and a short memory for those who come late.

Rule of this file: nobody waits for a watcher. A batch is delivered to each by one plain call; one whose
backlog has grown past its bound is cut off, and comes back with a revision that it will find in the history, or
will not (410), as Kubernetes has it.

Theory. The history is a ring of changes by revision, bounded by bytes and by age. ``floor`` is the
revision after which it is complete: whoever has seen everything up to some revision at or above the floor can be
told exactly the rest. Finding the place is a bisection, never a scan: a thousand watchers that
return at once must not cost a thousand walks through ten thousand changes.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from twinstack.store.base import Compacted, Revision

log = logging.getLogger(__name__)


class Change(Protocol):
    """What is broadcast: it has a revision, and a size in bytes to account for."""

    @property
    def revision(self) -> Revision: ...

    @property
    def size(self) -> int: ...


C = TypeVar("C", bound=Change)


class Batch(Generic[C]):
    """Changes that became durable together.

    ``shared`` is for what watchers of the same kind would otherwise each work out, e.g. the encoded bytes.
    """

    __slots__ = ("changes", "shared")

    def __init__(self, changes: Sequence[C]) -> None:
        self.changes = changes
        self.shared: dict[Any, Any] = {}


class Watcher(Protocol[C]):
    """One who is told."""

    def deliver(self, batch: Batch[C]) -> None:
        """Take a batch, without waiting."""

    @property
    def backlog(self) -> int:
        """Bytes taken and not yet passed on."""

    def cut(self) -> None:
        """Be told no more: too slow."""


class Broadcast(Generic[C]):
    """The history of one resource, and its watchers."""

    def __init__(
        self,
        start: Revision,
        *,
        clock: Callable[[], float],
        max_bytes: int = 8 << 20,
        max_age_seconds: float = 600.0,
        max_backlog: int = 8 << 20,
    ) -> None:
        self.floor = start
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._max_backlog = max_backlog
        self._changes: list[C] = []
        self._times: list[float] = []
        self._first = 0
        self._bytes = 0
        self._watchers: dict[Watcher[C], None] = {}
        self.cuts = 0

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def __len__(self) -> int:
        return len(self._changes) - self._first

    def publish(self, changes: Sequence[C]) -> None:
        """Remember the changes, ascending by revision, and tell every watcher."""
        now = self._clock()
        self._changes.extend(changes)
        for change in changes:
            self._times.append(now)
            self._bytes += change.size
        self.trim(now)
        if not self._watchers:
            return
        batch = Batch(changes)
        slow: list[Watcher[C]] = []
        for watcher in list(self._watchers):
            try:
                watcher.deliver(batch)
            except Exception:  # a change that one cannot show must not keep it from the others, nor the write from its answer
                log.exception("A watcher could not be told, and is cut")
                slow.append(watcher)
                continue
            if watcher.backlog > self._max_backlog:
                slow.append(watcher)
        for watcher in slow:
            self.cuts += 1
            self.unsubscribe(watcher)
            watcher.cut()

    def since(self, revision: Revision) -> Sequence[C]:
        """Every change after this revision; Compacted when the history does not reach back so far."""
        if revision < self.floor:
            raise Compacted(revision, self.floor)
        at = bisect_right(self._changes, revision, lo=self._first, key=lambda change: change.revision)
        return self._changes[at:]

    def subscribe(self, watcher: Watcher[C]) -> None:
        self._watchers[watcher] = None

    def unsubscribe(self, watcher: Watcher[C]) -> None:
        self._watchers.pop(watcher, None)

    def trim(self, now: float | None = None) -> None:
        """Forget what is too old or too much."""
        oldest = (self._clock() if now is None else now) - self._max_age_seconds
        first, end = self._first, len(self._changes)
        while first < end and (self._bytes > self._max_bytes or self._times[first] < oldest):
            self._bytes -= self._changes[first].size
            self.floor = self._changes[first].revision
            first += 1
        self._first = first
        # Cutting a list's head moves its pointers, so it is done for many at once.
        if first >= 64 or first == end:
            del self._changes[:first], self._times[:first]
            self._first = 0
