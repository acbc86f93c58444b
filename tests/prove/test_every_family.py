"""The demo on real clusters of all four families, and that it notices when something is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import namespaces

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]

NAME = f"tst-d{os.getpid()}"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """The command line, with a state directory and a kubeconfig of its own; the cluster is removed at the end."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "kubeconfig")}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "twinstack.cli.main", arguments[0], f"--name={NAME}", *arguments[1:]]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)

    try:
        yield command
    finally:
        command("down")


def demo(run: Run, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = run("demo", "-o", "json", *arguments)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.mark.parametrize("families", ["IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4"])
def test_every_path_of_a_cluster_works(run: Run, families: str) -> None:
    booted = run("up", f"--families={families}")
    assert booted.returncode == 0, booted.stderr
    status, found, told = demo(run)
    assert status == 0 and found["works"], told
    cells = [(row["path"], family, cell["state"]) for row in found["rows"] for family, cell in row["cells"].items()]
    assert {family for _, family, _ in cells} == set(families.split(","))
    tried = {path for path, _, state in cells if state == "works"}
    assert len(tried) == 12, "every way was tried"
    refused = {row["what"].split()[0] for row in found["rows"] if row["path"] == "Service refused"}
    assert len(refused) == (0 if "," in families else 3)


def test_a_path_that_is_broken_in_one_family_is_noticed(run: Run) -> None:
    assert run("up", "--nodes=1").returncode == 0
    with namespaces.entered(f"/run/netns/twinstack-{NAME}-node1"):
        # pods go outside under their own addresses, to which there is no way back; masquerading all else goes on
        subprocess.run(["nft", "insert", "rule", "ip6", "twinstack-masq", "nat-postrouting", "ip6", "daddr", "2001:db8::/32", "accept"], check=True)
    status, found, told = demo(run, "--settle=1")
    assert status == 1 and not found["works"]
    broken = [(row["path"], family) for row in found["rows"] for family, cell in row["cells"].items() if cell["state"] == "fails"]
    assert broken == [("pod → outside", "IPv6")]
    assert "pod → outside, masqueraded as its node, IPv6: " in told and "no answer within 3 s" in told
