"""A ReplicaSet, or a ReplicationController, has as many active pods of its template as it asks for.

The invariant: the pods that the ReplicaSet controls and selects, without those that are finished or being deleted, are
``spec.replicas`` many; its status tells their count, and how many are ready and available.

When there are too many, those go first that are missed least: without a node, not yet running, not ready, cheap by
their own word (``controller.kubernetes.io/pod-deletion-cost``), crowded on a node, ready for a short time, restarted
often, young. Times are compared by their order of magnitude (KEP-2185), so that not always the youngest goes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from twinstack.api.kinds import LabelSelector, Pod, ReplicaSet, ReplicationController, condition_of
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time
from twinstack.api.world import Action, After, Create, Delete, Patch, Tell, Watch, World, controller_key, own_key
from twinstack.rules.workloads import (
    active,
    claims,
    controlled_by,
    exact_labels,
    owner_reference,
    ready,
    ready_since,
    references,
    seconds_until_available,
    selector_of,
    template_metadata,
    text_of_refusal,
    with_condition,
)

FAILURE = "ReplicaFailure"
COST = "controller.kubernetes.io/pod-deletion-cost"
_BURST = 500  # creations or deletions in one decision
_PODS = resource_of(Pod)
Replicated = ReplicaSet | ReplicationController
_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


class ReplicaSets:
    """Pods for ReplicaSets."""

    name = "replicaset-controller"
    view: type[ReplicaSet] | type[ReplicationController] = ReplicaSet
    slow_start = True

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(self.view, own_key), Watch(Pod, _waker(self.view)))

    def decide(self, key: Key, world: World) -> list[Action]:
        one: Replicated | None = world.get(self.view, key)
        if one is None:
            return []
        selector = selector_of(_selector(one))
        if selector is None:
            return []
        claimed = claims(one, selector, world.owned(Pod, one.metadata.uid), _candidates(one, world))
        actions: list[Action] = [_adoption(one, pod) for pod in claimed.adopt if active(pod)]
        actions.extend(_release(one, pod) for pod in claimed.release)
        pods: list[Pod] = [pod for pod in claimed.held if active(pod)]
        if one.metadata.deletionTimestamp is None:
            actions.extend(_to_size(one, pods, world))
        actions.extend(_status(one, pods, world.now))
        return actions

    def refused(self, key: Key, error: Exception, world: World) -> list[Action]:
        """The server makes no pods of this template: an event, and a condition until it does."""
        one: Replicated | None = world.get(self.view, key)
        if one is None:
            return []
        actions: list[Action] = [Tell(one, "Warning", "FailedCreate", f"The server refuses: {text_of_refusal(error)}")]
        if condition_of(one.status.conditions, FAILURE) is None:
            conditions = with_condition(one.status.conditions, FAILURE, "True", "FailedCreate", text_of_refusal(error), world.now)
            actions.append(_status_patch(one, {"conditions": [document_of(each) for each in conditions]}))
        return actions


class ReplicationControllers(ReplicaSets):
    """Pods for ReplicationControllers, which are ReplicaSets but for their name and the form of their selector."""

    name = "replicationcontroller-controller"
    view = ReplicationController


def _selector(one: Replicated) -> LabelSelector | None:
    selector = one.spec.selector
    return LabelSelector(matchLabels=selector) if isinstance(selector, dict) else selector


def _candidates(one: Replicated, world: World) -> Sequence[Pod]:
    namespace = one.metadata.namespace
    exact = exact_labels(_selector(one))
    if not exact:
        return world.list(Pod, namespace)
    return min((world.labelled(Pod, namespace, label, value) for label, value in exact.items()), key=len)


def _adoption(one: Replicated, pod: Pod) -> Patch:
    owners = references([*pod.metadata.ownerReferences, owner_reference(one)])
    return _owners(pod, owners)


def _release(one: Replicated, pod: Pod) -> Patch:
    return _owners(pod, references(owner for owner in pod.metadata.ownerReferences if owner.uid != one.metadata.uid))


def _owners(pod: Pod, owners: list[Document]) -> Patch:
    metadata = pod.metadata
    patch: Document = {"metadata": {"ownerReferences": owners or None}}
    return Patch(_PODS, Key(metadata.namespace, metadata.name), patch, uid=metadata.uid, resource_version=metadata.resourceVersion)


def _to_size(one: Replicated, pods: list[Pod], world: World) -> Iterable[Action]:
    missing = _replicas(one) - len(pods)
    if missing > 0:
        count = min(missing, _BURST)
        document = _pod_of(one)
        yield from (Create(_PODS, document) for _ in range(count))
        yield Tell(one, "Normal", "SuccessfulCreate", f"Made {count} of {_replicas(one)} pods")
    elif missing < 0:
        doomed = sorted(pods, key=_worth(one, world))[: min(-missing, _BURST)]
        yield from (Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid) for pod in doomed)
        names = ", ".join(pod.metadata.name for pod in doomed[:5]) + (f" and {len(doomed) - 5} more" if len(doomed) > 5 else "")
        yield Tell(one, "Normal", "SuccessfulDelete", f"Deleted {names}")


def _replicas(one: Replicated) -> int:
    return 1 if one.spec.replicas is None else one.spec.replicas


def _pod_of(one: Replicated) -> Document:
    metadata = template_metadata(one.spec.template)
    metadata["generateName"] = f"{one.metadata.name}-"
    metadata["namespace"] = one.metadata.namespace
    metadata["ownerReferences"] = references([owner_reference(one)])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": one.spec.template.spec}


# ---- Which pods go first


def _worth(one: Replicated, world: World) -> Any:
    """How much a pod would be missed: the least goes first."""
    now = world.now
    crowd = Counter(pod.spec.nodeName for pod in _siblings(one, world) if active(pod))

    def worth(pod: Pod) -> tuple[object, ...]:
        restarts = max((status.restartCount for status in pod.status.containerStatuses or ()), default=0)
        return (
            bool(pod.spec.nodeName),
            _PHASES.get(pod.status.phase, 0),
            ready(pod),
            _cost(pod),
            -crowd[pod.spec.nodeName],
            _magnitude(ready_since(pod), now) if ready(pod) else 0,
            -restarts,
            _magnitude(parse_time(pod.metadata.creationTimestamp), now),
            pod.metadata.uid,
        )

    return worth


def _siblings(one: Replicated, world: World) -> Iterable[Pod]:
    """The pods of all ReplicaSets of the same owner."""
    owner = one.metadata.controller
    family: Sequence[Replicated] = [other for other in world.owned(type(one), owner.uid) if controlled_by(other, owner.uid)] if owner else [one]
    for other in family:
        yield from (pod for pod in world.owned(Pod, other.metadata.uid) if controlled_by(pod, other.metadata.uid))


def _cost(pod: Pod) -> int:
    text = pod.annotations.get(COST, "0")
    try:
        return int(text)
    except ValueError:
        return 0


def _magnitude(moment: datetime | None, now: datetime) -> int:
    """The order of magnitude of an age in nanoseconds; -1 for none."""
    if moment is None:
        return -1
    nanoseconds = (now - moment).total_seconds() * 1e9
    return int(math.log2(nanoseconds)) if nanoseconds >= 1 else 0


# ---- Status


def _status(one: Replicated, pods: list[Pod], now: datetime) -> Iterable[Action]:
    waits = [seconds_until_available(pod, one.spec.minReadySeconds, now) for pod in pods]
    template = (one.spec.template.metadata.labels or {}).items()
    before = one.status
    counts = {
        "replicas": len(pods),
        "fullyLabeledReplicas": sum(1 for pod in pods if template <= pod.labels.items()),
        "readyReplicas": sum(1 for pod in pods if ready(pod)),
        "availableReplicas": sum(1 for wait in waits if wait == 0),
        "observedGeneration": one.metadata.generation,
    }
    status: Document = dict(counts) if counts != {name: getattr(before, name) for name in counts} else {}
    if len(pods) >= _replicas(one) and condition_of(before.conditions, FAILURE) is not None:
        status["conditions"] = [document_of(each) for each in before.conditions or () if each.type != FAILURE] or None
    if status:
        yield _status_patch(one, status)
    soonest = min((wait for wait in waits if wait), default=None)
    if soonest is not None:
        yield After(soonest)


def _status_patch(one: Replicated, status: Document) -> Patch:
    metadata = one.metadata
    return Patch(resource_of(type(one)), Key(metadata.namespace, metadata.name), {"status": status}, subresource="status", uid=metadata.uid)


# ---- What wakes us


def _waker(view: type[ReplicaSet] | type[ReplicationController]) -> Callable[[Any, Any, World], Iterable[Key]]:
    controller = controller_key(resource_of(view).kind)

    def keys(before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
        yield from dict.fromkeys(controller(before, after, world))
        if after is not None and after.metadata.controller is None and (before is None or before.metadata != after.metadata):
            for one in world.list(view, after.metadata.namespace):
                selector = selector_of(_selector(one))
                if selector is not None and selector.matches(after.metadata.labels):
                    yield Key(one.metadata.namespace, one.metadata.name)

    return keys
