"""What names owners lives as long as one of them does.

The invariant:

* an object all of whose owners are gone is deleted; while one lives, references to those that are gone are dropped;
* an object that is being deleted in the foreground (finalizer ``foregroundDeletion``) outlives the dependents that block
  it, which are deleted first;
* an object that is being deleted as an orphan's parent (finalizer ``orphan``) outlives its dependents' references to it.

Theory. Each stream of events runs for itself, so a dependent may be seen before its owner. Nothing is therefore deleted
on the word of the cache alone: the API server is asked whether each owner is really absent, and when one is there,
the deletion does not happen (``Absent``).

A key is of any kind: its namespace part is ``<resource>:<namespace>``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from twinstack.api.kinds import Event, Object, OwnerReference
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_KIND, RESOURCES, Resource
from twinstack.api.world import Absent, Action, Delete, Patch, Watch, World
from twinstack.rules.workloads import references

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_COLLECTED = tuple(resource for resource in RESOURCES if resource.view is not Event and not resource.kept_as)
_BY_NAME = {resource.qualified: resource for resource in _COLLECTED}


class Garbage:
    """Dependents of what is gone."""

    name = "garbage-collector-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = tuple(Watch(resource.view, _keys_of(resource)) for resource in _COLLECTED)

    def decide(self, key: Key, world: World) -> list[Action]:
        resource, plain = _parsed(key)
        one = world.get(resource.view, plain)
        if one is None:
            return []
        if one.metadata.deletionTimestamp is not None:
            if ORPHAN in one.metadata.finalizers:
                return _orphaned(resource, one, world)
            return _foreground(resource, one, world) if FOREGROUND in one.metadata.finalizers else []
        return _fate(resource, one, world) if one.metadata.ownerReferences else []


def _key(resource: Resource, one: Object) -> Key:
    return Key(f"{resource.qualified}:{one.metadata.namespace}", one.metadata.name)


def _parsed(key: Key) -> tuple[Resource, Key]:
    name, _, namespace = key.namespace.partition(":")
    return _BY_NAME[name], Key(namespace, key.name)


def _plain(one: Object) -> Key:
    return Key(one.metadata.namespace, one.metadata.name)


def _dependents(one: Object, world: World) -> Iterator[tuple[Resource, Any]]:
    for resource in _COLLECTED:
        for dependent in world.owned(resource.view, one.metadata.uid):
            yield resource, dependent


def _without_owners(resource: Resource, one: Object, uids: set[str]) -> Patch:
    left: list[Document] = references(owner for owner in one.metadata.ownerReferences if owner.uid not in uids)
    patch: Document = {"metadata": {"ownerReferences": left or None}}
    return Patch(resource, _plain(one), patch, uid=one.metadata.uid, resource_version=one.metadata.resourceVersion)


def _without_finalizer(resource: Resource, one: Object, name: str) -> Patch:
    left = [finalizer for finalizer in one.metadata.finalizers if finalizer != name]
    patch: Document = {"metadata": {"finalizers": left or None}}
    return Patch(resource, _plain(one), patch, uid=one.metadata.uid, resource_version=one.metadata.resourceVersion)


def _orphaned(resource: Resource, one: Object, world: World) -> list[Action]:
    actions: list[Action] = [_without_owners(kind, dependent, {one.metadata.uid}) for kind, dependent in _dependents(one, world)]
    return [*actions, _without_finalizer(resource, one, ORPHAN)]


def _foreground(resource: Resource, one: Object, world: World) -> list[Action]:
    """Dependents that do not block are left to go when their owner is gone."""
    blocking = [
        (kind, dependent)
        for kind, dependent in _dependents(one, world)
        if any(owner.uid == one.metadata.uid and owner.blockOwnerDeletion for owner in dependent.metadata.ownerReferences)
    ]
    if not blocking:
        return [_without_finalizer(resource, one, FOREGROUND)]
    return [action for kind, dependent in blocking if dependent.metadata.deletionTimestamp is None for action in _fate(kind, dependent, world)]


def _fate(resource: Resource, one: Object, world: World) -> list[Action]:
    """What becomes of an object that lives and names owners."""
    gone: list[tuple[Resource, Key, OwnerReference]] = []
    waiting: list[OwnerReference] = []
    living = False
    for reference in one.metadata.ownerReferences:
        kind = BY_KIND.get((reference.apiVersion, reference.kind))
        if kind is None or kind not in _COLLECTED:
            living = True  # we cannot know, so we let it live
            continue
        key = Key(one.metadata.namespace if kind.namespaced else "", reference.name)
        owner = world.get(kind.view, key)
        if owner is None or owner.metadata.uid != reference.uid:
            gone.append((kind, key, reference))
        elif reference.blockOwnerDeletion and owner.metadata.deletionTimestamp is not None and FOREGROUND in owner.metadata.finalizers:
            waiting.append(reference)
        else:
            living = True
    if not gone and not waiting:
        return []
    proof: list[Action] = [Absent(kind, key, reference.uid) for kind, key, reference in gone]
    if living:
        return [*proof, _without_owners(resource, one, {reference.uid for *_, reference in gone} | {reference.uid for reference in waiting})]
    return [*proof, Delete(resource, _plain(one), uid=one.metadata.uid, propagation_policy=_policy(one, world, wanted=bool(waiting)))]


def _policy(one: Object, world: World, *, wanted: bool) -> str:
    """In the foreground, if somebody waits for it and it has dependents of its own; else as its finalizers ask."""
    if ORPHAN in one.metadata.finalizers:
        return "Orphan"
    if FOREGROUND in one.metadata.finalizers or (wanted and next(_dependents(one, world), None) is not None):
        return "Foreground"
    return "Background"


def _keys_of(resource: Resource) -> Callable[[Any, Any, World], Iterable[Key]]:
    def keys(before: Object | None, after: Object | None, world: World) -> Iterable[Key]:
        if after is not None:
            was, now = (before or Object()).metadata, after.metadata
            changed = was.ownerReferences != now.ownerReferences or was.finalizers != now.finalizers or was.deletionTimestamp != now.deletionTimestamp
            if changed and (now.ownerReferences or now.finalizers):
                yield _key(resource, after)
        if before is not None and (after is None or _leaves_in_foreground(after)):
            yield from (_key(kind, dependent) for kind, dependent in _dependents(before, world))
        if before is not None and before.metadata.ownerReferences:
            yield from _waiting_owners(before, after, world)

    return keys


def _leaves_in_foreground(one: Object) -> bool:
    return one.metadata.deletionTimestamp is not None and FOREGROUND in one.metadata.finalizers


def _waiting_owners(before: Object, after: Object | None, world: World) -> Iterator[Key]:
    """The owners that may have waited for this dependent to go, or to let them go."""
    if after is not None and after.metadata.ownerReferences == before.metadata.ownerReferences:
        return
    for reference in before.metadata.ownerReferences:
        kind = BY_KIND.get((reference.apiVersion, reference.kind))
        if kind is None or kind not in _COLLECTED:
            continue
        owner = world.get(kind.view, Key(before.metadata.namespace if kind.namespaced else "", reference.name))
        if owner is not None and owner.metadata.uid == reference.uid and owner.metadata.deletionTimestamp is not None:
            yield _key(kind, owner)
