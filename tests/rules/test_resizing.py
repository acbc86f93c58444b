"""Amounts of containers that change while they run: the pod that a node acts upon, and when a container is started anew."""

from __future__ import annotations

from typing import Any

import pytest

from twinstack.api.kinds import Container, Pod
from twinstack.api.objects import view_of
from twinstack.rules.node_access import MIRROR
from twinstack.rules.resizing import needs_restart, problems_with_resize, resizable, with_resources

ONE = {"limits": {"cpu": "1"}}
TWO = {"limits": {"cpu": "2"}}


def pod(*resources: dict[str, Any]) -> Pod:
    inits = [{"name": "first"}, {"name": "beside", "restartPolicy": "Always", "resources": ONE}]
    containers = [{"name": f"c{i}", "resources": one} for i, one in enumerate(resources)]
    return view_of(Pod, {"metadata": {"name": "p"}, "spec": {"initContainers": inits, "containers": containers}})


def test_a_pod_with_what_it_has_is_the_very_same() -> None:
    one = pod(ONE, {})
    assert with_resources(one, {"c0": ONE, "c1": {}, "beside": ONE}) is one
    assert with_resources(one, {}) is one


def test_a_pod_is_seen_with_what_was_given() -> None:
    assert with_resources(pod(TWO, ONE), {"c0": ONE}) == pod(ONE, ONE)
    assert [one.name for one in resizable(pod(ONE))] == ["c0", "beside"]


@pytest.mark.parametrize(
    ("policy", "has", "expected"),
    [
        pytest.param("RestartContainer", ONE, True, id="what changes asks for it"),
        pytest.param("RestartContainer", TWO, False, id="nothing changes"),
        pytest.param("NotRequired", ONE, False, id="what changes does not"),
        pytest.param("RestartContainer", {**TWO, "requests": {"memory": "1"}}, False, id="something else changes"),
    ],
)
def test_a_container_is_started_anew_where_it_says_so(policy: str, has: dict[str, Any], expected: bool) -> None:
    container = view_of(Container, {"name": "c", "resources": TWO, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]})
    assert needs_restart(container, has) is expected


def test_the_mirror_of_a_static_pod_is_not_resized() -> None:
    document = {"metadata": {"name": "p", "annotations": {MIRROR: "x"}}, "spec": {"containers": [{"name": "c"}]}}
    assert [problem.path for problem in problems_with_resize(document, document)] == ["metadata"]
