"""Which taints keep which pods away.

Rule of this file: taints and tolerations in, yes or no out.
"""

from __future__ import annotations

from collections.abc import Iterable

from twinstack.api.kinds import Node, Taint, Toleration, condition_of

NOT_READY, UNREACHABLE, UNSCHEDULABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable"
FORBIDS = ("NoSchedule", "NoExecute")


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


def untolerated(tolerations: Iterable[Toleration] | None, node: Node) -> list[Taint]:
    """The taints that keep a pod of these tolerations from the node."""
    return [taint for taint in taints_of(node) if taint.effect in FORBIDS and not tolerates(tolerations, taint)]


def disliked(tolerations: Iterable[Toleration] | None, node: Node) -> int:
    """How many taints only dissuade such a pod from the node."""
    return sum(1 for taint in taints_of(node) if taint.effect == "PreferNoSchedule" and not tolerates(tolerations, taint))
