"""The wall clock jumps, as clocks do when somebody sets them: what is timed by it may look odd, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from twinstack.api.objects import Key
from twinstack.api.resources import BY_PATH
from twinstack.apiserver import requests
from twinstack.apiserver.app import Application
from twinstack.apiserver.calls import Answer, Call
from twinstack.apiserver.settings import Settings
from twinstack.apiserver.upkeep import EventExpiry
from twinstack.store.base import Compacted, Revision
from twinstack.store.broadcast import Broadcast
from twinstack.store.memory import MemoryStore

EVENTS = BY_PATH["", "v1", "events"]
CONFIGMAPS = BY_PATH["", "v1", "configmaps"]
YEARS = [timedelta(days=-3650), timedelta(days=3650), timedelta(seconds=-1), timedelta(0)]


class Clocks:
    """A wall clock that can be set, and a steady one that only steps ahead."""

    def __init__(self) -> None:
        self.offset = timedelta(0)
        self.steady = time.monotonic()

    def wall(self) -> datetime:
        return datetime.now(UTC) + self.offset


class Place:
    """A server's inside, with clocks to be turned."""

    def __init__(self) -> None:
        self.clocks = Clocks()
        self.app = Application(Settings(data_dir="", store="memory", service_cluster_ip_range="10.96.0.0/16,fd00:96::/112"), MemoryStore())
        self.app.handlers.now = self.app.handlers.changes.now = self.clocks.wall
        self.expiry = EventExpiry(self.app.cache, self.app.handlers.deletions, 3600.0, clock=lambda: self.clocks.steady)

    async def make(self, resource: Any, name: str, **rest: Any) -> Any:
        document = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {"name": name, "namespace": "default"}, **rest}
        await self.app.handlers.changes.create(resource, document, "default", manager="test")
        return self.get(resource, name)

    def get(self, resource: Any, name: str) -> Any:
        return self.app.cache.collections[resource].items[Key("default", name)].document()


@pytest.fixture
async def place() -> Place:
    one = Place()
    namespaces = BY_PATH["", "v1", "namespaces"]
    await one.app.handlers.changes.create(namespaces, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "default"}}, "")
    return one


async def test_revisions_and_generations_go_on_whatever_the_clock_says(place: Place) -> None:
    revisions = []
    for number, offset in enumerate(YEARS):
        place.clocks.offset = offset
        made = await place.make(CONFIGMAPS, f"c{number}", data={"turn": "", "kept": ""})
        revisions.append(int(made["metadata"]["resourceVersion"]))
        said = datetime.fromisoformat(made["metadata"]["creationTimestamp"].replace("Z", "+00:00"))
        assert abs(said - place.clocks.wall()) < timedelta(seconds=5)

        def change(document: Any, number: int = number) -> Any:
            return {**document, "data": {**document["data"], "turn": str(number)}}

        await place.app.handlers.changes.update(CONFIGMAPS, Key("default", "c0"), change, manager="other")
        first = place.get(CONFIGMAPS, "c0")
        revisions.append(int(first["metadata"]["resourceVersion"]))
        assert first["data"] == {"turn": str(number), "kept": ""}
        # Whoever changed the field owns it, were it years before it came to be.
        assert {one["manager"] for one in first["metadata"]["managedFields"]} == {"test", "other"}
    assert revisions == sorted(set(revisions))


async def test_ages_before_the_beginning_are_shown_as_none(place: Place) -> None:
    place.clocks.offset = timedelta(days=365)
    await place.make(CONFIGMAPS, "later")
    place.clocks.offset = timedelta(0)
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io", "Authorization": "Bearer x"}
    call = Call("GET", "/api/v1/namespaces/default/configmaps/later", "", headers, (), b"", True, "")  # type: ignore[arg-type]
    reaction = place.app.handlers.react(requests.parse("GET", call.path, ""), call)
    assert isinstance(reaction, Answer) and reaction.status == 200 and b'"later"' in reaction.body


async def test_an_event_lives_as_long_as_it_should_though_the_clock_jumps(place: Place) -> None:
    event = {"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Test", "type": "Normal"}
    await place.make(EVENTS, "e", **event)
    for offset in YEARS:
        place.clocks.offset = offset
        assert await place.expiry.sweep() == 0
    place.clocks.steady += 3599
    assert await place.expiry.sweep() == 0
    place.clocks.steady += 2
    assert await place.expiry.sweep() == 1


class Change:
    def __init__(self, revision: Revision) -> None:
        self.revision, self.size = revision, 100


def test_history_is_forgotten_by_the_steady_clock_only() -> None:
    steady = [0.0]
    history: Broadcast[Change] = Broadcast(0, clock=lambda: steady[0], max_age_seconds=600.0)
    history.publish([Change(1)])
    steady[0] = 599.0
    history.trim()
    assert [one.revision for one in history.since(0)] == [1]
    # Set asleep for a week, as a laptop is: late, but only what is old goes.
    steady[0] = 7 * 86400.0
    history.publish([Change(2)])
    assert [one.revision for one in history.since(1)] == [2]
    with pytest.raises(Compacted):
        history.since(0)


# ---- the real program, under a clock that somebody sets

CONFIGMAPS_PATH = "/api/v1/namespaces/default/configmaps"


class Program:
    """A server whose wall clock alone is shifted, by libfaketime, while it runs."""

    def __init__(self, place: Path) -> None:
        [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")  # Debian's libfaketime
        self.shift = place / "shift"
        self.set(0)
        (place / "tokens.csv").write_text("token,admin,1,system:masters\n")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"https://127.0.0.1:{port}"
        self.argv = [sys.executable, "-m", "twinstack.cli.main", "kube-apiserver", f"--data-dir={place / 'data'}", "--bind-address=127.0.0.1"]
        self.argv += [f"--secure-port={port}", f"--token-auth-file={place / 'tokens.csv'}", "--endpoint-reconciler-type=none"]
        self.environment = os.environ | {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.shift),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, days: int) -> None:
        """From now on the clock is wrong by so many days."""
        new = self.shift.with_suffix(".new")
        new.write_text(f"{days:+d}d\n")
        new.replace(self.shift)

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Run until the end, which is sudden."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        process = await asyncio.create_subprocess_exec(*self.argv, env=self.environment, stderr=asyncio.subprocess.DEVNULL)
        try:
            async with (
                asyncio.timeout(60),
                aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(ssl=tls), headers={"Authorization": "Bearer token"}) as session,
            ):
                ready = False
                while not ready:
                    assert process.returncode is None, "the server does not start"
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get("/readyz") as got:
                            ready = got.status == 200
                    await asyncio.sleep(0.02)
                yield session
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()


@pytest.mark.slow
async def test_a_running_server_lives_through_ten_years_back_and_ahead(tmp_path: Path) -> None:
    program = Program(tmp_path)
    revisions: list[int] = []
    seen: list[str] = []
    waits: list[float] = []
    loop = asyncio.get_running_loop()

    async def make(session: aiohttp.ClientSession, path: str, name: str, **fields: Any) -> Any:
        start = loop.time()
        async with session.post(path, json={"metadata": {"name": name}, **fields}) as got:
            assert got.status == 201, await got.text()
            document = await got.json()
        waits.append(loop.time() - start)
        revisions.append(int(document["metadata"]["resourceVersion"]))
        return document

    async with program.life() as session:
        event = {"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Test", "type": "Normal"}
        await make(session, "/api/v1/namespaces/default/events", "e", **event)
        await make(session, CONFIGMAPS_PATH, "first")
        async with session.get(CONFIGMAPS_PATH, params={"watch": "1", "resourceVersion": str(revisions[-1]), "timeoutSeconds": "50"}) as watch:
            for number, days in enumerate((0, -3650, 3650, -1, 0)):
                program.set(days)
                for turn in range(20):
                    made = await make(session, CONFIGMAPS_PATH, f"c{number}-{turn}")
                    seen.append(made["metadata"]["name"])
                said = datetime.fromisoformat(made["metadata"]["creationTimestamp"])
                assert abs(said - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=1), "it tells what the clock says"
                async with session.get("/api/v1/namespaces/default/events/e") as got:
                    assert got.status == 200, "it lives for an hour, whatever the clock says"
            told = [json.loads(await watch.content.readline())["object"]["metadata"]["name"] for _ in seen]
            assert told == seen, "the watch went on, and missed nothing"
        program.set(-3650)
    async with program.life() as session:  # begun anew, ten years before
        await make(session, CONFIGMAPS_PATH, "after")
        async with session.get(CONFIGMAPS_PATH) as got:
            assert {one["metadata"]["name"] for one in (await got.json())["items"]} >= {"first", "after", *seen}
    assert revisions == sorted(set(revisions))
    assert max(waits) < 5, "nobody waits for the clock"
