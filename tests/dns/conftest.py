"""Objects for DNS: Services and slices on paper, and a server on loopback that holds a zone of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import dns.message
import pytest
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.dns.forward import Forwarder
from twinstack.dns.metrics import Metrics
from twinstack.dns.records import Options, Record, namespace_names, service_records, zone_records
from twinstack.dns.responder import Abroad, Responder
from twinstack.dns.server import Server
from twinstack.dns.zone import Zone
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Address, Family

FIRST = {Family.IPV4: "10.96.0.0", Family.IPV6: "fd00:10:96::"}


class Paper:
    """Objects of a cluster that is only on paper; the n-th address of each family has the number n."""

    @staticmethod
    def address(family: Family, number: int) -> Address:
        return family.address(int(parse_address(FIRST[family])) + number)

    def service(self, name: str = "web", families: Iterable[Family] = (), number: int = 7, **spec: Any) -> kinds.Service:
        families = tuple(families)
        texts = [str(self.address(family, number)) for family in families] or ["None"]
        whole = {
            "clusterIP": texts[0],
            "clusterIPs": texts,
            "ipFamilies": [family.value for family in families],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            **spec,
        }
        return view_of(kinds.Service, {"metadata": {"namespace": "demo", "name": name}, "spec": whole})

    def headless(self, name: str = "db", families: Iterable[Family] = (), **spec: Any) -> kinds.Service:
        texts = {"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": [family.value for family in families]}
        return self.service(name, (), **{**texts, **spec})

    def slice(self, service: str, family: Family, *endpoints: dict[str, Any], name: str = "1", ports: Any = None) -> kinds.EndpointSlice:
        document = {
            "metadata": {"namespace": "demo", "name": f"{service}-{family}-{name}", "labels": {"kubernetes.io/service-name": service}},
            "addressType": family.value,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
            "endpoints": list(endpoints),
        }
        return view_of(kinds.EndpointSlice, document)

    def endpoint(self, family: Family, number: int, *, ready: bool | None = True, **more: Any) -> dict[str, Any]:
        return {"addresses": [str(self.address(family, number))], "conditions": {"ready": ready}, **more}


def unused_port() -> int:
    """A port that is free on this machine in both families, by UDP and TCP; not one of those that connections get."""
    while True:
        port = random.randint(10_000, 32_000)
        try:
            with contextlib.ExitStack() as stack:
                for family in FAMILIES:
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        one = stack.enter_context(socket.socket(family.facts.socket_family, kind))
                        for level, option, value in family.facts.socket_options:
                            one.setsockopt(level, option, value)
                        one.bind((family.facts.unspecified, port))
        except OSError:
            continue
        return port


@pytest.fixture
def free_port() -> Callable[[], int]:
    return unused_port


class Book:
    """A zone of some objects, asked by names and types as texts."""

    def __init__(self, **settings: Any) -> None:
        self.options = settings.pop("options", Options())
        bounds = {key: settings.pop(key) for key in ("udp_bytes", "recursion") if key in settings}
        self.zone = Zone("cluster.local", **settings)
        self.zone.put("zone", zone_records(self.options))
        self.zone.put("demo", (), namespace_names("demo", self.options))
        self.responder = Responder(self.zone, **bounds)

    def add(self, service: kinds.Service, *slices: kinds.EndpointSlice) -> None:
        self.zone.put(service.metadata.name, service_records(service, slices, self.options))

    def put(self, source: str, *records: Record) -> None:
        self.zone.put(source, records)

    def ask(self, name: str, type_: str, *, stream: bool = False, **more: Any) -> dns.message.Message:
        """The answer, which must fit the query by its own measure."""
        query = dns.message.make_query(name, type_, **more)
        reply = self.responder.answer(query.to_wire(), stream=stream)
        assert isinstance(reply, bytes), reply
        message = dns.message.from_wire(reply)
        assert query.is_response(message)
        return message

    def goes_abroad(self, name: str, type_: str) -> bool:
        return isinstance(self.responder.answer(dns.message.make_query(name, type_).to_wire()), Abroad)


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def book() -> Callable[..., Book]:
    return Book


@pytest.fixture
def serving() -> Callable[..., contextlib.AbstractAsyncContextManager[tuple[int, Metrics, CollectorRegistry]]]:
    """A server of a book's zone on addresses of this machine, and what it counts."""

    @contextlib.asynccontextmanager
    async def serve(
        book: Book, addresses: tuple[str, ...], *, upstreams: Iterable[tuple[Address, int]] = (), watched: bool = False, **forwarding: Any
    ) -> AsyncIterator[tuple[int, Metrics, CollectorRegistry]]:
        registry = CollectorRegistry()
        metrics = Metrics(registry, "dns://:53")
        forwarder = Forwarder(book.responder, tuple(upstreams), metrics, **forwarding)
        async with asyncio.TaskGroup() as tasks:
            server = Server(book.responder, forwarder, metrics, tasks)
            watching = tasks.create_task(forwarder.watch_for_circles()) if watched else None
            try:
                port = unused_port()
                await server.start(addresses, port)
                yield port, metrics, registry
            finally:
                server.close()
                if watching is not None:
                    watching.cancel()

    return serve
