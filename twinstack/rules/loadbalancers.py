"""Which addresses a load balancer's Service has: what it asks for, what others hold, and what the pools have, to a decision.

Rule of this file: facts in, a decision with its reasons out; nothing is remembered. What a Service holds stands in its status.

Theory. Each family is decided alone, from the first reason that applies:

    asked for by name, and free          this address
    held, in a pool, and nobody else's   the same as before: what works is never moved
    somebody shares one with us          the address of that Service
    else                                 the lowest that is free in the pools

What is asked for and cannot be had changes nothing: a Service keeps what it holds, as long as that is in any pool.
RequireDualStack is the one rule across families: a Service that holds nothing gets both or waits. Any other has what there is,
and what is missing is given when a pool has room. Of two that hold one address and may not share it, the older keeps it.

Two Services share an address when both name the same key by annotation, their ports are disjoint, and the same nodes may
answer for both: neither has externalTrafficPolicy Local, or both have, and select the same pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from twinstack.api.kinds import Service
from twinstack.api.objects import Key
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import Address, ByFamily, Family
from twinstack.rules.balancer_pools import AddressPool, next_free

CLASS = "twinstack.dev/load-balancer"
FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
ADDRESSES = "twinstack.dev/load-balancer-ips"  # one address of each family, separated by a comma
POOL = "twinstack.dev/load-balancer-pool"  # the name of the pool to be served from
SHARING = "twinstack.dev/load-balancer-sharing-key"  # who has the same may have the same address


class Claim(NamedTuple):
    """What a Service asks for and what it holds."""

    key: Key
    age: str = ""  # its time of creation: of two, the lesser is the older
    families: tuple[Family, ...] = ()
    both: bool = False  # RequireDualStack
    named: ByFamily[Address] = ByFamily()
    pool: str = ""
    sharing: str = ""
    ports: frozenset[tuple[str, int]] = frozenset()
    local: bool = False
    selector: frozenset[tuple[str, str]] = frozenset()
    held: tuple[Address, ...] = ()
    problems: tuple[str, ...] = ()  # with what it asks for: it gets nothing new until they are gone


class Assignment(NamedTuple):
    """The addresses that a Service has, in the order of its families, and why it has not all."""

    addresses: tuple[Address, ...]
    missing: tuple[str, ...] = ()


def is_ours(service: Service) -> bool:
    """Whether we serve a Service: it wants a load balancer of no class or of ours, and is not on its way out."""
    spec = service.spec
    return spec.type == "LoadBalancer" and spec.loadBalancerClass in (None, CLASS) and service.metadata.deletionTimestamp is None


def held_by(service: Service) -> tuple[Address, ...]:
    """The addresses in a Service's status; what is no address is none."""
    return tuple(_addresses(one.ip for one in service.status.loadBalancer.ingress or ()))


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    for text in texts:
        try:
            yield parse_address(text)
        except AddressError:
            continue  # a host name, or what another implementation wrote


def claim_of(service: Service) -> Claim:
    """What a Service asks for."""
    spec, annotations = service.spec, service.annotations
    problems: list[str] = []
    named = _named(service, problems)
    families = tuple(Family(text) for text in spec.ipFamilies) or tuple(map(Family.of, _addresses(spec.clusterIPs)))
    for family, address in named.items():
        if family not in families:
            problems.append(f"it asks for {address}, but is not of {family}")
    return Claim(
        key=Key(service.metadata.namespace, service.metadata.name),
        age=service.metadata.creationTimestamp or "",
        families=families,
        both=spec.ipFamilyPolicy == "RequireDualStack",
        named=named,
        pool=annotations.get(POOL, ""),
        sharing=annotations.get(SHARING, ""),
        ports=frozenset((port.protocol, port.port) for port in spec.ports),
        local=spec.externalTrafficPolicy == "Local",
        selector=frozenset((spec.selector or {}).items()),
        held=held_by(service),
        problems=tuple(problems),
    )


def _named(service: Service, problems: list[str]) -> ByFamily[Address]:
    """The addresses asked for; the annotation goes before the older field."""
    found: dict[Family, Address] = {}
    places = [(f"annotation {ADDRESSES}", service.annotations.get(ADDRESSES, "").split(","))]
    places.append(("spec.loadBalancerIP", [] if any(map(str.strip, places[0][1])) else [service.spec.loadBalancerIP]))
    for place, texts in places:
        for text in filter(None, map(str.strip, texts)):
            try:
                address = parse_address(text)
            except AddressError as error:
                problems.append(f"{place}: {error}")
                continue
            if Family.of(address) in found:
                problems.append(f"{place}: {found[Family.of(address)]} and {address} are both {Family.of(address)}; one of each family is the most")
            else:
                found[Family.of(address)] = address
    return ByFamily(found)


def may_share(one: Claim, other: Claim) -> bool:
    """Whether two Services may have the same address."""
    if not one.sharing or one.sharing != other.sharing or one.ports & other.ports:
        return False
    return not (one.local or other.local) or (one.local and other.local and bool(one.selector) and one.selector == other.selector)


def assign(claim: Claim, others: Iterable[Claim], pools: Sequence[AddressPool]) -> Assignment:
    """What a Service has of these pools, beside what the others hold."""
    holders: dict[Address, list[Claim]] = {}
    for other in others:
        if other.key != claim.key:
            for address in other.held:
                holders.setdefault(address, []).append(other)
    known = [pool for pool in pools if pool.name == claim.pool] if claim.pool else list(pools)
    chosen: dict[Family, Address] = {}
    kept: dict[Family, Address] = {}
    missing = list(claim.problems)
    if claim.pool and not known:
        missing.append(f"there is no pool {claim.pool}")
    hindered = bool(missing)
    for family in claim.families:
        held = next((address for address in claim.held if Family.of(address) is family), None)
        if held is not None and not _hindrance(claim, held, holders, pools, before=True):
            kept[family] = held
        named = claim.named.get(family)
        if named is not None and named != kept.get(family) and not hindered:
            why = _hindrance(claim, named, holders, known)
            if not why:
                chosen[family] = named
                continue
            missing.append(why)
        if family in kept and (named is not None or hindered or any(pool.holds(kept[family]) for pool in known)):
            chosen[family] = kept[family]
        elif named is None and not hindered:
            found = _shared(claim, family, holders, known) or next_free(_open(known, claim), family, holders)
            if found is None:
                missing.append(_emptiness(family, _open(known, claim)))
                found = kept.get(family)  # of another pool than it asks for by now
            if found is not None:
                chosen[family] = found
    if claim.both and not kept and len(chosen) < 2:
        chosen = {}
    return Assignment(tuple(chosen[family] for family in claim.families if family in chosen), tuple(missing))


def _open(pools: Iterable[AddressPool], claim: Claim) -> list[AddressPool]:
    """The pools that are drawn from without an address being named."""
    return [pool for pool in pools if pool.automatic or pool.name == claim.pool]


def _hindrance(claim: Claim, address: Address, holders: Mapping[Address, Sequence[Claim]], pools: Sequence[AddressPool], *, before: bool = False) -> str:
    """Why an address cannot be had, or *before*: kept; empty when it can."""
    if not any(pool.holds(address) for pool in pools):
        return f"{address} is in no pool" if not claim.pool else f"{address} is not in pool {claim.pool}"
    for other in holders.get(address, ()):
        if not may_share(claim, other) and not (before and (claim.age, claim.key) < (other.age, other.key)):
            return f"{address} is held by {other.key}"
    return ""


def _shared(claim: Claim, family: Family, holders: Mapping[Address, Sequence[Claim]], pools: Sequence[AddressPool]) -> Address | None:
    """The lowest address of somebody who shares."""
    if not claim.sharing:
        return None
    found = [address for address in holders if Family.of(address) is family and not _hindrance(claim, address, holders, pools)]
    return min(found, key=int, default=None)


def _emptiness(family: Family, pools: Sequence[AddressPool]) -> str:
    """That no address of a family is left, and in which pools."""
    sizes = [(pool.name, pool.size(family)) for pool in pools if pool.size(family)]
    if not sizes:
        names = ", ".join(pool.name for pool in pools)
        return f"no {family} address is in {'pool ' + names if len(pools) == 1 else 'any of the pools ' + names if pools else 'any pool, as there is none'}"
    told = ", ".join(f"{name} (all {size} are taken)" for name, size in sizes)
    return f"no {family} address is left in pool{'s' if len(sizes) > 1 else ''} {told}"


def assign_all(claims: Iterable[Claim], pools: Sequence[AddressPool]) -> dict[Key, Assignment]:
    """What every Service has when each was decided until nothing changes, by age: for dry runs and tables."""
    now = {claim.key: claim for claim in sorted(claims, key=lambda claim: (claim.age, claim.key))}
    found: dict[Key, Assignment] = {}
    for _ in range(len(now) + 1):
        before = dict(now)
        for key, claim in list(now.items()):
            found[key] = assign(now[key], now.values(), pools)
            now[key] = claim._replace(held=found[key].addresses)
        if now == before:
            break
    return found
