"""What the controller manager and the scheduler keep of the objects of which there are very many: pods, and what lists their addresses.

Theory. A cluster of 150,000 pods has as many containers, probes and volumes, which no controller looks at, and a handful of
different labels, tolerations and ports, which many pods share. What is left out here also wakes nobody: two states that are lean
alike are the same. Views are never changed, so nobody can tell that two of them share their parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    PodIP,
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


class LeanPod(Pod, frozen=True):
    """A pod that has of its own what no other has, and shares the rest: half of the memory. Spec and status are put together when they are looked at."""

    node: str = ""
    rest: PodSpec = PodSpec()  # without the node
    state: PodStatus = PodStatus()  # without addresses and times
    ips: str = ""
    times: str = ""  # of the conditions
    began: str | None = None

    @property  # type: ignore[misc]
    def spec(self) -> PodSpec:
        """Made anew each time."""
        return replace(self.rest, nodeName=self.node)

    @property  # type: ignore[misc]
    def status(self) -> PodStatus:
        """Made anew each time."""
        state, ips = self.state, self.ips.split(",") if self.ips else ()
        conditions = state.conditions
        if self.times and conditions:
            conditions = [replace(one, lastTransitionTime=time or None) for one, time in zip(conditions, self.times.split(","), strict=True)]
        podIPs = [PodIP(ip=ip) for ip in ips] or None
        return replace(state, podIP=ips[0] if ips else "", podIPs=podIPs, conditions=conditions, startTime=self.began)


class Lean:
    """Makes lean copies; those made by one instance share their parts."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}
        self._nothing: list[Any] = []  # a list of its own costs each object 56 bytes

    def pod(self, one: Pod) -> Pod:
        """The pod without what only its node looks at."""
        spec, status = one.spec, one.status
        kept = PodSpec(
            containers=[_container(container) for container in spec.containers],
            initContainers=None if spec.initContainers is None else [_container(container) for container in spec.initContainers],
            hostNetwork=spec.hostNetwork,
            restartPolicy=spec.restartPolicy,
            schedulerName=spec.schedulerName,
            schedulingGates=spec.schedulingGates,
            tolerations=spec.tolerations,
            affinity=None if spec.nodeName else spec.affinity,  # the node that a DaemonSet's pod waits for
            readinessGates=spec.readinessGates,
            hostname=spec.hostname,
            subdomain=spec.subdomain,
        )
        told = [condition for condition in status.conditions or () if condition.type in _TOLD or condition.type.startswith("twinstack.dev/")]
        state = PodStatus(
            phase=status.phase,
            reason=status.reason,
            conditions=[Condition(type=condition.type, status=condition.status, reason=condition.reason) for condition in told] or None,
            containerStatuses=_statuses(status.containerStatuses),
            initContainerStatuses=_statuses(status.initContainerStatuses),
        )
        addresses = status.podIPs or ([PodIP(ip=status.podIP)] if status.podIP else [])
        return self._lean_pod(one, kept, state, told, annotations=_kept(one.metadata.annotations), addresses=addresses)

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
            containers=[_asking(container) for container in spec.containers],
            initContainers=None if spec.initContainers is None else [_asking(container) for container in spec.initContainers],
            nodeSelector=spec.nodeSelector,
            hostNetwork=spec.hostNetwork,
            schedulerName=spec.schedulerName,
            schedulingGates=spec.schedulingGates,
            tolerations=None if spec.nodeName else spec.tolerations,
            affinity=spec.affinity,
            topologySpreadConstraints=None if spec.nodeName else spec.topologySpreadConstraints,
            priority=spec.priority,
            preemptionPolicy=spec.preemptionPolicy,
            overhead=spec.overhead,
            resources=spec.resources,
        )
        if not spec.nodeName:  # it is looked at a thousand times, once for each node, and few such pods are there at once
            state = PodStatus(phase=status.phase, nominatedNodeName=status.nominatedNodeName, conditions=status.conditions, startTime=status.startTime)
            return Pod(metadata=self._metadata(one.metadata, annotations=None), spec=self._encoded(kept), status=state)
        told = [condition for condition in status.conditions or () if condition.type == "DisruptionTarget"]
        conditions = [replace(condition, lastTransitionTime=None) for condition in told] or None
        state = PodStatus(phase=status.phase, nominatedNodeName=status.nominatedNodeName, conditions=conditions)
        return self._lean_pod(one, kept, state, told, annotations=None, began=status.startTime)

    # ---- parts

    def _lean_pod(
        self,
        one: Pod,
        rest: PodSpec,
        state: PodStatus,
        told: Sequence[Condition],
        *,
        annotations: Mapping[str, str] | None,
        addresses: Sequence[PodIP] = (),
        began: str | None = None,
    ) -> LeanPod:
        times = ",".join(condition.lastTransitionTime or "" for condition in told)
        return LeanPod(
            metadata=self._metadata(one.metadata, annotations=annotations),
            node=self._once(one.spec.nodeName),
            rest=self._encoded(rest),
            state=self._encoded(state),
            ips=",".join(address.ip for address in addresses),
            times=times,
            began=times if began == times else began,
        )

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
