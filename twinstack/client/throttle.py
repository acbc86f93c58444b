"""Not more requests a second than a program was allowed (``--kube-api-qps``, ``--kube-api-burst``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Throttle:
    """Lets *burst* requests through at once, and then *qps* a second; all of them when *qps* is not above zero."""

    def __init__(self, qps: float, burst: int, *, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._qps, self._burst, self._now, self._sleep = qps, max(1, burst), now, sleep
        self._free_at = now() - self._burst / qps if qps > 0 else 0.0  # when all that was let through would have been, one after the other

    async def turn(self) -> None:
        """Wait for one's turn."""
        if self._qps <= 0:
            return
        now = self._now()
        self._free_at = max(self._free_at, now - self._burst / self._qps) + 1 / self._qps
        if self._free_at > now:
            await self._sleep(self._free_at - now)
