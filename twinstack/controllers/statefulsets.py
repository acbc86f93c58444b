"""A StatefulSet's pods are numbered, and whoever comes after another under a number has the same name.

The invariant, once it rests: for each ordinal from ``spec.ordinals.start`` on there are ``spec.replicas`` pods
``<name>-<ordinal>`` and no others, of the newest template, or of the one before where the ordinal is below the partition;
each has its name as its hostname and the Service ``spec.serviceName`` as its domain.

On the way there, OrderedReady makes the pods one after another, each once all before it are available, and takes them
away from the last on; Parallel waits for none. Another template replaces pods from the last on, as many at once as may be
away (one, if nothing is said). Templates are kept in ControllerRevisions, which ``kubectl rollout`` reads.

There are no persistent volumes, so a set that asks for some was refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from twinstack.api.kinds import ControllerRevision, OwnerReference, Pod, StatefulSet
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import resource_of
from twinstack.api.selectors import Selector
from twinstack.api.workloads import PodTemplate
from twinstack.api.world import Action, After, Create, Delete, Patch, Tell, Watch, World, controller_key, own_key
from twinstack.rules.revisions import REVISION, forgotten, newest_kept, revisions_of
from twinstack.rules.workloads import (
    active,
    claims,
    exact_labels,
    finished,
    owner_reference,
    ready,
    references,
    seconds_until_available,
    selector_of,
    share,
    template_hash,
    template_metadata,
    text_of_refusal,
)

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
_RESOURCE, _PODS = resource_of(StatefulSet), resource_of(Pod)


class _Templates(NamedTuple):
    """The newest template, the one before (the same, when all pods have it), and the names that they are kept under."""

    current: str
    update: str
    documents: dict[str, PodTemplate]


class StatefulSets:
    """Pods for StatefulSets."""

    name = "statefulset-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (
            Watch(StatefulSet, own_key),
            Watch(Pod, _keys_of_pod),
            Watch(ControllerRevision, controller_key("StatefulSet")),
        )

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(StatefulSet, key)
        if one is None or one.metadata.deletionTimestamp is not None:
            return []
        selector = selector_of(one.spec.selector)
        if selector is None:
            return []
        kept = revisions_of(one, world)
        templates = _templates(one, kept)
        actions: list[Action] = list(newest_kept(one, templates.update, templates.update, kept))
        pods = _pods_of(one, selector, world, actions)
        actions.extend(_to_shape(one, templates, pods, world))
        actions.extend(_status(one, templates, list(pods.values()), world))
        actions.extend(forgotten(one, kept, {templates.current, templates.update, *(pod.labels.get(REVISION, "") for pod in pods.values())}))
        return actions

    def refused(self, key: Key, error: Exception, world: World) -> list[Action]:
        """The server makes no pods of this template."""
        one = world.get(StatefulSet, key)
        return [] if one is None else [Tell(one, "Warning", "FailedCreate", f"The server refuses: {text_of_refusal(error)}")]


# ---- Templates


def _templates(one: StatefulSet, kept: Sequence[ControllerRevision]) -> _Templates:
    update = f"{one.metadata.name}-{template_hash(one.spec.template)}"
    documents = {each.metadata.name: view_of(PodTemplate, ((each.data or {}).get("spec") or {}).get("template") or {}) for each in kept}
    documents[update] = one.spec.template
    current = one.status.currentRevision if one.status.currentRevision in documents else update
    return _Templates(current, update, documents)


# ---- Pods


def _ordinal(one: StatefulSet, pod: Pod) -> int | None:
    prefix, _, number = pod.metadata.name.rpartition("-")
    return int(number) if prefix == one.metadata.name and number.isascii() and number.isdigit() and str(int(number)) == number else None


def _pods_of(one: StatefulSet, selector: Selector, world: World, actions: list[Action]) -> dict[int, Pod]:
    """The set's pods by ordinal; what it adopts and releases goes to *actions*."""
    namespace, exact = one.metadata.namespace, exact_labels(one.spec.selector)
    alike = min((world.labelled(Pod, namespace, *pair) for pair in exact.items()), key=len) if exact else world.list(Pod, namespace)
    candidates = [pod for pod in alike if _ordinal(one, pod) is not None]
    claimed = claims(one, selector, world.owned(Pod, one.metadata.uid), candidates)
    actions.extend(_owners(pod, [*pod.metadata.ownerReferences, owner_reference(one)]) for pod in claimed.adopt)
    actions.extend(_owners(pod, [owner for owner in pod.metadata.ownerReferences if owner.uid != one.metadata.uid]) for pod in claimed.release)
    return {ordinal: pod for pod in claimed.held if (ordinal := _ordinal(one, pod)) is not None}


def _owners(pod: Pod, owners: list[OwnerReference]) -> Patch:
    metadata = pod.metadata
    patch: Document = {"metadata": {"ownerReferences": references(owners) or None}}
    return Patch(_PODS, Key(metadata.namespace, metadata.name), patch, uid=metadata.uid, resource_version=metadata.resourceVersion)


def _to_shape(one: StatefulSet, templates: _Templates, pods: dict[int, Pod], world: World) -> Iterator[Action]:
    start = one.spec.ordinals.start if one.spec.ordinals else 0
    wanted = range(start, start + (1 if one.spec.replicas is None else one.spec.replicas))
    in_order = one.spec.podManagementPolicy != "Parallel"
    for ordinal in wanted:
        pod = pods.get(ordinal)
        if pod is None:
            yield Create(_PODS, _pod_of(one, templates, ordinal, below=_partition(one, start)))
            yield Tell(one, "Normal", "SuccessfulCreate", f"Made pod {one.metadata.name}-{ordinal}")
        elif finished(pod) and pod.metadata.deletionTimestamp is None:
            yield _deletion(pod)
            yield Tell(one, "Warning", "RecreatingFailedPod", f"Pod {pod.metadata.name} has ended, and another takes its place")
        if in_order and not (pod is not None and active(pod) and _available(one, pod, world)):
            return
    extra = [pods[ordinal] for ordinal in sorted(pods, reverse=True) if ordinal not in wanted]
    if extra and in_order:
        extra = [] if any(pod.metadata.deletionTimestamp for pod in extra) else extra[:1]
        yield from map(_deletion, extra)
        return
    yield from (_deletion(pod) for pod in extra if pod.metadata.deletionTimestamp is None)
    yield from _replacements(one, templates, [pods[ordinal] for ordinal in reversed(wanted) if ordinal in pods], len(wanted), start, world)


def _partition(one: StatefulSet, start: int) -> int:
    """The ordinal from which on pods are of the newest template."""
    rolling = one.spec.updateStrategy.rollingUpdate
    return start + ((rolling.partition or 0) if rolling and one.spec.updateStrategy.type == "RollingUpdate" else 0)


def _replacements(one: StatefulSet, templates: _Templates, pods: Sequence[Pod], total: int, start: int, world: World) -> Iterator[Action]:
    """Deletions of pods of an earlier template, from the last on; they wait for what is away already."""
    if one.spec.updateStrategy.type != "RollingUpdate":
        return
    rolling = one.spec.updateStrategy.rollingUpdate
    most = max(1, share(rolling.maxUnavailable if rolling else None, total, default=1, rounded=math.floor))
    away = total - sum(1 for pod in pods if active(pod) and _available(one, pod, world))
    for pod in pods:
        if (_ordinal(one, pod) or 0) < _partition(one, start):
            return
        if pod.labels.get(REVISION) != templates.update and active(pod):
            if _available(one, pod, world):
                if away >= most:
                    return
                away += 1
            yield _deletion(pod)


def _pod_of(one: StatefulSet, templates: _Templates, ordinal: int, *, below: int) -> Document:
    revision = templates.current if ordinal < below else templates.update
    template, name = templates.documents[revision], f"{one.metadata.name}-{ordinal}"
    metadata = template_metadata(template)
    metadata["labels"] = {**metadata.get("labels", {}), REVISION: revision, POD_NAME: name, POD_INDEX: str(ordinal)}
    metadata |= {"name": name, "namespace": one.metadata.namespace, "ownerReferences": references([owner_reference(one)])}
    spec = {**template.spec, "hostname": name}
    if one.spec.serviceName:
        spec["subdomain"] = one.spec.serviceName
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _available(one: StatefulSet, pod: Pod, world: World) -> bool:
    return seconds_until_available(pod, one.spec.minReadySeconds, world.now) == 0


def _deletion(pod: Pod) -> Delete:
    return Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid)


# ---- Status


def _status(one: StatefulSet, templates: _Templates, pods: Sequence[Pod], world: World) -> Iterator[Action]:
    live = [pod for pod in pods if active(pod)]
    waits = [seconds_until_available(pod, one.spec.minReadySeconds, world.now) for pod in live]
    ready_ones = sum(1 for pod in live if ready(pod))
    updated = sum(1 for pod in live if pod.labels.get(REVISION) == templates.update)
    status = {
        "observedGeneration": one.metadata.generation,
        "replicas": len(pods),
        "readyReplicas": ready_ones,
        "availableReplicas": sum(1 for wait in waits if wait == 0),
        "currentReplicas": sum(1 for pod in live if pod.labels.get(REVISION) == templates.current),
        "updatedReplicas": updated,
        "currentRevision": templates.current,
        "updateRevision": templates.update,
    }
    if one.spec.updateStrategy.type == "RollingUpdate" and updated == ready_ones == len(pods):
        status |= {"currentRevision": templates.update, "currentReplicas": updated}
    if status != {name: getattr(one.status, name) for name in status}:
        yield Patch(_RESOURCE, Key(one.metadata.namespace, one.metadata.name), {"status": status}, subresource="status", uid=one.metadata.uid)
    soonest = min((wait for wait in waits if wait), default=None)
    if soonest is not None:
        yield After(soonest)


# ---- What wakes us


_controller = controller_key("StatefulSet")


def _keys_of_pod(before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
    """The set that has the pod; and for one that nobody has, the set of whose name it is."""
    yield from dict.fromkeys(_controller(before, after, world))
    if after is not None and after.metadata.controller is None:
        key = Key(after.metadata.namespace, after.metadata.name.rpartition("-")[0])
        if world.get(StatefulSet, key) is not None:
            yield key
