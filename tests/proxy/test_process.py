"""The program itself, in a node's namespace: it serves, rests when nothing changes, and cleans up after itself."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.proxy.foreign import Foreign
from tests.proxy.test_foreign import IPS, change, fill
from twinstack.dataplane.ruleset import Goto
from twinstack.kernel import namespaces, nftables
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.ruleset import TABLE

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

IDLE_SECONDS = 4.0
PROGRAM = (str(Path(sys.executable).with_name("twinstack")), "kube-proxy")


def processor_seconds(pid: int) -> float:
    """What a process has used; finer than the ticks of /proc/PID/stat (man 3 clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


def ticks(pid: int) -> int:
    """utime and stime of /proc/PID/stat, in hundredths of a second."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture
def node():
    path = f"/run/netns/tst-{os.getpid()}-px-whole"
    namespaces.create(path)
    yield path
    namespaces.remove(path)


async def run(path: str, *flags: str) -> asyncio.subprocess.Process:
    with namespaces.entered(path):
        return await asyncio.create_subprocess_exec(*PROGRAM, *flags, stderr=asyncio.subprocess.DEVNULL)


async def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for the kernel, which tells nobody that another process has changed it."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_it_serves_rests_and_cleans_up(node, tmp_path):
    server = Foreign()
    await fill(server, 200)
    with nftables.Nftables(node) as ruleset:
        done = await asyncio.create_subprocess_exec("ip", "-n", os.path.basename(node), "link", "set", "lo", "up")
        assert await done.wait() == 0
        listening = namespaces.socket_in(node, socket.AF_INET, socket.SOCK_STREAM)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        async with server.serving(listening=listening) as port:
            (tmp_path / "kubeconfig").write_bytes(msgspec.yaml.encode({
                "apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}], "users": [{"name": "x", "user": {}}],
            }))  # fmt: skip
            flags = (
                f"--kubeconfig={tmp_path}/kubeconfig", "--hostname-override=node1", "--min-sync-period=10ms", "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0", "--oom-score-adj=0",
            )  # fmt: skip
            process = await run(node, *flags)
            try:

                def picks(family: Family, number: int) -> object:
                    table = nftables.read_table(ruleset, family, TABLE)
                    return table and table.elements.get("services", {}).get((IPS[family][0].format(number), "tcp", 80))

                await until(lambda: all(picks(family, 200) == Goto("pick-2") for family in FAMILIES))
                await change(server, 7, 1, 2, 3)
                await until(lambda: all(picks(family, 7) == Goto("pick-3") for family in FAMILIES))
                await asyncio.sleep(1)  # what comes at the start only, such as its event
                used, before = processor_seconds(process.pid), ticks(process.pid)
                await asyncio.sleep(IDLE_SECONDS)
                assert processor_seconds(process.pid) - used < 0.01, "nothing changed"
                assert ticks(process.pid) - before <= 1
            finally:
                process.terminate()
                assert await process.wait() == 0
            assert all(picks(family, 7) == Goto("pick-3") for family in FAMILIES), "what it made outlives it"
            assert await (await run(node, "--cleanup")).wait() == 0
            assert all(nftables.read_table(ruleset, family, TABLE) is None for family in FAMILIES)
