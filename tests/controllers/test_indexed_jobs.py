"""Jobs whose pods are numbered, and what failures mean for them, in a world in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.kinds import Job, Pod, condition_of
from twinstack.api.objects import Key
from twinstack.controllers.jobs import TRACKING, Jobs
from twinstack.rules.indexes import INDEX, index_of, parse_indexes, text_of_indexes

KEY = Key("default", "sum")


def job(completions=3, parallelism=3, **spec):
    template = {"metadata": {"labels": {"job": "sum"}}, "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}
    whole = {"completionMode": "Indexed", "completions": completions, "parallelism": parallelism, "backoffLimit": 100, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum", "namespace": "default"}, "spec": whole | spec}


class Cluster:
    def __init__(self, world, loop):
        self.world, self.loop = world, loop(world, Jobs())

    def settle(self):
        for _ in range(3):
            self.loop.run()
            self.loop.decide(self.loop.controllers[0], KEY)
            for one in self.world.list(Pod):
                if one.metadata.deletionTimestamp and not one.metadata.finalizers:
                    self.world.remove(Pod, Key("default", one.metadata.name))
        assert self.loop.writes_wanted([KEY]) == []

    @property
    def running(self):
        live = [one for one in self.world.list(Pod) if one.status.phase in ("Pending", "Running") and not one.metadata.deletionTimestamp]
        return {index_of(one): one for one in live}

    def end(self, index, phase="Succeeded", *, code=1, wait=1000, **status):
        ended = {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}]} if phase == "Failed" else {}
        self.world.change(Pod, Key("default", self.running[index].metadata.name), {"status": {"phase": phase} | ended | status})
        self.settle()
        self.world.pass_seconds(wait)
        self.settle()

    @property
    def status(self):
        return self.world.get(Job, KEY).status

    @property
    def end_reason(self):
        found = (condition_of(self.status.conditions, type_) for type_ in ("Complete", "Failed"))
        return next(((one.type, one.reason) for one in found if one), None)


@pytest.fixture
def cluster(world, loop):
    return Cluster(world, loop)


def test_each_index_has_a_pod_of_its_own_that_knows_its_number(cluster, world):
    world.put(job(completions=5, parallelism=2))
    cluster.settle()
    assert sorted(cluster.running) == [0, 1]
    document = world.document(Pod, Key("default", cluster.running[1].metadata.name))
    assert document["metadata"]["labels"][INDEX] == document["metadata"]["annotations"][INDEX] == "1"
    assert document["spec"]["hostname"] == "sum-1"
    (number,) = document["spec"]["containers"][0]["env"]
    assert number["name"] == "JOB_COMPLETION_INDEX" and INDEX in number["valueFrom"]["fieldRef"]["fieldPath"]
    cluster.end(1)
    assert sorted(cluster.running) == [0, 2] and (cluster.status.completedIndexes, cluster.status.succeeded) == ("1", 1)
    for index in (2, 3, 0, 4):
        cluster.end(index)
    assert (cluster.status.completedIndexes, cluster.status.succeeded) == ("0-4", 5) and cluster.end_reason == ("Complete", "CompletionsReached")
    assert all(TRACKING not in one.metadata.finalizers for one in world.list(Pod))


def test_an_index_that_failed_is_tried_again_and_fails_for_good_after_its_own_limit(cluster, world):
    world.put(job(completions=2, backoffLimitPerIndex=1))
    cluster.settle()
    cluster.end(0, "Failed", wait=0)
    assert sorted(cluster.running) == [1], "it waits, and the other does not"
    world.pass_seconds(10)
    cluster.settle()
    assert sorted(cluster.running) == [0, 1] and cluster.status.failedIndexes == ""
    cluster.end(0, "Failed")
    assert cluster.status.failedIndexes == "0" and sorted(cluster.running) == [1]
    cluster.end(1)
    assert cluster.end_reason == ("Failed", "FailedIndexes") and cluster.status.completedIndexes == "1"
    assert all(TRACKING not in one.metadata.finalizers for one in world.list(Pod))


def test_too_many_failed_indexes_end_the_job_and_its_other_pods(cluster, world):
    world.put(job(completions=4, parallelism=4, backoffLimitPerIndex=0, maxFailedIndexes=1))
    cluster.settle()
    cluster.end(0, "Failed")
    assert cluster.end_reason is None
    cluster.end(2, "Failed")
    assert cluster.end_reason == ("Failed", "MaxFailedIndexesExceeded") and not cluster.running


@pytest.mark.parametrize(
    "rule, end, failed, reason",
    [
        pytest.param({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}, {"code": 42}, 3, ("Failed", "PodFailurePolicy"), id="the Job"),
        pytest.param({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}, {"code": 41}, 1, None, id="another code: it counts"),
        pytest.param({"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [1]}}, {"code": 2}, 3, ("Failed", "PodFailurePolicy"), id="not in"),
        pytest.param({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [42]}}, {"code": 42}, 0, None, id="nothing at all"),
        pytest.param(
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"conditions": [{"type": "DisruptionTarget", "status": "True"}]},
            0,
            None,
            id="nothing, as it was driven away",
        ),
    ],
)
def test_what_a_failure_means_is_said_by_rules(cluster, world, rule, end, failed, reason):
    world.put(job(podFailurePolicy={"rules": [rule]}, podReplacementPolicy="Failed"))
    cluster.settle()
    cluster.end(0, "Failed", **end)
    assert (cluster.status.failed, cluster.end_reason) == (failed, reason)
    assert bool(cluster.running.get(0)) is (reason is None), "it is tried again unless the Job is over"


def test_a_rule_may_give_up_one_index(cluster, world):
    rule = {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}
    world.put(job(backoffLimitPerIndex=5, podFailurePolicy={"rules": [rule]}, podReplacementPolicy="Failed"))
    cluster.settle()
    cluster.end(1, "Failed", code=42)
    assert cluster.status.failedIndexes == "1" and sorted(cluster.running) == [0, 2]


@pytest.mark.parametrize(
    "rules, first, reason",
    [
        pytest.param([{"succeededIndexes": "0,2"}], (0, 2), ("Complete", "SuccessPolicy"), id="these indexes"),
        pytest.param([{"succeededCount": 2}], (1, 2), ("Complete", "SuccessPolicy"), id="so many"),
        pytest.param([{"succeededIndexes": "0,2", "succeededCount": 1}], (2,), ("Complete", "SuccessPolicy"), id="one of these"),
        pytest.param([{"succeededIndexes": "0,2"}], (1, 2), None, id="not these"),
    ],
)
def test_enough_has_succeeded_when_a_rule_says_so(cluster, world, rules, first, reason):
    world.put(job(successPolicy={"rules": rules}))
    cluster.settle()
    for index in first:
        cluster.end(index)
    assert cluster.end_reason == reason and bool(cluster.running) is (reason is None)


def test_a_pod_that_is_going_is_replaced_when_it_is_over_if_the_job_says_so(cluster, world):
    world.put(job(completions=1, parallelism=1, podReplacementPolicy="Failed"))
    cluster.settle()
    name = cluster.running[0].metadata.name
    world.change(Pod, Key("default", name), {"spec": {"nodeName": "node1"}, "metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}})
    cluster.settle()
    assert not cluster.running and cluster.status.failed == 0
    world.change(Pod, Key("default", name), {"status": {"phase": "Failed"}})
    world.pass_seconds(10)
    cluster.settle()
    assert sorted(cluster.running) == [0] and cluster.status.failed == 1


def test_another_controllers_job_is_left_alone(cluster, world):
    world.put(job(managedBy="example.com/other"))
    cluster.settle()
    assert world.writes == []


@given(st.sets(st.integers(0, 40)))
def test_indexes_survive_their_text(numbers):
    assert parse_indexes(text_of_indexes(numbers)) == numbers
