"""Each example is applied to a cluster by kubectl, and does what it says."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import namespaces
from twinstack.lab.topology import Request, Topology, plan
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.family import FAMILIES, Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"
V4, V6 = FAMILIES


class Cluster:
    """A cluster whose fabric speaks BGP, with the examples of the demo."""

    def __init__(self, lab: Any, name: str) -> None:
        self.lab, self.name = lab, name
        lab.up(name, "--announce", "bgp")
        self.prefixes = [str(_topology(each).underlay[V6].network_address).removesuffix("::") for each in ("twinstack", name)]
        self.apply("")

    def kubectl(self, *words: str, given: str | None = None) -> str:
        command = ["kubectl", "--context", f"twinstack-{self.name}", *words]
        done = subprocess.run(command, env=self.lab.environment, input=given, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, folder: str, *files: str) -> None:
        """Apply a folder's files as they are, but for the network that a cluster has by its name."""
        for path in [EXAMPLES / folder / file for file in files] or sorted((EXAMPLES / folder).glob("*.yaml")):
            self.kubectl("apply", "-f", "-", given=path.read_text().replace(*self.prefixes))

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + 40
        while not (found := holds()):
            assert time.monotonic() < deadline, f"no {what}\n{self.lab.logs(self.name)}"
            time.sleep(0.1)
        return found

    def addresses(self, name: str, count: int = 2) -> dict[Family, str]:
        """A load balancer's addresses, once there are so many."""

        def found() -> dict[Family, str]:
            ingress = self.get("service", "-n", "demo", name)["status"]["loadBalancer"].get("ingress") or []
            return {Family.of(parse_address(one["ip"])): one["ip"] for one in ingress} if len(ingress) == count else {}

        given: dict[Family, str] = self.until(found, f"{count} addresses of {name}")
        return given

    def ask(self, address: str, port: int = 80) -> dict[str, str] | None:
        """What the web server says to a client outside; None when nobody answers at once."""
        with namespaces.socket_in(
            f"/run/netns/twinstack-{self.name}-outside", Family.of(parse_address(address)).facts.socket_family, socket.SOCK_STREAM
        ) as one:
            one.settimeout(0.3)
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

    def dig(self, *words: str) -> list[str]:
        command = ["nsenter", f"--net=/run/netns/twinstack-{self.name}-node1", "dig", "+short", "@10.96.0.10", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def _topology(name: str) -> Topology:
    planned = plan(Request(name=name))
    assert isinstance(planned, Topology)
    return planned


@pytest.fixture
def cluster(lab: Any) -> Iterator[Cluster]:
    yield Cluster(lab, lab.name("ex"))


def test_every_example_does_what_it_says(cluster: Cluster) -> None:
    _demo_and_bgp(cluster)
    _load_balancers(cluster)
    _names(cluster)
    _workloads_and_readiness(cluster)
    tried = {"", "bgp", "loadbalancer", "dns", "workloads", "readiness"}
    assert {path.parent.relative_to(EXAMPLES).as_posix().replace(".", "") for path in EXAMPLES.rglob("*.yaml")} == tried, "each example is tried"


def _demo_and_bgp(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.get("deployment", "-n", "demo", "web")["status"].get("availableReplicas") == 4, "pods")
    for address in cluster.addresses("loadbalancer").values():
        cluster.until(lambda address=address: cluster.ask(address), f"answer of {address}")
    cluster.apply("bgp")
    cluster.until(lambda: cluster.addresses("routed")[V4] in map(str, parse_cidr("172.30.1.64/26")), "address of the example's own pool")
    for address in cluster.addresses("routed").values():
        cluster.until(lambda address=address: cluster.ask(address), f"answer of {address}, by way of the router")


def _load_balancers(cluster: Cluster) -> None:
    cluster.apply("loadbalancer")
    assert cluster.addresses("by-address") == {V4: "172.30.0.200", V6: "fd00:30::c5"}
    assert cluster.addresses("by-field", 1) == {V4: "172.30.0.201"}
    assert list(cluster.addresses("by-pool", 1)) == [V4]
    shared = cluster.addresses("shared-http")
    assert cluster.addresses("shared-alternate") == shared
    for port in (80, 8000):
        cluster.until(lambda port=port: cluster.ask(shared[V4], port), f"answer of port {port}")
    local = cluster.addresses("local")[V4]
    told = cluster.until(lambda: cluster.ask(local), "answer of a local one")
    assert told["client"] == "198.51.100.2"
    guarded = cluster.addresses("guarded")
    cluster.until(lambda: cluster.ask(guarded[V4]), "answer to a client of the range")
    assert "no IPv6 address is in pool named" in cluster.kubectl("get", "events", "-n", "demo")


def _names(cluster: Cluster) -> None:
    cluster.apply("dns")
    domain = "default.svc.cluster.local"
    addresses = {name: cluster.get("service", name)["spec"]["clusterIPs"] for name in ("only-ipv4", "who-is-ready")}
    cluster.until(lambda: cluster.dig(f"only-ipv4.{domain}", "A") == addresses["only-ipv4"][:1], "name")
    assert cluster.dig(f"only-ipv4.{domain}", "AAAA") == []
    cluster.until(lambda: cluster.dig(f"who-is-ready.{domain}", "AAAA") == addresses["who-is-ready"][1:], "name")
    cluster.until(lambda: cluster.dig(f"who-is-ready.{domain}", "A") == [], "end of the family in which nobody is ready")
    assert cluster.dig(f"abroad.{domain}", "CNAME") == ["www.example.com."]
    cluster.until(lambda: cluster.get("job", "-n", "names", "asks")["status"].get("succeeded") == 1, "end of the pod that looks names up")
    told = cluster.kubectl("logs", "-n", "names", "-l", "app=asks", "--tail=-1")
    (pod,) = cluster.get("pods", "-n", "names", "-l", "app=members")["items"]
    member = sorted(one["ip"] for one in pod["status"]["podIPs"])
    web = sorted(cluster.get("service", "-n", "names", "web")["spec"]["clusterIPs"])
    for name, wanted in (("web", web), ("alias", web), ("members", member), ("members-0.members", member)):
        line = next(line for line in told.splitlines() if line.startswith(f"{name}:"))
        assert sorted(line.split()[1:]) == wanted, told
    assert "members-0.members.names.svc.cluster.local" in told and '"1.1.0"' in told


def _workloads_and_readiness(cluster: Cluster) -> None:
    cluster.apply("workloads")
    cluster.apply("readiness")
    cluster.until(lambda: cluster.get("statefulset", "db")["status"].get("readyReplicas") == 3, "StatefulSet")
    cluster.until(lambda: cluster.get("daemonset", "everywhere")["status"].get("numberReady") == 3, "DaemonSet")
    cluster.until(lambda: cluster.get("job", "sum")["status"].get("succeeded") == 3, "Job")
    cluster.until(lambda: cluster.get("job", "numbered")["status"].get("completedIndexes") == "0-2", "Indexed Job")
    cluster.until(lambda: cluster.get("deployment", "important")["status"].get("availableReplicas") == 3, "Deployment of a PriorityClass")
    important = [pod["spec"] for pod in cluster.get("pods", "-l", "app=important")["items"]]
    assert len({spec["nodeName"] for spec in important}) == 3 and {spec["priority"] for spec in important} == {1000}
    assert cluster.get("cronjob", "tick")["spec"]["timeZone"] == "Etc/UTC"
    cluster.until(lambda: cluster.get("deployment", "half")["status"].get("availableReplicas") == 2, "Deployment")
    cluster.until(lambda: len(cluster.dig("db-0.db.default.svc.cluster.local", "AAAA")) == 1, "name of a pod")
