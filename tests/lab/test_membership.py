"""Nodes that join a cluster while it runs, and leave it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest

from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
SERVER = (
    "import socket\nl = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True)\n"
    "while True:\n c, _ = l.accept(); c.recv(4096); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nhello'); c.close()"
)


@pytest.mark.parametrize("network", ["direct", "vxlan"])
def test_a_node_joins_its_pods_are_reached_and_it_leaves(lab: Any, network: str) -> None:
    name = lab.name("join")
    assert lab.twinstack("up", "--name", name, "--nodes", "1", "--network", network).returncode == 0
    added = lab.twinstack("node", "add", "--name", name)
    assert added.stdout.startswith("node2 is ready"), added.stderr
    assert lab.status(name)["healthy"]

    def kubectl(*words: str, stdin: str = "") -> str:
        done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, env=lab.environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    container = {"name": "c", "image": "twinstack.dev/host", "command": ["/usr/bin/python3", "-c", SERVER]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"nodeName": "node2", "containers": [container]}}
    kubectl("create", "-f", "-", stdin=json.dumps(pod))
    kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=20s")
    for one in json.loads(kubectl("get", "pod", "web", "-o", "jsonpath={.status.podIPs}")):
        url = f"http://[{one['ip']}]:8080/" if ":" in one["ip"] else f"http://{one['ip']}:8080/"
        fetch = ["/usr/bin/python3", "-c", f"import urllib.request as u; print(u.urlopen('{url}', timeout=3).read().decode())"]
        for _ in range(50):  # the server takes its time to begin
            with namespaces.entered(f"/run/netns/twinstack-{name}-node1"):
                said = subprocess.run(fetch, capture_output=True, text=True, check=False).stdout
            if said:
                break
        assert said == "hello\n"

    def routes() -> int:
        with Netlink(f"/run/netns/twinstack-{name}-node1") as kernel:
            return len(kernel.routes())

    assert routes() == 2
    refused = lab.twinstack("node", "remove", "--name", name, "node1")
    assert (refused.returncode, "the last one is node2" in refused.stderr) == (1, True)
    left = lab.twinstack("node", "remove", "--name", name, "node2")
    assert left.stdout.startswith("node2 has left"), left.stderr
    assert "only node" in lab.twinstack("node", "remove", "--name", name, "node1").stderr
    assert kubectl("get", "nodes", "-o", "name").split() == ["node/node1"]
    assert kubectl("get", "pods", "-o", "name") == ""
    for _ in range(100):
        if routes() == 0:
            break
        time.sleep(0.02)
    assert routes() == 0
    for path in (f"/run/netns/twinstack-{name}-node2", f"/run/twinstack/{name}/node2", lab.home / "state" / "twinstack" / name / "nodes" / "node2"):
        assert not os.path.exists(path)
    assert lab.status(name)["healthy"]
    assert lab.twinstack("node", "add", "--name", name).stdout.startswith("node2 is ready")
    lab.twinstack("down", "--name", name)
    assert lab.remains(name) == {}
