"""From watched objects to the zone: what changed is marked, and taken in a little at a time.

Rule of this file: an object's change costs its own records, and queries are answered between any two.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.client.informer import Informer
from twinstack.dns.records import SERVICE_NAME, Options, namespace_names, pod_records, service_records
from twinstack.dns.zone import Zone

AT_ONCE_SECONDS = 0.002  # the longest that queries wait for changes to be taken in, but for one object

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
                while self._marked:
                    self.settle(time.perf_counter() + AT_ONCE_SECONDS)
                    await asyncio.sleep(0)
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

    def settle(self, until: float) -> None:
        """Take marked changes in, at least one, until this moment of the performance counter."""
        while self._marked:
            kind, key = next(iter(self._marked))
            del self._marked[kind, key]
            self._settle(kind, key)
            if time.perf_counter() >= until:
                return

    def _settle(self, kind: str, key: Key) -> None:
        source: Hashable = (kind, key)
        match kind:
            case "service":
                service = self._services.get(key)
                slices = self._slices.labelled(key.namespace, SERVICE_NAME, key.name) if service is not None else ()
                wrong = self._zone.put(source, service_records(service, slices, self._options) if service is not None else ())
            case "namespace":
                wrong = self._zone.put(source, (), namespace_names(key.name, self._options) if self._namespaces.get(key) is not None else ())
            case _:
                pod = self._pods.get(key) if self._pods is not None else None
                wrong = self._zone.put(source, pod_records(pod, self._options) if pod is not None else ())
        if wrong:
            log.warning("Names are too long for DNS and left out", extra={kind: str(key), "names": ", ".join(wrong)})
