"""What one family of a Service is to a node: its front ends, and the endpoints that serve them.

Rule of this file: Service and EndpointSlices in, values out. It knows Kubernetes' rules of choice and no packet
filter; ``ruleset`` makes elements of what is decided here.

Theory (spec: Service, EndpointSlice; KEP-1669 terminating endpoints, KEP-2433 and 3015 topology). A Service port
exists in a family only if the Service has a cluster IP of that family; else nothing of it does, no node port
either. Of its endpoints two lists matter:

    cluster   ready ones, narrowed by topology hints; if there are none, those serving while they terminate
    local     ready ones of this node; if there are none, this node's serving while they terminate

``internalTrafficPolicy: Local`` sends cluster-IP traffic to the second, ``externalTrafficPolicy: Local`` traffic from
outside; everything else uses the first. ``exists`` says whether any endpoint could serve anywhere: without one,
clients are refused; with one, a Local policy without local endpoints drops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from twinstack.api import kinds
from twinstack.dataplane.text import interval_text
from twinstack.net.cidr import canonical_text, collapsed, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family, Network

SERVICE_NAME = "kubernetes.io/service-name"
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
DATED = "endpoints.kubernetes.io/last-change-trigger-time"
ZONE = "topology.kubernetes.io/zone"
FLOWING = ("UDP", "SCTP")  # whose flows outlive their endpoint unnoticed
DEFAULT_AFFINITY_SECONDS = 10800

Backend = tuple[str, int]


class Place(NamedTuple):
    """Where this proxy runs: what decides which endpoints are near."""

    node: str
    zone: str = ""


class ServicePort(NamedTuple):
    """One port of a Service in one family. Addresses are canonical texts, the protocol in lower case."""

    name: str  # namespace/name:port, the port's name left out with its colon when it has none
    protocol: str
    address: str
    port: int
    node_port: int
    externals: tuple[str, ...]
    balancers: tuple[str, ...]
    sources: tuple[str, ...] | None  # source ranges in force for the balancers' addresses
    cluster: tuple[Backend, ...]
    local: tuple[Backend, ...]
    exists: bool
    internal_local: bool
    external_local: bool
    affinity_seconds: int  # 0 for none
    here: frozenset[str]  # addresses of this node's endpoints among the two lists
    serving: frozenset[Backend] = frozenset()  # of a UDP or SCTP port: all that may keep their flows, whatever the policies


class Row(NamedTuple):
    """What is looked at of an endpoint; None means what the API says that it means."""

    address: str  # canonical
    ready: bool | None
    serving: bool | None
    terminating: bool | None
    node: str | None
    hints: kinds.EndpointHints | None


class PackedSlice(kinds.EndpointSlice, frozen=True):
    """A slice whose endpoints are bytes until they are looked at, and that has its Service's name instead of labels: a third of the memory."""

    packed: bytes = b""
    service: str = ""


_packed = msgspec.msgpack.Encoder()
_unpacked = msgspec.msgpack.Decoder(list[tuple[str, bool | None, bool | None, bool | None, str | None, kinds.EndpointHints | None]])


def pack(one: kinds.EndpointSlice) -> bytes:
    """A slice's endpoints as bytes. Those without an address of the slice's family are nobody's."""
    return _packed.encode(list(rows_of(one)))


def rows_of(one: kinds.EndpointSlice) -> Iterable[tuple[str, bool | None, bool | None, bool | None, str | None, kinds.EndpointHints | None]]:
    """A slice's endpoints as :class:`Row` has them, packed or not; plain tuples, for there are very many."""
    if isinstance(one, PackedSlice):
        return _unpacked.decode(one.packed)
    family = next((family for family in FAMILIES if family.value == one.addressType), None)
    return [
        Row(address, conditions.ready, conditions.serving, conditions.terminating, endpoint.nodeName, endpoint.hints)
        for endpoint in one.endpoints or ()
        for conditions in (endpoint.conditions,)
        for address in (canonical(endpoint.addresses[0], family) if family and endpoint.addresses else None,)
        if address is not None
    ]


class _Candidate(NamedTuple):
    ready: bool
    serving: bool
    draining: bool  # serving while terminating
    terminating: bool
    local: bool
    node: str | None
    hints: kinds.EndpointHints | None


def canonical(text: str, family: Family) -> str | None:
    """The canonical text of an address of the family; None for the other family's and for what is no address."""
    found = canonical_text(text)
    return found[1] if found is not None and found[0] is family else None


def is_ours(service: kinds.Service) -> bool:
    """Whether a Service is one for a proxy: it has a cluster IP, and no other proxy was named for it."""
    spec = service.spec
    return spec.type != "ExternalName" and spec.clusterIP not in ("", "None") and PROXY_NAME not in (service.metadata.labels or {})


def cluster_ip(service: kinds.Service, family: Family) -> str | None:
    """The Service's cluster IP of the family; None when it does not exist there."""
    spec = service.spec
    type_ = family.value
    for asked, text in zip(spec.ipFamilies, spec.clusterIPs, strict=False):
        if asked == type_:
            return canonical(text, family)
    return canonical(spec.clusterIP, family) if not spec.ipFamilies else None


def service_ports(service: kinds.Service, slices: Iterable[kinds.EndpointSlice], family: Family, place: Place) -> list[ServicePort]:
    """The Service's ports in the family; none when it does not exist there. *slices* are those of this Service, in any order."""
    address = cluster_ip(service, family) if is_ours(service) else None
    if address is None:
        return []
    spec = service.spec
    type_ = family.value
    own = [one for one in slices if one.addressType == type_]
    if len(own) > 1:
        own.sort(key=lambda one: one.metadata.name)
    externals = _addresses(spec.externalIPs, family)
    balancers = _balancers(service, family)
    sources = source_ranges(spec.loadBalancerSourceRanges, family) if balancers else None
    affinity = affinity_seconds(service)
    external_policy = spec.externalTrafficPolicy == "Local" and (spec.type in ("NodePort", "LoadBalancer") or bool(spec.externalIPs))
    result = []
    for port in spec.ports:
        reachable_from_outside = bool(port.nodePort or externals or balancers)
        internal_local = spec.internalTrafficPolicy == "Local"
        external_local = external_policy and reachable_from_outside
        candidates = _candidates(own, port, place)
        near = {backend: one for backend, one in candidates.items() if one.local}
        cluster: tuple[Backend, ...] = ()
        local: tuple[Backend, ...] = ()
        if not internal_local or reachable_from_outside:
            cluster = _chosen(_nearest(candidates, place))
        if internal_local or external_local:
            local = _chosen(near)
        result.append(
            ServicePort(
                name=f"{service.metadata.namespace}/{service.metadata.name}" + (f":{port.name}" if port.name else ""),
                protocol=port.protocol.lower(),
                address=address,
                port=port.port,
                node_port=port.nodePort,
                externals=externals,
                balancers=balancers,
                sources=sources,
                cluster=cluster,
                local=local,
                exists=bool(cluster or local) or any(one.ready or one.draining for one in candidates.values()),
                internal_local=internal_local,
                external_local=external_local,
                affinity_seconds=affinity,
                here=frozenset([backend[0] for backend in near if backend in cluster or backend in local]),
                serving=frozenset([backend for backend, one in candidates.items() if one.serving]) if port.protocol in FLOWING else frozenset(),
            )
        )
    return result


class Placed(NamedTuple):
    """An endpoint of a port, and the node that it is on."""

    address: str
    port: int
    node: str


def endpoints_of(service: kinds.Service, port: kinds.ServicePort, slices: Iterable[kinds.EndpointSlice], family: Family, *, draining: bool) -> list[Placed]:
    """A port's endpoints wherever they are, without topology: the ready ones.

    With *draining*, and when all of them terminate: those that serve meanwhile, and all when none does (a Windows node's rule).
    """
    own = sorted((one for one in slices if one.addressType == family.value), key=lambda one: one.metadata.name)
    candidates = _candidates(own, port, Place(""))
    chosen = [backend for backend, one in candidates.items() if one.ready]
    if draining and candidates and all(one.terminating for one in candidates.values()):
        chosen = [backend for backend, one in candidates.items() if one.serving] or list(candidates)
    return [Placed(*backend, candidates[backend].node or "") for backend in sorted(chosen)]


def affinity_seconds(service: kinds.Service) -> int:
    """How long a client stays with its endpoint; 0 when it does not."""
    if service.spec.sessionAffinity != "ClientIP":
        return 0
    config = service.spec.sessionAffinityConfig
    given = config.clientIP.timeoutSeconds if config and config.clientIP else None
    return DEFAULT_AFFINITY_SECONDS if given is None else given


def source_ranges(texts: Sequence[str], family: Family) -> tuple[str, ...] | None:
    """The family's source ranges, disjoint and sorted; None when its clients are not restricted.

    A list that names only the other family does not restrict this one, and neither does one with its default route.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            network = parse_cidr(text.strip(), masked=True)
        except AddressError:
            continue
        if Family.of(network) is family:
            networks.append(network)
    if not networks or any(network.prefixlen == 0 for network in networks):
        return None
    return tuple(map(interval_text, collapsed(networks)))


def ignored(service: kinds.Service) -> list[str]:
    """What of the Service nobody answers because it has no cluster IP of that family, or because it is no address: ``spec.externalIPs[0] …``."""
    if not is_ours(service):
        return []
    spec = service.spec
    own = [family for family in FAMILIES if cluster_ip(service, family) is not None]
    addresses = [(f"spec.externalIPs[{i}]", text) for i, text in enumerate(spec.externalIPs or ())]
    if spec.type == "LoadBalancer":
        addresses += [(f"status.loadBalancer.ingress[{i}].ip", one.ip) for i, one in enumerate(service.status.loadBalancer.ingress or ()) if one.ip]
    found = [f"{path} {text!r}" for path, text in addresses if all(canonical(text, family) is None for family in own)]
    for i, text in enumerate(spec.loadBalancerSourceRanges or ()):
        try:
            family = Family.of(parse_cidr(text.strip(), masked=True))
        except AddressError:
            family = None
        if family not in own:
            found.append(f"spec.loadBalancerSourceRanges[{i}] {text!r}")
    return found


def local_ready(service: kinds.Service, slices: Iterable[kinds.EndpointSlice], family: Family, place: Place) -> int:
    """How many addresses of ready endpoints are on this node, over all ports: what a health-check node port tells."""
    own = [one for one in slices if one.addressType == family.value]
    return len({backend[0] for port in service.spec.ports for backend, one in _candidates(own, port, place).items() if one.local and one.ready})


def node_addresses(node: kinds.Node) -> dict[Family, tuple[str, ...]]:
    """The node's own address in each family that it has: the first internal one, else the first external one."""
    found: dict[Family, tuple[str, ...]] = {}
    for type_ in ("InternalIP", "ExternalIP"):
        for one in node.status.addresses or ():
            if one.type == type_:
                for family in FAMILIES:
                    address = canonical(one.address, family)
                    if address is not None:
                        found.setdefault(family, (address,))
    return found


FlowFronts = Mapping[tuple[str, str, int], frozenset[Backend]]


def flow_fronts(ports: Iterable[ServicePort]) -> FlowFronts:
    """Where clients send UDP and SCTP to: (address, protocol, port), the address empty for a node port; and who may answer."""
    return {
        front: port.serving
        for port in ports
        if port.serving
        for front in (
            *((address, port.protocol, port.port) for address in (port.address, *port.externals, *port.balancers)),
            *((("", port.protocol, port.node_port),) if port.node_port else ()),
        )
    }


def gone_answers(before: FlowFronts, after: FlowFronts) -> Iterator[tuple[str, int, str, int, str]]:
    """The flows that a change made stale: (front address, port, who answers, its port, protocol); empty and 0 mean any.

    Those of endpoints that are gone; and, where a front end had none before, those that nobody translated. A front end
    that nobody serves any more is left alone.
    """
    for (address, protocol, port), serving in after.items():
        if (address, protocol, port) not in before:
            yield address, port, address, port, protocol
        for backend in before.get((address, protocol, port), frozenset()) - serving:
            yield address, port, *backend, protocol


def _addresses(texts: Sequence[str], family: Family) -> tuple[str, ...]:
    if not texts:
        return ()
    return tuple(dict.fromkeys(found for text in texts if (found := canonical(text, family)) is not None))


def _balancers(service: kinds.Service, family: Family) -> tuple[str, ...]:
    """The load balancer's addresses that are to be answered here; those of ipMode Proxy are not."""
    ingress = service.status.loadBalancer.ingress
    if not ingress or service.spec.type != "LoadBalancer":
        return ()
    return _addresses([one.ip for one in ingress if one.ip and one.ipMode in (None, "VIP")], family)


def _candidates(slices: Sequence[kinds.EndpointSlice], port: kinds.ServicePort, place: Place) -> dict[Backend, _Candidate]:
    """The endpoints of a port by address and number. Of two with the same, a terminating one never takes the place of another."""
    found: dict[Backend, _Candidate] = {}
    for one in slices:
        numbers = [given.port for given in one.ports or () if given.name == port.name and (given.protocol or "TCP") == port.protocol]
        for number in filter(None, numbers):
            for address, ready, serving, terminating, node, hints in rows_of(one):
                backend = (address, number)
                ending, serves = terminating is True, serving is not False
                if not ending or backend not in found:
                    found[backend] = _Candidate(ready is not False, serves, ending and serves, ending, node == place.node, node, hints)
    return found


def _chosen(candidates: Mapping[Backend, _Candidate]) -> tuple[Backend, ...]:
    ready = [backend for backend, one in candidates.items() if one.ready]
    return tuple(sorted(ready or [backend for backend, one in candidates.items() if one.draining]))


def _nearest(candidates: Mapping[Backend, _Candidate], place: Place) -> Mapping[Backend, _Candidate]:
    """The candidates that topology hints leave: same node, else same zone, else all.

    A level counts only if every ready endpoint has a hint of it and one names us. The fall-back to terminating
    endpoints knows no topology, so those stay.
    """
    for one in candidates.values():
        if one.ready and one.hints is None:
            return candidates
    ready = {backend: one for backend, one in candidates.items() if one.ready}
    if not ready:
        return candidates
    for named in (_hinted_nodes, _hinted_zones):
        wanted = place.node if named is _hinted_nodes else place.zone
        hints = {backend: named(one.hints) for backend, one in ready.items()}
        if wanted and all(hints.values()) and any(wanted in hint for hint in hints.values()):
            return {backend: one for backend, one in ready.items() if wanted in hints[backend]}
    return candidates


def _hinted_nodes(hints: kinds.EndpointHints | None) -> tuple[str, ...]:
    return tuple(one.name for one in hints.forNodes or ()) if hints else ()


def _hinted_zones(hints: kinds.EndpointHints | None) -> tuple[str, ...]:
    return tuple(one.name for one in hints.forZones or ()) if hints else ()
