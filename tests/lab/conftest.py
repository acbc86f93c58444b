"""Clusters of a test's own, brought up and down by the command line, with everything of the user's in a temporary place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import processes
from twinstack.kernel.mounts import mounted_below


class Lab:
    """A user's machine: their kubeconfig and state directory, and the program."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.kubeconfig = home / "kube" / "config"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "KUBECONFIG": str(self.kubeconfig),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        self.made: list[str] = []

    def name(self, suffix: str = "a") -> str:
        name = f"tst{os.getpid()}-{suffix}"
        self.made.append(name)
        return name

    def twinstack(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "twinstack.cli.main", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=90, **more)

    def up(self, name: str, *words: str) -> dict[str, Any]:
        done = self.twinstack("up", "--name", name, "-o", "json", *words)
        assert done.returncode == 0, done.stderr + self.logs(name)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def logs(self, name: str) -> str:
        return "\n".join(f"== {path}\n{path.read_text()[-2000:]}" for path in sorted((self.home / "state" / "twinstack" / name).rglob("*.log")))

    def down(self, name: str) -> str:
        done = self.twinstack("down", "--name", name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kubectl(self, name: str, *words: str) -> Any:
        command = ["kubectl", "--context", f"twinstack-{name}", *words, "-o", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def status(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.twinstack("status", "--name", name, "-o", "json").stdout)
        return document

    def pid_of(self, name: str, component: str) -> int:
        return next(one["pid"] for one in self.status(name)["components"] if one["name"] == component)

    def remains(self, name: str) -> dict[str, Any]:
        """What of a cluster is left on the machine."""
        found = {
            "namespaces": [entry for entry in (os.listdir("/run/netns") if os.path.isdir("/run/netns") else []) if f"-{name}-" in entry],
            "processes": processes.marked("TWINSTACK_CLUSTER", name),
            "mounts": mounted_below(f"/run/twinstack/{name}") + mounted_below(str(self.home)),
            "files": [path for path in (f"/run/twinstack/{name}", self.home / "state" / "twinstack" / name) if os.path.exists(path)],
            "context": f"twinstack-{name}" if self.kubeconfig.exists() and f"twinstack-{name}" in self.kubeconfig.read_text() else "",
        }
        return {what: left for what, left in found.items() if left}


def host() -> dict[str, str]:
    """What belongs to the host alone: its links, addresses, routes and rules."""
    commands = ("ip -o link", "ip -o address", "ip route show table all", "ip -6 route show table all", "nft list ruleset", "sysctl net.ipv4.ip_forward")
    return {command: subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout for command in commands}


@pytest.fixture
def host_state() -> Callable[[], dict[str, str]]:
    return host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    for name in made.made:
        made.twinstack("down", "--name", name)
