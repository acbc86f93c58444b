"""What a Windows node's Host Networking Service would be given for the same Services, as JSON documents (HCN schema 2.0).

Rule of this file: pure. Services, slices and what the node's HNS holds go in; documents and the reasons for what is
left out come out. ``winkernel`` hands them over, where there is a Windows to take them.

Theory. HNS has no maps: each front end is a *load balancer* policy, which names its back ends by the ids of HNS
*endpoints*. A pod of this node has its endpoint from the network plugin; one elsewhere needs a *remote endpoint*, made
here with a MAC that follows from its address. On an overlay every cluster IP needs one, too. The ids of what is made
are derived from what it is, so that two runs make the same documents and a change is a difference of ids.

What differs from a Linux node, because HNS has no words for it: a front end without endpoints has no policy (nobody
refuses or drops), topology hints are not heard, an affinity's timeout cannot be told, node ports answer on all
addresses, and a policy has one target port, that of its last endpoint. Local policies need direct server return (DSR).

    | front end         | endpoints                                            | port flags                           |
    |-------------------|------------------------------------------------------|--------------------------------------|
    | cluster IP        | all; local if internalTrafficPolicy is Local         |                                      |
    | node port         | all; local if externally Local, or preserved         | VipExternalIP, LocalRoutedVIP        |
    | external IP       | all; local if externally Local                       | VipExternalIP                        |
    | balancer's IP     | all; local if externally Local, or preserved         | VipExternalIP; UseMux, PreserveDIP   |
    | its health port   | the node's own endpoint                              | UseMux, PreserveDIP                  |
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from twinstack.api import kinds
from twinstack.api.objects import Document, encode
from twinstack.net.cidr import contains, parse_address, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.services import Place, Placed, ServicePort, affinity_seconds, endpoints_of, service_ports

L2BRIDGE, OVERLAY = "L2Bridge", "Overlay"
PRESERVE_DESTINATION = "preserve-destination"
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
_DSR = 1  # of a load balancer
_LOCAL_ROUTED_VIP, _USE_MUX, _PRESERVE_DIP, _VIP_EXTERNAL_IP = 2, 4, 8, 16  # of its port
_BY_SOURCE_IP = 2
_REMOTE = 1  # of an endpoint
_SCHEMA = {"Major": 2, "Minor": 0}
_IDS = uuid.UUID("5f0b3c1e-6f1a-5d52-9a54-0d3c1c7e2b46")  # the name space of the ids made here


class Network(NamedTuple):
    """The pods' HNS network. *subnets* are other nodes': (CIDR, provider address), told by an overlay's policies."""

    name: str
    id: str
    type: str = L2BRIDGE
    subnets: tuple[tuple[str, str], ...] = ()


class WindowsNode(NamedTuple):
    """What decides on a node. *local* are the HNS endpoints of its own pods, by address; None when that is not known here."""

    name: str
    addresses: Mapping[Family, str]  # the primary family's first
    network: Network
    dual_stack: bool = True  # HNS says that it can (IPv6DualStack); builds before Server 2022 do not
    dsr: bool = False
    source_vips: Mapping[Family, str] = {}
    local: Mapping[str, str] | None = None
    root_endpoint: str = ""  # the id of the node's own endpoint
    mac: str = ""
    forward_healthcheck_vip: bool = False


class Support(NamedTuple):
    """The families that are served, and why not more; *reason* is empty when both are."""

    families: tuple[Family, ...]
    reason: str = ""


class Plan(NamedTuple):
    """What HNS should hold of ours, in order; and what was left out, a sentence each."""

    endpoints: tuple[Document, ...]
    balancers: tuple[Document, ...]
    problems: tuple[str, ...] = ()


def support(node: WindowsNode) -> Support:
    """Which families a Windows node serves: both on a network without encapsulation whose HNS can, else its first."""
    first = next(iter(node.addresses), FAMILIES[0])
    if node.network.type.lower() == OVERLAY.lower():
        return Support((first,), f"only {first} is served: HNS network {node.network.name} is an overlay, and Windows has no dual-stack on overlays")
    if not node.dual_stack:
        return Support((first,), f"only {first} is served: this build's HNS does not have IPv6DualStack (Windows Server 2022 does)")
    return Support(tuple(sorted(FAMILIES, key=lambda family: family is not first)))


def plan(services: Iterable[tuple[kinds.Service, Collection[kinds.EndpointSlice]]], node: WindowsNode) -> Plan:
    """All documents for these Services, whatever their order."""
    maker = _Maker(node)
    supported = support(node)
    if supported.reason:
        maker.problems.append(supported.reason)
    for service, slices in sorted(services, key=lambda one: (one[0].metadata.namespace, one[0].metadata.name)):
        for family in supported.families:
            maker.service(service, slices, family)
    return Plan(tuple(maker.endpoints.values()), tuple(maker.balancers.values()), tuple(maker.problems))


class Change(NamedTuple):
    """From one plan to another: what to delete (balancers before endpoints) and what to make (endpoints before balancers)."""

    delete_balancers: tuple[str, ...]
    delete_endpoints: tuple[str, ...]
    make_endpoints: tuple[Document, ...]
    make_balancers: tuple[Document, ...]


def difference(before: Plan, after: Plan) -> Change:
    """The change between two plans; ids tell documents apart, for an id follows from what it is of."""
    was, now = ({document["ID"] for document in (*one.endpoints, *one.balancers)} for one in (before, after))
    return Change(
        tuple(document["ID"] for document in before.balancers if document["ID"] not in now),
        tuple(document["ID"] for document in before.endpoints if document["ID"] not in now),
        tuple(document for document in after.endpoints if document["ID"] not in was),
        tuple(document for document in after.balancers if document["ID"] not in was),
    )


class _Front(NamedTuple):
    """One front end: where clients send to, who serves, and how."""

    vips: tuple[str, ...]
    port: int
    local: bool
    direct: bool
    flags: int


class _Maker:
    def __init__(self, node: WindowsNode) -> None:
        self._node = node
        self._overlay = node.network.type.lower() == OVERLAY.lower()
        self.endpoints: dict[str, Document] = {}
        self.balancers: dict[str, Document] = {}
        self.problems: list[str] = []

    def service(self, service: kinds.Service, slices: Collection[kinds.EndpointSlice], family: Family) -> None:
        """Add what one Service wants in one family."""
        preserve = (service.metadata.annotations or {}).get(PRESERVE_DESTINATION, "").lower() == "true"
        distribution = _BY_SOURCE_IP if affinity_seconds(service) else 0
        for given, port in zip(service.spec.ports, service_ports(service, slices, family, Place(self._node.name)), strict=False):
            backends = endpoints_of(service, given, slices, family, draining=bool(port.balancers))
            if self._overlay:
                self._remote(port.address, self._node.addresses.get(family, ""), mac=self._node.mac)
            for front in self._fronts(port, preserve):
                self._balancer(front, port, [backend for backend in backends if backend.node == self._node.name or not front.local], distribution, family)
        self._health_ports(service, family, preserve)

    def _fronts(self, port: ServicePort, preserve: bool) -> Iterator[_Front]:
        dsr = self._node.dsr
        external_local = port.external_local and dsr
        yield _Front((port.address,), port.port, port.internal_local, dsr, 0)
        if port.node_port:
            local = external_local or preserve
            yield _Front((), port.node_port, local, local, _VIP_EXTERNAL_IP | _LOCAL_ROUTED_VIP)
        for address in port.externals:
            yield _Front((address,), port.port, external_local, external_local, _VIP_EXTERNAL_IP)
        for address in port.balancers:
            local = external_local or preserve
            yield _Front((address,), port.port, local, local, _VIP_EXTERNAL_IP | (_USE_MUX | _PRESERVE_DIP if preserve else 0))

    def _balancer(self, front: _Front, port: ServicePort, backends: Sequence[Placed], distribution: int, family: Family) -> None:
        found = [self._endpoint(backend.address, local=backend.node == self._node.name, name=port.name) for backend in backends]
        ids = [one for one in found if one is not None]
        if not ids:
            return
        targets = {backend.port for backend in backends}
        if len(targets) > 1:
            self.problems.append(f"{port.name}: endpoints have different ports {sorted(targets)}, and HNS takes one: {backends[-1].port}")
        self._put(
            ids=tuple(dict.fromkeys(ids)), vips=front.vips, protocol=port.protocol, internal=backends[-1].port, external=front.port,
            distribution=distribution, port_flags=front.flags, direct=front.direct, family=family, source=self._source(backends, family),
        )  # fmt: skip

    def _health_ports(self, service: kinds.Service, family: Family, preserve: bool) -> None:
        """Load balancers ask at their own address."""
        number = service.spec.healthCheckNodePort
        ports = service_ports(service, (), family, Place(self._node.name))
        if not (self._node.forward_healthcheck_vip and self._node.root_endpoint and number and ports):
            return
        for address in ports[0].balancers:
            self._put(
                ids=(self._node.root_endpoint,), vips=(address,), protocol="tcp", internal=number, external=number, distribution=0,
                port_flags=_USE_MUX | _PRESERVE_DIP if preserve else 0, direct=False, family=family, source=self._source((), family),
            )  # fmt: skip

    def _put(
        self, *, ids: tuple[str, ...], vips: tuple[str, ...], protocol: str, internal: int, external: int, distribution: int,
        port_flags: int, direct: bool, family: Family, source: str,
    ) -> None:  # fmt: skip
        document: Document = {
            "HostComputeNetwork": self._node.network.id,
            "HostComputeEndpoints": sorted(ids),
            "SourceVIP": source,
            "FrontendVIPs": list(vips),
            "PortMappings": [
                {
                    "Protocol": _NUMBERS[protocol], "InternalPort": internal, "ExternalPort": external,
                    "DistributionType": distribution, "Flags": port_flags,
                }
            ],
            "Flags": (_DSR if direct else 0) | family.facts.hns_balancer_flags,
            "SchemaVersion": _SCHEMA,
        }  # fmt: skip
        made = str(uuid.uuid5(_IDS, encode(document).decode()))
        self.balancers.setdefault(made, {"ID": made, **document})

    def _source(self, backends: Sequence[Placed], family: Family) -> str:
        """The configured source; on an overlay the node's own where a back end is a node, or lies outside the cluster."""
        own = self._node.addresses.get(family, "")
        if self._overlay and any(self._provider(backend.address) in ("", backend.address) for backend in backends if backend.node != self._node.name):
            return own
        return self._node.source_vips.get(family, "")

    def _provider(self, address: str) -> str:
        """The address of the node that an overlay's address lives on; empty when no subnet has it."""
        at = parse_address(address)
        for cidr, provider in self._node.network.subnets:
            if address == provider:
                return provider
            try:
                if contains(parse_cidr(cidr), at):
                    return provider
            except AddressError:
                continue
        return ""

    def _endpoint(self, address: str, *, local: bool, name: str) -> str | None:
        if not local:
            return self._remote(address, (self._provider(address) or next(iter(self._node.addresses.values()), "")) if self._overlay else "")
        if self._node.local is None:
            return str(uuid.uuid5(_IDS, f"{self._node.network.id} local {address}"))
        if address not in self._node.local:
            self.problems.append(f"{name}: endpoint {address} is this node's, but HNS does not have it; it is left out")
        return self._node.local.get(address)

    def _remote(self, address: str, provider: str, *, mac: str = "") -> str:
        """The id of the remote endpoint of an address, made if it is not there."""
        document: Document = {
            "HostComputeNetwork": self._node.network.id,
            "IpConfigurations": [{"IpAddress": address}],
            "MacAddress": mac or mac_of(address),
            "Flags": _REMOTE,
            "SchemaVersion": _SCHEMA,
        }
        if provider:
            document["Policies"] = [{"Type": "ProviderAddress", "Settings": {"ProviderAddress": provider}}]
        made = str(uuid.uuid5(_IDS, f"{self._node.network.id} remote {address} {provider}"))
        self.endpoints.setdefault(made, {"ID": made, **document})
        return made


def mac_of(address: str) -> str:
    """The MAC of a remote endpoint: 02-11 and the last four bytes of its address, in the family's order."""
    at = parse_address(address)
    return "-".join(f"{byte:02x}" for byte in (0x02, 0x11, *at.packed[-4:][:: Family.of(at).facts.hns_mac_step]))
