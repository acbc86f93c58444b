"""A whole node: the agent beside a real API server in a network namespace of their own, with the real network plugin."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from twinstack.api.kinds import ConfigMap, Event, Lease, Node, Pod, Secret
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import parse_address

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TOKEN = "a-token-for-tests"
NODE_IPS = tuple(map(parse_address, ("192.0.2.10", "2001:db8::10")))
POD_CIDRS = ["10.244.7.0/24", "fd00:10:244:7::/64"]
PODS, NODES, EVENTS = resource_of(Pod), resource_of(Node), resource_of(Event)


def running(status: dict) -> bool:
    return status.get("phase") == "Running" and any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))


def test_a_node_registers_with_both_addresses_and_is_ready_once_it_has_a_network(world):
    async def story(w) -> None:
        node = await w.client.get(NODES, Key("", "node1"))
        assert [(one["type"], one["address"]) for one in node["status"]["addresses"]] == [
            ("InternalIP", "192.0.2.10"),
            ("InternalIP", "2001:db8::10"),
            ("Hostname", "node1"),
        ]
        assert node["metadata"]["labels"]["zone"] == "a" and node["metadata"]["labels"]["kubernetes.io/hostname"] == "node1"
        assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
        assert await w.node_is("False")
        await w.give_pod_cidrs()
        lease = await w.client.get(resource_of(Lease), Key("kube-node-lease", "node1"))
        assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == ("node1", 40)
        async with aiohttp.ClientSession() as session, session.get("http://127.0.0.1:10248/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok")

    world(story)


def test_a_pod_lives_with_an_address_of_each_family_and_leaves_nothing(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        server = (
            "import os,socket,http.server as h\n"
            "print('I am', os.environ['IPS'], flush=True)\n"
            "class S(h.ThreadingHTTPServer): address_family=socket.AF_INET6\n"
            "S(('::', 8080), h.SimpleHTTPRequestHandler).serve_forever()"
        )
        await w.create(
            "web",
            container={
                "command": ["/usr/bin/python3", "-c", server],
                "workingDir": "/etc",
                "env": [{"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}],
                "readinessProbe": {"httpGet": {"path": "/hosts", "port": 8080}},
            },
        )
        pod = await w.until_pod("web", running)
        status = pod["status"]
        addresses = [one["ip"] for one in status["podIPs"]]
        assert addresses[0].startswith("10.244.7.") and addresses[1].startswith("fd00:10:244:7::") and status["podIP"] == addresses[0]
        assert [one["ip"] for one in status["hostIPs"]] == ["192.0.2.10", "2001:db8::10"]
        assert (w.netns_dir / pod["metadata"]["uid"]).exists()
        async with aiohttp.ClientSession() as session, session.get(f"http://[{addresses[1]}]:8080/hosts") as response:
            hosts = await response.text()
        assert all(f"{address}\tweb" in hosts for address in addresses)
        assert await w.logs("web", "?tailLines=100") == (200, (await w.logs("web"))[1])
        assert (await w.logs("web"))[1].splitlines()[0] == f"I am {','.join(addresses)}"
        assert (await w.logs("web", user=""))[0] == 401
        assert (await w.logs("web", user="somebody"))[0] == 403
        assert (await w.logs("other"))[0] == 404
        await w.delete("web")
        await w.until_gone("web")
        await w.nothing_is_left()

        async def told():
            return {"Created", "Started", "Killing"} <= await w.events("web")

        await w.until(told)

    world(story)


def test_pods_outlive_the_agent_and_are_found_again(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create("stays")
        await w.create("goes", terminationGracePeriodSeconds=0)
        await w.create("once", restartPolicy="Never", container={"command": ["sh", "-c", "exit 0"]})
        before = await w.until_pod("stays", running)
        await w.until_pod("goes", running)
        await w.until_pod("once", lambda status: status.get("phase") == "Succeeded")
        await w.stop_agent()
        await w.delete("goes", grace_period_seconds=0)
        await w.until_gone("goes")
        await w.start_agent()
        gone = w.root / "pods"
        await w.until(lambda: _is(len(os.listdir(gone)) == 2))
        after = await w.until_pod("stays", running)
        for field in ("podIPs", "containerStatuses", "startTime"):
            assert after["status"][field] == before["status"][field]
        assert (await w.pod("once"))["status"]["phase"] == "Succeeded"
        for name in ("stays", "once"):
            await w.delete(name)
            await w.until_gone(name)
        await w.until(lambda: _is(not os.listdir(gone)))
        await w.nothing_is_left()

    world(story)


def test_what_a_dead_agent_has_half_made_is_taken_back(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.stop_agent()
        uid = (await w.create("half"))["metadata"]["uid"]
        note = w.root / "pods" / uid / "sandbox.json"
        note.parent.mkdir(parents=True)
        configuration = json.loads((w.folder / "cni" / "10-twinstack.conflist").read_bytes())
        note.write_text(json.dumps({"uid": uid, "namespace": "default", "name": "half", "netns": str(w.netns_dir / uid), "configuration": configuration}))
        w.netns_dir.mkdir(exist_ok=True)
        (w.netns_dir / uid).touch()
        await w.delete("half")
        await w.start_agent()
        await w.until_gone("half")
        await w.until(lambda: _is(not os.listdir(w.root / "pods")))
        await w.nothing_is_left()

    world(story)


def test_when_the_spawner_dies_every_pod_is_started_again_in_its_place(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create("again")
        await w.create("never", restartPolicy="Never")
        before = await w.until_pod("again", running)
        await w.until_pod("never", running)
        spawner = next(pid for pid in namespaces.processes_in_any(["/proc/thread-self/ns/net"]) if b"spawner" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(spawner, signal.SIGKILL)
        after = await w.until_pod("again", lambda status: running(status) and status["containerStatuses"][0]["restartCount"] == 1)
        assert after["status"]["podIPs"] == before["status"]["podIPs"]
        last = after["status"]["containerStatuses"][0]["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")
        never = await w.until_pod("never", lambda status: status["phase"] == "Failed")
        assert never["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "ContainerStatusUnknown"

    world(story)


def test_hooks_and_the_grace_period_are_kept(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create(
            "hook",
            init="",
            terminationGracePeriodSeconds=2,
            container={
                "command": ["sh", "-c", "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.05; done"],
                "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo before > /proc/1/fd/1"]}}},
            },
        )
        await w.create("deaf", init="", terminationGracePeriodSeconds=1, container={"command": ["sleep", "1000"]})
        uid = (await w.until_pod("hook", running))["metadata"]["uid"]
        await w.until_pod("deaf", running)
        log = w.root / "pods" / uid / "logs" / "c" / "0.log"
        with open(log, "rb") as said:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await w.delete("hook")
            await w.delete("deaf")
            await w.until_gone("hook")
            assert loop.time() - began < 1.5
            assert [line.split(b" ", 3)[3] for line in said.read().splitlines()] == [b"up", b"before", b"term"]
        await w.until_gone("deaf")
        assert 0.9 < loop.time() - began < 3
        await w.nothing_is_left()

    world(story)


async def _is(value: object) -> object:
    return value


def test_init_containers_restarts_and_refusals(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create(
            "init",
            restartPolicy="Never",
            initContainers=[
                {
                    "name": "first",
                    "image": "twinstack.dev/host",
                    "command": ["sh", "-c", "echo hello > /data/word"],
                    "volumeMounts": [{"name": "v", "mountPath": "/data"}],
                }
            ],
            volumes=[{"name": "v", "emptyDir": {}}],
            container={"command": ["sh", "-c", "cat /data/word; exit 4"], "volumeMounts": [{"name": "v", "mountPath": "/data"}]},
        )
        await w.create("crash", container={"command": ["sh", "-c", "exit 3"]})
        await w.create("missing", init="", container={"command": ["/no/such/program"]})
        await w.create("image", container={"image": "nginx", "imagePullPolicy": "Never"})
        await w.create("hostport", container={"ports": [{"containerPort": 1, "hostPort": 1}]})
        pod = await w.until_pod("init", lambda status: status.get("phase") == "Failed")
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
        assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
        assert (await w.logs("init"))[1] == "hello\n"

        def waits(reason):
            return lambda status: any(one["state"].get("waiting", {}).get("reason") == reason for one in status.get("containerStatuses", ()))

        crash = await w.until_pod("crash", waits("CrashLoopBackOff"))
        assert crash["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 3
        missing = await w.until_pod("missing", waits("CrashLoopBackOff"))
        assert missing["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "StartError"
        image = await w.until_pod("image", waits("ErrImageNeverPull"))
        assert "its pull policy is Never" in image["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        await w.until_pod("hostport", lambda status: status.get("phase") == "Running")
        await w.until(lambda: _has(w, "crash", "BackOff"))
        await w.until(lambda: _has(w, "image", "Failed"))
        assert (await w.logs("crash", "?previous=true"))[0] == 200
        for name in ("init", "crash", "missing", "image", "hostport"):
            await w.delete(name)
        for name in ("init", "crash", "missing", "image", "hostport"):
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


def test_a_pod_waits_for_a_volume_without_a_word_in_its_containers_and_is_told_by_an_event(world):
    """As for every volume that cannot be mounted; the files may hold what variables cannot."""

    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create(
            "files",
            restartPolicy="Never",
            volumes=[{"name": "v", "configMap": {"name": "both"}}],
            container={
                "command": ["sh", "-c", "echo $text $bytes; wc -c < /v/bytes"],
                "envFrom": [{"configMapRef": {"name": "both", "optional": True}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            },
        )
        await w.until(lambda: _has(w, "files", "FailedMount"))
        told = await w.until_pod("files", lambda status: "containerStatuses" in status)
        assert told["status"]["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
        assert "Failed" not in await w.events("files")
        both = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "both", "namespace": "default"}}
        await w.client.create(resource_of(ConfigMap), {**both, "data": {"text": "words"}, "binaryData": {"bytes": "/wD+"}})
        await w.until_pod("files", lambda status: status.get("phase") == "Succeeded")
        assert (await w.logs("files"))[1].split() == ["words", "3"]

    world(story)


async def _has(w, name: str, reason: str) -> bool:
    return reason in await w.events(name)


def test_a_container_that_fails_its_liveness_probe_is_restarted(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        probe = {"exec": {"command": ["test", "!", "-e", "/tmp/broken"]}, "periodSeconds": 1, "failureThreshold": 1}
        await w.create("sick", container={"command": ["sh", "-c", "sleep 0.3; touch /tmp/broken; sleep 1000"], "livenessProbe": probe})
        pod = await w.until_pod("sick", lambda status: any(one["restartCount"] == 1 for one in status.get("containerStatuses", ())))
        assert pod["status"]["podIP"].startswith("10.244.7.")
        await w.until(lambda: _has(w, "sick", "Unhealthy"))

    world(story)


def test_a_pod_sees_configuration_and_the_nodes_network_where_it_asks(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        client = w.client
        waiting = {"env": [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}
        script = "echo $V; cat /conf/k /secret/s; ls -lL /secret/s | cut -c1-10; cat /info/labels; hostname; readlink /proc/self/ns/net"
        await client.create(
            resource_of(Secret), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}, "data": {"s": "aGVsbG8K"}}
        )
        await client.create(
            resource_of(ConfigMap), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "default"}, "data": {"k": "v\n"}}
        )
        await w.create(
            "conf",
            hostNetwork=True,
            restartPolicy="Never",
            volumes=[
                {"name": "conf", "configMap": {"name": "cm"}},
                {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
                {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ],
            container={
                "command": ["sh", "-c", script],
                "volumeMounts": [{"name": name, "mountPath": f"/{name}", "readOnly": True} for name in ("conf", "secret", "info")],
                **waiting,
            },
        )
        pod = await w.until_pod("conf", lambda status: status.get("phase") == "Succeeded")
        assert (await w.logs("conf"))[1].splitlines() == ["v", "v", "hello", "-r--------", "confnode1", os.readlink("/proc/thread-self/ns/net")]
        assert [one["ip"] for one in pod["status"]["podIPs"]] == ["192.0.2.10", "2001:db8::10"]
        assert not Path("/conf").exists() and not Path("/info").exists()

    world(story)


def test_routes_to_other_nodes_come_and_go_with_them(world):
    async def story(w) -> None:
        other = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node2"},
            "spec": {"podCIDR": "10.244.8.0/24", "podCIDRs": ["10.244.8.0/24", "fd00:10:244:8::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": one} for one in ("192.0.2.11", "2001:db8::11")]},
        }
        await w.client.create(NODES, other)

        async def routes():
            with Netlink() as kernel:
                return {str(route.destination): str(route.gateway) for route in kernel.routes()}

        async def both():
            return await routes() == {"10.244.8.0/24": "192.0.2.11", "fd00:10:244:8::/64": "2001:db8::11"}

        await w.until(both)
        await w.client.delete(NODES, Key("", "node2"))
        await w.until(lambda: _none(routes))

    world(story)


async def _none(routes) -> bool:
    return not await routes()


def test_a_deadline_ends_a_pod(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create("late", activeDeadlineSeconds=1)
        pod = await w.until_pod("late", lambda status: status.get("phase") == "Failed")
        assert pod["status"]["reason"] == "DeadlineExceeded"
        pods = [one async for one in _terminated(w, "late")]
        assert pods

    world(story)


async def _terminated(w, name: str):
    pod = await w.until_pod(name, lambda status: "terminated" in status["containerStatuses"][0]["state"])
    yield pod
