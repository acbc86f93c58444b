"""The HTTP door: listeners, connections, and how an answer goes out.

Rule of this file: requests in and bytes out; nothing here knows what they mean. A stream's live part is written straight to its
transport: what a thousand watchers are told was framed once.

Theory. Most requests are answered from memory, so :data:`Responder` may answer at once: the head and the body go out in one write, and no task is
made. What has to wait, for the disk or for a kubelet, or goes on, is a task of its own until it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from twinstack.api.errors import APIError, BadRequest, InternalError
from twinstack.apiserver import upgrades
from twinstack.apiserver.calls import Answer, Call, Reaction, Streamed, Switched, Upgraded, failure
from twinstack.apiserver.wire import Connection, Request, Streaming
from twinstack.net.errors import Error

log = logging.getLogger(__name__)

GZIP_FROM: Final = 128 << 10  # bytes of an answer, as upstream has it; less is not worth the work
PACKED_BYTES: Final = 8 << 20  # of packed answers that are kept for who asks for the same
HEAD_SECONDS, BODY_SECONDS = 32.0, 60.0  # as upstream has it: what comes slower holds a connection for nothing
TAKE_SECONDS = 30.0
IDLE_SECONDS: Final = 300.0
_SWEEP_SECONDS: Final = 30.0
_PIECE: Final = GZIP_FROM  # bytes of a large answer that are written at once
_BODILESS: Final = (101, 204, 304)


def _uid_of(what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://twinstack.dev/flow-control/{what}"))


# Clients tell by the last two that the server shares its time between users. There is one class for all, so they are always the same.
_ALWAYS: Final = (
    "Cache-Control: no-cache, private\r\n"
    f"X-Kubernetes-Pf-Flowschema-Uid: {_uid_of('global-default')}\r\n"
    f"X-Kubernetes-Pf-Prioritylevel-Uid: {_uid_of('global-default-level')}\r\n"
)
_STATUS_LINES: Final = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n" for one in HTTPStatus}
Responder = Callable[[Call], Reaction | Awaitable[Reaction]]


class HTTPServer:
    """Listens until stopped, and has every request answered by *respond*.

    A request's head must come within *head_seconds* of its first byte, and its body within *body_seconds*. A client that takes hardly anything of
    an answer for *take_seconds* is cut; not so of a stream.
    """

    def __init__(
        self, respond: Responder, *, head_seconds: float = HEAD_SECONDS, body_seconds: float = BODY_SECONDS, take_seconds: float = TAKE_SECONDS
    ) -> None:
        self._respond = respond
        self.head_seconds, self.body_seconds, self.take_seconds = head_seconds, body_seconds, take_seconds
        self.connections: set[Connection] = set()
        self.stopping = False
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._packed: OrderedDict[tuple[str, str, str], asyncio.Future[bytes]] = OrderedDict()
        self._date, self._date_until = "", 0.0

    async def start(self, sockets: Iterable[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Serve on sockets that are bound; they are closed at the end."""
        loop = self._loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(self, loop)

        for one in sockets:
            one.setblocking(False)
            if one.family is socket.AF_UNIX:
                self._listeners.append(await loop.create_unix_server(connection, sock=one, backlog=1024))
                continue
            listener = await loop.create_server(connection, sock=one, ssl=tls, backlog=1024, ssl_handshake_timeout=30.0 if tls else None)
            self._listeners.append(listener)
        self._sweep = loop.call_later(_SWEEP_SECONDS, self._end_idle)

    async def stop(self, seconds: float = 5.0) -> None:
        """Accept nothing more, end the streams, let what is being answered finish, then drop the rest."""
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections):
            connection.finish()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for _ in range(100):  # what is written goes out
            if not self.connections or all(not one.backlog for one in self.connections):
                break
            await asyncio.sleep(0.01)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()

    def _end_idle(self) -> None:
        assert self._loop is not None
        self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._end_idle)
        moment = self._loop.time() - IDLE_SECONDS
        for connection in list(self.connections):
            if connection.is_idle_since(moment):
                connection.close()

    # ---- one request

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer at once, or make a task of it."""
        assert self._loop is not None
        try:
            if request.refusal is not None:
                raise request.refusal
            work = self._respond(_call(connection, request))
        except APIError as error:
            self._answer(connection, request, failure(error))
            return
        except Exception as error:
            self._answer(connection, request, unexpected(error))
            return
        if isinstance(work, Answer) and work.rest is None and len(work.body) <= _PIECE:
            self._answer(connection, request, work)
            return
        task = self._loop.create_task(self._serve(connection, request, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection, request: Request, work: Reaction | Awaitable[Reaction]) -> None:
        try:
            reaction = work if isinstance(work, tuple) else await work
            if isinstance(reaction, Answer):
                if reaction.size >= GZIP_FROM and _takes_gzip(request.headers.get("Accept-Encoding", "")):
                    reaction = await self._with_packed_body(request, reaction)
                if reaction.rest is not None or len(reaction.body) > _PIECE:
                    await self._answer_in_pieces(connection, request, reaction)
                else:
                    self._answer(connection, request, reaction)
            elif isinstance(reaction, Upgraded):
                await self._upgrade(connection, request, reaction)
            elif isinstance(reaction, Switched):
                await self._switch(connection, reaction)
            elif request.method == "HEAD":
                self._answer(connection, request, Answer(200, b"", reaction.content_type, reaction.headers))
            else:
                await self._stream(connection, request, reaction)
        except ConnectionError:
            log.debug("A stream's client went away", extra={"path": request.target})
            connection.abort()
        except Error as error:
            # The head is sent already: what went wrong can only be told by ending too early.
            log.warning("A stream broke off", extra={"path": request.target, "err": str(error)})
            connection.abort()
        except Exception as error:
            if connection.stream is None:
                self._answer(connection, request, unexpected(error))
            else:
                log.error("A stream failed unexpectedly", exc_info=error, extra={"path": request.target})
                connection.abort()

    def _answer(self, connection: Connection, request: Request, answer: Answer) -> None:
        keeps = request.keeps and not self.stopping
        body = answer.body
        if answer.status in _BODILESS:
            head, body = self._head(answer, "" if keeps else "Connection: close\r\n"), b""
        else:
            head = self._head(answer, _framing(len(body), keeps=keeps))
            if request.method == "HEAD":
                body = b""
        connection.write(head, body)
        connection.done(keeps=keeps)

    async def _answer_in_pieces(self, connection: Connection, request: Request, answer: Answer) -> None:
        """A large answer goes out as it is taken: encrypted whole it would be there once more, and everybody else would wait for that."""
        keeps = request.keeps and not self.stopping
        connection.write(self._head(answer, _framing(answer.size, keeps=keeps)))
        if request.method != "HEAD":  # the length is of what GET would get
            for piece in _pieces_of(answer):
                connection.write(piece)
                await connection.drain()
        connection.done(keeps=keeps)

    def _head(self, reaction: Answer | Streamed, framing: str) -> bytes:
        parts = [_status_line(reaction.status), "Content-Type: ", reaction.content_type, "\r\n", _ALWAYS]
        _add_headers(parts, reaction.headers)
        parts += ("Date: ", self._now(), "\r\n", framing, "\r\n")
        return "".join(parts).encode("utf-8", "surrogateescape")

    def _now(self) -> str:
        """The time of an answer, made once a second."""
        now = time.time()
        if now >= self._date_until:
            self._date, self._date_until = formatdate(now, usegmt=True), int(now) + 1.0
        return self._date

    # ---- packed answers

    async def _with_packed_body(self, request: Request, answer: Answer) -> Answer:
        """Packed in a thread, once for all who get the same: an answer of the same target and version."""
        key = (request.target, answer.content_type, answer.version)
        packing = self._packed.get(key) if answer.version else None
        if packing is None:
            packing = asyncio.ensure_future(asyncio.to_thread(_gzip, answer))
            if answer.version:
                self._packed[key] = packing
                packing.add_done_callback(self._forget_some)
        else:
            self._packed.move_to_end(key)
        body = await asyncio.shield(packing)
        return answer._replace(body=body, rest=None, headers=(*answer.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")))

    def _forget_some(self, _: asyncio.Future[bytes]) -> None:
        """Keep the packed answers that were asked for last, as far as there is room."""
        room = PACKED_BYTES
        for key, packing in reversed(list(self._packed.items())):
            if not packing.done():
                continue
            room -= len(packing.result()) if not packing.cancelled() and packing.exception() is None else PACKED_BYTES
            if room < 0:
                del self._packed[key]

    # ---- what goes on

    async def _stream(self, connection: Connection, request: Request, streamed: Streamed) -> None:
        if connection.gone:
            return
        stream = connection.stream = Streaming(connection)
        keeps = request.keeps and not self.stopping
        if self.stopping:
            stream.end()
        connection.write(self._head(streamed, "Transfer-Encoding: chunked\r\n" if keeps else "Transfer-Encoding: chunked\r\nConnection: close\r\n"))
        await streamed.run(stream)
        connection.write(b"0\r\n\r\n")
        connection.stream = None
        connection.done(keeps=keeps)

    async def _upgrade(self, connection: Connection, request: Request, upgraded: Upgraded) -> None:
        """Make the connection a WebSocket, until what runs on it is over or the server stops."""
        parts = [_status_line(101), f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {upgrades.accepted(request)}\r\n"]
        if upgraded.protocol:
            parts += ("Sec-WebSocket-Protocol: ", upgraded.protocol, "\r\n")
        _add_headers(parts, upgraded.headers)
        connection.write("".join((*parts, "\r\n")).encode())
        talk = upgrades.WebSocket(connection)
        connection.become(talk)
        if self.stopping:
            talk.lost()
        code = 1011
        try:
            await upgraded.run(talk)
            code = 1000
        finally:
            with suppress(ConnectionError):
                await talk.close(code)
            connection.close()

    async def _switch(self, connection: Connection, switched: Switched) -> None:
        """Give the connection's bytes to what runs on it, until it is over or the server stops."""
        parts = [_status_line(101)]
        _add_headers(parts, switched.headers)
        connection.write("".join((*parts, "\r\n")).encode("utf-8", "surrogateescape"))
        talk = upgrades.Bytes(connection)
        connection.become(talk)
        if self.stopping:
            talk.lost()
        try:
            await switched.run(talk)
        finally:
            connection.close()


def _call(connection: Connection, request: Request) -> Call:
    """The call that a request is; BadRequest when it is none."""
    target, _, query = request.target.partition("?")
    if not target.startswith("/"):
        # The absolute form of RFC 9112 section 3.2.2.
        scheme, _, rest = target.partition("://")
        if scheme not in ("http", "https"):
            raise BadRequest("the request target is neither a path nor a URL")
        target = "/" + rest.partition("/")[2]
    if request.method in ("GET", "POST") and "Upgrade" in request.headers and upgrades.is_asked(request):
        upgrades.check(request)
    if "#" in query:
        query = query.partition("#")[0]
    return Call(request.method, target, query, request.headers, connection.subject, request.body, not request.is_old, connection.peer)


def _status_line(status: int) -> str:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n"


def _add_headers(parts: list[str], headers: Sequence[tuple[str, str]]) -> None:
    for name, value in headers:
        if not value.isprintable():  # a line's end would end the header
            value = "".join(one if one.isprintable() else " " for one in value)
        parts += (name, ": ", value, "\r\n")


def _takes_gzip(accept: str) -> bool:
    """Whether an Accept-Encoding header allows gzip (RFC 9110 section 12.5.3)."""
    for part in accept.split(","):
        coding, _, weight = part.strip().lower().partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _gzip(answer: Answer) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(piece) for piece in _pieces_of(answer)), packer.flush()])


def _pieces_of(answer: Answer) -> Iterator[bytes | memoryview]:
    body = memoryview(answer.body)
    for at in range(0, len(body), _PIECE):
        yield body[at : at + _PIECE]
    if answer.rest is not None:
        yield from answer.rest.pieces()


def _framing(size: int, *, keeps: bool) -> str:
    return f"Content-Length: {size}\r\n" if keeps else f"Content-Length: {size}\r\nConnection: close\r\n"


def unexpected(error: BaseException) -> Answer:
    """The answer to a bug of ours: logged here, told to the client without details."""
    log.error("A request failed unexpectedly", exc_info=error)
    return failure(InternalError(f"Internal error occurred: {type(error).__name__}"))
