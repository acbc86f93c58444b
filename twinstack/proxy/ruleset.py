"""The table that a node's proxy wants: a constant number of rules, and every Service only elements of maps.

Rule of this file: Service ports in, a :class:`~twinstack.dataplane.ruleset.Table` out. It is pure, so the same
value is printed, traced, tested and applied. It never asks which twin it serves: both get the same rules.

Theory. A packet to a front end (address, protocol, port) meets one lookup in a verdict map. The verdict names the
chain that does the rest, and the chain depends only on *counts*, never on the Service:

    pick-3              one of the front end's 3 endpoints, at random (map ``endpoints``, keyed by front end and index)
    mark-pick-3         the same, and masqueraded: for traffic from outside the cluster
    local-2-of-3        externalTrafficPolicy Local: of 2 local endpoints; pods and this node: of all 3
    node-…              the same for node ports, whose front end has no address

So there is one chain for each count, and 100,000 Services of three endpoints share one. The chains up to a capacity
stand from the start: libnftables 1.0.6 refuses a rule that translates by a map ("conflicting protocols") unless
the map's declaration comes in the same script, so a greater count needs the whole table written anew, with room
to spare. What has no
endpoint never gets an address translated, and meets a second verdict map in the filter hooks: refused, or dropped
where a Local policy has endpoints only elsewhere. New connections to a cluster IP's unknown port, or to an address of
the service ranges that no Service has, are refused, too. TCP is refused by a reset and all else by ICMP port
unreachable: upstream uses ICMP for TCP, too, which IPv6 clients hear only at their second try when it comes back
while they still hold the socket, as between namespaces, and not at all where ICMPv6 is filtered.

Hooks, by priority: guard -110 (source ranges, before translation), nat -100 (prerouting, output), filter 0 and nat 100
(postrouting: masquerade).

    | from → to                          | masqueraded                                                     |
    |------------------------------------|-----------------------------------------------------------------|
    | anything → cluster IP              | with --masquerade-all; else if the source is no pod, where known |
    | outside → node port, LB, external  | policy Cluster: yes; Local: no                                  |
    | this node → the same, policy Local | yes                                                             |
    | an endpoint → itself by a Service  | yes (hairpin)                                                   |

Session affinity is asked before a pick, in chains and maps that only a table with such a Service has (``recalling``).

A packet that connection tracking calls invalid is not forwarded: an endpoint's late answer would reach the client
from an address that it never asked. ``--conntrack-tcp-be-liberal`` leaves it to the kernel what is invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import NamedTuple

from twinstack.dataplane.assembly import Assembly, Part
from twinstack.dataplane.ruleset import (
    Chain,
    Dnat,
    Goto,
    Hook,
    Key,
    Lookup,
    Map,
    Mark,
    Marked,
    Masquerade,
    Match,
    Rule,
    Set,
    Table,
    Value,
    Verdict,
)
from twinstack.dataplane.text import interval_text
from twinstack.net.cidr import contains, parse_address, parse_cidr
from twinstack.net.family import Family
from twinstack.proxy import recalling
from twinstack.proxy.fronts import ADDRESSED, ANY_INDEX, BACKEND, FRONT, KNOWN_PROTOCOL, LISTS, NEW, NODE, NODE_FRONT, Kind
from twinstack.proxy.ids import Ids
from twinstack.proxy.services import Backend, ServicePort

TABLE = "twinstack-proxy"

_FROM_HERE = Match(("fib saddr type",), "local")
FIRST_CAPACITY, MORE_CAPACITY = 32, 64

_INNER, _OUTER = "0/", "1/"  # prefixes of owners

REFUSE = "refuse"
_REFUSED = Goto(REFUSE)
_DROPPED = Verdict("drop")
_RETURN = Verdict("return")


class Options(NamedTuple):
    """What the node's operator decided, for one family.

    *pods* recognises a local pod's traffic: a selector and what it must be, such as ``("saddr", "10.244.0.0/16")``.
    *node_ports* says where node ports answer: None on the node's primary addresses (:func:`node_part`), else on
    the node's own addresses in these networks, the loopback excepted. *affinity* is whether this kernel can keep clients
    with their endpoint.
    """

    pods: tuple[str, str] | None = None
    masquerade_all: bool = False
    mark: int = 0x4000
    node_ports: tuple[str, ...] | None = None
    drop_invalid: bool = True
    affinity: bool = True


def service_of(owner: str) -> str:
    """The name that a part's owner was made of; empty for the node's own part."""
    return owner.partition("/")[2]


def capacity_for(most: int) -> int:
    """The capacity of a table whose Service ports have at most so many endpoints."""
    return FIRST_CAPACITY + MORE_CAPACITY * max(0, -(-(most - FIRST_CAPACITY) // MORE_CAPACITY))


class Shape:
    """The rules of one family under given options, and the elements that Service ports are among them.

    *capacity* is the most endpoints that a front end may have, *sticky* whether there may be session affinity, whose
    lists *ids* numbers.
    """

    def __init__(self, family: Family, options: Options, capacity: int = FIRST_CAPACITY, *, sticky: bool = False, ids: Ids | None = None) -> None:
        self.family = family
        self.options = options
        self.capacity = capacity
        self.sticky = sticky
        self.ids = ids or Ids()
        self._chains: dict[str, Chain] = {}
        self._gotos: dict[str, Goto] = {}

    def fitting(self, ports: Iterable[ServicePort]) -> Shape:
        """This shape, or one with room for these ports besides."""
        most, sticky = 0, False
        for port in ports:
            most, sticky = max(most, len(port.cluster), len(port.local)), sticky or port.affinity_seconds > 0
        if most <= self.capacity and sticky <= self.sticky:
            return self
        return Shape(self.family, self.options, max(self.capacity, capacity_for(most)), sticky=self.sticky or sticky, ids=self.ids)

    def with_options(self, options: Options) -> Shape:
        """The same room under other options."""
        return Shape(self.family, options, self.capacity, sticky=self.sticky, ids=self.ids)

    def assembly(self) -> Assembly:
        """The table without any Service."""
        return Assembly(self.family, TABLE, self._frame_chains(), self._frame_sets())

    def table(self, ports: Iterable[ServicePort], *, node_addresses: Iterable[str] = (), service_cidrs: Iterable[str] = ()) -> Table:
        """The whole table for these Service ports, with more capacity where they need it."""
        own = list(ports)
        shape = self.fitting(own)
        assembly = shape.assembly()
        assembly.put("", shape.node_part(node_addresses, service_cidrs))
        for port in own:
            for owner, part in shape.parts(f"{port.name}/{port.protocol}", [port], node_addresses):
                assembly.put(owner, part)
        return assembly.table()

    def node_part(self, addresses: Iterable[str], service_cidrs: Iterable[str]) -> Part:
        """What comes of the node and the cluster: where node ports answer, and which addresses are Services'."""
        elements: dict[tuple[str, Key], Value] = {}
        if self.options.node_ports is None:
            loopback = parse_cidr(self.family.facts.loopback_network)
            elements.update((("node-addresses", (text,)), None) for text in addresses if not contains(loopback, parse_address(text)))
        else:
            elements.update((("node-networks", (text,)), None) for text in self.options.node_ports)
        elements.update((("service-ranges", (text,)), None) for text in service_cidrs)
        return Part(tuple((name, key, value) for (name, key), value in elements.items()))

    def parts(self, name: str, ports: Sequence[ServicePort], node_addresses: Iterable[str] = ()) -> tuple[tuple[str, Part | None], ...]:
        """What a Service's ports want, by owner: (owner, part) for its cluster IP and for all that leads in from outside.

        Two owners, because of those that claim one front end the smaller name wins: whoever gives his Service an
        external address that is somebody else's cluster IP must not get his traffic.
        """
        inner, outer = _PartMaker(self, ()), None
        for port in ports:
            inner.internal(port)
            if port.node_port or port.externals or port.balancers:
                outer = outer or _PartMaker(self, tuple(node_addresses))
                outer.external(port)
        return (f"{_INNER}{name}", inner.part()), (f"{_OUTER}{name}", outer.part() if outer else None)

    def goto(self, name: str) -> Goto:
        """The verdict that leads to a chain; one object each, for thousands of elements hold it."""
        found = self._gotos.get(name)
        if found is None:
            found = self._gotos[name] = Goto(name)
        return found

    def chain(self, name: str, *rules: Rule, hook: Hook | None = None) -> Chain:
        """The chain of this name, made at the first call."""
        found = self._chains.get(name)
        if found is None:
            found = self._chains[name] = Chain(name, rules, hook)
        return found

    def _to_node(self) -> Rule:
        """Matches a packet to an address at which node ports answer."""
        if self.options.node_ports is None:
            return (Match(("daddr",), "@node-addresses"),)
        return (
            Match(("fib daddr type",), "local"),
            Match(("daddr",), interval_text(parse_cidr(self.family.facts.loopback_network)), "!="),
            Match(("daddr",), "@node-networks"),
        )

    def _frame_sets(self) -> list[Set | Map]:
        return [
            Map("endpoints", (*FRONT, ANY_INDEX), BACKEND),
            Map("local-endpoints", (*FRONT, ANY_INDEX), BACKEND),
            Map("node-endpoints", (*NODE_FRONT, ANY_INDEX), BACKEND),
            Map("node-local-endpoints", (*NODE_FRONT, ANY_INDEX), BACKEND),
            Map("services", FRONT, ("verdict",)),
            Map("node-services", NODE_FRONT, ("verdict",)),
            Map("no-endpoints", FRONT, ("verdict",)),
            Map("node-no-endpoints", NODE_FRONT, ("verdict",)),
            Set("cluster-ips", ("daddr",)),
            Set("service-ranges", ("daddr",), ("interval",)),
            Set("node-addresses", ("daddr",)) if self.options.node_ports is None else Set("node-networks", ("daddr",), ("interval",)),
            Set("hairpin", ("saddr", "daddr")),
            Set("guarded", FRONT),
            Set("allowed-sources", ("saddr", *FRONT), ("interval",)),
            *(recalling.sets() if self.sticky else ()),
        ]

    def _frame_chains(self) -> list[Chain]:
        options = self.options
        to_cluster_ip = Match(("daddr",), "@cluster-ips")
        services: list[Rule] = []
        if options.masquerade_all:
            services.append((to_cluster_ip, Mark(options.mark)))
        elif options.pods:
            services.append((to_cluster_ip, Match((options.pods[0],), options.pods[1], "!="), Mark(options.mark)))
        services.append((Lookup(FRONT, "services"),))
        services.append((*self._to_node(), Lookup(NODE_FRONT, "node-services")))
        guard: Rule = (NEW, Match(FRONT, "@guarded"), Match(("saddr", *FRONT), "@allowed-sources", "!="), _DROPPED)
        no_endpoints: Rule = (NEW, Lookup(FRONT, "no-endpoints"))
        node_no_endpoints: Rule = (NEW, *self._to_node(), Lookup(NODE_FRONT, "node-no-endpoints"))
        unknown: tuple[Rule, ...] = (
            (NEW, to_cluster_ip, _REFUSED),
            (NEW, Match(("daddr",), "@service-ranges"), _REFUSED),
        )
        invalid: tuple[Rule, ...] = ((Match(("ct state",), "invalid"), _DROPPED),) if options.drop_invalid else ()
        picks = [_pick(kind, count, local=local) for kind, local in LISTS for count in range(1, self.capacity + 1)]
        return [
            *picks,
            Chain(REFUSE, ((Verdict("reject with tcp reset"),), (Verdict("reject"),))),
            Chain("to-services", tuple(services)),
            Chain("guard-prerouting", (guard,), Hook("filter", "prerouting", -110)),
            Chain("guard-output", (guard,), Hook("filter", "output", -110)),
            Chain("nat-prerouting", ((Goto("to-services", jump=True),),), Hook("nat", "prerouting", -100)),
            Chain("nat-output", ((Goto("to-services", jump=True),),), Hook("nat", "output", -100)),
            Chain("filter-input", (node_no_endpoints, no_endpoints), Hook("filter", "input", 0)),
            Chain("filter-forward", (*invalid, no_endpoints, *unknown), Hook("filter", "forward", 0)),
            Chain("filter-output", (no_endpoints, *unknown), Hook("filter", "output", 0)),
            Chain(
                "nat-postrouting",
                (
                    (Marked(options.mark), Mark(options.mark, on=False), Masquerade()),
                    (Match(("ct status",), "dnat"), Match(("saddr", "daddr"), "@hairpin"), Masquerade()),
                ),
                Hook("nat", "postrouting", 100),
            ),
            *(recalling.chains() if self.sticky else ()),
        ]


def _pick_name(kind: Kind, count: int, *, local: bool = False) -> str:
    return f"{kind.prefix}pick-{'local-' if local else ''}{count}"


def _pick(kind: Kind, count: int, *, local: bool = False) -> Chain:
    """The chain that picks one of so many endpoints of the front end."""
    map_ = kind.local_endpoints if local else kind.endpoints
    return Chain(_pick_name(kind, count, local=local), ((KNOWN_PROTOCOL, Dnat((*kind.front, f"numgen random mod {count}"), map_)),))


class _PartMaker:
    """Collects one Service's elements; of two that say different things about one key the first stands."""

    def __init__(self, shape: Shape, node_addresses: Sequence[str]) -> None:
        self._shape = shape
        self._node_addresses = node_addresses
        self._elements: dict[tuple[str, Key], Value] = {}
        self._chains: dict[str, Chain] = {}

    def part(self) -> Part | None:
        """What was collected; None when it is nothing."""
        if not self._elements:
            return None
        return Part(tuple([(name, key, value) for (name, key), value in self._elements.items()]), tuple(self._chains.values()))

    def internal(self, port: ServicePort) -> None:
        """The cluster IP's front end."""
        put = self._elements.setdefault
        put(("cluster-ips", (port.address,)), None)
        for address in port.here:
            put(("hairpin", (address, address)), None)
        front = (port.address, port.protocol, port.port)
        backends = port.local if port.internal_local else port.cluster
        if backends:
            self._endpoints(ADDRESSED.endpoints, front, backends)
            self._sticky(ADDRESSED, front, port, local=port.internal_local)
            self._verdict(ADDRESSED, front, self._pick(ADDRESSED, len(backends), port))
        else:
            self._missing(ADDRESSED, front, dropped=port.internal_local and port.exists)

    def external(self, port: ServicePort) -> None:
        """The front ends of node ports, external addresses and load balancers."""
        if port.node_port:
            self._external(NODE, (port.protocol, port.node_port), port)
        for address in (*port.externals, *port.balancers):
            self._external(ADDRESSED, (address, port.protocol, port.port), port)
        if port.sources is not None:
            for address in port.balancers:
                self._guard((address, port.protocol, port.port), address, port.sources)

    def _external(self, kind: Kind, front: Key, port: ServicePort) -> None:
        if not port.cluster and not (port.external_local and port.local):
            self._missing(kind, front, dropped=port.external_local and port.exists)
            return
        self._endpoints(kind.endpoints, front, port.cluster)
        self._sticky(kind, front, port, local=False)
        if not port.external_local:
            self._verdict(kind, front, self._marked_pick(kind, len(port.cluster), port))
            return
        self._endpoints(kind.local_endpoints, front, port.local)
        if port.affinity_seconds:
            self._number(kind.ids(local=True), front, port, local=True)
        self._verdict(kind, front, self._local_of(kind, len(port.local), len(port.cluster), port))
        if not port.local:
            self._missing(kind, front, dropped=True)

    def _endpoints(self, map_: str, front: Key, backends: Sequence[Backend]) -> None:
        put = self._elements.setdefault
        for index, backend in enumerate(backends):
            put((map_, (*front, index)), backend)

    def _verdict(self, kind: Kind, front: Key, chain: str) -> None:
        self._elements.setdefault((kind.verdicts, front), self._shape.goto(chain))

    def _missing(self, kind: Kind, front: Key, *, dropped: bool) -> None:
        self._elements.setdefault((kind.verdicts, front), _RETURN)  # the front end is taken all the same
        self._elements.setdefault((kind.missing, front), _DROPPED if dropped else _REFUSED)

    def _guard(self, front: Key, balancer: str, sources: Sequence[str]) -> None:
        self._elements.setdefault(("guarded", front), None)
        networks = [parse_cidr(text) if "/" in text else ip_network(text) for text in sources]
        for text in sources:
            self._elements.setdefault(("allowed-sources", (text, *front)), None)
        # a node that is allowed must reach the balancer's address although that is then its own source
        if any(contains(network, parse_address(own)) for network in networks for own in self._node_addresses) and not any(
            contains(network, parse_address(balancer)) for network in networks
        ):
            self._elements.setdefault(("allowed-sources", (balancer, *front)), None)

    def _need(self, name: str, *rules: Rule) -> str:
        self._chains[name] = self._shape.chain(name, *rules)
        return name

    def _sticky(self, kind: Kind, front: Key, port: ServicePort, *, local: bool) -> None:
        """Learn from connections to the front end, if the port has affinity; *local* says which list it leads to."""
        if port.affinity_seconds:
            learn = recalling.learn_for(port.affinity_seconds)
            self._elements.setdefault((kind.sticky, front), self._shape.goto(self._need(learn.name, *learn.rules)))
            self._number(kind.ids(local=False), front, port, local=local)

    def _number(self, map_: str, front: Key, port: ServicePort, *, local: bool) -> None:
        number = self._shape.ids.of(recalling.list_name(port, local=local))
        self._elements.setdefault((map_, front), (number,))
        for backend in port.local if local else port.cluster:
            self._elements.setdefault((recalling.SERVING.name, (number, *backend)), None)

    def _pick(self, kind: Kind, count: int, port: ServicePort, *, local: bool = False) -> str:
        """The chain that picks; with affinity, one that recalls the client's endpoint first."""
        pick = _pick_name(kind, count, local=local)
        if not port.affinity_seconds:
            return pick
        return self._need(f"sticky-{pick}", (Goto(kind.recall(local=local), jump=True),), (Goto(pick),))

    def _marked_pick(self, kind: Kind, count: int, port: ServicePort) -> str:
        pick = self._pick(kind, count, port)
        return self._need(f"mark-{pick}", (Mark(self._shape.options.mark), Goto(pick)))

    def _local_of(self, kind: Kind, local: int, cluster: int, port: ServicePort) -> str:
        """The chain of externalTrafficPolicy Local."""
        options = self._shape.options
        rules: list[Rule] = []
        if cluster:
            pick = self._pick(kind, cluster, port)
            if options.pods:
                rules.append((Match((options.pods[0],), options.pods[1]), Goto(pick)))
            rules.append((_FROM_HERE, Mark(options.mark), Goto(pick)))
        if local:
            rules.append((Goto(self._pick(kind, local, port, local=True)),))
        return self._need(f"{'sticky-' if port.affinity_seconds else ''}{kind.prefix}local-{local}-of-{cluster}", *rules)
