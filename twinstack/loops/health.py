"""The small HTTP door that every program has: /healthz, /livez, /readyz and /metrics.

``?verbose`` lists the checks, ``?exclude=name`` leaves one out.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from twinstack.loops.checks import Check, answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HealthServer:
    """Serves health and metrics on one address until closed.

    ``live`` are the checks of /livez; ``ready`` those of /readyz besides; /healthz runs both.
    ``routes`` adds paths of the program's own.
    """

    def __init__(
        self,
        *,
        live: Mapping[str, Check] | None = None,
        ready: Mapping[str, Check] | None = None,
        registry: CollectorRegistry = REGISTRY,
        routes: Mapping[str, Handler] | None = None,
    ) -> None:
        self.live: dict[str, Check] = {"ping": lambda: None, **(live or {})}
        self.ready: dict[str, Check] = dict(ready or {})
        self._registry = registry
        self._routes = dict(routes or {})
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen, and return the port (useful with 0). OSError when the address is taken."""
        app = web.Application()
        for path, checks in (("/livez", self.live), ("/readyz", {**self.live, **self.ready}), ("/healthz", {**self.live, **self.ready})):
            app.router.add_get(path, self._health(path.strip("/"), checks))
        app.router.add_get("/metrics", self._metrics)
        for path, handler in self._routes.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=tls)
        try:
            await site.start()
        except OSError:
            await self.close()
            raise
        address = self._runner.addresses[0]
        return int(address[1])

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _health(self, name: str, checks: Mapping[str, Check]) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            exclude = frozenset(request.query.getall("exclude", []))
            code, body = answer(checks, name, verbose="verbose" in request.query, exclude=exclude)
            return web.Response(status=code, text=body, headers={"X-Content-Type-Options": "nosniff"})

        return handler

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain", charset="utf-8")
