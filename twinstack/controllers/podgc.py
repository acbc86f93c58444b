"""Pods that nobody can end any more are taken away.

The invariant: no pod is bound to a node that has been gone for a while, none that is being deleted waits for a node
that it never had, or for one that is not ready and that somebody has declared out of service by a taint, and there are
no more pods that have ended than the threshold: the oldest go. A pod that had not ended
is said to have failed before it goes, so that whoever counts it can.

A kubelet may register its node anew after somebody deleted it; so a missing node is believed only after a while, and
the API server itself is asked once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from twinstack.api.kinds import Node, Pod, condition_of
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import Absent, Action, After, Delete, Patch, Watch, World
from twinstack.rules.endpoints import by_node
from twinstack.rules.workloads import finished

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"  # set by people who know that a machine is off
_ENDED = Key("", "pods that have ended")  # no pod's key
_PODS, _NODES = resource_of(Pod), resource_of(Node)


class PodGarbage:
    """Pods of nodes that have been missing for *quarantine_seconds*, terminating pods without a node, and ended ones beyond *most_ended* (0: any number)."""

    name = "pod-garbage-collector-controller"

    def __init__(self, *, quarantine_seconds: float = 40.0, most_ended: int = 12500) -> None:
        self._quarantine, self._most = quarantine_seconds, most_ended
        self._missing: dict[str, datetime] = {}  # since when we have missed a node: nothing in the world tells that
        self.watches: Sequence[Watch] = (Watch(Pod, self._keys_of_pod), Watch(Node, self._keys_of_node))

    def decide(self, key: Key, world: World) -> list[Action]:
        if key == _ENDED:
            return self._too_many(world)
        pod = world.get(Pod, key)
        if pod is None:
            return []
        name = pod.spec.nodeName
        removal = Delete(_PODS, key, uid=pod.metadata.uid, grace_period_seconds=0)
        if not name:
            return [*_said_to_fail(pod, world, "The pod never had a node"), removal] if pod.metadata.deletionTimestamp is not None else []
        node = world.get(Node, Key("", name))
        if node is not None:
            self._missing.pop(name, None)
            if pod.metadata.deletionTimestamp is None or not _is_out_of_service(node):
                return []
            return [*_said_to_fail(pod, world, "The pod's node is out of service"), removal]
        missed = (world.now - self._missing.setdefault(name, world.now)).total_seconds()
        if missed < self._quarantine:
            return [After(self._quarantine - missed)]
        return [Absent(_NODES, Key("", name)), *_said_to_fail(pod, world, "The pod's node is gone"), removal]

    def _too_many(self, world: World) -> list[Action]:
        """Deletions of the pods that ended and are the oldest."""
        ended = [pod for pod in world.indexed(Pod, _by_ended, True) if pod.metadata.deletionTimestamp is None]
        surplus = len(ended) - self._most
        if self._most <= 0 or surplus <= 0:
            return []
        ended.sort(key=lambda pod: (pod.metadata.creationTimestamp or "", pod.metadata.namespace, pod.metadata.name))
        return [Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid, grace_period_seconds=0) for pod in ended[:surplus]]

    def _keys_of_pod(self, before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
        if after is None:
            return
        if finished(after) and (before is None or not finished(before)):
            yield _ENDED
        key = Key(after.metadata.namespace, after.metadata.name)
        if not after.spec.nodeName:
            if after.metadata.deletionTimestamp is not None:
                yield key
            return
        came = before is None or before.spec.nodeName != after.spec.nodeName
        goes = after.metadata.deletionTimestamp is not None and (before is None or before.metadata.deletionTimestamp is None)
        if came or goes:
            node = world.get(Node, Key("", after.spec.nodeName))
            if (came and node is None) or (goes and node is not None and _is_out_of_service(node)):
                yield key

    def _keys_of_node(self, before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
        if after is not None:
            self._missing.pop(after.metadata.name, None)
            if _is_out_of_service(after) and (before is None or not _is_out_of_service(before)):
                going = (pod for pod in world.indexed(Pod, by_node, after.metadata.name) if pod.metadata.deletionTimestamp is not None)
                yield from (Key(pod.metadata.namespace, pod.metadata.name) for pod in going)
        elif before is not None:
            yield from (Key(pod.metadata.namespace, pod.metadata.name) for pod in world.indexed(Pod, by_node, before.metadata.name))


def _by_ended(pod: Pod) -> Iterable[bool]:
    """Index: pods that have ended."""
    return (True,) if finished(pod) else ()


def _is_out_of_service(node: Node) -> bool:
    ready = condition_of(node.status.conditions, "Ready")
    return (ready is None or ready.status != "True") and any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints or ())


def _said_to_fail(pod: Pod, world: World, message: str) -> Iterable[Action]:
    if not finished(pod):
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message}
        patch = {"status": {"phase": "Failed", "conditions": [condition | {"lastTransitionTime": text_of_time(world.now)}]}}
        yield Patch(_PODS, Key(pod.metadata.namespace, pod.metadata.name), patch, subresource="status", strategic=True, uid=pod.metadata.uid)
