"""An API server that is not ours: it does what upstream's does, and what networks do to it.

It holds documents, lists in pages, watches from a revision, and forgets old revisions. What differs between releases and
between days is chosen: how it begins a watch, how large its pages are, who may ask, and how it breaks off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator

from aiohttp import web

CIDRS = "/apis/networking.k8s.io/v1/servicecidrs"
KINDS = {
    "/api/v1/services": ("v1", "Service"), "/api/v1/nodes": ("v1", "Node"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    CIDRS: ("networking.k8s.io/v1", "ServiceCIDR"),
}  # fmt: skip


class Foreign:
    """*initial*: 'streamed' (WatchList), 'forbidden' (the gate is off) or 'unknown' (a release before it).

    *page* is the most items of a list's answer; *token* and *certificates* say who may ask; *bookmarks* after each
    event of another kind; *cidrs* whether it knows ServiceCIDRs.
    """

    def __init__(
        self, *, initial: str = "streamed", page: int = 10_000, token: str = "", certificates: bool = False, bookmarks: bool = True, cidrs: bool = True
    ) -> None:
        self.initial, self.page, self.token, self.certificates, self.bookmarks = initial, page, token, certificates, bookmarks
        self.revision, self.forgotten, self._cidrs = 100, 0, cidrs
        self.objects: dict[str, dict[str, dict]] = {path: {} for path in KINDS}
        self.log: list[tuple[int, str, str, dict]] = []  # revision, path, type, object
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.expire_continues = 0  # so many pages after the first are answered with 410
        self.events: asyncio.Queue[dict] = asyncio.Queue()
        self.breaks = 0  # so many watches are broken off in the middle of an event
        self._changed = asyncio.Condition()
        self._open: set[asyncio.Task] = set()

    async def put(self, path: str, document: dict, type_: str = "") -> None:
        self.revision += 1
        version, kind = KINDS[path]
        metadata = {"namespace": "default" if kind != "Node" else "", **document["metadata"], "resourceVersion": str(self.revision), "uid": "u"}
        known = self.objects[path].pop(metadata["name"], None)
        one = {**document, "metadata": metadata}
        if type_ != "DELETED":
            self.objects[path][metadata["name"]] = one
        self.log.append((self.revision, path, type_ or ("MODIFIED" if known else "ADDED"), {"kind": kind, "apiVersion": version, **one}))
        async with self._changed:
            self._changed.notify_all()

    def forget(self) -> None:
        """As after a compaction: what happened so far is in lists alone."""
        self.forgotten = self.revision

    def hang_up(self) -> None:
        """Break every connection that watches."""
        for task in tuple(self._open):
            task.cancel()

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None, listening: socket.socket | None = None) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.SockSite(runner, listening, ssl_context=tls) if listening else web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        try:
            yield runner.addresses[0][1]
        finally:
            self.hang_up()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.asked.append((f"{request.method} {request.path}", query))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return status(401, "Unauthorized", "Unauthorized")
        if self.certificates and (request.transport is None or not request.transport.get_extra_info("peercert")):
            return status(401, "Unauthorized", "Unauthorized")
        if request.method == "POST":
            document = await request.json()
            self.events.put_nowait(document)
            return web.json_response(document, status=201)
        if request.path not in KINDS or (request.path == CIDRS and not self._cidrs):
            return status(404, "NotFound", "the server could not find the requested resource")
        return await (self._watch(request, query) if query.get("watch") else self._list(request.path, query))

    async def _list(self, path: str, query: dict[str, str]) -> web.Response:
        if query.get("continue") and self.expire_continues:
            self.expire_continues -= 1
            return status(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")
        start = int(query.get("continue") or 0)
        items = [self.objects[path][name] for name in sorted(self.objects[path])]
        end = start + min(self.page, int(query.get("limit") or self.page))
        metadata = {"resourceVersion": str(self.revision)} | ({"continue": str(end), "remainingItemCount": len(items) - end} if end < len(items) else {})
        version, kind = KINDS[path]
        return web.json_response({"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items[start:end]})

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        path, since = request.path, int(query.get("resourceVersion") or 0)
        streams = query.get("sendInitialEvents") == "true"
        if streams and self.initial == "forbidden":
            return status(422, "Invalid", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if since and since < self.forgotten:
                old = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version"}
                await self._write(response, "ERROR", old)
                return response
            version, kind = KINDS[path]
            if not since:
                since = self.revision
                for one in tuple(self.objects[path].values()):
                    await self._write(response, "ADDED", {"kind": kind, "apiVersion": version, **one})
                if streams and self.initial == "streamed":
                    await self._bookmark(response, kind, version, since, {"k8s.io/initial-events-end": "true"})
            while True:
                for revision, where, type_, one in [each for each in self.log if each[0] > since]:
                    since = revision
                    if where == path:
                        if self.breaks:
                            self.breaks -= 1
                            await response.write(json.dumps({"type": type_, "object": one}).encode()[:40])
                            if request.transport is not None:
                                request.transport.abort()
                            return response
                        await self._write(response, type_, one)
                    elif self.bookmarks:
                        await self._bookmark(response, kind, version, since, {})
                async with self._changed:
                    while self.revision <= since:
                        await self._changed.wait()
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            return response
        finally:
            self._open.discard(task)

    async def _bookmark(self, response: web.StreamResponse, kind: str, version: str, revision: int, annotations: dict[str, str]) -> None:
        metadata = {"resourceVersion": str(revision), "creationTimestamp": None} | ({"annotations": annotations} if annotations else {})
        await self._write(response, "BOOKMARK", {"kind": kind, "apiVersion": version, "metadata": metadata, "spec": {}, "status": {"loadBalancer": {}}})

    @staticmethod
    async def _write(response: web.StreamResponse, type_: str, one: dict) -> None:
        """In three pieces, as slow networks cut."""
        line = json.dumps({"type": type_, "object": one}).encode() + b"\n"
        third = 1 + len(line) // 3
        for start in range(0, len(line), third):
            await response.write(line[start : start + third])
            await asyncio.sleep(0)


def status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(
        {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}, status=code
    )
