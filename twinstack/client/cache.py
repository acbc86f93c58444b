"""The cache of a program: its informers together, as the world that controllers decide upon.

It is also the hand that performs what they decide: the answer to a write goes straight into the informer of its kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from twinstack.api import kinds
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_KIND
from twinstack.api.world import Action, Delete, Index
from twinstack.client.client import Client
from twinstack.client.informer import Callback, Informer

V = TypeVar("V", bound=kinds.Object)
Perform = Callable[[Action], Awaitable[Document | None]]


class Cache:
    """Implements ``api.world.World`` over one informer a kind. :meth:`watch` all kinds before :meth:`run`."""

    def __init__(self, client: Client, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.client = client
        self._now = now
        self._informers: dict[type[kinds.Object], Informer[Any]] = {}

    def watch(
        self, view: type[V], *, namespace: str = "", label_selector: str = "", field_selector: str = "", lean: Callable[[V], V] | None = None
    ) -> Informer[V]:
        """The informer of a kind, made when it is first asked for; the selectors, and what is left out, hold for all who look."""
        informer = self._informers.get(view)
        if informer is None:
            informer = Informer(self.client, view, namespace=namespace, label_selector=label_selector, field_selector=field_selector, lean=lean)
            self._informers[view] = informer
        return informer

    def watch_all(self, views: Iterable[type[kinds.Object]]) -> None:
        for view in views:
            self.watch(view)

    async def run(self) -> None:
        """Keep all informers true until cancelled."""
        async with asyncio.TaskGroup() as group:
            for view, informer in self._informers.items():
                group.create_task(informer.run(), name=f"informer {view.__name__}")

    async def synced(self) -> None:
        """Wait until each kind has been read once."""
        for informer in tuple(self._informers.values()):
            await informer.synced()

    @property
    def is_synced(self) -> bool:
        return all(informer.is_synced for informer in self._informers.values())

    def subscribe(self, view: type[kinds.Object], callback: Callback) -> Callable[[], None]:
        """See :meth:`Informer.subscribe`."""
        return self._of(view).subscribe(callback)

    async def perform(self, action: Action, by: Perform | None = None) -> Document | None:
        """Do it, or have it done by somebody else than the cache's own client, and take in the answer. Errors are those of ``api.errors``."""
        answer = await (by or self.client.perform)(action)
        # A deletion's answer tells the object's last state when it is gone, which must not come back.
        if answer is not None and (not isinstance(action, Delete) or (answer.get("metadata") or {}).get("deletionTimestamp")):
            self.take(answer)
        return answer

    def take(self, document: Document) -> bool:
        """Take in an object that the API server has just answered; see :meth:`Informer.take`."""
        resource = BY_KIND.get((str(document.get("apiVersion")), str(document.get("kind"))))
        informer = self._informers.get(resource.view) if resource else None
        return informer is not None and informer.take(document)

    # ---- api.world.World

    @property
    def now(self) -> datetime:
        return self._now()

    def get(self, view: type[V], key: Key) -> V | None:
        return self._of(view).get(key)

    def list(self, view: type[V], namespace: str = "") -> Sequence[V]:
        return self._of(view).list(namespace)

    def owned(self, view: type[V], uid: str) -> Sequence[V]:
        return self._of(view).owned(uid)

    def labelled(self, view: type[V], namespace: str, label: str, value: str) -> Sequence[V]:
        return self._of(view).labelled(namespace, label, value)

    def indexed(self, view: type[V], index: Index, value: Hashable) -> Sequence[V]:
        return self._of(view).indexed(index, value)

    def _of(self, view: type[V]) -> Informer[V]:
        try:
            return self._informers[view]
        except KeyError:
            raise LookupError(f"{view.__name__} is not watched: name it in watches") from None
