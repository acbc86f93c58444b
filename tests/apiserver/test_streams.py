"""Logs and streams passed on from kubelets, and what the server does on its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import WSMsgType, web

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
        if request.path == "/healthz":
            return web.Response(text="ok")
        if "Upgrade" in request.headers:
            return await converse(request)
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


async def converse(request: web.BaseRequest) -> web.StreamResponse:
    """Says every message back, after a word of its own; ``end`` ends it."""
    socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"))
    await socket.prepare(request)
    await socket.send_bytes(b"\1" + str(socket.ws_protocol).encode())
    async for message in socket:
        if message.data == b"end":
            break
        await socket.send_bytes(message.data)
    await socket.close()
    return socket


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


# ---- streams

EXEC = f"{PODS}/web/exec?command=ls&command=-l&stdout=true&stderr=1&stdin=true"
TOLD = "/exec/default/web/main?input=1&output=1&error=1&command=ls&command=-l"


def talk(api: Any, path: str, *protocols: str, method: str = "GET") -> Any:
    return api.session.ws_connect(api.url + path, method=method, protocols=protocols, headers={"Authorization": "Bearer a-token-for-tests"})


@pytest.mark.parametrize(
    ("path", "offered", "told"),
    [
        (EXEC, ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"], TOLD),
        (EXEC, ["v4.channel.k8s.io"], TOLD),
        (f"{PODS}/web/attach?container=main&stdin=1&stdout=1&tty=true", ["v5.channel.k8s.io"], "/attach/default/web/main?input=1&output=1&tty=1"),
        (f"{PODS}/web/portforward", ["SPDY/3.1+portforward.k8s.io"], "/portForward/default/web"),
        (f"{PODS}/web/portforward?ports=80&ports=81", ["v4.channel.k8s.io"], "/portForward/default/web?ports=80&ports=81"),
    ],
)
async def test_a_stream_is_handed_through_to_the_kubelet_and_back(api: Any, kubelet: Kubelet, path: str, offered: list[str], told: str) -> None:
    await run_pod(api, kubelet)
    async with talk(api, path, *offered) as socket, asyncio.timeout(5):
        assert socket.protocol == offered[0]
        assert await socket.receive_bytes() == b"\1" + offered[0].encode()
        for message in (b"", b"\0hello", b"x" * 2_000_000):
            await socket.send_bytes(message)
            assert await socket.receive_bytes() == message
        await socket.send_bytes(b"end")
        assert (await socket.receive()).type is WSMsgType.CLOSE
    assert kubelet.asked == [told]


async def test_a_stream_ends_at_the_kubelet_when_its_client_goes(api: Any, kubelet: Kubelet) -> None:
    await run_pod(api, kubelet)
    for _ in range(3):
        async with talk(api, EXEC, "v5.channel.k8s.io") as socket, asyncio.timeout(5):
            await socket.receive_bytes()
    assert len(kubelet.asked) == 3


async def test_streams_end_when_the_server_stops(api: Any, kubelet: Kubelet) -> None:
    await run_pod(api, kubelet)
    async with talk(api, EXEC, "v5.channel.k8s.io") as socket, asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await socket.receive_bytes()
        tasks.create_task(api.stop())
        assert (await socket.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)


async def test_a_stream_is_counted_and_told_at_its_beginning_and_end(serve: Any, kubelet: Kubelet, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
    api = await serve(audit_log_path=str(tmp_path / "audit.log"), audit_policy_file=str(tmp_path / "policy"))
    await run_pod(api, kubelet)
    async with talk(api, EXEC, "v5.channel.k8s.io") as socket, asyncio.timeout(5):
        await socket.receive_bytes()
        assert "apiserver_longrunning_requests 1.0" in (await api.get("/metrics")).document
    async with asyncio.timeout(5):
        while "apiserver_longrunning_requests 0.0" not in (await api.get("/metrics")).document:
            pass  # each question lets the server go on
    await api.stop()
    events = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines() if "/exec" in line]
    assert [(one["stage"], one.get("responseStatus", {}).get("code"), one["objectRef"]["subresource"]) for one in events] == [
        ("RequestReceived", None, "exec"),
        ("ResponseStarted", 101, "exec"),
        ("ResponseComplete", 101, "exec"),
    ]


async def test_a_stream_that_cannot_be_had_says_why_before_it_begins(api: Any, kubelet: Kubelet) -> None:
    await run_pod(api, kubelet, containers=("a", "b"))
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    v5, old = {**upgrade, "Sec-WebSocket-Protocol": "v5.channel.k8s.io"}, {**upgrade, "Sec-WebSocket-Protocol": "channel.k8s.io"}
    spdy = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
    for method, rest, headers, code, words in (
        ("GET", "web/exec?command=ls&stdout=1", v5, 400, "choose one of: [a b]"),
        ("GET", "web/exec?command=ls&stdout=1&container=c", v5, 400, "container c is not valid"),
        ("GET", "web/exec?container=a&stdout=1", v5, 400, "at least 1 command"),
        ("GET", "web/exec?container=a&command=ls", v5, 400, "at least 1 of stdin, stdout, stderr"),
        ("GET", "web/exec?container=a&command=ls&stdout=1&stderr=1&tty=1", v5, 400, "tty and stderr"),
        ("GET", "web/exec?container=a&command=ls&stdout=1", old, 400, "v5.channel.k8s.io, v4.channel.k8s.io"),
        ("GET", "web/exec?container=a&command=ls&stdout=1", {}, 400, "upgrade to a WebSocket"),
        ("POST", "web/exec?container=a&command=ls&stdout=1", spdy, 400, "SPDY is not spoken here"),
        ("POST", "web/portforward", spdy, 400, "SPDY is not spoken here"),
        ("POST", "gone/exec?container=a&command=ls&stdout=1", spdy, 404, 'pods "gone" not found'),
        ("PUT", "web/exec?container=a&command=ls&stdout=1", v5, 405, "does not allow"),
    ):
        got = await api.ask(method, f"{PODS}/{rest}", headers=headers)
        assert (got.code, words in got.message) == (code, True), (rest, got.document)
    await api.patch("/api/v1/nodes/node1/status", {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}})
    for method, headers in (("GET", v5), ("POST", spdy)):
        got = await api.ask(method, f"{PODS}/web/exec?container=a&command=ls&stdout=1", headers=headers)
        assert (got.code, got.reason) == (503, "ServiceUnavailable"), "an old client is told what really is the matter"
    await api.made(PODS, {"metadata": {"name": "new"}, "spec": {"containers": [{"name": "main", "image": "twinstack.dev/host:1"}]}})
    got = await api.ask("GET", f"{PODS}/new/portforward", headers={**upgrade, "Sec-WebSocket-Protocol": "v4.channel.k8s.io"})
    assert (got.code, "host assigned" in got.message) == (400, True)


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
