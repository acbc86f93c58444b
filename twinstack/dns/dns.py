"""Cluster DNS: names of Services, endpoints and pods in both families, true to the API server.

Rule of this file: it wires. What has which record stands in ``records``, what is answered in ``zone`` and ``responder``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.dns.forward import Forwarder
from twinstack.dns.metrics import Metrics
from twinstack.dns.records import Options, reverse_zones, zone_records
from twinstack.dns.responder import Responder
from twinstack.dns.server import DNSError, Server
from twinstack.dns.settings import WITHOUT_UPSTREAM, Settings, checked, upstreams
from twinstack.dns.sources import Sources
from twinstack.dns.zone import Zone
from twinstack.loops.health import HealthServer
from twinstack.loops.metrics import new_registry
from twinstack.net.cidr import host_port, parse_address

log = logging.getLogger(__name__)


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None, bound: Callable[[list[tuple[str, int]]], None] = lambda where: None) -> None:
    """Serve until cancelled; ready when every object of the cluster has its records.

    Until then names of the cluster are answered with SERVFAIL, all others already. *bound* is told where it listens.
    """
    settings = checked(settings)
    connection = kubeconfig.load(settings.kubeconfig or None)
    options = Options(
        domain=settings.cluster_domain.lower(),
        hide_dead_families=settings.hide_dead_families,
        answered=settings.answered,
        own_service=settings.own_service,
    )
    zone = Zone(
        options.domain, reverse_zones(settings.networks), ttl=settings.ttl_seconds, serial=int(time.time()) & 0xFFFFFFFF, guess_pods=settings.pods == "insecure"
    )
    zone.put(("zone", "version"), zone_records(options))
    registry = new_registry(process=False)
    metrics = Metrics(registry, f"dns://:{settings.port}")
    own = [parse_address(text) for text in settings.bind_addresses]
    asked = upstreams(settings, own)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(connection, user_agent="twinstack-dns"))
        services, slices = Informer(client, kinds.Service), Informer(client, kinds.EndpointSlice, label_selector="kubernetes.io/service-name")
        namespaces = Informer(client, kinds.Namespace)
        pods = Informer(client, kinds.Pod) if settings.pods == "verified" else None

        def programmed() -> None:
            metrics.programmed = time.time()

        sources = Sources(zone, options, services, slices, namespaces, pods, programmed=programmed)
        responder = Responder(zone, udp_bytes=settings.udp_bytes, recursion=bool(asked), serves=sources.complete.is_set)
        forwarder = Forwarder(
            responder,
            asked,
            metrics,
            seconds=settings.forward_seconds,
            keep_seconds=settings.cache_seconds,
            without_upstream=WITHOUT_UPSTREAM[settings.without_upstream],
            answered=settings.answered,
        )
        async with asyncio.TaskGroup() as tasks:
            server = Server(responder, forwarder, metrics, tasks)
            stack.callback(server.close)
            where = await server.start(settings.bind_addresses, settings.port)
            bound([(str(address), port) for address, port in where])
            await _serve_health(settings, registry, sources, stack)
            for informer in (services, slices, namespaces, pods):
                if informer is not None:
                    tasks.create_task(informer.run())
            tasks.create_task(sources.run())
            tasks.create_task(forwarder.watch_for_circles())
            await sources.complete.wait()
            log.info("Serving", extra={"names": len(zone.nodes), "upstreams": ", ".join(host_port(*one) for one in asked) or "none"})
            ready()


def leave_memory_alone() -> None:
    """Keep the garbage collector from looking at all records again and again: for a process of its own, once everything is taken in.

    Its pauses are what queries wait for longest: with 10,000 Services a full collection takes a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


async def _serve_health(settings: Settings, registry: CollectorRegistry, sources: Sources, stack: contextlib.AsyncExitStack) -> None:
    """/health, /ready and /metrics where CoreDNS has them; ports that are the same are one server."""

    async def healthy(request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def is_ready(request: web.Request) -> web.Response:
        return web.Response(text="OK") if sources.complete.is_set() else web.Response(status=503, text="kubernetes")

    check = {"kubernetes": lambda: None if sources.complete.is_set() else "not all objects are read yet"}
    for port in dict.fromkeys(port for port in (settings.health_port, settings.ready_port, settings.metrics_port) if port is not None):
        for address in settings.bind_addresses:
            health = HealthServer(ready=check, registry=registry, routes={"/health": healthy, "/ready": is_ready})
            try:
                await health.start(address, port)
            except OSError as error:
                raise DNSError(f"{host_port(address, port)} cannot be listened on: {error.strerror or error}") from error
            stack.push_async_callback(health.close)
