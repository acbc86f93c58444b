"""Pods by the hundreds come and go while the agent of their node is killed: nothing of them is left over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from twinstack.api import errors
from twinstack.api.kinds import Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.kernel import cgroups
from twinstack.kernel.mounts import mounted_below
from twinstack.kernel.netlink import Netlink

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
PODS = resource_of(Pod)
MANY = 60


@pytest.mark.parametrize("families", ["IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4"])
def test_nothing_is_left_of_hundreds_of_pods_when_their_agent_is_killed_in_between(lab: Any, families: str) -> None:
    name = lab.name("leak" + families.replace(",", "").replace("IPv", ""))
    lab.up(name, "--nodes", "1", "--families", families)
    mark = f"{os.getpid()}.75"
    place = Path(f"/run/twinstack/{name}/node1")
    root = lab.home / "state" / "twinstack" / name / "nodes" / "node1" / "pods"

    def leftovers() -> dict[str, Any]:
        with Netlink(f"/run/netns/twinstack-{name}-node1") as kernel:
            links = [link.name for link in kernel.links() if link.name.startswith("ts")]
            routes = kernel.routes(protocol=85)
        networks = place / "cni" / "networks"
        addresses = [path.name for path in networks.glob("twinstack-*/*") if path.name != "lock" and not path.name.startswith("last")]
        ports = [str(path) for path in (networks / ".hostports").glob("*/*")]
        found = {"links": links, "routes": routes, "addresses": addresses, "ports": ports, "namespaces": os.listdir(place / "netns"), "pods": os.listdir(root)}
        found["processes"] = sleepers(mark)
        found["mounts"] = mounted_below(str(root))
        found["groups"] = [str(group) for group in groups(f"twinstack-{name}.") if group.name.startswith("pod")]
        return {what: left for what, left in found.items() if left}

    def kubelet() -> tuple[int, str]:
        """Its process and state, as the supervisor has written them down."""
        components = json.loads(Path(f"/run/twinstack/{name}/components.json").read_bytes())["components"]
        return next((one["pid"], one["state"]) for one in components if one["name"] == "node1/kubelet")

    async def story() -> None:
        async with Client(kubeconfig.load(str(lab.kubeconfig)), user_agent="test") as client:

            async def create(number: int) -> None:
                container: dict[str, Any] = {"name": "c", "image": "twinstack.dev/host", "command": ["/bin/sleep", mark]}
                if number % 10 == 0:
                    container["ports"] = [{"containerPort": 80, "hostPort": 20000 + number}]
                if number % 5 == 0:
                    container["resources"] = {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "1m", "memory": "1Mi"}}
                volumes = [{"name": "v", "emptyDir": {"medium": "Memory" if number % 3 == 0 else ""}}]
                container["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
                spec = {"nodeName": "node1", "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes}
                await client.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}", "namespace": "default"}, "spec": spec})

            async def delete(number: int) -> None:
                with contextlib.suppress(errors.NotFound):
                    await client.delete(PODS, Key("default", f"p{number}"))

            async def kill() -> None:
                await asyncio.sleep(random.uniform(0.1, 0.7))
                killed, _ = kubelet()
                os.kill(killed, signal.SIGKILL)
                for _ in range(1000):
                    await asyncio.sleep(0.01)
                    if kubelet()[0] != killed and kubelet()[1] == "running":
                        return

            async def some(work: Any, numbers: range) -> None:
                for start in range(numbers.start, numbers.stop, 16):
                    await asyncio.gather(*(work(number) for number in range(start, min(start + 16, numbers.stop))))

            for half in (range(MANY // 2), range(MANY // 2, MANY)):
                await asyncio.gather(some(create, half), kill())
            for _ in range(300):
                if len(sleepers(mark)) == MANY:
                    break
                await asyncio.sleep(0.1)
            assert len(sleepers(mark)) == MANY
            held = leftovers()
            assert len(held["addresses"]) == MANY * len(families.split(","))
            assert len(held["mounts"]) == MANY // 3 and len(held["ports"]) == MANY // 10
            await asyncio.gather(some(delete, range(MANY * 2 // 3)), kill())
            await some(delete, range(MANY * 2 // 3, MANY))
            await kill()
            for _ in range(300):
                if not (await client.list(PODS, "default"))["items"] and not leftovers():
                    return
                await asyncio.sleep(0.1)

    asyncio.run(story())
    assert leftovers() == {}
    lab.down(name)
    assert lab.remains(name) == {}
    assert groups(f"twinstack-{name}.") == []


def groups(prefix: str) -> list[Path]:
    """The control groups of this machine below those whose name begins so, and these themselves."""
    tops = [Path(folder, one) for root in cgroups.find() for folder, names, _ in os.walk(root) for one in names if one.startswith(prefix)]
    return tops + [Path(folder, one) for top in tops for folder, names, _ in os.walk(top) for one in names]


def sleepers(mark: str) -> list[int]:
    """The processes that sleep for so long."""
    wanted = b"\0".join([b"/bin/sleep", mark.encode(), b""])
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if Path(f"/proc/{entry}/cmdline").read_bytes() == wanted:
                    found.append(int(entry))
            except OSError:
                continue
    return found
