"""What the server does on its own, now and then: forget old history, let events expire."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from twinstack.api.errors import APIError
from twinstack.api.objects import Key
from twinstack.api.resources import BY_PATH, Resource
from twinstack.apiserver.bodies import DeleteOptions
from twinstack.apiserver.cache import Cache, Stored
from twinstack.apiserver.deletions import Deletions
from twinstack.store.base import Revision, Store, StoreError

log = logging.getLogger(__name__)

EVENTS: Final = BY_PATH["", "v1", "events"]
COMPACT_SECONDS: Final = 300.0
SWEEP_SECONDS: Final = 15.0


async def compact_now_and_then(store: Store, cache: Cache, *, seconds: float = COMPACT_SECONDS) -> None:
    """Every five minutes forget what was superseded more than five minutes ago; also what watchers may still ask for."""
    last: Revision = 0
    while True:
        await asyncio.sleep(seconds)
        for collection in cache.collections.values():
            collection.broadcast.trim()
        try:
            if last:
                await store.compact(last)
        except StoreError as error:
            log.warning("The store was not compacted", extra={"err": str(error)})
        last = store.revision


class EventExpiry:
    """Deletes events that nobody touched for their time to live."""

    def __init__(self, cache: Cache, deletions: Deletions, ttl_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache, self._deletions, self._ttl, self._clock = cache, deletions, ttl_seconds, clock
        # Every write of an event in order, with the time when that state of it expires.
        self._due: deque[tuple[float, Key, Revision]] = deque()
        for key, one in cache.collections[EVENTS].items.items():
            self._due.append((clock() + ttl_seconds, key, one.revision))
        cache.observe(self._observe)

    def _observe(self, resource: Resource, before: Stored | None, after: Stored | None) -> None:
        if resource is EVENTS and after is not None:
            self._due.append((self._clock() + self._ttl, after.key, after.revision))

    async def sweep(self) -> int:
        """Delete what is due; how many went."""
        items, now, gone = self._cache.collections[EVENTS].items, self._clock(), 0
        while self._due and self._due[0][0] <= now:
            _, key, revision = self._due.popleft()
            one = items.get(key)
            if one is None or one.revision != revision:
                continue
            only_this = DeleteOptions(preconditions=DeleteOptions.Preconditions(resourceVersion=str(revision)))
            try:
                await self._deletions.delete(EVENTS, key, only_this)
                gone += 1
            except APIError as error:
                log.debug("An event did not expire", extra={"event": str(key), "err": str(error)})
        return gone

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()
