"""Which Services' endpoints may have changed when a Service, a pod, a node or a namespace did.

Rule of this file: a state before and a state after in, keys of Services out.
"""

from __future__ import annotations

from collections.abc import Iterable

from twinstack.api.kinds import Namespace, Node, Pod, Service
from twinstack.api.objects import Key
from twinstack.api.world import World
from twinstack.rules.endpoints import by_node, matters_to_endpoints, services_of, zone_of
from twinstack.rules.readiness import asks


def woken_by_service(before: Service | None, after: Service | None, world: World) -> Iterable[Key]:
    """The Service itself, unless only its status changed."""
    if before is None or after is None:
        one = after or before
    else:
        one = after if (before.spec, before.labels, before.metadata.deletionTimestamp) != (after.spec, after.labels, after.metadata.deletionTimestamp) else None
        if before.annotations != after.annotations:
            one = after
    return (Key(one.metadata.namespace, one.metadata.name),) if one else ()


def woken_by_pod(before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
    """The Services that selected the pod or select it now, if anything changed that an endpoint shows."""
    if before is not None and after is not None:
        if not matters_to_endpoints(before, after):
            return
        if before.labels == after.labels:
            before = None
    for pod in (before, after):
        if pod is not None:
            yield from (Key(service.metadata.namespace, service.metadata.name) for service in services_of(pod, world))


def woken_by_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    """The Services of all pods on a node that came, went or moved to another zone."""
    if before is not None and after is not None and zone_of(before) == zone_of(after):
        return
    name = (after or before or Node()).metadata.name
    for pod in world.indexed(Pod, by_node, name):
        yield from (Key(service.metadata.namespace, service.metadata.name) for service in services_of(pod, world))


def woken_by_namespace(before: Namespace | None, after: Namespace | None, world: World) -> Iterable[Key]:
    """All Services of a namespace that begins or ceases to ask for readiness by family."""
    one = after or before
    if one is not None and asks(before.annotations if before else {}) != asks(after.annotations if after else {}):
        for service in world.list(Service, one.metadata.name):
            yield Key(service.metadata.namespace, service.metadata.name)
