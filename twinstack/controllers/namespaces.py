"""A namespace that is being deleted loses all that is in it, and then goes.

The invariant: a terminating namespace holds nothing that is not itself being deleted; once it holds nothing at all, it
has no finalizer of ours, and its status tells meanwhile what still holds it.

Events are deleted with the last step and not looked at, since more come while the rest goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twinstack.api.kinds import Event, Namespace, Object
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import RESOURCES, resource_of
from twinstack.api.world import Action, DeleteCollection, Patch, Replace, Watch, World
from twinstack.rules.workloads import with_condition

FINALIZER = "kubernetes"
_RESOURCE = resource_of(Namespace)
_CONTENTS = tuple(resource for resource in RESOURCES if resource.namespaced and "deletecollection" in resource.verbs and not resource.kept_as)
_COUNTED = tuple(resource for resource in _CONTENTS if resource.view is not Event)


class Namespaces:
    """The end of namespaces."""

    name = "namespace-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(Namespace, _keys_of_namespace), *(Watch(resource.view, _keys_of_content) for resource in _COUNTED))

    def decide(self, key: Key, world: World) -> list[Action]:
        namespace = world.get(Namespace, key)
        if namespace is None or namespace.metadata.deletionTimestamp is None or FINALIZER not in (namespace.spec.finalizers or ()):
            return []
        contents = [(resource, found) for resource in _COUNTED if (found := world.list(resource.view, key.name))]
        if not contents:
            return [*(DeleteCollection(resource, key.name) for resource in _CONTENTS), _finalized(namespace)]
        actions: list[Action] = [
            DeleteCollection(resource, key.name) for resource, found in contents if any(one.metadata.deletionTimestamp is None for one in found)
        ]
        counts = ", ".join(f"{len(found)} {resource.qualified}" for resource, found in contents)
        finalizers = sorted({name for _, found in contents for one in found for name in one.metadata.finalizers})
        conditions = namespace.status.conditions
        conditions = with_condition(conditions, "NamespaceContentRemaining", "True", "SomeResourcesRemain", f"There are left: {counts}", world.now)
        held, reason = ("True", "SomeFinalizersRemain") if finalizers else ("False", "ContentHasNoFinalizers")
        told = f"These finalizers hold what is left: {', '.join(finalizers)}" if finalizers else "Nothing is held by a finalizer"
        conditions = with_condition(conditions, "NamespaceFinalizersRemaining", held, reason, told, world.now)
        if conditions != list(namespace.status.conditions or ()):
            patch: Document = {"status": {"conditions": [document_of(condition) for condition in conditions]}}
            actions.append(Patch(_RESOURCE, key, patch, subresource="status", uid=namespace.metadata.uid))
        return actions


def _finalized(namespace: Namespace) -> Replace:
    document = document_of(namespace)
    document |= {"apiVersion": _RESOURCE.api_version, "kind": _RESOURCE.kind}
    document["spec"] = {"finalizers": [name for name in namespace.spec.finalizers or () if name != FINALIZER]}
    return Replace(_RESOURCE, document, subresource="finalize")


def _keys_of_namespace(before: Namespace | None, after: Namespace | None, world: World) -> Iterable[Key]:
    if after is not None and after.metadata.deletionTimestamp is not None:
        yield Key("", after.metadata.name)


def _keys_of_content(before: Object | None, after: Object | None, world: World) -> Iterable[Key]:
    """What has gone may be the last; what has come must go, too."""
    if before is None or after is None:
        one = after or before
        key = Key("", one.metadata.namespace if one else "")
        namespace = world.get(Namespace, key)
        if namespace is not None and namespace.metadata.deletionTimestamp is not None:
            yield key
