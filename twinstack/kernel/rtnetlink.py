"""The bytes of rtnetlink (RFC 3549): numbers, attributes, and how an answer reads.

Rule of this file: bytes and values only, no socket.

Theory. A message is a header (length, type, flags, sequence, port), a fixed part by type, and attributes
(length, type, value); everything in the machine's byte order and padded to four bytes. An answer of type
ERROR with number 0 is a success; with NLM_F_ACK_TLVS it carries a text that says more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from twinstack.dataplane import host
from twinstack.net.family import Address, Family

# include/uapi/linux/netlink.h
REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
DUMP_INTERRUPTED, _ACK_CAPPED, _ACK_HAS_ATTRIBUTES = 0x10, 0x100, 0x200
ERROR, DONE = 2, 3
# rtnetlink.h
NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, GETADDR, NEWROUTE, DELROUTE, GETROUTE = 16, 17, 18, 20, 21, 22, 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
RTNH_F_ONLINK, TABLE_MAIN, UNICAST, LOCAL = 4, 254, 1, 2
SCOPES: Mapping[str, int] = {"global": 0, "link": 253, "host": 254}
# if_link.h, veth.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, _IFLA_OPERSTATE, IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, IFLA_NET_NS_FD = 1, 3, 4, 10, 16, 18, 20, 26, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
_IFLA_GENERATE, _GENERATE_NOTHING = 8, 1
IFF_UP, _IFF_LOWER_UP, _OPERSTATE_UP, _OPERSTATE_UNKNOWN = 0x1, 0x10000, 6, 0
# if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_F_NODAD, IFA_F_TENTATIVE = 1, 2, 8, 0x02, 0x40


class Interface(NamedTuple):
    """A link as the kernel shows it."""

    number: int
    name: str
    kind: str
    up: bool
    running: bool  # it carries packets: up, with a carrier, and the kernel has taken note of both
    mac: str
    mtu: int
    master: int  # index of the bridge that it is a port of, 0 for none
    alias: str = ""  # a note that somebody has put on it


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def u32(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def mac(value: str) -> bytes:
    """A link's hardware address; nothing for an empty one."""
    return attribute(IFLA_ADDRESS, bytes.fromhex(value.replace(":", ""))) if value else b""


def mtu(value: int) -> bytes:
    return u32(IFLA_MTU, value) if value else b""


def alias(value: str) -> bytes:
    """A note on a link; nothing for an empty one."""
    return attribute(_IFLA_IFALIAS, value.encode()) if value else b""


def silence() -> bytes:
    """The wish that a link makes no link-local address for itself (IFLA_AF_SPEC, addr_gen_mode none)."""
    nested = b"".join(
        attribute(family.facts.socket_family, attribute(_IFLA_GENERATE, bytes([_GENERATE_NOTHING]))) for family in Family if family.facts.generates_link_local
    )
    return attribute(_IFLA_AF_SPEC, nested)


def info(number: int, up: bool) -> bytes:
    """The fixed part of a message about links (struct ifinfomsg)."""
    return struct.pack("=BxHiII", 0, 0, number, IFF_UP if up else 0, IFF_UP if up else 0)


def attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes from an offset on, without the flag bits of their types."""
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def interface(body: bytes) -> Interface:
    """What a message about a link says."""
    _, _, number, flags, _ = struct.unpack_from("=BxHiII", body)
    found = dict(attributes(body, 16))
    kind = dict(attributes(found.get(IFLA_LINKINFO, b""))).get(IFLA_INFO_KIND, b"")
    state = found.get(_IFLA_OPERSTATE, b"\0")[0]
    return Interface(
        number=number,
        name=found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        kind=kind.rstrip(b"\0").decode(),
        up=bool(flags & IFF_UP),
        running=bool(flags & IFF_UP and flags & _IFF_LOWER_UP) and state in (_OPERSTATE_UP, _OPERSTATE_UNKNOWN),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(found.get(IFLA_MTU, b""), "little"),
        master=int.from_bytes(found.get(IFLA_MASTER, b""), "little"),
        alias=found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
    )


def address_of(family: Family, raw: bytes) -> Address:
    return family.address(int.from_bytes(raw, "big"))


def scope_of(number: int) -> host.Scope:
    return "host" if number == SCOPES["host"] else "link" if number == SCOPES["link"] else "global"


def route_of(family: Family, length: int, flags: int, found: Mapping[int, bytes], names: Mapping[int, str]) -> host.Route:
    """What a message about a route says; *names* of the links by their index."""
    link = int.from_bytes(found.get(RTA_OIF, b""), "little")
    return host.Route(
        destination=family.network(int.from_bytes(found.get(RTA_DST, b""), "big"), length),
        link=names.get(link, str(link) if link else ""),
        gateway=address_of(family, found[RTA_GATEWAY]) if RTA_GATEWAY in found else None,
        source=address_of(family, found[RTA_PREFSRC]) if RTA_PREFSRC in found else None,
        metric=int.from_bytes(found.get(RTA_PRIORITY, b""), "little"),
        onlink=bool(flags & RTNH_F_ONLINK),
    )


def explanation(flags: int, body: bytes) -> str:
    """The kernel's own words about a failure, where it has any (NLMSGERR_ATTR_MSG)."""
    if not flags & _ACK_HAS_ATTRIBUTES:
        return ""
    original = 16 if flags & _ACK_CAPPED else struct.unpack_from("=I", body, 4)[0]
    return dict(attributes(body, 4 + original)).get(1, b"").rstrip(b"\0").decode(errors="replace")
