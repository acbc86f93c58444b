"""Load balancers' addresses by BGP in whole clusters of all four family orders: the fabric's real BIRD hears of them, and a client outside is served."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import bird, namespaces, processes
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"
NODES = ("node1", "node2", "node3")


class Cluster:
    """A cluster whose fabric speaks BGP, with the demo's web servers."""

    def __init__(self, lab: Any, name: str, families: tuple[Family, ...]) -> None:
        self.lab, self.name, self.families = lab, name, families
        self.made = lab.up(name, "--announce", "bgp", "--families", ",".join(map(str, families)))
        for file in ("00-namespace.yaml", "10-web.yaml"):
            self.apply((EXAMPLES / file).read_text())
        self.until(lambda: self.kubectl("get", "deployment", "-n", "demo", "web").get("status", {}).get("availableReplicas") == 4, "pods")

    def kubectl(self, *words: str) -> Any:
        return self.lab.kubectl(self.name, *words)

    def plain(self, *words: str) -> str:
        command = ["kubectl", "--context", f"twinstack-{self.name}", *words]
        done = subprocess.run(command, env=self.lab.environment, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, document: Any) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        command = ["kubectl", "--context", f"twinstack-{self.name}", "apply", "-f", "-"]
        done = subprocess.run(command, env=self.lab.environment, input=text, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 30.0) -> float:
        began = time.monotonic()
        while not holds():
            assert time.monotonic() < began + seconds, f"no {what} within {seconds} s\n{self.lab.logs(self.name)}"
            time.sleep(0.05)
        return time.monotonic() - began

    def service(self, name: str, **spec: Any) -> dict[Family, str]:
        """A Service, and its addresses once it has one of each family of the cluster."""
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        spec = {"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"}, "ports": ports, **spec}
        self.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "demo"}, "spec": spec})
        found: dict[Family, str] = {}

        def all_there() -> bool:
            ingress = self.kubectl("get", "service", "-n", "demo", name)["status"]["loadBalancer"].get("ingress") or []
            found.update({Family.of(parse_address(one["ip"])): one["ip"] for one in ingress})
            return len(found) == len(self.families)

        self.until(all_there, f"addresses of {name}")
        return found

    def ways(self, address: str) -> set[str]:
        """The nodes that the fabric's kernel sends the packets for an address to."""
        family = Family.of(parse_address(address))
        command = ["nsenter", f"--net={self.netns('fabric')}", "ip", "-o", f"-{family.facts.version}", "route", "show", address, "proto", "bird"]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace("\\", " ").split()
        hops = {words[i + 1] for i, word in enumerate(words) if word == "via"}
        return {node["name"] for node in self.made["nodes"] if hops & set(node["addresses"])}

    def netns(self, role: str) -> str:
        return f"/run/netns/twinstack-{self.name}-{role}"

    def ask(self, address: str) -> dict[str, str] | None:
        """What the web server says to a client outside; None when nobody answers at once."""
        family = Family.of(parse_address(address))
        with namespaces.socket_in(self.netns("outside"), family.facts.socket_family, socket.SOCK_STREAM) as one:
            one.settimeout(1.5)
            try:
                one.connect((address, 80))
                one.sendall(b"GET / HTTP/1.1\r\n\r\n")
                data = b""
                while part := one.recv(4096):
                    data += part
            except OSError:
                return None
        answer: dict[str, str] = json.loads(data.partition(b"\r\n\r\n")[2])
        return answer

    def said(self, role: str, *words: str) -> str:
        """What the BIRD of a node, or of the fabric, says when asked; nothing while there is none."""
        pids = [pid for pid in self.birds() if (processes.variable(pid, bird.MARK) or "").endswith(f"/{role}/bird")]
        if len(pids) != 1:
            return ""
        directory = Path(processes.variable(pids[0], bird.MARK) or "")
        command = ["birdc", "-s", str(directory / "bird.ctl"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout

    def sessions(self, node: str) -> int:
        """How many of a node's sessions are up that may be restarted."""
        return sum("Established" in part and "Restart time: 60" in part for part in self.said(node, "show", "protocols", "all").split("\n\n"))

    def watched(self) -> int:
        """How many ends the router would miss within a second: their BFD sessions are up, which takes some seconds (RFC 5880 6.8.3)."""
        return sum("Up" in line.split() for line in self.said("fabric", "show", "bfd", "sessions").splitlines())

    def birds(self) -> list[int]:
        return [pid for pid in processes.marked(bird.MARK) if processes.variable(pid, "TWINSTACK_CLUSTER") == self.name]


@pytest.mark.parametrize("families", [FAMILIES[:1], FAMILIES[1:], FAMILIES, FAMILIES[::-1]], ids=lambda families: ",".join(map(str, families)))
def test_the_router_hears_of_addresses_from_the_nodes_that_take_their_traffic(lab: Any, families: tuple[Family, ...]) -> None:
    cluster = Cluster(lab, lab.name("bgp"), families)
    lone = {"app": "web", "lone": "yes"}
    everywhere = cluster.service("everywhere", selector=lone)
    local = cluster.service("local", externalTrafficPolicy="Local", selector=lone)
    for family in families:
        cluster.until(lambda family=family: cluster.ways(everywhere[family]) == set(NODES), f"all ways of {family}")
        assert cluster.ways(local[family]) == set(), "where nobody is ready, nobody says anything"
    pod = cluster.kubectl("get", "pods", "-n", "demo", "-l", "app=web")["items"][0]
    cluster.plain("label", "pod", "-n", "demo", pod["metadata"]["name"], "lone=yes")
    with Netlink(cluster.netns("outside")) as kernel:
        own = {str(one.address) for one in kernel.addresses()}
    for family in families:
        cluster.until(lambda family=family: cluster.ways(local[family]) == {pod["spec"]["nodeName"]}, f"the one way of {family}")
        for address in (everywhere[family], local[family]):
            cluster.until(lambda address=address: cluster.ask(address) is not None, f"answer of {address}")
        told = cluster.ask(local[family])
        assert told is not None and told["client"] in own, "externalTrafficPolicy Local keeps the client's address"
    if len(families) == 2 and families[0] is FAMILIES[1]:
        _drain_fail_and_come_back(cluster, everywhere, pod["spec"]["nodeName"])
    cluster.plain("delete", "service", "-n", "demo", "everywhere", "local")
    for family in families:
        cluster.until(lambda family=family: not cluster.ways(everywhere[family]) and not cluster.ways(local[family]), f"routes of {family} taken back")
    assert len(cluster.birds()) == len(NODES) + 1, "one for each node, and the router"
    lab.down(cluster.name)
    assert lab.remains(cluster.name) == {} and cluster.birds() == []


def _drain_fail_and_come_back(cluster: Cluster, addresses: dict[Family, str], home: str) -> None:
    """The only pod is on *home*, which lives on; the others only pass traffic on."""
    first, second = (node for node in NODES if node != home)

    def all_are(nodes: set[str]) -> bool:
        return all(cluster.ways(address) == nodes for address in addresses.values())

    cluster.plain("cordon", first)
    cluster.until(lambda: all_are({home, second}), "a cordoned node takes its routes back")
    cluster.plain("uncordon", first)
    cluster.until(lambda: all_are(set(NODES)), "way back")

    cluster.until(lambda: cluster.watched() == len(NODES) * len(addresses), "BFD sessions")
    with Netlink(cluster.netns("fabric")) as kernel:
        kernel.change_link(f"ts{second}", up=False)
        kernel.commit()
    seconds = cluster.until(lambda: all_are({home, first}), "a node without a wire is forgotten")
    assert seconds < 5.0, "long before the hold time"
    for address in addresses.values():
        assert all(cluster.ask(address) is not None for _ in range(5)), "each connection finds a living way"
    with Netlink(cluster.netns("fabric")) as kernel:
        kernel.change_link(f"ts{second}", up=True)
        kernel.commit()
    cluster.until(lambda: all_are(set(NODES)), "way back")

    pid = next(pid for pid in cluster.birds() if (processes.variable(pid, bird.MARK) or "").endswith(f"/{first}/bird"))
    os.kill(pid, signal.SIGKILL)
    cluster.until(lambda: pid not in cluster.birds() and len(cluster.birds()) == len(NODES) + 1, "another bird in its place")
    cluster.until(lambda: all_are(set(NODES)), "way back")

    # where both ends agree, a restart of the load balancer moves nothing
    file = cluster.lab.home / "state" / "twinstack" / cluster.name / "load-balancer.yaml"
    text = file.read_text().replace("bfd: true", "bfd: false").replace("gracefulRestartSeconds: 0", "gracefulRestartSeconds: 60")
    metadata = {"namespace": "kube-system", "name": "twinstack-load-balancer"}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.yaml": text}})
    cluster.until(lambda: all(cluster.sessions(node) == 2 for node in NODES) and all_are(set(NODES)), "sessions that may be restarted")
    done = cluster.lab.twinstack("restart", "--name", cluster.name, f"{first}/load-balancer")
    assert done.returncode == 0, done.stderr

    def is_back() -> bool:
        assert all_are(set(NODES)), "nothing moves"
        return cluster.sessions(first) == 2

    cluster.until(is_back, "sessions of the restarted one")


def test_another_way_of_announcing_is_refused_with_those_that_there_are(lab: Any) -> None:
    done = lab.twinstack("up", "--name", lab.name("way"), "--announce", "ospf")
    assert done.returncode == 1 and '--announce: "ospf": is one of l2' in done.stderr and lab.remains(lab.made[-1]) == {}


def test_without_bird_a_cluster_that_needs_it_is_refused_with_the_package(lab: Any, tmp_path: Path) -> None:
    script = "from twinstack.kernel import bird; bird._DIRECTORIES = ''; from twinstack.cli.main import main; main()"
    command = [sys.executable, "-c", script, "up", "--name", lab.name("nob"), "--announce", "bgp"]
    done = subprocess.run(command, env={**lab.environment, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "--announce bgp needs bird" in done.stderr and "bird2" in done.stderr
    assert lab.remains(lab.made[-1]) == {}
