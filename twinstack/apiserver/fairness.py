"""How much at once, and who first: limits on requests in flight, and turns between users.

Theory. One thread answers everything, so what one client takes is what the others wait. A turn is one round of the event loop, in
which everything is looked at that has come meanwhile. While several users are active, each has its first request of a turn
answered at once, and more of them up to a share, as long as the turn is young; the rest waits in a line of its own. Lines
are served in rotation, so many in a turn that a turn takes a few milliseconds: many small requests, or one large list. A user
who asks little therefore waits for a turn, however much the others send. A user alone never waits.

Requests that wait for the disk or for a kubelet are in flight; there are at most so many, and one user holds at most
three quarters of the places, so that there is one left for somebody else. What does not fit is refused with 429 and
``Retry-After``. Watches and other streams are not counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from twinstack.api.errors import TooManyRequests

TURN_SECONDS: Final = 0.004  # what a turn ought to take
ACTIVE_SECONDS: Final = 1.0  # so long after its last request a user counts as active
SHARE, BATCH, LARGEST_BATCH, LONGEST_LINE = 16, 8, 64, 512
RETRY_SECONDS: Final = 1


class Seats:
    """The places for requests in flight; 0 places are no limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._of_one = max(1, most * 3 // 4)
        self._by_user: dict[str, int] = {}

    def take(self, user: str) -> None:
        """Take a place; TooManyRequests when there is none."""
        held = self._by_user.get(user, 0)
        if self.most and (self.taken >= self.most or held >= self._of_one):
            raise _refusal()
        self.taken += 1
        self._by_user[user] = held + 1

    def leave(self, user: str) -> None:
        self.taken -= 1
        held = self._by_user[user] - 1
        if held:
            self._by_user[user] = held
        else:
            del self._by_user[user]


class Turns:
    """Lets users through at once, or one after the other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = ""  # who asked last
        self._several_until = 0.0
        self._is_open = False  # whether a turn has begun and not ended
        self._begun = 0.0
        self._counts: dict[str, int] = {}
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._batch = BATCH
        self._served_at = 0.0

    def admit(self, user: str) -> asyncio.Future[None] | None:
        """None to go on at once; else what to wait for. TooManyRequests when the user's line is full."""
        now = self._clock()
        if user != self._last:
            if self._last:
                self._several_until = now + ACTIVE_SECONDS
            self._last = user
        if now > self._several_until and not self._lines:
            return None
        if not self._is_open:
            self._is_open, self._begun = True, now
            self._counts.clear()
            asyncio.get_running_loop().call_soon(self._end)
        count = self._counts[user] = self._counts.get(user, 0) + 1
        if user not in self._lines and (count == 1 or (count <= SHARE and now - self._begun < TURN_SECONDS)):
            return None
        return self._wait(user)

    def _end(self) -> None:
        self._is_open = False

    def _wait(self, user: str) -> asyncio.Future[None]:
        line = self._lines.get(user)
        loop = asyncio.get_running_loop()
        if line is None:
            if not self._lines:
                self._served_at = 0.0
                loop.call_soon(self._serve)
            line = self._lines[user] = deque()
        if len(line) >= LONGEST_LINE:
            raise _refusal()
        place: asyncio.Future[None] = loop.create_future()
        line.append(place)
        return place

    def _serve(self) -> None:
        """Let a few through, one of each line after the other, and come again when the loop has looked at everybody else."""
        now = self._clock()
        if self._served_at:
            took = now - self._served_at
            self._batch = max(1, self._batch // 2) if took > 2 * TURN_SECONDS else min(LARGEST_BATCH, self._batch + (took < TURN_SECONDS))
        self._served_at = now
        served = 0
        while self._lines and served < self._batch:
            user, line = next(iter(self._lines.items()))
            del self._lines[user]  # to the end of the rotation
            place = line.popleft()
            if line:
                self._lines[user] = line
            if not place.done():
                place.set_result(None)
                served += 1
        if self._lines:
            asyncio.get_running_loop().call_soon(self._serve)


def _refusal() -> TooManyRequests:
    return TooManyRequests("Too many requests, please try again later.", retry_after_seconds=RETRY_SECONDS)
