"""Our plugin first in a chain of Debian's, and its addresses on the links that they make, in every version that both speak."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from twinstack.api import cni
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.family import FAMILIES

DEBIAN = "/usr/lib/cni"
CIDRS = ("10.7.1.0/24", "fd07:1::/64")
VERSIONS = ("0.4.0", "1.0.0")  # Debian's plugins know no other
pytestmark = [pytest.mark.kernel, pytest.mark.slow]
Execute = Callable[..., tuple[int, Any]]


@pytest.fixture
def execute(node: Any) -> Execute:
    def run(kind: str, command: str, netns: str, config: dict[str, Any]) -> tuple[int, Any]:
        place = os.path.dirname(node.executable)
        environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": netns, "CNI_IFNAME": "eth0", "CNI_PATH": f"{place}:{DEBIAN}"}
        environment["PATH"] = os.environ["PATH"]
        executable = os.path.join(place if kind in (cni.PLUGIN, cni.IPAM) else DEBIAN, kind)
        with namespaces.entered(node.path):
            done = subprocess.run([executable], input=json.dumps({**config, "type": kind}).encode(), env=environment, capture_output=True, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None

    return run


def seen(netns: str, *command: str) -> str:
    with namespaces.entered(netns):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chain_of_debians_plugins_works_on_our_link_and_is_undone(node: Any, execute: Execute, version: str) -> None:
    pod = node.make("pod")
    common = {"cniVersion": version, "name": "tst"}
    chain: list[tuple[str, dict[str, Any]]] = [
        (cni.PLUGIN, node.config(version=version)),
        ("tuning", {**common, "sysctl": {"net.core.somaxconn": "321"}, "runtimeConfig": {"mac": "02:11:22:33:44:55"}, "capabilities": {"mac": True}}),
        ("bandwidth", {**common, "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 16_000_000, "egressBurst": 16_000_000}),
        ("sbr", common),
    ]
    told: Any = None
    for kind, config in chain:
        status, told = execute(kind, "ADD", pod, {**config, **({"prevResult": told} if told else {})})
        assert status == 0, (kind, told)
    assert [one["address"] for one in told["ips"]] == ["10.7.1.1/32", "fd07:1::1/128"]
    assert seen(pod, "sysctl", "-n", "net.core.somaxconn").strip() == "321"
    assert "02:11:22:33:44:55" in seen(pod, "ip", "-o", "link", "show", "eth0")
    with Netlink(node.path) as kernel:
        (own,) = [link.name for link in kernel.links() if link.name.startswith("ts")]
    assert "tbf" in seen(node.path, "tc", "qdisc", "show", "dev", own)
    for family, table in zip(FAMILIES, ("100", "101"), strict=True):  # sbr gives each address a table of its own
        assert f"lookup {table}" in seen(pod, "ip", f"-{family.facts.cni_version}", "rule")
        assert f"via {family.facts.pod_gateway}" in seen(pod, "ip", f"-{family.facts.cni_version}", "route", "show", "table", table)
    for kind, config in chain[:3]:
        assert execute(kind, "CHECK", pod, {**config, "prevResult": told})[0] == 0, kind
    for kind, config in reversed(chain):
        assert execute(kind, "DEL", pod, {**config, "prevResult": told}) == (0, None), kind
    node.until_unwired("c1", "eth0")
    assert (node.kept(), node.links()) == (set(), {"lo"})


def test_debians_portmap_and_firewall_work_on_our_link(node: Any, execute: Execute) -> None:
    pod = node.make("pod")
    common = {"cniVersion": "1.0.0", "name": "tst"}
    ports = {"portMappings": [{"hostPort": 5000, "containerPort": 8080, "protocol": "tcp"}]}
    chain = [
        (cni.PLUGIN, node.config(version="1.0.0")),
        ("portmap", {**common, "snat": True, "runtimeConfig": ports}),
        ("firewall", {**common, "backend": "iptables"}),
    ]
    told: Any = None
    for kind, config in chain:
        status, told = execute(kind, "ADD", pod, {**config, **({"prevResult": told} if told else {})})
        assert status == 0, (kind, told)
    for program, address in (("iptables", "10.7.1.1"), ("ip6tables", "fd07:1::1")):
        assert f"{address}:8080" in seen(node.path, program, "-t", "nat", "-S").replace("[", "").replace("]", "")
        assert f"-s {address}" in seen(node.path, program, "-S")
    for kind, config in reversed(chain):
        assert execute(kind, "DEL", pod, {**config, "prevResult": told}) == (0, None), kind
    for program in ("iptables", "ip6tables"):
        assert "5000" not in seen(node.path, program, "-t", "nat", "-S")
    node.until_unwired("c1", "eth0")
    assert (node.kept(), node.links()) == (set(), {"lo"})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("main", ["bridge", "ptp", "macvlan"])
def test_our_addresses_lie_on_the_links_of_debians_main_plugins(node: Any, execute: Execute, main: str, version: str) -> None:
    pod = node.make("pod")
    with Netlink(node.path) as kernel:
        kernel.add_link("uplink", "bridge", up=True)
        kernel.commit()
    ipam = {"type": cni.IPAM, "dataDir": str(node.data_dir), "ranges": [[{"subnet": cidr}] for cidr in CIDRS]}
    ipam["routes"] = [{"dst": family.facts.everything} for family in FAMILIES]
    own: dict[str, dict[str, Any]] = {"bridge": {"bridge": "br0", "isGateway": True}, "ptp": {}, "macvlan": {"master": "uplink"}}
    config = {"cniVersion": version, "name": "tst", "ipam": ipam, **own[main]}
    status, told = execute(main, "ADD", pod, config)
    assert status == 0, told
    assert [one["address"] for one in told["ips"]] == ["10.7.1.2/24", "fd07:1::2/64"]
    assert node.kept() == {"10.7.1.2", "fd07:1::2"}
    for family, address in zip(FAMILIES, ("10.7.1.2", "fd07:1::2"), strict=True):
        assert address in seen(pod, "ip", f"-{family.facts.cni_version}", "address", "show", "eth0")
    assert execute(main, "CHECK", pod, {**config, "prevResult": told}) == (0, None)
    for _ in range(2):
        assert execute(main, "DEL", pod, {**config, "prevResult": told}) == (0, None)
    assert node.kept() == set()


def test_what_our_plugin_answers_in_each_version_is_what_the_version_has(node: Any) -> None:
    """Every verb in every version that we speak, and what a version has not is refused with code 1."""
    for number, version in enumerate(cni.VERSIONS):
        pod, container = node.make(f"pod{number}"), f"c{number}"
        told = node.plugin("ADD", pod, container=container, version=version)
        assert told.status == 0
        assert told.document["cniVersion"] == version
        assert [one.get("version") for one in told.document["ips"]] == (["4", "6"] if version == "0.4.0" else [None, None])
        assert ["mtu" in one for one in told.document["interfaces"]] == [version == "1.1.0"] * 2
        assert node.plugin("CHECK", pod, container=container, version=version, prevResult=told.document) == (0, None)
        asked = node.plugin("VERSION", stdin=json.dumps({"cniVersion": version}).encode())
        assert asked.document == {"cniVersion": version, "supportedVersions": list(cni.VERSIONS)}
        for verb, more in (("STATUS", {}), ("GC", {"cni.dev/valid-attachments": [{"containerID": container, "ifname": "eth0"}]})):
            answer = node.plugin(verb, version=version, **more)
            assert answer == (0, None) if version == "1.1.0" else answer.document["code"] == cni.INCOMPATIBLE_VERSION
        for _ in range(2):
            assert node.plugin("DEL", pod, container=container, version=version, prevResult=told.document) == (0, None)
    for version in ("0.3.1", "2.0.0", "", 1):
        answer = node.plugin("ADD", node.path, version=version)
        assert (answer.status, answer.document["code"]) == (1, cni.INCOMPATIBLE_VERSION)
    assert node.kept() == set()
