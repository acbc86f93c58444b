"""The network plugin: gives a pod's namespace one link, and on it one address of each family.

Rule of this file: one function per CNI command, each from a request to an answer; what fails halfway leaves
nothing behind.

Theory. A pod is wired point to point: a veth pair, one end in the pod, the other on the node, no bridge. The
pod sends everything to a gateway that exists on the node's end of every such link (169.254.1.1 and fe80::1,
``Facts.pod_gateway``); the node has one host route per pod address. So every packet of a pod is routed, and
therefore seen by the node's nftables chains, even between two pods of one node; a Service that leads back to
its own client works. The gateway has scope link and the routes to pods have scope global, so that the node speaks to its
pods from a real address of its own: of two addresses that fit, the kernel takes the one of the route's scope or wider,
and a route of scope link would fit the gateway. Each end knows the other's hardware address from the start: a new
address hears neighbour solicitations only when a worker of the kernel has joined its group, and the next one would come a
second later. No address waits for duplicate address detection: there is nobody else on the link.

The names and numbers of both ends are computed from the container and interface, so that DEL finds the link
without anything having been written down; the node's end bears its network as alias, so that GC finds it. The two
interface indexes differ (see ``kernel.netlink``).

Three parts can be played. *Main* plugin: link, addresses (ours, or those of the plugin that ``ipam.type`` names), host ports.
*Chained*, without an ``ipam``: host ports to what an earlier plugin has made. *IPAM* of another main plugin: addresses only.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from twinstack.api import cni
from twinstack.api.cni import Attachment, CNIError, Config, Document, Given
from twinstack.cni import delegation
from twinstack.cni.ipam import Store
from twinstack.cni.thin import ROLE
from twinstack.dataplane.host import POD_ROUTE_PROTOCOL, Route
from twinstack.kernel import forwarding, namespaces
from twinstack.kernel.errors import KernelError
from twinstack.kernel.netlink import Netlink
from twinstack.kernel.tunnels import Neighbour, TunnelNetlink
from twinstack.net.errors import translate
from twinstack.net.family import Address, Family

_KERNEL: Mapping[type[BaseException], Callable[[Any], BaseException]] = {
    KernelError: lambda error: CNIError(cni.KERNEL_REFUSED, "the kernel refused", str(error))
}
Later = Callable[[Callable[[], None]], None]
_POD_NUMBER = 2  # after lo
_HOST_NUMBERS = 1 << 20  # where the node's ends begin; nothing numbers its links so high by itself
_ATTEMPTS = 8


class Request(NamedTuple):
    """What a runtime asks for: the environment, and the configuration as it came."""

    command: str
    who: Attachment
    netns: str
    arguments: str
    data: bytes
    environment: dict[str, str] = {}
    later: Later = lambda work: work()


class Ends(NamedTuple):
    """The names and hardware addresses of a pod's link, computed from who it is for."""

    host_link: str
    host_number: int
    host_mac: str
    mac: str


def ends_of(who: Attachment) -> Ends:
    """The ends of the link of an attachment; always the same."""
    digest = hashlib.sha256(f"{who.container}\n{who.interface}".encode(errors="surrogateescape")).digest()
    number = _HOST_NUMBERS + int.from_bytes(digest[16:19], "big")
    # second-lowest bit of the first octet: locally administered (RFC 7042)
    return Ends(f"ts{digest[:6].hex()}", number, f"02:00:{digest[8:12].hex(':')}", f"02:01:{digest[12:16].hex(':')}")


def request_of(environment: Mapping[str, str], data: bytes, later: Later | None = None) -> Request:
    """The request that a runtime makes; CNIError 4 when the environment is not as the specification has it."""
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CNIError(cni.BAD_ENVIRONMENT, f"CNI_COMMAND {command!r} is unknown", f"commands: {', '.join(COMMANDS)}")
    container, interface, netns = (environment.get(name, "") for name in ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"))
    if command in ("ADD", "CHECK", "DEL"):
        if not cni.is_identifier(container):
            raise CNIError(cni.BAD_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is not a container's id")
        if not cni.is_interface_name(interface):
            raise CNIError(cni.BAD_ENVIRONMENT, f"CNI_IFNAME {interface!r} is not an interface's name")
        if command != "DEL" and not netns:
            raise CNIError(cni.BAD_ENVIRONMENT, "CNI_NETNS is missing")
    who, variables = Attachment(container, interface), dict(environment)
    return Request(command, who, netns, environment.get("CNI_ARGS", ""), data, variables, later or (lambda work: work()))


def respond(environment: Mapping[str, str], data: bytes, netns: int | None = None, *, later: Later | None = None) -> tuple[int, bytes]:
    """A runtime's request in, exit status and stdout out. *netns* is the pod's namespace where the caller has it open.

    *later* is given what need not be done before the answer is; without it everything is.
    """
    version = cni.NEWEST
    try:
        request = request_of(environment, data, later)
        commands = COMMANDS
        if request.command != "VERSION":
            document = cni.decode(data)
            version = cni.version_of(document)
            if _is_ipam(environment, document):
                from twinstack.cni.lending import COMMANDS as commands
        with translate(_KERNEL):
            answer = commands[request.command](request, netns)
        return 0, b"" if answer is None else cni.encode(answer) + b"\n"
    except CNIError as error:
        return 1, cni.encode(error.document(version)) + b"\n"


def _is_ipam(environment: Mapping[str, str], document: Document) -> bool:
    """Whether another main plugin asks us for addresses: by our other name, or by naming us its ``ipam.type``."""
    ipam = document.get("ipam")
    own = isinstance(ipam, dict) and ipam.get("type") == cni.PLUGIN and document.get("type", cni.PLUGIN) != cni.PLUGIN
    return environment.get(ROLE) == cni.IPAM or own


def add(request: Request, netns: int | None) -> Document:
    """Wire the pod and answer with its addresses."""
    config = _config(request)
    if config.chained:
        return _chained(request, config)
    if config.previous is not None:
        raise CNIError(cni.BAD_CONFIG, "an interface was made by an earlier plugin of the chain", "without ipam this plugin maps ports to it")
    if not config.range_sets and not config.delegate:
        raise CNIError(cni.BAD_CONFIG, "ipam.ranges is empty", "one list for each family: [[{subnet: 10.244.1.0/24}], [{subnet: fd00:10:244:1::/64}]]")
    ends, who = ends_of(request.who), request.who
    if config.mac:
        ends = ends._replace(mac=config.mac)
    with ExitStack() as undo:
        if netns is None:
            netns = _opened(request.netns)
            undo.callback(os.close, netns)
        with ExitStack() as failed:
            given, dns = _take(request, config, failed)
            mtu = _wire(netns, ends, who.interface, config, given, failed)
            if any(config.bandwidth):
                from twinstack.cni import bandwidth

                bandwidth.shape(config.bandwidth, netns, who.interface, ends.host_link)
            if config.port_mappings:
                from twinstack.cni.hostports import HostPorts

                HostPorts(config).add(who, config.port_mappings, [one.address for one in given], ends.host_link)
            failed.pop_all()
    return cni.result(
        config.version, host_link=ends.host_link, host_mac=ends.host_mac, link=who.interface, mac=ends.mac, netns=request.netns, mtu=mtu, given=given, dns=dns
    )


def _take(request: Request, config: Config, failed: ExitStack) -> tuple[list[Given], Document]:
    """Addresses for the pod and the resolver's configuration, of ours or of the plugin that is named; given back on failure."""
    if not config.delegate:
        store = Store(config)
        given = store.take(request.who)
        failed.callback(store.give, request.who)
        return given, config.dns
    failed.callback(_release, request, config)
    answer = delegation.call(config.delegate, "ADD", request.environment, request.data)
    return cni.given_of(answer), answer.get("dns") or config.dns


def _release(request: Request, config: Config) -> None:
    if config.delegate:
        delegation.call(config.delegate, "DEL", request.environment, request.data)
    else:
        Store(config).give(request.who)


def _chained(request: Request, config: Config) -> Document:
    """Map ports to the container's addresses that earlier plugins have told, and pass their result on."""
    previous = _previous(config)
    if any(config.bandwidth) or config.mac:
        raise CNIError(cni.UNSUPPORTED_FIELD, "bandwidth and mac are for links of our own", "behind another main plugin, chain bandwidth and tuning")
    if config.port_mappings:
        from twinstack.cni.hostports import HostPorts

        HostPorts(config).add(request.who, config.port_mappings, _told_of(previous, request.who.interface))
    return previous


def _previous(config: Config) -> Document:
    if config.previous is None:
        raise CNIError(cni.BAD_CONFIG, "there is neither an ipam nor a prevResult", "the first plugin of a chain needs ipam.ranges")
    return config.previous


def _told_of(previous: Document, interface: str) -> list[Address]:
    """The addresses of a result that are on the container's interface of this name."""
    links = previous.get("interfaces") or []
    entries = []
    for one in previous.get("ips") or []:
        index = one.get("interface")
        link = links[index] if isinstance(index, int) and 0 <= index < len(links) else None
        if link is None or (link.get("name") == interface and link.get("sandbox")):
            entries.append(one)
    addresses = list(cni.addresses_of({"ips": entries}))
    if not addresses:
        raise CNIError(cni.BAD_CONFIG, f"prevResult has no address on {interface}")
    return addresses


def _wire(netns: int, ends: Ends, interface: str, config: Config, given: Sequence[Given], failed: ExitStack) -> int:
    """Make the link and everything on it; returns its MTU."""
    with TunnelNetlink(netns) as pod, TunnelNetlink() as node:
        pod.write_sysctls(pair for one in given for pair in Family.of(one.address).facts.pod_sysctls)
        first = _pair(node, netns, ends, interface, config)
        # a second interface of a container leaves its default routes alone
        have = set() if first else {route.family for route in pod.routes(protocol=None) if route.destination.prefixlen == 0}
        failed.callback(_unwire, ends)
        for one in given:
            family = Family.of(one.address)
            node.add_address(ends.host_link, ip_address(family.facts.pod_gateway), family.bits, scope="link")
            node.add_route(Route(family.network(int(one.address), family.bits), ends.host_link), protocol=POD_ROUTE_PROTOCOL, scope="global")
            node.add_neighbour(ends.host_link, Neighbour(one.address, ends.mac))
        pod.change_link("lo", up=True)
        pod.change_link(interface, up=True)
        for one in given:
            family = Family.of(one.address)
            pod.add_address(interface, one.address, family.bits)
            pod.add_neighbour(interface, Neighbour(ip_address(family.facts.pod_gateway), ends.host_mac))
            if family not in have:
                gateway = ip_address(family.facts.pod_gateway)
                # the way to the gateway is told too, for plugins behind us (sbr) that name it without saying that it is on the link
                pod.add_route(Route(family.network(int(gateway), family.bits), interface), protocol=POD_ROUTE_PROTOCOL, scope="link")
                pod.add_route(Route(ip_network(family.facts.everything), interface, gateway, onlink=True), protocol=POD_ROUTE_PROTOCOL)
        node.commit()
        pod.commit()
        forwarding.switch_on({Family.of(one.address) for one in given})
        node.wait_until_running([ends.host_link])
        pod.wait_until_running([interface])
        pod.wait_until_local([one.address for one in given])
        found = pod.link(interface)
        return found.mtu if found is not None else 0


def _pair(node: Netlink, netns: int, ends: Ends, interface: str, config: Config) -> bool:
    """Make the two ends under free numbers: the pod's is 2 unless that is taken, the node's the computed one or one further on.

    Returns whether the pod's is 2, which its first interface is.
    """
    cleared = False
    for attempt in range(_ATTEMPTS):
        node.add_veth(
            ends.host_link,
            interface,
            number=ends.host_number + attempt,
            peer_number=_POD_NUMBER if attempt == 0 else 0,
            mac=ends.host_mac,
            peer_mac=ends.mac,
            peer_netns=netns,
            mtu=config.mtu,
            up=True,
            quiet=True,
            alias=alias_of(config.network),
        )
        try:
            node.commit()
            return attempt == 0
        except KernelError as error:
            if error.exists and not cleared and node.link(ends.host_link) is not None:
                # nobody has an address over it, or we would have been refused one: an earlier attachment's, which is about to go
                cleared = True
                node.remove_link(ends.host_link)
                node.commit()
                continue
            if error.exists:
                raise CNIError(cni.DUPLICATE, f"there is a link {interface} in the container, or its end {ends.host_link} on the node", str(error)) from error
            if error.errno != errno.EBUSY:
                raise
    raise CNIError(cni.TRY_AGAIN, f"no interface index is free for {ends.host_link}")


def alias_of(network: str) -> str:
    """What is noted on the node's end of each link of a network; GC takes what has it and is nobody's."""
    return f"{cni.PLUGIN} {network}"


def _unwire(ends: Ends) -> None:
    with Netlink() as node:
        node.remove_link(ends.host_link)
        node.commit()


def delete(request: Request, netns: int | None) -> None:
    """Take ports and link away and give the addresses back; what is gone already is a success, and so is a namespace that is."""
    config = _config(request)
    with ExitStack() as each:  # the last first, and every one whatever becomes of those before
        if not config.chained:
            each.callback(_release, request, config)
            # the kernel takes 40 ms to let go of a link, and nobody has to wait for that
            each.callback(request.later, lambda: _unwire(ends_of(request.who)))
        each.callback(_unmap, config, request.who)


def _unmap(config: Config, who: Attachment) -> None:
    if os.path.isdir(os.path.join(config.data_dir, ".hostports")):
        from twinstack.cni.hostports import HostPorts

        HostPorts(config).remove(who)


def check(request: Request, netns: int | None) -> None:
    """CNIError 101 when the container's network is not what ADD answered."""
    config = _config(request)
    if config.previous is None:
        raise CNIError(cni.BAD_CONFIG, "CHECK needs a prevResult")
    if config.port_mappings:
        from twinstack.cni.hostports import HostPorts

        if not HostPorts(config).has(request.who):
            raise CNIError(cni.NOT_AS_TOLD, "the container's host ports do not lead to it")
    if config.chained:
        return
    ends = ends_of(request.who)
    addresses = tuple(_told_of(config.previous, request.who.interface))
    if config.delegate:
        delegation.call(config.delegate, "CHECK", request.environment, request.data)
    elif missing := set(addresses) - Store(config).has(request.who):
        raise CNIError(cni.NOT_AS_TOLD, "addresses are not kept for the container", ", ".join(map(str, missing)))
    with ExitStack() as undo:
        if netns is None:
            netns = _opened(request.netns)
            undo.callback(os.close, netns)
        pod, node = undo.enter_context(Netlink(netns)), undo.enter_context(Netlink())
        for kernel, name in ((pod, request.who.interface), (node, ends.host_link)):
            link = kernel.link(name)
            if link is None or not link.up:
                raise CNIError(cni.NOT_AS_TOLD, f"link {name} is {'missing' if link is None else 'down'}")
            if config.mac and kernel is pod and link.mac != config.mac:
                raise CNIError(cni.NOT_AS_TOLD, f"link {name} has the hardware address {link.mac} instead of {config.mac}")
        if any(config.bandwidth):
            from twinstack.cni import bandwidth

            bandwidth.check(config.bandwidth, netns, request.who.interface, ends.host_link)
        there = {one.address for one in pod.addresses() if one.link == request.who.interface}
        # a plugin behind us may have moved them into another table (sbr)
        defaults = {route.family for route in pod.routes(protocol=None, every_table=True) if route.destination.prefixlen == 0}
        routed = {route.destination for route in node.routes(protocol=POD_ROUTE_PROTOCOL) if route.link == ends.host_link}
        for address in addresses:
            family = Family.of(address)
            if address not in there:
                raise CNIError(cni.NOT_AS_TOLD, f"address {address} is not on {request.who.interface}")
            if family not in defaults:
                raise CNIError(cni.NOT_AS_TOLD, f"the container has no default route for {family}")
            if family.network(int(address), family.bits) not in routed:
                raise CNIError(cni.NOT_AS_TOLD, f"the node has no route to {address} over {ends.host_link}")


def collect(request: Request, netns: int | None) -> None:
    """GC: give back and unwire what belongs to attachments that the runtime does not list."""
    config = _config(request)
    needs(config, "GC")
    if config.valid is None:
        raise CNIError(cni.BAD_CONFIG, "GC needs cni.dev/valid-attachments")
    valid = set(config.valid)
    if os.path.isdir(os.path.join(config.data_dir, ".hostports")):
        from twinstack.cni.hostports import HostPorts

        HostPorts(config).keep_only(lambda who: who in valid)
    if config.chained:
        return
    kept = {ends_of(who).host_link for who in valid}
    with Netlink() as node:  # before the addresses, so that nobody gets one that a link still has
        for link in node.links():
            if link.alias == alias_of(config.network) and link.name not in kept:
                node.remove_link(link.name)
        node.commit()
    if config.delegate:
        delegation.call(config.delegate, "GC", request.environment, request.data)
        return
    Store(config).keep_only(lambda who: who in valid)


def status(request: Request, netns: int | None) -> None:
    """CNIError 50 when an ADD could not succeed: no ranges, no address store, no right to make links."""
    config = _config(request)
    needs(config, "STATUS")
    try:
        if config.chained:
            return
        if config.delegate:
            delegation.call(config.delegate, "STATUS", request.environment, request.data)
        elif not config.range_sets:
            raise CNIError(cni.NOT_AVAILABLE, "ipam.ranges is empty")
        else:
            Store(config).check_usable()
        with Netlink() as node:
            node.change_link("lo")
            node.commit()
    except (CNIError, KernelError) as error:
        raise CNIError(cni.NOT_AVAILABLE, "an address cannot be given now", str(error)) from error


def version(request: Request, netns: int | None) -> Document:
    """The versions that we speak."""
    told = cni.decode(request.data).get("cniVersion") if request.data.strip() else None
    return {"cniVersion": told if told in cni.VERSIONS else cni.NEWEST, "supportedVersions": list(cni.VERSIONS)}


COMMANDS: dict[str, Callable[[Request, int | None], Document | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": collect,
    "STATUS": status,
    "VERSION": version,
}


def _config(request: Request) -> Config:
    return cni.parse_config(request.data, request.arguments)


def needs(config: Config, command: str) -> None:
    """CNIError 1 when the configuration's version has no such command."""
    if not cni.at_least(config.version, "1.1.0"):
        raise CNIError(cni.INCOMPATIBLE_VERSION, f"{command} came with CNI 1.1.0", f"the configuration says {config.version}")


def _opened(path: str) -> int:
    try:
        return namespaces.opened(path)
    except KernelError as error:
        if error.missing:
            raise CNIError(cni.UNKNOWN_CONTAINER, f"there is no network namespace {path}") from error
        raise
