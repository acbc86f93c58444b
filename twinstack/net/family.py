"""The two address families, and everything in which they differ.

Rule of this file: a fact that is one thing for IPv4 and another for IPv6 stands here, as a field
of :class:`Facts`, and nowhere else. Every other module takes a :class:`Family` as a parameter and
reads the fact; it never asks which family it has.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
U = TypeVar("U")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Facts(NamedTuple):
    """What differs between the twins. Texts are the words of the system named in the comment."""

    version: int  # of the Internet Protocol
    bits: int  # of an address
    socket_family: int  # Linux AF_* number
    nft_family: str  # nftables: table family and payload expression
    nft_address: str  # nftables: set and map key type
    nft_icmp: str  # nftables: the protocol's name of its control messages
    nft_nfproto: str  # nftables: meta nfproto
    nft_ether: str  # nftables: ether type
    hns_balancer_flags: int  # Windows HNS: what tells a load balancer's family
    hns_mac_step: int  # Windows HNS: in which order a remote endpoint's MAC tells the last bytes of its address
    cni_version: str  # CNI before 1.0: ips[].version
    dns_type: str  # DNS record type of an address (RFC 1035, RFC 3596)
    dns_reverse: str  # DNS zone of pointers
    plain: re.Pattern[str]  # what this matches is canonical; of the canonical texts it matches nearly all
    separator: str  # of the parts of an address; no address of the other has it
    unspecified: str
    loopback: str
    loopback_network: str
    everything: str  # the default route's destination
    link_local: str
    link_local_multicast: str
    pod_gateway: str  # next hop of every pod, on the node's end of its link
    node_mask_size: int  # kube-controller-manager's default for --node-cidr-mask-size-*
    node_mask_distance: int  # the most bits a node mask may lie below the cluster CIDR (spec/node.md 1.3)
    default_pod_cidr: str
    default_service_cidr: str
    documentation: str  # an address that nobody has (RFC 5737, RFC 3849); the route to it is the default route
    has_broadcast: bool  # is the last address of a network reserved?
    service_prefix: int  # the shortest prefix from which Service addresses are handed out (spec/api.md 4.7)
    slice_canonical: bool  # must an EndpointSlice's addresses be in canonical form? (spec/api.md 8.4)
    forwarding: str  # sysctl that makes a host forward
    accept_ra: str  # sysctl that lets a link hear routers; empty where they do not speak
    vxlan_local: int  # IFLA_VXLAN_LOCAL*: the attribute of a tunnel's own address
    vxlan_overhead: int  # bytes that a tunnel over this family takes of the MTU (outer IP, UDP, VXLAN, inner Ethernet)
    route_localnet: str  # sysctl that lets a link carry packets from a loopback address; empty where no kernel does that
    hosts_lines: tuple[str, ...]  # what every pod's /etc/hosts begins with (kubelet's managed file)
    route_default_sysctls: tuple[tuple[str, str], ...]  # what a fresh network namespace of ours is set to
    generates_link_local: bool  # does a link give itself an address when it comes up?
    route_metric: int  # the metric that the kernel gives a route that names none
    lab_networks: tuple[
        tuple[str, str, str], ...
    ]  # choices of a lab's underlay, outside and routed network; {0} to {2} are hexadecimal digits of its name's digest
    pod_sysctls: tuple[tuple[str, str], ...]  # what a pod's network namespace is set to before its link is made
    socket_options: tuple[tuple[int, int, int], ...]  # level, option, value: what keeps a socket to its own family
    packet_info: tuple[int, int]  # level, option: have recvmsg tell to which address a datagram came
    neighbour_protocol: str  # by which hosts ask for each other's link-layer address: arp (RFC 826) or ndp (RFC 4861)
    multipath_hash: str  # sysctl: 1 lets a router choose among equal ways by ports, too, so that one client's connections spread
    join_group: int  # the option that joins a multicast group, at the level of socket_options; 0 where nobody needs to


class Family(enum.Enum):
    """One of the twins. Its value is Kubernetes' name of it (``spec.ipFamilies``, ``addressType``)."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    __hash__ = object.__hash__  # members are singletons, and facts are looked up a million times

    @property
    def other(self) -> Family:
        """The twin."""
        return Family.IPV6 if self is Family.IPV4 else Family.IPV4

    @property
    def facts(self) -> Facts:
        return _FACTS[self]

    @property
    def bits(self) -> int:
        return _FACTS[self].bits

    def address(self, number: int) -> Address:
        """The address with this number, 0 to 2**bits - 1."""
        return _CLASSES[self][0](number)

    def network(self, number: int, prefix: int) -> Network:
        """The network with this base number and prefix length; host bits must be zero."""
        return _CLASSES[self][1]((number, prefix))

    @staticmethod
    def of(value: Address | Network) -> Family:
        """The family of an address or network."""
        return _BY_CLASS[type(value)]

    def __repr__(self) -> str:
        return self.value

    def __str__(self) -> str:
        return self.value


FAMILIES: tuple[Family, Family] = (Family.IPV4, Family.IPV6)

_CLASSES: Mapping[Family, tuple[Callable[[int], Address], Callable[[tuple[int, int]], Network]]] = {
    Family.IPV4: (ipaddress.IPv4Address, ipaddress.IPv4Network),
    Family.IPV6: (ipaddress.IPv6Address, ipaddress.IPv6Network),
}
_BY_CLASS: Mapping[type, Family] = {
    ipaddress.IPv4Address: Family.IPV4,
    ipaddress.IPv4Network: Family.IPV4,
    ipaddress.IPv4Interface: Family.IPV4,
    ipaddress.IPv6Address: Family.IPV6,
    ipaddress.IPv6Network: Family.IPV6,
    ipaddress.IPv6Interface: Family.IPV6,
}

_FACTS: Mapping[Family, Facts] = {
    Family.IPV4: Facts(
        version=4,
        bits=32,
        socket_family=2,
        nft_family="ip",
        nft_address="ipv4_addr",
        nft_icmp="icmp",
        nft_nfproto="ipv4",
        nft_ether="ip",
        hns_balancer_flags=0,
        hns_mac_step=1,
        cni_version="4",
        dns_type="A",
        dns_reverse="in-addr.arpa.",
        plain=re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?=\d)|$)){4}", re.ASCII),
        separator=".",
        unspecified="0.0.0.0",
        loopback="127.0.0.1",
        loopback_network="127.0.0.0/8",
        everything="0.0.0.0/0",
        link_local="169.254.0.0/16",
        link_local_multicast="224.0.0.0/24",
        pod_gateway="169.254.1.1",
        node_mask_size=24,
        node_mask_distance=32,
        default_pod_cidr="10.244.0.0/16",
        default_service_cidr="10.96.0.0/16",
        documentation="192.0.2.1",
        has_broadcast=True,
        service_prefix=0,
        slice_canonical=False,
        forwarding="net/ipv4/ip_forward",
        accept_ra="",
        vxlan_local=4,
        vxlan_overhead=50,
        route_localnet="net/ipv4/conf/{0}/route_localnet",
        hosts_lines=("127.0.0.1\tlocalhost",),
        route_default_sysctls=(("net/ipv4/ip_forward", "1"),),
        generates_link_local=False,
        route_metric=0,
        lab_networks=(
            ("172.30.0.0/24", "198.51.100.0/24", "172.30.1.0/24"),
            ("192.168.244.0/24", "203.0.113.0/24", "192.168.245.0/24"),
            ("10.255.244.0/24", "192.0.2.0/24", "10.255.245.0/24"),
        ),
        pod_sysctls=(),
        socket_options=(),
        packet_info=(0, 8),
        neighbour_protocol="arp",
        multipath_hash="net/ipv4/fib_multipath_hash_policy",
        join_group=0,
    ),
    Family.IPV6: Facts(
        version=6,
        bits=128,
        socket_family=10,
        nft_family="ip6",
        nft_address="ipv6_addr",
        nft_icmp="icmpv6",
        nft_nfproto="ipv6",
        nft_ether="ip6",
        hns_balancer_flags=2,
        hns_mac_step=-1,
        cni_version="6",
        dns_type="AAAA",
        dns_reverse="ip6.arpa.",
        plain=re.compile("(?:G:){1,4}(?::G){1,2}|(?:G:){1,3}(?::G){3}|(?:G:){1,2}(?::G){4}|(?:G:){1,5}:".replace("G", "[1-9a-f][0-9a-f]{0,3}")),
        separator=":",
        unspecified="::",
        loopback="::1",
        loopback_network="::1/128",
        everything="::/0",
        link_local="fe80::/10",
        link_local_multicast="ff02::/16",
        pod_gateway="fe80::1",
        node_mask_size=64,
        node_mask_distance=16,
        default_pod_cidr="fd00:10:244::/56",
        default_service_cidr="fd00:10:96::/112",
        documentation="2001:db8::1",
        has_broadcast=False,
        service_prefix=64,
        slice_canonical=True,
        forwarding="net/ipv6/conf/all/forwarding",
        accept_ra="net/ipv6/conf/{0}/accept_ra",
        vxlan_local=17,
        vxlan_overhead=70,
        route_localnet="",
        hosts_lines=(
            "::1\tlocalhost ip6-localhost ip6-loopback",
            "fe00::0\tip6-localnet",
            "fe00::0\tip6-mcastprefix",
            "fe00::1\tip6-allnodes",
            "fe00::2\tip6-allrouters",
        ),
        route_default_sysctls=(
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ),
        generates_link_local=True,
        route_metric=1024,
        lab_networks=(
            ("fd{0}:{1}:{2}::/64", "2001:db8:{0}:{1}::/64", "fd{0}:{1}:{2}:b::/64"),
            ("fd{0}:{1}:{2}:1::/64", "2001:db8:{1}:{2}::/64", "fd{0}:{1}:{2}:c::/64"),
        ),
        pod_sysctls=(
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv6/conf/lo/disable_ipv6", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
        ),
        socket_options=((41, 26, 1),),
        packet_info=(41, 49),
        neighbour_protocol="ndp",
        multipath_hash="net/ipv6/fib_multipath_hash_policy",
        join_group=20,
    ),
}


class ByFamily(Generic[T]):
    """A value for each family that has one, in order: the first is the primary.

    Immutable; ``in``, iteration and ``len`` are over the families, as of a mapping.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[Family, T] | Iterable[tuple[Family, T]] = ()) -> None:
        self._values: dict[Family, T] = dict(values)

    @staticmethod
    def of(values: Iterable[U]) -> ByFamily[U]:
        """Addresses or networks by their own family; ValueError when two share one."""
        result: dict[Family, U] = {}
        for value in values:
            family = Family.of(value)  # type: ignore[arg-type]
            if family in result:
                raise ValueError(f"{value} and {result[family]} are both {family}")
            result[family] = value
        return ByFamily(result)

    @property
    def primary(self) -> Family:
        return next(iter(self._values))

    def __getitem__(self, family: Family) -> T:
        return self._values[family]

    def get(self, family: Family) -> T | None:
        return self._values.get(family)

    def items(self) -> Iterable[tuple[Family, T]]:
        return self._values.items()

    def values(self) -> Iterable[T]:
        return self._values.values()

    def map(self, function: Callable[[Family, T], U]) -> ByFamily[U]:
        return ByFamily((family, function(family, value)) for family, value in self._values.items())

    def __contains__(self, family: object) -> bool:
        return family in self._values

    def __iter__(self) -> Iterator[Family]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByFamily) and list(self._values.items()) == list(other._values.items())

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return "ByFamily(" + ", ".join(f"{family}: {value!r}" for family, value in self._values.items()) + ")"
