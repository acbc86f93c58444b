"""A thin Kubernetes client: documents in, documents out, failures as the classes that the server raised.

It speaks JSON over HTTP/1.1. A watch hands on the bytes of each object, so that whoever reads it decodes
it once, into the view that he wants. Trouble with the connection is ``ServiceUnavailable``, whichever library told it.
"""

from __future__ import annotations

import asyncio
import copy
import random
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.connector import AddrInfoType
from yarl import URL

from twinstack import __version__
from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key, decode, decode_view, encode, key_of
from twinstack.api.resources import BY_KIND, BY_VIEW, Resource
from twinstack.api.world import Absent, Action, Bind, Create, Delete, DeleteCollection, Patch, Replace
from twinstack.client.kubeconfig import Connection, KubeconfigError
from twinstack.client.throttle import Throttle
from twinstack.client.tls import client_context
from twinstack.net.errors import translate

V = TypeVar("V", bound=kinds.Object)

REQUEST_SECONDS = 60.0
CONNECT_SECONDS = 10.0
TOKEN_FILE_SECONDS = 60.0
LIST_PAGE = 5000  # objects in one answer to a list
_PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}


def _unreachable(error: BaseException) -> errors.ServiceUnavailable:
    text = str(error) or type(error).__name__
    return errors.ServiceUnavailable(f"the API server cannot be reached: {text}")


_TABLE: Mapping[type[BaseException], Any] = {
    aiohttp.ClientConnectorCertificateError: lambda error: errors.ServiceUnavailable(f"the API server's certificate is not trusted: {error}"),
    aiohttp.ClientError: _unreachable,
    ssl.SSLError: _unreachable,
    TimeoutError: lambda error: errors.ServiceUnavailable("the API server did not answer in time"),
    OSError: _unreachable,
    aiohttp.http_exceptions.HttpProcessingError: _unreachable,
    msgspec.MsgspecError: lambda error: errors.InternalError(f"the API server's answer cannot be read: {error}"),
}


class Answer(NamedTuple):
    """What the server said, before anyone looked at it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class WatchEvent(NamedTuple):
    """One event of a watch: *kind* is ADDED, MODIFIED, DELETED or BOOKMARK; *raw* are the bytes of its object."""

    kind: str
    raw: memoryview | bytes

    def view(self, view: type[V]) -> V:
        return decode_view(view, self.raw)

    def document(self) -> Document:
        document: Document = msgspec.json.decode(self.raw)
        return document


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_EVENT = msgspec.json.Decoder(_Event)


class Listed(msgspec.Struct):
    """A list whose items are still bytes."""

    metadata: kinds.ListMeta = msgspec.field(default_factory=kinds.ListMeta)
    items: list[msgspec.Raw] | None = None


_LISTED = msgspec.json.Decoder(Listed)


class Client:
    """The API server, as one user. ``async with Client(connection) as client``."""

    def __init__(self, config: Connection, *, user_agent: str = "", at_once: int = 0, throttle: Throttle | None = None) -> None:
        """*at_once*: how many requests are under way at most, watches and streams apart; 0 for any number. A connection costs some 100 kB."""
        self.config, self._throttle = config, throttle
        self._permits: AbstractAsyncContextManager[None] = asyncio.Semaphore(at_once) if at_once else nullcontext()
        self._user_agent = user_agent or f"twinstack/{__version__}"
        self._base = config.server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._token, self._token_read = config.token, -TOKEN_FILE_SECONDS
        self._said: Callable[[], str] | None = None

    async def __aenter__(self) -> Self:
        tls: ssl.SSLContext | bool = True
        if self._base.startswith("https:"):
            tls = client_context(authorities=self.config.authorities, pair=self.config.pair, verify=self.config.verify)
        self._session = aiohttp.ClientSession(
            # Each watch holds a connection, so their number is not limited here.
            connector=aiohttp.TCPConnector(ssl=tls, limit=0, socket_factory=_socket, keepalive_timeout=55),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS),
            headers={"User-Agent": self._user_agent},
            # The environment's proxies are for the web, not for the cluster.
            trust_env=False,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def acting(self, token: Callable[[], str]) -> Client:
        """A client over the connections of this one, which must be open, that shows whatever token there is at the moment of each request."""
        other = copy.copy(self)
        other._said = token
        return other

    # ---- documents

    async def get(self, resource: Resource, key: Key, *, subresource: str = "") -> Document:
        return await self._document("GET", resource.path(key.namespace, key.name, subresource))

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
        resource_version: str = "",
    ) -> Document:
        """The List document: one page of it when *limit* is given."""
        listed = await self._document("GET", resource.path(namespace), query=_query(label_selector, field_selector, limit, continue_, resource_version))
        # The items of a list do not say what they are; as documents of their own they must.
        listed["items"] = [{"kind": resource.kind, "apiVersion": resource.api_version, **one} for one in listed.get("items") or ()]
        return listed

    async def list_raw(
        self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = "", resource_version: str = ""
    ) -> Listed:
        """The whole list, its items still bytes, read in pages. Expired when the server has forgotten the list between two of them."""
        said = b'{"kind":"%b","apiVersion":"%b",' % (resource.kind.encode(), resource.api_version.encode())
        whole, continue_ = Listed(), ""
        items: list[msgspec.Raw] = []
        while True:
            query = _query(label_selector, field_selector, LIST_PAGE, continue_, "" if continue_ else resource_version)
            answer = await self.raw("GET", resource.path(namespace), query=query)
            with translate(_TABLE):
                page = _LISTED.decode(answer.body)
            items += [msgspec.Raw(said + raw[1:]) if (raw := bytes(one))[:8] != b'{"kind":' else one for one in page.items or ()]
            whole.metadata, continue_ = page.metadata, page.metadata.continue_
            if not continue_:
                whole.items = items
                return whole

    async def create(self, resource: Resource, document: Document, *, namespace: str = "", subresource: str = "", name: str = "") -> Document:
        """Make an object; *name* is that of the parent when a subresource is posted to."""
        path = resource.path(namespace or key_of(document).namespace, name, subresource)
        return await self._document("POST", path, body=encode(document))

    async def update(self, resource: Resource, document: Document, *, subresource: str = "") -> Document:
        key = key_of(document)
        return await self._document("PUT", resource.path(key.namespace, key.name, subresource), body=encode(document))

    async def patch(self, resource: Resource, key: Key, patch: Any, *, subresource: str = "", kind: str = "merge") -> Document:
        """Change an object: *kind* is merge (RFC 7396), strategic or json (RFC 6902)."""
        return await self._document("PATCH", resource.path(key.namespace, key.name, subresource), body=encode(patch), content_type=_PATCHES[kind])

    async def delete(
        self,
        resource: Resource,
        key: Key,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_period_seconds: int | None = None,
        propagation_policy: str = "",
    ) -> Document:
        """Delete an object; the answer is the object while it still waits for somebody, else a Status."""
        options: Document = {"kind": "DeleteOptions", "apiVersion": "v1"}
        preconditions = {name: value for name, value in (("uid", uid), ("resourceVersion", resource_version)) if value}
        if preconditions:
            options["preconditions"] = preconditions
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if propagation_policy:
            options["propagationPolicy"] = propagation_policy
        return await self._document("DELETE", resource.path(key.namespace, key.name), body=encode(options))

    async def perform(self, action: Action) -> Document | None:
        """Do what a controller wants done. Deleting what is gone is a success, and so is None."""
        match action:
            case Create(resource, document):
                return await self.create(resource, document)
            case Replace(resource, document, subresource):
                return await self.update(resource, document, subresource=subresource)
            case Patch():
                return await self.patch(
                    action.resource, action.key, _with_preconditions(action), subresource=action.subresource, kind="strategic" if action.strategic else "merge"
                )
            case Delete(resource, key, uid, grace, policy):
                try:
                    return await self.delete(resource, key, uid=uid, grace_period_seconds=grace, propagation_policy=policy)
                except errors.NotFound:
                    return None
            case DeleteCollection(resource, namespace):
                with suppress(errors.NotFound):
                    await self.raw("DELETE", resource.path(namespace), query={"propagationPolicy": "Background"})
                return None
            case Bind():
                return await self.bind(action.key, action.node, uid=action.uid)
            case Absent(resource, key, uid):
                await self.check_absent(resource, key, uid=uid)
                return None
        raise TypeError(f"{type(action).__name__} is not for the API server")

    async def bind(self, key: Key, node: str, *, uid: str = "") -> Document:
        """Give a pod its node; answers the pod as it is then, so that the next decision knows of it."""
        metadata = {"name": key.name, "namespace": key.namespace} | ({"uid": uid} if uid else {})
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        pods = BY_VIEW[kinds.Pod]
        await self._document("POST", pods.path(key.namespace, key.name, "binding"), body=encode(binding))
        return await self.get(pods, key)

    async def check_absent(self, resource: Resource, key: Key, *, uid: str = "") -> None:
        """Conflict if the API server itself has this object (of this uid, where given)."""
        try:
            found = await self.get(resource, key)
        except errors.NotFound:
            return
        if not uid or found["metadata"].get("uid") == uid:
            raise errors.conflict(resource.plural, key.name, "it is still there", group=resource.group)

    async def apply(self, document: Document, *, namespace: str = "") -> tuple[Document, str]:
        """Make the object, or change the one that is there by a merge patch; says created, configured or unchanged.

        Lists are replaced whole: a strategic merge confuses two ports of one number and different protocols.
        """
        resource = BY_KIND.get((str(document.get("apiVersion")), str(document.get("kind"))))
        if resource is None:
            raise errors.BadRequest(f"no resource of kind {document.get('kind')!r} in {document.get('apiVersion')!r} is known")
        key = key_of(document)
        key = Key((key.namespace or namespace) if resource.namespaced else "", key.name)
        try:
            return await self.create(resource, document, namespace=key.namespace), "created"
        except errors.AlreadyExists:
            before = await self.get(resource, key)
            after = await self.patch(resource, key, document)
            same = before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion")
            return after, "unchanged" if same else "configured"

    # ---- watching

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        send_initial_events: bool = False,
        timeout_seconds: int = 0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """The events after *resource_version*, until the server ends the watch.

        With *send_initial_events* they begin with the present state and a BOOKMARK that ends it (KEP-3157).
        Errors: Expired when the version is too old, ServiceUnavailable when the connection breaks.
        """
        # Spread over time, as many watches begin at the same moment.
        timeout_seconds = timeout_seconds or random.randint(300, 600)
        query = _query(label_selector, field_selector, 0, "", resource_version)
        query |= {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(timeout_seconds)}
        if send_initial_events:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        timeout = aiohttp.ClientTimeout(total=timeout_seconds + 30, sock_connect=CONNECT_SECONDS)
        with translate(_TABLE):
            async with self._request("GET", resource.path(namespace), query, b"", "", timeout) as response:
                if response.status >= 400:
                    raise _failure(response, await response.read())
                rest = b""
                async for chunk in _chunks(response):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield _event(line)
                if rest.strip():
                    raise errors.ServiceUnavailable("the API server broke off a watch in the middle of an event")

    # ---- bytes

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Answer:
        """One request and its whole answer; the server's failure as its class."""
        if self._throttle is not None:
            await self._throttle.turn()
        with translate(_TABLE):
            async with self._permits, self._request(method, path, query or {}, body, content_type if body else "", None, accept) as response:
                data = await response.read()
                if response.status >= 400:
                    raise _failure(response, data)
                return Answer(response.status, response.headers, data)

    async def stream(self, path: str, *, query: Mapping[str, str] | None = None) -> AsyncGenerator[bytes, None]:
        """The answer to a GET, as it comes (a pod's log that is followed)."""
        with translate(_TABLE):
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            async with self._request("GET", path, query or {}, b"", "", timeout, "*/*") as response:
                if response.status >= 400:
                    raise _failure(response, await response.read())
                async for chunk in _chunks(response):
                    yield chunk

    async def _document(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: bytes = b"", content_type: str = "application/json"
    ) -> Document:
        answer = await self.raw(method, path, query=query, body=body, content_type=content_type)
        with translate(_TABLE):
            document = decode(answer.body)
        if not isinstance(document, dict):
            raise errors.InternalError(f"the API server's answer to {method} {path} is not an object")
        return document

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes,
        content_type: str,
        timeout: aiohttp.ClientTimeout | None,
        accept: str = "application/json",
    ) -> Any:
        if self._session is None:
            raise RuntimeError("the client is not open: use it as an async context manager")
        headers = {"Accept": accept}
        if content_type:
            headers["Content-Type"] = content_type
        if token := self._bearer():
            headers["Authorization"] = f"Bearer {token}"
        options: dict[str, Any] = {"timeout": timeout} if timeout is not None else {}
        if self.config.tls_server_name:
            options["server_hostname"] = self.config.tls_server_name
        url = URL(self._base + quote(path, safe="/:@!$&'()*+,;=~"), encoded=True).with_query(dict(query))
        return self._session.request(method, url, data=body or None, headers=headers, allow_redirects=False, **options)

    def _bearer(self) -> str:
        """The token; one from a file is read again every minute, as it is rotated there."""
        if self._said is not None:
            return self._said()
        now = time.monotonic()
        if self.config.token_file and now - self._token_read >= TOKEN_FILE_SECONDS:
            try:
                with open(self.config.token_file, encoding="ascii") as file:
                    self._token, self._token_read = file.read().strip(), now
            except (OSError, UnicodeDecodeError) as error:
                if not self._token:
                    raise KubeconfigError(f"the token file {self.config.token_file} cannot be read: {error}") from error
        return self._token


async def _chunks(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The body as it comes."""
    while True:
        try:
            chunk = await response.content.readany()
        except RuntimeError as error:  # which aiohttp raises when the connection was lost without a word between two reads
            raise aiohttp.ClientConnectionError(str(error)) from error
        if not chunk:
            return
        yield chunk


def _query(label_selector: str, field_selector: str, limit: int, continue_: str, resource_version: str) -> dict[str, str]:
    named = (
        ("labelSelector", label_selector),
        ("fieldSelector", field_selector),
        ("limit", str(limit) if limit else ""),
        ("continue", continue_),
        ("resourceVersion", resource_version),
    )
    return {name: value for name, value in named if value}


def _with_preconditions(action: Patch) -> Document:
    preconditions = {name: value for name, value in (("uid", action.uid), ("resourceVersion", action.resource_version)) if value}
    if not preconditions:
        return action.patch
    return {**action.patch, "metadata": {**(action.patch.get("metadata") or {}), **preconditions}}


def _event(line: bytes) -> WatchEvent:
    event = _EVENT.decode(line)
    if event.type == "ERROR":
        raise errors.from_status(msgspec.json.decode(event.object))
    return WatchEvent(event.type, memoryview(event.object))


def _failure(response: aiohttp.ClientResponse, body: bytes) -> errors.APIError:
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        document = None
    if not isinstance(document, dict) or document.get("kind") != "Status":
        text = body[:200].decode("utf-8", "replace").strip()
        document = {"code": response.status, "message": f"the server answered {response.status}: {text}" if text else ""}
    failure = errors.from_status(document, http_code=response.status)
    wait = response.headers.get("Retry-After", "")
    if failure.retry_after_seconds is None and wait.isdigit():
        failure.retry_after_seconds = int(wait)
    return failure


def _socket(address: AddrInfoType) -> socket.socket:
    """A socket that notices within half a minute that the other side is gone without a word."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    ):
        made.setsockopt(level, option, value)
    return made
