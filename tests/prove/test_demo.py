"""The demo: what it applies, and which refusals of the real API server it takes for right."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from twinstack.api import kinds
from twinstack.api.resources import resource_of
from twinstack.apiserver import app as apiserver
from twinstack.apiserver.settings import Settings
from twinstack.cli import demo as command
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection
from twinstack.client.manifests import read_folder
from twinstack.net.family import Family
from twinstack.prove.matrix import State, plan
from twinstack.prove.sight import NotReady, look, sight_of, wait_until_ready

F4, F6 = Family.IPV4, Family.IPV6
RANGES = {F4: "10.96.0.0/16", F6: "fd00:10:96::/112"}


@asynccontextmanager
async def served(families: tuple[Family, ...], folder: Path) -> AsyncIterator[Client]:
    """A real API server of these families."""
    (folder / "tokens").write_text("secret,admin,1,system:masters\n")
    listening, serving = socket.create_server(("127.0.0.1", 0)), asyncio.Event()
    settings = Settings(
        data_dir=str(folder),
        store="memory",
        secure_port=0,
        sockets=(listening,),
        token_auth_file=str(folder / "tokens"),
        advertise_address="192.0.2.1" if families[0] is F4 else "2001:db8::1",
        service_cluster_ip_range=",".join(RANGES[family] for family in families),
    )
    port = listening.getsockname()[1]
    task = asyncio.create_task(apiserver.run(settings, ready=serving.set))
    try:
        async with asyncio.timeout(10):
            await serving.wait()
        async with Client(Connection(server=f"https://127.0.0.1:{port}", token="secret", verify=False)) as client:
            yield client
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    "families, refused",
    [
        pytest.param((F4,), {"single-ipv6", "require-dual-ipv4-first", "require-dual-ipv6-first"}, id="IPv4"),
        pytest.param((F6,), {"single-ipv4", "require-dual-ipv4-first", "require-dual-ipv6-first"}, id="IPv6"),
        pytest.param((F4, F6), set(), id="IPv4,IPv6"),
        pytest.param((F6, F4), set(), id="IPv6,IPv4"),
    ],
)
async def test_the_examples_are_applied_and_the_right_ones_refused(
    paper: Callable[..., Any], tmp_path: Path, families: tuple[Family, ...], refused: set[str]
) -> None:
    layout = paper(*families).layout
    told: list[str] = []
    async with served(families, tmp_path) as client:
        replicas, refusals, wanted = await command._apply(client, read_folder(command.EXAMPLES), layout, told.append)
        assert set(refusals) == refused and replicas == {"web": 4, "alone": 1}
        again = await command._apply(client, read_folder(command.EXAMPLES), layout, told.append)
        assert (set(again[1]), again[0]) == (refused, replicas)
        seen = await look(client, "demo")
        sight = sight_of(seen, layout, many="web", alone="alone", outside_port=1, pod_port=8080, refusals=refusals, wanted=wanted)
        verdicts = {path.verdict.state for path in plan(sight) if path.verdict is not None}
        assert verdicts == ({State.REFUSED} if refused else set())
        assert len(sight.services) == 9 - len(refused)
        with pytest.raises(NotReady, match="Deployment web has 0 of 4 pods ready; Deployment alone has 0 of 1 pods ready"):
            await wait_until_ready(client, "demo", replicas, timeout_seconds=0)
        await command._clean_up(client, told.append)
        namespaces = (await client.list(resource_of(kinds.Namespace)))["items"]
        assert all(one["metadata"]["name"] != "demo" or one["metadata"].get("deletionTimestamp") for one in namespaces)


async def test_more_nodes_get_more_pods_so_that_two_share_one(paper: Callable[..., Any], tmp_path: Path) -> None:
    layout = paper(F4, F6).layout
    layout = layout._replace(nodes=layout.nodes * 3)
    async with served((F4, F6), tmp_path) as client:
        replicas, _, _ = await command._apply(client, read_folder(command.EXAMPLES), layout, lambda text: None)
    assert replicas == {"web": 10, "alone": 1}


def test_without_a_cluster_the_demo_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(command.DemoError, match="`twinstack up --name=tst-none` boots one"):
        CliRunner().invoke(command.demo, ["--name=tst-none"], catch_exceptions=False)


def test_the_outputs_are_those_that_are_named() -> None:
    result = CliRunner().invoke(command.demo, ["-o", "nonsense"])
    assert result.exit_code == 2 and json.dumps("table")[1:-1] in result.output
