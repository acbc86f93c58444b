"""Every Service that selects pods has an Endpoints object with the addresses of its primary family.

The invariant: the Endpoints of the Service's name lists the eligible pods' first address of that family, ready and not
ready apart, a thousand at most. It is for those who have not learned of slices: of a dual-stack Service it shows a half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from twinstack.api.kinds import Endpoints, Namespace, Node, ObjectReference, Pod, Service
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.services import CoreEndpointPort, EndpointAddress, EndpointSubset
from twinstack.api.times import text_of_micro_time
from twinstack.api.world import Action, Create, Delete, Patch, Watch, World
from twinstack.net.family import Family
from twinstack.rules import endpoints as rules
from twinstack.rules.readiness import counts_by_family, ready_in
from twinstack.rules.subsets import Offer, cut, subsets_of
from twinstack.rules.wakes import woken_by_namespace, woken_by_node, woken_by_pod, woken_by_service
from twinstack.rules.workloads import ready_since

MANAGED_BY, MANAGER = "endpoints.kubernetes.io/managed-by", "endpoint-controller"
CAPACITY = "endpoints.kubernetes.io/over-capacity"
_MOST = 1000
_RESOURCE = resource_of(Endpoints)


class EndpointsObjects:
    """Endpoints of Services in their primary family."""

    name = "endpoints-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (
            Watch(Service, woken_by_service),
            Watch(Pod, woken_by_pod),
            Watch(Endpoints, _keys_of_endpoints),
            Watch(Node, woken_by_node),
            Watch(Namespace, woken_by_namespace),
        )

    def decide(self, key: Key, world: World) -> list[Action]:
        service, present = world.get(Service, key), world.get(Endpoints, key)
        if service is None:
            if present is not None and rules.LEADER not in present.annotations:
                return [Delete(_RESOURCE, key, uid=present.metadata.uid)]
            return []
        if not rules.selects_pods(service) or service.metadata.deletionTimestamp is not None:
            return []
        pods = [pod for pod in rules.pods_of(service, world) if rules.is_eligible(pod, even_terminating=service.spec.publishNotReadyAddresses)]
        subsets, is_cut = cut(subsets_of(_offers(service, pods, world)), _MOST)
        labels = rules.labels_of(service, reserved=(MANAGED_BY,), own={MANAGED_BY: MANAGER})
        capacity = "truncated" if is_cut else None
        body: Document = {"subsets": [_document(subset) for subset in subsets]}
        changed = max((since for pod in pods if (since := ready_since(pod))), default=None)
        annotations = {CAPACITY: capacity, rules.TRIGGER_TIME: text_of_micro_time(changed) if changed else None}
        if present is None:
            metadata: Document = {"name": key.name, "namespace": key.namespace, "labels": labels}
            if given := {name: text for name, text in annotations.items() if text}:
                metadata["annotations"] = given
            return [Create(_RESOURCE, {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata} | body)]
        if present.labels == labels and present.annotations.get(CAPACITY) == capacity and (present.subsets or []) == subsets:
            return []
        gone = {label: None for label in present.labels if label not in labels}
        patch = {"metadata": {"labels": {**labels, **gone}, "annotations": annotations}} | body
        return [Patch(_RESOURCE, key, patch, uid=present.metadata.uid, resource_version=present.metadata.resourceVersion)]


def _family_of(service: Service, pod: Pod) -> Family | None:
    """The Service's primary family; of a headless one that was stored before there were families, the pod's own."""
    families = rules.families_of(service)
    if service.spec.ipFamilies or not rules.is_headless(service):
        return families[0] if families else None
    return next(iter(rules.addresses_of(pod)), None)


def _offers(service: Service, pods: Iterable[Pod], world: World) -> Iterator[Offer]:
    everyone = service.spec.publishNotReadyAddresses
    for pod in pods:
        node = pod.spec.nodeName
        if node and not everyone and world.get(Node, Key("", node)) is None:
            continue  # its appearance wakes us
        family = _family_of(service, pod)
        found = rules.addresses_of(pod).get(family) if family else None
        if family is None or not found:
            continue
        metadata = pod.metadata
        target = ObjectReference(kind="Pod", namespace=metadata.namespace, name=metadata.name, uid=metadata.uid)
        address = EndpointAddress(ip=found[0], hostname=rules.hostname_of(pod, service) or "", nodeName=node or None, targetRef=target)
        ports = tuple(
            CoreEndpointPort(name=port.name or "", protocol=port.protocol or "TCP", port=port.port or 0, appProtocol=port.appProtocol)
            for port in rules.ports_of(pod, service)
        )
        if ports or not service.spec.ports:
            yield address, everyone or ready_in(pod, family, by_family=counts_by_family(pod, world)), ports


def _document(subset: EndpointSubset) -> Document:
    document = document_of(subset)
    for port in document.get("ports", ()):
        port.setdefault("protocol", "TCP")
    return document


# ---- What wakes us


def _keys_of_endpoints(before: Endpoints | None, after: Endpoints | None, world: World) -> Iterable[Key]:
    """What stands without a Service is looked at only if we made it: others may be made before their Service is."""
    one = after or before
    if one is not None:
        key = Key(one.metadata.namespace, one.metadata.name)
        if one.labels.get(MANAGED_BY) == MANAGER or world.get(Service, key) is not None:
            yield key
