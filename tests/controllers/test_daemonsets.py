"""DaemonSets in a world in memory."""

from __future__ import annotations

import itertools

import pytest

from twinstack.api.kinds import ControllerRevision, DaemonSet, Node, Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Delete, Patch
from twinstack.controllers.daemonsets import DaemonSets
from twinstack.rules.affinity import node_of
from twinstack.rules.revisions import REVISION

NODES, SETS = resource_of(Node), resource_of(DaemonSet)
KEY = Key("default", "agent")
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}


def daemon_set(image="a", **spec):
    template = {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    whole = {"selector": {"matchLabels": {"app": "agent"}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "default", "generation": 1}, "spec": whole}


def node(name, *, taints=(), **labels):
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": list(taints)}, "status": status}


@pytest.fixture
def played(world, loop):
    """Decide until nothing is left to do, every pod becoming ready, or going when it must."""
    controller = DaemonSets()
    running = loop(world, controller)

    def play():
        for _ in range(40):
            running.run()
            gone = [pod for pod in world.list(Pod) if pod.metadata.deletionTimestamp]
            for pod in gone:
                world.remove(Pod, Key(pod.metadata.namespace, pod.metadata.name))
            waiting = [pod for pod in world.list(Pod) if pod.status.phase != "Running"]
            for pod in waiting:
                key = Key(pod.metadata.namespace, pod.metadata.name)
                world.change(Pod, key, {"spec": {"nodeName": node_of(pod)}, "status": READY})  # as scheduler and node do
            if not waiting and not gone:
                break
        assert controller.decide(KEY, world) == []
        return {pod.spec.nodeName: pod for pod in world.list(Pod)}

    return play


def test_every_node_has_one_and_a_node_that_comes_or_goes_changes_that(world, played):
    for name in ("n1", "n2"):
        world.put(node(name))
    world.put(daemon_set())
    assert set(played()) == {"n1", "n2"} and len(world.list(Pod)) == 2
    world.put(node("n3"))
    assert set(played()) == {"n1", "n2", "n3"}
    status = world.get(DaemonSet, KEY).status
    assert (status.desiredNumberScheduled, status.currentNumberScheduled, status.numberReady, status.updatedNumberScheduled) == (3, 3, 3, 3)
    assert (status.numberAvailable, status.numberUnavailable, status.numberMisscheduled) == (3, 0, 0)


@pytest.mark.parametrize(
    "taints, tolerations, there",
    [
        pytest.param([{"key": "a", "effect": "NoSchedule"}], [], False, id="a taint that is not tolerated"),
        pytest.param([{"key": "a", "effect": "NoSchedule"}], [{"key": "a", "operator": "Exists"}], True, id="one that is"),
        pytest.param([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}], [], True, id="a node that is not ready keeps it"),
        pytest.param([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}], [], True, id="so does one that is cordoned"),
    ],
)
def test_a_pod_goes_where_its_tolerations_let_it(world, played, taints, tolerations, there):
    world.put(node("n1", taints=taints))
    one = daemon_set()
    one["spec"]["template"]["spec"]["tolerations"] = tolerations
    world.put(one)
    assert bool(played()) == there


def test_only_selected_nodes_have_one_and_a_node_that_is_selected_no_more_loses_it(world, played):
    world.put(node("n1", disk="ssd"))
    world.put(node("n2"))
    one = daemon_set()
    one["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "ssd"}
    world.put(one)
    assert set(played()) == {"n1"}
    world.perform(Patch(NODES, Key("", "n1"), {"metadata": {"labels": {"disk": "hdd"}}}))
    assert played() == {}
    assert world.get(DaemonSet, KEY).status.desiredNumberScheduled == 0


@pytest.mark.parametrize("strategy, moves", [({}, True), ({"updateStrategy": {"type": "OnDelete"}}, False)], ids=["rolling", "on delete"])
def test_another_template_replaces_pods_one_by_one_or_when_somebody_deletes_them(world, played, strategy, moves):
    for name in ("n1", "n2", "n3"):
        world.put(node(name))
    world.put(daemon_set(**strategy))
    before = played()
    world.perform(Patch(SETS, KEY, {"spec": daemon_set("b", **strategy)["spec"]}))
    doomed = [action for action in DaemonSets().decide(KEY, world) if isinstance(action, Delete)]
    assert len(doomed) == (1 if moves else 0), "no more are away at once than one"
    after = played()
    assert {pod.labels[REVISION] for pod in after.values()}.isdisjoint({pod.labels[REVISION] for pod in before.values()}) == moves
    if not moves:
        world.remove(Pod, Key("default", before["n1"].metadata.name))
        assert played()["n1"].labels[REVISION] != before["n1"].labels[REVISION]


def test_pods_wait_for_their_node_by_name_so_that_the_scheduler_sees_whether_there_is_room(world, loop):
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    apart = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}, "podAntiAffinity": apart}
    for name, disk in (("n1", "ssd"), ("n2", "ssd"), ("n3", "old")):
        world.put(node(name, disk=disk))
    document = daemon_set()
    document["spec"]["template"]["spec"]["affinity"] = affinity
    world.put(document)
    controller = DaemonSets()
    loop(world, controller).run()
    found = {node_of(pod): pod for pod in world.list(Pod)}
    assert found.keys() == {"n1", "n2"} and not any(pod.spec.nodeName for pod in found.values())
    assert all(pod.spec.affinity.podAntiAffinity for pod in found.values()), "the rest of what the template asks for stays"
    assert controller.decide(KEY, world) == [], "one that waits is there"
    world.change(Node, Key("", "n2"), {"metadata": {"labels": {"disk": "old"}}})
    loop(world, controller).run()
    assert [node_of(pod) for pod in world.list(Pod) if not pod.metadata.deletionTimestamp] == ["n1"]


def test_where_no_pod_can_be_another_is_tried_after_twice_the_time_and_other_nodes_do_not_wait(world, loop):
    for name in ("n1", "n2"):
        world.put(node(name))
    world.put(daemon_set())
    controller = DaemonSets()
    running = loop(world, controller)
    made: list[float] = []

    def refuse() -> None:
        """The first node refuses each pod at once, as one without room does."""
        running.run()
        for pod in world.list(Pod):
            key = Key("default", pod.metadata.name)
            if node_of(pod) == "n1" and pod.status.phase != "Failed":
                made.append(elapsed)
                world.perform(Patch(resource_of(Pod), key, {"status": {"phase": "Failed"}}, subresource="status"))
            elif node_of(pod) == "n2":
                world.perform(Patch(resource_of(Pod), key, {"status": READY}, subresource="status"))
        for pod in world.list(Pod):
            if pod.metadata.deletionTimestamp:
                world.remove(Pod, Key("default", pod.metadata.name))

    elapsed = 0.0
    while elapsed < 70:
        for _ in range(4):
            refuse()
        world.pass_seconds(0.5)
        elapsed += 0.5
        running.decide(controller, KEY)
    assert [later - earlier for earlier, later in itertools.pairwise(made)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert {told.reason for told in world.told if told.type == "Warning"} == {"FailedDaemonPod"}
    before = [pod.metadata.name for pod in world.list(Pod) if node_of(pod) == "n2"]
    world.put(daemon_set("b", updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}))
    for _ in range(6):
        refuse()
    assert [pod.metadata.name for pod in world.list(Pod) if node_of(pod) == "n2"] != before, "the other node has the new template"


def test_a_finished_pod_gives_way_to_another(world, played):
    world.put(node("n1"))
    world.put(daemon_set())
    (first,) = played().values()
    world.perform(Patch(resource_of(Pod), Key("default", first.metadata.name), {"status": {"phase": "Failed"}}, subresource="status"))
    (second,) = played().values()
    assert second.metadata.uid != first.metadata.uid


@pytest.mark.parametrize("surge, most", [pytest.param(1, 1, id="one at a time"), pytest.param("50%", 2, id="half of the nodes at a time")])
def test_with_surge_the_new_pod_comes_first_and_no_node_is_ever_without(world, loop, surge, most):
    names = [f"n{number}" for number in range(4)]
    for name in names:
        world.put(node(name))
    update = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0}}
    world.put(daemon_set(updateStrategy=update))
    running = loop(world, DaemonSets())
    running.run()
    for pod in world.list(Pod):
        world.change(Pod, Key("default", pod.metadata.name), {"status": READY})
    running.run()
    world.put(daemon_set("b", updateStrategy=update))
    doubled = []
    for _ in range(30):
        running.run()
        live = [pod for pod in world.list(Pod) if not pod.metadata.deletionTimestamp]
        assert {node_of(pod) for pod in live if pod.status.phase == "Running"} == set(names)
        doubled.append(len(live) - len(names))
        going = [pod for pod in world.list(Pod) if pod.metadata.deletionTimestamp]
        waiting = [pod for pod in live if pod.status.phase != "Running"]
        for pod in going:
            world.remove(Pod, Key("default", pod.metadata.name))
        for pod in waiting:
            world.change(Pod, Key("default", pod.metadata.name), {"status": READY})
        if not going and not waiting:
            break
    assert {pod.spec.containers[0].image for pod in world.list(Pod)} == {"b"} and len(world.list(Pod)) == 4
    assert max(doubled) == most and running.writes_wanted([KEY]) == []


def test_templates_are_kept_for_a_rollback_and_forgotten_beyond_the_limit(world, played):
    world.put(node("n1"))
    for image in ("a", "b", "c", "d"):
        world.put(daemon_set(image, revisionHistoryLimit=2))
        played()
    kept = sorted(world.list(ControllerRevision), key=lambda one: one.revision)
    images = [one.data["spec"]["template"]["spec"]["containers"][0]["image"] for one in kept]
    assert images == ["b", "c", "d"] and [one.revision for one in kept] == [2, 3, 4]
    assert all(one.data["spec"]["template"]["$patch"] == "replace" for one in kept)
    world.put(daemon_set("b", revisionHistoryLimit=2))
    assert {pod.spec.containers[0].image for pod in played().values()} == {"b"}
    assert max(world.list(ControllerRevision), key=lambda one: one.revision).metadata.name == kept[0].metadata.name, "what is taken back is the newest again"


def test_a_pod_of_nobody_is_adopted_and_one_that_is_no_longer_selected_is_let_go(world, played):
    world.put(node("n1"))
    orphan = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o", "namespace": "default", "labels": {"app": "agent"}}, "spec": {"nodeName": "n1"}}
    world.put(orphan)
    world.put(daemon_set(updateStrategy={"type": "OnDelete"}))
    assert played()["n1"].metadata.name == "o" and played()["n1"].metadata.controller.name == "agent"
    world.change(Pod, Key("default", "o"), {"metadata": {"labels": {"app": "other"}}})
    played()
    assert world.get(Pod, Key("default", "o")).metadata.controller is None and len(world.list(Pod)) == 2
