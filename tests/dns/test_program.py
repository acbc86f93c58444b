"""The program against the real API server, which it follows; and that it answers before it knows."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import dns.asyncquery
import dns.message
import dns.rcode
import dns.reversename
import pytest
import yaml

from twinstack.api import kinds
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_KIND, resource_of
from twinstack.apiserver import app
from twinstack.apiserver.settings import Settings as ServerSettings
from twinstack.client.client import Client
from twinstack.client.kubeconfig import load
from twinstack.dns.dns import run
from twinstack.dns.settings import Settings
from twinstack.net.family import FAMILIES

pytestmark = pytest.mark.slow

D = "cluster.local."
SECONDS = 60  # a busy disk or processor may keep either server for long; nothing waits for so long where all is well


class Lookup:
    """A client of the API server and of the DNS server."""

    def __init__(self, client: Client, port: int, health: int) -> None:
        self.client, self.port, self.health = client, port, health

    async def ask(self, name: str, type_: str, server: str = "::1") -> list[str]:
        """The data found, or the code if there is none."""
        message = await dns.asyncquery.udp(dns.message.make_query(name, type_, use_edns=0), server, SECONDS, self.port)
        return sorted(one.to_text() for record in message.answer for one in record) or [dns.rcode.to_text(message.rcode())]

    async def until(self, name: str, type_: str, wanted: list[str]) -> None:
        """Wait until this is the answer."""
        deadline = time.monotonic() + SECONDS
        while (found := await self.ask(name, type_)) != wanted:
            assert time.monotonic() < deadline, f"{name} {type_} is {found}, not {wanted}"

    async def put(self, document: Document) -> Document:
        return await self.client.create(BY_KIND[document["apiVersion"], document["kind"]], document)


@asynccontextmanager
async def running(tmp_path: Any, free_port: Callable[[], int], **flags: Any) -> AsyncIterator[Lookup]:
    """An API server and the DNS server in this event loop."""
    (tmp_path / "tokens").write_text('secret,admin,1,"system:masters"\n')
    listener = socket.create_server(("127.0.0.1", 0))
    served, named = asyncio.Event(), asyncio.Event()
    api = ServerSettings(
        data_dir=str(tmp_path / "data"),
        store="memory",
        secure_port=0,
        token_auth_file=str(tmp_path / "tokens"),
        service_cluster_ip_range="10.96.0.0/16,fd00:10:96::/112",
        sockets=(listener,),
    )
    server = f"https://127.0.0.1:{listener.getsockname()[1]}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "current-context": "a",
                "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                "clusters": [{"name": "a", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "a", "user": {"token": "secret"}}],
            }
        )
    )
    health = free_port()
    settings = Settings(
        kubeconfig=str(kubeconfig),
        bind_addresses=tuple(family.facts.loopback for family in FAMILIES),
        port=free_port(),
        health_port=health,
        ready_port=health,
        metrics_port=health,
        **{"forward": ("none",), **flags},
    )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(app.run(api, ready=served.set))]
        await served.wait()
        tasks.append(group.create_task(run(settings, ready=named.set)))
        await asyncio.wait_for(named.wait(), SECONDS)
        async with Client(load(kubeconfig), user_agent="test") as client:
            yield Lookup(client, settings.port, health)
        for task in reversed(tasks):
            task.cancel()


def service(name: str, **spec: Any) -> Document:
    whole = {"ports": [{"name": "http", "port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": whole}


def slice_of(name: str, family: str, *addresses: str, ready: bool = True) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": f"{name}-{family.lower()}", "labels": {"kubernetes.io/service-name": name}},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
    }


async def test_names_follow_services_slices_and_namespaces(tmp_path: Any, free_port: Callable[[], int]) -> None:
    async with running(tmp_path, free_port, reverse_cidrs="10.96.0.0/16,fd00:10:96::/112") as lookup:
        assert await lookup.ask(f"kubernetes.default.svc.{D}", "A") == ["10.96.0.1"]
        assert await lookup.ask(f"kubernetes.default.svc.{D}", "AAAA") == ["NOERROR"]
        made = await lookup.put(service("web", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"]))
        six, four = made["spec"]["clusterIPs"]
        for type_, text in (("AAAA", six), ("A", four)):
            await lookup.until(f"web.default.svc.{D}", type_, [text])
            assert await lookup.ask(dns.reversename.from_address(text).to_text(), "PTR") == [f"web.default.svc.{D}"]
        await lookup.client.patch(
            resource_of(kinds.Service), Key("default", "web"), {"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"], "clusterIPs": [six]}}
        )
        await lookup.until(f"web.default.svc.{D}", "A", ["NOERROR"])
        assert await lookup.ask(f"web.default.svc.{D}", "AAAA") == [six]
        assert await lookup.ask(dns.reversename.from_address(four).to_text(), "PTR") == ["NXDOMAIN"]

        await lookup.put(service("db", clusterIP="None", ipFamilyPolicy="PreferDualStack"))
        assert await lookup.ask(f"db.default.svc.{D}", "A") == ["NXDOMAIN"]
        await lookup.put(slice_of("db", "IPv4", "10.244.0.5", "10.244.0.6"))
        await lookup.until(f"db.default.svc.{D}", "A", ["10.244.0.5", "10.244.0.6"])
        assert await lookup.ask(f"db.default.svc.{D}", "AAAA") == ["NOERROR"]
        await lookup.put(slice_of("db", "IPv6", "fd00:10:244::5"))
        await lookup.until(f"db.default.svc.{D}", "AAAA", ["fd00:10:244::5"])
        await lookup.client.delete(resource_of(kinds.EndpointSlice), Key("default", "db-ipv4"))
        await lookup.until(f"db.default.svc.{D}", "A", ["NOERROR"])
        await lookup.client.delete(resource_of(kinds.Service), Key("default", "db"))
        await lookup.until(f"db.default.svc.{D}", "AAAA", ["NXDOMAIN"])

        await lookup.until(f"fresh.svc.{D}", "A", ["NXDOMAIN"])
        await lookup.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fresh"}})
        await lookup.until(f"fresh.svc.{D}", "A", ["NOERROR"])
        assert await lookup.ask(f"10-1-2-3.fresh.pod.{D}", "A", "127.0.0.1") == ["10.1.2.3"]


async def test_a_dead_family_is_hidden_and_comes_back(tmp_path: Any, free_port: Callable[[], int]) -> None:
    async with running(tmp_path, free_port, hide_dead_families=True) as lookup:
        made = await lookup.put(service("web", ipFamilyPolicy="RequireDualStack"))
        four, six = made["spec"]["clusterIPs"]
        await lookup.until(f"web.default.svc.{D}", "AAAA", [six])
        await lookup.put(slice_of("web", "IPv4", "10.244.0.5"))
        await lookup.until(f"web.default.svc.{D}", "AAAA", ["NOERROR"])
        await lookup.put(slice_of("web", "IPv6", "fd00:10:244::5"))
        await lookup.until(f"web.default.svc.{D}", "AAAA", [six])
        assert await lookup.ask(f"web.default.svc.{D}", "A") == [four]


async def test_names_of_pods_are_those_of_pods_that_run_where_they_are_verified(tmp_path: Any, free_port: Callable[[], int]) -> None:
    async with running(tmp_path, free_port, pods="verified") as lookup:
        assert await lookup.ask(f"10-244-0-5.default.pod.{D}", "A") == ["NXDOMAIN"]
        await lookup.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": "default", "name": "p"},
                "spec": {"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": False},
            }
        )
        status = {"phase": "Running", "podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]}
        await lookup.client.patch(resource_of(kinds.Pod), Key("default", "p"), {"status": status}, subresource="status", kind="strategic")
        await lookup.until(f"10-244-0-5.default.pod.{D}", "A", ["10.244.0.5"])
        assert await lookup.ask(f"fd00--5.default.pod.{D}", "AAAA") == ["fd00::5"]


async def test_health_readiness_and_figures_are_served(tmp_path: Any, free_port: Callable[[], int]) -> None:
    async with running(tmp_path, free_port) as lookup, aiohttp.ClientSession() as http:
        await lookup.ask(f"kubernetes.default.svc.{D}", "A")
        for host in ("127.0.0.1", "[::1]"):
            for path in ("health", "ready"):
                async with http.get(f"http://{host}:{lookup.health}/{path}") as answer:
                    assert (answer.status, await answer.text()) == (200, "OK")
        async with http.get(f"http://127.0.0.1:{lookup.health}/metrics") as answer:
            text = await answer.text()
    assert 'coredns_dns_requests_total{family="2"' in text and "coredns_kubernetes_last_programmed_timestamp_seconds 1" in text


async def test_while_the_api_server_is_away_our_names_fail_and_others_are_answered(tmp_path: Any, free_port: Callable[[], int]) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"server": f"https://127.0.0.1:{free_port()}", "insecure-skip-tls-verify": True}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "current-context": "a",
                "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                "clusters": [{"name": "a", "cluster": cluster}],
                "users": [{"name": "a", "user": {"token": "secret"}}],
            }
        )
    )
    bound: asyncio.Future[list[tuple[str, int]]] = asyncio.get_running_loop().create_future()
    health = free_port()
    settings = Settings(
        kubeconfig=str(kubeconfig), bind_addresses=("::1",), port=0, forward=("none",), health_port=health, ready_port=health, metrics_port=None
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(settings, bound=bound.set_result))
        ((_, port),) = await bound
        for name, code in ((f"web.default.svc.{D}", dns.rcode.SERVFAIL), ("example.com.", dns.rcode.REFUSED)):
            assert (await dns.asyncquery.udp(dns.message.make_query(name, "A"), "::1", SECONDS, port)).rcode() == code
        async with aiohttp.ClientSession() as http:
            for path, status in (("health", 200), ("ready", 503)):
                async with http.get(f"http://[::1]:{health}/{path}") as answer:
                    assert answer.status == status
        task.cancel()
