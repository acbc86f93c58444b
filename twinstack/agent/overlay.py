"""Pods of other nodes behind a VXLAN tunnel, where the network between nodes knows no pod.

Rule of this file: what ought to be is computed from the Node objects; what is there and is not wanted goes.

Theory. Each node tells its end of the tunnel in an annotation of its Node object: its hardware address on the tunnel and its
address on the underlay, of one family for all nodes. Both families of pods travel in it. A node's next hop on the tunnel is
the first address of each of its pod CIDRs, which no pod gets; the node's own end has it, so that what the node itself sends
to a pod of another node comes back through the tunnel. The tunnel's MTU is the underlay's less the headers, and so is that
of every pod.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from twinstack.api.kinds import Node
from twinstack.dataplane import host
from twinstack.dataplane.host import Route
from twinstack.kernel.tunnels import Forwarding, Neighbour, Tunnel, TunnelNetlink
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import Address, Family

DIRECT, VXLAN = "direct", "vxlan"
ANNOTATION = "twinstack.dev/vxlan"
LINK, NUMBER, PORT = "tsvxlan", 84, 4789  # the port is IANA's


class OverlayError(Error):
    """The tunnel cannot be: the node has no address of the underlay's family, or its link is too small."""


class Overlay(NamedTuple):
    """What a node's end of the tunnel ought to hold."""

    addresses: list[host.Address]
    routes: list[Route]
    neighbours: list[Neighbour]
    forwardings: list[Forwarding]


def mac_of(name: str, local: Address) -> str:
    """A node's hardware address on the tunnel: always the same for the same node and address."""
    # second-lowest bit of the first octet: locally administered (RFC 7042)
    return "02:54:" + hashlib.sha256(f"{name}\n{local}".encode()).digest()[:4].hex(":")


def annotation_of(tunnel: Tunnel) -> str:
    """What a node tells of its end."""
    return json.dumps({"mac": tunnel.mac, "address": str(tunnel.local)})


def underlay_address(underlay: Family | None, node: Sequence[Address], present: Sequence[host.Address]) -> host.Address:
    """The node's own address of the underlay's family (None: the node's primary one), with its link; OverlayError when it has none."""
    if not node:
        raise OverlayError("the node has no address yet, so its end of the tunnel has none")
    family = underlay or Family.of(node[0])
    here = {one.address: one for one in present}
    for address in node:
        if Family.of(address) is family and address in here:
            return here[address]
    links = [here[address].link for address in node if address in here]
    for one in present:  # a node of one family may have an underlay of the other
        if Family.of(one.address) is family and one.link in links and one.scope == "global":
            return one
    raise OverlayError(f"--vxlan-underlay: this node has no {family} address on the link of its own addresses ({', '.join(links) or 'none'})")


def wanted_overlay(nodes: Iterable[Node], own_name: str, own: Tunnel) -> tuple[Overlay, list[str]]:
    """What this node's end ought to hold, and what is wrong with other nodes, which are left out."""
    overlay, problems = Overlay([], [], [], []), []
    for node in nodes:
        name = node.metadata.name
        try:
            cidrs = [parse_cidr(text) for text in node.spec.podCIDRs or ()]
            if name == own_name:
                for cidr in cidrs:
                    overlay.addresses.append(host.Address(LINK, cidr.network_address, Family.of(cidr).bits))
                continue
            if ANNOTATION not in node.annotations:
                continue
            told = json.loads(node.annotations[ANNOTATION])
            mac, address = str(told["mac"]), parse_address(str(told["address"]))
            if len(bytes.fromhex(mac.replace(":", ""))) != 6:
                raise ValueError(f"{mac!r} is no hardware address")
        except (AddressError, ValueError, KeyError, TypeError) as error:
            problems.append(f"node {name}: annotation {ANNOTATION}: {error}")
            continue
        if Family.of(address) is not Family.of(own.local):
            problems.append(f"node {name} has its end of the tunnel at {address}, this node at {own.local}: give all nodes the same --vxlan-underlay")
            continue
        overlay.forwardings.append(Forwarding(mac, address))
        for cidr in cidrs:
            overlay.neighbours.append(Neighbour(cidr.network_address, mac))
            overlay.routes.append(Route(cidr, LINK, cidr.network_address, onlink=True))
    return overlay, problems


def ensure_tunnel(name: str, underlay: Family | None, node: Sequence[Address]) -> Tunnel:
    """Make this node's end of the tunnel what it ought to be, and return it."""
    with TunnelNetlink() as kernel:
        wanted = plan_tunnel(kernel, name, underlay, node)
        found = kernel.tunnel(LINK)
        if found != wanted:
            kernel.remove_link(LINK)
            kernel.commit()
            kernel.add_tunnel(wanted)
            kernel.commit()
    return wanted


def plan_tunnel(kernel: TunnelNetlink, name: str, underlay: Family | None, node: Sequence[Address]) -> Tunnel:
    """This node's end as it ought to be, from its addresses and the MTU of their link."""
    local = underlay_address(underlay, node, kernel.addresses())
    link = kernel.link(local.link)
    mtu = (link.mtu if link is not None else 0) - Family.of(local.address).facts.vxlan_overhead
    if mtu < 1280:
        raise OverlayError(f"a tunnel over {local.link} would have an MTU of {mtu}; 1280 is the least that may be (RFC 8200)")
    return Tunnel(LINK, NUMBER, local.address, PORT, mac_of(name, local.address), mtu)


def apply(wanted: Overlay) -> list[str]:
    """Let the tunnel hold what is wanted, and return what was changed."""
    changes: list[str] = []
    with TunnelNetlink() as kernel:
        have_addresses = [one for one in kernel.addresses() if one.link == LINK]
        have_neighbours, have_forwardings = kernel.neighbours(LINK), kernel.forwardings(LINK)
        for address in have_addresses:
            if address not in wanted.addresses:
                kernel.remove_address(address.link, address.address, address.prefix)
                changes.append(f"remove {host.text_of(address)}")
        for address in wanted.addresses:
            if address not in have_addresses:
                kernel.add_address(address.link, address.address, address.prefix)
                changes.append(f"add {host.text_of(address)}")
        for entry in wanted.forwardings:
            if entry not in have_forwardings:
                kernel.add_forwarding(LINK, entry)
                changes.append(f"add node {entry.destination}")
        for old in have_forwardings:
            if old.mac not in {entry.mac for entry in wanted.forwardings}:
                kernel.remove_forwarding(LINK, old)
                changes.append(f"remove node {old.destination}")
        for hop in wanted.neighbours:
            if hop not in have_neighbours:
                kernel.add_neighbour(LINK, hop)
        for gone in have_neighbours:
            if gone.address not in {hop.address for hop in wanted.neighbours}:
                kernel.remove_neighbour(LINK, gone)
        kernel.commit()
    return changes


def remove_tunnel() -> None:
    """Take an earlier tunnel away, with all that was on it."""
    with TunnelNetlink() as kernel:
        if kernel.tunnel(LINK) is not None:
            kernel.remove_link(LINK)
            kernel.commit()
