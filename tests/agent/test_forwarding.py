"""Forwarded ports: SPDY and channels on one side, servers on a pod's loopback on the other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from twinstack.agent import forwarding
from twinstack.api import spdy
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.family import FAMILIES, Family

pytestmark = pytest.mark.kernel


class Client:
    """The far end of a tunnel."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.writer, self.reader = spdy.Writer(), spdy.Reader()
        self.frames: list[spdy.Frame] = []
        self.raw: list[bytes] = []
        self.news = asyncio.Event()

    async def receive(self) -> bytes | None:
        return await self.sent.get()

    async def send(self, message: bytes) -> None:
        self.raw.append(message)
        self.news.set()

    async def close(self) -> None:
        self.sent.put_nowait(None)

    def say(self, *messages: bytes) -> None:
        for message in messages:
            self.sent.put_nowait(message)

    def open(self, request: int, port: int | str) -> tuple[int, int]:
        """Open a connection's two streams, as kubectl does; their numbers."""
        error, data = 4 * request + 1, 4 * request + 3
        headers = {"port": str(port), "requestid": str(request)}
        self.say(self.writer.open(error, {"streamtype": "error", **headers}), spdy.data(error, b"", fin=True))
        self.say(self.writer.open(data, {"streamtype": "data", **headers}))
        return error, data

    async def until(self, holds) -> None:
        async with asyncio.timeout(10):
            while True:
                for message in self.raw:
                    self.frames.extend(self.reader.feed(message))
                self.raw.clear()
                if holds():
                    return
                self.news.clear()
                await self.news.wait()

    def heard(self, stream: int) -> bytes:
        return b"".join(frame.data for frame in self.frames if isinstance(frame, spdy.Data) and frame.stream == stream)

    def over(self, stream: int) -> bool:
        return any(isinstance(frame, spdy.Data) and frame.stream == stream and frame.fin for frame in self.frames)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says everything back until the other side has ended, then bye."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"bye")
    writer.close()


@pytest.fixture
def pod(netns: str) -> str:
    """A network namespace whose loopback is up."""
    with Netlink(netns) as kernel:
        kernel.change_link("lo", up=True)
        kernel.commit()
    return netns


@asynccontextmanager
async def serving(netns: str, family: Family, port: int, handler=echo) -> AsyncIterator[None]:
    one = namespaces.socket_in(netns, family.facts.socket_family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((family.facts.loopback, port))
    server = await asyncio.start_server(handler, sock=one)
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def tunnel(netns: str) -> AsyncIterator[Client]:
    client = Client()
    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        tasks.create_task(forwarding.tunnel(client, partial(forwarding.connect, netns)))
        yield client
        await client.close()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_a_port_is_reached_in_whichever_family_it_listens(pod, family):
    async with serving(pod, family, 8080), tunnel(pod) as client:
        error, data = client.open(0, 8080)
        client.say(spdy.data(data, b"hello"))
        await client.until(lambda: client.heard(data) == b"hello")
        client.say(spdy.data(data, b"", fin=True))
        await client.until(lambda: client.over(data) and client.over(error))
        assert client.heard(data) == b"hellobye"
        assert client.heard(error) == b""


async def test_a_port_where_nobody_listens_is_told_with_what_each_family_answered(pod):
    async with tunnel(pod) as client:
        error, data = client.open(0, 9)
        await client.until(lambda: client.over(data) and client.over(error))
        assert client.heard(error).decode() == "port 9 cannot be reached in the pod: 127.0.0.1: Connection refused, ::1: Connection refused"


async def test_many_connections_do_not_mix(pod):
    async with serving(pod, FAMILIES[1], 8080), tunnel(pod) as client:
        streams = [client.open(number, 8080)[1] for number in range(50)]
        for stream in streams:
            client.say(spdy.data(stream, b"%d " % stream * 20000), spdy.data(stream, b"", fin=True))
        await client.until(lambda: all(client.over(stream) for stream in streams))
        for stream in streams:
            assert client.heard(stream) == b"%d " % stream * 20000 + b"bye"


async def until_ended(ended: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that greets, and tells when its client has gone."""
    writer.write(b"here")
    with contextlib.suppress(OSError):
        await reader.read()
    writer.close()
    ended.set()


async def test_a_stream_that_is_reset_ends_its_connection(pod):
    ended = asyncio.Event()
    async with serving(pod, FAMILIES[0], 8080, partial(until_ended, ended)), tunnel(pod) as client:
        _, early = client.open(0, 8080)
        client.say(spdy.reset(early, spdy.CANCEL), spdy.data(early, b"late"))
        _, data = client.open(1, 8080)
        await client.until(lambda: client.heard(data) == b"here")
        client.say(spdy.reset(data, spdy.CANCEL), spdy.data(data, b"late"))
        async with asyncio.timeout(5):
            await ended.wait()
        client.say(spdy.ping(3))
        await client.until(lambda: spdy.Ping(3) in client.frames)


async def test_when_the_client_goes_its_connections_end(pod):
    ended = asyncio.Event()
    async with serving(pod, FAMILIES[0], 8080, partial(until_ended, ended)):
        async with tunnel(pod) as client:
            _, data = client.open(0, 8080)
            await client.until(lambda: client.heard(data) == b"here")
        async with asyncio.timeout(5):
            await ended.wait()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"streamtype": "data", "port": "80"},
        {"streamtype": "data", "port": "0", "requestid": "1"},
        {"streamtype": "data", "port": "65536", "requestid": "1"},
        {"streamtype": "data", "port": "http", "requestid": "1"},
        {"streamtype": "other", "port": "80", "requestid": "1"},
    ],
)
async def test_a_stream_that_makes_no_sense_is_refused_and_the_others_go_on(pod, headers):
    async with tunnel(pod) as client:
        client.say(client.writer.open(1, headers), spdy.ping(5))
        await client.until(lambda: spdy.Ping(5) in client.frames)
        assert client.frames == [spdy.Reset(1), spdy.Ping(5)]


async def test_what_is_no_spdy_ends_the_tunnel():
    client = Client()
    client.say(b"\x80\x02\0\1\0\0\0\0")
    with pytest.raises(ExceptionGroup) as raised:
        await forwarding.tunnel(client, partial(forwarding.connect, ""))
    assert raised.group_contains(spdy.SPDYError)


async def test_a_connection_that_takes_nothing_holds_up_the_client_and_not_the_memory(pod):
    go_on = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await echo(reader, writer)

    async with serving(pod, FAMILIES[0], 8080, handler), tunnel(pod) as client:
        _, data = client.open(0, 8080)
        for _ in range(400):
            client.say(spdy.data(data, bytes(32 << 10)))
        client.say(spdy.data(data, b"", fin=True))
        await asyncio.sleep(0.2)
        assert client.sent.qsize() > 50, "what nobody takes is not read"
        go_on.set()
        await client.until(lambda: client.over(data))
        assert len(client.heard(data)) == 400 * (32 << 10) + 3


async def test_ports_are_forwarded_by_channels_too(pod):
    client = Client()
    async with serving(pod, FAMILIES[1], 8080), asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        work = tasks.create_task(forwarding.channelled(client, [8080, 9], partial(forwarding.connect, pod)))
        client.say(b"\0hello", b"\1nobody hears this", b"\x08nor this", b"")
        while len(client.raw) < 6:
            client.news.clear()
            await client.news.wait()
        assert set(client.raw[:4]) == {b"\0" + (8080).to_bytes(2, "little"), b"\1" + (8080).to_bytes(2, "little"), b"\2\x09\0", b"\3\x09\0"}
        assert {message[:6] for message in client.raw[4:]} == {b"\0hello", b"\3port "}
        assert not work.done()
        await client.close()
