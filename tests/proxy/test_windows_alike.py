"""The Services of the packet tables on a Windows node: the same endpoints behind each front end, but for what HNS has no words for."""

from __future__ import annotations

import pytest

from tests.proxy import test_choices, test_semantics
from tests.proxy.conftest import ENDS
from twinstack.api import kinds
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.services import Place, service_ports
from twinstack.proxy.windows import Network, Plan, WindowsNode, plan

Front = tuple[tuple[str, ...], str, int]  # addresses (none: a node port), protocol, port
NUMBERS = {6: "tcp", 17: "udp", 132: "sctp"}


def worlds(family: Family) -> list[tuple[str, kinds.Service, list[kinds.EndpointSlice]]]:
    """Every Service of both tables, with its slices of the family."""
    ends = ENDS[family]
    chosen = [(name, test_choices.service(name), test_choices.slices(name, family, ends)) for name in test_choices.SERVICES]
    ways = [
        ("/".join(map(str, one)), test_semantics.service(number), [test_semantics.endpoint_slice(number, family, ends)])
        for number, one in enumerate(test_semantics.SERVICES)
    ]
    return [*chosen, *ways]


def wanted(service: kinds.Service, slices: list[kinds.EndpointSlice], family: Family) -> dict[Front, set[str]]:
    """Who serves each front end on a Linux node; nobody is no entry, for HNS cannot refuse."""
    found: dict[Front, set[str]] = {}
    for port in service_ports(service, slices, family, Place("node1", "z1")):
        inner = {address for address, _ in (port.local if port.internal_local else port.cluster)}
        outer = {address for address, _ in (port.local if port.external_local else port.cluster)}
        found[(port.address,), port.protocol, port.port] = inner
        for address in (*port.externals, *port.balancers):
            found[(address,), port.protocol, port.port] = outer
        if port.node_port:
            found[(), port.protocol, port.node_port] = outer
    return {front: served for front, served in found.items() if served}


def planned(made: Plan, family: Family) -> dict[Front, set[str]]:
    addresses = {document["ID"]: document["IpConfigurations"][0]["IpAddress"] for document in made.endpoints}
    local = {f"local-{pod}": getattr(ENDS[family], pod) for pod in "ab"}
    return {
        (tuple(document["FrontendVIPs"]), NUMBERS[mapping["Protocol"]], mapping["ExternalPort"]):
            {{**addresses, **local}[id_] for id_ in document["HostComputeEndpoints"]}
        for document in made.balancers
        for mapping in document["PortMappings"]
        if document["Flags"] & 2 == family.facts.hns_balancer_flags
    }  # fmt: skip


# Where a Windows node differs, and the sentence of ``windows`` that says so.
OTHERWISE = {
    "zone": "topology hints are not heard", "node": "topology hints are not heard", "zone-and-node": "topology hints are not heard",
    "ending-here": "ending endpoints serve when all of them end",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_same_endpoints_stand_behind_each_front_end(family):
    ends = ENDS[family]
    node = WindowsNode(
        name="node1", addresses={each: ENDS[each].node for each in FAMILIES}, network=Network("cbr0", "net"), dsr=True,
        local={getattr(ends, pod): f"local-{pod}" for pod in "ab"},
    )  # fmt: skip
    names = []
    for name, service, slices in worlds(family):
        made = planned(plan([(service, slices)], node), family)
        if name in OTHERWISE:
            assert made != wanted(service, slices, family), f"{name}: {OTHERWISE[name]}"
        else:
            assert made == wanted(service, slices, family), name
        names.append(name)
    assert len(names) == len(set(names)) == len(test_choices.SERVICES) + len(test_semantics.SERVICES)
