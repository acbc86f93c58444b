"""A connection that has become a WebSocket: the handshake's answer (RFC 6455 section 4.2.2), and messages in and out; or bytes of a protocol not ours.

Frames are the library's; the handshake is ours, because ``SPDY/3.1+portforward.k8s.io`` is no token as the RFC wants
a protocol's name, and kubectl asks for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections import deque
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from twinstack.api.channels import LONGEST_MESSAGE, Socket
from twinstack.api.errors import BadRequest
from twinstack.apiserver.wire import Connection, Request

CLOSE_SECONDS: Final = 2.0  # so long is waited for the other side to close too
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MOST_WAITING: Final = 1 << 20  # bytes that came and nobody took, before nothing more is read


def is_asked(request: Request) -> bool:
    return "websocket" in request.headers.get("Upgrade", "").lower()


def check(request: Request) -> None:
    """BadRequest when a request for a WebSocket is none."""
    headers = request.headers
    if request.method != "GET" or "upgrade" not in headers.get("Connection", "").lower():
        raise BadRequest("a WebSocket begins with GET, and Connection: Upgrade")
    if headers.get("Sec-WebSocket-Version", "") != "13":
        raise BadRequest("the version of WebSockets that is spoken here is 13")
    try:
        if len(base64.b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)) == 16:
            return
    except (binascii.Error, ValueError):
        pass
    raise BadRequest("Sec-WebSocket-Key is not 16 bytes in Base64")


def accepted(request: Request) -> str:
    """What ``Sec-WebSocket-Accept`` answers to the key."""
    return base64.b64encode(hashlib.sha1(request.headers["Sec-WebSocket-Key"].encode() + _GUID).digest()).decode()


class WebSocket(Socket):
    """The server's end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._frames = Protocol(SERVER, state=OPEN, max_size=LONGEST_MESSAGE)
        self._parts: list[bytes] = []  # of a message that is not there whole
        self._messages: deque[bytes] = deque()
        self._waiting = 0
        self._is_closing = False  # we have said all
        self._is_over = False  # nothing more comes
        self._wanted: asyncio.Future[None] | None = None

    # ---- the connection's calls

    def feed(self, data: bytes) -> None:
        if self._is_over:
            return
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY):
                self._parts.append(bytes(event.data))
                if event.fin and not self._is_closing:
                    message = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                    self._parts = []
                    self._messages.append(message)
                    self._waiting += len(message)
        self._flush()  # answers to pings, and to a close
        if self._frames.close_rcvd is not None or self._frames.parser_exc is not None:
            self._is_over = True
        if self._waiting > _MOST_WAITING:
            self._connection.pause()
        self._tell()

    def lost(self) -> None:
        self._is_over = True
        self._tell()

    def _tell(self) -> None:
        if self._wanted is not None and not self._wanted.done() and (self._messages or self._is_over):
            self._wanted.set_result(None)

    def _flush(self) -> None:
        for data in self._frames.data_to_send():
            if data:  # an empty one stands for the end, which comes when all is said
                self._connection.write(data)

    # ---- the talk

    async def receive(self) -> bytes | None:
        while not self._messages:
            if self._is_over:
                return None
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        message = self._messages.popleft()
        self._waiting -= len(message)
        if self._waiting <= _MOST_WAITING // 2:
            self._connection.read_on()
        return message

    async def send(self, message: bytes) -> None:
        if self._frames.state is not OPEN or self._connection.gone:
            raise ConnectionResetError("the other side has closed the WebSocket")
        self._frames.send_binary(message)
        self._flush()
        await self._connection.drain()

    async def close(self, code: int = 1000) -> None:
        """Say that all is said, and wait a moment for the other side to say so too."""
        if self._frames.state is OPEN and not self._connection.gone:
            self._frames.send_close(code)
            self._flush()
        self._is_closing = True
        self._messages.clear()
        self._connection.read_on()
        if not self._is_over:
            self._wanted = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._wanted,), timeout=CLOSE_SECONDS)


class Bytes(Socket):
    """A connection in a protocol that others speak through us: what came, as it came."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._is_over = False
        self._come = asyncio.Event()

    # ---- the connection's calls

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting > _MOST_WAITING:
            self._connection.pause()
        self._come.set()

    def lost(self) -> None:
        self._is_over = True
        self._come.set()

    # ---- the talk

    async def receive(self) -> bytes | None:
        while not self._pieces:
            if self._is_over:
                return None
            self._come.clear()
            await self._come.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        self._connection.read_on()
        return data

    async def send(self, message: bytes) -> None:
        self._connection.write(message)
        await self._connection.drain()

    async def close(self) -> None:
        self._connection.close()
