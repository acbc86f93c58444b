"""Pods and their nodes, in a world in memory."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.kinds import Node, Pod, condition_of
from twinstack.api.objects import Key
from twinstack.controllers.scheduling import Scheduling

A = Key("default", "a")
ZONE = "topology.kubernetes.io/zone"
APP = {"app": "web"}


def term(topology="kubernetes.io/hostname", labels=APP, **more):
    return [{"labelSelector": {"matchLabels": labels}, "topologyKey": topology} | more]


def apart(*args, **more):
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(*args, **more)}}


def together(*args, **more):
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(*args, **more)}}


def on_nodes(*expressions, fields=()):
    required = {"nodeSelectorTerms": [{"matchExpressions": list(expressions), "matchFields": list(fields)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def port(number, host_ip="", protocol="TCP"):
    return [{"name": "c", "ports": [{"containerPort": 80, "hostPort": number, "hostIP": host_ip, "protocol": protocol}]}]


@pytest.fixture
def place(world, loop):
    """A function that lets the scheduler come to rest, and says where pod ``a`` is, or why it is nowhere."""
    scheduler = Scheduling()
    running = loop(world, scheduler)

    def run(key=A):
        running.run()
        assert running.writes_wanted(Key("default", one.metadata.name) for one in world.list(Pod)) == []
        one = world.get(Pod, key)
        if one.spec.nodeName:
            return one.spec.nodeName
        condition = condition_of(one.status.conditions, "PodScheduled")
        return condition.message if condition else None

    return run


NODE2 = {"metadata": {"name": "node2"}}


@pytest.mark.parametrize(
    "first, second, spec, where",
    [
        pytest.param({}, {}, {}, "node1", id="any node will do: the first by name"),
        pytest.param({"ready": "False"}, {}, {}, "node2", id="a node that is not ready"),
        pytest.param({"ready": "Unknown"}, {}, {}, "node2", id="a node that is not heard of"),
        pytest.param({"ready": ""}, {}, {}, "node2", id="a node that has not said yet how it is"),
        pytest.param({"unschedulable": True}, {}, {}, "node2", id="a cordoned node"),
        pytest.param({}, {"labels": {"disk": "ssd"}}, {"nodeSelector": {"disk": "ssd"}}, "node2", id="a node selector"),
        pytest.param({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}, {}, {}, "node2", id="a taint"),
        pytest.param({"taints": [{"key": "k", "effect": "NoExecute"}]}, {}, {}, "node2", id="a taint that also evicts"),
        pytest.param({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}, {}, {}, "node2", id="a taint that only dissuades"),
        pytest.param(
            {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
            {"unschedulable": True},
            {"tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]},
            "node1",
            id="a taint that is tolerated",
        ),
        pytest.param({"unschedulable": True}, {"ready": "False"}, {"tolerations": [{"operator": "Exists"}]}, "node1", id="everything is tolerated"),
        pytest.param(
            {}, {"labels": {"n": "7"}}, {"affinity": on_nodes({"key": "n", "operator": "Gt", "values": ["5"]})}, "node2", id="node affinity by number"
        ),
        pytest.param(
            {}, {}, {"affinity": on_nodes(fields=[{"key": "metadata.name", "operator": "In", "values": ["node2"]}])}, "node2", id="node affinity by name"
        ),
        pytest.param({"labels": {"x": "1"}}, {}, {"affinity": on_nodes({"key": "x", "operator": "DoesNotExist"})}, "node2", id="node affinity by absence"),
    ],
)
def test_a_pod_goes_to_a_node_that_can_run_it(world, place, pod, node, first, second, spec, where):
    world.put(node("node1", **first))
    world.put(node("node2", **second))
    world.put(pod("a", **spec))
    assert place() == where
    assert [one.reason for one in world.told] == ["Scheduled"]


@pytest.mark.parametrize(
    "other, spec, where",
    [
        pytest.param({}, {"affinity": apart()}, "node2", id="apart from a pod that is there"),
        pytest.param({"affinity": apart(labels={"app": "new"})}, {}, "node2", id="a pod that is there wants to be apart"),
        pytest.param({"namespace": "other"}, {"affinity": apart()}, "node1", id="pods of other namespaces are not meant"),
        pytest.param({"namespace": "other"}, {"affinity": apart(namespaces=["other"])}, "node2", id="unless they are named"),
        pytest.param({"namespace": "other"}, {"affinity": apart(namespaceSelector={})}, "node2", id="or all are"),
        pytest.param({"namespace": "other"}, {"affinity": apart(namespaceSelector={"matchLabels": {"team": "red"}})}, "node2", id="or chosen by label"),
        pytest.param({}, {"affinity": apart(ZONE)}, "node2", id="apart by zone"),
        pytest.param({}, {"affinity": together(), "tolerations": []}, "node1", id="together with a pod that is there"),
        pytest.param({"containers": port(80)}, {"containers": port(80)}, "node2", id="a host port that is taken"),
        pytest.param({"containers": port(80)}, {"containers": port(80, protocol="UDP")}, "node1", id="the same port of another protocol"),
        pytest.param({"containers": port(80, "0.0.0.0")}, {"containers": port(80, "::")}, "node1", id="the same port of the other family"),
        pytest.param({"containers": port(80, "0.0.0.0")}, {"containers": port(80, "192.0.2.1")}, "node2", id="everywhere includes one address"),
        pytest.param({"containers": port(80, "::")}, {"containers": port(80)}, "node2", id="both families include one"),
        pytest.param({"containers": port(80, "192.0.2.1")}, {"containers": port(80, "192.0.2.2")}, "node1", id="two addresses of one family"),
        pytest.param(
            {},
            {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {}}}]},
            "node2",
            id="spread over zones",
        ),
    ],
)
def test_other_pods_decide_too(world, place, pod, node, other, spec, where):
    """node1 is the only one with the other pod and would be chosen as the emptier one: node2 has three strangers."""
    world.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "red"}}})
    world.put(node("node1", labels={ZONE: "z1"}))
    world.put(node("node2", labels={ZONE: "z2"}))
    world.put(pod("b", labels=APP, node="node1", **other))
    for number in range(3):
        world.put(pod(f"stranger{number}", namespace="strangers", node="node2"))
    world.put(pod("a", labels={"app": "new"}, **spec))
    assert place() == where


def test_a_namespaces_labels_may_let_a_waiting_pod_go(world, place, pod, node):
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "blue"}}}
    world.put(namespace)
    world.put(node("node1"))
    world.put(pod("b", namespace="other", labels=APP, node="node1"))
    world.put(pod("a", affinity=together(namespaceSelector={"matchLabels": {"team": "red"}})))
    assert place() == "0/1 nodes are available: 1 node(s) without a pod near that this one must meet."
    world.put(namespace | {"metadata": {"name": "other", "labels": {"team": "red"}}})
    assert place() == "node1"


def test_the_first_of_a_group_that_wants_to_be_together_may_go_anywhere(world, place, pod, node):
    world.put(node("node1"))
    world.put(node("node2"))
    for name in ("a", "b", "c"):
        world.put(pod(name, labels=APP, affinity=together()))
    assert place() == place(Key("default", "b")) == place(Key("default", "c"))


def test_a_full_node_takes_no_more(world, place, pod, node):
    world.put(node("node1") | {"status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"pods": "1"}}})
    world.put(pod("b", node="node1"))
    world.put(pod("a"))
    assert place() == "0/1 nodes are available: 1 Too many pods."
    world.change(Pod, Key("default", "b"), {"status": {"phase": "Succeeded"}})
    assert place() == "node1"


def test_why_there_is_no_node_is_told_once_and_the_pod_is_decided_again_when_that_changes(world, place, pod, node):
    world.put(pod("a", nodeSelector={"disk": "ssd"}))
    assert place() == "0/0 nodes are available: the cluster has no node yet"
    world.put(node("node1", ready="False"))
    world.put(node("node2"))
    world.put(node("node3"))
    assert place() == "0/3 nodes are available: 1 node(s) not ready, 2 node(s) without the label disk=ssd."
    assert {(one.type, one.reason) for one in world.told} == {("Warning", "FailedScheduling")}
    told = len(world.told)
    world.change(Node, Key("", "node2"), {"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T03:09:05Z"}]}})
    assert place() and len(world.told) == told
    world.change(Node, Key("", "node3"), {"metadata": {"labels": {"disk": "ssd"}}})
    assert place() == "node3"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"schedulerName": "mine"}, id="another scheduler's"),
        pytest.param({"node": "node9"}, id="one that has a node"),
    ],
)
def test_these_pods_are_left_alone(world, place, pod, node, spec):
    world.put(node("node1"))
    world.put(pod("a", **spec))
    place()
    assert world.writes == []


def test_a_pod_with_gates_waits_until_they_are_gone(world, place, pod, node):
    world.put(node("node1"))
    world.put(pod("a", schedulingGates=[{"name": "wait"}]))
    place()
    assert condition_of(world.get(Pod, A).status.conditions, "PodScheduled").reason == "SchedulingGated"
    world.change(Pod, A, {"spec": {"schedulingGates": None}})
    assert place() == "node1"


def test_pods_of_one_owner_are_spread_before_nodes_are_evened_out(world, place, pod, node):
    owner = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs-uid", "controller": True}]
    for number in range(3):
        world.put(node(f"node{number}"))
    for number in range(2):
        world.put(pod(f"stranger{number}", namespace="strangers", node="node2"))
    for number in range(6):
        document = pod(f"p{number}")
        document["metadata"]["ownerReferences"] = owner
        world.put(document)
    place(Key("default", "p0"))
    found = Counter(one.spec.nodeName for one in world.list(Pod, "default"))
    assert found == {"node0": 2, "node1": 2, "node2": 2}


def test_pods_behind_one_service_are_spread(world, place, pod, node, service):
    world.put(service("web", selector=APP))
    world.put(node("node1"))
    world.put(node("node2"))
    world.put(pod("b", labels=APP, node="node1"))
    for number in range(3):
        world.put(pod(f"stranger{number}", namespace="strangers", node="node2"))
    world.put(pod("a", labels=APP))
    assert place() == "node2"


@given(st.integers(1, 5), st.integers(0, 12), st.integers(0, 9))
def test_in_whatever_order_pods_that_want_to_be_apart_never_meet_and_as_many_as_fit_get_a_node(new_world, loop, pod, node, nodes, pods, seed):
    world = new_world()
    for number in range(nodes):
        world.put(node(f"node{number}"))
    for number in range(pods):
        world.put(pod(f"p{number}", labels=APP, affinity=apart()))
    loop(world, Scheduling(), seed=seed).run()
    placed = [one.spec.nodeName for one in world.list(Pod) if one.spec.nodeName]
    assert len(placed) == len(set(placed)) == min(nodes, pods)
