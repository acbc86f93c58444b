"""Clocks: the real one, and one that stands until it is told to step.

Loops never ask the system for the time and never sleep by themselves; they are given a clock. A test steps
its own, so that an hour of back-off takes no time and nothing depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Timer(Protocol):
    """Something that will be called; cancelling it twice or too late does nothing."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What time it is, and what to do later."""

    def now(self) -> datetime:
        """The time of day, in UTC."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, after so many seconds, from the event loop."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock and the running event loop's timers."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stepped:
    """A timer of the stepping clock."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None] | None) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None


class SteppingClock:
    """Stands still until :meth:`step`; then calls what is due, in order of time."""

    def __init__(self, start: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) -> None:
        self._start = start
        self._seconds = 0.0
        self._timers: list[tuple[float, int, _Stepped]] = []
        self._count = itertools.count()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = _Stepped(callback)
        heapq.heappush(self._timers, (self._seconds + max(0.0, seconds), next(self._count), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    @property
    def next_due(self) -> float | None:
        """In how many seconds the next timer is due; None when nobody waits."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] - self._seconds if self._timers else None

    async def step(self, seconds: float) -> None:
        """Let so much time pass: what falls due runs at its own moment, and tasks go on in between until all of them wait."""
        end = self._seconds + seconds
        await settle()
        while (due := self.next_due) is not None and self._seconds + due <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._seconds = max(self._seconds, when)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
            await settle()
        self._seconds = end
        await settle()


async def settle(rounds: int = 50) -> None:
    """Let every task that can go on without time passing go on."""
    for _ in range(rounds):
        await asyncio.sleep(0)
