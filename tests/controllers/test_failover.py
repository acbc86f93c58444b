"""Two controller managers as processes of their own: one works, and when it is killed the other goes on where it was."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.apiserver import app as apiserver
from twinstack.apiserver.settings import Settings
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection

PODS, LEASES, SETS = resource_of(kinds.Pod), resource_of(kinds.Lease), resource_of(kinds.ReplicaSet)
LEASE = Key("kube-system", "kube-controller-manager")
LEASE_SECONDS = 4.0
REPLICAS = 300


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A real API server, and a kubeconfig of it in the test's folder."""
    (tmp_path / "tokens").write_text("secret,admin,1,system:masters\n")
    listening, serving = socket.create_server(("127.0.0.1", 0)), asyncio.Event()
    url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    settings = Settings(
        data_dir=str(tmp_path / "data"),
        store="memory",
        sockets=(listening,),
        secure_port=0,
        token_auth_file=str(tmp_path / "tokens"),
        advertise_address="192.0.2.1",
        service_cluster_ip_range="10.96.0.0/16,fd00:10:96::/112",
    )
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x"} | config))
    (tmp_path / "data").mkdir()
    task = asyncio.create_task(apiserver.run(settings, ready=serving.set))
    async with asyncio.timeout(10):
        await serving.wait()
    try:
        async with Client(Connection(server=url, verify=False, token="secret")) as made:
            yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def started(stack: AsyncExitStack, path: Path) -> asyncio.subprocess.Process:
    """A controller manager with a short lease."""
    argv = [
        *("-m", "twinstack.cli.main", "kube-controller-manager", f"--kubeconfig={path / 'kubeconfig'}", "--secure-port=0"),
        *(f"--leader-elect-lease-duration={LEASE_SECONDS:g}s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=500ms"),
        "--controllers=replicaset-controller",
    ]
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, stderr=asyncio.subprocess.DEVNULL)

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    stack.push_async_callback(end)
    return process


async def holder(client: Client, *, other_than: str = "") -> str:
    """Wait for somebody (else) to hold the lease."""
    for _ in range(600):
        with suppress(errors.NotFound):
            found = (await client.get(LEASES, LEASE))["spec"].get("holderIdentity") or ""
            if found and found != other_than:
                return str(found)
        await asyncio.sleep(0.05)
    raise AssertionError("nobody holds the lease")


async def pods(client: Client) -> list[Document]:
    found: list[Document] = (await client.list(PODS, "default"))["items"]
    return found


async def counted(client: Client) -> int:
    """What the controller says in the end."""
    return int((await client.get(SETS, Key("default", "web")))["status"].get("replicas", 0))


@pytest.mark.slow
async def test_when_the_leader_is_killed_the_other_goes_on_within_the_lease_and_nothing_is_done_twice(client: Client, tmp_path: Path) -> None:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    async with AsyncExitStack() as stack:
        first = await started(stack, tmp_path)
        leader = await holder(client)
        await started(stack, tmp_path)
        spec = {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        await client.create(SETS, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
        made: list[Document] = []
        async with asyncio.timeout(60):
            while not made:  # in the middle of its work
                made = await pods(client)
        first.kill()
        await first.wait()
        killed = time.monotonic()
        assert await holder(client, other_than=leader) != leader
        # The other counts from when it saw the last renewal; it looks each half second, and this machine may be busy.
        assert time.monotonic() - killed < LEASE_SECONDS + 4
        async with asyncio.timeout(60):
            while len(await pods(client)) < REPLICAS or await counted(client) != REPLICAS:  # noqa: ASYNC110 - the server is asked, there is no event
                await asyncio.sleep(0.05)
        names = [one["metadata"]["name"] for one in await pods(client)]
        assert len(names) == REPLICAS, "not one more, and none was made and deleted again"
        assert {one["metadata"]["name"] for one in made} <= set(names)
