"""The kubelet's own HTTPS door: container logs, pods, health, metrics.

Whoever comes must show a client certificate that --client-ca-file has signed and that names the API server's
kubelet client or an administrator (system:masters). Health alone is told to anyone.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from twinstack.agent import logfiles
from twinstack.agent.settings import Settings, SettingsError
from twinstack.api import errors
from twinstack.api.objects import encode
from twinstack.client import certificates
from twinstack.client.certificates import Pair
from twinstack.loops.health import Check, answer
from twinstack.net.errors import Error
from twinstack.net.family import FAMILIES, Address

CLIENT_NAME = "kube-apiserver-kubelet-client"
CLIENT_GROUPS = frozenset({"system:masters", "kubeadm:cluster-admins"})


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

    def pod_list(self) -> dict[str, object]:
        """The PodList of this node."""


def serving_pair(settings: Settings, name: str, addresses: Sequence[Address]) -> Pair:
    """The certificate that the flags name, or one that signs itself; SettingsError when a file cannot be read."""
    files = (settings.tls_cert_file, settings.tls_key_file)
    if files[0] is None or files[1] is None:
        if files != (None, None):
            raise SettingsError("--tls-cert-file and --tls-private-key-file are given together or not at all")
        return certificates.self_signed(name, dns_names=[name], addresses=addresses)
    return Pair(_bytes(files[0], "--tls-cert-file"), _bytes(files[1], "--tls-private-key-file"))


def _bytes(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag}: {path} cannot be read: {error.strerror}") from error


def listening_hosts(address: str) -> list[str]:
    """The addresses to listen on: the unspecified address of the family that has room for both means both."""
    wide = max(FAMILIES, key=lambda family: family.bits).facts.unspecified
    return [family.facts.unspecified for family in FAMILIES] if address == wide else [address]


class Server:
    """Serves until closed."""

    def __init__(self, settings: Settings, pods: Pods, *, checks: dict[str, Check], registry: CollectorRegistry) -> None:
        self._settings, self._pods, self._checks, self._registry = settings, pods, checks, registry
        self._runners: list[web.AppRunner] = []

    async def start(self, pair: Pair) -> None:
        """Listen on both doors; SettingsError when an address is taken or cannot be had."""
        settings = self._settings
        authorities = _bytes(settings.client_ca_file, "--client-ca-file") if settings.client_ca_file else b""
        context = certificates.server_context(pair, client_authorities=authorities)
        guarded = web.Application(middlewares=[self._guard])
        guarded.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        guarded.router.add_get("/pods", self._list)
        guarded.router.add_get("/metrics", self._metrics)
        guarded.router.add_get("/healthz", self._health)
        try:
            for host in listening_hosts(settings.address):
                await self._listen(guarded if host == listening_hosts(settings.address)[0] else None, host, settings.port, context)
            if settings.healthz_port:
                health = web.Application()
                health.router.add_get("/healthz", self._health)
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
                self._authenticate(request)
            return await handler(request)
        except errors.APIError as error:
            return web.Response(status=error.http_code, text=error.message + "\n")

    @staticmethod
    def _authenticate(request: web.Request) -> None:
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if not certificate:
            raise errors.Unauthorized("Unauthorized")
        try:
            user, groups = certificates.identity_of(certificate)
        except Error as error:
            raise errors.Unauthorized(f"Unauthorized: {error}") from error
        if user != CLIENT_NAME and not CLIENT_GROUPS & set(groups):
            raise errors.Forbidden(f"Forbidden (user={user}, verb=get, resource=nodes, subresource=proxy)")

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

    async def _list(self, request: web.Request) -> web.Response:
        return web.Response(body=encode(self._pods.pod_list()), content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain", charset="utf-8")

    async def _health(self, request: web.Request) -> web.Response:
        code, body = answer(self._checks, "healthz", verbose="verbose" in request.query, exclude=frozenset(request.query.getall("exclude", [])))
        return web.Response(status=code, text=body)
