"""Spreading pods over places: ``topologySpreadConstraints`` (KEP-895), and pods of one kind where nothing is said.

Rule of this file: a pod and a scene in; reasons and costs out.

Theory. A constraint counts, in each domain (a value of its topology label), the pods that it selects. One more pod may go to a domain
when that has then at most ``maxSkew`` more than the emptiest. Which nodes make domains is said by nodeAffinityPolicy and
nodeTaintsPolicy (KEP-3094); when there are fewer domains than ``minDomains``, the emptiest counts as empty (KEP-3022).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from twinstack.api.kinds import LabelSelector, Pod
from twinstack.api.selectors import EVERYTHING, of_selector
from twinstack.rules.affinity import Check, matches_node_affinity, with_label_keys
from twinstack.rules.scene import HOSTNAME, Place, Reason, Scene, domain_of
from twinstack.rules.taints import untolerated

ZONE = "topology.kubernetes.io/zone"


class _Constraint(NamedTuple):
    topology: str
    skew: int
    least_domains: int
    selects: Callable[[Pod], bool]
    counts: Callable[[Place], bool]  # whether a node makes a domain


def _constraints(pod: Pod, action: str) -> list[_Constraint]:
    return [_constraint(pod, one) for one in pod.spec.topologySpreadConstraints or () if one.get("whenUnsatisfiable", "DoNotSchedule") == action]


def _constraint(pod: Pod, one: Mapping[str, Any]) -> _Constraint:
    given = msgspec.convert(one.get("labelSelector"), LabelSelector | None)
    selector = of_selector(with_label_keys(given, pod, one.get("matchLabelKeys") or ())) or EVERYTHING
    namespace = pod.metadata.namespace

    def selects(other: Pod) -> bool:
        return other.metadata.namespace == namespace and other.metadata.deletionTimestamp is None and selector.matches(other.metadata.labels)

    by_affinity, by_taints = one.get("nodeAffinityPolicy", "Honor") == "Honor", one.get("nodeTaintsPolicy", "Ignore") == "Honor"

    def counts(place: Place) -> bool:
        node = place.node
        chosen = not by_affinity or ((pod.spec.nodeSelector or {}).items() <= node.labels.items() and matches_node_affinity(pod, node))
        return chosen and not (by_taints and untolerated(pod.spec.tolerations, node))

    return _Constraint(str(one.get("topologyKey", "")), int(one.get("maxSkew", 1)), int(one.get("minDomains") or 1), selects, counts)


def _per_domain(constraint: _Constraint, places: Iterable[Place], keys: Sequence[str]) -> Counter[str]:
    """How many pods there are in each domain; nodes that lack any of the constraints' labels make none."""
    found: Counter[str] = Counter()
    for place in places:
        domain = domain_of(place.node, constraint.topology)
        if domain is None or any(domain_of(place.node, key) is None for key in keys) or not constraint.counts(place):
            continue
        found[domain] += sum(1 for other in place.pods if constraint.selects(other))
    return found


def spread_of(pod: Pod, scene: Scene) -> Check | None:
    """The constraints that say DoNotSchedule."""
    constraints = _constraints(pod, "DoNotSchedule")
    if not constraints:
        return None
    keys = [one.topology for one in constraints]
    limits: list[tuple[str, Counter[str], int]] = []
    for one in constraints:
        counts = _per_domain(one, scene.places, keys)
        least = min(counts.values(), default=0) if len(counts) >= one.least_domains else 0
        limits.append((one.topology, counts, one.skew + least - (1 if one.selects(pod) else 0)))

    def check(place: Place) -> Reason | None:
        for topology, counts, most in limits:
            domain = domain_of(place.node, topology)
            if domain is None:
                return Reason(f"node(s) without the label {topology}, over which the pods are to be spread")
            if counts[domain] > most:
                return Reason(f"node(s) where the pods would be spread unevenly over {topology}", passing=True)
        return None

    return check


def counted_by(pod: Pod) -> Callable[[Pod], bool]:
    """Whether a constraint of the pod that says DoNotSchedule counts another pod."""
    constraints = _constraints(pod, "DoNotSchedule")
    return lambda other: any(one.selects(other) for one in constraints)


def unevenness(pod: Pod, scene: Scene, alike: Mapping[str, int]) -> Callable[[Place], float]:
    """How crowded a place is: by the constraints that say ScheduleAnyway; without any constraint, by pods of the same kind on the node and in its zone."""
    costs: list[tuple[str, Counter[str], float, int]] = []
    if pod.spec.topologySpreadConstraints:
        for one in _constraints(pod, "ScheduleAnyway"):
            counts = _per_domain(one, scene.places, ())
            costs.append((one.topology, counts, math.log(len(counts) + 2), one.skew))
    elif alike:
        for topology, skew in ((HOSTNAME, 3), (ZONE, 5)):
            counts = Counter()
            for place in scene.places:
                if (domain := domain_of(place.node, topology)) is not None:
                    counts[domain] += alike.get(place.name, 0)
            costs.append((topology, counts, math.log(len(counts) + 2), skew))

    def cost(place: Place) -> float:
        found = 0.0
        for topology, counts, weight, skew in costs:
            domain = domain_of(place.node, topology)
            if domain is not None:
                found += counts[domain] * weight + (skew - 1)
        return found

    return cost
