"""A table put together from parts, which knows at once what changed when a part does.

Rule of this file: the cost of a change is the size of the part, never of the table. ``ruleset`` has the theory.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from twinstack.dataplane.ruleset import Chain, Element, Key, Map, Set, Steps, Table, Value, ordered, whole
from twinstack.net.family import Family

_MANY = 10_000  # elements from which on a set is declared with its size
_ROOM = 2  # how many times its elements fit then


class Part(NamedTuple):
    """What one owner wants in the table: elements, no key twice, and the chains and sets that only those who need them want."""

    elements: tuple[Element, ...] = ()
    chains: tuple[Chain, ...] = ()
    sets: tuple[Set | Map, ...] = ()


class _Absent:
    pass


_ABSENT: Final = _Absent()


class Assembly:
    """The wanted table as parts, over a frame that never changes.

    Owners that want a chain or a set under the same name must want the same one. A whole write declares how large each large
    set may become, because the kernel then makes its hash table once, where it otherwise makes it anew at every doubling.
    """

    def __init__(self, family: Family, name: str, chains: Iterable[Chain], sets: Iterable[Set | Map]) -> None:
        self._family = family
        self._name = name
        self._frame_chains = {chain.name: chain for chain in chains}
        self._frame_sets = {one.name: one for one in sets}
        self._parts: dict[str, tuple[Any, ...]] = {}  # chains, sets, then set and key of each element: values stand in the elements
        self._elements: dict[str, dict[Key, Value]] = {}
        self._owners: dict[str, dict[Key, str]] = {}  # only of sets in which a key was once claimed twice: it takes as much as the elements
        self._rivals: dict[tuple[str, Key], dict[str, Value]] = {}  # only for keys that several parts claim
        self._chains: dict[str, Chain] = {}
        self._sets: dict[str, Set | Map] = {}
        self._uses: Counter[str] = Counter()
        self._set_uses: Counter[str] = Counter()
        self._room: dict[str, int] = {}  # the most elements of a set that was declared with its size
        # what stood before the changes since the last steps; nothing is kept of it while nobody knows what stands
        self._blind = False
        self._was: dict[tuple[str, Key], Value | _Absent] = {}
        self._was_chain: dict[str, Chain | None] = {}
        self._was_set: dict[str, Set | Map | None] = {}

    def put(self, owner: str, part: Part | None) -> None:
        """Exchange the owner's part; None takes it away."""
        before = self.part(owner)
        if before == part:
            return
        if before is not None:
            self._take_away(owner, before, part)
            del self._parts[owner]
        if part is not None:
            self._parts[owner] = (part.chains, part.sets, *itertools.chain.from_iterable([element[:2] for element in part.elements]))
            self._give(owner, part, before)

    def owners(self) -> Collection[str]:
        """Who has a part."""
        return self._parts.keys()

    def part(self, owner: str) -> Part | None:
        """The owner's part; None when it has none."""
        held = self._parts.get(owner)
        if held is None:
            return None
        named = zip(held[2::2], held[3::2], strict=True)
        return Part(tuple((set_, key, self._claimed(owner, set_, key)) for set_, key in named), held[0], held[1])

    def _claimed(self, owner: str, set_: str, key: Key) -> Value:
        """What an owner claims of a key: mostly what stands."""
        rivals = self._rivals.get((set_, key)) if self._rivals else None
        return rivals[owner] if rivals and owner in rivals else self._elements[set_][key]

    def table(self) -> Table:
        """The wanted table as a value; its elements are this assembly's own and change with it."""
        sets = {**self._frame_sets, **self._sets}
        sets |= {name: replace(sets[name], size=size) for name, size in self._room.items() if name in sets}
        return Table(
            self._family,
            self._name,
            {**self._frame_chains, **self._chains},
            sets,
            {name: held for name, held in self._elements.items() if held},
        )

    def steps(self) -> Steps:
        """The steps from what stood when this was last called (or :meth:`settle`) to what is wanted now."""
        if self._blind or self.outgrown():
            return self.whole()
        out: dict[str, list[Key]] = {}
        put: dict[str, list[tuple[Key, Value]]] = {}
        sets_in = [self._sets[name] for name, was in self._was_set.items() if was is None and name in self._sets]
        sets_out = [name for name, was in self._was_set.items() if was is not None and name not in self._sets]
        for (set_, key), was in self._was.items():
            now: Value | _Absent = self._elements.get(set_, {}).get(key, _ABSENT)
            if now == was:
                continue
            if not isinstance(was, _Absent) and set_ not in sets_out:
                out.setdefault(set_, []).append(key)
            if not isinstance(now, _Absent):
                put.setdefault(set_, []).append((key, now))
        steps = ordered(
            self._family,
            self._name,
            sets_in=sets_in,
            chains=[(self._chains[name], True) for name, was in self._was_chain.items() if was is None and name in self._chains],
            out=out,
            put=put,
            chains_out=[name for name, was in self._was_chain.items() if was is not None and name not in self._chains],
            sets_out=sets_out,
        )
        self.settle()
        return steps

    def whole(self) -> Steps:
        """The steps that make the wanted table whatever stood before."""
        self.settle()
        sets = self._frame_sets | self._sets
        self._room = {
            name: _ROOM * len(held)
            for name, held in self._elements.items()
            if len(held) >= _MANY and not sets[name].flags  # intervals are no hash table, and what rules teach has its size
        }
        return whole(self.table())

    def outgrown(self) -> bool:
        """Whether a set has come to hold more than it was declared for: only a whole write makes room."""
        return any(len(self._elements[name]) > room for name, room in self._room.items())

    def unsettle(self) -> None:
        """Nobody knows what stands: the next steps are a whole write, and until then changes cost less."""
        self.settle()
        self._blind = True

    def settle(self) -> None:
        """Take what is wanted now as what stands."""
        self._blind = False
        self._was.clear()
        self._was_chain.clear()
        self._was_set.clear()

    def _give(self, owner: str, part: Part, before: Part | None) -> None:
        for one in part.sets:
            if not self._set_uses[one.name]:
                self._was_set.setdefault(one.name, None)
                self._sets[one.name] = one
            self._set_uses[one.name] += 1
        for chain in part.chains:
            if not self._uses[chain.name]:
                self._was_chain.setdefault(chain.name, None)
                self._chains[chain.name] = chain
            self._uses[chain.name] += 1
        new: Iterable[Element] = part.elements
        if before is not None:
            kept = frozenset(before.elements)
            new = [element for element in new if element not in kept]
        elements, owners, blind = self._elements, self._owners, self._blind  # a million times
        for set_, key, value in new:
            held = elements.get(set_)
            if held is None:
                held = elements[set_] = {}
            if key in held:
                self._claim(owner, set_, key, value)
                continue
            if not blind:
                self._was.setdefault((set_, key), _ABSENT)
            held[key] = value
            if set_ in owners:
                owners[set_][key] = owner

    def _take_away(self, owner: str, part: Part, after: Part | None) -> None:
        kept = frozenset(after.elements) if after is not None else frozenset()
        for element in part.elements:
            if element not in kept:
                self._release(owner, element[0], element[1])
        for chain in part.chains:
            self._uses[chain.name] -= 1
            if not self._uses[chain.name]:
                del self._uses[chain.name]
                self._was_chain.setdefault(chain.name, chain)
                del self._chains[chain.name]
        for one in part.sets:
            self._set_uses[one.name] -= 1
            if not self._set_uses[one.name]:
                del self._set_uses[one.name]
                self._was_set.setdefault(one.name, one)
                del self._sets[one.name]

    def _claim(self, owner: str, set_: str, key: Key, value: Value) -> None:
        """Claim what somebody has already."""
        holder = self._owners_in(set_)[key]
        if holder == owner:
            return  # a part that names a key twice means the first
        rivals = self._rivals.setdefault((set_, key), {holder: self._elements[set_][key]})
        rivals[owner] = value
        self._settle_rivals(set_, key, rivals)

    def _release(self, owner: str, set_: str, key: Key) -> None:
        rivals = self._rivals.get((set_, key))
        if rivals is not None:
            rivals.pop(owner, None)
            self._settle_rivals(set_, key, rivals)
            if len(rivals) == 1:
                del self._rivals[set_, key]
        elif key in self._elements.get(set_, ()):
            value = self._elements[set_].pop(key)
            if not self._blind:
                self._was.setdefault((set_, key), value)
            if set_ in self._owners:
                del self._owners[set_][key]

    def _owners_in(self, set_: str) -> dict[Key, str]:
        """Who holds each of a set's keys, the winner where several claim one."""
        if set_ not in self._owners:
            found: dict[Key, str] = {}
            for owner, held in self._parts.items():
                for name, key in zip(held[2::2], held[3::2], strict=True):
                    if name == set_:
                        found.setdefault(key, owner)
            self._owners[set_] = found
        return self._owners[set_]

    def _settle_rivals(self, set_: str, key: Key, rivals: Mapping[str, Value]) -> None:
        winner = min(rivals)
        if not self._blind:
            self._was.setdefault((set_, key), self._elements[set_][key])
        self._elements[set_][key] = rivals[winner]
        self._owners[set_][key] = winner
