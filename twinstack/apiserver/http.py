"""The HTTP door. This module alone knows which library it is made of.

Rule of this file: bytes in and bytes out; nothing here knows what they mean. Bodies are bounded, a client that is
gone ends its stream, and a stream's live part is written straight to the transport: what a thousand watchers
are told was framed once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import uuid
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from multidict import CIMultiDict
from yarl import URL

from twinstack.api.channels import Socket
from twinstack.api.errors import BadRequest, InternalError, RequestEntityTooLarge, ServiceUnavailable, Timeout, UnsupportedMediaType, from_status
from twinstack.apiserver.calls import Answer, Call, Reaction, Stream, Streamed, Subject, Upgraded, failure
from twinstack.client.certificates import Pair, client_context
from twinstack.client.websockets import LONGEST_MESSAGE, WebSocket
from twinstack.net.errors import Error

log = logging.getLogger(__name__)

BODY_LIMIT = 3 << 20
_TURNS = 3
GZIP_FROM = 128 << 10  # bytes of an answer, as upstream has it; less is not worth the work
# Who comes by the unix socket: its file's permissions say that it is whoever runs this server.
LOCAL: Subject = ((("organizationName", "system:masters"),), (("commonName", "system:admin"),))


def _uid_of(what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://twinstack.dev/flow-control/{what}"))


# Clients tell by the last two that the server shares its time between users. There is one class for all, so they are always the same.
_ALWAYS: tuple[tuple[str, str], ...] = (
    ("Cache-Control", "no-cache, private"),
    ("X-Kubernetes-Pf-Flowschema-Uid", _uid_of("global-default")),
    ("X-Kubernetes-Pf-Prioritylevel-Uid", _uid_of("global-default-level")),
)
HEAD_SECONDS, BODY_SECONDS = 32.0, 60.0  # as upstream has it: what comes slower holds a connection for nothing
CLOSE_SECONDS = 2.0  # so long is waited for the other side of a WebSocket to close too
HEARTBEAT_SECONDS = 30.0
Responder = Callable[[Call], Awaitable[Reaction]]


class _NotOurFault(logging.Filter):
    """Keeps out what only says that a client sent no HTTP; it was answered with 400."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class _Handler(RequestHandler):
    """aiohttp's handler of a connection.

    It answers a client that has said all and closed its half, which only plain connections can; ends a connection whose
    request's head does not come to its end; and answers what is no HTTP as it answers everything, with a Status.
    """

    __slots__ = ("_head_due", "_head_seconds")

    def __init__(self, manager: web.Server, *, head_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._head_seconds = head_seconds
        self._head_due: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._head_is_there()
        elif self._head_due is None and self._waiter is not None and not self._waiter.done():
            self._head_due = self._loop.call_later(self._head_seconds, self._head_is_late)

    def _head_is_there(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _head_is_late(self) -> None:
        self._head_due = None
        if self._waiter is not None and not self._waiter.done():
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def handle_error(self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # which logs, and knows whether something was sent already
        if status >= 500:
            told = failure(InternalError("Internal error occurred"))
        else:
            first = (message or "").partition("\n")[0].rstrip(": ")
            too_long = isinstance(exc, LineTooLong) or "Too many headers" in first
            told = failure(BadRequest(f"the request is not HTTP: {first}", code=431 if too_long else 400))
        response = web.Response(status=told.status, body=told.body, headers=CIMultiDict((("Content-Type", told.content_type), *_ALWAYS)))
        response.force_close()
        return response

    def eof_received(self) -> bool | None:  # type: ignore[override]
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return None
        if not self._messages and self._waiter is not None and not self._waiter.done():
            return None  # nothing is being answered
        self.close()  # once all is answered
        self._end_if_cut_short(_TURNS)
        return True

    def _end_if_cut_short(self, turns: int) -> None:
        """End the connection when a body that is being read can never be whole. Some turns of the loop later its reader is there for sure."""
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        if self.transport is not None and not all(body.is_eof() for body in bodies):
            self.transport.close()
        elif turns:
            self._loop.call_soon(self._end_if_cut_short, turns - 1)


class _Connections(web.Server):
    """aiohttp's low-level server; tells streams when their connection is lost."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], head_seconds: float) -> None:
        told = logging.getLogger(f"{__name__}.connections")
        if not told.filters:
            told.addFilter(_NotOurFault())
        limits: dict[str, Any] = {"max_line_size": 64 << 10, "max_field_size": 64 << 10, "auto_decompress": False}
        super().__init__(handler, access_log=None, logger=told, keepalive_timeout=300.0, tcp_keepalive=True, **limits)
        self._head_seconds = head_seconds
        self.streams: dict[RequestHandler, asyncio.Event] = {}

    def __call__(self) -> RequestHandler:
        return _Handler(self, head_seconds=self._head_seconds, loop=self._loop, **self._kwargs)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        over = self.streams.get(handler)
        if over is not None:
            over.set()


class HTTPServer:
    """Listens until stopped, and has every request answered by *respond*.

    A request's head must come within *head_seconds* of its first byte, and its body within *body_seconds*.
    """

    def __init__(self, respond: Responder, *, head_seconds: float = HEAD_SECONDS, body_seconds: float = BODY_SECONDS) -> None:
        self._respond = respond
        self._head_seconds, self._body_seconds = head_seconds, body_seconds
        self._connections: _Connections | None = None
        self._listeners: list[asyncio.Server] = []

    async def start(self, sockets: Iterable[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Serve on sockets that are bound; they are closed at the end."""
        self._connections = _Connections(self._handle, self._head_seconds)
        loop = asyncio.get_running_loop()
        for one in sockets:
            one.setblocking(False)
            if one.family is socket.AF_UNIX:
                self._listeners.append(await loop.create_unix_server(self._connections, sock=one, backlog=1024))
                continue
            listener = await loop.create_server(self._connections, sock=one, ssl=tls, backlog=1024, ssl_handshake_timeout=30.0 if tls else None)
            self._listeners.append(listener)

    async def stop(self, seconds: float = 5.0) -> None:
        """Accept nothing more, end the streams, let what is being answered finish, then drop the rest."""
        for listener in self._listeners:
            listener.close()
        connections = self._connections
        if connections is not None:
            for over in list(connections.streams.values()):
                over.set()
            connections.pre_shutdown()  # ends the idle ones at once
            await connections.shutdown(seconds)
        self._listeners.clear()

    @property
    def connections(self) -> int:
        return len(self._connections.connections) if self._connections is not None else 0

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        head_only = request.method == "HEAD"
        unread = False
        try:
            target, _, query = request.raw_path.partition("?")
            if not target.startswith("/"):
                # The absolute form of RFC 9112 section 3.2.2.
                scheme, _, rest = target.partition("://")
                if scheme not in ("http", "https"):
                    raise BadRequest("the request target is neither a path nor a URL")
                target = "/" + rest.partition("/")[2]
            transport = request.transport
            certificate = transport.get_extra_info("peercert") if transport is not None else None
            peer = transport.get_extra_info("peername") if transport is not None else None
            local = transport is not None and _is_local(transport)
            body = await _body(request, self._body_seconds) if request.body_exists else b""
            streams = request.version >= (1, 1)
            reaction = await self._respond(
                Call(
                    request.method,
                    target,
                    query.partition("#")[0],
                    request.headers,
                    LOCAL if local else certificate["subject"] if certificate else (),
                    body,
                    streams,
                    peer[0] if peer and not local else "",
                )
            )
        except RequestEntityTooLarge as error:
            reaction, unread = failure(error), True
        except Timeout as error:
            reaction, unread = failure(error), True
            request.protocol._lingering_time = 0.0  # what did not come until now is not waited for once more
        except (BadRequest, UnsupportedMediaType) as error:
            reaction = failure(error)
        if isinstance(reaction, Upgraded):
            return await self._upgrade(request, reaction)
        if isinstance(reaction, Streamed):
            if not head_only:
                return await self._stream(request, reaction)
            reaction = Answer(200, b"", reaction.content_type, reaction.headers)
        headers: CIMultiDict[str] = CIMultiDict((("Content-Type", reaction.content_type), *_ALWAYS))
        for name, value in reaction.headers:
            headers.add(name, value)
        body = reaction.body
        if len(body) >= GZIP_FROM and _takes_gzip(request.headers.get("Accept-Encoding", "")):
            body = await asyncio.to_thread(_gzip, body)
            headers["Content-Encoding"] = "gzip"
            headers.add("Vary", "Accept-Encoding")
        # To HEAD the library sends the head alone, with the length of what GET would get.
        response = web.Response(status=reaction.status, body=body, headers=headers)
        if unread:
            response.force_close()
        return response

    async def _stream(self, request: web.BaseRequest, streamed: Streamed) -> web.StreamResponse:
        connections = self._connections
        assert connections is not None
        response = web.StreamResponse(status=200, headers=CIMultiDict((("Content-Type", streamed.content_type), *_ALWAYS)))
        for name, value in streamed.headers:
            response.headers.add(name, value)
        response.enable_chunked_encoding()
        over = asyncio.Event()
        connections.streams[request.protocol] = over
        try:
            if request.transport is None or request.transport.is_closing() or not self._listeners:
                over.set()
            await response.prepare(request)
            await streamed.run(_Stream(request, response, over))
        except ConnectionError:
            log.debug("A stream's client went away", extra={"path": request.raw_path})
        except Error as error:
            # The head is sent already: what went wrong can only be told by ending too early.
            log.warning("A stream broke off", extra={"path": request.raw_path, "err": str(error)})
            if request.transport is not None:
                request.transport.abort()
        finally:
            connections.streams.pop(request.protocol, None)
        return response

    async def _upgrade(self, request: web.BaseRequest, upgraded: Upgraded) -> web.StreamResponse:
        """Make the connection a WebSocket, until what runs on it is over or the server stops."""
        connections = self._connections
        assert connections is not None
        response = web.WebSocketResponse(protocols=(upgraded.protocol,), max_msg_size=LONGEST_MESSAGE, compress=False, timeout=CLOSE_SECONDS)
        for name, value in upgraded.headers:
            response.headers.add(name, value)
        over = asyncio.Event()
        connections.streams[request.protocol] = over

        async def until_over() -> None:
            await over.wait()

        async def talk() -> None:
            await upgraded.run(WebSocket(response))

        try:
            await response.prepare(request)
            if self._listeners:
                await _first_of(until_over(), talk())
            await response.close()
        except ConnectionError:
            log.debug("A stream's client went away", extra={"path": request.path})
        except Error as error:
            log.warning("A stream broke off", extra={"path": request.path, "err": str(error)})
            await response.close(code=1011)
        finally:
            connections.streams.pop(request.protocol, None)
        return response


class _Stream(Stream):
    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, over: asyncio.Event) -> None:
        self._transport = request.transport
        self._response = response
        self._over = over

    async def send(self, data: bytes) -> None:
        await self._response.write(data)

    def push(self, framed: bytes) -> None:
        if self._transport is not None and not self._over.is_set():
            self._transport.write(framed)

    @property
    def backlog(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None and not self._over.is_set() else 0

    def abort(self) -> None:
        self._over.set()
        if self._transport is not None:
            self._transport.abort()

    async def ended(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()


class Kubelets:
    """Fetches from kubelets: shows the given client certificate, and verifies by the given authority if there is one."""

    def __init__(self, certificate_file: str, key_file: str, authority_file: str) -> None:
        self._files = (certificate_file, key_file, authority_file)
        self._tls: ssl.SSLContext | None = None

    async def get(self, url: str, query: str, *, follow: bool) -> Reaction:
        """The kubelet's answer, whole or as it comes; the kubelet's own failure, or ServiceUnavailable when it cannot be reached."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None if follow else 60.0, connect=5.0)
        session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=self._context()))
        try:
            response = await session.get(URL(f"{url}?{query}" if query else url, encoded=True))
            if response.status != 200:
                text = (await response.content.read(4096)).decode(errors="replace").strip()
                reason = from_status({"code": response.status, "message": text or f"the kubelet answered {response.status}"})
                await session.close()
                return failure(reason)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await session.close()
            raise ServiceUnavailable(f"the kubelet cannot be reached: {error or type(error).__name__}") from error
        except BaseException:
            await session.close()
            raise

        async def run(stream: Stream) -> None:
            async def copy() -> None:
                async for data in response.content.iter_any():
                    await stream.send(data)

            async def until_ended() -> None:
                while not await stream.ended(3600.0):
                    pass

            try:
                await _first_of(copy(), until_ended())
            except aiohttp.ClientError as error:
                raise ServiceUnavailable(f"the kubelet's answer broke off: {error}") from error
            finally:
                response.close()
                await session.close()

        return Streamed(response.headers.get("Content-Type", "text/plain"), run)

    async def reach(self, host_url: str) -> None:
        """ServiceUnavailable when a kubelet does not answer at all."""
        import aiohttp

        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0), connector=aiohttp.TCPConnector(ssl=self._context()))
        try:
            async with session, session.get(f"{host_url}/healthz") as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServiceUnavailable(f"the kubelet cannot be reached: {error or type(error).__name__}") from error

    async def talk(self, url: str, query: str, protocols: Sequence[str]) -> Upgraded:
        """A WebSocket to the kubelet, to be handed through to the client; ServiceUnavailable when there is none."""
        import aiohttp

        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=5.0), connector=aiohttp.TCPConnector(ssl=self._context()))
        target = URL(f"{url}?{query}" if query else url, encoded=True)
        try:
            async with asyncio.timeout(10.0):
                kubelet = await session.ws_connect(target, protocols=protocols, max_msg_size=LONGEST_MESSAGE, heartbeat=HEARTBEAT_SECONDS)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await session.close()
            raise ServiceUnavailable(f"the kubelet cannot be reached: {error or type(error).__name__}") from error
        except BaseException:
            await session.close()
            raise

        async def run(client: Socket) -> None:
            near, far = client, WebSocket(kubelet)
            try:
                await _first_of(_pass(near, far), _pass(far, near))
            finally:
                await kubelet.close()
                await session.close()

        return Upgraded(kubelet.protocol or "", run)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            certificate_file, key_file, authority_file = self._files
            pair = Pair(Path(certificate_file).read_bytes(), Path(key_file).read_bytes()) if certificate_file else None
            authorities = Path(authority_file).read_bytes() if authority_file else b""
            # Without an authority kubelets are trusted as they come, as upstream does: their certificates are self-made.
            self._tls = client_context(authorities=authorities, pair=pair, verify=bool(authorities))
        return self._tls


async def _pass(source: Socket, target: Socket) -> None:
    """Hand on every message until the source closes."""
    while (message := await source.receive()) is not None:
        await target.send(message)


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until the first is over; the others are cancelled, and an error of any is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _body(request: web.BaseRequest, seconds: float) -> bytes:
    """The whole body; RequestEntityTooLarge beyond the limit, Timeout when it does not come."""
    if (request.content_length or 0) > BODY_LIMIT:
        raise _too_large()
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body of the request is compressed, which is not accepted: a few bytes may stand for gigabytes")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        if request.content.is_eof():  # it came with the head, as most do
            return await _read(request.content)
        async with asyncio.timeout(seconds):
            return await _read(request.content)
    except TimeoutError as error:
        raise Timeout(f"the body of the request did not come within {seconds:g} seconds") from error
    except (web.HTTPException, RequestPayloadError, ValueError) as error:
        raise BadRequest(f"the request's body cannot be read: {error}") from error


async def _read(content: StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await content.readany():
        size += len(part)
        if size > BODY_LIMIT:
            raise _too_large()
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_local(transport: asyncio.Transport) -> bool:
    one = transport.get_extra_info("socket")
    return one is not None and one.family == socket.AF_UNIX


def _takes_gzip(accept: str) -> bool:
    """Whether an Accept-Encoding header allows gzip (RFC 9110 section 12.5.3)."""
    for part in accept.split(","):
        coding, _, weight = part.strip().lower().partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def _too_large() -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"Request entity too large: limit is {BODY_LIMIT}")


def unexpected(error: BaseException) -> Answer:
    """The answer to a bug of ours: logged here, told to the client without details."""
    log.error("A request failed unexpectedly", exc_info=error)
    return failure(InternalError(f"Internal error occurred: {type(error).__name__}"))
