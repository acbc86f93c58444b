"""A node that is not heard of any more is said to be so, and its pods do not serve and do not stay for ever.

The invariant:

* when neither its Lease nor its status was renewed for the grace period, a node's conditions are Unknown;
* a node has exactly those of our taints that its state calls for: ``not-ready`` while Ready is False, ``unreachable``
  while it is Unknown, ``unschedulable`` while it is cordoned, one for each kind of pressure;
* pods of an unreachable node are not Ready, so that no Service sends anybody there;
* a pod that does not tolerate a NoExecute taint is deleted, or when the time that it tolerates it is over.

The NoExecute taints of nodes that are silent or not ready come at a rate, which is lower, or none, while much of a zone is in trouble
(``rules.zones``).

A heartbeat counts from when it was renewed, but never from before this controller began to look: after the whole control
plane was away nobody could renew anything, and all nodes would seem dead at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from twinstack.api.kinds import Lease, Node, Pod, Taint, condition_of
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time, text_of_time
from twinstack.api.world import Action, After, Delete, Patch, Tell, Watch, World
from twinstack.rules.endpoints import by_node
from twinstack.rules.taints import NOT_READY, UNREACHABLE, UNSCHEDULABLE, covers
from twinstack.rules.workloads import finished, ready
from twinstack.rules.zones import Rates, rate_for, seconds_to_wait

LEASES = "kube-node-lease"
_NODES, _PODS = resource_of(Node), resource_of(Pod)
_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_TAINTED = "The pod does not tolerate a NoExecute taint of its node, or does not any longer"
_RATES = Rates()
_OURS = {NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURES.values()}


class NodeLifecycle:
    """Nodes without a heartbeat for *grace_seconds*; pods that say nothing stay *eviction_seconds* on a node that is not ready."""

    name = "node-lifecycle-controller"

    def __init__(
        self, *, grace_seconds: float = 40.0, startup_seconds: float = 60.0, period_seconds: float = 5.0, eviction_seconds: float = 300.0, rates: Rates = _RATES
    ) -> None:
        """*startup_seconds* is the grace of a node that has not said yet how it is; *period_seconds* how often is looked again at what waits."""
        self._grace, self._startup, self._period, self._eviction, self._rates = grace_seconds, startup_seconds, period_seconds, eviction_seconds, rates
        self._since: datetime | None = None  # when we began to look: nothing in the world tells that
        self._seen: dict[str, dict[tuple[str, str], datetime]] = {}  # by a node's name: since when we know taints that do not say since when they are there
        self.watches: Sequence[Watch] = (Watch(Node, _keys_of_node), Watch(Lease, _keys_of_lease), Watch(Pod, _keys_of_pod))

    def decide(self, key: Key, world: World) -> list[Action]:
        if self._since is None:
            self._since = world.now
        node = world.get(Node, key)
        if node is None or node.metadata.deletionTimestamp is not None:
            self._seen.pop(key.name, None)
            return []
        current = condition_of(node.status.conditions, "Ready")
        status = current.status if current is not None else "Unknown"
        actions: list[Action] = []
        grace = self._grace if current is not None else self._startup
        left = (self._last_heard(node, world, self._since) + timedelta(seconds=grace) - world.now).total_seconds()
        unknown = _unknown_conditions(node, world.now) if left <= 0 else None
        if unknown is not None:
            status = "Unknown"
        wait = 0.0 if status == "True" else self._seconds_to_wait(node, world)
        if wait:
            actions.append(After(self._period if wait < 0 else wait))
        taints = _taints(node, status, world.now, evicts=not wait, takes_back=wait < 0)
        if taints is not None:  # before the status, which would make this revision an old one
            patch: Document = {"spec": {"taints": [document_of(taint) for taint in taints] or None}}
            actions.append(Patch(_NODES, key, patch, uid=node.metadata.uid, resource_version=node.metadata.resourceVersion))
        if unknown is not None:
            actions.append(unknown)
            actions.append(Tell(node, "Normal", "NodeNotReady", f"{key.name} has not been heard of for {self._grace:.0f} seconds"))
        elif left > 0:
            actions.append(After(left))
        forbidding = self._dated(key.name, node.spec.taints or () if taints is None else taints, world.now)
        silent = status == "Unknown" and (current is not None or left <= 0)
        if forbidding or silent:
            for pod in world.indexed(Pod, by_node, key.name):
                if not finished(pod):
                    if silent and ready(pod):
                        actions.append(_not_ready(pod, world.now))
                    if pod.metadata.deletionTimestamp is None:
                        actions.extend(self._eviction_of(pod, forbidding, world.now))
        return actions

    def _dated(self, node: str, taints: Iterable[Taint], now: datetime) -> list[tuple[Taint, datetime]]:
        """Those that drive pods away, each with since when: of what people set (``kubectl taint``), that is when we saw it first."""
        before, seen = self._seen.pop(node, {}), {}
        dated = []
        for taint in taints:
            if taint.effect != "NoExecute":
                continue
            since = parse_time(taint.timeAdded)
            if since is None:
                since = seen[taint.key, taint.value or ""] = before.get((taint.key, taint.value or ""), now)
            dated.append((taint, since))
        if seen:
            self._seen[node] = seen
        return dated

    def _seconds_to_wait(self, node: Node, world: World) -> float:
        """How long the node's pods may stay yet; less than nothing when that is for as long as things are as they are."""
        nodes = world.list(Node)
        rate = rate_for(node, nodes, self._rates)
        if rate is None:
            return -1.0
        if any(taint.effect == "NoExecute" and taint.key in (NOT_READY, UNREACHABLE) for taint in node.spec.taints or ()):
            return 0.0  # it was given up already
        wait = seconds_to_wait(node, nodes, rate, world.now)
        return self._period if wait is None else wait

    def _last_heard(self, node: Node, world: World, since: datetime) -> datetime:
        lease = world.get(Lease, Key(LEASES, node.metadata.name))
        current = condition_of(node.status.conditions, "Ready")
        moments = [
            parse_time(lease.spec.renewTime) if lease else None,
            # what we wrote ourselves is no sign of life
            parse_time(current.lastHeartbeatTime) if current is not None and current.status != "Unknown" else None,
            parse_time(node.metadata.creationTimestamp),
        ]
        return max(since, *(moment for moment in moments if moment is not None))

    def _eviction_of(self, pod: Pod, taints: Iterable[tuple[Taint, datetime]], now: datetime) -> Iterable[Action]:
        """The deletion of a pod, or when it is due; nothing when it may stay. A pod that came after the taint has its whole time."""
        soonest: float | None = None
        came = parse_time(pod.status.startTime) or parse_time(pod.metadata.creationTimestamp)
        for taint, since in taints:
            seconds = self._tolerated_seconds(pod, taint)
            if seconds is not None:
                left = seconds - (now - max(since, came or since)).total_seconds()
                soonest = left if soonest is None else min(soonest, left)
        if soonest is None:
            return
        if soonest > 0:
            yield After(soonest)
            return
        if condition_of(pod.status.conditions, "DisruptionTarget") is None:  # a Job that ignores disruptions looks at it
            yield _condition(pod, {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": _TAINTED}, now)
        yield Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid)
        yield Tell(pod, "Normal", "TaintManagerEviction", f"{pod.metadata.name} is deleted: it does not tolerate the taints of {pod.spec.nodeName}")

    def _tolerated_seconds(self, pod: Pod, taint: Taint) -> float | None:
        """How long the pod tolerates the taint; None for ever."""
        covering = [one for one in pod.spec.tolerations or () if covers(one, taint)]
        if not covering:
            return self._eviction if taint.key in (NOT_READY, UNREACHABLE) else 0.0
        limits = [one.tolerationSeconds for one in covering]
        return None if None in limits else float(max(0, min(limit for limit in limits if limit is not None)))


def _unknown_conditions(node: Node, now: datetime) -> Patch | None:
    """The conditions of a silent node; None when they say so already."""
    text = text_of_time(now)
    changed: list[Document] = []
    for type_ in _CONDITIONS:
        before = condition_of(node.status.conditions, type_)
        if before is not None and before.status == "Unknown":
            continue
        reason = "NodeStatusUnknown" if before is not None else "NodeStatusNeverUpdated"
        message = "The kubelet has stopped to report the node's status" if before is not None else "The kubelet has never reported the node's status"
        condition: Document = {"type": type_, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": text}
        if before is not None and before.lastHeartbeatTime:
            condition["lastHeartbeatTime"] = before.lastHeartbeatTime
        changed.append(condition)
    if not changed:
        return None
    return Patch(_NODES, Key("", node.metadata.name), {"status": {"conditions": changed}}, subresource="status", strategic=True, uid=node.metadata.uid)


def _taints(node: Node, status: str, now: datetime, *, evicts: bool, takes_back: bool) -> list[Taint] | None:
    """The taints that the node should have; None when it has them. Pods are driven away only where that is the node's turn (*evicts*)."""
    wanted: set[tuple[str, str]] = set()
    if status != "True" and condition_of(node.status.conditions, "Ready") is not None:
        key = UNREACHABLE if status == "Unknown" else NOT_READY
        wanted |= {(key, "NoSchedule"), (key, "NoExecute")} if evicts and not takes_back else {(key, "NoSchedule")}
    elif status != "True":
        wanted.add((NOT_READY, "NoSchedule"))
    if node.spec.unschedulable:
        wanted.add((UNSCHEDULABLE, "NoSchedule"))
    for type_, key in _PRESSURES.items():
        condition = condition_of(node.status.conditions, type_)
        if condition is not None and condition.status == "True":
            wanted.add((key, "NoSchedule"))
    present = list(node.spec.taints or ())
    kept = [taint for taint in present if taint.key not in _OURS or (taint.key, taint.effect) in wanted]
    missing = wanted - {(taint.key, taint.effect) for taint in kept}
    if not missing and len(kept) == len(present):
        return None
    since = text_of_time(now)
    return [*kept, *(Taint(key=key, effect=effect, timeAdded=since) for key, effect in sorted(missing))]


def _not_ready(pod: Pod, now: datetime) -> Patch:
    return _condition(pod, {"type": "Ready", "status": "False", "reason": "NodeNotReady"}, now)


def _condition(pod: Pod, condition: Document, now: datetime) -> Patch:
    """A condition of a pod, from now on."""
    patch: Document = {"status": {"conditions": [condition | {"lastTransitionTime": text_of_time(now)}]}}
    return Patch(_PODS, Key(pod.metadata.namespace, pod.metadata.name), patch, subresource="status", strategic=True, uid=pod.metadata.uid)


# ---- What wakes us


def _keys_of_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    """A heartbeat alone does not wake us: we look again when the grace is over."""
    if after is not None and (before is None or _relevant(before) != _relevant(after)):
        yield Key("", after.metadata.name)


def _relevant(node: Node) -> object:
    states = sorted((condition.type, condition.status) for condition in node.status.conditions or ())
    return states, node.spec.taints, node.spec.unschedulable, node.metadata.deletionTimestamp


def _keys_of_lease(before: Lease | None, after: Lease | None, world: World) -> Iterable[Key]:
    return ()


def _keys_of_pod(before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
    """A pod on a node that has NoExecute taints has to be looked at."""
    if after is None or not after.spec.nodeName or (before is not None and before.spec == after.spec and ready(before) == ready(after)):
        return
    key = Key("", after.spec.nodeName)
    node = world.get(Node, key)
    if node is not None and any(taint.effect == "NoExecute" for taint in node.spec.taints or ()):
        yield key
