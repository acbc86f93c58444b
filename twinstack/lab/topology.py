"""What a cluster on one machine is made of: its families, networks, nodes and their addresses.

Rule of this file: texts in, a :class:`Topology` or every problem out; nothing is touched.

Theory. Nodes hang on an underlay of both families, a bridge and router named *fabric*, whatever families the
cluster has: a cluster is single-stack because of its CIDRs and node addresses, not for want of wires. *Outside* hangs
behind the fabric on networks of its own and knows no pod and no Service; what reaches it from a pod has been
masqueraded, and what it sends to a node port comes from off the cluster. Load balancers' addresses are an eighth of the underlay,
or, when routers are told of them by BGP, networks of their own that only the fabric knows the way to. The IPv6 underlay is a unique local prefix
(RFC 4193) computed from the cluster's name; networks that would overlap with the user's make way for a second choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from twinstack.net.cidr import block, nth, overlap, overlaps, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Address, ByFamily, Family, Network
from twinstack.rules.balancer_pools import BGP, LINK
from twinstack.rules.nodeipam import BlockRange, Problem, mask_flag, plan_ranges

MOST_NODES = 100
SERVICE_BITS = 20  # the most bits that a Service range may leave to its addresses (upstream's limit for bitmaps)
_NAME_LIMIT = 32
NETWORKS = ("direct", "vxlan")
_FIRST_NODE = 11  # number of the first node's address on the underlay


class Request(NamedTuple):
    """What somebody asks for, as texts of flags; empty or 0 where nothing is said."""

    name: str = "twinstack"
    families: str = ""
    nodes: int = 3
    pod_cidr: str = ""
    service_cidr: str = ""
    masks: Mapping[Family, int] = {}
    port: int = 0
    network: str = "direct"  # between nodes: direct or vxlan
    vxlan_underlay: str = ""  # the family that carries the tunnel
    no_masquerade: str = ""  # families whose pods reach outside under their own addresses
    announce: str = LINK  # how load balancers' addresses are made known: l2 or bgp
    dns_forward: str = ""  # resolvers for names that are not the cluster's, ADDRESS or ADDRESS:PORT
    dns_hide_dead_families: bool = False
    gone: tuple[int, ...] = ()  # the numbers of nodes that have left


class Node(NamedTuple):
    """A node, or another machine on the underlay, with an address of each family that the underlay has.

    A node keeps its number, and with it name and addresses, while others come and go; other machines have 0.
    """

    name: str
    addresses: ByFamily[Address]
    number: int = 0


class Topology(NamedTuple):
    """A validated cluster."""

    name: str
    families: tuple[Family, ...]
    pod_cidrs: ByFamily[Network]
    service_cidrs: ByFamily[Network]
    masks: ByFamily[int]
    nodes: tuple[Node, ...]
    control_plane: Node
    outside: Node
    underlay: ByFamily[Network]
    outside_networks: ByFamily[Network]
    port: int = 0  # on the host's loopback, for the user's kubectl; 0: any that is free
    network: str = "direct"
    vxlan_underlay: Family | None = None  # None: the primary family
    unmasqueraded: tuple[Family, ...] = ()  # families whose pods reach outside under their own addresses, which the fabric routes back
    announce: str = LINK
    routed_networks: ByFamily[Network] = ByFamily()  # load balancers' addresses, when the fabric is told of them by BGP
    dns_forward: tuple[str, ...] = ()  # whom the cluster's DNS asks for other names
    dns_hide_dead_families: bool = False

    @property
    def context(self) -> str:
        """The name of the kubeconfig's context."""
        return context_of(self.name)

    def address_of(self, node: Node) -> Address:
        """The node's address of the primary family."""
        return node.addresses[self.families[0]]

    def node_addresses(self, node: Node) -> tuple[Address, ...]:
        """The node's addresses of the cluster's families, primary first."""
        return tuple(node.addresses[family] for family in self.families)


def context_of(name: str) -> str:
    """The kubeconfig context of a cluster."""
    return f"twinstack-{name}"


def plan(request: Request) -> Topology | list[Problem]:
    """The cluster that was asked for, or everything that forbids it."""
    problems = [*problems_with_name(request.name), *_problems_with_numbers(request)]
    families, wrong = _families(request)
    pods, bad_pods = _networks("pod-cidr", request.pod_cidr, families, {family: family.facts.default_pod_cidr for family in families})
    services, bad_services = _networks("service-cidr", request.service_cidr, families, {family: family.facts.default_service_cidr for family in families})
    underlay_family, bad_network = _network_between(request)
    unmasqueraded, bad_egress = _unmasqueraded(request, families)
    problems += [*wrong, *bad_pods, *bad_services, *bad_network, *bad_egress, *_problems_with_announcing(request), *_problems_with_resolvers(request)]
    if problems:
        return problems
    ranges = plan_ranges(tuple(pods.values()), mask_sizes=request.masks, flag="pod-cidr")
    if isinstance(ranges, list):
        return ranges
    problems += [*_problems_with_room(ranges, request.nodes - len(request.gone)), *_problems_with_services(services), *_problems_between(pods, services)]
    if problems:
        return problems
    taken = [*pods.values(), *services.values()]
    underlay, outside_networks, routed = _lab_networks(request.name, taken)
    if len(underlay) < len(FAMILIES):
        return [Problem("pod-cidr", request.pod_cidr, "with the Service CIDRs it leaves no network for the nodes; take smaller ones")]
    return Topology(
        name=request.name,
        families=families,
        pod_cidrs=pods,
        service_cidrs=services,
        masks=ByFamily((Family.of(one.cluster), one.prefix) for one in ranges),
        nodes=tuple(
            _machine(f"node{number}", underlay, _FIRST_NODE + number - 1)._replace(number=number)
            for number in range(1, request.nodes + 1)
            if number not in request.gone
        ),
        control_plane=_machine("control-plane", halves(underlay, 1), 2),
        outside=_machine("outside", outside_networks, 2),
        underlay=underlay,
        outside_networks=outside_networks,
        port=request.port,
        network=request.network,
        vxlan_underlay=underlay_family,
        unmasqueraded=unmasqueraded,
        announce=request.announce,
        routed_networks=routed,
        dns_forward=_resolvers(request),
        dns_hide_dead_families=request.dns_hide_dead_families,
    )


def _machine(name: str, networks: ByFamily[Network], number: int) -> Node:
    return Node(name, networks.map(lambda _, network: nth(network, number)))


def halves(networks: ByFamily[Network], number: int) -> ByFamily[Network]:
    """The lower (0) or upper (1) half of each network: nodes live in the underlay's lower half, the control plane in the upper.

    So a pod's address may be kept on its way to nodes, which know the way back, and not on its way to the control
    plane, which does not.
    """
    return networks.map(lambda _, network: block(network, network.prefixlen + 1, number))


def balancers(topology: Topology) -> tuple[Network, ...]:
    """Where load balancers' addresses come from, of each family of the cluster: an eighth of the underlay, beside the control plane, or by BGP elsewhere."""
    if topology.announce == BGP:
        return tuple(topology.routed_networks[family] for family in topology.families)
    return tuple(block(topology.underlay[family], topology.underlay[family].prefixlen + 3, 6) for family in topology.families)


def router(networks: ByFamily[Network]) -> ByFamily[Address]:
    """The fabric's addresses on networks: each one's first."""
    return networks.map(lambda _, network: nth(network, 1))


# ---- Checks, each about one thing


def problems_with_name(name: str) -> Iterable[Problem]:
    """What is wrong with a cluster's name; it becomes part of paths and of namespaces' names."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name.lower()).strip("-")[:_NAME_LIMIT].strip("-")
    if not name or name != plain or not name[0].isalpha():
        suggestion = plain if plain[:1].isalpha() else f"c{plain}"
        detail = f"a name is 1 to {_NAME_LIMIT} lower-case letters, digits and '-', begins with a letter and does not end in '-'"
        yield Problem("name", name, detail, suggestion[:_NAME_LIMIT])


def _problems_with_numbers(request: Request) -> Iterable[Problem]:
    if not 1 <= request.nodes <= MOST_NODES:
        yield Problem("nodes", str(request.nodes), f"1 to {MOST_NODES} nodes can be had", str(min(max(request.nodes, 1), MOST_NODES)))
    if not 0 <= request.port <= 65535:
        yield Problem("port", str(request.port), "a port is a number up to 65535; 0 takes any that is free", "0")


def _network_between(request: Request) -> tuple[Family | None, list[Problem]]:
    """The underlay's family, and what is wrong with how nodes are to be joined."""
    if request.network not in NETWORKS:
        return None, [Problem("network", request.network, f"is one of {' and '.join(NETWORKS)}", NETWORKS[0])]
    if not request.vxlan_underlay:
        return None, []
    known = {family.value.lower(): family for family in FAMILIES}
    family = known.get(request.vxlan_underlay.strip().lower())
    if family is None:
        return None, [Problem("vxlan-underlay", request.vxlan_underlay, "is one of IPv4 and IPv6", "IPv4")]
    if request.network != "vxlan":
        return None, [Problem("vxlan-underlay", request.vxlan_underlay, f"means nothing with --network {request.network}", "--network vxlan")]
    return family, []


def _problems_with_announcing(request: Request) -> Iterable[Problem]:
    if request.announce not in (LINK, BGP):
        yield Problem("announce", request.announce, f"is one of {LINK} (ARP and neighbour discovery) and {BGP}", LINK)


def _problems_with_resolvers(request: Request) -> Iterable[Problem]:
    from twinstack.dns.settings import SettingsError, parse_upstream  # Heavy: the kinds.

    for word in _resolvers(request):
        try:
            parse_upstream(word)
        except SettingsError as error:
            yield Problem("dns-forward", word, str(error).partition(" is ")[2] and "is " + str(error).partition(" is ")[2])


def _resolvers(request: Request) -> tuple[str, ...]:
    """Whom other names are asked of; ``none`` is the same as nothing said."""
    found = _words(request.dns_forward)
    return () if found == ("none",) else found


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _unmasqueraded(request: Request, families: Sequence[Family]) -> tuple[tuple[Family, ...], list[Problem]]:
    known = {family.value.lower(): family for family in families}
    words = [word.strip().lower() for word in request.no_masquerade.split(",") if word.strip()]
    if wrong := [word for word in words if word not in known]:
        return (), [Problem("no-masquerade", request.no_masquerade, f"{wrong[0]!r} is not one of the cluster's families", ",".join(map(str, families)))]
    return tuple(dict.fromkeys(known[word] for word in words)), []


def _families(request: Request) -> tuple[tuple[Family, ...], list[Problem]]:
    """The families asked for; where none are, those of the pod CIDRs, else both."""
    if request.families:
        known = {family.value.lower(): family for family in FAMILIES}
        words = [word.strip() for word in request.families.split(",")]
        found = [known[word.lower()] for word in words if word.lower() in known]
        if len(found) != len(words) or len(set(found)) != len(found):
            suggestion = ",".join(family.value for family in dict.fromkeys(found)) or "IPv4,IPv6"
            return FAMILIES, [Problem("families", request.families, "one or both of IPv4 and IPv6, the primary first, each once", suggestion)]
        return tuple(found), []
    for text in (request.pod_cidr, request.service_cidr):
        told = tuple(dict.fromkeys(Family.of(network) for network in _parsed(text)[0]))
        if told:
            return told, []
    return FAMILIES, []


def _parsed(text: str) -> tuple[list[Network], list[tuple[str, AddressError]]]:
    networks, wrong = [], []
    for part in (part.strip() for part in text.split(",")) if text.strip() else ():
        try:
            networks.append(parse_cidr(part))
        except AddressError as error:
            wrong.append((part, error))
    return networks, wrong


def _networks(flag: str, text: str, families: Sequence[Family], defaults: Mapping[Family, str]) -> tuple[ByFamily[Network], list[Problem]]:
    """The networks of a flag in the order of the families; a family that it leaves out has its default."""
    networks, wrong = _parsed(text)
    problems = [Problem(flag, part, str(error), error.suggestion or ",".join(defaults.values())) for part, error in wrong]
    if problems:
        return ByFamily(), problems
    told = [Family.of(network) for network in networks]
    if len(set(told)) != len(told):
        twice = next(family for family in told if told.count(family) > 1)
        others = [str(network) for network in networks if Family.of(network) is not twice]
        first = next(str(network) for network in networks if Family.of(network) is twice)
        suggestion = ",".join([first, *(others or ([defaults[twice.other]] if twice.other in defaults else []))])
        return ByFamily(), [Problem(flag, text, f"has {told.count(twice)} {twice} CIDRs; one of each family is the most", suggestion)]
    if foreign := [family for family in told if family not in families]:
        kept = [str(network) for network in networks if Family.of(network) in families]
        detail = f"has an {foreign[0]} CIDR, but the cluster's families are {','.join(map(str, families))}"
        return ByFamily(), [Problem(flag, text, detail, ",".join(kept) or ",".join(defaults.values()))]
    given = ByFamily.of(networks)
    if told != [family for family in families if family in told]:
        right = ",".join(str(given[family]) for family in families)
        return ByFamily(), [Problem(flag, text, f"is not in the order of the cluster's families, {','.join(map(str, families))}", right)]
    return ByFamily((family, given.get(family) or parse_cidr(defaults[family])) for family in families), []


def _problems_with_room(ranges: Sequence[BlockRange], nodes: int) -> Iterable[Problem]:
    for one in ranges:
        family = Family.of(one.cluster)
        if family.bits - one.prefix < 2:
            yield Problem(mask_flag(family), str(one.prefix), f"leaves a node fewer than 4 addresses of {family}", str(family.bits - 2))
        elif one.blocks < nodes:
            need = one.cluster.prefixlen + (nodes - 1).bit_length()
            fits = need <= family.bits - 2
            detail = f"divides {one.cluster} of --pod-cidr into {one.blocks} blocks, but there are {nodes} nodes"
            yield Problem(mask_flag(family), str(one.prefix), detail, str(need) if fits else f"--pod-cidr with {family.facts.default_pod_cidr}")


def _problems_with_services(services: ByFamily[Network]) -> Iterable[Problem]:
    for family, network in services.items():
        least = family.bits - SERVICE_BITS
        if network.prefixlen < least or family.bits - network.prefixlen < 3:
            detail = f"a Service range of {family} is /{least} to /{family.bits - 3}"
            wanted = min(max(network.prefixlen, least), family.bits - 3)
            base = int(network.network_address) >> (family.bits - wanted) << (family.bits - wanted)
            yield Problem("service-cidr", str(network), detail, str(family.network(base, wanted)))


def _problems_between(pods: ByFamily[Network], services: ByFamily[Network]) -> Iterable[Problem]:
    named = [(flag, network) for flag, networks in (("pod-cidr", pods), ("service-cidr", services)) for network in networks.values()]
    for (flag, one), (other_flag, other) in overlaps(named):
        family = Family.of(other)
        facts = family.facts
        choices = (facts.default_pod_cidr, facts.default_service_cidr) if other_flag == "pod-cidr" else (facts.default_service_cidr, facts.default_pod_cidr)
        free = next((text for text in choices if not overlap(parse_cidr(text), one)), "")
        yield Problem(other_flag, str(other), f"overlaps with {one} of --{flag}", free)
    for flag, network in named:
        facts = Family.of(network).facts
        for what, text in (("the links to pods", facts.link_local), ("loopback", facts.loopback_network)):
            if overlap(network, parse_cidr(text)):
                suggestion = facts.default_pod_cidr if flag == "pod-cidr" else facts.default_service_cidr
                yield Problem(flag, str(network), f"overlaps with {text}, which is for {what}", suggestion)


def _lab_networks(name: str, taken: Iterable[Network]) -> tuple[ByFamily[Network], ByFamily[Network], ByFamily[Network]]:
    """The underlay, the outside and the routed network of each family: the first choice that overlaps with nothing of the user's."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    words = digest[0:2], f"{int(digest[2:6], 16):x}", f"{int(digest[6:10], 16):x}"
    used = list(taken)
    underlay: dict[Family, Network] = {}
    outside: dict[Family, Network] = {}
    routed: dict[Family, Network] = {}
    for family in FAMILIES:
        for choice in family.facts.lab_networks:
            found = [parse_cidr(text.format(*words)) for text in choice]
            if not any(overlap(network, mine) for network in found for mine in used):
                underlay[family], outside[family], routed[family] = found
                break
    return ByFamily(underlay), ByFamily(outside), ByFamily(routed)
