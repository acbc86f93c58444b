"""Leader election by a Lease: of several instances, one works and the others wait.

The holder renews the Lease every *retry_seconds* and stops working when it has failed to for
*renew_seconds*. Another takes over when it has seen no renewal for *lease_seconds* by its own clock: times in the Lease are
never compared with ours, since clocks differ. As the first is shorter than the second, two never work at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import Resource, resource_of
from twinstack.api.times import text_of_micro_time
from twinstack.loops.clock import Clock, SystemClock
from twinstack.loops.metrics import LeaderMetrics
from twinstack.loops.supervisor import GivenUp

LEASES = resource_of(kinds.Lease)

log = logging.getLogger(__name__)


class Door(Protocol):
    """What the election needs of the API server."""

    async def get(self, resource: Resource, key: Key) -> Document: ...

    async def create(self, resource: Resource, document: Document) -> Document: ...

    async def update(self, resource: Resource, document: Document) -> Document: ...


def identity() -> str:
    """Who we are: the host's name and something that is ours alone."""
    return f"{os.uname().nodename}_{uuid.uuid4()}"


class Election:
    """One candidate for one Lease."""

    def __init__(
        self,
        door: Door,
        key: Key,
        *,
        identity: str,
        clock: Clock | None = None,
        lease_seconds: float = 15.0,
        renew_seconds: float = 10.0,
        retry_seconds: float = 2.0,
        metrics: LeaderMetrics | None = None,
    ) -> None:
        self._door, self._key, self._identity = door, key, identity
        self._clock = clock or SystemClock()
        self._lease_seconds, self._renew_seconds, self._retry_seconds = lease_seconds, renew_seconds, retry_seconds
        self._gauge = metrics.leading.labels(key.name) if metrics else None
        self._known: Document | None = None
        self._changed_at = 0.0
        self.is_leading = False

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lead, then work until the work ends.

        Errors: GivenUp when the lead is lost; the work is cancelled then, and has ended.
        """
        await self._until_leading()
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew_until_lost(), name=f"lease {self._key}")
                try:
                    await work()
                finally:
                    renewing.cancel()
        finally:
            self._set_leading(False)
            await self._release()

    async def _until_leading(self) -> None:
        self._set_leading(False)
        waiting_for = ""
        while not await self._hold():
            holder = self._spec_of_known().holderIdentity or ""
            if holder != waiting_for:
                log.info("Another instance leads; waiting", extra={"lease": self._key, "holder": holder})
                waiting_for = holder
            await self._clock.sleep(self._retry_seconds * random.uniform(1.0, 1.2))
        self._set_leading(True)
        log.info("This instance leads", extra={"lease": self._key, "identity": self._identity})

    async def _renew_until_lost(self) -> None:
        renewed = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._retry_seconds)
            left = renewed + self._renew_seconds - self._clock.monotonic()
            held = False
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0.001)):
                    held = await self._hold()
            if held:
                renewed = self._clock.monotonic()
            elif self._clock.monotonic() - renewed >= self._renew_seconds or self._is_anothers():
                raise GivenUp(f"the lease {self._key} could not be renewed in time: another instance may lead now")

    async def _hold(self) -> bool:
        """Take or renew the Lease; whether it is ours now."""
        try:
            if self._known is not None and self._spec_of_known().holderIdentity == self._identity:
                try:
                    self._known = await self._door.update(LEASES, self._wanted(self._known))
                    return True
                except (errors.Conflict, errors.NotFound):
                    pass  # somebody changed it: look again
            try:
                found = await self._door.get(LEASES, self._key)
            except errors.NotFound:
                self._known = await self._door.create(LEASES, self._wanted(None))
                return True
            self._observe(found)
            if self._is_anothers() and not self._is_expired():
                return False
            self._known = await self._door.update(LEASES, self._wanted(found))
            return True
        except (errors.Conflict, errors.AlreadyExists):
            return False  # somebody was faster
        except errors.APIError as error:
            log.info("The lease cannot be read or written", extra={"lease": self._key, "error": error.message})
            return False

    def _observe(self, found: Document) -> None:
        if self._known is None or self._known.get("spec") != found.get("spec"):
            self._changed_at = self._clock.monotonic()
        self._known = found

    def _spec_of_known(self) -> kinds.LeaseSpec:
        return view_of(kinds.Lease, self._known).spec if self._known is not None else kinds.LeaseSpec()

    def _is_anothers(self) -> bool:
        holder = self._spec_of_known().holderIdentity
        return bool(holder) and holder != self._identity

    def _is_expired(self) -> bool:
        seconds = self._spec_of_known().leaseDurationSeconds or self._lease_seconds
        return self._clock.monotonic() - self._changed_at >= seconds

    def _wanted(self, before: Document | None) -> Document:
        now = text_of_micro_time(self._clock.now())
        document: Document = dict(before or {"apiVersion": LEASES.api_version, "kind": LEASES.kind})
        document.setdefault("metadata", {"namespace": self._key.namespace, "name": self._key.name})
        spec = dict(document.get("spec") or {})
        if spec.get("holderIdentity") != self._identity:
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if before else 0)
            spec["acquireTime"] = now
        spec |= {"holderIdentity": self._identity, "renewTime": now, "leaseDurationSeconds": round(self._lease_seconds)}
        return {**document, "spec": spec}

    async def _release(self) -> None:
        """Give the lead away, so that another need not wait for it to expire."""
        if self._known is None or self._is_anothers():
            return
        document = self._wanted(self._known)
        document["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(1):
                await self._door.update(LEASES, document)
        except (errors.APIError, TimeoutError) as error:
            log.info("The lease could not be given away; it will expire", extra={"lease": self._key, "error": str(error)})

    def _set_leading(self, leading: bool) -> None:
        self.is_leading = leading
        if self._gauge is not None:
            self._gauge.set(1 if leading else 0)
