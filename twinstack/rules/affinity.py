"""Where a pod wants to be by what is there: node affinity, pods together and apart, even spread.

Rule of this file: only what is *required during scheduling*; what is preferred is nobody's here. A topology is a node
label; nodes with the same value of it are one place. The label ``kubernetes.io/hostname`` is the node's name where it
is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from twinstack.api.kinds import LabelSelector, Node, Pod, PodAffinityTerm, PodAntiAffinity
from twinstack.api.selectors import EVERYTHING, Selector, of_selector

HOSTNAME = "kubernetes.io/hostname"
Check = Callable[[Node], str | None]


def place_of(node: Node, topology: str) -> str | None:
    """The node's place in this topology."""
    value = node.labels.get(topology)
    return node.metadata.name if value is None and topology == HOSTNAME else value


# ---- Nodes


def matches_node_affinity(pod: Pod, node: Node) -> bool:
    """Whether any term of the required node affinity holds; without one, every node will do."""
    affinity = (pod.spec.affinity.nodeAffinity or {}) if pod.spec.affinity else {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(_term_holds(term, node) for term in required.get("nodeSelectorTerms") or ())


def _term_holds(term: Mapping[str, Any], node: Node) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False  # an empty term selects nothing
    name = {"metadata.name": node.metadata.name}
    return all(_holds(one, node.labels) for one in expressions) and all(_holds(one, name) for one in fields)


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = str(expression.get("key", "")), expression.get("operator"), expression.get("values") or []
    value = labels.get(key)
    match operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            ours, theirs = _integer(value), _integer(values[0] if values else None)
            if ours is None or theirs is None:
                return False
            return ours > theirs if operator == "Gt" else ours < theirs
    return False


def _integer(text: object) -> int | None:
    try:
        return int(str(text))
    except ValueError:
        return None


# ---- Pods


class _Term(NamedTuple):
    """A term with its selectors made ready: which pods, of which namespaces, in which topology."""

    selector: Selector | None
    namespaces: frozenset[str]
    others: Selector | None
    topology: str

    def means(self, pod: Pod, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
        """Whether the term speaks of this pod."""
        namespace = pod.metadata.namespace
        if self.selector is None or not self.selector.matches(pod.metadata.labels):
            return False
        return namespace in self.namespaces or (self.others is not None and self.others.matches(namespaces.get(namespace, {})))


def _term(term: PodAffinityTerm, namespace: str) -> _Term:
    own = () if term.namespaces or term.namespaceSelector is not None else (namespace,)
    return _Term(of_selector(term.labelSelector), frozenset((*(term.namespaces or ()), *own)), of_selector(term.namespaceSelector), term.topologyKey)


def _apart_terms(pod: Pod) -> list[_Term]:
    anti = pod.spec.affinity.podAntiAffinity if pod.spec.affinity else None
    return [_term(term, pod.metadata.namespace) for term in (anti.requiredDuringSchedulingIgnoredDuringExecution if anti else None) or ()]


def _together_terms(pod: Pod) -> list[_Term]:
    found = pod.spec.affinity.podAffinity if pod.spec.affinity else None
    terms = msgspec.convert(found or {}, PodAntiAffinity).requiredDuringSchedulingIgnoredDuringExecution
    return [_term(term, pod.metadata.namespace) for term in terms or ()]


class Apart:
    """The places that the pod may not go to, because of pods there that it, or that they, want to be apart from."""

    def __init__(self, ours: set[tuple[str, str]], theirs: set[tuple[str, str]]) -> None:
        self._ours, self._theirs = ours, theirs

    def __bool__(self) -> bool:
        return bool(self._ours or self._theirs)

    def reason(self, node: Node) -> str | None:
        """Why the pod may not go to this node."""
        for places, words in ((self._ours, "pods there that this one must not meet"), (self._theirs, "pods there that must not meet this one")):
            if any(place_of(node, topology) == place for topology, place in places):
                return words
        return None


def apart_from(pod: Pod, pods: Iterable[Pod], nodes: Sequence[Node], namespaces: Mapping[str, Mapping[str, str]]) -> Apart:
    """Anti-affinity, both ways."""
    terms = _apart_terms(pod)
    by_name = {node.metadata.name: node for node in nodes}
    ours: set[tuple[str, str]] = set()
    theirs: set[tuple[str, str]] = set()
    for other in pods:
        if not terms and other.spec.affinity is None:
            continue
        node = by_name.get(other.spec.nodeName)
        if node is None:
            continue
        for term in terms:
            if term.means(other, namespaces) and (place := place_of(node, term.topology)) is not None:
                ours.add((term.topology, place))
        for term in _apart_terms(other):
            if term.means(pod, namespaces) and (place := place_of(node, term.topology)) is not None:
                theirs.add((term.topology, place))
    return Apart(ours, theirs)


def together_with(pod: Pod, pods: Iterable[Pod], nodes: Sequence[Node], namespaces: Mapping[str, Mapping[str, str]]) -> Check | None:
    """Affinity to pods: all terms must hold in the node's place. The first of a group that wants to be together may go anywhere."""
    terms = _together_terms(pod)
    if not terms:
        return None
    by_name = {node.metadata.name: node for node in nodes}
    places: list[set[str]] = [set() for _ in terms]
    found = False
    for other in pods:
        if all(term.means(other, namespaces) for term in terms):  # one pod must satisfy all terms
            found = True
            node = by_name.get(other.spec.nodeName)
            for term, place in zip(terms, places, strict=True):
                if node is not None and (value := place_of(node, term.topology)) is not None:
                    place.add(value)
    first = not found and all(term.means(pod, namespaces) for term in terms)

    def check(node: Node) -> str | None:
        for term, place in zip(terms, places, strict=True):
            value = place_of(node, term.topology)
            if value is None or (value not in place and not first):
                return "no pod there that this one must meet"
        return None

    return check


# ---- Spread


def spread_of(pod: Pod, pods: Iterable[Pod], nodes: Sequence[Node]) -> Check | None:
    """``topologySpreadConstraints`` that say DoNotSchedule: no place may have more than ``maxSkew`` pods above the emptiest."""
    constraints = [one for one in pod.spec.topologySpreadConstraints or () if one.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"]
    if not constraints:
        return None
    near = [other for other in pods if other.metadata.namespace == pod.metadata.namespace and other.metadata.deletionTimestamp is None]
    selected = [node for node in nodes if (pod.spec.nodeSelector or {}).items() <= node.labels.items() and matches_node_affinity(pod, node)]
    by_name = {node.metadata.name: node for node in selected}
    limits: list[tuple[str, Counter[str], int]] = []
    for one in constraints:
        topology, skew = str(one.get("topologyKey", "")), int(one.get("maxSkew", 1))
        selector = of_selector(msgspec.convert(one.get("labelSelector"), LabelSelector | None)) or EVERYTHING
        counts: Counter[str] = Counter({place: 0 for node in selected if (place := place_of(node, topology)) is not None})
        for other in near:
            node = by_name.get(other.spec.nodeName)
            if node is not None and selector.matches(other.metadata.labels) and (place := place_of(node, topology)) is not None:
                counts[place] += 1
        itself = 1 if selector.matches(pod.metadata.labels) else 0
        limits.append((topology, counts, skew + min(counts.values(), default=0) - itself))

    def check(node: Node) -> str | None:
        for topology, counts, most in limits:
            place = place_of(node, topology)
            if place is None:
                return f"no label {topology}, over which the pods are to be spread"
            if counts[place] > most:
                return f"would spread the pods unevenly over {topology}"
        return None

    return check
