"""Containers from images, on a whole node with the real crun: what the image says, what the pod says over it, and what they may."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from twinstack.agent.containers import oci
from twinstack.agent.containers.images import Images
from twinstack.agent.environment import ConfigError

IMAGE = "twinstack.local/busybox:1"


def running(status: dict) -> bool:
    return status.get("phase") == "Running" and any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))


def ended(status: dict) -> bool:
    return status.get("phase") in ("Succeeded", "Failed")


def container(*script: str, **more) -> dict:
    return {"image": IMAGE, "imagePullPolicy": "Never", **({"command": ["sh", "-c", *script]} if script else {"command": None}), **more}


def test_capabilities_are_the_usual_ones_and_what_is_asked_for() -> None:
    everything = (1 << len(oci.CAPABILITIES)) - 1
    assert "MKNOD" not in oci.capabilities_of({}, everything)
    assert oci.capabilities_of({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}, everything) == ["NET_ADMIN"]
    assert "CHOWN" not in oci.capabilities_of({"capabilities": {"drop": ["CAP_CHOWN"]}}, everything)
    assert set(oci.capabilities_of({"privileged": True}, everything)) == set(oci.CAPABILITIES)
    assert "SYS_RESOURCE" not in oci.capabilities_of({"privileged": True}, everything & ~(1 << 24))
    with pytest.raises(ConfigError, match="SYS_RESOURCE cannot be given"):
        oci.capabilities_of({"capabilities": {"add": ["SYS_RESOURCE"]}}, everything & ~(1 << 24))
    with pytest.raises(ConfigError, match="'FLY' is not known"):
        oci.capabilities_of({"capabilities": {"add": ["fly"]}}, everything)


@pytest.mark.parametrize(
    "entry, cmd, command, args, runs",
    [
        (["/e"], ["c"], None, None, ["/e", "c"]),
        (["/e"], ["c"], ["x"], None, ["x"]),
        (["/e"], ["c"], None, ["y"], ["/e", "y"]),
        (["/e"], ["c"], ["x"], ["y", "$(A)"], ["x", "y", "1"]),
        (None, ["c", "$(A)"], None, None, ["c", "$(A)"]),
    ],
)
def test_command_and_args_stand_for_entry_point_and_command(images_of, entry, cmd, command, args, runs) -> None:
    image = images_of({"Entrypoint": entry, "Cmd": cmd})
    assert oci.command_of(image, command, args, {"A": "1"}) == runs


@pytest.fixture
def images_of(tmp_path: Path, busybox):
    def build(config: dict):
        return Images(tmp_path / "images").load(busybox(config))[0]

    return build


def test_a_user_is_the_pods_or_the_images_with_its_groups(images_of) -> None:
    image = images_of({"User": "app"})
    assert oci.user_of(image, None, None, ()) == oci.User(1000, 1001, (1005,), "/home/app")
    assert oci.user_of(image, 0, None, (5,)) == oci.User(0, 0, (5,), "/root")
    assert oci.user_of(image, 77, 78, ()) == oci.User(77, 78, (), "/")
    assert oci.user_of(images_of({"User": "app:extra"}), None, None, ()) == oci.User(1000, 1005, (1005,), "/home/app")
    assert oci.user_of(images_of({"User": "1000:77"}), None, None, ())[:2] == (1000, 77)
    for user, words in (("nobody", "'nobody'"), ("app:nogroup", "'nogroup'")):
        with pytest.raises(ConfigError, match=words):
            oci.user_of(images_of({"User": user}), None, None, ())


def test_an_image_without_a_command_needs_one_of_the_pod(images_of) -> None:
    with pytest.raises(ConfigError, match="neither"):
        oci.command_of(images_of({"Cmd": None}), None, None, {})


@pytest.mark.kernel
@pytest.mark.slow
def test_pods_run_from_an_image_with_its_files_user_and_words(world, busybox) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox({"User": "app", "WorkingDir": "/home/app", "Cmd": ["sh", "-c", "id; pwd; env; cat /etc/flavour"]}))
        await w.create("defaults", init="", restartPolicy="Never", container=container(env=[{"name": "MINE", "value": "1"}]))
        script = (
            "hostname; cat /etc/hosts; ls -d /usr /root 2>&1; echo $$$$; touch /here && echo written; grep -c . /proc/net/dev; grep CapBnd /proc/self/status"
        )
        await w.create("over", init="", restartPolicy="Never", container=container(script, securityContext={"runAsUser": 0, "capabilities": {"drop": ["ALL"]}}))
        script = "touch /x || echo refused; echo kept > /data/f; cat /data/f; ls /dev | grep -c sda; echo done"
        await w.create(
            "readonly",
            init="",
            restartPolicy="Never",
            volumes=[{"name": "v", "emptyDir": {}}],
            container=container(script, securityContext={"runAsUser": 0, "readOnlyRootFilesystem": True}, volumeMounts=[{"name": "v", "mountPath": "/data"}]),
        )
        for name in ("defaults", "over", "readonly"):
            await w.until_pod(name, ended)
        lines = (await w.logs("defaults"))[1].splitlines()
        assert lines[0] == "uid=1000(app) gid=1001(app) groups=1005(extra)" or lines[0].startswith("uid=1000(app) gid=1001(app)")
        assert lines[1] == "/home/app"
        assert {"FLAVOUR=vanilla", "MINE=1", "PATH=/bin", "HOME=/home/app", "HOSTNAME=defaults", "from the image"} <= set(lines)
        pod = await w.pod("over")
        addresses = [one["ip"] for one in pod["status"]["podIPs"]]
        assert pod["status"]["containerStatuses"][0]["imageID"].startswith("sha256:")
        said = (await w.logs("over"))[1]
        assert said.startswith("over\n") and all(f"{address}\tover" in said for address in addresses)
        assert "ls: /usr: No such file" in said and "\n1\nwritten\n" in said and "CapBnd:\t0000000000000000" in said
        assert (await w.logs("readonly"))[1].endswith("refused\nkept\n0\ndone\n")
        for name in ("defaults", "over", "readonly"):
            await w.delete(name)
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
def test_probes_commands_restarts_and_ends_are_those_of_every_container(world, busybox) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        probe = {"exec": {"command": ["sh", "-c", "test $FLAVOUR = vanilla && test ! -e /usr"]}, "periodSeconds": 1}
        serve = container("mkdir -p /www; cd /www || exit 9; httpd -f -p 8080", readinessProbe=probe, livenessProbe={"tcpSocket": {"port": 8080}})
        serve["command"] = ["sh", "-c", "cd /etc; exec httpd -f -p 8080"]
        await w.create("web", init="", container=serve)
        await w.create("crash", init="", container=container("exit 3"))
        await w.create("stubborn", init="", terminationGracePeriodSeconds=1, container=container("trap '' TERM; while true; do sleep 1; done"))
        await w.create("init", init="tini", container=container("sleep 1000"))
        await w.create("missing", init="", container=container(command=["/no/such/program"]))
        await w.create("absent", init="", container={"image": "nginx:1", "imagePullPolicy": "IfNotPresent"})
        for name in ("web", "stubborn", "init"):
            await w.until_pod(name, running)
        crash = await w.until_pod("crash", lambda status: status.get("containerStatuses", [{}])[0].get("restartCount", 0) >= 1)
        assert crash["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 3

        def waits(reason):
            return lambda status: any(one["state"].get("waiting", {}).get("reason") == reason for one in status.get("containerStatuses", ()))

        await w.until_pod("absent", waits("ErrImagePull"))
        missing = await w.until_pod("missing", waits("CrashLoopBackOff"))
        told = missing["status"]["containerStatuses"][0]["lastState"]["terminated"]
        assert told["reason"] == "StartError" and "/no/such/program" in told["message"]
        # the agent goes and comes; the containers stay and are known again
        before = await w.pod("web")
        await w.stop_agent()
        await w.start_agent()
        after = await w.until_pod("web", running)
        assert after["status"]["containerStatuses"][0]["containerID"] == before["status"]["containerStatuses"][0]["containerID"]
        for name in ("web", "crash", "stubborn", "init", "missing", "absent"):
            await w.delete(name)
        for name in ("web", "crash", "stubborn", "init", "missing", "absent"):
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
def test_containers_end_with_their_spawner_and_are_begun_again(world, busybox) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        await w.create("stays", init="", container=container(f"exec sleep {os.getpid()}.5"))
        await w.until_pod("stays", running)
        (before,) = _sleepers()
        (spawner,) = [pid for pid in processes_with("twinstack.agent.containers.spawner") if _is_below(before, pid)]
        os.kill(spawner, signal.SIGKILL)
        await w.until_pod("stays", lambda status: running(status) and status["containerStatuses"][0]["restartCount"] == 1)
        assert before not in _sleepers()
        assert len(_sleepers()) == 1
        await w.delete("stays", grace_period_seconds=0)
        await w.until_gone("stays")
        await w.nothing_is_left()
        for _ in range(100):
            if not _sleepers():
                break
            await asyncio.sleep(0.02)
        assert _sleepers() == []

    world(story)


def _commands() -> dict[int, bytes]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
    return found


def _sleepers() -> list[int]:
    return [pid for pid, line in _commands().items() if line == f"sleep\0{os.getpid()}.5\0".encode()]


def processes_with(word: str) -> list[int]:
    return [pid for pid, line in _commands().items() if word.encode() in line]


def _is_below(pid: int, parent: int) -> bool:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent


@pytest.mark.kernel
@pytest.mark.slow
def test_limits_and_lost_capabilities_hold_for_containers_and_for_commands_in_them(world, busybox) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        eats = container("cat /dev/zero | grep -q x", resources={"limits": {"memory": "24Mi"}}, securityContext={"allowPrivilegeEscalation": False})
        await w.create("eats", init="", restartPolicy="Never", container=eats)
        probe = {"exec": {"command": ["sh", "-c", "grep -q 'CapBnd:.*0000000000000400' /proc/self/status && grep -q 'NoNewPrivs:.*1' /proc/self/status"]}}
        limited = {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "allowPrivilegeEscalation": False}
        await w.create("limited", init="", container=container("exec sleep 1000", securityContext=limited, readinessProbe={**probe, "periodSeconds": 1}))
        await w.until_pod("limited", running)
        await w.until_pod("eats", ended)
        state = (await w.pod("eats"))["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"]) == (137, "OOMKilled")
        for name in ("eats", "limited"):
            await w.delete(name, grace_period_seconds=0)
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)
