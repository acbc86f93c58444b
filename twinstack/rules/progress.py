"""What a Deployment's status says: counts, whether enough pods are available, whether it gets on.

Rule of this file: statuses of ReplicaSets in, status of the Deployment out.

Theory. ``kubectl rollout status`` reads it: the observed generation, the counts, and in the condition Progressing the
reason ``ProgressDeadlineExceeded``. It is *complete* when all pods are of the new template and available, *progressing*
when any count got better since the last status, *timed out* when none has for ``progressDeadlineSeconds``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from twinstack.api.kinds import Condition, Deployment, DeploymentStatus, ReplicaSetStatus, condition_of
from twinstack.api.objects import Document, document_of
from twinstack.api.times import parse_time
from twinstack.rules.workloads import with_condition

AVAILABLE, PROGRESSING, FAILURE = "Available", "Progressing", "ReplicaFailure"
_NEW_AVAILABLE, _UPDATED, _EXCEEDED = "NewReplicaSetAvailable", "ReplicaSetUpdated", "ProgressDeadlineExceeded"
_NO_DEADLINE = 2**31 - 1
_COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")


class Report(NamedTuple):
    """The status, and after how many seconds it may change though nothing happens."""

    status: DeploymentStatus
    seconds_left: float | None


def is_saturated(status: ReplicaSetStatus, size: int, replicas: int) -> bool:
    """Whether the new ReplicaSet has all pods that are wanted, available."""
    return size == replicas == status.availableReplicas


def is_complete(status: DeploymentStatus, replicas: int) -> bool:
    """Whether all pods are of the new template and available, and no other is left."""
    return status.updatedReplicas == status.replicas == status.availableReplicas == replicas


def status_of(
    one: Deployment,
    parts: Sequence[tuple[ReplicaSetStatus, int]],
    new: ReplicaSetStatus | None,
    *,
    new_name: str,
    unavailable: int,
    now: datetime,
) -> Report:
    """The status of a Deployment whose ReplicaSets have these statuses and wanted sizes."""
    before = one.status
    replicas = 1 if one.spec.replicas is None else one.spec.replicas
    available = sum(status.availableReplicas for status, _ in parts)
    counts = DeploymentStatus(
        observedGeneration=one.metadata.generation,
        replicas=sum(status.replicas for status, _ in parts),
        updatedReplicas=new.replicas if new else 0,
        readyReplicas=sum(status.readyReplicas for status, _ in parts),
        availableReplicas=available,
        unavailableReplicas=max(0, sum(size for _, size in parts) - available),
        collisionCount=before.collisionCount,
    )
    conditions = list(before.conditions or ())
    wanted = replicas - unavailable
    if available >= wanted:
        conditions = _with(conditions, AVAILABLE, "True", "MinimumReplicasAvailable", "Enough pods are available.", now)
    else:
        conditions = _with(conditions, AVAILABLE, "False", "MinimumReplicasUnavailable", f"Fewer than {wanted} pods are available.", now)
    conditions = _failing(conditions, [new, *(status for status, _ in parts)], now)
    conditions, left = _progress(one, conditions, counts, replicas, f'ReplicaSet "{new_name}"' if new_name else "The new ReplicaSet", now)
    status = DeploymentStatus(
        observedGeneration=counts.observedGeneration,
        replicas=counts.replicas,
        updatedReplicas=counts.updatedReplicas,
        readyReplicas=counts.readyReplicas,
        availableReplicas=counts.availableReplicas,
        unavailableReplicas=counts.unavailableReplicas,
        collisionCount=counts.collisionCount,
        conditions=conditions,
    )
    return Report(status, left)


def document_of_status(status: DeploymentStatus) -> Document:
    """The status as a merge patch has it: counts that are zero are said, too."""
    document = document_of(status)
    for name in _COUNTS:
        document.setdefault(name, 0)
    return document


def _failing(conditions: list[Condition], parts: Sequence[ReplicaSetStatus | None], now: datetime) -> list[Condition]:
    """The first failure that a ReplicaSet tells of, the new one's before others'; none when there is none."""
    found = next((one for part in parts if part for one in part.conditions or () if one.type == FAILURE and one.status == "True"), None)
    if found is None:
        return [one for one in conditions if one.type != FAILURE]
    return _with(conditions, FAILURE, "True", found.reason, found.message, now)


def _with(conditions: list[Condition], type_: str, status: str, reason: str, message: str, now: datetime, *, touch: bool = False) -> list[Condition]:
    return with_condition(conditions, type_, status, reason, message, now, touch=touch, update_time=True)


def _progress(
    one: Deployment, conditions: list[Condition], after: DeploymentStatus, replicas: int, subject: str, now: datetime
) -> tuple[list[Condition], float | None]:
    before, deadline = one.status, one.spec.progressDeadlineSeconds
    current = condition_of(conditions, PROGRESSING)
    if deadline is None or deadline >= _NO_DEADLINE:
        return [condition for condition in conditions if condition.type != PROGRESSING], None
    if one.spec.paused:
        if current is not None and current.reason == _EXCEEDED:
            return conditions, None
        return _with(conditions, PROGRESSING, "Unknown", "DeploymentPaused", "The Deployment is paused.", now), None
    if current is not None and current.reason == "DeploymentPaused":
        conditions = _with(conditions, PROGRESSING, "Unknown", "DeploymentResumed", "The Deployment goes on.", now)
        return conditions, float(deadline)
    if is_complete(after, replicas):
        return _with(conditions, PROGRESSING, "True", _NEW_AVAILABLE, f"{subject} has all its pods available.", now), None
    settled = current is not None and current.reason == _NEW_AVAILABLE
    if settled and after.replicas == after.updatedReplicas:
        return conditions, None  # it was complete; pods that die or are added later are not a rollout
    if current is None or settled or _got_better(before, after):
        conditions = _with(conditions, PROGRESSING, "True", _UPDATED, f"{subject} is getting its pods.", now, touch=True)
        return conditions, float(deadline)
    if current.reason == _EXCEEDED:
        return conditions, None
    since = parse_time(current.lastUpdateTime or current.lastTransitionTime) or now
    left = deadline - (now - since).total_seconds()
    if left > 0:
        return conditions, left
    return _with(conditions, PROGRESSING, "False", _EXCEEDED, f"{subject} has not got on for {deadline} seconds.", now), None


def _got_better(before: DeploymentStatus, after: DeploymentStatus) -> bool:
    return (
        after.updatedReplicas > before.updatedReplicas
        or after.replicas - after.updatedReplicas < before.replicas - before.updatedReplicas
        or after.readyReplicas > before.readyReplicas
        or after.availableReplicas > before.availableReplicas
    )
