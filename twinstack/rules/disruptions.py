"""PodDisruptionBudgets: what can be wrong with them, and whether a pod may be evicted.

Rule of this file: documents and views in, problems or a verdict out.

Theory. The controller says in the status how many more pods may go. An eviction takes one from that number in the very write
that lets the pod go, so that no two can take the same; the pod is listed as disrupted until it is seen going. A pod that does
not run is no loss; one that runs and is not ready is none while the others are enough, or always, if the budget says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from twinstack.api.disruptions import PodDisruptionBudget
from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import Pod
from twinstack.api.objects import Document
from twinstack.api.selectors import of_selector
from twinstack.rules.problems import unsupported, wrong
from twinstack.rules.shape import default_conditions, drop_zeros, part
from twinstack.rules.workload_validation import problems_with_selector, share_problem
from twinstack.rules.workloads import ready, share

POLICIES = ("AlwaysAllow", "IfHealthyBudget")
_COUNTS = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")


def default_budget(document: Document) -> None:
    """The status always shows its counts."""
    part(document, "spec")
    status = part(document, "status")
    drop_zeros(status, ("observedGeneration", "disruptedPods", "conditions"))
    for count in _COUNTS:
        status.setdefault(count, 0)
    default_conditions(status, ("lastTransitionTime",))


def problems_with_budget(document: Document) -> list[FieldProblem]:
    """What is wrong with a budget's spec."""
    return list(_problems(document.get("spec") or {}))


def _problems(spec: dict[str, Any]) -> Iterator[FieldProblem]:
    given = [field for field in ("minAvailable", "maxUnavailable") if spec.get(field) is not None]
    if len(given) == 2:
        yield wrong("spec", {field: spec[field] for field in given}, "may have minAvailable or maxUnavailable, not both")
    for field in given:
        value = spec[field]
        if problem := share_problem(value):
            yield wrong(f"spec.{field}", value, problem)
        elif isinstance(value, str) and int(value[:-1]) > 100:
            yield wrong(f"spec.{field}", value, "must be at most 100%")
    if spec.get("selector") is not None:
        yield from problems_with_selector(spec["selector"], "spec.selector")
    if spec.get("unhealthyPodEvictionPolicy") not in (None, *POLICIES):
        yield unsupported("spec.unhealthyPodEvictionPolicy", spec["unhealthyPodEvictionPolicy"], POLICIES)


def problems_with_budget_status(document: Document) -> list[FieldProblem]:
    """Counts are not negative."""
    status = document.get("status") or {}
    return [wrong(f"status.{field}", status[field], "must not be negative") for field in _COUNTS if status.get(field, 0) < 0]


# ---- What it protects


def protects(budget: PodDisruptionBudget, pod: Pod) -> bool:
    """Whether the pod is one of the budget's; an empty selector selects all of the namespace, none selects none."""
    selector = of_selector(budget.spec.selector)
    return budget.metadata.namespace == pod.metadata.namespace and selector is not None and selector.matches(pod.labels)


def desired_healthy(budget: PodDisruptionBudget, expected: int, present: int) -> tuple[int, int]:
    """How many must stay, of how many: *expected* as their controllers want them, *present* as there are."""
    least, most = budget.spec.minAvailable, budget.spec.maxUnavailable
    if most is not None:
        return max(0, expected - share(most, expected, default=0, rounded=math.ceil)), expected
    if isinstance(least, str):
        return share(least, expected, default=0, rounded=math.ceil), expected
    return least or 0, present


class Verdict(NamedTuple):
    """Whether a pod may go, whether that takes one from the budget, and why not."""

    goes: bool
    takes: bool = False
    why: str = ""
    retry_after_seconds: int | None = None


def is_no_loss(pod: Pod) -> bool:
    """Whether the pod may go whatever its budget says: it does not run, or is going already."""
    return pod.metadata.deletionTimestamp is not None or pod.status.phase in ("Succeeded", "Failed", "Pending")


def verdict_of(budget: PodDisruptionBudget, pod: Pod) -> Verdict:
    """Whether this pod of the budget may be evicted."""
    status, name = budget.status, budget.metadata.name
    if not ready(pod):
        if budget.spec.unhealthyPodEvictionPolicy == "AlwaysAllow":
            return Verdict(goes=True)
        if status.currentHealthy >= status.desiredHealthy > 0:
            return Verdict(goes=True)
    if status.observedGeneration < budget.metadata.generation:
        return Verdict(goes=False, why=f"the budget {name} has not been counted yet", retry_after_seconds=10)
    if status.disruptionsAllowed <= 0:
        return Verdict(goes=False, why=f"the budget {name} needs {status.desiredHealthy} healthy pods and has {status.currentHealthy}")
    return Verdict(goes=True, takes=True)
