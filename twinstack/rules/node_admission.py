"""Whether a node takes a pod that it was given: the node's own judgement, made once, when it sees the pod first.

Rule of this file: a pod, its node and the pods there in; a refusal or nothing out. What is asked is what the scheduler asks (``rules.placement``), for
whoever names a node in a pod by hand has not asked the scheduler, and what it knew may be old.

Theory. Unlike the scheduler a node is not kept by its own state: it may be cordoned or not ready yet, and of taints only those count that end
pods which run (NoExecute). A refused pod is Failed at once, with the name of the test as its reason, and is not tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twinstack.api.kinds import Node, Pod
from twinstack.rules.affinity import matches_node_affinity
from twinstack.rules.hostports import first_clash, host_ports
from twinstack.rules.placement import missing_labels
from twinstack.rules.requests import PODS, allocatable_of, lacking, requests_of, total
from twinstack.rules.taints import tolerates

NODE_AFFINITY, NODE_PORTS, TAINTS = "NodeAffinity", "NodePorts", "TaintToleration"


class Refusal(NamedTuple):
    """Why a node does not take a pod: upstream's name of the reason, and a sentence."""

    reason: str
    message: str


def refusal(pod: Pod, node: Node, others: Sequence[Pod]) -> Refusal | None:
    """Why the node refuses the pod beside the others, which hold their places; None when it takes it."""
    if short := shortage(pod, node, others):
        return short
    if missing := missing_labels(pod, node):
        return Refusal(NODE_AFFINITY, "the node is without the label " + ",".join(f"{key}={value}" for key, value in sorted(missing.items())))
    if not matches_node_affinity(pod, node):
        return Refusal(NODE_AFFINITY, "the node is not one that the pod's node affinity chooses")
    if (ports := host_ports(pod)) and (clash := first_clash(ports, [port for one in others for port in host_ports(one)])):
        return Refusal(NODE_PORTS, f"the node's port {clash.number}/{clash.protocol} is taken by another pod")
    for taint in node.spec.taints or ():
        if taint.effect == "NoExecute" and not tolerates(pod.spec.tolerations, taint):
            return Refusal(TAINTS, f"the node has the taint {taint.key}={taint.value}:NoExecute, which the pod does not tolerate")
    return None


def shortage(pod: Pod, node: Node, others: Sequence[Pod]) -> Refusal | None:
    """What the node has too little of for the pod beside the others."""
    allocatable = allocatable_of(node)
    if (most := allocatable.get(PODS)) is not None and len(others) >= most:
        return _short(PODS, 1, len(others), most)
    if asked := requests_of(pod):
        used = total(map(requests_of, others))
        for name in sorted(lacking(asked, used, allocatable)):
            return _short(name, asked[name], used[name], allocatable.get(name, 0))
    return None


def _short(name: str, asked: int, used: int, there: int) -> Refusal:
    return Refusal(f"OutOf{name}", f"the node has too little {name}: {asked} asked for, {used} of {there} taken")
