"""Probes: is a container alive, ready, started?

A probe goes from the node to an address of the pod, or runs a command inside the container. What the pod's first
address answers decides as upstream has it; ``workers`` asks the other one too (``families``). Counting is a value (:class:`Count`); asking is the thin rest.

While a container is young its startup and readiness probes are also made in between, soon and at growing
intervals, so that a server that listens after 30 ms is ready after 30 ms and not after a whole period. Only a
success of these counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from twinstack.agent import grpc
from twinstack.agent.containers.base import ContainerError, Runtime
from twinstack.api.kinds import Container, HTTPGetAction, Probe
from twinstack.client.tls import client_context
from twinstack.net.cidr import host_port

EAGER_SECONDS = 0.025
MOST_REDIRECTS = 10
_LONGEST_MESSAGE = 256


class Result(NamedTuple):
    """What one probe has found."""

    ok: bool
    message: str = ""


class Count(NamedTuple):
    """How often a probe has found the same in a row, and what counts as true by its thresholds."""

    value: bool
    run: int = 0
    last: bool | None = None

    def after(self, ok: bool, probe: Probe) -> Count:
        """The count after one more finding."""
        run = self.run + 1 if self.last is ok else 1
        enough = run >= (max(1, probe.successThreshold) if ok else max(1, probe.failureThreshold))
        return Count(ok if enough else self.value, run, ok)


def port_of(named: int | str, container: Container) -> int:
    """The number of a port given by number or by the name that the container gives it; 0 when there is none."""
    if isinstance(named, int):
        return named
    if named.isdigit():
        return int(named)
    return next((port.containerPort for port in container.ports or () if port.name == named), 0)


def _words(error: Exception) -> str:
    """What stood in the way, in the kernel's words where it was the kernel that refused."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = cause.errno if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) else None
    if number is not None and number > 0:  # a name that cannot be resolved has one below
        return os.strerror(number)
    return str(error) or type(error).__name__


class Prober:
    """Makes single probes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Prober:
        # a probe asks whether somebody answers, not who
        connector = aiohttp.TCPConnector(ssl=client_context(verify=False), force_close=True, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, headers={"User-Agent": "kube-probe/1.36", "Accept": "*/*"}, auto_decompress=False)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, probe: Probe, container: Container, *, identifier: str, address: str) -> Result:
        """Probe once; never raises for what the container does."""
        timeout = float(max(1, probe.timeoutSeconds))
        try:
            if probe.exec is not None:
                return await self._exec(probe.exec.command, identifier, timeout)
            async with asyncio.timeout(timeout):
                if probe.httpGet is not None:
                    return await self._get(probe.httpGet, container, address)
                if probe.grpc is not None:
                    return await self._ask_health(probe.grpc, address)
                if probe.tcpSocket is not None:
                    return await self._connect(probe.tcpSocket.host or address, port_of(probe.tcpSocket.port, container))
        except TimeoutError:
            return Result(False, f"no answer within {timeout:.0f} s")
        except (OSError, aiohttp.ClientError, ValueError) as error:
            return Result(False, _words(error))
        return Result(False, "the probe has no action that is supported")

    async def _exec(self, command: Sequence[str], identifier: str, timeout: float) -> Result:
        try:
            output = await self._runtime.execute(identifier, command, timeout_seconds=timeout)
        except ContainerError as error:
            return Result(False, str(error))
        text = output.text.decode(errors="replace")[:_LONGEST_MESSAGE]
        if output.exit_code is None:
            return Result(False, f"command timed out after {timeout:.0f} s: {text}")
        return Result(output.exit_code == 0, text or f"exit status {output.exit_code}")

    async def _get(self, action: HTTPGetAction, container: Container, address: str) -> Result:
        assert self._session is not None
        scheme = (action.scheme or "HTTP").lower()
        path = action.path if action.path.startswith("/") else f"/{action.path}"
        url = f"{scheme}://{host_port(action.host or address, port_of(action.port, container))}{path}"
        headers = {header.name: header.value for header in action.httpHeaders or ()}
        target = first = URL(url)
        for _ in range(MOST_REDIRECTS):
            async with self._session.get(target, headers=headers, allow_redirects=False) as response:
                where = response.headers.get("Location", "") if 300 <= response.status < 400 else ""
                if not where or target.join(URL(where)).host != first.host:  # another host's answer says nothing of this container
                    return Result(200 <= response.status < 400, f"HTTP probe failed with statuscode: {response.status}")
                target = target.join(URL(where))
        return Result(False, f"stopped after {MOST_REDIRECTS} redirects")

    async def _ask_health(self, action: Mapping[str, Any], address: str) -> Result:
        status = await grpc.check(address, int(action.get("port") or 0), str(action.get("service") or ""))
        name = grpc.STATUSES[status] if status < len(grpc.STATUSES) else str(status)
        return Result(status == grpc.SERVING, "" if status == grpc.SERVING else f'service unhealthy (responded with "{name}")')

    async def visit(self, action: HTTPGetAction, container: Container, address: str, seconds: float) -> str:
        """Ask over HTTP, whatever the answer; why there was none."""
        try:
            async with asyncio.timeout(seconds):
                await self._get(action, container, address)
        except TimeoutError:
            return f"no answer within {seconds:.0f} s"
        except (OSError, aiohttp.ClientError, ValueError) as error:
            return _words(error)
        return ""

    async def _connect(self, host: str, port: int) -> Result:
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Result(True)


Ask = Callable[[Probe], Awaitable[Result]]


async def watch(probe: Probe, ask: Ask, tell: Callable[[Count, Result], None], *, initially: bool, eager: bool, until: bool | None = None) -> None:
    """Probe for ever, or until the thresholds say *until*.

    ``tell(count, result)`` hears every finding that counts, and the count after it.
    """
    count = Count(initially)
    await asyncio.sleep(probe.initialDelaySeconds)
    period = float(max(1, probe.periodSeconds))
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + period
        result = await ask(probe)
        if not result.ok and eager and count.last is None:
            result = await _soon(probe, ask, due, result)
        count = count.after(result.ok, probe)
        tell(count, result)
        if until is not None and count.value is until and count.last is until:
            return
        await asyncio.sleep(max(0.0, due - loop.time()))


async def _soon(probe: Probe, ask: Ask, due: float, first: Result) -> Result:
    """Ask again and again, until it is well or the period is over; then the first finding counts."""
    loop = asyncio.get_running_loop()
    pause = EAGER_SECONDS
    while loop.time() + pause < due:
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 1.5)
        result = await ask(probe)
        if result.ok:
            return result
    return first
