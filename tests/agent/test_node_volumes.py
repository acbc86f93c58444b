"""Volumes on a whole node: what changes in the API changes in the container, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinstack.api.kinds import ConfigMap, Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
MAPS, PODS = resource_of(ConfigMap), resource_of(Pod)


def test_a_running_container_sees_what_has_changed(world):
    async def story(w) -> None:
        await w.stop_agent()
        await w.start_agent(sync_seconds=0.2)
        await w.give_pod_cidrs()
        await w.client.create(MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "default"}, "data": {"k": "old"}})
        volumes = [
            {"name": "conf", "configMap": {"name": "cm"}},
            {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]
        script = (
            'touch /conf/x 2>/dev/null && echo written; while sleep 0.02; do now="$(cat /conf/k) $(cat /info/labels)";'
            ' [ "$now" = "$was" ] || echo "$now"; was="$now"; done'
        )
        mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("conf", "info")]
        await w.create("watching", volumes=volumes, container={"command": ["sh", "-c", script], "volumeMounts": mounts})

        async def said(*lines: str) -> bool:
            return (await w.logs("watching"))[1].split("\n") == [*lines, ""]

        await w.until(lambda: said("old "))
        await w.client.patch(MAPS, Key("default", "cm"), {"data": {"k": "new"}})
        await w.until(lambda: said("old ", "new "))
        await w.client.patch(PODS, Key("default", "watching"), {"metadata": {"labels": {"a": "1"}}})
        await w.until(lambda: said("old ", "new ", 'new a="1"'))

    world(story)


def test_a_pod_that_fills_its_empty_directory_is_evicted_and_memory_is_given_back(world, monkeypatch):
    monkeypatch.setattr("twinstack.agent.making.USAGE_SECONDS", 0.1)

    async def story(w) -> None:
        await w.give_pod_cidrs()
        volumes = [{"name": "disk", "emptyDir": {"sizeLimit": "64Ki"}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
        script = "stat -f -c %T /memory; head -c 1000000 /dev/zero >/memory/x && sleep 0.2; head -c 1000000 /dev/zero >/disk/x; sleep 1000"
        mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("disk", "memory")]
        await w.create("greedy", volumes=volumes, container={"command": ["sh", "-c", script], "volumeMounts": mounts})
        pod = await w.until_pod("greedy", lambda status: status.get("phase") == "Failed")
        assert (pod["status"]["reason"], pod["status"]["message"]) == ("Evicted", 'Usage of EmptyDir volume "disk" exceeds the limit "64Ki"')
        assert "tmpfs" in (await w.logs("greedy"))[1]
        await w.delete("greedy")
        await w.until_gone("greedy")
        await w.nothing_is_left()

    world(story)


def test_a_host_process_with_a_read_only_root_writes_to_its_volumes_alone(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        places = ("/etc/new", "/tmp/new", "/new", "/data/new", "/shown/new", "/dev/shm/new")
        tries = "; ".join(f"(echo x > {path}) 2>/dev/null && echo {path}" for path in places)
        mounts = [{"name": "v", "mountPath": "/data"}, {"name": "v", "mountPath": "/shown", "readOnly": True}]
        await w.create(
            "guarded",
            restartPolicy="Never",
            volumes=[{"name": "v", "emptyDir": {}}],
            container={
                "command": ["sh", "-c", f"{tries}; echo y > /dev/null && cat /proc/self/comm; echo bye > /dev/termination-log"],
                "securityContext": {"readOnlyRootFilesystem": True},
                "volumeMounts": mounts,
                "terminationMessagePath": "/dev/termination-log",
            },
        )
        pod = await w.until_pod("guarded", lambda status: status.get("phase") in ("Succeeded", "Failed"))
        assert (await w.logs("guarded"))[1].splitlines() == ["/data/new", "/dev/shm/new", "cat"]
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "bye\n"
        assert not Path("/etc/new").exists() and not Path("/new").exists()
        await w.delete("guarded")
        await w.until_gone("guarded")
        await w.nothing_is_left()

    world(story)
