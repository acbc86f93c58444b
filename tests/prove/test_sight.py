"""Readiness: what is missing is told in words that help."""

from __future__ import annotations

from typing import Any

import pytest

from twinstack.net.family import Family
from twinstack.prove.sight import missing

F4, F6 = Family.IPV4, Family.IPV6
WANTED = {"web": 4, "alone": 1}


@pytest.mark.parametrize("families", [(F4,), (F6,), (F4, F6), (F6, F4)], ids=str)
def test_a_cluster_that_is_ready_misses_nothing(paper: Any, families: tuple[Family, ...]) -> None:
    assert missing(paper(*families).seen(), WANTED) == []


def test_pods_that_are_not_ready_are_counted(paper: Any) -> None:
    one = paper(F4, F6)
    seen = one.seen()._replace(deployments=[one.deployment("web", 4, 2)])
    assert missing(seen, WANTED) == ["Deployment web has 2 of 4 pods ready", "Deployment alone has 0 of 1 pods ready"]


def test_endpoints_that_lack_in_one_family_are_told(paper: Any) -> None:
    seen = paper(F4, F6).seen()
    seen = seen._replace(slices=[one for one in seen.slices if one.metadata.name != "prefer-dual-IPv6"])
    assert missing(seen, WANTED) == ["Service prefer-dual has 0 of 4 IPv6 endpoints ready"]


def test_a_pod_that_cannot_run_says_why(paper: Any) -> None:
    one = paper(F4)
    waiting = {"name": "web", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "no such image"}}}
    stuck = one.pod("web-5", "node1", 5, ready=False, containerStatuses=[waiting])
    homeless = one.pod("web-6", "", 6, ready=False, conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes will do"}])
    seen = one.seen()
    assert missing(seen._replace(pods=[*seen.pods, stuck, homeless]), WANTED) == [
        "pod web-5 on node1 waits: ErrImageNeverPull: no such image",
        "pod web-6 has no node: 0/3 nodes will do",
    ]
