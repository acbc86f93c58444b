"""What is kept of the objects that every node watches: what decides which node answers, and of Services with a load balancer all.

Theory. Every node of a cluster reads all its Services, slices and nodes, most of which have nothing to do with load balancers. What is
left out here also wakes nobody: two states of an object that are lean alike are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from twinstack.api.kinds import Endpoint, EndpointSlice, Node, NodeStatus, ObjectMeta, Service, condition_of
from twinstack.api.metadata import Object
from twinstack.api.nodes import NodeSpec
from twinstack.api.services import ServiceSpec
from twinstack.rules.balancer_owners import EXCLUDED, announced
from twinstack.rules.loadbalancers import FINALIZER

SERVICE_NAME = "kubernetes.io/service-name"


def lean_service(one: Service) -> Service:
    """A Service with a load balancer as it is, or whose load balancer is to be taken away; of others, that they exist."""
    if one.spec.type == "LoadBalancer" or FINALIZER in one.metadata.finalizers:
        return one
    return Service(metadata=_metadata(one), spec=ServiceSpec(type=one.spec.type))


def lean_slice(one: EndpointSlice) -> EndpointSlice:
    """The nodes of a slice, and in which conditions endpoints are there, each once."""
    there = {(endpoint.nodeName, endpoint.conditions): None for endpoint in one.endpoints or () if endpoint.nodeName}
    endpoints = [Endpoint(nodeName=node, conditions=conditions) for node, conditions in there]
    return EndpointSlice(metadata=_metadata(one, SERVICE_NAME), addressType=one.addressType, endpoints=endpoints)


def lean_node(one: Node) -> Node:
    """A node's addresses, readiness, taints, cordon and exclusion."""
    ready = condition_of(one.status.conditions, "Ready")
    conditions = [replace(ready, lastHeartbeatTime=None)] if ready is not None else []
    metadata = replace(_metadata(one, EXCLUDED), uid=one.metadata.uid, deletionTimestamp=one.metadata.deletionTimestamp)
    return Node(
        metadata=metadata,
        spec=NodeSpec(taints=one.spec.taints, unschedulable=one.spec.unschedulable),
        status=NodeStatus(addresses=one.status.addresses, conditions=conditions),
    )


def _metadata(one: Object, *labels: str) -> ObjectMeta:
    metadata = one.metadata
    kept = {name: one.labels[name] for name in labels if name in one.labels}
    return ObjectMeta(name=metadata.name, namespace=metadata.namespace, resourceVersion=metadata.resourceVersion, labels=kept or None)


def concerns_owners(before: Any, after: Any) -> bool:
    """Whether a change of a lean object can change who owns an address."""
    if isinstance(before or after, Service):
        return _announcement(before) != _announcement(after)
    return bool(_timeless(before) != _timeless(after))


def _announcement(service: Service | None) -> tuple[Iterable[Any], str] | None:
    if service is None:
        return None
    addresses = list(announced([service]))
    return (addresses, service.spec.externalTrafficPolicy) if addresses else None


def _timeless(one: Any) -> Any:
    return one if one is None else replace(one, metadata=replace(one.metadata, resourceVersion=""))
