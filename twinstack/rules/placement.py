"""Which nodes can run a pod, and which of them is best.

Rule of this file: one pod, the nodes and the pods upon them in; nodes or reasons out.

Theory. A node can run the pod when nothing forbids it: it is cordoned or not ready, has a taint that the pod does not
tolerate, lacks what the pod selects, is full, has a host port taken, or pods there and here want to be apart (or
together, or evenly spread). Each node that cannot tells its first reason. Of those that can, the best has the fewest
pods of the same kind (same controller, or same Service), then the fewest pods at all.

Not looked at: requests for CPU and memory, preferred affinities, volumes, priorities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twinstack.api.kinds import Node, Pod, Taint, Toleration, condition_of
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.affinity import Apart, apart_from, matches_node_affinity, spread_of, together_with
from twinstack.rules.workloads import finished

NOT_READY, UNREACHABLE, UNSCHEDULABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable"
_FORBIDS = ("NoSchedule", "NoExecute")


class Scene(NamedTuple):
    """What a placement looks at: the nodes, and the pods that hold a place on one, by its name."""

    nodes: Sequence[Node]
    placed: Mapping[str, list[Pod]]
    namespaces: Mapping[str, Mapping[str, str]]  # labels of namespaces by name

    @property
    def pods(self) -> Iterable[Pod]:
        return (pod for pods in self.placed.values() for pod in pods)


def scene_of(nodes: Sequence[Node], pods: Iterable[Pod], namespaces: Mapping[str, Mapping[str, str]]) -> Scene:
    """The scene; pods without a node or that have ended hold no place."""
    placed: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.spec.nodeName and not finished(pod):
            placed.setdefault(pod.spec.nodeName, []).append(pod)
    return Scene([node for node in nodes if node.metadata.deletionTimestamp is None], placed, namespaces)


# ---- Taints


def tolerates(tolerations: Iterable[Toleration] | None, taint: Taint) -> bool:
    """Whether any of the tolerations covers the taint."""
    return any(covers(toleration, taint) for toleration in tolerations or ())


def covers(toleration: Toleration, taint: Taint) -> bool:
    """Whether the toleration is of this taint: its key, value and effect, each of which may be left open."""
    if toleration.effect not in ("", taint.effect) or toleration.key not in ("", taint.key):
        return False
    exists = toleration.operator == "Exists"
    return exists or (toleration.key == taint.key and toleration.value == taint.value)


def taints_of(node: Node) -> list[Taint]:
    """The node's taints, and those that its state amounts to before anybody has written them."""
    taints = list(node.spec.taints or ())
    if node.spec.unschedulable:
        taints.append(Taint(key=UNSCHEDULABLE, effect="NoSchedule"))
    ready = condition_of(node.status.conditions, "Ready")
    if ready is None or ready.status != "True":
        taints.append(Taint(key=UNREACHABLE if ready is not None and ready.status == "Unknown" else NOT_READY, effect="NoSchedule"))
    return taints


def text_of_taint(taint: Taint) -> str:
    """``key=value:Effect``"""
    return f"{taint.key}{'=' + taint.value if taint.value else ''}:{taint.effect}"


# ---- Host ports


def _host_ports(pod: Pod) -> Iterable[tuple[str, int, str]]:
    for container in pod.spec.containers:
        for port in container.ports or ():
            number = port.hostPort or (port.containerPort if pod.spec.hostNetwork else 0)
            if number:
                yield port.protocol, number, port.hostIP


def _families_of_host(text: str) -> Collection[Family]:
    if not text:
        return FAMILIES
    try:
        return (Family.of(parse_address(text)),)
    except AddressError:
        return FAMILIES


def _clash(one: tuple[str, int, str], other: tuple[str, int, str]) -> bool:
    """Whether two host ports cannot both be had: without an address a port is taken in both families, with ``0.0.0.0``
    or ``::`` in all of one."""
    if one[:2] != other[:2]:
        return False
    everywhere = {"", *(family.facts.unspecified for family in FAMILIES)}
    shared = any(family in _families_of_host(other[2]) for family in _families_of_host(one[2]))
    return shared and (one[2] == other[2] or one[2] in everywhere or other[2] in everywhere)


# ---- The decision


def _pods_allowed(node: Node) -> int | None:
    text = str((node.status.allocatable or {}).get("pods", ""))
    return int(text) if text.isascii() and text.isdigit() else None


def feasible_nodes(pod: Pod, scene: Scene) -> tuple[list[Node], Counter[str]]:
    """The nodes that can run the pod, and why the others cannot: how many for each reason."""
    checks: list[Callable[[Node], str | None]] = [
        lambda node: _untolerated(pod, node),
        lambda node: _unselected(pod, node),
        lambda node: _full(node, scene),
    ]
    ports = list(_host_ports(pod))
    if ports:
        checks.append(lambda node: _port_taken(ports, scene.placed.get(node.metadata.name, ())))
    apart: Apart = apart_from(pod, scene.pods, scene.nodes, scene.namespaces)
    if apart:
        checks.append(apart.reason)
    others = (together_with(pod, scene.pods, scene.nodes, scene.namespaces), spread_of(pod, scene.pods, scene.nodes))
    checks.extend(check for check in others if check is not None)
    found: list[Node] = []
    reasons: Counter[str] = Counter()
    for node in scene.nodes:
        reason = next((why for check in checks if (why := check(node))), None)
        if reason is None:
            found.append(node)
        else:
            reasons[reason] += 1
    return found, reasons


def misfit(pod: Pod, node: Node) -> str | None:
    """Why the pod does not fit the node, whatever else is there; None when it does."""
    return _untolerated(pod, node) or _unselected(pod, node)


def _untolerated(pod: Pod, node: Node) -> str | None:
    taints = [taint for taint in taints_of(node) if taint.effect in _FORBIDS and not tolerates(pod.spec.tolerations, taint)]
    if not taints:
        return None
    keys = {taint.key for taint in taints}
    plain = {NOT_READY: "not ready", UNREACHABLE: "not heard of any more", UNSCHEDULABLE: "cordoned"}
    return next((words for key, words in plain.items() if key in keys), f"untolerated taint {text_of_taint(taints[0])}")


def _unselected(pod: Pod, node: Node) -> str | None:
    missing = {key: value for key, value in (pod.spec.nodeSelector or {}).items() if node.labels.get(key) != value}
    if missing:
        return "no label " + ",".join(f"{key}={value}" for key, value in sorted(missing.items()))
    return None if matches_node_affinity(pod, node) else "not chosen by the pod's node affinity"


def _full(node: Node, scene: Scene) -> str | None:
    allowed = _pods_allowed(node)
    return f"has {allowed} pods already" if allowed is not None and len(scene.placed.get(node.metadata.name, ())) >= allowed else None


def _port_taken(ports: Sequence[tuple[str, int, str]], pods: Iterable[Pod]) -> str | None:
    for pod in pods:
        for taken in _host_ports(pod):
            for port in ports:
                if _clash(port, taken):
                    return f"host port {port[1]}/{port[0]} taken"
    return None


def best_node(pod: Pod, nodes: Sequence[Node], scene: Scene, is_alike: Callable[[Pod], bool]) -> Node:
    """The node for the pod among those that can run it."""

    def order(node: Node) -> tuple[Any, ...]:
        pods = scene.placed.get(node.metadata.name, ())
        disliked = sum(1 for taint in taints_of(node) if taint.effect == "PreferNoSchedule" and not tolerates(pod.spec.tolerations, taint))
        return disliked, sum(1 for other in pods if is_alike(other)), len(pods), node.metadata.name

    return min(nodes, key=order)


def explanation(reasons: Counter[str], count: int) -> str:
    """Why no node can run the pod, in one line."""
    if not count:
        return "0/0 nodes are available: the cluster has no node yet"
    told = ", ".join(f"{words} ({number})" for words, number in sorted(reasons.items()))
    return f"0/{count} nodes are available: {told}"
