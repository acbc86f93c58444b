"""A world in memory for reconcilers, recorders and elections."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest

from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key, key_of, view_of
from twinstack.api.resources import Resource, resource_of
from twinstack.api.world import Action, Create, Delete, Patch
from twinstack.loops.clock import SteppingClock


class FakeWorld:
    """Objects in memory, which are both the server and its cache; ``failures`` are raised instead of the next actions."""

    def __init__(self, clock: SteppingClock) -> None:
        self.clock = clock
        self.documents: dict[tuple[Resource, Key], Document] = {}
        self.callbacks: list[tuple[type[kinds.Object], Callable[[Any, Any], None]]] = []
        self.performed: list[Action] = []
        self.failures: list[Exception] = []
        self.revision = 0

    @property
    def now(self) -> datetime:
        return self.clock.now()

    # ---- the server

    async def perform(self, action: Action) -> Document | None:
        self.performed.append(action)
        if self.failures:
            raise self.failures.pop(0)
        match action:
            case Create(resource, document):
                return await self.create(resource, document)
            case Patch(resource, key, patch):
                before = await self.get_document(resource, key)
                return self.put(resource, {**before, **patch})
            case Delete(resource, key):
                return self.put(resource, None, key)
        raise AssertionError(action)

    async def get_document(self, resource: Resource, key: Key) -> Document:
        if self.failures:
            raise self.failures.pop(0)
        if (resource, key) not in self.documents:
            raise errors.not_found(resource.plural, key.name)
        return copy.deepcopy(self.documents[resource, key])

    async def create(self, resource: Resource, document: Document) -> Document:
        if (resource, key_of(document)) in self.documents:
            raise errors.already_exists(resource.plural, key_of(document).name)
        return self.put(resource, document)  # type: ignore[return-value]

    async def update(self, resource: Resource, document: Document) -> Document:
        before = await self.get_document(resource, key_of(document))
        if before["metadata"]["resourceVersion"] != document["metadata"]["resourceVersion"]:
            raise errors.conflict(resource.plural, key_of(document).name, "it was modified")
        return self.put(resource, document)  # type: ignore[return-value]

    def put(self, resource: Resource, document: Document | None, key: Key | None = None) -> Document | None:
        """Write as anybody, and tell it."""
        key = key or key_of(document or {})
        before = self.documents.pop((resource, key), None)
        if document is not None:
            self.revision += 1
            document = copy.deepcopy(document)
            document["metadata"]["resourceVersion"] = str(self.revision)
            self.documents[resource, key] = document
        for view, callback in self.callbacks:
            if view is resource.view:
                callback(view_of(view, before) if before else None, view_of(view, document) if document else None)
        return document

    # ---- the cache

    def get(self, view: type[Any], key: Key) -> Any:
        document = self.documents.get((resource_of(view), key))
        return view_of(view, document) if document else None

    def list(self, view: type[Any], namespace: str = "") -> Sequence[Any]:
        found = sorted((key, one) for (resource, key), one in self.documents.items() if resource is resource_of(view))
        return [view_of(view, one) for key, one in found if namespace in ("", key.namespace)]

    def owned(self, view: type[Any], uid: str) -> Sequence[Any]:
        return [one for one in self.list(view) if any(owner.uid == uid for owner in one.metadata.ownerReferences)]

    def labelled(self, view: type[Any], namespace: str, label: str, value: str) -> Sequence[Any]:
        return [one for one in self.list(view, namespace) if one.labels.get(label) == value]

    def subscribe(self, view: type[kinds.Object], callback: Callable[[Any, Any], None]) -> Callable[[], None]:
        entry = (view, callback)
        self.callbacks.append(entry)
        for one in self.list(view):
            callback(None, one)
        return lambda: self.callbacks.remove(entry)


class FakeDoor:
    """The same objects, as an election sees them."""

    def __init__(self, world: FakeWorld) -> None:
        self.get, self.create, self.update = world.get_document, world.create, world.update


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def world(clock: SteppingClock) -> FakeWorld:
    return FakeWorld(clock)


@pytest.fixture
def door(world: FakeWorld) -> FakeDoor:
    return FakeDoor(world)
