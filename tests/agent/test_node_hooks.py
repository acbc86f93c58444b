"""Hooks and last words, on a whole node."""

from __future__ import annotations

import asyncio

import pytest

from twinstack.agent.containers.images import Images
from twinstack.agent.environment import ConfigError
from twinstack.agent.hooks import stop_signal
from twinstack.api.kinds import Event
from twinstack.api.resources import resource_of

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


async def _said(w, reason: str, pod: str) -> str:
    async def look():
        events = (await w.client.list(resource_of(Event), "default"))["items"]
        return next((one["message"] for one in events if one["reason"] == reason and one["involvedObject"]["name"] == pod), None)

    return str(await w.until(look))


def test_a_container_starts_with_its_first_hook_and_ends_with_its_last(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        asked: list[str] = []

        async def answer(reader, writer):
            asked.append((await reader.readline()).decode().split()[1])
            writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "2001:db8::10", 8099)
        volumes = [{"name": "v", "emptyDir": {}}]
        hooks = {
            "postStart": {"exec": {"command": ["sh", "-c", "sleep 0.3; echo ready >/v/x"]}},
            "preStop": {"httpGet": {"host": "2001:db8::10", "port": 8099, "path": "/leaving"}},
        }
        mounts = [{"name": "v", "mountPath": "/v"}]
        first = {"name": "first", "image": "twinstack.dev/host", "command": ["sleep", "1000"], "lifecycle": hooks, "volumeMounts": mounts}
        second = {"name": "second", "image": "twinstack.dev/host", "command": ["cat", "/v/x"], "volumeMounts": mounts}
        await w.create("hooked", containers=[first, second], volumes=volumes, restartPolicy="Never")
        # the second container is started once the hook of the first has ended
        await w.until_pod("hooked", lambda status: status.get("containerStatuses", [{}])[-1].get("state", {}).get("terminated", {}).get("exitCode") == 0)
        await w.delete("hooked")
        await w.until_gone("hooked")
        assert asked == ["/leaving"]
        server.close()

    world(story)


@pytest.mark.parametrize(("name", "number"), [("SIGQUIT", 3), ("usr1", 10), ("15", 15), ("SIGRTMIN+3", 37)])
def test_a_signal_has_a_name_or_a_number(name, number):
    assert stop_signal(name) == number


@pytest.mark.parametrize("name", ["SIGNOTHING", "0", "1000", "-1"])
def test_what_is_no_signal_is_refused(name):
    with pytest.raises(ConfigError, match="is no signal"):
        stop_signal(name)


def test_a_container_is_asked_to_end_by_the_signal_that_it_wants(world, busybox):
    async def story(w) -> None:
        script = "trap 'echo asked; exit 0' USR1; trap '' TERM; echo up; while :; do sleep 0.05; done"

        async def is_up() -> bool:
            return all(["up" in (await w.logs(name))[1] for name in ("named", "image")])

        Images(w.folder / "images").load(busybox({"StopSignal": "SIGUSR1"}))
        await w.give_pod_cidrs()
        await w.create("named", init="", container={"command": ["sh", "-c", script], "lifecycle": {"stopSignal": "SIGUSR1"}})
        await w.create("image", init="", container={"image": "twinstack.local/busybox:1", "command": ["/bin/sh", "-c", script]})
        logs = []
        for name in ("named", "image"):
            pod = await w.until_pod(name, lambda status: status.get("phase") == "Running")
            logs.append(open(w.root / "pods" / pod["metadata"]["uid"] / "logs" / "c" / "0.log"))  # noqa: SIM115 - read when its directory is gone
        await w.until(is_up)
        for name in ("named", "image"):
            await w.delete(name)
            await w.until_gone(name)
        for log in logs:
            with log:
                assert "asked" in log.read()
        await w.nothing_is_left()

    world(story)


def test_a_container_that_is_being_ended_says_when_it_serves_no_more(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        script = "touch /tmp/serving; trap 'rm /tmp/serving; sleep 30 & wait' TERM; while :; do sleep 0.05; done"
        probe = {"exec": {"command": ["test", "-e", "/tmp/serving"]}, "periodSeconds": 1, "failureThreshold": 1}
        # a liveness probe that fails meanwhile ends nothing sooner
        await w.create("draining", init="", container={"command": ["sh", "-c", script], "readinessProbe": probe, "livenessProbe": probe})

        def ready(value: str):
            return lambda status: any(one["type"] == "Ready" and one["status"] == value for one in status.get("conditions", ()))

        await w.until_pod("draining", ready("True"))
        await w.delete("draining", grace_period_seconds=8)
        pod = await w.until_pod("draining", ready("False"))
        assert pod["status"]["containerStatuses"][0]["state"].keys() == {"running"}
        await w.delete("draining", grace_period_seconds=1)
        await w.until_gone("draining")
        await w.nothing_is_left()

    world(story)


def test_logs_are_followed_over_their_files(world):
    async def story(w) -> None:
        await w.stop_agent()
        await w.start_agent(log_size=20_000, log_files=3)
        await w.give_pod_cidrs()
        script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i % 100)) -ne 0 ] || sleep 0.02; done"
        await w.create("talks", restartPolicy="Never", container={"command": ["sh", "-c", script]})
        pod = await w.until_pod("talks", lambda status: status.get("phase") in ("Running", "Succeeded"))
        status, text = await w.logs("talks", "?follow=true&tailLines=1")
        numbers = [int(line.split()[1]) for line in text.splitlines()]
        assert status == 200 and numbers[-1] == 2999 and numbers == list(range(numbers[0], 3000))
        await w.until_pod("talks", lambda status: status.get("phase") == "Succeeded")
        files = sorted(path.name for path in (w.root / "pods" / pod["metadata"]["uid"] / "logs" / "c").iterdir())
        assert files == ["0.log", "0.log.1", "0.log.2"]
        kept = (await w.logs("talks"))[1].splitlines()
        assert kept[-1] == "line 2999" and len(kept) < 2000
        assert (await w.logs("talks", "?tailLines=2"))[1] == "line 2998\nline 2999\n"
        assert (await w.logs("talks", "?tailLines=2&limitBytes=7"))[1] == "line 29"
        assert (await w.logs("talks", "?tailLines=1&timestamps=true"))[1].endswith("Z line 2999\n")
        assert (await w.logs("talks", "?sinceTime=2999-01-01T00:00:00Z"))[1] == ""

    world(story)


@pytest.mark.parametrize(
    ("hook", "message"), [({"exec": {"command": ["sh", "-c", "echo broken; exit 3"]}}, "broken"), ({"tcpSocket": {"port": 80}}, "not tcpSocket")]
)
def test_a_first_hook_that_fails_ends_its_container(world, hook, message):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create("failing", container={"lifecycle": {"postStart": hook}})
        assert message in await _said(w, "FailedPostStartHook", "failing")
        pod = await w.until_pod("failing", lambda status: status.get("containerStatuses", [{}])[0].get("restartCount", 0) > 0)
        assert pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] in (143, 137)

    world(story)


def test_a_container_leaves_last_words(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        texts = {
            "said": {"command": ["sh", "-c", "echo because >/dev/termination-log; exit 1"], "terminationMessagePath": "/dev/termination-log"},
            "elsewhere": {"command": ["sh", "-c", "head -c 5000 /dev/zero | tr '\\0' x >/run/words; exit 0"], "terminationMessagePath": "/run/words"},
            "logged": {"command": ["sh", "-c", "echo one; echo two >&2; exit 2"], "terminationMessagePolicy": "FallbackToLogsOnError"},
            "quiet": {"command": ["sh", "-c", "echo nothing; exit 0"], "terminationMessagePolicy": "FallbackToLogsOnError"},
        }
        containers = [{"name": name, "image": "twinstack.dev/host", **more} for name, more in texts.items()]
        await w.create("words", containers=containers, restartPolicy="Never")
        pod = await w.until_pod("words", lambda status: status.get("phase") == "Failed")
        found = {one["name"]: one["state"]["terminated"].get("message", "") for one in pod["status"]["containerStatuses"]}
        assert found.pop("logged").splitlines() in (["one", "two"], ["two", "one"])
        assert found == {"said": "because\n", "elsewhere": "x" * 4096, "quiet": ""}

    world(story)
