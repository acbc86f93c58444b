"""Health-check node ports: what a load balancer is told, by status, headers and body."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import aiohttp
import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthports import HealthPorts
from twinstack.proxy.services import Place
from twinstack.proxy.sync import NodeState

ADDRESSES = {Family.IPV4: ("10.96.0.1", "10.1.0.{}"), Family.IPV6: ("fd00:96::1", "fd00:1::{}")}


def free_port(family: Family) -> int:
    with socket.socket(family.facts.socket_family) as one:
        one.bind((family.facts.loopback, 0))
        return one.getsockname()[1]


def service(family: Family, port: int, **spec) -> kinds.Service:
    ip = ADDRESSES[family][0]
    given = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port, "clusterIP": ip, "clusterIPs": [ip],
             "ipFamilies": [family.value], "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}  # fmt: skip
    return view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": "lb"}, "spec": {**given, **spec}})


def endpoint_slice(family: Family, *endpoints: tuple[str, dict[str, bool]]) -> kinds.EndpointSlice:
    return view_of(kinds.EndpointSlice, {
        "metadata": {"namespace": "ns", "name": "lb-1", "labels": {"kubernetes.io/service-name": "lb"}}, "addressType": family.value,
        "ports": [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}],
        "endpoints": [{"addresses": [ADDRESSES[family][1].format(i)], "nodeName": node, "conditions": conditions}
                      for i, (node, conditions) in enumerate(endpoints, 1)],
    })  # fmt: skip


class Balancer:
    """Asks, and waits until somebody answers as it wants."""

    def __init__(self, family: Family, port: int) -> None:
        self.url = f"http://{f'[{family.facts.loopback}]' if ':' in family.facts.loopback else family.facts.loopback}:{port}"

    async def ask(self, method: str = "GET", path: str = "/healthz"):
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientConnectionError):
                    async with session.request(method, self.url + path) as answer:
                        return answer.status, answer.headers, await answer.text()
                await asyncio.sleep(0.01)


class Running:
    def __init__(self, family: Family) -> None:
        self.family, self.catalog, self.node, self.healthy, self.failed = family, Catalog(), NodeState(Place("here")), True, []
        self.ports = HealthPorts(
            self.catalog, self.node, [family], hosts=lambda family: (family.facts.loopback,), healthy=lambda: self.healthy,
            failed=self._on_failure,
        )  # fmt: skip
        self.has_failed = asyncio.Event()
        self._service = self._slice = None

    def _on_failure(self, one: kinds.Service, message: str) -> None:
        self.failed.append((one.metadata.name, message))
        self.has_failed.set()

    def wants(self, service_: kinds.Service | None, slice_: kinds.EndpointSlice | None) -> None:
        self.catalog.service_changed(self._service, service_)
        self.catalog.slice_changed(self._slice, slice_)
        self._service, self._slice = service_, slice_
        self.ports.look()


@pytest.fixture(params=FAMILIES, ids=str)
async def running(request):
    one = Running(request.param)
    task = asyncio.ensure_future(one.ports.run())
    yield one
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


READY, ENDING = {"ready": True}, {"ready": False, "serving": True, "terminating": True}
CASES = [
    pytest.param([("here", READY), ("here", READY), ("there", READY)], True, 200, 2, id="two of three are here, over two ports"),
    pytest.param([("there", READY)], True, 503, 0, id="all are elsewhere"),
    pytest.param([], True, 503, 0, id="nobody"),
    pytest.param([("here", ENDING)], True, 503, 0, id="one that ends is not counted, though it serves"),
    pytest.param([("here", READY)], False, 503, 1, id="the proxy itself is not well"),
]


@pytest.mark.parametrize("endpoints, healthy, status, count", CASES)
async def test_it_answers_as_upstream_does(running, endpoints, healthy, status, count):
    port = free_port(running.family)
    running.healthy = healthy
    running.wants(service(running.family, port), endpoint_slice(running.family, *endpoints))
    balancer = Balancer(running.family, port)
    async with asyncio.timeout(10):
        for method, path in (("GET", "/healthz"), ("GET", "/"), ("POST", "/any/path?x=1")):
            found, headers, body = await balancer.ask(method, path)
            assert found == status
            assert headers["Content-Type"] == "application/json" and headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Load-Balancing-Endpoint-Weight"] == str(count)
            wanted = f'{{"service":{{"namespace":"ns","name":"lb"}},"localEndpoints":{count},"serviceProxyHealthy":{"true" if healthy else "false"}}}'
            assert body == wanted
        assert (await balancer.ask("HEAD"))[0] == status


async def test_it_comes_and_goes_with_its_service_and_no_other_type_has_one(running):
    port = free_port(running.family)
    slice_ = endpoint_slice(running.family, ("here", READY))
    running.wants(service(running.family, port), slice_)
    balancer = Balancer(running.family, port)
    async with asyncio.timeout(10):
        assert (await balancer.ask())[0] == 200
    for other in ({"type": "NodePort"}, {"externalTrafficPolicy": "Cluster"}):
        running.wants(service(running.family, port, **other), slice_)
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection(running.family.facts.loopback, port)
                except ConnectionRefusedError:
                    break
                except ConnectionResetError:  # it is being closed
                    continue
                writer.close()
                await asyncio.sleep(0.01)


async def test_a_port_that_is_taken_is_told_and_tried_again_with_the_next_change(running):
    with socket.socket(running.family.facts.socket_family) as taken:
        taken.bind((running.family.facts.loopback, 0))
        taken.listen()
        port = taken.getsockname()[1]
        running.wants(service(running.family, port), endpoint_slice(running.family, ("here", READY)))
        async with asyncio.timeout(10):
            await running.has_failed.wait()
        assert running.failed[0][0] == "lb" and f"port {port}" in running.failed[0][1]
    running.ports.look()
    async with asyncio.timeout(10):
        assert (await Balancer(running.family, port).ask())[0] == 200
