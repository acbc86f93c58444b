"""Who has to go for a pod of higher priority.

Rule of this file: a pod that fits nowhere and a scene in; a place and its victims out.

Theory. On a node where only other pods are in the way, imagine all of lower priority gone; if the pod fits then, let as many of
them come back as may, the most important first, those that a disruption budget protects before others. Of all such nodes the one is taken
where least is broken: budgets, then the highest priority among the victims, the sum of their priorities, their number; then where the
most important victim is youngest. (spec: PriorityClasses, "Pod preemption".)

In a large cluster a tenth of the nodes is looked at, a hundred at least, from another node on for each pod. There only what is asked for is counted, and
what stands elsewhere is asked for the few pods that matter there: 500 nodes of 30 pods take a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple
from zlib import crc32

from twinstack.api.disruptions import PodDisruptionBudget
from twinstack.api.kinds import Pod
from twinstack.rules.disruptions import protects
from twinstack.rules.hostports import first_clash, host_ports
from twinstack.rules.placement import matters_to, scene_checks_of
from twinstack.rules.requests import CPU, MEMORY, PODS, STORAGE, Amounts, requests_of
from twinstack.rules.scene import Place, Reason, Scene


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


def candidates(nodes: int) -> int:
    """How many places where room can be made are compared, of so many nodes."""
    return max(100, nodes // 10)


def preemption_for(pod: Pod, scene: Scene, reasons: dict[str, Reason], budgets: Iterable[PodDisruptionBudget]) -> Preemption | None:
    """Where room can be made with the least loss; None when that would not help anywhere."""
    judge, most, found = _Judge(pod, scene, list(budgets)), candidates(len(scene.places)), []
    start = crc32(pod.metadata.uid.encode()) % len(scene.places) if len(scene.places) > most else 0
    for place in chain(scene.places[start:], scene.places[:start]):
        reason = reasons.get(place.name)
        if reason is None or not reason.passing:
            continue
        candidate = judge.at(place)
        if candidate is not None:
            found.append(candidate)
            if len(found) == most:
                break
    return min(found, key=_loss, default=None)


class _Judge:
    """Knows what one pod asks for, and tells who has to go for it at a place that is in its way only for a while."""

    def __init__(self, pod: Pod, scene: Scene, budgets: Sequence[PodDisruptionBudget]) -> None:
        self._pod, self._priority, self._budgets = pod, priority_of(pod), budgets
        self._asked = {name: amount for name, amount in requests_of(pod).items() if amount > 0}
        self._ports = host_ports(pod)
        self._requests: dict[tuple[int, ...], Amounts] = {}
        # Where nothing is asked of what stands elsewhere, no pod matters; else the scene is of those that do.
        self._matters: Callable[[Pod], bool] = lambda other: False
        self._near: Scene | None = None
        if scene_checks_of(pod, scene):
            self._matters = matters_to(pod, scene)
            self._near = Scene([self._few(place, place.pods) for place in scene.places], scene.namespaces)

    def at(self, place: Place) -> Preemption | None:
        """Who has to go there; None when the pod would not fit all the same."""
        lower: list[Pod] = []
        staying: list[Pod] = []
        for other in place.pods:
            (lower if priority_of(other) < self._priority else staying).append(other)
        if not lower:
            return None
        free = self._free(place, lower)
        room = place.allocatable.get(PODS)
        if any(free[name] < self._asked[name] for name in free) or (room is not None and len(staying) >= room):
            return None
        if self._clashes(staying) or not self._near_fits(place, staying):
            return None
        protected = _protected(lower, self._budgets) if self._budgets else set()
        order = sorted(lower, key=lambda other: (other.metadata.uid not in protected, -priority_of(other), other.status.startTime or ""))
        victims: list[Pod] = []
        for other in order:
            left = self._less(free, other)
            fits = (room is None or len(staying) + 1 < room) and all(left[name] >= self._asked[name] for name in left)
            if fits and not self._clashes([other]) and (not self._matters(other) or self._near_fits(place, [*staying, other])):
                staying.append(other)
                free = left
            else:
                victims.append(other)
        broken = sum(1 for one in victims if one.metadata.uid in protected)
        return Preemption(place, sorted(victims, key=lambda one: -priority_of(one)), broken) if victims else None

    def _free(self, place: Place, lower: Iterable[Pod]) -> dict[str, int]:
        """What is there of each thing asked for, once these pods are gone; what nobody is held to is not told."""
        free = {
            name: place.allocatable.get(name, 0) - place.used.get(name, 0)
            for name in self._asked
            if name in place.allocatable or name not in (CPU, MEMORY, STORAGE)
        }
        for other in lower:
            asked = self._requests_of(other)
            for name in free:
                free[name] += asked.get(name, 0)
        return free

    def _less(self, free: Mapping[str, int], other: Pod) -> dict[str, int]:
        asked = self._requests_of(other)
        return {name: amount - asked.get(name, 0) for name, amount in free.items()}

    def _requests_of(self, other: Pod) -> Amounts:
        """Added up once for pods that share what they ask for."""
        spec = other.spec
        name = (id(spec.containers), id(spec.initContainers), id(spec.overhead), id(spec.resources))  # the scene holds them as long as we live
        found = self._requests.get(name)
        if found is None:
            found = self._requests[name] = requests_of(other)
        return found

    def _clashes(self, others: Iterable[Pod]) -> bool:
        return bool(self._ports) and any(first_clash(self._ports, host_ports(other)) for other in others)

    def _near_fits(self, place: Place, pods: Sequence[Pod]) -> bool:
        """Whether what stands elsewhere, and these pods here, let the pod come."""
        if self._near is None:
            return True
        imagined = self._few(place, pods)
        return all(check(imagined) is None for check in scene_checks_of(self._pod, self._near.with_place(imagined)))

    def _few(self, place: Place, pods: Iterable[Pod]) -> Place:
        some = [other for other in pods if self._matters(other)]
        return place._replace(pods=some, partial=[other for other in some if other.spec.affinity is not None])


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
