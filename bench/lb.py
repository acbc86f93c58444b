"""How long a client outside of the cluster is without answer when the node that its packets come to dies.

A cluster of three nodes is brought up by the command line. A Service of both families has pods on two nodes, and an address
of each family whose packets come to the third; then that node's wire is cut. Clients in the lab's outside connect again
and again all the while, and the longest time between two answers is the figure. On the link the baseline is the lease that a node has:
nobody can know of its death before it ends. By BGP all nodes take packets, and the fabric is told to choose by addresses alone,
so that a client has one way and sees the whole of its failure; the baseline is the time after which BFD gives a peer up.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench.results import Result
from bench.up import _twinstack
from twinstack.api.kinds import Pod, Service
from twinstack.api.resources import resource_of
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.dataplane.bird import BFD_MILLISECONDS, BFD_MULTIPLIER
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.lb.settings import Settings
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Address, Family
from twinstack.rules.balancer_owners import owner
from twinstack.rules.balancer_pools import BGP, LINK, next_free, parse_pools
from twinstack.rules.loadbalancers import ADDRESSES

TARGET_SECONDS = 3.0
NODES = ("node1", "node2", "node3")
_VICTIM = "node3"
# each connection has a thread: one whose client's way has died must not keep the others waiting
_SERVER = """
import socket, threading
listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
def serve(connection):
    with connection:
        connection.settimeout(5)
        try:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nhello")
        except OSError:
            pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def _pod(node: str) -> dict[str, Any]:
    container = {"name": "web", "image": "twinstack.dev/host:latest", "command": [os.path.realpath(sys.executable), "-IS", "-c", _SERVER]}
    metadata = {"name": f"web-{node}", "namespace": "default", "labels": {"app": "web"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node, "containers": [container]}}


def _service(addresses: list[Address]) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "default", "annotations": {ADDRESSES: ",".join(map(str, addresses))}}
    spec = {"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def first_of(pools: str) -> list[Address]:
    """The first address of each family."""
    return [address for family in FAMILIES if (address := next_free(parse_pools(pools), family, ())) is not None]


def next_hop(fabric: str, client: str, address: Address) -> str:
    """Where the fabric sends a client's packets; empty while it knows no way."""
    version = f"-{Family.of(address).facts.version}"
    command = ["nsenter", f"--net={fabric}", "ip", version, "route", "get", str(address), "from", client, "iif", "tsoutside"]
    words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return words[words.index("via") + 1] if "via" in words else ""


def owned_by(node: str, pools: str) -> list[Address]:
    """An address of each family in these pools that a node owns while all live."""
    found = []
    for family in FAMILIES:
        skipped: list[Address] = []
        while (address := next_free(parse_pools(pools), family, skipped)) is not None and owner(address, NODES) != node:
            skipped.append(address)
        assert address is not None
        found.append(address)
    return found


async def _make(environment: dict[str, str], *documents: dict[str, Any]) -> None:
    async with Client(kubeconfig.load(environment["KUBECONFIG"]), user_agent="bench") as client:
        for document in documents:
            await client.create(resource_of({"Pod": Pod, "Service": Service}[document["kind"]]), document, namespace="default")


class Caller(threading.Thread):
    """Connects from outside again and again, and notes when it was answered."""

    def __init__(self, netns: str, address: Address) -> None:
        super().__init__(daemon=True)
        self.answers: list[float] = []
        self._netns, self._address, self._stopped = netns, address, threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            with namespaces.socket_in(self._netns, Family.of(self._address).facts.socket_family, 1) as one:
                one.settimeout(0.1)
                try:
                    one.connect((str(self._address), 80))
                    one.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    if one.recv(100):
                        self.answers.append(time.monotonic())
                except OSError:
                    pass  # what is counted is the time without answers
            time.sleep(0.005)

    def stop(self) -> None:
        self._stopped.set()
        if self.ident is not None:
            self.join()

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until so many more answers came. TimeoutError when they do not."""
        wanted, deadline = len(self.answers) + count, time.monotonic() + seconds
        while len(self.answers) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._address} is not answered")
            time.sleep(0.02)

    def longest_gap(self) -> float:
        return max(after - before for before, after in zip(self.answers, self.answers[1:], strict=False))


def _once(number: int, way: str) -> dict[Family, float]:
    name = f"tst-bench-{os.getpid()}-lb{number}"
    with tempfile.TemporaryDirectory() as home, ExitStack() as undo:
        environment = {**os.environ, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "KUBECONFIG": f"{home}/kubeconfig"}
        down = [sys.executable, "-m", "twinstack.cli.main", "down", "--name", name]
        undo.callback(subprocess.run, down, env=environment, check=True, stdout=subprocess.DEVNULL)
        made = json.loads(_twinstack(environment, "up", "--name", name, "--announce", way, "-o", "json"))
        with open(f"{home}/state/twinstack/{name}/load-balancer.yaml", encoding="utf-8") as file:
            pools = file.read()
        addresses = first_of(pools) if way == BGP else owned_by(_VICTIM, pools)
        asyncio.run(_make(environment, _service(addresses)))
        outside, fabric = (f"/run/netns/twinstack-{name}-{role}" for role in ("outside", "fabric"))
        victims = _by_addresses_alone(fabric, addresses, made) if way == BGP else {_VICTIM}
        asyncio.run(_make(environment, *(_pod(node) for node in NODES if node not in victims)))
        callers = {Family.of(address): Caller(outside, address) for address in addresses}
        for caller in callers.values():
            undo.callback(caller.stop)
        for caller in callers.values():
            caller.start()
            caller.wait_for(20, 30.0)
        time.sleep(4.0)  # the announcements of the beginning are over
        for caller in callers.values():
            caller.answers.clear()
            caller.wait_for(20, 5.0)
        with Netlink(fabric) as kernel:
            for victim in victims:
                kernel.change_link(f"ts{victim}", up=False)
            kernel.commit()
        time.sleep(0.5)
        for caller in callers.values():
            caller.wait_for(50, 15.0)
            caller.stop()
        return {family: caller.longest_gap() for family, caller in callers.items()}


def _by_addresses_alone(fabric: str, addresses: list[Address], made: dict[str, Any]) -> set[str]:
    """Let the fabric choose a way by addresses alone; the nodes that lead the clients to, one of each family."""
    with namespaces.entered(fabric):
        for family in FAMILIES:
            namespaces.write_sysctl(family.facts.multipath_hash, "0")
    clients = {Family.of(parse_address(text)): text for text in made["outside"]}
    nodes = {text: node["name"] for node in made["nodes"] for text in node["addresses"]}
    deadline = time.monotonic() + 30.0
    while True:
        found = [nodes.get(next_hop(fabric, clients[Family.of(address)], address), "") for address in addresses]
        if all(found) and all(_ways(fabric, address) == len(NODES) for address in addresses):
            return set(found)
        if time.monotonic() > deadline:
            raise TimeoutError("the fabric does not hear of the addresses from every node")
        time.sleep(0.1)


def _ways(fabric: str, address: Address) -> int:
    """How many ways the fabric knows."""
    command = ["nsenter", f"--net={fabric}", "ip", f"-{Family.of(address).facts.version}", "route", "show", str(address)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split().count("via")


def run(scale: float) -> list[Result]:
    """The longest gap of some runs, family by family, of each way of announcing."""
    detection = {LINK: ("the node's lease", Settings().lease_seconds), BGP: ("BFD's patience", BFD_MILLISECONDS * BFD_MULTIPLIER / 1000)}
    results = []
    for way, (baseline, seconds) in detection.items():
        runs = [_once(number, way) for number in range(max(1, round(5 * scale)))]
        results += [
            Result(
                bench="lb",
                name=f"longest gap outside when the node dies that takes the packets, {'by BGP' if way == BGP else 'on the link'}, {family}",
                value=max(one[family] for one in runs),
                unit="s",
                baseline=baseline,
                baseline_value=seconds,
                target=TARGET_SECONDS,
                detail={"median": median(one[family] for one in runs), "rounds": float(len(runs))},
            )
            for family in FAMILIES
        ]
    return results
