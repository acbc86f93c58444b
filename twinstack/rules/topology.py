"""Which zone a ready endpoint is meant for, so that traffic stays in its zone without overloading any (topology-aware hints).

Rule of this file: nodes and the endpoints of one family in; a zone for each ready endpoint, or why there are no hints, out.

Theory (KEP-2433). Traffic is taken to come from a zone in proportion to its nodes' CPUs. With *n* ready endpoints a zone
with the share *r* should have *r·n* of them; it must have at least so many that none of its own is asked for 20 % more than its
part, rounded up. When there are too few endpoints for all zones' minima, hints would overload somebody, so there are none.
Otherwise each endpoint is meant for its own zone, and those of zones that have too many are lent to zones that have too few.
What was lent stays lent as long as each zone has its minimum: a hint that moves is a slice that is written.

The families are decided apart, for their endpoints need not be the same: one may have hints and the other not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from twinstack.api.kinds import Endpoint, EndpointSlice, Node, Service, condition_of
from twinstack.rules.endpoints import asked_topology, zone_of
from twinstack.rules.quantities import QuantityError, parse_quantity
from twinstack.rules.slices import Identity, identity_of

_OVERLOAD = Fraction(12, 10)
_CONTROL = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_HALF = Fraction(1, 2)


class Zones(NamedTuple):
    """The share that each zone has of the cluster's CPUs, or why that cannot be told."""

    shares: Mapping[str, Fraction]
    why_not: str = ""


class Hints(NamedTuple):
    """The zone that each ready endpoint is meant for; none, and why."""

    zones: Mapping[Identity, str]
    why_not: str = ""


def asks(service: Service) -> bool:
    """Whether the Service asks for topology-aware hints."""
    return asked_topology(service) in ("Auto", "auto")


def by_asking(service: Service) -> Iterable[bool]:
    """Index: Services that ask."""
    return (True,) if asks(service) else ()


def counted(node: Node) -> tuple[str | None, object] | None:
    """What of a node the shares depend on: its zone and its CPUs; None for one that does not count."""
    condition = condition_of(node.status.conditions, "Ready")
    if condition is None or condition.status != "True" or any(label in node.labels for label in _CONTROL):
        return None
    return zone_of(node), (node.status.allocatable or {}).get("cpu")


def zones_of(nodes: Iterable[Node]) -> Zones:
    """The shares of the zones of all nodes that are ready and are not the control plane's."""
    amounts: dict[str, Fraction] = {}
    for node in nodes:
        facts = counted(node)
        if facts is None:
            continue
        zone, cpu = facts
        try:
            amount = parse_quantity(str(cpu)) if cpu is not None else Fraction(0)
        except QuantityError:
            amount = Fraction(0)
        if not zone or amount <= 0:
            return Zones({}, f"node {node.metadata.name} tells no zone or no allocatable CPU")
        amounts[zone] = amounts.get(zone, Fraction(0)) + amount
    if len(amounts) < 2:
        return Zones({}, f"nodes stand in {len(amounts)} zones, and hints need two")
    total = sum(amounts.values())
    return Zones({zone: amount / total for zone, amount in sorted(amounts.items())})


def present_hints(slices: Iterable[EndpointSlice]) -> dict[Identity, str]:
    """The zone that endpoints in these slices are meant for now."""
    found = {}
    for one in slices:
        for endpoint in one.endpoints or ():
            zones = endpoint.hints.forZones if endpoint.hints else None
            if zones and len(zones) == 1:
                found[identity_of(endpoint)] = zones[0].name
    return found


def hints_for(endpoints: Mapping[Identity, Endpoint], present: Mapping[Identity, str], zones: Zones) -> Hints:
    """The zone that each ready endpoint of a family is meant for; *present* are the hints that stand."""
    if zones.why_not:
        return Hints({}, zones.why_not)
    ready = {identity: one.zone for identity, one in sorted(endpoints.items()) if one.conditions.ready}
    if any(zone is None for zone in ready.values()):
        return Hints({}, "a ready endpoint tells no zone")
    total = len(ready)
    if total < len(zones.shares):
        return Hints({}, f"{total} ready endpoints are too few for {len(zones.shares)} zones")
    desired = {zone: share * total for zone, share in zones.shares.items()}
    least = {zone: math.ceil(amount / _OVERLOAD) for zone, amount in desired.items()}
    if sum(least.values()) > total:
        return Hints({}, f"{total} ready endpoints cannot be shared out without overloading a zone by more than 20 %")
    assigned = {identity: present.get(identity) or zone or "" for identity, zone in ready.items()}
    counts = Counter(assigned.values())
    if counts.keys() <= desired.keys() and all(counts[zone] >= least[zone] for zone in desired):
        return Hints(assigned)
    return Hints(_shared_out({identity: zone or "" for identity, zone in ready.items()}, desired, least))


def _shared_out(own: Mapping[Identity, str], desired: Mapping[str, Fraction], least: Mapping[str, int]) -> dict[Identity, str]:
    """Every endpoint for its own zone, but for those that are lent."""
    held: dict[str, list[Identity]] = {zone: [] for zone in desired}
    for identity, zone in own.items():
        held.setdefault(zone, []).append(identity)  # a zone without counted nodes wants none

    def over(zone: str) -> Fraction:
        return len(held[zone]) - desired.get(zone, Fraction(0))

    def lend(giver: str, receiver: str) -> None:
        held[receiver].append(held[giver].pop())

    while True:
        giver, receiver = max(held, key=lambda zone: (over(zone), zone)), min(desired, key=lambda zone: (over(zone), zone))
        stranded = giver not in desired and bool(held[giver])
        if not stranded and not (over(giver) > _HALF and -over(receiver) > _HALF):
            break
        lend(giver, receiver)
    while poor := next((zone for zone in desired if len(held[zone]) < least[zone]), None):
        rich = (zone for zone in desired if len(held[zone]) > least[zone])
        lend(max(rich, key=lambda zone: (over(zone), zone)), poor)
    for stray in [zone for zone in held if zone not in desired]:
        while held[stray]:
            lend(stray, min(desired, key=lambda zone: (over(zone), zone)))
    return {identity: zone for zone, identities in held.items() for identity in identities}
