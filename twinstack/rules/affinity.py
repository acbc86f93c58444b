"""Where a pod wants to be by what is there: node affinity, pods together and apart; required, and preferred by weight.

Rule of this file: a pod and a scene in; reasons and sums out. A topology is a node label; nodes with the same value of it are one
place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from twinstack.api.kinds import LabelSelector, LabelSelectorRequirement, Node, Pod, PodAffinityTerm, PodAntiAffinity
from twinstack.api.selectors import Selector, of_selector
from twinstack.rules.scene import Place, Reason, Scene, domain_of

Check = Callable[[Place], Reason | None]

_HARD_WEIGHT = 1  # what a pod that requires company counts, where another may give it


# ---- Nodes


def matches_node_affinity(pod: Pod, node: Node) -> bool:
    """Whether any term of the required node affinity holds; without one, every node will do."""
    required = _node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(_term_holds(term, node) for term in required.get("nodeSelectorTerms") or ())


def bound_to(affinity: Mapping[str, Any] | None, node: str) -> dict[str, Any]:
    """An affinity, as a document, that lets a scheduler choose this node alone; what it says besides stays."""
    whole = dict(affinity or {})
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return whole | {"nodeAffinity": {**(whole.get("nodeAffinity") or {}), **required}}


def node_of(pod: Pod) -> str:
    """The node that a pod has, or the one that it waits for by name; empty when it is for any."""
    if pod.spec.nodeName:
        return pod.spec.nodeName
    required = _node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    named = [field for term in required.get("nodeSelectorTerms") or () for field in term.get("matchFields") or ()]
    names = [str(name) for field in named if (field.get("key"), field.get("operator")) == ("metadata.name", "In") for name in field.get("values") or ()]
    return names[0] if len(names) == 1 else ""


def node_preference(pod: Pod, node: Node) -> int:
    """The sum of the weights of the preferred terms that hold."""
    preferred = _node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return sum(int(one.get("weight", 0)) for one in preferred if _term_holds(one.get("preference") or {}, node))


def _node_affinity(pod: Pod) -> Mapping[str, Any]:
    return (pod.spec.affinity.nodeAffinity or {}) if pod.spec.affinity else {}


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


def _term(term: PodAffinityTerm, pod: Pod) -> _Term:
    own = () if term.namespaces or term.namespaceSelector is not None else (pod.metadata.namespace,)
    selector = of_selector(with_label_keys(term.labelSelector, pod, term.matchLabelKeys or (), term.mismatchLabelKeys or ()))
    return _Term(selector, frozenset((*(term.namespaces or ()), *own)), of_selector(term.namespaceSelector), term.topologyKey)


def with_label_keys(selector: LabelSelector | None, pod: Pod, same: Any, other: Any = ()) -> LabelSelector | None:
    """The selector narrowed to pods with the same (or another) value of these labels as the pod has (KEP-3633, KEP-3243)."""
    more = [
        LabelSelectorRequirement(key=key, operator=operator, values=[pod.labels[key]])
        for keys, operator in ((same, "In"), (other, "NotIn"))
        for key in keys
        if key in pod.labels
    ]
    if selector is None or not more:
        return selector
    return msgspec.structs.replace(selector, matchExpressions=[*(selector.matchExpressions or ()), *more])


def _affinity(pod: Pod, *, apart: bool) -> PodAntiAffinity:
    if pod.spec.affinity is None:
        return PodAntiAffinity()
    if apart:
        return pod.spec.affinity.podAntiAffinity or PodAntiAffinity()
    return msgspec.convert(pod.spec.affinity.podAffinity or {}, PodAntiAffinity)


def _required(pod: Pod, *, apart: bool) -> list[_Term]:
    return [_term(one, pod) for one in _affinity(pod, apart=apart).requiredDuringSchedulingIgnoredDuringExecution or ()]


def _preferred(pod: Pod) -> Iterator[tuple[_Term, int]]:
    """The terms that only weigh; to be apart weighs against a place."""
    for apart, sign in ((False, 1), (True, -1)):
        for one in _affinity(pod, apart=apart).preferredDuringSchedulingIgnoredDuringExecution or ():
            yield _term(one.podAffinityTerm, pod), sign * one.weight


def apart_from(pod: Pod, scene: Scene) -> Check | None:
    """Anti-affinity, both ways: the places where pods are that it, or that they, want to be apart from."""
    ours: set[tuple[str, str]] = set()
    theirs: set[tuple[str, str]] = set()
    terms = _required(pod, apart=True)
    if terms:
        for place, other in scene.each():
            for term in terms:
                if term.means(other, scene.namespaces) and (domain := domain_of(place.node, term.topology)) is not None:
                    ours.add((term.topology, domain))
    for place, other in scene.each_partial():
        for term in _required(other, apart=True):
            if term.means(pod, scene.namespaces) and (domain := domain_of(place.node, term.topology)) is not None:
                theirs.add((term.topology, domain))
    if not ours and not theirs:
        return None

    def check(place: Place) -> Reason | None:
        for domains, words in ((ours, "node(s) with pods near that this one must not meet"), (theirs, "node(s) with pods near that must not meet this one")):
            if any(domain_of(place.node, topology) == domain for topology, domain in domains):
                return Reason(words, passing=True)
        return None

    return check


def means_or_meant(pod: Pod, scene: Scene) -> Callable[[Pod], bool]:
    """Whether a required term of the pod speaks of another, or one by which that other wants to be apart speaks of the pod."""
    terms = [*_required(pod, apart=True), *_required(pod, apart=False)]

    def answer(other: Pod) -> bool:
        if any(term.means(other, scene.namespaces) for term in terms):
            return True
        return other.spec.affinity is not None and any(term.means(pod, scene.namespaces) for term in _required(other, apart=True))

    return answer


def together_with(pod: Pod, scene: Scene) -> Check | None:
    """Affinity to pods: all terms must hold in the node's place. The first of a group that wants to be together may go anywhere."""
    terms = _required(pod, apart=False)
    if not terms:
        return None
    domains: list[set[str]] = [set() for _ in terms]
    found = False
    for place, other in scene.each():
        if all(term.means(other, scene.namespaces) for term in terms):  # one pod must satisfy all terms
            found = True
            for term, there in zip(terms, domains, strict=True):
                if (domain := domain_of(place.node, term.topology)) is not None:
                    there.add(domain)
    first = not found and all(term.means(pod, scene.namespaces) for term in terms)

    def check(place: Place) -> Reason | None:
        for term, there in zip(terms, domains, strict=True):
            domain = domain_of(place.node, term.topology)
            if domain is None or (domain not in there and not first):
                return Reason("node(s) without a pod near that this one must meet")
        return None

    return check


def company(pod: Pod, scene: Scene) -> Callable[[Place], int]:
    """How much the pods near a place speak for it: what the pod prefers, and what they prefer of it."""
    sums: Counter[tuple[str, str]] = Counter()
    preferred = list(_preferred(pod))
    if preferred:
        for place, other in scene.each():
            for term, weight in preferred:
                if term.means(other, scene.namespaces) and (domain := domain_of(place.node, term.topology)) is not None:
                    sums[term.topology, domain] += weight
    for place, other in scene.each_partial():
        for term, weight in (*_preferred(other), *((term, _HARD_WEIGHT) for term in _required(other, apart=False))):
            if term.means(pod, scene.namespaces) and (domain := domain_of(place.node, term.topology)) is not None:
                sums[term.topology, domain] += weight
    return lambda place: sum(weight for (topology, domain), weight in sums.items() if domain_of(place.node, topology) == domain)
