"""Where load balancers' addresses come from, and how they are announced: pools of each family, as a file or ConfigMap tells them.

Rule of this file: texts in; pools and BGP peers, or every problem at once. An address belongs to one pool at most.

::

    pools:
      - name: default
        addresses: [172.30.0.192/27, 192.0.2.10-192.0.2.20, "fd00:30::/112"]
      - name: named
        addresses: [198.51.100.7]
        autoAssign: false      # only for Services that ask for this pool or for an address of it
      - name: routed
        addresses: [203.0.113.0/28, "fd00:31::/112"]
        announce: bgp          # l2 (ARP and neighbour discovery) where nothing is said
    peers:                     # of every node, see ``rules.balancer_peers``
      - {peerAddress: 172.30.0.1, peerASN: 64512, myASN: 64513}
      - {peerAddress: "fd00:30::1", peerASN: 64512, myASN: 64513}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import yaml

from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import FAMILIES, Address, Family, Network
from twinstack.net.pool import Pool
from twinstack.rules.balancer_peers import Peer, document_of, peers_of

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FIELDS = {"name", "addresses", "autoAssign", "announce"}
LINK, BGP = "l2", "bgp"  # ways of announcing


class PoolsError(Error, ValueError):
    """What is to be pools is none; every problem names its place."""


class Span(NamedTuple):
    """The addresses from *first* to *last* of one family, as numbers."""

    family: Family
    first: int
    last: int

    def __str__(self) -> str:
        first, last = self.family.address(self.first), self.family.address(self.last)
        return f"{first}-{last}" if first != last else str(first)

    def __contains__(self, address: object) -> bool:
        return isinstance(address, Address) and Family.of(address) is self.family and self.first <= int(address) <= self.last


class AddressPool(NamedTuple):
    """Addresses under a name; those of one that is not *automatic* are given to who asks for them."""

    name: str
    spans: tuple[Span, ...]
    automatic: bool = True
    way: str = LINK

    def holds(self, address: Address) -> bool:
        return any(address in span for span in self.spans)

    def size(self, family: Family) -> int:
        """How many addresses of a family there are."""
        return sum(span.last - span.first + 1 for span in self.spans if span.family is family)


class Configuration(NamedTuple):
    """What a file or ConfigMap says."""

    pools: tuple[AddressPool, ...] = ()
    peers: tuple[Peer, ...] = ()

    def way_of(self, address: Address) -> str:
        """How an address is announced; one that is in no pool any more stays on the link until it is given up."""
        return next((pool.way for pool in self.pools if pool.holds(address)), LINK)

    @property
    def speaks_bgp(self) -> bool:
        return any(pool.way == BGP for pool in self.pools)


def next_free(pools: Iterable[AddressPool], family: Family, taken: Iterable[Address]) -> Address | None:
    """The lowest address that is free, in the order of the pools and of their spans; None when there is none."""
    numbers = [int(address) for address in taken if Family.of(address) is family]
    for pool in pools:
        for span in pool.spans:
            if span.family is family:
                found = Pool(span.first, span.last, taken=[number for number in numbers if span.first <= number <= span.last]).take_next(0)
                if found is not None:
                    return family.address(found)
    return None


def pools_of(networks: Iterable[Network], name: str = "default", *, way: str = LINK) -> tuple[AddressPool, ...]:
    """One pool of whole networks."""
    return (AddressPool(name, tuple(map(_whole, networks)), way=way),)


def parse_configuration(text: str | bytes) -> Configuration:
    """What a YAML or JSON text says; PoolsError with all that is wrong."""
    try:
        document = yaml.load(text, _LOADER)
    except yaml.YAMLError as error:
        raise PoolsError(f"neither YAML nor JSON: {' '.join(str(error).split())}") from error
    problems: list[str] = []
    pools = list(_pools(document, problems))
    peers = peers_of(document.get("peers"), problems) if isinstance(document, Mapping) else []
    problems += [*_overlaps(pools), *_unannounced(pools, peers)]
    if problems:
        raise PoolsError("; ".join(problems))
    return Configuration(tuple(pools), tuple(peers))


def parse_pools(text: str | bytes) -> tuple[AddressPool, ...]:
    """The pools of such a text alone."""
    return parse_configuration(text).pools


def text_of_pools(pools: Sequence[AddressPool], peers: Sequence[Peer] = ()) -> str:
    """What :func:`parse_configuration` reads back."""
    entries = [{"name": pool.name, "addresses": list(map(str, pool.spans)), "autoAssign": pool.automatic, "announce": pool.way} for pool in pools]
    return yaml.safe_dump({"pools": entries, **({"peers": list(map(document_of, peers))} if peers else {})}, sort_keys=False)


def _pools(document: Any, problems: list[str]) -> Iterator[AddressPool]:
    entries = document.get("pools") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or not document.keys() <= {"pools", "peers"}:
        problems.append("not a mapping with 'pools', a list, and nothing beside but 'peers'")
        return
    names: set[str] = set()
    for i, entry in enumerate(entries):
        where = f"pools[{i}]"
        if not isinstance(entry, Mapping):
            problems.append(f"{where}: not a mapping")
            continue
        problems += [f"{where}.{key}: not a field; these are: {', '.join(sorted(_FIELDS))}" for key in entry if key not in _FIELDS]
        name, texts, automatic = entry.get("name"), entry.get("addresses"), entry.get("autoAssign", True)
        if not isinstance(name, str) or not name or name in names:
            problems.append(f"{where}.name: {name!r} is not a name that no other pool has")
            continue
        names.add(name)
        if not isinstance(automatic, bool):
            problems.append(f"{where}.autoAssign: {automatic!r} is neither true nor false")
        way = entry.get("announce", LINK)
        if way not in (LINK, BGP):
            problems.append(f"{where}.announce: {way!r} is neither {LINK} nor {BGP}")
        if not isinstance(texts, list) or not texts:
            problems.append(f"{where}.addresses: not a list of CIDRs, ranges and addresses")
            continue
        spans = []
        for j, text in enumerate(texts):
            try:
                spans.append(parse_span(text))
            except AddressError as error:
                hint = f"; {error.suggestion} would do" if error.suggestion else ""
                problems.append(f"{where}.addresses[{j}]: {error}{hint}")
        yield AddressPool(name, tuple(spans), automatic is True, str(way))


def parse_span(text: Any) -> Span:
    """A CIDR, ``FIRST-LAST``, or one address. AddressError when it is none."""
    if not isinstance(text, str):
        raise AddressError(f"{text!r} is no text")
    if "/" in text:
        return _whole(parse_cidr(text.strip()))
    first, dash, last = (part.strip() for part in text.partition("-"))
    one = parse_address(first)
    other = parse_address(last) if dash else one
    if Family.of(one) is not Family.of(other) or int(other) < int(one):
        raise AddressError(f"{text!r} is not a range from one address up to another of its family")
    return Span(Family.of(one), int(one), int(other))


def _whole(network: Network) -> Span:
    first = int(network.network_address)
    return Span(Family.of(network), first, first + network.num_addresses - 1)


def _overlaps(pools: Sequence[AddressPool]) -> Iterator[str]:
    for family in FAMILIES:
        spans = sorted((span.first, span.last, pool.name) for pool in pools for span in pool.spans if span.family is family)
        for (_, last, name), (first, _, other) in pairwise(spans):
            if first <= last:
                yield f"{family.address(first)} is in pool {name} and again in pool {other}"


def _unannounced(pools: Sequence[AddressPool], peers: Sequence[Peer]) -> Iterator[str]:
    spoken = {Family.of(peer.address) for peer in peers}
    for i, pool in enumerate(pools):
        for family in FAMILIES:
            if pool.way == BGP and family not in spoken and any(span.family is family for span in pool.spans):
                yield f"pools[{i}].announce: {BGP}, but 'peers' has none of {family}, which is told over sessions of its own"
