"""The API server put together: store, cache, strategies, handlers, HTTP door, and what runs beside them."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from twinstack.api import errors, objects
from twinstack.api.channels import Socket
from twinstack.api.errors import APIError, BadRequest, MethodNotAllowed, NotFound
from twinstack.api.objects import Document, Key
from twinstack.api.resources import Resource
from twinstack.apiserver import admission, answers, audit, bootstrap, first_roles, impersonation, requests, serving, upkeep
from twinstack.apiserver.allocators import Context, context_of
from twinstack.apiserver.auth import Authenticator, is_open, read_token_file
from twinstack.apiserver.authorization import Authorizer, asked_by, asked_of_path, modes_of
from twinstack.apiserver.bootstrap_tokens import BootstrapTokens
from twinstack.apiserver.cache import Cache, Stored
from twinstack.apiserver.calls import CALLER, Answer, Call, Reaction, Stream, Streamed, Switched, Upgraded, User, failure
from twinstack.apiserver.changes import OURSELVES, Uids
from twinstack.apiserver.discovery import Discovery
from twinstack.apiserver.fairness import Seats, Turns
from twinstack.apiserver.forwarding import Forwarder
from twinstack.apiserver.handlers import Handlers
from twinstack.apiserver.http import HTTPServer, unexpected
from twinstack.apiserver.metrics import RequestMetrics
from twinstack.apiserver.openapi import OpenAPI, SchemaMissing
from twinstack.apiserver.replies import Reply
from twinstack.apiserver.requests import Request
from twinstack.apiserver.reviews import Reviews
from twinstack.apiserver.service_accounts import ServiceAccountAdmission
from twinstack.apiserver.settings import Settings, SettingsError
from twinstack.apiserver.strategies.base import Reader
from twinstack.apiserver.strategies.table import strategies
from twinstack.apiserver.streams import Kubelet
from twinstack.apiserver.token_secrets import TokenSecrets
from twinstack.apiserver.tokens import tokens_of
from twinstack.apiserver.visits import INTERACTIVE, LONG_RUNNING, Visit
from twinstack.loops.checks import Check, answer
from twinstack.net.cidr import host_port
from twinstack.rules.cidrs import parse_port_range, parse_service_ranges
from twinstack.rules.rbac import MASTERS, Attributes
from twinstack.store.base import Store
from twinstack.store.memory import MemoryStore
from twinstack.store.sqlite import SQLiteStore

log = logging.getLogger(__name__)

_AUDIT_ID_LENGTH = 64  # of one that the client gives
Channel = TypeVar("Channel", Stream, Socket)  # what an answer that goes on is said through

WINDOWS = b'"windows"'  # the nodes that matter to the strategies
# kubectl asks whether a kind that cannot be patched, such as a review, is somebody's own before it creates one. There are none of these.
DEFINITIONS_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NO_DEFINITIONS = b'{"kind":"CustomResourceDefinitionList","apiVersion":"apiextensions.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[]}'
_SPEC = b'"spec":{'
_CONTEXT_RESOURCES = frozenset(("services", "servicecidrs", "ipaddresses"))


class Application:
    """Answers calls: who is it, what is asked, who handles it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.cache = Cache()
        self.context: Context = context_of(settings)
        self.cache.install(strategies(self.context))
        self.cache.load(store)
        self.context.load(self.cache)
        self.cache.observe(self._observe)
        self.openapi = OpenAPI()
        advertised = settings.advertise_address
        self.discovery = Discovery(server_address=host_port(advertised, settings.secure_port) if advertised else "")
        kubelet = Kubelet(self.cache, settings)
        self.handlers = Handlers(self.cache, store, self.openapi, logs=kubelet.logs, streams=kubelet.stream, proxy=Forwarder(self.cache, settings).connect)
        self.handlers.min_watch_seconds = float(settings.min_request_timeout_seconds)
        tokens = read_token_file(Path(settings.token_auth_file)) if settings.token_auth_file else {}
        self.authorizer = Authorizer(modes_of(settings.authorization_mode), self.cache)
        self.tokens = tokens_of(settings, self.cache)
        bootstrap_tokens = BootstrapTokens(self.cache) if settings.enable_bootstrap_token_auth else None
        self.authenticator = Authenticator(tokens, anonymous=settings.anonymous_auth, service_accounts=self.tokens, bootstrap=bootstrap_tokens)
        self.reviews = Reviews(self.cache, self.authorizer, self.authenticator, self.tokens)
        completes_pods = "ServiceAccount" in admission.plugins_of(settings)
        self.handlers.changes.admission = admission.Admission(self.authorizer, ServiceAccountAdmission(self.cache) if completes_pods else None)
        self.reading, self.changing, self.turns = Seats(settings.max_requests_inflight), Seats(settings.max_mutating_requests_inflight), Turns()
        self.audit = audit.log_of(settings)
        self.audit_ids = Uids()
        self.metrics = RequestMetrics(self.cache)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        ProcessCollector(registry=self.registry)
        self.live: dict[str, Check] = {"ping": lambda: None}
        self.not_ready: dict[str, str] = {"poststarthook/bootstrap": "not finished"}

    def _observe(self, resource: Resource, before: Stored | None, after: Stored | None) -> None:
        """Feed the allocators with what they look at. It is on the way of every write, so nothing is decoded that cannot matter to them."""
        if resource.plural == "services" and not _may_hold_otherwise(before, after):
            return
        if resource.plural == "ipaddresses" and after is not None:  # of a record that is there, they look at the name alone
            self.context.addresses.observe_address(after.key.name, exists=True)
            return
        if resource.plural in _CONTEXT_RESOURCES or (resource.plural == "nodes" and any(one and WINDOWS in one.raw for one in (before, after))):
            self.context.observe(resource, before.raw_document() if before else None, after.raw_document() if after else None)

    async def respond(self, call: Call) -> Reaction:
        """The reaction to any call whatever; failures are Status documents."""
        work = self.answer(call)
        return work if isinstance(work, tuple) else await work

    def answer(self, call: Call) -> Reaction | Awaitable[Reaction]:
        """The same, at once where it comes from memory."""
        start = time.perf_counter()
        visit = Visit(call, call.headers.get("Audit-Id", "")[:_AUDIT_ID_LENGTH] or self.audit_ids.next())
        try:
            work = self._react(call, visit)
        except Exception as error:
            work = _failed(error)
        if isinstance(work, tuple):
            return self._finished(visit, work, start)
        return self._answer_later(visit, work, start)

    async def _answer_later(self, visit: Visit, work: Awaitable[Reaction], start: float) -> Reaction:
        try:
            reaction = await work
        except Exception as error:
            reaction = _failed(error)
        except BaseException:  # the server stops
            visit.leave()
            raise
        return self._finished(visit, reaction, start)

    def _finished(self, visit: Visit, reaction: Reaction, start: float) -> Reaction:
        """A reaction as it leaves, counted and told to the audit log."""
        visit.leave()
        reaction = answers.finished(reaction, visit.request, visit.call, visit.id)
        if self.audit is not None:
            goes_on = not isinstance(reaction, Answer)
            self.audit.tell(visit, "ResponseStarted" if goes_on else "ResponseComplete", reaction.status)
        if isinstance(reaction, Streamed):
            return reaction._replace(run=self._counted(visit, reaction.run, reaction.status, start))
        if isinstance(reaction, Upgraded | Switched):
            return reaction._replace(run=self._counted(visit, reaction.run, reaction.status, start))
        self.metrics.observe(visit.request, reaction.status, time.perf_counter() - start)
        return reaction

    def _react(self, call: Call, visit: Visit) -> Reaction | Awaitable[Reaction]:
        """Who calls, whether it may, whether it is its turn; then what was asked for."""
        user = visit.caller = visit.user = self.authenticator.user_of(call)
        if impersonation.is_asked(call.headers):
            user = visit.user = impersonation.impersonated(user, call.headers, self.authorizer)
        CALLER.set(user)
        if not requests.is_resource_path(call.path):
            if self.audit is not None:
                self.audit.tell(visit, "RequestReceived", 0)
            if not is_open(call.path):
                visit.verdict = self.authorizer.check(user, asked_of_path(call.method, call.path))
            return self._besides(call)
        if call.path == DEFINITIONS_PATH and call.method == "GET" and "watch" not in call.query:
            visit.verdict = self.authorizer.check(user, Attributes("list", "apiextensions.k8s.io", "customresourcedefinitions"))
            return Answer(200, NO_DEFINITIONS)
        request = visit.request = requests.parse(call.method, call.path, call.query)
        if self.audit is not None:
            self.audit.tell(visit, "RequestReceived", 0)
        asked, selected = asked_by(request)
        visit.verdict = self.authorizer.check(user, asked, selected)
        if request.verb == "get" and request.sub in INTERACTIVE:
            self.authorizer.check(user, asked._replace(verb="create"))  # a WebSocket begins with GET, and does what POST does
        # Whoever may do everything is never refused a place, as upstream has it: somebody must be able to put things right.
        if request.verb != "watch" and request.sub not in LONG_RUNNING and MASTERS not in user.groups:
            seats = self.reading if request.verb in ("get", "list") else self.changing
            seats.take(user.name)
            visit.seats = seats
        if (place := self.turns.admit(user.name)) is not None:
            return self._in_turn(place, request, call, user)
        return self._handled(request, call, user)

    async def _in_turn(self, place: Awaitable[None], request: Request, call: Call, user: User) -> Reaction:
        await place
        work = self._handled(request, call, user)
        return work if isinstance(work, tuple) else await work

    def _handled(self, request: Request, call: Call, user: User) -> Reaction | Awaitable[Reaction]:
        if Reviews.answers(request):
            return self.reviews.react(request, call, user)
        return self.handlers.react(request, call)

    def _counted(self, visit: Visit, work: Callable[[Channel], Awaitable[None]], status: int, start: float) -> Callable[[Channel], Awaitable[None]]:
        """What goes on after the answer's head, counted and told to the audit log at its end."""

        async def run(channel: Channel) -> None:
            self.metrics.long_running += 1
            try:
                await work(channel)
            finally:
                self.metrics.long_running -= 1
                self.metrics.observe(visit.request, status, time.perf_counter() - start)
                if self.audit is not None:
                    self.audit.tell(visit, "ResponseComplete", status)

        return run

    # ---- what is not an object

    def _besides(self, call: Call) -> Answer:
        path = call.path
        first = path.split("/", 2)[1]
        if first in ("livez", "readyz", "healthz"):
            return self._health(path, requests.Query.parse(call.query))
        accept = call.headers.get("Accept", "")
        if call.method != "GET" and path != "/" and self.discovery.answer(path, accept) is not None:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        if call.method not in ("GET", "HEAD"):
            raise _nothing_at(path)
        if path == "/metrics":
            return Answer(200, generate_latest(self.registry), "text/plain; version=0.0.4; charset=utf-8")
        if (issued := self.tokens.discovery(path)) is not None:
            return Answer(200, objects.encode(issued))
        reply: Reply | None = self.openapi.answer(path, accept) if first == "openapi" else self.discovery.answer(path, accept)
        if reply is None:
            raise _nothing_at(path)
        if "hash=" in call.query and path.startswith("/openapi/v3/") and requests.Query.parse(call.query).text("hash") != self.openapi.stamp:
            return Answer(301, b"", reply.content_type, [("Location", f"{path}?hash={self.openapi.stamp}")])
        if not reply.etag:
            return Answer(reply.status, reply.body, reply.content_type)
        if reply.etag in call.headers.get("If-None-Match", ""):
            return Answer(304, b"", reply.content_type, [("ETag", reply.etag)])
        return Answer(reply.status, reply.body, reply.content_type, [("ETag", reply.etag), ("Vary", "Accept")])

    def _health(self, path: str, query: requests.Query) -> Answer:
        """``/livez``, ``/readyz``, ``/healthz``, and one check alone, such as ``/readyz/ping``."""
        name, _, one = path.strip("/").partition("/")
        checks = dict(self.live)
        if name != "livez":
            checks.update({check: (lambda why=why: why) for check, why in self.not_ready.items()})  # type: ignore[misc]
            if not self.not_ready:
                checks["poststarthook/bootstrap"] = lambda: None
        if one:
            if one not in checks:
                raise requests.NoSuchPath()
            checks = {one: checks[one]}
        code, body = answer(checks, name, verbose=query.has("verbose"), exclude=frozenset(query.texts("exclude")))
        return Answer(code, body.encode(), "text/plain; charset=utf-8", [("X-Content-Type-Options", "nosniff")])


def _nothing_at(path: str) -> NotFound:
    return NotFound("the server could not find the requested resource") if requests.is_known_place(path) else requests.NoSuchPath()


def _failed(error: Exception) -> Answer:
    """The Status document of whatever went wrong."""
    if isinstance(error, requests.NoSuchPath):
        return Answer(404, f"{error.message}\n".encode(), "text/plain; charset=utf-8", [("X-Content-Type-Options", "nosniff")])
    if isinstance(error, APIError):
        return failure(error)
    if isinstance(error, msgspec.ValidationError):
        return failure(BadRequest(f"a field does not have the type it must have: {error}"))
    if isinstance(error, SchemaMissing):
        return failure(errors.ServiceUnavailable(str(error)))
    if isinstance(error, RecursionError):
        return failure(BadRequest("the document is nested too deeply"))
    return unexpected(error)


def _may_hold_otherwise(before: Stored | None, after: Stored | None) -> bool:
    """Whether a Service may hold other ports or addresses than before, seen by its bytes.

    No text can contain the quotes of ``"spec":{``, so its first place is the spec's, or one before it.
    """
    if before is None:
        return after is not None and b"odePort" in after.raw  # as in NodePort, nodePort and healthCheckNodePort
    if after is None:
        return True
    old, new = before.raw.find(_SPEC), after.raw.find(_SPEC)
    return old < 0 or new < 0 or before.raw[old:] != after.raw[new:]


class Hand:
    """The server's own hand on itself, for its bootstrap (``strategies.base.API``)."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    @property
    def reader(self) -> Reader:
        return self._handlers.cache

    async def create(self, resource: Resource, document: Document) -> Document:
        document.setdefault("kind", resource.kind)
        document.setdefault("apiVersion", resource.api_version)
        namespace = document.setdefault("metadata", {}).get("namespace", "")
        outcome = await self._handlers.changes.create(resource, document, namespace, manager=OURSELVES)
        result: Document = objects.decode(outcome.data)
        return result

    async def update(self, resource: Resource, document: Document, subresource: str = "") -> Document:
        encoded = objects.encode(document)
        outcome = await self._handlers.changes.update(resource, objects.key_of(document), lambda _: objects.decode(encoded), subresource=subresource)
        result: Document = objects.decode(outcome.data)
        return result

    async def delete(self, resource: Resource, key: Key) -> None:
        await self._handlers.deletions.delete(resource, key)


def open_store(settings: Settings) -> Store:
    """The store that the settings name; StoreError when it cannot be opened."""
    if settings.store == "memory":
        return MemoryStore()
    return SQLiteStore(Path(settings.data_dir))


def check(settings: Settings) -> None:
    """SettingsError for what is refused before anything is touched."""
    modes_of(settings.authorization_mode)
    admission.plugins_of(settings)
    audit.check(settings)
    serving.minimum_tls(settings.tls_min_version)
    serving.ciphers(settings.tls_cipher_suites)
    if settings.request_timeout_seconds <= 0:
        raise SettingsError(f"--request-timeout={settings.request_timeout_seconds:g}s gives nobody time; 1m0s would do")
    if settings.min_request_timeout_seconds <= 0:
        raise SettingsError(f"--min-request-timeout={settings.min_request_timeout_seconds} is no number of seconds for a watch; 1800 would do")
    if settings.goaway_chance:
        raise SettingsError(f"--goaway-chance={settings.goaway_chance:g}: HTTP/2 is not spoken here, so nobody can be asked to connect anew; 0 would do")
    for flag, most in (("requests", settings.max_requests_inflight), ("mutating-requests", settings.max_mutating_requests_inflight)):
        if most < 0:
            raise SettingsError(f"--max-{flag}-inflight={most} is no number of requests; 400 would do, or 0 for no limit")
    if settings.endpoint_reconciler_type not in ("lease", "master-count", "none"):
        raise SettingsError(f"--endpoint-reconciler-type={settings.endpoint_reconciler_type} is unknown; lease or none would do")
    first, last = parse_port_range(settings.service_node_port_range)
    own = settings.kubernetes_service_node_port
    if not 0 <= own <= 65535 or (own and not first <= own <= last):
        raise SettingsError(f"--kubernetes-service-node-port={own} is not within --service-node-port-range={first}-{last}; 0, for none, or {first} would do")
    if settings.apiserver_count <= 0:
        raise SettingsError(f"--apiserver-count={settings.apiserver_count} is no number of servers; 1 would do")
    if settings.event_ttl_seconds <= 0:
        raise SettingsError(f"--event-ttl={settings.event_ttl_seconds:g}s is no time to live; 1h would do")
    if bool(settings.kubelet_client_certificate) != bool(settings.kubelet_client_key):
        raise SettingsError("--kubelet-client-certificate and --kubelet-client-key go together: both or none would do")


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until cancelled; *ready* is called once ``/readyz`` says ok."""
    check(settings)
    advertised = serving.advertise_address(settings, parse_service_ranges(settings.service_cluster_ip_range).primary)
    sockets = serving.open_sockets(settings)
    settings = msgspec.structs.replace(settings, advertise_address=advertised, secure_port=settings.secure_port or sockets[0].getsockname()[1])
    local: socket.socket | None = None
    try:
        if settings.unix_socket:
            local = serving.open_unix_socket(Path(settings.unix_socket))
            sockets.append(local)
        store = open_store(settings)
        try:
            app = Application(settings, store)
            tls = serving.tls_context(settings, app.context.ranges.values())
            door = HTTPServer(app.answer, body_seconds=settings.request_timeout_seconds)
            if "RBAC" in app.authorizer.modes:
                await first_roles.make(app.handlers.changes)
            # What was loaded stays: the garbage collector need not look at it again.
            gc.collect()
            gc.freeze()
            # A write makes some hundred containers, and no cycle of them: at the thresholds of the interpreter a tenth of the time went into looking for some.
            gc.set_threshold(20_000, 20, 50)
            await door.start(sockets, tls)
            try:
                await _serve(app, settings, ready)
            finally:
                await door.stop()
        finally:
            await store.close()
    finally:
        for one in sockets:
            one.close()
        if local is not None:
            Path(settings.unix_socket).unlink(missing_ok=True)


async def _serve(app: Application, settings: Settings, ready: Callable[[], None]) -> None:
    """Run what runs beside the answers, until cancelled."""

    def is_ready() -> None:
        app.not_ready.clear()
        log.info("Serving", extra={"address": settings.bind_address, "port": settings.secure_port})
        ready()

    expiry = upkeep.EventExpiry(app.cache, app.handlers.deletions, settings.event_ttl_seconds)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bootstrap.run(Hand(app.handlers), app.context, settings, ready=is_ready))
        tasks.create_task(upkeep.compact_now_and_then(app.store, app.cache))
        tasks.create_task(expiry.run())
        tasks.create_task(TokenSecrets(Hand(app.handlers), app.cache, app.tokens).run())
        if app.audit is not None:
            tasks.create_task(app.audit.run())
