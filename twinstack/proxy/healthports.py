"""Health-check node ports: a load balancer asks each node, per Service and family, whether it has endpoints here.

Only a Service of type LoadBalancer with externalTrafficPolicy Local has one. The answer counts this node's ready
endpoints of the family at the moment of asking: 200 when there are any and the proxy is healthy, else 503. A port
that cannot be listened on is told as an event and tried again with the next change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from aiohttp import web

from twinstack.api import kinds
from twinstack.api.objects import Key, encode
from twinstack.net.family import Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.services import cluster_ip, is_ours, local_ready
from twinstack.proxy.sync import NodeState

log = logging.getLogger(__name__)


class HealthPort(NamedTuple):
    """One server: of a Service in a family, on an address of this node (empty: all of them)."""

    service: Key
    family: Family
    host: str
    port: int


def wanted_ports(services: Iterable[kinds.Service], families: Iterable[Family], hosts: Callable[[Family], Iterable[str]]) -> set[HealthPort]:
    """The servers that there should be; *hosts* gives the addresses to listen on."""
    each = tuple(families)
    return {
        HealthPort(Key(service.metadata.namespace, service.metadata.name), family, host, service.spec.healthCheckNodePort)
        for service in services
        if service.spec.healthCheckNodePort and service.spec.type == "LoadBalancer" and service.spec.externalTrafficPolicy == "Local" and is_ours(service)
        for family in each
        if cluster_ip(service, family) is not None
        for host in hosts(family)
    }


class HealthPorts:
    """Keeps the servers while :meth:`run` runs; :meth:`look` after anything changed."""

    def __init__(
        self,
        catalog: Catalog,
        node: NodeState,
        families: Iterable[Family],
        *,
        hosts: Callable[[Family], Iterable[str]],
        healthy: Callable[[], bool],
        failed: Callable[[kinds.Service, str], None],
    ) -> None:
        self._catalog, self._node, self._families = catalog, node, tuple(families)
        self._hosts, self._healthy, self._failed = hosts, healthy, failed
        self._servers: dict[HealthPort, web.AppRunner] = {}
        self._changed = asyncio.Event()

    def look(self) -> None:
        """Something changed that may concern the servers."""
        self._changed.set()

    async def run(self) -> None:
        """Open and close servers as Services change, until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._reconcile()
        finally:
            for runner in self._servers.values():
                await runner.cleanup()

    async def _reconcile(self) -> None:
        wanted = wanted_ports(self._catalog.services.values(), self._families, self._hosts)
        for gone in self._servers.keys() - wanted:
            await self._servers.pop(gone).cleanup()
        for port in sorted(wanted - self._servers.keys(), key=lambda one: (one.service, one.family.value, one.host)):
            runner = web.AppRunner(self._application(port), access_log=None)
            await runner.setup()
            try:
                await web.TCPSite(runner, port.host or port.family.facts.unspecified, port.port).start()
            except OSError as error:
                await runner.cleanup()
                message = f"cannot answer health checks of {port.family} on port {port.port}: {error.strerror or error}"
                log.warning(message, extra={"service": str(port.service)})
                if (service := self._catalog.services.get(port.service)) is not None:
                    self._failed(service, message)
                continue
            self._servers[port] = runner

    def _application(self, port: HealthPort) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handler(port))
        return app

    def _handler(self, port: HealthPort) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            service = self._catalog.services.get(port.service)
            slices = self._catalog.slices(port.service)
            count = local_ready(service, slices, port.family, self._node.place) if service is not None else 0
            healthy = self._healthy()
            body = {
                "service": {"namespace": port.service.namespace, "name": port.service.name},
                "localEndpoints": count,
                "serviceProxyHealthy": healthy,
            }
            headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": str(count)}
            return web.Response(status=200 if count and healthy else 503, body=encode(body), headers=headers)

        return handle
