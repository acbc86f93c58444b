"""What passes between the HTTP door and the rest of the server: a call in, an answer or a stream out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from twinstack.api import objects
from twinstack.api.channels import Socket
from twinstack.api.errors import APIError
from twinstack.api.objects import Document

JSON = "application/json"
Subject = tuple[tuple[tuple[str, str], ...], ...]  # a certificate's subject as the ssl module has it


class User(NamedTuple):
    """Who calls."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def document(self) -> Document:
        """As reviews and the audit log show it."""
        shown: Document = {"username": self.name}
        if self.uid:
            shown["uid"] = self.uid
        if self.groups:
            shown["groups"] = list(self.groups)
        if self.extra:
            shown["extra"] = {key: list(values) for key, values in self.extra}
        return shown


# Who the request is from that is being answered; None where the server acts by itself.
CALLER: ContextVar[User | None] = ContextVar("caller", default=None)


class Call(NamedTuple):
    """One HTTP request, its body read. Header names are looked up in any case; ``path`` is as it was sent, percent signs and all."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    subject: Subject  # of the verified client certificate; empty without one
    body: bytes
    can_stream: bool = True  # HTTP/1.0 cannot
    peer: str = ""  # the address that the client connects from


class Rest(NamedTuple):
    """What follows of a long body: its size in bytes, and what makes it piece by piece while it is sent."""

    size: int
    pieces: Callable[[], Iterator[bytes]]


class Answer(NamedTuple):
    """A whole answer. Answers to the same target that have the same ``version``, if they have one, have the same body."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Sequence[tuple[str, str]] = ()
    version: str = ""
    rest: Rest | None = None

    @property
    def size(self) -> int:
        """Bytes of all of the body."""
        return len(self.body) + (self.rest.size if self.rest is not None else 0)

    def whole(self) -> bytes:
        """All of the body in one."""
        return self.body + b"".join(self.rest.pieces()) if self.rest is not None else self.body


class Stream(Protocol):
    """An answer without an end: chunks to a client that may be slow, or gone."""

    async def send(self, data: bytes) -> None:
        """Send a chunk, and wait while the client is behind; ConnectionError when it is gone."""

    def push(self, framed: bytes) -> None:
        """Send what :func:`frame` made, without waiting."""

    @property
    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""

    def abort(self) -> None:
        """Drop the connection."""

    async def ended(self, seconds: float) -> bool:
        """Wait so long for the client to go or the server to stop; whether it happened."""


class Streamed(NamedTuple):
    """An answer that goes on: ``run`` sends it and returns when it is over."""

    content_type: str
    run: Callable[[Stream], Awaitable[None]]
    headers: Sequence[tuple[str, str]] = ()
    status: int = 200


class Upgraded(NamedTuple):
    """A connection that becomes a WebSocket of this protocol: ``run`` talks through it and returns when all is said."""

    protocol: str
    run: Callable[[Socket], Awaitable[None]]
    headers: Sequence[tuple[str, str]] = ()

    @property
    def status(self) -> int:
        return 101


class Switched(NamedTuple):
    """A connection that goes on in a protocol that is not ours: ``run`` takes and gives its bytes, and returns when it is over."""

    run: Callable[[Socket], Awaitable[None]]
    headers: Sequence[tuple[str, str]] = ()  # with those of the upgrade

    @property
    def status(self) -> int:
        return 101


Reaction = Answer | Streamed | Upgraded | Switched


def frame(data: bytes) -> bytes:
    """One chunk of HTTP's chunked transfer coding (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def failure(error: APIError) -> Answer:
    """The Status document of a failure."""
    headers = [("Retry-After", str(error.retry_after_seconds))] if error.retry_after_seconds is not None else []
    return Answer(error.http_code, objects.encode(error.status()), JSON, headers)
