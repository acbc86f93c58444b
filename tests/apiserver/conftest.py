"""A real server in this process, and a client that hides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import uvloop

from twinstack.apiserver.app import run
from twinstack.apiserver.settings import Settings

TOKEN = "a-token-for-tests"
RANGES = "10.96.0.0/16,fd00:96::/112"


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that the program runs on; the HTTP door is tried on the other one too, for their transports are not alike."""
    both: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return both if item.path.name in ("test_http.py", "test_wire.py") else {"uvloop": uvloop.new_event_loop}


class Got(NamedTuple):
    """An answer: HTTP code, document (or text), headers."""

    code: int
    document: Any
    headers: Any

    @property
    def reason(self) -> str:
        return str(self.document.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self.document.get("message", ""))


class Watch:
    """An open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        """The next event; StopAsyncIteration at the end."""
        async with asyncio.timeout(5):
            line = await self.response.content.readline()
        if not line:
            raise StopAsyncIteration
        event: dict[str, Any] = json.loads(line)
        return event

    async def take(self, count: int) -> list[tuple[str, str]]:
        """The type and the object's name of so many events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def rest(self) -> list[dict[str, Any]]:
        """Every event up to the end."""
        async with asyncio.timeout(5):
            return [json.loads(line) async for line in self.response.content]


class Api:
    """Talks to one server."""

    def __init__(self, url: str, session: aiohttp.ClientSession, data_dir: Path) -> None:
        self.url, self.session, self.data_dir = url, session, data_dir
        self.stop: Callable[[], Awaitable[None]]
        self.show: Callable[[Path, Path], None]  # a client certificate and its key, from the next connection on

    async def ask(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Got:
        sent = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
        sent = {name: value for name, value in sent.items() if value}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.url + path, data=body if body is None else io.BytesIO(body), headers=sent) as response:
            data = await response.read()
            document = json.loads(data) if response.content_type == "application/json" and data else data.decode()
            return Got(response.status, document, response.headers)

    async def get(self, path: str, **headers: str) -> Got:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, body: Any) -> Got:
        return await self.ask("POST", path, body)

    async def put(self, path: str, body: Any) -> Got:
        return await self.ask("PUT", path, body)

    async def delete(self, path: str, body: Any = None) -> Got:
        return await self.ask("DELETE", path, body)

    async def patch(self, path: str, patch: Any, kind: str = "merge-patch") -> Got:
        return await self.ask("PATCH", path, patch, headers={"Content-Type": f"application/{kind}+json"})

    async def made(self, path: str, body: Any) -> Any:
        """Create, and the object as it is then."""
        got = await self.post(path, body)
        assert got.code == 201, got.document
        return got.document

    @asynccontextmanager
    async def watch(self, path: str, **headers: str) -> AsyncIterator[Watch]:
        sent = {"Authorization": f"Bearer {TOKEN}", **headers}
        separator = "&" if "?" in path else "?"
        async with self.session.get(f"{self.url}{path}{separator}watch=true", headers=sent) as response:
            assert response.status == 200, await response.read()
            yield Watch(response)


Serve = Callable[..., Any]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a server, and stop it in the end; ``stop()`` does so earlier, and one started after that finds its data."""
    async with AsyncExitStack() as stack:

        async def start(**flags: Any) -> Api:
            tokens = tmp_path / "tokens.csv"
            tokens.write_text(f'{TOKEN},admin,1,"system:masters,others"\n')
            listening = socket.create_server(("127.0.0.1", 0))
            port = listening.getsockname()[1]
            values: dict[str, Any] = {
                "data_dir": str(tmp_path / "data"),
                "bind_address": "127.0.0.1",
                "token_auth_file": str(tokens),
                "service_cluster_ip_range": RANGES,
                "endpoint_reconciler_type": "none",
                **flags,
            }
            ready = asyncio.Event()
            running = asyncio.ensure_future(run(Settings(secure_port=0, sockets=(listening,), **values), ready=ready.set))

            async def stop() -> None:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

            stack.push_async_callback(stop)
            waiting = asyncio.ensure_future(ready.wait())
            await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if running.done():
                listening.close()
                running.result()
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.load_verify_locations(tmp_path / "data" / "pki" / "apiserver.crt")
            tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))
            api = Api(f"https://127.0.0.1:{port}", session, tmp_path / "data")
            api.stop, api.show = stop, tls.load_cert_chain
            return api

        yield start


@pytest.fixture
async def api(serve: Serve) -> Api:
    """A dual-stack server."""
    started: Api = await serve()
    return started
