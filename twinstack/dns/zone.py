"""The zones that this server answers for: records by name, and the answer to a question about them.

Rule of this file: it holds what ``records`` decided and nothing of Kubernetes; what it cannot answer it says it cannot.

Theory. A name exists when it has a record, when something below it has (an empty non-terminal, RFC 8020), or when its
namespace does. To a name that exists a question for a type it has not is answered with no error and no data; to
one that does not, with NXDOMAIN; both bear the zone's SOA, whose minimum says how long that may be believed (RFC 2308). To
take the second for the first breaks clients that ask for both families at once, so existence is counted, never guessed:
each name counts the names directly below it.

An answer is built as bytes when it is first asked for and kept at its name, until something of the source that the name
comes from changes: a record's answer may hold other records of that source (the addresses of SRV targets), never of another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import dns.rdatatype

from twinstack.dns import wire
from twinstack.dns.records import Record, by_name, undashed
from twinstack.net.family import FAMILIES, Address, Family

MOST_ALIASES = 8  # in a row, before they are taken for a circle
_ADDRESS_TYPES = tuple(wire.type_of(family.facts.dns_type) for family in FAMILIES)
_SOA, _NS, _CNAME, _SRV = (int(one) for one in (dns.rdatatype.SOA, dns.rdatatype.NS, dns.rdatatype.CNAME, dns.rdatatype.SRV))
_ANY = int(dns.rdatatype.ANY)
_CHANGING = (_SOA, _NS)  # their answers change with other sources than the name's own
_REFRESH, _RETRY, _EXPIRE = 7200, 1800, 86400  # of a SOA; nobody transfers our zones


class Node:
    """A name that exists: its records by their source, how many names there are right below it, and the answers built so far."""

    __slots__ = ("answers", "children", "records")

    def __init__(self) -> None:
        self.records: dict[Hashable, Sequence[Record]] = {}
        self.children = 0
        self.answers: dict[bytes, wire.Answer] = {}  # by type and class, as bytes


class Elsewhere(NamedTuple):
    """An alias whose target is not ours: the records so far, and the name that somebody else must be asked for."""

    answers: tuple[bytes, ...]
    target: bytes


class Zone:
    """All our zones. The first has the cluster's names; the others are of pointers."""

    def __init__(self, domain: str, reverse: Iterable[str] = (), *, ttl: int = 5, serial: int = 1, guess_pods: bool = False) -> None:
        self.nodes: dict[bytes, Node] = {}
        self.serial = serial
        self._ttl, self._guess_pods = ttl, guess_pods
        self._sources: dict[Hashable, dict[bytes, Sequence[Record]]] = {}
        apex = wire.name_of(f"{domain}.")
        self._apexes = {apex: apex, **{name: name for name in (wire.name_of(zone) for zone in reverse)}}
        self._pods = wire.name_of(f"pod.{domain}.")
        self._server, self._contact = wire.name_of(f"ns.dns.{domain}."), wire.name_of(f"hostmaster.{domain}.")
        self._soas: dict[bytes, bytes] = {}  # of this serial, as are these:
        self._negatives: dict[tuple[bytes, int], wire.Answer] = {}
        self.put(("zone",), [Record(wire.text_of(name), "NS", f"ns.dns.{domain}.") for name in self._apexes])

    # ---- what there is

    def put(self, source: Hashable, records: Iterable[Record], names: Iterable[str] = ()) -> list[str]:
        """Make these the records of a source, and these its names without a record; returns the names that cannot be ones."""
        wanted: dict[bytes, Sequence[Record]] = {}
        wrong = []
        named: dict[str, Sequence[Record]] = {**dict.fromkeys(names, ()), **by_name(records)}
        for text, some in named.items():
            try:
                wanted[wire.name_of(text)] = tuple(some)
            except ValueError:
                wrong.append(text)
        before = self._sources.get(source, {})
        if before == wanted:  # most changes of slices are no changes of names
            return wrong
        self._sources[source] = wanted
        if not wanted:
            del self._sources[source]
        self.serial = (self.serial + 1) & 0xFFFFFFFF
        self._soas.clear()
        self._negatives.clear()
        for name in before:
            if name not in wanted:
                self._take(name, source)
        for name, some in wanted.items():
            node = self.nodes.get(name) or self._grow(name)
            node.records[source] = some
            node.answers.clear()
        return wrong

    def drop(self, source: Hashable) -> None:
        """Forget a source."""
        self.put(source, ())

    def _grow(self, name: bytes) -> Node:
        node = self.nodes[name] = Node()
        if name != b"\0":
            above = name[name[0] + 1 :]
            (self.nodes.get(above) or self._grow(above)).children += 1
        return node

    def _take(self, name: bytes, source: Hashable) -> None:
        node = self.nodes[name]
        del node.records[source]
        node.answers.clear()
        while not node.records and not node.children:
            del self.nodes[name]
            if name == b"\0":
                return
            name = name[name[0] + 1 :]
            node = self.nodes[name]
            node.children -= 1

    # ---- what is answered

    def look(self, name: bytes, type_: int) -> wire.Answer | Elsewhere | None:
        """The answer about a name in lower case, which must be well-formed; None when it is in no zone of ours."""
        apex = self.apex_of(name)
        node = self.nodes.get(name)
        if node is None:
            if apex is None:
                return None
            address = self._guessed(name)
            return self._negative(apex, wire.NXDOMAIN) if address is None else self._of_address(apex, address, type_)
        key = type_.to_bytes(2, "big") + b"\0\1"
        kept = node.answers.get(key)
        if kept is not None:
            return kept
        found = self._records(node, name, wire.OWNER_IS_QUESTION, type_)
        if not found:
            if type_ == _ANY and apex is not None:  # whose answers attacks are made of: no data, as CoreDNS says (RFC 8482 4)
                return self._negative(apex, wire.NOERROR)
            if alias := self._alias(node):
                return self._follow(alias, type_)
            return None if apex is None else self._negative(apex, wire.NOERROR)
        answer = wire.Answer(wire.NOERROR, found, (), self._additional(node, type_), turns=type_ in _ADDRESS_TYPES)
        if type_ not in _CHANGING:
            node.answers[key] = answer
        return answer

    def apex_of(self, name: bytes) -> bytes | None:
        """The name of the zone that a name is in."""
        at = 0
        while True:
            apex = self._apexes.get(name[at:])
            if apex is not None or not name[at]:
                return apex
            at += name[at] + 1

    def _records(self, node: Node, name: bytes, owner: bytes, type_: int) -> list[bytes]:
        found: dict[bytes, None] = {}  # two sources may say the same
        for some in node.records.values():
            for one in some:
                number = wire.type_of(one.type)
                if type_ == number:
                    try:
                        data = wire.data_of(one.type, one.data)
                    except ValueError:  # it leads to a name that is too long, which was told when it was put
                        continue
                    found[wire.record(owner, number, self._ttl if one.ttl < 0 else one.ttl, data)] = None
        if name in self._apexes and type_ == _SOA:
            found[self._soa(name, owner)] = None
        return list(found)

    def _alias(self, node: Node) -> Record | None:
        return next((one for some in node.records.values() for one in some if one.type == "CNAME"), None)

    def _follow(self, alias: Record, type_: int) -> wire.Answer | Elsewhere | None:
        """An alias, what it leads to, and what that leads to."""
        owner = wire.OWNER_IS_QUESTION
        answers: list[bytes] = []
        for _ in range(MOST_ALIASES):
            answers.append(wire.record(owner, _CNAME, self._ttl, wire.data_of("CNAME", alias.data)))
            owner = target = wire.data_of("CNAME", alias.data)
            apex, node = self.apex_of(target), self.nodes.get(target)
            if node is not None and (found := self._records(node, target, target, type_)):
                return wire.Answer(wire.NOERROR, (*answers, *found))
            if node is not None and (further := self._alias(node)):
                alias = further
                continue
            if apex is None:
                return Elsewhere(tuple(answers), target)
            return wire.Answer(wire.NXDOMAIN if node is None else wire.NOERROR, answers, (self._soa(apex, apex),))
        return wire.Answer(wire.SERVFAIL, answers)

    def _additional(self, node: Node, type_: int) -> list[bytes]:
        """The addresses of what SRV and NS records lead to, each name once."""
        if type_ not in (_SRV, _NS):
            return []
        text = wire.type_text(type_)
        targets = {one.data.split(" ")[-1]: None for some in node.records.values() for one in some if one.type == text}
        found = []
        for target in targets:
            try:
                name = wire.name_of(target)
            except ValueError:
                continue
            if (below := self.nodes.get(name)) is not None:
                for address_type in _ADDRESS_TYPES:
                    found += self._records(below, name, name, address_type)
        return found

    def _negative(self, apex: bytes, code: int) -> wire.Answer:
        answer = self._negatives.get((apex, code))
        if answer is None:
            answer = self._negatives[apex, code] = wire.Answer(code, (), (self._soa(apex, apex),))
        return answer

    def _soa(self, apex: bytes, owner: bytes) -> bytes:
        data = self._soas.get(apex)
        if data is None:
            numbers = (self.serial, _REFRESH, _RETRY, _EXPIRE, self._ttl)
            data = self._soas[apex] = self._server + self._contact + b"".join(number.to_bytes(4, "big") for number in numbers)
        return wire.record(owner, _SOA, self._ttl, data)

    # ---- pods by their addresses

    def _guessed(self, name: bytes) -> Address | None:
        """The address that a pod's name spells, where names are believed and the namespace exists."""
        if not self._guess_pods or not name[0]:
            return None
        namespace = name[name[0] + 1 :]
        if not namespace[0] or namespace[namespace[0] + 1 :] != self._pods or namespace not in self.nodes:
            return None
        return undashed(name[1 : 1 + name[0]].decode("ascii", "replace"))

    def _of_address(self, apex: bytes, address: Address, type_: int) -> wire.Answer:
        text = Family.of(address).facts.dns_type
        if type_ != wire.type_of(text):
            return self._negative(apex, wire.NOERROR)
        return wire.Answer(wire.NOERROR, (wire.record(wire.OWNER_IS_QUESTION, wire.type_of(text), self._ttl, wire.data_of(text, str(address))),))
