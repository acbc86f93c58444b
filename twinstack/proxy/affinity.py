"""Session affinity: which endpoints a front end's clients may be remembered with, and what of the learned is no longer true.

Rule of this file: it is pure. Who learns stands in ``ruleset``, who reads and deletes in ``sync``.

Theory. The kernel's rules learn (client, front end) → endpoint by themselves, and forget by themselves after the
timeout. What they cannot know is that an endpoint has gone, or that a front end has no affinity any more; then the
proxy reads what was learned, and takes out what is no longer allowed, in the very transaction that takes the
endpoint out. It reads only when a front end with affinity has lost an endpoint; nothing else of a Service's life
makes an entry wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from twinstack.dataplane.ruleset import AddLearned, DeleteElements, Key, Learned, Step
from twinstack.proxy.ruleset import AFFINITY
from twinstack.proxy.services import Backend, ServicePort

Front = tuple[str, str, int]  # address (empty: a node port), protocol, port
StickyFronts = Mapping[Front, frozenset[Backend]]


def sticky_fronts(ports: Iterable[ServicePort]) -> StickyFronts:
    """The front ends with affinity, and who may serve them."""
    found: dict[Front, frozenset[Backend]] = {}
    for port in ports:
        if port.affinity_seconds:
            found.setdefault((port.address, port.protocol, port.port), frozenset(port.local if port.internal_local else port.cluster))
            outside = frozenset((*port.cluster, *port.local)) if port.external_local else frozenset(port.cluster)
            for address in (*port.externals, *port.balancers):
                found.setdefault((address, port.protocol, port.port), outside)
            if port.node_port:
                found.setdefault(("", port.protocol, port.node_port), outside)
    return found


def poorer(before: StickyFronts, after: StickyFronts) -> dict[Front, frozenset[Backend]]:
    """The front ends that lost an endpoint, or their affinity, and who is left."""
    return {front: after.get(front, frozenset()) for front, backends in before.items() if backends - after.get(front, frozenset())}


def untrue(learned: Iterable[Learned], fronts: StickyFronts) -> list[Learned]:
    """What was learned of these front ends and names an endpoint that may not serve them."""
    return [one for one, allowed in _judged(learned, fronts) if allowed is not None and one.value not in allowed]


def true(learned: Iterable[Learned], fronts: StickyFronts) -> list[Learned]:
    """What was learned and may be remembered by a table that has exactly these front ends."""
    return [one for one, allowed in _judged(learned, fronts) if allowed is not None and one.value in allowed]


def remembering(learned: Sequence[Learned]) -> tuple[Step, ...]:
    """The steps that give a fresh table what an earlier one had learned."""
    return (AddLearned(AFFINITY.name, tuple(learned)),) if learned else ()


def forgetting(learned: Sequence[Learned]) -> tuple[Step, ...]:
    """The steps that take out what was learned. An element that has just expired is put in first: its removal must not fail."""
    keys: tuple[Key, ...] = tuple(one.key for one in learned)
    return (AddLearned(AFFINITY.name, tuple(learned)), DeleteElements(AFFINITY.name, keys)) if keys else ()


def _judged(learned: Iterable[Learned], fronts: StickyFronts) -> Iterator[tuple[Learned, frozenset[Backend] | None]]:
    """Each with who may serve its front end; None when that is none of these."""
    for one in learned:
        _, address, protocol, port = one.key
        front = (str(address), str(protocol), int(port))
        yield one, fronts.get(front, fronts.get(("", *front[1:])))
