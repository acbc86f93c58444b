"""Load balancers in a whole cluster: addresses of both families that answer outside, and go on when their node dies."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import namespaces
from twinstack.kernel.neighbours import NeighbourDoor, Told, mac_of
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import host_port, parse_address, parse_cidr
from twinstack.net.family import FAMILIES, Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"
_GET = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1])
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode(), end="")
"""
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "kube-system", "name": "twinstack-load-balancer"}}


def service(name: str, policy: str = "RequireDualStack", *, annotations: dict | None = None, port: int = 80, **spec: Any) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "demo", "annotations": annotations or {}},
        "spec": {
            "type": "LoadBalancer",
            "ipFamilyPolicy": policy,
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": port, "targetPort": 8080}],
            **spec,
        },
    }


class Cluster:
    """A cluster with the demo's web servers."""

    def __init__(self, lab: Any, name: str, *words: str) -> None:
        self.lab, self.name = lab, name
        lab.up(name, *words)
        for file in ("00-namespace.yaml", "10-web.yaml"):
            self.apply((EXAMPLES / file).read_text())
        self.until(lambda: self.kubectl("get", "deployment", "-n", "demo", "web").get("status", {}).get("availableReplicas") == 4, "pods")

    def kubectl(self, *words: str) -> Any:
        return self.lab.kubectl(self.name, *words)

    def apply(self, document: Any) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        command = ["kubectl", "--context", f"twinstack-{self.name}", "apply", "-f", "-"]
        done = subprocess.run(command, env=self.lab.environment, input=text, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"no {what} within {seconds} s\n{self.lab.logs(self.name)}"
            time.sleep(0.1)

    def addresses(self, name: str, count: int) -> dict[Family, str]:
        """The addresses of a Service, once there are so many."""

        def found() -> list[str]:
            ingress = self.kubectl("get", "service", "-n", "demo", name)["status"]["loadBalancer"].get("ingress") or []
            assert all(one["ipMode"] == "VIP" for one in ingress)
            return [one["ip"] for one in ingress]

        self.until(lambda: len(found()) == count, f"{count} addresses of {name}")
        return {Family.of(parse_address(text)): text for text in found()}

    def ask(self, address: str, port: int = 80) -> dict[str, str] | None:
        """What the web server says to a client outside; None when nobody answers at once."""
        family = Family.of(parse_address(address))
        with namespaces.socket_in(f"/run/netns/twinstack-{self.name}-outside", family.facts.socket_family, socket.SOCK_STREAM) as one:
            one.settimeout(0.2)
            try:
                one.connect((address, port))
                one.sendall(b"GET / HTTP/1.1\r\n\r\n")
                data = b""
                while part := one.recv(4096):
                    data += part
            except OSError:
                return None
        answer: dict[str, str] = json.loads(data.partition(b"\r\n\r\n")[2])
        return answer

    def answerers(self, text: str) -> set[bytes]:
        """The link-layer addresses that say that they have an address when the fabric asks anew."""
        address, netns = parse_address(text), f"/run/netns/twinstack-{self.name}-fabric"
        with Netlink(netns) as kernel:
            link = kernel.link("ts0")
        assert link is not None
        door = NeighbourDoor("ts0", link.number, mac_of(link.mac), netns)
        try:
            subprocess.run(["nsenter", f"--net={netns}", "ip", "neigh", "flush", "to", text], check=True, capture_output=True)
            self.ask(text)
            found: set[bytes] = set()
            deadline = time.monotonic() + 1.0
            while (left := deadline - time.monotonic()) > 0:
                for one in select.select(door.sockets(), [], [], left)[0]:
                    found |= {word.mac for word in door.receive(one) if isinstance(word, Told) and word.target == address}
            return found
        finally:
            door.close()

    def served(self, role: str, url: str) -> str:
        """The status and body of an HTTP answer, asked for on a machine of the lab."""
        command = ["nsenter", f"--net=/run/netns/twinstack-{self.name}-{role}", sys.executable, "-c", _GET, url]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def log(self, node: str) -> str:
        """What the load balancer of a node has said."""
        return (self.lab.home / "state" / "twinstack" / self.name / "logs" / node / "load-balancer.log").read_text()

    def answered(self, address: str, port: int = 80) -> dict[str, str]:
        answers: list[dict[str, str] | None] = [None]

        def asked() -> bool:
            answers[0] = self.ask(address, port)
            return answers[0] is not None

        self.until(asked, f"answer of {address}", 10.0)
        assert answers[0] is not None
        return answers[0]


def test_both_addresses_answer_outside_and_another_node_takes_them_when_theirs_dies(lab: Any) -> None:
    cluster = Cluster(lab, lab.name("lb"))
    cluster.apply(service("local", externalTrafficPolicy="Local"))
    cluster.apply(service("lone", "SingleStack", port=81))
    addresses = cluster.addresses("local", 2)
    (lone,) = cluster.addresses("lone", 1).values()
    owners = {}
    for family, address in addresses.items():
        told = cluster.answered(address)
        owners[family] = told["node"]
        client = parse_address(told["client"])
        with Netlink(f"/run/netns/twinstack-{cluster.name}-outside") as kernel:
            own = {one.address for one in kernel.addresses()}
        assert client in own, "externalTrafficPolicy Local keeps the client's address"
    assert cluster.answered(lone, 81)
    for address in (*addresses.values(), lone):
        assert len(cluster.answerers(address)) == 1, "exactly one node answers"
    port = cluster.kubectl("get", "service", "-n", "demo", "local")["spec"]["healthCheckNodePort"]
    places = {pod["spec"]["nodeName"] for pod in cluster.kubectl("get", "pods", "-n", "demo", "-l", "app=web")["items"]}
    for node in cluster.kubectl("get", "nodes")["items"]:
        for address in (one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"):
            said = cluster.served("outside", f"http://{host_port(address, port)}/healthz")
            assert said.startswith("200" if node["metadata"]["name"] in places else "503"), (address, said)

    family = FAMILIES[1]
    with Netlink(f"/run/netns/twinstack-{cluster.name}-fabric") as kernel:
        kernel.change_link(f"ts{owners[family]}", up=False)
        kernel.commit()
    began = time.monotonic()
    told = cluster.answered(addresses[family])
    assert time.monotonic() - began < 10.0 and told["node"] != owners[family]
    cluster.answered(addresses[family.other])
    with Netlink(f"/run/netns/twinstack-{cluster.name}-fabric") as kernel:
        kernel.change_link(f"ts{owners[family]}", up=True)
        kernel.commit()
    cluster.until(lambda: (cluster.ask(addresses[family]) or {}).get("node") == owners[family], "way back")

    # a node that is cut off from the API server alone cannot know that another has taken its place, until it hears it
    netns = f"--net=/run/netns/twinstack-{cluster.name}-{owners[family]}"
    cut = "table inet tst-cut { chain output { type filter hook output priority 0; tcp dport 6443 drop; }; }"
    subprocess.run(["nsenter", netns, "nft", "-f", "-"], input=cut, text=True, check=True)
    cluster.until(lambda: (cluster.ask(addresses[family]) or {}).get("node", owners[family]) != owners[family], "other owner")
    cluster.until(lambda: "it is theirs" in cluster.log(owners[family]), "silence of the node that is cut off")
    subprocess.run(["nsenter", netns, "nft", "delete", "table", "inet", "tst-cut"], check=True)
    cluster.until(lambda: (cluster.ask(addresses[family]) or {}).get("node") == owners[family], "way back")

    # while the API server is away everybody looks dead to everybody, and nobody takes anything
    moves = [cluster.log(node).count("Answering for") for node in ("node1", "node2", "node3")]
    pid = lab.pid_of(cluster.name, "kube-apiserver")
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(3.0)  # more than a lease
        assert cluster.answered(addresses[family])["node"] == owners[family]
    finally:
        os.kill(pid, signal.SIGCONT)
    time.sleep(1.0)
    assert moves == [cluster.log(node).count("Answering for") for node in ("node1", "node2", "node3")]

    # a Service of one family becomes one of both, and goes back
    cluster.kubectl("patch", "service", "-n", "demo", "lone", "-p", '{"spec": {"ipFamilyPolicy": "PreferDualStack"}}')
    for address in cluster.addresses("lone", 2).values():
        assert cluster.answered(address, 81)
    cluster.kubectl("patch", "service", "-n", "demo", "lone", "-p", '{"spec": {"ipFamilyPolicy": "SingleStack"}}')
    assert list(cluster.addresses("lone", 1).values()) == [lone]
    lab.down(cluster.name)
    assert lab.remains(cluster.name) == {}


@pytest.mark.parametrize("families", [FAMILIES[:1], FAMILIES[1:], FAMILIES[::-1]], ids=lambda families: ",".join(map(str, families)))
def test_in_a_cluster_of_other_families_each_address_answers_outside_from_one_node(lab: Any, families: tuple[Family, ...]) -> None:
    cluster = Cluster(lab, lab.name("lbf"), "--families", ",".join(map(str, families)), "--nodes", "2")
    cluster.apply(service("web", "PreferDualStack"))
    addresses = cluster.addresses("web", len(families))
    assert list(addresses) == list(families), "the primary family first"
    for address in addresses.values():
        assert cluster.answered(address) and len(cluster.answerers(address)) == 1
    told = [one["reason"] for one in cluster.kubectl("get", "events", "-n", "demo")["items"] if one["involvedObject"]["name"] == "web"]
    assert {"EnsuringLoadBalancer", "EnsuredLoadBalancer"} <= set(told) and "SyncLoadBalancerFailed" not in told


def test_pools_of_a_config_map_are_waited_for_topped_up_and_shared(lab: Any) -> None:
    cluster = Cluster(lab, lab.name("pool"))
    networks = dict(zip(FAMILIES, ("172.30.0.240/30", "fd00:30::f0/126"), strict=True))

    def pools(*families: Family) -> None:
        cluster.apply(CONFIG | {"data": {"config.yaml": json.dumps({"pools": [{"name": "p", "addresses": [networks[family] for family in families]}]})}})

    pools(FAMILIES[1])
    key = {"twinstack.dev/load-balancer-sharing-key": "k"}
    cluster.apply(service("prefer", "PreferDualStack", annotations=key))
    assert list(cluster.addresses("prefer", 1)) == [FAMILIES[1]]
    cluster.apply(service("require"))
    told = f"no {FAMILIES[0]} address is in pool p"
    cluster.until(lambda: any(told in one["message"] for one in cluster.kubectl("get", "events", "-n", "demo")["items"]), "event that names the empty pool")
    cluster.addresses("require", 0)
    pools(*FAMILIES)
    both = cluster.addresses("prefer", 2)
    assert both.keys() == set(FAMILIES) and cluster.answered(both[FAMILIES[0]])
    assert not set(cluster.addresses("require", 2).values()) & set(both.values())
    cluster.apply(service("shares", "PreferDualStack", annotations=key, port=81))
    assert cluster.addresses("shares", 2) == both
    assert cluster.answered(both[FAMILIES[0]], 80) and cluster.answered(both[FAMILIES[0]], 81)
    cluster.apply(service("ranges", loadBalancerSourceRanges=["203.0.113.0/24", "2001:db8:ffff::/64"]))
    refused = cluster.addresses("ranges", 2)
    assert cluster.ask(refused[FAMILIES[0]]) is None, "the client is not of these networks"
    words = ["kubectl", "--context", f"twinstack-{cluster.name}", "delete", "service", "-n", "demo", "prefer", "--timeout=10s"]
    assert subprocess.run(words, env=lab.environment, capture_output=True, check=False, timeout=30).returncode == 0, "the finalizer goes"

    def served(path: str) -> str:
        return cluster.served("node1", f"http://127.0.0.1:10261{path}")

    assert served("/readyz") == "200 ok" and served("/livez") == "200 ok"
    assert f'pool_addresses_in_use{{family="{FAMILIES[0]}",pool="p"}} 3.0' in served("/metrics")
    cluster.apply(CONFIG | {"data": {"config.yaml": "pools: 3"}})
    cluster.until(lambda: served("/readyz").startswith("500") and "is refused" in served("/readyz"), "word of a ConfigMap that is none")
    assert cluster.addresses("shares", 2) == both, "what is refused changes nothing"

    # without the ConfigMap the pools are those of the file again, and what the file says is followed
    words = ["kubectl", "--context", f"twinstack-{cluster.name}", "delete", "configmap", "-n", "kube-system", "twinstack-load-balancer"]
    subprocess.run(words, env=lab.environment, capture_output=True, check=True, timeout=30)
    cluster.until(lambda: not set(cluster.addresses("shares", 2).values()) & set(both.values()), "addresses of the file's pool")
    file = lab.home / "state" / "twinstack" / cluster.name / "load-balancer.yaml"
    file.write_text(f"pools: [{{name: other, addresses: ['{networks[FAMILIES[0]]}']}}]")
    ((family, address),) = cluster.addresses("shares", 1).items()
    assert family is FAMILIES[0] and parse_address(address) in parse_cidr(networks[family]) and cluster.answered(address, 81)
    cluster.until(
        lambda: any("given up" in one["message"] for one in cluster.kubectl("get", "events", "-n", "demo")["items"]), "event that tells what was given up"
    )
