"""The gRPC health protocol: what is asked, and what counts as an answer."""

from __future__ import annotations

import asyncio

import pytest

from twinstack.agent import grpc
from twinstack.agent.grpc import ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, RST_STREAM, SETTINGS, Frame, GRPCError, read_frame
from twinstack.agent.probes import Prober, Result
from twinstack.api.kinds import Container, Probe
from twinstack.api.objects import view_of

OK = Frame(HEADERS, END_HEADERS, 1, b"\x88")
TRAILERS = Frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x0bgrpc-status\x010")


def message(data: bytes, *, compressed: int = 0) -> bytes:
    return bytes((compressed,)) + len(data).to_bytes(4, "big") + data


class Server:
    """Answers whoever asks with the frames that it was given, and keeps what it has heard."""

    def __init__(self, *frames: Frame | bytes) -> None:
        self.frames, self.heard, self.done = frames, [], asyncio.Event()

    async def __call__(self, reader, writer):
        try:
            assert await reader.readexactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            while not (self.heard and self.heard[-1].kind == DATA):
                self.heard.append(await read_frame(reader))
            for frame in self.frames:
                writer.write(frame if isinstance(frame, bytes) else frame.encode())
            await writer.drain()
            while True:
                self.heard.append(await read_frame(reader))
        except OSError:
            pass
        finally:
            writer.close()
            self.done.set()


@pytest.fixture
async def asked():
    """Asks a server of these frames; its status, and what it has heard."""

    async def ask(*frames, service="", address="127.0.0.1"):
        answering = Server(*frames)
        server = await asyncio.start_server(answering, address, 0)
        async with server:
            status = await grpc.check(address, server.sockets[0].getsockname()[1], service)
            await answering.done.wait()
            return status, answering.heard

    return ask


async def test_a_service_is_asked_for_by_name_and_pings_are_answered(asked):
    frames = (Frame(SETTINGS, 0, 0, b""), Frame(PING, 0, 0, b"12345678"), OK, Frame(DATA, PADDED, 1, b"\x03" + message(b"\x08\x01") + b"\0\0\0"), TRAILERS)
    status, heard = await asked(*frames, service="db", address="::1")
    assert status == grpc.SERVING
    settings, headers, data, *rest = heard
    assert settings.kind == SETTINGS and b"/grpc.health.v1.Health/Check" in headers.payload and b"application/grpc" in headers.payload
    assert data.payload == message(b"\x0a\x02db") and data.flags == END_STREAM
    assert rest[:2] == [Frame(SETTINGS, ACK, 0, b""), Frame(PING, ACK, 0, b"12345678")]


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 0), (b"\x08\x02", 2), (b"\x12\x03abc\x08\x01", 1), (b"\x15abcd\x19abcdefgh\x08\x03", 3)],
)
async def test_the_status_is_found_among_other_fields(asked, data, status):
    first, second = message(data)[:3], message(data)[3:]
    assert (await asked(OK, Frame(DATA, 0, 1, first), Frame(DATA, END_STREAM, 1, second)))[0] == status


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ((TRAILERS,), "no health status"),
        ((Frame(RST_STREAM, 0, 1, b"\0\0\0\7"),), "has refused"),
        ((Frame(GOAWAY, 0, 0, bytes(8)),), "has refused"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "does not speak HTTP/2"),
        ((OK, Frame(DATA, END_STREAM, 1, message(b"\x08\x01", compressed=1))), "no message"),
        ((OK, Frame(DATA, END_STREAM, 1, message(b"\x08"))), "no message"),
        ((OK, Frame(DATA, END_STREAM, 1, b"\0\0")), "no message"),
        ((OK, *[Frame(DATA, 0, 1, bytes(16384))] * 5), "too long"),
    ],
)
async def test_what_is_no_answer_is_told(asked, frames, reason):
    with pytest.raises(GRPCError, match=reason):
        await asked(*frames)


async def test_a_probe_is_well_only_when_the_service_serves():
    for data, result in ((b"\x08\x01", Result(True)), (b"\x08\x02", Result(False, 'service unhealthy (responded with "NOT_SERVING")'))):
        server = await asyncio.start_server(Server(OK, Frame(DATA, END_STREAM, 1, message(data))), "::1", 0)
        async with server, Prober(None) as prober:
            probe = view_of(Probe, {"grpc": {"port": server.sockets[0].getsockname()[1], "service": None}})
            assert await prober.ask(probe, view_of(Container, {"name": "c"}), identifier="i", address="::1") == result
