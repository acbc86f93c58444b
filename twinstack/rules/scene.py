"""What a placement looks at: the nodes, what stands on each, and what is left of it.

Rule of this file: nodes and the pods that hold a place in, sums out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import NamedTuple

from twinstack.api.kinds import Node, Pod
from twinstack.rules.hostports import HostPort, host_ports
from twinstack.rules.requests import Amounts, allocatable_of, burden_of, requests_of, total

HOSTNAME = "kubernetes.io/hostname"


class Place(NamedTuple):
    """One node, and the pods that stand there or are about to."""

    node: Node
    pods: Sequence[Pod]
    used: Counter[str]  # of what pods asked for
    burden: Counter[str]  # the same, with something for each container
    allocatable: Amounts
    ports: Sequence[HostPort]
    partial: Sequence[Pod]  # those to whom it matters who else is near

    @property
    def name(self) -> str:
        return self.node.metadata.name


class Reason(NamedTuple):
    """Why a pod may not go to a node; *passing* when it may once other pods have gone."""

    words: str
    passing: bool = False


class Scene(NamedTuple):
    """The places, and the labels of namespaces by name."""

    places: Sequence[Place]
    namespaces: Mapping[str, Mapping[str, str]]

    def each(self) -> Iterator[tuple[Place, Pod]]:
        return ((place, pod) for place in self.places for pod in place.pods)

    def each_partial(self) -> Iterator[tuple[Place, Pod]]:
        return ((place, pod) for place in self.places for pod in place.partial)

    def with_place(self, changed: Place) -> Scene:
        """The same, but for one place."""
        return Scene([changed if one.node is changed.node else one for one in self.places], self.namespaces)


def place_of(node: Node, pods: Sequence[Pod]) -> Place:
    """A node with these pods."""
    partial = [pod for pod in pods if pod.spec.affinity is not None and (pod.spec.affinity.podAffinity or pod.spec.affinity.podAntiAffinity)]
    ports = [port for pod in pods for port in host_ports(pod)]
    used, burden = total(requests_of(pod) for pod in pods), total(burden_of(pod) for pod in pods)
    return Place(node, pods, used, burden, allocatable_of(node), ports, partial)


class Places:
    """Places that are remembered as long as the very same node and pods are there: that spares work, and never changes an answer."""

    def __init__(self) -> None:
        self._known: dict[str, Place] = {}

    def place(self, node: Node, pods: Sequence[Pod]) -> Place:
        name = node.metadata.name
        known = self._known.get(name)
        if known is None or (known.pods is not pods and (len(known.pods) != len(pods) or not all(map(is_, known.pods, pods)))):
            known = self._known[name] = place_of(node, pods)
        elif known.node is not node:
            known = self._known[name] = known._replace(node=node, allocatable=allocatable_of(node))
        return known

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget nodes that are gone."""
        for name in self._known.keys() - set(names):
            del self._known[name]


def domain_of(node: Node, topology: str) -> str | None:
    """The node's value of a topology label; the label of the host is the node's name where it is missing."""
    value = node.labels.get(topology)
    return node.metadata.name if value is None and topology == HOSTNAME else value
