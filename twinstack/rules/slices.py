"""How the endpoints of a Service are packed into slices with few writes.

Rule of this file: slices that stand and endpoints that are wanted in, a plan out. It neither knows pods nor Services.

Theory. Every slice that is written goes to every node, so the plan writes few of them rather than packing them well:

1. A slice keeps those of its endpoints that are still wanted. It is deleted when none is left, written when any
   changed or left, and otherwise not touched.
2. What is new goes first into slices that are written anyway, the fullest first.
3. What then is left goes, if it is less than a slice, into the untouched slice that it fills best; else into new ones.
   Nothing is ever rebalanced.
4. A family always has a slice: an empty one without ports, when there is nothing to put in.
5. A slice that would be deleted beside one that would be made is written over instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from twinstack.api.kinds import Endpoint, EndpointSlice
from twinstack.rules.endpoints import PortKey, Ports, key_of_ports

Identity = tuple[tuple[str, ...], str, str, str]
"""What makes two endpoints the same one: addresses, hostname, the pod's namespace and name."""


class Group(NamedTuple):
    """What pods that resolve to the same ports have: the ports, and the endpoints by identity."""

    ports: Ports
    endpoints: dict[Identity, Endpoint]


class Content(NamedTuple):
    """What a slice is to hold; *changed* are those of its endpoints that are new in it or differ from before."""

    ports: Ports
    endpoints: list[Endpoint]
    changed: list[Endpoint]


class Plan(NamedTuple):
    """The writes of one family of one Service."""

    create: list[Content]
    update: list[tuple[EndpointSlice, Content]]
    delete: list[EndpointSlice]


def identity_of(endpoint: Endpoint) -> Identity:
    """What the endpoint is recognised by."""
    addresses, target = endpoint.addresses, endpoint.targetRef
    texts = tuple(addresses) if len(addresses) < 2 else tuple(sorted(addresses))
    return texts, endpoint.hostname or "", target.namespace if target else "", target.name if target else ""


def plan_slices(
    existing: Sequence[EndpointSlice],
    groups: Mapping[PortKey, Group],
    *,
    most: int,
    outdated: Callable[[EndpointSlice], bool],
) -> Plan:
    """The fewest writes after which the slices hold what the groups want.

    *existing* are the slices of one address type that belong to the Service; *outdated* says that a slice has to be
    written whatever it holds (its labels differ); *most* is how many endpoints a slice may hold.
    """
    by_ports: dict[PortKey, list[EndpointSlice]] = {}
    for one in existing:
        by_ports.setdefault(key_of_ports(one.ports), []).append(one)
    create: list[Content] = []
    update: list[tuple[EndpointSlice, Content]] = []
    delete: list[EndpointSlice] = []
    untouched = 0
    for key, group in groups.items():
        pending = _pack(by_ports.pop(key, []), group, most, outdated)
        create += pending.create
        update += pending.update
        delete += pending.delete
        untouched += pending.untouched
    for orphans in by_ports.values():
        delete += orphans
    if not create and not update and not untouched:
        kept = next((one for one in delete if _is_placeholder(one) and not outdated(one)), None)
        if kept is None:
            create.append(Content((), [], []))
        else:
            delete.remove(kept)
    while create and delete:
        update.append((delete.pop(0), create.pop(0)))
    return Plan(create, update, delete)


def _is_placeholder(one: EndpointSlice) -> bool:
    return not one.endpoints and not one.ports


class _Packed(NamedTuple):
    create: list[Content]
    update: list[tuple[EndpointSlice, Content]]
    delete: list[EndpointSlice]
    untouched: int


def _pack(existing: Sequence[EndpointSlice], group: Group, most: int, outdated: Callable[[EndpointSlice], bool]) -> _Packed:
    left = dict(group.endpoints)
    update: list[tuple[EndpointSlice, Content]] = []
    delete: list[EndpointSlice] = []
    calm: list[tuple[EndpointSlice, list[Endpoint]]] = []
    for one in existing:
        kept: list[Endpoint] = []
        changed: list[Endpoint] = []
        before = one.endpoints or []
        for endpoint in before:
            wanted = left.pop(identity_of(endpoint), None)
            if wanted is not None:
                kept.append(wanted)
                if wanted != endpoint:
                    changed.append(wanted)
        too_full = kept[most:]
        if too_full:  # the bound was lowered
            del kept[most:]
            left.update((identity_of(endpoint), endpoint) for endpoint in too_full)
        if before and not kept:
            delete.append(one)
        elif changed or len(kept) != len(before) or outdated(one):
            update.append((one, Content(group.ports, kept, changed)))
        else:
            calm.append((one, kept))
    waiting = list(left.values())
    for _, content in sorted(update, key=lambda pair: -len(pair[1].endpoints)):
        room = max(0, most - len(content.endpoints))
        _move(waiting, content, room)
    create: list[Content] = []
    while waiting:
        fitting = [pair for pair in calm if len(pair[1]) + len(waiting) <= most] if len(waiting) < most else []
        if fitting:
            best = max(fitting, key=lambda pair: len(pair[1]))
            calm.remove(best)
            content = Content(group.ports, list(best[1]), [])
            update.append((best[0], content))
        else:
            content = Content(group.ports, [], [])
            create.append(content)
        _move(waiting, content, most)
    empty = [one for one, kept in calm if not kept]
    hollow = [pair for pair in update if not pair[1].endpoints]
    update = [pair for pair in update if pair[1].endpoints]
    return _Packed(create, update, delete + empty + [one for one, _ in hollow], len(calm) - len(empty))


def _move(waiting: list[Endpoint], content: Content, count: int) -> None:
    moved = waiting[:count]
    del waiting[:count]
    content.endpoints.extend(moved)
    content.changed.extend(moved)
