"""Ports of the node that lead to a container (``hostPort``): elements of two maps of one table in each family.

Rule of this file: what an attachment has got is written down before the kernel is told, so that DEL and GC, which know
only who it was, take it back after a crash at any point.

Theory. As for Services, a mapping is an element and never a rule (docs/dataplane.md). ``addressed`` holds mappings that name
an address of the host, and is asked first; ``ports`` holds those of every address. A mapping that names an address is one of
that address's family only; one that names none is of both. The chains come just after kube-proxy's at the same hooks, so
that a Service wins. A container that reaches itself through its host port is masqueraded (``hairpin``), and so is a client
on a loopback address, in the family that lets such packets leave at all. A flow of UDP that was there before would go on
where it went: it is forgotten.

A key that is taken stays with whom it has: the second ADD is refused with code 104, which the scheduler prevents.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from twinstack.api.cni import IO_FAILURE, PORT_TAKEN, Attachment, CNIError, Config, PortMapping
from twinstack.kernel.conntrack import Conntrack, Stale
from twinstack.kernel.errors import KernelError
from twinstack.kernel.namespaces import write_sysctl
from twinstack.kernel.netlink import Netlink
from twinstack.kernel.nftables import Nftables
from twinstack.net.cidr import parse_address
from twinstack.net.family import Address, Family

TABLE = "twinstack-hostport"
_ANY, _ONE, _HAIRPIN = "ports", "addressed", "hairpin"
_CONNECTIONLESS = ("udp", "sctp")
_Elements = dict[str, list[str]]  # family → elements as "<set> <key>[ : <value>]"


class HostPorts:
    """The host ports of one network's attachments, on the node whose namespace the caller stands in."""

    def __init__(self, config: Config) -> None:
        self._directory = os.path.join(config.data_dir, ".hostports", config.network)

    def add(self, who: Attachment, mappings: Sequence[PortMapping], targets: Iterable[Address], link: str = "") -> None:
        """Lead the mappings to the container's addresses, the first of each family; *link* is the node's end of its link."""
        chosen: dict[Family, Address] = {}
        for target in targets:
            chosen.setdefault(Family.of(target), target)
        wanted = {str(family): list(_elements(target, [one for one in mappings if one.is_of(family)])) for family, target in chosen.items()}
        wanted = {name: elements for name, elements in wanted.items() if elements}
        if not wanted:
            return
        self._write(who, wanted)
        done: _Elements = {}
        with Nftables() as kernel:
            try:
                for name, elements in wanted.items():
                    family = Family(name)
                    kernel.run(_table(family) + _script("add", family, elements))
                    done[name] = elements
            except KernelError as error:
                for name, elements in done.items():
                    kernel.run(_script("delete", Family(name), elements))
                self._forget(who)
                if error.exists:
                    raise CNIError(PORT_TAKEN, f"a host port of container {who.container} is taken", str(error)) from error
                raise
        for family in chosen:
            key = family.facts.route_localnet
            if key and str(family) in wanted and (name := link or _link_to(family, chosen[family])):
                write_sysctl(key.format(name), "1")
        _forget_flows(wanted)

    def remove(self, who: Attachment) -> None:
        """Take back what the attachment has; nothing is a success."""
        path = self._path(who)
        try:
            with open(path, encoding="utf-8") as file:
                had: _Elements = json.load(file)["elements"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError) as error:
            raise CNIError(IO_FAILURE, f"{path} cannot be read", str(error)) from error
        with Nftables() as kernel:
            for name, elements in had.items():
                for element in elements:
                    # what was never added is added for the moment; what another one has meanwhile stays
                    try:
                        kernel.run(_script("add", Family(name), [element]) + _script("delete", Family(name), [element]))
                    except KernelError as error:
                        if not (error.exists or error.missing):
                            raise
        _forget_flows(had)
        self._forget(who)

    def keep_only(self, keep: Callable[[Attachment], bool]) -> None:
        """Take back what belongs to attachments that *keep* is false of."""
        for who in self._known():
            if not keep(who):
                self.remove(who)

    def has(self, who: Attachment) -> bool:
        """Whether all that was written down for the attachment is in the kernel."""
        try:
            with open(self._path(who), encoding="utf-8") as file:
                wanted: _Elements = json.load(file)["elements"]
        except FileNotFoundError:
            return False
        with Nftables() as kernel:
            try:
                for name, elements in wanted.items():
                    for element in elements:
                        place, _, rest = element.partition(" ")
                        kernel.run(f"get element {Family(name).facts.nft_family} {TABLE} {place} {{ {rest.partition(' : ')[0]} }}\n")
            except KernelError as error:
                if error.missing:
                    return False
                raise
        return True

    def _known(self) -> Iterator[Attachment]:
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._directory)):
                if name.startswith("."):
                    continue
                try:
                    with open(os.path.join(self._directory, name), encoding="utf-8") as file:
                        yield Attachment(*json.load(file)["who"])
                except (OSError, ValueError, KeyError, TypeError) as error:
                    raise CNIError(IO_FAILURE, f"{self._directory}/{name} cannot be read", str(error)) from error

    def _path(self, who: Attachment) -> str:
        return os.path.join(self._directory, hashlib.sha256(f"{who.container}\n{who.interface}".encode(errors="surrogateescape")).hexdigest())

    def _write(self, who: Attachment, elements: _Elements) -> None:
        path = self._path(who)
        draft = f"{os.path.dirname(path)}/.{os.path.basename(path)}.draft"
        try:
            os.makedirs(self._directory, mode=0o755, exist_ok=True)
            with open(draft, "w", encoding="utf-8") as file:
                json.dump({"who": who, "elements": elements}, file)
            os.replace(draft, path)
        except OSError as error:
            raise CNIError(IO_FAILURE, f"{path} cannot be written", str(error)) from error

    def _forget(self, who: Attachment) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(who))


def _elements(target: Address, mappings: Iterable[PortMapping]) -> Iterator[str]:
    """The elements of one family's mappings."""
    for one in mappings:
        front = f"{one.protocol} . {one.host_port}"
        place = _ANY if one.host_ip is None or one.host_ip.is_unspecified else _ONE
        address = "" if place == _ANY else f"{one.host_ip} . "
        yield f"{place} {address}{front} : {target} . {one.container_port}"
    yield from [f"{_HAIRPIN} {target} . {target}"] if mappings else []


def _script(verb: str, family: Family, elements: Iterable[str]) -> str:
    lines = []
    for element in elements:
        place, _, rest = element.partition(" ")
        lines.append(f"{verb} element {family.facts.nft_family} {TABLE} {place} {{ {rest} }}\n")
    return "".join(lines)


def _table(family: Family) -> str:
    """The table's frame; where it stands, nothing changes."""
    facts = family.facts
    table = f"{facts.nft_family} {TABLE}"
    data = f"{facts.nft_address} . inet_service"
    ways = [(what, place) for place in (f"{facts.nft_family} daddr . @{_ONE}", f"@{_ANY}") for what in ("tcp, udp", "sctp")]
    lines = [
        f"add table {table}",
        f"add map {table} {_ANY} {{ type inet_proto . inet_service : {data}; }}",
        f"add map {table} {_ONE} {{ type {facts.nft_address} . inet_proto . inet_service : {data}; }}",
        f"add set {table} {_HAIRPIN} {{ type {facts.nft_address} . {facts.nft_address}; }}",
        f"add chain {table} translate",
        f"add chain {table} prerouting {{ type nat hook prerouting priority -95; }}",
        f"add chain {table} output {{ type nat hook output priority -95; }}",
        f"add chain {table} postrouting {{ type nat hook postrouting priority 95; }}",
        *(f"flush chain {table} {chain}" for chain in ("translate", "prerouting", "output", "postrouting")),
    ]
    for protocols, place in ways:
        address, _, name = place.rpartition("@")
        lines.append(f"add rule {table} translate meta l4proto {{ {protocols} }} dnat {facts.nft_family} to {address}meta l4proto . th dport map @{name}")
    lines += [f"add rule {table} {chain} fib daddr type local goto translate" for chain in ("prerouting", "output")]
    lines.append(f"add rule {table} postrouting {facts.nft_family} saddr . {facts.nft_family} daddr @{_HAIRPIN} masquerade")
    if facts.route_localnet:
        lines.append(f"add rule {table} postrouting ct status dnat {facts.nft_family} saddr {facts.loopback_network} masquerade")
    return "\n".join(lines) + "\n"


def _link_to(family: Family, address: Address) -> str:
    """The link that another plugin has led a container's address over; empty when no route says it."""
    with Netlink() as kernel:
        fitting = [route for route in kernel.routes([family], protocol=None) if address in route.destination and route.gateway is None]
    return max(fitting, key=lambda route: route.destination.prefixlen).link if fitting else ""


def _forget_flows(elements: _Elements) -> None:
    """Forget the flows that clients have to the host ports and that no end of a connection ends."""
    stale: dict[Family, list[Stale]] = {}
    for name, some in elements.items():
        for element in some:
            place, _, rest = element.partition(" ")
            words = rest.partition(" : ")[0].split(" . ")
            if place != _HAIRPIN and words[-2] in _CONNECTIONLESS:
                destination = str(parse_address(words[0])) if place == _ONE else ""
                stale.setdefault(Family(name), []).append(Stale(destination, int(words[-1]), "", 0, words[-2]))
    if not stale:
        return
    kernel = Conntrack()
    try:
        for family, some_flows in stale.items():
            kernel.forget(family, some_flows)
    finally:
        kernel.close()
