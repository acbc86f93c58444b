"""Two load balancers as processes of their own: one gives addresses out, and when it is killed the other goes on, moves nobody and gives nothing twice."""

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
from twinstack.lb.lb import LOCK
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

SERVICES, LEASES = resource_of(kinds.Service), resource_of(kinds.Lease)
POOLS = "pools: [{name: p, addresses: [198.51.100.0/24, '2001:db8:1::/120']}]\n"
LEASE_SECONDS = 6.0
BEFORE, AFTER = 30, 10  # Services that are there when the leader is killed, and that come while nobody leads


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A real API server; a kubeconfig of it and a file of pools in the test's folder."""
    (tmp_path / "tokens").write_text("secret,admin,1,system:masters\n")
    (tmp_path / "pools.yaml").write_text(POOLS)
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


async def started(stack: AsyncExitStack, path: Path, node: str) -> asyncio.subprocess.Process:
    """A load balancer of a node that is not there, so that it answers for nothing and only gives out."""
    argv = [
        *("-m", "twinstack.cli.main", "load-balancer", f"--kubeconfig={path / 'kubeconfig'}", f"--config={path / 'pools.yaml'}"),
        *(f"--hostname-override={node}", f"--run-dir={path / node}", "--health-port=-1", "--interface=lo"),
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
    async with asyncio.timeout(30):
        while True:
            with suppress(errors.NotFound):
                found = (await client.get(LEASES, LOCK))["spec"].get("holderIdentity") or ""
                if found and found != other_than:
                    return str(found)
            await asyncio.sleep(0.05)


async def create(client: Client, numbers: range) -> None:
    for number in numbers:
        spec = {"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}
        await client.create(SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": f"s{number}"}, "spec": spec})


def addresses(service: Document) -> list[str]:
    return [one["ip"] for one in service["status"]["loadBalancer"].get("ingress") or ()]


async def served(client: Client, count: int) -> dict[str, list[str]]:
    """Wait until so many Services have addresses; those of each that has."""
    async with asyncio.timeout(60):
        while True:
            found = {one["metadata"]["name"]: addresses(one) for one in (await client.list(SERVICES, "default"))["items"]}
            there = {name: texts for name, texts in found.items() if texts}
            if len(there) >= count:
                return there
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.kernel
async def test_when_the_leader_is_killed_the_other_gives_addresses_out_moves_nobody_and_gives_none_twice(client: Client, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first = await started(stack, tmp_path, "node1")
        leader = await holder(client)
        second = await started(stack, tmp_path, "node2")
        await create(client, range(BEFORE))
        before = await served(client, 3)  # in the middle of its work
        first.kill()
        await first.wait()
        killed = time.monotonic()
        await create(client, range(BEFORE, BEFORE + AFTER))
        await client.delete(SERVICES, Key("default", "s0"))  # waits for the finalizer, if it was served
        assert await holder(client, other_than=leader) != leader
        assert time.monotonic() - killed < LEASE_SECONDS + 6, "it looks every two seconds, and this machine may be busy"
        after = await served(client, BEFORE + AFTER - 1)
        async with asyncio.timeout(30):
            while "s0" in after:
                await asyncio.sleep(0.05)
                after = await served(client, BEFORE + AFTER - 1)
        assert {name: after[name] for name in before if name != "s0"} == {name: texts for name, texts in before.items() if name != "s0"}
        assert all([Family.of(parse_address(text)) for text in texts] == list(FAMILIES) for texts in after.values())
        every = [text for texts in after.values() for text in texts]
        assert len(every) == len(set(every)) == 2 * (BEFORE + AFTER - 1)
        assert second.returncode is None
