"""Namespaces, a container runtime and a whole node for the agent's tests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import secrets
import signal
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from twinstack.agent import agent
from twinstack.agent.containers.base import Launch
from twinstack.agent.containers.process import ProcessRuntime
from twinstack.agent.settings import Settings
from twinstack.api import errors
from twinstack.api.kinds import Event, Node, Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.apiserver import app
from twinstack.apiserver.settings import Settings as ServerSettings
from twinstack.client import certificates
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection, Entry, load, merge
from twinstack.cni.executable import write_executable
from twinstack.kernel import cgroups, namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import parse_address

TOKEN = "a-token-for-tests"
NODE_IPS = tuple(map(parse_address, ("192.0.2.10", "2001:db8::10")))
POD_CIDRS = ["10.244.7.0/24", "fd00:10:244:7::/64"]
PODS, NODES, EVENTS = resource_of(Pod), resource_of(Node), resource_of(Event)


@pytest.fixture
def netns() -> Iterator[str]:
    """The path of a fresh network namespace."""
    path = f"/run/netns/tst-{secrets.token_hex(4)}"
    namespaces.create(path)
    try:
        yield path
    finally:
        namespaces.remove(path)


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ProcessRuntime]:
    """A runtime with a spawner of its own, which is ended afterwards with all its containers."""
    root = tmp_path / "root"
    made = ProcessRuntime(root)
    async with made:
        try:
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(made._spawner_pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                await asyncio.to_thread(os.waitpid, made._spawner_pid, 0)


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launch]:
    """Builds a container's description from a shell script and what differs from the usual."""

    def build(script: str, **changed: object) -> Launch:
        identifier = str(changed.pop("id", secrets.token_hex(8)))
        values: dict[str, object] = {
            "id": identifier,
            "pod": "pod-1",
            "labels": {"name": "c"},
            "argv": ["/bin/sh", "-c", script],
            "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            "hostname": "web-0",
            "log": str(tmp_path / f"{identifier}.log"),
        }
        return Launch(**(values | changed))  # type: ignore[arg-type]

    return build


# ---- Images


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Builds a Docker archive of layers, each a list of (tar member, content), and an image's configuration."""

    def build(layers: list[list[tuple[tarfile.TarInfo, bytes]]], config: dict | None = None, *, name: str = "twinstack.local/test:1") -> Path:
        files: dict[str, bytes] = {}
        diff_ids = []
        for number, members in enumerate(layers):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w") as tar:
                for member, content in members:
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            files[f"{number}/layer.tar"] = data.getvalue()
            diff_ids.append(f"sha256:{hashlib.sha256(data.getvalue()).hexdigest()}")
        described = {"architecture": "amd64", "os": "linux", "config": config or {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": list(files)}]
        files |= {"config.json": json.dumps(described).encode(), "manifest.json": json.dumps(manifest).encode()}
        path = tmp_path / f"{secrets.token_hex(4)}.tar"
        with tarfile.open(path, "w") as tar:
            for file, content in files.items():
                member = tarfile.TarInfo(file)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return build


@pytest.fixture
def busybox(archive: Callable[..., Path]) -> Callable[..., Path]:
    """Builds an image of Debian's busybox-static, with a user 1000 named app, and what is given of a configuration."""

    def build(config: dict | None = None, *, name: str = "twinstack.local/busybox:1") -> Path:
        program = Path("/bin/busybox").read_bytes()
        members = []
        for folder in ("bin", "etc", "tmp", "home", "home/app"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            members.append((member, b""))
        for file, content, mode in (
            ("bin/busybox", program, 0o755),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n", 0o644),
            ("etc/group", b"root:x:0:\napp:x:1001:\nextra:x:1005:app\n", 0o644),
            ("etc/flavour", b"from the image\n", 0o644),
        ):
            member = tarfile.TarInfo(file)
            member.mode = mode
            members.append((member, content))
        for applet in ("sh", "cat", "echo", "sleep", "id", "env", "pwd", "hostname", "ls", "httpd", "wget", "touch", "mknod", "grep", "true", "kill", "ps"):
            member = tarfile.TarInfo(f"bin/{applet}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            members.append((member, b""))
        return archive([members], {"Env": ["PATH=/bin", "FLAVOUR=vanilla"], "Cmd": ["/bin/sh"], **(config or {})}, name=name)

    return build


# ---- A whole node


class World:
    """An API server and a client; agents come and go."""

    def __init__(self, folder: Path, client: Client, authority: certificates.Authority) -> None:
        self.folder, self.client, self.authority = folder, client, authority
        self.root = folder / "root"
        self.netns_dir = folder / "netns"
        self._agent: asyncio.Task[None] | None = None

    async def start_agent(self, **changed: object) -> None:
        served = certificates.issue(self.authority, common_name="node1", addresses=NODE_IPS, server=True)
        files = {"ca": self.authority.certificate, "crt": served.certificate, "key": served.key}
        for name, data in files.items():
            (self.folder / f"kubelet.{name}").write_bytes(data)
        values: dict[str, object] = {
            "kubeconfig": self.folder / "kubeconfig",
            "node_name": "node1",
            "node_ips": NODE_IPS,
            "root_dir": self.root,
            "netns_dir": self.netns_dir,
            "cni_conf_dir": self.folder / "cni",
            "cni_bin_dirs": (self.folder / "bin",),
            "cni_data_dir": self.folder / "ipam",
            "image_dir": self.folder / "images",
            "write_cni_config": True,
            "client_ca_file": self.folder / "kubelet.ca",
            "tls_cert_file": self.folder / "kubelet.crt",
            "tls_key_file": self.folder / "kubelet.key",
            "labels": (("zone", "a"),),
            "eviction_hard": (),  # however full the disk of this machine is
        }
        settings = Settings(**(values | changed))  # type: ignore[arg-type]
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

    async def create(self, name: str, *, container=None, init: str = "tini", annotations=None, **spec):
        one = {"name": "c", "image": "twinstack.dev/host", "command": ["sleep", "1000"], **(container or {})}
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": {"twinstack.dev/init": init, **(annotations or {})}},
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
    assert not cgroups.remove_named(Settings(root_dir=tmp_path / "root").control_group, seconds=10)


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
