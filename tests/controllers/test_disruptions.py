"""PodDisruptionBudgets in a world in memory."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Pod, PodDisruptionBudget, condition_of
from twinstack.api.objects import Key
from twinstack.api.times import text_of_time
from twinstack.controllers.disruptions import Disruptions

KEY = Key("default", "b")
APP = {"app": "x"}


def budget(**spec):
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": APP}, **spec},
    }  # fmt: skip


@pytest.fixture
def settle(world, loop):
    running = loop(world, Disruptions())

    def run():
        running.run()
        assert running.writes_wanted([KEY]) == []
        status = world.get(PodDisruptionBudget, KEY).status
        return status.disruptionsAllowed, status.currentHealthy, status.desiredHealthy, status.expectedPods

    return run


@pytest.fixture
def owned(world, pod):
    """Five pods, four of them ready, whose Deployment wants six."""
    names = {"apiVersion": "apps/v1", "metadata": {"name": "web", "namespace": "default"}}
    top = world.put({**names, "kind": "Deployment", "spec": {"replicas": 6}})
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": top.metadata.uid, "controller": True}
    one = world.put({**names, "kind": "ReplicaSet", "metadata": {**names["metadata"], "ownerReferences": [reference]}, "spec": {"replicas": 5}})
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": one.metadata.uid, "controller": True}
    for number in range(5):
        document = pod(f"p{number}", labels=APP, ips=[f"10.0.0.{number}"], ready=number > 0)
        document["metadata"]["ownerReferences"] = [reference]
        world.put(document)


@pytest.mark.parametrize(
    "spec, counts",
    [
        pytest.param({"minAvailable": 3}, (1, 4, 3, 5), id="so many of those that there are"),
        pytest.param({"minAvailable": "50%"}, (1, 4, 3, 6), id="a part of those that are wanted"),
        pytest.param({"maxUnavailable": 1}, (0, 4, 5, 6), id="too many are away already"),
        pytest.param({"maxUnavailable": "50%"}, (1, 4, 3, 6), id="a part may be away"),
        pytest.param({"minAvailable": 0}, (4, 4, 0, 5), id="all may go"),
        pytest.param({"minAvailable": 1, "selector": None}, (0, 0, 1, 0), id="no selector selects none"),
        pytest.param({"minAvailable": 1, "selector": {}}, (3, 4, 1, 5), id="an empty one selects all"),
    ],
)
def test_how_many_may_go(world, settle, owned, spec, counts):
    world.put(budget(**spec))
    assert settle() == counts
    condition = condition_of(world.get(PodDisruptionBudget, KEY).status.conditions, "DisruptionAllowed")
    assert condition.status == str(counts[0] > 0)


def test_pods_that_come_and_go_are_counted(world, settle, pod):
    world.put(budget(minAvailable=1))
    assert settle() == (0, 0, 1, 0)
    for name in ("a", "b"):
        world.put(pod(name, labels=APP, ips=["10.0.0.1"], ready=True))
    assert settle() == (1, 2, 1, 2)
    world.remove(Pod, Key("default", "a"))
    assert settle() == (0, 1, 1, 1)


def test_what_an_eviction_has_taken_is_not_counted_until_the_pod_has_gone_or_is_forgotten(world, settle, pod):
    world.put(budget(minAvailable=1))
    for name in ("a", "b", "c"):
        world.put(pod(name, labels=APP, ips=["10.0.0.1"], ready=True))
    assert settle()[0] == 2
    world.change(PodDisruptionBudget, KEY, {"status": {"disruptionsAllowed": 0, "disruptedPods": {"a": text_of_time(world.now), "b": text_of_time(world.now)}}})
    assert settle() == (0, 1, 1, 3)
    world.remove(Pod, Key("default", "a"))
    assert settle() == (0, 1, 1, 2)
    assert list(world.get(PodDisruptionBudget, KEY).status.disruptedPods) == ["b"]
    world.pass_seconds(120)
    for action in Disruptions().decide(KEY, world):
        world.perform(action)
    assert settle() == (1, 2, 1, 2)
