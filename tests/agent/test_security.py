"""What a container may do: system calls, processes of its neighbours, files, groups and mounts, from images and from the host."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from twinstack.agent.containers import oci, seccomp
from twinstack.agent.containers.images import Images
from twinstack.agent.environment import ConfigError
from twinstack.kernel.errors import KernelError
from twinstack.kernel.mounts import unmount_below
from twinstack.kernel.seccomp import compiled

IMAGE = "twinstack.local/busybox:1"
DEFAULT = {"seccompProfile": {"type": "RuntimeDefault"}}


def ended(status: dict) -> bool:
    return status.get("phase") in ("Succeeded", "Failed")


def running(status: dict) -> bool:
    return status.get("phase") == "Running"


def of_image(script: str, **more: object) -> dict:
    return {"image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script], **more}


def of_host(script: str, **more: object) -> dict:
    return {"command": ["/bin/sh", "-c", script], **more}


def mounted(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def forbidden(capabilities: tuple[str, ...]) -> set[str]:
    return {name for rule in seccomp.default_profile(capabilities)["syscalls"] for name in rule["names"]}


def test_the_default_profile_forbids_what_reaches_past_namespaces_and_a_capability_allows_what_it_is_for() -> None:
    assert {"mount", "unshare", "setns", "clone3", "reboot", "init_module", "keyctl", "userfaultfd", "bpf"} <= forbidden(())
    assert not {"execve", "openat", "ptrace", "clock_gettime", "socketpair"} & forbidden(())
    assert {"mount", "unshare", "clone", "clone3", "bpf"}.isdisjoint(forbidden(("SYS_ADMIN",)))
    assert "init_module" in forbidden(("SYS_ADMIN",)) and "init_module" not in forbidden(("SYS_MODULE",))
    assert "keyctl" in forbidden(tuple(oci.CAPABILITIES))


def test_a_profile_is_the_containers_else_the_pods_and_a_privileged_one_has_none(tmp_path: Path) -> None:
    pod, none = DEFAULT, {"seccompProfile": {"type": "Unconfined"}}
    assert seccomp.profile_of({}, {}, (), seccomp.Profiles(tmp_path)) is None
    assert seccomp.profile_of(pod, {}, (), seccomp.Profiles(tmp_path)) == seccomp.default_profile(())
    assert seccomp.profile_of(pod, none, (), seccomp.Profiles(tmp_path)) is None
    assert seccomp.profile_of(none, DEFAULT, (), seccomp.Profiles(tmp_path)) is not None
    by_default = seccomp.Profiles(tmp_path, "RuntimeDefault")  # as --seccomp-default has it
    assert seccomp.profile_of({}, {}, (), by_default) == seccomp.default_profile(())
    assert seccomp.profile_of({}, none, (), by_default) is None and seccomp.profile_of({}, {"privileged": True}, (), by_default) is None
    assert seccomp.profile_of(pod, {"privileged": True}, (), seccomp.Profiles(tmp_path)) is None
    (tmp_path / "mine.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    (tmp_path / "odd.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "archMap": []}))
    named = {"seccompProfile": {"type": "Localhost", "localhostProfile": "mine.json"}}
    assert seccomp.profile_of(named, {}, (), seccomp.Profiles(tmp_path)) == {"defaultAction": "SCMP_ACT_ALLOW"}
    for name in ("", "none.json", "/etc/passwd", "../x", "odd.json"):
        with pytest.raises(ConfigError, match="seccomp profile"):
            seccomp.profile_of({"seccompProfile": {"type": "Localhost", "localhostProfile": name}}, {}, (), seccomp.Profiles(tmp_path))


def test_a_profile_becomes_a_program_or_is_refused() -> None:
    assert len(compiled(seccomp.default_profile(()))) % 8 == 0
    for bad in (
        {"defaultAction": "SCMP_ACT_FLY"},
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"]}]},
    ):
        with pytest.raises(KernelError):
            compiled(bad)


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("of", [of_image, of_host], ids=["from an image", "from the host"])
def test_system_calls_are_forbidden_to_the_container_and_to_commands_in_it(world, busybox, of) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        security = {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "no-mkdir.json"}}}
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        (w.root / "seccomp").mkdir()
        (w.root / "seccomp" / "no-mkdir.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
        probe = {"exec": {"command": ["/bin/sh", "-c", "grep -q 'Seccomp:.*2' /proc/self/status && ! mkdir /tmp/x"]}, "periodSeconds": 1}
        await w.create("held", init="", container=of("mkdir /tmp/y 2>&1; exec sleep 1000", readinessProbe=probe, **security))
        script = "grep Seccomp: /proc/self/status; grep NoNewPrivs /proc/self/status"
        await w.create("default", init="", restartPolicy="Never", securityContext=DEFAULT, container=of(script))
        await w.create("free", init="", restartPolicy="Never", container=of(script, securityContext={"allowPrivilegeEscalation": False}))
        await w.until_pod("held", lambda status: any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ())))
        assert "not supported" in (await w.logs("held"))[1]
        for name, told in (("default", "Seccomp:\t2\nNoNewPrivs:\t0\n"), ("free", "Seccomp:\t0\nNoNewPrivs:\t1\n")):
            await w.until_pod(name, ended)
            assert (await w.logs(name))[1] == told
        for name in ("held", "default", "free"):
            await w.delete(name, grace_period_seconds=0)
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
def test_containers_from_images_see_each_others_processes_where_the_pod_says_so(world, busybox) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        first, second = of_image("exec sleep 987654"), {"name": "d", **of_image("while ! ps | grep -q '[9]87654'; do sleep 0.1; done; echo seen")}
        await w.create("shared", init="", shareProcessNamespace=True, restartPolicy="Never", container=first)
        await w.until_pod("shared", running)
        await w.delete("shared", grace_period_seconds=0)
        await w.until_gone("shared")
        document = {"nodeName": "node1", "shareProcessNamespace": True, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
        document["containers"] = [{"name": "c", **first}, second]
        await w.create("both", init="", **document)
        await w.until_pod("both", lambda status: any(one["state"].get("terminated", {}).get("exitCode") == 0 for one in status.get("containerStatuses", ())))
        await w.delete("both")
        await w.until_gone("both")
        await w.nothing_is_left()

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
def test_groups_roots_devices_and_mounts_are_as_the_pod_says(world, busybox) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        shown = w.folder / "shown"
        (shown / "inner").mkdir(parents=True)
        (shown / "inner" / "file").write_text("from the host\n")
        once = {"init": "", "restartPolicy": "Never"}
        groups = {"runAsUser": 1000, "runAsGroup": 2000, "supplementalGroups": [3000], "fsGroup": 4000}
        volumes = [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": str(shown), "type": "Directory"}}]
        mounts = [{"name": "v", "mountPath": "/v"}, {"name": "h", "mountPath": "/h", "readOnly": True}, {"name": "h", "mountPath": "/i", "subPath": "inner"}]
        script = "id -u; id -g; id -G; touch /v/x && ls -n /v | grep -c ' 4000 '; cat /h/inner/file; cat /i/file; touch /h/y || echo kept; pwd"
        await w.create("groups", securityContext=groups, volumes=volumes, container=of_image(script, volumeMounts=mounts, workingDir="/v"), **once)
        script = "cat /proc/kcore | wc -c; echo 1 > /proc/sys/kernel/hostname || echo held; ls /sys/firmware | wc -l"
        await w.create("masked", container=of_image(f"({script}) 2>/dev/null"), **once)
        privileged = of_image("ls /sys/firmware | wc -l", securityContext={"privileged": True})
        await w.create("privileged", container=privileged, **once)
        await w.create("root", securityContext={"runAsNonRoot": True}, container=of_image("true"), **once)
        await w.create("pids", hostPID=True, hostIPC=True, container=of_image("test -d /proc/$$PPID; ls -d /proc/[0-9]* | wc -l"), **once)
        for name in ("groups", "masked", "privileged", "pids"):
            await w.until_pod(name, ended)
        lines = (await w.logs("groups"))[1].splitlines()
        assert lines[:2] == ["1000", "2000"] and set(lines[2].split()) >= {"2000", "3000", "4000"}
        assert [line for line in lines[3:] if "touch" not in line] == ["1", "from the host", "from the host", "kept", "/v"]
        assert (await w.logs("masked"))[1].split() == ["0", "held", "0"]
        assert (await w.logs("privileged"))[1].split() == [str(len(os.listdir("/sys/firmware")))]
        assert int((await w.logs("pids"))[1]) > 5, "the machine's processes"
        refused = await w.until_pod("root", lambda status: any(one["state"].get("waiting") for one in status.get("containerStatuses", ())))
        waiting = refused["status"]["containerStatuses"][0]["state"]["waiting"]
        assert (waiting["reason"], "runAsNonRoot" in waiting["message"]) == ("CreateContainerConfigError", True)
        for name in ("groups", "masked", "privileged", "root", "pids"):
            await w.delete(name, grace_period_seconds=0)
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("of", [of_image, of_host], ids=["from an image", "from the host"])
def test_what_is_mounted_on_the_host_later_appears_where_the_pod_says_so(world, busybox, of) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        shown = w.folder / "shown"
        (shown / "late").mkdir(parents=True)
        mount = {"name": "h", "mountPath": "/h"}
        volumes = [{"name": "h", "hostPath": {"path": str(shown)}}]
        script = "while ! grep -q ' /h/late ' /proc/self/mountinfo; do sleep 0.05; done; echo seen"
        for words in (["--bind", str(shown), str(shown)], ["--make-shared", str(shown)]):
            mounted(*words)
        try:
            follows = of(script, volumeMounts=[{**mount, "mountPropagation": "HostToContainer"}])
            await w.create("pod", init="", restartPolicy="Never", volumes=volumes, container=follows)
            await w.create("both", init="", volumes=volumes, container=of("true", volumeMounts=[{**mount, "mountPropagation": "Bidirectional"}]))
            await w.until_pod("pod", running)
            mounted("-t", "tmpfs", "tst", str(shown / "late"))
            await w.until_pod("pod", ended)
            assert (await w.logs("pod"))[1] == "seen\n"
            private = of_image("grep ' /h ' /proc/self/mountinfo | grep -c master:", volumeMounts=[mount])
            await w.create("private", init="", restartPolicy="Never", volumes=volumes, container=private)
            await w.until_pod("private", ended)
            assert (await w.logs("private"))[1] == "0\n"
            refused = await w.until_pod("both", lambda status: any(one["state"].get("waiting") for one in status.get("containerStatuses", ())))
            assert "Bidirectional" in refused["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
            for name in ("pod", "both", "private"):
                await w.delete(name, grace_period_seconds=0)
                await w.until_gone(name)
            await w.nothing_is_left()
        finally:
            unmount_below(str(shown))

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("of", [of_image, of_host], ids=["from an image", "from the host"])
def test_what_is_mounted_below_a_read_only_volume_is_read_only_where_the_pod_says_so(world, busybox, of) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        Images(w.folder / "images").load(busybox())
        shown = w.folder / "shown"
        (shown / "below").mkdir(parents=True)
        mounted("-t", "tmpfs", "tst", str(shown / "below"))
        try:
            mounts = [
                {"name": "h", "mountPath": "/plain", "readOnly": True},
                {"name": "h", "mountPath": "/all", "readOnly": True, "recursiveReadOnly": "Enabled"},
            ]
            script = "for p in /plain /all; do touch $p/x 2>/dev/null; echo $?; touch $p/below/x 2>/dev/null; echo $?; done"
            context = {"runAsUser": 0, "runAsGroup": 7}
            volumes = [{"name": "h", "hostPath": {"path": str(shown)}}]
            shared = {"supplementalGroups": [9]}
            one = of(script, volumeMounts=mounts, securityContext=context)
            await w.create("pod", init="", restartPolicy="Never", volumes=volumes, container=one, securityContext=shared)
            pod = await w.until_pod("pod", ended)
            assert ["0" if one == "0" else "no" for one in (await w.logs("pod"))[1].split()] == ["no", "0", "no", "no"]
            (status,) = pod["status"]["containerStatuses"]
            assert {one["mountPath"]: one["recursiveReadOnly"] for one in status["volumeMounts"] if one["name"] == "h"} == {
                "/plain": "Disabled",
                "/all": "Enabled",
            }
            assert status["user"] == {"linux": {"uid": 0, "gid": 7, "supplementalGroups": [7, 9]}}
            await w.delete("pod", grace_period_seconds=0)
            await w.until_gone("pod")
            await w.nothing_is_left()
        finally:
            unmount_below(str(shown))

    world(story)
