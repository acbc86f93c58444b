"""A CronJob has a Job for each of its times, when it is not too late, nor another one in the way.

The invariant: for the last time of the schedule that has come there is a Job, named after that minute, unless the CronJob is suspended, the time is
further past than ``startingDeadlineSeconds``, or an earlier Job runs and ``concurrencyPolicy`` is Forbid; with Replace that one is deleted first.
Of finished Jobs no more are kept than the history limits say. The status lists the Jobs that run, and when it last was time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from twinstack.api.kinds import CronJob, Job, condition_of
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time, text_of_time
from twinstack.api.world import Action, After, Create, Delete, Patch, Tell, Watch, World, controller_key, own_key
from twinstack.rules.schedules import MANY, ScheduleError, last_time, times_after
from twinstack.rules.workloads import controlled_by, owner_reference, references

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_RESOURCE, _JOBS = resource_of(CronJob), resource_of(Job)
_KEPT = {"Complete": 3, "Failed": 1}


class CronJobs:
    """Jobs for CronJobs."""

    name = "cronjob-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(CronJob, own_key), Watch(Job, controller_key("CronJob")))

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(CronJob, key)
        if one is None:
            return []
        jobs = [job for job in world.owned(Job, one.metadata.uid) if controlled_by(job, one.metadata.uid)]
        running = [job for job in jobs if _end_of(job) is None and job.metadata.deletionTimestamp is None]
        status: Document = {}
        actions: list[Action] = []
        if one.metadata.deletionTimestamp is None:
            actions += _forgotten(one, jobs)
            if not one.spec.suspend:
                actions += _due(one, jobs, running, status, world)
        listed = [document_of(active) for active in one.status.active or ()]
        wanted = [_reference(job) for job in running]
        if wanted != listed:
            status["active"] = wanted or None
            actions += [Tell(one, "Normal", "SawCompletedJob", f"{job.metadata.name} has ended") for job in jobs if _end_of(job) and _reference(job) in listed]
        if (latest := _latest_success(jobs)) and latest > (one.status.lastSuccessfulTime or ""):
            status["lastSuccessfulTime"] = latest
        if status:
            actions.append(Patch(_RESOURCE, key, {"status": status}, subresource="status", uid=one.metadata.uid))
        return actions


def _due(one: CronJob, jobs: Sequence[Job], running: Sequence[Job], status: Document, world: World) -> Iterator[Action]:
    """What the last time that has come asks for, and when to look again."""
    spec, now = one.spec, world.now
    after = parse_time(one.status.lastScheduleTime) or parse_time(one.metadata.creationTimestamp) or now
    deadline = spec.startingDeadlineSeconds
    try:
        time, missed = last_time(spec.schedule, spec.timeZone, after if deadline is None else max(after, now - timedelta(seconds=deadline)), now)
        following = next(times_after(spec.schedule, spec.timeZone, now), None)
    except ScheduleError as error:
        yield Tell(one, "Warning", "UnparseableSchedule", str(error))
        return
    if following is not None:
        yield After((following - now).total_seconds())
    if missed > MANY:
        yield Tell(one, "Warning", "TooManyMissedTimes", f"More than {MANY} times were missed; the last one counts")
    if time is None:
        return
    name = f"{one.metadata.name}-{int(time.timestamp()) // 60}"
    made = next((job for job in jobs if job.metadata.name == name), None)
    if made is None:
        others = [job for job in running if job.metadata.name != name]
        if others and spec.concurrencyPolicy == "Forbid":
            yield Tell(one, "Normal", "JobAlreadyActive", f"{others[0].metadata.name} still runs, so there is none for {text_of_time(time)}")
            return
        if others and spec.concurrencyPolicy == "Replace":
            yield from (_deletion(job) for job in others)
            yield from (Tell(one, "Normal", "SuccessfulDelete", f"Deleted {job.metadata.name}") for job in others)
        yield Create(_JOBS, _job_of(one, name, time))
        yield Tell(one, "Normal", "SuccessfulCreate", f"Made {name}")
    status["lastScheduleTime"] = text_of_time(time)


def _job_of(one: CronJob, name: str, time: datetime) -> Document:
    template = one.spec.jobTemplate
    metadata: Document = {
        "name": name,
        "namespace": one.metadata.namespace,
        "labels": dict(template.metadata.labels or {}),
        "annotations": {**(template.metadata.annotations or {}), SCHEDULED: text_of_time(time)},
        "ownerReferences": references([owner_reference(one)]),
    }
    return {"apiVersion": _JOBS.api_version, "kind": _JOBS.kind, "metadata": metadata, "spec": template.spec}


def _forgotten(one: CronJob, jobs: Iterable[Job]) -> Iterator[Action]:
    """Deletions of the oldest finished Jobs, beyond those that are kept."""
    limits = {"Complete": one.spec.successfulJobsHistoryLimit, "Failed": one.spec.failedJobsHistoryLimit}
    for end, limit in limits.items():
        ended = [job for job in jobs if _end_of(job) == end and job.metadata.deletionTimestamp is None]
        ended.sort(key=lambda job: (job.status.startTime or job.metadata.creationTimestamp or "", job.metadata.name))
        kept = _KEPT[end] if limit is None else limit
        yield from (_deletion(job) for job in ended[: max(0, len(ended) - kept)])


def _deletion(job: Job) -> Delete:
    return Delete(_JOBS, Key(job.metadata.namespace, job.metadata.name), uid=job.metadata.uid, propagation_policy="Background")


def _end_of(job: Job) -> str | None:
    """By which condition the Job has ended."""
    found = (condition_of(job.status.conditions, type_) for type_ in _KEPT)
    return next((one.type for one in found if one is not None and one.status == "True"), None)


def _latest_success(jobs: Iterable[Job]) -> str:
    return max((job.status.completionTime or "" for job in jobs if _end_of(job) == "Complete"), default="")


def _reference(job: Job) -> Document:
    return {"apiVersion": _JOBS.api_version, "kind": _JOBS.kind, "namespace": job.metadata.namespace, "name": job.metadata.name, "uid": job.metadata.uid}
