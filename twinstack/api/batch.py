"""Views of what runs to its end.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from twinstack.api.metadata import Condition, LabelSelector, Object, Time, View
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


class Job(Object, frozen=True):
    """Pods that run to their end."""

    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()
