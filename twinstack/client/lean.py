"""What the controller manager and the scheduler keep of the objects of which there are very many: pods, and what lists their addresses.

Theory. A cluster of 150,000 pods has as many containers, probes and volumes, which no controller looks at, and a handful of
different labels, tolerations and ports, which many pods share. What is left out here also wakes nobody: two states that are lean
alike are the same. Views are never changed, so nobody can tell that two of them share their parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from twinstack.api.kinds import (
    Condition,
    Container,
    ContainerStatus,
    Endpoint,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    ObjectMeta,
    Pod,
    PodSpec,
    PodStatus,
)
from twinstack.api.objects import encode

_MOST_SHARED = 50_000  # different things remembered at most; then it begins anew
_TOLD = ("Ready", "DisruptionTarget")  # the conditions that controllers look at; and our own
_DOMAINS = ("kubernetes.io/", "k8s.io/", "twinstack.dev/")  # of the annotations that they look at
_NOT_LOOKED_AT = frozenset({"kubectl.kubernetes.io/last-applied-configuration", "kubectl.kubernetes.io/restartedAt"})


_PACK = msgspec.msgpack.Encoder().encode
_ENDPOINTS, _SUBSETS = msgspec.msgpack.Decoder(list[Endpoint] | None).decode, msgspec.msgpack.Decoder(list[EndpointSubset] | None).decode


class PackedSlice(EndpointSlice, frozen=True):
    """A slice whose endpoints are bytes until they are looked at: a third of the memory."""

    packed: bytes = b""

    @property  # type: ignore[misc]
    def endpoints(self) -> list[Endpoint] | None:
        """Made anew each time."""
        return _ENDPOINTS(self.packed)  # type: ignore[no-any-return]


class PackedEndpoints(Endpoints, frozen=True):
    """The same of an Endpoints object."""

    packed: bytes = b""

    @property  # type: ignore[misc]
    def subsets(self) -> list[EndpointSubset] | None:
        """Made anew each time."""
        return _SUBSETS(self.packed)  # type: ignore[no-any-return]


class Lean:
    """Makes lean copies; those made by one instance share their parts."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}
        self._nothing: list[Any] = []  # a list of its own costs each object 56 bytes

    def pod(self, one: Pod) -> Pod:
        """The pod without what only its node looks at."""
        return Pod(
            metadata=self._metadata(one.metadata, annotations=_kept(one.metadata.annotations)), spec=self._spec(one.spec), status=self._status(one.status)
        )

    def slice(self, one: EndpointSlice) -> EndpointSlice:
        """The slice as it is, its endpoints packed."""
        return PackedSlice(
            metadata=self._metadata(one.metadata, annotations=one.metadata.annotations),
            addressType=self._once(one.addressType),
            ports=self._encoded(one.ports),
            packed=_PACK(one.endpoints),
        )

    def endpoints(self, one: Endpoints) -> Endpoints:
        """The Endpoints as they are, their subsets packed."""
        return PackedEndpoints(metadata=self._metadata(one.metadata, annotations=one.metadata.annotations), packed=_PACK(one.subsets))

    def placed(self, one: Pod) -> Pod:
        """The pod with what a scheduler looks at; of one that has a node already, what it takes of it."""
        spec, status = one.spec, one.status
        kept = PodSpec(
            containers=self._encoded([_asking(container) for container in spec.containers]),
            initContainers=None if spec.initContainers is None else self._encoded([_asking(container) for container in spec.initContainers]),
            nodeName=self._once(spec.nodeName),
            nodeSelector=self._encoded(spec.nodeSelector),
            hostNetwork=spec.hostNetwork,
            schedulerName=self._once(spec.schedulerName),
            schedulingGates=spec.schedulingGates,
            tolerations=None if spec.nodeName else self._encoded(spec.tolerations),
            affinity=self._encoded(spec.affinity),
            topologySpreadConstraints=None if spec.nodeName else self._encoded(spec.topologySpreadConstraints),
            priority=spec.priority,
            preemptionPolicy=self._once(spec.preemptionPolicy),
            overhead=self._encoded(spec.overhead),
            resources=self._encoded(spec.resources),
        )
        told = [condition for condition in status.conditions or () if condition.type == "DisruptionTarget" or not spec.nodeName]
        state = PodStatus(phase=self._once(status.phase), startTime=status.startTime, nominatedNodeName=status.nominatedNodeName, conditions=told or None)
        return Pod(metadata=self._metadata(one.metadata, annotations=None), spec=kept, status=state)

    # ---- parts

    def _metadata(self, one: ObjectMeta, *, annotations: Mapping[str, str] | None) -> ObjectMeta:
        return ObjectMeta(
            name=one.name,
            generateName=one.generateName,
            namespace=self._once(one.namespace),
            uid=one.uid,
            resourceVersion=one.resourceVersion,
            generation=one.generation,
            creationTimestamp=self._once(one.creationTimestamp),
            deletionTimestamp=one.deletionTimestamp,
            deletionGracePeriodSeconds=one.deletionGracePeriodSeconds,
            labels=self._dict(one.labels),
            annotations=self._dict(annotations),
            ownerReferences=self._encoded(one.ownerReferences) or self._nothing,
            finalizers=self._encoded(one.finalizers) or self._nothing,
        )

    def _spec(self, one: PodSpec) -> PodSpec:
        return PodSpec(
            containers=self._encoded([_container(container) for container in one.containers]),
            initContainers=None if one.initContainers is None else self._encoded([_container(container) for container in one.initContainers]),
            hostNetwork=one.hostNetwork,
            restartPolicy=self._once(one.restartPolicy),
            schedulerName=self._once(one.schedulerName),
            schedulingGates=one.schedulingGates,
            tolerations=self._encoded(one.tolerations),
            readinessGates=one.readinessGates,
            nodeName=self._once(one.nodeName),
            hostname=one.hostname,
            subdomain=self._once(one.subdomain),
        )

    def _status(self, one: PodStatus) -> PodStatus:
        conditions = [self._condition(one) for one in one.conditions or () if one.type in _TOLD or one.type.startswith("twinstack.dev/")]
        addresses = one.podIPs or ()
        return PodStatus(
            phase=self._once(one.phase),
            reason=self._once(one.reason),
            podIP=addresses[0].ip if addresses and addresses[0].ip == one.podIP else one.podIP,
            podIPs=one.podIPs,
            conditions=conditions or None,
            containerStatuses=self._encoded(_statuses(one.containerStatuses)),
            initContainerStatuses=self._encoded(_statuses(one.initContainerStatuses)),
        )

    def _condition(self, one: Condition) -> Condition:
        return Condition(type=self._once(one.type), status=self._once(one.status), reason=self._once(one.reason), lastTransitionTime=one.lastTransitionTime)

    def _dict(self, given: Mapping[str, str] | None) -> Any:
        return None if not given else self._kept(tuple(given.items()), given)

    def _once(self, value: Any) -> Any:
        """The first value that was equal to this one."""
        return value if value is None else self._kept(value, value)

    def _encoded(self, value: Any) -> Any:
        """The same for what holds lists."""
        return value if value is None else self._kept((type(value), encode(value)), value)

    def _kept(self, name: Any, value: Any) -> Any:
        if len(self._shared) > _MOST_SHARED:
            self._shared.clear()
        return self._shared.setdefault(name, value)


def _container(one: Container) -> Container:
    return Container(name=one.name, ports=one.ports, restartPolicy=one.restartPolicy)


def _asking(one: Container) -> Container:
    return Container(name=one.name, ports=one.ports, restartPolicy=one.restartPolicy, resources=one.resources)


def _statuses(given: list[ContainerStatus] | None) -> list[ContainerStatus] | None:
    """How often containers were started, and how they ended."""
    return None if not given else [ContainerStatus(name=one.name, restartCount=one.restartCount, state=replace(one.state, running=None)) for one in given]


def _kept(annotations: Mapping[str, str] | None) -> dict[str, str] | None:
    if not annotations:
        return None
    return {name: text for name, text in annotations.items() if any(domain in name for domain in _DOMAINS) and name not in _NOT_LOOKED_AT} or None
