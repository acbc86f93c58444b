"""The Service proxy: first sync, one change, a burst, an idle hour, and what a Service costs a connection.

Each size is measured in a process of its own, which keeps what the real one keeps: informers fed with objects, the
catalog, both families' syncs at once. A first sync is judged by the clock, or, where others keep the machine busy, by the
processor time of both families together. Baselines in the same run: the bare ``nft -f`` of the very same tables and
changes; and the pod's own address. Everything happens in network namespaces of this run's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from bench._paths import path_figures
from bench.results import Result, percentile
from twinstack.api import kinds
from twinstack.api.objects import Document
from twinstack.client.informer import Informer
from twinstack.dataplane import text
from twinstack.dataplane.ruleset import AddElements, DeleteElements, Learned, Map, Steps, Table, whole
from twinstack.kernel import namespaces, nftables
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.lean import Lean
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.ruleset import Options, Shape
from twinstack.proxy.services import Place
from twinstack.proxy.sync import FamilySync, NodeState


class Size(NamedTuple):
    """A number of dual-stack Services, and what they may cost: seconds, milliseconds, megabytes; 0 where nothing is asked."""

    services: int
    first_seconds: float = 0.0
    median_ms: float = 0.0
    p99_ms: float = 0.0
    megabytes: float = 0.0
    endpoints: int = 3  # of each family


SIZES = (
    Size(2_000, 0.4, 10, 30),
    Size(10_000, 1.5, 10, 40, 120),
    Size(50_000, 8, 15, 60),
    Size(100_000, 16, 20, 80),
    Size(5_000, 10, endpoints=25),
)
CHANGES = 200
BURST = 1000
IDLE_SECONDS = 3.0
FIRST = {  # the first cluster IP, the first pod, the pods' CIDR
    Family.IPV4: ("10.96.0.0", "10.128.0.0", "10.128.0.0/9"),
    Family.IPV6: ("fd00:96::", "fd00:244::", "fd00:244::/64"),
}
SERVICE_PORT, POD_PORT = 80, 8080


def run(scale: float) -> list[Result]:
    """All figures of the proxy; *scale* 1.0 goes to 100,000 Services, and bounds shrink with the sizes."""
    results: list[Result] = []
    spawned = multiprocessing.get_context("spawn")
    for size in SIZES:
        scaled = size._replace(services=max(20, int(size.services * scale)), first_seconds=size.first_seconds * max(scale, 0.1))
        with spawned.Pool(1) as pool:
            results += pool.apply(_measured, (scaled,))
    return results + path_figures(scale)


def _measured(size: Size) -> list[Result]:
    return asyncio.run(_figures(size))


# ---- a cluster's objects


def _address(family: Family, which: int, number: int) -> str:
    return str(family.address(int(parse_address(FIRST[family][which])) + number))


def _service(number: int) -> Document:
    addresses = [_address(family, 0, number) for family in FAMILIES]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "bench", "name": f"svc-{number}", "uid": f"00000000-0000-4000-8000-{number:012d}", "resourceVersion": f"{number + 1}"},
        "spec": {
            "type": "ClusterIP",
            "selector": {"app": f"svc-{number}"},
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": [family.value for family in FAMILIES],
            "ports": [{"port": SERVICE_PORT, "protocol": "TCP"}],
        },
    }


def _slice(number: int, family: Family, pods: range, revision: int) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "bench",
            "name": f"svc-{number}-{family}".lower(),
            "uid": f"00000000-0000-4000-8001-{number:012d}",
            "resourceVersion": str(revision),
            "labels": {"kubernetes.io/service-name": f"svc-{number}", "app": "bench"},
        },
        "addressType": family.value,
        "ports": [{"name": "", "port": POD_PORT, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [_address(family, 1, pod)],
                "nodeName": f"node-{pod % 50}",
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "namespace": "bench", "name": f"pod-{pod}", "uid": f"00000000-0000-4000-8002-{pod:012d}"},
            }
            for pod in pods
        ],
    }


class _Counting:
    """The kernel's nftables, and how many transactions each family made."""

    def __init__(self, ruleset: nftables.Nftables) -> None:
        self._ruleset = ruleset
        self.transactions: dict[str, int] = {}

    def run(self, script: str, *, check: bool = False) -> str:
        word = script.split(maxsplit=3)[2]
        self.transactions[word] = self.transactions.get(word, 0) + 1
        return self._ruleset.run(script, check=check)

    def learned(self, family: Family, table: str, one: Map) -> list[Learned]:
        return self._ruleset.learned(family, table, one)


class _Proxy:
    """What the real proxy holds, without an API server."""

    def __init__(self, ruleset: _Counting, size: Size) -> None:
        self.size, self.catalog, self.node, lean = size, Catalog(), NodeState(Place("here")), Lean()
        nobody: Any = None  # informers that are fed by hand ask no server
        self.services = Informer(nobody, kinds.Service, lean=lean.service)
        self.slices = Informer(nobody, kinds.EndpointSlice, lean=lean.slice)
        metrics = Metrics(CollectorRegistry())
        self.revision = 1
        self.syncs = {
            family: FamilySync(
                family,
                Shape(family, Options(pods=("saddr", FIRST[family][2]))),
                ruleset=ruleset,
                conntrack=None,
                catalog=self.catalog,
                node=self.node,
                metrics=metrics,
                health=FamilyHealth(60, time.time),
                now=time.time,
                min_sync_seconds=0.5,
                sync_seconds=30,
            )
            for family in FAMILIES
        }
        self.services.subscribe(self._on_service)
        self.slices.subscribe(self._on_slice)
        for number in range(size.services):
            self.services.take(_service(number))
            for family in FAMILIES:
                self.move(number, family, number * size.endpoints)

    def _on_service(self, before: kinds.Service | None, after: kinds.Service | None) -> None:
        if (key := self.catalog.service_changed(before, after)) is not None:
            for sync in self.syncs.values():
                sync.mark(key)

    def _on_slice(self, before: kinds.EndpointSlice | None, after: kinds.EndpointSlice | None) -> None:
        for key, family in self.catalog.slice_changed(before, after):
            self.syncs[family].mark(key)

    def move(self, number: int, family: Family, pods: int) -> None:
        """Let a Service's endpoints be these."""
        self.revision += 1
        self.slices.take(_slice(number, family, range(pods, pods + self.size.endpoints), self.revision))


# ---- how fast Services come into the kernel


async def _figures(size: Size) -> list[Result]:
    what = f"{size.services:,} dual-stack Services × {size.endpoints} endpoints per family"
    with _namespace(f"sync-{size.services}") as path, nftables.Nftables(path) as kernel:
        ruleset = _Counting(kernel)
        proxy = _Proxy(ruleset, size)
        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(sync.sync() for sync in proxy.syncs.values()))
        first, used, resident = time.perf_counter() - began, time.process_time() - used, _resident()
        bare = _bare(path, "".join(text.script(whole(sync.table())) for sync in proxy.syncs.values()))
        results = [
            Result(
                bench="proxy",
                name=f"first sync of {what}",
                value=min(first, used),
                unit="s",
                baseline="nft -f of both tables",
                baseline_value=bare,
                target=size.first_seconds or None,
                detail={"seconds by the clock": first, "processor seconds": used},
            )
        ]
        if size.megabytes:
            results.append(Result(bench="proxy", name=f"resident with {what}", value=resident, unit="MB", target=size.megabytes))
        if size.median_ms:
            results += await _change_figures(proxy, path, size, what)
        if size.megabytes:
            results += await _running_figures(proxy, ruleset, what)
    return results


async def _change_figures(proxy: _Proxy, path: str, size: Size, what: str) -> list[Result]:
    changes = []
    for i in range(CHANGES):
        number, family = (i * 7919) % size.services, FAMILIES[i % 2]
        began = time.perf_counter()
        proxy.move(number, family, (size.services + i) * size.endpoints)
        await proxy.syncs[family].sync()
        changes.append(time.perf_counter() - began)
    bare = statistics.median(_bare(path, text.script(_exchange(proxy.syncs[family].table(), size.endpoints))) for family in FAMILIES for _ in range(5))
    figures = (("median", statistics.median(changes), size.median_ms), ("99th percentile", percentile(changes, 0.99), size.p99_ms))
    return [
        Result(
            bench="proxy",
            name=f"one EndpointSlice's change into the kernel at {what}, {figure}",
            value=value * 1000,
            unit="ms",
            baseline="nft -f of the same change",
            baseline_value=bare * 1000,
            target=bound,
        )
        for figure, value, bound in figures
    ]


async def _running_figures(proxy: _Proxy, ruleset: _Counting, what: str) -> list[Result]:
    """A burst of changes, and then nothing, with the syncs running as they do."""
    async with _running(proxy):
        ruleset.transactions.clear()
        for i in range(BURST):
            proxy.move(i % proxy.size.services, FAMILIES[0], (2 * proxy.size.services + i) * proxy.size.endpoints)
            if i % 50 == 49:
                await asyncio.sleep(0.005)  # as they come from a watch: some at a time
        for _ in range(200):
            await asyncio.sleep(0.05)
            if not _behind(proxy):
                break
        burst = max(ruleset.transactions.values())
        await asyncio.sleep(1)
        began = time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (time.process_time() - began) / IDLE_SECONDS
    return [
        Result(bench="proxy", name=f"transactions for a burst of {BURST:,} changed slices at {what}", value=burst, unit="", target=2),
        Result(bench="proxy", name=f"CPU when nothing changes at {what}", value=idle * 100, unit="% of one", target=0.1),
    ]


def _behind(proxy: _Proxy) -> bool:
    """Whether the last change of the burst is not in the wanted table yet."""
    last = (BURST - 1) % proxy.size.services
    held = proxy.syncs[FAMILIES[0]].table().elements["endpoints"]
    expected = _address(FAMILIES[0], 1, (2 * proxy.size.services + BURST - 1) * proxy.size.endpoints)
    return expected not in {str(held[_address(FAMILIES[0], 0, last), "tcp", SERVICE_PORT, i][0]) for i in range(proxy.size.endpoints)}  # type: ignore[index]


@contextlib.asynccontextmanager
async def _running(proxy: _Proxy) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(sync.run()) for sync in proxy.syncs.values()]
    await asyncio.sleep(1)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _resident() -> float:
    """Megabytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _exchange(table: Table, endpoints: int) -> Steps:
    """Take a Service's endpoints out and put them in again: a change of the same size."""
    pairs = tuple(itertools.islice(table.elements["endpoints"].items(), endpoints))
    return Steps(table.family, table.name, (DeleteElements("endpoints", tuple(key for key, _ in pairs)), AddElements("endpoints", pairs)))


def _bare(path: str, script: str) -> float:
    """Processor seconds that the nft program takes for a script."""
    with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
        file.write(script)
        file.flush()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["nsenter", f"--net={path}", "nft", "-f", file.name], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    path = f"/run/netns/tst-{os.getpid()}-bench-{name}"
    namespaces.create(path, [pair for family in FAMILIES for pair in family.facts.route_default_sysctls])
    try:
        yield path
    finally:
        namespaces.remove(path)
