"""Between nodes, in every family configuration: directly and through a tunnel, while nodes leave and join."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from twinstack.agent.overlay import LINK as TUNNEL
from twinstack.dataplane.host import ROUTE_PROTOCOL
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.kernel.tunnels import TunnelNetlink
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
# answers with the client's address
SERVER = (
    "import socket\nl = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True)\n"
    "while True:\n c, a = l.accept(); c.sendall(a[0].removeprefix('::ffff:').encode()); c.close()"
)
CONFIGURATIONS = ("IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4")


class Cluster:
    """A cluster of three nodes with a pod on each that answers with its client's address."""

    def __init__(self, lab: Any, name: str) -> None:
        self._lab, self.name = lab, name

    def kubectl(self, *words: str, stdin: str = "") -> str:
        command = ["kubectl", "--context", f"twinstack-{self.name}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=self._lab.environment, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *nodes: str) -> tuple[dict[str, dict[Family, str]], dict[str, str]]:
        """A pod on each node; by node, their addresses of each family, and their namespaces."""
        container = {"name": "c", "image": "twinstack.dev/host", "command": ["/usr/bin/python3", "-IS", "-c", SERVER]}
        container |= {"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}
        pods = [
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"on-{node}"}, "spec": {"nodeName": node, "containers": [container]}} for node in nodes
        ]
        self.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
        self.kubectl("wait", "--for=condition=Ready", "--timeout=30s", *(f"pod/on-{node}" for node in nodes))
        addresses, places = {}, {}
        for pod in json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]:
            node = pod["spec"]["nodeName"]
            addresses[node] = {Family.of(parse_address(one["ip"])): one["ip"] for one in pod["status"]["podIPs"]}
            places[node] = f"/run/twinstack/{self.name}/{node}/netns/{pod['metadata']['uid']}"
        return addresses, places

    def netns(self, node: str) -> str:
        return f"/run/netns/twinstack-{self.name}-{node}"

    def ways(self, node: str) -> tuple[int, int, int]:
        """How many routes of ours a node has, neighbours on the tunnel, and nodes behind it."""
        with TunnelNetlink(self.netns(node)) as kernel:
            routes = len(kernel.routes())
            if kernel.link(TUNNEL) is None:
                return routes, 0, 0
            return routes, len(kernel.neighbours(TUNNEL)), len(kernel.forwardings(TUNNEL))


def heard(netns: str, family: Family, address: str) -> str:
    """What the server at an address calls a client in a namespace."""
    with namespaces.socket_in(netns, family.facts.socket_family, socket.SOCK_STREAM) as client:
        client.settimeout(3)
        client.connect((address, 8080))
        return client.recv(100).decode()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("families", CONFIGURATIONS)
@pytest.mark.parametrize("network", ["direct", "vxlan"])
def test_pods_reach_each_other_under_their_own_addresses_while_nodes_leave_and_join(lab: Any, network: str, families: str) -> None:
    cluster = Cluster(lab, lab.name(f"{network[:2]}{CONFIGURATIONS.index(families)}"))
    wanted = [Family(word) for word in families.split(",")]
    # the tunnel goes over the family that the cluster has not, or has second
    underlay = wanted[-1] if len(wanted) > 1 else wanted[0].other
    words = ("--network", "vxlan", "--vxlan-underlay", str(underlay)) if network == "vxlan" else ()
    lab.up(cluster.name, "--families", families, "--nodes", "3", *words)
    pods, netns = cluster.run("node1", "node2", "node3")

    def all_reach(*nodes: str) -> None:
        for one in nodes:
            for other in nodes:
                for family in wanted:
                    assert heard(netns[one], family, pods[other][family]) == pods[one][family], (one, other, family)

    all_reach("node1", "node2", "node3")
    others = 2
    counts = (others * len(wanted), *((others * len(wanted), others) if network == "vxlan" else (0, 0)))
    assert cluster.ways("node1") == counts
    with Netlink(netns["node1"]) as kernel:
        link = kernel.link("eth0")
        assert link and link.mtu == 1500 - (underlay.facts.vxlan_overhead if network == "vxlan" else 0)
    # one from the middle leaves: nothing of it stays, and the others do not notice
    left = lab.twinstack("node", "remove", "--name", cluster.name, "node2")
    assert left.stdout.startswith("node2 has left"), left.stderr
    until(lambda: cluster.ways("node1") == tuple(count // 2 for count in counts) == cluster.ways("node3"))
    all_reach("node1", "node3")
    for path in (cluster.netns("node2"), f"/run/twinstack/{cluster.name}/node2", lab.home / "state" / "twinstack" / cluster.name / "nodes" / "node2"):
        assert not os.path.exists(path)
    status = lab.status(cluster.name)
    assert status["healthy"]
    assert [one["name"] for one in status["nodes"]] == ["node1", "node3"]
    # and the lowest number that is free joins
    added = lab.twinstack("node", "add", "--name", cluster.name)
    assert added.stdout.startswith("node2 is ready"), added.stderr
    pods, netns = cluster.run("node2")
    until(lambda: cluster.ways("node1") == counts == cluster.ways("node3"))
    all_reach("node1", "node2", "node3")
    lab.down(cluster.name)
    assert lab.remains(cluster.name) == {}


def test_routes_of_others_are_left_alone(lab: Any) -> None:
    """Ours are known by their protocol number: what somebody else has put there stays."""
    name = lab.name("routes")
    lab.up(name, "--nodes", "2")
    node = f"/run/netns/twinstack-{name}-node1"
    foreign = [("ip", "-4", "route", "add", "192.0.2.0/24", "via", "172.30.0.12"), ("ip", "-6", "route", "add", "2001:db8:9::/64", "dev", "eth0")]
    with namespaces.entered(node):
        for command in foreign:
            subprocess.run(command, check=True)
    assert lab.twinstack("node", "remove", "--name", name, "node2").returncode == 0
    with Netlink(node) as kernel:
        until(lambda: kernel.routes() == [])
    with namespaces.entered(node):
        for command in foreign:
            shown = subprocess.run([*command[:3], "show", command[4]], capture_output=True, text=True, check=True).stdout
            assert command[4] in shown and f"proto {ROUTE_PROTOCOL}" not in shown
    lab.down(name)
    assert lab.remains(name) == {}


def test_the_last_node_and_one_that_is_none_cannot_leave(lab: Any) -> None:
    name = lab.name("few")
    lab.up(name, "--nodes", "2")
    assert "there are: node1, node2" in lab.twinstack("node", "remove", "--name", name, "node7").stderr
    assert lab.twinstack("node", "remove", "--name", name, "node1").returncode == 0
    assert "only node" in lab.twinstack("node", "remove", "--name", name, "node2").stderr
    assert [one["name"] for one in lab.status(name)["nodes"]] == ["node2"]
    lab.down(name)
    assert lab.remains(name) == {}


def test_of_a_node_whose_joining_is_given_up_nothing_is_left(lab: Any) -> None:
    """Given up at several moments, before the node is registered and after; when it is ready first, it has joined."""
    name = lab.name("join")
    lab.up(name, "--nodes", "1")
    command = [sys.executable, "-m", "twinstack.cli.main", "node", "add", "--name", name, "--wait", "60"]
    given_up = 0
    for seconds in (0.3, 0.6, 0.9, 1.2):
        joining = subprocess.Popen(command, env=lab.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            joining.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            joining.send_signal(signal.SIGINT)
        _, said = joining.communicate(timeout=60)
        if joining.returncode == 0:
            assert lab.twinstack("node", "remove", "--name", name, "node2").returncode == 0
        else:
            assert joining.returncode == 130 and said.endswith("interrupted\n"), said
            given_up += 1
        assert [node["metadata"]["name"] for node in lab.kubectl(name, "get", "nodes")["items"]] == ["node1"]
        assert not [one for one in lab.status(name)["components"] if one["name"].startswith("node2/")]
    assert given_up
    assert lab.twinstack("node", "add", "--name", name).returncode == 0
    lab.down(name)
    assert lab.remains(name) == {}
