"""A node refuses pods that were bound to it by hand and do not fit, and keeps what it has taken."""

from __future__ import annotations

import pytest

from twinstack.api.objects import Key

from .conftest import NODES

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def asking(cpu: str) -> dict:
    return {"resources": {"requests": {"cpu": cpu}}}


def test_a_pod_that_does_not_fit_fails_at_once_and_one_that_runs_stays(world):
    async def story(world):
        await world.give_pod_cidrs()
        allocatable = (await world.client.get(NODES, Key("", "node1")))["status"]["allocatable"]["cpu"]
        await world.create("first", container=asking(allocatable), nodeSelector={"zone": "a"})
        await world.until_pod("first", lambda status: status.get("phase") == "Running")
        await world.create("second", container=asking("1m"))
        await world.create("elsewhere", nodeSelector={"zone": "b"})
        for name, reason in (("second", "OutOfcpu"), ("elsewhere", "NodeAffinity")):
            refused = await world.until_pod(name, lambda status: status.get("phase") == "Failed")
            assert refused["status"]["reason"] == reason
            assert "podIP" not in refused["status"]

            async def told(name=name, reason=reason):
                return reason in await world.events(name)

            await world.until(told)
        # what was taken once stays, though the node would not take it today
        await world.stop_agent()
        await world.client.patch(NODES, Key("", "node1"), {"metadata": {"labels": {"zone": "b"}}})
        await world.start_agent(labels=())
        await world.create("third", container=asking("1m"))
        third = await world.until_pod("third", lambda status: status.get("phase") == "Failed")
        assert third["status"]["reason"] == "OutOfcpu"
        assert (await world.pod("first"))["status"]["phase"] == "Running"
        # and its place is free when it has gone
        await world.delete("first")
        await world.until_gone("first")
        await world.create("fourth", container=asking(allocatable))
        await world.until_pod("fourth", lambda status: status.get("phase") == "Running")
        for name in ("second", "elsewhere", "third", "fourth"):
            await world.delete(name)
            await world.until_gone(name)
        await world.nothing_is_left()

    world(story)
