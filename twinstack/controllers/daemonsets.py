"""A DaemonSet has one pod on every node that its template fits.

The invariant: of the pods that the DaemonSet controls, each node that the template fits (its selector and affinity choose the node,
its tolerations cover the node's taints) has exactly one that is not finished, and other nodes have none. A pod of an earlier template is replaced, no more of
them at a time than ``maxUnavailable`` leaves; where ``maxSurge`` is given, the new pod comes first, and the old one goes once that is available.
With OnDelete somebody else deletes it. The status counts them, and templates are kept in ControllerRevisions, which ``kubectl rollout`` reads.

A pod is given its node when it is made, and tolerates what befalls nodes: it is there before a node is ready, and stays while
a node is silent or cordoned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from twinstack.api.kinds import ControllerRevision, DaemonSet, Node, OwnerReference, Pod
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, After, Create, Delete, Patch, Tell, Watch, World, controller_key, own_key
from twinstack.rules.affinity import bound_to, node_of
from twinstack.rules.placement import misfit
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

_RESOURCE, _PODS = resource_of(DaemonSet), resource_of(Pod)
_STAYS: tuple[Document, ...] = (
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    *(
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoSchedule"}
        for key in ("not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")
    ),
)
_LONGEST_REST_SECONDS = 900.0  # between two pods that fail on one node
_ON_HOST: Document = {"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"}


class DaemonSets:
    """Pods for DaemonSets."""

    name = "daemonset-controller"
    slow_start = True

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (
            Watch(DaemonSet, own_key),
            Watch(Pod, _keys_of_pod),
            Watch(Node, _keys_of_node),
            Watch(ControllerRevision, controller_key("DaemonSet")),
        )
        self._failures: dict[tuple[str, str], tuple[int, datetime]] = {}  # of a set's uid at a node: how many, and when the next pod may be tried

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(DaemonSet, key)
        selector = selector_of(one.spec.selector) if one is not None else None
        if one is None or selector is None:
            self._failures = {place: failed for place, failed in self._failures.items() if failed[1] > world.now}  # those of the set that went, among them
            return []
        template = _pod_of(one)
        example = view_of(Pod, template)
        wanted = {node.metadata.name for node in world.list(Node) if node.metadata.deletionTimestamp is None and misfit(example, node) is None}
        claimed = claims(one, selector, world.owned(Pod, one.metadata.uid), _candidates(one, world))
        actions: list[Action] = [_owners(pod, [*pod.metadata.ownerReferences, owner_reference(one)]) for pod in claimed.adopt if active(pod)]
        actions += [_owners(pod, [owner for owner in pod.metadata.ownerReferences if owner.uid != one.metadata.uid]) for pod in claimed.release]
        at: dict[str, list[Pod]] = {}
        for pod in claimed.held:
            if pod.metadata.deletionTimestamp is None:
                at.setdefault(node_of(pod), []).append(pod)
        if one.metadata.deletionTimestamp is None:
            kept = revisions_of(one, world)
            update = str(template["metadata"]["labels"][REVISION])
            actions += newest_kept(one, f"{one.metadata.name}-{update}", update, kept)
            given_up, resting = self._failed(one, wanted, at, world.now)
            settling = [*given_up, *_to_each_node(one, template, wanted - resting.keys(), at, everywhere=wanted)]
            actions += [After(seconds) for seconds in resting.values()]
            actions += settling or list(_replacements(one, template, wanted, at, world))
            used = {f"{one.metadata.name}-{pod.labels.get(REVISION, '')}" for pods in at.values() for pod in pods}
            actions += forgotten(one, kept, {f"{one.metadata.name}-{update}", *used})
        actions += _status(one, template, wanted, at, world)
        return actions

    def _failed(self, one: DaemonSet, wanted: set[str], at: dict[str, list[Pod]], now: datetime) -> tuple[list[Action], dict[str, float]]:
        """What has ended gives way, and the nodes where that must wait, with for how long: twice as long each time, so that what never fits is no storm."""
        actions: list[Action] = []
        resting: dict[str, float] = {}
        for node in sorted(wanted):
            place = (one.metadata.uid, node)
            ended = [pod for pod in at.get(node, ()) if finished(pod)]
            if not ended:
                if any(ready(pod) for pod in at.get(node, ())):
                    self._failures.pop(place, None)
                continue
            count, until = self._failures.get(place, (0, now))
            if now < until:
                resting[node] = (until - now).total_seconds()
                continue
            self._failures[place] = (count + 1, now + timedelta(seconds=min(2.0**count, _LONGEST_REST_SECONDS)))
            actions += [_deletion(pod) for pod in ended]
            actions.append(Tell(one, "Warning", "FailedDaemonPod", f"The pod {ended[0].metadata.name} has ended on {node}, and another is tried"))
        return actions, resting

    def refused(self, key: Key, error: Exception, world: World) -> list[Action]:
        """The server makes no pods of this template."""
        one = world.get(DaemonSet, key)
        return [] if one is None else [Tell(one, "Warning", "FailedCreate", f"The server refuses: {text_of_refusal(error)}")]


def _candidates(one: DaemonSet, world: World) -> Sequence[Pod]:
    namespace, exact = one.metadata.namespace, exact_labels(one.spec.selector)
    if not exact:
        return world.list(Pod, namespace)
    return min((world.labelled(Pod, namespace, label, value) for label, value in exact.items()), key=len)


def _owners(pod: Pod, owners: Iterable[OwnerReference]) -> Patch:
    metadata = pod.metadata
    patch: Document = {"metadata": {"ownerReferences": references(owners) or None}}
    return Patch(_PODS, Key(metadata.namespace, metadata.name), patch, uid=metadata.uid, resource_version=metadata.resourceVersion)


def _pod_of(one: DaemonSet) -> Document:
    """The pod that every node gets, but for its node."""
    metadata = template_metadata(one.spec.template)
    metadata["labels"] = {**metadata.get("labels", {}), REVISION: template_hash(one.spec.template)}
    metadata |= {"generateName": f"{one.metadata.name}-", "namespace": one.metadata.namespace, "ownerReferences": references([owner_reference(one)])}
    spec: dict[str, Any] = dict(one.spec.template.spec)
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *_STAYS, *([_ON_HOST] if spec.get("hostNetwork") else ())]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _to_each_node(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]], *, everywhere: set[str]) -> Iterable[Action]:
    """One pod where one is *wanted* now (one of each template while there is surge), none where none is to be ever."""
    made = 0
    for node in sorted(wanted):
        live = sorted((pod for pod in at.get(node, ()) if not finished(pod)), key=lambda pod: (not ready(pod), pod.metadata.creationTimestamp or ""))
        if _surge(one, len(everywhere)):
            newest, older = [pod for pod in live if _is_present(pod, template)], [pod for pod in live if not _is_present(pod, template)]
            yield from (_deletion(pod) for pod in (*newest[1:], *older[1:]))
        else:
            yield from (_deletion(pod) for pod in live[1:])
        if not live:
            made += 1
            yield _creation(template, node)
    if made:
        yield Tell(one, "Normal", "SuccessfulCreate", f"Made pods for {made} nodes")
    yield from (_deletion(pod) for node, pods in at.items() if node not in everywhere for pod in pods)


def _surge(one: DaemonSet, nodes: int) -> int:
    """On how many nodes there may be two pods at a time."""
    strategy = one.spec.updateStrategy
    if strategy.type != "RollingUpdate" or strategy.rollingUpdate is None:
        return 0
    return share(strategy.rollingUpdate.maxSurge, nodes, default=0, rounded=math.ceil)


def _replacements(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]], world: World) -> Iterable[Action]:
    """Pods of an earlier template make way, no more of them at once than may."""
    if one.spec.updateStrategy.type != "RollingUpdate":
        return
    surge = _surge(one, len(wanted))
    yield from _surging(one, template, wanted, at, surge, world) if surge else _giving_way(one, template, wanted, at, world)


def _surging(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]], surge: int, world: World) -> Iterable[Action]:
    """The new pod comes first: at once beside one that serves nobody, else on so many nodes at a time."""
    waiting: list[str] = []
    for node in sorted(wanted):
        live = [pod for pod in at.get(node, ()) if active(pod)]
        newest, older = [pod for pod in live if _is_present(pod, template)], [pod for pod in live if not _is_present(pod, template)]
        if newest and older:
            if _available(one, newest[0], world):
                yield from (_deletion(pod) for pod in older)
            else:
                surge -= 1
        elif older and _available(one, older[0], world):
            waiting.append(node)
        elif older:
            yield _creation(template, node)
    yield from (_creation(template, node) for node in waiting[: max(0, surge)])


def _giving_way(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]], world: World) -> Iterable[Action]:
    """Deletions: first of pods that serve nobody, then as many as may be away at once."""
    rolling = one.spec.updateStrategy.rollingUpdate
    most = max(1, share(rolling.maxUnavailable if rolling else None, len(wanted), default=1, rounded=math.ceil))
    live = [pod for node in sorted(wanted) for pod in at.get(node, ()) if active(pod)]
    away = len(wanted) - sum(1 for pod in live if _available(one, pod, world))
    for pod in sorted(live, key=lambda pod: _available(one, pod, world)):
        if _is_present(pod, template):
            continue
        if _available(one, pod, world):
            if away >= most:
                return
            away += 1
        yield _deletion(pod)


def _creation(template: Document, node: str) -> Create:
    return Create(_PODS, {**template, "spec": {**template["spec"], "affinity": bound_to(template["spec"].get("affinity"), node)}})


def _available(one: DaemonSet, pod: Pod, world: World) -> bool:
    return seconds_until_available(pod, one.spec.minReadySeconds, world.now) == 0


def _is_present(pod: Pod, template: Document) -> bool:
    return pod.labels.get(REVISION) == str(template["metadata"]["labels"][REVISION])


def _deletion(pod: Pod) -> Delete:
    return Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid)


def _status(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]], world: World) -> Iterable[Action]:
    live = [[pod for pod in at.get(node, ()) if active(pod)] for node in sorted(wanted)]
    pods = [min(some, key=lambda pod: (seconds_until_available(pod, one.spec.minReadySeconds, world.now) != 0, not ready(pod))) for some in live if some]
    waits = [seconds_until_available(pod, one.spec.minReadySeconds, world.now) for some in live for pod in some]
    available = sum(1 for pod in pods if _available(one, pod, world))
    counts = {
        "desiredNumberScheduled": len(wanted),
        "currentNumberScheduled": len(pods),
        "numberMisscheduled": sum(1 for node, there in at.items() if node not in wanted and any(active(pod) for pod in there)),
        "numberReady": sum(1 for pod in pods if ready(pod)),
        "updatedNumberScheduled": sum(1 for some in live if any(_is_present(pod, template) for pod in some)),
        "numberAvailable": available,
        "numberUnavailable": len(wanted) - available,
        "observedGeneration": one.metadata.generation,
    }
    if counts != {name: getattr(one.status, name) for name in counts}:
        yield Patch(_RESOURCE, Key(one.metadata.namespace, one.metadata.name), {"status": counts}, subresource="status", uid=one.metadata.uid)
    soonest = min((wait for wait in waits if wait), default=None)
    if soonest is not None:
        yield After(soonest)


def _keys_of_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    """A heartbeat alone wakes nobody: only what a template may look at."""
    if before is None or after is None or _looked_at(before) != _looked_at(after):
        yield from (Key(one.metadata.namespace, one.metadata.name) for one in world.list(DaemonSet))


def _looked_at(node: Node) -> object:
    return node.labels, node.spec.taints, node.spec.unschedulable, node.metadata.deletionTimestamp


_controller = controller_key("DaemonSet")


def _keys_of_pod(before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
    """The set that has the pod; and for one that nobody has, every set that selects it."""
    yield from dict.fromkeys(_controller(before, after, world))
    if after is not None and after.metadata.controller is None and (before is None or before.metadata != after.metadata):
        for one in world.list(DaemonSet, after.metadata.namespace):
            selector = selector_of(one.spec.selector)
            if selector is not None and selector.matches(after.metadata.labels):
                yield Key(one.metadata.namespace, one.metadata.name)
