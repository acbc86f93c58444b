"""VXLAN links (RFC 7348) with static neighbours: who is behind which node is told, never learned.

Rule of this file: the part of rtnetlink that only an overlay needs, beside ``kernel.netlink``.

Theory. A packet to another node's pods is routed to that node's tunnel address on the VXLAN link. A permanent
neighbour entry says which hardware address that is, and an entry of the link's forwarding table says which node of the
underlay has that hardware address. So no frame is ever flooded, and neither ARP nor neighbour discovery is needed.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from twinstack.kernel import rtnetlink as rt
from twinstack.kernel.netlink import Netlink
from twinstack.net.family import FAMILIES, Address, Family

NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
_AF_BRIDGE = 7
_PERMANENT, _NOARP, _SELF = 0x80, 0x40, 0x02  # include/uapi/linux/neighbour.h
_DESTINATION, _HARDWARE = 1, 2
_ID, _LEARNING, _PORT = 1, 7, 15  # IFLA_VXLAN_*


class Tunnel(NamedTuple):
    """A VXLAN link as it ought to be."""

    name: str
    number: int  # VNI
    local: Address
    port: int
    mac: str
    mtu: int


class Neighbour(NamedTuple):
    """A next hop on the tunnel, and its hardware address."""

    address: Address
    mac: str


class Forwarding(NamedTuple):
    """A hardware address on the tunnel, and the machine of the underlay that has it."""

    mac: str
    destination: Address


class TunnelNetlink(Netlink):
    """Netlink that knows VXLAN, too."""

    def add_tunnel(self, tunnel: Tunnel) -> None:
        """Make the link and bring it up."""
        facts = Family.of(tunnel.local).facts
        data = rt.u32(_ID, tunnel.number) + rt.attribute(facts.vxlan_local, tunnel.local.packed) + rt.attribute(_LEARNING, b"\0")
        data += rt.attribute(_PORT, struct.pack("!H", tunnel.port))
        info = rt.attribute(rt.IFLA_LINKINFO, rt.text(rt.IFLA_INFO_KIND, "vxlan") + rt.attribute(rt.IFLA_INFO_DATA, data))
        body = rt.info(0, False) + rt.text(rt.IFLA_IFNAME, tunnel.name) + rt.mac(tunnel.mac) + rt.mtu(tunnel.mtu) + info
        self._ask(rt.NEWLINK, rt.CREATE | rt.EXCL, body, f"add link {tunnel.name} type vxlan id {tunnel.number} local {tunnel.local}")
        self._remember(tunnel.name, 0)
        # it can be told only once it stands, and before it comes up: no address but those that it is given
        self._ask(rt.NEWLINK, 0, rt.info(0, True) + rt.text(rt.IFLA_IFNAME, tunnel.name) + rt.silence(), f"change link {tunnel.name} up")

    def tunnel(self, name: str) -> Tunnel | None:
        """The VXLAN link of this name as it is; None when there is none."""
        link = self.link(name)
        if link is None or link.kind != "vxlan":
            return None
        bodies = self._exchange(rt.GETLINK, 0, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + rt.text(rt.IFLA_IFNAME, name), f"look at link {name}")
        told = dict(rt.attributes(dict(rt.attributes(bodies[0], 16)).get(rt.IFLA_LINKINFO, b"")))
        data = dict(rt.attributes(told.get(rt.IFLA_INFO_DATA, b"")))
        locals_ = [rt.address_of(family, data[family.facts.vxlan_local]) for family in FAMILIES if family.facts.vxlan_local in data]
        if not locals_:
            return None
        (port,) = struct.unpack("!H", data[_PORT])
        return Tunnel(name, int.from_bytes(data[_ID], "little"), locals_[0], port, link.mac, link.mtu)

    def add_neighbour(self, link: str, one: Neighbour) -> None:
        self._neighbour(NEWNEIGH, link, one, rt.CREATE | rt.REPLACE)

    def remove_neighbour(self, link: str, one: Neighbour) -> None:
        self._neighbour(DELNEIGH, link, one, 0)

    def add_forwarding(self, link: str, one: Forwarding) -> None:
        self._forwarding(NEWNEIGH, link, one, rt.CREATE | rt.REPLACE)

    def remove_forwarding(self, link: str, one: Forwarding) -> None:
        self._forwarding(DELNEIGH, link, one, 0)

    def neighbours(self, link: str) -> list[Neighbour]:
        """The permanent neighbours on a link."""
        number, found = self.number(link), []
        for family in FAMILIES:
            for body in self._dump(GETNEIGH, struct.pack("=BxHiHBB", family.facts.socket_family, 0, 0, 0, 0, 0)):
                _, _, index, state, _, _ = struct.unpack_from("=BxHiHBB", body)
                attributes = dict(rt.attributes(body, 12))
                if index == number and state & _PERMANENT and _HARDWARE in attributes:
                    found.append(Neighbour(rt.address_of(family, attributes[_DESTINATION]), attributes[_HARDWARE].hex(":")))
        return found

    def forwardings(self, link: str) -> list[Forwarding]:
        """The entries of a tunnel's forwarding table."""
        number, found = self.number(link), []
        for body in self._dump(GETNEIGH, struct.pack("=BxHiHBB", _AF_BRIDGE, 0, 0, 0, 0, 0)):
            _, _, index, _, _, _ = struct.unpack_from("=BxHiHBB", body)
            attributes = dict(rt.attributes(body, 12))
            raw = attributes.get(_DESTINATION, b"")
            family = next((family for family in FAMILIES if family.bits == 8 * len(raw)), None)
            if index == number and family is not None and any(attributes.get(_HARDWARE, b"")):
                found.append(Forwarding(attributes[_HARDWARE].hex(":"), rt.address_of(family, raw)))
        return found

    def _neighbour(self, kind: int, link: str, one: Neighbour, flags: int) -> None:
        body = struct.pack("=BxHiHBB", Family.of(one.address).facts.socket_family, 0, self.number(link), _PERMANENT, 0, 0)
        body += rt.attribute(_DESTINATION, one.address.packed) + rt.attribute(_HARDWARE, bytes.fromhex(one.mac.replace(":", "")))
        self._ask(kind, flags, body, f"neighbour {one.address} lladdr {one.mac} dev {link}", {errno.ENOENT} if kind == DELNEIGH else ())

    def _forwarding(self, kind: int, link: str, one: Forwarding, flags: int) -> None:
        body = struct.pack("=BxHiHBB", _AF_BRIDGE, 0, self.number(link), _PERMANENT | _NOARP, _SELF, 0)
        body += rt.attribute(_HARDWARE, bytes.fromhex(one.mac.replace(":", ""))) + rt.attribute(_DESTINATION, one.destination.packed)
        self._ask(kind, flags, body, f"forwarding {one.mac} dst {one.destination} dev {link}", {errno.ENOENT} if kind == DELNEIGH else ())
