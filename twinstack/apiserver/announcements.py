"""What the API server itself tells about objects: a line in its log and an Event beside the object."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Final

from twinstack.api import kinds
from twinstack.api.errors import AlreadyExists
from twinstack.api.objects import Document
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_micro_time
from twinstack.apiserver.strategies.base import API
from twinstack.rules.events import MOST_NOTE, NEW_VERSION

log = logging.getLogger(__name__)

EVENTS: Final = resource_of(kinds.ReportedEvent)
CONTROLLER: Final = "twinstack.dev/kube-apiserver"


class Announcements:
    """Warnings about objects, as Events of events.k8s.io/v1 (spec/api.md 4.9)."""

    def __init__(self, api: API, now: Callable[[], datetime]) -> None:
        self._api, self._now = api, now
        self._instance = socket.gethostname()[:128] or "kube-apiserver"
        self._told: set[tuple[str, str]] = set()

    async def tell(self, about: kinds.Object, reason: str, message: str, *, action: str = "") -> None:
        """Warn about an object; *action* is what was being done, the reason when that says it."""
        meta, now = about.metadata, self._now()
        log.warning("%s: %s", reason, message, extra={"about": f"{about.kind} {meta.namespace}/{meta.name}"})
        regarding = {"apiVersion": about.apiVersion, "kind": about.kind, "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}
        event: Document = {
            "apiVersion": NEW_VERSION,
            "kind": "Event",
            # The names of IPAddresses have colons, the names of events have none.
            "metadata": {"name": f"{meta.name.replace(':', '-').strip('-')}.{int(now.timestamp() * 1e6):x}", "namespace": meta.namespace or "default"},
            "regarding": {field: value for field, value in regarding.items() if value},
            "type": "Warning",
            "reason": reason,
            "action": action or reason,
            "note": message[:MOST_NOTE],
            "eventTime": text_of_micro_time(now),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
        }
        for attempt in range(16):
            try:
                await self._api.create(EVENTS, event)
                return
            except AlreadyExists:  # two in one microsecond
                event["metadata"] = {
                    "name": f"{meta.name.replace(':', '-').strip('-')}.{int(now.timestamp() * 1e6) + attempt + 1:x}",
                    "namespace": meta.namespace or "default",
                }

    async def tell_once(self, about: kinds.Object, reason: str, message: str) -> None:
        """Warn about an object, once in this server's life for each reason."""
        key = (reason, about.metadata.uid or about.metadata.name)
        if key not in self._told:
            self._told.add(key)
            await self.tell(about, reason, message)
