"""Connections while tables change: what stands goes on, what is new finds the new endpoints, and nobody sees an error."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.api.objects import Key, view_of
from twinstack.dataplane.ruleset import gone
from twinstack.kernel import namespaces, nftables
from twinstack.kernel.conntrack import Conntrack
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import Place
from twinstack.proxy.sync import FamilySync, NodeState

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

IPS = {Family.IPV4: "10.96.1.{}", Family.IPV6: "fd00:96::1:{:x}"}


def service(number: int, *, node_port: int = 0, affinity: bool = False) -> kinds.Service:
    addresses = [IPS[family].format(number) for family in FAMILIES]
    ports = [{"name": "t", "protocol": "TCP", "port": 80}, {"name": "u", "protocol": "UDP", "port": 53}, {"name": "e", "protocol": "TCP", "port": 90}]
    ports[0]["nodePort"] = node_port
    spec = {"type": "NodePort" if node_port else "ClusterIP", "sessionAffinity": "ClientIP" if affinity else "None"}
    spec |= {"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": [family.value for family in FAMILIES], "ports": ports}
    return view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": f"s{number}"}, "spec": spec})


def endpoint_slice(number: int, family: Family, *addresses: str) -> kinds.EndpointSlice:
    ports = [{"name": name, "protocol": protocol, "port": port} for name, protocol, port in (("t", "TCP", 8080), ("u", "UDP", 5353), ("e", "TCP", 9090))]
    metadata = {"namespace": "ns", "name": f"s{number}-{family}", "labels": {"kubernetes.io/service-name": f"s{number}"}}
    endpoints = [{"addresses": [address]} for address in addresses]
    return view_of(kinds.EndpointSlice, {"metadata": metadata, "addressType": family.value, "ports": ports, "endpoints": endpoints})


class Running:
    """One family's sync, on the node of the lab."""

    def __init__(self, lab, family: Family, stack: ExitStack) -> None:
        self.family, self.catalog, node = family, Catalog(), NodeState(Place("node1"))
        node.addresses = {family: (lab.ends[family].node,)}
        ruleset = stack.enter_context(nftables.Nftables(lab.paths["node"]))
        stack.callback(lambda: nftables.apply(ruleset, gone(family, TABLE)))
        with namespaces.entered(lab.paths["node"]):
            conntrack = Conntrack()
        stack.callback(conntrack.close)
        self.make = lambda: FamilySync(
            family, Shape(family, Options(pods=("saddr", lab.ends[family].pods))), ruleset=ruleset, conntrack=conntrack, catalog=self.catalog, node=node,
            metrics=Metrics(CollectorRegistry()), health=FamilyHealth(60, time.time), now=time.time, min_sync_seconds=0, sync_seconds=30,
        )  # fmt: skip
        self.sync = self.make()
        self._slices: dict[int, kinds.EndpointSlice] = {}

    async def endpoints(self, number: int, *addresses: str) -> None:
        after = endpoint_slice(number, self.family, *addresses)
        self.catalog.slice_changed(self._slices.get(number), after)
        self._slices[number] = after
        self.sync.mark(Key("ns", f"s{number}"))
        await self.sync.sync()


@pytest.fixture
async def running(lab, family):
    with ExitStack() as stack:
        one = Running(lab, family, stack)
        one.catalog.service_changed(None, service(1))
        await one.endpoints(1, lab.ends[family].b)
        yield one


async def test_a_connection_outlives_a_restart_and_the_loss_of_its_endpoint(running, lab, family):
    with ExitStack() as stack:
        listening = stack.enter_context(namespaces.socket_in(lab.paths["b"], family.facts.socket_family, socket.SOCK_STREAM))
        listening.bind((lab.ends[family].b, 9090))
        listening.listen()
        client = stack.enter_context(namespaces.socket_in(lab.paths["a"], family.facts.socket_family, socket.SOCK_STREAM))
        for one in (listening, client):
            one.settimeout(3)
        client.connect((IPS[family].format(1), 90))
        server = stack.enter_context(listening.accept()[0])
        server.settimeout(3)

        def still_talks() -> bool:
            client.send(b"ping")
            server.send(server.recv(4))
            return client.recv(4) == b"ping"

        assert still_talks()
        running.sync = running.make()  # a new proxy, which knows nothing of the table that stands
        await running.sync.sync()
        assert still_talks()
        await running.endpoints(1, lab.ends[family].c)
        assert still_talks()
        assert lab.ask("a", "tcp", IPS[family].format(1), 80)[0] == "c"


async def test_a_udp_client_moves_on_when_its_endpoint_is_gone(running, lab, family):
    with namespaces.socket_in(lab.paths["a"], family.facts.socket_family, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((IPS[family].format(1), 53))

        def answer() -> str:
            client.send(b"?")
            return client.recv(100).decode().split()[0]

        assert answer() == "b"
        await running.endpoints(1, lab.ends[family].b, lab.ends[family].c)
        assert answer() == "b", "its endpoint is still there"
        await running.endpoints(1, lab.ends[family].c)
        assert answer() == "c"


async def test_a_udp_client_that_came_too_early_is_served_once_there_is_somebody(running, lab, family):
    await running.endpoints(1)
    with namespaces.socket_in(lab.paths["outside"], family.facts.socket_family, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((IPS[family].format(1), 53))
        client.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        await running.endpoints(1, lab.ends[family].b)
        client.send(b"?")
        assert client.recv(100).decode().split()[0] == "b"


async def test_a_restart_finds_flows_that_went_stale_meanwhile(running, lab, family):
    with namespaces.socket_in(lab.paths["a"], family.facts.socket_family, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((IPS[family].format(1), 53))
        client.send(b"?")
        assert client.recv(100).decode().split()[0] == "b"
        before = endpoint_slice(1, family, lab.ends[family].b)
        running.catalog.slice_changed(before, endpoint_slice(1, family, lab.ends[family].c))  # while no proxy looks
        running.sync = running.make()
        await running.sync.sync()
        client.send(b"?")
        assert client.recv(100).decode().split()[0] == "c"


async def test_nobody_sees_an_error_while_other_services_change(running, lab, family):
    """Services come and go, with affinity and without, with more endpoints than the table has room for; the proxy is begun anew between."""
    await running.endpoints(1, lab.ends[family].b, lab.ends[family].c)
    running.catalog.service_changed(service(1), service(1, node_port=30901))
    running.catalog.service_changed(None, service(2, affinity=True))
    await running.endpoints(2, lab.ends[family].b, lab.ends[family].c)
    await running.endpoints(1, lab.ends[family].b, lab.ends[family].c)
    wrong: list[tuple[str, str]] = []
    done = threading.Event()
    (own,) = {lab.ask("a", "tcp", IPS[family].format(2), 80, timeout=2)[0] for _ in range(5)}
    ways = [
        ("a pod", "a", "tcp", IPS[family].format(1), 80, "bc"), ("a pod by UDP", "a", "udp", IPS[family].format(1), 53, "bc"),
        ("a stranger by the node port", "outside", "tcp", lab.ends[family].node, 30901, "bc"),
        ("a pod that is remembered", "a", "tcp", IPS[family].format(2), 80, own),
    ]  # fmt: skip
    asked = dict.fromkeys((way[0] for way in ways), 0)

    def keep_connecting(who: str, where: str, protocol: str, address: str, port: int, answers: str) -> None:
        while not done.is_set():
            name, _ = lab.ask(where, protocol, address, port, timeout=2)
            asked[who] += 1
            if name not in answers:
                wrong.append((who, name))

    with ExitStack() as stack:
        clients = [threading.Thread(target=keep_connecting, args=way) for way in ways]
        for one in clients:
            one.start()
            stack.callback(one.join)
        stack.callback(done.set)
        for number in range(3, 120):
            running.catalog.service_changed(None, service(number, affinity=number % 3 == 0))
            more = [str(family.address(int(ip_address(lab.ends[family].c)) + i)) for i in range(1, 41)] if number in (40, 41) else []
            await running.endpoints(number, *(lab.ends[family].b, lab.ends[family].c, lab.ends[family].a)[: number % 4], *more)
            if number % 30 == 0:
                running.sync = running.make()
                await running.sync.sync()
            if number > 22:
                running.catalog.service_changed(service(number - 20, affinity=(number - 20) % 3 == 0), None)
                running.sync.mark(Key("ns", f"s{number - 20}"))
    assert wrong == []
    assert min(asked.values()) > 20, "they were at it all the while"
