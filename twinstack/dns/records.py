"""Which records a Service, a pod and the zone itself have.

Rule of this file: objects in, records out; no clock, no socket, no wire format.

Theory. The Kubernetes DNS specification 1.1.0 gives names to three things: a Service (its cluster addresses, or, of a
headless one, the addresses of its ready endpoints), an endpoint of a headless Service, and a named port of either. A
family is only the type of a record: where a Service has no address of one, its name still exists, and the answer
is that there is no such record. That the name does not exist at all is said by the absence of every record at and
below it, so whoever looks names up (``zone``) needs nothing but the records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from twinstack.api import kinds
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Address, Family, Network

SCHEMA_VERSION = "1.1.0"
VERSION_TTL_SECONDS = 28800
SERVICE_NAME = "kubernetes.io/service-name"  # the label by which a slice names its Service
FAMILIES_ANNOTATION = "twinstack.dev/dns-families"  # of a Service: the families that its names are answered in, or one of these:
ALL, READY = "all", "ready"  # every one that it has; those in which somebody is ready, as with --hide-dead-families
_DEAD_BOTH: frozenset[Family] = frozenset()
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


class Record(NamedTuple):
    """A resource record as text: its absolute name in lower case, its type, its data as in a zone file (RFC 1035 5.1)."""

    name: str
    type: str
    data: str
    ttl: int = -1  # seconds; -1: the zone's own


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided once for all records."""

    domain: str = "cluster.local"
    hide_dead_families: bool = False
    answered: tuple[Family, ...] = FAMILIES  # the families that names are answered in, unless a Service says otherwise
    own_service: tuple[str, str] = ("kube-system", "kube-dns")  # namespace and name of the Service that this server is behind


def zone_records(options: Options) -> tuple[Record, ...]:
    """What the zone has before any object: its server's name, and the version of the specification."""
    domain = f"{options.domain}."
    return (
        Record(domain, "NS", f"ns.dns.{domain}"),
        Record(f"dns-version.{domain}", "TXT", f'"{SCHEMA_VERSION}"', VERSION_TTL_SECONDS),
    )


def namespace_names(namespace: str, options: Options) -> tuple[str, ...]:
    """The names that exist, without a record, because a namespace does."""
    return tuple(f"{namespace}.{what}.{options.domain}." for what in ("svc", "pod"))


def service_records(service: kinds.Service, slices: Sequence[kinds.EndpointSlice], options: Options) -> tuple[Record, ...]:
    """The records of a Service; *slices* are those that bear its name, of both families and in any order."""
    return tuple(dict.fromkeys(each_service_record(service, slices, options)))


def each_service_record(service: kinds.Service, slices: Sequence[kinds.EndpointSlice], options: Options) -> Iterator[Record]:
    """The same one by one, some more than once: a large Service has tens of thousands."""
    spec = service.spec
    base = f"{service.metadata.name}.{service.metadata.namespace}.svc.{options.domain}.".lower()
    if spec.type == "ExternalName":
        yield from _external_name(base, spec.externalName)
        return
    if spec.clusterIP == "None":
        yield from _headless(base, service, slices, options)
        return
    addresses = [address for text in spec.clusterIPs or [spec.clusterIP] if (address := _address(text)) is not None]
    hidden = _hidden_families(addresses, service, slices, options)
    shown = [address for address in addresses if Family.of(address) not in hidden]
    yield from _addresses(base, shown)
    yield from (Record(reverse_name(address), "PTR", base) for address in addresses)
    if addresses:
        yield from (Record(_port_name(port.name, port.protocol, base), "SRV", f"0 100 {port.port} {base}") for port in spec.ports if port.name)
    if (service.metadata.namespace, service.metadata.name) == options.own_service:
        yield from _addresses(f"ns.dns.{options.domain}.", shown)


def pod_records(pod: kinds.Pod, options: Options) -> tuple[Record, ...]:
    """The records of a pod that runs: ``10-0-0-7.<namespace>.pod.<domain>``."""
    if pod.status.phase in ("Succeeded", "Failed"):
        return ()
    found = (_address(one.ip) for one in pod.status.podIPs or ())
    return tuple(record for address in found if address is not None for record in _addresses(pod_name(address, pod.metadata.namespace, options), [address]))


def pod_name(address: Address, namespace: str, options: Options) -> str:
    """The name that a pod has by its address."""
    return f"{dashed(str(address))}.{namespace}.pod.{options.domain}."


def dashed(text: str) -> str:
    """An address as one label: its dots or colons are dashes."""
    return text.replace(".", "-").replace(":", "-")


def undashed(label: str) -> Address | None:
    """The address that a label spells; None when it spells none."""
    return next((address for separator in ".:" if (address := _address(label.replace("-", separator))) is not None), None)


def reverse_name(address: Address) -> str:
    """The name of an address's pointer (RFC 1035 3.5, RFC 3596 2.5)."""
    return f"{address.reverse_pointer}."


def reverse_zones(networks: Iterable[Network]) -> tuple[str, ...]:
    """The zones of pointers that cover networks: several where a prefix ends inside a label."""
    zones = []
    for network in networks:
        labels = len(reverse_name(network.network_address).split(".")) - 3
        step = Family.of(network).bits // labels
        kept = -(-network.prefixlen // step)
        zones += [".".join(reverse_name(one.network_address).split(".")[labels - kept :]) for one in network.subnets(new_prefix=kept * step)]
    return tuple(dict.fromkeys(zones))


# ---- a Service with addresses of its own


def _addresses(name: str, addresses: Iterable[Address]) -> list[Record]:
    return [Record(name, Family.of(address).facts.dns_type, str(address)) for address in addresses]


def _port_name(port: str | None, protocol: str | None, base: str) -> str:
    return f"_{port}._{protocol or 'TCP'}.{base}".lower()


def _external_name(base: str, target: str) -> Iterator[Record]:
    name = target.removesuffix(".").lower()
    if _NAME.fullmatch(name) and len(name) <= 253 and _address(name) is None:  # what looks like an address is no name
        yield Record(base, "CNAME", f"{name}.")


def answered_families(service: kinds.Service, options: Options) -> frozenset[Family]:
    """The families that a Service's names are answered in: those that its author names, else those of the options."""
    return _named_families(service) or frozenset(FAMILIES if _word(service) == ALL else options.answered)


def _word(service: kinds.Service) -> str:
    return service.annotations.get(FAMILIES_ANNOTATION, "").strip().lower()


def _named_families(service: kinds.Service) -> frozenset[Family]:
    """The families that an annotation lists; none when it lists none, or makes no sense."""
    known = {family.value.lower(): family for family in FAMILIES}
    words = [word.strip() for word in _word(service).split(",")]
    return frozenset(known[word] for word in words) if all(word in known for word in words) else frozenset()


def _hidden_families(addresses: Sequence[Address], service: kinds.Service, slices: Sequence[kinds.EndpointSlice], options: Options) -> frozenset[Family]:
    """The families that are left out of the answers, although the Service has an address of them."""
    hidden = frozenset(FAMILIES) - answered_families(service, options)
    if _word(service) == READY or (options.hide_dead_families and _word(service) != ALL and not _named_families(service)):
        hidden |= _dead_families(addresses, service, slices)
    return hidden


def _dead_families(addresses: Sequence[Address], service: kinds.Service, slices: Sequence[kinds.EndpointSlice]) -> frozenset[Family]:
    """The families in which nobody stands behind a Service while somebody does in the other; of a Service that is dead in all, none is hidden."""
    alive = {Family.of(address) for address, _, _ in _endpoints(service, slices)}
    mine = frozenset(map(Family.of, addresses))
    return mine - alive if mine & alive else _DEAD_BOTH


# ---- a headless Service


def _headless(base: str, service: kinds.Service, slices: Sequence[kinds.EndpointSlice], options: Options) -> Iterator[Record]:
    asked, answered = service.spec.ipFamilies, answered_families(service, options)
    targets: dict[tuple[str, str | None, int], dict[str, None]] = {}  # a port's name, protocol and number → endpoints' names
    for address, endpoint, ports in _endpoints(service, slices):
        family = Family.of(address)
        if (asked and family.value not in asked) or family not in answered:
            continue
        text, type_ = str(address), family.facts.dns_type
        hostname = (endpoint.hostname or "").lower()
        own = f"{hostname if _LABEL.fullmatch(hostname) else dashed(text)}.{base}"
        yield Record(base, type_, text)
        yield Record(own, type_, text)
        if hostname:
            yield Record(reverse_name(address), "PTR", own)
        for port in ports:
            if port.name and port.port:
                targets.setdefault((port.name, port.protocol, port.port), {})[own] = None
    counts: dict[str, int] = {}
    named = [(_port_name(name, protocol, base), number, names) for (name, protocol, number), names in targets.items()]
    for name, _, names in named:
        counts[name] = counts.get(name, 0) + len(names)
    for name, number, names in named:
        before = f"0 {max(1, 100 // counts[name])} {number} "
        for own in names:
            yield Record(name, "SRV", before + own)


def _endpoints(service: kinds.Service, slices: Sequence[kinds.EndpointSlice]) -> Iterator[tuple[Address, kinds.Endpoint, Sequence[kinds.EndpointPort]]]:
    """Each ready endpoint's address once, with its endpoint and the ports of its slice; a slice's ports of one address may stand in several."""
    families = {family.value: family for family in FAMILIES}
    for one in sorted(slices, key=lambda one: one.metadata.name):
        family = families.get(one.addressType)
        if family is None:
            continue
        for endpoint in one.endpoints or ():
            if endpoint.conditions.ready is False and not service.spec.publishNotReadyAddresses:
                continue
            for text in endpoint.addresses[:1]:  # more are not to be used (spec/api of discovery.k8s.io/v1)
                address = _address(text)
                if address is not None and Family.of(address) is family:
                    yield address, endpoint, one.ports or ()


def _address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except AddressError:
        return None


def by_name(records: Iterable[Record]) -> Mapping[str, list[Record]]:
    """Records by the name they stand at."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.name, []).append(record)
    return found
