"""Every pod that waits for a node gets one that can run it, or is told why there is none.

The invariant: a pod of ``default-scheduler`` without a node is bound to the best feasible node; where there is none, its
condition PodScheduled is False and names for how many nodes what was in the way. When pods of lower priority are all that is in the way
somewhere, the pod is nominated for that node and they are deleted. It is decided anew when a node or a pod changes in a way that may help.

Places are read from all pods of the world, so that nothing is remembered but sums that are made again when their pods are others. As
for the blocks of nodes, one worker must decide, which takes the answer to each binding into the world before it decides the next pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from twinstack.api.disruptions import PodDisruptionBudget
from twinstack.api.kinds import Namespace, Node, Pod, Service, condition_of
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import Action, Bind, Delete, Patch, Tell, Watch, World
from twinstack.rules.endpoints import pods_of, services_of
from twinstack.rules.placement import explanation, feasible_places
from twinstack.rules.preemption import Preemption, may_preempt, preemption_for, priority_of
from twinstack.rules.scene import Places, Scene
from twinstack.rules.scores import best_place
from twinstack.rules.workloads import controlled_by, finished

DEFAULT = "default-scheduler"
_PODS = resource_of(Pod)


class Scheduling:
    """Nodes for pods that name one of *scheduler_names*; a pod that names none means the default one."""

    name = "default-scheduler"
    workers = 1  # two pods must not be decided from the same world

    def __init__(self, *, scheduler_names: Collection[str] = (DEFAULT,)) -> None:
        self._schedulers = frozenset(scheduler_names)
        self._places = Places()  # spares work, never changes a decision
        self.watches: Sequence[Watch] = (
            Watch(Pod, self._keys_of_pod),
            Watch(Node, self._keys_of_node),
            Watch(Service, _nothing),
            Watch(Namespace, self._keys_of_namespace),
            Watch(PodDisruptionBudget, _nothing),
        )

    def decide(self, key: Key, world: World) -> list[Action]:
        pod = world.get(Pod, key)
        if pod is None or not self._waits(pod):
            return []
        if pod.spec.schedulingGates:
            return list(_refusal(pod, "SchedulingGated", "The pod has scheduling gates", world, tell=False))
        scene = self._scene(pod, world)
        places, reasons = feasible_places(pod, scene)
        nominated = [place for place in places if place.name == pod.status.nominatedNodeName]
        if places:
            place = nominated[0] if nominated else best_place(pod, places, scene, _alike(pod, world))
            return [Bind(key, place.name, uid=pod.metadata.uid), Tell(pod, "Normal", "Scheduled", f"{key} goes to {place.name}")]
        found = None
        if may_preempt(pod, scene) and any(priority_of(other) < priority_of(pod) for _, other in scene.each()):
            found = preemption_for(pod, scene, reasons, world.list(PodDisruptionBudget))
            if found is None and reasons:
                words = explanation(reasons, preemption=f"{len(reasons)} without pods whose going would help")
                return list(_refusal(pod, "Unschedulable", words, world, tell=True))
        return [*_refusal(pod, "Unschedulable", explanation(reasons), world, tell=True, preemption=found), *_made_room(pod, found, world)]

    def _scene(self, pod: Pod, world: World) -> Scene:
        """All nodes with the pods that stand there, and with those for whom room is made there that are not less important."""
        nominated: dict[str, list[Pod]] = {}
        for other in world.indexed(Pod, _by_nominated, True):
            if other.metadata.uid != pod.metadata.uid and priority_of(other) >= priority_of(pod) and self._waits(other):
                nominated.setdefault(other.status.nominatedNodeName, []).append(other)
        nodes = [node for node in world.list(Node) if node.metadata.deletionTimestamp is None]
        places = []
        for node in nodes:
            standing = world.indexed(Pod, _by_place, node.metadata.name)
            expected = nominated.get(node.metadata.name)
            places.append(self._places.place(node, [*standing, *expected] if expected else standing))
        self._places.keep_only(node.metadata.name for node in nodes)
        return Scene(places, {one.metadata.name: one.labels for one in world.list(Namespace)})

    def _waits(self, pod: Pod) -> bool:
        ours = (pod.spec.schedulerName or DEFAULT) in self._schedulers
        return ours and not pod.spec.nodeName and pod.metadata.deletionTimestamp is None and not finished(pod)

    def _waiting(self, world: World) -> Iterable[Key]:
        """The pods that wait, the most important first, then the oldest."""
        pods = [pod for pod in world.indexed(Pod, _by_waiting, True) if self._waits(pod)]
        pods.sort(key=lambda pod: (-priority_of(pod), pod.metadata.creationTimestamp or ""))
        return [Key(pod.metadata.namespace, pod.metadata.name) for pod in pods]

    def _keys_of_pod(self, before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
        if after is not None and self._waits(after):
            if before is None or before.spec != after.spec or before.labels != after.labels:
                yield Key(after.metadata.namespace, after.metadata.name)
        elif before is not None and (before.spec.nodeName or before.status.nominatedNodeName) and _leaves(before, after):
            yield from self._waiting(world)  # there is room where it was
        elif after is not None and after.spec.nodeName and (before is None or not before.spec.nodeName):
            for pod in world.indexed(Pod, _by_waiting, True):  # it may be whom another wants to meet, or that evens out places
                if pod.spec.topologySpreadConstraints or (pod.spec.affinity is not None and pod.spec.affinity.podAffinity):
                    yield from (Key(pod.metadata.namespace, pod.metadata.name),) if self._waits(pod) else ()

    def _keys_of_namespace(self, before: Namespace | None, after: Namespace | None, world: World) -> Iterable[Key]:
        """Other labels may mean other pods, to those who choose namespaces by label."""
        if (before.labels if before else {}) == (after.labels if after else {}):
            return ()
        return self._waiting(world)

    def _keys_of_node(self, before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
        if before is not None and after is not None and _relevant(before) == _relevant(after):
            return ()
        return self._waiting(world)


def _by_place(pod: Pod) -> Iterable[str]:
    """Index: the node on which the pod holds a place; one that has ended holds none."""
    return (pod.spec.nodeName,) if pod.spec.nodeName and not finished(pod) else ()


def _by_waiting(pod: Pod) -> Iterable[bool]:
    """Index: pods that have no node."""
    return () if pod.spec.nodeName else (True,)


def _by_nominated(pod: Pod) -> Iterable[bool]:
    """Index: pods for which room is being made."""
    return (True,) if pod.status.nominatedNodeName else ()


def _leaves(before: Pod, after: Pod | None) -> bool:
    return after is None or finished(after) != finished(before) or after.labels != before.labels or after.spec != before.spec


def _nothing(before: object, after: object, world: World) -> Iterable[Key]:
    return ()


def _relevant(node: Node) -> tuple[object, ...]:
    ready = condition_of(node.status.conditions, "Ready")
    return node.labels, node.spec.taints, node.spec.unschedulable, ready.status if ready else None, node.status.allocatable


def _alike(pod: Pod, world: World) -> Counter[str]:
    """How many pods of the same kind (the same controller's, or behind the same Service) stand on each node."""
    owner = pod.metadata.controller
    found = {other.metadata.uid: other for other in (world.owned(Pod, owner.uid) if owner else ()) if controlled_by(other, owner.uid if owner else "")}
    for service in services_of(pod, world):
        found |= {other.metadata.uid: other for other in pods_of(service, world)}
    return Counter(other.spec.nodeName for other in found.values() if other.spec.nodeName and not finished(other))


def _refusal(pod: Pod, reason: str, message: str, world: World, *, tell: bool, preemption: Preemption | None = None) -> Iterator[Action]:
    """The condition that says why the pod has no node, and the node that is being made room at."""
    before = condition_of(pod.status.conditions, "PodScheduled")
    status: Document = {}
    if before is None or (before.status, before.reason, before.message) != ("False", reason, message):
        since = before.lastTransitionTime if before is not None and before.status == "False" else None
        condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        status["conditions"] = [condition | {"lastTransitionTime": since or text_of_time(world.now)}]
    if preemption is not None and pod.status.nominatedNodeName != preemption.place.name:
        status["nominatedNodeName"] = preemption.place.name
    if status:
        yield Patch(_PODS, Key(pod.metadata.namespace, pod.metadata.name), {"status": status}, subresource="status", strategic=True, uid=pod.metadata.uid)
        if tell and "conditions" in status:
            yield Tell(pod, "Warning", "FailedScheduling", message)


def _made_room(pod: Pod, found: Preemption | None, world: World) -> Iterator[Action]:
    """The victims are told why, and deleted. Those that are going already need not be asked again."""
    for victim in found.victims if found is not None else ():
        if victim.metadata.deletionTimestamp is not None:
            continue
        key, uid = Key(victim.metadata.namespace, victim.metadata.name), victim.metadata.uid
        message = f"Made room on {victim.spec.nodeName} for pod {pod.metadata.uid} of higher priority"
        if condition_of(victim.status.conditions, "DisruptionTarget") is None:
            condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message}
            patch = {"status": {"conditions": [condition | {"lastTransitionTime": text_of_time(world.now)}]}}
            yield Patch(_PODS, key, patch, subresource="status", strategic=True, uid=uid)
        yield Delete(_PODS, key, uid=uid)
        yield Tell(victim, "Normal", "Preempted", message)
