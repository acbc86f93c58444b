"""The whole space of a Service's ways, counted: front end × policy × endpoints × source × protocol, in both families, by two judges.

What must happen is said once, in ``wanted``, in the words of Kubernetes' documentation; the tracer and the kernel must agree.
"""

from __future__ import annotations

import re
import subprocess
from itertools import product
from typing import NamedTuple

import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.dataplane import text
from twinstack.dataplane.ruleset import gone, whole
from twinstack.dataplane.trace import Packet, trace
from twinstack.kernel import namespaces, nftables
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy import proxy
from twinstack.proxy.recalling import AFFINITY as REMEMBERED
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import Place, service_ports

pytestmark = pytest.mark.kernel

FRONTS = ("cluster IP", "node port", "external IP", "balancer's IP")
POLICIES = ("Cluster", "Local")
ENDPOINTS = {"none": "", "elsewhere": "c", "here and elsewhere": "bc"}
SOURCES = {"pod": "a", "node": "node", "stranger": "outside"}
PROTOCOLS = ("tcp", "udp")
AFFINITY = (False, True)
SERVICES = list(product(POLICIES, ENDPOINTS, AFFINITY))
IPS = {Family.IPV4: "10.96.3.{}", Family.IPV6: "fd00:96::3:{:x}"}
OUTER = {Family.IPV4: "203.0.113.{}", Family.IPV6: "2001:db8:113::{:x}"}
PORTS = {"tcp": (80, 8080), "udp": (53, 5353)}


class Way(NamedTuple):
    front: str
    policy: str
    endpoints: str
    source: str
    protocol: str
    affinity: bool

    @property
    def number(self) -> int:
        return SERVICES.index((self.policy, self.endpoints, self.affinity))

    def address(self, family: Family, node: str) -> str:
        number = 20 + self.number
        return {
            "cluster IP": IPS[family].format(number), "node port": node, "external IP": OUTER[family].format(number),
            "balancer's IP": OUTER[family].format(number + 50),
        }[self.front]  # fmt: skip

    @property
    def port(self) -> int:
        return node_port(self.number, self.protocol) if self.front == "node port" else PORTS[self.protocol][0]


WAYS = [Way(*one) for one in product(FRONTS, POLICIES, ENDPOINTS, SOURCES, PROTOCOLS, AFFINITY)]


def wanted(way: Way) -> tuple[set[str], bool]:
    """(who may answer, or refused, or dropped; whether the source is masqueraded)."""
    every = set(ENDPOINTS[way.endpoints])
    if not every:
        return {"refused"}, False
    if way.front == "cluster IP":
        serving = every if way.policy == "Cluster" else every & {"b"}
        return (serving, way.source != "pod") if serving else ({"dropped"}, False)
    if way.policy == "Cluster":
        return every, True
    if way.source == "stranger":
        return (every & {"b"}, False) if "b" in every else ({"dropped"}, False)
    return every, way.source == "node"


def node_port(number: int, protocol: str) -> int:
    return 30200 + 2 * number + (protocol == "udp")


def service(number: int) -> kinds.Service:
    policy, _, affinity = SERVICES[number]
    addresses = [IPS[family].format(20 + number) for family in FAMILIES]
    ports = [{"name": name, "protocol": name.upper(), "port": PORTS[name][0], "nodePort": node_port(number, name)} for name in PROTOCOLS]
    return view_of(kinds.Service, {
        "metadata": {"namespace": "ns", "name": f"s{number}"},
        "spec": {"type": "LoadBalancer", "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": [family.value for family in FAMILIES],
                 "ports": ports, "externalIPs": [OUTER[family].format(20 + number) for family in FAMILIES],
                 "internalTrafficPolicy": policy, "externalTrafficPolicy": policy, "sessionAffinity": "ClientIP" if affinity else "None"},
        "status": {"loadBalancer": {"ingress": [{"ip": OUTER[family].format(70 + number)} for family in FAMILIES]}},
    })  # fmt: skip


def endpoint_slice(number: int, family: Family, ends: object) -> kinds.EndpointSlice:
    pods = ENDPOINTS[SERVICES[number][1]]
    return view_of(kinds.EndpointSlice, {
        "metadata": {"namespace": "ns", "name": f"s{number}-{family}", "labels": {"kubernetes.io/service-name": f"s{number}"}},
        "addressType": family.value, "ports": [{"name": name, "protocol": name.upper(), "port": PORTS[name][1]} for name in PROTOCOLS],
        "endpoints": [{"addresses": [getattr(ends, pod)], "nodeName": "far" if pod == "c" else "node1"} for pod in pods],
    })  # fmt: skip


def table_for(family: Family, ends: object):
    ports = [
        port
        for number in range(len(SERVICES))
        for port in service_ports(service(number), [endpoint_slice(number, family, ends)], family, Place("node1"))
    ]  # fmt: skip
    return Shape(family, Options(pods=("saddr", ends.pods))).table(ports, node_addresses=[ends.node], service_cidrs=())


FOREIGN = """
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		meta mark & 0x00000001 == 0x00000001 drop
	}
}
table ip docker {
	chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; tcp dport 2375 redirect to :2376; }
	chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
}
table ip6 kube-proxy { map service-ips { type ipv6_addr . inet_proto . inet_service : verdict; }
	chain services { ip6 daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
}
table ip kube-proxy { map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
}
"""


@pytest.fixture(scope="module")
def beside_others(lab):
    """Our tables in the node's kernel, beside a firewall's, Docker's and another cluster's proxy's; those tables' listing before and after."""
    tables = {family: table_for(family, lab.ends[family]) for family in FAMILIES}
    with nftables.Nftables(lab.paths["node"]) as ruleset:
        ruleset.run(FOREIGN)
        before = ruleset.run("list ruleset\n")
        nftables.apply(ruleset, [whole(table) for table in tables.values()])
        try:
            yield tables
            nftables.apply(ruleset, [gone(family, TABLE) for family in FAMILIES])
            assert ruleset.run("list ruleset\n") == before, "other tables are as they were"
        finally:
            nftables.apply(ruleset, [gone(family, TABLE) for family in FAMILIES])
            for name in ("inet firewalld", "ip docker", "ip kube-proxy", "ip6 kube-proxy"):
                ruleset.run(f"delete table {name}\n")


def test_the_space_is_counted():
    assert len(WAYS) == len(set(WAYS)) == 4 * 2 * 3 * 3 * 2 * 2 == 288
    outcomes = {(frozenset(answers), masqueraded) for answers, masqueraded in map(wanted, WAYS)}
    assert outcomes == {
        (frozenset({"refused"}), False), (frozenset({"dropped"}), False), (frozenset("b"), False), (frozenset("b"), True),
        (frozenset("c"), False), (frozenset("c"), True), (frozenset("bc"), False), (frozenset("bc"), True),
    }  # fmt: skip


def test_the_tracer_says_what_is_wanted_of_each_way(lab, family):
    ends = lab.ends[family]
    table = table_for(family, ends)
    local, names = frozenset((ends.node, ends.node_outside)), {ends.b: "b", ends.c: "c"}
    verdicts = {"reject": "refused", "drop": "dropped"}
    wrong = []
    for way in WAYS:
        source, iif = getattr(ends, SOURCES[way.source]), {"pod": "va", "node": "", "stranger": "vo"}[way.source]
        outcomes = trace([table], Packet(source, way.protocol, way.address(family, ends.node), way.port, iif), local=local)
        found = {(verdicts.get(one.verdict) or names.get(one.destination, one.destination), one.masqueraded) for one in outcomes}
        answers, masqueraded = wanted(way)
        if found != {(name, masqueraded) for name in answers}:
            wrong.append((way, found))
    assert wrong == []


def test_sctp_goes_every_way_on_paper(lab, family):
    """The kernel here has no SCTP sockets, so the tracer judges alone, and ``nft -c`` whether the kernel takes the table."""
    ends = lab.ends[family]
    ports = [
        port._replace(protocol="sctp")
        for number in range(len(SERVICES))
        for port in service_ports(service(number), [endpoint_slice(number, family, ends)], family, Place("node1"))
        if port.protocol == "tcp"
    ]
    table = Shape(family, Options(pods=("saddr", ends.pods))).table(ports, node_addresses=[ends.node])
    local, names = frozenset((ends.node, ends.node_outside)), {ends.b: "b", ends.c: "c"}
    verdicts = {"reject": "refused", "drop": "dropped"}
    ways = [way for way in WAYS if way.protocol == "tcp"]
    assert len(ways) == 144
    for way in ways:
        source, iif = getattr(ends, SOURCES[way.source]), {"pod": "va", "node": "", "stranger": "vo"}[way.source]
        outcomes = trace([table], Packet(source, "sctp", way.address(family, ends.node), way.port, iif), local=local)
        answers, masqueraded = wanted(way)
        found = {(verdicts.get(one.verdict) or names.get(one.destination, one.destination), one.masqueraded) for one in outcomes}
        assert found == {(name, masqueraded) for name in answers}, way


@pytest.mark.slow
def test_the_kernel_does_what_is_wanted_of_each_way_beside_others_tables(lab, family, beside_others):
    ends = lab.ends[family]
    wrong = []
    for way in WAYS:
        answers, masqueraded = wanted(way)
        where = SOURCES[way.source]
        source = getattr(ends, where)
        bound = "" if way.source == "stranger" else source
        timeout = 0.08 if "dropped" in answers else 1.0
        name, seen = lab.ask(where, way.protocol, way.address(family, ends.node), way.port, source=bound, timeout=timeout)
        if "dropped" in answers and where == "node" and way.protocol == "udp":
            answers = {"refused"}  # whose own datagram is dropped on its way out is told so (EPERM)
        if name not in answers or (seen and way.source != "node" and (seen != source) != masqueraded):
            wrong.append((way, name, seen))
    assert wrong == []


def test_others_marks_are_left_alone(lab, family):
    """A packet that another program marked keeps its bits, and ours does not survive."""
    ends = lab.ends[family]
    word = family.facts.nft_family
    number = SERVICES.index(("Cluster", "elsewhere", False))
    with nftables.Nftables(lab.paths["node"]) as ruleset:
        ruleset.run(
            f"add table {word} marks\nadd counter {word} marks kept\nadd counter {word} marks ours\n"
            f"add chain {word} marks first {{ type filter hook prerouting priority -300; }}\nadd rule {word} marks first meta mark set 0x000000a5\n"
            f"add chain {word} marks last {{ type filter hook postrouting priority 400; }}\n"
            f"add rule {word} marks last th dport 8080 meta mark & 0x000000ff == 0x000000a5 counter name kept\n"
            f"add rule {word} marks last meta mark & 0x00004000 == 0x00004000 counter name ours\n"
        )
        nftables.apply(ruleset, whole(table_for(family, ends)))
        try:
            name, seen = lab.ask("outside", "tcp", ends.node, node_port(number, "tcp"))
            assert name == "c" and seen != ends.outside, "it was masqueraded by our mark"
            listing = ruleset.run(f"list counters table {word} marks\n")
            counts = [int(line.split()[1]) for line in listing.splitlines() if "packets" in line]
            assert counts[0] > 0 and counts[1] == 0
        finally:
            nftables.apply(ruleset, gone(family, TABLE))
            ruleset.run(f"delete table {word} marks\n")


def test_a_packets_priority_is_its_own_again(lab, family):
    """Affinity's rules borrow it for a moment: what left another program's hands comes so into the next one's, remembered client or not."""
    ends = lab.ends[family]
    word = family.facts.nft_family
    number = SERVICES.index(("Cluster", "elsewhere", True))
    with nftables.Nftables(lab.paths["node"]) as ruleset:
        nftables.apply(ruleset, whole(table_for(family, ends)))
        ruleset.run(
            f"add table {word} classes\n"
            f"add chain {word} classes first {{ type filter hook prerouting priority -300; }}\n"
            f"add rule {word} classes first th dport {node_port(number, 'tcp')} meta priority set 12:34\n"
            + "".join(
                f"add chain {word} classes at-{hook} {{ type filter hook {hook} priority -300; }}\nadd rule {word} classes at-{hook} meta priority set 12:34\n"
                for hook in ("output", "forward")  # forwarding sets it by the packet's class of service
            )
        )
        for hook, when in (("prerouting", -50), ("output", -50), ("postrouting", 400)):
            ruleset.run(
                f"add counter {word} classes own-{hook}\nadd counter {word} classes other-{hook}\n"
                f"add chain {word} classes {hook} {{ type filter hook {hook} priority {when}; }}\n"
                + "".join(
                    f"add rule {word} classes {hook} ct state new th dport 8080 meta priority {what} counter name {name}-{hook}\n"
                    for what, name in (("12:34", "own"), ("!= 12:34", "other"))
                )
            )
        try:
            for where in ("outside", "outside", "node", "node"):  # a stranger, and one that is known
                assert lab.ask(where, "tcp", ends.node, node_port(number, "tcp"), timeout=2)[0] == "c"
            listing = ruleset.run(f"list counters table {word} classes\n")
            counted = dict(re.findall(r"counter (\S+) {\s+packets (\d+)", listing))
            assert {name: int(count) for name, count in counted.items()} == {
                "own-prerouting": 2, "other-prerouting": 0, "own-output": 2, "other-output": 0, "own-postrouting": 4, "other-postrouting": 0,
            }  # fmt: skip
            assert len(ruleset.learned(family, TABLE, REMEMBERED)) == 2
        finally:
            nftables.apply(ruleset, gone(family, TABLE))
            ruleset.run(f"delete table {word} classes\n")


def test_this_kernel_can_keep_clients_with_their_endpoint(lab, family):
    with nftables.Nftables(lab.paths["b"]) as ruleset:
        assert proxy._remembers(ruleset, family)
        assert "probe" not in ruleset.run("list tables\n"), "it was asked, and nothing was changed"


def test_cleaning_up_takes_ours_alone(lab):
    with nftables.Nftables(lab.paths["b"]) as ruleset:
        ruleset.run("add table ip twinstack-masq\nadd table ip kube-proxy\nadd table inet firewalld\n")
        nftables.apply(ruleset, [whole(table_for(family, lab.ends[family])) for family in FAMILIES])
        with namespaces.entered(lab.paths["b"]):
            proxy.cleanup()
        listed = ruleset.run("list tables\n")
        assert sorted(listed.split("\n"))[1:] == ["table inet firewalld", "table ip kube-proxy", "table ip twinstack-masq"]
        for name in ("ip twinstack-masq", "ip kube-proxy", "inet firewalld"):
            ruleset.run(f"delete table {name}\n")


def test_the_nft_program_accepts_the_tables_of_every_way(lab, family, tmp_path):
    """SCTP included, and affinity's rules that teach."""
    ports = [
        port._replace(protocol="sctp")
        for number in range(len(SERVICES))
        for port in service_ports(service(number), [endpoint_slice(number, family, lab.ends[family])], family, Place("node1"))
        if port.protocol == "tcp"
    ]
    table = Shape(family, Options()).table(ports)
    path = tmp_path / "table.nft"
    path.write_text(text.script(whole(table)))
    with namespaces.entered(lab.paths["b"]):
        done = subprocess.run(["nft", "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
