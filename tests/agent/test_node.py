"""A whole node: the agent beside a real API server in a network namespace of their own, with the real network plugin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from twinstack.agent import agent
from twinstack.agent.settings import Settings
from twinstack.api import errors
from twinstack.api.kinds import ConfigMap, Event, Lease, Node, Pod, Secret
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.apiserver import app
from twinstack.apiserver.settings import Settings as ServerSettings
from twinstack.client import certificates
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection, Entry, load, merge
from twinstack.cni.executable import write_executable
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import parse_address

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TOKEN = "a-token-for-tests"
NODE_IPS = tuple(map(parse_address, ("192.0.2.10", "2001:db8::10")))
POD_CIDRS = ["10.244.7.0/24", "fd00:10:244:7::/64"]
PODS, NODES, EVENTS = resource_of(Pod), resource_of(Node), resource_of(Event)


class World:
    """An API server and a client; agents come and go."""

    def __init__(self, folder: Path, client: Client, authority: certificates.Authority) -> None:
        self.folder, self.client, self.authority = folder, client, authority
        self.root = folder / "root"
        self.netns_dir = folder / "netns"
        self._agent: asyncio.Task[None] | None = None

    async def start_agent(self) -> None:
        served = certificates.issue(self.authority, common_name="node1", addresses=NODE_IPS, server=True)
        files = {"ca": self.authority.certificate, "crt": served.certificate, "key": served.key}
        for name, data in files.items():
            (self.folder / f"kubelet.{name}").write_bytes(data)
        settings = Settings(
            kubeconfig=self.folder / "kubeconfig",
            node_name="node1",
            node_ips=NODE_IPS,
            root_dir=self.root,
            netns_dir=self.netns_dir,
            cni_conf_dir=self.folder / "cni",
            cni_bin_dirs=(self.folder / "bin",),
            cni_data_dir=self.folder / "ipam",
            write_cni_config=True,
            address="::",
            client_ca_file=self.folder / "kubelet.ca",
            tls_cert_file=self.folder / "kubelet.crt",
            tls_key_file=self.folder / "kubelet.key",
            labels=(("zone", "a"),),
        )
        ready = asyncio.Event()
        self._agent = asyncio.ensure_future(agent.run(settings, ready=ready.set))
        waiting = asyncio.ensure_future(ready.wait())
        await asyncio.wait([self._agent, waiting], timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if self._agent.done():
            self._agent.result()
        assert ready.is_set()

    async def stop_agent(self) -> None:
        if self._agent is not None:
            self._agent.cancel()
            await asyncio.gather(self._agent, return_exceptions=True)
            self._agent = None

    async def give_pod_cidrs(self) -> None:
        await self.client.patch(NODES, Key("", "node1"), {"spec": {"podCIDR": POD_CIDRS[0], "podCIDRs": POD_CIDRS}})
        await self.until(lambda: self.node_is("True"))

    async def node_is(self, status: str) -> bool:
        node = await self.client.get(NODES, Key("", "node1"))
        return any(one["type"] == "Ready" and one["status"] == status for one in node["status"]["conditions"])

    async def until(self, what: Callable[[], Awaitable[object]], seconds: float = 15) -> object:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            if found := await what():
                return found
            await asyncio.sleep(0.02)
        raise TimeoutError

    async def create(self, name: str, *, container=None, init: str = "tini", **spec):
        one = {"name": "c", "image": "twinstack.dev/host", "command": ["sleep", "1000"], **(container or {})}
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": {"twinstack.dev/init": init}},
            "spec": {"nodeName": "node1", "containers": [one], "terminationGracePeriodSeconds": 5, **spec},
        }
        return await self.client.create(PODS, document)

    async def pod(self, name: str) -> dict:
        return await self.client.get(PODS, Key("default", name))

    async def until_pod(self, name: str, holds: Callable[[dict], object], seconds: float = 15) -> dict:
        pod: dict = {}

        async def look():
            nonlocal pod
            pod = await self.pod(name)
            return holds(pod["status"])

        await self.until(look, seconds)
        return pod

    async def delete(self, name: str, **options) -> None:
        await self.client.delete(PODS, Key("default", name), **options)

    async def until_gone(self, name: str) -> None:
        async def gone():
            try:
                await self.pod(name)
            except errors.NotFound:
                return True
            return False

        await self.until(gone)

    async def events(self, name: str) -> set[str]:
        listed = await self.client.list(EVENTS, "default")
        return {event["reason"] for event in listed["items"] if event["involvedObject"]["name"] == name}

    async def nothing_is_left(self) -> None:
        """The pods' objects are gone; what they had on the node follows at once."""

        async def clean():
            with Netlink() as kernel:
                links = [link.name for link in kernel.links() if link.name.startswith("ts")]
            return not (os.listdir(self.root / "pods") or os.listdir(self.netns_dir) or links)

        await self.until(clean)

    async def logs(self, pod: str, query: str = "", *, user: str = "kube-apiserver-kubelet-client") -> tuple[int, str]:
        pair = certificates.issue(self.authority, common_name=user, client=True) if user else None
        context = certificates.client_context(authorities=self.authority.certificate, pair=pair)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.get(f"https://[2001:db8::10]:10250/containerLogs/default/{pod}/c{query}") as response,
        ):
            return response.status, await response.text()


def running(status: dict) -> bool:
    return status.get("phase") == "Running" and any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))


@pytest.fixture
def world(tmp_path: Path, netns: str):
    """Runs a test's coroutine in a thread that stands in a namespace of its own, with an API server there."""

    def run_there(story: Callable[[World], Awaitable[None]]) -> None:
        failure: list[BaseException] = []

        def work() -> None:
            namespaces.enter(netns)
            try:
                asyncio.run(_tell(story, tmp_path))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]

    yield run_there
    for pid in namespaces.processes_in(netns):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for path in (tmp_path / "netns").glob("*"):
        namespaces.remove(str(path))


async def _tell(story: Callable[[World], Awaitable[None]], folder: Path) -> None:
    with Netlink() as kernel:
        kernel.change_link("lo", up=True)
        kernel.add_link("br0", "bridge", up=True)
        for address in NODE_IPS:
            kernel.add_address("br0", address, 24 if address.version == 4 else 64)
        kernel.commit()
    write_executable(str(folder / "bin"))
    authority = certificates.new_authority("test")
    served = certificates.issue(authority, common_name="kube-apiserver", addresses=["127.0.0.1"], server=True)
    for name, data in (("ca.crt", authority.certificate), ("api.crt", served.certificate), ("api.key", served.key)):
        (folder / name).write_bytes(data)
    (folder / "tokens").write_text(f'{TOKEN},admin,1,"system:masters"\n')
    settings = ServerSettings(
        data_dir=str(folder / "data"),
        bind_address="127.0.0.1",
        token_auth_file=str(folder / "tokens"),
        tls_cert_file=str(folder / "api.crt"),
        tls_private_key_file=str(folder / "api.key"),
        service_cluster_ip_range="10.96.0.0/16,fd00:96::/112",
        store="memory",
    )
    merge(folder / "kubeconfig", Entry(name="x", server="https://127.0.0.1:6443", authorities=authority.certificate, token=TOKEN))
    ready = asyncio.Event()
    server = asyncio.ensure_future(app.run(settings, ready=ready.set))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        connection: Connection = load(folder / "kubeconfig")
        async with Client(connection) as client:
            one = World(folder, client, authority)
            try:
                await one.start_agent()
                await story(one)
            finally:
                await one.stop_agent()
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


def test_a_node_registers_with_both_addresses_and_is_ready_once_it_has_a_network(world):
    async def story(w: World) -> None:
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
    async def story(w: World) -> None:
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
        assert {"Created", "Started", "Killing"} <= await w.events("web")

    world(story)


def test_pods_outlive_the_agent_and_are_found_again(world):
    async def story(w: World) -> None:
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
    async def story(w: World) -> None:
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
    async def story(w: World) -> None:
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
    async def story(w: World) -> None:
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
    async def story(w: World) -> None:
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
        await w.create("image", container={"image": "nginx"})
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
        assert "only twinstack.dev/host is" in image["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        await w.until_pod("hostport", waits("CreateContainerConfigError"))
        await w.until(lambda: _has(w, "crash", "BackOff"))
        await w.until(lambda: _has(w, "image", "Failed"))
        assert (await w.logs("crash", "?previous=true"))[0] == 200
        for name in ("init", "crash", "missing", "image", "hostport"):
            await w.delete(name)
        for name in ("init", "crash", "missing", "image", "hostport"):
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


async def _has(w: World, name: str, reason: str) -> bool:
    return reason in await w.events(name)


def test_a_container_that_fails_its_liveness_probe_is_restarted(world):
    async def story(w: World) -> None:
        await w.give_pod_cidrs()
        probe = {"exec": {"command": ["test", "!", "-e", "/tmp/broken"]}, "periodSeconds": 1, "failureThreshold": 1}
        await w.create("sick", container={"command": ["sh", "-c", "sleep 0.3; touch /tmp/broken; sleep 1000"], "livenessProbe": probe})
        pod = await w.until_pod("sick", lambda status: any(one["restartCount"] == 1 for one in status.get("containerStatuses", ())))
        assert pod["status"]["podIP"].startswith("10.244.7.")
        await w.until(lambda: _has(w, "sick", "Unhealthy"))

    world(story)


def test_a_pod_sees_configuration_and_the_nodes_network_where_it_asks(world):
    async def story(w: World) -> None:
        await w.give_pod_cidrs()
        client = w.client
        waiting = {"env": [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}
        script = "echo $V; cat /conf/k /secret/s; ls -l /secret/s | cut -c1-10; cat /info/labels; hostname; readlink /proc/self/ns/net"
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
    async def story(w: World) -> None:
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
    async def story(w: World) -> None:
        await w.give_pod_cidrs()
        await w.create("late", activeDeadlineSeconds=1)
        pod = await w.until_pod("late", lambda status: status.get("phase") == "Failed")
        assert pod["status"]["reason"] == "DeadlineExceeded"
        pods = [one async for one in _terminated(w, "late")]
        assert pods

    world(story)


async def _terminated(w: World, name: str):
    pod = await w.until_pod(name, lambda status: "terminated" in status["containerStatuses"][0]["state"])
    yield pod
