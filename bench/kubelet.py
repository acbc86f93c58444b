"""A node's pods: from a pod that is bound until it runs with both addresses, many at once, and what the node costs meanwhile.

A cluster of one node is brought up by the command line. Pods are created with their node's name, so that no scheduler
is in the way, and a watch says when they run; the figure includes the API server's part of it. The node's process is the
kubelet's, kube-proxy's and ip-masq-agent's together. The baseline of the first is creating and watching an object that
nothing has to be done for.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from bench.results import Result, percentile
from twinstack.api.kinds import ConfigMap, Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.client.informer import Informer

PODS, MAPS = resource_of(Pod), resource_of(ConfigMap)
POD_SECONDS, MANY_SECONDS, MANY, NODE_MB, IDLE_SECONDS = 0.040, 8.0, 200, 60.0, 4.0
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
        before = _cpu_seconds(node)
        await asyncio.sleep(IDLE_SECONDS)
        idle = (_cpu_seconds(node) - before) / IDLE_SECONDS
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
            bench="kubelet", name=f"memory of the node's process at {many - len(half)} pods", value=proportional, unit="MB", target=NODE_MB,
            detail={"resident": resident},
        ),
        Result(bench="kubelet", name="processor of the node's process while nothing changes", value=100 * idle, unit="%", target=1.0),
    ]  # fmt: skip


def run(scale: float) -> list[Result]:
    """One cluster; its pods one by one, then together."""
    name = f"tst-bench-{os.getpid()}-k"
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "KUBECONFIG": f"{home}/kubeconfig"}
        try:
            _twinstack(environment, "up", "--name", name, "--nodes", "1", "-o", "json")
            components = json.loads(_twinstack(environment, "status", "--name", name, "-o", "json"))["components"]
            node = next(one["pid"] for one in components if one["name"].startswith("node1"))
            return asyncio.run(asyncio.wait_for(_measure(environment, node, scale), LONGEST_SECONDS))
        finally:
            _twinstack(environment, "down", "--name", name)
