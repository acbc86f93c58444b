"""Which pod has to go when the node runs short, and what is said of it.

Rule of this file: pure. Thresholds, readings and what each pod uses in; a decision out. Order is upstream's: first the
pods that use more than they have asked for, among them those of lower priority, among these the one that is the furthest above
its request. Static pods and those of the system's priorities stay. One pod goes at a time, and the node is looked at anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from twinstack.agent.amounts import MEMORY, STORAGE, pod_amounts
from twinstack.agent.pressure import Reading, amount_of, is_low
from twinstack.agent.static import SOURCE
from twinstack.api.kinds import Pod

CRITICAL_PRIORITY = 2_000_000_000
# signal → the resource that it is about, as it is told; processes have no requests
RESOURCES: Mapping[str, str] = {
    "memory.available": MEMORY,
    "nodefs.available": STORAGE,
    "imagefs.available": STORAGE,
    "nodefs.inodesFree": "inodes",
    "imagefs.inodesFree": "inodes",
    "pid.available": "pids",
}


class Met(NamedTuple):
    """A threshold that is met: how much there is, how much there must be, and for how long a pod may take to end."""

    signal: str
    left: int
    threshold: Fraction
    grace_seconds: float


class Used(NamedTuple):
    """What a pod uses: bytes of memory, bytes of disk, processes."""

    memory: int = 0
    disk: int = 0
    processes: int = 0


class Thresholds:
    """The thresholds of a node; knows since when the soft ones are met."""

    def __init__(self, hard: Iterable[tuple[str, str]], soft: Iterable[tuple[str, str]], graces: Mapping[str, float], *, longest_grace: float) -> None:
        self._hard, self._soft, self._graces, self._longest_grace = tuple(hard), tuple(soft), graces, longest_grace
        self._since: dict[str, float] = {}

    def met(self, readings: Mapping[str, Reading], now: float) -> Met | None:
        """The first that has to be acted upon: a hard one at once, a soft one when it was met for its time; memory before all else."""
        found = []
        for signal, value in self._soft:
            if not is_low(signal, value, readings):
                self._since.pop(signal, None)
            elif now - self._since.setdefault(signal, now) >= self._graces[signal]:
                found.append(_met(signal, value, readings, self._longest_grace))
        found += [_met(signal, value, readings, 0.0) for signal, value in self._hard if is_low(signal, value, readings)]
        return min(found, key=lambda one: (RESOURCES[one.signal] != MEMORY, one.grace_seconds), default=None)


def _met(signal: str, value: str, readings: Mapping[str, Reading], grace: float) -> Met:
    return Met(signal, readings[signal].left, amount_of(value, readings[signal].whole), grace)


def may_go(pod: Pod) -> bool:
    """Whether a pod may be evicted at all."""
    return SOURCE not in pod.annotations and (pod.spec.priority or 0) < CRITICAL_PRIORITY and pod.metadata.deletionTimestamp is None


def first_to_go(pods: Iterable[tuple[Pod, Used]], met: Met) -> Pod | None:
    """The pod to be evicted; None when all have to stay."""
    resource = RESOURCES[met.signal]

    def rank(one: tuple[Pod, Used]) -> tuple[bool, int, Fraction]:
        pod, used = one
        above = _use(used, resource) - _request(pod, resource)
        return (above <= 0, pod.spec.priority or 0, -above)

    return min(((pod, used) for pod, used in pods if may_go(pod)), key=rank, default=(None, Used()))[0]


def _use(used: Used, resource: str) -> int:
    return used.memory if resource == MEMORY else used.processes if resource == "pids" else used.disk


def _request(pod: Pod, resource: str) -> Fraction:
    return pod_amounts(pod).requests.get(resource, Fraction())


def message_of(pod: Pod, used: Used, met: Met) -> str:
    """What is said of a pod that is evicted."""
    resource = RESOURCES[met.signal]
    text = f"The node was low on resource: {resource}. Threshold quantity: {int(met.threshold)}, available: {met.left}."
    return f"{text} The pod was using {_use(used, resource)}, request is {int(_request(pod, resource))}."
