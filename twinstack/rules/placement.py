"""Which nodes can run a pod, and why the others cannot.

Rule of this file: one pod and a scene in; places or reasons out. Which place is best is told in ``rules.scores``.

Theory. A node can run the pod when nothing forbids it: it is cordoned or not ready, has a taint that the pod does not
tolerate, is not what the pod selects, is full or lacks what the pod asks for, has a host port taken, or pods there and here want to be
apart (or together, or evenly spread). Each node that cannot tells its first reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from zlib import crc32

from twinstack.api.kinds import Node, Pod, Taint
from twinstack.rules.affinity import Check, apart_from, matches_node_affinity, means_or_meant, together_with
from twinstack.rules.hostports import first_clash, host_ports
from twinstack.rules.requests import PODS, lacking, requests_of
from twinstack.rules.scene import Place, Reason, Scene
from twinstack.rules.spreading import counted_by, spread_of
from twinstack.rules.taints import NOT_READY, UNREACHABLE, UNSCHEDULABLE, untolerated


def checks_of(pod: Pod, scene: Scene) -> list[Check]:
    """What a place is held against, for this pod in this scene."""
    asked, ports = requests_of(pod), host_ports(pod)

    def room(place: Place) -> Reason | None:
        allowed = place.allocatable.get(PODS)
        if allowed is not None and len(place.pods) >= allowed:
            return Reason("Too many pods", passing=True)
        missing = lacking(asked, place.used, place.allocatable)
        if not missing:
            return None
        never = any(asked[name] > place.allocatable.get(name, 0) for name in missing)
        return Reason(", ".join(f"Insufficient {name}" for name in sorted(missing)), passing=not never)

    def port(place: Place) -> Reason | None:
        clash = first_clash(ports, place.ports)
        return Reason(f"node(s) with host port {clash.number}/{clash.protocol} taken", passing=True) if clash else None

    checks: list[Check] = [lambda place: misfit(pod, place.node), room]
    if ports:
        checks.append(port)
    return checks + scene_checks_of(pod, scene)


def scene_checks_of(pod: Pod, scene: Scene) -> list[Check]:
    """Those for which it matters what stands elsewhere. Where there are none, there are none either with fewer pods in the scene."""
    return [check for check in (apart_from(pod, scene), together_with(pod, scene), spread_of(pod, scene)) if check is not None]


def matters_to(pod: Pod, scene: Scene) -> Callable[[Pod], bool]:
    """Whether another pod changes anything in :func:`scene_checks_of`."""
    near, counted = means_or_meant(pod, scene), counted_by(pod)
    return lambda other: near(other) or counted(other)


def enough(nodes: int) -> int:
    """How many places that will do are chosen among: all in a small cluster, a tenth of 5,000 nodes, as upstream has it."""
    return max(100, nodes * max(5, 50 - nodes // 125) // 100)


def feasible_places(pod: Pod, scene: Scene) -> tuple[list[Place], dict[str, Reason]]:
    """Places that will do, :func:`enough` of them, and by the names of others why they will not; every name, where no place will do."""
    checks, most = checks_of(pod, scene), enough(len(scene.places))
    found: list[Place] = []
    reasons: dict[str, Reason] = {}
    # Where only some are looked at, each pod begins elsewhere, or the first nodes would fill up alone.
    start = crc32(pod.metadata.uid.encode()) % len(scene.places) if len(scene.places) > most else 0
    for place in chain(scene.places[start:], scene.places[:start]):
        reason = next((why for check in checks if (why := check(place))), None)
        if reason is None:
            found.append(place)
            if len(found) == most:
                break
        else:
            reasons[place.name] = reason
    return found, reasons


def misfit(pod: Pod, node: Node) -> Reason | None:
    """Why the pod does not fit the node, whatever else is there; None when it does."""
    taints = untolerated(pod.spec.tolerations, node)
    if taints:
        keys = {taint.key for taint in taints}
        plain = {NOT_READY: "node(s) not ready", UNREACHABLE: "node(s) not heard of any more", UNSCHEDULABLE: "node(s) cordoned"}
        return Reason(next((words for key, words in plain.items() if key in keys), f"node(s) with the untolerated taint {_text_of(taints[0])}"))
    if missing := missing_labels(pod, node):
        return Reason("node(s) without the label " + ",".join(f"{key}={value}" for key, value in sorted(missing.items())))
    return None if matches_node_affinity(pod, node) else Reason("node(s) that the pod's node affinity does not choose")


def missing_labels(pod: Pod, node: Node) -> dict[str, str]:
    """What the pod's node selector wants and the node has not."""
    return {key: value for key, value in (pod.spec.nodeSelector or {}).items() if node.labels.get(key) != value}


def _text_of(taint: Taint) -> str:
    return f"{{{taint.key}: {taint.value}}}"


def explanation(reasons: Mapping[str, Reason], *, preemption: str = "") -> str:
    """Why no node can run the pod, in one line: each reason with how many nodes give it."""
    count = len(reasons)
    if not count:
        return "0/0 nodes are available: the cluster has no node yet"
    told = _counted([reason.words for reason in reasons.values()])
    return f"0/{count} nodes are available: {told}." + (f" preemption: 0/{count} nodes are available: {preemption}." if preemption else "")


def _counted(words: Sequence[str]) -> str:
    return ", ".join(sorted(f"{number} {text}" for text, number in Counter(words).items()))
