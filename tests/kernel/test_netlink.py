"""Our netlink against the kernel, judged by iproute2 and pyroute2."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from twinstack.dataplane.host import ROUTE_PROTOCOL, Address, Link, Route, Step, Sysctl, difference
from twinstack.kernel import namespaces
from twinstack.kernel.errors import KernelError
from twinstack.kernel.netlink import Netlink
from twinstack.net.family import FAMILIES, Family

pytestmark = pytest.mark.kernel
Make = Callable[[str], str]
GATEWAYS = {family: ipaddress.ip_address(family.facts.pod_gateway) for family in FAMILIES}
PODS = {Family.IPV4: ipaddress.ip_address("10.9.0.5"), Family.IPV6: ipaddress.ip_address("fd09::5")}
OTHERS = {Family.IPV4: ipaddress.ip_network("10.8.0.0/24"), Family.IPV6: ipaddress.ip_network("fd08::/64")}


def ip(path: str, *words: str) -> Any:
    done = subprocess.run(["ip", "-n", os.path.basename(path), "-details", "-json", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def network_of(family: Family) -> Any:
    return family.network(int(PODS[family]), family.bits)


@pytest.fixture
def wired(netns: Make) -> tuple[str, str]:
    """A node's and a pod's namespace, wired as the network plugin does it."""
    node, pod = netns("node"), netns("pod")
    with Netlink(pod) as inside:
        inside.write_sysctls(pair for family in FAMILIES for pair in family.facts.pod_sysctls)
    descriptor = namespaces.opened(pod)
    with Netlink(node) as outside, Netlink(pod) as inside:
        outside.add_veth(
            "tsa", "eth0", number=700, peer_number=2, mac="02:00:00:00:00:01", peer_mac="02:00:00:00:00:02", peer_netns=descriptor, up=True, quiet=True
        )
        for family in FAMILIES:
            outside.add_address("tsa", GATEWAYS[family], family.bits, scope="link")
            outside.add_route(Route(network_of(family), "tsa"))
        outside.commit()
        inside.change_link("lo", up=True)
        inside.change_link("eth0", up=True)
        for family in FAMILIES:
            inside.add_address("eth0", PODS[family], family.bits)
            inside.add_route(Route(ipaddress.ip_network(family.facts.everything), "eth0", GATEWAYS[family], onlink=True))
        inside.commit()
        assert outside.wait_until_running(["tsa"])
        assert inside.wait_until_running(["eth0"])
    os.close(descriptor)
    return node, pod


def test_a_wired_pod_is_what_iproute2_shows(wired: tuple[str, str]) -> None:
    node, pod = wired
    (link,) = ip(pod, "link", "show", "eth0")
    assert (link["ifindex"], link["address"], link["operstate"], link["linkinfo"]["info_kind"]) == (2, "02:00:00:00:00:02", "UP", "veth")
    (link,) = ip(node, "link", "show", "tsa")
    assert (link["ifindex"], link["address"], link["operstate"], link["inet6_addr_gen_mode"]) == (700, "02:00:00:00:00:01", "UP", "none")
    for family in FAMILIES:
        flag = f"-{family.facts.version}"
        addresses = {a["local"]: a for entry in ip(pod, flag, "addr", "show", "eth0") for a in entry["addr_info"]}
        assert addresses[str(PODS[family])]["prefixlen"] == family.bits
        assert not addresses[str(PODS[family])].get("tentative")
        (default,) = ip(pod, flag, "route", "show", "default")
        assert (default["gateway"], default["dev"], default["protocol"]) == (str(GATEWAYS[family]), "eth0", str(ROUTE_PROTOCOL))
        (route,) = ip(node, flag, "route", "show", "proto", str(ROUTE_PROTOCOL))
        assert (route["dst"], route["dev"]) == (str(PODS[family]), "tsa")
        (address,) = [a for entry in ip(node, flag, "addr", "show", "tsa") for a in entry["addr_info"]]
        assert (address["local"], address["prefixlen"], address["scope"]) == (str(GATEWAYS[family]), family.bits, "link")


def test_a_wired_pod_answers_in_both_families(wired: tuple[str, str]) -> None:
    node, _ = wired
    for family in FAMILIES:
        with namespaces.socket_in(node, family.facts.socket_family, socket.SOCK_STREAM) as client:
            client.settimeout(5)  # on a busy machine the first packet may meet a link whose state the kernel has not told yet
            with pytest.raises(ConnectionRefusedError):  # which the pod itself says
                client.connect((str(PODS[family]), 9))


def test_pyroute2_sees_the_same_as_we(wired: tuple[str, str]) -> None:
    from pyroute2 import IPRoute

    node, _ = wired
    with namespaces.entered(node), IPRoute() as oracle, Netlink() as ours:
        assert {(link["index"], link.get("IFLA_IFNAME"), link.get("IFLA_MTU")) for link in oracle.get_links()} == {
            (link.number, link.name, link.mtu) for link in ours.links()
        }
        names = {link.number: link.name for link in ours.links()}
        assert {(names[a["index"]], a.get("IFA_ADDRESS"), a["prefixlen"]) for a in oracle.get_addr()} == {
            (a.link, str(a.address), a.prefix) for a in ours.addresses()
        }
        assert {(names[r.get("RTA_OIF")], r.get("RTA_DST"), r["dst_len"]) for r in oracle.get_routes(table=254, proto=ROUTE_PROTOCOL)} == {
            (r.link, str(r.destination.network_address), r.destination.prefixlen) for r in ours.routes()
        }


def test_no_address_waits_for_duplicate_address_detection(netns: Make) -> None:
    path = netns("a")
    with Netlink(path) as kernel:
        kernel.write_sysctls(pair for family in FAMILIES for pair in family.facts.route_default_sysctls)
        kernel.add_veth("one", "two", up=True)
        kernel.commit()
        kernel.change_link("two", up=True)
        for family in FAMILIES:
            kernel.add_address("one", PODS[family], 24)
        kernel.commit()
        assert kernel.wait_until_running(["one", "two"])
        assert kernel.tentative() == []


def wanted_host() -> list[Link | Address | Route | Sysctl]:
    return [
        Link("br0", "bridge"),
        Link("one", "veth", peer="two", master="br0", mac="02:00:00:00:00:09"),
        Link("two"),
        Link("lo"),
        *(Sysctl(*pair) for family in FAMILIES for pair in family.facts.route_default_sysctls),
        *(Address("two", PODS[family], 24 if family is Family.IPV4 else 64) for family in FAMILIES),
        *(Route(OTHERS[family], "two", family.address(int(PODS[family]) + 1)) for family in FAMILIES),
    ]


def test_steps_lead_to_what_is_wanted_and_then_there_are_none(netns: Make) -> None:
    path = netns("a")
    wanted = wanted_host()
    with Netlink(path) as kernel:
        kernel.apply(difference([], wanted))
        assert set(kernel.routes()) == {one for one in map(settled, wanted) if isinstance(one, Route)}
        assert {a for a in kernel.addresses() if a.link == "two" and a.address in PODS.values()} == {a for a in wanted if isinstance(a, Address)}
        links = {link.name: link for link in kernel.links()}
        assert links["one"].master == links["br0"].number
        assert links["one"].mac == "02:00:00:00:00:09"
        assert links["one"].up and links["two"].up and links["lo"].up
        with namespaces.entered(path):
            assert namespaces.read_sysctl("net/ipv4/ip_forward") == "1"
        assert difference(kernel.routes(), [one for one in wanted if isinstance(one, Route)]) == []
        kernel.apply(difference([], wanted)[-2:])  # the routes once more: nothing changes
        kernel.apply(difference(wanted, []))
        assert kernel.routes() == []
        assert {link.name for link in kernel.links()} == {"lo"}


def settled(one: object) -> object:
    return one._replace(metric=one.metric or one.family.facts.route_metric) if isinstance(one, Route) else one


def test_a_route_takes_the_place_of_one_to_the_same_destination(netns: Make) -> None:
    with Netlink(netns("a")) as kernel:
        kernel.apply(difference([], wanted_host()))
        for family in FAMILIES:
            kernel.add_route(Route(OTHERS[family], "two", family.address(int(PODS[family]) + 2)))
        kernel.commit()
        assert {route.gateway for route in kernel.routes()} == {family.address(int(PODS[family]) + 2) for family in FAMILIES}


def test_routes_of_others_are_not_ours(netns: Make) -> None:
    path = netns("a")
    with Netlink(path) as kernel:
        kernel.apply(difference([], wanted_host()))
        ip(path, "route", "add", "10.77.0.0/24", "dev", "two")
        assert len(kernel.routes()) == 2
        assert len(kernel.routes(protocol=None)) > 3


def test_a_failure_names_the_request_and_says_why_and_the_rest_was_done(netns: Make) -> None:
    path = netns("a")
    with Netlink(path) as kernel:
        kernel.add_link("br0", "bridge")
        kernel.add_link("br0", "bridge")
        kernel.add_link("br1", "bridge")
        with pytest.raises(KernelError) as caught:
            kernel.commit()
        assert caught.value.exists
        assert "add link br0 type bridge" in str(caught.value) and path in str(caught.value)
        assert kernel.link("br1") is not None
        with pytest.raises(KernelError) as caught:
            kernel.add_link("x", "nosuchkind")
            kernel.commit()
        assert "Unknown device type" in str(caught.value)


def test_what_is_gone_is_removed_with_success_and_what_is_missing_is_told(netns: Make) -> None:
    with Netlink(netns("a")) as kernel:
        kernel.remove_link("none")
        kernel.change_link("lo", up=True)
        for family in FAMILIES:
            kernel.remove_address("lo", PODS[family], family.bits)
            kernel.remove_route(Route(OTHERS[family], "lo"))
        kernel.commit()
        assert kernel.link("none") is None
        with pytest.raises(KernelError) as caught:
            kernel.number("none")
        assert caught.value.missing


def test_a_large_batch_is_told_completely(netns: Make) -> None:
    with Netlink(netns("a")) as kernel:
        kernel.add_link("br0", "bridge", up=True)
        kernel.commit()
        for family in FAMILIES:
            for number in range(300):
                kernel.add_route(Route(family.network(int(OTHERS[family].network_address) + (number << 8), family.bits), "br0"))
        kernel.commit()
        assert len(kernel.routes()) == 600


def test_a_link_moves_and_is_renamed(netns: Make) -> None:
    here, there = netns("here"), netns("there")
    descriptor = namespaces.opened(there)
    with Netlink(here) as kernel, Netlink(there) as other:
        kernel.add_veth("one", "two")
        kernel.commit()
        kernel.move_link("two", descriptor)
        kernel.commit()
        other.change_link("two", new_name="eth7")
        other.commit()
        other.change_link("eth7", up=True)
        other.commit()
        assert (found := other.link("eth7")) is not None and found.up
        assert kernel.link("two") is None
    os.close(descriptor)


@pytest.mark.parametrize("text", [str(step) for step in [Step("add", Sysctl("a", "1")), Step("remove", Route(OTHERS[Family.IPV4], "x", metric=5))]])
def test_a_step_prints_itself(text: str) -> None:
    assert text in ("add sysctl a = 1", "remove route 10.8.0.0/24 dev x metric 5")
