"""Events: what a program tells people about an object.

The same thing told again raises the count of the event that is there. Telling never waits and never fails: events
are written by a task of their own, and what cannot be written is logged and dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key, key_of
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import Action, Create, Patch
from twinstack.loops.clock import Clock, SystemClock

EVENTS = resource_of(kinds.Event)
MOST_WAITING = 1000
MOST_REMEMBERED = 4096
ATTEMPTS, RETRY_SECONDS = 5, 1.0

Perform = Callable[[Action], Awaitable[Document | None]]

log = logging.getLogger(__name__)


class _Told(NamedTuple):
    """One occurrence."""

    about: Document  # an ObjectReference
    type: str
    reason: str
    message: str
    time: str


class _Written(NamedTuple):
    """An event that stands, and how often it has been told."""

    key: Key
    times: int


class Recorder:
    """Writes events while :meth:`run` runs."""

    def __init__(self, perform: Perform, *, component: str, host: str = "", clock: Clock | None = None) -> None:
        self._perform, self._component, self._host = perform, component, host
        self._clock = clock or SystemClock()
        self._waiting: asyncio.Queue[_Told] = asyncio.Queue(MOST_WAITING)
        self._written: OrderedDict[tuple[str, ...], _Written] = OrderedDict()
        self._number = 0

    def tell(self, about: kinds.Object, type_: str, reason: str, message: str, *, field_path: str = "") -> None:
        """Record that something happened to an object; *type_* is Normal or Warning."""
        resource = resource_of(type(about))
        metadata = about.metadata
        named = (
            ("apiVersion", resource.api_version),
            ("kind", resource.kind),
            ("namespace", metadata.namespace),
            ("name", metadata.name),
            ("uid", metadata.uid),
            ("resourceVersion", metadata.resourceVersion),
            ("fieldPath", field_path),
        )
        reference = {name: value for name, value in named if value}
        try:
            self._waiting.put_nowait(_Told(reference, type_, reason, message[:1024], text_of_time(self._clock.now())))
        except asyncio.QueueFull:
            log.warning("An event is dropped, as too many wait", extra={"reason": reason, "object": f"{resource.kind} {metadata.namespace}/{metadata.name}"})

    async def run(self) -> None:
        """Write what is told until cancelled."""
        while True:
            told = await self._waiting.get()
            try:
                await self._write(told)
            finally:
                self._waiting.task_done()

    async def flushed(self) -> None:
        """Wait until all that was told is written or dropped."""
        await self._waiting.join()

    async def _write(self, told: _Told) -> None:
        for attempt in range(ATTEMPTS):
            try:
                await self._write_once(told)
                return
            except (errors.ServiceUnavailable, errors.TooManyRequests, errors.Timeout, errors.InternalError) as error:
                if attempt + 1 == ATTEMPTS:
                    log.warning("An event is dropped", extra={"reason": told.reason, "error": error.message})
                    return
                await self._clock.sleep(RETRY_SECONDS)
            except errors.APIError as error:
                # Most often the namespace is going or gone, and nobody will miss the event.
                log.info("An event is dropped", extra={"reason": told.reason, "object": told.about.get("name"), "error": error.message})
                return

    async def _write_once(self, told: _Told) -> None:
        same = (told.about.get("uid", ""), told.about["kind"], told.about.get("fieldPath", ""), told.type, told.reason, told.message)
        written = self._written.get(same)
        if written is not None:
            try:
                await self._perform(Patch(EVENTS, written.key, {"count": written.times + 1, "lastTimestamp": told.time}))
                self._remember(same, written._replace(times=written.times + 1))
                return
            except errors.NotFound:
                del self._written[same]  # it was too old: a new one begins
        document = self._document(told)
        await self._perform(Create(EVENTS, document))
        self._remember(same, _Written(key_of(document), 1))

    def _document(self, told: _Told) -> Document:
        self._number += 1
        unique = f"{int(self._clock.now().timestamp() * 1e9) + self._number:x}"
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{told.about['name'][:230]}.{unique}", "namespace": told.about.get("namespace") or "default"},
            "involvedObject": told.about,
            "type": told.type,
            "reason": told.reason,
            "message": told.message,
            "count": 1,
            "firstTimestamp": told.time,
            "lastTimestamp": told.time,
            "source": {"component": self._component} | ({"host": self._host} if self._host else {}),
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }

    def _remember(self, same: tuple[str, ...], written: _Written) -> None:
        self._written[same] = written
        self._written.move_to_end(same)
        if len(self._written) > MOST_REMEMBERED:
            self._written.popitem(last=False)
