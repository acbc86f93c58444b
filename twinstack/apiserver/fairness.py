"""How much at once, and who first: limits on requests in flight, and turns between users.

Theory. One thread answers everything, so what one client takes is what the others wait. A turn is a few milliseconds. Within a
turn each user is answered at once up to a share; while several users are active, whoever asks for more waits in a line of
its own, and the lines are served in rotation, a few at a time. A user who asks little therefore waits for a few requests of
the others, however many they send. A user alone never waits.

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

TURN_SECONDS: Final = 0.005
SHARE, BATCH, LONGEST_LINE = 16, 8, 512
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
        self._begun = 0.0
        self._counts: dict[str, int] = {}
        self._several = False  # whether the turn before had more than one user
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._is_serving = False

    def admit(self, user: str) -> asyncio.Future[None] | None:
        """None to go on at once; else what to wait for. TooManyRequests when the user's line is full."""
        now = self._clock()
        counts = self._counts
        if now - self._begun > TURN_SECONDS:
            self._several = len(counts) > 1 and now - self._begun < 20 * TURN_SECONDS
            counts.clear()
            self._begun = now
        count = counts[user] = counts.get(user, 0) + 1
        if count <= SHARE and user not in self._lines:
            return None
        if not self._lines and not self._several and len(counts) == 1:
            return None
        return self._wait(user)

    def _wait(self, user: str) -> asyncio.Future[None]:
        line = self._lines.setdefault(user, deque())
        if len(line) >= LONGEST_LINE:
            raise _refusal()
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        line.append(place)
        if not self._is_serving:
            self._is_serving = True
            loop.call_soon(self._serve)
        return place

    def _serve(self) -> None:
        """Let a few through, one of each line after the other, and come again when the loop has looked at everybody else."""
        served = 0
        while self._lines and served < BATCH:
            user, line = next(iter(self._lines.items()))
            del self._lines[user]  # to the end of the rotation
            place = line.popleft()
            if line:
                self._lines[user] = line
            if not place.done():
                place.set_result(None)
                served += 1
        self._is_serving = bool(self._lines)
        if self._is_serving:
            asyncio.get_running_loop().call_soon(self._serve)


def _refusal() -> TooManyRequests:
    return TooManyRequests("Too many requests, please try again later.", retry_after_seconds=RETRY_SECONDS)
