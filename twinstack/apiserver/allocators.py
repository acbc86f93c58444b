"""Which addresses and node ports are free: kept in memory, built from the objects that record them.

Rule of this file: nothing is handed out twice, and nothing leaks. What is taken is what a stored object says is taken
(an IPAddress; a Service's node ports), plus what requests under way have taken; when such a request fails, its ``undo`` gives
everything back at once. Giving back has no call of its own: an address is free when its IPAddress is gone, a port
when no stored Service holds it, and both are learned from the changes that are fed to :meth:`Context.observe`.

All ranges of one family share one set of taken numbers, so that ranges may overlap, nest and repeat, as ServiceCIDRs
may (spec/api.md 4.6). No range is ever walked: a /64 costs what a /24 costs.
"""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from twinstack.api import kinds
from twinstack.api.errors import InternalError, invalid
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import Resource, resource_of
from twinstack.apiserver.strategies.base import Reader, Transaction
from twinstack.net.cidr import parse_address, remember, text_of
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Address, ByFamily, Family, Network
from twinstack.net.pool import Intervals, Pool
from twinstack.rules import address_records, cidrs
from twinstack.rules.families import NONE
from twinstack.rules.problems import wrong
from twinstack.rules.services import held_ports
from twinstack.rules.windows import WindowsNode, facts_of

HAS_PORT = b'odePort":'  # in the bytes of each Service that holds a node port, its health check's included
SERVICES, SERVICE_CIDRS, IP_ADDRESSES, NODES = (resource_of(view) for view in (kinds.Service, kinds.ServiceCIDR, kinds.IPAddress, kinds.Node))


class RangeSettings(Protocol):
    """The part of the server's settings that the allocators look at."""

    @property
    def service_cluster_ip_range(self) -> str: ...

    @property
    def service_node_port_range(self) -> str: ...


class Addresses:
    """The addresses of all ServiceCIDRs."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        # Where to look next. From a start of chance one address after the other, so that one that was given back rests for as long as can be,
        # and that records written together lie together in the store: at random places each would take a page of its index with it.
        self._next = {family: chance.getrandbits(64) for family in FAMILIES}
        self._taken = {family: Intervals() for family in FAMILIES}
        self._ranges: dict[str, tuple[tuple[Network, ...], bool]] = {}  # ServiceCIDR → its networks, ready?
        self._pools: dict[Family, tuple[Pool, ...]] = dict.fromkeys(FAMILIES, ())

    def observe_range(self, name: str, cidr: kinds.ServiceCIDR | None) -> None:
        """Learn a ServiceCIDR's present state; None when it is gone."""
        if cidr is None:
            self._ranges.pop(name, None)
        else:
            self._ranges[name] = (cidrs.networks_of(cidr), cidrs.is_ready(cidr))
        ready = dict.fromkeys(network for networks, is_ready in self._ranges.values() if is_ready for network in networks)
        for family in FAMILIES:
            self._pools[family] = tuple(pool for network in ready if Family.of(network) is family and (pool := self._pool(network)))

    def _pool(self, network: Network) -> Pool | None:
        band = cidrs.address_band(network)
        if band is None:
            return None
        pool = Pool(band.first, band.last, reserved=band.reserved)
        pool.taken = self._taken[Family.of(network)]
        return pool

    def observe_address(self, name: str, *, exists: bool) -> None:
        """Learn that an IPAddress exists, or is gone."""
        try:
            address = parse_address(name)
        except AddressError:
            return
        taken = self._taken[Family.of(address)]
        if exists:
            taken.add(int(address))
        else:
            taken.remove(int(address))

    def contains(self, address: Address) -> bool:
        """Whether any ServiceCIDR, ready or not, hands this address out."""
        return any(cidrs.hands_out(network, address) for networks, _ in self._ranges.values() for network in networks)

    def strays(self) -> list[Address]:
        """The addresses that are taken and that no ServiceCIDR hands out."""
        covered = {family: Intervals() for family in FAMILIES}
        for networks, _ in self._ranges.values():
            for network in networks:
                covered[Family.of(network)].add_range(*cidrs.usable(network))
        return [family.address(number) for family in FAMILIES for number in self._taken[family] if number not in covered[family]]

    def is_taken(self, address: Address) -> bool:
        return int(address) in self._taken[Family.of(address)]

    def take(self, address: Address) -> str | None:
        """Take this very address; why not, when it cannot be had."""
        pools = [pool for pool in self._pools[Family.of(address)] if int(address) in pool]
        if not pools:
            return "no ServiceCIDR that is ready hands this address out: it does not match the current range"
        return None if pools[0].take(int(address)) else "is already allocated"

    def take_any(self, family: Family) -> Address | None:
        """Take any free address of the family; None when the range is full."""
        pools = list(self._pools[family])
        if len(pools) > 1:
            self._chance.shuffle(pools)
        for pool in pools:
            number = pool.take_next(self._next[family])
            if number is not None:
                self._next[family] += 1
                return family.address(number)
        return None

    def give(self, address: Address) -> None:
        """Undo a take whose record was never written."""
        self._taken[Family.of(address)].remove(int(address))

    def free(self, family: Family) -> int:
        """How many addresses are left to hand out; overlapping ranges count twice."""
        return sum(pool.size - pool.taken.count_within(pool.first, pool.last + 1) for pool in self._pools[family])


class Ports:
    """The node ports, of all protocols and families together."""

    def __init__(self, first: int, last: int, chance: random.Random) -> None:
        band = cidrs.port_band(first, last)
        self._pool = Pool(band.first, band.last, reserved=band.reserved)
        self._chance = chance
        self._holders: Counter[int] = Counter()  # by stored Services

    def observe(self, before: Iterable[int], after: Iterable[int]) -> None:
        """Learn what a stored Service held, and holds now."""
        old, new = set(before), set(after)
        for number in new - old:
            self._holders[number] += 1
            self._pool.taken.add(number)
        for number in old - new:
            self._holders[number] -= 1
            if self._holders[number] <= 0:
                del self._holders[number]
                self._pool.taken.remove(number)

    def take(self, number: int) -> str | None:
        """Take this very port; why not, when it cannot be had."""
        if number not in self._pool:
            return f"the provided port is not in the valid range {self._pool.first}-{self._pool.last}"
        return None if self._pool.take(number) else "the provided port is already allocated"

    def take_any(self) -> int | None:
        return self._pool.take_next(self._chance.getrandbits(64))

    def give(self, number: int) -> None:
        """Undo a take, unless a stored Service holds the port by now."""
        if not self._holders[number]:
            self._pool.taken.remove(number)

    @property
    def range(self) -> range:
        return range(self._pool.first, self._pool.last + 1)

    @property
    def free(self) -> int:
        return self._pool.free

    def is_taken(self, number: int) -> bool:
        return number in self._pool.taken


class PortRequest:
    """The node ports that one request takes; what it took goes back when the request fails."""

    def __init__(self, ports: Ports, transaction: Transaction) -> None:
        self._ports, self._transaction = ports, transaction

    def take(self, number: int) -> str | None:
        problem = self._ports.take(number)
        if problem is None:
            self._transaction.undo.callback(self._ports.give, number)
        return problem

    def take_any(self) -> int | None:
        number = self._ports.take_any()
        if number is not None:
            self._transaction.undo.callback(self._ports.give, number)
        return number


class Context:
    """What the strategies know of the cluster: its families, its addresses, its ports."""

    def __init__(self, ranges: ByFamily[Network], *, node_ports: tuple[int, int] = cidrs.DEFAULT_PORT_RANGE, chance: random.Random | None = None) -> None:
        self.ranges = ranges
        self.families = tuple(ranges)
        self.chance = chance or random.Random()
        self.addresses = Addresses(self.chance)
        self.ports = Ports(*node_ports, self.chance)
        self.windows_nodes: dict[str, WindowsNode] = {}
        self._reader: Reader | None = None
        self._to_mend: set[Key] = set()

    def load(self, reader: Reader) -> None:
        """Learn everything that is stored. Once, before any request."""
        self._reader = reader
        for resource, having in ((SERVICE_CIDRS, b""), (NODES, b""), (SERVICES, HAS_PORT)):
            for document in reader.each(resource, having):
                self.observe(resource, None, document)
        recorded = {key.name for key in reader.keys(IP_ADDRESSES)}
        for name in recorded:
            self.addresses.observe_address(name, exists=True)
        for _, service in reader.views(SERVICES, address_records.HolderSketch):  # its addresses are its own, recorded or not: the repair writes what is missing
            if service.spec.type != "ExternalName":
                for text in service.spec.clusterIPs:
                    if text != NONE and text not in recorded:
                        self.addresses.observe_address(text, exists=True)

    def observe(self, resource: Resource, before: Document | None, after: Document | None) -> None:
        """Learn a committed change; None before a creation and after a deletion."""
        one = after or before
        if one is None:
            return
        if resource is IP_ADDRESSES or resource == IP_ADDRESSES:
            if after is None and (holder := self._holder_of(one)) is not None:
                self._to_mend.add(holder)  # the address stays taken: its record was deleted under a Service that has it
            else:
                self.addresses.observe_address(one["metadata"]["name"], exists=after is not None)
        elif resource == SERVICES:
            self.ports.observe(held_ports(before) if before else (), held_ports(after) if after else ())
            if before is not None:
                self._observe_addresses_given_back(before, after)
        elif resource == NODES:
            facts = facts_of(view_of(kinds.Node, after)) if after else None
            if facts is not None:
                self.windows_nodes[facts.name] = facts
            else:
                self.windows_nodes.pop(one["metadata"]["name"], None)
        elif resource == SERVICE_CIDRS:
            self.addresses.observe_range(one["metadata"]["name"], view_of(kinds.ServiceCIDR, after) if after else None)

    def _holder_of(self, record: Document) -> Key | None:
        """The Service that a record names, if it is there and has the address."""
        parent = (record.get("spec") or {}).get("parentRef") or {}
        if self._reader is None or parent.get("group") or parent.get("resource") != "services":
            return None
        key = Key(parent.get("namespace", ""), parent.get("name", ""))
        service = self._reader.get(SERVICES, key)
        if service is None or not address_records.lists(view_of(address_records.Holder, service), parse_address(record["metadata"]["name"])):
            return None
        return key

    def _observe_addresses_given_back(self, before: Document, after: Document | None) -> None:
        """An address whose record was deleted before its Service gave it back is free now; the others are when their records go."""
        kept = ((after or {}).get("spec") or {}).get("clusterIPs") or ()
        spec = before.get("spec") or {}
        had = spec.get("clusterIPs") or ()
        if self._reader is None or kept == had or spec.get("type") == "ExternalName":
            return
        for text in had:
            try:
                name = str(parse_address(text))
            except AddressError:
                continue
            if text not in kept and self._reader.get(IP_ADDRESSES, Key("", name)) is None:
                self.addresses.observe_address(name, exists=False)

    def holders_to_mend(self) -> set[Key]:
        """The Services whose records were deleted since this was asked last."""
        found, self._to_mend = self._to_mend, set()
        return found

    def allocate(self, document: Document, families: Sequence[Family], asked: Sequence[str], transaction: Transaction) -> list[str]:
        """An address for each family: the text asked for at its place, else any; recorded as IPAddresses in the transaction.

        Invalid when an address asked for cannot be had, InternalError when the range is full.
        """
        metadata = document["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        texts = []
        for i, family in enumerate(families):
            if i < len(asked) and asked[i]:
                address, text, canonical = parse_address(asked[i]), asked[i], ""
                if problem := self.addresses.take(address):
                    problem_path = wrong("spec.clusterIPs", list(asked), f"failed to allocate {text}: {problem}")
                    raise invalid("Service", name, [problem_path])
            else:
                found = self.addresses.take_any(family)
                if found is None:
                    raise InternalError(f"failed to allocate an {family} address for Service {namespace}/{name}: range is full")
                address = found
                text = canonical = _text_of(found, family)
            transaction.undo.callback(self._give, address, transaction.reader)
            transaction.create(IP_ADDRESSES, cidrs.ip_address(address, namespace=namespace, name=name, text=canonical))
            texts.append(text)
        return texts

    def release(self, document: Document, texts: Iterable[str], transaction: Transaction) -> None:
        """Delete the records of addresses that the Service gives back; another Service's record of the same address stays."""
        metadata = document["metadata"]
        for text in texts:
            try:
                key = Key("", str(parse_address(text)))
            except AddressError:
                continue
            record = transaction.reader.get(IP_ADDRESSES, key)
            parent = ((record or {}).get("spec") or {}).get("parentRef") or {}
            if record and (parent.get("namespace", ""), parent.get("name", "")) == (metadata.get("namespace", ""), metadata.get("name", "")):
                transaction.delete(IP_ADDRESSES, key)

    def _give(self, address: Address, reader: Reader) -> None:
        if reader.get(IP_ADDRESSES, Key("", str(address))) is None:
            self.addresses.give(address)


def _text_of(address: Address, family: Family) -> str:
    """The canonical text of a new address, by the C library, which takes a tenth of the time; only for addresses within addresses it has another form."""
    text = socket.inet_ntop(family.facts.socket_family, address.packed)
    if ":" in text and "." in text:
        text = text_of(address)
    remember(address, text)
    return text


def context_of(settings: RangeSettings, reader: Reader | None = None) -> Context:
    """The context that the flags describe, loaded when a reader is given. AddressError names the flag that will not do."""
    context = Context(cidrs.parse_service_ranges(settings.service_cluster_ip_range), node_ports=cidrs.parse_port_range(settings.service_node_port_range))
    if reader is not None:
        context.load(reader)
    return context
