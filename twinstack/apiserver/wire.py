"""A connection: from the bytes of HTTP/1.1 to requests, one after the other, and back.

Rule of this file: it knows the wire and nothing of what is said on it; of the API server, this module alone knows the parser's library.

Theory. A parser calls back for each part of a request. A request is passed on once it is there whole, so whoever answers never waits for
its client; it is passed on when everything before it on its connection is answered and taken, so answers keep their order and one connection
holds one large answer at most. What comes too early waits in a line, and a long line stops the reading. A head and a body have a
time to come in, a plain answer one to be taken; streams may take their time, for whoever sends them looks at the backlog.

A request that is refused before its body is there (too large, not HTTP) is answered at once, and its connection ended. What its client is still
sending is read and dropped for a moment, because closing on unread bytes resets the connection, and takes the answer with it.

A transport, its protocol and its parser hold each other, with everything that TLS keeps; so at its end a connection lets go of them,
and none of it waits for the garbage collector.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
from collections import deque
from typing import Final, Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser
from multidict import CIMultiDict

from twinstack.api.errors import APIError, BadRequest, RequestEntityTooLarge, Timeout, UnsupportedMediaType
from twinstack.apiserver.calls import Stream, Subject, frame

log = logging.getLogger(__name__)

BODY_LIMIT: Final = 3 << 20
HEAD_LIMIT: Final = 128 << 10  # bytes of all headers and the target
MOST_HEADERS: Final = 128
_LINE: Final = 16  # requests that may wait on one connection before nothing more is read
_JOINED: Final = 16 << 10  # up to so many bytes are copied into one piece rather than sent in two
_LINGER_SECONDS, _QUIET_SECONDS = 5.0, 0.2
_TAKEN: Final = 64 << 10  # whoever takes less than this of a plain answer in the time that there is for it is cut
# Who comes by the unix socket: its file's permissions say that it is whoever runs this server.
LOCAL: Final[Subject] = ((("organizationName", "system:masters"),), (("commonName", "system:admin"),))
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request:
    """One request as it came. ``refusal`` is why it will not be passed on."""

    __slots__ = ("body", "headers", "is_old", "keeps", "method", "refusal", "target", "waits")

    def __init__(self, method: str, target: str, headers: CIMultiDict[str], *, is_old: bool, keeps: bool) -> None:
        self.method, self.target, self.headers = method, target, headers
        self.is_old = is_old  # HTTP/1.0
        self.keeps = keeps  # whether the connection goes on after the answer
        self.body = b""
        self.waits = False  # for 100 Continue
        self.refusal: APIError | None = None


class Receiver(Protocol):
    """What a connection becomes after an upgrade."""

    def feed(self, data: bytes) -> None:
        """Take what came."""

    def lost(self) -> None:
        """Learn that the other side is gone, or the server stops."""


class Owner(Protocol):
    """Whoever answers."""

    connections: set[Connection]
    head_seconds: float
    body_seconds: float
    take_seconds: float
    stopping: bool

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer, now or later; :meth:`Connection.done` says when. Raises nothing."""


class _Place(enum.Enum):
    """Where in a request the bytes are that come next."""

    BEFORE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


_BEFORE, _HEAD, _BODY = _Place.BEFORE, _Place.HEAD, _Place.BODY


class Connection(asyncio.Protocol):
    """One client's connection, until it is lost."""

    __slots__ = (
        "_body", "_body_size", "_drained", "_dropping", "_due", "_head_size", "_headers", "_held", "_is_reading", "_line", "_loop", "_owner",
        "_parser", "_place", "_raw", "_receiver", "_request", "_since", "_taken", "_target", "_tls", "_turning", "active", "gone", "is_full", "last", "peer",
        "stream", "subject", "transport",
    )  # fmt: skip

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner, self._loop = owner, loop
        self.transport: asyncio.Transport | None = None
        self.subject: Subject = ()
        self.peer = ""
        self._tls = False
        self.gone = False
        self.last = False  # whether nothing more is answered than what is asked already
        self.active: Request | None = None  # what is being answered
        self.stream: Streaming | None = None
        self._line: deque[Request] = deque()
        self._turning = False
        self._since = loop.time()  # when it had something to do last
        # ---- in
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._place = _BEFORE
        self._request: Request | None = None
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._head_size = 0
        self._raw = -1  # bytes of the head that is coming, but for those that came with its first
        self._body: list[bytes] = []
        self._body_size = 0
        self._due: asyncio.TimerHandle | None = None
        self._dropping = False
        self._held = bytearray()  # what came behind a request for an upgrade
        self._receiver: Receiver | None = None
        self._is_reading = True
        # ---- out
        self.is_full = False
        self._drained: list[asyncio.Future[None]] = []
        self._taken: asyncio.TimerHandle | None = None

    # ---- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by their type
        self._owner.connections.add(self)
        self._tls = transport.get_extra_info("sslcontext") is not None
        one = transport.get_extra_info("socket")
        if one is not None and one.family == socket.AF_UNIX:
            self.subject = LOCAL
            return
        if one is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.subject = certificate["subject"]
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or self.last:
            self._besides(data)
            return
        try:
            parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._held += data[upgrade.args[0] :]
            self._parser = None
            if self.active is None and not self._line:  # it was refused already
                self._resume()
            else:
                self.pause()
        except HttpParserCallbackError as error:
            log.error("A connection failed unexpectedly", exc_info=error.__context__ or error)
            self.abort()
        except HttpParserError as error:
            if not self.last:
                text = str(error).partition("\n")[0]
                self._refuse(BadRequest(f"the request is not HTTP: {text}"))
        else:
            if self._place is not _BEFORE:
                self._mind(len(data))

    def eof_received(self) -> bool:
        """Whether to keep the half that we write on: as long as something is being answered, which TLS cannot."""
        if self._tls or self._receiver is not None or self.transport is None or (self.active is None and not self._line):
            return False
        if self._place is not _BEFORE:
            return False  # a body that can never be whole
        self.last = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = self.last = True
        self._owner.connections.discard(self)
        for timer in (self._due, self._taken):
            if timer is not None:
                timer.cancel()
        self._due = self._taken = None
        if self.stream is not None:
            self.stream.end()
        if self._receiver is not None:
            self._receiver.lost()
        for one in self._drained:
            if not one.done():
                one.set_exception(ConnectionResetError("the client is gone"))
        self._drained.clear()
        self._line.clear()
        self._parser = self._receiver = self.stream = self.transport = self._request = None

    def pause_writing(self) -> None:
        self.is_full = True
        if self._taken is None and self.stream is None and self._receiver is None:
            self._expect_progress()

    def resume_writing(self) -> None:
        self.is_full = False
        if self._taken is not None:
            self._taken.cancel()
            self._taken = None
        for one in self._drained:
            _wake(one)
        self._drained.clear()
        if not self._turning:  # a transport may say so within a write
            self._turn()

    # ---- the parser's calls

    def on_message_begin(self) -> None:
        self._place = _HEAD
        self._target, self._headers, self._head_size, self._raw = b"", [], 0, -1

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._place is _HEAD:  # what follows a chunked body is of no interest
            self._headers.append((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")))
            self._head_size += len(name) + len(value)

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None or self.last:
            return
        self._place = _BODY
        self._body, self._body_size = [], 0
        self._stop_timer()
        headers = CIMultiDict(self._headers)
        is_old = parser.get_http_version() != "1.1"
        request = self._request = Request(
            parser.get_method().decode("latin-1"),
            self._target.decode("utf-8", "surrogateescape"),
            headers,
            is_old=is_old,
            keeps=not is_old and parser.should_keep_alive(),
        )
        if self._head_size > HEAD_LIMIT or len(self._headers) > MOST_HEADERS:
            self._refuse(_long_head())
        elif "Content-Length" in headers or "Transfer-Encoding" in headers:
            self._look_at_body(request, headers, upgrades=parser.should_upgrade())

    def _look_at_body(self, request: Request, headers: CIMultiDict[str], *, upgrades: bool) -> None:
        """Refuse a body before it comes, or ask for it."""
        length = headers.get("Content-Length", "")
        if upgrades and length != "0":  # the parser takes it for what the connection is upgraded to
            self._refuse(BadRequest("a request for an upgrade has no body"))
        elif length.isdigit() and int(length) > BODY_LIMIT:
            self._refuse(_large_body())
        elif length != "0" and headers.get("Content-Encoding", "identity").lower() != "identity":
            self._refuse(UnsupportedMediaType("the body of the request is compressed, which is not accepted: a few bytes may stand for gigabytes"))
        elif headers.get("Expect", "").lower() == "100-continue":
            request.waits = True
            self._ask()

    def on_body(self, body: bytes) -> None:
        if self.last:
            return
        self._body_size += len(body)
        if self._body_size > BODY_LIMIT:
            self._refuse(_large_body())
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        if request is None or self.last:
            return
        self._place = _BEFORE
        self._stop_timer()
        if self._body:
            request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body = []
        request.waits = False
        if not request.keeps:
            self.last = True
        self._line.append(request)
        if len(self._line) > _LINE:
            self.pause()
        if not self._turning:
            self._turn()

    # ---- requests and refusals

    def _turn(self) -> None:
        """Pass on what is next, if nothing is being answered and everything was taken."""
        self._turning = True
        try:
            while self._line and self.active is None and not self.is_full and not self.gone:
                request = self.active = self._line.popleft()
                self._owner.serve(self, request)
        finally:
            self._turning = False
        if self.active is None and not self._line and not self.gone:
            if self.last:
                self._close()
            elif self._parser is None and self._receiver is None:
                self._resume()
            else:
                self._ask()
        if not self._is_reading and len(self._line) < _LINE // 2 and self._parser is not None:
            self.read_on()

    def done(self, *, keeps: bool = True) -> None:
        """What was active is answered; with not *keeps* the connection ends with it."""
        self.active = None
        self._since = self._loop.time()
        if not keeps or self._owner.stopping:
            self.last = True
            self._line.clear()
        if not self._turning:
            self._turn()

    def _refuse(self, error: APIError, *, drops: bool = True) -> None:
        """Answer a request that is not there whole, after all before it, and end the connection; what still comes is dropped for a moment."""
        request = self._request or Request("", "", CIMultiDict(), is_old=False, keeps=False)
        request.refusal, request.keeps, self._request = error, False, None
        self._place = _BEFORE
        self._stop_timer()
        self.last, self._dropping = True, drops
        self._line.append(request)
        if not self._turning:
            self._turn()

    def _ask(self) -> None:
        """Ask for a body whose client waits to be asked, once it is its turn."""
        request = self._request
        if request is not None and request.waits and self.active is None and not self._line:
            request.waits = False
            self.write(_CONTINUE)

    def _mind(self, size: int) -> None:
        """A request has begun to come and is not there: bound its size and its time."""
        if self._place is _HEAD:
            self._raw = 0 if self._raw < 0 else self._raw + size
            if self._raw > HEAD_LIMIT:
                self._refuse(_long_head())
                return
        if self._due is None and not self.last:
            seconds = self._owner.head_seconds if self._place is _HEAD else self._owner.body_seconds
            self._due = self._loop.call_later(seconds, self._late)

    def _stop_timer(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        if self._place is _BODY:
            self._refuse(Timeout(f"the body of the request did not come within {self._owner.body_seconds:g} seconds"), drops=False)
        elif self.active is None and not self._line:
            self.abort()
        else:
            self.last = True

    # ---- upgrades

    def become(self, receiver: Receiver) -> None:
        """From now on everything that comes is the receiver's."""
        self._receiver = receiver
        held, self._held = bytes(self._held), bytearray()
        self.read_on()
        if held:
            receiver.feed(held)

    def _resume(self) -> None:
        """There is no upgrade: what was held is the next request."""
        held, self._held = bytes(self._held), bytearray()
        self._parser = HttpRequestParser(self)
        self.read_on()
        if held:
            self.data_received(held)

    def _besides(self, data: bytes) -> None:
        """What came is not for the parser."""
        if self._receiver is not None:
            self._receiver.feed(data)
        elif self._parser is None and not self.last:
            self._held += data
        elif self._due is not None and self._dropping and self.active is None:  # still sending what was refused
            self._due.cancel()
            self._due = self._loop.call_later(_QUIET_SECONDS, self.close)

    def pause(self) -> None:
        """Read nothing for now."""
        if self._is_reading and self.transport is not None:
            self._is_reading = False
            self.transport.pause_reading()

    def read_on(self) -> None:
        if not self._is_reading and self.transport is not None:
            self._is_reading = True
            self.transport.resume_reading()

    # ---- out

    def write(self, head: bytes | memoryview, body: bytes = b"") -> None:
        """Send a head, and a body if there is one, unless the client is gone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if not body:
            transport.write(head)
        elif len(body) <= _JOINED:
            transport.write(bytes(head) + body)
        else:
            transport.writelines((head, body))

    @property
    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    async def drain(self) -> None:
        """Wait while the client is behind; ConnectionError when it is gone."""
        if self.gone or self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if self.is_full:
            taken = self._loop.create_future()
            self._drained.append(taken)
            await taken

    def _expect_progress(self) -> None:
        self._taken = self._loop.call_later(self._owner.take_seconds, self._look_at_progress, self.backlog)

    def _look_at_progress(self, before: int) -> None:
        self._taken = None
        left = self.backlog
        if left and self.stream is None and self._receiver is None:
            if left > before - _TAKEN:
                self.abort()
            else:
                self._expect_progress()

    # ---- the end

    def _close(self) -> None:
        """Nothing more is asked or answered."""
        if self._dropping and self._due is None:
            # The client may still be sending what was refused.
            end = self._loop.time() + _LINGER_SECONDS
            self._due = self._loop.call_later(_QUIET_SECONDS, self.close)
            self._loop.call_at(end, self.close)
        elif not self._dropping:
            self.close()

    def close(self) -> None:
        """Send what is written already, then end it; asyncio's TLS forgets what it has to send when it is told twice."""
        if self.transport is not None and not self.transport.is_closing():
            if self._taken is None and self.backlog:
                self._expect_progress()
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def finish(self) -> None:
        """The server stops: end a stream, and everything once what is being answered is answered."""
        self.last = True
        if self.stream is not None:
            self.stream.end()
        elif self._receiver is not None:
            self._receiver.lost()
        elif self.active is None:
            self.close()

    def is_idle_since(self, moment: float) -> bool:
        """Whether nothing was asked or answered since then."""
        return self.active is None and self._place is _BEFORE and self._since < moment


class Streaming(Stream):
    """An answer that goes on, in chunks."""

    __slots__ = ("_connection", "_over", "_waiters")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._over = False
        self._waiters: list[asyncio.Future[None]] = []

    async def send(self, data: bytes) -> None:
        self._connection.write(frame(data))
        await self._connection.drain()

    def push(self, framed: bytes) -> None:
        transport = self._connection.transport
        if transport is not None and not self._over:
            transport.write(framed)

    @property
    def backlog(self) -> int:
        # Below its high-water mark a transport need not be asked, and a thousand of them need not for each change.
        return self._connection.backlog if self._connection.is_full and not self._over else 0

    def abort(self) -> None:
        self.end()
        self._connection.abort()

    def end(self) -> None:
        """The client is gone, or the server stops."""
        self._over = True
        waiters, self._waiters = self._waiters, []
        for one in waiters:
            _wake(one)

    async def ended(self, seconds: float) -> bool:
        if self._over:
            return True
        loop = asyncio.get_running_loop()
        told: asyncio.Future[None] = loop.create_future()
        self._waiters.append(told)
        timer = loop.call_later(seconds, _wake, told)
        try:
            await told
        finally:
            timer.cancel()
            if told in self._waiters:
                self._waiters.remove(told)
        return self._over


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _long_head() -> BadRequest:
    return BadRequest(f"the head of the request is longer than {HEAD_LIMIT} bytes or has more than {MOST_HEADERS} headers", code=431)


def _large_body() -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"Request entity too large: limit is {BODY_LIMIT}")
