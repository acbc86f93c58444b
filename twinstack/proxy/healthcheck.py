"""How the proxy tells that it works: per family, as JSON, at ``/healthz`` and ``/livez``.

Theory. A family is healthy unless a change has waited for more than two sync periods. ``/healthz`` is asked by
load balancers and says besides whether this node is to be sent traffic: not when it is being deleted, or marked
by the autoscaler to be. ``/livez`` leaves the node out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from twinstack.api import kinds
from twinstack.api.objects import Document, encode
from twinstack.net.family import Family
from twinstack.proxy.metrics import Metrics

SCALED_DOWN_TAINT = "ToBeDeletedByClusterAutoscaler"


class FamilyHealth:
    """Whether one family's changes reach the kernel in time."""

    def __init__(self, allowed_seconds: float, now: Callable[[], float]) -> None:
        self._allowed = allowed_seconds
        self._now = now
        self._waits_since: float | None = None
        self.updated = now()

    def queued(self) -> None:
        """A change came in."""
        if self._waits_since is None:
            self._waits_since = self._now()

    def synced(self, began: float) -> None:
        """All changes that came in before *began* are in the kernel."""
        self.updated = self._now()
        if self._waits_since is not None and self._waits_since <= began:
            self._waits_since = None

    @property
    def healthy(self) -> bool:
        return self._waits_since is None or self._now() - self._waits_since <= self._allowed


def node_eligible(node: kinds.Node | None) -> bool:
    """Whether load balancers should send traffic to this node."""
    if node is None or node.metadata.deletionTimestamp is not None:
        return False
    return all(taint.key != SCALED_DOWN_TAINT for taint in node.spec.taints or ())


def report(families: Mapping[Family, FamilyHealth], *, now: float, eligible: bool | None) -> tuple[int, Document]:
    """The status code and body of an answer; *eligible* is None where the node does not matter."""
    healthy = all(one.healthy for one in families.values())
    updated = now if healthy else min((one.updated for one in families.values()), default=now)
    body: Document = {"lastUpdated": _text(updated), "currentTime": _text(now), "healthy": healthy}
    if eligible is not None:
        body["nodeEligible"] = eligible
    body["status"] = {family.value: {"lastUpdated": _text(now if one.healthy else one.updated), "healthy": one.healthy} for family, one in families.items()}
    return (200 if healthy and eligible is not False else 503), body


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def application(
    families: Mapping[Family, FamilyHealth],
    *,
    now: Callable[[], float],
    eligible: Callable[[], bool],
    metrics: Metrics,
) -> web.Application:
    """The server of ``/healthz`` and ``/livez``, which counts its answers."""

    def handler(asks_for_node: bool) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            code, body = report(families, now=now(), eligible=eligible() if asks_for_node else None)
            (metrics.healthz if asks_for_node else metrics.livez).labels(str(code)).inc()
            headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
            return web.Response(status=code, body=encode(body), headers=headers)

        return handle

    app = web.Application()
    app.router.add_get("/healthz", handler(True))
    app.router.add_get("/livez", handler(False))
    return app
