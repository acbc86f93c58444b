"""The ``proxy`` subresources of nodes, pods and Services: a request is passed on as it is, and what is answered is passed back.

Rule of this file: what a reverse proxy does to a path and to headers, and nothing of connections, which are ``backends``'.

Theory. What follows ``…/proxy`` in the path is the path there. Headers that are about one connection stay on it (RFC 9110 section 7.6.1), and so does
what the client has told us of who it is. Whoever is asked learns of the client by ``X-Forwarded-For``, and of the path that leads
to it by ``X-Forwarded-Uri``; it may send the client elsewhere on itself, and such a ``Location``, like the links of a page, gets the path that leads there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

from multidict import CIMultiDict

from twinstack.api.errors import BadRequest
from twinstack.apiserver.auth import HIDDEN_TOKEN
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.calls import Answer, Call, Reaction
from twinstack.apiserver.pages import ENCODINGS, MEDIA_TYPE, Page
from twinstack.apiserver.requests import Request
from twinstack.apiserver.settings import Settings
from twinstack.apiserver.targets import Target, target_of

if TYPE_CHECKING:
    from twinstack.apiserver.backends import Backends

_SAFE: Final = "/$&+,:;=@~"
_OF_A_CONNECTION: Final = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
# What is said to us alone, and what is made anew with the body.
_OURS: Final = frozenset(("authorization", "content-length", "expect"))
_IMPERSONATION: Final = "impersonate-"
_PROTOCOLS: Final = "Sec-WebSocket-Protocol"


class Forwarder:
    """Passes requests on to what the cache knows of."""

    def __init__(self, cache: Cache, settings: Settings) -> None:
        self._cache = cache
        self._files = (settings.kubelet_client_certificate, settings.kubelet_client_key, settings.kubelet_certificate_authority)

    @cached_property
    def _backends(self) -> Backends:
        """Made when something is passed on for the first time: its library takes long to import."""
        from twinstack.apiserver.backends import Backends

        return Backends(*self._files)

    async def connect(self, request: Request, call: Call) -> Reaction:
        """What is answered at the other end; BadRequest, NotFound or ServiceUnavailable when there is none."""
        before, path = paths_of(request, call.path)
        target = target_of(self._cache, request.resource, request.namespace, request.name)
        upgrade = upgrade_of(call.headers)
        if not path and not upgrade and call.method in ("GET", "HEAD"):  # relative links of a page would lead to its neighbours
            return Answer(301, b"", headers=[("Location", f"{call.path}/" + (f"?{call.query}" if call.query else ""))])
        headers = passed_on(call, before + path, upgrade)
        answered = await self._backends.ask(target, call, path or "/", headers, upgraded=bool(upgrade))
        location = answered.headers.get("Location", "")
        shown = CIMultiDict(passed_back(answered.headers))
        host, encoding = headers.get("Host", ""), answered.headers.get("Content-Encoding", "").lower()
        if location:
            shown["Location"] = relocated(location, target, host, before)
        elif answered.media_type == MEDIA_TYPE and encoding in ENCODINGS:
            shown.popall("Content-Encoding", None)
            answered = answered._replace(page=Page(lambda link: relocated(link, target, host, before), encoding))
        return answered.reaction(shown)


def paths_of(request: Request, path: str) -> tuple[str, str]:
    """The path up to ``proxy``, and the path there: empty, or absolute, with what leads upwards taken out."""
    count = 8 if request.resource.namespaced else 6  # the parts up to ``proxy``, the first of which is empty
    parts = path.split("/")
    before, rest = "/".join(parts[:count]), "/".join(["", *parts[count:]]) if len(parts) > count else ""
    if not rest:
        return before, ""
    plain = unquote(rest, errors="surrogateescape")
    clean = "/" + posixpath.normpath(plain).lstrip("/")
    if plain.endswith("/") and not clean.endswith("/"):
        clean += "/"
    return before, quote(clean, safe=_SAFE, errors="surrogateescape")


def upgrade_of(headers: Mapping[str, str]) -> str:
    """The protocol that the client wants its connection to change to."""
    return headers.get("Upgrade", "") if "upgrade" in _words(headers.get("Connection", "")) else ""


def passed_on(call: Call, path: str, upgrade: str) -> CIMultiDict[str]:
    """The headers of a request as the other end gets them."""
    dropped = _OF_A_CONNECTION | _OURS | _words(call.headers.get("Connection", ""))
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in call.headers.items():
        low = name.lower()
        if low in dropped or low.startswith(_IMPERSONATION):
            continue
        if not value.isprintable() or not value.isascii():
            value = _printable(name, value)
        headers.add(name, value)
    if _PROTOCOLS in headers and (offers := ", ".join(headers.getall(_PROTOCOLS))):
        headers.popall(_PROTOCOLS)
        if kept := [one for part in offers.split(",") if (one := part.strip()) and not one.startswith(HIDDEN_TOKEN)]:
            headers[_PROTOCOLS] = ", ".join(kept)
    if upgrade:
        headers["Connection"], headers["Upgrade"] = "Upgrade", upgrade
    if call.peer:
        headers["X-Forwarded-For"] = ", ".join([*headers.getall("X-Forwarded-For", []), call.peer])
    headers["X-Forwarded-Uri"] = path
    return headers


def _printable(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"the header {name} is not UTF-8") from error
    return "".join(one if one.isprintable() else " " for one in value)


def passed_back(headers: CIMultiDict[str]) -> Iterator[tuple[str, str]]:
    """The headers of an answer as the client gets them; its length and time are said anew."""
    dropped = _OF_A_CONNECTION | {"content-length", "content-type", "date"} | _words(headers.get("Connection", ""))
    return ((name, value) for name, value in headers.items() if name.lower() not in dropped)


def relocated(location: str, target: Target, host: str, before: str) -> str:
    """A ``Location``: one that stays at the other end leads there through us, and every other is left alone."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return location
    own = {target.origin.partition("://")[2], host, ""}
    if parts.netloc not in own or not parts.path.startswith("/"):
        return location
    path = parts.path if parts.path.startswith(before) else before + parts.path
    return parts._replace(scheme="", netloc="", path=path).geturl()


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip().lower() for word in text.split(",") if word.strip())
