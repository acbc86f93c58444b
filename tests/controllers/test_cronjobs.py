"""CronJobs in a world in memory."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import CronJob, Job
from twinstack.api.objects import Key
from twinstack.api.times import text_of_time
from twinstack.controllers.cronjobs import SCHEDULED, CronJobs

KEY = Key("default", "tick")


def cron_job(**spec):
    template = {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"parallelism": 2}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "default"},
        "spec": {"schedule": "*/5 * * * *", "jobTemplate": template} | spec,
    }


class Cluster:
    """It is 03:04:05 when a CronJob is made."""

    def __init__(self, world, loop):
        self.world, self.loop = world, loop(world, CronJobs())

    def wait(self, seconds=0):
        self.world.pass_seconds(seconds)
        self.loop.run()
        self.loop.decide(self.loop.controllers[0], KEY)
        self.loop.run()
        assert self.loop.writes_wanted([KEY]) == []

    def end(self, name, type_="Complete"):
        now = text_of_time(self.world.now)
        status = {"conditions": [{"type": type_, "status": "True"}], "completionTime": now}
        self.world.change(Job, Key("default", name), {"status": status})
        self.wait()

    @property
    def jobs(self):
        return [one.metadata.name for one in self.world.list(Job) if one.metadata.deletionTimestamp is None]

    @property
    def status(self):
        return self.world.get(CronJob, KEY).status

    def reasons(self):
        return [one.reason for one in self.world.told]


@pytest.fixture
def cluster(world, loop):
    return Cluster(world, loop)


def test_a_job_is_made_when_its_time_has_come_and_the_next_is_waited_for(cluster, world):
    world.put(cron_job())
    cluster.wait()
    assert cluster.jobs == [] and cluster.loop.after["cronjob-controller", KEY] == 55
    cluster.wait(55)
    (name,) = cluster.jobs
    one = world.document(Job, Key("default", name))
    assert one["metadata"]["labels"] == {"a": "b"} and one["spec"] == {"parallelism": 2}
    assert one["metadata"]["annotations"] == {"c": "d", SCHEDULED: "2026-01-02T03:05:00Z"}
    assert [active.name for active in cluster.status.active] == [name] and cluster.status.lastScheduleTime == "2026-01-02T03:05:00Z"
    cluster.end(name)
    assert not cluster.status.active and cluster.status.lastSuccessfulTime == "2026-01-02T03:05:00Z" and "SawCompletedJob" in cluster.reasons()
    cluster.wait(300)
    assert len(cluster.jobs) == 2


@pytest.mark.parametrize(
    "policy, running",
    [
        pytest.param("Allow", 2, id="they may run at once"),
        pytest.param("Forbid", 1, id="the first is left alone"),
        pytest.param("Replace", 1, id="the first gives way"),
    ],
)
def test_what_becomes_of_one_that_still_runs(cluster, world, policy, running):
    world.put(cron_job(concurrencyPolicy=policy))
    cluster.wait(60)
    (first,) = cluster.jobs
    world.change(Job, Key("default", first), {"metadata": {"finalizers": ["example.com/stay"]}})
    cluster.wait(300)
    assert len(cluster.jobs) == running and (first in cluster.jobs) is (policy != "Replace")
    if policy == "Forbid":
        assert "JobAlreadyActive" in cluster.reasons()
        cluster.end(first)
        assert len(cluster.jobs) == 2, "its time has come, now that nothing is in the way"


def test_a_time_that_is_too_long_past_is_left_out(cluster, world):
    world.put(cron_job(startingDeadlineSeconds=30))
    cluster.wait(120)
    assert cluster.jobs == []
    cluster.wait(240)
    assert len(cluster.jobs) == 1


def test_of_many_missed_times_the_last_counts_and_that_is_told(cluster, world):
    world.put(cron_job())
    cluster.wait(300 * 200)
    (name,) = cluster.jobs
    assert world.document(Job, Key("default", name))["metadata"]["annotations"][SCHEDULED] == "2026-01-02T19:40:00Z"
    assert "TooManyMissedTimes" in cluster.reasons()


def test_a_suspended_one_makes_none_and_takes_up_the_last_time_when_it_is_resumed(cluster, world):
    world.put(cron_job(suspend=True))
    cluster.wait(3600)
    assert cluster.jobs == []
    world.change(CronJob, KEY, {"spec": {"suspend": False}})
    cluster.wait()
    assert len(cluster.jobs) == 1


def test_no_more_finished_jobs_are_kept_than_are_wanted(cluster, world):
    world.put(cron_job(successfulJobsHistoryLimit=2, failedJobsHistoryLimit=0))
    made = []
    for number in range(5):
        cluster.wait(300)
        made.append(next(name for name in cluster.jobs if name not in made))
        cluster.end(made[-1], "Failed" if number == 2 else "Complete")
    assert cluster.jobs == sorted(made[-2:])


def test_another_zone_has_another_time(cluster, world):
    world.put(cron_job(schedule="30 4 * * *", timeZone="Europe/Berlin"))
    cluster.wait(1600)
    assert len(cluster.jobs) == 1 and cluster.status.lastScheduleTime == "2026-01-02T03:30:00Z"
