"""What a host's network ought to hold besides rules: links, addresses, routes and kernel parameters, as values.

Rule of this file: a value says what is wanted, and nothing about how it comes to be. :func:`difference` turns
what is there and what is wanted into steps in an order that the kernel accepts; ``kernel.netlink`` performs them.

Theory. *Observed means ours*: whoever reads a kernel gives :func:`difference` only what belongs to us (routes
with our protocol number, links with our prefix), so that what is not wanted any more can be removed without
asking further. Kernel parameters come first, because ``conf/default`` is copied when a link is born and
duplicate address detection begins when it comes up. Then what is gone leaves from the top of the pile down
(routes, addresses, links), and what is new arrives from the bottom up. A parameter is never un-set: there is
no value to go back to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from twinstack.net.family import Address as IPAddress
from twinstack.net.family import Family, Network

# Our numbers among the origins of routes (``ip route … proto 84``): a node's routes to the pods of other nodes, and the
# network plugin's routes to the pods here. Each belongs to one program, which removes what it does not want under it.
ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL = 84, 85
STATIC_PROTOCOL = 4  # RTPROT_STATIC: an administrator's

Scope = Literal["global", "link", "host"]


class Link(NamedTuple):
    """A network interface. What is empty or zero is left as it is, or to the kernel."""

    name: str
    kind: str = ""  # veth, bridge; empty for one that somebody else makes (lo, eth0)
    up: bool = True
    mac: str = ""
    mtu: int = 0
    master: str = ""  # name of the bridge that it is a port of
    number: int = 0  # wanted interface index of a new one
    peer: str = ""  # of a new veth: name of the other end, in the same namespace


class Address(NamedTuple):
    """An address on an interface, usable at once: no duplicate address detection."""

    link: str
    address: IPAddress
    prefix: int
    scope: Scope = "global"


class Route(NamedTuple):
    """Where packets for a destination go: to a gateway, or to neighbours on the link itself.

    ``metric`` 0 is the kernel's default for the family. ``source`` is the address that our own packets prefer.
    """

    destination: Network
    link: str = ""
    gateway: IPAddress | None = None
    source: IPAddress | None = None
    metric: int = 0
    onlink: bool = False  # take the gateway for a neighbour even where no address says so

    @property
    def family(self) -> Family:
        return Family.of(self.destination)


class Sysctl(NamedTuple):
    """A kernel parameter, by its path below /proc/sys such as ``net/ipv4/ip_forward``."""

    key: str
    value: str


Value = Link | Address | Route | Sysctl


class Step(NamedTuple):
    """One change. ``add`` of a route replaces one with the same destination and metric; ``change`` is of links only."""

    verb: Literal["add", "change", "remove"]
    value: Value

    def __str__(self) -> str:
        return f"{self.verb} {text_of(self.value)}"


def text_of(value: Value) -> str:
    """The value in the words of ``ip`` and ``sysctl``."""
    match value:
        case Link():
            words = [f"link {value.name}"]
            words += [f"type {value.kind}"] if value.kind else []
            words += [f"{key} {getattr(value, key)}" for key in ("number", "mac", "mtu", "master", "peer") if getattr(value, key)]
            return " ".join([*words, "up" if value.up else "down"])
        case Address():
            return f"address {value.address}/{value.prefix} dev {value.link}" + (f" scope {value.scope}" if value.scope != "global" else "")
        case Route():
            words = [f"route {value.destination}"]
            words += [f"via {value.gateway}"] if value.gateway else []
            words += [f"dev {value.link}"] if value.link else []
            words += [f"src {value.source}"] if value.source else []
            words += [f"metric {value.metric}"] if value.metric else []
            words += ["onlink"] if value.onlink else []
            return " ".join(words)
        case Sysctl():
            return f"sysctl {value.key} = {value.value}"


def difference(observed: Iterable[Value], wanted: Iterable[Value]) -> list[Step]:
    """The steps from what is observed to what is wanted; none when they agree.

    A wanted value that leaves something open (a MAC address, a metric) agrees with any observed one.
    """
    have, want = list(observed), list(wanted)
    return [
        *_sysctls(have, want),
        *(Step("remove", route) for route in _routes(have, want)),
        *(Step("remove", address) for address in _of(Address, have) if address not in set(_of(Address, want))),
        *_links(have, want),
        *(Step("add", address) for address in _of(Address, want) if address not in set(_of(Address, have))),
        *(Step("add", route) for route in _routes(want, have)),
    ]


def _of(kind: type, values: Iterable[Value]) -> list[Value]:
    return list(dict.fromkeys(value for value in values if isinstance(value, kind)))


def _sysctls(have: list[Value], want: list[Value]) -> Iterable[Step]:
    known = set(_of(Sysctl, have))
    return (Step("add", value) for value in _of(Sysctl, want) if value not in known)


def _routes(some: list[Value], others: list[Value]) -> Iterable[Route]:
    """The routes among some that have no equal among the others."""
    known = {_settled(route) for route in others if isinstance(route, Route)}
    return (route for route in some if isinstance(route, Route) and _settled(route) not in known)


def _settled(route: Route) -> Route:
    """The route as the kernel reports it: its default metric filled in, flags that only guide its making left out."""
    return route._replace(metric=route.metric or route.family.facts.route_metric, onlink=False)


def _links(have: list[Value], want: list[Value]) -> Iterable[Step]:
    before = {link.name: link for link in have if isinstance(link, Link)}
    after = {link.name: link for link in want if isinstance(link, Link)}
    born_with = {link.peer for link in after.values() if link.peer and link.name not in before}
    for name, link in before.items():
        if name not in after and link.kind:
            yield Step("remove", link)
    for name, link in after.items():
        old = before.get(name)
        if old is not None and link.kind and old.kind != link.kind:
            yield Step("remove", old)
            old = None
        if old is None and link.kind and name not in born_with:
            yield Step("add", link)
        elif old is None or any(getattr(link, key) not in ("", 0, getattr(old, key)) for key in ("mac", "mtu", "master")) or link.up != old.up:
            yield Step("change", link)
