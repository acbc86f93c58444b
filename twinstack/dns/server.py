"""The sockets: queries by UDP and TCP, on any address of either family.

Rule of this file: it moves bytes, and is never stopped by what comes in or by a peer that is slow or gone.

Theory. A UDP socket is read until it is empty or sixty-four queries are answered, whichever is first, so that other work
of the event loop has its turn. On an unspecified address the kernel is asked to which of the machine's addresses a
query came, and the answer leaves from there (RFC 1035 4.2.1 does not say so, every client expects it). TCP
connections hold any number of queries (RFC 7766), and end when nothing whole came for some seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

from twinstack.dns.forward import Forwarder
from twinstack.dns.metrics import Metrics
from twinstack.dns.responder import Abroad, Responder
from twinstack.net.cidr import host_port, parse_address
from twinstack.net.errors import Error
from twinstack.net.family import Address, Family

READ_BYTES = 4096
AT_ONCE = 64
BUFFER_BYTES = 4 << 20
IDLE_SECONDS = 10.0
MOST_CONNECTIONS = 512
ANCILLARY_BYTES = 128
FREE_PORT_TRIES = 32

log = logging.getLogger(__name__)


class DNSError(Error):
    """The server cannot work here."""


class Server:
    """Answers on some addresses, each by UDP and TCP, until closed."""

    def __init__(self, responder: Responder, forwarder: Forwarder, metrics: Metrics, tasks: asyncio.TaskGroup, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self.idle_seconds = idle_seconds
        self.responder, self.forwarder, self.metrics, self.tasks = responder, forwarder, metrics, tasks
        self._stack = contextlib.ExitStack()
        self._servers: list[asyncio.Server] = []
        self.connections: set[_Connection] = set()

    async def start(self, addresses: Sequence[str], port: int) -> list[tuple[Address, int]]:
        """Listen; returns where. DNSError when an address cannot be had."""
        found = []
        loop = asyncio.get_running_loop()
        for address in map(parse_address, addresses):
            family = Family.of(address)
            try:
                datagrams, streams = self._pair(family, address, port)
                bound = int(datagrams.getsockname()[1])
                if address.is_unspecified:
                    level, option = family.facts.packet_info
                    datagrams.setsockopt(level, option, 1)
            except OSError as error:
                self.close()
                raise DNSError(f"{host_port(address, port)} cannot be listened on: {error.strerror or error}") from error
            listener = _Datagrams(self, datagrams, family)
            loop.add_reader(datagrams.fileno(), listener.read_from_anywhere if address.is_unspecified else listener.read)
            self._stack.callback(loop.remove_reader, datagrams.fileno())
            server = await loop.create_server(lambda family=family: _Connection(self, family), sock=streams, backlog=256)  # type: ignore[misc]
            self._servers.append(server)
            found.append((address, bound))
        return found

    def _pair(self, family: Family, address: Address, port: int) -> tuple[socket.socket, socket.socket]:
        """A socket of each kind on one port; one that is free for both where none is named."""
        for left in reversed(range(1 if port else FREE_PORT_TRIES)):
            datagrams = self._bound(family, socket.SOCK_DGRAM, address, port)
            try:
                return datagrams, self._bound(family, socket.SOCK_STREAM, address, int(datagrams.getsockname()[1]))
            except OSError:
                datagrams.close()
                if not left:
                    raise
        raise AssertionError("not reached")

    def _bound(self, family: Family, kind: int, address: Address, port: int) -> socket.socket:
        one = self._stack.enter_context(socket.socket(family.facts.socket_family, kind | socket.SOCK_NONBLOCK))
        for level, option, value in family.facts.socket_options:
            one.setsockopt(level, option, value)
        if kind == socket.SOCK_STREAM:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        one.bind((str(address), port))
        return one

    def close(self) -> None:
        """Listen no longer, and end the connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in list(self.connections):
            connection.end()
        self._stack.close()


class _Datagrams:
    """A UDP socket."""

    def __init__(self, server: Server, one: socket.socket, family: Family) -> None:
        self._server, self._socket, self._family = server, one, family

    def read(self) -> None:
        answer, count, one, family = self._server.responder.answer, self._server.metrics.count, self._socket, self._family
        for _ in range(AT_ONCE):
            try:
                data, peer = one.recvfrom(READ_BYTES)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                continue  # an ICMP error of an answer before
            began = time.perf_counter()
            reply = answer(data)
            if reply is None:
                continue
            if not isinstance(reply, bytes):
                self._abroad(data, reply, (), peer, began)
                continue
            with contextlib.suppress(OSError):  # the peer is gone, or its buffer is full: it asks again
                one.sendto(reply, peer)
            count("udp", family, data, reply, time.perf_counter() - began)

    def read_from_anywhere(self) -> None:
        """The same on an unspecified address: what came to an address is answered from it."""
        for _ in range(AT_ONCE):
            try:
                data, ancillary, _, peer = self._socket.recvmsg(READ_BYTES, ANCILLARY_BYTES)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                continue
            began = time.perf_counter()
            reply = self._server.responder.answer(data)
            if isinstance(reply, Abroad):
                self._abroad(data, reply, ancillary, peer, began)
            elif reply is not None:
                self._send(data, reply, ancillary, peer, began)

    def _send(self, data: bytes, reply: bytes, ancillary: Sequence[Any], peer: Any, began: float) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendmsg([reply], ancillary, 0, peer)
        self._server.metrics.count("udp", self._family, data, reply, time.perf_counter() - began)

    def _abroad(self, data: bytes, abroad: Abroad, ancillary: Sequence[Any], peer: Any, began: float) -> None:
        reply = self._server.forwarder.at_once(abroad)
        if reply is not None:
            self._send(data, reply, ancillary, peer, began)
            return

        async def ask() -> None:
            self._send(data, await self._server.forwarder.ask(abroad), ancillary, peer, began)

        self._server.tasks.create_task(ask())


class _Connection(asyncio.Protocol):
    """A TCP connection: each message bears its length before it (RFC 1035 4.2.2)."""

    def __init__(self, server: Server, family: Family) -> None:
        self._server, self._family = server, family
        self._rest = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        if len(self._server.connections) >= MOST_CONNECTIONS:
            self._transport.abort()
            return
        self._server.connections.add(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """The peer does not read: then we do not either."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._server.idle_seconds, self.end)

    def data_received(self, data: bytes) -> None:
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= 2 and len(rest) - at - 2 >= (size := int.from_bytes(rest[at : at + 2], "big")):
            self._answer(bytes(rest[at + 2 : at + 2 + size]))
            at += 2 + size
            self._wait()
        del rest[:at]

    def _answer(self, data: bytes) -> None:
        began = time.perf_counter()
        reply = self._server.responder.answer(data, stream=True)
        if isinstance(reply, Abroad):
            abroad, reply = reply, self._server.forwarder.at_once(reply)
            if reply is None:

                async def ask() -> None:
                    self._send(data, await self._server.forwarder.ask(abroad), began)

                self._server.tasks.create_task(ask())
                return
        if reply is None:
            self.end()  # nothing that we could wait for follows
        else:
            self._send(data, reply, began)

    def _send(self, data: bytes, reply: bytes, began: float) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(reply).to_bytes(2, "big") + reply)
        self._server.metrics.count("tcp", self._family, data, reply, time.perf_counter() - began)
