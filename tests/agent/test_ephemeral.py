"""Containers that are added to a running pod to look into it (``kubectl debug``)."""

from __future__ import annotations

import pytest

from twinstack.agent.containers.images import Images
from twinstack.api import errors
from twinstack.api.kinds import Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
PODS = resource_of(Pod)


async def add(w, pod: str, **container):
    patch = {"spec": {"ephemeralContainers": [{"image": "twinstack.dev/host", **container}]}}
    return await w.client.patch(PODS, Key("default", pod), patch, subresource="ephemeralcontainers", kind="strategic")


def of(status: dict, name: str) -> dict:
    return next((one for one in status.get("ephemeralContainerStatuses", ()) if one["name"] == name), {"state": {}})


def has_ended(name: str):
    return lambda status: "terminated" in of(status, name)["state"]


def test_a_container_is_added_to_a_running_pod_and_sees_what_its_target_sees(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create("seen", init="", container={"command": ["sleep", "4242"]})
        before = await w.until_pod("seen", lambda status: status.get("phase") == "Running")
        script = "tr '\\0' ' ' < /proc/1/cmdline; hostname; ip -o -4 address show eth0; exit 3"
        await add(w, "seen", name="look", targetContainerName="c", command=["sh", "-c", script])
        pod = await w.until_pod("seen", has_ended("look"))
        assert of(pod["status"], "look")["state"]["terminated"]["exitCode"] == 3
        said = (w.root / "pods" / pod["metadata"]["uid"] / "logs" / "look" / "0.log").read_text()
        assert "sleep 4242" in said and " seen\n" in said and pod["status"]["podIP"] in said
        # the pod goes on as if nothing were
        assert pod["status"]["phase"] == "Running" and pod["status"]["containerStatuses"] == before["status"]["containerStatuses"]
        await add(w, "seen", name="alone", command=["sh", "-c", "readlink /proc/self; cat /proc/1/comm; sleep 1000"])
        await w.until_pod("seen", lambda status: "running" in of(status, "alone")["state"])
        with pytest.raises(errors.Invalid, match=r"targetContainerName: Not found"):
            await add(w, "seen", name="lost", targetContainerName="nobody")
        with pytest.raises(errors.Invalid, match="may not be changed or removed"):
            await w.client.patch(PODS, Key("default", "seen"), {"spec": {"ephemeralContainers": None}}, subresource="ephemeralcontainers")
        # an agent that is started anew does not start them again
        await w.stop_agent()
        await w.start_agent()
        await w.create("later")
        await w.until_pod("later", lambda status: status.get("phase") == "Running")
        pod = await w.pod("seen")
        assert [one["restartCount"] for one in pod["status"]["ephemeralContainerStatuses"]] == [0, 0]
        assert has_ended("look")(pod["status"]) and "running" in of(pod["status"], "alone")["state"]
        for name in ("seen", "later"):
            await w.delete(name, grace_period_seconds=1)
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


def test_one_from_an_image_looks_at_a_host_process(world, busybox):
    async def story(w) -> None:
        Images(w.folder / "images").load(busybox())
        await w.give_pod_cidrs()
        await w.create("seen", init="", container={"command": ["sleep", "4243"]})
        await w.until_pod("seen", lambda status: status.get("phase") == "Running")
        script = "cat /etc/flavour /proc/1/cmdline; echo"
        await add(w, "seen", name="look", image="twinstack.local/busybox:1", targetContainerName="c", command=["sh", "-c", script])
        pod = await w.until_pod("seen", has_ended("look"))
        said = (w.root / "pods" / pod["metadata"]["uid"] / "logs" / "look" / "0.log").read_text()
        assert "from the image" in said and "4243" in said
        await w.delete("seen", grace_period_seconds=1)
        await w.until_gone("seen")
        await w.nothing_is_left()

    world(story)
