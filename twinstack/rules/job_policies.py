"""What a failed pod means for its Job, and when enough has succeeded: ``podFailurePolicy`` (KEP-3329) and ``successPolicy`` (KEP-3998).

Rule of this file: a policy and pods in, an action or a yes out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from twinstack.api.kinds import Pod, condition_of
from twinstack.rules.indexes import parse_indexes

FAIL_JOB, FAIL_INDEX, IGNORE, COUNT = "FailJob", "FailIndex", "Ignore", "Count"


class Judgement(NamedTuple):
    """What follows from a pod's failure, and by which rule."""

    action: str
    message: str = ""


def judgement_of(pod: Pod, policy: Mapping[str, Any] | None) -> Judgement:
    """The first rule that matches a failed pod; without one it counts. A pod that is still going has not failed yet."""
    if not policy or pod.status.phase != "Failed":
        return Judgement(COUNT)
    for number, rule in enumerate(policy.get("rules") or ()):
        why = _exit_code(pod, rule.get("onExitCodes")) or _condition(pod, rule.get("onPodConditions") or ())
        if why:
            place = f"{pod.metadata.namespace}/{pod.metadata.name}"
            return Judgement(str(rule.get("action", COUNT)), f"{why} of pod {place} matches the rule {number} of podFailurePolicy: {rule.get('action')}")
    return Judgement(COUNT)


def _exit_code(pod: Pod, wanted: Mapping[str, Any] | None) -> str:
    if not wanted:
        return ""
    values, negated = wanted.get("values") or (), wanted.get("operator") == "NotIn"
    for status in (*(pod.status.initContainerStatuses or ()), *(pod.status.containerStatuses or ())):
        ended = status.state.terminated
        if ended is None or ended.exitCode == 0 or wanted.get("containerName") not in (None, "", status.name):
            continue
        if (ended.exitCode in values) is not negated:
            return f"exit code {ended.exitCode} of container {status.name}"
    return ""


def _condition(pod: Pod, patterns: Sequence[Mapping[str, Any]]) -> str:
    for pattern in patterns:
        found = condition_of(pod.status.conditions, str(pattern.get("type", "")))
        if found is not None and found.status == pattern.get("status", "True"):
            return f"condition {found.type}"
    return ""


def enough_succeeded(policy: Mapping[str, Any] | None, succeeded: Collection[int]) -> int | None:
    """The rule by which these indexes are enough."""
    for number, rule in enumerate((policy or {}).get("rules") or ()):
        among = parse_indexes(rule["succeededIndexes"]) if rule.get("succeededIndexes") else set(succeeded)
        there = len(among & set(succeeded))
        wanted = rule.get("succeededCount")
        if there >= (len(among) if wanted is None else int(wanted)) and (wanted is not None or rule.get("succeededIndexes")):
            return number
    return None
