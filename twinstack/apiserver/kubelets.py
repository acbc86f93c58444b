"""The other side of logs and streams: kubelets, asked over HTTP. Of the API server, this module and ``backends`` alone know the client's library.

Rule of this file: whatever goes wrong on the way to a kubelet is a ServiceUnavailable, and what was opened is closed whoever leaves first.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from twinstack.api.channels import LONGEST_MESSAGE, Socket
from twinstack.api.errors import ServiceUnavailable, from_status
from twinstack.apiserver.calls import Reaction, Stream, Streamed, Upgraded, failure
from twinstack.client.certificates import Pair, client_context
from twinstack.client.websockets import WebSocket

HEARTBEAT_SECONDS = 30.0


class Kubelets:
    """Fetches from kubelets: shows the given client certificate, and verifies by the given authority if there is one."""

    def __init__(self, certificate_file: str, key_file: str, authority_file: str) -> None:
        self._files = (certificate_file, key_file, authority_file)
        self._tls: ssl.SSLContext | None = None

    async def get(self, url: str, query: str, *, follow: bool) -> Reaction:
        """The kubelet's answer, whole or as it comes; the kubelet's own failure, or ServiceUnavailable when it cannot be reached."""
        timeout = aiohttp.ClientTimeout(total=None if follow else 60.0, connect=5.0)
        session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=self.context()))
        try:
            response = await session.get(URL(f"{url}?{query}" if query else url, encoded=True))
            if response.status != 200:
                text = (await response.content.read(4096)).decode(errors="replace").strip()
                reason = from_status({"code": response.status, "message": text or f"the kubelet answered {response.status}"})
                await session.close()
                return failure(reason)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await session.close()
            raise ServiceUnavailable(f"the kubelet cannot be reached: {error or type(error).__name__}") from error
        except BaseException:
            await session.close()
            raise

        async def run(stream: Stream) -> None:
            await copied(response, session, stream, "the kubelet's answer")

        return Streamed(response.headers.get("Content-Type", "text/plain"), run)

    async def reach(self, host_url: str) -> None:
        """ServiceUnavailable when a kubelet does not answer at all."""
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0), connector=aiohttp.TCPConnector(ssl=self.context()))
        try:
            async with session, session.get(f"{host_url}/healthz") as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServiceUnavailable(f"the kubelet cannot be reached: {error or type(error).__name__}") from error

    async def talk(self, url: str, query: str, protocols: Sequence[str]) -> Upgraded:
        """A WebSocket to the kubelet, to be handed through to the client; ServiceUnavailable when there is none."""
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=5.0), connector=aiohttp.TCPConnector(ssl=self.context()))
        target = URL(f"{url}?{query}" if query else url, encoded=True)
        try:
            async with asyncio.timeout(10.0):
                kubelet = await session.ws_connect(target, protocols=protocols, max_msg_size=LONGEST_MESSAGE, heartbeat=HEARTBEAT_SECONDS)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await session.close()
            raise ServiceUnavailable(f"the kubelet cannot be reached: {error or type(error).__name__}") from error
        except BaseException:
            await session.close()
            raise

        async def run(client: Socket) -> None:
            near, far = client, WebSocket(kubelet)
            try:
                await first_of(_pass(near, far), _pass(far, near))
            finally:
                await kubelet.close()
                await session.close()

        return Upgraded(kubelet.protocol or "", run)

    def context(self) -> ssl.SSLContext:
        """What connections to kubelets are encrypted with."""
        if self._tls is None:
            certificate_file, key_file, authority_file = self._files
            pair = Pair(Path(certificate_file).read_bytes(), Path(key_file).read_bytes()) if certificate_file else None
            authorities = Path(authority_file).read_bytes() if authority_file else b""
            # Without an authority kubelets are trusted as they come, as upstream does: their certificates are self-made.
            self._tls = client_context(authorities=authorities, pair=pair, verify=bool(authorities))
        return self._tls


async def _pass(source: Socket, target: Socket) -> None:
    """Hand on every message until the source closes."""
    while (message := await source.receive()) is not None:
        await target.send(message)


async def copied(response: aiohttp.ClientResponse, session: aiohttp.ClientSession, stream: Stream, what: str) -> None:
    """Hand an answer's body on as it comes, until it ends or the client goes; ServiceUnavailable when it breaks off."""

    async def copy() -> None:
        async for data in response.content.iter_any():
            await stream.send(data)

    async def until_ended() -> None:
        while not await stream.ended(3600.0):
            pass

    try:
        await first_of(copy(), until_ended())
    except aiohttp.ClientError as error:
        raise ServiceUnavailable(f"{what} broke off: {error}") from error
    finally:
        response.close()
        await session.close()


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until the first is over; the others are cancelled, and an error of any is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
