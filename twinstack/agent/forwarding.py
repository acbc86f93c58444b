"""Ports of a pod, forwarded through a WebSocket: connections to the pod's own loopback, in whichever family something listens.

A client of today tunnels SPDY (``api.spdy``): two streams for each connection, one for data and one for what went wrong, brought
together by their request's number. Others open two channels for each port (``v4``). Both connect the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from twinstack.api import channels, spdy
from twinstack.api.channels import Socket
from twinstack.kernel import namespaces
from twinstack.kernel.errors import KernelError
from twinstack.net.errors import Error
from twinstack.net.family import FAMILIES

MOST_STREAMS = 2000
WAITING_MESSAGES = 64  # a connection that takes no more than so many holds up the tunnel
CONNECT_SECONDS = 10.0
_READ = 32 << 10

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[int], Awaitable[Pipe]]


class ForwardError(Error):
    """A port could not be reached."""


async def connect(netns: str, port: int) -> Pipe:
    """Connect to a port on the loopback of a network namespace (empty for the node's own); ForwardError tells what each family answered."""
    problems = []
    for family in FAMILIES:
        facts = family.facts
        one: socket.socket | None = None
        try:
            one = namespaces.socket_in(netns, facts.socket_family, socket.SOCK_STREAM) if netns else socket.socket(facts.socket_family, socket.SOCK_STREAM)
            one.setblocking(False)
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(one, (facts.loopback, port))
                return await asyncio.open_connection(sock=one)
        except (OSError, KernelError, TimeoutError) as error:
            if one is not None:
                one.close()
            number = getattr(error, "errno", None)
            problems.append(f"{facts.loopback}: {os.strerror(number) if number else error or 'no answer'}")
    raise ForwardError(f"port {port} cannot be reached in the pod: {', '.join(problems)}")


async def tunnel(sock: Socket, connect: Connect) -> None:
    """Serve SPDY in the messages of a WebSocket until the client goes; ``spdy.SPDYError`` when it speaks something else."""
    async with asyncio.TaskGroup() as tasks:
        served = _Tunnel(sock, connect, tasks)
        try:
            await served.serve()
        finally:
            served.end()


class _Connection:
    """The two streams of one connection, and what has come for it."""

    def __init__(self) -> None:
        self.data = self.error = 0
        self.port = 0
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING_MESSAGES)
        self.task: asyncio.Task[None] | None = None


class _Tunnel:
    def __init__(self, sock: Socket, connect: Connect, tasks: asyncio.TaskGroup) -> None:
        self._socket, self._connect, self._tasks = sock, connect, tasks
        self._reader, self._writer = spdy.Reader(), spdy.Writer()
        self._by_request: dict[str, _Connection] = {}
        self._by_stream: dict[int, _Connection] = {}

    async def serve(self) -> None:
        while (message := await self._socket.receive()) is not None:
            for frame in self._reader.feed(message):
                await self._take(frame)

    def end(self) -> None:
        for one in self._by_stream.values():
            if one.task is not None:
                one.task.cancel()

    async def _take(self, frame: spdy.Frame) -> None:
        match frame:
            case spdy.Open():
                await self._open(frame)
            case spdy.Data(stream, data, fin):
                one = self._by_stream.get(stream)
                if one is not None and stream == one.data and one.task is not None and not one.task.done():
                    if data:
                        await self._put(one, data)
                    if fin:
                        await self._put(one, None)
            case spdy.Reset(stream):
                one = self._by_stream.pop(stream, None)
                if one is not None and stream == one.data and one.task is not None:
                    self._by_stream.pop(one.error, None)
                    one.task.cancel()
            case spdy.Ping(number):
                await self._send(spdy.ping(number))
            case spdy.GoAway():
                pass  # what is open goes on

    async def _put(self, one: _Connection, data: bytes | None) -> None:
        """Hand data over, and wait while the connection is behind; one that ends meanwhile wants none."""
        if not one.inbox.full():
            one.inbox.put_nowait(data)
        elif one.task is not None:
            putting = self._tasks.create_task(one.inbox.put(data))
            await asyncio.wait({putting, one.task}, return_when=asyncio.FIRST_COMPLETED)
            putting.cancel()

    async def _open(self, frame: spdy.Open) -> None:
        kind, port = frame.headers.get("streamtype", ""), frame.headers.get("port", "")
        request = frame.headers.get("requestid", "")
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
        if kind not in ("data", "error") or not request or not 1 <= number <= 65535 or len(self._by_stream) >= MOST_STREAMS:
            await self._send(spdy.reset(frame.stream, spdy.REFUSED_STREAM))
            return
        one = self._by_request.setdefault(request, _Connection())
        if (one.data if kind == "data" else one.error) or (one.port and one.port != number):
            await self._send(spdy.reset(frame.stream, spdy.PROTOCOL_ERROR))
            return
        one.port = number
        if kind == "data":
            one.data = frame.stream
        else:
            one.error = frame.stream
        self._by_stream[frame.stream] = one
        await self._send(self._writer.reply(frame.stream))
        if one.data and one.error:
            del self._by_request[request]
            one.task = self._tasks.create_task(self._forward(one))

    async def _send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the next receive says so
            await self._socket.send(data)

    async def _forward(self, one: _Connection) -> None:
        """Carry one connection from its beginning to its end."""
        problem = ""
        try:
            reader, writer = await self._connect(one.port)
        except ForwardError as error:
            problem = str(error)
        else:
            problem = await _carry(one.inbox.get, lambda data: self._send(spdy.data(one.data, data)), reader, writer)
        finally:
            self._by_stream.pop(one.data, None)
            self._by_stream.pop(one.error, None)
        await self._send(spdy.data(one.error, problem.encode(), fin=True))
        await self._send(spdy.data(one.data, b"", fin=True))


async def _carry(
    take: Callable[[], Awaitable[bytes | None]], give: Callable[[bytes], Awaitable[None]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> str:
    """Carry bytes both ways until the pod closes its side; what went wrong, if anything."""

    async def inward() -> None:
        with contextlib.suppress(OSError):
            while (data := await take()) is not None:
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    try:
        async with asyncio.TaskGroup() as tasks:
            going = tasks.create_task(inward())
            try:
                while data := await reader.read(_READ):
                    await give(data)
            except OSError as error:
                return f"the connection to the pod broke: {error.strerror or error}"
            finally:
                going.cancel()
    finally:
        writer.close()
    return ""


async def channelled(sock: Socket, ports: Sequence[int], connect: Connect) -> None:
    """Serve two channels for each port, data and error, whose first message is the port's number, until the client goes or all are over."""
    inboxes = [asyncio.Queue[bytes | None](WAITING_MESSAGES) for _ in ports]

    async def one(index: int, port: int) -> None:
        data, error = 2 * index, 2 * index + 1
        with contextlib.suppress(ConnectionError):
            for channel in (data, error):
                await sock.send(channels.frame(channel, port.to_bytes(2, "little")))
            try:
                reader, writer = await connect(port)
            except ForwardError as failure:
                await sock.send(channels.frame(error, str(failure).encode()))
                return
            problem = await _carry(inboxes[index].get, lambda chunk: sock.send(channels.frame(data, chunk)), reader, writer)
            if problem:
                await sock.send(channels.frame(error, problem.encode()))

    async def hear() -> None:
        while (message := await sock.receive()) is not None:
            if message and message[0] % 2 == 0 and message[0] // 2 < len(inboxes) and len(message) > 1:
                await inboxes[message[0] // 2].put(message[1:])

    async with asyncio.TaskGroup() as tasks:
        hearing = tasks.create_task(hear())
        carrying = [tasks.create_task(one(index, port)) for index, port in enumerate(ports)]
        over = tasks.create_task(_all(carrying))
        await asyncio.wait({hearing, over}, return_when=asyncio.FIRST_COMPLETED)
        for task in (hearing, over, *carrying):
            task.cancel()


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
