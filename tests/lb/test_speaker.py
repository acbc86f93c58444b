"""What keeps a node from telling routers is told to who looks; what it does with a real BIRD is tried in whole clusters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from twinstack.api.kinds import ConfigMap, Node
from twinstack.api.objects import Key, view_of
from twinstack.controllers.loadbalancers import CONFIG
from twinstack.kernel import bird
from twinstack.lb.configuration import InForce
from twinstack.lb.settings import Settings
from twinstack.lb.speaker import Speaker

POOLS = "{pools: [{name: r, addresses: ['fd00::/126'], announce: bgp}], peers: [{peerAddress: 'fd01::1', peerASN: 1, myASN: 2}]}"


class Paper:
    """The objects of a cluster, which never change."""

    def __init__(self, *objects: Any) -> None:
        self.objects = objects

    def list(self, view: Any) -> list[Any]:
        return [one for one in self.objects if isinstance(one, view)]

    def get(self, view: Any, key: Key) -> Any:
        return next((one for one in self.list(view) if Key(one.metadata.namespace, one.metadata.name) == key), None)

    def labelled(self, *_: str) -> list[Any]:
        return []

    def subscribe(self, view: Any, callback: Any) -> Any:
        for one in self.list(view):
            callback(None, one)
        return lambda: None


async def test_a_config_map_that_needs_bird_where_there_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bird, "_DIRECTORIES", str(tmp_path))
    node = view_of(Node, {"metadata": {"name": "a"}, "status": {"addresses": [{"type": "InternalIP", "address": "fd01::2"}]}})
    config = view_of(ConfigMap, {"metadata": {"namespace": CONFIG.namespace, "name": CONFIG.name}, "data": {"config.yaml": POOLS}})
    settings, world = Settings(hostname_override="a", run_dir=str(tmp_path / "run")), Paper(node, config)
    speaker = Speaker(settings, world, InForce(settings, world))  # type: ignore[arg-type]
    speaking = asyncio.create_task(speaker.run())
    async with asyncio.timeout(10):
        while True:
            await asyncio.sleep(0)  # others have their turn
            if speaker.wrong:
                break
    assert speaker.wrong == "run bird: it is not installed; the package bird2 has it" and speaker.told == frozenset()
    speaking.cancel()
    assert (await asyncio.gather(speaking, return_exceptions=True)) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [0, 30])
async def test_a_bird_that_may_come_back_is_told_to_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """A program in BIRD's place notes how it was called, and ends."""
    said, program = tmp_path / "said", tmp_path / "bird"
    program.write_text(f'#!/bin/sh\necho " $*" >> {said}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    node = view_of(Node, {"metadata": {"name": "a"}, "status": {"addresses": [{"type": "InternalIP", "address": "fd01::2"}]}})
    pools = POOLS.replace("myASN: 2", f"myASN: 2, gracefulRestartSeconds: {seconds}")
    config = view_of(ConfigMap, {"metadata": {"namespace": CONFIG.namespace, "name": CONFIG.name}, "data": {"config.yaml": pools}})
    settings, world = Settings(hostname_override="a", run_dir=str(tmp_path / "run")), Paper(node, config)
    speaker = Speaker(settings, world, InForce(settings, world))  # type: ignore[arg-type]
    speaking = asyncio.create_task(speaker.run())
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0)  # others have their turn
            if speaker.wrong:
                break
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    assert "it ended or does not answer" in speaker.wrong
    (begun,) = (line for line in said.read_text().splitlines() if " -f " in line)
    assert (" -R " in begun) is (seconds > 0)
