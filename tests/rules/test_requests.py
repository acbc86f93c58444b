"""What pods ask of their nodes."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Pod
from twinstack.api.objects import view_of
from twinstack.rules.requests import lacking, requests_of


def container(name="c", cpu=None, memory=None, **more):
    requests = {key: text for key, text in (("cpu", cpu), ("memory", memory)) if text}
    return {"name": name, "resources": {"requests": requests}} | more


@pytest.mark.parametrize(
    "spec, wanted",
    [
        pytest.param({"containers": [container()]}, {}, id="nothing"),
        pytest.param({"containers": [container(cpu="250m", memory="1Mi"), container(cpu="1")]}, {"cpu": 1250, "memory": 1 << 20}, id="the containers' sum"),
        pytest.param({"initContainers": [container(cpu="2")], "containers": [container(cpu="1")]}, {"cpu": 2000}, id="an init container that needs more"),
        pytest.param({"initContainers": [container(cpu="1"), container(cpu="1")], "containers": [container(cpu="1500m")]}, {"cpu": 1500}, id="init is in turn"),
        pytest.param(
            {"initContainers": [container(cpu="1", restartPolicy="Always")], "containers": [container(cpu="1")]}, {"cpu": 2000}, id="a sidecar runs beside all"
        ),
        pytest.param(
            {"initContainers": [container(cpu="1", restartPolicy="Always"), container(cpu="3")], "containers": [container(cpu="1")]},
            {"cpu": 4000},
            id="an init container beside a sidecar that was started before",
        ),
        pytest.param(
            {"initContainers": [container(cpu="3"), container(cpu="1", restartPolicy="Always")], "containers": [container(cpu="1")]},
            {"cpu": 3000},
            id="and not beside one that is started later",
        ),
        pytest.param({"containers": [container(cpu="1")], "overhead": {"cpu": "100m", "memory": "8Mi"}}, {"cpu": 1100, "memory": 8 << 20}, id="overhead"),
        pytest.param({"containers": [container(cpu="1")], "resources": {"requests": {"cpu": "3"}}}, {"cpu": 3000}, id="asked for the pod as a whole"),
        pytest.param(
            {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "2", "ephemeral-storage": "1Gi"}}}]},
            {"example.com/gpu": 2, "ephemeral-storage": 1 << 30},
            id="whatever else there is",
        ),
    ],
)
def test_a_pod_asks_for_the_most_that_it_needs_at_any_moment(spec, wanted):
    assert requests_of(view_of(Pod, {"spec": spec})) == wanted


def test_what_a_node_does_not_tell_holds_nobody_back_but_for_what_is_extra():
    assert lacking({"cpu": 1000, "memory": 1}, {}, {}) == []
    assert lacking({"example.com/gpu": 1}, {}, {}) == ["example.com/gpu"]
    assert lacking({"cpu": 600, "memory": 5}, {"cpu": 500, "memory": 5}, {"cpu": 1000, "memory": 10}) == ["cpu"]
