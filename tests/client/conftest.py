"""A small API server in memory, with the faults that a client must live through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from twinstack.api import errors
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection


class FakeServer:
    """Objects of every resource by path, a log of all changes, and switches for faults."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}  # by path of the object
        self.log: list[tuple[int, str, str, dict[str, Any]]] = []  # revision, type, collection, object
        self.revision = 100
        self.compacted = 0
        self.streams = True  # False: sendInitialEvents is refused; None: it is ignored
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.answers: list[web.Response] = []  # given instead of the next real ones
        self.changed = asyncio.Condition()
        self.watchers: list[web.Request] = []
        self.url = ""

    def path(self, document: dict[str, Any], collection: str) -> str:
        return f"{collection}/{document['metadata']['name']}"

    async def put(self, collection: str, name: str, **fields: Any) -> dict[str, Any]:
        """Write an object as somebody else would."""
        path = f"{collection}/{name}"
        document = {"apiVersion": "v1", "kind": "ConfigMap", **fields}
        parts = collection.split("/")
        namespace = {"namespace": parts[parts.index("namespaces") + 1]} if "namespaces" in parts[:-1] else {}
        document["metadata"] = {"name": name, "uid": f"uid-{name}", **namespace, **fields.get("metadata", {})}
        kind = "MODIFIED" if path in self.objects else "ADDED"
        return await self._commit(kind, collection, path, document)

    async def drop(self, collection: str, name: str) -> None:
        path = f"{collection}/{name}"
        await self._commit("DELETED", collection, path, self.objects[path])

    async def tick(self) -> None:
        """A revision passes without anything of interest."""
        await self.put("/api/v1/namespaces", "other")

    async def _commit(self, kind: str, collection: str, path: str, document: dict[str, Any]) -> dict[str, Any]:
        self.revision += 1
        document = {**document, "metadata": {**document["metadata"], "resourceVersion": str(self.revision)}}
        if kind == "DELETED":
            del self.objects[path]
        else:
            self.objects[path] = document
        self.log.append((self.revision, kind, collection, document))
        async with self.changed:
            self.changed.notify_all()
        return document

    def break_watches(self) -> None:
        broken, self.watchers = self.watchers, []
        for request in broken:
            if request.transport is not None:
                request.transport.abort()

    async def until_watched(self, count: int = 1) -> None:
        async with asyncio.timeout(2), self.changed:
            await self.changed.wait_for(lambda: len(self.watchers) >= count)

    # ---- HTTP

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"null")
        self.requests.append((request.method, request.path, dict(request.query), body))
        if self.answers:
            return self.answers.pop(0)
        try:
            if request.method == "GET" and request.query.get("watch"):
                return await self._watch(request)
            return web.json_response(await self._plain(request, body))
        except errors.APIError as error:
            return web.json_response(error.status(), status=error.http_code)

    async def _plain(self, request: web.Request, body: Any) -> Any:
        path = request.path
        collection, _, name = path.rpartition("/")
        if request.method == "POST":
            target = f"{path}/{body['metadata']['name']}"
            if target in self.objects:
                raise errors.already_exists("configmaps", body["metadata"]["name"])
            return await self.put(path, body["metadata"]["name"], **body)
        if request.method == "GET" and not any(one == path for one in self.objects) and self._is_collection(path):
            return {"metadata": {"resourceVersion": str(self.revision)}, "items": [one for _, one in self._items(path)]}
        if path not in self.objects:
            raise errors.not_found("configmaps", name)
        if request.method == "PUT":
            wanted = body["metadata"].get("resourceVersion")
            if wanted and wanted != self.objects[path]["metadata"]["resourceVersion"]:
                raise errors.conflict("configmaps", name, "the object has been modified")
            return await self._commit("MODIFIED", collection, path, body)
        if request.method == "PATCH":
            return await self._commit("MODIFIED", collection, path, _merged(self.objects[path], body))
        if request.method == "DELETE":
            await self.drop(collection, name)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return self.objects[path]

    @staticmethod
    def _is_collection(path: str) -> bool:
        return path.rpartition("/")[2] in ("configmaps", "namespaces", "pods")

    def _items(self, collection: str) -> list[tuple[str, dict[str, Any]]]:
        plural = "/" + collection.rpartition("/")[2]
        if collection.count("/") > 3:
            return [(path, one) for path, one in self.objects.items() if path.rpartition("/")[0] == collection]
        return [(path, one) for path, one in self.objects.items() if path.rpartition("/")[0].endswith(plural)]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        collection = request.path
        initial = request.query.get("sendInitialEvents") == "true"
        if initial and self.streams is False:
            raise errors.Invalid("sendInitialEvents is forbidden for watch")
        since = int(request.query.get("resourceVersion") or self.revision)
        if since < self.compacted and not initial:
            raise errors.Expired("too old resource version")
        if since > self.revision:
            raise errors.Timeout("Too large resource version", causes=[{"reason": "ResourceVersionTooLarge"}])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if initial and self.streams:
            since = self.revision
            for _, one in self._items(collection):
                await self._send(response, "ADDED", one)
            mark = {"resourceVersion": str(since), "annotations": {"k8s.io/initial-events-end": "true"}}
            await self._send(response, "BOOKMARK", {"metadata": mark})
        self.watchers.append(request)
        try:
            async with self.changed:
                self.changed.notify_all()
            while True:
                async with self.changed:
                    while self.revision <= since:
                        await self.changed.wait()
                for revision, kind, place, document in list(self.log):
                    if revision > since:
                        if place.rpartition("/")[2] == collection.rpartition("/")[2]:
                            await self._send(response, kind, document)
                        else:
                            await self._send(response, "BOOKMARK", {"metadata": {"resourceVersion": str(revision)}})
                since = self.revision
        finally:
            self.watchers = [one for one in self.watchers if one is not request]

    async def _send(self, response: web.StreamResponse, kind: str, document: dict[str, Any]) -> None:
        await response.write(json.dumps({"type": kind, "object": document}).encode() + b"\n")


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        fake.break_watches()
        await runner.cleanup()


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[Client]:
    async with Client(Connection(server=server.url, token="secret")) as one:
        yield one


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Any]:
    """Wait until something holds, as real sockets take their time; fails after two seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(2):
            while not condition():  # noqa: ASYNC110 - any condition will do, so there is no event to wait for
                await asyncio.sleep(0.002)

    return wait
