"""Which pod goes when a node runs short: upstream's order, and a node that really is short."""

from __future__ import annotations

from fractions import Fraction

import pytest

from twinstack.agent.eviction import Met, Thresholds, Used, first_to_go, may_go, message_of
from twinstack.agent.pressure import Reading
from twinstack.api.kinds import Node, Pod
from twinstack.api.objects import Key, view_of
from twinstack.api.resources import resource_of

MIB, GIB = 1 << 20, 1 << 30
LOW = Met("memory.available", 50 * MIB, Fraction(100 * MIB), 0.0)


def pod(name: str, *, request: str = "", priority: int = 0, **annotations: str) -> Pod:
    resources = {"requests": {"memory": request}} if request else {}
    return view_of(
        Pod,
        {
            "metadata": {"name": name, "uid": name, "annotations": annotations},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]},
        },
    )


def test_hard_thresholds_are_acted_upon_at_once_and_soft_ones_in_their_time():
    thresholds = Thresholds([("nodefs.available", "10%")], [("memory.available", "1Gi")], {"memory.available": 90.0}, longest_grace=7.0)
    plenty = {"memory.available": Reading(2 * GIB, 8 * GIB), "nodefs.available": Reading(50, 100)}
    short = {**plenty, "memory.available": Reading(GIB // 2, 8 * GIB)}
    full = {**short, "nodefs.available": Reading(9, 100)}
    assert thresholds.met(plenty, 0.0) is None
    assert thresholds.met(short, 100.0) is None
    assert thresholds.met(full, 110.0) == Met("nodefs.available", 9, Fraction(10), 0.0)
    assert thresholds.met(full, 190.0) == Met("memory.available", GIB // 2, Fraction(GIB), 7.0)  # memory before all else
    assert thresholds.met(plenty, 200.0) is None
    assert thresholds.met(short, 210.0) is None  # its time begins anew
    assert thresholds.met({}, 400.0) is None  # what cannot be read is never low


@pytest.mark.parametrize(
    ("pods", "gone"),
    [
        pytest.param([], None, id="nobody is there"),
        pytest.param([(pod("within", request="1Gi"), 900 * MIB), (pod("above", request="10Mi"), 20 * MIB)], "above", id="who uses more than he asked for"),
        pytest.param([(pod("dear", priority=10), 900 * MIB), (pod("cheap"), MIB)], "cheap", id="among them the one of lower priority"),
        pytest.param([(pod("a", request="10Mi"), 30 * MIB), (pod("b", request="50Mi"), 80 * MIB)], "b", id="then the one furthest above its request"),
        pytest.param([(pod("a", request="90Mi"), 30 * MIB), (pod("b", request="90Mi"), 80 * MIB)], "b", id="then the one nearest below it"),
        pytest.param([(pod("system", priority=2_000_001_000), GIB)], None, id="never the system's"),
        pytest.param([(pod("static", **{"kubernetes.io/config.source": "file"}), GIB), (pod("a"), MIB)], "a", id="never a static one"),
    ],
)
def test_who_goes_first(pods, gone):
    found = first_to_go([(one, Used(memory)) for one, memory in pods], LOW)
    assert (found.metadata.name if found else None) == gone


def test_other_shortages_look_at_other_use():
    one, two = (pod("one"), Used(memory=GIB, disk=MIB, processes=9)), (pod("two"), Used(memory=MIB, disk=GIB, processes=3))
    names = {signal: first_to_go([one, two], LOW._replace(signal=signal)).metadata.name for signal in ("memory.available", "nodefs.available", "pid.available")}
    assert names == {"memory.available": "one", "nodefs.available": "two", "pid.available": "one"}


def test_a_pod_that_is_being_deleted_does_not_go_twice():
    assert may_go(pod("a"))
    assert not may_go(view_of(Pod, {"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}))


def test_what_is_said_names_resource_and_amounts():
    assert message_of(pod("a", request="10Mi"), Used(memory=20 * MIB), LOW) == (
        "The node was low on resource: memory. Threshold quantity: 104857600, available: 52428800. The pod was using 20971520, request is 10485760."
    )


@pytest.mark.kernel
@pytest.mark.slow
def test_a_node_that_is_short_of_memory_evicts_one_pod_after_the_other(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        big = "import time\nx = b'x' * (60 << 20)\nprint('here', flush=True)\ntime.sleep(1000)"
        await w.create("small", init="", container={"resources": {"requests": {"memory": "2Gi"}}})
        await w.create("big", init="", container={"command": ["/usr/bin/python3", "-IS", "-c", big]})
        for name in ("small", "big"):
            await w.until_pod(name, lambda status: status.get("phase") == "Running")

        async def filled():
            return "here" in (await w.logs("big"))[1]

        await w.until(filled)
        await w.stop_agent()
        await w.start_agent(eviction_hard=(("memory.available", "100%"),), eviction_look_seconds=0.5)
        gone = await w.until_pod("big", lambda status: status["phase"] == "Failed")
        assert (await w.pod("small"))["status"]["phase"] == "Running"
        status = gone["status"]
        assert status["reason"] == "Evicted" and status["message"].startswith("The node was low on resource: memory.")
        target = next(one for one in status["conditions"] if one["type"] == "DisruptionTarget")
        assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")
        node = await w.client.get(resource_of(Node), Key("", "node1"))
        assert next(one["status"] for one in node["status"]["conditions"] if one["type"] == "MemoryPressure") == "True"
        await w.until_pod("small", lambda status: status["phase"] == "Failed")

        async def told():
            return "Evicted" in await w.events("big") and "NodeHasInsufficientMemory" in await w.events("node1")

        await w.until(told)

    world(story)
