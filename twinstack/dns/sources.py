"""From watched objects to the zone: what changed is marked, and taken in a little at a time.

Rule of this file: an object's change costs its own records, and queries are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.client.informer import Informer
from twinstack.dns.records import SERVICE_NAME, Options, Record, each_service_record, namespace_names, pod_records
from twinstack.dns.zone import Zone

AT_ONCE_SECONDS = 0.002  # about the longest that queries wait for changes to be taken in
RECORDS_AT_ONCE = 128

log = logging.getLogger(__name__)


class Sources:
    """Keeps a zone true to Services, EndpointSlices, Namespaces and, where asked, pods."""

    def __init__(
        self,
        zone: Zone,
        options: Options,
        services: Informer[kinds.Service],
        slices: Informer[kinds.EndpointSlice],
        namespaces: Informer[kinds.Namespace],
        pods: Informer[kinds.Pod] | None = None,
        *,
        programmed: Callable[[], None] = lambda: None,
    ) -> None:
        self._zone, self._options, self._programmed = zone, options, programmed
        self._services, self._slices, self._namespaces, self._pods = services, slices, namespaces, pods
        self._marked: dict[tuple[str, Key], None] = {}
        self._changed = asyncio.Event()
        self.complete = asyncio.Event()
        services.subscribe(self._of("service"))
        namespaces.subscribe(self._of("namespace"))
        slices.subscribe(self._slice_changed)
        if pods is not None:
            pods.subscribe(self._of("pod"))

    def _of(self, kind: str) -> Callable[[kinds.Object | None, kinds.Object | None], None]:
        def changed(before: kinds.Object | None, after: kinds.Object | None) -> None:
            one = after or before
            if one is not None:
                self._mark(kind, Key(one.metadata.namespace, one.metadata.name))

        return changed

    def _slice_changed(self, before: kinds.EndpointSlice | None, after: kinds.EndpointSlice | None) -> None:
        for one in (before, after):
            if one is not None and (name := one.labels.get(SERVICE_NAME)):
                self._mark("service", Key(one.metadata.namespace, name))

    def _mark(self, kind: str, key: Key) -> None:
        self._marked[kind, key] = None
        self._changed.set()

    async def run(self) -> None:
        """Take changes in until cancelled; ``complete`` is set once everything that there was is taken in."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wait_for_all())
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._take_in()
                self._programmed()
                if self._all_synced() and not self._marked:
                    self.complete.set()

    async def _wait_for_all(self) -> None:
        for informer in (self._services, self._slices, self._namespaces, self._pods):
            if informer is not None:
                await informer.synced()
        self._changed.set()

    def _all_synced(self) -> bool:
        return all(informer.is_synced for informer in (self._services, self._slices, self._namespaces, self._pods) if informer is not None)

    async def _take_in(self) -> None:
        """Take marked changes in. What changes meanwhile is marked again."""
        until = time.perf_counter() + AT_ONCE_SECONDS
        while self._marked:
            kind, key = next(iter(self._marked))
            del self._marked[kind, key]
            records: list[Record] = []
            for record in self._records(kind, key):
                records.append(record)
                if not len(records) % RECORDS_AT_ONCE and time.perf_counter() >= until:
                    await asyncio.sleep(0)
                    until = time.perf_counter() + AT_ONCE_SECONDS
            wrong = self._zone.put((kind, key), dict.fromkeys(records), self._names(kind, key))
            if wrong:
                log.warning("Names are too long for DNS and left out", extra={kind: str(key), "names": ", ".join(wrong)})
            if time.perf_counter() >= until:
                await asyncio.sleep(0)
                until = time.perf_counter() + AT_ONCE_SECONDS

    def _records(self, kind: str, key: Key) -> Iterable[Record]:
        if kind == "service" and (service := self._services.get(key)) is not None:
            return each_service_record(service, self._slices.labelled(key.namespace, SERVICE_NAME, key.name), self._options)
        if kind == "pod" and self._pods is not None and (pod := self._pods.get(key)) is not None:
            return pod_records(pod, self._options)
        return ()

    def _names(self, kind: str, key: Key) -> Iterable[str]:
        return namespace_names(key.name, self._options) if kind == "namespace" and self._namespaces.get(key) is not None else ()
