"""A pod's host port answers on its node, in each family, to whoever stands outside."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from typing import Any

import pytest

from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
SERVER = """
import socket
door = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    one, client = door.accept()
    one.sendall(client[0].removeprefix("::ffff:").encode())
    one.close()
"""


def test_a_host_port_answers_in_both_families_until_its_pod_is_gone(lab: Any) -> None:
    name = lab.name("hostport")
    lab.up(name, "--nodes", "1")
    container = {"name": "c", "image": "twinstack.dev/host", "command": ["/usr/bin/python3", "-IS", "-c", SERVER]}
    container |= {"ports": [{"containerPort": 8080, "hostPort": 18080}], "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "door", "namespace": "default"}, "spec": {"containers": [container]}}

    def kubectl(*words: str, text: str = "") -> str:
        command = ["kubectl", "--context", f"twinstack-{name}", *words]
        return subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=True, timeout=60, input=text).stdout

    kubectl("create", "-f", "-", text=json.dumps(pod))
    kubectl("wait", "--for=condition=Ready", "--timeout=20s", "pod/door")
    node = lab.kubectl(name, "get", "node", "node1")
    addresses = {Family.of(parse_address(one["address"])): one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"}

    def heard(family: Family) -> str:
        """What the server says of a client outside; empty when nobody answers."""
        with namespaces.socket_in(f"/run/netns/twinstack-{name}-outside", family.facts.socket_family, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            try:
                client.connect((addresses[family], 18080))
                return client.recv(100).decode()
            except OSError:
                return ""

    for family in FAMILIES:
        assert Family.of(parse_address(heard(family))) is family
    kubectl("delete", "pod", "door", "--grace-period=1")
    end = time.monotonic() + 10
    while any(heard(family) for family in FAMILIES):
        assert time.monotonic() < end
    lab.down(name)
