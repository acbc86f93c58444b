"""Events: told once each, counted when told again, and never in anybody's way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from twinstack.api import errors, kinds
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.loops.clock import SteppingClock
from twinstack.loops.events import Recorder

EVENTS = resource_of(kinds.Event)
POD = kinds.Pod(metadata=kinds.ObjectMeta(name="web", namespace="demo", uid="u"))


async def written(recorder: Recorder, clock: SteppingClock, seconds: float = 0) -> None:
    task = asyncio.create_task(recorder.run())
    await clock.step(seconds)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_an_event_says_what_happened_to_whom(world: Any, clock: SteppingClock) -> None:
    recorder = Recorder(world.perform, component="kubelet", host="node1", clock=clock)
    recorder.tell(POD, "Warning", "BackOff", "it fails", field_path="spec.containers{web}")
    recorder.tell(kinds.Node(metadata=kinds.ObjectMeta(name="node1")), "Normal", "Ready", "it is ready")
    await written(recorder, clock)
    pod, node = sorted(world.list(kinds.Event), key=lambda one: one.type, reverse=True)
    assert (pod.metadata.namespace, node.metadata.namespace) == ("demo", "default")
    assert pod.involvedObject == kinds.ObjectReference(apiVersion="v1", kind="Pod", namespace="demo", name="web", uid="u", fieldPath="spec.containers{web}")
    assert (pod.type, pod.reason, pod.message, pod.count, pod.firstTimestamp) == ("Warning", "BackOff", "it fails", 1, "2026-01-02T03:04:05Z")
    assert pod.source == {"component": "kubelet", "host": "node1"} and pod.metadata.name.startswith("web.")


async def test_the_same_told_again_raises_the_count(world: Any, clock: SteppingClock) -> None:
    recorder = Recorder(world.perform, component="x", clock=clock)
    recorder.tell(POD, "Warning", "BackOff", "it fails")
    await written(recorder, clock, 60)
    recorder.tell(POD, "Warning", "BackOff", "it fails")
    recorder.tell(POD, "Warning", "BackOff", "it fails otherwise")
    await written(recorder, clock)
    counts = {one.message: (one.count, one.lastTimestamp) for one in world.list(kinds.Event)}
    assert counts == {"it fails": (2, "2026-01-02T03:05:05Z"), "it fails otherwise": (1, "2026-01-02T03:05:05Z")}


async def test_an_event_that_is_gone_begins_anew(world: Any, clock: SteppingClock) -> None:
    recorder = Recorder(world.perform, component="x", clock=clock)
    recorder.tell(POD, "Warning", "BackOff", "it fails")
    await written(recorder, clock)
    for key in [Key(one.metadata.namespace, one.metadata.name) for one in world.list(kinds.Event)]:
        world.put(EVENTS, None, key)
    recorder.tell(POD, "Warning", "BackOff", "it fails")
    await written(recorder, clock)
    assert [one.count for one in world.list(kinds.Event)] == [1]


async def test_a_server_that_is_away_is_tried_again_and_a_refusal_is_not(world: Any, clock: SteppingClock, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(world.perform, component="x", clock=clock)
    recorder.tell(POD, "Normal", "One", "x")
    recorder.tell(POD, "Normal", "Two", "x")
    world.failures = [errors.ServiceUnavailable("away"), errors.ServiceUnavailable("away")]
    await written(recorder, clock, 10)
    assert len(world.list(kinds.Event)) == 2
    world.failures = [errors.Forbidden("going")] + [errors.ServiceUnavailable("away")] * 5
    recorder.tell(POD, "Normal", "Three", "x")
    recorder.tell(POD, "Normal", "Four", "x")
    await written(recorder, clock, 10)
    assert len(world.list(kinds.Event)) == 2 and "An event is dropped" in caplog.text


async def test_too_many_events_are_dropped_and_not_waited_for(world: Any, clock: SteppingClock, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(world.perform, component="x", clock=clock)
    for number in range(1001):
        recorder.tell(POD, "Normal", "Busy", str(number))
    assert caplog.text.count("too many wait") == 1
