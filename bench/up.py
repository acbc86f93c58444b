"""From nothing to the first reply through a dual-stack Service in both families, and what each phase took.

A cluster of three nodes is brought up by the command line; then a Deployment and a Service are created, and a client on
another node knocks at both cluster IPs until both answer. The baseline is what Python needs to import the programs,
which nothing can be faster than.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

from bench.results import Result
from twinstack.api.kinds import Deployment, Service
from twinstack.api.resources import resource_of
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family

TARGET_SECONDS = 2.0
_SERVER = """
import os, socket
listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
while True:
    connection, _ = listener.accept()
    connection.recv(1000)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nhello")
    connection.close()
"""


def _deployment() -> dict[str, Any]:
    container = {
        "name": "web",
        "image": "twinstack.dev/host:latest",
        "command": [os.path.realpath(sys.executable), "-IS", "-c", _SERVER],
        "ports": [{"containerPort": 8080}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
        },
    }


def _service() -> dict[str, Any]:
    spec = {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": spec}


def _twinstack(environment: dict[str, str], *words: str) -> str:
    return subprocess.run([sys.executable, "-m", "twinstack.cli.main", *words], env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


async def _addresses(environment: dict[str, str]) -> list[str]:
    async with Client(kubeconfig.load(environment["KUBECONFIG"]), user_agent="bench") as client:
        await client.create(resource_of(Deployment), _deployment(), namespace="default")
        service = await client.create(resource_of(Service), _service(), namespace="default")
    addresses: list[str] = service["spec"]["clusterIPs"]
    return addresses


def _knock(netns: str, address: str, deadline: float) -> float:
    """Seconds, monotonic, at which the address first answered."""
    family = Family.of(parse_address(address)).facts.socket_family
    while time.monotonic() < deadline:
        with namespaces.socket_in(netns, family, 1) as client:
            client.settimeout(0.2)
            try:
                client.connect((address, 80))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if client.recv(100):
                    return time.monotonic()
            except OSError:
                time.sleep(0.005)
    raise TimeoutError(f"{address} did not answer")


def _once(number: int) -> dict[str, float]:
    name = f"tst-bench-{os.getpid()}-{number}"
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "KUBECONFIG": f"{home}/kubeconfig"}
        began = time.monotonic()
        try:
            told = json.loads(_twinstack(environment, "up", "--name", name, "-o", "json"))
            up = time.monotonic()
            addresses = asyncio.run(_addresses(environment))
            created = time.monotonic()
            replies = [_knock(f"/run/netns/twinstack-{name}-node1", address, created + 30) for address in addresses]
            return {
                **told["steps"],
                "up, as a whole": up - began,
                "create a Deployment and a Service": created - up,
                "first replies after that": max(replies) - created,
                "total": max(replies) - began,
            }
        finally:
            _twinstack(environment, "down", "--name", name)


def _imports() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "from twinstack.lab import programs; programs.import_everything()"], check=True)
    return time.monotonic() - began


def run(scale: float) -> list[Result]:
    """The median of some runs, phase by phase."""
    rounds = max(1, round(7 * scale))
    runs, imports = [], []
    for number in range(rounds):
        imports.append(_imports())
        runs.append(_once(number))
    total = median(one["total"] for one in runs)
    phases = {phase: round(median(one.get(phase, 0.0) for one in runs), 4) for phase in runs[0] if phase != "total"}
    return [
        Result(
            bench="up",
            name="three dual-stack nodes, first reply in both families",
            value=total,
            unit="s",
            baseline="importing the programs",
            baseline_value=median(imports),
            target=TARGET_SECONDS,
            detail={**phases, "rounds": float(rounds)},
        )
    ]
