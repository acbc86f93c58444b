"""Jobs in a world in memory, with a kubelet that runs pods until they end as the test says."""

from __future__ import annotations

import pytest

from twinstack.api.errors import Conflict
from twinstack.api.kinds import Job, Pod, condition_of
from twinstack.api.objects import Key
from twinstack.controllers.jobs import TRACKING, FinishedJobs, Jobs

KEY = Key("default", "sum")


def job(**spec):
    template = {"metadata": {"labels": {"job": "sum"}}, "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}
    whole = {"completions": 1, "parallelism": 1, "backoffLimit": 2, "selector": {"matchLabels": {"job": "sum"}}, "template": template, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum", "namespace": "default"}, "spec": whole}


class Cluster:
    def __init__(self, world, loop):
        self.world, self.controllers = world, (Jobs(), FinishedJobs())
        self.loop = loop(world, *self.controllers)
        self.most = 0

    def settle(self):
        self.loop.run(between=self.watch)
        for controller in self.controllers:  # their time may have come
            self.loop.decide(controller, KEY)
        self.loop.run(between=self.watch)

    def watch(self):
        self.most = max(self.most, len(self.running))
        for one in self.world.list(Pod):
            if one.metadata.deletionTimestamp and not one.metadata.finalizers:
                self.world.remove(Pod, Key("default", one.metadata.name))

    @property
    def running(self):
        return [one for one in self.world.list(Pod) if one.status.phase in ("Pending", "Running") and not one.metadata.deletionTimestamp]

    def end(self, phase, count=1):
        for one in self.running[:count]:
            self.world.change(Pod, Key("default", one.metadata.name), {"status": {"phase": phase}})
        self.settle()

    @property
    def status(self):
        return self.world.get(Job, KEY).status

    def condition(self, type_):
        found = condition_of(self.status.conditions, type_)
        return (found.status, found.reason) if found else None

    def counts(self):
        return self.status.active, self.status.succeeded, self.status.failed


@pytest.fixture
def cluster(world, loop):
    return Cluster(world, loop)


def test_so_many_pods_succeed_and_no_more_run_at_once_than_may(cluster, world):
    world.put(job(completions=3, parallelism=2))
    cluster.settle()
    assert cluster.counts() == (2, 0, 0) and cluster.status.startTime
    cluster.end("Succeeded")
    assert cluster.counts() == (2, 1, 0)
    cluster.end("Succeeded")
    assert cluster.counts() == (1, 2, 0), "no more than are missing"
    cluster.end("Succeeded")
    assert cluster.counts() == (0, 3, 0) and cluster.most == 2
    assert cluster.condition("Complete") == ("True", "CompletionsReached") == cluster.condition("SuccessCriteriaMet")
    assert cluster.status.completionTime and cluster.status.uncountedTerminatedPods is None
    assert all(TRACKING not in one.metadata.finalizers for one in world.list(Pod)) and len(world.list(Pod)) == 3
    assert cluster.loop.writes_wanted([KEY]) == []


def test_without_a_count_the_first_success_is_enough_once_all_have_ended(cluster, world):
    world.put(job(completions=None, parallelism=3))
    cluster.settle()
    cluster.end("Succeeded")
    assert cluster.counts() == (2, 1, 0) and cluster.condition("Complete") is None
    cluster.end("Succeeded", 2)
    assert cluster.counts() == (0, 3, 0) and cluster.condition("Complete")


def test_failures_are_tried_again_ever_later_until_there_are_too_many(cluster, world):
    world.put(job())
    cluster.settle()
    for failures, wait in ((1, 10), (2, 20)):
        cluster.end("Failed")
        assert cluster.counts() == (0, 0, failures)
        assert cluster.loop.after["job-controller", KEY] == wait
        world.pass_seconds(wait)
        cluster.settle()
        assert cluster.counts() == (1, 0, failures)
    cluster.end("Failed")
    assert cluster.counts() == (0, 0, 3)
    assert cluster.condition("Failed") == ("True", "BackoffLimitExceeded")
    world.pass_seconds(1000)
    cluster.settle()
    assert cluster.running == [] and cluster.loop.writes_wanted([KEY]) == []


def test_failures_whose_pods_are_gone_make_the_next_one_wait_all_the_same(cluster, world):
    world.put(job())
    cluster.settle()
    cluster.end("Failed")
    (first,) = world.list(Pod)
    world.pass_seconds(10)
    cluster.settle()
    world.remove(Pod, Key(first.metadata.namespace, first.metadata.name))
    cluster.end("Failed")
    assert cluster.counts() == (0, 0, 2) and len(world.list(Pod)) == 1
    assert cluster.loop.after["job-controller", KEY] == 20


def test_a_failure_whose_pod_is_gone_at_once_makes_the_next_one_wait_too(cluster, world):
    world.put(job())
    cluster.settle()
    cluster.end("Failed")
    for one in world.list(Pod):
        world.remove(Pod, Key(one.metadata.namespace, one.metadata.name))
    cluster.settle()
    assert world.list(Pod) == [] and cluster.loop.after["job-controller", KEY] == 10
    world.pass_seconds(10)
    cluster.settle()
    assert cluster.counts() == (1, 0, 1)


def test_time_runs_out(cluster, world):
    world.put(job(activeDeadlineSeconds=30))
    cluster.settle()
    assert cluster.loop.after["job-controller", KEY] == 30
    world.pass_seconds(30)
    cluster.settle()
    assert cluster.condition("Failed") == ("True", "DeadlineExceeded") and cluster.counts() == (0, 0, 1)


def test_containers_that_restart_count_too(cluster, world):
    one = job()
    one["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    world.put(one)
    cluster.settle()
    (pod,) = cluster.running
    world.change(Pod, Key("default", pod.metadata.name), {"status": {"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 2}]}})
    cluster.settle()
    assert cluster.condition("Failed") == ("True", "BackoffLimitExceeded")


def test_a_pod_that_somebody_deletes_counts_as_failed_and_one_too_many_does_not(cluster, world):
    world.put(job(completions=4, parallelism=2))
    cluster.settle()
    name = cluster.running[0].metadata.name
    world.change(Pod, Key("default", name), {"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}})
    cluster.settle()
    assert cluster.status.failed == 1
    world.pass_seconds(10)
    cluster.settle()
    world.change(Job, KEY, {"spec": {"parallelism": 1}})
    cluster.settle()
    assert cluster.counts() == (1, 0, 1)


def test_a_suspended_job_runs_nothing_and_goes_on_when_it_is_resumed(cluster, world):
    world.put(job(suspend=True))
    cluster.settle()
    assert cluster.counts() == (0, 0, 0) and cluster.condition("Suspended") == ("True", "JobSuspended") and cluster.status.startTime is None
    world.change(Job, KEY, {"spec": {"suspend": False}})
    cluster.settle()
    assert cluster.counts() == (1, 0, 0) and cluster.condition("Suspended") == ("False", "JobResumed") and cluster.status.startTime
    world.change(Job, KEY, {"spec": {"suspend": True}})
    cluster.settle()
    assert cluster.counts() == (0, 0, 0) and cluster.running == []


def test_a_finished_job_goes_when_it_says_so(cluster, world):
    world.put(job(ttlSecondsAfterFinished=60))
    cluster.settle()
    cluster.end("Succeeded")
    assert cluster.loop.after["ttl-after-finished-controller", KEY] == 60
    world.pass_seconds(60)
    cluster.settle()
    assert world.get(Job, KEY).metadata.deletionTimestamp


def test_pods_of_a_job_that_is_gone_are_let_go(cluster, world):
    world.put(job())
    cluster.settle()
    (pod,) = cluster.running
    actions = Jobs().decide(KEY, world)
    assert actions == []
    world.remove(Job, KEY)
    cluster.settle()
    assert world.get(Pod, Key("default", pod.metadata.name)).metadata.finalizers == []


def test_an_interruption_at_any_write_loses_and_doubles_no_count(new_world, loop):
    for most in range(1, 40):
        world = new_world()
        world.put(job(completions=2, parallelism=2))
        cluster = Cluster(world, loop)
        cluster.settle()
        for one in cluster.running:
            world.change(Pod, Key("default", one.metadata.name), {"status": {"phase": "Succeeded"}})
        left = most
        while left > 0:
            actions = Jobs().decide(KEY, world)
            if not actions:
                break
            for action in actions[:left]:
                try:
                    world.perform(action)
                except Conflict:
                    break
            left -= len(actions)
        cluster.settle()
        assert cluster.counts() == (0, 2, 0) and len(world.list(Pod)) == 2
