"""Connections to what requests are passed on to: a request out, and its answer back as it comes; or bytes both ways after an upgrade.

Rule of this file: nothing is followed or understood (links are ``pages``' business), and what was opened is closed whoever leaves first.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections import deque
from functools import cached_property
from typing import Final, NamedTuple

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from twinstack.api.channels import Socket
from twinstack.api.errors import ServiceUnavailable
from twinstack.apiserver.calls import Answer, Call, Reaction, Rest, Stream, Streamed, Switched
from twinstack.apiserver.kubelets import Kubelets, copied, first_of
from twinstack.apiserver.pages import Page
from twinstack.apiserver.targets import Target
from twinstack.client.certificates import client_context

CONNECT_SECONDS: Final = 30.0
_AUTOMATIC: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")  # what the library would say of itself
_BODILESS: Final = (204, 304)
_UNTYPED: Final = "application/octet-stream"
_MOST_WAITING: Final = 1 << 20  # bytes that came and nobody took, before nothing more is read


class Backends:
    """Asks targets: kubelets with a client certificate, and everybody else without, taking their certificates as they come, as upstream does."""

    def __init__(self, certificate_file: str, key_file: str, authority_file: str) -> None:
        self._kubelets = Kubelets(certificate_file, key_file, authority_file)

    @cached_property
    def _any(self) -> ssl.SSLContext:
        return client_context(authorities=b"", pair=None, verify=False)

    async def ask(self, target: Target, call: Call, path: str, headers: CIMultiDict[str], *, upgraded: bool) -> Answered:
        """Pass a request on, and return what the answer begins with; ServiceUnavailable when nobody answers."""
        tls = self._kubelets.context() if target.is_kubelet else self._any
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(ssl=tls, force_close=True),
            skip_auto_headers=_AUTOMATIC,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        url = URL(f"{target.origin}{path}" + (f"?{call.query}" if call.query else ""), encoded=True)
        body = None if not call.body and call.method in ("GET", "HEAD", "OPTIONS") else call.body
        try:
            response = await session.request(call.method, url, headers=headers, data=body, allow_redirects=False)
            if call.method != "HEAD" and response.status != 101 and not call.can_stream:
                whole = await response.read()
                await session.close()
                return Answered(call.method, response, session, whole)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            await session.close()
            raise ServiceUnavailable(f"error trying to reach service: {error or type(error).__name__}") from error
        except BaseException:
            await session.close()
            raise
        if response.status == 101 and not upgraded:
            await session.close()
            raise ServiceUnavailable("error trying to reach service: it changes to another protocol, and nobody has asked it to")
        if call.method == "HEAD" or response.status in _BODILESS:
            await session.close()
        return Answered(call.method, response, session, None)


class Answered(NamedTuple):
    """An answer whose head is there."""

    method: str
    response: aiohttp.ClientResponse
    session: aiohttp.ClientSession
    whole: bytes | None  # the body, for a client that wants all of it at once
    page: Page | None = None  # what changes the body on its way

    @property
    def headers(self) -> CIMultiDict[str]:
        return CIMultiDict(self.response.headers)

    @property
    def media_type(self) -> str:
        return self.response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def reaction(self, headers: CIMultiDict[str]) -> Reaction:
        """What the client gets, with these headers."""
        response, listed = self.response, list(headers.items())
        content_type = response.headers.get("Content-Type", _UNTYPED)
        if response.status == 101:
            return Switched(self._run_switched, [("Connection", "Upgrade"), ("Upgrade", response.headers.get("Upgrade", "")), *listed])
        if response.status in _BODILESS:
            return Answer(response.status, b"", content_type, listed)
        if self.method == "HEAD":  # which tells how long the body would be
            return Answer(response.status, b"", content_type, listed, rest=Rest(response.content_length or 0, lambda: iter(())))
        if self.whole is not None:
            return Answer(response.status, self.whole if self.page is None else self.page.feed(self.whole) + self.page.end(), content_type, listed)
        return Streamed(content_type, self._run, listed, response.status)

    async def _run(self, stream: Stream) -> None:
        await copied(self.response, self.session, stream if self.page is None else _Changing(stream, self.page), "the answer")
        if self.page is not None and (rest := self.page.end()):
            await stream.send(rest)

    async def _run_switched(self, client: Socket) -> None:
        far = _Pipe(self.response)

        async def there() -> None:
            while data := await client.receive():
                await far.send(data)

        async def back() -> None:
            while data := await far.receive():
                await client.send(data)

        try:
            await first_of(there(), back())
        finally:
            self.response.close()
            await self.session.close()


class _Changing(Stream):
    """A stream to a client of which a page's links are changed."""

    def __init__(self, stream: Stream, page: Page) -> None:
        self._stream, self._page = stream, page

    async def send(self, data: bytes) -> None:
        try:
            changed = self._page.feed(data)
        except zlib.error as error:
            raise ServiceUnavailable(f"the answer is not packed as it says: {error}") from error
        if changed:
            await self._stream.send(changed)

    def push(self, framed: bytes) -> None:
        self._stream.push(framed)

    @property
    def backlog(self) -> int:
        return self._stream.backlog

    def abort(self) -> None:
        self._stream.abort()

    async def ended(self, seconds: float) -> bool:
        return await self._stream.ended(seconds)


class _Pipe:
    """The bytes of a connection after its upgrade; to the library it is a parser that takes them all."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        connection = response.connection
        if connection is None or connection.protocol is None or connection.transport is None:
            raise ServiceUnavailable("error trying to reach service: the connection ended with its upgrade")
        self._protocol, self._transport = connection.protocol, connection.transport
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._is_over = False
        self._come = asyncio.Event()
        self._protocol.set_parser(self, self)

    # ---- the library's calls, as a parser and as what a parser fills

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if data:
            self._pieces.append(data)
            self._waiting += len(data)
            if self._waiting > _MOST_WAITING:
                self._protocol.pause_reading()
            self._come.set()
        return False, b""

    def feed_eof(self) -> None:
        self._is_over = True
        self._come.set()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self.feed_eof()

    # ---- ours

    async def receive(self) -> bytes:
        """What came; nothing once the other side has closed."""
        while not self._pieces:
            if self._is_over or self._transport.is_closing():
                return b""
            self._come.clear()
            await self._come.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        self._protocol.resume_reading()
        return data

    async def send(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the other side has closed the connection")
        self._transport.write(data)
        await self._protocol._drain_helper()
