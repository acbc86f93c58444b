"""StatefulSets in a world in memory, with a kubelet that makes one pod ready at a time, or ends one that is being deleted."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import ControllerRevision, Pod, StatefulSet
from twinstack.api.objects import Key
from twinstack.api.times import text_of_time
from twinstack.controllers.statefulsets import POD_INDEX, POD_NAME, REVISION, StatefulSets
from twinstack.rules.workloads import active, ready

KEY = Key("default", "db")


def stateful_set(replicas=3, *, image="a", **spec):
    template = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    whole = {"replicas": replicas, "selector": {"matchLabels": {"app": "db"}}, "template": template, "serviceName": "db", **spec}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default"}, "spec": whole}


class Cluster:
    def __init__(self, world, loop):
        self.world, self.loop = world, loop(world, StatefulSets())
        self.history = []
        self.most_away = 0

    def note(self):
        names = [one.metadata.name for one in self.world.list(Pod) if active(one)]
        if not self.history or self.history[-1] != names:
            self.history.append(names)
        away = sum(1 for one in self.world.list(Pod) if not (active(one) and ready(one)))
        self.most_away = max(self.most_away, away)

    def step(self):
        for one in self.world.list(Pod):
            key = Key("default", one.metadata.name)
            if one.metadata.deletionTimestamp:
                self.world.remove(Pod, key)
                return True
            if active(one) and not ready(one) and one.spec.containers[0].image != "broken":
                condition = {"type": "Ready", "status": "True", "lastTransitionTime": text_of_time(self.world.now)}
                self.world.change(Pod, key, {"spec": {"nodeName": "n1"}, "status": {"phase": "Running", "conditions": [condition]}})
                return True
        return False

    def settle(self):
        self.history.clear()
        self.most_away = 0
        self.loop.run(between=self.note)
        while self.step():
            self.loop.run(between=self.note)
        assert self.loop.writes_wanted([KEY]) == []
        return {one.metadata.name: one.spec.containers[0].image for one in self.world.list(Pod)}

    @property
    def status(self):
        return self.world.get(StatefulSet, KEY).status


@pytest.fixture
def cluster(world, loop):
    return Cluster(world, loop)


def test_pods_have_names_and_come_one_after_another(cluster, world):
    world.put(stateful_set())
    assert list(cluster.settle()) == ["db-0", "db-1", "db-2"]
    assert [len(names) for names in cluster.history] == [0, 1, 2, 3] and cluster.most_away == 1
    pod = world.get(Pod, Key("default", "db-1"))
    assert (pod.spec.hostname, pod.spec.subdomain, pod.labels[POD_NAME], pod.labels[POD_INDEX]) == ("db-1", "db", "db-1", "1")
    status = cluster.status
    assert (status.replicas, status.readyReplicas, status.availableReplicas, status.currentReplicas, status.updatedReplicas) == (3, 3, 3, 3, 3)
    assert status.currentRevision == status.updateRevision == pod.labels[REVISION]


def test_parallel_waits_for_none(cluster, world):
    world.put(stateful_set(podManagementPolicy="Parallel"))
    cluster.settle()
    assert cluster.most_away == 3
    world.change(StatefulSet, KEY, {"spec": {"replicas": 0}})
    assert cluster.settle() == {}


def test_they_go_from_the_last_on_and_one_that_is_lost_comes_again_under_its_name(cluster, world):
    world.put(stateful_set(ordinals={"start": 5}))
    assert list(cluster.settle()) == ["db-5", "db-6", "db-7"]
    before = world.get(Pod, Key("default", "db-6")).metadata.uid
    world.remove(Pod, Key("default", "db-6"))
    assert list(cluster.settle()) == ["db-5", "db-6", "db-7"]
    assert world.get(Pod, Key("default", "db-6")).metadata.uid != before
    world.change(StatefulSet, KEY, {"spec": {"replicas": 1}})
    cluster.settle()
    assert cluster.history[-3:] == [["db-5", "db-6", "db-7"], ["db-5", "db-6"], ["db-5"]]


def test_one_that_failed_gives_way_to_another(cluster, world):
    world.put(stateful_set(1))
    cluster.settle()
    world.change(Pod, Key("default", "db-0"), {"status": {"phase": "Failed"}})
    cluster.settle()
    assert world.get(Pod, Key("default", "db-0")).status.phase == "Running"
    assert {"RecreatingFailedPod", "SuccessfulCreate"} == {tell.reason for tell in world.told}


def test_another_template_replaces_pods_from_the_last_on_down_to_the_partition(cluster, world):
    world.put(stateful_set(updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}))
    cluster.settle()
    first = cluster.status.currentRevision
    world.change(StatefulSet, KEY, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "b"}]}}}})
    assert cluster.settle() == {"db-0": "a", "db-1": "b", "db-2": "b"}
    assert cluster.most_away == 1 and cluster.history[1] == ["db-0", "db-1"]
    assert (cluster.status.currentRevision, cluster.status.currentReplicas, cluster.status.updatedReplicas) == (first, 1, 2)
    world.remove(Pod, Key("default", "db-0"))
    assert cluster.settle()["db-0"] == "a", "below the partition the template stays"
    world.change(StatefulSet, KEY, {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})
    assert set(cluster.settle().values()) == {"b"}
    assert cluster.status.currentRevision == cluster.status.updateRevision != first


def test_as_many_as_may_be_away_are_replaced_at_once(cluster, world):
    world.put(stateful_set(4, podManagementPolicy="Parallel", updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}))
    cluster.settle()
    world.change(StatefulSet, KEY, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "b"}]}}}})
    assert set(cluster.settle().values()) == {"b"} and cluster.most_away == 2


def test_on_delete_waits_for_somebody_to_delete(cluster, world):
    world.put(stateful_set(2, updateStrategy={"type": "OnDelete"}))
    cluster.settle()
    world.change(StatefulSet, KEY, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "b"}]}}}})
    assert set(cluster.settle().values()) == {"a"}
    world.remove(Pod, Key("default", "db-0"))
    assert cluster.settle() == {"db-0": "b", "db-1": "a"}


def test_templates_are_kept_numbered_and_forgotten(cluster, world):
    world.put(stateful_set(1, revisionHistoryLimit=1))
    for image in ("a", "b", "c", "a"):
        world.change(StatefulSet, KEY, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
        cluster.settle()
    kept = {one.data["spec"]["template"]["spec"]["containers"][0]["image"]: one.revision for one in world.list(ControllerRevision)}
    assert kept == {"c": 3, "a": 4}
    assert {one.data["spec"]["template"]["$patch"] for one in world.list(ControllerRevision)} == {"replace"}


def test_orphans_of_its_name_are_adopted(cluster, world, pod):
    world.put(pod("db-0", labels={"app": "db"}, ips=["10.0.0.1"], ready=True))
    world.put(pod("other-0", labels={"app": "db"}))
    world.put(stateful_set(1, updateStrategy={"type": "OnDelete"}))
    cluster.settle()
    assert world.get(Pod, Key("default", "db-0")).metadata.controller.kind == "StatefulSet"
    assert world.get(Pod, Key("default", "other-0")).metadata.controller is None


def test_a_pod_that_has_not_been_ready_for_long_enough_holds_the_next_one_up(cluster, world):
    world.put(stateful_set(2, minReadySeconds=10))
    assert list(cluster.settle()) == ["db-0"]
    assert cluster.loop.after["statefulset-controller", KEY] == 10
    world.pass_seconds(10)
    cluster.loop.decide(StatefulSets(), KEY)
    assert list(cluster.settle()) == ["db-0", "db-1"]
