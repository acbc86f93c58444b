"""A work queue: keys that are to be looked at, each at most once at a time.

Rules, as client-go's queue has them:

1. A key that waits is not added twice: what changed ten times is looked at once.
2. A key that is being worked on and is added again waits until that work is done, and is then looked at once more.
3. After a failure a key comes back later and later: 5 ms, doubled each time, up to *last_delay_seconds*; a success forgets that.
4. A key that shall come later comes at the earliest of the times asked for, and at once when it is added meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from twinstack.loops.clock import Clock, Timer
from twinstack.loops.metrics import QueueMetrics

K = TypeVar("K", bound=Hashable)

FIRST_DELAY_SECONDS = 0.005
LAST_DELAY_SECONDS = 60.0


class Closed(Exception):
    """The queue is closed and empty: the worker may go home."""


class Queue(Generic[K]):
    """Keys to look at. Used from one event loop."""

    def __init__(
        self,
        clock: Clock,
        *,
        name: str = "",
        metrics: QueueMetrics | None = None,
        first_delay_seconds: float = FIRST_DELAY_SECONDS,
        last_delay_seconds: float = LAST_DELAY_SECONDS,
    ) -> None:
        self._clock, self._name, self._metrics = clock, name, metrics
        self._first, self._last = first_delay_seconds, last_delay_seconds
        self._waiting: dict[K, float] = {}  # in order; since when
        self._working: dict[K, float] = {}  # since when
        self._again: set[K] = set()  # added while worked on
        self._failures: dict[K, int] = {}
        self._later: dict[K, tuple[float, Timer]] = {}
        self._takers: deque[asyncio.Future[None]] = deque()
        self._closed = False
        if metrics is not None:
            metrics.depth.labels(name).set_function(lambda: len(self._waiting))
            metrics.unfinished.labels(name).set_function(lambda: sum(clock.monotonic() - since for since in self._working.values()))
            metrics.longest.labels(name).set_function(lambda: max((clock.monotonic() - since for since in self._working.values()), default=0.0))

    def __len__(self) -> int:
        """How many keys wait, without those that shall come later."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is worked on; what shall come later does not count."""
        return not self._waiting and not self._working

    def add(self, key: K) -> None:
        """Look at this key as soon as possible."""
        if self._closed:
            return
        self._forget_later(key)
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = self._clock.monotonic()
            if self._metrics is not None:
                self._metrics.adds.labels(self._name).inc()
            self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Look at this key in so many seconds, or earlier when it is added meanwhile."""
        if self._closed or key in self._waiting:
            return
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if key in self._later and self._later[key][0] <= due:
            return
        self._forget_later(key)
        self._later[key] = (due, self._clock.call_later(seconds, lambda: self.add(key)))

    def add_failed(self, key: K, *, at_least_seconds: float = 0.0) -> float:
        """Look at this key again after a failure; returns in how many seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds = max(min(self._last, self._first * 2.0 ** min(failures, 30)), at_least_seconds)
        if self._metrics is not None:
            self._metrics.retries.labels(self._name).inc()
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """The key went well: its next failure is its first again."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def take(self) -> K:
        """The next key, which is worked on until :meth:`done`; Closed when there will be none."""
        while not self._waiting:
            if self._closed:
                raise Closed
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._takers.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._takers:
                    self._takers.remove(turn)
                elif self._waiting:
                    self._wake()  # the turn was ours already: pass it on
                raise
        key = next(iter(self._waiting))
        since = self._waiting.pop(key)
        now = self._clock.monotonic()
        self._working[key] = now
        if self._metrics is not None:
            self._metrics.waited.labels(self._name).observe(now - since)
        return key

    def done(self, key: K) -> None:
        """The work on a key is over, however it went."""
        since = self._working.pop(key)
        if self._metrics is not None:
            self._metrics.worked.labels(self._name).observe(self._clock.monotonic() - since)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Add nothing any more; who waits for a key is told."""
        self._closed = True
        for _, timer in self._later.values():
            timer.cancel()
        self._later.clear()
        while self._takers:
            self._wake()

    def _wake(self) -> None:
        while self._takers:
            turn = self._takers.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _forget_later(self, key: K) -> None:
        later = self._later.pop(key, None)
        if later is not None:
            later[1].cancel()
