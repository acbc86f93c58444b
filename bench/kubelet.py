"""A node's pods: from a pod that is bound until it runs with both addresses, many at once, and what the node costs meanwhile.

Times are taken in a cluster of one node that is brought up by the command line. Pods are created with their node's name,
so that no scheduler is in the way, and a watch says when they run; the figure includes the API server's part of it. The
baseline of the first is creating and watching an object that nothing has to be done for.

The node agent's memory and idle processor time are those of ``twinstack kubelet`` alone, beside an API server in a
namespace of their own, with 100 pods: all that the process has resident, libraries included. A cluster's node process holds
the kubelet, kube-proxy, ip-masq-agent, the network plugin's daemon and the load balancer's speaker together, and is
forked from one that has imported the control plane, too: its resident memory is told beside its proportional one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from bench.results import Result, percentile
from twinstack.api import errors
from twinstack.api.kinds import ConfigMap, Node, Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.client import certificates, kubeconfig
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.client.kubeconfig import Entry, merge
from twinstack.cni.executable import write_executable
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

PODS, MAPS, NODES = resource_of(Pod), resource_of(ConfigMap), resource_of(Node)
NODE_IPS = {Family.IPV4: "192.0.2.10", Family.IPV6: "2001:db8::10"}
POD_SECONDS, MANY_SECONDS, MANY, NODE_MB, IDLE_SECONDS = 0.040, 8.0, 200, 60.0, 10.0
KEPT = 100
AT_ONCE = 16
LONGEST_SECONDS = 180.0
SETTLE_SECONDS = 8.0  # events are written behind everything else


def _pod(name: str) -> dict[str, Any]:
    container = {"name": "c", "image": "twinstack.dev/host", "command": ["/bin/sleep", "100000"]}
    spec = {"nodeName": "node1", "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def _twinstack(environment: dict[str, str], *words: str) -> str:
    return subprocess.run([sys.executable, "-m", "twinstack.cli.main", *words], env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


class _Watched:
    """Pods as a watch tells them: when each ran with both addresses, and when it was gone."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._permits = asyncio.Semaphore(AT_ONCE)
        self.ran: dict[str, asyncio.Future[float]] = {}
        self.gone: dict[str, asyncio.Future[float]] = {}
        self.informer = Informer(client, Pod, namespace="default")
        self.informer.subscribe(self._changed)

    def _changed(self, before: Pod | None, after: Pod | None) -> None:
        name = (after or before or Pod()).metadata.name
        if after is None:
            self._settle(self.gone, name)
        elif after.status.phase == "Running" and len(after.status.podIPs or ()) == 2:
            self._settle(self.ran, name)

    @staticmethod
    def _settle(futures: dict[str, asyncio.Future[float]], name: str) -> None:
        if name in futures and not futures[name].done():
            futures[name].set_result(time.perf_counter())

    async def create(self, name: str) -> float:
        """Seconds until the pod runs."""
        self.ran[name] = asyncio.get_running_loop().create_future()
        async with self._permits:
            began = time.perf_counter()
            await self.client.create(PODS, _pod(name))
        return await self.ran[name] - began

    async def delete(self, names: Iterable[str]) -> None:
        """Delete pods and wait until they are gone."""
        wanted = list(names)
        loop = asyncio.get_running_loop()
        self.gone |= {name: loop.create_future() for name in wanted}
        await _some_at_once(self.client.delete(PODS, Key("default", name), grace_period_seconds=0) for name in wanted)
        await asyncio.gather(*(self.gone[name] for name in wanted))


async def _some_at_once(works: Iterable[Any]) -> list[Any]:
    permits = asyncio.Semaphore(AT_ONCE)

    async def one(work: Any) -> Any:
        async with permits:
            return await work

    return await asyncio.gather(*map(one, works))


async def _trivial(client: Client) -> float:
    """Seconds from creating an object until a watch tells of it."""
    seen: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    informer = Informer(client, ConfigMap, namespace="default")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(informer.run())
        await informer.synced()
        name = f"bench-{time.monotonic_ns()}"

        def changed(before: ConfigMap | None, after: ConfigMap | None) -> None:
            if after is not None and after.metadata.name == name and not seen.done():
                seen.set_result(time.perf_counter())

        informer.subscribe(changed)
        began = time.perf_counter()
        await client.create(MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}})
        await seen
        running.cancel()
    return seen.result() - began


def _memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Rss"].split()[0]) / 1024, int(fields["Pss"].split()[0]) / 1024


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(environment: dict[str, str], node: int, scale: float) -> list[Result]:
    singles, many = max(5, round(40 * scale)), max(20, round(MANY * scale))
    async with Client(kubeconfig.load(environment["KUBECONFIG"]), user_agent="bench") as client, asyncio.TaskGroup() as tasks:
        watched = _Watched(client)
        watching = tasks.create_task(watched.informer.run())
        await watched.informer.synced()
        trivial = [await _trivial(client) for _ in range(singles)]
        for number in range(3):
            await watched.create(f"warm-{number}")
        alone = []
        for number in range(singles):
            alone.append(await watched.create(f"alone-{number}"))
            await asyncio.sleep(0.05)
        await watched.delete([f"alone-{number}" for number in range(singles)])
        began = time.perf_counter()
        await asyncio.gather(*(watched.create(f"many-{number}") for number in range(many)))
        together = time.perf_counter() - began
        half = [f"many-{number}" for number in range(many // 2)]
        began = time.perf_counter()
        await watched.delete(half)
        deleted = time.perf_counter() - began
        await asyncio.sleep(SETTLE_SECONDS)
        resident, proportional = _memory_mb(node)
        watching.cancel()
    return [
        Result(
            bench="kubelet", name="a pod from its creation until it runs with both addresses", value=1000 * median(alone), unit="ms",
            baseline="an object until a watch tells of it", baseline_value=1000 * median(trivial), target=1000 * POD_SECONDS,
            detail={"p95": 1000 * percentile(alone, 0.95), "least": 1000 * min(alone), "pods": singles},
        ),
        Result(
            bench="kubelet", name=f"{many} pods at once until all run", value=together, unit="s", target=MANY_SECONDS * many / MANY,
            detail={"milliseconds a pod": 1000 * together / many, f"{len(half)} deleted": deleted},
        ),
        Result(
            bench="kubelet", name=f"proportional memory of the process of all a node's programs at {many - len(half)} pods", value=proportional, unit="MB",
            target=NODE_MB, detail={"resident": resident},
        ),
    ]  # fmt: skip


async def _alone(folder: Path, pods: int) -> list[Result]:
    """An API server and a kubelet, each a process, in the namespace that this thread stands in."""
    with Netlink() as kernel:
        kernel.change_link("lo", up=True)
        kernel.add_link("br0", "bridge", up=True)
        for family in FAMILIES:
            kernel.add_address("br0", parse_address(NODE_IPS[family]), family.facts.node_mask_size)
        kernel.commit()
    write_executable(str(folder / "bin"))
    (folder / "tokens").write_text('bench,admin,1,"system:masters"\n')
    authority = certificates.new_authority("bench")
    served = certificates.issue(authority, common_name="kube-apiserver", addresses=[Family.IPV4.facts.loopback], server=True)
    for name, data in (("ca.crt", authority.certificate), ("tls.crt", served.certificate), ("tls.key", served.key)):
        (folder / name).write_bytes(data)
    merge(folder / "kubeconfig", Entry(name="bench", server="https://127.0.0.1:6443", authorities=authority.certificate, token="bench"))
    server = ["kube-apiserver", "--data-dir", "data", "--bind-address", "127.0.0.1", "--token-auth-file", "tokens"]
    server += ["--tls-cert-file", "tls.crt", "--tls-private-key-file", "tls.key", "--service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112"]
    kubelet = ["kubelet", "--kubeconfig", "kubeconfig", "--hostname-override", "node1", "--node-ip", ",".join(NODE_IPS.values()), "--root-dir", "root"]
    kubelet += ["--netns-dir", str(folder / "netns"), "--cni-conf-dir", "cni", "--cni-bin-dir", "bin", "--write-cni-config", "--address", "::"]
    kubelet += ["--tls-cert-file", "tls.crt", "--tls-private-key-file", "tls.key", "--eviction-hard="]  # however full this machine's disk is
    processes = []
    try:
        async with Client(kubeconfig.load(folder / "kubeconfig"), user_agent="bench") as client, asyncio.TaskGroup() as tasks:
            for words in (server, kubelet):
                command = [sys.executable, "-m", "twinstack.cli.main", *words]
                processes.append(await asyncio.create_subprocess_exec(*command, cwd=folder, stderr=(folder / f"{words[0]}.log").open("w")))
                await _until(client, NODES.path() if words is server else NODES.path("", "node1"))
            cidrs = ["10.244.0.0/22", "fd00:10:244::/64"]
            await client.patch(NODES, Key("", "node1"), {"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})
            watched = _Watched(client)
            watching = tasks.create_task(watched.informer.run())
            await watched.informer.synced()
            await asyncio.gather(*(watched.create(f"kept-{number}") for number in range(pods)))
            await asyncio.sleep(SETTLE_SECONDS)
            pid = processes[-1].pid
            resident, proportional = _memory_mb(pid)
            before = _cpu_seconds(pid)
            await asyncio.sleep(IDLE_SECONDS)
            idle = (_cpu_seconds(pid) - before) / IDLE_SECONDS
            await watched.delete([f"kept-{number}" for number in range(pods)])
            watching.cancel()
    finally:
        for process in reversed(processes):
            process.terminate()
            await process.wait()
        for path in (folder / "netns").glob("*"):  # of pods that were not deleted, as something failed
            namespaces.remove(str(path))
    return [
        Result(
            bench="kubelet", name=f"resident memory of the node agent at {pods} pods", value=resident, unit="MB", target=NODE_MB,
            detail={"proportional": proportional},
        ),
        Result(bench="kubelet", name="processor of the node agent while nothing changes", value=100 * idle, unit="%", target=1.0),
    ]  # fmt: skip


async def _until(client: Client, path: str) -> None:
    """Wait until the API server answers to this path."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            try:
                await client.raw("GET", path)
                return
            except errors.APIError:
                await asyncio.sleep(0.05)


def _in_a_namespace(pods: int) -> list[Result]:
    netns = f"/run/netns/tst-bench-{os.getpid()}"
    namespaces.create(netns)

    def work() -> list[Result]:
        namespaces.enter(netns)
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(asyncio.wait_for(_alone(Path(folder), pods), LONGEST_SECONDS))

    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(work).result()
    finally:
        for pid in namespaces.processes_in(netns):
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)  # the spawner, which outlives its agent
        namespaces.remove(netns)


def run(scale: float) -> list[Result]:
    """One cluster, its pods one by one, then together; then the agent alone."""
    return _in_a_cluster(scale) + _in_a_namespace(max(20, round(KEPT * scale)))


def _in_a_cluster(scale: float) -> list[Result]:
    name = f"tst-bench-{os.getpid()}-k"
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "KUBECONFIG": f"{home}/kubeconfig"}
        try:
            _twinstack(environment, "up", "--name", name, "--nodes", "1", "-o", "json")
            components = json.loads(_twinstack(environment, "status", "--name", name, "-o", "json"))["components"]
            node = next(one["pid"] for one in components if one["name"] == "node1/kubelet")
            return asyncio.run(asyncio.wait_for(_measure(environment, node, scale), LONGEST_SECONDS))
        finally:
            _twinstack(environment, "down", "--name", name)
