"""Logs passed on from kubelets, and what the server does on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from twinstack.api.objects import Key
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.changes import Changes, Uids
from twinstack.apiserver.deletions import Deletions
from twinstack.apiserver.upkeep import EVENTS, EventExpiry, compact_now_and_then
from twinstack.client.certificates import self_signed, server_context
from twinstack.store.base import Write
from twinstack.store.memory import MemoryStore

PODS = "/api/v1/namespaces/default/pods"
NODE = {"metadata": {"name": "node1"}}


class Kubelet(NamedTuple):
    """What the kubelet was asked for, and what makes it say more."""

    port: int
    asked: list[str]
    more: asyncio.Queue[bytes | None]


@pytest.fixture
async def kubelet() -> AsyncIterator[Kubelet]:
    """A kubelet's log server, with a certificate of its own making."""
    asked: list[str] = []
    more: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path_qs)
        if "broken" in request.path:
            return web.Response(status=404, text="container not found\n")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while (data := await more.get()) is not None:
            await response.write(data)
        return response

    tls = server_context(self_signed("kubelet", addresses=["127.0.0.1"]))
    server = await asyncio.get_running_loop().create_server(web.Server(handle, access_log=None), "127.0.0.1", 0, ssl=tls)
    yield Kubelet(server.sockets[0].getsockname()[1], asked, more)
    server.close()


async def run_pod(api: Any, kubelet: Kubelet, name: str = "web", containers: tuple[str, ...] = ("main",)) -> None:
    await api.post("/api/v1/nodes", NODE)
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}}}
    assert (await api.patch("/api/v1/nodes/node1/status", {"status": status})).code == 200
    spec = {"nodeName": "node1", "containers": [{"name": one, "image": "twinstack.dev/host:1"} for one in containers]}
    await api.made(PODS, {"metadata": {"name": name}, "spec": spec})


async def test_a_log_comes_from_the_kubelet_of_the_pods_node(api: Any, kubelet: Kubelet) -> None:
    await run_pod(api, kubelet)
    kubelet.more.put_nowait(b"hello\n")
    kubelet.more.put_nowait(None)
    got = await api.get(f"{PODS}/web/log?tailLines=5&timestamps=true&colour=red")
    assert (got.code, got.document) == (200, "hello\n")
    assert kubelet.asked == ["/containerLogs/default/web/main?timestamps=true&tailLines=5"]


async def test_a_followed_log_comes_as_it_is_written_and_ends_with_its_reader(api: Any, kubelet: Kubelet) -> None:
    await run_pod(api, kubelet)
    headers = {"Authorization": "Bearer a-token-for-tests"}
    async with api.session.get(f"{api.url}{PODS}/web/log?follow=true", headers=headers) as response:
        for line in (b"one\n", b"two\n"):
            kubelet.more.put_nowait(line)
            async with asyncio.timeout(5):
                assert await response.content.readline() == line
    kubelet.more.put_nowait(None)


async def test_a_followed_log_ends_when_the_server_stops(api: Any, kubelet: Kubelet) -> None:
    await run_pod(api, kubelet)
    kubelet.more.put_nowait(b"one\n")
    headers = {"Authorization": "Bearer a-token-for-tests"}
    async with api.session.get(f"{api.url}{PODS}/web/log?follow=true", headers=headers) as response:
        assert await response.content.readline() == b"one\n"
        async with asyncio.timeout(3):
            await api.stop()
            assert await response.content.read() == b""
    kubelet.more.put_nowait(None)


async def test_a_log_that_cannot_be_had_says_why(api: Any, kubelet: Kubelet) -> None:
    await run_pod(api, kubelet, containers=("a", "b"))
    for query, code, words in (
        ("", 400, "choose one of: [a b]"),
        ("?container=c", 400, "container c is not valid"),
        ("?container=a&tailLines=-1", 422, "tailLines"),
    ):
        got = await api.get(f"{PODS}/web/log{query}")
        assert (got.code, words in got.message) == (code, True), got.document
    await run_pod(api, kubelet, name="broken")
    got = await api.get(f"{PODS}/broken/log")
    assert (got.code, got.message) == (404, "container not found")
    await api.made(PODS, {"metadata": {"name": "new"}, "spec": {"containers": [{"name": "main", "image": "twinstack.dev/host:1"}]}})
    got = await api.get(f"{PODS}/new/log")
    assert (got.code, "no node yet" in got.message) == (400, True)
    await api.patch("/api/v1/nodes/node1/status", {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}})
    got = await api.get(f"{PODS}/broken/log")
    assert (got.code, got.reason) == (503, "ServiceUnavailable")


# ---- upkeep


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_events_expire_when_nobody_touched_them_for_their_time_to_live() -> None:
    store, cache, clock = MemoryStore(), Cache({}), Clock()
    cache.load(store)
    changes = Changes(cache, store, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    expiry = EventExpiry(cache, Deletions(changes), 60, clock=clock)
    await store.commit([Write("/registry/core/namespaces/a", b'{"metadata":{"name":"a"}}')])
    for name in ("old", "touched"):
        await changes.create(EVENTS, {"metadata": {"name": name}, "involvedObject": {}}, "a")
    clock.now = 50
    await changes.update(EVENTS, Key("a", "touched"), lambda document: {**document, "count": 2})
    clock.now = 70
    assert await expiry.sweep() == 1
    assert list(cache.collections[EVENTS].items) == [Key("a", "touched")]
    clock.now = 120
    assert await expiry.sweep() == 1
    assert await expiry.sweep() == 0


async def test_history_is_compacted_up_to_where_it_stood_one_round_ago() -> None:
    store, cache = MemoryStore(), Cache({})
    cache.load(store)
    await store.commit([Write("/a", b"1")])
    compacting = asyncio.ensure_future(compact_now_and_then(store, cache, seconds=0.005))
    async with asyncio.timeout(5):
        while store.compacted < 1:
            await store.settled()
            await asyncio.sleep(0)
    compacting.cancel()


def test_uids_are_uuids_of_version_4_and_differ() -> None:
    uids = Uids()
    made = {uids.next() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(one) == 36 and one[14] == "4" and one[19] in "89ab" and [at for at, c in enumerate(one) if c == "-"] == [8, 13, 18, 23] for one in made)
