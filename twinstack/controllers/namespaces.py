"""A namespace that is being deleted loses all that is in it, and then goes.

The invariant: a terminating namespace holds nothing that is not itself being deleted; once it holds nothing at all, it
has no finalizer of ours, and its status tells meanwhile what still holds it, by five conditions that are False where all is well.

Events are deleted with the last step and not looked at, since more come while the rest goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from twinstack.api.kinds import Condition, Event, Namespace, Object, condition_of
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import RESOURCES, Resource, resource_of
from twinstack.api.world import Action, DeleteCollection, Patch, Replace, Watch, World
from twinstack.rules.workloads import text_of_refusal, with_condition

FINALIZER = "kubernetes"
_FAILURE = "NamespaceDeletionContentFailure"
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
        conditions = _told(namespace, _Remains(contents), world)
        if not contents:
            # The finalizing write is of the state that was read, so the status is written in a decision of its own; where nobody will see it, not at all.
            if (namespace.status.conditions or _stays(namespace)) and (told := _status(namespace, conditions)):
                return told
            return [*(DeleteCollection(resource, key.name) for resource in _CONTENTS), _finalized(namespace)]
        actions: list[Action] = [
            DeleteCollection(resource, key.name) for resource, found in contents if any(one.metadata.deletionTimestamp is None for one in found)
        ]
        return [*actions, *_status(namespace, conditions)]

    def refused(self, key: Key, error: Exception, world: World) -> list[Action]:
        """The server does not let the contents go: a condition tells why until it does."""
        namespace = world.get(Namespace, key)
        if namespace is None or namespace.metadata.deletionTimestamp is None:
            return []
        before = condition_of(namespace.status.conditions, _FAILURE)
        if before is not None and before.status == "True":
            return []  # its words differ from try to try
        message = f"The server refuses to delete contents: {text_of_refusal(error)}"
        return _status(namespace, with_condition(namespace.status.conditions, _FAILURE, "True", "ContentDeletionFailed", message, world.now))


class _Remains(NamedTuple):
    """What is left, by resource."""

    contents: Sequence[tuple[Resource, Sequence[Object]]]

    def resources(self) -> str:
        """``pods. has 2 resource instances, jobs.batch has 1 resource instances``, as upstream writes it."""
        return ", ".join(sorted(f"{resource.plural}.{resource.group} has {len(found)} resource instances" for resource, found in self.contents))

    def finalizers(self) -> str:
        """``example.com/stay in 2 resource instances``, as upstream writes it."""
        counts = Counter(name for _, found in self.contents for one in found for name in one.metadata.finalizers)
        return ", ".join(f"{name} in {count} resource instances" for name, count in sorted(counts.items()))


def _told(namespace: Namespace, remains: _Remains, world: World) -> list[Condition]:
    """The five conditions: which resources there are is known here, so two of them never fail."""
    rows = [
        ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "Every resource is known"),
        ("NamespaceDeletionGroupVersionParsingFailure", "False", "ParsedGroupVersions", "Every group and version is known"),
        (_FAILURE, "False", "ContentDeleted", "Everything was asked to go; finalizers may hold some of it"),
    ]
    resources, finalizers = remains.resources(), remains.finalizers()
    if resources:
        rows.append(("NamespaceContentRemaining", "True", "SomeResourcesRemain", f"There are left: {resources}"))
    else:
        rows.append(("NamespaceContentRemaining", "False", "ContentRemoved", "Nothing is left"))
    if finalizers:
        rows.append(("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", f"These finalizers hold what is left: {finalizers}"))
    else:
        rows.append(("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", "Nothing is held by a finalizer"))
    conditions = list(namespace.status.conditions or ())
    for type_, status, reason, message in rows:
        conditions = with_condition(conditions, type_, status, reason, message, world.now)
    return conditions


def _status(namespace: Namespace, conditions: list[Condition]) -> list[Action]:
    """The write of these conditions, where they are others."""
    if conditions == list(namespace.status.conditions or ()):
        return []
    patch: Document = {"status": {"conditions": [document_of(condition) for condition in conditions]}}
    return [Patch(_RESOURCE, Key("", namespace.metadata.name), patch, subresource="status", uid=namespace.metadata.uid)]


def _stays(namespace: Namespace) -> bool:
    """Whether somebody else's finalizer holds the namespace itself."""
    return bool(namespace.metadata.finalizers) or any(name != FINALIZER for name in namespace.spec.finalizers or ())


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
