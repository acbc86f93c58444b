"""What a runtime asks for besides a network: a speed, a hardware address, addresses and ranges of its choice, a resolver."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest

from twinstack.api import cni
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.kernel.shaping import ShapingNetlink
from twinstack.net.family import FAMILIES, Family

pytestmark = pytest.mark.kernel
CIDRS = ("10.7.1.0/24", "fd07:1::/64")


def seconds_for(sender: str, receiver: str, family: Family, address: str, size: int) -> float:
    """How long it takes to bring this many bytes over one connection to the end."""
    with namespaces.entered(receiver):
        listener = socket.create_server((family.facts.unspecified, 0), family=family.facts.socket_family)

    def sink() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                pass
            connection.sendall(b".")

    thread = threading.Thread(target=sink)
    thread.start()
    with namespaces.socket_in(sender, family.facts.socket_family, socket.SOCK_STREAM) as client, listener:
        client.settimeout(10)
        client.connect((address, listener.getsockname()[1]))
        start = time.monotonic()
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
        taken = time.monotonic() - start
        thread.join()
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ingress", "egress"])
def test_a_pod_receives_and_sends_no_faster_than_it_may_in_either_family(node: Any, way: str) -> None:
    slow, free = node.make("pod1"), node.make("pod2")
    told = node.plugin("ADD", slow, runtimeConfig={"bandwidth": {f"{way}Rate": 16_000_000}}).document  # 2 MB/s, and 200 kB at once
    other = node.plugin("ADD", free, container="c2").document
    for family, own, theirs in zip(FAMILIES, cni.addresses_of(told), cni.addresses_of(other), strict=True):
        received = seconds_for(free, slow, family, str(own), 600_000)
        sent = seconds_for(slow, free, family, str(theirs), 600_000)
        shaped, unshaped = (received, sent) if way == "ingress" else (sent, received)
        assert shaped > 0.15
        assert unshaped < shaped


def test_check_finds_a_bucket_that_is_gone_and_del_needs_none(node: Any) -> None:
    pod = node.make("pod")
    speed = {"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 16_000_000, "egressBurst": 2**32 - 1}}  # as containerd writes it
    told = node.plugin("ADD", pod, runtimeConfig=speed).document
    assert node.plugin("CHECK", pod, runtimeConfig=speed, prevResult=told) == (0, None)
    with ShapingNetlink(pod) as inside:
        assert inside.rate("eth0") == 2_000_000
        inside.remove_bucket("eth0")
        inside.commit()
    answer = node.plugin("CHECK", pod, runtimeConfig=speed, prevResult=told).document
    assert (answer["code"], "eth0 sends 0 bytes" in answer["msg"]) == (cni.NOT_AS_TOLD, True)
    assert node.plugin("DEL", pod) == (0, None)
    assert (node.kept(), node.links()) == (set(), {"lo"})


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"runtimeConfig": {"mac": "02:AA:BB:CC:DD:EE"}}, id="as the capability mac"),
        pytest.param({"args": {"cni": {"mac": "02:aa:bb:cc:dd:ee"}}}, id="as an argument in the configuration"),
    ],
)
def test_a_pod_has_the_hardware_address_that_is_asked_for(node: Any, asked: dict[str, Any]) -> None:
    pod = node.make("pod")
    told = node.plugin("ADD", pod, **asked).document
    assert told["interfaces"][1]["mac"] == "02:aa:bb:cc:dd:ee"
    with Netlink(pod) as inside:
        link = inside.link("eth0")
        assert link and link.mac == "02:aa:bb:cc:dd:ee"
    assert node.plugin("CHECK", pod, prevResult=told, **asked) == (0, None)
    other = node.make("pod2")
    assert node.plugin("ADD", other, container="c2").status == 0
    for family, own in zip(FAMILIES, cni.addresses_of(told), strict=True):
        assert seconds_for(other, pod, family, str(own), 1) < 5  # the node knows it
    with Netlink(pod) as inside:
        inside.change_link("eth0", mac="02:00:00:00:00:01")
        inside.commit()
    assert "instead of 02:aa:bb:cc:dd:ee" in node.plugin("CHECK", pod, prevResult=told, **asked).document["msg"]


def test_ranges_of_the_runtime_come_before_those_of_the_configuration(node: Any) -> None:
    """A kubelet that learns its podCIDRs late gives them with each pod; both families, in its order."""
    ranges = {"ipRanges": [[{"subnet": "fd07:9::/64"}], [{"subnet": "10.7.9.0/24"}]]}
    told = node.plugin("ADD", node.make("pod"), runtimeConfig=ranges, ipam={"type": cni.PLUGIN, "dataDir": str(node.data_dir)}).document
    assert list(map(str, cni.addresses_of(told))) == ["fd07:9::1", "10.7.9.1"]


def test_addresses_that_are_asked_for_are_given_or_refused(node: Any) -> None:
    wish = {"ips": ["10.7.1.77/24", "fd07:1::77"]}
    told = node.plugin("ADD", node.make("pod1"), runtimeConfig=wish).document
    assert list(map(str, cni.addresses_of(told))) == ["10.7.1.77", "fd07:1::77"]
    answer = node.plugin("ADD", node.make("pod2"), container="c2", runtimeConfig=wish).document
    assert (answer["code"], "in use" in answer["msg"]) == (cni.NO_ADDRESS, True)
    answer = node.plugin("ADD", node.make("pod3"), container="c3", runtimeConfig={"ips": ["10.99.0.1"]}).document
    assert answer["code"] == cni.NO_ADDRESS
    assert node.kept() == {"10.7.1.77", "fd07:1::77"}


def test_the_runtimes_resolver_is_in_the_result_and_else_the_configurations(node: Any) -> None:
    dns = {"dns": {"Servers": ["10.96.0.10", "fd96::a"], "Searches": ["svc.cluster.local"], "Options": ["ndots:5"]}}  # as containerd writes it
    told = node.plugin("ADD", node.make("pod1"), runtimeConfig=dns).document
    assert told["dns"] == {"nameservers": ["10.96.0.10", "fd96::a"], "search": ["svc.cluster.local"], "options": ["ndots:5"]}
    told = node.plugin("ADD", node.make("pod2"), container="c2", dns={"nameservers": ["fd96::b"]}).document
    assert told["dns"] == {"nameservers": ["fd96::b"]}


@pytest.mark.parametrize(
    "runtime",
    [
        {"mac": "02:aa:bb:cc:dd"},
        {"mac": "01:aa:bb:cc:dd:ee"},
        {"mac": "00:00:00:00:00:00"},
        {"mac": 5},
        {"bandwidth": {"ingressRate": -1}},
        {"bandwidth": {"ingressRate": "10M"}},
        {"bandwidth": {"egressBurst": 5}},
        {"bandwidth": {"egressRate": 5, "egressBurst": 2**32}},
        {"bandwidth": 5},
        {"dns": 5},
    ],
    ids=str,
)
def test_a_wish_that_means_nothing_is_refused_and_nothing_is_kept(node: Any, runtime: dict[str, Any]) -> None:
    assert node.plugin("ADD", node.make("pod"), runtimeConfig=runtime).document["code"] == cni.BAD_CONFIG
    assert node.kept() == set()


@pytest.mark.parametrize("runtime", [{"mac": "02:aa:bb:cc:dd:ee"}, {"bandwidth": {"ingressRate": 1_000_000}}], ids=["mac", "bandwidth"])
def test_behind_another_plugin_only_ports_can_be_asked_of_us(node: Any, runtime: dict[str, Any]) -> None:
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"address": "10.7.1.5/24", "interface": 0}]}
    data = {"cniVersion": "1.0.0", "name": "tst", "type": cni.PLUGIN, "runtimeConfig": runtime, "prevResult": previous}
    answer = node.plugin("ADD", node.make("pod"), stdin=json.dumps(data).encode())
    assert answer.document["code"] == cni.UNSUPPORTED_FIELD
