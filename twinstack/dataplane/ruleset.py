"""A packet filter's table as a value, and the difference of two such values.

Rule of this file: it says what a table *is*. How nftables spells it stands in ``text``, what a packet meets in
it in ``trace``, and what it is good for in the programs that make one.

Theory. A table has a *frame* (chains, rules, declarations of sets and maps) and *elements*. The frame is small
and hardly changes; the elements are many and change all the time. So everything here is built for elements:

1. An element is (set, key, value): plain tuples of texts and numbers, which compare and hash fast and which
   the garbage collector forgets about. The value is None in a set, a verdict in a verdict map, a tuple in a
   map of data.
2. Words that differ between the twins do not occur. A rule says ``daddr``, never the family's spelling of it,
   so one rule value serves both and only ``text`` asks the table for its family.
3. A change is the difference of two tables as ordered steps, such that each prefix of the steps is valid:
   sets and chains come in, then elements go out, then elements come in, then chains and sets go out. Rules of
   a standing chain are flushed and written anew. A changed hook or a changed declaration of a standing set
   cannot be stepped to; then the whole table is replaced, in one transaction all the same.
4. Nobody compares 100,000 elements because one changed. An :class:`Assembly` holds the table as *parts*, each
   owned by a name (a Service, say), and knows after a part was exchanged what changed. Parts may claim the
   same key: once is once, and where they disagree on the value the owner with the smaller name wins, so that
   the outcome depends on what is claimed and never on the order of the claims. Chains and sets that only some
   parts need come and go with them.

Laws, which the tests hold it to: ``apply(difference(a, b), a) == b``; ``difference(a, a)`` has no steps;
an Assembly's steps lead where ``difference`` leads; no order of parts matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from twinstack.net.errors import Error
from twinstack.net.family import Family

_T = TypeVar("_T")

Atom = str | int
Key = tuple[Atom, ...]


class _Value(msgspec.Struct, frozen=True):
    """Compares by kind and fields, which a tuple would not: a flush of a chain is not its removal."""


class Verdict(_Value, frozen=True):
    """``accept``, ``drop``, ``return``, ``reject`` (ICMP port unreachable) or ``reject with tcp reset`` (matches TCP only).

    The last two cannot be a map's value; send it to a chain.
    """

    word: str


class Goto(_Value, frozen=True):
    """Continue in a chain and do not come back; ``jump`` comes back."""

    chain: str
    jump: bool = False


Value = tuple[Atom, ...] | Verdict | Goto | None
Element = tuple[str, Key, Value]


class Match(_Value, frozen=True):
    """Go on with the rule only if the selectors' values, joined, are what *right* says.

    *right* is a literal, a prefix, a list ``{ a, b }``, an interface pattern ``"veth*"`` in quotes, or ``@set``.
    *operator* is empty (equals, is among), ``!=`` or ``<``.
    """

    left: tuple[str, ...]
    right: str
    operator: str = ""


class Marked(_Value, frozen=True):
    """Go on only if these bits of the packet's mark are set."""

    bits: int


class Mark(_Value, frozen=True):
    """Set these bits of the packet's mark, or clear them."""

    bits: int
    on: bool = True


class Lookup(_Value, frozen=True):
    """Do what the verdict map says about the selectors' values; go on when it says nothing."""

    key: tuple[str, ...]
    map: str


class Dnat(_Value, frozen=True):
    """Send the connection to the address and port that the map has for the selectors' values; go on when it has none.

    With *ports* the map has the address alone, and that other map has the port under the same key.
    """

    key: tuple[str, ...]
    map: str
    ports: str = ""


class Masquerade(_Value, frozen=True):
    """Give the connection the address of the interface that it leaves by; *ports* as ``a-b``, *random* a port at random."""

    ports: str = ""
    random: bool = True


class Tag(_Value, frozen=True):
    """Let the packet bear what the map has for the selectors' values, until the next of these; go on only if it has something.

    Rules read it as the selector ``tag``, in place of one lookup inside another, which nft has no words for. It lies in
    the packet's priority (``meta priority``), so whoever tags a packet keeps what was there and gives it back.
    """

    key: tuple[str, ...]
    map: str


class Update(_Value, frozen=True):
    """Remember the data under the key in a dynamic map, and start its timeout anew (the map's own where none is given).

    The data of a key that is there already stays. Key and data are of 16 bytes at most: libnftables before 1.0.7 ends the
    process by an assertion when it is given more.
    """

    map: str
    key: tuple[str, ...]
    data: tuple[str, ...]
    timeout_seconds: int = 0


Statement = Match | Marked | Mark | Lookup | Dnat | Masquerade | Tag | Update | Verdict | Goto
Rule = tuple[Statement, ...]


class Hook(_Value, frozen=True):
    """Where a base chain listens: type (filter, nat), hook, and priority as a number (smaller is earlier)."""

    type: str
    hook: str
    priority: int


class Chain(_Value, frozen=True):
    """Rules in order; with a hook, the kernel sends packets here."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None


class Set(_Value, frozen=True):
    """Declares a set of keys. *flags*: interval, timeout, dynamic. *timeout_seconds* and *size* are 0 when not given."""

    name: str
    key: tuple[str, ...]
    flags: tuple[str, ...] = ()
    timeout_seconds: int = 0
    size: int = 0


class Map(_Value, frozen=True):
    """Declares a map from keys to data; ``("verdict",)`` as data makes it a verdict map."""

    name: str
    key: tuple[str, ...]
    data: tuple[str, ...]
    flags: tuple[str, ...] = ()
    timeout_seconds: int = 0
    size: int = 0


class Table(_Value, frozen=True):
    """One table of one family. *elements* has an entry for each set and map that holds any."""

    family: Family
    name: str
    chains: Mapping[str, Chain]
    sets: Mapping[str, Set | Map]
    elements: Mapping[str, Mapping[Key, Value]]

    def size(self) -> int:
        """The number of elements."""
        return sum(map(len, self.elements.values()))


class AddTable(_Value, frozen=True):
    """Make the table, if it is not there."""


class DeleteTable(_Value, frozen=True):
    """Remove the table and all in it; it must be there."""


class AddSet(_Value, frozen=True):
    """Declare a set or map."""

    set: Set | Map


class AddChain(_Value, frozen=True):
    """Make a chain without rules."""

    chain: str
    hook: Hook | None = None


class AddRule(_Value, frozen=True):
    """Append a rule to a chain."""

    chain: str
    rule: Rule


class FlushChain(_Value, frozen=True):
    """Remove all rules of a chain."""

    chain: str


class DeleteElements(_Value, frozen=True):
    """Take elements out; each must be there."""

    set: str
    keys: tuple[Key, ...]


class AddElements(_Value, frozen=True):
    """Put elements in."""

    set: str
    elements: tuple[tuple[Key, Value], ...]


class Learned(NamedTuple):
    """One element that rules put into a dynamic map: how long it lives in all, and what is left of that."""

    key: Key
    value: Value
    timeout_seconds: int
    expires_seconds: int


class AddLearned(_Value, frozen=True):
    """Put elements with their timeouts into a dynamic map; one that stands keeps its time, but must have the same value."""

    set: str
    elements: tuple[Learned, ...]


class DeleteChain(_Value, frozen=True):
    """Remove a chain that nothing leads to."""

    chain: str


class DeleteSet(_Value, frozen=True):
    """Remove a set or map that no rule names."""

    set: str


Step = AddTable | DeleteTable | AddSet | AddChain | AddRule | FlushChain | DeleteElements | AddElements | AddLearned | DeleteChain | DeleteSet


class Steps(_Value, frozen=True):
    """Ordered changes of one table, to be made in one transaction. False when there are none."""

    family: Family
    table: str
    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)


class StepError(Error):
    """A step that does not fit the table: what it names is missing, there already, or still in use."""


def table_of(family: Family, name: str, chains: Iterable[Chain], sets: Iterable[Set | Map], elements: Iterable[Element] = ()) -> Table:
    """A table from its pieces; of two elements with one key the first stands."""
    held: dict[str, dict[Key, Value]] = {}
    for set_, key, value in elements:
        held.setdefault(set_, {}).setdefault(key, value)
    return Table(family, name, {chain.name: chain for chain in chains}, {one.name: one for one in sets}, held)


def whole(table: Table) -> Steps:
    """Make exactly this table, whatever stood under its name."""
    steps: list[Step] = [AddTable(), DeleteTable(), AddTable()]
    steps += [AddSet(one) for one in table.sets.values()]
    steps += [AddChain(chain.name, chain.hook) for chain in table.chains.values()]
    steps += [AddRule(chain.name, rule) for chain in table.chains.values() for rule in chain.rules]
    steps += [AddElements(name, tuple(held.items())) for name, held in table.elements.items() if held]
    return Steps(table.family, table.name, tuple(steps))


def gone(family: Family, name: str) -> Steps:
    """Remove the table; it need not be there."""
    return Steps(family, name, (AddTable(), DeleteTable()))


def difference(applied: Table | None, wanted: Table) -> Steps:
    """The steps from one table to the other; the whole of *wanted* where no steps lead there."""
    if applied is None or not _steppable(applied, wanted):
        return whole(wanted)
    out: dict[str, list[Key]] = {}
    put: dict[str, list[tuple[Key, Value]]] = {}
    for name in applied.elements.keys() | wanted.elements.keys():
        before, after = applied.elements.get(name, {}), wanted.elements.get(name, {})
        if before is after:
            continue
        if name in wanted.sets or _is_verdict_map(applied.sets[name]):  # else they go with their set; verdicts hold chains
            out[name] = [key for key, value in before.items() if key not in after or after[key] != value]
        put[name] = [(key, value) for key, value in after.items() if key not in before or before[key] != value]
    return ordered(
        wanted.family,
        wanted.name,
        sets_in=[one for name, one in wanted.sets.items() if name not in applied.sets],
        chains=[(chain, chain.name not in applied.chains) for chain in wanted.chains.values() if applied.chains.get(chain.name) != chain],
        out=out,
        put=put,
        chains_out=[name for name in applied.chains if name not in wanted.chains],
        sets_out=[name for name in applied.sets if name not in wanted.sets],
    )


def _is_verdict_map(one: Set | Map) -> bool:
    return isinstance(one, Map) and one.data == ("verdict",)


def _steppable(applied: Table, wanted: Table) -> bool:
    return (
        (applied.family, applied.name) == (wanted.family, wanted.name)
        and all(applied.sets.get(name, one) == one for name, one in wanted.sets.items())
        and all(name not in applied.chains or applied.chains[name].hook == chain.hook for name, chain in wanted.chains.items())
    )


def ordered(
    family: Family,
    name: str,
    *,
    sets_in: Iterable[Set | Map],
    chains: Sequence[tuple[Chain, bool]],
    out: Mapping[str, Sequence[Key]],
    put: Mapping[str, Sequence[tuple[Key, Value]]],
    chains_out: Sequence[str],
    sets_out: Iterable[str],
) -> Steps:
    """Steps in the one order in which each may be made; *chains* are those with new rules, and whether they are new."""
    steps: list[Step] = [AddSet(one) for one in sets_in]
    steps += [AddChain(chain.name, chain.hook) if new else FlushChain(chain.name) for chain, new in chains]
    steps += [AddRule(chain.name, rule) for chain, _ in chains for rule in chain.rules]
    steps += [DeleteElements(set_, tuple(keys)) for set_, keys in sorted(out.items()) if keys]
    steps += [AddElements(set_, tuple(pairs)) for set_, pairs in sorted(put.items()) if pairs]
    steps += [FlushChain(chain) for chain in chains_out]  # those that go may lead to each other
    steps += [DeleteChain(chain) for chain in chains_out]
    steps += [DeleteSet(one) for one in sets_out]
    return Steps(family, name, tuple(steps))


def apply(steps: Steps, table: Table | None) -> Table | None:
    """The table after the steps, None when they remove it; StepError as a kernel would refuse them."""
    for step in steps.steps:
        table = _applied(step, steps, table)
    return table


def _applied(step: Step, steps: Steps, table: Table | None) -> Table | None:
    if isinstance(step, AddTable):
        return table if table is not None else Table(steps.family, steps.table, {}, {}, {})
    if table is None:
        raise StepError(f"table {steps.table} does not exist")
    chains, sets, elements = table.chains, table.sets, table.elements
    if isinstance(step, DeleteTable):
        return None
    if isinstance(step, AddSet):
        if step.set.name in sets and sets[step.set.name] != step.set:
            raise StepError(f"set {step.set.name} exists otherwise")
        return replace(table, sets={**sets, step.set.name: step.set})
    if isinstance(step, AddChain):
        return table if step.chain in chains else replace(table, chains={**chains, step.chain: Chain(step.chain, (), step.hook)})
    if isinstance(step, (AddRule, FlushChain)):
        chain = _named(chains, step.chain)
        rules = (*chain.rules, step.rule) if isinstance(step, AddRule) else ()
        return replace(table, chains={**chains, chain.name: replace(chain, rules=rules)})
    if isinstance(step, DeleteChain):
        _named(chains, step.chain)
        if step.chain in set(_chains_led_to(table)):
            raise StepError(f"chain {step.chain} is in use")
        return replace(table, chains={name: chain for name, chain in chains.items() if name != step.chain})
    if isinstance(step, DeleteSet):
        _named(sets, step.set)
        if any(step.set in _sets_named(rule) for chain in chains.values() for rule in chain.rules):
            raise StepError(f"set {step.set} is in use")
        return replace(
            table,
            sets={name: one for name, one in sets.items() if name != step.set},
            elements={name: held for name, held in elements.items() if name != step.set},
        )
    _named(sets, step.set)
    held = dict(elements.get(step.set, {}))
    if isinstance(step, DeleteElements):
        for key in step.keys:
            if key not in held:
                raise StepError(f"set {step.set} has no element {key}")
            del held[key]
    else:
        pairs = [(one.key, one.value) for one in step.elements] if isinstance(step, AddLearned) else step.elements
        for key, value in pairs:
            if held.setdefault(key, value) != value:
                raise StepError(f"map {step.set} has another value for {key}")
            if isinstance(value, Goto):
                _named(chains, value.chain)
    others = {name: other for name, other in elements.items() if name != step.set}
    return replace(table, elements={**others, step.set: held} if held else others)


def _named(things: Mapping[str, _T], name: str) -> _T:
    if name not in things:
        raise StepError(f"{name} does not exist")
    return things[name]


def _chains_led_to(table: Table) -> Iterator[str]:
    for chain in table.chains.values():
        for rule in chain.rules:
            yield from (statement.chain for statement in rule if isinstance(statement, Goto))
    for held in table.elements.values():
        yield from (value.chain for value in held.values() if isinstance(value, Goto))


def _sets_named(rule: Rule) -> Iterator[str]:
    for statement in rule:
        if isinstance(statement, Match) and statement.right.startswith("@"):
            yield statement.right[1:]
        elif isinstance(statement, (Lookup, Dnat, Tag, Update)):
            yield statement.map
            if isinstance(statement, Dnat) and statement.ports:
                yield statement.ports
