"""Pods that nobody can end any more are taken away.

The invariant: no pod is bound to a node that has been gone for a while, and none that is being deleted waits for a node
that it never had.

A kubelet may register its node anew after somebody deleted it; so a missing node is believed only after a while, and
the API server itself is asked once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from twinstack.api.kinds import Node, Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Absent, Action, After, Delete, Watch, World
from twinstack.rules.endpoints import by_node

_PODS, _NODES = resource_of(Pod), resource_of(Node)


class PodGarbage:
    """Pods of nodes that have been missing for *quarantine_seconds*, and terminating pods without a node."""

    name = "pod-garbage-collector-controller"

    def __init__(self, *, quarantine_seconds: float = 40.0) -> None:
        self._quarantine = quarantine_seconds
        self._missing: dict[str, datetime] = {}  # since when we have missed a node: nothing in the world tells that
        self.watches: Sequence[Watch] = (Watch(Pod, self._keys_of_pod), Watch(Node, self._keys_of_node))

    def decide(self, key: Key, world: World) -> list[Action]:
        pod = world.get(Pod, key)
        if pod is None:
            return []
        name = pod.spec.nodeName
        removal = Delete(_PODS, key, uid=pod.metadata.uid, grace_period_seconds=0)
        if not name:
            return [removal] if pod.metadata.deletionTimestamp is not None else []
        if world.get(Node, Key("", name)) is not None:
            self._missing.pop(name, None)
            return []
        missed = (world.now - self._missing.setdefault(name, world.now)).total_seconds()
        if missed < self._quarantine:
            return [After(self._quarantine - missed)]
        return [Absent(_NODES, Key("", name)), removal]

    def _keys_of_pod(self, before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
        if after is None:
            return
        key = Key(after.metadata.namespace, after.metadata.name)
        if not after.spec.nodeName:
            if after.metadata.deletionTimestamp is not None:
                yield key
        elif (before is None or before.spec.nodeName != after.spec.nodeName) and world.get(Node, Key("", after.spec.nodeName)) is None:
            yield key

    def _keys_of_node(self, before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
        if after is not None:
            self._missing.pop(after.metadata.name, None)
        elif before is not None:
            yield from (Key(pod.metadata.namespace, pod.metadata.name) for pod in world.indexed(Pod, by_node, before.metadata.name))
