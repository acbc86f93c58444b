"""Clients that are slow, or that send too much, too deep or nonsense: refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twinstack.api.errors import APIError
from twinstack.api.selectors import parse_fields, parse_labels
from twinstack.apiserver import bodies, requests
from twinstack.apiserver.calls import Answer, Call
from twinstack.apiserver.http import HTTPServer

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
AUTH = b"Host: x\r\nAuthorization: Bearer a-token-for-tests\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


@pytest.fixture
async def connect(api: Any) -> AsyncIterator[Connect]:
    """Raw TLS connections to the server."""
    writers: list[asyncio.StreamWriter] = []

    async def open_() -> Streams:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]), ssl=tls)
        writers.append(writer)
        return reader, writer

    yield open_
    for writer in writers:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.fixture
async def impatient() -> AsyncIterator[Connect]:
    """Plain connections to a door that waits a quarter of a second for a head, and half a second for a body."""

    async def respond(call: Call) -> Answer:
        return Answer(200, b"%d" % len(call.body))

    door = HTTPServer(respond, head_seconds=0.25, body_seconds=0.5)
    listening = socket.create_server(("127.0.0.1", 0))
    await door.start([listening], None)
    writers: list[asyncio.StreamWriter] = []

    async def open_() -> Streams:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writers.append(writer)
        return reader, writer

    yield open_
    for writer in writers:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    await door.stop()
    listening.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        [length] = [int(line.partition(":")[2]) for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        body = await reader.readexactly(length)
    # What leads to nothing at all is answered in plain words.
    return int(head.split(" ")[1]), json.loads(body) if "application/json" in head else {}


def is_status(code: int, document: Any, reason: str) -> bool:
    return (document["kind"], document["status"], document["code"], document["reason"]) == ("Status", "Failure", code, reason)


# ---- slow


@pytest.mark.slow
async def test_a_head_that_trickles_in_ends_its_connection_and_no_other(impatient: Connect) -> None:
    slow = [await impatient() for _ in range(50)]
    reader, writer = await impatient()

    async def trickle(stream: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaa":
                stream.write(bytes((byte,)))
                await stream.drain()
                await asyncio.sleep(0.02)

    trickling = [asyncio.ensure_future(trickle(one)) for _, one in slow]
    for _ in range(8):  # longer than a head may take: an idle connection is none that is late
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await answer(reader) == (200, 0)
        await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        for one, _ in slow:
            with contextlib.suppress(ConnectionError):
                assert await one.read() == b""
    await asyncio.gather(*trickling)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await answer(reader) == (200, 0)


@pytest.mark.slow
async def test_a_body_that_does_not_come_is_a_timeout(impatient: Connect) -> None:
    reader, writer = await impatient()
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
    code, document = await answer(reader)
    assert code == 504 and is_status(504, document, "Timeout") and "within 0.5 seconds" in document["message"]
    reader, writer = await impatient()
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
    await asyncio.sleep(0.1)
    writer.write(b"x" * 50)
    assert await answer(reader) == (200, 100)


# ---- too much


@pytest.mark.slow
async def test_ten_megabytes_are_refused_by_their_length_before_they_are_read(api: Any, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (CONFIGMAPS.encode(), AUTH, 10 << 20))
    code, document = await answer(reader)  # not one byte of the body was sent
    assert code == 413 and is_status(413, document, "RequestEntityTooLarge")
    for kind in ("json", "merge-patch+json", "apply-patch+yaml"):
        method, path = ("POST", CONFIGMAPS) if kind == "json" else ("PATCH", f"{CONFIGMAPS}/a?fieldManager=x")
        got = await api.ask(method, path, b'{"data":"' + b"x" * (10 << 20) + b'"}', headers={"Content-Type": f"application/{kind}"})
        assert (got.code, got.reason) == (413, "RequestEntityTooLarge")


async def test_a_compressed_body_is_not_unpacked(api: Any) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 100_000
    got = await api.ask("POST", CONFIGMAPS, bomb, headers={"Content-Encoding": "gzip"})
    assert (got.code, got.reason) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n", id="many headers"),
        pytest.param(b"X: " + b"y" * (1 << 20) + b"\r\n\r\n", id="a long header"),
        pytest.param(b"X" * (1 << 20), id="a name without end"),
    ],
)
async def test_a_flood_of_headers_is_answered_and_hung_up_on(connect: Connect, flood: bytes) -> None:
    reader, writer = await connect()
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET /readyz HTTP/1.1\r\n" + AUTH + flood)
    code, document = await answer(reader)
    assert code == 431 and is_status(431, document, "BadRequest")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""


async def test_what_is_no_http_is_answered_with_a_status(connect: Connect) -> None:
    for garbage in (
        b"GARBAGE\0\1\r\n\r\n",
        b"POST /api HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
    ):
        reader, writer = await connect()
        writer.write(garbage)
        code, document = await answer(reader)
        assert code == 400 and is_status(400, document, "BadRequest"), garbage


# ---- too deep, or nonsense

DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * DEEP, id="lists without end"),
        pytest.param(b"[" * DEEP + b"]" * DEEP, id="lists"),
        pytest.param(b'{"metadata":' * DEEP + b"1" + b"}" * DEEP, id="objects"),
        pytest.param(b'{"metadata":{"name":"a"},"data":{"k":"\xff\xfe"}}', id="no UTF-8"),
        pytest.param(b'{"metadata":{"name":"\xc0\xaf"}}', id="overlong UTF-8"),
        pytest.param(b'{"metadata":{"name":"a"},"data":{"k":"\\ud800"}}', id="half a surrogate"),
        pytest.param(b'{"metadata":{"name":"a"}', id="no end"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 100, id="zeros"),
        pytest.param(b'{"metadata":{"name":"a","labels":' + b'{"x":' * 900 + b"1" + b"}" * 900 + b"}}", id="deep where a text should be"),
    ],
)
async def test_a_body_that_no_decoder_likes_is_a_client_s_failure_by_every_door(api: Any, body: bytes) -> None:
    await api.made(CONFIGMAPS, {"metadata": {"name": "there"}})
    asked = [
        ("POST", CONFIGMAPS, "json"),
        ("POST", CONFIGMAPS, "yaml"),
        ("PUT", f"{CONFIGMAPS}/there", "json"),
        ("POST", CONFIGMAPS, "vnd.kubernetes.protobuf"),
    ]
    kinds = ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")
    asked += [("PATCH", f"{CONFIGMAPS}/there?fieldManager=x", kind) for kind in kinds]
    for method, path, kind in asked:
        got = await api.ask(method, path, body, headers={"Content-Type": f"application/{kind}"})
        assert 400 <= got.code < 500 and got.document["kind"] == "Status", (method, kind, got.code, str(got.document)[:300])
    assert [one["metadata"]["name"] for one in (await api.get(CONFIGMAPS)).document["items"]] == ["there"]


@pytest.mark.parametrize(
    "target",
    [
        b"/api/v1/namespaces/%ff%fe/configmaps",
        b"/api/v1/configmaps?labelSelector=%ff",
        b"/api/v1/configmaps?limit=%00",
        b"/" + b"a/" * 5000,
        b"/%2e%2e/%2e%2e/etc/passwd",
    ],
)
async def test_a_target_of_odd_bytes_is_a_client_s_failure(connect: Connect, target: bytes) -> None:
    reader, writer = await connect()
    writer.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, AUTH))
    code, document = await answer(reader)
    # A namespace of that name has nothing; a list of it is empty.
    assert 400 <= code < 500 or document.get("items") == [], document


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="{}[]:,\"'*&!|>-? \n\tab01.eE+~", max_size=60).map(str.encode))
@example(b"a: &x [1]\nb: *x")
@example(b"? {a: 1}\n: 2")
@example(b"!!python/object:os.system x")
@example(b"1e999")
def test_any_bytes_are_a_document_or_one_of_our_errors(data: bytes) -> None:
    for parse in (
        bodies.parse_json,
        bodies.parse_yaml,
        lambda body: bodies.parse_protobuf(body, "v1", "ConfigMap"),
        lambda body: bodies.parse_protobuf(b"k8s\0" + body, "v1", "Pod"),
    ):
        with contextlib.suppress(APIError):
            parse(data)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "BREW", ""]),
    st.text(alphabet="/%.~apisv1namespacesdefault:é\0", max_size=40),
    st.text(alphabet="watch=labelSelector&%1;+é()!,", max_size=40),
)
def test_any_target_is_a_request_or_one_of_our_errors(method: str, path: str, query: str) -> None:
    for prefix in ("", "/api/v1/", "/apis/apps/v1/namespaces/"):
        with contextlib.suppress(APIError):
            requests.parse(method, prefix + path, query)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="abc/.=!<>(),in notexists\"'é\0", max_size=40))
def test_any_selector_is_one_or_one_of_our_errors(text: str) -> None:
    for parse in (parse_labels, parse_fields):
        with contextlib.suppress(APIError):
            parse(text)


# ---- many


@pytest.mark.slow
async def test_a_thousand_idle_watchers_cost_others_nothing_and_all_are_told(serve: Any, tmp_path: Path) -> None:
    api = await serve(unix_socket=str(tmp_path / "s"))
    watch = b"GET %b?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n" % CONFIGMAPS.encode()
    before = resident()
    watchers: list[Streams] = []
    try:
        for _ in range(1000):
            streams = await asyncio.open_unix_connection(str(tmp_path / "s"))
            streams[1].write(watch)
            watchers.append(streams)
        for reader, _ in watchers:
            await reader.readuntil(b"\r\n\r\n")
        each = (resident() - before) / 1000
        assert each < 100, f"{each:.0f} kB a watcher, with its client's half"
        for number in range(3):
            await api.made(CONFIGMAPS, {"metadata": {"name": f"c{number}"}})
        for reader, _ in watchers:
            async with asyncio.timeout(10):
                for number in range(3):
                    assert b'"name":"c%d"' % number in await reader.readuntil(b"}\n\r\n")
    finally:
        for _, writer in watchers:
            writer.transport.abort()


def resident() -> float:
    """Kilobytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


@pytest.mark.slow
async def test_a_watcher_that_does_not_read_is_ended_and_the_others_hear_of_everything_meanwhile(api: Any) -> None:
    """Twenty that read nothing and one that reads, while 30 MB of events go by."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    loop, waits, deaf = asyncio.get_running_loop(), [], []
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]), ssl=tls, limit=1 << 10)
        writer.write(b"GET %b?watch=1 HTTP/1.1\r\n%b\r\n" % (CONFIGMAPS.encode(), AUTH))
        await reader.readuntil(b"\r\n\r\n")
        deaf.append((reader, writer))
    since = (await api.get(CONFIGMAPS)).document["metadata"]["resourceVersion"]
    async with api.watch(f"{CONFIGMAPS}?resourceVersion={since}") as watch:
        for number in range(60):
            start = loop.time()
            await api.made(CONFIGMAPS, {"metadata": {"name": f"c{number}"}, "data": {"k": "x" * 500_000}})
            told = b""
            while b"\n" not in told:
                async with asyncio.timeout(10):
                    told += await watch.response.content.readany()
            assert b'"name":"c%d"' % number in told
            waits.append(loop.time() - start)
    async with asyncio.timeout(10):
        while "apiserver_longrunning_requests 0.0" not in (await api.get("/metrics")).document:
            pass  # each question lets the server go on; nobody watches any more, whether it has read or not
    for reader, writer in deaf:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(10):
                while await reader.read(1 << 20):
                    pass
        writer.transport.abort()
    print(f"written and told: p50 {sorted(waits)[30] * 1e3:.0f} ms, the longest {max(waits) * 1e3:.0f} ms")
    assert sorted(waits)[30] < 1
