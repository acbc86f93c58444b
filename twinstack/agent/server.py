"""The kubelet's own HTTPS door: container logs, commands, forwarded ports, pods, health, metrics, settings.

Who comes in is for ``access`` to say. Health alone is told to anyone.
"""

from __future__ import annotations

import errno
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from twinstack.agent import commands, configuration, forwarding, logfiles, usage
from twinstack.agent.access import Access
from twinstack.agent.containers.base import Command, ContainerError, Runtime, Streams
from twinstack.agent.settings import Settings, SettingsError
from twinstack.api import errors
from twinstack.api.channels import COMMAND_PROTOCOLS, FORWARD_PROTOCOLS, LONGEST_MESSAGE, SPDY_REFUSAL, STDERR, STDOUT, TUNNEL, Socket, chosen, offered
from twinstack.api.objects import encode
from twinstack.client import tls
from twinstack.client.tls import Pair
from twinstack.client.websockets import WebSocket
from twinstack.loops.checks import Check, answer
from twinstack.net.errors import Error
from twinstack.net.family import FAMILIES, Address

log = logging.getLogger(__name__)

_VERSIONS = {"VersionTLS12": ssl.TLSVersion.TLSv1_2, "VersionTLS13": ssl.TLSVersion.TLSv1_3}


class LogPlace(Protocol):
    """Where a container's log is."""

    @property
    def path(self) -> Path:
        """The newest file of the log."""

    def is_over(self) -> bool:
        """Whether nothing will be added to it."""


class Pods(Protocol):
    """What the server asks of the agent."""

    def log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogPlace:
        """The log of a container; NotFound or BadRequest when there is none."""

    runtime: Runtime

    def running(self, namespace: str, pod: str, container: str) -> str:
        """The runtime's name of a container that runs; NotFound or BadRequest when there is none."""

    def reads_once(self, namespace: str, pod: str, container: str) -> bool:
        """Whether a container's input ends when the first who is attached ends his."""

    def network_of(self, namespace: str, pod: str) -> str:
        """The path of a pod's network namespace, empty for the node's own; NotFound or BadRequest when there is none."""

    def pod_list(self, *, running: bool = False) -> dict[str, object]:
        """The PodList of this node, or of those pods of it that have a container that runs."""

    def used_by(self) -> Sequence[usage.PodUsage]:
        """The node's pods and what of them runs."""


def serving_pair(settings: Settings, name: str, addresses: Sequence[Address]) -> Pair:
    """The certificate that the flags name, or one that signs itself; SettingsError when a file cannot be read."""
    files = (settings.tls_cert_file, settings.tls_key_file)
    if files[0] is None or files[1] is None:
        if files != (None, None):
            raise SettingsError("--tls-cert-file and --tls-private-key-file are given together or not at all")
        return _own_pair(settings.cert_dir or settings.root_dir / "pki", name, addresses)
    return Pair(_bytes(files[0], "--tls-cert-file"), _bytes(files[1], "--tls-private-key-file"))


def _own_pair(folder: Path, name: str, addresses: Sequence[Address]) -> Pair:
    """The certificate that an earlier start has left in this folder, or a new one that signs itself."""
    certificate, key = folder / "kubelet.crt", folder / "kubelet.key"
    if certificate.exists() and key.exists():
        return Pair(_bytes(certificate, "--cert-dir"), _bytes(key, "--cert-dir"))
    from twinstack.client import certificates  # heavy, and needed once in a node's life

    pair = certificates.self_signed(name, dns_names=[name], addresses=addresses)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, data in ((key, pair.key), (certificate, pair.certificate)):
            path.touch(mode=0o600)
            path.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"--cert-dir: {folder} cannot be written: {error.strerror}") from error
    return pair


def _bytes(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag}: {path} cannot be read: {error.strerror}") from error


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "") in ("1", "true")


def _wanted(query: Mapping[str, str]) -> list[int]:
    """The channels of output that a request wants to see."""
    return [channel for name, channel in (("output", STDOUT), ("error", STDERR)) if _flag(query, name)]


def listening_hosts(address: str) -> list[str]:
    """The addresses to listen on: the unspecified one of either family means both, as it does for every server in Go, its own first."""
    wide = [family.facts.unspecified for family in FAMILIES]
    return [address, *(one for one in wide if one != address)] if address in wide else [address]


class Server:
    """Serves until closed."""

    def __init__(self, settings: Settings, pods: Pods, access: Access, node_name: str, *, checks: dict[str, Check], registry: CollectorRegistry) -> None:
        self._settings, self._pods, self._access, self._checks, self._registry = settings, pods, access, checks, registry
        self._node_name, self._rates, self._started = node_name, usage.Rates(), time.time()
        self._runners: list[web.AppRunner] = []

    async def start(self, pair: Pair) -> None:
        """Listen on both doors; SettingsError when an address is taken or cannot be had."""
        settings = self._settings
        authorities = _bytes(settings.client_ca_file, "--client-ca-file") if settings.client_ca_file else b""
        if (oldest := _VERSIONS.get(settings.tls_min_version)) is None:
            raise SettingsError(f"--tls-min-version is {settings.tls_min_version!r}, which is none of {', '.join(_VERSIONS)}")
        context = tls.server_context(pair, client_authorities=authorities, minimum=oldest)
        guarded = web.Application(middlewares=[self._guard])
        if settings.debugging_handlers:
            guarded.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
            for method in ("GET", "POST"):
                guarded.router.add_route(method, "/exec/{namespace}/{pod}/{container}", self._exec)
                guarded.router.add_route(method, "/attach/{namespace}/{pod}/{container}", self._attach)
                guarded.router.add_route(method, "/portForward/{namespace}/{pod}", self._forward)
            guarded.router.add_get("/runningpods", self._list_running)
            guarded.router.add_get("/runningpods/", self._list_running)
        guarded.router.add_get("/pods", self._list)
        guarded.router.add_get("/metrics", self._metrics)
        guarded.router.add_get("/metrics/resource", self._resource_metrics)
        guarded.router.add_get("/stats/summary", self._summary)
        guarded.router.add_get("/configz", self._configz)
        for path in ("/healthz", "/healthz/{check}"):
            guarded.router.add_get(path, self._health)
        try:
            first, *others = listening_hosts(settings.address)
            await self._listen(guarded, first, settings.port, context)
            for host in others:
                try:
                    await self._listen(None, host, settings.port, context)
                except OSError as error:
                    if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                        raise
                    log.info("This kernel has one family, and is served in that", extra={"absent": host})
            if settings.healthz_port:
                health = web.Application()
                for path in ("/healthz", "/healthz/{check}"):
                    health.router.add_get(path, self._health)
                await self._listen(health, settings.healthz_address, settings.healthz_port, None)
        except OSError as error:
            await self.close()
            raise SettingsError(f"cannot listen: {error.strerror or error}; see --address, --port and --healthz-bind-address, --healthz-port") from error

    async def _listen(self, application: web.Application | None, host: str, port: int, context: ssl.SSLContext | None) -> None:
        if application is not None:
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
            await runner.setup()
            self._runners.append(runner)
        await web.TCPSite(self._runners[-1], host, port, ssl_context=context).start()

    async def close(self) -> None:
        """Stop listening, and let no reader wait."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        try:
            if request.path != "/healthz":
                connection = request.transport.get_extra_info("ssl_object") if request.transport else None
                certificate = connection.getpeercert() if connection is not None else None
                authorization = request.headers.get("Authorization", "")
                await self._access.check(certificate=certificate, authorization=authorization, method=request.method, path=request.path)
            return await handler(request)
        except errors.APIError as error:
            return web.Response(status=error.http_code, text=error.message + "\n")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        options = logfiles.parse_options(request.query, datetime.now(UTC))
        names = request.match_info
        place = self._pods.log_of(names["namespace"], names["pod"], names["container"], previous=options.previous)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for data in logfiles.read(place.path, options, is_over=place.is_over):
            await response.write(data)
        await response.write_eof()
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        names, query = dict(request.match_info), request.query
        argv = query.getall("command", [])
        if not argv:
            raise errors.BadRequest("command is missing: what is to be run?")

        async def begin() -> Command:
            return await self._pods.runtime.begin(self._running(names), argv, stdin=_flag(query, "input"), tty=_flag(query, "tty"))

        return await self._upgraded(request, COMMAND_PROTOCOLS, lambda socket, _: commands.run(socket, begin, _wanted(query)))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        runtime, names, query = self._pods.runtime, dict(request.match_info), request.query
        identifier = ""

        async def begin() -> Streams:
            nonlocal identifier
            identifier = self._running(names)
            streams = await runtime.attach(identifier)
            if streams.stdin >= 0 and not _flag(query, "input"):
                os.close(streams.stdin)
                streams = streams._replace(stdin=-1)
            return streams

        async def end_input() -> None:
            if self._pods.reads_once(**names):
                await runtime.end_input(identifier)

        return await self._upgraded(request, COMMAND_PROTOCOLS, lambda socket, _: commands.attach(socket, begin, _wanted(query), end_input=end_input))

    def _running(self, names: Mapping[str, str]) -> str:
        """The container that a request names; what is wrong with it is told through the stream, as if it could not be started."""
        try:
            return self._pods.running(**names)
        except errors.APIError as error:
            raise ContainerError(error.message) from error

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        names = dict(request.match_info)
        ports = [int(text) for one in request.query.getall("ports", []) for text in one.split(",") if text.isascii() and text.isdigit()]

        async def connect(port: int) -> forwarding.Pipe:
            try:
                netns = self._pods.network_of(**names)
            except errors.APIError as error:
                raise forwarding.ForwardError(error.message) from error
            return await forwarding.connect(netns, port)

        async def converse(socket: Socket, protocol: str) -> None:
            if protocol == TUNNEL:
                await forwarding.tunnel(socket, connect)
            else:
                await forwarding.channelled(socket, ports, connect)

        return await self._upgraded(request, FORWARD_PROTOCOLS, converse)

    async def _upgraded(self, request: web.Request, spoken: Sequence[str], converse: Callable[[Socket, str], Awaitable[None]]) -> web.StreamResponse:
        """Make the request a WebSocket, and hold the conversation."""
        protocol = chosen(offered(request.headers.get("Sec-WebSocket-Protocol", "")), spoken)
        if not protocol:
            raise errors.BadRequest(f"none of the offered protocols is spoken here; these are, as WebSockets: {', '.join(spoken)}")
        response = web.WebSocketResponse(protocols=(protocol,), max_msg_size=LONGEST_MESSAGE, compress=False)
        if not response.can_prepare(request).ok:
            raise errors.BadRequest(SPDY_REFUSAL)
        await response.prepare(request)
        socket = WebSocket(response)
        try:
            await converse(socket, protocol)
        except* (Error, ConnectionError) as group:
            log.info("A stream broke off", extra={"path": request.path, "error": str(group.exceptions[0])})
        finally:
            await socket.close()
        return response

    async def _list(self, request: web.Request) -> web.Response:
        return web.Response(body=encode(self._pods.pod_list()), content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain", charset="utf-8")

    async def _list_running(self, request: web.Request) -> web.Response:
        return web.Response(body=encode(self._pods.pod_list(running=True)), content_type="application/json")

    async def _resource_metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=usage.resource_metrics(self._pods.used_by()), content_type="text/plain", charset="utf-8")

    async def _summary(self, request: web.Request) -> web.Response:
        told = usage.summary(self._node_name, self._settings.root_dir, self._started, self._pods.used_by(), self._rates)
        return web.Response(body=encode(told), content_type="application/json")

    async def _configz(self, request: web.Request) -> web.Response:
        return web.Response(body=encode({"kubeletconfig": configuration.document_of(self._settings)}), content_type="application/json")

    async def _health(self, request: web.Request) -> web.Response:
        checks = self._checks
        if check := request.match_info.get("check"):
            if check not in checks:
                raise web.HTTPNotFound
            checks = {check: checks[check]}
        code, body = answer(checks, "healthz", verbose="verbose" in request.query, exclude=frozenset(request.query.getall("exclude", [])))
        return web.Response(status=code, text=body)
