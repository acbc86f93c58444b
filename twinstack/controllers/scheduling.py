"""Every pod that waits for a node gets one that can run it, or is told why there is none.

The invariant: a pod of ``default-scheduler`` without a node is bound to the best feasible node; where there is none, its
condition PodScheduled is False and names for how many nodes what was in the way. It is decided anew when a node or a
pod changes in a way that may help.

Places are read from all pods of the world, so that nothing is remembered. As for the blocks of nodes, one worker must
decide, which takes the answer to each binding into the world before it decides the next pod.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twinstack.api.kinds import Namespace, Node, Pod, Service, condition_of
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import Action, Bind, Patch, Tell, Watch, World
from twinstack.rules.endpoints import services_of
from twinstack.rules.placement import best_node, explanation, feasible_nodes, scene_of
from twinstack.rules.workloads import finished

_PODS = resource_of(Pod)


class Scheduling:
    """Nodes for pods that name *scheduler_name*."""

    name = "default-scheduler"
    workers = 1  # two pods must not be decided from the same world

    def __init__(self, *, scheduler_name: str = "default-scheduler") -> None:
        self._scheduler = scheduler_name
        self.watches: Sequence[Watch] = (
            Watch(Pod, self._keys_of_pod),
            Watch(Node, self._keys_of_node),
            Watch(Service, _nothing),
            Watch(Namespace, _nothing),
        )

    def decide(self, key: Key, world: World) -> list[Action]:
        pod = world.get(Pod, key)
        if pod is None or not self._waits(pod):
            return []
        if pod.spec.schedulingGates:
            return _refusal(pod, "SchedulingGated", "The pod has scheduling gates", world, tell=False)
        namespaces = {one.metadata.name: one.labels for one in world.list(Namespace)}
        scene = scene_of(world.list(Node), world.list(Pod), namespaces)
        nodes, reasons = feasible_nodes(pod, scene)
        if not nodes:
            return _refusal(pod, "Unschedulable", explanation(reasons, len(scene.nodes)), world, tell=True)
        node = best_node(pod, nodes, scene, _alike(pod, world))
        message = f"{key} goes to {node.metadata.name}"
        return [Bind(key, node.metadata.name, uid=pod.metadata.uid), Tell(pod, "Normal", "Scheduled", message)]

    def _waits(self, pod: Pod) -> bool:
        ours = pod.spec.schedulerName in ("", self._scheduler)
        return ours and not pod.spec.nodeName and pod.metadata.deletionTimestamp is None and not finished(pod)

    def _waiting(self, world: World) -> Iterable[Key]:
        return (Key(pod.metadata.namespace, pod.metadata.name) for pod in world.list(Pod) if self._waits(pod))

    def _keys_of_pod(self, before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
        if after is not None and self._waits(after):
            if before is None or before.spec != after.spec or before.labels != after.labels:
                yield Key(after.metadata.namespace, after.metadata.name)
        elif before is not None and before.spec.nodeName and (after is None or finished(after) != finished(before) or after.labels != before.labels):
            yield from self._waiting(world)  # there is room where it was
        elif after is not None and after.spec.nodeName and (before is None or not before.spec.nodeName):
            for pod in world.list(Pod):  # it may be whom another wants to meet
                if pod.spec.affinity is not None and pod.spec.affinity.podAffinity and self._waits(pod):
                    yield Key(pod.metadata.namespace, pod.metadata.name)

    def _keys_of_node(self, before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
        if before is not None and after is not None and _relevant(before) == _relevant(after):
            return ()
        return self._waiting(world)


def _nothing(before: object, after: object, world: World) -> Iterable[Key]:
    return ()


def _relevant(node: Node) -> tuple[object, ...]:
    ready = condition_of(node.status.conditions, "Ready")
    return node.labels, node.spec.taints, node.spec.unschedulable, ready.status if ready else None, node.status.allocatable


def _alike(pod: Pod, world: World) -> Callable[[Pod], bool]:
    """Whether another pod is of the same kind: the same controller's, or behind the same Service."""
    owner = pod.metadata.controller
    uid = owner.uid if owner else ""
    selectors = [(one.spec.selector or {}).items() for one in services_of(pod, world)]

    def alike(other: Pod) -> bool:
        if other.metadata.namespace != pod.metadata.namespace:
            return False
        theirs = other.metadata.controller
        return (theirs is not None and theirs.uid == uid) or any(wanted <= other.labels.items() for wanted in selectors)

    return alike


def _refusal(pod: Pod, reason: str, message: str, world: World, *, tell: bool) -> list[Action]:
    before = condition_of(pod.status.conditions, "PodScheduled")
    if before is not None and (before.status, before.reason, before.message) == ("False", reason, message):
        return []
    since = before.lastTransitionTime if before is not None and before.status == "False" else None
    condition: Document = {
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": since or text_of_time(world.now),
    }
    key, patch = Key(pod.metadata.namespace, pod.metadata.name), {"status": {"conditions": [condition]}}
    actions: list[Action] = [Patch(_PODS, key, patch, subresource="status", strategic=True, uid=pod.metadata.uid)]
    if tell:
        actions.append(Tell(pod, "Warning", "FailedScheduling", message))
    return actions
