"""A PodDisruptionBudget says how many of its pods may be taken away now.

The invariant: the status counts the pods that the budget selects, those of them that are ready and neither going nor let go
by an eviction, how many must stay, and the difference. How many there should be is asked of the pods' controllers
(Deployments, ReplicaSets, ReplicationControllers, StatefulSets); a pod of another controller, or of none, counts as one.

An eviction that was let through and whose pod has not gone after two minutes is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from twinstack.api.disruptions import PodDisruptionBudget
from twinstack.api.kinds import Deployment, Pod, ReplicaSet, ReplicationController, StatefulSet
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.times import seconds_since
from twinstack.api.world import Action, After, Patch, Watch, World, own_key
from twinstack.rules.disruptions import desired_healthy, protects
from twinstack.rules.workloads import finished, ready, with_condition

_RESOURCE = resource_of(PodDisruptionBudget)
_FORGOTTEN_SECONDS = 120
_SCALES: dict[str, type[Any]] = {resource_of(view).kind: view for view in (Deployment, ReplicaSet, ReplicationController, StatefulSet)}


class Disruptions:
    """The status of PodDisruptionBudgets."""

    name = "disruption-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (
            Watch(PodDisruptionBudget, own_key),
            Watch(Pod, _keys_of_pod),
            *(Watch(view, _keys_of_scale) for view in _SCALES.values()),
        )

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(PodDisruptionBudget, key)
        if one is None or one.metadata.deletionTimestamp is not None:
            return []
        pods = [pod for pod in world.list(Pod, key.namespace) if not finished(pod) and protects(one, pod)]
        names = {pod.metadata.name for pod in pods if pod.metadata.deletionTimestamp is None}
        ages = {name: seconds_since(text, world.now) or 0.0 for name, text in (one.status.disruptedPods or {}).items()}
        disrupted = {name for name, age in ages.items() if name in names and age < _FORGOTTEN_SECONDS}
        healthy = sum(1 for pod in pods if ready(pod) and pod.metadata.deletionTimestamp is None and pod.metadata.name not in disrupted)
        desired, expected = desired_healthy(one, _expected(pods, world), len(pods))
        allowed = max(0, healthy - desired) if expected else 0
        reason = "SufficientPods" if allowed else "InsufficientPods"
        conditions = with_condition(one.status.conditions, "DisruptionAllowed", str(allowed > 0), reason, "", world.now)
        status: Document = {
            "observedGeneration": one.metadata.generation,
            "disruptionsAllowed": allowed,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
        }
        actions: list[Action] = []
        if (
            status != {name: getattr(one.status, name) for name in status}
            or conditions != (one.status.conditions or [])
            or disrupted != set(one.status.disruptedPods or {})
        ):
            status["conditions"] = [document_of(each) for each in conditions]
            if gone := sorted(set(ages) - disrupted):
                status["disruptedPods"] = dict.fromkeys(gone) if disrupted else None
            # An eviction takes from the number meanwhile: what was counted before it must not be written over it.
            meta = one.metadata
            actions.append(Patch(_RESOURCE, key, {"status": status}, subresource="status", uid=meta.uid, resource_version=meta.resourceVersion))
        soonest = min((_FORGOTTEN_SECONDS - ages[name] for name in disrupted), default=None)
        if soonest is not None:
            actions.append(After(soonest))
        return actions


def _expected(pods: Iterable[Pod], world: World) -> int:
    """How many pods their controllers want, each controller counted once."""
    scales: dict[str, int] = {}
    for pod in pods:
        top, owner = pod.metadata.uid, pod.metadata.controller
        count = 1
        while owner is not None and owner.kind in _SCALES:
            found = world.get(_SCALES[owner.kind], Key(pod.metadata.namespace, owner.name))
            if found is None or found.metadata.uid != owner.uid:
                break
            top, count = found.metadata.uid, 1 if found.spec.replicas is None else found.spec.replicas
            owner = found.metadata.controller
        scales[top] = count
    return sum(scales.values())


def _keys_of_pod(before: Pod | None, after: Pod | None, world: World) -> Iterator[Key]:
    one = after or before
    for budget in world.list(PodDisruptionBudget, one.metadata.namespace) if one else ():
        if any(state is not None and protects(budget, state) for state in (before, after)):
            yield Key(budget.metadata.namespace, budget.metadata.name)


def _keys_of_scale(before: Any, after: Any, world: World) -> Iterator[Key]:
    """Every budget of the namespace, when another number is wanted."""
    if before is not None and after is not None and before.spec.replicas == after.spec.replicas:
        return
    for budget in world.list(PodDisruptionBudget, (after or before).metadata.namespace):
        yield Key(budget.metadata.namespace, budget.metadata.name)
