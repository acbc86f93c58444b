"""Containers are given more or less while they run, wait for room, are started anew where they say so, and keep what they have over an agent's restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinstack.agent.resizing import Resizing
from twinstack.agent.settings import Settings
from twinstack.api.kinds import Pod
from twinstack.api.objects import Key, view_of
from twinstack.kernel import cgroups

from .conftest import NODES, PODS

QUOTAS = ("cpu.cfs_quota_us", "cpu.max")


def asking(name: str, cpu: str, memory: str = "64Mi", **more) -> dict:
    amounts = {"cpu": cpu, "memory": memory}
    return {"name": name, "image": "twinstack.dev/host", "command": ["sleep", "1000"], "resources": {"requests": amounts, "limits": amounts}, **more}


def quotas(world, pod: dict) -> set[str]:
    """The microseconds of processor time of the pod's containers, on a machine that can hold them to some."""
    name = Settings(root_dir=world.root).control_group
    groups = [Path(folder) for root in cgroups.find() for folder in root.rglob(f"{name}/pod{pod['metadata']['uid']}/*") if folder.is_dir()]
    alive = [group for group in groups if (group / "cgroup.procs").read_text().split()]
    return {(group / file).read_text().split()[0] for group in alive for file in QUOTAS if (group / file).exists()}


def conditions(status: dict) -> dict[str, str]:
    return {one["type"]: one.get("reason", "") for one in status["conditions"] if one["type"].startswith("PodResize")}


def given(status: dict, name: str = "c") -> str:
    return next(one["resources"]["limits"]["cpu"] for one in status["containerStatuses"] if one["name"] == name)


@pytest.mark.kernel
@pytest.mark.slow
def test_a_running_container_gets_other_amounts_without_a_restart(world):
    async def resize(world, cpu: str, memory: str = "64Mi", name: str = "c") -> dict:
        patch = {"spec": {"containers": [{"name": name, "resources": asking(name, cpu, memory)["resources"]}]}}
        return await world.client.patch(PODS, Key("default", "p"), patch, subresource="resize", kind="strategic")

    async def story(world):
        await world.give_pod_cidrs()
        node = await world.client.get(NODES, Key("", "node1"))
        policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
        await world.create("p", init="", containers=[asking("c", "100m"), asking("again", "100m", resizePolicy=policy)])
        before = await world.until_pod("p", lambda status: status.get("phase") == "Running")
        here = bool(quotas(world, before))
        assert quotas(world, before) == ({"10000"} if here else set())
        # more, and less, in the same process
        for cpu, quota in (("300m", "30000"), ("50m", "5000")):
            changed = await resize(world, cpu)
            after = await world.until_pod("p", lambda status, cpu=cpu: given(status) == cpu)
            assert quotas(world, after) == ({quota, "10000"} if here else set())
            assert after["status"]["observedGeneration"] == changed["metadata"]["generation"]
            assert after["status"]["containerStatuses"][0]["containerID"] == before["status"]["containerStatuses"][0]["containerID"]
            assert (after["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], conditions(after["status"])) == (cpu, {})
        # one that says so is started anew
        await resize(world, "100m", "48Mi", name="again")

        def restarted(status):
            one = next(one for one in status["containerStatuses"] if one["name"] == "again")
            return one["restartCount"] == 1 and "running" in one["state"] and one["resources"]["limits"]["memory"] == "48Mi"

        await world.until_pod("p", restarted)
        # what the node will never have, and what it does not have now
        await resize(world, "1000")
        status = (await world.until_pod("p", lambda status: conditions(status)))["status"]
        assert (conditions(status), given(status)) == ({"PodResizePending": "Infeasible"}, "50m")
        allocatable = node["status"]["allocatable"]["cpu"]
        thousandths = int(allocatable.removesuffix("m")) if allocatable.endswith("m") else int(allocatable) * 1000
        await world.create("other", container=asking("c", f"{thousandths - 400}m"), terminationGracePeriodSeconds=0)
        await world.until_pod("other", lambda status: status.get("phase") == "Running")
        await resize(world, "900m")
        await world.until_pod("p", lambda status: conditions(status) == {"PodResizePending": "Deferred"})
        # an agent that begins knows what was given, and gives the rest when there is room
        await world.stop_agent()
        await world.start_agent()
        assert given((await world.pod("p"))["status"]) == "50m"
        await world.delete("other")
        await world.until_gone("other")
        after = await world.until_pod("p", lambda status: given(status) == "900m" and not conditions(status))
        assert quotas(world, after) == ({"90000", "10000"} if here else set())
        assert {"ResizeInfeasible", "ResizeDeferred", "ResizeCompleted"} <= await world.events("p")
        await world.delete("p", grace_period_seconds=0)
        await world.until_gone("p")
        await world.nothing_is_left()

    world(story)


def test_the_rest_of_the_agent_sees_what_was_given() -> None:
    def pod(cpu: str, told: str = "") -> Pod:
        status = {"containerStatuses": [{"name": "c", "state": {"running": {}}, "resources": {"limits": {"cpu": told}}}]} if told else {}
        return view_of(Pod, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]}, "status": status})

    resizing = Resizing()
    first = pod("1")
    assert resizing.adopt(first) is first
    assert resizing.standing(pod("2")).spec.containers == first.spec.containers
    assert Resizing().adopt(pod("2", told="1")).spec.containers == first.spec.containers
