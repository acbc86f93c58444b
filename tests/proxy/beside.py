"""Beside a real firewalld and a real Docker daemon, each in the namespaces of this test's own.

Not collected by default, because installing either one's package starts it on the machine. Where both are installed:

    .venv/bin/pytest tests/proxy/beside.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.proxy.test_beside import Node, others
from twinstack.kernel import namespaces
from twinstack.net.family import FAMILIES

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>
"""


@contextmanager
def running(path: str, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a network namespace; ended with all it started."""
    with namespaces.entered(path):
        process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(holds, seconds: float = 60) -> None:
    """Wait for another program, which tells nobody when it is ready."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


def firewall(*arguments: str, bus: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["firewall-cmd", *arguments], env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus}, capture_output=True, text=True, check=False)


@pytest.fixture
def firewalld(lab, tmp_path):
    """A firewalld on the node whose interfaces are trusted; asks it with :func:`firewall`."""
    (tmp_path / "bus.conf").write_text(BUS.format(tmp_path / "bus"))
    bus = f"unix:path={tmp_path / 'bus'}"
    config = tmp_path / "config"
    for folder in ("zones", "services", "icmptypes", "ipsets", "helpers", "policies", "lockdown"):
        (config / folder).mkdir(parents=True)
    (config / "firewalld.conf").write_text("DefaultZone=trusted\nFirewallBackend=nftables\nCleanupOnExit=yes\nCleanupModulesOnExit=no\nIPv6_rpfilter=no\n")
    with ExitStack() as stack:
        stack.enter_context(running(lab.paths["node"], "dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork"))
        until((tmp_path / "bus").exists)
        flags = ("--nofork", "--nopid", f"--system-config={config}", f"--log-file={tmp_path / 'log'}")
        stack.enter_context(running(lab.paths["node"], "/usr/bin/python3", "/usr/sbin/firewalld", *flags, DBUS_SYSTEM_BUS_ADDRESS=bus))
        until(lambda: firewall("--state", bus=bus).stdout.strip() == "running")
        yield bus


async def test_firewalld(lab, firewalld):
    with ExitStack() as stack:
        before = others(lab.paths["node"])
        assert "inet firewalld" in before
        node = Node(lab, "node", stack)
        await node.endpoints("bc")
        node.works("bc")
        await node.endpoints("b")
        await node.write_whole()
        assert others(lab.paths["node"]) == before, "its tables are as they were"
        ours = "twinstack-proxy"
        assert firewall("--reload", bus=firewalld).returncode == 0
        assert node.ruleset.run("list tables\n").count(ours) == len(FAMILIES), "its reload leaves ours"
        node.works("b")
        assert firewall("--set-default-zone=drop", bus=firewalld).returncode == 0
        node.works("b")  # what was translated to an endpoint it lets pass in any zone; pods without a Service it would not
        for family in FAMILIES:
            assert lab.ask("a", "tcp", lab.ends[family].c, 8080, timeout=1)[0] != "c"
        assert firewall("--set-default-zone=trusted", bus=firewalld).returncode == 0
        node.works("b")


@pytest.fixture
def docker(lab, tmp_path):
    """A Docker daemon on the node; the folder of its socket."""
    root = Path("/tmp") / f"tst-{os.getpid()}-docker"
    flags = (
        f"--data-root={root}/data", f"--exec-root={root}/exec", f"--pidfile={root}/pid", f"--host=unix://{root}/socket", "--storage-driver=vfs",
        "--bip=172.29.0.1/24",
    )  # fmt: skip
    root.mkdir()
    try:
        with running(lab.paths["node"], "dockerd", *flags):
            until(lambda: ask_docker(root, "version").returncode == 0)
            yield root
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=False)


def ask_docker(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", "-H", f"unix://{root}/socket", *arguments], capture_output=True, text=True, check=False)


async def test_docker(lab, docker):
    with ExitStack() as stack:
        before = others(lab.paths["node"])
        assert "DOCKER" in before
        node = Node(lab, "node", stack)
        await node.endpoints("bc")
        node.works("bc")
        await node.endpoints("b")
        await node.write_whole()
        assert others(lab.paths["node"]) == before, "its rules are as they were"
        made = ask_docker(docker, "network", "create", "--subnet=172.29.1.0/24", "more")
        assert made.returncode == 0, made.stderr
        node.works("b")
        assert others(lab.paths["node"]) != before, "it has written its rules anew"
