"""Which node answers for a load balancer's address: every node decides it alone, and all decide the same.

Rule of this file: objects and the set of living nodes in, owners out. Nothing is agreed on by messages.

Theory. Each pair of an address and a node has a number, a hash of both; of the nodes that may answer, the one with the highest
number does (rendezvous hashing, Thaler and Ravishankar 1998). So when a node goes, only its own addresses move, each
to the next in its own order, and addresses spread evenly over nodes.

Who may answer: nodes that live and are not excluded; of these those that are Ready, if any is. Where a Service has
externalTrafficPolicy Local, only nodes with an endpoint of the address's family: a ready one, else one that serves while
it terminates. An address that is shared needs a node that may answer for each of its Services.

By BGP all of these may be told at once, and each tells its own routes. A node that is drained takes its back: it is cordoned
first, and to move away from one of many ways costs nothing, while an address on the link would change its owner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from twinstack.api.kinds import EndpointSlice, Node, Service, condition_of
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import Address, Family
from twinstack.rules.loadbalancers import is_ours

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
DOOMED = "ToBeDeletedByClusterAutoscaler"
_FALSE = ("0", "f", "F", "false", "FALSE", "False")

Slices = Callable[[Service], Iterable[EndpointSlice]]


def announced(services: Iterable[Service]) -> dict[Address, list[Service]]:
    """The addresses that nodes are to answer for, and the Services behind each."""
    found: dict[Address, list[Service]] = {}
    for service in services:
        if not is_ours(service):
            continue
        for one in service.status.loadBalancer.ingress or ():
            if one.ip and one.ipMode in (None, "VIP"):
                try:
                    found.setdefault(parse_address(one.ip), []).append(service)
                except AddressError:
                    continue
    return found


def may_balance(node: Node) -> bool:
    """Whether a node takes load balancers' traffic at all (upstream's service controller: labels, taint, deletion)."""
    if node.metadata.deletionTimestamp is not None or any(taint.key == DOOMED for taint in node.spec.taints or ()):
        return False
    return node.labels.get(EXCLUDED, "false") in _FALSE


def candidates(nodes: Iterable[Node], living: frozenset[str]) -> tuple[str, ...]:
    """The nodes that may answer, by name: those that live and are Ready, else those that live."""
    able = {node.metadata.name: node for node in nodes if node.metadata.name in living and may_balance(node)}
    ready = [name for name, node in able.items() if _is_ready(node)]
    return tuple(sorted(ready or able))


def speakers(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The nodes whose routes are told by BGP, by name: those that are Ready and not cordoned; else those that are Ready; else all that take traffic."""
    known = list(nodes)
    ready = [node for node in known if _is_ready(node) and may_balance(node)]
    chosen = [node for node in ready if not node.spec.unschedulable] or ready or [node for node in known if may_balance(node)]
    return tuple(sorted(node.metadata.name for node in chosen))


def _is_ready(node: Node) -> bool:
    condition = condition_of(node.status.conditions, "Ready")
    return condition is not None and condition.status == "True"


def owner(address: Address, nodes: Iterable[str]) -> str | None:
    """The node of these that answers for an address."""
    return max(nodes, key=lambda node: (hashlib.blake2b(f"{address} {node}".encode(), digest_size=8).digest(), node), default=None)


def owners(services: Iterable[Service], slices: Slices, nodes: Sequence[str]) -> Mapping[Address, str]:
    """The owner of every address that has one among these nodes."""
    found = {address: owner(address, sorted(able)) for address, able in _able(services, slices, nodes).items()}
    return {address: chosen for address, chosen in found.items() if chosen is not None}


def spoken_by(node: str, services: Iterable[Service], slices: Slices, nodes: Sequence[str]) -> set[Address]:
    """The addresses whose traffic a node takes, when all of these nodes may."""
    return {address for address, able in _able(services, slices, nodes).items() if node in able}


def _able(services: Iterable[Service], slices: Slices, nodes: Sequence[str]) -> dict[Address, set[str]]:
    """The nodes of these that may take the traffic of each address."""
    found: dict[Address, set[str]] = {}
    for address, behind in announced(services).items():
        able = found[address] = set(nodes)
        for service in behind:
            if service.spec.externalTrafficPolicy == "Local":
                able &= endpoint_nodes(slices(service), Family.of(address))
    return found


def endpoint_nodes(slices: Iterable[EndpointSlice], family: Family) -> set[str]:
    """The nodes with a ready endpoint of a family; if there is none, those with one that serves while it terminates."""
    ready, draining = set(), set()
    for one in slices:
        for endpoint in one.endpoints or () if one.addressType == family.value else ():
            if endpoint.nodeName and endpoint.conditions.ready is not False:
                ready.add(endpoint.nodeName)
            elif endpoint.nodeName and endpoint.conditions.terminating and endpoint.conditions.serving is not False:
                draining.add(endpoint.nodeName)
    return ready or draining
