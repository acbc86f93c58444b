"""The HTTP door: whatever bytes come, it answers or hangs up, and serves the next."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
AUTH = b"Host: x\r\nAuthorization: Bearer a-token-for-tests\r\n"

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def connect(api: Any) -> Any:
    """Raw TLS connections to the server."""
    writers: list[asyncio.StreamWriter] = []

    async def open_() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
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


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split(" ")[1]), headers, body


async def test_requests_on_one_connection_are_answered_in_order(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"".join(b"GET %b HTTP/1.1\r\n%b\r\n" % (path, AUTH) for path in (b"/readyz", b"/api/v1/namespaces/default", b"/none", b"/livez")))
    answers = [await answer(reader) for _ in range(4)]
    assert [code for code, _, _ in answers] == [200, 200, 404, 200]
    assert json.loads(answers[1][2])["metadata"]["name"] == "default"


async def test_head_is_get_without_the_body(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"HEAD /readyz HTTP/1.1\r\n%b\r\nGET /livez HTTP/1.1\r\n%b\r\n" % (AUTH, AUTH))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert (await answer(reader))[2] == b"ok"


async def test_a_chunked_body_is_read_whole(connect: Connect) -> None:
    reader, writer = await connect()
    body = json.dumps({"metadata": {"name": "a"}}).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:5], body[5:])) + b"0\r\n\r\n"
    writer.write(b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (CONFIGMAPS.encode(), AUTH, chunks))
    assert (await answer(reader))[0] == 201


async def test_a_chunked_body_without_end_is_cut_at_the_limit(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (CONFIGMAPS.encode(), AUTH))
    for _ in range(4):
        writer.write(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
    code, _, body = await answer(reader)
    assert (code, json.loads(body)["reason"]) == (413, "RequestEntityTooLarge")


async def test_a_client_that_waits_for_100_continue_gets_it(connect: Connect) -> None:
    reader, writer = await connect()
    body = json.dumps({"metadata": {"name": "a"}}).encode()
    writer.write(b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (CONFIGMAPS.encode(), AUTH, len(body)))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await answer(reader))[0] == 201


async def test_an_old_client_is_served_but_not_streamed_to(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"GET /readyz HTTP/1.0\r\n%b\r\n" % AUTH)
    assert (await answer(reader))[0] == 200
    reader, writer = await connect()
    writer.write(b"GET %b?watch=1 HTTP/1.0\r\n%b\r\n" % (CONFIGMAPS.encode(), AUTH))
    assert (await answer(reader))[0] == 400


async def test_garbage_is_answered_and_fills_no_log(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    for garbage in (b"GARBAGE\0\1\r\n\r\n", b"POST /api HTTP/1.1\r\nContent-Length: abc\r\n\r\n"):
        reader, writer = await connect()
        writer.write(garbage)
        assert (await answer(reader))[0] == 400
    assert [record.getMessage() for record in caplog.records if record.name.startswith(("aiohttp", "twinstack"))] == []


async def test_an_absolute_target_is_its_path(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"GET https://anywhere/readyz?verbose HTTP/1.1\r\n%b\r\n" % AUTH)
    code, _, body = await answer(reader)
    assert code == 200 and body.endswith(b"readyz check passed\n")


@pytest.mark.slow
async def test_a_watcher_that_does_not_read_is_cut_and_nobody_waits_for_it(api: Any, connect: Connect) -> None:
    _, writer = await connect()
    await api.made(CONFIGMAPS, {"metadata": {"name": "big"}, "data": {"k": ""}})
    writer.write(b"GET %b?watch=1 HTTP/1.1\r\n%b\r\n" % (CONFIGMAPS.encode(), AUTH))
    await writer.drain()
    writer.transport.pause_reading()
    async with api.watch(CONFIGMAPS) as watch:
        await watch.take(1)
        for number in range(60):
            got = await api.patch(f"{CONFIGMAPS}/big", {"data": {"k": str(number % 10) * 400_000}})
            assert got.code == 200
            assert (await watch.next())["object"]["data"]["k"][0] == str(number % 10)
    metrics = (await api.get("/metrics")).document
    assert 'apiserver_terminated_watchers_total{resource="configmaps"} 1.0' in metrics


VALID = b"POST %b HTTP/1.1\r\n%bContent-Type: application/json\r\nContent-Length: 24\r\n\r\n" % (CONFIGMAPS.encode(), AUTH) + b'{"metadata":{"name":"a"}}'


@pytest.mark.slow
async def test_any_bytes_are_answered_or_hung_up_on_and_the_server_lives(api: Any, connect: Connect) -> None:
    chance = random.Random(5)

    def broken() -> bytes:
        if chance.random() < 0.2:
            return chance.randbytes(chance.randrange(1, 300))
        data = bytearray(VALID)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data))
            if chance.random() < 0.5:
                data[at : at + chance.randrange(5)] = chance.randbytes(chance.randrange(5))
            else:
                data[at] = chance.choice(b"\r\n :;%?\0/{}[]\"'0zA")
        return bytes(data)

    async def one() -> None:
        reader, writer = await connect()
        writer.write(broken() + b"\r\n\r\n")
        writer.write_eof() if writer.can_write_eof() else None
        try:
            async with asyncio.timeout(0.5):
                first = await reader.read(20)
        except (TimeoutError, ConnectionError, ssl.SSLError):
            return
        assert first == b"" or first.startswith(b"HTTP/1."), first
        assert not first.startswith(b"HTTP/1.1 500"), first

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(15)))
    assert (await api.get("/readyz")).document == "ok"
    listed = await api.get(CONFIGMAPS)
    assert listed.code == 200
