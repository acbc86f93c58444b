"""What becomes of a connection's first packet in a set of tables: the kernel's walk, done on paper.

Rule of this file: it knows what ``ruleset`` can say and what Linux does with it, and guesses nothing: a selector
that it cannot evaluate is an error (:class:`Untraceable`), never a match.

Theory. A packet from outside passes prerouting, then input when its destination is the host's own, else forward
and postrouting. One that the host sends passes output and postrouting and, when it stays inside, prerouting
and input besides. At each hook the base chains of all tables run in order of priority. Chains of type nat see
only a connection's first packet, and only until one of them has decided: DNAT in prerouting or output, source
NAT in postrouting or input. Random choices branch: each possible outcome is told once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from twinstack.dataplane.ruleset import (
    Atom,
    Dnat,
    Goto,
    Key,
    Lookup,
    Mark,
    Marked,
    Masquerade,
    Match,
    Rule,
    Table,
    Tag,
    Update,
    Value,
    Verdict,
)
from twinstack.dataplane.text import rule_text
from twinstack.net.cidr import contains, parse_address, parse_cidr, text_of
from twinstack.net.errors import Error
from twinstack.net.family import Family

_DEEPEST = 64  # the kernel itself follows 16 jumps
_RESET = Verdict("reject with tcp reset")


class Untraceable(Error):
    """A rule says something that the tracer does not understand, or never comes to an end."""


class Packet(NamedTuple):
    """The first packet of a connection. Addresses are canonical texts; *iif* is empty when the host itself sends it."""

    source: str
    protocol: str  # tcp, udp, sctp
    destination: str
    port: int
    iif: str = ""
    state: str = "new"


class Outcome(NamedTuple):
    """Where the packet ends. *verdict*: accept, drop or reject; *path* tells each rule that acted, in order."""

    verdict: str
    destination: str
    port: int
    masqueraded: bool
    path: tuple[str, ...]


class _State:
    """The packet on its way, and the choices made for it so far."""

    def __init__(self, packet: Packet, choices: list[int]) -> None:
        self.packet = packet
        self.destination = packet.destination
        self.port = packet.port
        self.iif = packet.iif
        self.mark = 0
        self.tag: Atom = 0
        self.learned: dict[tuple[str, str], dict[Key, Value]] = {}  # what this packet taught, by table and map
        self.translated = False
        self.masqueraded = False
        self.path: list[str] = []
        self._choices = choices
        self._made = 0
        self.widths: list[int] = []

    def choose(self, count: int) -> int:
        """One of *count* possibilities: as told, else the first."""
        chosen = self._choices[self._made] if self._made < len(self._choices) else 0
        self._made += 1
        self.widths.append(count)
        return chosen


def trace(tables: Sequence[Table], packet: Packet, *, local: frozenset[str]) -> list[Outcome]:
    """Every possible outcome of the packet on a host with the addresses *local*; more than one where a rule chooses at random."""
    family = Family.of(parse_address(packet.destination, canonical=True))
    own = [table for table in tables if table.family is family]
    outcomes: list[Outcome] = []
    choices: list[int] = []
    while True:
        state = _State(packet, choices)
        verdict = _walk(own, state, _Host(family, local))
        outcomes.append(Outcome(verdict, state.destination, state.port, state.masqueraded, tuple(state.path)))
        made = [*choices, *([0] * (len(state.widths) - len(choices)))]
        while made and made[-1] + 1 >= state.widths[len(made) - 1]:
            made.pop()
        if not made:
            return outcomes
        choices = [*made[:-1], made[-1] + 1]


class _Host(NamedTuple):
    family: Family
    local: frozenset[str]

    def is_local(self, address: str) -> bool:
        return address in self.local or contains(parse_cidr(self.family.facts.loopback_network), parse_address(address))


def _walk(tables: Sequence[Table], state: _State, host: _Host) -> str:
    for hook in _hooks(state, host):
        state.path.append(f"hook {hook}")
        verdict = _hook(tables, hook, state, host)
        if verdict != "accept":
            return verdict
    return "accept"


def _hooks(state: _State, host: _Host) -> Iterator[str]:
    """The hooks that the packet passes; asked anew after each, because DNAT may change the way."""
    if not state.packet.iif:
        yield "output"
        yield "postrouting"
        if host.is_local(state.destination):
            state.iif = "lo"
            yield "prerouting"
            yield "input"
        return
    yield "prerouting"
    if host.is_local(state.destination):
        yield "input"
        return
    yield "forward"
    yield "postrouting"


def _hook(tables: Sequence[Table], hook: str, state: _State, host: _Host) -> str:
    bases = [(chain.hook.priority, table, chain.name) for table in tables for chain in table.chains.values() if chain.hook and chain.hook.hook == hook]
    decided = hook == "prerouting" and not state.packet.iif  # the loopback's packet was translated on its way out
    for _, table, name in sorted(bases, key=lambda base: base[0]):
        base = table.chains[name].hook
        if base is not None and base.type == "nat":
            if decided or state.packet.state != "new":
                continue
            before = (state.translated, state.masqueraded)
            verdict = _Walk(table, state, host).chain(name)
            decided = (state.translated, state.masqueraded) != before
        else:
            verdict = _Walk(table, state, host).chain(name)
        if verdict in ("drop", "reject"):
            return verdict
    return "accept"


class _Walk:
    """The packet in one table."""

    def __init__(self, table: Table, state: _State, host: _Host) -> None:
        self._table = table
        self._state = state
        self._host = host
        self._depth = 0

    def chain(self, name: str) -> str:
        """What the chain decides: a verdict, or ``return`` when it lets the packet fall through."""
        if name not in self._table.chains:
            raise Untraceable(f"table {self._table.name} has no chain {name}")
        for rule in self._table.chains[name].rules:
            decided = self._rule(name, rule)
            if decided is None:
                continue
            if isinstance(decided, Goto):
                self._depth += 1
                if self._depth > _DEEPEST:
                    raise Untraceable(f"the rules of table {self._table.name} lead in a circle")
                verdict = self.chain(decided.chain)
                self._depth -= 1
                if decided.jump and verdict == "return":
                    continue
                return verdict
            return decided
        return "return"

    def _rule(self, chain: str, rule: Rule) -> str | Goto | None:
        """What the rule decides; None to go on with the next."""
        state = self._state
        decided: str | Goto | None = None
        for statement in rule:
            if isinstance(statement, Match):
                if not self._matches(statement):
                    return None
            elif isinstance(statement, Marked):
                if state.mark & statement.bits != statement.bits:
                    return None
            elif isinstance(statement, Mark):
                state.mark = state.mark | statement.bits if statement.on else state.mark & ~statement.bits
            elif isinstance(statement, Lookup):
                decided = self._verdict(self._found(statement.map, self._values(statement.key)))
                if decided is None:
                    return None
            elif isinstance(statement, Dnat):
                key = self._values(statement.key)
                value = self._data(statement.map, key)
                if value and statement.ports:
                    port = self._data(statement.ports, key)
                    value = value + port if port else ()
                if not value:
                    return None
                state.destination, state.port, state.translated = str(value[0]), int(value[1]), True
                decided = "accept"
            elif isinstance(statement, Masquerade):
                state.masqueraded, decided = True, "accept"
            elif isinstance(statement, Tag):
                value = self._data(statement.map, self._values(statement.key))
                if not value:
                    return None
                state.tag = value[0]
            elif isinstance(statement, Update):
                held = state.learned.setdefault((self._table.name, statement.map), {})
                held.setdefault(self._values(statement.key), self._values(statement.data))
            elif statement == _RESET and state.packet.protocol != "tcp":
                return None  # nftables adds the condition by itself, and does not list it
            else:
                decided = self._verdict(statement)
        state.path.append(
            f"{self._table.name} {chain}: {rule_text(rule, self._table.family)}" + (f" → {state.destination} {state.port}" if state.translated else "")
        )
        return decided

    @staticmethod
    def _verdict(value: Value) -> str | Goto | None:
        return value.word.partition(" ")[0] if isinstance(value, Verdict) else value if isinstance(value, Goto) else None

    def _matches(self, match: Match) -> bool:
        if match.operator == "<":
            return self._below(match)
        values = self._values(match.left)
        if match.right.startswith("@"):
            found = self._has(match.right[1:], values)
        elif match.right.startswith("{"):
            found = any(_fits(values[0], word) for word in match.right.strip("{} ").split(", "))
        else:
            found = _fits(values[0], match.right)
        if match.operator not in ("", "!="):
            raise Untraceable(f"operator {match.operator!r} is unknown")
        return found != (match.operator == "!=")

    def _below(self, match: Match) -> bool:
        """A random number below a bound: both ways are possible."""
        if not match.left[0].startswith("numgen random mod "):
            raise Untraceable(f"{match.left[0]!r} cannot be compared")
        return self._state.choose(2) == 0

    def _values(self, selectors: tuple[str, ...]) -> Key:
        return tuple(self._value(selector) for selector in selectors)

    def _value(self, selector: str) -> Atom:
        state = self._state
        if selector.startswith("numgen random mod "):
            return state.choose(int(selector.rpartition(" ")[2]))
        if selector == "fib daddr type":
            return "local" if self._host.is_local(state.destination) else "unicast"
        if selector == "fib saddr type":
            return "local" if self._host.is_local(state.packet.source) else "unicast"
        known: Mapping[str, Atom] = {
            "saddr": state.packet.source,
            "daddr": state.destination,
            "l4proto": state.packet.protocol,
            "dport": state.port,
            "iifname": state.iif,
            "ct state": state.packet.state,
            "ct status": "dnat" if state.translated else "",
            "tag": state.tag,
            "client": state.packet.source,  # a hash of it to the kernel; which one makes no difference on paper
            "ct original client": state.packet.source,
            "ct id": 1,  # there is but this connection
            "ct original saddr": state.packet.source,
            "ct original daddr": state.packet.destination,
            "ct original proto-dst": state.packet.port,
        }
        if selector not in known:
            raise Untraceable(f"selector {selector!r} is unknown")
        return known[selector]

    def _has(self, name: str, key: Key) -> bool:
        held, interval = self._held(name)
        return key in held or (interval and any(_key_fits(key, pattern) for pattern in held))

    def _data(self, name: str, key: Key) -> Key:
        """What a map of data has for a key, or this packet taught it; empty for nothing."""
        value = self._found(name, key)
        if value is None:
            value = self._state.learned.get((self._table.name, name), {}).get(key)
        return value if isinstance(value, tuple) else ()

    def _found(self, name: str, key: Key) -> Value:
        held, interval = self._held(name)
        if key in held or not interval:
            return held.get(key)
        return next((value for pattern, value in held.items() if _key_fits(key, pattern)), None)

    def _held(self, name: str) -> tuple[Mapping[Key, Value], bool]:
        if name not in self._table.sets:
            raise Untraceable(f"table {self._table.name} has no set or map {name}")
        return self._table.elements.get(name, {}), "interval" in self._table.sets[name].flags


def _key_fits(key: Key, pattern: Key) -> bool:
    return len(key) == len(pattern) and all(_fits(value, str(part)) for value, part in zip(key, pattern, strict=True))


def _fits(value: Atom, pattern: str) -> bool:
    """Whether a value is what a literal, a prefix or a quoted interface pattern says."""
    if pattern.startswith('"'):
        name = pattern.strip('"')
        return str(value).startswith(name[:-1]) if name.endswith("*") else value == name
    if "/" in pattern and isinstance(value, str):
        return contains(parse_cidr(pattern), parse_address(value))
    return str(value) == pattern


def canonical(address: str) -> str:
    """The canonical text of an address, as elements hold it."""
    return text_of(parse_address(address))
