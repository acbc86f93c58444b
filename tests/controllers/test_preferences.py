"""Which of several nodes a pod gets, and who makes room for whom, in a world in memory."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Node, Pod, condition_of
from twinstack.api.objects import Key
from twinstack.api.world import Bind, Delete, Patch
from twinstack.controllers.scheduling import Scheduling
from twinstack.rules.placement import enough

A = Key("default", "a")
ZONE = "topology.kubernetes.io/zone"
APP = {"app": "web"}


def asking(cpu="", **more):
    return {"containers": [{"name": "c", "resources": {"requests": ({"cpu": cpu} if cpu else {}) | more}}]}


def having(node, name, *, labels=None, **allocatable):
    return node(name, labels=labels) | {"status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": allocatable}}


def weighing(kind, labels=APP, weight=10, topology="kubernetes.io/hostname"):
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": topology}
    return {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": term}]}}}


def spread(topology=ZONE, action="DoNotSchedule", **more):
    return {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": topology, "whenUnsatisfiable": action, "labelSelector": {"matchLabels": APP}} | more]}


@pytest.fixture
def place(world, loop):
    """A function that lets the scheduler come to rest, and says where a pod is, or why it is nowhere."""
    running = loop(world, Scheduling())

    def run(key=A):
        running.run()
        assert running.writes_wanted(Key("default", one.metadata.name) for one in world.list(Pod)) == []
        one = world.get(Pod, key)
        return one.spec.nodeName or condition_of(one.status.conditions, "PodScheduled").message

    return run


@pytest.mark.parametrize(
    "first, second, where",
    [
        pytest.param({"cpu": "1"}, {"cpu": "4"}, "node2", id="the other has more left"),
        pytest.param({"cpu": "400m"}, {"cpu": "600m"}, "node2", id="one has too little"),
        pytest.param({"cpu": "4", "memory": "1Gi"}, {"cpu": "2", "memory": "2Gi"}, "node2", id="what is used is in balance there"),
    ],
)
def test_a_pod_goes_where_there_is_room(world, place, pod, node, first, second, where):
    world.put(having(node, "node1", **first))
    world.put(having(node, "node2", **second))
    world.put(pod("a", **asking("500m", memory="512Mi")))
    assert place() == where


def test_what_pods_ask_for_is_counted_until_they_have_ended(world, place, pod, node):
    world.put(having(node, "node1", cpu="1", memory="1Gi", pods="10"))
    world.put(having(node, "node2", cpu="300m", memory="1Gi", pods="10"))
    world.put(pod("b", node="node1", **asking("600m")))
    world.put(pod("a", **asking("500m")))
    assert place() == "0/2 nodes are available: 2 Insufficient cpu."
    world.put(pod("c", **asking("100m", memory="2Gi")))
    assert place(Key("default", "c")) == "0/2 nodes are available: 2 Insufficient memory."
    world.put(pod("d", **asking(**{"example.com/gpu": "1"})))
    assert place(Key("default", "d")) == "0/2 nodes are available: 2 Insufficient example.com/gpu."
    world.change(Pod, Key("default", "b"), {"status": {"phase": "Succeeded"}})
    assert place() == "node1"


@pytest.mark.parametrize(
    "other, spec, where",
    [
        pytest.param(APP, weighing("podAffinity"), "node2", id="near a pod it prefers"),
        pytest.param(APP, weighing("podAntiAffinity"), "node1", id="away from one it would rather not meet"),
        pytest.param({"app": "db"}, weighing("podAffinity"), "node1", id="a pod that is not meant"),
        pytest.param(
            APP,
            {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}},
            "node2",
            id="a node that it prefers",
        ),
        pytest.param(APP, spread(action="ScheduleAnyway"), "node1", id="rather where fewer are"),
        pytest.param(APP, spread(), "node1", id="only where fewer are"),
        pytest.param(APP, spread(matchLabelKeys=["rev"]), "node1", id="of the same revision, of which there are none: the first by name"),
    ],
)  # fmt: skip
def test_what_is_preferred_decides_among_nodes_that_will_do(world, place, pod, node, other, spec, where):
    world.put(having(node, "node1", labels={ZONE: "a"}))
    world.put(having(node, "node2", labels={ZONE: "b", "disk": "ssd"}))
    world.put(pod("b", labels=other | {"rev": "1"}, node="node2"))
    world.put(pod("c", labels={"app": "elsewhere"}, node="node1"))
    world.put(pod("a", labels=APP | {"rev": "2"}, **spec))
    assert place() == where


def test_a_pod_that_is_there_may_prefer_who_comes(world, place, pod, node):
    world.put(having(node, "node1"))
    world.put(having(node, "node2"))
    world.put(pod("b", node="node2", **weighing("podAffinity")))
    world.put(pod("a", labels=APP))
    assert place() == "node2"


@pytest.mark.parametrize(
    "more, where",
    [
        pytest.param({}, "node3", id="a node that the pod may not use is no place: only node3's counts"),
        pytest.param({"nodeAffinityPolicy": "Ignore"}, "0/3 nodes are available", id="unless it is said to count"),
        pytest.param({"minDomains": 3}, "0/3 nodes are available", id="with fewer places than wanted the emptiest counts as empty"),
    ],
)
def test_which_nodes_make_places_to_spread_over(world, place, pod, node, more, where):
    for number, zone in ((1, "a"), (2, "b"), (3, "c")):
        world.put(having(node, f"node{number}", labels={ZONE: zone, "kind": "other" if number < 3 else "mine"}))
    world.put(pod("b", labels=APP, node="node3"))
    world.put(pod("a", labels=APP, nodeSelector={"kind": "mine"}, **spread(**more)))
    assert place().startswith(where)


def test_a_taint_counts_against_a_place_only_when_asked_to(world, place, pod, node):
    world.put(having(node, "node1", labels={ZONE: "a"}))
    world.put(node("node2", labels={ZONE: "b"}, taints=[{"key": "k", "effect": "NoSchedule"}]))
    world.put(pod("b", labels=APP, node="node1"))
    world.put(pod("a", labels=APP, **spread()))
    assert place().startswith("0/2 nodes are available")
    world.put(pod("c", labels=APP, **spread(nodeTaintsPolicy="Honor")))
    assert place(Key("default", "c")) == "node1"


def test_in_a_large_cluster_pods_are_spread_though_only_some_nodes_are_looked_at(world, place, pod, node):
    assert [enough(count) for count in (3, 100, 1000, 5000)] == [100, 100, 420, 500]
    for number in range(150):
        world.put(having(node, f"node{number:03}", cpu="4"))
    for number in range(30):
        world.put(pod(f"p{number}", **asking("100m")))
    place(Key("default", "p0"))
    found = {one.spec.nodeName for one in world.list(Pod)}
    assert len(found) == 30, "each went to an empty node"


# ---- Priorities


def test_a_pod_of_higher_priority_gets_the_place_of_those_whose_loss_is_least(world, place, pod, node, loop):
    world.put(having(node, "node1", cpu="1"))
    world.put(having(node, "node2", cpu="1"))
    for name, where, priority, cpu in (("low1", "node1", 1, "500m"), ("low2", "node1", 2, "500m"), ("mid", "node2", 5, "1")):
        world.put(pod(name, node=where, priority=priority, **asking(cpu)))
    world.put(pod("a", priority=10, **asking("500m")))
    running = loop(world, Scheduling())
    running.run()
    assert [action.key.name for action in world.writes if isinstance(action, Delete)] == ["low1"], "one is enough, and it is the least important"
    assert world.get(Pod, A).status.nominatedNodeName == "node1"
    assert condition_of(world.get(Pod, Key("default", "low1")).status.conditions, "DisruptionTarget").reason == "PreemptionByScheduler"
    assert running.writes_wanted([A]) == [], "it waits for the victim to go, and drives nobody else away"
    world.put(pod("small", priority=3, **asking("500m")))
    running.run()
    world.remove(Pod, Key("default", "low1"))
    running.run()
    assert world.get(Pod, A).spec.nodeName == "node1"
    assert not world.get(Pod, Key("default", "small")).spec.nodeName, "the room was made for another"
    assert ("Preempted", "low1") in [(one.reason, one.about.metadata.name) for one in world.told]


def test_when_there_is_room_again_the_most_important_is_asked_first_then_the_oldest(world, pod, node):
    scheduler = Scheduling()
    gone = world.put(pod("gone", node="node1"))
    for name, priority in (("c", 1), ("a", 0), ("z", 9), ("b", 1)):
        world.put(pod(name, priority=priority))
        world.pass_seconds(1)
    world.remove(Pod, Key("default", "gone"))
    (watch,) = [one for one in scheduler.watches if one.view is Pod]
    assert [key.name for key in watch.keys(gone, None, world)] == ["z", "c", "b", "a"]


@pytest.mark.parametrize(
    "victim, spec",
    [
        pytest.param({"priority": 10}, {"priority": 10}, id="of the same priority"),
        pytest.param({"priority": 1}, {"priority": 10, "preemptionPolicy": "Never"}, id="by one that drives nobody away"),
        pytest.param({"priority": 1, "cpu": "500m"}, {"priority": 10, "cpu": "2"}, id="where it would not help"),
    ],
)
def test_nobody_is_driven_away(world, place, pod, node, victim, spec):
    world.put(having(node, "node1", cpu="1"))
    world.put(pod("b", node="node1", **asking(victim.pop("cpu", "1")), **victim))
    world.put(pod("a", **asking(spec.pop("cpu", "1")), **spec))
    assert place().startswith("0/1 nodes are available: 1 Insufficient cpu.")
    assert not any(isinstance(action, (Delete, Bind)) for action in world.writes)


def test_a_budget_is_kept_where_another_place_will_do(world, place, pod, node, loop):
    world.put(having(node, "node1", cpu="1"))
    world.put(having(node, "node2", cpu="1"))
    world.put(pod("b", labels=APP, node="node1", priority=1, **asking("1")))
    world.put(pod("c", node="node2", priority=5, **asking("1")))
    world.put(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"matchLabels": APP}, "minAvailable": 1},
            "status": {"disruptionsAllowed": 0},
        }
    )
    world.put(pod("a", priority=10, **asking("1")))
    loop(world, Scheduling()).run()
    assert [action.key.name for action in world.writes if isinstance(action, Delete)] == ["c"]


def test_a_pod_that_asks_for_much_where_nothing_passes_tells_so_and_a_larger_node_wakes_it(world, place, pod, node):
    world.put(having(node, "node1", cpu="1"))
    world.put(pod("a", **asking("2")))
    assert place() == "0/1 nodes are available: 1 Insufficient cpu."
    world.change(Node, Key("", "node1"), {"status": {"allocatable": {"cpu": "4"}}})
    assert place() == "node1"
    assert [type(action) for action in world.writes] == [Patch, Bind]
