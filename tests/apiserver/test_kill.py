"""The server is killed at random instants while many write: what it acknowledged is there, and it goes on.

Ten times here; TWINSTACK_KILLS=200 for the long run, whose figures stand in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from twinstack.store import files

KILLS = int(os.environ.get("TWINSTACK_KILLS", "10"))
WRITERS = 12
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


class Server:
    """The real program, over one data directory, life after life; and a client."""

    def __init__(self, place: Path) -> None:
        self.data = place / "data"
        (place / "tokens.csv").write_text("token,admin,1,system:masters\n")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.argv = [sys.executable, "-m", "twinstack.cli.main", "kube-apiserver", f"--data-dir={self.data}", "--bind-address=127.0.0.1"]
        self.argv += [f"--secure-port={self.port}", f"--token-auth-file={place / 'tokens.csv'}", "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112"]
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.ready_seconds: list[float] = []

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[tuple[asyncio.subprocess.Process, aiohttp.ClientSession]]:
        start = time.monotonic()
        process = await asyncio.create_subprocess_exec(*self.argv, stderr=asyncio.subprocess.DEVNULL)
        headers = {"Authorization": "Bearer token"}
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        try:
            async with aiohttp.ClientSession(f"https://127.0.0.1:{self.port}", connector=connector, headers=headers) as session:
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get("/readyz") as got:
                            if got.status == 200:
                                break
                    assert process.returncode is None, "the server does not start any more"
                    assert time.monotonic() < start + 30
                    await asyncio.sleep(0.02)
                self.ready_seconds.append(time.monotonic() - start)
                yield process, session
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()


class Writer:
    """Creates, changes and deletes objects of its own names, and knows which states each may be in."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number, self.chance = number, chance
        self.states: dict[str, set[str | None]] = {}  # one that was acknowledged last, and one that was on its way when the server died
        self.acknowledged = 0
        self.revision = 0

    async def write(self, session: aiohttp.ClientSession) -> None:
        """Until the server is gone."""
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            while True:
                name = f"w{self.number}-{self.chance.randrange(8)}"
                [now] = self.states.get(name, {None})
                value = str(self.chance.random())
                if now is None:
                    method, path, body, after = (
                        "POST",
                        CONFIGMAPS,
                        {"metadata": {"name": name}, "data": {"v": value, "fill": "x" * self.chance.randrange(4000)}},
                        value,
                    )
                elif self.chance.random() < 0.2:
                    method, path, body, after = "DELETE", f"{CONFIGMAPS}/{name}", {}, None
                else:
                    method, path, body, after = "PATCH", f"{CONFIGMAPS}/{name}", {"data": {"v": value}}, value
                self.states[name] = {now, after}
                kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
                async with session.request(method, path, data=json.dumps(body), headers={"Content-Type": kind}) as got:
                    document = await got.json()
                    assert got.status in (200, 201), document
                self.states[name] = {after}
                self.acknowledged += 1
                if after is not None:
                    self.revision = max(self.revision, int(document["metadata"]["resourceVersion"]))

    def check(self, found: dict[str, str]) -> None:
        """Every name is in a state that it may be in; from now on it is in that one."""
        for name, allowed in self.states.items():
            assert found.get(name) in allowed, f"{name} is {found.get(name)}, not one of {allowed}"
            self.states[name] = {found.get(name)}


async def follow(session: aiohttp.ClientSession, revision: int, seen: list[int]) -> None:
    """Watch from a revision on, until the server is gone or says 410."""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        async with session.get(CONFIGMAPS, params={"watch": "1", "resourceVersion": str(revision)}, timeout=aiohttp.ClientTimeout(total=None)) as got:
            if got.status == 410:
                seen.append(-1)
                return
            assert got.status == 200
            async for line in got.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    assert event["object"]["code"] == 410
                    seen.append(-1)
                    return
                seen.append(int(event["object"]["metadata"]["resourceVersion"]))


@pytest.mark.slow
async def test_kill_9_at_random_instants_loses_nothing_and_revisions_go_on(tmp_path: Path) -> None:
    chance = random.Random(17)
    server = Server(tmp_path)
    writers = [Writer(number, random.Random(number)) for number in range(WRITERS)]
    newest, followed, expired, resumed = 0, 0, 0, 0
    for _ in range(KILLS + 1):
        async with server.life() as (process, session):
            async with session.get(CONFIGMAPS) as got:
                listed: Any = await got.json()
            found = {one["metadata"]["name"]: one["data"]["v"] for one in listed["items"] if "v" in (one.get("data") or {})}
            for writer in writers:
                writer.check(found)
            revision = int(listed["metadata"]["resourceVersion"])
            newest = max([newest, *(writer.revision for writer in writers)])
            assert revision >= newest, "a revision was given out that is forgotten now"
            # A watch that was cut off takes up where it was, or is told that it must list anew.
            seen: list[int] = []
            late = asyncio.ensure_future(follow(session, followed, seen)) if followed else None
            fresh: list[int] = []
            following = asyncio.ensure_future(follow(session, revision, fresh))
            writing = [asyncio.ensure_future(writer.write(session)) for writer in writers]
            await asyncio.sleep(chance.uniform(0.02, 0.5))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await asyncio.gather(*writing, following)
            if late is not None:
                await late
                assert seen == [-1] or (seen == sorted(seen) and all(one > followed for one in seen))
                expired += seen == [-1]
                resumed += seen != [-1]
            assert fresh == sorted(fresh) and all(one > revision for one in fresh)
            followed = max([revision, *fresh])
        report = files.check(server.data)
        assert report.problems == ()
        newest = max(newest, revision)
    acknowledged = sum(writer.acknowledged for writer in writers)
    assert acknowledged > 10 * KILLS and expired + resumed == KILLS
    half = sorted(server.ready_seconds)[KILLS // 2]
    watches = f"{resumed} watches resumed, {expired} told 410"
    print(f"{KILLS} kills: {acknowledged} writes acknowledged, none lost; {watches}; ready after {half:.2f} s (p50)")
