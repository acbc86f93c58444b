"""Which pods answer for a Service, as which endpoints, on which ports, in which family.

Rule of this file: pods, nodes and a Service in, endpoints out. How endpoints are packed into objects is told
in ``rules.slices``; who writes them, in ``controllers``.

Theory (spec: the EndpointSlice API, KEP-752, KEP-1672 for the three conditions).

* A pod is *eligible* while it has an address and has neither failed nor succeeded; one that is being deleted stays.
* Its endpoint of a family carries its addresses of that family; a pod without one has no endpoint there, but its
  ports still count.
* ``serving`` is the pod's readiness (in this family, where it asks for that: ``rules.readiness``), ``terminating`` its
  deletion, ``ready`` is serving and not terminating, unless the Service publishes those that are not ready.
* A named target port is looked up in each pod, so that pods may resolve to different ports: then they stand in
  different groups, and in different slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from twinstack.api.kinds import (
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    ForZone,
    Node,
    ObjectReference,
    Pod,
    Service,
    ServicePort,
)
from twinstack.api.world import World
from twinstack.net.cidr import canonical_text, parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Address, Family
from twinstack.rules.readiness import readiness_of, ready_in
from twinstack.rules.workloads import finished, ready

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
LEADER = "control-plane.alpha.kubernetes.io/leader"  # an Endpoints object that elects a leader holds no endpoints
_TOPOLOGY = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode")

Ports = tuple[EndpointPort, ...]
"""A port list, sorted: what pods of one group have in common. Its key is :func:`key_of_ports`."""

PortKey = tuple[tuple[str, str, int, str], ...]


# ---- The Service


def is_headless(service: Service) -> bool:
    """Whether the Service has no address of its own."""
    return service.spec.clusterIP in ("", "None")


def selects_pods(service: Service) -> bool:
    """Whether the endpoints of this Service are ours to write; an empty selector selects everything."""
    return service.spec.type != "ExternalName" and service.spec.selector is not None


def families_of(service: Service) -> tuple[Family, ...]:
    """The families in which the Service has endpoints, its primary first.

    One that was stored before there were ``ipFamilies`` has the family of its address, and both when it is headless.
    """
    if service.spec.ipFamilies:
        named = {family.value: family for family in FAMILIES}
        return tuple(named[text] for text in service.spec.ipFamilies if text in named)
    if not is_headless(service):
        address = _parsed(service.spec.clusterIP)
        return () if address is None else (Family.of(address),)
    return FAMILIES


def pods_of(service: Service, world: World) -> Sequence[Pod]:
    """The pods that the Service selects, by key."""
    selector, namespace = service.spec.selector or {}, service.metadata.namespace
    if not selector:
        return world.list(Pod, namespace)
    fewest = min((world.labelled(Pod, namespace, label, value) for label, value in selector.items()), key=len)
    wanted = selector.items()
    return [pod for pod in fewest if wanted <= pod.labels.items()]


def by_selector(service: Service) -> Iterable[tuple[str, str, str]]:
    """Index: the namespace and one label that every pod of the Service has; empty texts for one that selects everything."""
    if not selects_pods(service):
        return ()
    return ((service.metadata.namespace, *min((service.spec.selector or {"": ""}).items())),)


def by_node(pod: Pod) -> Iterable[str]:
    """Index: the node that a pod stands on."""
    return (pod.spec.nodeName,) if pod.spec.nodeName else ()


def services_of(pod: Pod, world: World) -> Iterator[Service]:
    """The Services that select the pod."""
    namespace, labels = pod.metadata.namespace, pod.labels.items()
    for label, value in (("", ""), *labels):
        for service in world.indexed(Service, by_selector, (namespace, label, value)):
            if (service.spec.selector or {}).items() <= labels:
                yield service


def matters_to_endpoints(before: Pod, after: Pod) -> bool:
    """Whether what happened to the pod can change an endpoint."""
    return (
        before.metadata.deletionTimestamp != after.metadata.deletionTimestamp
        or readiness_of(before) != readiness_of(after)
        or finished(before) != finished(after)
        or before.status.podIPs != after.status.podIPs
        or before.status.podIP != after.status.podIP
        or before.labels != after.labels
        or before.spec != after.spec
    )


# ---- The pod


def is_eligible(pod: Pod, *, even_terminating: bool = True) -> bool:
    """Whether the pod can be an endpoint at all."""
    has_address = bool(pod.status.podIP or pod.status.podIPs)
    return has_address and not finished(pod) and (even_terminating or pod.metadata.deletionTimestamp is None)


def _parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except AddressError:
        return None


def addresses_of(pod: Pod) -> dict[Family, list[str]]:
    """The pod's addresses, canonical, by family; a text that is no address is left out."""
    result: dict[Family, list[str]] = {}
    texts = [one.ip for one in pod.status.podIPs or ()] or [pod.status.podIP]
    for text in texts:
        found = canonical_text(text)
        if found is not None:
            result.setdefault(found[0], []).append(found[1])
    return result


def target_port(pod: Pod, port: ServicePort) -> int | None:
    """The number of the port on this pod; None when the pod names no such port.

    A number is taken at its word. A name is looked for in the containers, then in init containers that keep
    running (restartPolicy Always).
    """
    if isinstance(port.targetPort, int):
        return port.targetPort or port.port
    sidecars = (container for container in pod.spec.initContainers or () if container.restartPolicy == "Always")
    for container in (*pod.spec.containers, *sidecars):
        for one in container.ports or ():
            if one.name == port.targetPort and one.protocol == port.protocol:
                return one.containerPort
    return None


def ports_of(pod: Pod, service: Service) -> Ports:
    """The ports on which this pod answers for the Service, sorted."""
    found = []
    for port in service.spec.ports:
        number = target_port(pod, port)
        if number is not None:
            found.append(EndpointPort(name=port.name, port=number, protocol=port.protocol, appProtocol=port.appProtocol))
    return tuple(sorted(found, key=_port_key))


def _port_key(port: EndpointPort) -> tuple[str, str, int, str]:
    return port.name or "", port.protocol or "TCP", port.port or 0, port.appProtocol or ""


def key_of_ports(ports: Iterable[EndpointPort] | None) -> PortKey:
    """What makes two port lists the same: their sorted contents."""
    return tuple(sorted(_port_key(port) for port in ports or ()))


def hostname_of(pod: Pod, service: Service) -> str | None:
    """The name by which DNS finds the pod under the Service."""
    ours = pod.spec.subdomain == service.metadata.name and pod.metadata.namespace == service.metadata.namespace
    return pod.spec.hostname or None if ours else None


def endpoints_of(pod: Pod, service: Service, *, zone: str | None, by_family: bool = False) -> dict[Family, Endpoint]:
    """The pod's endpoint of each family in which it has an address.

    *by_family*: one that is ready, but was found dead in a family, has none there, unless the Service publishes what is not ready.
    """
    terminating = pod.metadata.deletionTimestamp is not None
    target = ObjectReference(kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid)
    node = pod.spec.nodeName or None
    hints = hints_of(service, zone=zone, node=node)
    hostname = hostname_of(pod, service)
    made = {}
    for family, addresses in addresses_of(pod).items():
        serving = ready_in(pod, family, by_family=by_family)
        if ready(pod) and not (serving or service.spec.publishNotReadyAddresses):
            continue
        is_ready = service.spec.publishNotReadyAddresses or (serving and not terminating)
        conditions = EndpointConditions(ready=is_ready, serving=serving, terminating=terminating)
        hint = hints if is_ready else None
        made[family] = Endpoint(addresses=addresses, conditions=conditions, hostname=hostname, nodeName=node, zone=zone, targetRef=target, hints=hint)
    return made


def hints_of(service: Service, *, zone: str | None, node: str | None) -> EndpointHints | None:
    """For whom a ready endpoint is meant, as ``spec.trafficDistribution`` says (KEP-4444, KEP-3015).

    The topology annotation, where it says Auto, takes precedence; what it asks for depends on all endpoints (``rules.topology``).
    """
    distribution = service.spec.trafficDistribution
    if asked_topology(service) in ("Auto", "auto") or distribution not in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        return None
    zones = [ForZone(name=zone)] if zone else None
    nodes = [ForZone(name=node)] if node and distribution == "PreferSameNode" else None
    return EndpointHints(forZones=zones, forNodes=nodes) if zones or nodes else None


def asked_topology(service: Service) -> str:
    """What the Service's annotation says about topology; the older one goes first."""
    return next((service.annotations[name] for name in _TOPOLOGY if name in service.annotations), "")


def zone_of(node: Node) -> str | None:
    """The zone in which the node stands."""
    return node.labels.get(ZONE) or None


# ---- Labels


def labels_of(service: Service, *, reserved: Iterable[str], own: dict[str, str]) -> dict[str, str]:
    """The labels of what is written for a Service: its own except the reserved ones, ours, and the headless mark."""
    left_out = {*reserved, HEADLESS}
    labels = {key: value for key, value in service.labels.items() if key not in left_out}
    labels.update(own)
    if is_headless(service):
        labels[HEADLESS] = ""
    return labels
