"""Session affinity: which endpoints a list's clients may be remembered with, and what of the learned is no longer true.

Rule of this file: it is pure. Who learns stands in ``ruleset``, who reads and deletes in ``sync``.

Theory. The kernel's rules learn (client, list) → endpoint by themselves, and forget by themselves after the
timeout. What they cannot know is that an endpoint has gone, or that a Service has no affinity any more; then the
proxy reads what was learned, and takes out what is no longer allowed, in the very transaction that takes the
endpoint out. It reads only when a list with affinity has lost an endpoint; nothing else of a Service's life
makes an entry wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from twinstack.dataplane.ruleset import AddLearned, DeleteElements, Learned, Step
from twinstack.proxy.ids import Ids
from twinstack.proxy.recalling import AFFINITY, AFFINITY_PORTS, list_name
from twinstack.proxy.services import Backend, ServicePort

StickyLists = Mapping[str, frozenset[Backend]]  # by the list's number


def sticky_lists(ports: Iterable[ServicePort], ids: Ids) -> StickyLists:
    """The lists of ports with affinity, and who may serve them."""
    found: dict[str, frozenset[Backend]] = {}
    for port in ports:
        if port.affinity_seconds:
            found[ids.of(list_name(port, local=False))] = frozenset(port.cluster)
            if port.internal_local or port.external_local:
                found[ids.of(list_name(port, local=True))] = frozenset(port.local)
    return found


def joined(addresses: Iterable[Learned], ports: Iterable[Learned]) -> list[Learned]:
    """What was learned of addresses and of ports, together; what is known by half is left to its end."""
    by_key = {one.key: one.value for one in ports}
    return [one._replace(value=(*one.value, *port)) for one in addresses if (port := by_key.get(one.key)) and isinstance(one.value, tuple)]  # type: ignore[misc]


def poorer(before: StickyLists, after: StickyLists) -> dict[str, frozenset[Backend]]:
    """The lists that lost an endpoint, or their affinity, and who is left."""
    return {one: after.get(one, frozenset()) for one, backends in before.items() if backends - after.get(one, frozenset())}


def untrue(learned: Iterable[Learned], lists: StickyLists) -> list[Learned]:
    """What was learned of these lists and names an endpoint that may not serve them."""
    return [one for one in learned if (allowed := lists.get(str(one.key[1]))) is not None and one.value not in allowed]


def true(learned: Iterable[Learned], lists: StickyLists) -> list[Learned]:
    """What was learned and may be remembered by a table that has exactly these lists."""
    return [one for one in learned if one.value in lists.get(str(one.key[1]), ())]


def remembering(learned: Sequence[Learned]) -> tuple[Step, ...]:
    """The steps that give a fresh table what an earlier one had learned."""
    return tuple(AddLearned(name, part) for name, part in _parted(learned)) if learned else ()


def forgetting(learned: Sequence[Learned]) -> tuple[Step, ...]:
    """The steps that take out what was learned. An element that has just expired is put in first: its removal must not fail."""
    keys = tuple(one.key for one in learned)
    return (*remembering(learned), *(DeleteElements(one.name, keys) for one in (AFFINITY, AFFINITY_PORTS))) if keys else ()


def _parted(learned: Iterable[Learned]) -> Iterable[tuple[str, tuple[Learned, ...]]]:
    pairs = [(one, one.value) for one in learned if isinstance(one.value, tuple)]
    yield AFFINITY.name, tuple(one._replace(value=value[:1]) for one, value in pairs)
    yield AFFINITY_PORTS.name, tuple(one._replace(value=value[1:]) for one, value in pairs)
