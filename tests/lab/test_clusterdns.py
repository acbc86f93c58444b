"""A lab's DNS: on paper, its well-known addresses, its Service and slices; and in a cluster, what its flags do and what becomes of it when a node dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from twinstack.kernel.netlink import Netlink
from twinstack.lab import clusterdns
from twinstack.lab.topology import Request, Topology, plan
from twinstack.net.cidr import host_port
from twinstack.net.family import FAMILIES, Family


def topology(**asked: str) -> Topology:
    planned = plan(Request(**asked))  # type: ignore[arg-type]
    assert isinstance(planned, Topology)
    return planned


@pytest.mark.parametrize("families", [FAMILIES[:1], FAMILIES[1:], FAMILIES, FAMILIES[::-1]], ids=str)
def test_the_service_has_the_tenth_address_of_each_range_and_a_slice_of_each_family(families) -> None:
    one = topology(families=",".join(map(str, families)))
    wanted = [{"IPv4": "10.96.0.10", "IPv6": "fd00:10:96::a"}[family.value] for family in families]
    assert list(map(str, clusterdns.addresses(one))) == wanted
    (_, service), *slices = clusterdns.objects(one)
    assert service["spec"]["clusterIPs"] == wanted and service["spec"]["ipFamilies"] == [family.value for family in families]
    assert service["spec"]["ipFamilyPolicy"] == ("PreferDualStack" if len(families) > 1 else "SingleStack")
    machines = (one.control_plane, *one.nodes[:2])
    found = {document["addressType"]: [(*endpoint["addresses"], endpoint.get("nodeName")) for endpoint in document["endpoints"]] for _, document in slices}
    assert found == {
        family.value: [(str(machine.addresses[family]), None if machine is one.control_plane else machine.name) for machine in machines] for family in families
    }
    for _, document in slices:
        assert document["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
        assert [(port["name"], port["protocol"]) for port in document["ports"]] == [(port["name"], port["protocol"]) for port in service["spec"]["ports"]]


@pytest.mark.parametrize(("cidr", "address"), [("10.0.0.0/29", "10.0.0.2"), ("10.0.0.0/28", "10.0.0.10"), ("fd00::/125", "fd00::2"), ("fd00::/124", "fd00::a")])
def test_a_small_range_has_the_dns_at_its_second_address(cidr, address) -> None:
    one = topology(families="IPv6" if ":" in cidr else "IPv4", service_cidr=cidr)
    assert list(map(str, clusterdns.addresses(one))) == [address]


def test_who_is_silent_three_times_in_a_family_is_left_out_of_its_slice_and_whoever_is_last_stays() -> None:
    one = topology()
    watchman = clusterdns.Watchman(one)
    first, second, third = (machine.addresses for machine in clusterdns.instances(one))
    assert watchman.silent == {*second.values(), *third.values()}, "at first the control plane's is trusted alone"
    watchman.heard(dict.fromkeys(watchman.watched, True))
    assert watchman.silent == frozenset()
    for family in FAMILIES:
        for silences in range(clusterdns.SILENCES):
            assert watchman.silent == frozenset(), silences
            watchman.heard({address: address != second[family] for address in watchman.watched})
        assert watchman.silent == {second[family]}, "its twin is still sent to"
        slices = {document["addressType"]: document["endpoints"] for _, document in clusterdns.objects(one, watchman.silent)[1:]}
        assert [endpoint["conditions"]["ready"] for endpoint in slices[family.value]] == [True, False, True]
        assert [endpoint["conditions"]["ready"] for endpoint in slices[family.other.value]] == [True, True, True]
        watchman.heard(dict.fromkeys(watchman.watched, True))
    for _ in range(clusterdns.SILENCES):
        watchman.heard({address: Family.of(address) is FAMILIES[0] and address != first[FAMILIES[0]] for address in watchman.watched})
    assert watchman.silent == {first[FAMILIES[0]]}, "where all of a family are silent, all are sent to"


@pytest.mark.parametrize(
    ("said", "right"),
    [("nobody", "is not an address"), ("192.0.2.1:0", "is not an address with a port"), ("192.0.2.1,x", "is not"), ("192.0.2.1,none", "is not")],
)
def test_a_resolver_that_is_none_is_refused(said, right) -> None:
    (problem,) = plan(Request(dns_forward=said))  # type: ignore[misc]
    assert problem.flag == "dns-forward" and right in problem.detail


@pytest.mark.parametrize(("said", "meant"), [("none", ()), ("", ()), ("192.0.2.1, [2001:db8::1]:5353", ("192.0.2.1", "[2001:db8::1]:5353"))])
def test_resolvers_are_those_that_are_named_or_none(said, meant) -> None:
    assert topology(dns_forward=said).dns_forward == meant


# ---- in a cluster

_WORLD = """
import socket, sys, dns.message, dns.rrset
one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
one.bind((sys.argv[1], 5353))
while True:
    data, client = one.recvfrom(4096)
    query = dns.message.from_wire(data)
    answer = dns.message.make_response(query)
    name, type_ = query.question[0].name, query.question[0].rdtype
    if name.to_text().lower().endswith("example.com."):
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", type_, {1: "192.0.2.80", 28: "2001:db8::80"}[type_]))
    one.sendto(answer.to_wire(), client)
"""


class Looking:
    """Somebody on a node who looks names up."""

    def __init__(self, lab: Any, name: str) -> None:
        self.lab, self.name = lab, name

    def dig(self, family: Family, *words: str, node: str = "node3") -> list[str] | None:
        """What is found by the well-known address of a family; None when nobody answers within a second."""
        server = {FAMILIES[0]: "10.96.0.10", FAMILIES[1]: "fd00:10:96::a"}[family]
        command = ["nsenter", f"--net=/run/netns/twinstack-{self.name}-{node}", "dig", "+short", "+tries=1", "+time=1", f"@{server}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.split() if done.returncode == 0 else None

    def until(self, wanted: list[str], family: Family, *words: str) -> None:
        deadline = time.monotonic() + 20
        while (found := self.dig(family, *words)) != wanted:
            assert time.monotonic() < deadline, (found, wanted, self.lab.logs(self.name))

    def until_all_answer(self, seconds: float) -> float:
        """Until twenty questions in a row are answered in each family; the seconds until the first of them."""
        began = time.monotonic()
        row, first = 0, began
        while row < 20:
            first = first if row else time.monotonic()
            found = [self.dig(family, "-x", "10.96.0.10") for family in FAMILIES]
            row = row + 1 if all(found) else 0
            assert time.monotonic() - began < seconds, self.lab.logs(self.name)
        return first - began


def _apply(lab: Any, name: str, *documents: dict[str, Any]) -> None:
    for document in documents:
        kubectl = ["kubectl", "--context", f"twinstack-{name}", "apply", "-f", "-"]
        subprocess.run(kubectl, env=lab.environment, input=json.dumps(document), text=True, check=True, capture_output=True)


@pytest.mark.cluster
@pytest.mark.kernel
@pytest.mark.slow
def test_names_are_found_when_a_node_dies_others_are_asked_of_a_resolver_and_dead_families_are_hidden(lab: Any) -> None:
    name = lab.name("dns")
    outside = topology(name=name).outside
    resolvers = ",".join(host_port(outside.addresses[family], 5353) for family in FAMILIES)
    lab.up(name, "--dns-forward", resolvers, "--dns-hide-dead-families")
    looking = Looking(lab, name)
    command = ["nsenter", f"--net=/run/netns/twinstack-{name}-outside", sys.executable, "-c", _WORLD]
    world = {family: subprocess.Popen([*command, str(outside.addresses[family])]) for family in FAMILIES}
    alias = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "abroad"}, "spec": {"type": "ExternalName", "externalName": "www.example.com"}}
    try:
        _apply(lab, name, alias)
        looking.until(["www.example.com.", "2001:db8::80"], FAMILIES[0], "abroad.default.svc.cluster.local", "AAAA")
        for family in FAMILIES:
            looking.until(["192.0.2.80"], family, "www.example.com", "A")
            looking.until(["2001:db8::80"], family, "www.example.com", "AAAA")
            world[family].terminate()  # the next one is asked by the other family alone, and then there is none
            world[family].wait()
    finally:
        for one in world.values():
            one.kill()
            one.wait()

    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "half", "namespace": "default"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": ports},
    }
    alive, dead = FAMILIES
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "half-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "half"}},
        "addressType": alive.value,
        "ports": ports,
        "endpoints": [{"addresses": [alive.facts.documentation], "conditions": {"ready": True}}],
    }
    _apply(lab, name, service, slices)
    addresses = {Family.IPV6 if ":" in text else Family.IPV4: text for text in lab.kubectl(name, "get", "service", "half")["spec"]["clusterIPs"]}
    looking.until([addresses[alive]], alive, "half.default.svc.cluster.local", alive.facts.dns_type)
    assert looking.dig(alive, "half.default.svc.cluster.local", dead.facts.dns_type) == []
    everything = json.dumps({"metadata": {"annotations": {"twinstack.dev/dns-families": "all"}}})
    lab.kubectl(name, "patch", "service", "half", "-p", everything)
    looking.until([addresses[dead]], alive, "half.default.svc.cluster.local", dead.facts.dns_type)

    looking.until_all_answer(30.0)
    with Netlink(f"/run/netns/twinstack-{name}-fabric") as kernel:
        kernel.change_link("tsnode1", up=False)
        kernel.commit()
    assert looking.until_all_answer(30.0) < 10.0, "a node's server is missed for some seconds"
    os.kill(lab.pid_of(name, "dns"), signal.SIGSTOP)  # the control plane's own, with the watch: the second node's is left
    assert any(looking.dig(family, "-x", "10.96.0.10") for _ in range(10) for family in FAMILIES)
    os.kill(lab.pid_of(name, "dns"), signal.SIGCONT)
    lab.down(name)
    assert lab.remains(name) == {}
