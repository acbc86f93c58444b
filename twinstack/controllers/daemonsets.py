"""A DaemonSet has one pod on every node that its template fits.

The invariant: of the pods that the DaemonSet controls, each node that the template fits (its selector and affinity choose the node,
its tolerations cover the node's taints) has exactly one that is not finished, and other nodes have none. A pod of an earlier template is replaced, no more of
them at a time than ``maxUnavailable`` leaves; with OnDelete somebody else deletes it. The status counts them.

A pod is given its node when it is made, and tolerates what befalls nodes: it is there before a node is ready, and stays while
a node is silent or cordoned. Not done: ``maxSurge``, which counts as ``maxUnavailable`` 1; histories of templates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from twinstack.api.kinds import DaemonSet, Node, Pod
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, After, Create, Delete, Patch, Tell, Watch, World, controller_key, own_key
from twinstack.rules.placement import misfit
from twinstack.rules.workloads import (
    active,
    controlled_by,
    finished,
    owner_reference,
    ready,
    references,
    seconds_until_available,
    selector_of,
    share,
    template_hash,
    template_metadata,
)

HASH_LABEL = "controller-revision-hash"
_RESOURCE, _PODS = resource_of(DaemonSet), resource_of(Pod)
_STAYS: tuple[Document, ...] = (
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    *(
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoSchedule"}
        for key in ("not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")
    ),
)
_ON_HOST: Document = {"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"}


class DaemonSets:
    """Pods for DaemonSets."""

    name = "daemonset-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(DaemonSet, own_key), Watch(Pod, controller_key("DaemonSet")), Watch(Node, _keys_of_node))

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(DaemonSet, key)
        if one is None or selector_of(one.spec.selector) is None:
            return []
        template = _pod_of(one)
        wanted = {node.metadata.name for node in world.list(Node) if node.metadata.deletionTimestamp is None and misfit(view_of(Pod, template), node) is None}
        pods = [pod for pod in world.owned(Pod, one.metadata.uid) if controlled_by(pod, one.metadata.uid) and pod.metadata.deletionTimestamp is None]
        at: dict[str, list[Pod]] = {}
        for pod in pods:
            at.setdefault(pod.spec.nodeName, []).append(pod)
        actions: list[Action] = []
        if one.metadata.deletionTimestamp is None:
            actions += _to_each_node(one, template, wanted, at)
            if not actions:
                actions += _replacements(one, template, wanted, at, world)
        actions += _status(one, template, wanted, at, world)
        return actions


def _pod_of(one: DaemonSet) -> Document:
    """The pod that every node gets, but for its node."""
    metadata = template_metadata(one.spec.template)
    metadata["labels"] = {**metadata.get("labels", {}), HASH_LABEL: template_hash(one.spec.template)}
    metadata |= {"generateName": f"{one.metadata.name}-", "namespace": one.metadata.namespace, "ownerReferences": references([owner_reference(one)])}
    spec: dict[str, Any] = dict(one.spec.template.spec)
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *_STAYS, *([_ON_HOST] if spec.get("hostNetwork") else ())]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _to_each_node(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]]) -> Iterable[Action]:
    """One pod where one is wanted, none elsewhere; what is finished gives way."""
    made = 0
    for node in sorted(wanted):
        live = [pod for pod in at.get(node, ()) if not finished(pod)]
        yield from (_deletion(pod) for pod in at.get(node, ()) if finished(pod))
        yield from (_deletion(pod) for pod in sorted(live, key=lambda pod: (not ready(pod), pod.metadata.creationTimestamp or ""))[1:])
        if not live:
            made += 1
            yield Create(_PODS, {**template, "spec": {**template["spec"], "nodeName": node}})
    if made:
        yield Tell(one, "Normal", "SuccessfulCreate", f"Made pods for {made} nodes")
    yield from (_deletion(pod) for node, pods in at.items() if node not in wanted for pod in pods)


def _replacements(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]], world: World) -> Iterable[Action]:
    """Deletions of pods of an earlier template: first of those that serve nobody, then as many as may be away at once."""
    strategy = one.spec.updateStrategy
    if strategy.type != "RollingUpdate":
        return
    rolling = strategy.rollingUpdate
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


def _available(one: DaemonSet, pod: Pod, world: World) -> bool:
    return seconds_until_available(pod, one.spec.minReadySeconds, world.now) == 0


def _is_present(pod: Pod, template: Document) -> bool:
    return pod.labels.get(HASH_LABEL) == str(template["metadata"]["labels"][HASH_LABEL])


def _deletion(pod: Pod) -> Delete:
    return Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid)


def _status(one: DaemonSet, template: Document, wanted: set[str], at: dict[str, list[Pod]], world: World) -> Iterable[Action]:
    pods = [pods[0] for node in sorted(wanted) if (pods := [pod for pod in at.get(node, ()) if active(pod)])]
    waits = [seconds_until_available(pod, one.spec.minReadySeconds, world.now) for pod in pods]
    available = sum(1 for wait in waits if wait == 0)
    counts = {
        "desiredNumberScheduled": len(wanted),
        "currentNumberScheduled": len(pods),
        "numberMisscheduled": sum(1 for node, there in at.items() if node not in wanted and any(active(pod) for pod in there)),
        "numberReady": sum(1 for pod in pods if ready(pod)),
        "updatedNumberScheduled": sum(1 for pod in pods if _is_present(pod, template)),
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
