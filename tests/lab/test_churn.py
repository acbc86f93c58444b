"""Pods that come and go while the node's programs are killed: nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import cgroups, namespaces, processes
from twinstack.kernel.netlink import Netlink

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
PODS, ROUNDS = 25, 2
MARK = "987654321"


def until(what: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def pod(name: str) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": "twinstack.dev/host",
        "command": ["sh", "-c", f"sleep {MARK} & exec sleep {MARK}"],
        "resources": {"limits": {"memory": "64Mi", "cpu": "100m"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }
    volumes = [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0, "nodeName": "node1"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": "churn"}}, "spec": spec}


def test_nothing_is_left_of_pods_whose_node_was_killed_again_and_again(lab: Any) -> None:
    name = lab.name("churn")
    lab.up(name, "--nodes", "1")

    def kubectl(*words: str, text: str = "") -> str:
        command = ["kubectl", "--context", f"twinstack-{name}", *words]
        return subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=True, timeout=90, input=text).stdout

    def phases() -> list[str]:
        return kubectl("get", "pods", "-l", "app=churn", "-o", "jsonpath={.items[*].status.phase}").split()

    def links() -> list[str]:
        with namespaces.entered(f"/run/netns/twinstack-{name}-node1"), Netlink() as kernel:
            return [link.name for link in kernel.links()]

    def kill_node() -> None:
        found: list[int] = []
        until(lambda: found.append(lab.pid_of(name, "node1/kubelet")) or found[-1])  # while it is being started again, it has none
        os.kill(found[-1], signal.SIGKILL)

    before = links()
    for number in range(ROUNDS):
        items = [pod(f"churn-{number}-{one}") for one in range(PODS)]
        kubectl("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        kill_node()  # while they are being made
        until(lambda: phases().count("Running") >= PODS // 2)
        kubectl("delete", "pods", "-l", "app=churn", "--wait=false")
        kill_node()  # while they are being ended
        until(lambda: not phases())
    state = Path(lab.home / "state" / "twinstack" / name)
    runtime = Path(f"/run/twinstack/{name}")

    def left() -> dict[str, Any]:
        found = {
            "namespaces": os.listdir(runtime / "node1" / "netns"),
            "links": [link for link in links() if link not in before],
            "directories": os.listdir(state / "nodes" / "node1" / "pods"),
            "processes": [pid for pid in processes.marked("TWINSTACK_CLUSTER", name) if MARK in Path(f"/proc/{pid}/cmdline").read_text()],
            "addresses": [one for _, _, names in os.walk(runtime / "node1" / "cni" / "networks") for one in names if one[:1].isdigit()],
            "groups": [f"{folder}/{one}" for root in cgroups.find() for folder, names, _ in os.walk(root) if f"twinstack-{name}." in folder for one in names],
        }
        return {what: those for what, those in found.items() if those}

    until(lambda: not left(), 15)
    lab.down(name)
    assert lab.remains(name) == {}
