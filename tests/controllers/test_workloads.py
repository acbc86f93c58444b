"""Deployments and ReplicaSets together, with a kubelet that makes pods ready, in a world in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.errors import Forbidden
from twinstack.api.kinds import Deployment, Pod, ReplicaSet, ReplicationController, condition_of
from twinstack.api.objects import Key
from twinstack.api.times import text_of_time
from twinstack.api.world import Create, Delete, Patch
from twinstack.controllers.deployments import HASH, REVISION, Deployments
from twinstack.controllers.replicasets import ReplicaSets, ReplicationControllers
from twinstack.rules.workloads import active, ready

WEB = Key("default", "web")


def deployment(replicas=3, *, image="one", **spec):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
        }
        | spec,
    }


class Cluster:
    """The controllers, and a kubelet that makes one pod ready at a time, or ends one that is being deleted."""

    def __init__(self, world, loop, seed=0):
        self.world = world
        self.controllers = (Deployments(), ReplicaSets())
        self.loop = loop(world, *self.controllers, seed=seed)
        self.lowest, self.highest = 10**9, 0
        self.works = True

    def kubelet(self):
        pods = self.world.list(Pod)
        live = [one for one in pods if active(one)]
        self.lowest = min(self.lowest, sum(1 for one in live if ready(one)))
        self.highest = max(self.highest, len(live))

    def step(self):
        """One pod gets on; False when none has to."""
        for one in self.world.list(Pod):
            key = Key("default", one.metadata.name)
            if one.metadata.deletionTimestamp:
                self.world.remove(Pod, key)
                return True
            if not ready(one) and self.works and one.spec.containers[0].image != "broken":
                condition = {"type": "Ready", "status": "True", "lastTransitionTime": text_of_time(self.world.now)}
                self.world.change(Pod, key, {"spec": {"nodeName": "node1"}, "status": {"phase": "Running", "conditions": [condition]}})
                return True
        return False

    def settle(self):
        self.loop.run(between=self.kubelet)
        while self.step():
            self.loop.run(between=self.kubelet)
        keys = [WEB, *(Key("default", one.metadata.name) for one in self.world.list(ReplicaSet))]
        assert self.loop.writes_wanted(keys) == []

    def images(self):
        return sorted(one.spec.containers[0].image for one in self.world.list(Pod) if active(one))

    @property
    def deployment(self):
        return self.world.get(Deployment, WEB)

    def condition(self, type_):
        return condition_of(self.deployment.status.conditions, type_)


@pytest.fixture
def cluster(world, loop):
    return Cluster(world, loop)


def test_a_deployment_gets_a_replica_set_and_that_its_pods(cluster, world):
    world.put(deployment())
    cluster.settle()
    (one,) = world.list(ReplicaSet)
    assert one.metadata.name == f"web-{one.labels[HASH]}"
    assert one.spec.selector.matchLabels == {"app": "web", HASH: one.labels[HASH]}
    assert one.annotations[REVISION] == "1" == cluster.deployment.annotations[REVISION]
    pods = world.list(Pod)
    assert len(pods) == 3
    assert all(pod.labels == {"app": "web", HASH: one.labels[HASH]} and pod.metadata.controller.uid == one.metadata.uid for pod in pods)
    status = cluster.deployment.status
    assert (status.replicas, status.updatedReplicas, status.readyReplicas, status.availableReplicas, status.unavailableReplicas) == (3, 3, 3, 3, 0)
    assert status.observedGeneration == cluster.deployment.metadata.generation
    assert cluster.condition("Available").status == "True"
    assert (cluster.condition("Progressing").status, cluster.condition("Progressing").reason) == ("True", "NewReplicaSetAvailable")
    assert {one.reason for one in world.told} >= {"ScalingReplicaSet", "SuccessfulCreate"}


@pytest.mark.parametrize(
    "surge, unavailable, lowest, highest",
    [
        pytest.param("25%", "25%", 3, 5, id="a quarter above, rounded up, and a quarter below, rounded down"),
        pytest.param(1, 0, 4, 5, id="never fewer than asked for"),
        pytest.param(0, 1, 3, 4, id="never more than asked for"),
        pytest.param(0, 0, 3, 4, id="both zero would stand still, so one is missing"),
        pytest.param("100%", "100%", 0, 8, id="all at once"),
    ],
)
def test_a_rollout_stays_between_its_fences(cluster, world, surge, unavailable, lowest, highest):
    world.put(deployment(4, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}))
    cluster.settle()
    cluster.lowest, cluster.highest = 4, 4
    world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "two"}]}}}})
    cluster.settle()
    assert cluster.images() == ["two"] * 4
    assert cluster.lowest >= lowest and cluster.highest <= highest
    assert sorted(one.annotations[REVISION] for one in world.list(ReplicaSet)) == ["1", "2"]
    assert cluster.deployment.annotations[REVISION] == "2"


def test_recreate_ends_all_old_pods_before_it_makes_new_ones(cluster, world):
    world.put(deployment(2, strategy={"type": "Recreate"}))
    cluster.settle()
    world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "two"}]}}}})
    cluster.loop.run()
    assert len(world.list(Pod)) == 2 and all(pod.metadata.deletionTimestamp for pod in world.list(Pod))
    cluster.settle()
    assert cluster.images() == ["two", "two"]


def test_going_back_uses_the_old_replica_set_again_under_a_new_revision(cluster, world):
    world.put(deployment(2))
    cluster.settle()
    for image in ("two", "one"):
        world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}})
        cluster.settle()
    assert len(world.list(ReplicaSet)) == 2
    assert sorted(one.annotations[REVISION] for one in world.list(ReplicaSet)) == ["2", "3"]
    (back,) = [one for one in world.list(ReplicaSet) if one.spec.replicas]
    assert back.annotations[REVISION] == "3" and back.annotations["deployment.kubernetes.io/revision-history"] == "1"
    assert cluster.images() == ["one", "one"]


def test_a_broken_image_stops_the_rollout_and_the_deadline_says_so(cluster, world):
    world.put(deployment(4, progressDeadlineSeconds=60))
    cluster.settle()
    world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "broken"}]}}}})
    cluster.loop.run()
    while cluster.step():
        cluster.loop.run()
    assert sum(1 for pod in world.list(Pod) if ready(pod)) == 3
    assert cluster.condition("Progressing").status == "True"
    assert cluster.loop.after["deployment-controller", WEB] == 60
    world.pass_seconds(61)
    cluster.loop.decide(cluster.controllers[0], WEB)
    assert (cluster.condition("Progressing").status, cluster.condition("Progressing").reason) == ("False", "ProgressDeadlineExceeded")
    world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "one"}]}}}})
    cluster.settle()
    assert cluster.images() == ["one"] * 4
    assert cluster.condition("Progressing").reason == "NewReplicaSetAvailable"


def test_scaling_in_the_middle_of_a_rollout_is_shared(cluster, world):
    world.put(deployment(10, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}))
    cluster.settle()
    world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "broken"}]}}}})
    cluster.loop.run()
    while cluster.step():
        cluster.loop.run()
    assert sorted(one.spec.replicas for one in world.list(ReplicaSet)) == [5, 8]
    world.change(Deployment, WEB, {"spec": {"replicas": 15}})
    cluster.loop.run()
    assert sorted(one.spec.replicas for one in world.list(ReplicaSet)) == [7, 11]


def test_a_paused_deployment_scales_but_does_not_roll(cluster, world):
    world.put(deployment(2))
    cluster.settle()
    world.change(Deployment, WEB, {"spec": {"paused": True, "replicas": 3, "template": {"spec": {"containers": [{"name": "main", "image": "two"}]}}}})
    cluster.settle()
    assert cluster.images() == ["one"] * 3
    assert cluster.condition("Progressing").reason == "DeploymentPaused"
    world.change(Deployment, WEB, {"spec": {"paused": False}})
    cluster.settle()
    assert cluster.images() == ["two"] * 3


def test_a_rollout_that_is_paused_stays_where_it_is(cluster, world):
    world.put(deployment(10, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}))
    cluster.settle()
    world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "two"}]}}}})
    cluster.loop.run()

    def sizes():
        return sorted(one.spec.replicas for one in world.list(ReplicaSet))

    while sizes() != [2, 10]:  # fewer than there might be
        assert cluster.step(), sizes()
        cluster.loop.run()
    world.change(Deployment, WEB, {"spec": {"paused": True}})
    cluster.loop.run()
    assert sizes() == [2, 10]
    world.change(Deployment, WEB, {"spec": {"paused": False}})
    cluster.settle()
    assert sizes() == [0, 10]


def test_only_so_many_old_replica_sets_are_kept(cluster, world):
    world.put(deployment(1, revisionHistoryLimit=2))
    for number in range(5):
        world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": f"v{number}"}]}}}})
        cluster.settle()
    assert sorted(one.annotations[REVISION] for one in world.list(ReplicaSet)) == ["3", "4", "5"]


def test_pods_that_are_not_long_enough_ready_are_not_available(cluster, world):
    world.put(deployment(1, minReadySeconds=30))
    cluster.loop.run()
    cluster.step()
    cluster.loop.run()
    assert (cluster.deployment.status.readyReplicas, cluster.deployment.status.availableReplicas) == (1, 0)
    assert cluster.condition("Available").status == "False"
    (one,) = world.list(ReplicaSet)
    key = Key("default", one.metadata.name)
    assert cluster.loop.after["replicaset-controller", key] == 30
    world.pass_seconds(30)
    cluster.loop.decide(cluster.controllers[1], key)
    cluster.loop.run()
    assert cluster.deployment.status.availableReplicas == 1
    assert cluster.condition("Available").status == "True"


def test_a_stranger_with_the_name_of_our_replica_set_makes_us_take_another(cluster, world):
    world.put(deployment(1))
    cluster.settle()
    (one,) = world.list(ReplicaSet)
    stranger = world.document(ReplicaSet, Key("default", one.metadata.name))
    world.remove(ReplicaSet, Key("default", one.metadata.name))
    world.put(
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": stranger["metadata"]["name"], "namespace": "default", "labels": {}}, "spec": {}}
    )
    cluster.settle()
    assert cluster.deployment.status.collisionCount == 1
    assert len(world.list(ReplicaSet)) == 2


def test_a_pod_that_loses_the_label_is_released_and_an_orphan_is_adopted(cluster, world, pod):
    world.put(deployment(2))
    cluster.settle()
    (one,) = world.list(ReplicaSet)
    lost = world.list(Pod)[0].metadata.name
    world.change(Pod, Key("default", lost), {"metadata": {"labels": {"app": "debug"}}})
    cluster.settle()
    assert world.get(Pod, Key("default", lost)).metadata.ownerReferences == []
    assert len(world.list(Pod)) == 3
    world.put(pod("orphan", labels={"app": "web", HASH: one.labels[HASH]}))
    cluster.settle()
    held = [one for one in world.owned(Pod, one.metadata.uid) if active(one)]
    assert len(held) == 2


@pytest.mark.parametrize(
    "better, worse",
    [
        pytest.param({"node": "n"}, {"node": ""}, id="a pod without a node"),
        pytest.param({"ips": ["10.0.0.1"]}, {}, id="a pod that is not running yet"),
        pytest.param({"ips": ["10.0.0.1"], "ready": True}, {"ips": ["10.0.0.2"]}, id="a pod that is not ready"),
        pytest.param({"cost": "10"}, {"cost": "-5"}, id="a pod that says it is cheap"),
        pytest.param({"node": "lonely"}, {"node": "crowded"}, id="a pod on a crowded node"),
        pytest.param({"restarts": 1}, {"restarts": 7}, id="a pod that was restarted often"),
    ],
)
def test_when_there_are_too_many_the_least_missed_goes_first(world, loop, pod, better, worse):
    labels = {"app": "web"}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {}}}
    owner = world.put({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": owner.metadata.uid, "controller": True}

    def put(name, *, cost="", restarts=0, node="crowded", **facts):
        document = pod(name, labels=labels, node=node, **facts)
        document["metadata"] |= {"ownerReferences": [reference], "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost} if cost else {}}
        document["status"]["containerStatuses"] = [{"name": "main", "restartCount": restarts}]
        world.put(document)

    put("better", **better)
    put("worse", **worse)
    put("z", **({"ips": ["10.0.0.9"], "ready": True, "cost": "99"} | {"node": "crowded"}))
    deletions = [action for action in ReplicaSets().decide(Key("default", "web"), world) if isinstance(action, Delete)]
    assert [one.key.name for one in deletions] == ["worse"]


def test_a_replica_set_that_is_being_deleted_neither_makes_nor_adopts_pods(world, pod):
    labels = {"app": "web"}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {}}}
    metadata = {"name": "web", "namespace": "default", "deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["foregroundDeletion"]}
    world.put({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec})
    world.put(pod("orphan", labels=labels))
    actions = ReplicaSets().decide(Key("default", "web"), world)
    assert not any(isinstance(action, (Create, Delete)) for action in actions)
    assert all(action.subresource == "status" for action in actions if isinstance(action, Patch))


@given(st.lists(st.sampled_from(["one", "two", 0, 1, 3, 5, "kill"]), max_size=6), st.integers(0, 5))
def test_whatever_happens_in_whatever_order_the_newest_template_wins(new_world, loop, happenings, seed):
    world = new_world()
    cluster = Cluster(world, loop, seed=seed)
    world.put(deployment(3))
    wanted, image = 3, "one"
    for happening in happenings:
        if happening == "kill":
            for one in world.list(Pod)[:2]:
                world.change(Pod, Key("default", one.metadata.name), {"status": {"phase": "Failed"}})
        elif isinstance(happening, str):
            image = happening
            world.change(Deployment, WEB, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}})
        else:
            wanted = happening
            world.change(Deployment, WEB, {"spec": {"replicas": wanted}})
        cluster.loop.run()
        cluster.step()
    cluster.settle()
    assert cluster.images() == [image] * wanted
    assert cluster.deployment.status.availableReplicas == wanted


def test_a_replication_controller_keeps_adopts_and_releases_pods(world, loop, pod):
    running = loop(world, ReplicationControllers(), ReplicaSets())
    world.put(pod("stray", labels={"app": "old"}))
    template = {"metadata": {"labels": {"app": "old"}}, "spec": {"containers": [{"name": "main"}]}}
    world.put(
        {
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old", "namespace": "default"},
            "spec": {"replicas": 3, "selector": {"app": "old"}, "template": template},
        }
    )  # fmt: skip
    key = Key("default", "old")
    running.run()
    pods = world.list(Pod)
    assert len(pods) == 3 and {(one.metadata.controller.kind, one.metadata.controller.apiVersion) for one in pods} == {("ReplicationController", "v1")}
    world.change(Pod, Key("default", "stray"), {"metadata": {"labels": {"app": "mine"}}})
    running.run()
    assert world.get(Pod, Key("default", "stray")).metadata.controller is None
    assert len(world.list(Pod)) == 4 and world.get(ReplicationController, key).status.replicas == 3
    world.change(ReplicationController, key, {"spec": {"replicas": 0}})
    running.run()
    assert [one.metadata.name for one in world.list(Pod)] == ["stray"] and running.writes_wanted([key]) == []


def test_what_the_server_refuses_is_told_and_forgotten_once_it_does_not(cluster, world):
    world.put(deployment(2))
    cluster.loop.run()
    sets = cluster.controllers[1]
    for one in world.list(Pod):
        world.remove(Pod, Key("default", one.metadata.name))
    (owned,) = world.list(ReplicaSet)
    key = Key("default", owned.metadata.name)
    error = Forbidden('pods "web-abc-x7k2p" is forbidden: no more')
    for action in sets.refused(key, error, world):
        world.perform(action)
    (told,) = sets.refused(key, error, world)
    assert told.message == 'The server refuses: pods "web-abc-" is forbidden: no more', "the condition is written once, and events are of the same words"
    cluster.loop.decide(cluster.controllers[0], WEB)
    found = condition_of(cluster.deployment.status.conditions, "ReplicaFailure")
    assert (found.status, found.reason) == ("True", "FailedCreate") and "no more" in found.message
    cluster.settle()
    assert condition_of(cluster.deployment.status.conditions, "ReplicaFailure") is None
