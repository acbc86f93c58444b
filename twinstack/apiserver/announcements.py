"""What the API server itself tells about objects: a line in its log and an Event beside the object."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
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
MOST_IN_A_PASS: Final = 100
AGAIN_AFTER: Final = timedelta(hours=1)


class Announcements:
    """Warnings about objects, as Events of events.k8s.io/v1 (spec/api.md 4.9).

    The same is not told again for an hour, and of one pass over many objects no more than the first few are told one by one.
    """

    def __init__(self, api: API, now: Callable[[], datetime]) -> None:
        self._api, self._now = api, now
        self._instance = socket.gethostname()[:128] or "kube-apiserver"
        self._told: dict[tuple[str, str, str], datetime] = {}
        self._left, self._unsaid = MOST_IN_A_PASS, 0

    def begin_pass(self) -> None:
        """A look at everything begins, or ends; what was left unsaid since is counted in the log."""
        if self._unsaid:
            log.warning("%d more objects have problems like these", self._unsaid)
        self._left, self._unsaid = MOST_IN_A_PASS, 0
        self._told = {key: moment for key, moment in self._told.items() if self._now() - moment < AGAIN_AFTER}

    async def tell(self, about: kinds.Object, reason: str, message: str, *, action: str = "") -> None:
        """Warn about an object; *action* is what was being done, the reason when that says it."""
        meta, now = about.metadata, self._now()
        key = (reason, meta.uid or f"{meta.namespace}/{meta.name}", message)
        if key in self._told and now - self._told[key] < AGAIN_AFTER:
            return
        if self._left <= 0:
            self._unsaid += 1
            return
        self._left -= 1
        self._told[key] = now
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
