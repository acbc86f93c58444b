"""The Service proxy: first sync, one change, and what a Service costs a connection.

Baselines in the same run: the bare ``nft -f`` of the very same tables and changes; and the pod's own address.
Everything happens in network namespaces of this run's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from bench._paths import path_figures
from bench.results import Result, percentile
from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.dataplane import text
from twinstack.dataplane.ruleset import AddElements, DeleteElements, Steps, Table, whole
from twinstack.kernel import namespaces, nftables
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.ruleset import Options, Shape
from twinstack.proxy.services import Place
from twinstack.proxy.sync import FamilySync, NodeState

SIZES = (100, 1000, 10_000)
ENDPOINTS = 3
CHANGES = 60
FIRST = {  # the first cluster IP, the first pod, the pods' CIDR
    Family.IPV4: ("10.96.0.0", "10.128.0.0", "10.128.0.0/9"),
    Family.IPV6: ("fd00:96::", "fd00:244::", "fd00:244::/64"),
}
SERVICE_PORT, POD_PORT = 80, 8080


def run(scale: float) -> list[Result]:
    """All figures of the proxy; *scale* 1.0 goes to 10,000 Services."""
    results: list[Result] = []
    for size in SIZES:
        if size <= max(SIZES[0], max(SIZES) * scale):
            results += asyncio.run(_sync_figures(size))
    return results + path_figures(scale)


# ---- how fast Services come into the kernel


def _address(family: Family, which: int, number: int) -> str:
    return str(family.address(int(parse_address(FIRST[family][which])) + number))


def _service(number: int) -> kinds.Service:
    addresses = [_address(family, 0, number) for family in FAMILIES]
    spec = {
        "clusterIP": addresses[0],
        "clusterIPs": addresses,
        "ipFamilies": [family.value for family in FAMILIES],
        "ports": [{"port": SERVICE_PORT, "protocol": "TCP"}],
    }
    return view_of(kinds.Service, {"metadata": {"namespace": "bench", "name": f"svc-{number}"}, "spec": spec})


def _slice(number: int, family: Family, pods: range) -> kinds.EndpointSlice:
    document = {
        "metadata": {"namespace": "bench", "name": f"svc-{number}-{family}", "labels": {"kubernetes.io/service-name": f"svc-{number}"}},
        "addressType": family.value,
        "ports": [{"name": "", "port": POD_PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [_address(family, 1, pod)], "nodeName": "elsewhere", "conditions": {"ready": True}} for pod in pods],
    }
    return view_of(kinds.EndpointSlice, document)


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _sync_figures(size: int) -> list[Result]:
    catalog, node = Catalog(), NodeState(Place("here"))
    node.addresses = {family: (_address(family, 1, (1 << 22) + 1),) for family in FAMILIES}
    before = _resident()
    for number in range(size):
        catalog.service_changed(None, _service(number))
        for family in FAMILIES:
            catalog.slice_changed(None, _slice(number, family, range(number * ENDPOINTS, (number + 1) * ENDPOINTS)))
    metrics = Metrics(CollectorRegistry())
    with _namespace("sync") as path, nftables.Nftables(path) as ruleset:
        syncs = {
            family: FamilySync(
                family,
                Shape(family, Options(pods=("saddr", FIRST[family][2]))),
                ruleset=ruleset,
                conntrack=None,
                catalog=catalog,
                node=node,
                metrics=metrics,
                health=FamilyHealth(60, time.time),
                now=time.time,
                min_sync_seconds=0,
                sync_seconds=30,
            )
            for family in FAMILIES
        }
        began = time.perf_counter()
        for sync in syncs.values():
            await sync.sync()
        first = time.perf_counter() - began
        resident = _resident() - before
        bare = _bare(path, "".join(text.script(whole(sync.table())) for sync in syncs.values()))
        changes = []
        for i in range(CHANGES):
            number, family = (i * 7919) % size, FAMILIES[i % 2]
            own = range(number * ENDPOINTS, (number + 1) * ENDPOINTS)
            moved = range(size * ENDPOINTS + i * ENDPOINTS, size * ENDPOINTS + (i + 1) * ENDPOINTS)
            one, other = _slice(number, family, own), _slice(number, family, moved)
            began = time.perf_counter()
            for key, _ in catalog.slice_changed(one, other):
                syncs[family].mark(key)
            await syncs[family].sync()
            changes.append(time.perf_counter() - began)
        again = [_bare(path, text.script(_exchange(syncs[family].table()))) for family in FAMILIES for _ in range(5)]
    what = f"{size:,} dual-stack Services × {ENDPOINTS} endpoints per family"
    return [
        Result(
            bench="proxy",
            name=f"first sync of {what}",
            value=first,
            unit="s",
            baseline="nft -f of both tables",
            baseline_value=bare,
            target=3.0 if size == max(SIZES) else None,
            detail={"resident_megabytes": resident, "bytes_of_script": float(sum(len(text.script(whole(sync.table()))) for sync in syncs.values()))},
        ),
        Result(
            bench="proxy",
            name=f"one Service's endpoints change at {what}",
            value=statistics.median(changes) * 1000,
            unit="ms",
            baseline="nft -f of the same change",
            baseline_value=statistics.median(again) * 1000,
            target=100.0 if size == max(SIZES) else None,
            detail={"p99": percentile(changes, 0.99) * 1000, "max": max(changes) * 1000},
        ),
    ]


def _exchange(table: Table) -> Steps:
    """Take a Service's endpoints out and put them in again: a change of the same size."""
    pairs = tuple(itertools.islice(table.elements["endpoints"].items(), ENDPOINTS))
    return Steps(table.family, table.name, (DeleteElements("endpoints", tuple(key for key, _ in pairs)), AddElements("endpoints", pairs)))


def _bare(path: str, script: str) -> float:
    """Seconds that the nft program takes for a script."""
    with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
        file.write(script)
        file.flush()
        began = time.perf_counter()
        subprocess.run(["nsenter", f"--net={path}", "nft", "-f", file.name], check=True)
        return time.perf_counter() - began


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    path = f"/run/netns/tst-{os.getpid()}-bench-{name}"
    namespaces.create(path, [pair for family in FAMILIES for pair in family.facts.route_default_sysctls])
    try:
        yield path
    finally:
        namespaces.remove(path)
