"""A load generator: many HTTP/1.1 connections over TLS, each with one request under way. Run as a process of its own.

It reads one JSON document from its arguments and prints one. It checks nothing but status codes, and does as little per
request as it can, so that it measures the server and not itself.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from typing import Any

import uvloop


class Connection(asyncio.Protocol):
    """One connection, one request at a time; as a watcher, calls *heard* with everything that comes."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self.need = -1
        self.body_at = 0
        self.heard: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if self.heard is not None:
            self.heard(data)
            return
        self.buffer += data
        if self.need < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            at = head.find(b"content-length:")
            self.body_at = end + 4
            self.need = self.body_at + (int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
        if len(self.buffer) >= self.need and self.waiter is not None:
            waiter, self.waiter = self.waiter, None
            status, body = int(self.buffer[9:12]), bytes(self.buffer[self.body_at : self.need])
            self.buffer.clear()
            self.need = -1
            waiter.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(exc or ConnectionError("closed"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.waiter


class Generator:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.head = f"Host: bench\r\nUser-Agent: bench\r\nAuthorization: Bearer {job['token']}\r\nAccept: application/json\r\n"

    async def connect(self, count: int) -> list[Connection]:
        connections: list[Connection] = []
        loop = asyncio.get_running_loop()
        for start in range(0, count, 50):
            some = min(50, count - start)
            made = await asyncio.gather(*(loop.create_connection(Connection, "127.0.0.1", self.job["port"], ssl=self.tls) for _ in range(some)))
            connections += [protocol for _, protocol in made]
        return connections

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\n{self.head}\r\n".encode()

    def post(self, path: str, body: bytes) -> bytes:
        return f"POST {path} HTTP/1.1\r\n{self.head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def merge(self, path: str, patch: Any) -> bytes:
        body = json.dumps(patch, separators=(",", ":")).encode()
        head = f"PATCH {path} HTTP/1.1\r\n{self.head}Content-Type: application/merge-patch+json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def new(self, name: str) -> bytes:
        """What the job creates: dual-stack Services, headless ones, or slices."""
        what = self.job.get("what", "service")
        return self.slice(name) if what == "slice" else self.service(name, headless=what == "headless")

    def slice(self, name: str) -> bytes:
        """An EndpointSlice of three endpoints, as a controller writes it."""
        family = ("IPv4", "IPv6")[int(name.rpartition("-")[2]) % 2]
        base = "10.244.1." if family == "IPv4" else "fd00:10:244:1::"
        conditions = {"ready": True, "serving": True, "terminating": False}
        document = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io", "app": name},
            },
            "addressType": family,
            "endpoints": [
                {
                    "addresses": [f"{base}{number}"],
                    "conditions": conditions,
                    "nodeName": f"node{number}",
                    "zone": "zone-a",
                    "targetRef": {"kind": "Pod", "namespace": "default", "name": f"{name}-{number}", "uid": "5f3f3a55-7c1b-4b53-8d0a-1d4be1c1a0aa"},
                }
                for number in range(1, 4)
            ],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def service(self, name: str, *, headless: bool = False) -> bytes:
        """A dual-stack Service of about the size that people write."""
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": {"app": name, "team": "bench", "tier": "backend"}, "annotations": {"example.com/owner": "bench@example.com"}},
            "spec": {
                "type": "ClusterIP",
                "ipFamilyPolicy": "RequireDualStack",
                "selector": {"app": name, "tier": "backend"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "metrics", "port": 9090, "targetPort": "metrics"}],
            },
        }
        if headless:
            document["spec"]["clusterIP"] = "None"
        return json.dumps(document, separators=(",", ":")).encode()

    async def repeat(self) -> dict[str, Any]:
        """Requests from so many clients, until so many are answered; seconds of each."""
        clients, count, kind = self.job["clients"], self.job["count"], self.job["kind"]
        connections = await self.connect(clients)
        numbers = iter(range(count))
        took: list[float] = []
        if kind == "create":
            bodies = [self.post(self.job["path"], self.new(f"{self.job['prefix']}-{number}")) for number in range(count)]
            wanted = 201
        elif kind == "patch":
            # Each of its own object as long as there are so many; what changes is a label, as people and controllers do it.
            objects = self.job["objects"]
            turn = self.job["turn"]  # of this job alone: a patch that changes nothing is not written
            bodies = [self.merge(f"{self.job['path']}-{number % objects}", {"metadata": {"labels": {"turn": f"{turn}-{number}"}}}) for number in range(count)]
            wanted = 200
        else:
            bodies = [self.get(self.job["path"])]
            wanted = 200
        sizes = 0

        async def client(connection: Connection) -> None:
            nonlocal sizes
            for number in numbers:
                start = time.perf_counter()
                status, body = await connection.ask(bodies[number % len(bodies)])
                took.append(time.perf_counter() - start)
                sizes = len(body)
                if status != wanted:
                    raise RuntimeError(f"{status}: {body[:300]!r}")

        start = time.perf_counter()
        await asyncio.gather(*(client(connection) for connection in connections))
        elapsed = time.perf_counter() - start
        for connection in connections:
            connection.transport.abort()
        return {"seconds": elapsed, "took": sorted(took), "bytes": sizes}

    async def events(self) -> dict[str, Any]:
        """Watchers, and one who writes now and then: the delay from sending the write to each watcher's event."""
        watchers, rounds = self.job["watchers"], self.job["count"]
        delays: list[float] = []
        sent_at = 0.0
        marker = b""
        missing = 0
        done = asyncio.Event()

        def hearing() -> Any:
            tail = b""

            def heard(data: bytes) -> None:
                nonlocal tail, missing
                tail = tail[-200:] + data
                if marker and marker in tail:
                    tail = b""
                    delays.append(time.perf_counter() - sent_at)
                    missing -= 1
                    if missing == 0:
                        done.set()

            return heard

        connections = await self.connect(watchers)
        for connection in connections:
            connection.heard = hearing()
            connection.transport.write(self.get(self.job["watch"]))
        [writer] = await self.connect(1)
        await asyncio.sleep(0.5 + watchers / 1000)
        for number in range(rounds):
            name = f"{self.job['prefix']}-{number}"
            if "object" in self.job:
                request = self.merge(self.job["object"], {"metadata": {"labels": {"turn": name}}})
                marker = f'"turn":"{name}"'.encode()
            else:
                request = self.post(self.job["path"], self.service(name))
                marker = f'"name":"{name}"'.encode()
            missing = watchers
            done.clear()
            sent_at = time.perf_counter()
            status, body = await writer.ask(request)
            if status not in (200, 201):
                raise RuntimeError(f"{status}: {body[:300]!r}")
            async with asyncio.timeout(20):
                await done.wait()
            marker = b""
            await asyncio.sleep(0.02)
        for connection in (*connections, writer):
            connection.transport.abort()
        return {"took": sorted(delays)}

    async def idle(self) -> dict[str, Any]:
        """Watchers who hear nothing; says so once all are there, and leaves when it is told."""
        connections = await self.connect(self.job["watchers"])
        answered = 0
        there = asyncio.Event()

        def heard(data: bytes) -> None:
            nonlocal answered
            answered += data.startswith(b"HTTP/1.1 200")
            if answered == len(connections):
                there.set()

        for connection in connections:
            connection.heard = heard
            connection.transport.write(self.get(self.job["watch"]))
        async with asyncio.timeout(120):
            await there.wait()
        print(answered, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        for connection in connections:
            connection.transport.abort()
        return {}


def main() -> None:
    job = json.loads(sys.argv[1])
    generator = Generator(job)
    kinds = {"events": generator.events, "idle": generator.idle}
    json.dump(uvloop.run(kinds.get(job["kind"], generator.repeat)()), sys.stdout)


if __name__ == "__main__":
    main()
