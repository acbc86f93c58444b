"""What an image adds to a pod's start, and what the way between nodes costs.

A pod from an image and one from the host's file system take turns on one node. Throughput is measured between namespaces
of two nodes of a cluster, by a stream of TCP for each way in turn: a bare wire of the same kind (two namespaces on the
fabric's bridge), pods with direct routes, pods in a tunnel over either family.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.results import Result, percentile
from twinstack.api.kinds import Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

PODS = resource_of(Pod)
IMAGE = "twinstack.local/bench:1"
IMAGE_MILLISECONDS, DIRECT_SHARE, TUNNEL_SHARE = 80.0, 0.95, 0.8
PORT, BLOCK, SECONDS = 9100, 1 << 18, 0.6


def _archive(place: str) -> str:
    """A Docker archive of this machine's busybox, which is static on Debian (busybox-static)."""

    def tarred(files: dict[str, bytes]) -> bytes:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                tar.addfile(member, io.BytesIO(content))
        return data.getvalue()

    layer = tarred({"bin/sleep": Path("/bin/busybox").read_bytes()})
    config = {"config": {"Cmd": ["/bin/sleep", "100000"]}, "rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}}
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    path = os.path.join(place, "image.tar")
    Path(path).write_bytes(tarred({"layer.tar": layer, "config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}))
    return path


class Lab:
    """A cluster that is brought up by the command line."""

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.environment = {**os.environ, "XDG_STATE_HOME": f"{place}/state", "KUBECONFIG": f"{place}/{name}.conf"}

    def twinstack(self, *words: str) -> None:
        subprocess.run([sys.executable, "-m", "twinstack.cli.main", *words, "--name", self.name], env=self.environment, check=True, stdout=subprocess.DEVNULL)


def _pod(name: str, node: str, image: str) -> dict[str, Any]:
    container = {"name": "c", "image": image, "command": ["/bin/sleep", "100000"]}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def _started(client: Client, names: list[tuple[str, str, str]]) -> dict[str, tuple[float, Pod]]:
    """Create pods one after the other; the seconds that each took to run with both addresses, and the pod."""
    running: dict[str, asyncio.Future[Pod]] = {}

    def changed(before: Pod | None, after: Pod | None) -> None:
        if after is not None and after.status.phase == "Running" and len(after.status.podIPs or ()) == 2:
            future = running.get(after.metadata.name)
            if future is not None and not future.done():
                future.set_result(after)

    took: dict[str, tuple[float, Pod]] = {}
    async with asyncio.TaskGroup() as tasks:
        informer = Informer(client, Pod, namespace="default")
        informer.subscribe(changed)
        watching = tasks.create_task(informer.run())
        await informer.synced()
        for name, node, image in names:
            running[name] = asyncio.get_running_loop().create_future()
            began = time.perf_counter()
            await client.create(PODS, _pod(name, node, image))
            pod = await running[name]
            took[name] = time.perf_counter() - began, pod
            await asyncio.sleep(0.05)
        watching.cancel()
    return took


async def _images(lab: Lab, rounds: int) -> list[Result]:
    async with Client(kubeconfig.load(lab.environment["KUBECONFIG"]), user_agent="bench") as client:
        names = [(f"{kind}-{number}", "node1", image) for number in range(rounds + 2) for kind, image in (("host", "twinstack.dev/host"), ("image", IMAGE))]
        took = await _started(client, names)
        for name in took:
            await client.delete(PODS, Key("default", name))
    seconds = {kind: [one for name, (one, _) in took.items() if name.startswith(kind) and int(name.partition("-")[2]) >= 2] for kind in ("host", "image")}
    more = 1000 * (median(seconds["image"]) - median(seconds["host"]))
    detail = {"from an image, ms": 1000 * median(seconds["image"]), "from the host, ms": 1000 * median(seconds["host"])}
    detail["from an image, p95"] = 1000 * percentile(seconds["image"], 0.95)
    return [Result(bench="pods", name="what an image adds to a pod's start", value=more, unit="ms", target=IMAGE_MILLISECONDS, detail=detail)]


def _stream(server: str, client: str, family: Family, address: str) -> float:
    """Gigabits a second of one TCP stream between two namespaces."""
    with namespaces.socket_in(server, family.facts.socket_family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(1)
        pid = os.fork()
        if pid == 0:
            try:
                connection, _ = listener.accept()
                block = bytes(BLOCK)
                while True:
                    connection.sendall(block)
            finally:
                os._exit(0)
        try:
            with namespaces.socket_in(client, family.facts.socket_family, socket.SOCK_STREAM) as reader:
                reader.connect((address, PORT))
                buffer = bytearray(BLOCK)
                reader.recv_into(buffer)
                got, began = 0, time.perf_counter()
                while (now := time.perf_counter()) - began < SECONDS:
                    got += reader.recv_into(buffer)
                return 8 * got / (now - began) / 1e9
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


Way = Callable[[Family], float]


def _ways(lab: Lab) -> Way:
    """The way from a pod of one node to a pod of the other."""

    async def pods() -> dict[str, tuple[float, Pod]]:
        async with Client(kubeconfig.load(lab.environment["KUBECONFIG"]), user_agent="bench") as client:
            return await _started(client, [(f"way-{node}", node, "twinstack.dev/host") for node in ("node1", "node2")])

    made = {name: pod for name, (_, pod) in asyncio.run(pods()).items()}
    paths = {name: f"/run/twinstack/{lab.name}/{pod.spec.nodeName}/netns/{pod.metadata.uid}" for name, pod in made.items()}
    addresses = {Family.of(parse_address(one.ip)): one.ip for one in made["way-node2"].status.podIPs or ()}
    return lambda family: _stream(paths["way-node2"], paths["way-node1"], family, addresses[family])


def _bare(lab: Lab) -> Way:
    """The way from a node to another by its own address: one wire, one bridge, one wire."""
    from twinstack.lab.topology import Request, Topology, plan

    topology = plan(Request(lab.name, nodes=2))
    assert isinstance(topology, Topology)
    addresses = topology.nodes[1].addresses
    paths = [f"/run/netns/twinstack-{lab.name}-node{number}" for number in (1, 2)]
    return lambda family: _stream(paths[1], paths[0], family, str(addresses[family]))


def run(scale: float) -> list[Result]:
    """What an image adds; then each way between nodes beside a bare wire, in turns."""
    rounds = max(3, round(12 * scale))
    results: list[Result] = []
    labs: list[Lab] = []
    with tempfile.TemporaryDirectory() as place:
        try:
            ways: dict[str, Way] = {}
            for name, words in (("direct", ()), ("tunnel over IPv4", ("--vxlan-underlay", "IPv4")), ("tunnel over IPv6", ("--vxlan-underlay", "IPv6"))):
                lab = Lab(f"bench-{os.getpid()}-{len(labs)}", place)
                labs.append(lab)
                lab.twinstack("up", "--nodes", "2", *(("--network", "vxlan", *words) if words else ()))
                if name == "direct":
                    lab.twinstack("image", "load", _archive(place))
                    results += asyncio.run(_images(lab, max(5, round(20 * scale))))
                    ways["bare"] = _bare(lab)
                ways[name] = _ways(lab)
            for family in FAMILIES:
                rates: dict[str, list[float]] = {name: [] for name in ways}
                for _ in range(rounds):
                    for name, way in ways.items():
                        rates[name].append(way(family))
                for name in list(ways)[1:]:
                    share = median(rate / bare for rate, bare in zip(rates[name], rates["bare"], strict=True))
                    results.append(
                        Result(
                            bench="pods",
                            name=f"{family} between nodes, {name}",
                            value=share,
                            unit="of a bare wire",
                            better="higher",
                            target=DIRECT_SHARE if name == "direct" else TUNNEL_SHARE,
                            detail={"Gbit/s": median(rates[name]), "bare Gbit/s": median(rates["bare"])},
                        )
                    )
        finally:
            for lab in labs:
                lab.twinstack("down")
    return results
