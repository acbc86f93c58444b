"""The proxy at an API server that is not ours: how it begins, how it lists, who it is, and what becomes of it when the server breaks off."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import msgspec
import pytest

from tests.proxy.foreign import Foreign
from tests.proxy.test_proxy import Told
from twinstack.client.certificates import issue, new_authority
from twinstack.client.tls import server_context
from twinstack.dataplane.ruleset import Goto
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy import proxy
from twinstack.proxy.settings import Settings

pytestmark = pytest.mark.slow

SERVICES, SLICES, NODES = "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/nodes"
IPS = {Family.IPV4: ("10.96.0.{}", "10.1.0.{}"), Family.IPV6: ("fd00:96::{:x}", "fd00:1::{:x}")}


def service(number: int) -> dict:
    ips = [IPS[family][0].format(number) for family in FAMILIES]
    spec = {"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": [family.value for family in FAMILIES], "ports": [{"port": 80, "protocol": "TCP"}]}
    return {"metadata": {"name": f"s{number}"}, "spec": {**spec, "type": "ClusterIP"}, "status": {"loadBalancer": {}}}


def endpoint_slice(number: int, family: Family, *endpoints: int) -> dict:
    return {
        "metadata": {"name": f"s{number}-{family.value.lower()}", "labels": {"kubernetes.io/service-name": f"s{number}"}}, "addressType": family.value,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [IPS[family][1].format(one)], "conditions": {"ready": True}} for one in endpoints],
    }  # fmt: skip


NODE = {
    "metadata": {"name": "node1"}, "spec": {},
    "status": {"addresses": [{"type": "InternalIP", "address": address} for address in ("192.0.2.7", "2001:db8::7")]},
}  # fmt: skip


async def fill(server: Foreign, services: int) -> None:
    await server.put(NODES, NODE)
    for number in range(1, services + 1):
        await server.put(SERVICES, service(number))
        for family in FAMILIES:
            await server.put(SLICES, endpoint_slice(number, family, 1, 2))


@pytest.fixture
async def proxies(tmp_path):
    """Starts a proxy for a server; gives its kernel."""
    async with AsyncExitStack() as stack:

        async def start(server: Foreign, *, user: dict | None = None, tls=None, authority: bytes = b"") -> Told:
            port = await stack.enter_async_context(server.serving(tls))
            cluster = {"server": f"{'https' if tls else 'http'}://127.0.0.1:{port}"}
            if authority:
                (tmp_path / "ca.crt").write_bytes(authority)
                cluster["certificate-authority"] = str(tmp_path / "ca.crt")
            (tmp_path / "kubeconfig").write_bytes(msgspec.yaml.encode({
                "apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": cluster}], "users": [{"name": "x", "user": user or {}}],
            }))  # fmt: skip
            kernel, ready = Told(), asyncio.Event()
            settings = Settings(
                kubeconfig=str(tmp_path / "kubeconfig"),
                hostname_override="node1",
                min_sync_period_seconds=0.0,
                healthz_bind_address="",
                metrics_bind_address="",
            )
            task = asyncio.ensure_future(proxy.run(settings, ready=ready.set, ruleset=kernel))

            async def stop() -> None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

            stack.push_async_callback(stop)
            waiting = asyncio.ensure_future(ready.wait())
            async with asyncio.timeout(30):
                await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
            assert not task.done(), task.exception()
            return kernel

        yield start


def picks(kernel: Told, number: int) -> set[object]:
    return {kernel.elements(family, "services").get((IPS[family][0].format(number), "tcp", 80)) for family in FAMILIES}


async def change(server: Foreign, number: int, *endpoints: int) -> None:
    for family in FAMILIES:
        await server.put(SLICES, endpoint_slice(number, family, *endpoints))


BEGINNINGS = [
    pytest.param({"initial": "streamed"}, True, id="it streams the beginning (WatchList)"),
    pytest.param({"initial": "forbidden"}, False, id="it forbids that: the gate is off"),
    pytest.param({"initial": "unknown"}, False, id="it has never heard of that: an old release"),
    pytest.param({"initial": "forbidden", "page": 3}, False, id="it lists in pages"),
    pytest.param({"initial": "streamed", "bookmarks": False}, True, id="it sends no other bookmarks"),
]


@pytest.mark.parametrize("server, streamed", BEGINNINGS)
async def test_it_begins_whichever_way_the_server_knows_and_follows(proxies, server, streamed):
    one = Foreign(**server)
    await fill(one, 7)
    kernel = await proxies(one)
    assert all(picks(kernel, number) == {Goto("pick-2")} for number in range(1, 8))
    lists = [query for path, query in one.asked if path == f"GET {SERVICES}" and not query.get("watch")]
    assert (lists == []) is streamed
    assert len(lists) == (0 if streamed else 3 if server.get("page") else 1)
    asked = next(query for path, query in one.asked if path == f"GET {SERVICES}")
    assert (asked["labelSelector"], asked["fieldSelector"]) == ("!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None")
    await change(one, 3, 1, 2, 5)
    await kernel.until(lambda: picks(kernel, 3) == {Goto("pick-3")})
    await one.put(SERVICES, service(4), "DELETED")
    await kernel.until(lambda: picks(kernel, 4) == {None})


async def test_a_list_that_expires_between_two_pages_is_begun_again(proxies):
    server = Foreign(initial="forbidden", page=2)
    server.expire_continues = 2
    await fill(server, 5)
    kernel = await proxies(server)
    assert all(picks(kernel, number) == {Goto("pick-2")} for number in range(1, 6))


async def test_what_happened_while_the_connection_was_broken_is_read_on_from_the_last_revision(proxies):
    server = Foreign()
    await fill(server, 3)
    kernel = await proxies(server)
    server.asked.clear()
    server.hang_up()
    await change(server, 1, 1)
    await kernel.until(lambda: picks(kernel, 1) == {Goto("pick-1")})
    again = [query for path, query in server.asked if path == f"GET {SLICES}"]
    assert again and all("sendInitialEvents" not in query and int(query["resourceVersion"]) >= 100 for query in again)


async def test_what_happened_meanwhile_and_was_forgotten_is_read_anew(proxies):
    """410 within the watch, as upstream says it: deletions in the gap are found by comparing."""
    server = Foreign()
    await fill(server, 4)
    kernel = await proxies(server)
    server.hang_up()
    await server.put(SERVICES, service(2), "DELETED")
    await change(server, 1, 1, 2, 3)
    server.log.clear()
    server.forget()
    await kernel.until(lambda: picks(kernel, 2) == {None} and picks(kernel, 1) == {Goto("pick-3")})
    await change(server, 1, 9)
    await kernel.until(lambda: picks(kernel, 1) == {Goto("pick-1")})


async def test_a_watch_that_breaks_off_within_an_event_loses_nothing(proxies):
    server = Foreign()
    await fill(server, 2)
    kernel = await proxies(server)
    server.breaks = 3
    await change(server, 2, 4)
    await kernel.until(lambda: picks(kernel, 2) == {Goto("pick-1")})
    assert server.breaks == 0


async def test_a_server_without_service_cidrs_is_served_without(proxies):
    server = Foreign(cidrs=False)
    await fill(server, 1)
    kernel = await proxies(server)
    assert any("servicecidrs" in path for path, _ in server.asked)
    assert not kernel.elements(Family.IPV4, "service-ranges") and picks(kernel, 1) == {Goto("pick-2")}


@pytest.mark.parametrize("how", ["token", "token file", "client certificate"])
async def test_it_is_who_the_kubeconfig_says(proxies, tmp_path, how):
    authority = new_authority("ca")
    tls = server_context(issue(authority, common_name="server", addresses=["127.0.0.1"], server=True), client_authorities=authority.certificate)
    pair = issue(authority, common_name="system:kube-proxy", client=True)
    for name, data in (("token", b"secret\n"), ("crt", pair.certificate), ("key", pair.key)):
        (tmp_path / name).write_bytes(data)
    user = {
        "token": {"token": "secret"}, "token file": {"tokenFile": str(tmp_path / "token")},
        "client certificate": {"client-certificate": str(tmp_path / "crt"), "client-key": str(tmp_path / "key")},
    }[how]  # fmt: skip
    server = Foreign(token="" if "cert" in how else "secret", certificates="cert" in how)
    await fill(server, 1)
    kernel = await proxies(server, user=user, tls=tls, authority=authority.certificate)
    assert picks(kernel, 1) == {Goto("pick-2")}
    async with asyncio.timeout(10):
        event = await server.events.get()
    assert event["reason"] == "Starting" and event["involvedObject"]["name"] == "node1"
