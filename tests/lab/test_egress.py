"""What is seen outside of a pod: its node's address, or its own where a cluster is told so, in every family configuration."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import pytest

from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
PUBLIC = {Family.IPV4: "11.244.0.0/16", Family.IPV6: "2001:db8:aa00::/56"}


def seen_outside(name: str, pod: str, family: Family, address: str) -> str:
    """The address that a server outside sees of a pod's client."""
    with namespaces.socket_in(f"/run/netns/twinstack-{name}-outside", family.facts.socket_family, socket.SOCK_STREAM) as server:
        server.bind((address, 7000))
        server.listen(1)
        server.settimeout(5)
        with namespaces.socket_in(pod, family.facts.socket_family, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect((address, 7000))
            connection, peer = server.accept()
            connection.close()
    return str(peer[0])


@pytest.mark.parametrize("families", ["IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4"])
@pytest.mark.parametrize("public", [False, True], ids=["masqueraded", "under their own addresses"])
def test_pods_reach_outside_in_each_family(lab: Any, families: str, public: bool) -> None:
    """Private addresses leave as their node's by default, unique local ones of IPv6 too; public ones as they are, when the cluster is told so."""
    name, wanted = lab.name(f"eg{len(families)}{families[3]}"), [Family(word) for word in families.split(",")]
    words = ("--no-masquerade", families, "--pod-cidr", ",".join(PUBLIC[family] for family in wanted)) if public else ()
    up = lab.up(name, "--families", families, "--nodes", "1", *words)
    container = {"name": "c", "image": "twinstack.dev/host", "command": ["/bin/sleep", "1000"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    for command in (("create", "-f", "-"), ("wait", "--for=condition=Ready", "--timeout=20s", "pod/p")):
        subprocess.run(["kubectl", *command], input=json.dumps(pod), text=True, env=lab.environment, check=True, capture_output=True)
    told = lab.kubectl(name, "get", "pod", "p")
    place = f"/run/twinstack/{name}/node1/netns/{told['metadata']['uid']}"
    own = {Family.of(parse_address(one["ip"])): one["ip"] for one in told["status"]["podIPs"]}
    nodes = {Family.of(parse_address(text)): text for text in up["nodes"][0]["addresses"]}
    outside = {Family.of(parse_address(text)): text for text in up["outside"]}
    for family in wanted:
        assert seen_outside(name, place, family, outside[family]) == (own if public else nodes)[family]
    lab.down(name)
    assert lab.remains(name) == {}


def test_every_path_works_where_one_family_is_not_masqueraded(lab: Any) -> None:
    name = lab.name("gua")
    words = ("--nodes", "2", "--pod-cidr", "10.244.0.0/16,2001:db8:aa00::/56", "--no-masquerade", "IPv6")
    up = lab.twinstack("up", "--name", name, *words)
    assert up.returncode == 0, up.stderr
    demo = lab.twinstack("demo", "--name", name)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "IPv6 under its own" in demo.stdout
    lab.twinstack("down", "--name", name)
    assert lab.remains(name) == {}


def test_a_family_that_the_cluster_has_not_is_refused(lab: Any) -> None:
    refused = lab.twinstack("up", "--name", lab.name(), "--families", "IPv4", "--no-masquerade", "IPv6")
    assert (refused.returncode, "no-masquerade" in refused.stderr) == (1, True)
