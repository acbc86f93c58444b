"""Views of what runs to its end.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from typing import Any

from twinstack.api.metadata import Condition, LabelSelector, Object, ObjectMeta, ObjectReference, Time, View
from twinstack.api.workloads import PodTemplate


class JobSpec(View, frozen=True):
    """How many pods are to succeed, how many may run at once and fail, and until when."""

    parallelism: int | None = None
    completions: int | None = None
    activeDeadlineSeconds: int | None = None
    backoffLimit: int | None = None
    selector: LabelSelector | None = None
    template: PodTemplate = PodTemplate()
    ttlSecondsAfterFinished: int | None = None
    suspend: bool | None = None
    completionMode: str = "NonIndexed"
    podReplacementPolicy: str = "TerminatingOrFailed"
    podFailurePolicy: dict[str, Any] | None = None
    successPolicy: dict[str, Any] | None = None
    backoffLimitPerIndex: int | None = None
    maxFailedIndexes: int | None = None
    managedBy: str | None = None


class UncountedTerminatedPods(View, frozen=True):
    """Pods that have ended, by uid, and are not in the counts yet."""

    succeeded: list[str] | None = None
    failed: list[str] | None = None


class JobStatus(View, frozen=True):
    """How many have ended how."""

    conditions: list[Condition] | None = None
    startTime: Time | None = None
    completionTime: Time | None = None
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    ready: int | None = None
    terminating: int | None = None
    uncountedTerminatedPods: UncountedTerminatedPods | None = None
    completedIndexes: str | None = None
    failedIndexes: str | None = None


class Job(Object, frozen=True):
    """Pods that run to their end."""

    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class JobTemplate(View, frozen=True):
    """What a Job is made of."""

    metadata: ObjectMeta = ObjectMeta()
    spec: dict[str, Any] = {}


class CronJobSpec(View, frozen=True):
    """When Jobs are made, how many may run at once, and how many are kept."""

    schedule: str = ""
    timeZone: str | None = None
    startingDeadlineSeconds: int | None = None
    concurrencyPolicy: str = "Allow"
    suspend: bool | None = None
    jobTemplate: JobTemplate = JobTemplate()
    successfulJobsHistoryLimit: int | None = None
    failedJobsHistoryLimit: int | None = None


class CronJobStatus(View, frozen=True):
    """The Jobs that run, and when it last was time."""

    active: list[ObjectReference] | None = None
    lastScheduleTime: Time | None = None
    lastSuccessfulTime: Time | None = None


class CronJob(Object, frozen=True):
    """Jobs at set times."""

    spec: CronJobSpec = CronJobSpec()
    status: CronJobStatus = CronJobStatus()
