"""Who has to go for a pod of higher priority.

Rule of this file: a pod that fits nowhere and a scene in; a place and its victims out.

Theory. On a node where only other pods are in the way, imagine all of lower priority gone; if the pod fits then, let as many of
them come back as may, the most important first, those that a disruption budget protects before others. Of all such nodes the one is taken
where least is broken: budgets, then the highest priority among the victims, the sum of their priorities, their number; then where the
most important victim is youngest. (spec: PriorityClasses, "Pod preemption".)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from twinstack.api.disruptions import PodDisruptionBudget
from twinstack.api.kinds import Pod
from twinstack.rules.disruptions import protects
from twinstack.rules.placement import checks_of
from twinstack.rules.scene import Place, Reason, Scene, place_of

_MOST_CANDIDATES = 100


class Preemption(NamedTuple):
    """The place to make room at, and who has to go."""

    place: Place
    victims: Sequence[Pod]
    broken: int  # how many of them a budget protects


def priority_of(pod: Pod) -> int:
    return pod.spec.priority or 0


def may_preempt(pod: Pod, scene: Scene) -> bool:
    """Whether the pod may drive others away now: its policy lets it, and it does not wait already for some that are going."""
    if pod.spec.preemptionPolicy == "Never":
        return False
    here = next((place for place in scene.places if place.name == pod.status.nominatedNodeName), None)
    return here is None or not any(other.metadata.deletionTimestamp is not None and priority_of(other) < priority_of(pod) for other in here.pods)


def preemption_for(pod: Pod, scene: Scene, reasons: dict[str, Reason], budgets: Iterable[PodDisruptionBudget]) -> Preemption | None:
    """Where room can be made with the least loss; None when that would not help anywhere."""
    known, found = list(budgets), []
    for place in scene.places:
        reason = reasons.get(place.name)
        if reason is None or not reason.passing:
            continue
        candidate = _at(pod, place, scene, known)
        if candidate is not None:
            found.append(candidate)
            if len(found) == _MOST_CANDIDATES:
                break
    return min(found, key=_loss, default=None)


def _at(pod: Pod, place: Place, scene: Scene, budgets: Sequence[PodDisruptionBudget]) -> Preemption | None:
    lower = [other for other in place.pods if priority_of(other) < priority_of(pod)]
    staying = [other for other in place.pods if priority_of(other) >= priority_of(pod)]
    if not lower or not _fits(pod, place, scene, staying):
        return None
    protected = _protected(lower, budgets)
    order = sorted(lower, key=lambda other: (other.metadata.uid not in protected, -priority_of(other), other.status.startTime or ""))
    victims: list[Pod] = []
    for other in order:
        if _fits(pod, place, scene, [*staying, other]):
            staying.append(other)
        else:
            victims.append(other)
    broken = sum(1 for one in victims if one.metadata.uid in protected)
    return Preemption(place, sorted(victims, key=lambda one: -priority_of(one)), broken) if victims else None


def _fits(pod: Pod, place: Place, scene: Scene, pods: Sequence[Pod]) -> bool:
    imagined = place_of(place.node, pods)
    return all(check(imagined) is None for check in checks_of(pod, scene.with_place(imagined)))


def _protected(pods: Sequence[Pod], budgets: Sequence[PodDisruptionBudget]) -> set[str]:
    """The uids of pods whose going would take more from a budget than it allows."""
    left = {id(budget): budget.status.disruptionsAllowed for budget in budgets}
    found = set()
    for pod in sorted(pods, key=lambda one: -priority_of(one)):
        mine = [budget for budget in budgets if protects(budget, pod) and pod.metadata.name not in (budget.status.disruptedPods or {})]
        for budget in mine:
            left[id(budget)] -= 1
        if any(left[id(budget)] < 0 for budget in mine):
            found.add(pod.metadata.uid)
    return found


def _loss(one: Preemption) -> tuple[Any, ...]:
    highest = priority_of(one.victims[0])
    youngest = min((pod.status.startTime or "" for pod in one.victims if priority_of(pod) == highest), default="")
    return one.broken, highest, sum(priority_of(pod) for pod in one.victims), len(one.victims), _Later(youngest), one.place.name


class _Later(str):
    """A time of which the later one is less."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str(self) > str(other)
