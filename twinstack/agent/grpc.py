"""One question of the gRPC health protocol: is a service serving?

A client of ``grpc.health.v1.Health/Check`` over HTTP/2 without TLS, and nothing more: one stream, headers told
literally, so that nothing has to be compressed, and those of the answer left unread, for the message says it all. An answer
without a message is a refusal, whatever its status. Sources: RFC 9113 (frames), RFC 7541 section 6.2.2 (a literal header),
the gRPC project's "gRPC over HTTP2" and health/v1/health.proto.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from twinstack.net.cidr import host_port

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NO_PUSH = bytes.fromhex("000200000000")
_LONGEST_FRAME, _LONGEST_ANSWER = 16384, 65536
_STREAM = 1
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
SERVING = 1


class GRPCError(OSError):
    """The other side does not speak gRPC, or does not answer the question."""


class Frame(NamedTuple):
    """A frame of HTTP/2."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    def encode(self) -> bytes:
        return len(self.payload).to_bytes(3, "big") + bytes((self.kind, self.flags)) + self.stream.to_bytes(4, "big") + self.payload


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame; GRPCError when there is none, or one that is too long."""
    try:
        head = await reader.readexactly(9)
        length = int.from_bytes(head[:3], "big")
        if length > _LONGEST_FRAME:
            raise GRPCError("the server does not speak HTTP/2: a frame is too long")
        return Frame(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        raise GRPCError("the server has closed the connection without an answer") from error


async def check(host: str, port: int, service: str) -> int:
    """The status of a service, empty for the whole server; one of :data:`STATUSES` by number. OSError when there is no answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        question = _field(1, service.encode()) if service else b""
        frames = (
            Frame(SETTINGS, 0, 0, _NO_PUSH),
            Frame(HEADERS, END_HEADERS, _STREAM, _headers(host_port(host, port))),
            Frame(DATA, END_STREAM, _STREAM, b"\0" + len(question).to_bytes(4, "big") + question),
        )
        writer.write(_PREFACE + b"".join(frame.encode() for frame in frames))
        return _status(await _answer(reader, writer))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What comes on our stream until it ends."""
    told = b""
    while True:
        frame = await read_frame(reader)
        if frame.kind == SETTINGS and not frame.flags & ACK:
            writer.write(Frame(SETTINGS, ACK, 0, b"").encode())
        elif frame.kind == PING and not frame.flags & ACK:
            writer.write(Frame(PING, ACK, 0, frame.payload).encode())
        elif frame.kind == GOAWAY or (frame.kind == RST_STREAM and frame.stream == _STREAM):
            raise GRPCError("the server has refused the question")
        elif frame.stream == _STREAM:
            if frame.kind == DATA:
                told += frame.payload[1 : len(frame.payload) - frame.payload[0]] if frame.flags & PADDED and frame.payload else frame.payload
            if len(told) > _LONGEST_ANSWER:
                raise GRPCError("the answer is too long")
            if frame.kind in (DATA, HEADERS) and frame.flags & END_STREAM:
                return told


def _headers(authority: str) -> bytes:
    fields = {
        ":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Check", ":authority": authority, "te": "trailers",
        "content-type": "application/grpc", "user-agent": "kube-probe/1.36",
    }  # fmt: skip
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(text: str) -> bytes:
    """A string literal; 127 and more need more than one byte of length."""
    data = text.encode()
    if len(data) < 127:
        return bytes((len(data),)) + data
    return b"\x7f" + _varint(len(data) - 127) + data


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return encoded + bytes((number,))


def _field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(data)) + data


def _status(answer: bytes) -> int:
    if not answer:
        raise GRPCError("the server has no health status for this service")
    if len(answer) < 5 or answer[0] != 0 or len(answer) != 5 + int.from_bytes(answer[1:5], "big"):
        raise GRPCError("the answer is no message of the health protocol")
    return dict(_fields(answer[5:])).get(1, 0)


def _fields(message: bytes) -> Iterator[tuple[int, int]]:
    """The numbers in a message, by field; a field of another kind is passed over."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise GRPCError("the answer is no message of the health protocol")
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 1:
                at += 8
            case 2:
                length = varint()
                at += length
            case 5:
                at += 4
            case _:
                raise GRPCError("the answer is no message of the health protocol")
