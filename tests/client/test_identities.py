"""Controllers that write as ServiceAccounts of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Create, Delete
from twinstack.apiserver import app
from twinstack.apiserver.settings import Settings
from twinstack.client.client import Client
from twinstack.client.identities import NAMESPACE, RENEW_SECONDS, Identity
from twinstack.client.kube_controller_manager import CONTROLLERS
from twinstack.client.kubeconfig import Connection
from twinstack.loops.clock import SystemClock
from twinstack.rules import controller_roles

_PODS, _ACCOUNTS, _SLICES, _MAPS = map(resource_of, (kinds.Pod, kinds.ServiceAccount, kinds.EndpointSlice, kinds.ConfigMap))


class Clock(SystemClock):
    """Sleeps are noted; they end when somebody says so."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.wake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self.wake.wait()
        self.wake.clear()


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A real server that decides by RBAC, as the kube-controller-manager."""
    (tmp_path / "tokens").write_text("manager,system:kube-controller-manager,1\nroot,root,2,system:masters\n")
    listening, serving = socket.create_server(("127.0.0.1", 0)), asyncio.Event()
    port = listening.getsockname()[1]
    settings = Settings(
        data_dir=str(tmp_path),
        store="memory",
        secure_port=0,
        sockets=(listening,),
        token_auth_file=str(tmp_path / "tokens"),
        authorization_mode="RBAC",
        endpoint_reconciler_type="none",
    )
    task = asyncio.create_task(app.run(settings, ready=serving.set))
    try:
        async with asyncio.timeout(20):
            await serving.wait()
        yield Connection(server=f"https://127.0.0.1:{port}", token="manager", verify=False)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def clients(connection: Connection) -> AsyncIterator[tuple[Client, Client, Client]]:
    """As the manager, as nobody, as root."""
    bare, root = (msgspec.structs.replace(connection, token=token) for token in ("", "root"))
    async with Client(connection) as own, Client(bare) as shared, Client(root) as admin:
        yield own, shared, admin


def pod(name: str) -> Document:
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def endpoint_slice(name: str) -> Document:
    metadata = {"name": name, "namespace": "default"}
    return {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata, "addressType": "IPv4", "endpoints": []}


async def test_an_identity_makes_its_account_and_may_what_its_role_gives_and_nothing_else(clients: Any) -> None:
    own, shared, admin = clients
    identity = Identity("endpointslice-controller", own, shared, SystemClock())
    await identity.begin()
    assert (await admin.get(_ACCOUNTS, Key(NAMESPACE, identity.name)))["metadata"]["uid"]
    await identity.perform(Create(_SLICES, endpoint_slice("a")))
    await identity.perform(Delete(_SLICES, Key("default", "a")))
    with pytest.raises(errors.Forbidden, match="system:serviceaccount:kube-system:endpointslice-controller"):
        await identity.perform(Create(_PODS, pod("a")))
    with pytest.raises(errors.Forbidden):
        await own.perform(Create(_SLICES, endpoint_slice("b")))
    with pytest.raises(errors.Unauthorized):
        await shared.perform(Create(_SLICES, endpoint_slice("b")))


async def test_identities_share_connections_and_not_what_they_may(clients: Any) -> None:
    own, shared, _ = clients
    slices, sets = (Identity(name, own, shared, SystemClock()) for name in ("endpointslice-controller", "replicaset-controller"))
    await asyncio.gather(slices.begin(), sets.begin())
    for number in range(3):
        await slices.perform(Create(_SLICES, endpoint_slice(f"s{number}")))
        await sets.perform(Create(_PODS, pod(f"p{number}")))
        with pytest.raises(errors.Forbidden):
            await sets.perform(Delete(_SLICES, Key("default", f"s{number}")))


async def test_an_account_that_is_made_anew_costs_one_more_request(clients: Any) -> None:
    own, shared, admin = clients
    identity = Identity("replicaset-controller", own, shared, SystemClock())
    await identity.begin()
    await admin.delete(_ACCOUNTS, Key(NAMESPACE, identity.name))
    await asyncio.gather(*(identity.perform(Create(_PODS, pod(f"p{number}"))) for number in range(5)))
    assert len((await admin.list(_PODS, "default"))["items"]) == 5


async def test_a_token_is_renewed_before_it_ends(clients: Any) -> None:
    own, shared, _ = clients
    clock = Clock()
    identity = Identity("replicaset-controller", own, shared, clock)
    await identity.begin()
    tokens = {identity._token}
    keeping = asyncio.create_task(identity.keep())
    async with asyncio.timeout(20):
        for _ in range(3):
            assert await clock.asked.get() == RENEW_SECONDS < 3600
            tokens.add(identity._token)
            clock.wake.set()
        await clock.asked.get()
    keeping.cancel()
    assert len(tokens) == 3
    await identity.perform(Create(_PODS, pod("a")))


async def test_nobody_gets_a_token_of_an_account_that_is_no_controller(clients: Any) -> None:
    own, shared, admin = clients
    await admin.create(_ACCOUNTS, {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "powerful", "namespace": NAMESPACE}})
    with pytest.raises(errors.Forbidden):
        await Identity("powerful", own, shared, SystemClock()).begin()


def test_every_controller_has_an_account_with_a_role() -> None:
    assert {row.account or name for name, row in CONTROLLERS.items()} <= {*controller_roles.CONTROLLERS, *controller_roles.CONFINED}
