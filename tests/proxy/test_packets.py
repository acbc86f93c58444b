"""The packet table: (from, protocol, to, port) → (delivered to, masqueraded). Two judges: the tracer and the kernel.

Each row stands in both families. A row on which the judges disagree is a bug worth gold.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.dataplane.ruleset import Table, gone, whole
from twinstack.dataplane.trace import Packet, trace
from twinstack.kernel import nftables
from twinstack.net.family import Family
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import Place, service_ports

pytestmark = pytest.mark.kernel

SERVICE_NUMBERS = {name: number for number, name in enumerate(
    ("web", "dns", "self", "none", "itp-local", "itp-far", "etp-local", "etp-far", "lb", "draining", "two-ports", "guarded"), 1
)}  # fmt: skip
RANGES = {Family.IPV4: ("10.96.0.0/24", "10.96.0.{}"), Family.IPV6: ("fd00:96::/120", "fd00:96::{:x}")}
EXTERNAL = {Family.IPV4: "203.0.113.{}", Family.IPV6: "2001:db8:113::{:x}"}


class Row(NamedTuple):
    """*to* is a Service's name (its cluster IP), 'node', 'external', 'vip', 'guarded vip', 'free' (an address no Service has)."""

    why: str
    source: str
    protocol: str
    to: str
    port: int
    answers: frozenset[str]  # who may answer, or refused, or dropped
    masqueraded: bool = False


def row(why: str, source: str, protocol: str, to: str, port: int, answers: str, masqueraded: bool = False) -> Row:
    return Row(why, source, protocol, to, port, frozenset(answers.split()), masqueraded)


ROWS = [
    row("a pod reaches a Service on its node and elsewhere, as itself", "a", "tcp", "web", 80, "b c"),
    row("a pod elsewhere reaches a Service, as itself", "c", "tcp", "itp-local", 80, "b"),
    row("UDP is a protocol like another", "a", "udp", "dns", 53, "b c"),
    row("the node itself reaches a cluster IP", "node", "tcp", "web", 80, "b c", True),
    row("the node itself reaches a cluster IP by UDP", "node", "udp", "dns", 53, "b c", True),
    row("a stranger's traffic to a cluster IP is masqueraded", "outside", "tcp", "web", 80, "b c", True),
    row("a pod reaches itself through its Service", "a", "tcp", "self", 80, "a", True),
    row("a pod reaches itself through its Service by UDP", "a", "udp", "self", 53, "a", True),
    row("nobody serves: the pod is refused", "a", "tcp", "none", 80, "refused"),
    row("nobody serves: the pod is refused in UDP", "a", "udp", "none", 53, "refused"),
    row("nobody serves: the node is refused", "node", "tcp", "none", 80, "refused"),
    row("nobody serves: the node is refused in UDP", "node", "udp", "none", 53, "refused"),
    row("nobody serves: a stranger is refused", "outside", "tcp", "none", 80, "refused"),
    row("a port that the Service has not is refused", "a", "tcp", "web", 81, "refused"),
    row("a port that the Service has in TCP only is refused in UDP", "a", "udp", "web", 80, "refused"),
    row("an address of the range that no Service has is refused", "a", "tcp", "free", 80, "refused"),
    row("an address of the range that no Service has is refused to the node", "node", "udp", "free", 80, "refused"),
    row("internalTrafficPolicy Local stays on the node", "a", "tcp", "itp-local", 80, "b"),
    row("internalTrafficPolicy Local without a local endpoint drops", "a", "tcp", "itp-far", 80, "dropped"),
    row("a node port is open to strangers, masqueraded", "outside", "tcp", "node", 30080, "b c", True),
    row("a node port is open to strangers in UDP", "outside", "udp", "node", 30053, "b c", True),
    row("a node port is open to pods", "a", "tcp", "node", 30080, "b c", True),
    row("a node port is open to the node itself", "node", "tcp", "node", 30080, "b c", True),
    row("a node port that nobody serves is refused", "outside", "tcp", "node", 30081, "refused"),
    row("a node port that nobody serves is refused in UDP", "outside", "udp", "node", 30082, "refused"),
    row("a node port that nobody serves is refused to the node itself", "node", "tcp", "node", 30081, "refused"),
    row("externalTrafficPolicy Local keeps the stranger's address", "outside", "tcp", "node", 30090, "b"),
    row("externalTrafficPolicy Local does not bind a pod", "a", "tcp", "node", 30090, "b c"),
    row("externalTrafficPolicy Local does not bind the node itself", "node", "tcp", "node", 30090, "b c", True),
    row("externalTrafficPolicy Local without a local endpoint drops a stranger's", "outside", "tcp", "node", 30091, "dropped"),
    row("externalTrafficPolicy Local without a local endpoint sends a pod elsewhere", "a", "tcp", "node", 30091, "c"),
    row("externalTrafficPolicy Local without a local endpoint sends the node elsewhere", "node", "tcp", "node", 30091, "c", True),
    row("externalTrafficPolicy Local that nobody serves is refused", "outside", "tcp", "node", 30092, "refused"),
    row("a load balancer's address is answered", "outside", "tcp", "vip", 80, "b c", True),
    row("an external address is answered", "outside", "tcp", "external", 80, "b c", True),
    row("a pod reaches a load balancer's address", "a", "tcp", "vip", 80, "b c", True),
    row("an allowed source passes the guard", "outside", "tcp", "guarded vip", 80, "b c", True),
    row("another source is dropped by the guard", "a", "tcp", "guarded vip", 80, "dropped"),
    row("the guard does not stand before the cluster IP", "a", "tcp", "guarded", 80, "b c"),
    row("the guard does not stand before the node port", "a", "tcp", "node", 30094, "b c", True),
    row("an endpoint that ends serves when no other does", "a", "tcp", "draining", 80, "b"),
    row("two ports of a Service lead to different ports", "a", "udp", "two-ports", 53, "b c"),
]  # fmt: skip


def service(name: str, ports: list[tuple[str, str, int, int]], **spec: object) -> kinds.Service:
    """*ports*: (name, protocol, port, node port)."""
    addresses = [RANGES[family][1].format(SERVICE_NUMBERS[name]) for family in (Family.IPV4, Family.IPV6)]
    status = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in spec.pop("vips", [])]}}  # type: ignore[attr-defined]
    return view_of(kinds.Service, {
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv6"], "type": "NodePort",
            "ports": [{"name": port, "protocol": protocol, "port": number, "nodePort": node_port} for port, protocol, number, node_port in ports],
            **spec,
        },
        "status": status,
    })  # fmt: skip


def slices(name: str, family: Family, where: str, ends: object, **conditions: bool) -> kinds.EndpointSlice:
    return view_of(kinds.EndpointSlice, {
        "metadata": {"namespace": "default", "name": f"{name}-{family}".lower(), "labels": {"kubernetes.io/service-name": name}},
        "addressType": family.value,
        "ports": [{"name": "t", "protocol": "TCP", "port": 8080}, {"name": "u", "protocol": "UDP", "port": 5353}],
        "endpoints": [
            {"addresses": [getattr(ends, pod)], "nodeName": "far" if pod == "c" else "node1", "conditions": {"ready": True, **conditions}}
            for pod in where.split()
        ],
    })  # fmt: skip


def externals(number: int) -> list[str]:
    return [EXTERNAL[family].format(number) for family in (Family.IPV4, Family.IPV6)]


def world(ends: dict) -> list[tuple[kinds.Service, str, dict[str, bool]]]:
    """Services, where their endpoints are, and what is special about those."""
    tcp, udp = ("t", "TCP", 80, 0), ("u", "UDP", 53, 0)
    load_balancer = {"type": "LoadBalancer"}
    return [
        (service("web", [("t", "TCP", 80, 30080)]), "b c", {}),
        (service("dns", [("u", "UDP", 53, 30053)]), "b c", {}),
        (service("self", [tcp, udp]), "a", {}),
        (service("none", [("t", "TCP", 80, 30081), ("u", "UDP", 53, 30082)]), "", {}),
        (service("itp-local", [tcp], internalTrafficPolicy="Local"), "b c", {}),
        (service("itp-far", [tcp], internalTrafficPolicy="Local"), "c", {}),
        (service("etp-local", [("t", "TCP", 80, 30090), ("none", "TCP", 81, 30092)], externalTrafficPolicy="Local"), "b c", {}),
        (service("etp-far", [("t", "TCP", 80, 30091)], externalTrafficPolicy="Local"), "c", {}),
        (service("lb", [tcp], **load_balancer, vips=externals(1), externalIPs=externals(2)), "b c", {}),
        (service("draining", [tcp]), "b", {"ready": False, "serving": True, "terminating": True}),
        (service("two-ports", [tcp, udp]), "b c", {}),
        (service("guarded", [("t", "TCP", 80, 30094)], **load_balancer, vips=externals(3),
                 loadBalancerSourceRanges=[ends[family].outside_net for family in (Family.IPV4, Family.IPV6)]), "b c", {}),
    ]  # fmt: skip


def table_for(family: Family, ends: dict, options: Options | None = None) -> Table:
    place = Place("node1")
    ports = [
        port
        for one, where, conditions in world(ends)
        for port in service_ports(one, [slices(one.metadata.name, each, where, ends[each], **conditions) for each in ends], family, place)
    ]
    shape = Shape(family, options or Options(pods=("saddr", ends[family].pods)))
    return shape.table(ports, node_addresses=[ends[family].node], service_cidrs=[RANGES[family][0]])


def address_of(to: str, family: Family, ends: dict) -> str:
    if to == "node":
        return ends[family].node
    if to == "free":
        return RANGES[family][1].format(200)
    if to in ("vip", "external", "guarded vip"):
        return EXTERNAL[family].format({"vip": 1, "external": 2, "guarded vip": 3}[to])
    return RANGES[family][1].format(SERVICE_NUMBERS[to])


def source_of(name: str, family: Family, ends: dict) -> str:
    return getattr(ends[family], name)


def traced(tables: list[Table], family: Family, ends: dict, one: Row) -> set[tuple[str, bool]]:
    """(who answers, masqueraded) for each outcome that the tracer sees."""
    own = ends[family]
    local = frozenset((own.node, own.node_outside, family.facts.pod_gateway))
    iif = {"node": "", "a": "va", "c": "vc", "outside": "vo"}[one.source]
    packet = Packet(source_of(one.source, family, ends), one.protocol, address_of(one.to, family, ends), one.port, iif)
    names = {own.a: "a", own.b: "b", own.c: "c"}
    verdicts = {"reject": "refused", "drop": "dropped"}
    return {
        (verdicts.get(outcome.verdict) or names.get(outcome.destination, outcome.destination), outcome.masqueraded)
        for outcome in trace(tables, packet, local=local)
    }


@pytest.fixture(scope="module")
def loaded(lab):
    """The tables of both families in the kernel of the node."""
    tables = [table_for(family, lab.ends) for family in lab.ends]
    with nftables.Nftables(lab.paths["node"]) as ruleset:
        nftables.apply(ruleset, [whole(table) for table in tables])
        yield tables
        nftables.apply(ruleset, [gone(table.family, TABLE) for table in tables])


@pytest.mark.parametrize("one", ROWS, ids=lambda one: one.why)
def test_packet(one, family, lab, loaded):
    by_tracer = traced(loaded, family, lab.ends, one)
    assert by_tracer == {(name, one.masqueraded) for name in one.answers}, "the tracer"
    source = source_of(one.source, family, lab.ends)
    name, seen = lab.ask(one.source, one.protocol, address_of(one.to, family, lab.ends), one.port, source="" if one.source == "outside" else source)
    assert name in one.answers, "the kernel"
    if seen and one.source != "node":  # a node's masqueraded traffic bears its own address all the same
        assert (seen != source) == one.masqueraded, f"the kernel showed {seen}"


def test_choices_are_spread_over_all_endpoints(family, lab, loaded):
    answers = {lab.ask("a", "tcp", address_of("web", family, lab.ends), 80)[0] for _ in range(40)}
    assert answers == {"b", "c"}


def test_the_table_speaks_of_every_source_protocol_and_policy():
    assert {one.source for one in ROWS} == {"a", "c", "node", "outside"}
    assert {one.protocol for one in ROWS} == {"tcp", "udp"}
    assert {one.to for one in ROWS} >= {*SERVICE_NUMBERS} - {"etp-local", "etp-far", "lb"} | {"node", "vip", "external", "guarded vip", "free"}
    assert len({one.why for one in ROWS}) == len(ROWS)


def test_sctp_is_a_protocol_like_another(family, lab):
    """The kernel here has no SCTP sockets, so the tracer judges alone."""
    one, where, _ = world(lab.ends)[0]
    port = service_ports(one, [slices("web", family, where, lab.ends[family])], family, Place("node1"))[0]._replace(protocol="sctp")
    table = Shape(family, Options()).table([port])
    outcomes = trace([table], Packet(lab.ends[family].a, "sctp", port.address, 80, "va"), local=frozenset())
    assert {outcome.destination for outcome in outcomes} == {lab.ends[family].b, lab.ends[family].c}


def test_a_packet_that_belongs_to_no_connection_does_not_leak(family, lab, loaded):
    """An endpoint's late reset: its flow is forgotten, so nobody would translate its source back."""
    own = lab.ends[family]
    stray = Packet(own.b, "tcp", own.outside, 40000, "vb", state="invalid")
    assert {outcome.verdict for outcome in trace(loaded, stray, local=frozenset())} == {"drop"}
    liberal = table_for(family, lab.ends, Options(drop_invalid=False))
    assert {outcome.verdict for outcome in trace([liberal], stray, local=frozenset())} == {"accept"}
    for table, arrives in ((loaded[list(lab.ends).index(family)], False), (liberal, True)):
        with nftables.Nftables(lab.paths["node"]) as ruleset:
            nftables.apply(ruleset, whole(table))
        assert lab.stray_reset_arrives("b", "outside", family) == arrives
    with nftables.Nftables(lab.paths["node"]) as ruleset:
        nftables.apply(ruleset, [whole(table) for table in loaded])


OTHER_OPTIONS = [
    pytest.param(Options(masquerade_all=True), row("", "a", "tcp", "web", 80, "b c", True), id="masquerade-all masquerades pods"),
    pytest.param(Options(), row("", "outside", "tcp", "web", 80, "b c"), id="who knows no pods masquerades nobody to a cluster IP"),
    pytest.param(Options(pods=("iifname", '"va"')), row("", "a", "tcp", "web", 80, "b c"), id="a pod is known by its bridge"),
    pytest.param(Options(pods=("iifname", '"vx*"')), row("", "a", "tcp", "web", 80, "b c", True), id="a stranger is known by its interface"),
    pytest.param(Options(mark=1 << 31), row("", "outside", "tcp", "node", 30080, "b c", True), id="another mark does"),
]


@pytest.mark.parametrize("options, one", OTHER_OPTIONS)
def test_other_options(options, one, family, lab):
    table = table_for(family, lab.ends, options)
    assert traced([table], family, lab.ends, one) == {(name, one.masqueraded) for name in one.answers}
    with nftables.Nftables(lab.paths["node"]) as ruleset:
        nftables.apply(ruleset, whole(table))
        try:
            name, seen = lab.ask(one.source, one.protocol, address_of(one.to, family, lab.ends), one.port)
        finally:
            nftables.apply(ruleset, gone(family, TABLE))
    assert name in one.answers and (seen != source_of(one.source, family, lab.ends)) == one.masqueraded


def test_node_ports_answer_on_the_addresses_asked_for_and_never_on_the_loopback(family, lab):
    own = lab.ends[family]
    everywhere = table_for(family, lab.ends, Options(pods=("saddr", own.pods), node_ports=(family.facts.everything,)))
    outside_only = table_for(family, lab.ends, Options(pods=("saddr", own.pods), node_ports=(own.outside_net,)))
    local = frozenset((own.node, own.node_outside))
    pods = {own.b, own.c}

    def destinations(table: Table, address: str, iif: str, source: str) -> set[str]:
        return {outcome.destination for outcome in trace([table], Packet(source, "tcp", address, 30080, iif), local=local)}

    with nftables.Nftables(lab.paths["node"]) as ruleset:
        for table, open_ in ((everywhere, {own.node, own.node_outside}), (outside_only, {own.node_outside})):
            nftables.apply(ruleset, whole(table))
            try:
                for address in (own.node, own.node_outside):
                    assert destinations(table, address, "vo", own.outside) == (pods if address in open_ else {address})
                    assert lab.ask("outside", "tcp", address, 30080)[0] in ({"b", "c"} if address in open_ else {"refused"})
                loopback = family.facts.loopback
                assert destinations(table, loopback, "", loopback) == {loopback}
                assert lab.ask("node", "tcp", loopback, 30080)[0] == "refused"
            finally:
                nftables.apply(ruleset, gone(family, TABLE))


def test_a_service_of_one_family_does_not_exist_in_the_other(lab):
    one = view_of(kinds.Service, {
        "metadata": {"namespace": "default", "name": "old"},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "type": "NodePort",
                 "externalIPs": externals(9), "ports": [{"name": "t", "port": 80, "nodePort": 30080}]},
    })  # fmt: skip
    both = [slices("old", each, "b", lab.ends[each]) for each in lab.ends]
    assert [port.externals for port in service_ports(one, both, Family.IPV4, Place("node1"))] == [("203.0.113.9",)]
    assert service_ports(one, both, Family.IPV6, Place("node1")) == []
