"""The DNS server with Services on paper, as a process of its own: ready when it prints its port."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.dns.dns import leave_memory_alone
from twinstack.dns.forward import Forwarder
from twinstack.dns.metrics import Metrics
from twinstack.dns.records import Options, namespace_names, service_records
from twinstack.dns.responder import Responder
from twinstack.dns.server import Server
from twinstack.dns.zone import Zone
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES

FIRST = {FAMILIES[0]: "10.96.0.0", FAMILIES[1]: "fd00:10:96::"}


def service(number: int) -> kinds.Service:
    """A dual-stack Service with a named port."""
    texts = [str(family.address(int(parse_address(first)) + number + 1)) for family, first in FIRST.items()]
    spec = {"clusterIP": texts[0], "clusterIPs": texts, "ipFamilies": [family.value for family in FAMILIES], "ports": [{"name": "http", "port": 80}]}
    return view_of(kinds.Service, {"metadata": {"namespace": "bench", "name": f"svc-{number}"}, "spec": spec})


def resident() -> float:
    """Megabytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


async def main(address: str, size: int) -> None:
    options, services, before = Options(), [service(number) for number in range(size)], resident()
    zone = Zone(options.domain)
    zone.put("bench", (), namespace_names("bench", options))
    began = time.perf_counter()
    for number, one in enumerate(services):
        zone.put(number, service_records(one, (), options))
    took = time.perf_counter() - began
    leave_memory_alone()
    metrics, responder = Metrics(CollectorRegistry(), "dns://:53"), Responder(zone)
    async with asyncio.TaskGroup() as tasks:
        server = Server(responder, Forwarder(responder, (), metrics), metrics, tasks)
        ((_, port),) = await server.start([address], 0)
        print(json.dumps({"port": port, "seconds": took, "megabytes": resident() - before}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
