"""A conversation with a process inside a container: its streams on one side, the channels of a WebSocket on the other.

Rule of this file: nobody waits for nobody in vain. What a client sends goes to the process no faster than it reads, what the process
says goes to the client no faster than that reads; when the client goes, a command is told with SIGHUP, as by a terminal that
closes; when the command has ended, what it has left running keeps no client waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Awaitable, Callable, Collection

import msgspec

from twinstack.agent.containers.base import Command, ContainerError, Streams
from twinstack.api import channels
from twinstack.api.channels import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, Socket
from twinstack.api.objects import Document, encode

LINGER_SECONDS = 0.5  # so long after a command's end is waited for more from what it has started
_READ = 32 << 10


class _Size(msgspec.Struct):
    """How large a client's terminal is."""

    Width: int = 0
    Height: int = 0


async def run(socket: Socket, begin: Callable[[], Awaitable[Command]], wanted: Collection[int]) -> None:
    """Begin a command and talk with it until it has ended or the client has gone; the error channel tells how it ended.

    *wanted* are the channels of output that the client wants to see.
    """
    try:
        command = await begin()
    except ContainerError as error:
        await _finish(socket, channels.status_of_failure(str(error)))
        return
    conversation = _Conversation(socket, command.streams, wanted)
    try:
        await conversation.hold(command)
    finally:
        conversation.close()


async def attach(socket: Socket, begin: Callable[[], Awaitable[Streams]], wanted: Collection[int], *, end_input: Callable[[], Awaitable[None]] | None) -> None:
    """Show a container's output until it ends or the client has gone; *end_input* is called when the client's input ends."""
    try:
        streams = await begin()
    except ContainerError as error:
        await _finish(socket, channels.status_of_failure(str(error)))
        return
    conversation = _Conversation(socket, streams, wanted, end_input)
    try:
        await conversation.hold(None)
    finally:
        conversation.close()


async def _finish(socket: Socket, status: Document) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send(channels.frame(ERROR, encode(status)))


class _Conversation:
    def __init__(self, socket: Socket, streams: Streams, wanted: Collection[int], end_input: Callable[[], Awaitable[None]] | None = None) -> None:
        self._socket, self._wanted, self._end_input = socket, wanted, end_input
        self._stdin, self._tty = streams.stdin, streams.tty
        self._outputs = {channel: fd for channel, fd in ((STDOUT, streams.stdout), (STDERR, streams.stderr)) if fd >= 0}
        self._terminal = (streams.stdout if streams.stderr < 0 else streams.stdin) if streams.tty else -1
        self._said = 0
        self._idle: set[int] = set()  # outputs of which nothing is on its way

    def close(self) -> None:
        """Close our ends of the streams."""
        for fd in self._outputs.values():
            os.close(fd)
        self._outputs.clear()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            if self._terminal == self._stdin:
                self._terminal = -1
            self._stdin = -1

    async def hold(self, command: Command | None) -> None:
        """Talk. Without a command, the end of the outputs is the end."""
        with contextlib.suppress(ConnectionError):
            # an empty message on the first channel says that all is connected, as upstream does
            await self._socket.send(channels.frame(min(self._wanted, default=ERROR), b""))
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(self._hear())
            telling = {tasks.create_task(self._tell(channel, fd)) for channel, fd in self._outputs.items()}
            ending = tasks.create_task(self._end_of(command, telling))
            await asyncio.wait({hearing, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():  # the client has gone
                ending.cancel()
                for task in telling:
                    task.cancel()
                if command is not None:
                    with contextlib.suppress(ContainerError):
                        await command.signal(signal.SIGHUP)
            else:
                await _finish(self._socket, ending.result())
                hearing.cancel()

    async def _end_of(self, command: Command | None, telling: set[asyncio.Task[None]]) -> Document:
        """Wait for the end, and until all that was said before it has been sent; the Status that tells of it."""
        if command is None:
            await asyncio.wait(telling)
            return channels.status_of_exit(0)
        try:
            status = channels.status_of_exit(await command.ended())
        except ContainerError as error:
            status = channels.status_of_failure(str(error))
        pending = telling
        while pending:
            before = self._said
            _, pending = await asyncio.wait(pending, timeout=LINGER_SECONDS)
            if self._said == before and len(self._idle) >= len(pending):
                for task in pending:  # held open by what the command has left running
                    task.cancel()
                break
        return status

    async def _tell(self, channel: int, fd: int) -> None:
        """Send what the process says, until it says no more."""
        with contextlib.suppress(ConnectionError):
            while True:
                try:
                    data = os.read(fd, _READ)
                except BlockingIOError:
                    self._idle.add(fd)
                    await _ready(fd, writing=False)
                    self._idle.discard(fd)
                    continue
                except OSError:  # a terminal that nobody has open any more
                    return
                if not data:
                    return
                self._said += 1
                if channel in self._wanted:
                    await self._socket.send(channels.frame(channel, data))

    async def _hear(self) -> None:
        """Take what the client sends, until it goes."""
        while (message := await self._socket.receive()) is not None:
            if not message:
                continue
            channel, data = message[0], message[1:]
            if channel == STDIN:
                await self._type(data)
            elif channel == RESIZE:
                self._resize(data)
            elif channel == CLOSE and data[:1] == bytes((STDIN,)):
                await self._end_of_input()

    async def _type(self, data: bytes) -> None:
        """Give the process input; one that reads no more gets none."""
        at = 0
        while at < len(data) and self._stdin >= 0:
            try:
                at += os.write(self._stdin, data[at:])
            except BlockingIOError:
                await _ready(self._stdin, writing=True)
            except OSError:  # it has closed its end
                self._close_stdin()

    async def _end_of_input(self) -> None:
        if self._stdin >= 0 and not self._tty:
            self._close_stdin()
            if self._end_input is not None:
                with contextlib.suppress(ContainerError):
                    await self._end_input()

    def _resize(self, data: bytes) -> None:
        if self._terminal < 0:
            return
        try:
            size = msgspec.json.decode(data, type=_Size)
            packed = struct.pack("HHHH", size.Height, size.Width, 0, 0)
        except (msgspec.MsgspecError, struct.error):
            return  # a client's terminal may have any size but this one
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)


async def _ready(fd: int, *, writing: bool) -> None:
    """Wait until a descriptor can be read or written, or its other end is closed."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    if writing:
        loop.add_writer(fd, wake)
    else:
        loop.add_reader(fd, wake)
    try:
        await future
    finally:
        if writing:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)
