"""The tunnel between nodes: over an underlay of either family, for pods of both; and the routers that a forwarding node hears."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from twinstack.agent import overlay
from twinstack.agent.overlay import ANNOTATION, LINK, OverlayError, wanted_overlay
from twinstack.agent.routes import Router
from twinstack.api.kinds import Node
from twinstack.api.objects import view_of
from twinstack.dataplane.host import Address, Route
from twinstack.kernel import forwarding, namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.kernel.tunnels import Forwarding, Tunnel, TunnelNetlink
from twinstack.net.family import FAMILIES, Family

UNDERLAY = {Family.IPV4: "172.30.0.{}", Family.IPV6: "fd30::{}"}
POD = {Family.IPV4: "10.7.{}.5", Family.IPV6: "fd07:0:0:{}::5"}
PODS = {Family.IPV4: "10.7.{}.0/24", Family.IPV6: "fd07:0:0:{}::/64"}


def node(number: int, tunnel: Tunnel | None, families: tuple[Family, ...] = FAMILIES) -> Node:
    annotations = {} if tunnel is None else {ANNOTATION: overlay.annotation_of(tunnel)}
    return view_of(
        Node,
        {
            "metadata": {"name": f"n{number}", "annotations": annotations},
            "spec": {"podCIDRs": [PODS[family].format(number) for family in families]},
            "status": {"addresses": [{"type": "InternalIP", "address": UNDERLAY[family].format(10 + number)} for family in families]},
        },
    )


def tunnel(number: int, underlay: Family = Family.IPV4) -> Tunnel:
    local = ip_address(UNDERLAY[underlay].format(10 + number))
    return Tunnel(LINK, overlay.NUMBER, local, overlay.PORT, overlay.mac_of(f"n{number}", local), 1450)


def test_each_other_node_has_a_next_hop_for_each_family_of_its_pods() -> None:
    wanted, problems = wanted_overlay([node(1, tunnel(1)), node(2, tunnel(2)), node(3, None)], "n1", tunnel(1))
    assert problems == []
    assert wanted.addresses == [Address(LINK, ip_address("10.7.1.0"), 32), Address(LINK, ip_address("fd07:0:0:1::"), 128)]
    assert [(str(route.destination), str(route.gateway), route.onlink) for route in wanted.routes] == [
        ("10.7.2.0/24", "10.7.2.0", True),
        ("fd07:0:0:2::/64", "fd07:0:0:2::", True),
    ]
    assert {hop.mac for hop in wanted.neighbours} == {tunnel(2).mac}
    assert wanted.forwardings == [Forwarding(tunnel(2).mac, tunnel(2).local)]


def test_a_node_that_tells_nonsense_or_another_underlay_is_left_out_and_named() -> None:
    wrong = view_of(Node, {"metadata": {"name": "n2", "annotations": {ANNOTATION: '{"mac": "x", "address": "y"}'}}, "spec": {"podCIDRs": ["10.7.2.0/24"]}})
    wanted, problems = wanted_overlay([wrong, node(3, tunnel(3, Family.IPV6)), node(4, tunnel(4))], "n1", tunnel(1))
    assert [route.destination for route in wanted.routes] == [ip_network("10.7.4.0/24"), ip_network("fd07:0:0:4::/64")]
    assert [problem.split(":")[0] for problem in problems] == ["node n2", "node n3 has its end of the tunnel at fd30"]
    assert "--vxlan-underlay" in problems[1]


def test_the_underlay_needs_an_address_of_its_family() -> None:
    own = (ip_address("172.30.0.11"),)
    here = [Address("eth0", own[0], 24), Address("eth1", ip_address("fd99::1"), 64), Address("eth0", ip_address("fe80::1"), 64, "link")]
    assert overlay.underlay_address(None, own, here) == here[0]
    with pytest.raises(OverlayError, match="no IPv6 address on the link"):
        overlay.underlay_address(Family.IPV6, own, here)
    found = Address("eth0", ip_address("fd30::11"), 64)
    assert overlay.underlay_address(Family.IPV6, own, [*here, found]) == found


@pytest.fixture
def wire() -> Iterator[Callable[[str, str], None]]:
    """Nodes n1 and n2 joined by a wire, each with a pod's namespace; paths by name."""
    base = f"/run/netns/tst-{os.getpid()}-ov"
    sysctls = [pair for family in FAMILIES for pair in family.facts.route_default_sysctls]
    with ExitStack() as undo:

        def make(first: str, second: str) -> None:
            for name in (first, second):
                namespaces.create(f"{base}-{name}", sysctls)
                undo.callback(namespaces.remove, f"{base}-{name}")
            far = namespaces.opened(f"{base}-{second}")
            undo.callback(os.close, far)
            with Netlink(f"{base}-{first}") as kernel:
                kernel.change_link("lo", up=True)
                kernel.add_veth("eth0", "eth0", number=10, peer_number=11, peer_netns=far)
                kernel.change_link("eth0", up=True)
                kernel.commit()
            with Netlink(f"{base}-{second}") as kernel:
                kernel.change_link("lo", up=True)
                kernel.change_link("eth0", up=True)
                kernel.commit()
                assert kernel.wait_until_running(["eth0"])
            with Netlink(f"{base}-{first}") as kernel:
                assert kernel.wait_until_running(["eth0"])

        yield make


def echo(source: str, target: str, family: Family, address: str, size: int) -> str:
    """A datagram of a size from one namespace to another and back, not fragmented; the name of the failure otherwise."""
    with (
        namespaces.socket_in(target, family.facts.socket_family, socket.SOCK_DGRAM) as server,
        namespaces.socket_in(source, family.facts.socket_family, socket.SOCK_DGRAM) as client,
    ):
        server.settimeout(1)
        client.settimeout(1)
        for one in (server, client):
            one.setsockopt(*((socket.IPPROTO_IP, 10, 2) if family is Family.IPV4 else (socket.IPPROTO_IPV6, 23, 2)))  # never fragment
        server.bind((address, 9000))
        try:
            client.sendto(b"x" * size, (address, 9000))
            data, peer = server.recvfrom(9000)
            server.sendto(data, peer)
            return str(peer[0]) if client.recv(9000) == data else "another datagram"
        except OSError as error:
            return type(error).__name__ + (f" {error.errno}" if error.errno else "")


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("underlay", FAMILIES, ids=str)
def test_pods_of_both_families_go_through_a_tunnel_of_either_and_nodes_leave(wire: Any, underlay: Family) -> None:
    wire("n1", "n2")
    base = f"/run/netns/tst-{os.getpid()}-ov"
    own = {number: [ip_address(UNDERLAY[family].format(10 + number)) for family in FAMILIES] for number in (1, 2)}
    tunnels = {}
    for number in (1, 2):
        with Netlink(f"{base}-n{number}") as kernel:
            for address in own[number]:
                kernel.add_address("eth0", address, 24 if address.version == 4 else 64)
            for family in FAMILIES:  # a pod's address stands in for the pod
                kernel.add_address("lo", ip_address(POD[family].format(number)), family.bits)
            kernel.commit()
            assert kernel.wait_until_local([*own[number], *(ip_address(POD[family].format(number)) for family in FAMILIES)])
        with namespaces.entered(f"{base}-n{number}"):
            tunnels[number] = overlay.ensure_tunnel(f"n{number}", underlay, own[number])
            assert overlay.ensure_tunnel(f"n{number}", underlay, own[number]) == tunnels[number]
    mtu = 1500 - underlay.facts.vxlan_overhead
    assert {one.mtu for one in tunnels.values()} == {mtu}
    nodes = [node(number, tunnels[number]) for number in (1, 2)]
    for number in (1, 2):
        with namespaces.entered(f"{base}-n{number}"):
            router = Router(lambda: nodes, f"n{number}", lambda number=number: tunnels[number])  # type: ignore[misc]
            assert router.apply()
            assert router.apply() == []
    for family in FAMILIES:
        address = POD[family].format(2)
        headers = (20 if family is Family.IPV4 else 40) + 8
        # what the node itself sends bears its address on the tunnel; the first packets may come before the links are settled
        answers = (echo(f"{base}-n1", f"{base}-n2", family, address, mtu - headers) for _ in range(3))
        assert next((answer for answer in answers if answer != "TimeoutError"), "") == str(ip_network(PODS[family].format(1)).network_address)
        assert echo(f"{base}-n1", f"{base}-n2", family, address, mtu - headers + 1) == "OSError 90"  # message too long
    with namespaces.entered(f"{base}-n1"):
        Router(lambda: nodes[:1], "n1", lambda: tunnels[1]).apply()
        with TunnelNetlink() as kernel:
            assert (kernel.neighbours(LINK), kernel.forwardings(LINK), kernel.routes()) == ([], [], [])
        overlay.remove_tunnel()
        with Netlink() as plain:
            assert plain.link(LINK) is None


def advertise(netns: str) -> None:
    """One router advertisement (RFC 4861) with a prefix, to all nodes on eth0."""
    with namespaces.entered(netns):
        router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        number = socket.if_nametoindex("eth0")
    with router:
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 1800, 1800, 0, ip_address("2001:db8:5::").packed)
        router.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix, ("ff02::1", 0, 0, number))


@pytest.mark.kernel
@pytest.mark.slow
def test_a_node_that_begins_to_forward_goes_on_listening_to_the_router_that_it_has(wire: Any) -> None:
    wire("n1", "n2")
    base = f"/run/netns/tst-{os.getpid()}-ov"
    path = f"{base}-n1"
    for key, value in (("net/ipv6/conf/all/forwarding", "0"), ("net/ipv6/conf/eth0/accept_ra", "1")):
        with namespaces.entered(path):
            namespaces.write_sysctl(key, value)

    def default() -> list[Route]:
        with Netlink(path) as kernel:
            return [route for route in kernel.routes([Family.IPV6], protocol=None) if route.destination.prefixlen == 0]

    def until_heard() -> list[Route]:
        for _ in range(100):
            with suppress(OSError):  # the router's own link-local address is not usable yet
                advertise(f"{base}-n2")
            if found := default():
                return found
            time.sleep(0.02)
        return []

    assert until_heard()
    with namespaces.entered(path):
        assert forwarding.switch_on(FAMILIES) == ["eth0"]
        assert forwarding.switch_on(FAMILIES) == []
        assert namespaces.read_sysctl("net/ipv6/conf/eth0/accept_ra") == "2"
    with Netlink(path) as kernel:
        for route in default():
            kernel.remove_route(route, protocol=9)
        kernel.commit()
    assert until_heard()
