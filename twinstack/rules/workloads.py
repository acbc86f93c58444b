"""What workloads have in common: readiness of pods, ownership, shares, conditions.

Rule of this file: a pod is looked at the way every controller must look at it, so that a Deployment, a
ReplicaSet and a Service never differ about whether it is ready.

Theory. A pod is *finished* when it has failed or succeeded; *active* while it is neither finished nor being
deleted; *ready* when its Ready condition is True; *available* when it has been ready for minReadySeconds.
An owner *claims* what it controls and still selects, *adopts* what it selects and nobody controls, and
*releases* what it controls and no longer selects.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from twinstack.api.kinds import Condition, LabelSelector, Object, OwnerReference, Pod, PodTemplate, condition_of
from twinstack.api.objects import Document, document_of
from twinstack.api.resources import resource_of
from twinstack.api.selectors import Selector, of_selector
from twinstack.api.times import parse_time, text_of_time

V = TypeVar("V", bound=Object)

_HASH_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so that no words appear; all fit in a label and a name


def finished(pod: Pod) -> bool:
    """Whether the pod has failed or succeeded."""
    return pod.status.phase in ("Failed", "Succeeded")


def active(pod: Pod) -> bool:
    """Whether the pod counts for its workload."""
    return pod.metadata.deletionTimestamp is None and not finished(pod)


def ready(pod: Pod) -> bool:
    """Whether the pod's Ready condition is True."""
    condition = condition_of(pod.status.conditions, "Ready")
    return condition is not None and condition.status == "True"


def ready_since(pod: Pod) -> datetime | None:
    """Since when the pod has been ready; None when it is not, or when that is not known."""
    condition = condition_of(pod.status.conditions, "Ready")
    return parse_time(condition.lastTransitionTime) if condition is not None and condition.status == "True" else None


def seconds_until_available(pod: Pod, min_ready_seconds: int, now: datetime) -> float | None:
    """0 when the pod is available, more when it will be in so many seconds, None when it is not ready."""
    if not ready(pod):
        return None
    if not min_ready_seconds:
        return 0.0
    since = ready_since(pod)
    return None if since is None else max(0.0, min_ready_seconds - (now - since).total_seconds())


# ---- Ownership


def owner_reference(owner: Object) -> OwnerReference:
    """The reference by which an object names its controller."""
    resource, metadata = resource_of(type(owner)), owner.metadata
    return OwnerReference(apiVersion=resource.api_version, kind=resource.kind, name=metadata.name, uid=metadata.uid, controller=True, blockOwnerDeletion=True)


def references(owners: Iterable[OwnerReference]) -> list[Document]:
    """Owner references as they stand in a document."""
    return [document_of(owner) for owner in owners]


def controlled_by(one: Object, uid: str) -> bool:
    """Whether the object's controller has this uid."""
    controller = one.metadata.controller
    return controller is not None and controller.uid == uid


class Claims(NamedTuple):
    """What an owner holds (adopted ones among them), and what has to be written for it."""

    held: list[Any]
    adopt: list[Any]
    release: list[Any]


def claims(owner: Object, selector: Selector, owned: Sequence[V], candidates: Sequence[V]) -> Claims:
    """Whom the owner holds, adopts and releases.

    *owned* are those that name the owner, *candidates* those that the selector may match; an owner that is being
    deleted neither adopts nor releases.
    """
    uid, leaving = owner.metadata.uid, owner.metadata.deletionTimestamp is not None
    held: list[V] = []
    adopt: list[V] = []
    release: list[V] = []
    for one in owned:
        if not controlled_by(one, uid):
            continue
        if selector.matches(one.metadata.labels):
            held.append(one)
        elif not leaving:
            release.append(one)
    if not leaving:
        adopt = [
            one for one in candidates if one.metadata.controller is None and one.metadata.deletionTimestamp is None and selector.matches(one.metadata.labels)
        ]
        held.extend(adopt)
    return Claims(held, adopt, release)


def exact_labels(selector: LabelSelector | None) -> Mapping[str, str]:
    """The labels that everything selected has with these very values: what an index can be asked for."""
    exact = dict(selector.matchLabels or {}) if selector else {}
    for expression in (selector.matchExpressions or ()) if selector else ():
        if expression.operator == "In" and len(expression.values or ()) == 1:
            exact[expression.key] = (expression.values or [""])[0]
    return exact


def selector_of(selector: LabelSelector | None) -> Selector | None:
    """A workload's selector; None, which selects nothing, when there is none or when it is empty."""
    found = of_selector(selector)
    return found if found and found.requirements else None


_MADE_UP = re.compile(r'("[^" ]*-)[a-z0-9]{5}"')


def text_of_refusal(error: Exception) -> str:
    """Why the server refuses, without the chance in the names of what it does not make: so that the same is told in the same words."""
    return _MADE_UP.sub(r'\1"', str(error))


# ---- Templates and shares


def template_hash(template: PodTemplate, collisions: int = 0) -> str:
    """A short text that differs when the pod template differs.

    *collisions* makes another one of the same template, for when the first is taken by a stranger.
    """
    document = {"metadata": template_metadata(template), "spec": template.spec, "collisions": collisions}
    digest = int.from_bytes(hashlib.sha256(msgspec.json.encode(document, order="deterministic")).digest(), "big")
    letters = []
    for _ in range(10):
        digest, place = divmod(digest, len(_HASH_LETTERS))
        letters.append(_HASH_LETTERS[place])
    return "".join(letters)


def template_metadata(template: PodTemplate, *, without_label: str = "") -> Document:
    """What a template says of a pod's metadata: labels, annotations, finalizers."""
    labels = {key: value for key, value in (template.metadata.labels or {}).items() if key != without_label}
    parts = {"labels": labels, "annotations": template.metadata.annotations, "finalizers": template.metadata.finalizers}
    return {key: value for key, value in parts.items() if value}


def share(value: int | str | None, total: int, *, default: int | str, rounded: Callable[[float], int]) -> int:
    """A number that is given as such, or as a percentage of *total* (``"25%"``).

    *rounded* is ``math.ceil`` or ``math.floor``; a text that is neither counts as the default.
    """
    given = default if value is None else value
    if isinstance(given, str):
        text = given.removesuffix("%")
        if not text.isascii() or not text.isdigit():
            return share(default, total, default=0, rounded=rounded)
        return int(text) if text == given else rounded(int(text) * total / 100)
    return given


def surge_and_unavailable(surge: int | str | None, unavailable: int | str | None, replicas: int) -> tuple[int, int]:
    """How many pods there may be above and below the wanted count; never both zero, which would stand still."""
    above = share(surge, replicas, default="25%", rounded=math.ceil)
    below = share(unavailable, replicas, default="25%", rounded=math.floor)
    return above, max(1, below) if above == 0 else min(below, replicas)


# ---- Conditions


def with_condition(
    conditions: Sequence[Condition] | None,
    type_: str,
    status: str,
    reason: str,
    message: str,
    now: datetime,
    *,
    touch: bool = False,
    update_time: bool = False,
) -> list[Condition]:
    """The conditions with this one as given.

    The transition time changes with the status only. With *update_time* (Deployments) the update time is written
    when anything changes, or when *touch* is set.
    """
    text = text_of_time(now)
    before = condition_of(list(conditions or ()), type_)
    if before and (before.status, before.reason, before.message) == (status, reason, message) and not touch:
        return list(conditions or ())
    moved = before is None or before.status != status
    after = Condition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        lastTransitionTime=text if moved or before is None else before.lastTransitionTime,
        lastUpdateTime=text if update_time else None,
    )
    return [*(one for one in conditions or () if one.type != type_), after]
