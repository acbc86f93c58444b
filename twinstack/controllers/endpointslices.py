"""Every Service that selects pods has, in each of its families, slices that list their endpoints.

The invariant: for each family of the Service, the slices that we manage and that carry its name hold exactly one
endpoint for each eligible pod with an address of that family, at most so many in a slice, and there is at least one
slice; slices of a family that the Service does not have do not exist. A slice is found by its labels and its owner,
never by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from twinstack.api.kinds import Endpoint, EndpointHints, EndpointSlice, ForZone, Namespace, Node, Pod, Service
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time, text_of_micro_time
from twinstack.api.world import Action, Create, Delete, Patch, Tell, Watch, World
from twinstack.net.family import Family
from twinstack.rules import endpoints as rules
from twinstack.rules import topology
from twinstack.rules.readiness import counts_by_family
from twinstack.rules.slices import Content, Group, Identity, identity_of, plan_slices
from twinstack.rules.wakes import woken_by_namespace, woken_by_node, woken_by_pod, woken_by_service
from twinstack.rules.workloads import owner_reference, ready_since

MANAGER = "endpointslice-controller.k8s.io"
_RESERVED = (rules.SERVICE_NAME, rules.MANAGED_BY)
_RESOURCE = resource_of(EndpointSlice)
_WORTH_REMEMBERING = 100  # pods; of fewer, making their endpoints anew costs less than keeping them


class _Answer(NamedTuple):
    """What one pod gives to one Service, and from what it was made."""

    pod: Pod
    zone: str | None
    by_family: bool
    ports: rules.Ports
    key: rules.PortKey
    endpoints: tuple[tuple[Family, Identity, Endpoint], ...]


class _Remembered(NamedTuple):
    """Answers that hold as long as the very same Service and pod are looked at."""

    service: Service
    answers: dict[str, _Answer]


class EndpointSlices:
    """Endpoints of Services, by family, in slices of at most *max_endpoints*."""

    name = "endpointslice-controller"
    independent = True

    def __init__(self, *, max_endpoints: int = 100) -> None:
        self._most = max_endpoints
        self._remembered: dict[Key, _Remembered] = {}  # spares work, never changes a decision
        self.watches: Sequence[Watch] = (
            Watch(Service, woken_by_service),
            Watch(Pod, woken_by_pod),
            Watch(EndpointSlice, _keys_of_slice),
            Watch(Node, _woken_by_node),
            Watch(Namespace, woken_by_namespace),
        )

    def decide(self, key: Key, world: World) -> list[Action]:
        service = world.get(Service, key)
        if service is None:
            self._remembered.pop(key, None)  # the slices go with their owner
            return []
        if not rules.selects_pods(service):
            return []
        pods = rules.pods_of(service, world)
        groups = self._groups(key, service, pods, world)
        ours: dict[str, list[EndpointSlice]] = {}
        actions: list[Action] = []
        for one in world.labelled(EndpointSlice, key.namespace, rules.SERVICE_NAME, key.name):
            if one.labels.get(rules.MANAGED_BY) != MANAGER or one.metadata.deletionTimestamp:
                continue
            if any(owner.uid == service.metadata.uid for owner in one.metadata.ownerReferences):
                ours.setdefault(one.addressType, []).append(one)
            else:
                actions.append(_deletion(one))
        labels = rules.labels_of(service, reserved=_RESERVED, own={rules.SERVICE_NAME: key.name, rules.MANAGED_BY: MANAGER})
        writer = _Writer(service, labels, world)
        for family in rules.families_of(service):
            present = ours.pop(family.value, [])
            if topology.asks(service):
                actions.extend(_with_hints(service, family, groups[family], present, world))
            plan = plan_slices(present, groups[family], most=self._most, outdated=writer.is_outdated)
            if service.metadata.deletionTimestamp is None:
                actions.extend(writer.creation(family, content) for content in plan.create)
            actions.extend(writer.change(one, content) for one, content in plan.update)
            actions.extend(_deletion(one) for one in plan.delete)
        for others in ours.values():
            actions.extend(_deletion(one) for one in others)
        return actions

    def _groups(self, key: Key, service: Service, pods: Sequence[Pod], world: World) -> dict[Family, dict[rules.PortKey, Group]]:
        remembered = self._remembered.get(key)
        before = remembered.answers if remembered is not None and remembered.service is service else {}
        after: dict[str, _Answer] = {}
        zones: dict[str, str | None] = {}
        absent: set[str] = set()
        groups: dict[Family, dict[rules.PortKey, Group]] = {family: {} for family in rules.families_of(service)}
        for pod in pods:
            if not rules.is_eligible(pod):
                continue
            node = pod.spec.nodeName
            if node and node not in zones:
                found = world.get(Node, Key("", node))
                zones[node] = rules.zone_of(found) if found else None
                if found is None:
                    absent.add(node)
            if node in absent and not service.spec.publishNotReadyAddresses:
                continue  # its appearance wakes us
            zone = zones.get(node)
            answer = before.get(pod.metadata.uid)
            by_family = counts_by_family(pod, world)
            if answer is None or answer.pod is not pod or (answer.zone, answer.by_family) != (zone, by_family):
                ports = rules.ports_of(pod, service)
                made = rules.endpoints_of(pod, service, zone=zone, by_family=by_family)
                listed = tuple((family, identity_of(one), one) for family, one in made.items())
                answer = _Answer(pod, zone, by_family, ports, rules.key_of_ports(ports), listed)
            after[pod.metadata.uid] = answer
            for group in groups.values():
                if answer.key not in group:
                    group[answer.key] = Group(answer.ports, {})
            for family, identity, endpoint in answer.endpoints:
                if family in groups:
                    groups[family][answer.key].endpoints[identity] = endpoint
        if len(after) >= _WORTH_REMEMBERING:
            self._remembered[key] = _Remembered(service, after)
        elif remembered is not None:
            del self._remembered[key]
        return groups


def _with_hints(service: Service, family: Family, groups: dict[rules.PortKey, Group], present: Sequence[EndpointSlice], world: World) -> Iterable[Action]:
    """Give the endpoints of a family their topology-aware hints, in place; tells when there begin or cease to be any."""
    before = topology.present_hints(present)
    every = {identity: one for group in groups.values() for identity, one in group.endpoints.items()}
    found = topology.hints_for(every, before, topology.zones_of(world.list(Node)))
    for group in groups.values():
        for identity, one in group.endpoints.items():
            zone = found.zones.get(identity)
            if zone is not None:
                group.endpoints[identity] = msgspec.structs.replace(one, hints=EndpointHints(forZones=[ForZone(name=zone)]))
    if found.why_not and (before or not present):
        yield Tell(service, "Warning", "TopologyAwareHintsDisabled", f"No hints, for {found.why_not}, addressType: {family}")
    elif found.zones and not before:
        yield Tell(service, "Normal", "TopologyAwareHintsEnabled", f"Endpoints have hints, addressType: {family}")


class _Writer:
    """Plans to actions, for one Service."""

    def __init__(self, service: Service, labels: dict[str, str], world: World) -> None:
        self._service, self._labels, self._world = service, labels, world
        self._created = parse_time(service.metadata.creationTimestamp)
        self._compared = {key: value for key, value in labels.items() if key != rules.HEADLESS}

    def is_outdated(self, one: EndpointSlice) -> bool:
        """Whether the slice's labels are not those of its Service; the headless mark alone does not count."""
        return {key: value for key, value in one.labels.items() if key != rules.HEADLESS} != self._compared

    def creation(self, family: Family, content: Content) -> Create:
        service = self._service
        metadata: Document = {
            "generateName": f"{service.metadata.name}-",
            "namespace": service.metadata.namespace,
            "labels": dict(self._labels),
            "ownerReferences": [document_of(owner_reference(service))],
        }
        trigger = self._trigger(content) or self._created
        if trigger:
            metadata["annotations"] = {rules.TRIGGER_TIME: text_of_micro_time(trigger)}
        document = {"apiVersion": _RESOURCE.api_version, "kind": _RESOURCE.kind, "metadata": metadata, "addressType": family.value}
        return Create(_RESOURCE, document | _body(content))

    def change(self, one: EndpointSlice, content: Content) -> Patch:
        gone = {key: None for key in one.labels if key not in self._labels}
        trigger = self._trigger(content)
        annotation = text_of_micro_time(trigger) if trigger else None
        metadata = {"labels": {**self._labels, **gone}, "annotations": {rules.TRIGGER_TIME: annotation}}
        key = Key(one.metadata.namespace, one.metadata.name)
        patch = {"metadata": metadata} | _body(content)
        return Patch(_RESOURCE, key, patch, uid=one.metadata.uid, resource_version=one.metadata.resourceVersion)

    def _trigger(self, content: Content) -> datetime | None:
        """When that happened which this write tells: the earliest readiness among the endpoints that changed.

        A pod that was ready before its Service was made counts from the Service on.
        """
        moments = []
        for endpoint in content.changed:
            target = endpoint.targetRef
            pod = self._world.get(Pod, Key(target.namespace, target.name)) if target else None
            if pod is not None and pod.metadata.deletionTimestamp is None:
                since = ready_since(pod)
                if since is not None:
                    moments.append(max(since, self._created) if self._created else since)
        return min(moments, default=None)


def _body(content: Content) -> Document:
    return {"endpoints": [document_of(one) for one in content.endpoints], "ports": [document_of(port) for port in content.ports]}


def _deletion(one: EndpointSlice) -> Delete:
    return Delete(_RESOURCE, Key(one.metadata.namespace, one.metadata.name), uid=one.metadata.uid)


# ---- What wakes us


def _woken_by_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    """Besides the Services whose pods stand there, those that share their endpoints out by what all nodes have."""
    yield from woken_by_node(before, after, world)
    if (before and topology.counted(before)) != (after and topology.counted(after)):
        yield from (Key(one.metadata.namespace, one.metadata.name) for one in world.indexed(Service, topology.by_asking, True))


def _keys_of_slice(before: EndpointSlice | None, after: EndpointSlice | None, world: World) -> Iterable[Key]:
    for one in (before, after):
        if one is not None and one.labels.get(rules.MANAGED_BY) == MANAGER and rules.SERVICE_NAME in one.labels:
            yield Key(one.metadata.namespace, one.labels[rules.SERVICE_NAME])
