"""Namespaces and a container runtime for the agent's tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from twinstack.agent.containers.base import Launch
from twinstack.agent.containers.process import ProcessRuntime
from twinstack.kernel import namespaces


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
