"""The packet table of what a node's operator and a Service's author may choose, each sentence of the semantics by name, by two judges.

``test_packets`` has the front ends and policies one by one, ``test_semantics`` their whole product. Here are the choices of endpoints,
the modes of telling pods, and where node ports answer; and the count: every sentence has rows, here or there, or a test that is named.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import pytest

from tests.proxy import test_packets, test_semantics
from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.dataplane.ruleset import Table, gone, whole
from twinstack.dataplane.trace import Packet, trace
from twinstack.kernel import nftables
from twinstack.net.cidr import parse_cidr
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.ruleset import TABLE, Shape
from twinstack.proxy.services import Place, service_ports
from twinstack.proxy.settings import Settings, checked, options_for

pytestmark = pytest.mark.kernel

HERE = Place("node1", "z1")
SERVICES = (
    "plain", "zone", "node", "unhinted", "elsewhere", "zone-and-node", "starting", "ending-beside", "ending-alone", "ending-here", "early", "named", "sliced",
    "twice", "one-family", "theirs", "vip", "guarded", "guarded-by-the-other", "here-none", "single", "local", "self",
)  # fmt: skip
IPS = {Family.IPV4: "10.96.8.{}", Family.IPV6: "fd00:96::8:{:x}"}
OUTER = {Family.IPV4: "203.0.113.{}", Family.IPV6: "2001:db8:113::{:x}"}
RANGE = {Family.IPV4: "10.96.8.0/24", Family.IPV6: "fd00:96::8:0/112"}
PODS = "10.244.0.0/16,fd00:244::/56"

SETTINGS = {
    "both CIDRs": Settings(cluster_cidr=PODS),
    "the CIDR of IPv4": Settings(cluster_cidr="10.244.0.0/16"),
    "the CIDR of IPv6": Settings(cluster_cidr="fd00:244::/56"),
    "no CIDR": Settings(),
    "the node's CIDRs": Settings(detect_local_mode="NodeCIDR"),
    "a bridge": Settings(detect_local_mode="BridgeInterface", pod_bridge_interface="va"),
    "a prefix": Settings(detect_local_mode="InterfaceNamePrefix", pod_interface_name_prefix="va"),
    "masquerade-all": Settings(cluster_cidr=PODS, masquerade_all=True),
    "another mark": Settings(cluster_cidr=PODS, masquerade_bit=0),
    "node ports everywhere": Settings(cluster_cidr=PODS, nodeport_addresses=("0.0.0.0/0", "::/0")),
    "node ports outside": Settings(cluster_cidr=PODS, nodeport_addresses=("198.51.100.0/24", "2001:db8:51::/64")),
    "node ports outside in IPv4 alone": Settings(cluster_cidr=PODS, nodeport_addresses=("198.51.100.0/24",)),
}


class Row(NamedTuple):
    """*to* is a Service (its cluster IP), one of the node's addresses (node, second, loopback), or 'Service vip|external'."""

    says: str  # the sentence of the semantics
    source: str
    to: str
    port: int
    answers: str  # who may answer; or refused, dropped, nobody (it is not ours)
    masqueraded: bool = False
    settings: str = "both CIDRs"
    protocol: str = "tcp"
    only: Family | None = None


NODE_PORT = 30800  # of "plain"; "local" has the next
ROWS = [
    # who serves
    Row("ready endpoints serve", "a", "plain", 80, "b c"),
    Row("ready endpoints serve", "a", "plain", 53, "b c", protocol="udp"),
    Row("endpoints that are not ready do not", "a", "starting", 80, "c"),
    Row("an ending endpoint does not serve beside a ready one", "a", "ending-beside", 80, "c"),
    Row("ending endpoints that serve do, when there is no other", "a", "ending-alone", 80, "b"),
    Row("ending endpoints of this node serve under a Local policy, whatever is elsewhere", "outside", "node", 30802, "b"),
    Row("ending endpoints of this node serve under a Local policy, whatever is elsewhere", "a", "node", 30802, "c"),
    Row("publishNotReadyAddresses: ready while it ends", "a", "early", 80, "b"),
    Row("hints: traffic stays in the zone", "a", "zone", 80, "b"),
    Row("hints: traffic stays on the node", "a", "node-hints", 80, "b"),
    Row("hints: the node is nearer than the zone", "a", "zone-and-node", 80, "b"),
    Row("hints: one endpoint without sets them aside", "a", "unhinted", 80, "b c"),
    Row("hints: none for this zone sets them aside", "a", "elsewhere", 80, "b c"),
    Row("named ports may be different numbers in different slices", "a", "named", 80, "b c"),
    Row("several slices are one Service", "a", "sliced", 80, "b c"),
    Row("an endpoint that two slices name is one", "a", "twice", 80, "b"),
    Row("internalTrafficPolicy Local without a local endpoint drops", "a", "here-none", 80, "dropped"),
    Row("internalTrafficPolicy Local without a local endpoint drops", "node", "here-none", 80, "dropped"),
    # families
    Row("endpoints in one family serve that family", "a", "one-family", 80, "b", only=Family.IPV4),
    Row("endpoints in one family serve that family", "a", "one-family", 80, "refused", only=Family.IPV6),
    Row("endpoints in one family serve that family", "outside", "node", 30803, "b", True, only=Family.IPV4),
    Row("endpoints in one family serve that family", "outside", "node", 30803, "refused", only=Family.IPV6),
    Row("a Service without an address of a family does not exist in it", "outside", "node", 30804, "b", True, only=Family.IPV6),
    Row("a Service without an address of a family does not exist in it", "outside", "node", 30804, "nobody", only=Family.IPV4),
    Row("a Service without an address of a family does not exist in it", "outside", "single external", 80, "nobody", only=Family.IPV4),
    # who is not ours
    Row("another proxy's Service is left to it", "a", "theirs", 80, "refused"),
    Row("another proxy's Service is left to it", "outside", "node", 30805, "nobody"),
    # balancers
    Row("ipMode VIP is answered", "outside", "plain vip", 80, "b c", True),
    Row("ipMode Proxy is not", "outside", "vip vip", 80, "nobody"),
    Row("external addresses are answered", "outside", "plain external", 80, "b c", True),
    Row("source ranges of both families let in whom they name", "outside", "guarded vip", 80, "b c", True),
    Row("source ranges of both families keep out whom they do not", "a", "guarded vip", 80, "dropped"),
    Row("source ranges of both families keep out whom they do not", "c", "guarded vip", 80, "dropped"),
    Row("source ranges guard the balancer's address alone", "a", "guarded external", 80, "b c", True),
    Row("source ranges of the other family restrict nobody", "a", "guarded-by-the-other vip", 80, "b c", True, only=Family.IPV6),
    Row("source ranges of the other family restrict nobody", "a", "guarded-by-the-other vip", 80, "dropped", only=Family.IPV4),
    # where node ports answer
    Row("node ports answer on the primary address", "outside", "node", NODE_PORT, "b c", True),
    Row("node ports answer on the primary address", "outside", "second", NODE_PORT, "nobody"),
    Row("node ports answer on the primary address", "node", "loopback", NODE_PORT, "nobody"),
    Row("node ports answer on all addresses", "outside", "node", NODE_PORT, "b c", True, "node ports everywhere"),
    Row("node ports answer on all addresses", "outside", "second", NODE_PORT, "b c", True, "node ports everywhere"),
    Row("node ports do not answer on the loopback", "node", "loopback", NODE_PORT, "nobody", False, "node ports everywhere"),
    Row("node ports answer in the CIDRs that are named", "outside", "second", NODE_PORT, "b c", True, "node ports outside"),
    Row("node ports answer in the CIDRs that are named", "outside", "node", NODE_PORT, "nobody", False, "node ports outside"),
    Row("CIDRs of one family leave the other open", "outside", "node", NODE_PORT, "nobody", False, "node ports outside in IPv4 alone", only=Family.IPV4),
    Row("CIDRs of one family leave the other open", "outside", "node", NODE_PORT, "b c", True, "node ports outside in IPv4 alone", only=Family.IPV6),
    # who is a pod
    Row("ClusterCIDR of both families", "a", "plain", 80, "b c"),
    Row("ClusterCIDR of both families", "outside", "plain", 80, "b c", True),
    Row("ClusterCIDR of both families", "node", "plain", 80, "b c", True),
    *(Row("ClusterCIDR of one family: the other masquerades nobody", "outside", "plain", 80, "b c", mode.endswith(family.value), mode, only=family)
      for mode in ("the CIDR of IPv4", "the CIDR of IPv6") for family in FAMILIES),
    Row("who knows no pods masquerades nobody to a cluster IP", "outside", "plain", 80, "b c", False, "no CIDR"),
    Row("NodeCIDR: this node's pods", "a", "plain", 80, "b c", False, "the node's CIDRs"),
    Row("NodeCIDR: this node's pods", "c", "local", 80, "b", True, "the node's CIDRs"),
    Row("NodeCIDR: this node's pods", "outside", "plain", 80, "b c", True, "the node's CIDRs"),
    Row("BridgeInterface: what comes from the bridge", "a", "plain", 80, "b c", False, "a bridge"),
    Row("BridgeInterface: what comes from the bridge", "outside", "plain", 80, "b c", True, "a bridge"),
    Row("InterfaceNamePrefix: what comes from such interfaces", "a", "plain", 80, "b c", False, "a prefix"),
    Row("InterfaceNamePrefix: what comes from such interfaces", "outside", "plain", 80, "b c", True, "a prefix"),
    *(Row("under a Local policy a pod is told by the same", "a", "node", 30801, "b c", False, mode)
      for mode in ("both CIDRs", "the node's CIDRs", "a bridge", "a prefix")),
    *(Row("under a Local policy a stranger keeps its address", "outside", "node", 30801, "b", False, mode)
      for mode in SETTINGS if not mode.startswith("node ports out")),
    Row("masquerade-all", "a", "plain", 80, "b c", True, "masquerade-all"),
    Row("hairpin: an endpoint that reaches itself", "a", "self", 80, "a", True),
    *(Row("hairpin: an endpoint that reaches itself", "a", "self", 80, "a", True, mode) for mode in ("no CIDR", "a bridge", "another mark")),
    Row("the bit of the mark is another", "outside", "node", NODE_PORT, "b c", True, "another mark"),
    Row("the bit of the mark is another", "a", "plain", 80, "b c", False, "another mark"),
]  # fmt: skip
SERVICE_OF = {"node-hints": "node"}


def hinted(nodes: str = "", zones: str = "") -> dict:
    return {"hints": {"forNodes": [{"name": name} for name in nodes.split()], "forZones": [{"name": name} for name in zones.split()]}}


def at(pod: str, *, ready: bool = True, ending: bool = False, **more: dict) -> dict:
    return {"pod": pod, "nodeName": "far" if pod == "c" else "node1", "conditions": {"ready": ready, "serving": True, "terminating": ending}, **more}


ENDPOINTS: dict[str, list[list[dict]]] = {  # of each Service: its slices
    "zone": [[at("b", **hinted(zones="z1")), at("c", **hinted(zones="z2"))]],
    "node": [[at("b", **hinted(nodes="node1")), at("c", **hinted(nodes="far"))]],
    "zone-and-node": [[at("b", **hinted("node1", "z1")), at("c", **hinted("far", "z1"))]],
    "unhinted": [[at("b", **hinted(zones="z1")), at("c")]],
    "elsewhere": [[at("b", **hinted(zones="z2")), at("c", **hinted(zones="z3"))]],
    "starting": [[{**at("b", ready=False), "conditions": {"ready": False, "serving": False}}, at("c")]],
    "ending-beside": [[at("b", ready=False, ending=True), at("c")]],
    "ending-alone": [[at("b", ready=False, ending=True)]],
    "ending-here": [[at("b", ready=False, ending=True), at("c")]],
    "early": [[at("b", ending=True)]],
    "sliced": [[at("b")], [at("c")]],
    "named": [[at("b")], [at("c")]],
    "twice": [[at("b")], [at("b", ready=False, ending=True)]],
    "here-none": [[at("c")]],
    "single": [[at("b")]],
    "one-family": [[at("b")]],
    "self": [[at("a")]],
}
SPECS: dict[str, dict] = {
    "ending-here": {"externalTrafficPolicy": "Local"}, "local": {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"},
    "here-none": {"internalTrafficPolicy": "Local"},
    "vip": {"mode": "Proxy"}, "guarded": {"loadBalancerSourceRanges": ["198.51.100.0/24", "2001:db8:51::/64"]},
    "guarded-by-the-other": {"loadBalancerSourceRanges": [" 198.51.100.0/24 "]},
}  # fmt: skip
NODE_PORTS = {"plain": NODE_PORT, "local": 30801, "ending-here": 30802, "one-family": 30803, "single": 30804, "theirs": 30805}
NAMED = {"b": 8080, "c": 8081}  # numbers of the port named t in the slices of "named"


def number_of(name: str) -> int:
    return 1 + SERVICES.index(name)


def service(name: str) -> kinds.Service:
    families = (Family.IPV6,) if name == "single" else FAMILIES
    spec = dict(SPECS.get(name, {}))
    mode = spec.pop("mode", "VIP")
    addresses = [IPS[family].format(number_of(name)) for family in families]
    return view_of(kinds.Service, {
        "metadata": {"namespace": "ns", "name": name, "labels": {"service.kubernetes.io/service-proxy-name": "other"} if name == "theirs" else {}},
        "spec": {"type": "LoadBalancer", "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": [family.value for family in families],
                 "ports": [{"name": "t", "protocol": "TCP", "port": 80, "nodePort": NODE_PORTS.get(name, 0)}, {"name": "u", "protocol": "UDP", "port": 53}],
                 "externalIPs": [OUTER[family].format(100 + number_of(name)) for family in FAMILIES], **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": OUTER[family].format(150 + number_of(name)), "ipMode": mode} for family in FAMILIES]}},
    })  # fmt: skip


def slices(name: str, family: Family, ends: object) -> list[kinds.EndpointSlice]:
    if name == "one-family" and family is Family.IPV6:
        return []
    return [
        view_of(kinds.EndpointSlice, {
            "metadata": {"namespace": "ns", "name": f"{name}-{family}-{i}"}, "addressType": family.value,
            "ports": [{"name": "t", "protocol": "TCP", "port": NAMED[each[0]["pod"]] if name == "named" else 8080},
                      {"name": "u", "protocol": "UDP", "port": 5353}],
            "endpoints": [{**{key: value for key, value in one.items() if key != "pod"}, "addresses": [getattr(ends, one["pod"])]} for one in each],
        })
        for i, each in enumerate(ENDPOINTS.get(name, [[at("b"), at("c")]]))
    ]  # fmt: skip


def table_for(family: Family, ends: object, settings: str) -> Table:
    options = options_for(checked(SETTINGS[settings]), family, (parse_cidr(ends.near_pods),))
    ports = [port for name in SERVICES for port in service_ports(service(name), slices(name, family, ends), family, HERE)]
    return Shape(family, options).table(ports, node_addresses=[ends.node, family.facts.loopback], service_cidrs=[RANGE[family]])


def address_of(to: str, family: Family, ends: object) -> str:
    name, _, what = to.partition(" ")
    if what:
        return OUTER[family].format({"vip": 150, "external": 100}[what] + number_of(name))
    own = {"node": ends.node, "second": ends.node_outside, "loopback": family.facts.loopback}
    return own[name] if name in own else IPS[family].format(number_of(SERVICE_OF.get(name, name)))


def rows_in(family: Family, settings: str) -> list[Row]:
    return [row for row in ROWS if row.settings == settings and row.only in (None, family)]


def traced(table: Table, family: Family, ends: object, row: Row) -> set[tuple[str, bool]]:
    address = address_of(row.to, family, ends)
    iif = {"node": "", "a": "va", "c": "vc", "outside": "vo"}[row.source]
    source = family.facts.loopback if row.to == "loopback" else getattr(ends, row.source)
    outcomes = trace([table], Packet(source, row.protocol, address, row.port, iif), local=frozenset((ends.node, ends.node_outside, family.facts.pod_gateway)))
    names = {ends.a: "a", ends.b: "b", ends.c: "c", address: "nobody"}
    return {({"reject": "refused", "drop": "dropped"}.get(one.verdict) or names[one.destination], one.masqueraded) for one in outcomes}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_both_judges_say_what_is_wanted(lab, family, settings):
    ends = lab.ends[family]
    table = table_for(family, ends, settings)
    rows = rows_in(family, settings)
    assert rows
    wrong = [
        (row, "the tracer", found) for row in rows if (found := traced(table, family, ends, row)) != {(name, row.masqueraded) for name in row.answers.split()}
    ]
    with nftables.Nftables(lab.paths["node"]) as ruleset:
        nftables.apply(ruleset, whole(table))
        try:
            for row in rows:
                bound = getattr(ends, row.source) if row.source != "outside" and row.to != "loopback" else ""
                silent = row.answers in ("dropped", "nobody")
                address = address_of(row.to, family, ends)
                name, seen = lab.ask(row.source, row.protocol, address, row.port, source=bound, timeout=0.1 if silent else 2)
                allowed = {"dropped", "refused", "unreachable"} if row.answers == "nobody" else set(row.answers.split())
                if name not in allowed or (seen and row.source != "node" and (seen != getattr(ends, row.source)) != row.masqueraded):
                    wrong.append((row, "the kernel", (name, seen)))
        finally:
            nftables.apply(ruleset, gone(family, TABLE))
    assert wrong == []


# Each sentence of what must work, and where it is judged: a sentence of ROWS here, a row's name in test_packets, or a test.
SENTENCES = {
    "ClusterIP": ["a pod reaches a Service on its node and elsewhere, as itself", "the node itself reaches a cluster IP"],
    "NodePort": ["a node port is open to strangers, masqueraded", "a node port is open to pods", "a node port is open to the node itself"],
    "NodePort: CIDRs": ["node ports answer in the CIDRs that are named", "CIDRs of one family leave the other open"],
    "NodePort: primary": ["node ports answer on the primary address"],
    "NodePort: all": ["node ports answer on all addresses"],
    "NodePort: localhost": ["node ports do not answer on the loopback"],
    "LoadBalancer, ipMode VIP": ["ipMode VIP is answered", "a pod reaches a load balancer's address"],
    "LoadBalancer, ipMode Proxy": ["ipMode Proxy is not"],
    "externalIPs": ["external addresses are answered"],
    "source ranges": [
        "source ranges of both families let in whom they name", "source ranges of both families keep out whom they do not",
        "source ranges guard the balancer's address alone", "source ranges of the other family restrict nobody",
    ],
    "health-check node ports": [
        "test_healthports::test_it_answers_as_upstream_does", "test_proxy::test_health_check_node_ports_tell_local_endpoints_of_their_family",
    ],
    "TCP": ["ready endpoints serve"],
    "UDP": ["UDP is a protocol like another"],
    "SCTP": ["test_semantics::test_sctp_goes_every_way_on_paper", "test_semantics::test_the_nft_program_accepts_the_tables_of_every_way"],
    "a family without an address": ["a Service without an address of a family does not exist in it"],
    "endpoints in one family only": ["endpoints in one family serve that family"],
    "ready": ["ready endpoints serve", "endpoints that are not ready do not"],
    "terminating fall-back": [
        "ending endpoints that serve do, when there is no other", "an ending endpoint does not serve beside a ready one",
        "ending endpoints of this node serve under a Local policy, whatever is elsewhere",
    ],
    "internal policy": ["internalTrafficPolicy Local stays on the node", "internalTrafficPolicy Local without a local endpoint drops"],
    "external policy": ["externalTrafficPolicy Local keeps the stranger's address", "externalTrafficPolicy Local without a local endpoint drops a stranger's"],
    "external policy: short cuts": [
        "externalTrafficPolicy Local does not bind a pod", "externalTrafficPolicy Local does not bind the node itself",
        "externalTrafficPolicy Local without a local endpoint sends a pod elsewhere",
    ],
    "topology hints, PreferSameZone": [
        "hints: traffic stays in the zone", "hints: one endpoint without sets them aside", "hints: none for this zone sets them aside",
    ],
    "PreferSameNode": ["hints: traffic stays on the node", "hints: the node is nearer than the zone"],
    "session affinity": [
        "test_affinity::test_connections_of_a_client_stay_with_one_endpoint",
        "test_affinity::test_a_client_has_one_endpoint_over_all_addresses_of_a_port_and_another_for_another_port",
        "test_affinity::test_after_its_timeout_a_client_is_forgotten_and_each_connection_starts_it_anew",
        "test_affinity::test_changes_of_other_endpoints_do_not_move_it_and_its_own_end_does",
    ],
    "named ports": ["named ports may be different numbers in different slices"],
    "several slices": ["several slices are one Service"],
    "duplicates": ["an endpoint that two slices name is one"],
    "publishNotReadyAddresses": ["publishNotReadyAddresses: ready while it ends"],
    "cluster CIDR of both families": ["ClusterCIDR of both families"],
    "cluster CIDR of one family": ["ClusterCIDR of one family: the other masquerades nobody"],
    "NodeCIDR": ["NodeCIDR: this node's pods"],
    "BridgeInterface": ["BridgeInterface: what comes from the bridge"],
    "InterfaceNamePrefix": ["InterfaceNamePrefix: what comes from such interfaces", "under a Local policy a pod is told by the same"],
    "no way to tell pods": ["who knows no pods masquerades nobody to a cluster IP"],
    "masquerade-all": ["masquerade-all"],
    "hairpin": ["hairpin: an endpoint that reaches itself", "a pod reaches itself through its Service by UDP"],
    "mark bit": ["the bit of the mark is another", "test_semantics::test_others_marks_are_left_alone"],
    "source preserved": ["under a Local policy a stranger keeps its address", "ClusterCIDR of both families"],
    "no endpoints: reject": ["nobody serves: the pod is refused", "nobody serves: the pod is refused in UDP", "a node port that nobody serves is refused"],
    "remote endpoints under a Local policy: drop": ["externalTrafficPolicy Local without a local endpoint drops a stranger's"],
    "unallocated cluster IPs: reject": ["an address of the range that no Service has is refused", "a port that the Service has not is refused"],
    "invalid state": ["test_packets::test_a_packet_that_belongs_to_no_connection_does_not_leak"],
    "stale flows": [
        "test_connections::test_a_udp_client_moves_on_when_its_endpoint_is_gone", "test_connections::test_a_restart_finds_flows_that_went_stale_meanwhile",
        "test_connections::test_a_connection_outlives_a_restart_and_the_loss_of_its_endpoint",
    ],
    "service-proxy-name": ["another proxy's Service is left to it", "test_proxy::test_another_proxys_services_are_left_to_it"],
    "headless": ["test_services::test_not_ours_is"],
    "node changes": ["test_sync::test_a_node_that_moves_concerns_every_service", "test_sync::test_the_cluster_and_the_node_have_a_part_of_their_own"],
    "cleanup": ["test_semantics::test_cleaning_up_takes_ours_alone"],
    "beside others": ["test_beside::test_others_tables_stay_byte_for_byte_while_ours_come_change_and_go"],
}  # fmt: skip


def test_every_sentence_of_the_semantics_is_judged_in_both_families():
    here = {row.says for row in ROWS}
    there = {row.why for row in test_packets.ROWS}
    assert len(test_semantics.WAYS) == 288
    for sentence, places in SENTENCES.items():
        assert places, sentence
        for place in places:
            module, _, name = place.partition("::")
            if name:
                assert hasattr(importlib.import_module(f"tests.proxy.{module}"), name), place
            else:
                assert place in here | there, place
    named = {place for places in SENTENCES.values() for place in places}
    assert here - named <= {"who knows no pods masquerades nobody to a cluster IP", "under a Local policy a pod is told by the same"}, (
        "no row without its sentence"
    )
    for says in here:
        judged = {family for row in ROWS if row.says == says for family in ((row.only,) if row.only else FAMILIES)}
        assert judged == set(FAMILIES), says
