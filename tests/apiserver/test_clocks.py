"""The wall clock jumps, as clocks do when somebody sets them: what is timed by it may look odd, and nothing is lost."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

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
