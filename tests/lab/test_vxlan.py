"""Clusters whose nodes reach each other's pods through a tunnel."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from twinstack.kernel.netlink import Netlink

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]


@pytest.mark.parametrize("families, underlay, mtu", [("IPv4,IPv6", "IPv6", 1430), ("IPv6", "IPv4", 1450)])
def test_every_path_works_through_a_tunnel_over_either_family(lab: Any, families: str, underlay: str, mtu: int) -> None:
    name = lab.name("vx")
    up = lab.twinstack("up", "--name", name, "--families", families, "--nodes", "2", "--network", "vxlan", "--vxlan-underlay", underlay)
    assert up.returncode == 0, up.stderr
    demo = lab.twinstack("demo", "--name", name)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for node in ("node1", "node2"):
        with Netlink(f"/run/netns/twinstack-{name}-{node}") as kernel:
            assert {(route.link, route.gateway is not None) for route in kernel.routes()} == {("tsvxlan", True)}
            assert len(kernel.routes()) == len(families.split(","))
        place = f"/run/twinstack/{name}/{node}/netns"
        for pod in os.listdir(place):
            with Netlink(f"{place}/{pod}") as kernel:
                link = kernel.link("eth0")
                assert link is not None and link.mtu == mtu
    assert json.loads(lab.twinstack("status", "--name", name, "-o", "json").stdout)["network"] == "vxlan"
    lab.twinstack("down", "--name", name)
    assert lab.remains(name) == {}


def test_a_network_that_is_none_is_refused_with_what_would_do(lab: Any) -> None:
    refused = lab.twinstack("up", "--name", lab.name(), "--network", "ipsec")
    assert (refused.returncode, "vxlan" in refused.stderr) == (1, True)
    refused = lab.twinstack("up", "--name", lab.name(), "--vxlan-underlay", "IPv6")
    assert "--network vxlan" in refused.stderr
