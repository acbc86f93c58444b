"""Pods with public addresses reach outside under them, when a cluster is told so."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]


def test_a_family_that_is_not_masqueraded_is_seen_outside_with_its_pods_own_addresses(lab: Any) -> None:
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
