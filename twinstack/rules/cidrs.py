"""The ranges that Service addresses come from: as flags, as ServiceCIDRs, as pools; and the IPAddress that records one.

Rule of this file: text and documents in, networks or problems out. Which addresses are taken is the allocator's knowledge.

Theory of a range (spec/api.md 4.2). The first address of a network, and the last one where the family has a broadcast
address, are never handed out. Of the rest, the lowest few (a sixteenth, at least 16, at most 256) are the static band: kept
for those who ask for an address by name, and handed out on their own only when nothing else is left. A network of 16
addresses or fewer has no bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import IPAddress, ServiceCIDR
from twinstack.api.objects import Document
from twinstack.net.cidr import parse_address, parse_cidr, text_of
from twinstack.net.errors import AddressError
from twinstack.net.family import Address, ByFamily, Family, Network
from twinstack.rules.names import path_segment_problem, subdomain_problem
from twinstack.rules.problems import required, wrong

DEFAULT_SERVICE_RANGE = "10.0.0.0/24"
DEFAULT_PORT_RANGE = (30000, 32767)
SMALLEST_RANGE = 8
FAMILY_LABEL = "ipaddress.kubernetes.io/ip-family"
MANAGER_LABEL = "ipaddress.kubernetes.io/managed-by"
MANAGER = "ipallocator.k8s.io"
FINALIZER = "networking.k8s.io/service-cidr-finalizer"


class Band(NamedTuple):
    """The numbers of a pool: first to last, of which the lowest *reserved* are the static band."""

    first: int
    last: int
    reserved: int


def parse_service_ranges(text: str) -> ByFamily[Network]:
    """What ``--service-cluster-ip-range`` means, primary first (spec/api.md 7.1 and 7.2).

    AddressError says which entry will not do, and why.
    """
    entries = (text or DEFAULT_SERVICE_RANGE).split(",")
    if len(entries) > 2:
        raise AddressError(f"--service-cluster-ip-range {text!r} has {len(entries)} CIDRs; one of each family is the most")
    networks = []
    for i, entry in enumerate(entries):
        try:
            networks.append(parse_cidr(entry, masked=True))
        except AddressError as error:
            raise AddressError(f"--service-cluster-ip-range[{i}]: {error}", error.suggestion) from error
    primary = networks[0]
    if primary.num_addresses < SMALLEST_RANGE or primary.prefixlen < 2:
        longest = Family.of(primary).bits - (SMALLEST_RANGE.bit_length() - 1)
        raise AddressError(f"--service-cluster-ip-range {text_of(primary)} is too {'small' if primary.prefixlen > 1 else 'large'}; /2 to /{longest} would do")
    try:
        return ByFamily.of(networks)
    except ValueError as error:
        raise AddressError(f"--service-cluster-ip-range {text!r}: {error}; two CIDRs must be one of each family") from None


def parse_port_range(text: str) -> tuple[int, int]:
    """First and last of ``--service-node-port-range``: ``N``, ``low-high`` or ``base+offset``. AddressError when it is none."""
    if not text:
        return DEFAULT_PORT_RANGE
    for sign in "-+":
        low, found, high = text.partition(sign)
        if found:
            break
    parts = [part.strip() for part in ((low, high) if found else (text, text))]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise AddressError(f"--service-node-port-range {text!r} is not a port range such as 30000-32767", "30000-32767")
    first, last = int(parts[0]), int(parts[1]) + (int(parts[0]) if sign == "+" and found else 0)
    if last > 65535 or last < first:
        raise AddressError(f"--service-node-port-range {text!r} must go up and end at 65535 at most", "30000-32767")
    return first, last


def address_band(network: Network) -> Band | None:
    """What a network hands out; None for a range from which nothing ever is."""
    family = Family.of(network)
    if network.prefixlen < family.facts.service_prefix:
        return None
    first = int(network.network_address) + 1
    last = int(network.broadcast_address) - (1 if family.facts.has_broadcast else 0)
    size = 0 if network.prefixlen <= 1 else network.num_addresses
    return Band(first, last, _reserved(size, 16, 16, 256)) if first <= last else None


def port_band(first: int, last: int) -> Band:
    """The node ports, and how many of them are the static band (spec/api.md 5.1)."""
    return Band(first, last, _reserved(last - first + 1, 16, 32, 128))


def _reserved(size: int, least: int, share: int, most: int) -> int:
    return 0 if size <= least else min(max(least, size // share), most)


def hands_out(network: Network, address: Address) -> bool:
    """Whether the address is one of the network's usable ones, however large the network."""
    if address.version != network.version or address not in network or address == network.network_address:
        return False
    return not (Family.of(network).facts.has_broadcast and address == network.broadcast_address)


def usable(network: Network) -> tuple[int, int]:
    """The numbers for which :func:`hands_out` says yes, half-open."""
    return int(network.network_address) + 1, int(network.broadcast_address) + (0 if Family.of(network).facts.has_broadcast else 1)


def networks_of(cidr: ServiceCIDR) -> tuple[Network, ...]:
    """The networks of a ServiceCIDR; entries that no version ever accepted are skipped."""
    result = []
    for text in cidr.spec.cidrs:
        try:
            result.append(parse_cidr(text, masked=True))
        except AddressError:
            continue
    return tuple(result)


def is_ready(cidr: ServiceCIDR) -> bool:
    """Whether addresses are handed out from it: until something says that it is not ready, or it is being deleted."""
    if cidr.metadata.deletionTimestamp:
        return False
    return all(condition.status == "True" for condition in cidr.status.conditions or () if condition.type == "Ready")


def problems_with_service_cidr(after: ServiceCIDR, before: ServiceCIDR | None = None) -> list[FieldProblem]:
    """What is wrong with a ServiceCIDR (spec/api.md 9.1): immutable, but for the second family that may join."""
    path, cidrs = "spec.cidrs", after.spec.cidrs
    if before is not None:
        old = before.spec.cidrs
        if len(cidrs) == len(old):
            return [wrong(f"{path}[{i}]", new, "may not change") for i, (new, was) in enumerate(zip(cidrs, old, strict=True)) if new != was]
        if not (len(old) == 1 and len(cidrs) == 2):
            return [wrong(path, cidrs, "may not change, but for a second CIDR of the other family that may join one")]
        joined = [] if cidrs[0] == old[0] else [wrong(f"{path}[0]", cidrs[0], "may not change")]
        return [*joined, *_problems_with_cidrs(cidrs, path)]
    if not cidrs:
        return [required(path, "at least one CIDR is needed")]
    if len(cidrs) > 2:
        return [wrong(path, cidrs, "must hold at most two CIDRs, one of each family")]
    return list(_problems_with_cidrs(cidrs, path))


def _problems_with_cidrs(cidrs: Sequence[str], path: str) -> Iterator[FieldProblem]:
    families = []
    for i, text in enumerate(cidrs):
        try:
            families.append(Family.of(parse_cidr(text, canonical=True)))
        except AddressError as error:
            yield wrong(f"{path}[{i}]", text, str(error))
    if len(families) == 2 and families[0] is families[1]:
        yield wrong(path, list(cidrs), f"both are {families[0]}; two CIDRs must be one of each family")


def address_name_problem(name: str) -> str | None:
    """Why this is no name of an IPAddress, which is the address in canonical form."""
    try:
        parse_address(name, canonical=True)
    except AddressError as error:
        return f"must be an IP address in canonical form, such as {error.suggestion or '10.9.8.7 or 2001:db8::ffff'}"
    return None


def problems_with_ip_address(after: IPAddress, before: IPAddress | None = None) -> list[FieldProblem]:
    """What is wrong with an IPAddress (spec/api.md 9.2)."""
    path, parent = "spec.parentRef", after.spec.parentRef
    problems = []
    if before is not None and parent != before.spec.parentRef:
        problems.append(wrong(path, parent and {"resource": parent.resource, "name": parent.name}, "may not change"))
    if parent is None:
        return [*problems, required(path, "an address belongs to somebody")]
    if parent.group and (problem := subdomain_problem(parent.group)):
        problems.append(wrong(f"{path}.group", parent.group, problem))
    for field, value in (("resource", parent.resource), ("name", parent.name)):
        if not value:
            problems.append(required(f"{path}.{field}"))
        elif problem := path_segment_problem(value):
            problems.append(wrong(f"{path}.{field}", value, problem))
    if parent.namespace and (problem := path_segment_problem(parent.namespace)):
        problems.append(wrong(f"{path}.namespace", parent.namespace, problem))
    return problems


def ip_address(address: Address, *, namespace: str, name: str, text: str = "") -> Document:
    """The record that this address, whose canonical *text* may be known, is the Service's (spec/api.md 4.5)."""
    return {
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": text or text_of(address), "labels": {FAMILY_LABEL: Family.of(address).value, MANAGER_LABEL: MANAGER}},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    }


def service_cidr(name: str, networks: Sequence[Network]) -> Document:
    """A ServiceCIDR of these networks."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": [text_of(network) for network in networks]},
    }
