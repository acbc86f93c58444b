"""The reconciler: decisions are performed, and whatever goes wrong, the key is looked at again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from twinstack.api import errors, kinds
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, After, Create, Delete, Patch, Tell, Watch, World, own_key
from twinstack.loops.clock import SteppingClock
from twinstack.loops.events import Recorder
from twinstack.loops.reconciler import Reconciler, batches

CONFIGMAPS, SECRETS = resource_of(kinds.ConfigMap), resource_of(kinds.Secret)
ONE = Key("demo", "one")


def document(name: str = "one") -> dict[str, Any]:
    return {"apiVersion": "v1", "metadata": {"name": name, "namespace": "demo"}}


class Mirror:
    """Every ConfigMap has a Secret of its name, and no Secret is without one."""

    name = "mirror"
    watches: Sequence[Watch] = (Watch(kinds.ConfigMap, own_key), Watch(kinds.Secret, own_key))

    def __init__(self) -> None:
        self.decided: list[Key] = []
        self.fails = 0

    def decide(self, key: Key, world: World) -> list[Action]:
        self.decided.append(key)
        if self.fails:
            self.fails -= 1
            raise ValueError("a bug")
        one, other = world.get(kinds.ConfigMap, key), world.get(kinds.Secret, key)
        if one and not other:
            return [Create(SECRETS, document(key.name)), Tell(one, "Normal", "Mirrored", "a Secret was made")]
        if other and not one:
            return [Delete(SECRETS, key)]
        return []


@asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_what_is_there_and_what_changes_is_decided_and_performed(world: Any, clock: SteppingClock) -> None:
    world.put(CONFIGMAPS, document())
    recorder = Recorder(world.perform, component="test", clock=clock)
    reconciler = Reconciler(Mirror(), world, world.perform, clock=clock, recorder=recorder)
    async with running(reconciler.run(), recorder.run()):
        await clock.step(0)
        assert world.get(kinds.Secret, ONE) is not None
        world.put(CONFIGMAPS, document("two"))
        await clock.step(0)
        assert len(world.list(kinds.Secret)) == 2
        world.put(CONFIGMAPS, None, ONE)
        await clock.step(0)
        assert [one.metadata.name for one in world.list(kinds.Secret)] == ["two"]
        assert {one.reason for one in world.list(kinds.Event)} == {"Mirrored"}
    assert world.callbacks == [] and reconciler.queue.is_idle


@pytest.mark.parametrize(
    "failure, level, seconds",
    [
        pytest.param(errors.Conflict("x"), "DEBUG", 0.005, id="the cache was behind: soon"),
        pytest.param(errors.AlreadyExists("x"), "DEBUG", 0.005, id="it is there already: soon"),
        pytest.param(errors.NotFound("x"), "DEBUG", 0.005, id="it is gone: soon"),
        pytest.param(errors.TooManyRequests("x", retry_after_seconds=3), "INFO", 3.0, id="the server asks for patience: not before asked"),
        pytest.param(errors.ServiceUnavailable("x"), "INFO", 0.005, id="the server is away: soon"),
        pytest.param(errors.Forbidden("x", causes=[{"reason": "NamespaceTerminating"}]), "DEBUG", 0.005, id="the namespace is going: quietly"),
        pytest.param(errors.Forbidden("x"), "ERROR", 0.005, id="it is forbidden: told"),
        pytest.param(errors.Invalid("x"), "ERROR", 0.005, id="it is invalid: told"),
    ],
)
async def test_after_a_failure_the_key_is_decided_anew(
    world: Any, clock: SteppingClock, caplog: pytest.LogCaptureFixture, failure: Exception, level: str, seconds: float
) -> None:
    caplog.set_level(logging.DEBUG, logger="twinstack")
    world.put(CONFIGMAPS, document())
    world.failures = [failure]
    controller = Mirror()
    async with running(Reconciler(controller, world, world.perform, clock=clock).run()):
        await clock.step(seconds * 0.99)
        assert len(controller.decided) == 1
        await clock.step(seconds * 0.02)
        assert world.get(kinds.Secret, ONE) is not None
    assert [record.levelname for record in caplog.records if "decided anew" in record.message] == [level]


async def test_a_bug_in_one_decision_stops_no_other(world: Any, clock: SteppingClock, caplog: pytest.LogCaptureFixture) -> None:
    world.put(CONFIGMAPS, document())
    world.put(CONFIGMAPS, document("two"))
    controller = Mirror()
    controller.fails = 1
    async with running(Reconciler(controller, world, world.perform, clock=clock).run()):
        await clock.step(0)
        assert [one.metadata.name for one in world.list(kinds.Secret)] == ["two"]
        await clock.step(1)
        assert len(world.list(kinds.Secret)) == 2
    assert "A decision failed" in caplog.text


async def test_what_follows_a_failure_is_left_out(world: Any, clock: SteppingClock) -> None:
    class Two:
        name, watches = "two", (Watch(kinds.ConfigMap, own_key),)

        def decide(self, key: Key, world: World) -> list[Action]:
            return [Delete(SECRETS, Key("demo", "a")), Delete(SECRETS, Key("demo", "b"))]

    world.put(CONFIGMAPS, document())
    world.failures = [errors.Conflict("x")]
    async with running(Reconciler(Two(), world, world.perform, clock=clock).run()):
        await clock.step(0)
        assert [action.key.name for action in world.performed] == ["a"]
        await clock.step(0.01)
        assert [action.key.name for action in world.performed] == ["a", "a", "b"]


async def test_a_key_is_decided_again_after_the_time_asked_for(world: Any, clock: SteppingClock) -> None:
    class Again:
        name, watches = "again", (Watch(kinds.ConfigMap, own_key),)

        def __init__(self) -> None:
            self.times: list[float] = []

        def decide(self, key: Key, world: World) -> list[Action]:
            self.times.append(clock.monotonic())
            return [After(30), After(10)] if len(self.times) < 3 else []

    world.put(CONFIGMAPS, document())
    controller = Again()
    async with running(Reconciler(controller, world, world.perform, clock=clock).run()):
        await clock.step(100)
    assert controller.times == [0, 10, 20]


async def test_one_key_is_never_worked_on_twice_at_once(world: Any, clock: SteppingClock) -> None:
    working: list[Key] = []

    async def slow(action: Action) -> None:
        key = action.key  # type: ignore[union-attr]
        assert key not in working
        working.append(key)
        await clock.sleep(1)
        working.remove(key)

    class Busy:
        name, watches = "busy", (Watch(kinds.ConfigMap, own_key),)
        most = 0

        def decide(self, key: Key, world: World) -> list[Action]:
            self.most = max(self.most, len(working))
            return [Delete(SECRETS, key)]

    world.put(CONFIGMAPS, document())
    world.put(CONFIGMAPS, document("two"))
    controller = Busy()
    async with running(Reconciler(controller, world, slow, clock=clock, workers=3).run()):
        for _ in range(5):
            world.put(CONFIGMAPS, document())
            await clock.step(0.4)
    assert controller.most >= 1


def test_creations_of_one_kind_that_follow_each_other_are_performed_together() -> None:
    made = [Create(SECRETS, document(str(i))) for i in range(18)]
    actions: list[Action] = [Create(CONFIGMAPS, document()), *made, Delete(SECRETS, ONE), made[0], After(1)]
    assert [len(batch) for batch in batches(actions)] == [1, 16, 2, 1, 1, 1]
    assert [action for batch in batches(actions) for action in batch] == actions


class Stubborn(Mirror):
    """Says what it was refused, and would have it done together."""

    independent = True

    def refused(self, key: Key, error: Exception, world: World) -> list[Action]:
        return [Tell(world.get(kinds.ConfigMap, key) or kinds.Object(), "Warning", "Refused", str(error))]


def test_a_slow_start_doubles_and_begins_anew_with_each_row() -> None:
    creations: list[Action] = [Create(SECRETS, document(f"s{number}")) for number in range(40)]
    actions: list[Action] = [*creations, Delete(SECRETS, ONE), *creations[:4]]
    assert [len(batch) for batch in batches(actions, slow_start=True)] == [1, 2, 4, 8, 16, 9, 1, 1, 2, 1]
    assert [action for batch in batches(actions, slow_start=True) for action in batch] == actions


@pytest.mark.parametrize(("good", "tried"), [(0, 1), (1, 3), (3, 7), (100, 20)], ids=["the first", "one of the second batch", "the third batch", "none"])
async def test_a_slow_start_stops_with_the_first_batch_that_fails(world: Any, clock: SteppingClock, good: int, tried: int) -> None:
    asked: list[str] = []

    async def perform(action: Action) -> None:
        assert isinstance(action, Create)
        asked.append(action.document["metadata"]["name"])
        if len(asked) > good:
            raise errors.Forbidden("no")

    class Many:
        name = "many"
        slow_start = True
        watches: Sequence[Watch] = ()

        def decide(self, key: Key, world: World) -> list[Action]:
            return [Create(SECRETS, document(f"s{number}")) for number in range(20)]

    await Reconciler(Many(), world, perform, clock=clock).reconcile(ONE)
    assert len(asked) == tried


async def test_a_controller_that_has_something_to_say_to_a_refusal_says_it(world: Any, clock: SteppingClock) -> None:
    world.put(CONFIGMAPS, document())
    recorder = Recorder(world.perform, component="test", clock=clock)

    async def perform(action: Action) -> Any:
        raise errors.Forbidden("never")

    reconciler = Reconciler(Stubborn(), world, perform, clock=clock, recorder=recorder)
    async with running(reconciler.run(), recorder.run()):
        await clock.step(0)
        assert {(one.reason, one.message) for one in world.list(kinds.Event)} == {("Refused", "never")}


def test_patches_are_performed_together_only_where_the_controller_says_so() -> None:
    patches: list[Action] = [Patch(SECRETS, Key("demo", str(number)), {}) for number in range(3)]
    assert [len(batch) for batch in batches(patches)] == [1, 1, 1]
    assert [len(batch) for batch in batches([*patches, Patch(CONFIGMAPS, ONE, {})], (Create, Patch))] == [3, 1]
