"""The wire, without anything behind it: a door that answers with what it is told to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from twinstack.api.channels import Socket
from twinstack.apiserver.calls import Answer, Call, Reaction, Rest, Stream, Streamed, Upgraded
from twinstack.apiserver.http import HTTPServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Door:
    """A door on a port of its own; ``/name`` is answered by the function of that name."""

    def __init__(self) -> None:
        self.made = 0  # how often a long body was made
        self.go_on = asyncio.Event()
        self.server = HTTPServer(self.respond, take_seconds=1.0)

    def respond(self, call: Call) -> Reaction | Awaitable[Reaction]:
        found: Reaction | Awaitable[Reaction] = getattr(self, call.path[1:] or "root")(call)
        return found

    def root(self, call: Call) -> Answer:
        return Answer(200, call.body or call.query.encode())

    def long(self, call: Call) -> Answer:
        """Ten megabytes, of which no piece is like another."""

        def pieces() -> Iterator[bytes]:
            self.made += 1
            for number in range(100):
                yield b"%02d" % number * 50_000

        return Answer(200, b"head", version=call.query, rest=Rest(100 * 100_000, pieces))

    async def later(self, call: Call) -> Answer:
        await self.go_on.wait()
        return Answer(200, b"late")

    def stream(self, call: Call) -> Streamed:
        async def run(stream: Stream) -> None:
            await stream.send(b"begun")
            while not await stream.ended(60):
                pass
            await stream.send(b"over")

        return Streamed("text/plain", run)

    def talk(self, call: Call) -> Upgraded:
        async def run(talk: Socket) -> None:
            while (message := await talk.receive()) is not None:
                if message == b"end":
                    return
                await talk.send(message[::-1])

        return Upgraded("SPDY/3.1+portforward.k8s.io", run)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    listening = socket.create_server(("127.0.0.1", 0))
    made.port = listening.getsockname()[1]  # type: ignore[attr-defined]
    await made.server.start([listening], None)
    yield made
    made.go_on.set()
    await made.server.stop()
    listening.close()


@pytest.fixture
async def connect(door: Any) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    writers: list[asyncio.StreamWriter] = []

    async def open_() -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writers.append(writer)
        return reader, writer

    yield open_
    for writer in writers:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def head_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    async with asyncio.timeout(10):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    code, headers = await head_of(reader)
    async with asyncio.timeout(10):
        return code, await reader.readexactly(int(headers["content-length"]))


def asked(target: str, *headers: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: x", *headers, *([f"Content-Length: {len(body)}"] if body else ())]
    return "\r\n".join((*lines, "", "")).encode() + body


# ---- one connection, many requests


@pytest.mark.slow
async def test_thousands_of_requests_at_once_are_answered_in_their_order(connect: Any) -> None:
    reader, writer = await connect()
    writer.write(b"".join(asked(f"/?{number}") for number in range(5000)))
    for number in range(5000):
        assert await answer(reader) == (200, b"%d" % number)


@pytest.mark.slow
async def test_who_waits_behind_another_is_not_read_from_for_ever(door: Door, connect: Any) -> None:
    _, writer = await connect()
    writer.write(asked("/later") + asked("/?x") * 200_000)  # which are 7 MB
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await writer.drain()
    writer.transport.abort()


async def test_what_waits_behind_another_is_answered_after_it(door: Door, connect: Any) -> None:
    reader, writer = await connect()
    writer.write(asked("/later") + b"".join(asked(f"/?{number}") for number in range(100)))
    door.go_on.set()
    assert await answer(reader) == (200, b"late")
    for number in range(100):
        assert await answer(reader) == (200, b"%d" % number)


async def test_a_refusal_waits_for_the_answers_before_it(door: Door, connect: Any) -> None:
    reader, writer = await connect()
    writer.write(asked("/later") + asked("/?1") + b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
    door.go_on.set()
    assert [(await answer(reader))[0] for _ in range(3)] == [200, 200, 413]
    assert await reader.read() == b""


async def test_a_client_that_asks_for_the_end_gets_it_after_its_answer(connect: Any) -> None:
    for request in (asked("/?a", "Connection: close"), asked("/?a", version="1.0")):
        reader, writer = await connect()
        writer.write(request + asked("/?b"))
        code, headers = await head_of(reader)
        assert (code, headers["connection"]) == (200, "close")
        assert await reader.read() == b"a"


async def test_an_upgrade_that_is_not_ours_is_answered_as_if_it_had_not_been_asked_for(connect: Any) -> None:
    reader, writer = await connect()
    writer.write(asked("/?a", "Connection: Upgrade", "Upgrade: h2c") + asked("/?b"))
    assert await answer(reader) == (200, b"a")
    assert await answer(reader) == (200, b"b")


async def test_an_upgrade_with_a_body_is_refused_for_its_body_could_be_taken_for_a_request(connect: Any) -> None:
    reader, writer = await connect()
    writer.write(asked("/", "Connection: Upgrade", "Upgrade: h2c", method="POST", body=asked("/?smuggled")))
    assert (await answer(reader))[0] == 400
    assert await reader.read() == b""


# ---- long answers


async def test_a_long_answer_is_made_as_it_is_taken(door: Door, connect: Any) -> None:
    reader, writer = await connect()
    writer.write(asked("/long", method="HEAD"))
    code, headers = await head_of(reader)
    assert (code, headers["content-length"], door.made) == (200, "10000004", 0)
    writer.write(asked("/long") + asked("/?next"))
    code, body = await answer(reader)
    assert (code, door.made) == (200, 1)
    assert body == b"head" + b"".join(b"%02d" % number * 50_000 for number in range(100))
    assert await answer(reader) == (200, b"next")


@pytest.mark.slow
async def test_who_asks_for_the_same_gets_what_was_packed_once(door: Door, connect: Any) -> None:
    async def packed(version: str) -> bytes:
        reader, writer = await connect()
        writer.write(asked(f"/long?{version}", "Accept-Encoding: gzip"))
        return gzip.decompress((await answer(reader))[1])

    same = await asyncio.gather(*(packed("1") for _ in range(4)))
    assert len(set(same)) == 1 and len(same[0]) == 10_000_004
    assert (await packed("1"), door.made) == (same[0], 1)
    await packed("2")
    await packed("")
    await packed("")  # of what has no version nothing is known
    assert door.made == 4


@pytest.mark.slow
async def test_who_takes_nothing_of_an_answer_is_cut_and_who_is_slow_is_not(door: Door, connect: Any) -> None:
    reader, writer = await connect()
    stuck, stuck_writer = await connect()
    stuck_writer.transport.pause_reading()
    for one in (writer, stuck_writer):
        one.write(asked("/long"))
    async with asyncio.timeout(20):
        rest = 10_000_004
        await head_of(reader)
        while rest:
            taken = await reader.read(1_000_000)
            assert taken
            rest -= len(taken)
            await asyncio.sleep(0.05)  # in all longer than whoever takes nothing is given
        stuck_writer.transport.resume_reading()
        with contextlib.suppress(ConnectionError):
            assert len(await stuck.read()) < 10_000_000
    writer.write(asked("/?next"))
    assert await answer(reader) == (200, b"next")


# ---- the end


async def test_a_server_that_stops_lets_what_is_under_way_end_well(door: Door, connect: Any) -> None:
    (late, late_writer), (stream, stream_writer), (idle, _) = [await connect() for _ in range(3)]
    late_writer.write(asked("/later"))
    stream_writer.write(asked("/stream"))
    await head_of(stream)
    async with asyncio.timeout(10):
        assert await stream.readuntil(b"begun\r\n") == b"5\r\nbegun\r\n"
        stopping = asyncio.ensure_future(door.server.stop())
        assert await idle.read() == b""
        assert await stream.read() == b"4\r\nover\r\n0\r\n\r\n"
        door.go_on.set()
        code, headers = await head_of(late)
        assert (code, headers["connection"]) == (200, "close")
        assert await late.read() == b"late"
        await stopping
    assert not door.server.connections


# ---- WebSockets

KEY = base64.b64encode(b"0123456789abcdef").decode()
UPGRADE = ("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}")


class Peer:
    """The client's end of a WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = Protocol(CLIENT, state=OPEN)
        self._heard: deque[Frame] = deque()

    def send(self, opcode: Opcode, data: bytes, *, fin: bool = True) -> None:
        self._writer.write(Frame(opcode, data, fin).serialize(mask=True))

    async def next(self) -> tuple[Opcode, bytes]:
        while not self._heard:
            async with asyncio.timeout(5):
                self._protocol.receive_data(await self._reader.read(65536))
            self._heard.extend(event for event in self._protocol.events_received() if isinstance(event, Frame))
        frame = self._heard.popleft()
        return frame.opcode, bytes(frame.data)


@pytest.fixture
async def peer(connect: Any) -> Peer:
    reader, writer = await connect()
    # The first message comes with the request, as it may.
    writer.write(asked("/talk", *UPGRADE) + Frame(Opcode.BINARY, b"olleh").serialize(mask=True))
    code, headers = await head_of(reader)
    assert (code, headers["upgrade"], headers["sec-websocket-protocol"]) == (101, "websocket", "SPDY/3.1+portforward.k8s.io")
    digest = hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
    made = Peer(reader, writer)
    assert await made.next() == (Opcode.BINARY, b"hello")
    return made


async def test_a_message_may_come_in_fragments_with_a_ping_between(peer: Peer) -> None:
    peer.send(Opcode.TEXT, b"abc", fin=False)
    peer.send(Opcode.PING, b"still there?")
    peer.send(Opcode.CONT, b"def")
    assert await peer.next() == (Opcode.PONG, b"still there?")
    assert await peer.next() == (Opcode.BINARY, b"fedcba")


async def test_each_side_may_end_a_talk(peer: Peer) -> None:
    peer.send(Opcode.BINARY, b"end")
    assert await peer.next() == (Opcode.CLOSE, b"\x03\xe8")
    peer.send(Opcode.CLOSE, b"\x03\xe8")
    async with asyncio.timeout(5):
        assert await peer._reader.read() == b""


async def test_a_client_s_close_is_answered_with_one(peer: Peer) -> None:
    peer.send(Opcode.CLOSE, b"\x03\xe9bye")
    assert (await peer.next())[0] is Opcode.CLOSE
    async with asyncio.timeout(5):
        assert await peer._reader.read() == b""


async def test_a_frame_without_a_mask_ends_the_talk(peer: Peer) -> None:
    peer._writer.write(Frame(Opcode.BINARY, b"x").serialize(mask=False))
    opcode, data = await peer.next()
    assert (opcode, data[:2]) == (Opcode.CLOSE, b"\x03\xea")  # 1002: a protocol error
    async with asyncio.timeout(5):
        assert await peer._reader.read() == b""


@pytest.mark.slow
async def test_much_goes_both_ways_and_comes_whole(peer: Peer) -> None:
    async def send() -> None:
        for number in range(200):
            peer.send(Opcode.BINARY, b"%03d" % number * 10_000)
            await peer._writer.drain()

    sending = asyncio.ensure_future(send())
    for number in range(200):
        assert await peer.next() == (Opcode.BINARY, (b"%03d" % number * 10_000)[::-1])
    await sending


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((*UPGRADE[:2], "Sec-WebSocket-Version: 8", UPGRADE[3]), id="an old version"),
        pytest.param(UPGRADE[:3], id="no key"),
        pytest.param((*UPGRADE[:3], "Sec-WebSocket-Key: short"), id="a short key"),
        pytest.param((UPGRADE[1], *UPGRADE[2:]), id="no Connection: Upgrade"),
    ],
)
async def test_a_handshake_that_is_none_is_a_bad_request(connect: Any, headers: tuple[str, ...]) -> None:
    reader, writer = await connect()
    writer.write(asked("/talk", *headers) + asked("/?next"))
    assert (await answer(reader))[0] == 400
    assert await answer(reader) == (200, b"next")
